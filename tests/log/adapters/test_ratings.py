"""Any table of ratings as a log: how it is read, what its columns become, and what is refused."""

import bz2
import gzip
import lzma
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.config import builders
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters import movielens
from interactrank_jax.log.adapters.ratings import Options, convert
from interactrank_jax.log.read import open_log
from interactrank_jax.log.validate import validate
from tests.conftest import SHARED_DATA

T0 = 946_684_800  # 2000-01-01 00:00 UTC, an hour's start
HOUR = T0 // 3600
# user, item, stars, seconds after T0. Ann rates in two hours, one rating of 3 among them.
RATINGS = [
    ("ann", "x", 5, 50),
    ("ann", "y", 2, 20),
    ("ann", "z", 3, 30),
    ("bob", "x", 1, 40),
    ("ann", "w", 4, 3_600),
]
HEADER = ("user_id", "item_id", "rating", "timestamp")
TIMED = Options(time="timestamp", threshold=3, neutral=3)
USERS = ["user_id,gender,age,score", "ann,F,24,0.5", "bob,,56,1", "eve,M,30,2"]
ITEMS = ["item_id,title,maker,weight", "w,A wire,7,1", "x,,7,2", "y,Yarn,8,3", "z,Zip,8,4.5"]


def lines(separator=",", header=True, rows=RATINGS):
    text = [(u, i, str(r), str(T0 + t)) for u, i, r, t in rows]
    return [separator.join(row) for row in ([HEADER] if header else []) + text]


