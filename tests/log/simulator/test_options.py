"""The simulator's options: each does what it says, and off they change nothing."""

import hashlib
import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from interactrank_jax.log.adapters import ratings
from interactrank_jax.log.read import open_log
from interactrank_jax.log.simulator.behaviour import calibrated, engaged, search
from interactrank_jax.log.simulator.presets import PRESETS, resolve
from interactrank_jax.log.simulator.simulate import simulate
from interactrank_jax.log.simulator.tables import Requests
from interactrank_jax.log.simulator.world import DAY, START, World
from interactrank_jax.log.validate import validate
from tests.log.simulator.reading import columns, organic_clicks, rows_of, world_of

HALF_YEAR = int(182.5 * DAY)
TABLES = ("items", "requests", "impressions", "events", "truth/impressions")

# Of logs that were written before there were options: a digest of the values that are no floating
# point numbers, and the mean size of those that are, which may differ in the last bit by machine.
RECORDED = {
    "items": ("6ba6a829f097140b", 36.681),
    "requests": ("e3ea14a13ec8d14e", 1162.541),
    "impressions": ("2202556471842067", 0.59394757),
    "events": ("c54496bd4b840927", 0),
    "truth/impressions": ("e3b0c44298fc1c14", 4.2858879),
}


def recorded(path):
    """Returns what `RECORDED` holds of a log."""
    result = {}
    for name in TABLES:
        digest, sizes = hashlib.sha256(), [0.0]
        for column in pq.read_table(path / name).itercolumns():
            if pa.types.is_floating(column.type):
                sizes.append(float(np.abs(column.to_numpy().astype(np.float64)).mean()))
            else:
                digest.update(json.dumps(column.to_pylist()).encode())
        result[name] = digest.hexdigest()[:16], sum(sizes)
    return result


def test_a_log_without_options_is_what_it_was_before_there_were_any(tmp_path):
    simulate("tiny", 0, tmp_path / "log")
    for name, (digest, size) in recorded(tmp_path / "log").items():
        assert (name, digest) == (name, RECORDED[name][0])
        assert size == pytest.approx(RECORDED[name][1], rel=1e-5)
    told = json.loads((tmp_path / "log" / "truth" / "config.json").read_text())
    assert list(told) == ["preset", "seed", "config"]
    assert list(told["config"])[-1] == "late_hours"
    assert len(told["config"]) == 53
    assert not (tmp_path / "log" / "ratings").exists()


def test_options_that_are_off_give_the_same_bytes_as_none(tmp_path):
    simulate("tiny", 0, tmp_path / "plain", requests=300)
    simulate(
        *("tiny", 0, tmp_path / "off"),
        **{"requests": 300, "trend": 0.0, "turnover": 0.0, "engaged_share": 0.0, "slate": 10},
        positives_only=False,
    )
    files = [path for path in sorted((tmp_path / "plain").rglob("*")) if path.is_file()]
    assert len(files) > 40
    for file in files:
        other = tmp_path / "off" / file.relative_to(tmp_path / "plain")
        assert file.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("half_life", [7.0, 14.0, 60.0])
def test_a_trend_is_half_forgotten_after_its_half_life(half_life):
    world = World(resolve("tiny", items=400, trend=1.0, trend_half_life_days=half_life), 0)
    item = np.tile(np.arange(400), (60, 1))
    time = START + np.linspace(0, 600, 60).astype(np.int64) * DAY

    def correlation(days):
        later = world.trend(item, time + int(days * DAY))
        return np.corrcoef(world.trend(item, time).ravel(), later.ravel())[0, 1]

    assert world.trend(item, time).mean() == pytest.approx(0, abs=0.05)
    assert world.trend(item, time).std() == pytest.approx(1, abs=0.05)
    assert correlation(half_life) == pytest.approx(0.5, abs=0.03)
    assert correlation(half_life / 7) > 0.95
    assert correlation(3 * half_life) == pytest.approx(0, abs=0.04)


