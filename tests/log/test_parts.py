"""Parts of one table whose columns differ: read as one type by every reader, or refused by name."""

import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log import column_checks
from interactrank_jax.log.read import open_log
from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.log.validate import validate
from interactrank_jax.state import engines
from interactrank_jax.state.build import build_store
from tests.log.spark_engine import spark
from tests.log.test_schema import T0, VALID
from tests.state.conftest import state_config

SCHEMA = Schema(
    features=(
        FeatureSpec("country", "user", "categorical"),
        FeatureSpec("query_text", "request", "text"),
        FeatureSpec("price", "item", "numeric"),
        FeatureSpec("content", "item", "embedding"),
    ),
    actions=("click", "save"),
)
LISTS = [[0.5, 1.0], [1.5, 2.0]]

# table, column, values of the first part, of the second, the united type
UNITED = [
    ("requests", "timestamp", pa.array([T0], pa.int32()), pa.array([T0 + 9]), pa.int64()),
    ("items", "item_id", pa.array([1], pa.int8()), pa.array([2], pa.uint32()), pa.int64()),
    ("items", "item_id", pa.array([1], pa.uint8()), pa.array([2], pa.uint64()), pa.uint64()),
    ("items", "price", pa.array([1.5], pa.float32()), pa.array([0.1]), pa.float64()),
    ("items", "price", pa.array([3]), pa.array([0.25]), pa.float64()),
    ("items", "price", pa.array([2**53 + 2]), pa.array([0.25]), pa.float64()),
    ("items", "price", pa.array([7], pa.uint64()), pa.array([0.25]), pa.float64()),
    ("impressions", "propensity", pa.array([1]), pa.array([0.5], pa.float32()), pa.float64()),
    ("impressions", "click", pa.array([1], pa.int8()), pa.array([0]), pa.int64()),
    ("requests", "country", pa.array(["x"]), pa.array(["y"], pa.large_string()), None),
    ("requests", "country", pa.array(["x"]).dictionary_encode(), pa.array(["y"]), pa.string()),
    ("requests", "country", pa.array([1], pa.int16()).dictionary_encode(), pa.array([2]), None),
    ("items", "content", pa.array(LISTS[:1], pa.list_(pa.float32())), pa.array(LISTS[1:]), None),
    ("items", "content", pa.array(LISTS[:1], pa.list_(pa.float64(), 2)), pa.array(LISTS[1:]), None),
    ("items", "content", pa.array(LISTS[:1], pa.large_list(pa.float32())), pa.array(LISTS[1:]), 0),
    ("items", "created_at", pa.nulls(1), pa.array([T0]), pa.int64()),
    ("items", "created_at", pa.array([T0], pa.int32()), pa.nulls(1), pa.int32()),
    ("events", "query_id", pa.nulls(1), pa.array(["q"]), pa.string()),
    ("events", "query_id", pa.nulls(1), pa.array([5]), pa.int64()),
]


def write_parts(path, table, first, second):
    """Writes a log of which one table has two parts, beside another part without rows."""
    path.mkdir()
    SCHEMA.save(path)
    for name, values in VALID.items():
        if name != table:
            pq.write_table(pa.table(values), path / f"{name}.parquet")
    (path / table).mkdir()
    for number, part in enumerate((first, second)):
        pq.write_table(part, path / table / f"{number}.parquet")
    # What a writer makes of an empty day: no rows, no types.
    nothing = pa.table({name: pa.nulls(0) for name in first.column_names})
    pq.write_table(nothing, path / table / "2.parquet")
    return open_log(path)


def one_column(path, table, column, first, second):
    parts = [
        pa.table(
            {name: values[:1] for name, values in VALID[table].items() if name != column}
        ).append_column(column, values)
        for values in (first, second)
    ]
    return write_parts(path, table, *parts)


def check_united(backend, place):
    for number, (table, column, first, second, united) in enumerate(UNITED):
        log = one_column(place / str(number), table, column, first, second)
        expected = [*first.to_pylist(), *second.to_pylist()]
        if united:
            assert log.columns(table)[column] == united
        read = backend.to_pyarrow(log.table(table, backend))[column]
        assert sorted(read.to_pylist(), key=str) == sorted(expected, key=str), (table, column)
        column_checks.check_columns(log, table, log.kinds(table))


