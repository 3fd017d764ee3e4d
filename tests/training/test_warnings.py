"""What training says of itself: when its best validation was, and whether its towers are alive."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation.scorers import ModelScorer
from interactrank_jax.examples.format import Examples, write_metadata
from interactrank_jax.examples.survey import Survey
from interactrank_jax.models import registry
from interactrank_jax.models.interactrank import InteractRank
from interactrank_jax.runs.run import Run
from interactrank_jax.training.checkpoint import Progress
from interactrank_jax.training.timetable import Timetable
from interactrank_jax.training.train import train
from interactrank_jax.training.warnings import of_scores, of_validations, scores_alike
from tests.synthetic import CROSS, tiny_config

TIMETABLE = Timetable(total=100, log_every=10, validate_every=20, save_every=50)


class TestValidations:
    @pytest.mark.parametrize(
        ("best", "steps", "expected"),
        [
            (100, 100, "of the last step, 100, so the model may still get better: train longer"),
            (20, 100, "is the first, of step 20 of 100, so training only made the model worse"),
            (20, 60, "is the first, of step 20 of 60"),  # early stopping ended it
            (0, 80, "is the first, of step 0 of 80, so training only made the model worse"),
        ],
    )
    def test_a_best_at_either_end_is_named(self, best, steps, expected):
        progress = Progress(best_metric=0.7, best_step=best)
        (text,) = of_validations(progress, TIMETABLE, steps, "roc_auc", has_start=not best)
        assert text.startswith("the best validation (roc_auc 0.7000)")
        assert expected in text
        assert "config.train." in text

    @pytest.mark.parametrize(("best", "steps"), [(40, 100), (80, 100), (40, 60)])
    def test_a_best_between_them_is_not(self, best, steps):
        progress = Progress(best_metric=0.7, best_step=best)
        assert of_validations(progress, TIMETABLE, steps, "roc_auc", has_start=False) == []

    def test_the_first_after_a_start_that_is_worse_is_not(self):
        progress = Progress(best_metric=0.7, best_step=20)
        assert of_validations(progress, TIMETABLE, 100, "roc_auc", has_start=True) == []

    def test_one_validation_alone_has_no_order(self):
        once = dataclasses.replace(TIMETABLE, validate_every=200)
        progress = Progress(best_metric=0.7, best_step=100)
        assert of_validations(progress, once, 100, "roc_auc", False) == []
        assert of_validations(Progress(), TIMETABLE, 100, "roc_auc", False) == []


def _dead(model):
    """Parameters and tables without any embedding or weight, but those of the cross features."""
    params = {
        name: part if name == "cross_terms" else jax.tree.map(jnp.zeros_like, part)
        for name, part in model["params"].items()
    }
    return {"params": params, "tables": jax.tree.map(jnp.zeros_like, model["tables"])}


def _scorer(run, examples, model):
    parallel = DataParallel(run.config.train.parallel)
    scorer = ModelScorer(run, examples, "validation", parallel)
    return scorer.use(parallel.replicate(model))


def test_towers_are_dead_where_only_cross_features_tell_items_apart(trained_run, examples_path):
    run, examples = Run.open(trained_run), Examples(examples_path)
    model, _ = run.restore_model()
    alive, dead = _scorer(run, examples, model), _scorer(run, examples, _dead(model))
    assert of_scores(alive) == []
    (text,) = of_scores(dead)
    assert text.startswith("all items have the same score")
    block = next(examples.blocks("validation"))
    assert (np.ptp(dead.slate(block), axis=1) > 0.01).any()  # as the cross features do


def test_slates_of_one_tell_whether_towers_are_dead(trained_run, examples_path, monkeypatch):
    run, examples = Run.open(trained_run), Examples(examples_path)
    blocks = list(examples.blocks("validation"))
    for block in blocks:
        block["mask"] = block["mask"] & (np.arange(block["mask"].shape[1]) == 0)
    monkeypatch.setattr(examples, "blocks", lambda split, names=None: iter(blocks))
    model, _ = run.restore_model()
    assert not scores_alike(_scorer(run, examples, model))
    assert scores_alike(_scorer(run, examples, _dead(model)))


@pytest.mark.long  # a training
def test_training_says_what_is_odd_before_and_after(tmp_path, examples_path, registries, caplog):
    class Dead(InteractRank):
        def encode_item(self, items, *, train=False):
            encoded = super().encode_item(items, train=train)
            return jax.tree.map(lambda leaf: leaf * 0, encoded)

    registry.MODELS["dead"] = dataclasses.replace(registry.MODELS["interactrank"], model=Dead)
    copy = shutil.copytree(examples_path, tmp_path / "examples")
    metadata = Examples(copy).metadata
    write_metadata(copy, dataclasses.replace(metadata, survey=Survey(equal=(CROSS,))))
    config = tiny_config("interactrank")
    config.model.name = "dead"
    config.train.update({"max_steps": 3, "eval_every": 1})
    with caplog.at_level("WARNING"):
        train(config, copy, tmp_path / "run")
    said = [record.message for record in caplog.records if record.message.startswith("warning: ")]
    assert "share:click:30 and share:click:365 are equal in all" in said[0]
    assert "a tower of dead is dead" in said[-1]
