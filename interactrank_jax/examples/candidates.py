"""The candidates of all requests with the counts of their cross features, in buckets on disk."""

import concurrent.futures
import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.examples.ordered import OrderedLog
from interactrank_jax.examples.past import Past
from interactrank_jax.examples.plan import Plan
from interactrank_jax.examples.rates import Tally
from interactrank_jax.examples.splits import Bucket
from interactrank_jax.log.contract import OPTIONAL_COLUMNS, STAGES
from interactrank_jax.state import engines, expressions
from interactrank_jax.state.as_of import Places, counts_as_of
from interactrank_jax.state.histories import NO_FOLD
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.spec import BUCKET, ITEM_ROW, QUERY_ROW, REQUEST_ROW

ROWS_AT_ONCE = 6_000_000  # impressions of a part of the counting, on average


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Candidates of some requests, by request, fold and position.

    Attributes:
      request: `[M]` its row among the requests.
      fold: `[M]`; `NO_FOLD` in evaluation and where there is time.
      item: `[M]` row of the item store.
      position: `[M]`.
      actions: `[M, A]` uint8.
      optional: those of `OPTIONAL_COLUMNS` that the log has, `[M]`; stages as 1, 2, 3.
      counts: `[M]` each, by column.
    """

    request: np.ndarray
    fold: np.ndarray
    item: np.ndarray
    position: np.ndarray
    actions: np.ndarray
    optional: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]


class CandidateBuckets:
    """The candidates of all requests on disk, to be read bucket by bucket.

    Args:
      directory: of what `write_buckets` wrote.
      actions: of the log.
      rank: `[I]` place of each item of the store in the order of ids.
      places: from keys, action and days to the column of their count.
    """

    def __init__(self, directory: Path, actions: Sequence[str], rank: np.ndarray, places: Places):
        self._actions, self._rank, self.places = actions, rank, places
        self._files: dict[int, list[Path]] = {}
        for path in sorted(directory.rglob("*.parquet")):
            number = int(path.parent.name.partition("=")[2])
            self._files.setdefault(number, []).append(path)

    def read(self, number: int) -> Candidates:
        """Reads a bucket."""
        columns = self._columns(number)
        request, item = columns.pop(REQUEST_ROW), columns.pop(ITEM_ROW)
        position, fold = columns.pop("position"), columns.pop("period", None)
        fold = np.full(len(request), NO_FOLD, np.int8) if fold is None else fold
        order = np.lexsort((self._rank[item], position, fold, request))
        columns = {name: values[order] for name, values in columns.items()}
        # Spark has no unsigned integers.
        flags = [columns.pop(action).astype(np.uint8, copy=False) for action in self._actions]
        actions = np.stack(flags, axis=1)
        return Candidates(
            request=request[order],
            fold=fold[order].astype(np.int8),
            item=item[order],
            position=position[order],
            actions=actions,
            optional={name: columns.pop(name) for name in OPTIONAL_COLUMNS if name in columns},
            counts=columns,
        )

    @contextlib.contextmanager
    def read_ahead(self, buckets: Sequence[Bucket]) -> Iterator[Iterator[Candidates]]:
        """Reads some buckets, one ahead of what is asked for, in another thread.

        Yields:
          The candidates of each bucket; the first is read from now on.
        """
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(self.read, buckets[0].number)

            def candidates() -> Iterator[Candidates]:
                following = first
                for after in buckets[1:]:
                    ready = following.result()
                    following = pool.submit(self.read, after.number)
                    yield ready
                    del ready  # before the bucket after the next is read
                yield following.result()

            yield candidates()

    def tally(self, numbers: Sequence[int], plan: Plan, items: int) -> Tally:
        """Sums over the candidates of some buckets, as `rates.Tally` describes."""
        tally = Tally.empty(plan.folds, len(self._actions), items)
        names = (ITEM_ROW, "position", "period", *self._actions, *OPTIONAL_COLUMNS)
        for number in numbers:
            columns = self._columns(number, names)
            actions = np.stack([columns[action] for action in self._actions], axis=1)
            tally.add(columns, actions, plan.cross)
        return tally

    def _columns(self, number: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Returns the columns of a bucket, or those of some names that it has."""
        tables = []
        for path in self._files[number]:
            file = pq.ParquetFile(path)
            present = file.schema_arrow.names
            tables.append(
                file.read(present if names is None else [n for n in present if n in names])
            )
            file.close()
        table = pa.concat_tables(tables)
        return {name: table[name].to_numpy() for name in table.column_names}


