"""The log contract: every check of a log names what is wrong, where, how often, with an example."""

import copy
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.log.validate import validate

SCHEMA = Schema(
    features=(
        FeatureSpec("country", "user", "categorical"),
        FeatureSpec("query_text", "request", "text"),
        FeatureSpec("price", "item", "numeric"),
        FeatureSpec("content", "item", "embedding"),
    ),
    actions=("click", "save"),
)
T0 = 1_700_000_000

# One valid log: three items, two requests, four impressions, three events.
VALID = {
    "items": {
        "item_id": ["a", "b", "c"],
        "price": [1.0, 2.5, 3.0],
        "content": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]],
    },
    "requests": {
        "request_id": [1, 2],
        "user_id": ["u", "v"],
        "query_id": ["q", "q"],
        "timestamp": [T0, T0 + 60],
        "country": ["US", "DE"],
        "query_text": ["red shoes", "red shoes"],
    },
    "impressions": {
        "request_id": [1, 1, 2, 2],
        "item_id": ["a", "b", "a", "c"],
        "position": [0, 1, 0, 1],
        "click": [True, False, False, True],
        "save": [0, 1, 0, 0],
        "propensity": [0.5, 1.0, 0.25, 0.125],
        "stage": ["shown", "shown", "retrieved", "random"],
        "teacher_score": [0.1, -2.0, 0.0, 3.0],
    },
    "events": {
        "event_id": [7, 8, 9],
        "user_id": ["u", "v", "v"],
        "query_id": ["q", None, "q"],
        "item_id": ["a", "c", "c"],
        "action": ["click", "save", "click"],
        "event_time": [T0 + 5, T0 + 70, T0 + 80],
        "arrival_time": [T0 + 5, T0 + 71, T0 + 4000],
        "country": ["US", "DE", "DE"],
    },
}


def write_log(path, tables, schema=SCHEMA):
    path.mkdir(parents=True, exist_ok=True)
    schema.save(path)
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), path / f"{name}.parquet")
    return path


def changed(table, column, values):
    """Returns the valid tables with one column replaced, or removed where `values` is None."""
    tables = copy.deepcopy(VALID)
    if values is None:
        del tables[table][column]
    else:
        tables[table][column] = values
    return tables


def test_a_valid_log_passes_and_is_counted(tmp_path):
    assert validate(open_log(write_log(tmp_path, VALID))) == {
        "items": 3,
        "requests": 2,
        "impressions": 4,
        "events": 3,
        "duplicate_events": 0,
        "users": 2,
        "queries": 1,
        "actions": {"click": 2, "save": 1},
        "first_timestamp": T0,
        "last_timestamp": T0 + 60,
    }


def test_events_and_optional_columns_may_be_absent(tmp_path):
    tables = copy.deepcopy(VALID)
    del tables["events"]
    for column in ("propensity", "stage", "teacher_score"):
        del tables["impressions"][column]
    log = open_log(write_log(tmp_path, tables))
    assert not log.has_events
    assert validate(log)["events"] == 0


def test_duplicate_events_are_counted_not_refused(tmp_path):
    log = open_log(write_log(tmp_path, changed("events", "event_id", [7, 7, 7])))
    assert validate(log)["duplicate_events"] == 2


def test_a_timeless_log_needs_no_timestamp_and_refuses_events(tmp_path):
    schema = Schema(SCHEMA.features, SCHEMA.actions, timeless=True)
    tables = changed("requests", "timestamp", None)
    events = tables.pop("events")
    summary = validate(open_log(write_log(tmp_path / "a", tables, schema)))
    assert "first_timestamp" not in summary
    with pytest.raises(InputError, match="timeless log cannot hold events"):
        validate(open_log(write_log(tmp_path / "b", tables | {"events": events}, schema)))


def test_tables_in_parts_are_read_in_name_order(tmp_path):
    write_log(tmp_path, {name: VALID[name] for name in ("items", "requests", "events")})
    (tmp_path / "impressions").mkdir()
    whole = pa.table(VALID["impressions"])
    pq.write_table(whole.slice(2), tmp_path / "impressions" / "part-1.parquet")
    pq.write_table(whole.slice(0, 2), tmp_path / "impressions" / "part-0.parquet")
    log = open_log(tmp_path)
    assert [path.name for path in log.files("impressions")] == ["part-0.parquet", "part-1.parquet"]
    assert validate(log)["impressions"] == 4
    # A later part with another type is found, and named.
    part = whole.slice(2).drop_columns("position")
    pq.write_table(part, tmp_path / "impressions" / "part-1.parquet")
    with pytest.raises(InputError, match=r"part-1\.parquet.*'position' is missing"):
        validate(open_log(tmp_path))


