"""Sweeps, their trials, and the table that they end in."""

import json
import math
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import jobs, run, search, slurm, sweeps, trials
from experiments.sweeps import over, product, zipped
from interactrank_jax.io.errors import InputError
from tests.conftest import REPOSITORY
from tests.experiments.test_study import PROGRAM

CONFIG = f"{REPOSITORY / 'tests/faults/configs.py'}:tiny"
RATE = "train.optimizer.learning_rate"


# --- sweeps -----------------------------------------------------------------------------------


def test_product_and_zipped_compose():
    sizes = zipped(over("hidden", (8, 16)), over("out", (4, 8)))
    assert list(product(sizes, over("dropout", (0.0, 0.5)))) == [
        {"hidden": 8, "out": 4, "dropout": 0.0},
        {"hidden": 8, "out": 4, "dropout": 0.5},
        {"hidden": 16, "out": 8, "dropout": 0.0},
        {"hidden": 16, "out": 8, "dropout": 0.5},
    ]
    with pytest.raises(ValueError, match="shorter"):
        list(zipped(over("hidden", (8, 16)), over("out", (4,))))


def write_sweep(path: Path, body: str) -> Path:
    path.write_text(f"from experiments.sweeps import over\n\ndef sweep():\n    return {body}\n")
    return path


def test_a_sweep_file_yields_each_trial_once(tmp_path):
    file = write_sweep(tmp_path / "sweep.py", "[{'a': 1}, {'a': 2}, {'a': 1}]")
    assert sweeps.load(file) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "defines no function `sweep`"),
        ("def sweep():\n    return [3]\n", "yields 3. Expected dicts"),
        ("def sweep():\n    return []\n", "yields nothing"),
    ],
)
def test_a_file_that_is_no_sweep_says_what_is_missing(tmp_path, text, message):
    file = tmp_path / "sweep.py"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        sweeps.load(file)
    with pytest.raises(InputError, match="no Python file"):
        sweeps.load(tmp_path / "absent.py")


@pytest.mark.parametrize("file", sorted((REPOSITORY / "experiments/sweeps").glob("[!_]*.py")))
def test_example_sweeps_fit_a_config(file, examples_path, tmp_path):
    config = f"{REPOSITORY / 'configs/interactfit.py'}:search" if "fit" in file.stem else CONFIG
    made = trials.make(config, sweeps.load(file), examples_path, tmp_path)
    assert len(made) == len(sweeps.load(file)) > 1


# --- trials -----------------------------------------------------------------------------------


def test_names_are_readable_and_stand_for_all_that_decides(examples_path, tmp_path):
    def names(*sweep, config=CONFIG, common=None):
        made = trials.make(config, sweep, examples_path, tmp_path, common)
        return [trial.directory.name for trial in made]

    (name,) = names({RATE: 0.002})
    assert name.startswith("optimizer.learning_rate=0.002-")
    assert names({RATE: np.float64(0.002)}) == [name]
    assert names({}, {RATE: 0.002}, {}) == [*names({}), name]
    assert names({RATE: 0.003}) != names({RATE: 0.002}, common={"model.embedding_dim": 4}) != [name]
    assert names({RATE: 0.002}, config=CONFIG.replace(":tiny", ":long")) != [name]


def test_overrides_become_flags(examples_path, tmp_path):
    overrides = {"model.tower.hidden": [8, 4], "train.loss.name": "focal", RATE: np.float32(0.5)}
    (trial,) = trials.make(CONFIG, [overrides], examples_path, tmp_path, {"train.seed": 3})
    assert trial.command[1:4] == ("-m", "interactrank_jax", "train")
    flags = [flag for flag in trial.command if flag.startswith("--config.")]
    assert flags == [
        "--config.train.seed=3",
        "--config.model.tower.hidden=(8, 4)",
        "--config.train.loss.name=focal",
        "--config.train.optimizer.learning_rate=0.5",
    ]
    assert trial.config.model.tower.hidden == (8, 4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.learning_rat": 1e-3}, "Did you mean config.train"),
        ({"train.batch_size": "many"}, "config.train.batch_size cannot be 'many'"),
    ],
)
def test_a_wrong_override_is_refused_before_anything_runs(
    overrides, message, examples_path, tmp_path
):
    with pytest.raises(InputError, match=message):
        trials.make(CONFIG, [{}, overrides], examples_path, tmp_path)
    assert not list(tmp_path.iterdir())


