"""A number that is not finite stops the run, which names the step and the tensor, and saves none.

How a step calls each of the tensors that it looks at is tested in `tests/training/test_steps.py`.
"""

import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from interactrank_jax import losses
from interactrank_jax.examples.blocks import BlockWriter
from interactrank_jax.examples.format import Examples, write_metadata
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.run import Run
from interactrank_jax.training.train import train
from tests.faults.processes import steps
from tests.synthetic import tiny_config, write_examples

# What is planted in the blocks, and how the run calls it.
PLACES = {
    "history_age": "batch/history_age",
    "request_numeric": "batch/request_numeric",
    "request/mood": "batch/request/mood",
}


def plant(path, column):
    """Makes one number of a column of the sixth block NaN."""
    examples = Examples(path)
    blocks = list(examples.blocks("train"))
    shutil.rmtree(path / "train")
    with BlockWriter(path / "train", blocks_per_file=3) as writer:
        for index, block in enumerate(blocks):
            columns = {name: value.copy() for name, value in block.items()}
            if index == 5:
                columns[column][(3, *[0] * (columns[column].ndim - 1))] = np.nan
            writer.write(columns)
    write_metadata(path, examples.metadata)


def sound(workdir) -> bool:
    """Whether every number of the last checkpoint, and of the best model, is finite."""
    leaves = []
    if steps(workdir):
        last = workdir.absolute() / "checkpoints" / str(steps(workdir)[-1]) / "state"
        leaves += jax.tree.leaves(ocp.StandardCheckpointer().restore(last))
        leaves += jax.tree.leaves(Run.open(workdir).restore_model()[0])
    return all(np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.long  # a training
@pytest.mark.parametrize(
    "column",
    # One is enough for the run's part: how each is called, a test of the step says in a second.
    [
        "request_numeric",
        *(pytest.param(column, marks=pytest.mark.slow) for column in PLACES if "_n" not in column),
    ],
)
def test_a_nan_in_the_data_stops_the_run_and_is_named(column, tmp_path):
    path = write_examples(tmp_path / "examples")
    plant(path, column)
    workdir = tmp_path / "run"
    config = tiny_config("interactrank")
    config.train.max_steps = 16  # more than an epoch of 9: the number is met
    with pytest.raises(FloatingPointError, match=rf"step \d+: {PLACES[column]} is not finite"):
        train(config, path, workdir)
    assert sound(workdir)


def test_a_nan_among_the_cross_features_is_an_error_before_the_first_step(tmp_path):
    path = write_examples(tmp_path / "examples")
    plant(path, "cross")
    with pytest.raises(InputError, match="cross features or rates of training rows are not finite"):
        train(tiny_config("interactrank"), path, tmp_path / "run")
    assert not steps(tmp_path / "run")


@pytest.mark.long  # trains a model for itself
def test_a_nan_among_the_items_is_an_error_at_the_first_loss(tmp_path):
    """Items lie on the device, not in the batch: what comes of them is looked at."""
    path = write_examples(tmp_path / "examples")
    file = path / "items" / "numeric.npy"
    numeric = np.load(file)
    numeric[5:] = np.nan
    np.save(file, numeric)
    write_metadata(path, Examples(path).metadata)
    with pytest.raises(FloatingPointError, match=r"step \d: loss.* is not finite"):
        train(tiny_config("two_tower"), path, tmp_path / "run")
    assert not steps(tmp_path / "run")


@jax.custom_vjp
def poisoned(logits):
    """The identity, with a gradient that is not a number."""
    return logits


poisoned.defvjp(lambda logits: (logits, None), lambda _, gradient: (gradient * np.nan,))


@pytest.mark.long  # trains a model for itself
def test_a_gradient_that_is_not_finite_stops_the_run_and_is_named(
    examples_path, tmp_path, registries
):
    @losses.register("poisoned", kind="pointwise")
    def loss(logits, labels, **kwargs):
        return losses.sigmoid_cross_entropy(poisoned(logits), labels, **kwargs)

    config = tiny_config("two_tower")
    config.train.loss.name = "poisoned"
    workdir = tmp_path / "run"
    message = r"step 0: gradient/bias is not finite.*last checkpoint is sound"
    with pytest.raises(FloatingPointError, match=message):
        train(config, examples_path, workdir)
    assert not steps(workdir)