def test_an_open_log_has_the_files_that_it_was_asked_for_first(tmp_path):
    write_log(tmp_path, {name: VALID[name] for name in ("items", "requests", "events")})
    (tmp_path / "impressions").mkdir()
    whole = pa.table(VALID["impressions"])
    pq.write_table(whole.slice(0, 2), tmp_path / "impressions" / "part-0.parquet")
    log = open_log(tmp_path)
    assert log.table("impressions").count().to_pyarrow().as_py() == 2
    pq.write_table(whole.slice(2), tmp_path / "impressions" / "part-1.parquet")
    assert [part.path.name for part in log.parts("impressions")] == ["part-0.parquet"]
    assert log.table("impressions").count().to_pyarrow().as_py() == 2
    assert open_log(tmp_path).table("impressions").count().to_pyarrow().as_py() == 4


def test_names_of_directories_are_no_columns(tmp_path):
    log = open_log(write_log(tmp_path / "country=FR" / "price=0", VALID))
    assert validate(log)["requests"] == 2
    assert log.table("requests").country.to_pyarrow().to_pylist() == ["US", "DE"]
    assert "country" not in log.table("items").columns


def test_dictionary_columns_count_as_their_values(tmp_path):
    column = pa.array(VALID["requests"]["country"]).dictionary_encode()
    assert validate(open_log(write_log(tmp_path, changed("requests", "country", column))))


MS, NAN, INF = 1000, float("nan"), float("inf")

# table, column, its wrong values (None: removed), what the message must say besides the two
WRONG = [
    ("items", "price", None, ["is missing"]),
    ("requests", "timestamp", None, ["is missing"]),
    ("impressions", "click", None, ["is missing"]),
    ("events", "arrival_time", None, ["is missing", "Known: action"]),
    ("items", "price", ["1", "2", "3"], ["has type string", "Expected a number"]),
    ("items", "content", [0.1, 0.2, 0.3], ["has type double", "list of floats"]),
    ("requests", "request_id", [1.0, 2.0], ["has type double", "string or an integer"]),
    ("requests", "timestamp", [float(T0), T0 + 60.0], ["has type double", "an integer"]),
    ("requests", "query_text", [1, 2], ["has type int64", "Expected a string"]),
    ("impressions", "item_id", [1, 2, 1, 3], ["int64 in impressions", "string in items"]),
    ("impressions", "click", [1.0, 0.0, 0.0, 1.0], ["has type double", "boolean"]),
    ("requests", "user_id", ["u", None], ["1 of 2 rows", "request_id=2, user_id=None"]),
    ("requests", "query_id", [None, "q"], ["1 of 2 rows", "request_id=1"]),
    ("items", "item_id", ["a", None, "c"], ["1 of 3 rows", "item_id=None"]),
    ("requests", "country", ["US", None], ["1 of 2 rows", "request_id=2, country=None"]),
    ("events", "item_id", ["a", None, "c"], ["1 of 3 rows", "event_id=8"]),
    ("items", "price", [1.0, NAN, NAN], ["2 of 3 rows", "item_id='b', price=nan", "finite"]),
    ("items", "price", [1.0, 2.0, -INF], ["1 of 3 rows", "item_id='c', price=-inf", "finite"]),
    ("items", "price", [1.0, 2.0, None], ["1 of 3 rows", "item_id='c', price=None"]),
    ("items", "content", [[0.1, NAN], [0.1, 0.2], [0.1, 0.2]], ["1 of 3 rows", "item_id='a'"]),
    ("items", "content", [[0.1], [0.1, 0.2], [0.1, 0.2]], ["1 to 2 numbers", "item_id='a'"]),
    ("items", "content", pa.array([[], [], []], pa.list_(pa.float32())), ["at least 1"]),
    ("impressions", "teacher_score", [0.1, INF, 0.0, 1.0], ["1 of 4 rows", "teacher_score=inf"]),
    ("impressions", "item_id", ["a", "b", "a", "z"], ["unknown to items", "1 of 4", "'z'"]),
    ("impressions", "request_id", [1, 1, 5, 5], ["unknown to requests", "2 of 4", "=5"]),
    ("events", "item_id", ["a", "z", "c"], ["unknown to items", "1 of 3", "item_id='z'"]),
    ("requests", "timestamp", [T0, 60], ["1 of 2 rows", "timestamp=60", "1990 and 2100"]),
    ("requests", "timestamp", [T0 * MS, T0 * MS + 1], ["2 of 2", "look like milliseconds"]),
    ("events", "event_time", [T0 * 10**9] * 3, ["3 of 3", "look like nanoseconds"]),
    ("events", "arrival_time", [T0 + 5, T0, T0 + 81], ["1 of 3", "event_id=8", "after the event"]),
    ("items", "item_id", ["a", "b", "b"], ["1 of 3 rows are duplicates", "item_id='b'"]),
    ("requests", "request_id", [2, 2], ["1 of 2 rows are duplicates", "request_id=2"]),
    ("impressions", "item_id", ["a", "a", "a", "c"], ["duplicates", "request_id=1, item_id='a'"]),
    ("impressions", "save", [0, 2, 0, 0], ["1 of 4", "item_id='b', save=2", "0 or 1"]),
    ("impressions", "propensity", [0.5, 0.0, 0.2, 0.1], ["1 of 4", "propensity=0.0", "at most 1"]),
    ("impressions", "propensity", [0.5, 1.5, 0.2, 0.1], ["1 of 4", "propensity=1.5"]),
    ("impressions", "propensity", [0.5, 1e-50, 0.2, 0.1], ["1 of 4", "propensity=1e-50"]),
    ("impressions", "position", [0, 1, -1, 1], ["1 of 4", "position=-1"]),
    ("impressions", "position", [0, 1, 2**31, 1], ["1 of 4", "position=2147483648"]),
    ("items", "price", [1.0, 1e300, 2.0], ["1 of 3", "item_id='b', price=1e+300", "float32"]),
    ("items", "price", [1.0, -1e39, 2.0], ["1 of 3", "item_id='b', price=-1e+39", "float32"]),
    ("items", "content", [[0.1, 0], [0.1, 1e39], [0.1, 2]], ["1 of 3", "item_id='b'", "float32"]),
    ("impressions", "teacher_score", [0, 1e39, 0, 1], ["1 of 4", "item_id='b'", "float32"]),
    ("impressions", "stage", ["shown", "shown", "seen", "random"], ["1 of 4", "'seen'", "shown"]),
    ("events", "action", ["click", "like", "click"], ["1 of 3", "action='like'", "declare"]),
]


