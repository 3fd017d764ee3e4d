"""Cross features of whole requests, beyond their slates: for scoring them with the corpus."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from interactrank_jax.examples.candidates import cross_values
from interactrank_jax.examples.format import NO_GROUP, SparseCross
from interactrank_jax.examples.ordered import OrderedLog
from interactrank_jax.examples.past import Past
from interactrank_jax.examples.plan import Plan
from interactrank_jax.examples.rates import MeanRates
from interactrank_jax.io import files
from interactrank_jax.log.values import as_values, group_ids, index_in, ranks
from interactrank_jax.state import engines, expressions
from interactrank_jax.state.as_of import counts_as_of, numbered
from interactrank_jax.state.histories import NO_FOLD
from interactrank_jax.state.source import Source
from interactrank_jax.state.spec import ITEM_ROW, QUERY_ROW
from interactrank_jax.state.store import Store

# Pairs of request and item in one query to the engine: bounds memory.
PAIRS_AT_ONCE = 4_000_000
_SAMPLE = 5  # what randomness is for, beside `config.data.seed`


def sampled(requests: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Returns the requests of a split whose features are listed: all, or so many at random."""
    if len(requests) <= limit:
        return requests
    rng = np.random.default_rng([seed, _SAMPLE])
    return np.sort(rng.choice(requests, limit, replace=False))


def sparse_cross(
    source: Source,
    store: Store,
    request_ids: pa.Array,
    numbers: Mapping[str, ir.Table],
    means: MeanRates,
    scratch: Path,
) -> SparseCross:
    """Returns, for some requests, every item that has any value.

    An item_share or item_rate has a value for nearly every item: lists are then as long as the
    corpus.

    Args:
      source: of the log.
      store: STATE.
      request_ids: `[R]` of the requests.
      numbers: of queries and items, see `counts_as_of`; an item's is its row in the store.
      means: mean rates of training.
      scratch: new.

    Returns:
      The groups' items and values; `group` is `[R]`.
    """
    group, groups = _groups(source, request_ids, numbers, scratch / "requests")
    sizes = len(groups), len(store.recipe.specs)
    of_group, item = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    value = [np.zeros((0, sizes[1]), np.float32)]
    for rows in _pairs(source, store, groups, numbers, scratch):
        (counted,), places = counts_as_of(rows, store, source, numbers=numbers)
        columns = sorted(set(places.values()))
        table = source.backend.to_pyarrow(counted.select("group", "item", *columns))
        counts = {name: table[name].to_numpy() for name in columns}
        rates = means.of_items(np.full(len(table), NO_FOLD))
        values = cross_values(store.recipe, counts, places, rates, len(table))
        kept = values.any(axis=1)
        of_group.append(table["group"].to_numpy()[kept])
        item.append(table["item"].to_numpy()[kept])
        value.append(values[kept])
    groups_of_values, item_rows = np.concatenate(of_group), np.concatenate(item)
    order = np.lexsort((item_rows, groups_of_values))
    indptr = np.zeros(sizes[0] + 1, np.int64)
    np.cumsum(np.bincount(groups_of_values, minlength=sizes[0]), out=indptr[1:])
    return SparseCross(
        group, indptr, item_rows[order].astype(np.int32), np.concatenate(value)[order]
    )


def _empty(requests: int, features: int) -> SparseCross:
    """Returns that no item has any value for any request: all are of one group."""
    return SparseCross(
        np.zeros(requests, np.int32),
        np.zeros(2, np.int64),
        np.zeros(0, np.int32),
        np.zeros((0, features), np.float32),
    )


def _groups(
    source: Source, request_ids: pa.Array, numbers: Mapping[str, ir.Table], scratch: Path
) -> tuple[np.ndarray, pa.Table]:
    """Returns `[R]` the group of each request, and what each group is asked with."""
    asked = source.asked().inner_join(numbers["query"], [("query", "query:id")])
    wanted = pa.table({"request_id": request_ids})
    asked = asked.semi_join(engines.write_arrow(source.backend, wanted, scratch), "request_id")
    if source.recipe.lag_days is None:
        asked = asked.mutate(period=ibis.literal(NO_FOLD, "int32"))
    keys = [name for name in source.recipe.key_columns if name in asked.columns]
    names = ["query", *keys, "period"]
    table = source.backend.to_pyarrow(asked.select("request_id", QUERY_ROW, *names))
    table = table.take(pa.array(index_in(request_ids, as_values(table["request_id"]))))
    codes = [ranks(as_values(table[name])) for name in names]
    group, first = group_ids(codes)
    names[0] = QUERY_ROW
    groups = table.select(names).take(pa.array(first)).rename_columns(["query", *names[1:]])
    return group.astype(np.int32), groups.append_column("group", pa.array(np.arange(len(first))))


