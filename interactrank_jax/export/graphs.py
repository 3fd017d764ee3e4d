"""The functions of a trained model that leave the process: its towers, its scorer, all in one.

    encode_query    a batch of requests                   query/0, query/1, ...: leaves of the
                                                          query's representation, [requests, ...]
    encode_item     items as the item store has them      item/0, item/1, ...: [items, ...]
    score           query/N, index/N, row, cross          score [requests, candidates] and
                                                          logits [requests, candidates, heads]
    score_list      a batch, index/N, row, cross          the same: both steps in one
    score_rows      query/N of one request, index/N, row  score [candidates], without cross
    score_all       query/N, item/N                       score [requests, tile], without cross
    query_vector    a batch of requests                   vector [requests, d], of dot models, all
                                                          heads folded into one, and offset
                                                          [requests], to be added to the product

They take arrays by name. Embedding tables, the index and what histories look up of items are inputs
as well, so that they can be mapped from disk and lie in no file twice; the dense parameters are
constants. Dimensions that vary are symbols: `requests`, `candidates`, `items` (of the index, or to
encode) and `tile` (some of the index).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from interactrank_jax.examples.encoder import Encoder, Feature
from interactrank_jax.models.inputs import ITEM, QUERY, USER
from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.tables.lookup import embed_items, embed_requests

Array = jax.Array
Arrays = Mapping[str, Any]
REQUESTS, CANDIDATES, ITEMS, TILE = "requests", "candidates", "items", "tile"
SYMBOLS = (REQUESTS, CANDIDATES, ITEMS, TILE)
TABLE, STORE, INDEX = "table/", "store/", "index/"
CLOSE = 1e-3  # of scores of one model by several ways; that of bfloat16 adds in another order


@dataclasses.dataclass(frozen=True)
class Spec:
    """An array that a graph takes: its type, and its shape with symbols for what varies."""

    dtype: str
    shape: tuple[int | str, ...]


@dataclasses.dataclass(frozen=True)
class Graph:
    """A function of arrays by name.

    Attributes:
      function: takes arrays by name, returns the outputs in their order.
      inputs: by name.
      outputs: names.
    """

    function: Callable[[Arrays], tuple[Array, ...]]
    inputs: dict[str, Spec]
    outputs: tuple[str, ...]

    def positional(self, *arrays: Any) -> tuple[Array, ...]:
        """Calls the function with the inputs in their order."""
        return self.function(dict(zip(self.inputs, arrays, strict=True)))


class ServedModel:
    """A model with its dense parameters, and what is known of the arrays that it is served with.

    Args:
      model: the model.
      params: its dense parameters.
      tables: shape of each embedding table.
      encoder: how raw values become arrays.
      utility: `[H]` weights of the heads in the ranked score.
    """

    def __init__(
        self,
        model: PreRanker,
        params: Any,
        tables: Mapping[str, tuple[int, ...]],
        encoder: Encoder,
        utility: tuple[float, ...],
    ):
        self._model, self._variables = model, {"params": params}
        self._tables, self._encoder, self._utility = tables, encoder, utility

    def graphs(self) -> dict[str, Graph]:
        """Returns the functions by name."""
        asked, items = self._asked(), self._items()
        query, item = self._leaves(self._query_tree, asked), self._leaves(self._item_tree, items)
        index = {f"{INDEX}{n}": spec for n, spec in enumerate(item)}
        lists = {**index, "row": Spec("int32", (REQUESTS, CANDIDATES)), **self._cross()}
        queries = {f"query/{n}": spec for n, spec in enumerate(query)}
        one = {name: Spec(spec.dtype, (1, *spec.shape[1:])) for name, spec in queries.items()}
        tile = {f"item/{n}": Spec(s.dtype, (TILE, *s.shape[1:])) for n, s in enumerate(item)}
        scored = ("score", "logits")
        graphs = {
            "encode_query": Graph(
                lambda arrays: tuple(jax.tree.leaves(self._query_tree(arrays))),
                asked,
                tuple(queries),
            ),
            "encode_item": Graph(
                lambda arrays: tuple(jax.tree.leaves(self._item_tree(arrays))),
                items,
                tuple(tile),
            ),
            "score": Graph(self._score, {**queries, **lists}, scored),
            "score_list": Graph(self._score_list, {**asked, **lists}, scored),
            "score_rows": Graph(
                self._score_rows, {**one, **index, "row": Spec("int32", (CANDIDATES,))}, ("score",)
            ),
            "score_all": Graph(self._score_all, {**queries, **tile}, ("score",)),
        }
        if self.is_dot:
            graphs["query_vector"] = Graph(self._query_vector, asked, ("vector", "offset"))
        return graphs

    @property
    def is_dot(self) -> bool:
        """Whether a score is a dot product with the item's vector, a constant and cross terms."""
        return hasattr(self._model, "serving_query")

    def contradiction(self, arrays: Arrays) -> str | None:
        """Returns how the model's ways to score contradict each other; None if they do not.

        A class of somebody's own may override one of them and inherit another.

        Args:
          arrays: `query/N` of R requests and `item/N` of I items.
        """
        query, items = self._unflatten(0, arrays, "query/"), self._unflatten(1, arrays, "item/")
        requests, count = (len(jax.tree.leaves(tree)[0]) for tree in (query, items))
        lists = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[None], (requests, *leaf.shape)), items
        )
        zeros = jnp.zeros((requests, count, len(self._model.inputs.cross)))

        @jax.jit
        def score(cross: Array) -> Array:
            logits = self._model.apply(self._variables, query, lists, cross, method="score")
            return self._ranked(jnp.asarray(logits))

        without = score(zeros)
        if not self._model.uses_cross and not np.array_equal(without, score(zeros + 1)):
            return "`score` depends on cross features, although `uses_cross` is False"
        (every,) = jax.jit(self._score_all)(arrays)
        if not np.allclose(every, without, rtol=CLOSE, atol=CLOSE):
            return (
                f"`rank_all` gives other scores than `score` does with cross features of zero, by "
                f"up to {np.abs(every - without).max():.1e}"
            )
        rows = {f"{INDEX}{name}": leaf for name, leaf in _below(arrays, "item/").items()}
        first = {name: leaf[:1] for name, leaf in arrays.items() if name.startswith("query/")}
        (one,) = jax.jit(self._score_rows)({**first, **rows, "row": np.arange(count)})
        if requests and not np.allclose(one, without[0], rtol=CLOSE, atol=CLOSE):
            return (
                f"`score_one` gives other scores than `score` does with cross features of zero, by "
                f"up to {np.abs(one - without[0]).max():.1e}"
            )
        return None

    def _asked(self) -> dict[str, Spec]:
        """Returns what `encode_query` takes: tables, items of histories, a batch of requests."""
        inputs = self._model.inputs
        specs = self._table_specs(
            (*inputs.request, *inputs.item) if inputs.histories else inputs.request
        )
        if inputs.histories:
            for feature in inputs.item:
                if feature.name in inputs.sequence:
                    specs[STORE + _column(feature)] = _spec(feature, ITEMS)
        for feature in inputs.request:
            column = {USER: "user", QUERY: "query"}.get(feature.name, f"request/{feature.name}")
            specs[column] = _spec(feature, REQUESTS)
        if inputs.request_columns:
            width = len(self._encoder.select(("user", "request"), "numeric"))
            specs["request_numeric"] = Spec("float32", (REQUESTS, width))
        if "history" in inputs.histories:
            shape = (REQUESTS, inputs.history_length)
            specs["history_item"] = specs["history_action"] = Spec("int32", shape)
            specs["history_age"] = Spec("float32", shape)
        if "query_history" in inputs.histories:
            shape = (REQUESTS, inputs.query_history_length)
            specs["query_history_item"] = Spec("int32", shape)
        return specs

    def _items(self) -> dict[str, Spec]:
        """Returns what `encode_item` takes: tables, and items as the item store has them."""
        inputs = self._model.inputs
        specs = self._table_specs(inputs.item)
        specs |= {STORE + _column(feature): _spec(feature, ITEMS) for feature in inputs.item}
        if inputs.item_columns:
            width = len(self._encoder.select(("item",), "numeric"))
            specs[STORE + "numeric"] = Spec("float32", (ITEMS, width))
        return specs

    def _table_specs(self, features: tuple[Feature, ...]) -> dict[str, Spec]:
        tables = sorted({feature.table for feature in features if feature.table})
        return {TABLE + name: Spec("float32", tuple(self._tables[name])) for name in tables}

    def _cross(self) -> dict[str, Spec]:
        features = len(self._model.inputs.cross)
        if not (self._model.uses_cross and features):
            return {}
        return {"cross": Spec("float32", (REQUESTS, CANDIDATES, features))}

    def _leaves(self, function: Callable[[Arrays], Any], inputs: Mapping[str, Spec]) -> list[Spec]:
        shapes = jax.tree.leaves(jax.eval_shape(function, abstract(inputs)))
        return [
            Spec(str(leaf.dtype), tuple(n if isinstance(n, int) else str(n) for n in leaf.shape))
            for leaf in shapes
        ]

    def _query_tree(self, arrays: Arrays) -> Any:
        inputs, batch = self._model.inputs, dict(_without(arrays, TABLE, STORE))
        requests = next(iter(batch.values())).shape[0]
        # What the model does not look at is assembled all the same.
        empty = jnp.zeros((requests, 0))
        absent = {"request_numeric": empty, "history_action": empty, "history_age": empty}
        batch = {**absent, "query_history_item": empty.astype(jnp.int32), **batch}
        tables, store = _below(arrays, TABLE), _below(arrays, STORE)
        request = embed_requests(tables, batch, store, inputs)
        return self._model.apply(self._variables, request, method="encode_query")

    def _item_tree(self, arrays: Arrays) -> Any:
        store = _below(arrays, STORE)
        items = next(iter(store.values())).shape[0]
        store = {"numeric": jnp.zeros((items, 0)), **store}
        every: Any = slice(None)
        embedded = embed_items(_below(arrays, TABLE), every, store, self._model.inputs)
        return self._model.apply(self._variables, embedded, method="encode_item")

    @functools.cached_property
    def _structures(self) -> tuple[Any, Any]:
        query = jax.eval_shape(self._query_tree, abstract(self._asked()))
        item = jax.eval_shape(self._item_tree, abstract(self._items()))
        return jax.tree.structure(query), jax.tree.structure(item)

    def _rows(self, arrays: Arrays) -> Any:
        """Returns the items of the index at `row`."""
        rows = arrays["row"]
        return jax.tree.map(
            lambda leaf: jnp.take(leaf, rows, axis=0, mode="clip"),
            self._unflatten(1, arrays, INDEX),
        )

    def _score(self, arrays: Arrays) -> tuple[Array, ...]:
        query, items, rows = self._unflatten(0, arrays, "query/"), self._rows(arrays), arrays["row"]
        cross = arrays.get("cross")
        if cross is None:
            cross = jnp.zeros((*rows.shape, len(self._model.inputs.cross)))
        logits = jnp.asarray(
            self._model.apply(self._variables, query, items, cross, method="score")
        )
        return self._ranked(logits), logits

    def _ranked(self, logits: Array) -> Array:
        return logits @ jnp.asarray(self._utility, jnp.float32)

    def _score_list(self, arrays: Arrays) -> tuple[Array, ...]:
        query = jax.tree.leaves(self._query_tree(_without(arrays, INDEX, "row", "cross")))
        return self._score({**arrays, **{f"query/{n}": leaf for n, leaf in enumerate(query)}})

    def _score_rows(self, arrays: Arrays) -> tuple[Array, ...]:
        query, items = self._unflatten(0, arrays, "query/"), self._rows(arrays)
        if self.is_dot:
            method, weights = "rank_all", self._utility
            scores = self._model.apply(self._variables, query, items, weights, method=method)
            return (jnp.asarray(scores)[0],)
        logits = self._model.apply(self._variables, query, items, method="score_one")
        return (self._ranked(jnp.asarray(logits)),)

    def _score_all(self, arrays: Arrays) -> tuple[Array, ...]:
        query, items = self._unflatten(0, arrays, "query/"), self._unflatten(1, arrays, "item/")
        if self.is_dot:
            method, weights = "rank_all", self._utility
            scores = self._model.apply(self._variables, query, items, weights, method=method)
            return (jnp.asarray(scores),)
        # By `score` on broadcast items: loops that save memory elsewhere do not become ONNX.
        logits = self._model.apply(self._variables, query, items, method=PreRanker.score_all)
        return (self._ranked(jnp.asarray(logits)),)

    def _query_vector(self, arrays: Arrays) -> tuple[Array, ...]:
        query, apply = self._query_tree(arrays), self._model.apply
        parts = [
            apply(self._variables, query, self._utility, method=method)
            for method in ("serving_query", "serving_offset")
        ]
        return tuple(jnp.asarray(part) for part in parts)

    def _unflatten(self, side: int, arrays: Arrays, prefix: str) -> Any:
        leaves = _below(arrays, prefix)
        return jax.tree.unflatten(
            self._structures[side], [leaves[str(n)] for n in range(len(leaves))]
        )


def abstract(specs: Mapping[str, Spec]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns arrays without values, with symbolic dimensions of one scope."""
    symbols = dict(zip(SYMBOLS, jax_export.symbolic_shape(", ".join(SYMBOLS)), strict=True))
    return {
        name: jax.ShapeDtypeStruct(
            tuple(symbols[n] if isinstance(n, str) else n for n in spec.shape), spec.dtype
        )
        for name, spec in specs.items()
    }


def _column(feature: Feature) -> str:
    return "id" if feature.name == ITEM else feature.name


def _spec(feature: Feature, axis: str) -> Spec:
    width = (feature.width,) if feature.kind in ("text", "embedding") else ()
    return Spec("float32" if feature.kind == "embedding" else "int32", (axis, *width))


def _below(arrays: Arrays, prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


def _without(arrays: Arrays, *prefixes: str) -> dict[str, Any]:
    return {name: array for name, array in arrays.items() if not name.startswith(prefixes)}
