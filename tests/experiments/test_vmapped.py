"""Sweeps whose trials share a step: their groups, and what each trial is left with."""

import dataclasses
import json
import shlex

import pytest

from experiments import jobs, run, trials, vmapped
from interactrank_jax.io import files
from tests.conftest import REPOSITORY

RATE = "train.optimizer.learning_rate"
SWEEP = [{RATE: 0.001}, {RATE: 0.002}, {RATE: 0.001, "train.batch_size": 8}]


@pytest.fixture
def command(tmp_path, examples_path, monkeypatch):
    """The command line of a sweep of six trials, seeds included, in two groups of three and two."""
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "sweep.py").write_text(f"def sweep():\n    return {SWEEP}\n")
    (tmp_path / "config.py").write_text(  # the model that compiles fastest
        "from tests.synthetic import tiny_config, without_blocks\n\ndef get_config():\n"
        "    config = tiny_config('two_tower')\n    without_blocks(config)\n"
        "    config.train.max_steps = 4\n    return config\n"
    )
    flags = {"config": "config.py", "sweep": "sweep.py", "out": "out"}
    paths = [f"--{name}={tmp_path / file}" for name, file in flags.items()]
    return [*paths, f"--examples={examples_path}", "--seeds", "0", "1", "--vmap"]


def test_print_gives_a_shell_line_per_group(command, tmp_path, capsys):
    assert run.main([*command, "--print", "--budget_s=60"]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert not (tmp_path / "out").exists()
    # A group has the time of all its trials.
    assert [line[4:6] for line in lines] == [["--budget_s=240", "--"], ["--budget_s=120", "--"]]
    overrides = [[json.loads(word) for word in line if word.startswith("{")] for line in lines]
    assert overrides == [
        [{RATE: rate, "train.seed": seed} for rate in (0.001, 0.002) for seed in (0, 1)],
        [{RATE: 0.001, "train.batch_size": 8, "train.seed": seed} for seed in (0, 1)],
    ]


def test_a_group_of_one_trains_as_without_others(examples_path, tmp_path):
    config = f"{REPOSITORY / 'tests/faults/configs.py'}:tiny"
    sweep = [{"train.batch_size": size} for size in (8, 16)]
    made = trials.make(config, sweep, examples_path, tmp_path)
    assert vmapped.commands(made) == trials.commands(made)


@pytest.mark.long  # trainings in processes of their own
def test_what_a_scheduler_ran_is_collected_and_not_run_again(
    command, tmp_path, capsys, monkeypatch
):
    """Here of the two groups one has run, in this process."""
    assert run.main([*command, "--print"]) == 0
    _, words = map(shlex.split, capsys.readouterr().out.splitlines())
    assert vmapped.main(words[words.index("experiments.vmapped") + 1 :]) == 0
    queued = []

    def fail(queue, **_):
        queued.extend(queue)
        return [jobs.Record(jobs.FAILED, 1.0, "exit status 2")] * len(queue)

    monkeypatch.setattr(jobs, "run", fail)
    record = tmp_path / "record.json"
    assert run.main([*command, f"--json={record}"]) == 0
    assert len(queued) == 1
    written = json.loads(record.read_text())["trials"]
    assert [trial["status"] for trial in written] == ["failed"] * 4 + ["finished"] * 2
    assert all(trial["error"] == "exit status 2" for trial in written[:4])
    assert all(trial["validation"]["roc_auc"] > 0 for trial in written[4:])
    table = (tmp_path / "out/table.md").read_text()
    assert "±" in table  # over the seeds of the group that has run


def test_a_group_has_the_time_of_all_its_trials(command, tmp_path, monkeypatch):
    """And what stops at its end took each of them its share."""
    limits = []

    def stop(self, job, budget_s, environment):
        limits.append(budget_s)
        record = jobs.Record(jobs.STOPPED, budget_s)
        files.write_json(job.record, dataclasses.asdict(record))
        return record

    monkeypatch.setattr(jobs.Slot, "run", stop)
    flags = [*command, "--budget_s=60", f"--json={tmp_path / 'record.json'}"]
    for _ in range(2):  # the second time nothing is left to do
        run.main(flags)
        assert limits == [240.0, 120.0]
    written = json.loads((tmp_path / "record.json").read_text())["trials"]
    assert [trial["seconds"] for trial in written] == [60.0] * 6
    assert all("stopped after 60 s" in trial["error"] for trial in written)


@pytest.mark.thorough  # trainings in processes of their own
def test_a_sweep_trains_its_groups_and_is_not_run_again(command, tmp_path):
    def outcome():
        assert run.main([*command, f"--json={tmp_path / 'record.json'}"]) == 0
        written = json.loads((tmp_path / "record.json").read_text())["trials"]
        logs = (tmp_path / "out").rglob("train.log")
        return written, {path: path.stat().st_mtime_ns for path in logs}

    written, logs = outcome()
    assert [trial["status"] for trial in written] == ["finished"] * 6
    assert len(logs) == 2  # one process a group
    assert outcome() == (written, logs)
