"""What every experiment on the simulated log writes of itself."""

import json
import re
import subprocess

from experiments import simulated, trials
from experiments.benchmarks import reporting
from interactrank_jax.config import configuration
from tests.conftest import REPOSITORY


def test_a_result_says_what_made_it_wherever_it_is_written(tmp_path, capsys):
    file = tmp_path / "results" / "named.json"
    flags = ["--quick", "--seeds", "3", "5", f"--out={tmp_path / 'out'}", f"--json={file}"]
    arguments = simulated.parser("An experiment.").parse_args(flags)

    def draw(content, directory):
        (directory / "figure.png").write_text(str(content["rows"]))
        return [directory / "figure.png"]

    status = simulated.publish(arguments, "name", lambda: ("| a table |", {"rows": [1]}), draw)
    assert status == 0
    first = tmp_path / "out" / "quick" / "name.json"
    content = json.loads(file.read_text())
    assert content == json.loads(first.read_text())
    assert content["preset"] == "tiny"
    assert content["seeds"] == [3, 5]
    assert content["rows"] == [1]
    assert content["options"] == {"parallel": 1, "epochs": None, "quick": True}
    assert content["versions"]["jax"]
    for path in (first, file):
        assert (path.parent / "figure.png").read_text() == "[1]"
    assert "| a table |" in capsys.readouterr().out


def test_the_commit_is_that_of_this_checkout(tmp_path, monkeypatch):
    commit = reporting.commit()
    if (REPOSITORY / ".git").exists():
        head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, text=True)
        assert re.fullmatch(re.escape(head.strip()) + "(-dirty)?", commit)
    # A copy without a repository has no commit, even below some other repository.
    monkeypatch.setattr(reporting, "REPOSITORY", tmp_path)
    assert reporting.commit() is None


def test_a_result_names_the_whole_config_but_the_seed():
    spec = f"{REPOSITORY / 'configs/interactrank.py'}:search"
    record = trials.config_record(spec, {"train.epochs": 0.5})
    config = configuration.to_json(configuration.load(spec))
    assert record["train"] == {
        **{name: value for name, value in config["train"].items() if name != "seed"},
        "epochs": 0.5,
    }
    assert {part: record[part] for part in config if part != "train"} == {
        part: config[part] for part in config if part != "train"
    }


def test_the_flags_that_change_a_training_are_in_its_config(tmp_path):
    parser = simulated.parser("An experiment.")
    given = [f"--out={tmp_path}", "--epochs=0.5"]
    assert simulated.common(parser.parse_args(given[:1])) == {}
    assert simulated.common(parser.parse_args(given)) == {"train.epochs": 0.5}
    quick = simulated.common(parser.parse_args([*given, "--quick"]))
    assert quick == {**trials.QUICK, "train.epochs": 0.5}
