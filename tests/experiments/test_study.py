"""Studies: what is drawn, shared by workers, pruned and taken up again; trainings are programs."""

import json
import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments import jobs, search, study, trials
from interactrank_jax.config import configuration
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError
from tests.conftest import REPOSITORY

CONFIG = f"{REPOSITORY / 'tests/faults/configs.py'}:tiny"
RATE = "train.optimizer.learning_rate"
# Validates once a step: `value` at most, and goes on for ever where it is told to.
PROGRAM = """
import json, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
run, value, steps = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
run.mkdir(parents=True, exist_ok=True)
with (run / "started").open("a") as file:
    file.write("x")
if value < 0:
    sys.exit("no such value")
for step in range(1, steps + 1):
    with (run / "metrics.jsonl").open("a") as file:
        line = {"step": step, "validation/roc_auc": value, "validation/logloss": 1 - value}
        file.write(json.dumps(line) + "\\n")
if steps > 3:
    time.sleep(600)
"""


class Program(trials.Trial):
    @property
    def command(self):
        steps = 4 if self.overrides.get("goes_on") else 3
        arguments = (str(self.workdir), str(self.overrides.get(RATE, 0.5)), str(steps))
        return (sys.executable, "-c", PROGRAM, *arguments)


def settings(out, **others):
    config = trials.resolve(CONFIG, {})

    def make(overrides):
        directory = out / "trials" / trials.describe(overrides)
        return Program(CONFIG, overrides, {}, config, Path(), directory)

    return study.Settings(**{"name": "study", "out": out, "make": make, **others})


def points(*values):
    return [{RATE: value} for value in values]


def starts(out):
    """How often each trial was started, by the value of its rate."""
    files = out.glob("trials/*/run/started")
    return {file.parents[1].name.split("=")[-1]: len(file.read_text()) for file in files}


def draw(trial):
    return {RATE: trial.suggest_float("rate", 0.1, 0.9)}


# --- queue and resume -------------------------------------------------------------------------


def test_what_is_listed_is_trained_once_and_what_failed_again(tmp_path):
    for times in (1, 2):
        outcomes = study.run(settings(tmp_path), points(0.2, -1.0, 0.3))
        assert [outcome.record.status for outcome in outcomes] == ["finished", "failed", "finished"]
        assert outcomes[1].error == "exit status 1: no such value"
        assert [outcome.value for outcome in outcomes] == [0.2, -math.inf, 0.3]
        assert starts(tmp_path) == {"0.2": 1, "0.3": 1, "-1.0": times}


def test_without_its_journal_a_study_finds_its_trials(tmp_path):
    study.run(settings(tmp_path), points(0.2, 0.3))
    (tmp_path / "study.journal").unlink()
    outcomes = study.run(settings(tmp_path), points(0.2, 0.3, 0.4))
    assert [outcome.value for outcome in outcomes] == [0.2, 0.3, 0.4]
    assert starts(tmp_path) == {"0.2": 1, "0.3": 1, "0.4": 1}


def test_studies_of_other_configs_share_a_directory_and_leave_each_other_alone(tmp_path):
    study.run(settings(tmp_path), points(0.2))
    outcomes = study.run(settings(tmp_path, name="other", suggest=draw, count=2))
    assert len(outcomes) == 2
    assert 0.2 not in [outcome.value for outcome in outcomes]


WORKER = """
import sys
from pathlib import Path
from experiments import study
from tests.experiments.test_study import points, settings
study.run(settings(Path(sys.argv[1]), parallel=int(sys.argv[2])), {listed})
"""


