"""How engagements are counted: what a config may ask for, weights, forms and caps."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.state import normalized_query
from interactrank_jax.state.build import build_store
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.source import Source
from tests.log.handmade_log import START, make_tables, random_config, replace, write_log
from tests.state.conftest import state_config

DAY = 86_400


def recipe_of(log, timeless=False, **overrides):
    return Recipe.from_config(state_config(**overrides).cross, log, timeless)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"cross.backoff.strength": -1.0}, r"backoff\.strength is -1"),
        ({"cross.backoff.query_form": "query_text"}, r"needs a backoff\.strength above 0"),
        (
            {"cross.backoff.strength": 5.0, "cross.backoff.query_form": "query_txt"},
            "Did you mean 'query_text'",
        ),
        ({"cross.user_day_cap": -1}, r"user_day_cap is -1"),
        ({"cross.debias.name": "positions"}, "Did you mean 'position'"),
        ({"cross.debias.name": "position"}, r"position_weights is empty.*state positions"),
        (
            {"cross.debias.name": "position", "cross.debias.position_weights": (1.0, 0.001)},
            "none may be smaller",
        ),
        ({"cross.features": ("share:click:7:fresh",)}, r"set config\.data\.cross\.fresh_days"),
    ],
)
def test_what_cannot_be_is_refused(overrides, message, log):
    with pytest.raises(InputError, match=message):
        recipe_of(log, **overrides)


def test_days_are_needed_for_caps_and_fresh_items(log):
    fresh = {"cross.features": ("share:click:7:fresh",), "cross.fresh_days": 3}
    for overrides in ({"cross.user_day_cap": 5}, fresh):
        with pytest.raises(InputError, match="there are no days"):
            recipe_of(log, timeless=True, **overrides)


def test_a_column_that_the_log_lacks_is_named(tmp_path):
    tables = make_tables(40)
    tables["items"] = tables["items"].drop_columns("created_at")
    tables["impressions"] = tables["impressions"].drop_columns("propensity")
    log = open_log(write_log(tmp_path / "log", tables))
    with pytest.raises(InputError, match="needs the column 'created_at' of items"):
        recipe_of(log, **{"cross.features": ("share:click:7:fresh",), "cross.fresh_days": 3})
    with pytest.raises(InputError, match="impressions have no column 'propensity'"):
        recipe_of(log, **{"cross.debias.name": "propensity"})


def test_impressions_weigh_what_their_position_or_propensity_says(log):
    debias = {"cross.debias.name": "position", "cross.debias.position_weights": (1.0, 0.5, 0.3)}
    weights = recipe_of(log, **debias).impression_weight(np.array([0, 1, 2, 9]), None)
    assert weights.tolist() == [1.0, 0.5, 38 / 128, 38 / 128]  # to the nearest 128th
    debias = {"cross.debias.name": "propensity", "cross.debias.smallest_propensity": 0.25}
    weights = recipe_of(log, **debias).impression_weight(np.zeros(3), np.array([0.01, 0.5, 1.0]))
    assert weights.tolist() == [0.25, 0.5, 1.0]


def test_one_set_of_words_is_one_form():
    texts = ["Red  shoes", "shoes RED!", "red shoes red", "red shoe", "", "ＲＥＤ shoes", "ﬁn Σ"]
    found = [normalized_query.form(text) for text in texts]
    assert found[:2] == found[1:3] == ["red shoes"] * 2
    assert found[3:] == ["red shoe", "", "red shoes", "fin σ"]


def test_a_query_has_no_form_before_it_was_asked(log, backend):
    by_words = {"cross.backoff.strength": 3.0, "cross.backoff.query_form": "query_text"}
    events = Source(log, recipe_of(log, **by_words), backend).events()
    rows = backend.to_pyarrow(events).to_pylist()
    first_day = {}
    for request in pq.read_table(log.path / "requests.parquet").to_pylist():
        query, day = request["query_id"], request["timestamp"] // DAY
        first_day[query] = min(day, first_day.get(query, day))
    for row in rows:
        is_known = row["query"] is not None and first_day[row["query"]] <= row["period"]
        assert (row["query_form"] is not None) == is_known
    assert any(row["query"] is None for row in rows)
    assert any(row["query_form"] is not None for row in rows)


def test_a_bot_counts_no_more_than_its_cap(backend, tmp_path):
    """One user with ten thousand times the median of events, most of them on one day."""
    tables = make_tables(120)
    events, copies = tables["events"], 10_000
    row = events.filter(pa.compute.equal(events["user_id"], "u1")).slice(0, 1)
    bot = row.take(pa.array(np.zeros(copies, np.int64)))
    moment = np.arange(copies) % DAY + START + 5 * DAY
    for column, values in (
        ("event_id", [f"bot{i}" for i in range(copies)]),
        ("event_time", moment),
        ("arrival_time", moment),
        ("query_id", np.full(copies, 101)),
        ("action", ["click"] * copies),
    ):
        bot = replace(bot, column, values)
    tables["events"] = pa.concat_tables([events, bot])
    log = open_log(write_log(tmp_path / "log", tables))
    counts = {}
    for cap in (0, 20):
        config = state_config(**{"cross.features": ("share:click:7",), "cross.user_day_cap": cap})
        held = build_store(config, log, tmp_path / f"state-{cap}", backend)
        table = backend.to_pyarrow(held.counts(("query",), backend)).to_pylist()
        counts[cap] = {(row["query"], row["period"]): row["click"] for row in table}
    day = START // DAY + 5
    assert counts[0][101, day] >= copies
    assert 20 <= counts[20][101, day] < 60  # the others' clicks are all there
    others = [{key: n for key, n in held.items() if key != (101, day)} for held in counts.values()]
    assert others[0] == others[1]
    assert len(others[0]) > 20


def test_values_of_the_whole_corpus_can_be_left_out(log, tmp_path):
    config = state_config()
    config.cross.corpus = False
    prepare(config, log.path, tmp_path / "examples")
    examples = Examples(tmp_path / "examples")
    assert not examples.has_corpus("test")
    with pytest.raises(InputError, match=r"cross\.corpus=True"):
        examples.sparse_cross("test")


def test_a_random_split_backs_off_out_of_fold(log, tmp_path):
    overrides = {
        "cross.features": ("share:click:30:country", "rate:click:30"),
        "cross.backoff.strength": 2.0,
        "cross.backoff.query_form": "query_text",
    }
    prepare(random_config(**overrides), log.path, tmp_path / "examples")
    block = next(iter(Examples(tmp_path / "examples").blocks("train")))
    values = block["cross"][block["mask"]]
    plain = block["cross_count"][block["mask"]] / (block["cross_total"][block["mask"]] + 5)
    assert (values[:, 0] > 0).sum() > (plain[:, 0] > 0).sum()  # where the segment is empty
