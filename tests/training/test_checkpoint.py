"""Checkpoints: restored whatever the directory is called, and proven once to be restorable."""

import copy
import shutil

import jax
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.best import fingerprint
from interactrank_jax.runs.run import Run
from interactrank_jax.training import checkpoint
from interactrank_jax.training.train import train
from tests.faults.forging import at, reseal
from tests.marks import some_quick
from tests.synthetic import tiny_config


@pytest.fixture(scope="module")
def config():
    config = tiny_config("two_tower")
    config.train.update({"max_steps": 4, "eval_every": 2, "checkpoint_every": 2})
    return config


AWKWARD = "run*?\\{a,b} c:d%20#e'é"


@pytest.mark.long  # two trainings
@pytest.mark.parametrize("name", some_quick(["run[1]", AWKWARD], [AWKWARD]))
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


@pytest.mark.long  # trains a model for itself
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


@pytest.mark.long  # trains a model for itself
def test_a_run_whose_best_model_is_gone_does_not_pass_for_finished(tmp_path, examples_path, config):
    train(config, examples_path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "best")
    with pytest.raises(InputError, match=r"best lacks the model of step \d"):
        train(config, examples_path, tmp_path / "run")


def test_a_run_is_not_written_into_its_examples(examples_path, config):
    with pytest.raises(InputError, match=r"is inside .*, which is only read"):
        train(config, examples_path, examples_path / "run")
    assert not (examples_path / "run").exists()


def test_a_state_larger_than_memory_is_refused_before_it_is_made(tmp_path, examples_path, config):
    large = copy.deepcopy(config)
    large.model.tower.hidden = (65_536, 65_536)
    large.model.embedding_dim = 4096
    with pytest.raises(InputError, match=r"take [\d.,]+ GiB, this machine has"):
        train(large, examples_path, tmp_path / "run")


@pytest.mark.long  # two trainings
@pytest.mark.parametrize(
    ("field", "value"), [("label.utility", [float("nan")]), ("model.embedding_dim", "x")]
)
def test_a_resealed_config_is_held_against_the_table(tmp_path, examples_path, config, field, value):
    train(config, examples_path, tmp_path / "run")
    reseal(tmp_path / "run" / "config.json", at("config", *field.split("."), value))
    with pytest.raises(InputError, match=rf"config\.json: config\.{field} is .*Expected"):
        Run.open(tmp_path / "run")


@pytest.mark.long  # two trainings
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
