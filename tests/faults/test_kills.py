"""A training that is killed, at any moment, goes on to the very bits of one that was not."""

import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from interactrank_jax.evaluation.evaluate import evaluate
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs import best
from interactrank_jax.runs.run import Run
from interactrank_jax.training.train import train
from tests.faults.configs import long_config
from tests.faults.processes import (
    assert_same_run,
    finish,
    kill,
    start,
    steps,
    wait_for,
)

pytestmark = pytest.mark.thorough  # trainings in processes of their own, begun many times

COMMIT = "orbax.checkpoint._src.path.atomicity:AtomicRenameTemporaryPath.finalize"
# What is renamed per checkpoint: its data, progress and state, and the whole.
RENAMES = 4


@pytest.fixture(scope="module")
def reference(tmp_path_factory, examples_path):
    """A run that nothing interrupted; what it compiled, the others find."""
    workdir = tmp_path_factory.mktemp("reference") / "run"
    finish(start(examples_path, workdir))
    return workdir


@pytest.mark.parametrize(
    "kills",
    [
        5,
        # Some ten runs of forty steps, each begun five times: minutes.
        pytest.param(50, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(
    kills, tmp_path, examples_path, reference, capsys
):
    rng = random.Random(kills)
    runs, newest = 0, []
    while len(newest) < kills:
        workdir = tmp_path / f"run-{runs}"
        runs += 1
        process = start(examples_path, workdir)
        while len(newest) < kills and await_moment(process, workdir, rng):
            kill(process)
            newest.append((steps(workdir) or [0])[-1])
            process = start(examples_path, workdir)
        finish(process)
        assert_same_run(workdir, reference)
        shutil.rmtree(workdir)
    with capsys.disabled():
        print(f"\n{kills} kills in {runs} runs, newest checkpoints then: {sorted(newest)}")


def await_moment(process: subprocess.Popen, workdir: Path, rng: random.Random) -> bool:
    """Waits until a random moment of a training; returns whether it still lives then.

    Of four kills, one comes within four seconds, while all is being read and compiled; the others
    up to half a second after the first or second checkpoint from now.
    """
    goal, delay = -1, rng.uniform(0, 4)
    if rng.random() < 0.75:
        goal = (steps(workdir) or [0])[-1] + rng.choice((0, 4))
        delay = rng.uniform(0, 0.5)
    while process.poll() is None and (steps(workdir) or [0])[-1] <= goal:
        time.sleep(0.005)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        return True
    return False


def test_killed_while_a_checkpoint_is_written_the_last_whole_one_is_used(
    tmp_path, examples_path, reference
):
    workdir, marker = tmp_path / "run", tmp_path / "marker"

    # In the midst of the third: some of its parts are finished, the whole is not.
    flags = ("--pause", COMMIT, str(2 * RENAMES + 2), str(marker), "--about", "checkpoints")
    process = start(examples_path, workdir, *flags)
    wait_for(process, marker.exists)
    kill(process)
    assert steps(workdir) == [4, 8]
    (partial,) = (p for p in workdir.glob("checkpoints/*") if "orbax-checkpoint-tmp" in p.name)
    assert partial.name.startswith("12.")
    assert any(path.is_file() for path in partial.rglob("*"))

    # Between a whole checkpoint and its checksums: it is taken all the same.
    marker.unlink()
    flags = ("--pause", "interactrank_jax.training.checkpoint:seal", "1", str(marker))
    flags += ("--about", "checkpoints")  # the best model is sealed too
    process = start(examples_path, workdir, *flags)
    wait_for(process, marker.exists)
    kill(process)
    assert steps(workdir)[-2:] == [8, 12]
    assert (workdir / "checkpoints" / "8" / best.KIND.file).exists()
    assert not (workdir / "checkpoints" / "12" / best.KIND.file).exists()

    errors = finish(start(examples_path, workdir))
    assert "resumed at step 12" in errors
    assert_same_run(workdir, reference)
    assert not list(workdir.glob("checkpoints/*tmp*"))


def test_killed_between_a_best_model_and_its_calibration_it_is_used_and_goes_on(
    tmp_path, examples_path, reference, caplog
):
    workdir, marker = tmp_path / "run", tmp_path / "marker"
    pause = "interactrank_jax.training.checkpoint:write_calibration"
    process = start(examples_path, workdir, "--pause", pause, "1", str(marker))
    wait_for(process, marker.exists)
    kill(process)
    run = Run.open(workdir)
    _, step = run.restore_model()
    assert not (workdir / "best" / str(step) / best.CALIBRATION.file).exists()
    assert run.calibration(step).fitted == (False, False)
    assert "corrected for weights and sampling alone" in caplog.text
    figures = evaluate(workdir, examples_path)
    assert figures["calibration"]["scale"] == [1.0, 1.0]
    shutil.rmtree(workdir / "eval")

    finish(start(examples_path, workdir))
    assert_same_run(workdir, reference)
    assert any(Run.open(reference).calibration(Run.open(reference).restore_model()[1]).fitted)


@pytest.mark.parametrize(
    "number",
    # One is enough for the suite: both are caught by the same lines.
    [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
    ids=lambda number: number.name,
)
def test_a_run_asked_to_stop_saves_a_checkpoint_within_seconds(
    number, tmp_path, examples_path, reference, capsys
):
    workdir = tmp_path / "run"
    process = start(examples_path, workdir)
    wait_for(process, lambda: steps(workdir))
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    seconds = time.monotonic() - began
    with capsys.disabled():
        print(f"\n{number.name}: saved and ended in {seconds:.2f} s")
    assert seconds < 20  # a preempted machine is given 30
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert "the same command goes on from there" in errors
    stopped = int(errors.split("stopped after step ")[1].split(";")[0])
    assert steps(workdir)[-1] == stopped
    if number is signal.SIGTERM:
        train(long_config(), examples_path, workdir)
        assert_same_run(workdir, reference)


class TestLock:
    def test_a_second_training_in_the_same_workdir_is_refused(self, tmp_path, examples_path):
        workdir, marker = tmp_path / "run", tmp_path / "marker"
        flags = (
            "--pause",
            "interactrank_jax.training.checkpoint:Checkpoints.save",
            "1",
            str(marker),
        )
        process = start(examples_path, workdir, *flags)
        try:
            wait_for(process, marker.exists)
            before = sorted(path.name for path in workdir.rglob("*"))
            with pytest.raises(InputError, match=r"run is in use by another process\. Wait"):
                train(long_config(), examples_path, workdir)
            assert sorted(path.name for path in workdir.rglob("*")) == before
        finally:
            kill(process)
        # What a killed process leaves locks nothing.
        assert (workdir / ".lock").exists()
        with outputs.lock(workdir):
            pass

    def test_a_lock_is_given_back_and_leaves_no_file(self, tmp_path):
        for _ in range(2):
            with outputs.lock(tmp_path / "new"):
                assert [path.name for path in (tmp_path / "new").iterdir()] == [".lock"]
        assert not list((tmp_path / "new").iterdir())

    def test_it_is_given_back_after_an_error_too(self, tmp_path):
        with pytest.raises(KeyboardInterrupt), outputs.lock(tmp_path):
            raise KeyboardInterrupt
        with (
            outputs.lock(tmp_path),
            pytest.raises(InputError, match="in use"),
            outputs.lock(tmp_path),
        ):
            pass