def _pairs(
    source: Source,
    store: Store,
    groups: pa.Table,
    numbers: Mapping[str, ir.Table],
    scratch: Path,
) -> Iterator[ir.Table]:
    """Yields pairs of group and item that may have values, all pairs of a group together."""
    backend = source.backend
    catalogues = _catalogues(source, store, numbers, scratch)
    sizes = np.zeros(len(groups), np.int64)
    everything = engines.write_arrow(backend, groups, scratch / "groups")
    for by, items in catalogues.items():
        if by:
            counts = items.group_by(list(by)).aggregate(pairs=items.count())
            table = everything.inner_join(counts, list(by)).select("group", "pairs")
            of_groups = backend.to_pyarrow(table)
            sizes[of_groups["group"].to_numpy()] += of_groups["pairs"].to_numpy()
        else:
            sizes += backend.to_pyarrow(items.count()).as_py()
    chunk = np.cumsum(sizes) // PAIRS_AT_ONCE
    for number in np.unique(chunk) if catalogues else ():
        rows = groups.filter(pa.array(chunk == number))
        some = engines.write_arrow(backend, rows, scratch / f"groups-{number}")
        pairs = [
            expressions.items_of_groups(some, items, by, source.recipe.lag_days)
            for by, items in catalogues.items()
        ]
        items = pairs[0] if len(pairs) == 1 else expressions.union(pairs).distinct()
        rows = _with_fresh(source, items.inner_join(some, "group"), numbers["item"])
        # Counts of every key are looked up for the pairs, which are made once.
        engines.write_parquet(backend, rows, scratch / f"pairs-{number}")
        yield engines.read_parquet(backend, [scratch / f"pairs-{number}"])


def _with_fresh(source: Source, rows: ir.Table, items: ir.Table) -> ir.Table:
    """Does what `Source.with_fresh` does, for items that are numbers."""
    if not source.recipe.has_fresh:
        return rows
    rows = rows.inner_join(items, [("item", ITEM_ROW)])
    return source.with_fresh(rows.mutate(item=rows["item:id"])).mutate(item=rows[ITEM_ROW])


def _catalogues(
    source: Source, store: Store, numbers: Mapping[str, ir.Table], scratch: Path
) -> dict[tuple[str, ...], ir.Table]:
    """Returns the items with any past, by what stands for the query, or at all."""
    parts: dict[tuple[str, ...], list[ir.Table]] = {}
    for keys in store.counted_keys:
        if "item" in keys:
            by = tuple(key for key in keys if key in ("query", "query_form"))
            counts = store.counts(keys, source.backend).select([*by, "item", "period"])
            parts.setdefault(by, []).append(counts)
    result = {}
    for by, tables in parts.items():
        items = expressions.items_by_key(numbered(expressions.union(tables), numbers), by)
        directory = scratch / f"items-{'+'.join(by)}"
        engines.write_parquet(source.backend, items, directory)
        result[by] = engines.read_parquet(source.backend, [directory])
    return result


def write(plan: Plan, ordered: OrderedLog, past: Past, means: MeanRates, directory: Path) -> None:
    """Writes the cross features of whole requests of the evaluation splits.

    Args:
      plan: what is asked for.
      ordered: the log.
      past: STATE.
      means: mean rates of training.
      directory: of the examples.
    """
    rows, scratch = ordered.rows, ordered.scratch / "corpus"
    chosen = {
        name: sampled(rows.requests[name], plan.corpus_requests, plan.seed)
        for name in rows.requests
        if name != "train"
    }
    everyone = np.unique(np.concatenate(list(chosen.values())))
    if past.store is None or not plan.cross.specs:
        sparse = _empty(len(everyone), len(plan.cross.specs))
    else:
        ids = ordered.requests.column("request_id").take(pa.array(everyone))
        sparse = sparse_cross(past.source, past.store, ids, ordered.numbers, means, scratch)
    for name, some in chosen.items():
        of_split = rows.requests[name]
        group = np.full(len(of_split), NO_GROUP, np.int32)
        group[np.searchsorted(of_split, some)] = sparse.group[np.searchsorted(everyone, some)]
        write_sparse_cross(directory / "cross" / name, _of_groups(sparse, group))


def _of_groups(sparse: SparseCross, group: np.ndarray) -> SparseCross:
    """Returns the lists of the groups of some requests, `[R]` with `NO_GROUP` for none."""
    groups = np.unique(group[group != NO_GROUP])
    lengths = np.diff(sparse.indptr)[groups]
    entries = np.repeat(sparse.indptr[groups] - np.cumsum(lengths) + lengths, lengths)
    entries += np.arange(len(entries))
    number = np.full(len(sparse.indptr), NO_GROUP, np.int32)  # the last one stands for none
    number[groups] = np.arange(len(groups))
    return SparseCross(
        number[group],
        np.concatenate([[0], np.cumsum(lengths)]),
        sparse.item[entries],
        sparse.value[entries],
    )


def write_sparse_cross(directory: Path, sparse: SparseCross) -> None:
    """Writes the arrays that `Examples.sparse_cross` reads."""
    directory.mkdir(parents=True)
    for field in dataclasses.fields(SparseCross):
        files.save_array(directory / f"{field.name}.npy", getattr(sparse, field.name))
