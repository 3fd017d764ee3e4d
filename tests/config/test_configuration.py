"""Configs from files: copied, broken, of another kind; and what the command line sets of them."""

import shutil

import pytest

from interactrank_jax import cli
from interactrank_jax.config import configuration
from interactrank_jax.io.errors import InputError
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"


@pytest.mark.parametrize("folder", ["elsewhere", "a:b", "two words", "[1]"])
def test_a_config_copied_elsewhere_loads(tmp_path, folder):
    path = tmp_path / folder / "deeper" / "mine.py"
    path.parent.mkdir(parents=True)
    shutil.copy(CONFIGS / "interactrank.py", path)
    assert configuration.load(str(path)).model.name == "interactrank"
    assert configuration.load(f"{path}:movielens_1m").data.protocol == "clean_random"


def test_a_config_at_the_home_directory_loads(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(CONFIGS / "fit.py", tmp_path / "mine.py")
    assert configuration.load("~/mine.py").model.name == "fit"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", r"broken\.py, line 1: SyntaxError"),
        ("x = 1\n\nx.y\n", r"broken\.py, line 3: AttributeError"),
        ("import no_such_package\n", r"line 1: ModuleNotFoundError: .*no_such_package"),
        ("def get_config():\n    return 1 / 0\n", r"line 2: ZeroDivisionError"),
        ("raise SystemExit(0)\n", r"line 1: SystemExit"),
        ("import sys\ndef get_config():\n    sys.exit(0)\n", r"line 3: SystemExit"),
        ("get_config = 3\n", "defines no function get_config"),
        ("", "defines no function get_config"),
        ("def get_config():\n    return {}\n", "returned dict.*ConfigDict"),
        ("def get_config(a, b):\n    return 1\n", "TypeError"),
    ],
)
def test_a_broken_config_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        configuration.load(str(path))


def test_json_a_directory_and_another_file_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="is JSON"):
        configuration.load(str(tmp_path / "config.json"))
    with pytest.raises(InputError, match="is a directory"):
        configuration.load(str(tmp_path))
    (tmp_path / "notes.txt").write_text("not Python")
    with pytest.raises(InputError, match="expected a Python file"):
        configuration.load(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.data.split.fractions[0]=.7", "a field is set as a whole"),
        ("--config.data.seed=None", "seed"),
        ("--config.data.split.fractions=(0.8,", "fractions"),
        ("--config.train.btch_size=3", "Did you mean config.train.batch_size"),
    ],
)
def test_a_wrong_override_is_refused(argument, message):
    config = configuration.load(str(CONFIGS / "interactrank.py"))
    with pytest.raises(InputError, match=message):
        configuration.override(config, [argument])


def test_overrides_are_set_and_told():
    config = configuration.load(str(CONFIGS / "interactrank.py"))
    arguments = ["--config.train.batch_size=7", "--config.label.heads=('engaged', 'save')"]
    assert configuration.override(config, arguments) == {
        "train.batch_size": 7,
        "label.heads": ("engaged", "save"),
    }
    assert config.train.batch_size == 7
    assert config.label.heads == ("engaged", "save")


def test_flags_and_fields_may_follow_a_space():
    command = cli.COMMANDS["prepare"]
    config = str(CONFIGS / "interactrank.py")
    argv = ["--config", config, "--log", "l", "--config.data.slate", "5", "--out", "o"]
    values = cli.parse(command, "prepare", argv)
    assert (values.log, values.out, values.config.data.slate) == ("l", "o", 5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--log=a", "--log=b", "--out=c"], "--log is given twice"),
        (["--log=a", "--ot=c"], "Did you mean 'out'"),
        (["--log=", "--out=c"], "missing --log"),
        (["--log=a", f"--out={'x' * 300}"], "too long"),
        (["--log=a", "--out=c", "more"], "unexpected 'more'"),
    ],
)
def test_a_wrong_flag_is_refused_before_work(argv, message):
    config = f"--config={CONFIGS / 'interactrank.py'}"
    with pytest.raises(InputError, match=message):
        cli.parse(cli.COMMANDS["prepare"], "prepare", [config, *argv])


def test_a_command_without_config_refuses_its_fields():
    argv = ["--out=x", "--config.train.seed=1"]
    with pytest.raises(InputError, match="simulate takes no --config"):
        cli.parse(cli.COMMANDS["simulate"], "simulate", argv)