@pytest.mark.thorough  # processes of their own
def test_workers_of_several_processes_share_a_study(tmp_path):
    values = [round(0.1 + 0.05 * k, 2) for k in range(12)]
    program = WORKER.format(listed=f"points(*{values})")
    words = (sys.executable, "-c", program, str(tmp_path), "2")
    workers = [subprocess.Popen(words, cwd=REPOSITORY) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert starts(tmp_path) == {str(value): 1 for value in values}
    outcomes = study.run(settings(tmp_path), points(*values))
    assert [outcome.value for outcome in outcomes] == values


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


DIES = """
import contextlib, os, signal, sys
from pathlib import Path
from experiments import study
from tests.experiments.test_study import points, settings
worker = study._Study(settings(Path(sys.argv[1])))
worker.enqueue(points(0.2, 0.3))
lock = contextlib.ExitStack()
assert worker.take(lock) is not None
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_trial_of_a_killed_worker_is_given_back(tmp_path, capsys):
    """What it trained may go on for a while: it is waited for."""
    claim = settings(tmp_path)
    words = (sys.executable, "-c", DIES, str(tmp_path))
    assert subprocess.run(words, cwd=REPOSITORY).returncode == -signal.SIGKILL
    training = claim.make({RATE: 0.2})

    def end_later():
        with outputs.lock(training.workdir):  # goes on without its worker
            is_locked.set()
            wait_for((tmp_path / "trials/optimizer.learning_rate=0.3/train.json").exists)
            time.sleep(2 * study.IDLE_S)

    is_locked = threading.Event()
    orphan = threading.Thread(target=end_later)
    orphan.start()
    is_locked.wait()
    outcomes = study.run(claim, points(0.2, 0.3))
    orphan.join()
    assert [outcome.value for outcome in outcomes] == [0.2, 0.3]
    assert starts(tmp_path) == {"0.2": 1, "0.3": 1}
    said = [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()]
    assert [line.split()[0] for line in said] == ["validation", "waiting", "validation"]


def test_a_trial_that_another_sweep_trains_is_left_to_it(tmp_path, capsys):
    with outputs.lock(settings(tmp_path).make({RATE: 0.2}).directory):
        outcomes = study.run(settings(tmp_path), points(0.2, 0.3))
    assert [outcome.record.status for outcome in outcomes] == ["waiting", "finished"]
    assert trials.remark(outcomes[0]) == ", waiting"
    assert "another sweep trains it" in capsys.readouterr().out
    outcomes = study.run(settings(tmp_path), points(0.2, 0.3))
    assert [outcome.record.status for outcome in outcomes] == ["finished", "finished"]


@pytest.mark.thorough  # a process of its own
def test_an_interrupted_study_ends_its_training_and_goes_on(tmp_path):
    listed = [{RATE: 0.3, "goes_on": True}]
    training = settings(tmp_path).make(listed[0])
    words = (sys.executable, "-c", WORKER.format(listed=listed), str(tmp_path), "1")
    worker = subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    wait_for((training.workdir / "metrics.jsonl").exists)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) != 0
    assert jobs.read_record(training.job).status == jobs.INTERRUPTED
    (outcome,) = study.run(settings(tmp_path, budget_s=0.5), listed)
    assert outcome.record.status == jobs.STOPPED
    assert starts(tmp_path) == {"True": 2}


# --- what is drawn ----------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", study.SAMPLERS)
def test_what_is_drawn_goes_on_where_it_was_and_is_the_same_again(sampler, tmp_path):
    def values(out, count):
        outcomes = study.run(
            settings(out, suggest=draw, count=count, sampler=sampler), [{}] if count > 2 else []
        )
        assert len(outcomes) == count
        return {outcome.value for outcome in outcomes if outcome.trial.overrides}

    two = values(tmp_path / "a", 2)
    five = values(tmp_path / "a", 5)
    assert len(two) == 2
    assert two < five
    assert values(tmp_path / "b", 2) == two
    assert set(starts(tmp_path / "a").values()) == {1}


def test_workers_draw_different_trials(tmp_path):
    outcomes = study.run(settings(tmp_path, suggest=draw, count=6, sampler="random", parallel=3))
    assert len({outcome.value for outcome in outcomes}) == 6


def test_a_drawn_trial_that_failed_is_taken_up_with_what_was_drawn(tmp_path):
    def suggest(trial):
        return {RATE: -trial.suggest_float("rate", 0.1, 0.9)}

    first = study.run(settings(tmp_path, suggest=suggest, count=2))
    again = study.run(settings(tmp_path, suggest=suggest, count=2))
    assert [o.trial.overrides for o in first] == [o.trial.overrides for o in again]
    assert set(starts(tmp_path).values()) == {2}


def test_a_wrong_field_ends_the_study_and_does_not_stick_to_it(tmp_path):
    def make(overrides):
        trials.resolve(CONFIG, overrides)
        return settings(tmp_path).make(overrides)

    wrong = settings(tmp_path, make=make, suggest=lambda trial: {"train.rat": 1.0}, count=1)
    with pytest.raises(InputError, match=r"no field config\.train\.rat"):
        study.run(wrong)
    assert len(study.run(settings(tmp_path, suggest=draw, count=2))) == 1


def test_the_space_around_a_config_is_drawn_within_it():
    import optuna

    config = configuration.load(f"{REPOSITORY / 'configs/two_tower.py'}:search")
    trial = optuna.create_study().ask()
    drawn = search.suggest(config, trial)
    assert set(drawn) == {s.field for s in search.SPACE if s.field != "model.l2"} - {
        "train.tables.weight_decay"
    }
    weight = config.train.loss.softmax_weight
    assert weight / 10 <= drawn[search.SOFTMAX_WEIGHT] <= weight * 10
    assert drawn[search.LOG_Q] in ("none", "counts")
    trials.resolve(f"{REPOSITORY / 'configs/two_tower.py'}:search", drawn)


# --- pruning ----------------------------------------------------------------------------------


def test_a_training_that_lags_is_stopped_kept_and_not_begun_again(tmp_path):
    good = points(0.8, 0.7, 0.75, 0.72)
    lags = {RATE: 0.1, "goes_on": True}
    for _ in range(2):
        outcomes = study.run(settings(tmp_path, pruner="median"), [*good, lags])
        assert [o.record.status for o in outcomes] == ["finished"] * 4 + ["pruned"]
        assert outcomes[-1].best == (1, {"roc_auc": 0.1, "logloss": 0.9})
        assert trials.remark(outcomes[-1]) == ", pruned"
        assert max(starts(tmp_path).values()) == 1
    assert not outcomes[-1].error


# --- faults -----------------------------------------------------------------------------------


def test_a_line_that_a_killed_worker_left_half_written_is_dropped(tmp_path):
    study.run(settings(tmp_path), points(0.2))
    journal = tmp_path / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4,"worker')
    study.run(settings(tmp_path), points(0.2, 0.3))
    assert all(json.loads(line) for line in journal.read_text().splitlines())
    assert starts(tmp_path) == {"0.2": 1, "0.3": 1}


@pytest.mark.parametrize("text", ["nonsense\n", '{"op_code": 99}\n{"op_code": 0}\n', "\0\xff\n"])
def test_a_damaged_journal_is_named_and_may_be_removed(text, tmp_path):
    study.run(settings(tmp_path), points(0.2))
    journal = tmp_path / "study.journal"
    journal.write_bytes(text.encode("latin1") + journal.read_bytes())
    with pytest.raises(InputError, match=r"study.journal is damaged .* Remove it"):
        study.run(settings(tmp_path), points(0.2))
    journal.unlink()
    assert study.run(settings(tmp_path), points(0.2))[0].value == 0.2
    assert starts(tmp_path) == {"0.2": 1}


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install .* -e '\.\[sweep\]'"):
        study.run(settings(tmp_path), points(0.2))
