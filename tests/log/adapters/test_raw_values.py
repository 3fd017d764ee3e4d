"""Joined keys never collide, and numbers are read however they are written."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.rating_log import LIKE, Ratings, write_log
from interactrank_jax.log.adapters.ratings import Options, convert
from interactrank_jax.log.adapters.raw_values import joined, numbers, parsed

# Every string of up to three of these.
STRINGS = ["".join(s) for n in range(4) for s in itertools.product("-\\a", repeat=n)]


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_joined_keys_are_as_distinct_as_what_they_join(parts):
    strings = STRINGS if parts < 3 else STRINGS[:20]
    rows = list(itertools.product(strings, repeat=parts))
    keys = joined(*(pa.array(column) for column in zip(*rows, strict=True)))
    assert len(keys.unique()) == len(rows)


def test_keys_without_dashes_inside_are_plain():
    assert joined(pa.array(["F", "M"]), pa.array(["25-34", "56+"])).to_pylist() == [
        "F-25-34",
        "M-56+",
    ]
    assert joined(pa.array(["a-b"])).to_pylist() == ["a-b"]


def test_users_of_different_values_make_different_queries(tmp_path):
    values = [s for s in STRINGS if len(s) < 3]
    users = [f"u{i}\t{a}\t{b}" for i, (a, b) in enumerate(itertools.product(values, repeat=2))]
    ratings = [f"u{i}\ti\t{i % 2}" for i in range(len(users))]
    source = tmp_path / "source"
    source.mkdir()
    (source / "ratings.tsv").write_text("\n".join(["user_id\titem_id\trating", *ratings]))
    (source / "users.tsv").write_text("\n".join(["user_id\tregion\tzone", *users]))
    convert(source, tmp_path / "log", Options(query=("region", "zone")))
    queries = pq.read_table(tmp_path / "log" / "requests.parquet")["query_id"]
    assert len(queries.unique()) == len(users)


def test_requests_of_different_users_or_hours_have_different_ids(tmp_path):
    # Users whose names end like an hour.
    names = [*STRINGS[1:], "a-5", "a-5-5", "a", "-5", "a-50"]
    hours = [5, 50, 55]
    user, hour = (
        np.array(c) for c in zip(*itertools.product(range(len(names)), hours), strict=True)
    )
    write_log(
        tmp_path / "log",
        (),
        items=pa.table({"item_id": ["i"]}),
        users=pa.table({"user_id": names, "query_id": ["all"] * len(names)}),
        ratings=Ratings(user, np.zeros_like(user), np.full(len(user), LIKE), hour * 3_600),
        has_neutral=False,
    )
    requests = pq.read_table(tmp_path / "log" / "requests.parquet")
    assert len(requests["request_id"].unique()) == len(set(names)) * len(hours)


@pytest.mark.parametrize("written", ["1,234", "1,234,567.8", "1.234,5", "1 234", "1'234", "1_234"])
def test_marks_between_thousands_are_named_where_a_number_is_needed(written):
    with pytest.raises(InputError, match=r"in 1 of 2 rows.*without marks between thousands"):
        numbers(pa.array(["999", written]), "items.csv", "column 'price'")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["1", "-2.5", "+3", ".5", "5.", "1e3", " 7 "], [1, -2.5, 3, 0.5, 5, 1000, 7]),
        (["3,5", "4", "-0,25"], [3.5, 4, -0.25]),
        (["1,234", "2,5"], [1.234, 2.5]),  # no thousands, as the second one shows
        (["1,234", "2"], [None, 2]),
        (["1,234,567", "2,5"], [None, 2.5]),
        (["", "nan", "inf", "1_000", "0x1", "five", "1 2"], [None] * 7),
        (["nan", "inf", "-inf", "1"], [None, None, None, 1]),
    ],
)
def test_numbers_are_read_however_they_are_written(written, expected):
    for kind in (pa.string(), pa.large_string()):
        assert parsed(pa.array(written, kind)).to_pylist() == expected
