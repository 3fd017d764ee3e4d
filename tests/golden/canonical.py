"""Examples in a form that does not depend on how they lie on disk.

Rows of embedding tables and of the item store become the values of the log again, examples are
sorted by request and candidates, statistics are rounded to float32. So two preparations of one log
are equal exactly if a model would see the same.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from interactrank_jax.examples.format import Examples

ITEM_COLUMNS = ("item", "history_item", "query_history_item")
SAMPLES = 12  # values of a column that are kept readable


def columns(examples: Examples) -> Iterator[tuple[str, np.ndarray]]:
    """Yields name and values of every column of every split, of the item store and statistics."""
    for split in examples.metadata.splits:
        yield from _split(examples, split)
        if examples.has_corpus(split):
            yield f"{split}/corpus", _corpus(examples, split)
    yield from _items(examples)
    for name, statistics in sorted(examples.metadata.numeric_statistics.items()):
        yield f"statistics/{name}", np.array(list(vars(statistics).values()), np.float32)
    for name, statistics in sorted(examples.metadata.cross_statistics.items()):
        yield f"statistics/{name}", np.array(list(vars(statistics).values()), np.float32)
    sizes = sorted(examples.metadata.tables.items())
    yield "tables", np.array([f"{name}={rows}" for name, rows in sizes])


def _split(examples: Examples, split: str) -> Iterator[tuple[str, np.ndarray]]:
    blocks = list(examples.blocks(split))
    arrays = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    arrays.pop("fold", None)
    ids = _item_ids(examples)
    for name in ITEM_COLUMNS:
        arrays[name] = ids[arrays[name]]
    request_ids = _text(examples.raw_requests(split)["request_id"].to_pylist())
    arrays["request_id"] = request_ids[arrays.pop("request_index")]
    for name, table in _tables(examples, ("user", "request")):
        column = {"user_id": "user", "query_id": "query"}.get(name, f"request/{name}")
        arrays[column] = _decode(examples, table, arrays[column])
    keys = [arrays["item"][:, place] for place in reversed(range(arrays["item"].shape[1]))]
    order = np.lexsort((*keys, arrays["request_id"]))
    for name in sorted(arrays):
        yield f"{split}/{name}", arrays[name][order]


def _items(examples: Examples) -> Iterator[tuple[str, np.ndarray]]:
    ids = _item_ids(examples)
    order = np.argsort(ids)
    arrays = {name: np.asarray(value) for name, value in examples.items.items()}
    arrays["item_id"] = _decode(examples, "item", arrays.pop("id"))
    for name, table in _tables(examples, ("item",)):
        if name != "item_id":
            arrays[name] = _decode(examples, table, arrays[name])
    for name in sorted(arrays):
        yield f"items/{name}", arrays[name][order]


def _corpus(examples: Examples, split: str) -> np.ndarray:
    """Returns 'request item value ...' of every entry, sorted."""
    sparse, ids = examples.sparse_cross(split), _item_ids(examples)
    requests = _text(examples.raw_requests(split)["request_id"].to_pylist())
    lines = []
    for request, group in zip(requests, sparse.group, strict=True):
        first, last = sparse.indptr[group : group + 2]
        for item, value in zip(sparse.item[first:last], sparse.value[first:last], strict=True):
            lines.append(f"{request} {ids[item]} {' '.join(x.hex() for x in value.tolist())}")
    return np.array(sorted(lines))


def _tables(examples: Examples, entities: tuple[str, ...]) -> list[tuple[str, str]]:
    """Returns name and embedding table of the categorical features, ids included."""
    features = examples.metadata.select(entities, "categorical")
    ids = {"user": "user_id", "request": "query_id", "item": "item_id"}
    tables = {"user_id": "user", "query_id": "query", "item_id": "item"}
    named = [(ids[entity], tables[ids[entity]]) for entity in entities]
    return [*named, *((feature.name, feature.table) for feature in features)]


def _decode(examples: Examples, table: str, rows: np.ndarray) -> np.ndarray:
    """Returns the values of rows of an embedding table; '#n' of padding and hashed rows."""
    values = np.array([f"#{row}" for row in range(examples.metadata.tables[table])], object)
    vocabulary = examples.encoder.vocabularies[table]
    values[1 + vocabulary.out_of_vocabulary :] = vocabulary.values.to_pylist()
    return values.astype(str)[rows]


def _item_ids(examples: Examples) -> np.ndarray:
    return np.array(["" if value is None else str(value) for value in examples.item_ids])


def _text(values: list) -> np.ndarray:
    return np.array([str(value) for value in values])


def assert_equal(path: Path, expected: Path) -> None:
    """Fails unless the columns of two directories of examples are equal, types included."""
    found = dict(columns(Examples(path)))
    others = dict(columns(Examples(expected)))
    assert found.keys() == others.keys()
    for name, values in others.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def digest(values: np.ndarray) -> str:
    """Returns a hash of shape and contents; of text by its characters, of numbers by their bits."""
    if values.dtype.kind == "U":
        contents = "\n".join(values.reshape(-1).tolist()).encode()
    else:
        contents = np.ascontiguousarray(values).tobytes()
    checksum = hashlib.sha256(f"{values.dtype.kind} {values.shape}".encode())
    checksum.update(contents)
    return checksum.hexdigest()[:16]


def summary(examples: Examples) -> dict[str, list]:
    """Returns by column its digest and some of its values, evenly spaced."""
    result = {}
    for name, values in columns(examples):
        flat = values.reshape(-1)
        places = np.linspace(0, max(len(flat) - 1, 0), min(SAMPLES, len(flat))).astype(int)
        result[name] = [digest(values), *flat[places].tolist()]
    return result
