"""Mean rates of training, and the rates of users that are differences from them."""

from pathlib import Path

import numpy as np
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.examples.rates import (
    MeanRates,
    Tally,
    item_means,
    rate_features,
    rate_names,
)
from interactrank_jax.state.days import SECONDS_PER_DAY
from interactrank_jax.state.histories import NO_FOLD
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.spec import ITEM_ROW
from tests.log.handmade_log import START, data_config, make_tables, random_config, write_log

ACTIONS = ("click", "save")
WEIGHTS = (1.0, 0.5, 0.25)


def test_rates_are_shrunk_and_zero_for_a_new_user():
    counts, means = np.array([[3, 1], [0, 0]]), (0.5, np.array([0.125, 0.125]))
    features = rate_features(counts, np.array([8, 0]), means)
    np.testing.assert_allclose(features[0], [3, (3 - 4) / 13, 1, (1 - 1) / 13], rtol=1e-6)
    assert features.dtype == np.float32
    assert not features[1].any()
    names = [feature.name for feature in rate_names(("a", "b"), (0, 1))]
    assert names == ["user_count_a", "user_rate_a", "user_count_b", "user_rate_b"]


def make_columns(count: int, folds: int, with_stages: bool) -> tuple[dict, np.ndarray]:
    rng = np.random.default_rng(0)
    columns = {
        ITEM_ROW: rng.integers(1, 6, count),
        "position": rng.integers(0, 6, count),
        "propensity": rng.uniform(0.05, 1, count).astype(np.float32),
    }
    if folds:
        columns["period"] = rng.integers(0, folds, count).astype(np.int32)
    if with_stages:
        columns["stage"] = rng.integers(1, 4, count).astype(np.int8)
    return columns, rng.integers(0, 2, (count, 2)).astype(np.uint8)


def _weight(recipe: Recipe, position: int, propensity: float) -> float:
    if recipe.debias == "position":
        return WEIGHTS[min(position, 2)]
    if recipe.debias == "propensity":
        return np.floor(max(np.float64(propensity), np.float64(np.float32(0.1))) * 128 + 0.5) / 128
    return 1.0


@pytest.mark.parametrize("debias", ["none", "position", "propensity"])
@pytest.mark.parametrize("with_stages", [True, False])
@pytest.mark.parametrize("folds", [0, 4])
def test_mean_rates_are_over_what_users_saw_of_other_folds(folds, with_stages, debias):
    recipe = Recipe((), 1, 5.0, debias=debias, position_weights=WEIGHTS)
    columns, actions = make_columns(300, folds, with_stages)
    tally = Tally.empty(folds, len(ACTIONS), items=7)
    for rows in np.array_split(np.random.default_rng(1).permutation(300), 5):
        tally.add({name: values[rows] for name, values in columns.items()}, actions[rows], recipe)
    means = MeanRates.from_tally(tally, ACTIONS, folds)
    assert tally.items.tolist() == np.bincount(columns[ITEM_ROW], minlength=7).tolist()
    assert tally.is_engaged

    asked = np.arange(NO_FOLD, folds)
    of_users, of_items = means.of_users(asked), means.of_items(asked)
    for row, fold in enumerate(asked):
        seen = [
            m
            for m in range(300)
            if (not with_stages or columns["stage"][m] == 1)
            and (fold == NO_FOLD or columns["period"][m] != fold)
        ]
        pairs = [(columns["position"][m], columns["propensity"][m]) for m in seen]
        weight = sum(_weight(recipe, *pair) for pair in pairs)
        for index, action in enumerate(ACTIONS):
            count = sum(int(actions[m, index]) for m in seen)
            by_user = np.broadcast_to(of_users[action], len(asked))[row]
            by_item = np.broadcast_to(of_items[action], len(asked))[row]
            np.testing.assert_allclose(by_user, count / len(seen), rtol=1e-12)
            np.testing.assert_allclose(by_item, count / weight, rtol=1e-12)


def test_means_of_nothing_seen_are_zero():
    columns, actions = make_columns(9, 0, True)
    columns["stage"][:] = 3
    tally = Tally.empty(0, 2, items=7)
    tally.add(columns, actions, Recipe((), 1, 5.0))
    means = MeanRates.from_tally(tally, ACTIONS, 0)
    assert set(means.to_json().values()) == {0.0}


