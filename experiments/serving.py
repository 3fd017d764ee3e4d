"""A run's model as it serves a request, by the shapes of what it takes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from interactrank_jax.models.inputs import zero_inputs
from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.models.registry import build_model
from interactrank_jax.runs.run import Run

Array = jax.Array


class Serving:
    """A run's model as it serves a request: what the ranked score needs, and no more.

    Heads without utility are left out. Heads with utility are folded into one where the model has a
    `serving_query`, else each is computed. Cross features arrive transformed: whatever counts them
    does that once, not for each request.

    Attributes:
      model: with the heads that are left.
      config: its config.
      cross: number of cross features, K.
      variables, request, items: shapes of its parameters, of one request's inputs, of one item's
        `[1, 1, ...]`.
    """

    def __init__(self, run: Run):
        self._utility = np.array([value for value in run.rule.utility if value], np.float32)
        if hasattr(run.model, "serving_query"):
            self._utility = np.ones(1, np.float32)
        self.config = ConfigDict(run.config.model.to_dict())
        if "cross" in self.config:
            self.config.cross.transform = "linear"
        self.cross = len(run.inputs.cross)
        inputs = run.inputs._replace(
            heads=tuple(f"ranked_{number}" for number in range(len(self._utility))),
            cross_scale=(1.0,) * self.cross,
        )
        self.model = build_model(self.config, inputs)
        sample = zero_inputs(inputs, self.model.row_width)
        self.variables = jax.eval_shape(lambda: self.model.init(jax.random.key(0), **sample))
        self.request, self.items = jax.eval_shape(lambda: (sample["request"], sample["items"]))

    def encode_query(self, variables: Any, request: Any) -> Any:
        """Returns the query representation `[R]` of embedded requests."""
        return self.model.apply(variables, request, method="encode_query")

    def encode_item(self, variables: Any, items: Any) -> Any:
        """Returns the item representation of embedded items."""
        return self.model.apply(variables, items, method="encode_item")

    def score(self, variables: Any, query: Any, items: Any, cross: Array) -> Array:
        """Returns the ranked score `[R, C]`; its cross features are transformed already."""
        logits: Any = self.model.apply(variables, query, items, cross, method="score")
        return logits[..., 0] if len(self._utility) == 1 else logits @ self._utility

    @property
    def has_score_one(self) -> bool:
        """Whether the model has a way of its own to score the candidates of one request."""
        return type(self.model).score_one is not PreRanker.score_one

    def score_one(self, variables: Any, query: Any, items: Any, cross: Array) -> Array:
        """Returns what `score` does of one request `[1, C]`, as a ranker scores its list."""
        items_of_one = jax.tree.map(lambda leaf: leaf[0], items)
        logits: Any = self.model.apply(variables, query, items_of_one, method="score_one")
        if self.model.uses_cross:
            parts: Any = self.model.apply(variables, cross[0], method="cross_parts")
            logits = logits + parts.sum(-2)
        return (logits[..., 0] if len(self._utility) == 1 else logits @ self._utility)[None]

    def requests(self, count: int) -> Any:
        """Returns the shapes of `count` requests."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), self.request
        )

    def candidates(self, count: int) -> tuple[Any, jax.ShapeDtypeStruct]:
        """Returns the shapes of one request's candidates `[1, count]` and their cross features."""
        items = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((1, count, *leaf.shape[2:]), leaf.dtype), self.items
        )
        return items, jax.ShapeDtypeStruct((1, count, self.cross), jnp.float32)

    def score_inputs(self, count: int) -> tuple[Any, Any, jax.ShapeDtypeStruct]:
        """Returns the shapes of what `score` takes for one request with `count` candidates."""
        items, cross = self.candidates(count)
        query = jax.eval_shape(self.encode_query, self.variables, self.requests(1))
        return query, jax.eval_shape(self.encode_item, self.variables, items), cross
