"""MovieLens as a log: the layouts it comes in, and what becomes of a rating."""

import zipfile

import pyarrow.parquet as pq
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.movielens import convert
from interactrank_jax.log.read import open_log
from interactrank_jax.log.validate import validate
from tests.conftest import SHARED_DATA
from tests.log.adapters.raw_movielens import T0, atomic, original_1m, original_100k, write


def rows(path, table):
    return pq.read_table(path / f"{table}.parquet").to_pylist()


PACKINGS = ("", ".xz", ".gz", ".bz2", ".zip")
TIMED = {"atomic": atomic, "100k": original_100k, "1m": original_1m}


@pytest.mark.parametrize("compression", PACKINGS)
@pytest.mark.parametrize("variant", TIMED)
def test_every_layout_and_compression_gives_the_same_valid_log(tmp_path, variant, compression):
    source = write(tmp_path / "source", TIMED[variant](), compression)
    summary = convert(source, tmp_path / "log")
    assert summary == {
        "variant": variant,
        "timeless": False,
        "ratings": 5,
        "items": 4,
        "requests": 3,
        "impressions": 4,
        "events": 5,
        "neutral": 1,
    }
    assert validate(open_log(tmp_path / "log"))["actions"] == {
        "like": 2,
        "dislike": 2,
        "neutral": 0,
    }
    hour = T0 // 3600
    assert [
        (r["request_id"], r["user_id"], r["query_id"], r["timestamp"])
        for r in rows(tmp_path / "log", "requests")
    ] == [
        (f"1-{hour}", 1, "F-18-24", T0),
        (f"2-{hour}", 2, "M-56+", T0),
        (f"1-{hour + 1}", 1, "F-18-24", T0 + 3600),
    ]
    user = {"gender": "F", "age": "18-24", "occupation": "writer", "zip_region": "8"}
    assert user.items() <= rows(tmp_path / "log", "requests")[0].items()
    assert rows(tmp_path / "log", "requests")[1]["zip_region"] == "other"
    # In the order of rating: movie 11 came before 10, the neutral 12 is left out.
    assert [tuple(r.values()) for r in rows(tmp_path / "log", "impressions")] == [
        (f"1-{hour}", 11, 0, False, True, False),
        (f"1-{hour}", 10, 1, True, False, False),
        (f"2-{hour}", 10, 0, False, True, False),
        (f"1-{hour + 1}", 13, 0, True, False, False),
    ]
    assert [
        (e["user_id"], e["item_id"], e["action"], e["event_time"] - T0, e["query_id"])
        for e in rows(tmp_path / "log", "events")
    ] == [
        (1, 11, "dislike", 20, "F-18-24"),
        (1, 12, "neutral", 30, "F-18-24"),
        (2, 10, "dislike", 40, "M-56+"),
        (1, 10, "like", 50, "F-18-24"),
        (1, 13, "like", 3600, "F-18-24"),
    ]
    assert all(e["event_time"] == e["arrival_time"] for e in rows(tmp_path / "log", "events"))
    assert rows(tmp_path / "log", "items") == [
        {
            "item_id": 10,
            "title": "Misérables, Les",
            "genres": "Drama Musical",
            "year": 1995.0,
            "decade": "1990s",
        },
        {"item_id": 11, "title": "Heat", "genres": "Action", "year": 1985.0, "decade": "1980s"},
        # The median year stands in for a missing one; the decade says that it does.
        {
            "item_id": 12,
            "title": "No Year",
            "genres": "Comedy",
            "year": 1985.0,
            "decade": "unknown",
        },
        {"item_id": 13, "title": "Old", "genres": "Sci-Fi", "year": 1950.0, "decade": "1950s"},
    ]


def test_an_archive_as_downloaded_is_read_in_place(tmp_path):
    source = write(tmp_path / "ml-1m", original_1m())
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        for file in source.iterdir():
            archive.write(file, f"ml-1m/{file.name}")
    assert convert(tmp_path / "ml-1m.zip", tmp_path / "log")["impressions"] == 4


