import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.simulator import simulate
from interactrank_jax.log.values import as_values
from tests.log.handmade_log import (
    ACTIONS,
    DAY,
    data_config,
    make_tables,
    random_config,
    replace,
    write_log,
)

SPLITS = ("train", "validation", "test")
# A random split with every feature that a mean over training goes into.
_CROSS = ("share:click:7", "share:save:30:country", "rate:click:7", "item_rate:save:7")
_RATES = random_config(**{"cross.features": _CROSS})


@pytest.fixture(scope="module")
def timeless(log, tmp_path_factory):
    out = tmp_path_factory.mktemp("timeless") / "examples"
    prepare(_RATES, log, out)
    return Examples(out)


def _columns(examples: Examples, split: str) -> dict[str, np.ndarray]:
    blocks = list(examples.blocks(split))
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _candidates(examples: Examples, split: str) -> list[tuple]:
    """Returns (request_id, item_id, position, click, save) of every candidate."""
    columns = _columns(examples, split)
    ids = examples.raw_requests(split)["request_id"].to_pylist()
    example, place = np.nonzero(columns["mask"])
    return [
        (
            ids[columns["request_index"][e]],
            examples.item_ids[columns["item"][e, c]],
            int(columns["position"][e, c]),
            *columns["actions"][e, c].tolist(),
        )
        for e, c in zip(example, place, strict=True)
    ]


@pytest.mark.long  # prepares a log several times
@pytest.mark.parametrize("kind", ["examples", "timeless"])
def test_every_impression_is_in_one_example(kind, tables, request):
    examples = request.getfixturevalue(kind)
    found = [row for split in SPLITS for row in _candidates(examples, split)]
    names = ("request_id", "item_id", "position", *ACTIONS)
    expected = zip(*(tables["impressions"][name].to_pylist() for name in names), strict=True)
    assert sorted(found) == sorted((*row[:3], *map(int, row[3:])) for row in expected)


