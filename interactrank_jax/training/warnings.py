"""Said after training: what its validations and its last scores show to be wrong.

Each warning is a sentence that says what to do. What is said before training, of the examples, is
in `examples/warnings.py`.
"""

import numpy as np

from interactrank_jax.evaluation.scorers import ModelScorer
from interactrank_jax.examples.input import evaluation_batches, train_columns
from interactrank_jax.io import interrupts
from interactrank_jax.training.checkpoint import Progress
from interactrank_jax.training.timetable import Timetable

SMALLEST_SPREAD = 1e-4  # of logits: beneath it they are one number but for rounding


def of_validations(
    progress: Progress, timetable: Timetable, steps: int, select_by: str, has_start: bool
) -> list[str]:
    """Returns the warning of a best validation that is the first or the last of several.

    Args:
      progress: of the training that ended.
      timetable: its length, and when it validated.
      steps: that it took.
      select_by: the metric.
      has_start: whether step 0 was validated, the regression or the run that training starts from.
    """
    first = 0 if has_start else min(timetable.validate_every, timetable.total)
    if progress.best_metric is None or steps <= first:
        return []
    best = f"the best validation ({select_by} {progress.best_metric:.4f})"
    if progress.best_step == timetable.total:
        return [
            f"{best} is that of the last step, {timetable.total:,}, so the model may still get "
            f"better: train longer (config.train.epochs or config.train.max_steps)."
        ]
    if progress.best_step == first:
        return [
            f"{best} is the first, of step {first:,} of {steps:,}, so training only made the model "
            f"worse after it, and the model of that step is kept: lower "
            f"config.train.optimizer.learning_rate and config.train.tables.learning_rate, or "
            f"validate more often (config.train.eval_every)."
        ]
    return []


def of_scores(scorer: ModelScorer) -> list[str]:
    """Returns the warning of a model that scores all items alike, cross features aside.

    Args:
      scorer: of the model.
    """
    if not scores_alike(scorer):
        return []
    return [
        f"all items have the same score for a request once cross features are 0, on all of "
        f"{scorer.split}: a tower of {scorer.name} is dead; lower "
        f"config.train.optimizer.learning_rate and train anew."
    ]


def scores_alike(scorer: ModelScorer) -> bool:
    """Whether no request of the scorer's split tells items apart when cross features are 0.

    A slate is scored with other items of its batch in place of its own, so that short ones tell
    too. A model that is alive ends this at its first batch. A slate of one item tells nothing.
    """
    examples, has_pairs = scorer.examples, False
    for batch in evaluation_batches(
        examples, scorer.split, scorer.batch_size, names=train_columns(examples)
    ):
        interrupts.check()
        mask = batch["mask"]
        if not mask.any():
            continue
        items = np.resize(batch["item"][mask], mask.shape)
        without_cross = np.zeros_like(batch["cross"])
        logits = scorer.slate({**batch, "item": items, "cross": without_cross})
        if (np.ptp(logits, axis=1) > SMALLEST_SPREAD).any():
            return False
        has_pairs |= bool((items != items[:, :1]).any())
    return has_pairs
