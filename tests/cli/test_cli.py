"""The command line: what it says when it is used wrongly, and the stations on real data."""

import json

import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.log.read import open_log
from tests.conftest import REPOSITORY, SHARED_DATA

CONFIG = REPOSITORY / "configs" / "interactrank.py"

# ROC-AUC of a logistic regression on two smoothed means, as of the start of the user's hour; and
# the gap below which two scorers cannot be told apart on this split (two user-clustered standard
# errors of a paired difference).
MOVIELENS_100K_REFERENCE, NOISE = 0.782, 0.013


def run(*argv) -> int:
    return cli.main([str(argument) for argument in argv])


class TestHelp:
    def test_without_a_command_all_are_listed(self, capsys):
        assert run() == 2
        printed = capsys.readouterr().out
        assert all(name in printed for name in cli.COMMANDS)

    @pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name != "config"])
    def test_without_arguments_a_command_says_what_it_expects(self, command, capsys):
        assert run(command) == 2
        printed = capsys.readouterr().err
        assert f"Example: interactrank {command}" in printed
        assert "Traceback" not in printed

    @pytest.mark.parametrize("command", list(cli.COMMANDS))
    def test_help_shows_flags_and_an_example(self, command, capsys):
        assert run(command, "--help") == 0
        printed = capsys.readouterr().out
        assert f"Example: interactrank {command}" in printed
        assert all(f"--{flag}" in printed for flag in cli.COMMANDS[command].flags)

    @pytest.mark.parametrize("command", list(cli.COMMANDS))
    def test_every_example_parses(self, command, monkeypatch):
        monkeypatch.chdir(REPOSITORY)
        example = cli.COMMANDS[command].example.removeprefix("interactrank ")
        name, argv = cli.split_command(example.split())
        assert name == command
        values = cli.parse(cli.COMMANDS[command], command, argv)
        assert set(cli.COMMANDS[command].flags) <= set(vars(values))


