"""Cross features of candidates: values and counts equal those of the definition, one by one."""

import ibis
import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.examples.candidates import cross_values, first_counts
from interactrank_jax.log.schema import IMPLICIT_ACTION, FeatureSpec, Schema
from interactrank_jax.state import expressions
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.spec import parse_specs

ACTIONS = ("click", "save")
SCHEMA = Schema(
    (
        FeatureSpec("country", "user", "categorical"),
        FeatureSpec("device", "request", "categorical"),
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
FRESH = ("share:click:9:fresh", "item_rate:save:20:fresh")
MEANS = np.array([[0.3, 0.1]])
CREATED = np.array([-(2**40), 0, 3, 5, 8, 12, 15, -9, 19, 4])  # day of each item
FOLDS = 4
FOLD_MEANS = np.linspace(0.1, 0.5, 2 * (FOLDS + 1)).reshape(FOLDS + 1, 2)  # the last is of all
PRIOR = 5.0
KEYS = ("query", "query_form", "country")  # -1 stands for an unknown one
Columns = dict[str, np.ndarray]
BACKEND = ibis.duckdb.connect()


def make_rows(count: int = 600, seed: int = 0, timeless: bool = False) -> Columns:
    """Random rows that count; some have no query or no country."""
    rng = np.random.default_rng(seed)
    query = rng.integers(-1, 4, count)
    return {
        "query": query,
        "query_form": np.where(query < 0, query, query // 2),
        "item": rng.integers(1, 9, count),
        "action": rng.choice([*ACTIONS, IMPLICIT_ACTION], count),
        "period": rng.integers(0, FOLDS if timeless else 20, count),
        "country": rng.integers(-1, 2, count),
        "device": rng.integers(0, 2, count),
        "weight": rng.integers(1, 128, count) / 128,
    }


def make_probes(count: int = 150, seed: int = 1, timeless: bool = False) -> Columns:
    """Random candidates."""
    rng = np.random.default_rng(seed)
    query = rng.integers(0, 5, count)
    return {
        "query": query,
        "query_form": query // 2,
        "item": rng.integers(1, 10, count),
        "period": rng.integers(-1, FOLDS, count) if timeless else rng.integers(-2, 30, count),
        "country": rng.integers(0, 3, count),
        "device": rng.integers(0, 2, count),
    }


def make_recipe(names=ALL_KINDS, lag_days: int | None = 1, **fields) -> Recipe:
    return Recipe(
        parse_specs(names, SCHEMA, with_fresh="fresh_days" in fields), lag_days, PRIOR, **fields
    )


def _table(columns: Columns, recipe: Recipe):
    """Hands rows to the engine, unknown keys as null."""
    if recipe.has_fresh:
        age = columns["period"] - CREATED[columns["item"]]
        columns = {**columns, "fresh": (age < recipe.fresh_days).astype(int)}
    arrays = {
        name: pa.array(values, mask=values < 0 if name in KEYS else None)
        for name, values in columns.items()
        if name != "weight" or recipe.is_weighted
    }
    return ibis.memtable(pa.table(arrays))


def features_of(
    recipe: Recipe, rows: Columns, probes: Columns
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns counts, totals and values of probes, `[M, K]`, as the preparation makes them."""
    table = _table(rows, recipe)
    count = len(probes["item"])
    asked = _table({**probes, "row": np.arange(count)}, recipe)
    sums = {}
    for keys, windows in recipe.windows.items():
        counts = expressions.period_counts(table, keys, {action: action for action, _ in windows})
        sums[keys] = expressions.sums_of(asked, counts, keys, recipe)
    counted, places = expressions.with_counts(asked, sums, recipe, also=("period",))
    result = BACKEND.to_pyarrow(counted).sort_by("row")
    columns = {name: result[name].to_numpy() for name in set(places.values())}
    means = MEANS[0] if recipe.lag_days is not None else FOLD_MEANS[probes["period"]].T
    by_action = dict(zip(ACTIONS, means, strict=True))
    values = cross_values(recipe, columns, places, by_action, count)
    return *first_counts(recipe, columns, places, count), values


def _literal_count(rows: Columns, within: np.ndarray, action: str, weighted: bool) -> float:
    chosen = within & (rows["action"] == action)
    is_weighted = weighted and action == IMPLICIT_ACTION
    return rows["weight"][chosen].sum() if is_weighted else chosen.sum()


def _literal_levels(recipe: Recipe, rows: Columns, probe: dict[str, int], name: str) -> list:
    """Returns which rows each level of a feature is counted over, from fine to coarse."""
    kind, _, _, *segment = name.split(":")
    levels = [np.ones(len(rows["item"]), bool)]
    if not kind.startswith("item_"):
        levels = [rows["query"] == probe["query"]]
    if segment == ["fresh"]:
        was_fresh = rows["period"] - CREATED[rows["item"]] < recipe.fresh_days
        is_fresh = probe["period"] - CREATED[probe["item"]] < recipe.fresh_days
        levels.insert(0, levels[0] & (was_fresh == is_fresh))
    elif segment:
        levels.insert(0, levels[0] & (rows[segment[0]] == probe[segment[0]]))
    if recipe.query_form and not kind.startswith("item_"):
        levels.append(rows["query_form"] == probe["query_form"])
    return levels if recipe.backoff else levels[:1]


def literal_features(
    recipe: Recipe, rows: Columns, probes: Columns
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Does what `features_of` does, one probe and one feature at a time."""
    shape = (len(probes["item"]), len(recipe.specs))
    numerator, denominator, values = (np.zeros(shape) for _ in range(3))
    for m in range(shape[0]):
        probe = {name: column[m] for name, column in probes.items()}
        for k, name in enumerate(spec.name for spec in recipe.specs):
            kind, action, window, *_ = name.split(":")
            if recipe.lag_days is None:
                in_time = rows["period"] != probe["period"]
                mean = FOLD_MEANS[probe["period"]]
            else:
                last = probe["period"] - recipe.lag_days
                in_time = (rows["period"] > last - int(window)) & (rows["period"] <= last)
                mean = MEANS[0]
            value = None
            for level in reversed(_literal_levels(recipe, rows, probe, name)):
                within = in_time & level
                of_item = within & (rows["item"] == probe["item"])
                c = _literal_count(rows, of_item, action, recipe.is_weighted)
                if kind.endswith("rate"):
                    total = _literal_count(rows, of_item, IMPLICIT_ACTION, recipe.is_weighted)
                    excess = c - mean[ACTIONS.index(action)] * total
                else:
                    total = _literal_count(rows, within, action, recipe.is_weighted)
                    excess = c
                if value is None:
                    value = excess / (total + PRIOR)
                else:
                    value = (excess + recipe.backoff * value) / (total + recipe.backoff)
            values[m, k], numerator[m, k], denominator[m, k] = value, c, total
    return numerator, denominator, values


WEIGHTED = {"debias": "position", "position_weights": (1.0,)}
FORMS = {"backoff": 3.0, "query_form": "query_text"}


@pytest.mark.parametrize(
    ("lag_days", "fields"),
    [
        (1, {}),
        (1, {"backoff": 3.0}),
        (1, WEIGHTED),
        (1, {**FORMS, **WEIGHTED, "fresh_days": 4}),
        (3, {**FORMS, **WEIGHTED, "fresh_days": 4}),
        (None, {}),
        (None, {**FORMS, **WEIGHTED}),
    ],
)
def test_every_kind_equals_the_definition(lag_days, fields):
    names = (*ALL_KINDS, *FRESH) if "fresh_days" in fields else ALL_KINDS
    recipe = make_recipe(names, lag_days, **fields)
    timeless = lag_days is None
    rows, probes = make_rows(timeless=timeless), make_probes(timeless=timeless)
    numerator, denominator, values = features_of(recipe, rows, probes)
    expected = literal_features(recipe, rows, probes)
    assert np.array_equal(numerator, np.rint(expected[0]))
    assert np.array_equal(denominator, np.rint(expected[1]))
    np.testing.assert_allclose(values, expected[2], rtol=1e-6)
    assert values.dtype == np.float32
    assert numerator.any(axis=0).all()  # every feature was put to the test


def test_what_was_never_seen_is_exactly_zero():
    recipe = make_recipe(ALL_KINDS, **FORMS)
    probes = make_probes()
    probes["item"][:] = 9  # no row is of it
    _, _, values = features_of(recipe, make_rows(), probes)
    assert not values.any()


def one_row(**columns) -> Columns:
    """One click on item 1 for query 0, on day 0, in the first country."""
    row = {"query": 0, "query_form": 0, "item": 1, "action": "click", "period": 0,
           "country": 0, "device": 0, "weight": 1.0, **columns}  # fmt: skip
    return {name: np.array([value]) for name, value in row.items()}


def probes_of(count: int, **columns) -> Columns:
    """So many candidates that are like the click, two days later, but for some columns."""
    probe = {"query": 0, "query_form": 0, "item": 1, "period": 2, "country": 0, "device": 0}
    return {name: np.full(count, value) for name, value in probe.items()} | {
        name: np.array(values) for name, values in columns.items()
    }


def test_an_empty_cell_has_its_parents_value():
    names = ["share:click:9:country", "share:click:9"]
    recipe = make_recipe(names, backoff=5.0, query_form="query_text")
    # As the click; in another country; of another query of its form; of another form.
    probes = probes_of(4, query=[0, 0, 8, 8], country=[0, 7, 0, 0], query_form=[0, 0, 0, 8])
    form = 1 / (1 + PRIOR)
    query = (1 + 5 * form) / (1 + 5)
    country = (1 + 5 * query) / (1 + 5)
    expected = [[country, query], [query, query], [form, form], [0, 0]]
    values = features_of(recipe, one_row(), probes)[2]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert not values[3].any()


def test_a_window_holds_exactly_its_days():
    # With lag 2 and window 3 a request of day t sees days t - 4, t - 3 and t - 2.
    recipe = make_recipe(["share:click:3", "item_share:click:3"], lag_days=2)
    days = range(7, 15)
    probes = probes_of(len(days), period=days)
    numerator, denominator, _ = features_of(recipe, one_row(period=9), probes)
    expected = [[int(day in (11, 12, 13))] * 2 for day in days]
    assert numerator.tolist() == denominator.tolist() == expected


def test_an_engagement_without_a_query_counts_for_items_only():
    recipe = make_recipe(["share:click:9", "item_share:click:9"])
    row = one_row(query=-1, query_form=-1)
    assert features_of(recipe, row, probes_of(1))[0].tolist() == [[0, 1]]


def test_no_features_are_no_columns():
    recipe = make_recipe([])
    for values in (cross_values(recipe, {}, {}, {}, 3), *first_counts(recipe, {}, {}, 3)):
        assert values.shape == (3, 0)
