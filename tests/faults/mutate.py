"""How a good log is made malformed: the tools of `mutations.py`."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MEGABYTE = 1 << 20
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Changes:
    """A result that is no error.

    Attributes:
      arrays: the names of the only arrays that differ ('*' is any text).
      hold: whether they are as they should, given the good arrays and those found.
    """

    arrays: tuple[str, ...] = ()
    hold: Callable[[Arrays, Arrays], bool] = lambda good, found: True


SAME = Changes()


def one_title(tokens: Callable[[np.ndarray], bool]) -> Changes:
    """The title of the second item changed, and no other; `tokens` says to what."""

    def hold(good: Arrays, found: Arrays) -> bool:
        rows = np.flatnonzero((good["items/title"] != found["items/title"]).any(1))
        return rows.tolist() == [2] and tokens(found["items/title"][2])

    return Changes(("items/title",), hold)


def zeros(*names: str) -> Callable[[Arrays, Arrays], bool]:
    def hold(good: Arrays, found: Arrays) -> bool:
        return all(not found[name].any() and good[name].any() for name in names)

    return hold


def slates(arrays: Arrays, split: str) -> list[tuple[int, list[int]]]:
    """Returns each request's candidates, whatever their order."""
    request = arrays[f"{split}/request_index"]
    items: dict[int, list[int]] = {}
    for row, item in zip(request.tolist(), arrays[f"{split}/item"].tolist(), strict=True):
        items.setdefault(row, []).extend(item)
    return sorted((row, sorted(item)) for row, item in items.items())


Tables = dict[str, pa.Table]
Mutation = tuple[str, Callable[[Any], Any]]


def column(table: str, name: str, change: Callable[[pa.ChunkedArray], Any]) -> Mutation:
    """Replaces a column by what `change` makes of it."""

    def mutate(tables: Tables) -> None:
        old = tables[table]
        place = old.column_names.index(name)
        tables[table] = old.set_column(place, name, change(old[name]))

    return "tables", mutate


def value(table: str, name: str, wrong: Any, row: int = 1, kind: pa.DataType | None = None):
    """Replaces one value of a column."""

    def change(old):
        values = old.to_pylist()
        values[row] = wrong
        return pa.array(values, kind or old.type)

    return column(table, name, change)


def everywhere(name: str, change: Callable[[Any], Any], kind: pa.DataType | None = None):
    """Maps the values of a column in every table that has it."""

    def mutate(tables: Tables) -> None:
        for key, old in tables.items():
            if name in old.column_names:
                values = [None if x is None else change(x) for x in old[name].to_pylist()]
                place = old.column_names.index(name)
                tables[key] = old.set_column(place, name, pa.array(values, kind))

    return "tables", mutate


def rename(table: str, names: dict[str, str]) -> Mutation:
    def mutate(tables: Tables) -> None:
        old = tables[table]
        tables[table] = old.rename_columns([names.get(x, x) for x in old.column_names])

    return "tables", mutate


def drop(table: str, name: str) -> Mutation:
    return rows(table, lambda old: old.drop_columns([name]))


def rows(table: str, change: Callable[[pa.Table], pa.Table]) -> Mutation:
    def mutate(tables: Tables) -> None:
        tables[table] = change(tables[table])

    return "tables", mutate


def cast(table: str, name: str, kind: pa.DataType) -> Mutation:
    return column(table, name, lambda old: old.cast(kind))


def made(table: str, name: str, make: Callable[[int], Iterable], kind: pa.DataType) -> Mutation:
    return column(table, name, lambda old: pa.array(make(len(old)), kind))


def shuffle(table: pa.Table) -> pa.Table:
    return table.take(pa.array(np.random.default_rng(1).permutation(len(table))))


def twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(2, 1)])


def on_disk(change: Callable[[Path], Any]) -> Mutation:
    return "disk", change


def schema(**changes: Any) -> Mutation:
    def change(log: Path) -> None:
        file = log / "schema.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return on_disk(change)


def schema_text(change: Callable[[bytes], bytes]) -> Mutation:
    def mutate(log: Path) -> None:
        file = log / "schema.json"
        file.write_bytes(change(file.read_bytes()))

    return on_disk(mutate)


def feature(place: int = 0, **changes: Any) -> Mutation:
    """Changes the declaration of one feature; the first is country."""

    def change(log: Path) -> None:
        file = log / "schema.json"
        declared = json.loads(file.read_text())
        declared["features"][place] |= changes
        file.write_text(json.dumps(declared))

    return on_disk(change)


def contents(name: str, change: Callable[[bytes], bytes]) -> Mutation:
    def mutate(log: Path) -> None:
        (log / name).write_bytes(change((log / name).read_bytes()))

    return on_disk(mutate)


def part(change: Callable[[pa.Table], pa.Table]) -> Mutation:
    """Changes the second part of the impressions."""

    def mutate(log: Path) -> None:
        file = log / "impressions" / "1.parquet"
        pq.write_table(change(pq.read_table(file)), file)

    return on_disk(mutate)


def invalid_utf8(old: pa.ChunkedArray) -> pa.Array:
    octets = [text.encode() for text in old.to_pylist()]
    octets[1] = "Tränen".encode("latin-1")
    return pa.array(octets, pa.binary()).view(pa.string())


def as_bytes(old: pa.ChunkedArray) -> pa.Array:
    return pa.array([x.encode() for x in old.to_pylist()], pa.binary())


def two_columns(name: str):
    return lambda table: table.append_column(name, table[name])


MS = 1000
LIST = pa.list_(pa.float64())