def test_parts_of_other_widths_are_read_as_one_type(backend, tmp_path):
    check_united(backend, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.thorough
def test_spark_reads_parts_as_duckdb_does(tmp_path, monkeypatch):
    with spark(tmp_path / "spark", monkeypatch) as backend:
        check_united(backend, tmp_path)
        half = pa.array([1.5], pa.float16())
        log = one_column(tmp_path / "half", "items", "price", half, half)
        with pytest.raises(InputError, match=r"'price' has type halffloat, which Spark cannot"):
            log.table("items", backend)
        # A column that nobody declared is nobody's business, whatever its type.
        parts = [pa.table(VALID["items"]).slice(n, 1) for n in range(2)]
        parts = [part.append_column("odd", half) for part in parts]
        log = write_parts(tmp_path / "odd", "items", *parts)
        assert log.table("items", backend).count().to_pyarrow().as_py() == 2


DAY = datetime.date(2024, 1, 1)
# table, column, values of the first part, of the second: families that no type holds
REFUSED = [
    ("impressions", "click", pa.array([True]), pa.array([12])),
    ("impressions", "click", pa.array([1]), pa.array([1.0])),
    ("impressions", "position", pa.array([1]), pa.array([1.0])),
    ("impressions", "stage", pa.array(["shown"]), pa.array([1])),
    ("impressions", "teacher_score", pa.array([0.5]), pa.array(["0.5"])),
    ("impressions", "propensity", pa.array([0.5]), pa.array([True])),
    ("requests", "timestamp", pa.array([T0]), pa.array([float(T0)])),
    ("requests", "timestamp", pa.array([T0]), pa.array([T0], pa.timestamp("ms"))),
    ("requests", "country", pa.array([True]), pa.array([2])),
    ("requests", "country", pa.array(["x"]), pa.array([2])),
    ("requests", "country", pa.array(["x"]), pa.nulls(1)),
    ("requests", "country", pa.array(["x"]), pa.array([b"x"])),
    ("requests", "user_id", pa.array([7]), pa.array([7.0])),
    ("items", "item_id", pa.array(["a"]).dictionary_encode(), pa.array([7])),
    ("items", "item_id", pa.array([1]), pa.array([2], pa.uint64())),
    ("items", "price", pa.array([1.5]), pa.array([decimal.Decimal("1.5")])),
    ("items", "price", pa.array([1.5]), pa.array([DAY])),
    ("items", "price", pa.array([1.5]), pa.array([True])),
    ("items", "price", pa.array([1.5]), pa.array(LISTS[:1])),
    ("items", "content", pa.array(LISTS[:1]), pa.array([[1, 2]])),
    ("items", "created_at", pa.array([T0]), pa.array([float(T0)])),
    ("events", "action", pa.array(["click"]), pa.array([1])),
    ("events", "query_id", pa.array(["q"]), pa.array([1])),
    ("events", "country", pa.array(["x"]), pa.array([1])),
]


@pytest.mark.parametrize(
    ("table", "column", "first", "second"),
    REFUSED,
    ids=[f"{row[0]}.{row[1]} {row[2].type} {row[3].type}" for row in REFUSED],
)
def test_families_that_differ_are_refused(table, column, first, second, backend, tmp_path):
    log = one_column(tmp_path / "log", table, column, first, second)
    kinds = [array.type for array in (first, second)]
    kinds = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in kinds]
    types = [str(kind).partition("<")[0] for kind in kinds]
    for use in (
        lambda: log.table(table, backend),
        lambda: validate(log),
        lambda: build_store(state_config(), log, tmp_path / "state", backend),
    ):
        with pytest.raises(InputError) as error:
            use()
        for said in (f"{table}/1.parquet", f"{table}/0.parquet", f"'{column}'", *types):
            assert said in str(error.value)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("lacking", [0, 1])
@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(("impressions", column) for column in ("stage", "propensity", "teacher_score", "save")),
        *(("items", "created_at"), ("events", "country"), ("requests", "country")),
    ],
)
def test_a_column_of_some_parts_only_is_refused(table, column, lacking, backend, tmp_path):
    """Read as nulls, a stage that begins later would make random negatives of what was shown."""
    values = {**VALID[table], **({"created_at": [T0] * 3} if table == "items" else {})}
    parts = [pa.table(values).slice(number, 1) for number in range(2)]
    parts[lacking] = parts[lacking].drop_columns([column])
    log = write_parts(tmp_path / "log", table, *parts)
    expected = (
        rf"{table}/{lacking}\.parquet\): column '{column}' is missing, which .*"
        rf"{table}/{1 - lacking}\.parquet has"
    )
    for use in (
        lambda: log.table(table, backend),
        lambda: validate(log),
    ):
        with pytest.raises(InputError, match=expected):
            use()


def test_what_nobody_declared_may_differ(backend, tmp_path):
    parts = [pa.table(VALID["items"]).slice(number, 1) for number in range(2)]
    parts[0] = parts[0].append_column("both", pa.array(["x"])).append_column("one", pa.array([1]))
    parts[1] = parts[1].append_column("both", pa.array([{"a": 1}]))
    log = write_parts(tmp_path / "log", "items", *parts)
    prices = backend.to_pyarrow(log.table("items", backend))["price"].to_pylist()
    assert sorted(prices) == [1.0, 2.5]  # an engine owes no order


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64 - 1])
def test_ids_of_64_bits_without_a_sign_fit_or_are_named(number, backend, tmp_path):
    events = {**VALID["events"], "event_id": pa.array([7, 8, number], pa.uint64())}
    path = tmp_path / "log"
    path.mkdir()
    SCHEMA.save(path)
    requests = {**VALID["requests"], "query_id": pa.array([1, number], pa.uint64())}
    events |= {"query_id": pa.array([1, None, number], pa.uint64())}
    for name, values in (VALID | {"events": events, "requests": requests}).items():
        pq.write_table(pa.table(values), path / f"{name}.parquet")
    log = open_log(path)
    config = state_config(**{"cross.features": ("share:click:7",)})

    def build():
        with engines.readable(backend, log):
            return build_store(config, log, tmp_path / "state", backend, through=T0 // 86_400)

    if number < 2**63:
        assert validate(log)["events"] == 3
        counts = backend.to_pyarrow(build().counts(("query",), backend))
        assert sorted(counts["query"].to_pylist()) == [1, number]
        return
    for use in (lambda: validate(log), build):
        with pytest.raises(InputError, match=r"'(query|event)_id'.*signed 64-bit integer: write"):
            use()