def write(path, name, text):
    """Writes lines under a name that may end in a packing."""
    path.mkdir(exist_ok=True)
    content = ("\n".join(text) + "\n").encode()
    plain, _, packing = name.rpartition(".")
    if packing == "zip":
        with zipfile.ZipFile(path / name, "w") as archive:
            archive.writestr(plain, content)
    else:
        pack = {"xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress}.get(packing, bytes)
        (path / name).write_bytes(pack(content))
    return path


def rows(path, table):
    return pq.read_table(path / f"{table}.parquet").to_pylist()


def check_log(log):
    """What every way of writing down `RATINGS` gives."""
    assert validate(open_log(log))["actions"] == {"like": 2, "dislike": 2, "neutral": 0}
    assert [
        tuple(r[name] for name in ("request_id", "user_id", "query_id", "timestamp"))
        for r in rows(log, "requests")
    ] == [
        (f"ann-{HOUR}", "ann", "all", T0),
        (f"bob-{HOUR}", "bob", "all", T0),
        (f"ann-{HOUR + 1}", "ann", "all", T0 + 3600),
    ]
    # In the order of rating: y came before x, the neutral z is left out.
    assert [tuple(r.values()) for r in rows(log, "impressions")] == [
        (f"ann-{HOUR}", "y", 0, False, True, False),
        (f"ann-{HOUR}", "x", 1, True, False, False),
        (f"bob-{HOUR}", "x", 0, False, True, False),
        (f"ann-{HOUR + 1}", "w", 0, True, False, False),
    ]
    assert [
        (e["user_id"], e["item_id"], e["action"], e["event_time"] - T0, e["arrival_time"] - T0)
        for e in rows(log, "events")
    ] == [
        ("ann", "y", "dislike", 20, 20),
        ("ann", "z", "neutral", 30, 30),
        ("bob", "x", "dislike", 40, 40),
        ("ann", "x", "like", 50, 50),
        ("ann", "w", "like", 3600, 3600),
    ]


@pytest.mark.parametrize("packing", ["", ".xz", ".gz", ".bz2", ".zip"])
@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_text_is_read_whatever_its_separator_and_packing(tmp_path, separator, packing):
    name = f"clicks.txt{packing}"  # the only file there: any name will do
    source = write(tmp_path / "source", name, lines(separator)) / name
    summary = convert(source, tmp_path / "log", TIMED)
    assert summary == {
        "ratings": 5,
        "users": 2,
        "items": 4,
        "requests": 3,
        "impressions": 4,
        "events": 5,
        "successes": 2,
        "neutral": 1,
        "replaced": 0,
        "features": "",
    }
    check_log(tmp_path / "log")


@pytest.mark.parametrize("kind", ["seconds", "float", "timestamp", "zone"])
def test_parquet_is_read_with_times_of_any_type(tmp_path, kind):
    user, item, rating, second = (list(column) for column in zip(*RATINGS, strict=True))
    seconds = pa.array([T0 + s for s in second])
    types = {"seconds": pa.int64(), "float": pa.float64(), "timestamp": pa.timestamp("s"),
             "zone": pa.timestamp("s", "America/New_York")}  # fmt: skip
    table = pa.table([user, item, rating, seconds.cast(types[kind])], list(HEADER))
    table = table.set_column(0, "user_id", table["user_id"].dictionary_encode())
    (tmp_path / "source").mkdir()
    pq.write_table(table, tmp_path / "source" / "ratings.parquet")
    convert(tmp_path / "source", tmp_path / "log", TIMED)
    check_log(tmp_path / "log")


def test_times_written_as_dates_are_read(tmp_path):
    text = [line.replace(str(T0), "2000-01-01 00:00:00") for line in lines(rows=[
        ("ann", "x", 5, 0), ("bob", "x", 1, 0)])]  # fmt: skip
    convert(write(tmp_path / "source", "ratings.csv", text), tmp_path / "log", TIMED)
    assert {r["timestamp"] for r in rows(tmp_path / "log", "requests")} == {T0}


def test_a_file_without_a_header_has_its_columns_named(tmp_path):
    source = write(tmp_path / "source", "u.data", lines("\t", header=False))
    named = Options(user="a", item="b", rating="c", time="d", threshold=3, neutral=3,
                    columns=("a", "b", "c", "d"))  # fmt: skip
    convert(source / "u.data", tmp_path / "log", named)
    check_log(tmp_path / "log")


def test_an_archive_as_downloaded_is_read_in_place(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for name, text in (("ratings.csv", lines()), ("users.csv", USERS), ("readme.txt", ["x"])):
            archive.writestr(f"data/{name}", "\n".join(text))
    assert convert(tmp_path / "data.zip", tmp_path / "log", TIMED)["users"] == 3


def test_without_time_a_request_is_a_user_and_the_last_rating_of_an_item_counts(tmp_path):
    again = [*RATINGS, ("ann", "x", 1, 7), ("bob", "y", 5, 8)]
    source = write(tmp_path / "source", "ratings.csv", lines(rows=again))
    summary = convert(source, tmp_path / "log", Options(threshold=3, neutral=3))
    assert (summary["replaced"], summary["neutral"], summary["events"]) == (1, 1, 0)
    log = open_log(tmp_path / "log")
    assert log.schema.timeless
    assert log.schema.actions == ("like", "dislike")
    assert validate(log)["requests"] == 2
    assert [tuple(r.values()) for r in rows(tmp_path / "log", "impressions")] == [
        ("ann", "y", 0, False, True),
        ("ann", "w", 1, True, False),
        ("ann", "x", 2, False, True),
        ("bob", "x", 0, False, True),
        ("bob", "y", 1, True, False),
    ]


def test_a_neutral_rating_takes_back_the_one_before_it(tmp_path):
    again = [*RATINGS, ("ann", "x", 3, 60), ("bob", "x", 3, 4_000)]  # bob's is of another hour
    source = write(tmp_path / "source", "ratings.csv", lines(rows=again))
    summary = convert(source, tmp_path / "log", TIMED)
    assert (summary["replaced"], summary["neutral"], summary["events"]) == (1, 3, 7)
    shown = [(r["item_id"], r["like"]) for r in rows(tmp_path / "log", "impressions")]
    assert sorted(shown) == [("w", True), ("x", False), ("y", False)]
    assert validate(open_log(tmp_path / "log"))["requests"] == 3


def test_clicks_need_no_threshold_and_no_neutral_value(tmp_path):
    text = ["user_id,item_id,click", "1,7,1", "1,8,0", "2,7,0"]
    source = write(tmp_path / "source", "ratings.csv", text)
    convert(source, tmp_path / "log", Options(rating="click"))
    assert [r["like"] for r in rows(tmp_path / "log", "impressions")] == [True, False, False]
    # Ids of text stay as written: 007 is not 7.
    assert [r["item_id"] for r in rows(tmp_path / "log", "items")] == ["7", "8"]


@pytest.fixture
def with_features(tmp_path):
    source = write(tmp_path / "source", "ratings.csv", lines())
    write(source, "users.tsv", [line.replace(",", "\t") for line in USERS])
    return write(source, "items.csv.xz", ITEMS)


FEATURES = Options(
    time="timestamp", threshold=3, text=("title",), categorical=("maker",), ignore=("score",),
    query=("gender",),
)  # fmt: skip


def test_columns_of_users_and_items_are_features_by_their_type(tmp_path, with_features):
    summary = convert(with_features, tmp_path / "log", FEATURES)
    assert summary["features"].startswith("gender (user, categorical), age (user, numeric), ")
    log = open_log(tmp_path / "log")
    validate(log)
    assert [(f.name, f.entity, f.kind) for f in log.schema.features] == [
        ("gender", "user", "categorical"),
        ("age", "user", "numeric"),
        ("title", "item", "text"),
        ("maker", "item", "categorical"),
        ("weight", "item", "numeric"),
    ]
    assert rows(tmp_path / "log", "items")[:2] == [
        {"item_id": "w", "title": "A wire", "maker": "7", "weight": 1.0},
        {"item_id": "x", "title": "", "maker": "7", "weight": 2.0},
    ]
    ann, bob = rows(tmp_path / "log", "requests")[:2]
    assert (ann["query_id"], ann["gender"], ann["age"]) == ("F", "F", 24.0)
    assert (bob["query_id"], bob["gender"], bob["age"]) == ("", "", 56.0)  # a missing category
    # Events have what cross features may be segmented by.
    assert [e["gender"] for e in rows(tmp_path / "log", "events")] == ["F", "F", "", "F", "F"]


def test_a_list_is_an_embedding_and_integer_ids_meet_written_ones(tmp_path):
    source = write(tmp_path / "source", "ratings.csv", ["user_id,item_id,rating", "1,7,1", "1,8,0"])
    items = pa.table({"item_id": [8, 7], "vector": [[0.5, 1.0], [2.0, 3.0]], "new": [True, False]})
    pq.write_table(items, source / "items.parquet")
    convert(source, tmp_path / "log", Options())
    assert validate(open_log(tmp_path / "log"))["items"] == 2
    assert rows(tmp_path / "log", "items") == [
        {"item_id": "8", "vector": [0.5, 1.0], "new": "true"},
        {"item_id": "7", "vector": [2.0, 3.0], "new": "false"},
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": "user"}, r"ratings\.csv has no column 'user'\. Did you mean 'user_id'"),
        ({"time": "when"}, r"ratings\.csv has no column 'when'\. Known: item_id, rating, tim"),
        ({"threshold": 5}, "no rating lies above --threshold=5; they run from 1 to 5"),
        ({"threshold": 0}, "no rating lies at or below --threshold=0"),
        ({"rating": "item_id"}, r"column 'item_id' is not a finite number in 5 of 5 rows.*'x'"),
        ({"time": "rating"}, r"'rating' is no time between 1990 .* 5 of 5 rows.* 5.0 in row 2"),
        ({"text": ("titel",)}, "--text names 'titel'. Did you mean 'title'"),
        ({"categorical": ("make",)}, "--categorical names 'make'. Did you mean 'maker'"),
        ({"ignore": ("weigth",)}, "--ignore names 'weigth'. Did you mean 'weight'"),
        ({"text": ("title",), "ignore": ("title",)}, "--text and --ignore both name 'title'"),
        (
            {"query": ("age",)},
            "--query names 'age', no categorical .* of users. Known: gender",
        ),
        ({"separator": ";"}, r"ratings\.csv has no column 'user_id'"),
    ],
)
def test_a_wrong_option_names_the_nearest(tmp_path, with_features, options, message):
    with pytest.raises(InputError, match=message):
        convert(with_features, tmp_path / "log", Options(**{"threshold": 3} | options))
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (
            "ratings.csv",
            "ann,x",
            r"ratings\.csv cannot be read: .*Row #7.*Expected 4 col",
        ),
        ("ratings.csv", "ann,x,five,9", r"'rating' is not a finite number in 1 .*'five' in row 7"),
        (
            "ratings.csv",
            "ann,x,,9",
            r"column 'rating' is not a finite number in 1 of 6.* row 7",
        ),
        ("ratings.csv", ",x,5,946684800", r"'user_id' is empty in 1 of 6 rows, .*'' in row 7"),
        ("ratings.csv", "ann,x,5,946684800000", r"'timestamp' is no time .* row 7.*milliseconds"),
        (
            "ratings.csv",
            "joe,x,5,946684800",
            r"\.csv: 1 of 6 .*unknown user.*'joe' in row 7",
        ),
        ("ratings.csv", "ann,q,5,946684800", r"\.csv: 1 of 6 .*unknown item.*'q' in row 7"),
        (
            "users.csv",
            "ann,F,24,0",
            r"users\.csv: .*'user_id' repeats in 1 of 4.*'ann' in row 5",
        ),
        ("users.csv", "joe,F,,0", r"users\.csv: .*'age' is not a finite number in 1 .* row 5"),
    ],
)
def test_a_wrong_row_is_shown_with_its_file_column_and_number(tmp_path, name, line, message):
    files = {"ratings.csv": lines(), "users.csv": USERS, "items.csv": ITEMS}
    for file, text in files.items():
        write(tmp_path / "source", file, [*text, line] if file == name else text)
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "source", tmp_path / "log", TIMED)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds nothing. Expected a table of ratings"),
        ({"a.csv": [], "b.csv": []}, r"holds a\.csv, b\.csv\. Expected a table of ratings"),
        ({"ratings.csv": ["x"], "ratings.tsv": ["x"]}, r"ratings\.csv and ratings\.tsv"),
        ({"ratings.csv": ["user_id item_id rating"]}, "no separator in its first line, 'user_id "),
        ({"ratings.csv": lines()[:1]}, "has no rows"),
        ({"ratings.parquet": lines()}, r"ratings\.parquet cannot be read"),
        ({"ratings.csv": lines(), "users.csv": ["user_id,my age", "ann,1", "bob,2"]},
         "feature name 'my age' is malformed.*--ignore"),
    ],
)  # fmt: skip
def test_a_wrong_source_says_what_is_expected(tmp_path, files, message):
    (tmp_path / "source").mkdir()
    for name, text in files.items():
        write(tmp_path / "source", name, text)
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "source", tmp_path / "log", TIMED)
    with pytest.raises(InputError, match="nowhere does not exist"):
        convert(tmp_path / "nowhere", tmp_path / "log", TIMED)