@pytest.mark.parametrize(
    ("table", "column", "values", "fragments"),
    WRONG,
    ids=[f"{k}-{table}.{column}" for k, (table, column, *_) in enumerate(WRONG)],
)
def test_a_wrong_column_is_an_error_that_says_where(tmp_path, table, column, values, fragments):
    log = open_log(write_log(tmp_path, changed(table, column, values)))
    with pytest.raises(InputError) as error:
        validate(log)
    for fragment in [table, f"'{column}'", *fragments]:
        assert fragment in str(error.value), str(error.value)


# Parquet keeps a minimum and maximum per column, from which NaN is left out: neither tells of it.
NUMBERS = {
    "three": [1.0, 2.0, None],
    "many": [*np.random.default_rng(0).normal(size=400).tolist(), None],
}


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("amount", NUMBERS)
@pytest.mark.parametrize("wrong", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("place", ["item", "request", "embedding"])
def test_one_number_that_is_not_finite_is_found(tmp_path, place, wrong, amount, kind):
    numbers = [wrong if number is None else number for number in NUMBERS[amount]]
    N = len(numbers)
    ids = [f"{row:03d}" for row in range(N)]
    features = (
        FeatureSpec("price", "item", "numeric"),
        FeatureSpec("content", "item", "embedding"),
        FeatureSpec("hour", "request", "numeric"),
    )
    fine = np.arange(N, dtype=np.float64)
    columns = {"item": fine, "request": fine, "embedding": fine} | {place: numbers}
    tables = {
        "items": {
            "item_id": ids,
            "price": pa.array(columns["item"], kind),
            "content": pa.array([[0.5, x] for x in columns["embedding"]], pa.list_(kind)),
        },
        "requests": {
            "request_id": ids,
            "user_id": ids,
            "query_id": ids,
            "timestamp": [T0] * N,
            "hour": pa.array(columns["request"], kind),
        },
        "impressions": {
            "request_id": ids,
            "item_id": ids,
            "position": [0] * N,
            "click": [True] * N,
        },
    }
    log = open_log(write_log(tmp_path, tables, Schema(features, ("click",))))
    column = {"item": "price", "request": "hour", "embedding": "content"}[place]
    with pytest.raises(InputError, match=f"'{column}' is wrong in 1 of {N} rows") as error:
        validate(log)
    assert f"_id='{ids[-1]}', {column}=" in str(error.value)
    assert "finite numbers" in str(error.value)


@pytest.mark.parametrize("table", ["items", "requests", "impressions", "events"])
def test_an_empty_table_is_an_error(tmp_path, table):
    write_log(tmp_path, VALID)
    empty = pa.table(VALID[table]).slice(0, 0)
    pq.write_table(empty, tmp_path / f"{table}.parquet")
    with pytest.raises(InputError, match=rf"{table} .* is empty"):
        validate(open_log(tmp_path))


def test_a_log_that_is_not_there_or_not_whole_is_refused_at_the_door(tmp_path):
    with pytest.raises(InputError, match=r"no schema\.json"):
        open_log(tmp_path)
    write_log(tmp_path, {name: VALID[name] for name in ("items", "requests")})
    with pytest.raises(InputError, match="no table 'impressions'"):
        open_log(tmp_path)
    (tmp_path / "impressions.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        validate(open_log(tmp_path))
    (tmp_path / "impressions").mkdir()
    with pytest.raises(InputError, match="holds both"):
        open_log(tmp_path)


def test_a_schema_survives_saving(tmp_path):
    SCHEMA.save(tmp_path)
    assert Schema.load(tmp_path) == SCHEMA


SCHEMA_ERRORS = [
    ({"format": "csv"}, "interactrank-log"),
    ({"version": 99}, "version is 99"),
    ({"timeless": "no"}, "true or false"),
    ({"actions": []}, "no actions"),
    ({"actions": ["click", "impression"]}, "'impression' is reserved"),
    ({"actions": ["click", "click"]}, "declared twice"),
    ({"actions": ["click", "IMPRESSION"]}, "'IMPRESSION' is reserved"),
    ({"actions": ["click", "Click"]}, "actions 'click' and 'Click' have one name, capitals aside"),
    ({"actions": ["QUERY"]}, "'QUERY' is reserved as 'query', which differs in capitals alone"),
    ({"actions": "click"}, "'actions' is 'click'. Expected a list of names"),
    ({"actions": {"click": 1}}, "'actions' is {'click': 1}. Expected a list"),
    ({"features": "country"}, "'features' is 'country'. Expected a list of objects"),
    ({"features": None}, "'features' is None. Expected a list of objects"),
    ({"features": ["country"]}, "a feature is incomplete"),
    ({"features": [{"name": "x", "entity": "user", "kind": "categoric"}]}, "mean 'categorical'"),
    ({"features": [{"name": "x", "entity": "users", "kind": "text"}]}, "Did you mean 'user'"),
    ({"features": [{"name": "item_id", "entity": "item", "kind": "text"}]}, "reserved"),
    ({"features": [{"name": "Query", "entity": "user", "kind": "text"}]}, "as 'query', which"),
    ({"features": [{"name": "ITEM_ID", "entity": "item", "kind": "text"}]}, "as 'item_id', which"),
    ({"features": [{"name": "a b", "entity": "item", "kind": "text"}]}, "malformed"),
    ({"features": [{"name": "x", "entity": "item"}]}, "incomplete"),
    (
        {
            "features": [
                {"name": "x", "entity": entity, "kind": "text"} for entity in ("item", "user")
            ]
        },
        "'x' is declared twice",
    ),
    (
        {
            "features": [
                {"name": name, "entity": "user", "kind": "text"} for name in ("size", "Size")
            ]
        },
        "features 'size' and 'Size' have one name, capitals aside",
    ),
]


@pytest.mark.parametrize(("change", "message"), SCHEMA_ERRORS, ids=[m for _, m in SCHEMA_ERRORS])
def test_a_wrong_schema_is_an_error_that_names_the_file(tmp_path, change, message):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA.to_json() | change))
    with pytest.raises(InputError, match=r"schema\.json") as error:
        Schema.load(tmp_path)
    assert message in str(error.value)
