import ibis
import numpy as np
import pytest

from interactrank_jax.examples import cross_features
from interactrank_jax.examples.engagements import IMPRESSION, Engagements
from interactrank_jax.examples.format import Examples, SparseCross
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.state import spec as spec_lib
from interactrank_jax.state.days import SECONDS_PER_DAY
from interactrank_jax.state.recipe import Recipe
from tests.log import handmade_log

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
CREATED = np.array([-(2**40), 0, 3, 5, 8, 12, 15, -9, 19, 4])  # day of each item
FOLDS = 4
FOLD_MEANS = np.linspace(0.1, 0.5, 2 * (FOLDS + 1)).reshape(FOLDS + 1, 2)
PRIOR = 5.0


def make_engagements(count: int = 600, seed: int = 0) -> Engagements:
    rng = np.random.default_rng(seed)
    time = rng.integers(0, 20, count) * SECONDS_PER_DAY + rng.integers(0, 2, count) * 86_399
    query = rng.integers(-1, 4, count).astype(np.int32)
    return Engagements(
        user=np.zeros(count, np.int32),
        query=query,
        item=rng.integers(1, 9, count).astype(np.int32),
        action=rng.integers(IMPRESSION, 2, count).astype(np.int8),
        time=time,
        event_time=time,
        fold=rng.integers(0, FOLDS, count).astype(np.int8),
        segments={
            "country": rng.integers(-1, 2, count).astype(np.int32),
            "device": rng.integers(0, 2, count).astype(np.int32),
            "query_form": np.where(query < 0, query, query // 2),
        },
        weight=rng.integers(1, 128, count) / 128,
        is_counted=np.ones(count, bool),
    )


def make_features(
    engagements: Engagements, names=ALL_KINDS, lag_days=1, **recipe
) -> cross_features.CrossFeatures:
    timeless = lag_days is None
    specs = spec_lib.parse_specs(names, SCHEMA, with_fresh="fresh_days" in recipe)
    return cross_features.CrossFeatures(
        Recipe(specs, lag_days, PRIOR, **recipe),
        engagements,
        engagements.fold if timeless else engagements.time // SECONDS_PER_DAY,
        actions=ACTIONS,
        mean_rates=FOLD_MEANS if timeless else MEANS,
        created=CREATED,
        backend=ibis.duckdb.connect(),
    )


def make_probes(count: int, timeless: bool = False, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    periods = rng.integers(-1, FOLDS, count) if timeless else rng.integers(-2, 30, count)
    query = rng.integers(0, 5, count)
    return {
        "query": query,
        "query_form": query // 2,
        "item": rng.integers(1, 10, count),
        "period": periods,
        "country": rng.integers(0, 3, count),
        "device": rng.integers(0, 2, count),
    }


def literal_count(
    engagements: Engagements, probe: dict[str, int], within: np.ndarray, action: str, weighted: bool
) -> float:
    """Counts rows of an action, one by one."""
    code = IMPRESSION if action == "impression" else ACTIONS.index(action)
    rows = within & (engagements.action == code)
    return engagements.weight[rows].sum() if weighted and code == IMPRESSION else rows.sum()


def brute_force(
    engagements: Engagements,
    probes: dict[str, np.ndarray],
    names=ALL_KINDS,
    lag_days=1,
    backoff=0.0,
    query_form="",
    weighted=False,
    fresh_days=0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts and values straight from the definition, one probe and one feature at a time."""
    days = engagements.time // SECONDS_PER_DAY
    count = len(probes["query"])
    numerator, denominator, values = (np.zeros((count, len(names))) for _ in range(3))
    was_fresh = days - CREATED[engagements.item] < fresh_days
    for row in range(count):
        probe = {name: column[row] for name, column in probes.items()}
        for k, name in enumerate(names):
            kind, action, window, *segment = name.split(":")
            if lag_days is None:
                in_time = engagements.fold != probe["period"]
                mean = FOLD_MEANS[probe["period"]]
            else:
                last = probe["period"] - lag_days
                in_time = (days > last - int(window)) & (days <= last)
                mean = MEANS[0]
            everything = np.ones(len(engagements), bool)
            of_query = of_form = everything
            if not kind.startswith("item_"):
                of_query = engagements.query == probe["query"]
                of_form = engagements.segments["query_form"] == probe["query_form"]
            levels = [of_query]
            if segment == ["fresh"]:
                fresh = probe["period"] - CREATED[probe["item"]] < fresh_days
                levels.insert(0, of_query & (was_fresh == fresh))
            elif segment:
                levels.insert(0, of_query & (engagements.segments[segment[0]] == probe[segment[0]]))
            if query_form and not kind.startswith("item_"):
                levels.append(of_form)
            value = None
            for level in reversed(levels if backoff else levels[:1]):
                within = in_time & level
                of_item = within & (engagements.item == probe["item"])
                c = literal_count(engagements, probe, of_item, action, weighted)
                if kind.endswith("rate"):
                    total = literal_count(engagements, probe, of_item, "impression", weighted)
                    excess = c - mean[ACTIONS.index(action)] * total
                else:
                    total, excess = literal_count(engagements, probe, within, action, weighted), c
                if value is None:
                    value = excess / (total + PRIOR)
                else:
                    value = (excess + backoff * value) / (total + backoff)
            values[row, k], numerator[row, k], denominator[row, k] = value, c, total
    return numerator, denominator, values


def _segments(probes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: probes[name] for name in ("country", "device", "query_form")}


RECIPES = {
    "plain": {},
    "back-off": {"backoff": 3.0},
    "back-off to the query's form": {"backoff": 3.0, "query_form": "query_text"},
    "weighted": {"debias": "position", "position_weights": (1.0,)},
    "all": {
        "backoff": 0.5,
        "query_form": "query_text",
        "debias": "position",
        "position_weights": (1.0,),
        "fresh_days": 4,
    },
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("lag_days", [1, 3, None])
def test_every_kind_equals_the_definition(lag_days, recipe):
    chosen = dict(RECIPES[recipe])
    if lag_days is None:
        chosen.pop("fresh_days", None)
    names = ALL_KINDS
    if "fresh_days" in chosen:
        names = (*names, "share:click:9:fresh", "item_rate:save:20:fresh")
    engagements = make_engagements()
    probes = make_probes(250, timeless=lag_days is None)
    made = make_features(engagements, names, lag_days, **chosen)
    numerator, denominator = made.counts(
        probes["query"], probes["item"], probes["period"], _segments(probes)
    )
    literal = {name: chosen[name] for name in ("backoff", "query_form") if name in chosen}
    expected = brute_force(
        engagements, probes, names, lag_days,
        weighted="debias" in chosen, fresh_days=chosen.get("fresh_days", 0), **literal,
    )  # fmt: skip
    assert np.array_equal(numerator[:, made.first_levels], expected[0])
    assert np.array_equal(denominator[:, made.first_levels], expected[1])
    values = made.values(numerator, denominator, probes["period"])
    np.testing.assert_allclose(values, expected[2], rtol=1e-6)
    unseen = np.add.reduceat(numerator + denominator, made.first_levels, axis=1) == 0
    assert unseen.any()
    assert not values[unseen].any()
    assert numerator.any(axis=0).all()  # every feature was put to the test


def test_an_empty_cell_has_its_parents_value():
    one = make_engagements(1)
    one.query[0], one.item[0], one.action[0], one.time[0] = 0, 1, 0, 0
    one.segments["country"][0], one.segments["query_form"][0] = 0, 0
    names = ["share:click:9:country", "share:click:9"]
    made = make_features(one, names, backoff=5.0, query_form="query_text")

    def values(query, country, form):
        probe = (np.array([query]), np.array([1]), np.array([2]))
        segments = {"country": np.array([country]), "query_form": np.array([form])}
        return made.values(*made.counts(*probe, segments), probe[2])[0].tolist()

    form = 1 / (1 + PRIOR)
    query = (1 + 5 * form) / (1 + 5)
    country = (1 + 5 * query) / (1 + 5)
    np.testing.assert_allclose(values(0, 0, 0), [country, query], rtol=1e-6)
    np.testing.assert_allclose(values(0, 7, 0), [query, query], rtol=1e-6)  # an empty segment
    np.testing.assert_allclose(values(8, 0, 0), [form, form], rtol=1e-6)  # a query of its form
    assert values(8, 0, 8) == [0, 0]


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
@pytest.mark.parametrize(
    ("lag_days", "recipe"),
    [
        (1, {}),
        (None, {}),
        (1, {"backoff": 2.0, "query_form": "query_text"}),
        (1, {"fresh_days": 6}),
    ],
)
def test_sparse_features_hold_every_item_with_a_value(names, lag_days, recipe, monkeypatch):
    monkeypatch.setattr(cross_features, "PROBES_AT_ONCE", 60)  # several queries to the backend
    engagements = make_engagements()
    probes = make_probes(12)
    if lag_days is None:
        probes["period"] = np.full(12, -1)
    if "fresh_days" in recipe:
        names = (*names, "share:click:5:fresh")
    made = make_features(engagements, names, lag_days, **recipe)
    used = {name: probes[name] for name in made.recipe.key_columns if name != "fresh"}
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
        ("share:click:0", "1 to 36,500 days"),
        ("share:click:36501", "1 to 36,500 days"),
        ("share:click:99999999999999999999999", "malformed"),
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


def test_names_are_all_combinations():
    assert spec_lib.names(["share", "rate"], ["click"], [7, 30], ["", "country"]) == (
        "share:click:7", "share:click:7:country", "share:click:30", "share:click:30:country",
        "rate:click:7", "rate:click:7:country", "rate:click:30", "rate:click:30:country",
    )  # fmt: skip
