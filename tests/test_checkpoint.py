"""Checkpoints: restored whatever the directory is called, and proven once to be restorable."""

import jax
import pytest

from interactrank_jax import checkpoint
from interactrank_jax.checkpoint import fingerprint
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs import Run
from interactrank_jax.train import train
from tests.synthetic import tiny_config


@pytest.fixture(scope="module")
def config():
    config = tiny_config("two_tower")
    config.train.update({"max_steps": 4, "eval_every": 2, "checkpoint_every": 2})
    return config


@pytest.mark.parametrize("name", ["run[1]", "run*?\\{a,b} c:d%20#e'é"])
def test_a_run_is_restored_and_resumed_whatever_its_directory_is_called(
    tmp_path, examples_path, config, name
):
    (tmp_path / "run1").mkdir()  # what `run[1]` and `run*` would match as patterns
    train(config, examples_path, tmp_path / "plain")
    train(config, examples_path, tmp_path / name)
    models = [Run.open(tmp_path / path).restore_model()[0] for path in ("plain", name)]
    assert fingerprint(models[0]) == fingerprint(models[1])
    result = train(config, examples_path, tmp_path / name)
    assert result["steps"] == 4
    assert list((tmp_path / "run1").iterdir()) == []


def test_the_first_model_that_is_saved_is_read_back(tmp_path, examples_path, config, monkeypatch):
    """A file system that gives back other bits is found out before hours of training."""
    restore, reads = checkpoint.restore_best, []

    def restore_wrongly(workdir, template):
        model, step = restore(workdir, template)
        reads.append(step)
        return jax.tree.map(lambda leaf: leaf + (len(reads) > 1), model), step

    monkeypatch.setattr(checkpoint, "restore_best", restore_wrongly)
    train(config, examples_path, tmp_path / "sound")
    assert len(reads) == 1  # once a run, not at each best model
    with pytest.raises(InputError, match="gives back another model than was saved"):
        train(config, examples_path, tmp_path / "unsound")


def test_a_run_goes_on_under_the_numerics_that_it_began_with(tmp_path, examples_path, config):
    train(config, examples_path, tmp_path / "run")
    with (
        jax.enable_x64(True),
        pytest.raises(InputError, match=r"other numerics: jax\.enable_x64 was False, is True"),
    ):
        train(config, examples_path, tmp_path / "run")
    with (
        jax.default_matmul_precision("highest"),
        pytest.raises(InputError, match=r"jax\.default_matmul_precision was None, is highest"),
    ):
        train(config, examples_path, tmp_path / "run")