# --- the table --------------------------------------------------------------------------------


def outcome(overrides, aucs, status=jobs.FINISHED, seconds=10.0, error=""):
    """An outcome whose validation ROC-AUC at steps 10, 20, ... is `aucs`."""
    trial = trials.Trial(CONFIG, overrides, {}, trials.resolve(CONFIG, {}), Path(), Path())
    curve = [(10 * k, {"roc_auc": auc, "logloss": 1 - auc}) for k, auc in enumerate(aucs, 1)]
    best = max(curve, key=lambda point: point[1]["roc_auc"], default=None)
    return trials.Outcome(trial, jobs.Record(status, seconds, error), tuple(curve), best)


def test_table_ranks_trials_and_shows_failures():
    outcomes = [
        outcome({RATE: 0.1}, [], jobs.FAILED, 3.4, "exit status 3: step 2: a|b is not finite."),
        outcome({RATE: 0.01}, [0.6, 0.7, 0.65]),
        outcome({RATE: 0.02}, [0.6, 0.8], jobs.STOPPED, 60.2),
        outcome({RATE: 0.03}, [], jobs.STOPPED, 60.2),
    ]
    header, _, *rows = run.table(outcomes).splitlines()
    assert header == ("| optimizer.learning_rate | roc_auc | logloss | best step | seconds |  |")
    assert rows[:3] == [
        "| 0.02 | 0.8000 | 0.2000 | 20 | 60 | stopped by its time limit |",
        "| 0.01 | 0.7000 | 0.3000 | 20 | 10 |  |",
        "| 0.1 |  |  |  | 3 | failed: exit status 3: step 2: a\\|b is not finite. |",
    ]
    assert "before its first validation" in rows[3]


def test_table_has_mean_and_deviation_over_seeds():
    outcomes = [
        outcome({RATE: rate, "train.seed": seed}, [auc])
        for rate, seed, auc in ((0.1, 0, 0.5), (0.1, 1, 0.75), (0.2, 0, 0.5), (0.2, 1, 0.9))
    ]
    _, _, *rows = run.table(outcomes).splitlines()
    assert rows == [
        "| 0.2 | 0.7000 ± 0.2828 | 0.3000 ± 0.2828 | 10, 10 | 10, 10 |  |",
        "| 0.1 | 0.6250 ± 0.1768 | 0.3750 ± 0.1768 | 10, 10 | 10, 10 |  |",
    ]


def test_a_metric_of_which_less_is_better_is_ranked_so():
    less, more = outcome({RATE: 0.1}, [0.9]), outcome({RATE: 0.2}, [0.6])  # log loss .1 and .4
    for each in (less, more):
        each.trial.config.train.select_by = "logloss"
    assert less.value == pytest.approx(-0.1)
    assert run.groups([more, less]) == [[less], [more]]


# --- the whole --------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, examples_path, monkeypatch):
    """The command line of a sweep: a trial that ends, one that fails, one that goes on and on."""
    monkeypatch.chdir(REPOSITORY)
    file = write_sweep(
        tmp_path / "sweep.py",
        "[{'train.max_steps': 8}, {'train.batch_size': 4096},"
        " {'train.max_steps': 1_000_000, 'train.patience': 0}]",
    )
    config = tmp_path / "config.py"  # the model that compiles fastest
    config.write_text(
        "from tests.synthetic import tiny_config\n\ndef get_config():\n"
        "    return tiny_config('two_tower')\n"
    )
    out = tmp_path / "out"
    return [f"--config={config}", f"--sweep={file}", f"--examples={examples_path}", f"--out={out}"]