def test_flags_may_have_hyphens():
    flags = ["--log=a-b", "--state=c", "--as-of=2024-05-31", "--out=d"]
    values = cli.parse(cli.COMMANDS["state snapshot"], "state snapshot", flags)
    assert (values.log, values.as_of) == ("a-b", "2024-05-31")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "Did you mean 'train'"),
        (["simulate", "--out=x", "--preset=smal"], "Did you mean 'small'"),
        (["simulate", "--out=x", "--seed=one"], "--seed"),
        (["simulate", "--ot=x"], "out"),
        (["simulate", "--out=x", "stray"], "unexpected"),
        (["convert", "--format=movielense", "--source=x", "--out=y"], "Did you mean 'movielens'"),
        (["convert", "--format=movielens", "--source=nowhere", "--out=y"], "nowhere"),
        (["prepare", "--config=nowhere.py", "--log=x", "--out=y"], "nowhere.py does not exist"),
        (["prepare", f"--config={CONFIG}:serch", "--log=x", "--out=y"], "Did you mean 'search'"),
        (["prepare", f"--config={CONFIG}", "--log=nowhere", "--out=y"], "nowhere"),
        (
            ["train", f"--config={CONFIG}", "--config.train.btch_size=3", "--examples=x"],
            "Did you mean config.train.batch_size?",
        ),
        (
            ["train", f"--config={CONFIG}", "--config.train.lr=3", "--examples=x"],
            "Did you mean config.train.optimizer.learning_rate?",
        ),
        (
            ["train", f"--config={CONFIG}", "--config.trian.epochs=3", "--examples=x"],
            "Did you mean config.train.epochs?",
        ),
        (
            ["train", f"--config={CONFIG}", "--config.train.batch_size=many", "--examples=x"],
            "batch_size",
        ),
        (["train", f"--config={CONFIG}", "--examples=nowhere", "--workdir=r"], "nowhere"),
        (["config", "--config.train.seed=3"], "missing --config"),
        (["evaluate", "--examples=x"], "--workdir"),
        (["evaluate", "--examples=x", "--baseline=bm25"], "--config"),
        (["evaluate", "--examples=x", "--workdir=nowhere"], "holds no run"),
        (["index", "--examples=x", "--workdir=nowhere", "--out=y"], "holds no run"),
    ],
)
def test_a_wrong_command_line_fails_with_help(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []


# Stations read parts of a config; what they do not read must hold all the same.
READERS = {
    "prepare": ["prepare", "--log=nowhere", "--out=y"],
    "leaks": ["leaks", "--log=nowhere"],
    "state build": ["state", "build", "--log=nowhere", "--out=y"],
}


@pytest.mark.parametrize("station", READERS)
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.btch_size=3", "Did you mean config.train.batch_size?"),
        ("evaluate.bootstrp=0", "Did you mean config.evaluate.bootstrap?"),
        ("label.utilty=(1.0,)", "Did you mean config.label.utility?"),
        ("model.twoer.dropout=.5", "Did you mean config.model.tower.dropout?"),
        ("nonsense.x=1", "no field config.nonsense.x"),
        ("train.batch_size=0", "config.train.batch_size is 0. Expected"),
        ("train.batch_size=3", "nowhere"),  # accepted: the log is what is missing
    ],
)
def test_fields_of_parts_that_a_station_does_not_read_are_checked(
    station, override, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(*READERS[station], f"--config={CONFIG}", f"--config.{override}") == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []


def stations(root, log, config, k=10):
    """Runs prepare to score; returns the test result."""
    examples, workdir = root / "examples", root / "run"
    config = f"--config={config}"
    assert run("prepare", config, f"--log={log}", f"--out={examples}") == 0
    assert run("train", config, f"--examples={examples}", f"--workdir={workdir}") == 0
    assert run("evaluate", f"--workdir={workdir}", f"--examples={examples}", "--split=test") == 0
    index = root / "index"
    assert run("index", f"--workdir={workdir}", f"--examples={examples}", f"--out={index}") == 0
    for candidates in ("slate", "corpus"):
        scores = root / candidates
        assert (
            run(
                "score",
                f"--workdir={workdir}",
                f"--index={index}",
                f"--examples={examples}",
                f"--k={k}",
                f"--candidates={candidates}",
                f"--out={scores}",
            )
            == 0
        )
        table = pq.read_table(scores / "scores.parquet")
        columns = ["request_id", "item_id", "rank", "score", "probability_engaged"]
        assert table.column_names == columns
        for name, column in (("items", "item_id"), ("requests", "request_id")):
            known = pq.read_table(open_log(log).files(name), columns=[column])[column]
            assert set(table[column].to_pylist()) <= set(known.to_pylist())
    return json.loads((workdir / "eval" / "test.json").read_text())


def test_a_second_run_into_the_same_place_is_refused_and_changes_nothing(tmp_path, capsys):
    log = tmp_path / "log"
    assert run("simulate", "--preset=tiny", f"--out={log}") == 0
    before = sorted((path.name, path.stat().st_mtime_ns) for path in log.rglob("*"))
    assert run("simulate", "--preset=tiny", f"--out={log}") == 2
    assert "exists already" in capsys.readouterr().err
    assert sorted((path.name, path.stat().st_mtime_ns) for path in log.rglob("*")) == before


@pytest.mark.skipif(not (SHARED_DATA / "ml-100k").is_dir(), reason="MovieLens-100K is not here")
@pytest.mark.thorough  # real data, a whole training
def test_movielens_100k_goes_through_all_stations_and_reaches_its_reference(tmp_path, capsys):
    log = tmp_path / "log"
    source = SHARED_DATA / "ml-100k"
    assert run("convert", "--format=movielens", f"--source={source}", f"--out={log}") == 0
    result = stations(tmp_path, log, f"{CONFIG}:movielens_100k")
    auc = result["metrics"]["roc_auc"]
    with capsys.disabled():
        print(f"\nMovieLens-100K by time: {auc:.4f}, reference {MOVIELENS_100K_REFERENCE}")
    assert auc > MOVIELENS_100K_REFERENCE - NOISE