@pytest.mark.parametrize("compression", PACKINGS)
@pytest.mark.parametrize("variant", [None, "1m-timeless"])
def test_ratings_without_times_become_a_timeless_log(tmp_path, variant, compression):
    # By layout when the column is absent, by wish when it is there.
    source = write(tmp_path / "source", original_1m(timed=variant is not None), compression)
    summary = convert(source, tmp_path / "log", variant)
    assert (summary["variant"], summary["events"]) == ("1m-timeless", 0)
    log = open_log(tmp_path / "log")
    assert log.schema.timeless
    assert log.schema.actions == ("like", "dislike")
    assert not log.has_events
    assert validate(log)["requests"] == 2
    assert [tuple(r.values()) for r in rows(tmp_path / "log", "impressions")] == [
        ("1", 10, 0, True, False),
        ("1", 11, 1, False, True),
        ("1", 13, 2, True, False),
        ("2", 10, 0, False, True),
    ]


def test_the_owners_own_name_with_three_columns_is_timeless_too(tmp_path):
    layout = original_1m(timed=False)
    layout["ratings.dat"] = layout.pop("ratings.notime.dat")
    assert convert(write(tmp_path / "source", layout), tmp_path / "log")["timeless"]


def test_a_layout_of_two_data_sets_is_refused(tmp_path):
    source = write(tmp_path / "source", atomic())
    (source / "other.inter").write_text("user_id:token\n")
    with pytest.raises(InputError, match=r"holds other\.inter and tiny\.inter. Expected one"):
        convert(source, tmp_path / "log")


@pytest.mark.parametrize("name", ["u.user", "u.item"])
def test_ids_that_are_one_number_are_refused(tmp_path, name):
    layout = original_100k()
    layout[name].append(f"0{layout[name][0]}")  # 01 beside 1
    with pytest.raises(InputError, match=r"id repeats in 1 of \d rows, for example '01"):
        convert(write(tmp_path / "source", layout), tmp_path / "log")


def test_a_packed_file_of_several_is_refused(tmp_path):
    source = write(tmp_path / "source", original_100k(), ".zip")
    with zipfile.ZipFile(source / "u.user.zip", "a") as archive:
        archive.writestr("more", "x")
    with pytest.raises(InputError, match=r"u\.user\.zip holds 2 files. Expected exactly one"):
        convert(source, tmp_path / "log")


def test_a_wrong_place_says_which_files_are_expected(tmp_path):
    (tmp_path / "somewhere").mkdir()
    for source in (tmp_path / "somewhere", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"ratings\.dat, movies\.dat, users\.dat"):
            convert(source, tmp_path / "log")
    layout = original_100k()
    del layout["u.user"]
    with pytest.raises(InputError, match=r"holds u\.data, u\.item\. Expected"):
        convert(write(tmp_path / "half", layout), tmp_path / "log")
    with pytest.raises(InputError, match="Did you mean '1m-timeless'"):
        convert(tmp_path / "half", tmp_path / "log", "1m-timeles")
    both = write(tmp_path / "both", original_100k() | original_1m())
    with pytest.raises(InputError, match="several layouts"):
        convert(both, tmp_path / "log")
    assert convert(both, tmp_path / "log", "1m")["variant"] == "1m"


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("u.data", "1\t10", r"u\.data, line 6: 2 columns"),
        ("u.data", "1\t10\t5\t946684800\t7", r"u\.data, line 6: 5 columns.*Expected 4"),
        ("u.data", "1\t10\tfive\t946684800", "rating is not a whole number in 1 of 6 .*'five'"),
        ("u.data", "1\t10\t9\t946684800", "from 1 to 9"),
        ("u.data", "7\t10\t5\t946684800", "unknown user, for example '7'"),
        ("u.data", "1\t99\t5\t946684800", "unknown item, for example '99'"),
        ("u.user", "3|old|M|other|1", "age is not a whole number"),
    ],
)
def test_a_malformed_line_is_an_error_that_shows_it(tmp_path, name, line, message):
    layout = original_100k()
    layout[name].append(line)
    with pytest.raises(InputError, match=message):
        convert(write(tmp_path / "source", layout), tmp_path / "log")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("folder", "variant", "requests", "impressions", "events"),
    [
        ("ml-100k", "atomic", 3_368, 72_855, 100_000),
        ("ml-1m", "1m-timeless", 6_040, 739_012, 0),
    ],
)
def test_the_real_data_convert_whole(tmp_path, folder, variant, requests, impressions, events):
    if not (SHARED_DATA / folder).is_dir():
        pytest.skip(f"no {folder} at ../shared/data")
    summary = convert(SHARED_DATA / folder, tmp_path / "log")
    assert summary["variant"] == variant
    counted = validate(open_log(tmp_path / "log"))
    for name, count in (("requests", requests), ("impressions", impressions), ("events", events)):
        assert summary[name] == counted[name] == count