@pytest.mark.parametrize("text", [(), ("title",)])
def test_text_that_is_not_utf_8_is_refused(tmp_path, with_features, text):
    latin = "\n".join(["item_id,title", "w,é", "x,x", "y,y", "z,z"]).encode("latin-1")
    (with_features / "items.csv.xz").unlink()
    (with_features / "items.csv").write_bytes(latin)
    with pytest.raises(InputError, match=r"items\.csv.*(UTF-8|UTF8)"):
        convert(with_features, tmp_path / "log", Options(threshold=3, text=text))


@pytest.mark.long  # prepares a log several times
@pytest.mark.parametrize(("argument", "time"), [("ratings", ""), ("ratings_time", "timestamp")])
def test_a_config_prepares_such_a_log_without_code(tmp_path, argument, time):
    made = [
        (f"u{user}", f"i{(user * 7 + k) % 12}", 1 + (user + k) % 5, user * 90_000 + k * 600)
        for user in range(15)
        for k in range(8)
    ]
    source = write(tmp_path / "source", "ratings.csv", lines(rows=made))
    convert(source, tmp_path / "log", Options(time=time, threshold=2))
    metadata = prepare(builders.base_config(argument).data, tmp_path / "log", tmp_path / "examples")
    assert metadata.timeless == (not time)
    assert sum(split.candidates for split in metadata.splits.values()) == len(made)
    assert Examples(tmp_path / "examples").num_items == 13