def test_old_means_replace_those_over_all_of_training_and_shift_those_of_folds_alike():
    columns, actions = make_columns(300, 4, True)
    tallies = [Tally.empty(4, 2, items=7) for _ in range(2)]
    recipe = Recipe((), 1, 5.0, debias="position", position_weights=WEIGHTS)
    tallies[0].add({name: column[:150] for name, column in columns.items()}, actions[:150], recipe)
    tallies[1].add(columns, actions, recipe)
    old, new = (MeanRates.from_tally(tally, ACTIONS, 4) for tally in tallies)
    assert old.to_json() != new.to_json()
    extended = new.with_old(old.to_json())
    assert extended.to_json() == old.to_json()
    folds, evaluation = np.arange(4), np.full(3, NO_FOLD)
    for action in ACTIONS:
        for of in (MeanRates.of_users, MeanRates.of_items):
            assert np.array_equal(of(extended, evaluation)[action], of(old, evaluation)[action])
            # So a feature has one centre in training and in evaluation.
            away = of(new, folds)[action] - of(new, evaluation)[action][0]
            kept = of(extended, folds)[action] - of(old, evaluation)[action][0]
            np.testing.assert_allclose(kept, away, rtol=1e-9)
        assert item_means(extended.to_json())[action] == old.of_items(evaluation)[action][0]


# --- In examples that extend others --------------------------------------------------------------

RATES = {
    "cross.features": ("share:click:7", "rate:click:30", "item_rate:save:30:country"),
    "history.rates": ("click", "save"),
}


def _values(path: Path) -> dict[tuple[str, str], list[float]]:
    """By request and item: cross features, and the numbers of the user."""
    examples, values = Examples(path), {}
    for split in examples.metadata.splits:
        requests = examples.raw_requests(split)["request_id"].to_pylist()
        for block in examples.blocks(split):
            for example, place in zip(*np.nonzero(block["mask"]), strict=True):
                request = requests[block["request_index"][example]]
                item = examples.item_ids[block["item"][example, place]]
                numbers = block["cross"][example, place], block["request_numeric"][example, 2:]
                values[request, item] = np.concatenate(numbers).tolist()
    return values


@pytest.mark.long  # prepares a log several times
def test_an_extension_has_the_same_bits_for_the_requests_before(tmp_path):
    tables = make_tables(150)
    end = START + 20 * SECONDS_PER_DAY
    early = {"items": tables["items"]}
    early["requests"] = tables["requests"].filter(tables["requests"]["timestamp"].to_numpy() < end)
    early["events"] = tables["events"].filter(tables["events"]["arrival_time"].to_numpy() < end)
    ids = set(early["requests"]["request_id"].to_pylist())
    known = [request in ids for request in tables["impressions"]["request_id"].to_pylist()]
    early["impressions"] = tables["impressions"].filter(known)
    config = data_config(**RATES)
    old = prepare(config, write_log(tmp_path / "early", early), tmp_path / "old")
    log = write_log(tmp_path / "log", tables)
    new = prepare(config, log, tmp_path / "new", extend=tmp_path / "old")
    plain = prepare(config, log, tmp_path / "plain")
    assert new.encoder.mean_rates == old.encoder.mean_rates != plain.encoder.mean_rates
    before, after = _values(tmp_path / "old"), _values(tmp_path / "new")
    assert len(after) > len(before) > 100
    assert {key: after[key] for key in before} == before
    anew = _values(tmp_path / "plain")
    assert {key: anew[key] for key in before} != before  # means are those of another training


def test_mean_rates_in_the_encoder_are_those_over_training(tmp_path):
    config = random_config(**{**RATES, "cross.debias.name": "propensity"})
    metadata = prepare(config, write_log(tmp_path / "log", make_tables(60)), tmp_path / "out")
    done, shown, weight = np.zeros(2), 0, 0.0
    for block in Examples(tmp_path / "out").blocks("train"):
        seen = block["mask"] & (block["stage"] == 1)
        done += block["actions"][seen].sum(axis=0)
        shown += seen.sum()
        weight += (np.floor(block["propensity"][seen].astype(float) * 128 + 0.5) / 128).sum()
    means = metadata.encoder.mean_rates
    for index, action in enumerate(ACTIONS):
        np.testing.assert_allclose(means[f"{action} per impression"], done[index] / shown)
        np.testing.assert_allclose(means[f"{action} per weight"], done[index] / weight)