@pytest.mark.thorough  # trainings in processes of their own
def test_a_sweep_of_trainings(command, tmp_path, monkeypatch, capsys):
    def seconds(job, used, start):
        file = job.record.parent / "run/metrics.jsonl"
        validated = file.exists() and "validation/" in file.read_text()
        return 100.0 if validated and "max_steps=1000000" in job.name else 1.0

    monkeypatch.setattr(jobs, "_seconds", seconds)
    record = tmp_path / "record.json"
    flags = [*command, "--parallel=2", "--budget_s=50", f"--json={record}"]
    assert run.main(flags) == 0
    out = tmp_path / "out"
    written = json.loads(record.read_text())
    assert written == json.loads((out / "results.json").read_text())
    by_status = {trial["status"]: trial for trial in written["trials"]}
    assert set(by_status) == {"finished", "failed", "stopped"}
    assert "fewer than one batch" in by_status["failed"]["error"]
    assert by_status["finished"]["step"] in (4, 8)
    stopped = by_status["stopped"]  # its best model so far is there to be used
    assert stopped["validation"]["roc_auc"] > 0
    assert (Path(stopped["workdir"]) / "best" / str(stopped["step"])).is_dir()
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert table.startswith("Validation, protocol clean_time.\n")
    assert table.count("\n") == 7
    assert (out / "figure.png").stat().st_size > 10_000

    def logs():
        return {path: path.stat().st_size for path in out.glob("trials/*/train.log")}

    before = logs()
    assert run.main(flags) == 0
    grown = [path.parent.name for path, size in logs().items() if size > before[path]]
    assert [name.startswith("train.batch_size=4096") for name in grown] == [True]


