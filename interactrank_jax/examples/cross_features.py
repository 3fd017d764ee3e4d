"""The cross features of a preparation: values for slates and for the whole corpus, in memory.

Counting is done by the expressions of `expressions.py` on dense ids; values come from integer
counts in one place (`CrossFeatures.values`), so that those of a slate and those of the corpus are
the same bits.
"""

from collections.abc import Iterator, Mapping, Sequence

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from interactrank_jax.examples.engagements import IMPRESSION, Engagements
from interactrank_jax.examples.format import SparseCross
from interactrank_jax.log.schema import IMPLICIT_ACTION
from interactrank_jax.log.values import group_ids
from interactrank_jax.state import expressions
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.spec import FRESH

# Probes in one query to the backend: bounds memory without costing speed.
PROBES_AT_ONCE = 4_000_000


class CrossFeatures:
    """The K cross features of any request and item.

    Args:
      recipe: which, and how they are counted.
      engagements: actions, and impressions where a spec counts them.
      period: `[E]` day of arrival of each engagement; its fold where timeless.
      actions: names of the actions, in the order of their codes.
      mean_rates: `[folds + 1, A]` mean rate of each action over what each fold may use in training,
        the last row over all of it; `[1, A]` where there is time.
      created: `[I]` day when each item came to be, where fresh ones are set apart.
      backend: where expressions run.
    """

    def __init__(
        self,
        recipe: Recipe,
        engagements: Engagements,
        period: np.ndarray,
        *,
        actions: Sequence[str],
        mean_rates: np.ndarray,
        created: np.ndarray | None = None,
        backend: ibis.BaseBackend,
    ):
        self.recipe, self._created, self._backend = recipe, created, backend
        self._mean_rates = dict(zip(actions, mean_rates.T, strict=True))
        codes = {**{name: code for code, name in enumerate(actions)}, IMPLICIT_ACTION: IMPRESSION}
        keys = {"query": engagements.query, "item": engagements.item}
        keys |= {name: engagements.segments[name] for name in recipe.key_columns if name != FRESH}
        if recipe.has_fresh:
            keys[FRESH] = self._fresh(engagements.item, period)
        columns = {name: pa.array(codes, mask=codes < 0) for name, codes in keys.items()}
        columns |= {"period": period.astype(np.int32), "action": engagements.action}
        if recipe.is_weighted:
            columns["weight"] = engagements.weight
        table = ibis.memtable(pa.table(columns))
        self._windows = recipe.windows
        self._counts = {
            keys: self._materialize(
                expressions.period_counts(
                    table, keys, {action: codes[action] for action, _ in windows}
                )
            )
            for keys, windows in self._windows.items()
        }

    def _fresh(self, item: np.ndarray, period: np.ndarray) -> np.ndarray:
        """Returns 1 where an item is fresh on a day, else 0: int32 `[N]`."""
        assert self._created is not None
        return (period - self._created[item] < self.recipe.fresh_days).astype(np.int32)

    def counts(
        self,
        query: np.ndarray,
        item: np.ndarray,
        period: np.ndarray,
        segments: Mapping[str, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns numerator and denominator counts of N rows, `[N, L]` each.

        There is a column for each level of each feature, the features in order, each from fine to
        coarse; `first_levels` are the features' own. int32, or float64 where impressions have
        weights.

        Args:
          query: `[N]` query positions.
          item: `[N]` item store rows.
          period: `[N]` day of the request; its fold where timeless (-1 in evaluation).
          segments: codes `[N]` of the segment features used, and of the query's form.
        """
        columns = {"query": query, "item": item, **segments}
        if self.recipe.has_fresh:
            columns[FRESH] = self._fresh(item, period)
        levels = [level for spec in self.recipe.specs for level in self.recipe.levels(spec)]
        shape = (len(query), len(levels))
        dtype = np.dtype(np.float64 if self.recipe.is_weighted else np.int32)
        numerator, denominator = np.zeros(shape, dtype), np.zeros(shape, dtype)
        for keys, windows in self._windows.items():
            chosen = {key: columns[key] for key in keys}
            group, first = group_ids((*chosen.values(), period))
            probes = pa.table(
                {key: column[first].astype(np.int32) for key, column in chosen.items()}
                | {"period": period[first].astype(np.int32), "probe": np.arange(len(first))}
            )
            found = self._at(keys, ibis.memtable(probes), windows)
            place = found["probe"].to_numpy()
            for k, level in enumerate(levels):
                for result, its_keys, action in (
                    (numerator, level.count_keys, level.action),
                    (denominator, level.total_keys, level.total_action),
                ):
                    if keys == its_keys:
                        value = np.zeros(len(first), dtype)
                        value[place] = found[f"{action}:{level.window}"].to_numpy()
                        result[:, k] = value[group]
        return numerator, denominator

    @property
    def first_levels(self) -> list[int]:
        """The column of `counts` that holds each feature's own."""
        sizes = [len(self.recipe.levels(spec)) for spec in self.recipe.specs]
        return [sum(sizes[:k]) for k in range(len(sizes))]

    def values(
        self, numerator: np.ndarray, denominator: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """Returns the values that go with `counts`, float32 `[N, K]`: see `Recipe.value`."""
        recipe = self.recipe
        result = np.zeros((len(numerator), len(recipe.specs)), np.float32)
        for k, (spec, first) in enumerate(zip(recipe.specs, self.first_levels, strict=True)):
            mean = None
            if spec.is_rate:
                mean = self._mean_rates[spec.action][period if recipe.lag_days is None else -1]
            counts = [
                (numerator[:, column].astype(np.float64), denominator[:, column])
                for column in range(first, first + len(recipe.levels(spec)))
            ]
            result[:, k] = recipe.value(spec, counts, mean)
        return result

    def sparse(
        self, query: np.ndarray, period: np.ndarray, segments: Mapping[str, np.ndarray]
    ) -> SparseCross:
        """Returns, for R requests, every item that has any value; arguments as for `counts`.

        An item_share or item_rate has a value for nearly every item: lists are then as long as the
        corpus.
        """
        request_group, first = group_ids((query, period, *segments.values()))
        query, period = query[first].astype(np.int32), period[first].astype(np.int32)
        segments = {name: codes[first] for name, codes in segments.items()}
        group, item, value = [], [], []
        for pairs in self._pairs(query, period, segments.get("query_form")):
            pairs = pairs.sort_by([("group", "ascending"), ("item", "ascending")])
            groups, items = pairs["group"].to_numpy(), pairs["item"].to_numpy()
            of_group = {name: codes[groups] for name, codes in segments.items()}
            counts = self.counts(query[groups], items, period[groups], of_group)
            values = self.values(*counts, period[groups])
            kept = values.any(axis=1)
            group.append(groups[kept])
            item.append(items[kept].astype(np.int32))
            value.append(values[kept])
        indptr = np.zeros(len(first) + 1, np.int64)
        if group:
            np.cumsum(np.bincount(np.concatenate(group), minlength=len(first)), out=indptr[1:])
        return SparseCross(
            request_group.astype(np.int32),
            indptr,
            np.concatenate([np.zeros(0, np.int32), *item]),
            np.concatenate([np.zeros((0, len(self.recipe.specs)), np.float32), *value]),
        )

    def _pairs(
        self, query: np.ndarray, period: np.ndarray, form: np.ndarray | None
    ) -> Iterator[pa.Table]:
        """Yields pairs of group and item that may have values, all pairs of a group together."""
        catalogues = self._catalogues()
        codes = {"query": query} | ({} if form is None else {"query_form": form.astype(np.int32)})
        sizes = np.zeros(len(query), np.int64)
        for keys, items in catalogues.items():
            if keys:
                (key,) = keys
                per_key = np.bincount(items[key], minlength=codes[key].max(initial=0) + 1)
                sizes += per_key[codes[key]]
            else:
                sizes += len(items)
        chunk = np.cumsum(sizes) // PROBES_AT_ONCE
        for number in np.unique(chunk) if catalogues else ():
            rows = np.flatnonzero(chunk == number)
            columns = {name: column[rows] for name, column in codes.items()}
            groups = ibis.memtable(pa.table({"group": rows, **columns, "period": period[rows]}))
            pairs = [
                expressions.items_of_groups(
                    groups, ibis.memtable(items), keys, self.recipe.lag_days
                )
                for keys, items in catalogues.items()
            ]
            yield self._materialize(expressions.union(pairs).distinct())

    def _catalogues(self) -> dict[tuple[str, ...], pa.Table]:
        """Returns the items with any past, by what stands for the query, or at all."""
        result: dict[tuple[str, ...], list[ir.Table]] = {}
        for keys, counts in self._counts.items():
            if "item" in keys:
                by = tuple(key for key in keys if key in ("query", "query_form"))
                part = ibis.memtable(counts).select([*by, "item", "period"])
                result.setdefault(by, []).append(part)
        return {
            by: self._materialize(expressions.items_by_key(expressions.union(parts), by))
            for by, parts in result.items()
        }

    def _at(
        self, keys: Sequence[str], probes: ir.Table, windows: Sequence[tuple[str, int]]
    ) -> pa.Table:
        counts = ibis.memtable(self._counts[tuple(keys)])
        if self.recipe.lag_days is None:
            return self._materialize(expressions.out_of_fold(counts, probes, keys, windows))
        return self._materialize(
            expressions.windowed(counts, probes, keys, windows, self.recipe.lag_days)
        )

    def _materialize(self, expression: ir.Table) -> pa.Table:
        return self._backend.to_pyarrow(expression)
