import ibis
import numpy as np
import pytest

from interactrank_jax.data.dense import IMPRESSION, SECONDS_PER_DAY, Engagements
from interactrank_jax.data.examples import Examples, SparseCross
from interactrank_jax.data.prepare import prepare
from interactrank_jax.data.schema import FeatureSpec, Schema
from interactrank_jax.errors import InputError
from interactrank_jax.iqp import expressions, features
from interactrank_jax.iqp import spec as spec_lib
from tests.data import handmade_log

ACTIONS = ("click", "save")
SCHEMA = Schema(
    (
        FeatureSpec("country", "user", "categorical"),
        FeatureSpec("device", "request", "categorical"),
        FeatureSpec("age", "user", "numeric"),
        FeatureSpec("period", "user", "categorical"),
    ),
    ACTIONS,
)
ALL_KINDS = (
    "share:click:1",
    "share:click:3",
    "share:save:400",
    "share:impression:5",
    "share:click:4:country",
    "share:save:9:device",
    "item_share:click:3",
    "item_share:save:6:country",
    "rate:click:4",
    "rate:save:8:device",
    "item_rate:click:2",
    "item_rate:save:400:country",
)
MEANS = np.array([[0.3, 0.1]])
FOLDS = 4
FOLD_MEANS = np.linspace(0.1, 0.5, 2 * (FOLDS + 1)).reshape(FOLDS + 1, 2)
PRIOR = 5.0


def make_engagements(count: int = 600, seed: int = 0) -> Engagements:
    rng = np.random.default_rng(seed)
    time = rng.integers(0, 20, count) * SECONDS_PER_DAY + rng.integers(0, 2, count) * 86_399
    return Engagements(
        user=np.zeros(count, np.int32),
        query=rng.integers(-1, 4, count).astype(np.int32),
        item=rng.integers(1, 9, count).astype(np.int32),
        action=rng.integers(IMPRESSION, 2, count).astype(np.int8),
        time=time,
        event_time=time,
        fold=rng.integers(0, FOLDS, count).astype(np.int8),
        segments={
            "country": rng.integers(-1, 2, count).astype(np.int32),
            "device": rng.integers(0, 2, count).astype(np.int32),
        },
    )


def make_features(engagements: Engagements, names=ALL_KINDS, lag_days=1) -> features.CrossFeatures:
    timeless = lag_days is None
    return features.CrossFeatures(
        spec_lib.parse_specs(names, SCHEMA),
        engagements,
        engagements.fold if timeless else engagements.time // SECONDS_PER_DAY,
        actions=ACTIONS,
        lag_days=lag_days,
        prior=PRIOR,
        mean_rates=FOLD_MEANS if timeless else MEANS,
        backend=ibis.duckdb.connect(),
    )