def test_print_gives_a_shell_line_per_trial_and_runs_nothing(command, tmp_path, capsys):
    assert run.main([*command, "--seeds", "0", "1", "--print", "--budget_s=3600"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert not (tmp_path / "out").exists()
    words = shlex.split(lines[1])
    assert words[1:3] == ["-m", "experiments.jobs"]
    assert words[4:6] == ["--budget_s=3600", "--"]
    assert words[7:10] == ["-m", "interactrank_jax", "train"]
    assert {"--config.train.max_steps=8", "--config.train.seed=1"} <= set(words)
    workdirs = {word for line in lines for word in shlex.split(line) if "--workdir" in word}
    assert len(workdirs) == 6


def test_what_a_scheduler_ran_is_collected_and_not_run_again(command, tmp_path, capsys):
    """Its lines leave the records that the sweep looks for; here of programs that only count."""
    assert run.main([*command, "--print"]) == 0
    queue = []
    for place, line in enumerate(capsys.readouterr().out.splitlines()):
        words = shlex.split(line)
        record, training = Path(words[3]), words[words.index("--") + 1 :]
        assert f"--workdir={record.parent / 'run'}" in training
        own = [sys.executable, "-c", f"open({str(tmp_path / str(place))!r}, 'a').write('x')"]
        assert jobs.main([str(record), "--", *own]) == 0
        queue.append(jobs.Job("again", tuple(own), record))
    assert len(queue) == 3
    assert [record.status for record in jobs.run(queue)] == [jobs.FINISHED] * 3
    assert [(tmp_path / str(place)).read_text() for place in range(3)] == ["x"] * 3


# Draws a rate, which is what its trainings validate at.
SUGGEST = """
def suggest(trial):
    return {"train.optimizer.learning_rate": trial.suggest_float("rate", 0.1, 0.9)}
"""


@pytest.fixture
def drawn_command(command, tmp_path, monkeypatch):
    """The command line without its sweep; trainings are programs that validate and end."""

    def words(trial):
        value = trial.config.train.optimizer.learning_rate + trial.config.train.seed / 100
        return (sys.executable, "-c", PROGRAM, str(trial.workdir), str(value), "2")

    monkeypatch.setattr(trials.Trial, "command", property(words))
    (tmp_path / "suggest.py").write_text(SUGGEST)
    return [command[0], *command[2:]]


def test_what_is_drawn_has_one_seed_and_the_best_two_have_all(drawn_command, tmp_path, capsys):
    flags = [f"--sweep={tmp_path / 'suggest.py'}", "--trials=4", "--sampler=random"]
    for _ in range(2):
        assert run.main([*drawn_command, *flags, "--seeds", "5", "6", "7"]) == 0
        rows = (tmp_path / "out/table.md").read_text().splitlines()[4:]
        written = json.loads((tmp_path / "out/results.json").read_text())["trials"]
        assert len(written) == 4 + 2 * 2
        assert written[0]["overrides"] == {}  # the config as it stands
        assert [row.count("±") for row in rows] == [2, 2, 0, 0]
        assert "| 1, 1, 1 |" in rows[0]
    assert capsys.readouterr().out.count("validation roc_auc") == 8  # each was trained once


def test_another_config_in_the_same_directory_has_a_study_of_its_own(drawn_command, tmp_path):
    flags = ["--trials=2", "--sampler=random"]
    assert run.main([*drawn_command, *flags]) == 0
    before = json.loads((tmp_path / "out/results.json").read_text())["trials"]
    config = tmp_path / "config.py"
    config.write_text(config.read_text().replace("tiny_config('two_tower')", "changed()"))
    with config.open("a") as file:
        file.write(
            "\ndef changed():\n    config = tiny_config('two_tower')\n"
            "    config.train.patience = 7\n    return config\n"
        )
    assert run.main([*drawn_command, *flags]) == 0
    after = json.loads((tmp_path / "out/results.json").read_text())["trials"]
    assert len(before) == len(after) == 2
    assert not {t["workdir"] for t in before} & {t["workdir"] for t in after}


@pytest.mark.parametrize("sampler", ["stages", "tpe"])
def test_without_a_file_the_space_around_the_config_is_searched(sampler, drawn_command, tmp_path):
    assert run.main([*drawn_command, f"--sampler={sampler}", "--trials=3"]) == 0
    written = json.loads((tmp_path / "out/results.json").read_text())["trials"]
    assert [trial["status"] for trial in written] == ["finished"] * 3
    fields = {field for trial in written for field in trial["overrides"]}
    assert fields <= {stage.field for stage in search.SPACE}
    assert fields


def test_slurm_gets_a_task_for_each_listed_trial_or_workers_of_a_study(
    command, drawn_command, tmp_path, monkeypatch
):
    submitted = []
    monkeypatch.setattr(
        slurm, "submit", lambda arguments, commands, **options: submitted.append(commands)
    )
    flags = ["--parallel=2", "--budget_s=9", "--slurm", "gpu", "mem_gb=3"]
    assert run.main([*command, *flags]) == 0
    assert [module for module, _ in submitted[0]] == ["experiments.jobs"] * 3
    assert {"--budget_s=9", "--"} < set(submitted[0][0][1])
    assert run.main([*drawn_command, *flags]) == 0
    assert submitted[1] == [("experiments.run", [*drawn_command, *flags[:2], "--parallel=1"])] * 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--print"], "--print and --vmap need a --sweep that lists its trials"),
        (["--vmap", "--trials=3"], "--print and --vmap need a --sweep that lists its trials"),
        (["--vmap", "--prune=median", "--sweep=sweep.py"], "--vmap prunes nothing"),
        (["--sampler=stages", "--sweep=suggest.py"], "--sampler=stages goes through the space"),
    ],
)
def test_flags_that_do_not_fit_are_named(flags, message, drawn_command, tmp_path, capsys):
    flags = [flag.replace("--sweep=", f"--sweep={tmp_path}/") for flag in flags]
    assert run.main([*drawn_command, *flags]) == 2
    assert message in capsys.readouterr().err


def test_wrong_flags_are_named(command, capsys):
    assert run.main([*command[:1], "--sweep=no.py", *command[2:]]) == 2
    assert "no.py is no Python file" in capsys.readouterr().err
    for flag in ("--budget_s=0", "--parallel=0"):
        with pytest.raises(SystemExit):
            run.main([*command, flag])


def test_a_sweep_without_any_success_says_so(command, tmp_path, monkeypatch):
    monkeypatch.setattr(trials.Trial, "command", (sys.executable, "-c", "raise SystemExit(2)"))
    assert run.main(command) == 1
    assert (tmp_path / "out/table.md").read_text().count("failed: exit status 2") == 3
    assert math.isinf(outcome({}, [], jobs.FAILED, error="x").value)
