import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from interactrank_jax.examples import vocabulary
from interactrank_jax.examples.vocabulary import Vocabulary, stable_hash
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.values import as_values, concat_tables


def _scalar_hash(text: str) -> int:
    mask = 2**64 - 1
    value = 0xCBF29CE484222325
    for octet in text.encode():
        value = ((value ^ octet) * 0x100000001B3) & mask
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = ((value ^ (value >> 33)) * factor) & mask
    return value ^ (value >> 33)


def _values(*values) -> pa.Array:
    return as_values(pa.array(values))


@pytest.mark.parametrize("times", [1, 5])  # few values, and many
def test_hash_equals_its_scalar_definition(times):
    texts = ["", "a", "shoe", "Schuhgröße", "靴", "x" * 300, "shoes"] * times
    expected = [_scalar_hash(text) for text in texts]
    assert stable_hash(pa.array(texts)).tolist() == expected
    assert stable_hash(pa.array(["?", *texts]).slice(1)).tolist() == expected


def test_hash_of_an_integer_is_that_of_its_digits():
    assert np.array_equal(stable_hash(pa.array([7, -12])), stable_hash(pa.array(["7", "-12"])))


@pytest.mark.parametrize("times", [1, 100])
def test_hash_never_changes(times):
    # Trained rows depend on it: a new release must not move them.
    assert stable_hash(pa.array(["a"] * times)).tolist() == [9413272369427828315] * times


def test_hashed_rows_are_spread_evenly():
    rows = vocabulary.hash_rows(pa.array([str(i) for i in range(16_000)]), 16)
    counts = np.bincount(rows, minlength=17)
    assert counts[0] == 0
    assert counts[1:].min() > 850
    assert counts[1:].max() < 1150


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b"]),
        pa.array(["a", "b"], pa.large_string()),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.chunked_array([["a"], ["b"]]),
        pa.chunked_array([pa.array(["a"]), pa.array(["b"])]),
    ],
)
def test_strings_compare_whatever_their_arrow_type(column):
    assert as_values(column).equals(pa.array(["a", "b"], pa.large_string()))


def test_integers_compare_whatever_their_width():
    for kind in (pa.int8(), pa.int32(), pa.uint64()):
        assert as_values(pa.array([1, 2], kind)).equals(pa.array([1, 2], pa.int64()))


def test_an_integer_beyond_int64_is_refused():
    with pytest.raises(InputError, match="Write such ids as strings"):
        as_values(pa.array([2**64 - 1], pa.uint64()))


def test_frequent_values_get_rows_rare_and_unseen_ones_share_hashed_rows():
    column = _values("b", "a", "b", "rare", "a", "b", None)
    counted = pc.value_counts(column.drop_null())
    values, counts = counted.field("values"), counted.field("counts").to_numpy()
    built = Vocabulary.build(values, counts, min_count=2, out_of_vocabulary=3)
    rows = built.rows(_values("b", "a", "rare", "unseen", None))
    assert rows[:2].tolist() == [4, 5]  # most frequent first, after 0 and three hashed rows
    assert all(1 <= row <= 3 for row in rows[2:4])
    assert rows[4] == 0
    assert built.size == 6
    assert rows.dtype == np.int32


def test_a_hashed_row_depends_on_the_value_alone():
    first = Vocabulary.build(_values("a"), np.array([5]), 1, 7)
    other = Vocabulary.build(_values("z", "y"), np.array([5, 5]), 1, 7)
    assert first.rows(_values("new")) == other.rows(_values("new"))


def test_extending_keeps_old_rows_and_appends():
    old = Vocabulary.build(_values("a", "b"), np.array([3, 2]), 2, 4)
    new = Vocabulary.build(_values("c", "b", "d"), np.array([9, 9, 1]), 2, 4, old=old)
    assert new.rows(_values("a", "b", "c")).tolist() == [5, 6, 7]
    assert np.array_equal(new.rows(_values("d")), old.rows(_values("d")))


def test_integer_ids_are_kept_as_integers():
    built = Vocabulary.build(_values(70, 8), np.array([1, 2]), 1, 1)
    assert built.rows(_values(8, 70, 9)).tolist() == [2, 3, 1]


def test_saved_vocabularies_load_alike(tmp_path):
    built = Vocabulary.build(_values("a", "b"), np.array([3, 2]), 1, 4)
    built.save(tmp_path / "v" / "user.parquet")
    loaded = Vocabulary.load(tmp_path / "v" / "user.parquet", 4)
    assert loaded.values.equals(built.values)
    with pytest.raises(InputError, match="starts at row 5"):
        Vocabulary.load(tmp_path / "v" / "user.parquet", 8)
    with pytest.raises(InputError, match="absent or damaged"):
        Vocabulary.load(tmp_path / "none.parquet", 4)


def test_a_vocabulary_of_nothing_hashes_everything(tmp_path):
    built = Vocabulary.build(_values("a"), np.array([1]), 2, 4)
    built.save(tmp_path / "user.parquet")
    loaded = Vocabulary.load(tmp_path / "user.parquet", 4)
    assert loaded.size == 5
    assert 1 <= loaded.rows(_values("a"))[0] <= 4


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), ["a", "b"]),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([True]), pa.array([0]), [1, 0]),
        (pa.array([1]), pa.array([0.5]), [1.0, 0.5]),
        (pa.array([[0.5]], pa.list_(pa.float32(), 1)), pa.array([[0.25]]), [[0.5], [0.25]]),
    ],
)
def test_parts_of_other_but_like_types_go_together(first, second, expected):
    tables = [pa.table({"x": first}), pa.table({"x": second}), pa.table({"y": [1]})]
    for order in (tables, tables[::-1]):
        together = concat_tables(order)["x"].to_pylist()
        assert together == [*expected, None] if order is tables else [None, *expected[::-1]]


def test_parts_of_text_and_numbers_do_not_go_together():
    with pytest.raises(InputError, match=r"Field x .*Expected one type in all parts"):
        concat_tables([pa.table({"x": ["1"]}), pa.table({"x": [1]})])
