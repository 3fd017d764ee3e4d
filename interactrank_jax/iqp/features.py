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

from interactrank_jax.data.dense import IMPRESSION, Engagements, group_ids
from interactrank_jax.data.examples import SparseCross
from interactrank_jax.data.schema import IMPLICIT_ACTION
from interactrank_jax.errors import InputError
from interactrank_jax.iqp import expressions
from interactrank_jax.iqp.spec import CrossSpec, segments_of, windows_of

# Probes in one query to the backend: bounds memory without costing speed.
PROBES_AT_ONCE = 4_000_000


class CrossFeatures:
    """The K cross features of any request and item.

    Args:
      specs: which.
      engagements: actions, and impressions where a spec counts them.
      period: `[E]` day of arrival of each engagement; its fold where timeless.
      actions: names of the actions, in the order of their codes.
      lag_days: None where the data is timeless.
      prior: added to every denominator.
      mean_rates: `[folds + 1, A]` mean rate of each action over what each fold may use in training,
        the last row over all of it; `[1, A]` where there is time.
      backend: where expressions run.
    """

    def __init__(
        self,
        specs: Sequence[CrossSpec],
        engagements: Engagements,
        period: np.ndarray,
        *,
        actions: Sequence[str],
        lag_days: int | None,
        prior: float,
        mean_rates: np.ndarray,
        backend: ibis.BaseBackend,
    ):
        if prior <= 0:
            raise InputError(
                f"config.data.cross.prior is {prior}. Expected a positive number: it keeps a share "
                f"of one out of one from counting as certain."
            )
        self.specs = tuple(specs)
        self._lag_days, self._prior, self._backend = lag_days, prior, backend
        self._mean_rates = dict(zip(actions, mean_rates.T, strict=True))
        self.segments = segments_of(specs)
        codes = {**{name: code for code, name in enumerate(actions)}, IMPLICIT_ACTION: IMPRESSION}
        keys = {"query": engagements.query, "item": engagements.item}
        keys |= {name: engagements.segments[name] for name in self.segments}
        table = ibis.memtable(
            pa.table(
                {name: pa.array(codes, mask=codes < 0) for name, codes in keys.items()}
                | {"period": period.astype(np.int32), "action": engagements.action}
            )
        )
        self._windows = windows_of(specs)
        self._counts = {
            keys: self._materialize(
                expressions.period_counts(
                    table, keys, {action: codes[action] for action, _ in windows}
                )
            )
            for keys, windows in self._windows.items()
        }

    def counts(
        self,
        query: np.ndarray,
        item: np.ndarray,
        period: np.ndarray,
        segments: Mapping[str, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns numerator and denominator counts of N rows, int32 `[N, K]` each.

        Args:
          query: `[N]` query positions.
          item: `[N]` item store rows.
          period: `[N]` day of the request; its fold where timeless (-1 in evaluation).
          segments: codes `[N]` of the segment features used.
        """
        columns = {"query": query, "item": item, **segments}
        shape = (len(query), len(self.specs))
        numerator, denominator = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for keys, windows in self._windows.items():
            chosen = {key: columns[key] for key in keys}
            group, first = group_ids((*chosen.values(), period))
            probes = pa.table(
                {key: column[first].astype(np.int32) for key, column in chosen.items()}
                | {"period": period[first].astype(np.int32), "probe": np.arange(len(first))}
            )
            found = self._at(keys, ibis.memtable(probes), windows)
            order = np.argsort(found["probe"].to_numpy())
            if len(order) != len(first):
                raise AssertionError(f"{len(first)} probes, {len(order)} results")
            for k, spec in enumerate(self.specs):
                if keys == spec.count_keys:
                    value = found[f"{spec.action}_{spec.window}"].to_numpy()
                    numerator[:, k] = value[order][group]
                if keys == spec.total_keys:
                    value = found[f"{spec.total_action}_{spec.window}"].to_numpy()
                    denominator[:, k] = value[order][group]
        return numerator, denominator

    def values(
        self, numerator: np.ndarray, denominator: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """Returns the values that go with `counts`, float32 `[N, K]`: see `expressions.value`."""
        result = np.zeros(numerator.shape, np.float32)
        for k, spec in enumerate(self.specs):
            mean = None
            if spec.is_rate:
                mean = self._mean_rates[spec.action][period if self._lag_days is None else -1]
            count, total = numerator[:, k].astype(np.float64), denominator[:, k]
            result[:, k] = expressions.value(spec, count, total, self._prior, mean)
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
        for pairs in self._pairs(query, period):
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
            np.concatenate([np.zeros((0, len(self.specs)), np.float32), *value]),
        )

    def _pairs(self, query: np.ndarray, period: np.ndarray) -> Iterator[pa.Table]:
        """Yields pairs of group and item that may have values, all pairs of a group together."""
        catalogues = self._catalogues()
        sizes = np.zeros(len(query), np.int64)
        for keys, items in catalogues.items():
            if keys:
                per_query = np.bincount(items["query"], minlength=query.max(initial=0) + 1)
                sizes += per_query[query]
            else:
                sizes += len(items)
        chunk = np.cumsum(sizes) // PROBES_AT_ONCE
        for number in np.unique(chunk) if catalogues else ():
            rows = np.flatnonzero(chunk == number)
            groups = ibis.memtable(
                pa.table({"group": rows, "query": query[rows], "period": period[rows]})
            )
            pairs = [
                expressions.items_of_groups(groups, ibis.memtable(items), keys, self._lag_days)
                for keys, items in catalogues.items()
            ]
            yield self._materialize(expressions.union(pairs).distinct())

    def _catalogues(self) -> dict[tuple[str, ...], pa.Table]:
        """Returns the items with any past, by query and, if a spec looks at items alone, at all."""
        result: dict[tuple[str, ...], list[ir.Table]] = {}
        for keys, counts in self._counts.items():
            if "item" in keys:
                by = ("query",) if "query" in keys else ()
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
        if self._lag_days is None:
            return self._materialize(expressions.out_of_fold(counts, probes, keys, windows))
        return self._materialize(
            expressions.windowed(counts, probes, keys, windows, self._lag_days)
        )

    def _materialize(self, expression: ir.Table) -> pa.Table:
        return self._backend.to_pyarrow(expression)