def test_items_that_rise_are_clicked_more_for_weeks_and_not_after(tmp_path):
    overrides = {"requests": 20_000, "trend": 2.0, "quality": 0.0, "chunk_days": 14}
    simulate("tiny", 0, tmp_path / "log", "drift", **overrides)
    rows = rows_of(tmp_path / "log")
    world = world_of(tmp_path / "log")
    trend = world.trend(rows["item"][:, None], rows["time"])[:, 0]
    np.testing.assert_allclose(rows["truth_trend"], 2 * trend, atol=1e-4)
    rising = trend > 0.5

    def lift(days):
        """How much more often items are clicked that were rising some days before."""
        before = world.trend(rows["item"][:, None], rows["time"] - days * DAY)[:, 0] > 0.5
        return rows["click"][before].mean() / rows["click"][~before].mean()

    assert rows["click"][rising].mean() > 2 * rows["click"][~rising].mean()
    assert lift(0) > lift(14) > 1.25
    assert lift(180) == pytest.approx(1, abs=0.1)
    item, time = organic_clicks(tmp_path / "log")
    assert world.trend(item[:, None], time).mean() > 0.7


@pytest.mark.parametrize("turnover", [0.3, 0.5])
def test_the_share_of_the_catalogue_is_replaced_in_every_half_year(turnover):
    items = World(resolve("tiny", items=20_000, turnover=turnover), 0).items
    catalogues = []
    for time in START + np.arange(4) * HALF_YEAR:
        everything = np.arange(20_000)[None]
        catalogues.append(set(np.flatnonzero(~items.absent(everything, np.array([time]))[0])))
    for before, after in itertools.pairwise(catalogues):
        assert len(after) == pytest.approx(len(before), rel=0.05)
        assert len(before - after) / len(before) == pytest.approx(turnover, abs=0.02)
    # Not one of three half-lives ago is special: each goes at the same rate, whatever its age.
    assert len(catalogues[0] & catalogues[3]) / len(catalogues[0]) == pytest.approx(
        (1 - turnover) ** 3, abs=0.02
    )


def test_items_that_come_and_go_are_as_old_when_the_log_starts_as_when_it_ends():
    config = resolve("tiny", "turnover", items=20_000)
    items = World(config, 0).items
    for time in (START, START + config.days * DAY):
        existing = ~items.absent(np.arange(20_000)[None], np.array([time]))[0]
        age = (time - items.created[existing]).mean() / DAY
        # At a constant rate of disappearing, the mean age of what exists is the mean life.
        assert age == pytest.approx(182.5 / np.log(2), rel=0.06)


def test_only_items_that_exist_are_shown_and_visited_and_slates_are_full(tmp_path):
    simulate("tiny", 0, tmp_path / "log", "turnover")
    rows, truth = rows_of(tmp_path / "log"), columns(tmp_path / "log", "truth/items.parquet")
    created, gone = truth["created"], truth["gone"]
    assert (created[rows["item"]] <= rows["time"]).all()
    assert (gone[rows["item"]] > rows["time"]).all()
    assert len(rows["item"]) == 10 * PRESETS["tiny"].requests
    assert (columns(tmp_path / "log", "items")["created_at"] == created).all()
    events = columns(tmp_path / "log", "events")
    item = np.array([int(value[1:]) for value in events["item_id"]])
    assert (created[item] <= events["event_time"]).all()
    # A visit that began while an item existed may end after, within an hour and what precedes it.
    assert (gone[item] + 2 * 3600 > events["event_time"]).all()
    # Visitors outside search are shown what exists: hardly any finds nothing to open.
    assert len(organic_clicks(tmp_path / "log")[0]) > 0.99 * 0.5 * PRESETS["tiny"].requests
    half = START + HALF_YEAR
    first, last = (set(rows["item"][part]) for part in (rows["time"] < half, rows["time"] >= half))
    assert first - last
    assert last - first


@pytest.mark.long  # simulates a log for each case
@pytest.mark.parametrize(("variant", "target"), [("labels_1", 0.01), ("labels_50", 0.5)])
@pytest.mark.parametrize("other", ["", "drift", "slate_3", "slate_300"])
def test_the_share_of_engaged_candidates_is_the_target_within_a_tenth(
    tmp_path, variant, target, other
):
    both = ",".join(filter(None, (variant, other)))
    simulate("tiny", 0, tmp_path / "log", both, requests=600 if other == "slate_300" else 20_000)
    rows = rows_of(tmp_path / "log")
    assert rows["engaged"].mean() == pytest.approx(target, rel=0.1)
    # The truth tells of clicks as the biases of the log are, not those of the preset.
    assert rows["truth_click_probability"].mean() == pytest.approx(rows["click"].mean(), rel=0.1)
    assert roc_auc_score(rows["engaged"], rows["truth_appeal"]) > 0.75


