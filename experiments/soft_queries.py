"""FIT scored by soft queries, as it is trained, to hold against the hard queries that it serves.

Soft queries need a user vector of every pair, where hard ones need N of every request: so this is
no way to serve, and what it gains is what serving gives away.
"""

from typing import Any

import jax
import jax.numpy as jnp

from experiments import trials
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation.scorers import ModelScorer
from interactrank_jax.examples.format import Examples
from interactrank_jax.models.affine import add_offset
from interactrank_jax.models.fit import FIT, Item, Request, temperature
from interactrank_jax.models.inputs import ItemInput, RequestInput
from interactrank_jax.runs.run import Run
from interactrank_jax.training.timetable import Timetable

Array = jax.Array


class SoftFIT(FIT):
    """FIT with the soft queries of training, without its dropout.

    Attributes:
      tau: the temperature of the mixture.
    """

    tau: float = 1.0

    def encode_query(self, request: RequestInput, *, train: bool = False) -> Request:
        """Returns what does not depend on the candidate."""
        return self._encode_request(request, train=train)

    def encode_item(
        self, items: ItemInput, *, train: bool = False, keep_similarity: bool = True
    ) -> Item:
        """Returns an item with its similarity to the meta queries."""
        return super().encode_item(items, train=train, keep_similarity=keep_similarity)

    def score(self, query: Any, items: Item, cross: Array) -> Array:
        """Returns `[R, C, H]`: the user vector of the item's mixture with the item."""
        del cross
        assert items.similarity is not None
        mixture = jax.nn.softmax(items.similarity / self.tau, -1) @ self.meta.group()
        user = self._user_vectors(query, mixture, train=False)
        return add_offset(self._logits(user, items.vectors), query.offset)


def temperature_of(outcome: trials.Outcome) -> float:
    """Returns the temperature at the step whose model a trial kept."""
    assert outcome.best is not None
    config = outcome.trial.config
    total = Timetable.from_config(config.train, Examples(outcome.trial.examples)).total
    meta = config.model.meta
    progress = jnp.float32(outcome.best[0] / total)
    return float(temperature(progress, meta.decay, meta.temperature_min))


def make_scorer(outcome: trials.Outcome) -> ModelScorer:
    """Returns a scorer by soft queries, without parameters, for `contenders.score_splits`."""
    run = Run.open(outcome.trial.workdir)
    run.model = SoftFIT(run.model.config, run.inputs, tau=temperature_of(outcome))
    parallel = DataParallel(run.config.train.parallel)
    return ModelScorer(run, Examples(outcome.trial.examples), "test", parallel)