@pytest.mark.parametrize("kind", ["examples", "timeless"])
def test_metadata_counts_what_the_blocks_hold(kind, request):
    examples = request.getfixturevalue(kind)
    for split in SPLITS:
        columns, sizes = _columns(examples, split), examples.split(split)
        assert sizes.examples == len(columns["user"])
        assert sizes.candidates == columns["mask"].sum() == sum(sizes.actions.values())
        assert sizes.requests == len(np.unique(columns["request_index"]))
        assert sizes.requests == examples.raw_requests(split).num_rows
        clicks = sum(count for pattern, count in sizes.actions.items() if pattern[0] == "1")
        assert clicks == columns["actions"][..., 0].sum()
        assert sum(count for _, count in sizes.files) == -(-sizes.examples // 32)


def test_columns_have_the_shapes_and_types_of_the_contract(examples):
    columns, C = _columns(examples, "validation"), 8
    N = len(columns["user"])
    shapes = {
        "request_index": (), "user": (), "query": (), "request/country": (),
        "request/query_text": (6,), "request/taste": (3,), "request_numeric": (4,),
        "history_item": (6,), "history_action": (6,), "history_age": (6,),
        "query_history_item": (4,), "item": (C,), "mask": (C,), "position": (C,),
        "actions": (C, 2), "cross": (C, 2), "cross_count": (C, 2), "cross_total": (C, 2),
        "propensity": (C,), "stage": (C,),
    }  # fmt: skip
    assert {name: value.shape for name, value in columns.items()} == {
        name: (N, *shape) for name, shape in shapes.items()
    }
    floats = {"request/taste", "request_numeric", "history_age", "cross", "propensity"}
    for name, value in columns.items():
        kind = {"mask": np.bool_, "actions": np.uint8}.get(
            name, np.float32 if name in floats else np.int32
        )
        assert value.dtype == kind, name


def test_padding_is_zero_everywhere(examples):
    columns = _columns(examples, "train")
    padded = ~columns["mask"]
    assert padded.any()
    for name in ("item", "position", "actions", "cross", "cross_count", "propensity", "stage"):
        assert not columns[name][padded].any(), name
    assert not columns["history_age"][columns["history_item"] == 0].any()


def test_long_requests_are_cut_into_slates_by_position(examples, tables):
    columns = _columns(examples, "test")
    for request in np.unique(columns["request_index"]):
        rows = np.flatnonzero(columns["request_index"] == request)
        positions = columns["position"][rows][columns["mask"][rows]]
        assert positions.tolist() == list(range(len(positions)))
        assert len(rows) == -(-len(positions) // 8)


def test_splits_follow_time_and_evaluation_stays_in_order(examples):
    ends = []
    for split in SPLITS:
        times = examples.raw_requests(split)["timestamp"].to_numpy()
        assert (np.diff(times) >= 0).all()
        ends += [times[0], times[-1]]
        order = _columns(examples, split)["request_index"]
        assert (np.diff(order) >= 0).all() == (split != "train")
    assert ends[1] < ends[2]
    assert ends[3] < ends[4]


def test_requests_of_one_second_stay_in_one_split(tables, tmp_path):
    crowd = tables | {"requests": replace(
        tables["requests"], "timestamp",
        tables["requests"]["timestamp"].to_numpy() // (3 * DAY) * (3 * DAY))}  # fmt: skip
    prepare(data_config(), write_log(tmp_path / "log", crowd), tmp_path / "out")
    examples = Examples(tmp_path / "out")
    times = [set(examples.raw_requests(split)["timestamp"].to_pylist()) for split in SPLITS]
    assert not times[0] & times[1]
    assert not times[1] & times[2]


def test_raw_rows_are_those_that_came(examples, tables):
    raw = pa.concat_tables([examples.raw_requests(split) for split in SPLITS])
    by_id = [("request_id", "ascending")]
    assert raw.sort_by(by_id).equals(tables["requests"].sort_by(by_id))
    items = examples.raw_items()
    as_written = tables["items"].sort_by("item_id")
    assert items.slice(1).select(as_written.column_names).equals(as_written)
    assert items["item_id"][0].as_py() is None


def test_request_features_are_those_of_the_request(examples):
    for split in SPLITS:
        columns, raw = _columns(examples, split), examples.raw_requests(split)
        rows = raw.take(pa.array(columns["request_index"]))
        numeric = np.stack([rows[name].to_numpy() for name in ("tenure", "hour")], axis=1)
        np.testing.assert_allclose(columns["request_numeric"][:, :2], numeric, rtol=1e-6)
        taste = np.array(rows["taste"].to_pylist(), np.float32)
        assert np.array_equal(columns["request/taste"], taste)
        for table, name, column in (
            ("user", "user_id", "user"),
            ("query", "query_id", "query"),
            ("country", "country", "request/country"),
        ):
            vocabulary = examples.encoder.vocabularies[table]
            assert np.array_equal(columns[column], vocabulary.rows(as_values(rows[name])))


def test_histories_come_from_events_that_had_arrived(examples, tables):
    events = tables["events"].sort_by([("arrival_time", "ascending"), ("event_time", "ascending"),
                                       ("event_id", "ascending")]).to_pylist()  # fmt: skip
    seen: set[str] = set()
    events = [e for e in events if not (e["event_id"] in seen or seen.add(e["event_id"]))]
    for split in SPLITS:
        columns = _columns(examples, split)
        raw = examples.raw_requests(split).to_pylist()
        for e, index in enumerate(columns["request_index"]):
            user, time = raw[index]["user_id"], raw[index]["timestamp"]
            known = [x for x in events if x["user_id"] == user and x["arrival_time"] <= time - 60]
            saves = sum(x["action"] == "save" for x in known)
            assert columns["request_numeric"][e, 2] == saves
            latest = known[::-1][:6]
            found = columns["history_item"][e]
            assert [examples.item_ids[i] for i in found if i] == [x["item_id"] for x in latest]
            assert [ACTIONS[a - 1] for a in columns["history_action"][e] if a] == [
                x["action"] for x in latest
            ]
            ages = columns["history_age"][e][: len(latest)]
            np.testing.assert_allclose(
                ages, [(time - x["event_time"]) / 3600 for x in latest], rtol=1e-5
            )


def test_without_events_histories_come_from_impressions(tables, tmp_path):
    few = {name: table for name, table in tables.items() if name != "events"}
    prepare(data_config(), write_log(tmp_path / "log", few), tmp_path / "out")
    columns = _columns(Examples(tmp_path / "out"), "test")
    assert columns["history_item"].any()
    assert columns["cross"].any()
    assert columns["history_age"][columns["history_item"] > 0].min() >= 60 / 3600


def test_the_item_store_holds_all_items_cold_ones_too(examples, tables):
    items, raw = examples.items, tables["items"].sort_by("item_id")
    assert examples.num_items == raw.num_rows + 1
    assert examples.item_ids.tolist() == [None, *raw["item_id"].to_pylist()]
    assert np.array_equal(items["numeric"][1:, 0], raw["price"].to_numpy())
    assert not any(value[0].any() for value in items.values())
    train = [item for _, item, *_ in _candidates(examples, "train")]
    assert items["count"][1:].tolist() == [train.count(i) for i in raw["item_id"].to_pylist()]
    cold = examples.item_ids.tolist().index("i24")
    assert items["count"][cold] == 0
    assert 1 <= items["id"][cold] <= 4  # never seen in training: a hashed row
    assert items["id"].max() == examples.metadata.tables["item"] - 1
    assert items["title"].shape == (26, 6)


def test_tables_cover_every_id(examples):
    tables = examples.metadata.tables
    assert set(tables) == {"user", "query", "item", "country", "brand", "text"}
    assert tables["text"] == 101
    for split in SPLITS:
        columns = _columns(examples, split)
        for table, name in (("user", "user"), ("query", "query"), ("country", "request/country")):
            assert columns[name].min() >= 1
            assert columns[name].max() < tables[table]


def test_statistics_are_those_of_training(examples):
    columns = _columns(examples, "train")
    hour = columns["request_numeric"][:, 1].astype(float)
    found = examples.metadata.numeric_statistics["hour"]
    expected = (hour.min(), hour.max(), hour.mean(), hour.std(),
                np.log1p(hour - hour.min()).mean(), np.log1p(hour - hour.min()).std())  # fmt: skip
    np.testing.assert_allclose(dataclasses.astuple(found), expected, rtol=1e-9)
    shown = columns["item"][columns["mask"]]
    price = examples.items["numeric"][shown, 0].astype(float)
    np.testing.assert_allclose(examples.metadata.numeric_statistics["price"].mean, price.mean())
    cross = columns["cross"][columns["mask"]][:, 0].astype(float)
    found = examples.metadata.cross_statistics["share:click:7"]
    np.testing.assert_allclose(found.coverage, (cross != 0).mean())
    np.testing.assert_allclose(found.rms, np.sqrt((cross[cross != 0] ** 2).mean()))


def test_generated_rates_are_features_of_the_user(examples):
    names = [feature.name for feature in examples.metadata.select(("user", "request"), "numeric")]
    assert names == ["tenure", "hour", "user_count_save", "user_rate_save"]
    assert "user_rate_save" in examples.metadata.numeric_statistics


def test_a_users_rate_is_of_what_was_shown_and_known_before(examples, tables):
    log = {
        name: {
            column: table[column].to_numpy() for column in table.column_names if column != "taste"
        }
        for name, table in tables.items()
    }
    row_of = {request: row for row, request in enumerate(log["requests"]["request_id"])}
    seen = log["impressions"]["stage"] == "shown"
    of_request = [row_of[request] for request in log["impressions"]["request_id"][seen]]
    shown = {name: log["requests"][name][of_request] for name in ("user_id", "timestamp")}
    events = log["events"]
    order = np.argsort(events["arrival_time"], kind="stable")
    _, first = np.unique(events["event_id"][order], return_index=True)
    saved = order[first][events["action"][order[first]] == "save"]
    train = np.isin(shown["timestamp"], examples.raw_requests("train")["timestamp"].to_numpy())
    mean = log["impressions"]["save"][seen][train].mean()
    for split in SPLITS:
        columns, raw = _columns(examples, split), examples.raw_requests(split).to_pylist()
        for example, row in enumerate(columns["request_index"]):
            user, until = raw[row]["user_id"], raw[row]["timestamp"] - 60
            mine = saved[events["user_id"][saved] == user]
            count = (events["arrival_time"][mine] <= until).sum()
            total = ((shown["user_id"] == user) & (shown["timestamp"] <= until)).sum()
            expected = [count, (count - mean * total) / (total + 5)]
            np.testing.assert_allclose(columns["request_numeric"][example, 2:], expected, rtol=1e-5)


def test_random_splits_have_no_ages(timeless):
    assert timeless.metadata.timeless
    sizes = [timeless.split(split).candidates for split in SPLITS]
    np.testing.assert_allclose(np.array(sizes) / sum(sizes), (0.7, 0.15, 0.15), atol=0.01)
    for split in SPLITS:
        columns = _columns(timeless, split)
        assert columns["mask"].sum() == timeless.split(split).candidates
        assert not columns["history_age"].any()
        assert columns["history_item"].any()


def test_a_log_without_time_is_prepared_at_random(tmp_path):
    log = write_log(tmp_path / "log", make_tables(timeless=True))
    with pytest.raises(InputError, match="is timeless"):
        prepare(data_config(), log, tmp_path / "out")
    assert prepare(random_config(), log, tmp_path / "out").timeless


def test_the_same_input_gives_the_same_bytes(log, examples, tmp_path):
    config = data_config()
    prepare(config, log, tmp_path / "again")
    for file in sorted(path for path in examples.path.rglob("*") if path.is_file()):
        again = tmp_path / "again" / file.relative_to(examples.path)
        assert again.read_bytes() == file.read_bytes(), file.name


@pytest.mark.long  # prepares a log several times
def test_the_digest_follows_log_and_config(log, examples, tables, tmp_path):
    other_config = prepare(data_config(**{"cross.prior": 6.0}), log, tmp_path / "a")
    price = tables["items"]["price"].to_numpy() + 1
    other = write_log(
        tmp_path / "log", tables | {"items": replace(tables["items"], "price", price)}
    )
    other_log = prepare(data_config(), other, tmp_path / "b")
    same = prepare(data_config(), log, tmp_path / "c")
    assert same.digest == examples.metadata.digest
    assert len({same.digest, other_config.digest, other_log.digest}) == 3


def test_progress_names_each_phase(log, tmp_path):
    phases: list[str] = []
    prepare(data_config(), log, tmp_path / "out", progress=phases.append)
    assert phases[0] == "validate"
    assert phases[-1] == "metadata"
    assert len(phases) == len(set(phases)) > 6


def test_integer_ids_and_dictionary_columns_are_taken(tables, tmp_path):
    requests = tables["requests"]
    requests = replace(requests, "user_id", [int(u[1:]) for u in requests["user_id"].to_pylist()])
    country = requests["country"].combine_chunks().dictionary_encode()
    requests = replace(requests, "country", country)
    events = tables["events"]
    events = replace(events, "user_id", [int(u[1:]) for u in events["user_id"].to_pylist()])
    log = write_log(tmp_path / "log", tables | {"requests": requests, "events": events})
    prepare(data_config(), log, tmp_path / "out")
    users = Examples(tmp_path / "out").encoder.vocabularies["user"].values
    assert sorted(users.to_pylist()) == list(range(12))


def test_a_simulated_log_is_prepared(tmp_path):
    simulate.simulate("tiny", 0, tmp_path / "log", requests=300)
    config = data_config(**{
        "history.actions": ("click", "long_click", "save"),
        "query_history.actions": ("click", "long_click", "save"),
        "cross.features": ("share:click:365", "share:click:365:country"),
    })  # fmt: skip
    metadata = prepare(config, tmp_path / "log", tmp_path / "out")
    assert metadata.splits["train"].candidates > 0
    assert metadata.cross_statistics["share:click:365"].coverage > 0.05


def test_evaluation_labels_enter_no_feature_of_a_random_split(tables, timeless, tmp_path):
    flipped, impressions = [], tables["impressions"]
    for split in SPLITS[1:]:
        flipped += [row[:2] for row in _candidates(timeless, split)]
    rows = zip(*(impressions[name].to_pylist() for name in ("request_id", "item_id")), strict=True)
    change = np.isin(np.array([" ".join(row) for row in rows]), [" ".join(row) for row in flipped])
    assert change.sum() == len(flipped) > 0
    for action in ACTIONS:
        values = impressions[action].to_numpy().astype(bool) ^ change
        impressions = replace(impressions, action, values)
    log = write_log(tmp_path / "log", tables | {"impressions": impressions})
    prepare(_RATES, log, tmp_path / "out")
    again = Examples(tmp_path / "out")
    for split in SPLITS:
        before, after = _columns(timeless, split), _columns(again, split)
        assert np.array_equal(before["actions"], after["actions"]) == (split == "train")
        for name in before.keys() - {"actions"}:
            assert np.array_equal(before[name], after[name]), (split, name)
    for name in ("numeric_statistics", "cross_statistics", "tables"):
        assert getattr(again.metadata, name) == getattr(timeless.metadata, name)
    for folder, kind in (("items", "npy"), ("encoder", "*"), ("cross", "npy")):
        for file in sorted((timeless.path / folder).rglob(f"*.{kind}")):
            same = again.path / file.relative_to(timeless.path)
            assert file.read_bytes() == same.read_bytes(), file.name