@pytest.mark.parametrize("target", [0.02, 0.35])
def test_biases_are_calibrated_for_what_the_label_calls_engaged(target):
    """Within 2% on a million rows; to forget the clicks of a moment would be 5% or more."""
    config, rng = resolve("tiny", engaged_share=target), np.random.default_rng(0)
    appeal = rng.standard_normal((100_000, 10), dtype=np.float32)
    zeros, shown = np.zeros(100_000, np.int64), np.ones(appeal.shape, bool)
    requests = Requests(zeros, zeros + START, zeros, zeros, zeros)
    biased = calibrated(config, appeal, shown)
    assert biased.save_bias - biased.click_bias == pytest.approx(-2.5)
    actions, _ = search(biased, rng, requests, np.zeros(appeal.shape, np.int64), shown, appeal)
    assert engaged(actions).mean() == pytest.approx(target, rel=0.02)


def test_a_log_of_positives_only_has_no_others_and_names_no_odds(tmp_path):
    path, whole = tmp_path / "log", tmp_path / "whole"
    summary = simulate("tiny", 0, path, "positives")
    simulate("tiny", 0, whole)
    rows = rows_of(path)
    assert rows["engaged"].all()
    assert not rows["short_click"].any()
    assert "propensity" not in rows
    # The first chunk has no past that could differ: its positives are those of the whole log.
    everything = rows_of(whole)
    chunk = [values["time"] < START + 73 * DAY for values in (rows, everything)]
    expected = everything["item"][chunk[1] & everything["engaged"]]
    assert rows["item"][chunk[0]].tolist() == expected.tolist()
    assert summary["requests"] == len(set(rows["request_id"])) < PRESETS["tiny"].requests
    starts = np.flatnonzero(np.diff(rows["request_id"], prepend=-1))
    counted = np.arange(len(rows["item"])) - np.repeat(
        starts, np.diff(starts, append=len(rows["item"]))
    )
    assert rows["position"].tolist() == counted.tolist()
    events = columns(path, "events")
    assert "short_click" not in events["action"]
    assert sum(query is None for query in events["query_id"]) > 500


def test_a_log_of_positives_only_lies_there_as_ratings_too(tmp_path):
    simulate("tiny", 0, tmp_path / "log", "positives", requests=500)
    folder, rows = tmp_path / "log" / "ratings", rows_of(tmp_path / "log")
    table = pq.read_table(folder / "ratings.parquet")
    assert table["item_id"].to_pylist() == rows["item_id"].tolist()
    assert table["timestamp"].to_pylist() == rows["time"].tolist()
    assert [int(user[1:]) for user in table["user_id"].to_pylist()] == rows["user"].tolist()
    assert set(table["rating"].to_pylist()) == {1}
    # One row that is no success, and today's reader of ratings takes it.
    odd = table.slice(0, 1).set_column(2, "rating", pa.array([0]))
    pq.write_table(pa.concat_tables([table, odd]), folder / "ratings.parquet")
    options = ratings.Options(
        time="timestamp", text=("title",), ignore=("created_at",), query=("country", "gender")
    )
    counts = ratings.convert(folder, tmp_path / "converted", options)
    assert counts["successes"] == len(rows["item"])
    assert validate(open_log(tmp_path / "converted"))["events"] == len(rows["item"]) + 1


@pytest.mark.parametrize(("variant", "slate"), [("slate_3", 3), ("slate_300", 300)])
def test_requests_have_so_many_candidates(tmp_path, variant, slate):
    summary = simulate("tiny", 0, tmp_path / "log", variant)
    sizes = np.unique(columns(tmp_path / "log", "impressions")["request_id"], return_counts=True)[1]
    assert set(sizes) == {slate}
    assert len(sizes) == summary["requests"]
    assert summary["impressions"] == slate * summary["requests"]
