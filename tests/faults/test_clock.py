"""Clocks that go backwards: those of the log, and the machine's own."""

import json
import os
import shutil
import time

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.runs.best import fingerprint
from interactrank_jax.runs.run import Run
from interactrank_jax.training.train import train
from tests.faults.processes import computed, metric_lines, steps
from tests.log.handmade_log import data_config, replace, write_log
from tests.synthetic import tiny_config


@pytest.fixture
def backwards(monkeypatch):
    """Every look at the wall clock finds it an hour earlier, as after a correction."""
    start = time.time()
    looks = iter(range(1, 1_000_000))
    monkeypatch.setattr(time, "time", lambda: start - 3600.0 * next(looks))
    monkeypatch.setattr(time, "time_ns", lambda: int((start - 3600.0 * next(looks)) * 1e9))


@pytest.mark.long  # two trainings
def test_a_training_whose_clock_goes_backwards_is_the_same_training(
    backwards, examples_path, trained_run, tmp_path
):
    config = tiny_config("interactrank")
    workdir = tmp_path / "run"
    train(config, examples_path, workdir)
    models = [Run.open(path).restore_model()[0] for path in (workdir, trained_run)]
    assert fingerprint(models[0]) == fingerprint(models[1])
    lines = metric_lines(workdir)
    assert list(map(computed, lines)) == list(map(computed, metric_lines(trained_run)))
    rates = [v for line in lines for k, v in line.items() if k.endswith("_per_second")]
    assert rates
    assert min(rates) > 0
    # Two event files, were it resumed: the clock does not make one overwrite the other.
    before = sorted(path.name for path in workdir.glob("events.*"))
    train(config, examples_path, workdir)
    after = sorted(path.name for path in workdir.glob("events.*"))
    assert set(before) <= set(after)
    assert len(after) == len(before) + 1


def test_the_dates_of_files_mean_nothing(examples_path, trained_run, tmp_path):
    """The newest checkpoint is the one of the largest step, whatever the clock said then."""
    workdir = shutil.copytree(trained_run, tmp_path / "run")
    oldest, newest = (workdir / "checkpoints" / str(step) for step in steps(workdir)[-2:])
    for path in newest.rglob("*"):
        os.utime(path, (1, 1))
    os.utime(newest, (1, 1))
    os.utime(oldest)
    before = fingerprint(Run.open(workdir).restore_model()[0])
    train(tiny_config("interactrank"), examples_path, workdir)
    assert steps(workdir)[-1] == int(newest.name)
    assert fingerprint(Run.open(workdir).restore_model()[0]) == before


@pytest.mark.long  # prepares a log several times
def test_a_preparation_whose_clock_goes_backwards_is_the_same(
    backwards, good_log, prepared, tmp_path
):
    prepare(data_config(block_size=8), good_log, tmp_path / "out")
    written = [
        json.loads((path / "metadata.json").read_text()) for path in (tmp_path / "out", prepared)
    ]
    assert written[0] == written[1]  # with the checksum of every file


@pytest.mark.long  # prepares a log several times
def test_events_whose_clock_went_backwards_count_in_the_order_of_their_arrival(
    log_tables, tmp_path
):
    """Written in any order, and happened in an order that is not that of their ids or rows."""
    events = log_tables["events"]
    event_time = events["event_time"].to_numpy().copy()
    event_time[::3] -= 7200  # a third of the clients run two hours late
    arrival = events["arrival_time"].to_numpy()
    assert (np.diff(event_time) < 0).any()
    assert (np.diff(arrival) < 0).any()
    crooked = replace(events, "event_time", event_time)
    order = np.argsort(arrival, kind="stable")
    sorted_events = crooked.take(pa.array(order))
    paths = []
    for name, table in (("written", crooked), ("sorted", sorted_events)):
        log = write_log(tmp_path / name / "log", log_tables | {"events": table})
        paths.append(tmp_path / name / "examples")
        prepare(data_config(block_size=8), log, paths[-1])
    written, expected = (list(Examples(path).blocks("test")) for path in paths)
    for block, other in zip(written, expected, strict=True):
        for name, value in block.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)
    # Ages are never below zero, whatever the clients' clocks say.
    assert all((block["history_age"] >= 0).all() for block in written)