def make_probes(count: int, timeless: bool = False, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    periods = rng.integers(-1, FOLDS, count) if timeless else rng.integers(-2, 30, count)
    return {
        "query": rng.integers(0, 5, count),
        "item": rng.integers(1, 10, count),
        "period": periods,
        "country": rng.integers(0, 3, count),
        "device": rng.integers(0, 2, count),
    }


def brute_force(
    engagements: Engagements, probes: dict[str, np.ndarray], names=ALL_KINDS, lag_days=1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts and values straight from the definition, one probe and one feature at a time."""
    days = engagements.time // SECONDS_PER_DAY
    count = len(probes["query"])
    numerator = np.zeros((count, len(names)), np.int64)
    denominator = np.zeros((count, len(names)), np.int64)
    values = np.zeros((count, len(names)))
    for row in range(count):
        period = probes["period"][row]
        for k, name in enumerate(names):
            kind, action, window, *segment = name.split(":")
            if lag_days is None:
                within = engagements.fold != period
                mean = FOLD_MEANS[period]
            else:
                last = period - lag_days
                within = (days > last - int(window)) & (days <= last)
                mean = MEANS[0]
            if not kind.startswith("item_"):
                within = within & (engagements.query == probes["query"][row])
            for column in segment:
                within = within & (engagements.segments[column] == probes[column][row])
            item = engagements.item == probes["item"][row]
            code = (*ACTIONS, "impression").index(action)
            done = engagements.action == (IMPRESSION if action == "impression" else code)
            c = int((within & item & done).sum())
            if kind.endswith("rate"):
                total = int((within & item & (engagements.action == IMPRESSION)).sum())
                values[row, k] = (c - mean[code] * total) / (total + PRIOR)
            else:
                total = int((within & done).sum())
                values[row, k] = c / (total + PRIOR)
            numerator[row, k], denominator[row, k] = c, total
    return numerator, denominator, values


def _segments(probes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: probes[name] for name in ("country", "device")}


@pytest.mark.parametrize("lag_days", [1, 3, None])
def test_every_kind_equals_the_definition(lag_days):
    engagements = make_engagements()
    probes = make_probes(250, timeless=lag_days is None)
    made = make_features(engagements, lag_days=lag_days)
    numerator, denominator = made.counts(
        probes["query"], probes["item"], probes["period"], _segments(probes)
    )
    expected = brute_force(engagements, probes, lag_days=lag_days)
    assert np.array_equal(numerator, expected[0])
    assert np.array_equal(denominator, expected[1])
    values = made.values(numerator, denominator, probes["period"])
    np.testing.assert_allclose(values, expected[2], rtol=1e-6)
    assert not values[(expected[0] == 0) & (expected[1] == 0)].any()
    assert numerator.any(axis=0).all()  # every feature was put to the test


@pytest.mark.parametrize(
    ("day", "counted"),
    [(6, False), (7, True), (8, True), (9, True), (10, False), (11, False), (12, False)],
)
def test_a_window_holds_exactly_its_days(day, counted):
    # day(t) = 11, lag 2, window 3: days 7, 8 and 9.
    one = make_engagements(1)
    one.query[0], one.item[0], one.action[0] = 0, 1, 0
    one.time[0] = day * SECONDS_PER_DAY
    made = make_features(one, ["share:click:3", "item_share:click:3"], lag_days=2)
    numerator, denominator = made.counts(np.array([0]), np.array([1]), np.array([11]), {})
    assert numerator.tolist() == denominator.tolist() == [[int(counted)] * 2]


def test_an_engagement_without_a_query_counts_for_items_only():
    one = make_engagements(1)
    one.query[0], one.item[0], one.action[0], one.time[0] = -1, 1, 0, 0
    made = make_features(one, ["share:click:9", "item_share:click:9"])
    numerator, _ = made.counts(np.array([-1, 0]), np.array([1, 1]), np.array([2, 2]), {})
    assert numerator.tolist() == [[0, 1], [0, 1]]


def _every_item(sparse: SparseCross, request: int, items: int) -> np.ndarray:
    group = sparse.group[request]
    rows = slice(sparse.indptr[group], sparse.indptr[group + 1])
    dense = np.zeros((items, sparse.value.shape[1]), np.float32)
    dense[sparse.item[rows]] = sparse.value[rows]
    return dense


@pytest.mark.parametrize(
    "names",
    [
        ("share:click:3", "share:save:9:country"),
        ("rate:click:4",),
        ("item_share:click:3",),
        ALL_KINDS,
    ],
)
@pytest.mark.parametrize("lag_days", [1, None])
def test_sparse_features_hold_every_item_with_a_value(names, lag_days, monkeypatch):
    monkeypatch.setattr(features, "PROBES_AT_ONCE", 60)  # several queries to the backend
    engagements = make_engagements()
    probes = make_probes(12)
    if lag_days is None:
        probes["period"] = np.full(12, -1)
    made = make_features(engagements, names, lag_days)
    used = {name: probes[name] for name in made.segments}
    sparse = made.sparse(probes["query"], probes["period"], used)
    every = {name: np.repeat(column, 10) for name, column in probes.items()}
    every["item"] = np.tile(np.arange(10), 12)
    counts = made.counts(
        every["query"], every["item"], every["period"], {name: every[name] for name in used}
    )
    expected = made.values(*counts, every["period"]).reshape(12, 10, len(names))
    for request in range(12):
        assert np.array_equal(_every_item(sparse, request, 10), expected[request])
    for low, high in zip(sparse.indptr[:-1], sparse.indptr[1:], strict=True):
        assert (np.diff(sparse.item[low:high]) > 0).all()
    assert sparse.value.any(axis=1).all()


def test_requests_alike_share_one_group():
    made = make_features(make_engagements(), ["share:click:3:country"])
    sparse = made.sparse(
        np.array([0, 0, 0, 1]), np.array([5, 5, 5, 5]), {"country": np.array([0, 1, 0, 0])}
    )
    assert sparse.group[0] == sparse.group[2]
    assert len(set(sparse.group.tolist())) == 3


def test_no_cross_features_give_empty_arrays():
    made = make_features(make_engagements(), [])
    assert made.counts(np.zeros(3), np.zeros(3), np.zeros(3), {})[0].shape == (3, 0)
    sparse = made.sparse(np.zeros(3, int), np.zeros(3, int), {})
    assert not len(sparse.item)
    assert sparse.value.shape == (0, 0)


@pytest.mark.parametrize("protocol", ["clean_time", "clean_random"])
def test_slates_and_corpus_hold_the_same_bits(protocol, tmp_path):
    log = handmade_log.write_log(tmp_path / "log", handmade_log.make_tables())
    config = handmade_log.data_config(**{
        "protocol": protocol,
        "cross.features": ("share:click:7", "rate:click:30", "item_rate:save:30:country"),
    })  # fmt: skip
    prepare(config, log, tmp_path / "examples")
    examples = Examples(tmp_path / "examples")
    checked = 0
    for split in ("validation", "test"):
        sparse = examples.sparse_cross(split)
        for block in examples.blocks(split):
            for row, request in enumerate(block["request_index"]):
                known = _every_item(sparse, request, examples.num_items)
                items = block["item"][row][block["mask"][row]]
                assert np.array_equal(known[items], block["cross"][row][block["mask"][row]])
                checked += np.count_nonzero(known[items])
    assert checked > 100


@pytest.mark.parametrize("keys", [(), ("item",), ("query", "item"), ("query", "country")])
def test_the_same_expressions_compile_for_spark(keys):
    columns = dict.fromkeys(("query", "item", "country", "action", "period"), "int32")
    counts = expressions.period_counts(ibis.table(columns, "log"), keys, {"click": 0, "save": 1})
    probes = ibis.table(dict.fromkeys((*keys, "period"), "int32") | {"probe": "int64"}, "probes")
    windows = [("click", 7), ("save", 30)]
    for expression in (
        expressions.windowed(counts, probes, keys, windows, 1),
        expressions.out_of_fold(counts, probes, keys, windows),
    ):
        assert "OVER" in ibis.to_sql(expression, dialect="pyspark")
    assert "RANGE BETWEEN 7 PRECEDING AND 1 PRECEDING" in ibis.to_sql(
        expressions.windowed(counts, probes, keys, windows, 1), dialect="pyspark"
    )


def test_specs_are_parsed():
    share, rate = spec_lib.parse_specs(["share:click:30:country", "item_rate:save:7"], SCHEMA)
    assert (share.kind, share.action, share.window, share.segment) == (
        "share",
        "click",
        30,
        "country",
    )
    assert share.count_keys == ("query", "country", "item")
    assert share.total_keys == ("query", "country")
    assert rate.total_keys == rate.count_keys == ("item",)
    assert (share.total_action, rate.total_action) == ("click", "impression")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("share:click", "malformed"),
        ("share:click:0", "malformed"),
        ("share:click:-3", "malformed"),
        ("share:click:7:country:more", "malformed"),
        ("shares:click:7", "Did you mean 'share'"),
        ("share:clik:7", "Did you mean 'click'"),
        ("share:click:7:county", "Did you mean 'country'"),
        ("share:click:7:age", "has segment 'age'"),
        ("share:click:7:period", "cannot be called 'period'.*Rename"),
        ("rate:impression:7", "the rate of impressions is 1"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(name, message):
    with pytest.raises(InputError, match=message) as error:
        spec_lib.parse_specs(["share:click:9", name], SCHEMA)
    assert name in str(error.value)


def test_a_spec_listed_twice_is_refused():
    with pytest.raises(InputError, match="listed twice"):
        spec_lib.parse_specs(["share:click:9", "share:click:9"], SCHEMA)


@pytest.mark.parametrize("lag_days", [0, -1])
def test_a_lag_below_one_day_is_refused(lag_days):
    with pytest.raises(InputError, match=f"lag_days is {lag_days}. Expected at least 1"):
        spec_lib.check_lag(lag_days)
