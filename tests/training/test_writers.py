import errno
import io
import json
import os
import resource
import struct
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from interactrank_jax.io.errors import InputError
from interactrank_jax.training.writers import MetricWriter, Profiler, ProgressBar


def read(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def read_events(directory):
    """Events of all files in order; a record is length [8], checksum [4], bytes, checksum [4]."""
    events = []
    for file in sorted(directory.glob("events.out.tfevents.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestMetricWriter:
    def test_each_write_is_one_json_object_with_step_and_time(self, tmp_path):
        before = time.time()
        with MetricWriter(tmp_path / "new" / "run") as writer:
            writer.write(10, {"train/loss": jnp.float32(0.5), "rows": 3, "auc": np.float64(0.25)})
            writer.write(20, {"train/loss": 0.25})
        first, second = read(tmp_path / "new" / "run")
        assert before <= first.pop("time") <= second.pop("time") <= time.time()
        assert first == {"step": 10, "train/loss": 0.5, "rows": 3, "auc": 0.25}
        assert second == {"step": 20, "train/loss": 0.25}

    def test_what_is_not_finite_is_null(self, tmp_path):
        with MetricWriter(tmp_path) as writer:
            writer.write(1, {"a": float("nan"), "b": float("inf"), "c": jnp.nan, "d": True})
        record = read(tmp_path)[0]
        assert [record[name] for name in "abcd"] == [None, None, None, True]

    def test_a_line_is_on_disk_before_the_writer_is_closed(self, tmp_path):
        writer = MetricWriter(tmp_path)
        writer.write(1, {"loss": 1.0})
        assert read(tmp_path)[0]["loss"] == 1
        writer.close()

    def test_tensorboard_gets_the_same_scalars(self, tmp_path):
        with MetricWriter(tmp_path) as writer:
            writer.write(7, {"train/loss": 0.5, "test/auc": 0.75})
        values = {
            (event.step, value.tag): value.simple_value
            for event in read_events(tmp_path)
            for value in event.summary.value
        }
        assert values == {(7, "train/loss"): 0.5, (7, "test/auc"): 0.75}

    def test_a_resumed_run_has_the_steps_of_one_that_was_never_killed(self, tmp_path):
        steps = [10, 20, 30, 40]
        with MetricWriter(tmp_path) as writer:
            for step in steps[:3]:
                writer.write(step, {"loss": step})
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 40, "ti')  # killed in mid-write
        with MetricWriter(tmp_path, resume_step=25) as writer:  # the last checkpoint
            assert [record["step"] for record in read(tmp_path)] == [10, 20]
            for step in steps[2:]:
                writer.write(step, {"loss": step})
        assert [(record["step"], record["loss"]) for record in read(tmp_path)] == [
            (step, step) for step in steps
        ]
        starts = [event.step for event in read_events(tmp_path) if event.session_log.status]
        assert starts == [26]  # TensorBoard drops events from this step on

    def test_without_a_resume_step_everything_whole_is_kept(self, tmp_path):
        for step in (1, 2):
            with MetricWriter(tmp_path) as writer:
                writer.write(step, {"loss": 0.0})
            with (tmp_path / "metrics.jsonl").open("a") as file:
                file.write('{"step": 9')
        MetricWriter(tmp_path).close()
        assert [record["step"] for record in read(tmp_path)] == [1, 2]
        assert [path.name for path in tmp_path.glob(".*partial*")] == []

    @pytest.mark.parametrize("content", ["not json\n", "[1]\n", '{"loss": 1}\n', '{"step": "x"}\n'])
    def test_a_file_of_something_else_is_refused_and_left_alone(self, tmp_path, content):
        (tmp_path / "metrics.jsonl").write_text(content)
        with pytest.raises(InputError, match=r"metrics\.jsonl line 1 .* move it away"):
            MetricWriter(tmp_path, resume_step=0)
        assert (tmp_path / "metrics.jsonl").read_text() == content

    @pytest.mark.parametrize(
        ("scalars", "match"),
        [
            ({"step": 1}, "cannot be named 'step'"),
            ({"loss": np.ones(3)}, r"'loss' has shape \(3,\)"),
            ({"loss": "low"}, "Expected a number"),
            ({"loss": None}, "Expected a number"),
        ],
    )
    def test_what_is_no_scalar_is_refused_and_nothing_written(self, tmp_path, scalars, match):
        with MetricWriter(tmp_path) as writer, pytest.raises(InputError, match=match):
            writer.write(1, {"fine": 0.0} | scalars)
        assert read(tmp_path) == []

    def test_a_directory_that_cannot_be_written_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match=r"cannot write to .*file"):
            MetricWriter(tmp_path / "file")


class TestProgressBar:
    def run(self, monkeypatch, stream):
        monkeypatch.setattr(sys, "stderr", stream)
        clock = iter([100.0, 102.0, 104.0])
        monkeypatch.setattr(time, "monotonic", lambda: next(clock))
        with ProgressBar(40, "train", initial=10) as bar:
            for _ in range(3):
                bar.update(10, candidates=5_000)
        return stream.getvalue()

    def test_shows_candidates_per_second_and_time_left_on_a_terminal(self, monkeypatch):
        text = self.run(monkeypatch, Terminal())
        last = text.split("\r")[-1]
        assert "train: 100%" in last
        assert "40/40" in last
        assert "2.50k candidates/s" in last  # 10,000 in the 4 s after the first update
        assert "<" in last

    def test_is_silent_where_output_is_no_terminal(self, monkeypatch):
        assert self.run(monkeypatch, io.StringIO()) == ""


@pytest.mark.parametrize(("steps", "traced"), [(0, False), (3, True)])
def test_a_profiler_traces_some_steps_after_the_first(tmp_path, steps, traced):
    with Profiler(tmp_path / "profile", steps) as profiler:
        for step in range(12):
            profiler.step(np.float32(step))
    found = list(tmp_path.rglob("*.trace.json.gz"))
    assert bool(found) == traced


def test_a_loop_that_ends_early_leaves_a_whole_trace(tmp_path):
    with Profiler(tmp_path / "profile", 100) as profiler:
        for step in range(8):
            profiler.step(np.float32(step))
    assert list(tmp_path.rglob("*.trace.json.gz"))


def test_tensorboard_sees_the_scalars_of_a_run_that_goes_on(tmp_path, monkeypatch):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": 1.0})
        monkeypatch.setattr(MetricWriter, "FLUSH_S", -1.0)
        writer.write(2, {"loss": 0.5})
        assert [event.step for event in read_events(tmp_path) if event.summary.value] == [1, 2]


def test_events_that_find_no_room_are_an_error_and_no_hang(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to(os.devnull)  # so that the lines find room

    def write():
        with MetricWriter(tmp_path) as writer:
            for step in range(2000):
                writer.write(step, {"loss": 1.0})

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