def command(*flags):
    return cli.main(["convert", *flags])


def test_the_command_takes_every_option(tmp_path, with_features, capsys):
    flags = ["--time=timestamp", "--threshold=3", "--neutral=3", "--text=title", "--query=gender"]
    flags += ["--categorical=maker,age", "--ignore=score", "--separator=,", "--user=user_id"]
    write(with_features, "users.tsv", USERS)  # with commas, as --separator says
    source = write(with_features, "ratings.csv", lines(header=False))
    named = ["--columns=user_id,item_id,stars,timestamp", "--rating=stars"]
    out = ["--format=ratings", f"--source={source}", f"--out={tmp_path / 'log'}"]
    assert command(*out, *flags, *named) == 0
    assert (
        "features: gender (user, categorical), age (user, categorical)" in capsys.readouterr().out
    )
    log = open_log(tmp_path / "log")
    assert log.schema.actions == ("like", "dislike", "neutral")
    assert validate(log)["queries"] == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=rating"], "Did you mean 'ratings'"),
        (["--format=ratings", "--neutral=three"], "--neutral=three. Expected a number"),
        (["--format=ratings", "--threshold=high"], "threshold"),
        (["--format=ratings", "--user=item_id"], "--user and --item are both 'item_id'"),
        (["--format=movielens", "--threshold=4"], "--threshold is for --format=ratings only"),
        (["--format=movielens", "--text=title"], "--text is for --format=ratings only"),
    ],
)
def test_a_wrong_flag_is_refused(tmp_path, with_features, flags, message, capsys):
    assert command(*flags, f"--source={with_features}", f"--out={tmp_path / 'log'}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "log").exists()


@pytest.mark.skipif(not (SHARED_DATA / "ml-100k").is_dir(), reason="MovieLens-100K is not here")
def test_movielens_100k_read_as_any_ratings_is_the_same_log(tmp_path):
    movielens.convert(SHARED_DATA / "ml-100k", tmp_path / "movielens")
    options = Options(user="user_id:token", item="item_id:token", rating="rating:float",
                      time="timestamp:float", threshold=3, neutral=3)  # fmt: skip
    source = SHARED_DATA / "ml-100k" / "ml-100k.inter.xz"
    summary = convert(source, tmp_path / "ratings", options)
    assert (summary["neutral"], summary["replaced"]) == (27_145, 0)
    columns, known = ["request_id", "position", "like", "dislike"], ["request_id", "timestamp"]
    for name, by in (("impressions", columns), ("requests", known)):
        first, second = (
            pq.read_table(tmp_path / log / f"{name}.parquet", columns=by).sort_by(
                [(column, "ascending") for column in by[:2]]
            )
            for log in ("movielens", "ratings")
        )
        assert first.equals(second)