def write_buckets(ordered: OrderedLog, past: Past) -> CandidateBuckets:
    """Writes the candidates of a log with their counts."""
    source, store, scratch = past.source, past.store, ordered.scratch / "candidates"
    backend, actions = source.backend, source.log.schema.actions
    rows = source.candidates().inner_join(ordered.item_rows, "item_id")
    optional = [name for name in OPTIONAL_COLUMNS if name in rows.columns]
    folds = ("period",) if source.recipe.lag_days is None else ()
    values = {"position": rows.position.cast("int32")}
    values |= {name: rows[name].cast("uint8") for name in actions}
    values |= {name: _optional(rows, name) for name in optional}
    needs_counts = store is not None and bool(store.recipe.specs)
    asked = {*folds, *source.recipe.key_columns, *(("period",) if needs_counts else ())}
    keys = {"query": rows[QUERY_ROW], "item": rows[ITEM_ROW]} if needs_counts else {}
    rows = rows.select(REQUEST_ROW, BUCKET, ITEM_ROW, *sorted(asked), **keys, **values)
    tables: list[ir.Table] = [rows]
    places: Places = {}
    if store is not None and needs_counts:
        parts, directory = max(math.ceil(len(ordered.rows) / ROWS_AT_ONCE), 1), scratch / "parts"
        tables, places = counts_as_of(
            rows, store, source, parts=parts, scratch=directory, numbers=ordered.numbers
        )
    for number, table in enumerate(tables):
        counts = {name: _as_int32(table[name]) for name in sorted(set(places.values()))}
        table = table.select(REQUEST_ROW, BUCKET, ITEM_ROW, *folds, *values, **counts)
        engines.write_partitioned(backend, table, BUCKET, scratch / "buckets" / f"{number:06d}")
    return CandidateBuckets(scratch / "buckets", actions, ordered.rank, places)


def _optional(rows: ir.Table, name: str) -> ir.Value:
    if name == "stage":
        cases = [(rows.stage == stage, 1 + code) for code, stage in enumerate(STAGES)]
        return ibis.cases(*cases, else_=0).cast("int8")
    return rows[name].cast("float32")


def _as_int32(counts: ir.Column) -> ir.Value:
    return counts if counts.type().is_floating() else counts.cast("int32")


def cross_values(
    recipe: Recipe,
    counts: Mapping[str, np.ndarray],
    places: Places,
    means: Mapping[str, np.ndarray | float],
    rows: int,
) -> np.ndarray:
    """Returns the cross features of `rows` rows, float32 `[M, K]`.

    Args:
      recipe: the features.
      counts: `[M]` each, by column.
      places: from keys, action and days to a column.
      means: mean rate by action; `[M]` where it differs by fold.
      rows: M.
    """
    levels = [recipe.levels(spec) for spec in recipe.specs]
    values = expressions.raw_values(counts, places, recipe, levels, means)
    result = np.zeros((rows, len(recipe.specs)), np.float32)
    for k, spec in enumerate(recipe.specs):
        result[:, k] = values[spec.name]
    return result


def first_counts(
    recipe: Recipe, counts: Mapping[str, np.ndarray], places: Places, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns numerator and denominator of each feature's own level, rounded, int32 `[M, K]`."""
    shape = (rows, len(recipe.specs))
    numerator, denominator = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for k, spec in enumerate(recipe.specs):
        level = recipe.levels(spec)[0]
        count = places[level.count_keys, level.action, level.window]
        total = places[level.total_keys, level.total_action, level.window]
        numerator[:, k], denominator[:, k] = np.rint(counts[count]), np.rint(counts[total])
    return numerator, denominator
