"""Keys are found where they are, by any type, whatever their hashes."""

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.examples.vocabulary import Vocabulary
from interactrank_jax.io.errors import InputError
from interactrank_jax.serving import keys
from interactrank_jax.serving.keys import IndexedVocabulary, KeyIndex

STRINGS = pa.array([f"key {n}" for n in range(1000)] + ["", "ü", "key"], pa.large_string())
INTEGERS = pa.array([0, -1, 2**62, -(2**63), *range(5, 900)], pa.int64())


def saved(index: KeyIndex, path) -> KeyIndex:
    index.save(path)
    return KeyIndex.open(path)


@pytest.fixture(params=["hashes", "few hashes", "one hash"])
def hashing(request, monkeypatch):
    """Hashes as they are, and such that keys collide."""
    sizes = {"few hashes": 7, "one hash": 1}
    if request.param in sizes:
        hash_of, size = keys.stable_hash, np.uint64(sizes[request.param])
        monkeypatch.setattr(keys, "stable_hash", lambda values: hash_of(values) % size)


@pytest.mark.parametrize("values", [STRINGS, INTEGERS])
def test_keys_of_one_part(values, hashing, tmp_path):
    values = values.slice(0, 150)
    index = saved(KeyIndex.build(values), tmp_path / "index")
    assert index.ids.equals(values)
    assert index.find(values).tolist() == list(range(len(values)))
    order = np.random.default_rng(0).integers(0, len(values), 400)
    assert index.find(values.take(pa.array(order))).tolist() == order.tolist()
    others = pa.array([10**9, None], pa.int64()).cast(values.type)
    asked = pa.concat_arrays([others, values.slice(7, 2), others])
    assert index.find(asked).tolist() == [-1, -1, 7, 8, -1, -1]
    assert index.find(values[:0]).tolist() == []


@pytest.mark.parametrize("few", [0, 10**6])
@pytest.mark.parametrize("many", [0, 10**6])
def test_few_keys_and_many_are_found_alike(few, many, hashing, monkeypatch):
    monkeypatch.setattr(keys, "_FEW", few)
    monkeypatch.setattr(keys, "_MANY", many)
    index = KeyIndex.build(STRINGS.slice(0, 90))
    unknown = pa.array(["nobody", None, "key -1"], pa.large_string())
    order = np.random.default_rng(0).integers(0, 90, 200)
    asked = pa.concat_arrays([unknown, index.ids.take(pa.array(order)), unknown])
    assert index.find(asked).tolist() == [-1] * 3 + order.tolist() + [-1] * 3


def test_keys_of_several_parts(hashing, tmp_path):
    """Each part may be a part of another key."""
    rng = np.random.default_rng(0)
    pairs = sorted({(f"s{a}", int(b)) for a, b in rng.integers(0, 12, (150, 2))})
    columns = [pa.array([p[0] for p in pairs], pa.large_string()), pa.array([p[1] for p in pairs])]
    index = saved(KeyIndex.build(*columns), tmp_path / "index")
    assert index.find(*columns).tolist() == list(range(len(pairs)))
    every = [(f"s{a}", b) for a in range(13) for b in range(13)]
    asked = [pa.array([p[0] for p in every], pa.large_string()), pa.array([p[1] for p in every])]
    expected = [pairs.index(pair) if pair in pairs else -1 for pair in every]
    assert index.find(*asked).tolist() == expected
    for part in range(2):
        with_null = list(columns)
        with_null[part] = pa.nulls(len(pairs), columns[part].type)
        assert (index.find(*with_null) == -1).all()


@pytest.mark.parametrize("kind", [pa.int64(), pa.large_string()])
def test_no_keys(kind, tmp_path):
    index = saved(KeyIndex.build(pa.array([], kind)), tmp_path / "index")
    assert len(index) == 0
    assert index.ids.type == kind
    assert index.find(pa.array([1, None], pa.int64()).cast(kind)).tolist() == [-1, -1]


@pytest.mark.parametrize("values", [STRINGS, INTEGERS, STRINGS[:0], INTEGERS[:0]])
def test_a_vocabulary_that_is_indexed_has_the_same_rows(values, tmp_path):
    plain = Vocabulary(values, 5)
    indexed = IndexedVocabulary(saved(KeyIndex.build(values), tmp_path / "index"), 5)
    assert indexed.size == plain.size
    unseen = pa.array([None, *range(10**6, 10**6 + 50)], pa.int64()).cast(values.type)
    for asked in (values, unseen, pa.concat_arrays([unseen, values, unseen]), values[:0]):
        np.testing.assert_array_equal(indexed.rows(asked), plain.rows(asked))


@pytest.mark.parametrize("name", ["keys.arrow", "hash.npy", "position.npy"])
def test_a_file_that_is_absent_or_another(name, tmp_path):
    KeyIndex.build(STRINGS).save(tmp_path / "index")
    (tmp_path / "index" / name).write_bytes(b"nothing")
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        KeyIndex.open(tmp_path / "index")
    (tmp_path / "index" / name).unlink()
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        KeyIndex.open(tmp_path / "index")
