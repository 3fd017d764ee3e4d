"""Every scored candidate of a split, flat: what all figures are made of."""

import numpy as np

from interactrank_jax.evaluation.scorers import Scorer
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.input import EVALUATION_COLUMNS, evaluation_batches, train_columns
from interactrank_jax.io import interrupts
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.labels import ENGAGED


class Rows:
    """Every scored candidate of a split, flat: request `[n]`, item, logits `[n, H]`, actions.

    And stage: 1 (shown) everywhere if the log knows none. Their order is the same for every scorer.
    """

    def __init__(self, scorer: Scorer, examples: Examples, split: str, batch_size: int):
        parts = []
        has_stages = "stage" in examples.metadata.candidate_columns
        extra = ("stage",) if has_stages else ()
        names = (*train_columns(examples), *EVALUATION_COLUMNS, *extra)
        for batch in evaluation_batches(examples, split, batch_size, names=names):
            interrupts.check()
            mask = batch["mask"]
            request = np.broadcast_to(batch["request_index"][:, None], mask.shape)
            stage = batch["stage"] if has_stages else np.ones_like(batch["item"])
            columns = (request, batch["item"], scorer.slate(batch), batch["actions"], stage)
            parts.append([column[mask] for column in columns])
        self.request, self.item, self.logits, self.actions, self.stage = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        expected = examples.split(split).candidates
        if len(self.request) != expected:
            raise InputError(
                f"{examples.path / split} holds {len(self.request)} candidates, the metadata says "
                f"{expected}: prepare the examples again."
            )
        self.score = self.logits @ np.asarray(scorer.utility, np.float32)

    def ranked_logits(self, scorer: Scorer) -> np.ndarray | None:
        """Returns the calibrated logits `[n]` of engagement, None for a score that is no logit."""
        if ENGAGED not in scorer.heads:
            return None
        return scorer.calibration.logits(self.logits)[:, scorer.heads.index(ENGAGED)]
