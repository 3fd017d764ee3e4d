"""Counts on disk: what they hold, how they grow, and what a build leaves when it is killed."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.examples.rates import item_means
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.state import as_of, days, snapshot, store
from interactrank_jax.state.build import build_store
from interactrank_jax.state.days import runs_of_days
from tests.log.handmade_log import ACTIONS, START, make_tables, replace, write_log
from tests.state.conftest import (
    FEATURES,
    FULL,
    MEANS,
    by_pair,
    everything,
    features_of,
    state_config,
)

FIRST = START // 86_400


@pytest.mark.parametrize(
    ("at_once", "expected"),
    [(1, [(3, 3), (4, 4), (7, 7), (9, 9)]), (5, [(3, 4), (7, 7), (9, 9)]), (99, [(3, 9)])],
)
def test_runs_of_days_hold_so_many_rows_unless_one_day_has_more(at_once, expected):
    assert runs_of_days([3, 4, 7, 9], [2, 3, 8, 1], at_once) == expected
    assert runs_of_days([], [], at_once) == []


ITEMS = {"cross.features": ("item_share:click:9", "item_rate:save:30")}
DEBIAS = {"cross.debias.name": "propensity", "cross.debias.smallest_propensity": 0.3}


def _narrow(table, column):
    return replace(table, column, pa.array(table[column].to_pylist(), pa.int32()))


def odd(tables):
    """Copies of events that differ, at one time, in no order; integers of other widths."""
    some = tables["events"].slice(0, 150)
    copies = [
        replace(some, "query_id", pa.nulls(150, pa.int64())),
        replace(some, "action", some["action"].to_pylist()[::-1]),
        replace(some, "country", some["country"].to_pylist()[::-1]),
    ]
    events = pa.concat_tables([*copies, tables["events"]])
    events = events.take(pa.array(np.random.default_rng(0).permutation(len(events))))
    return {
        **tables,
        "events": _narrow(events, "query_id"),
        "requests": _narrow(tables["requests"], "timestamp"),
    }


class TestFeatures:
    @pytest.mark.long  # prepares a log several times
    @pytest.mark.parametrize(
        ("overrides", "events"),
        [
            *((FULL, "plain"), ({}, "odd")),
            pytest.param({}, "plain", marks=pytest.mark.thorough),
            pytest.param(DEBIAS, "plain", marks=pytest.mark.thorough),
            pytest.param(FULL, "none", marks=pytest.mark.thorough),
            pytest.param(ITEMS, "without a query", marks=pytest.mark.thorough),
        ],
    )
    def test_are_those_of_the_preparation_bit_by_bit(
        self, overrides, events, log, backend, tmp_path
    ):
        if events != "plain":
            tables = odd(make_tables()) if events == "odd" else make_tables(events=events != "none")
            if events == "without a query":
                nothing = pa.nulls(len(tables["events"]))
                tables["events"] = replace(tables["events"], "query_id", nothing)
            log = open_log(write_log(tmp_path / "log", tables))
        config = state_config(**overrides)
        names = config.cross.features
        held = build_store(config, log, tmp_path / "state", backend)
        prepare(config, log.path, tmp_path / "examples")
        examples = Examples(tmp_path / "examples")
        means = {
            action: training_mean(examples, action, held.recipe) for action in held.recipe.rates
        }
        told = item_means(examples.encoder.mean_rates)
        assert means == {action: told[action] for action in means}
        table = features_of(log, held, backend, means)
        request, item = table["request_id"].to_pylist(), table["item_id"].to_pylist()
        values = np.stack([table[name].to_numpy() for name in names], 1)
        found = dict(zip(zip(request, item, strict=True), values, strict=True))
        seen = 0
        for split in ("train", "validation", "test"):
            raw = examples.raw_requests(split)["request_id"].to_pylist()
            for block in examples.blocks(split):
                for row, column in zip(*np.nonzero(block["mask"]), strict=True):
                    pair = (
                        raw[block["request_index"][row]],
                        str(examples.item_ids[block["item"][row, column]]),
                    )
                    np.testing.assert_array_equal(found[pair], block["cross"][row, column])
                    seen += 1
        assert seen == len(found)
        assert (values != 0).any(0).all()

    def test_need_the_days_before_the_last_request(self, log, backend, tmp_path):
        held = build_store(state_config(), log, tmp_path / "state", backend, through=FIRST + 9)
        expected = r"counted through 2022-01-1.*run `interactrank state build .*--through=2022"
        with pytest.raises(InputError, match=expected):
            as_of.write(log, held, backend, tmp_path / "features", means=MEANS)
        days = {"since": FIRST + 2, "until": FIRST + 10}
        with pytest.raises(InputError, match=r"have rates of .* by --encoder"):
            as_of.write(log, held, backend, tmp_path / "features", **days)
        record = as_of.write(log, held, backend, tmp_path / "features", **days, means=MEANS)
        assert 0 < record["rows"] < len(pq.read_table(log.path / "impressions"))
        with pytest.raises(
            InputError, match="but was asked for those from 1970-01-02 on through 1970-01-03"
        ):
            as_of.write(log, held, backend, tmp_path / "none", since=1, until=2, means=MEANS)

    @pytest.mark.long  # counts a log several times
    def test_in_parts_are_the_same(self, log, full, backend, tmp_path):
        days = {"since": FIRST + 2, "until": FIRST + 20, "means": MEANS}
        whole = as_of.write(log, full, backend, tmp_path / "whole", **days)
        # Nothing is read out of the path's own name.
        place = tmp_path / "country=zz" / "query=q" / "features"
        place.parent.mkdir(parents=True)
        parts = as_of.write(log, full, backend, place, **days, rows_at_once=400)
        assert parts == whole
        assert sorted(path.name for path in place.iterdir()) == ["features", "features.json"]
        assert len(list((place / "features").iterdir())) > 2
        tables = [
            by_pair(
                pq.ParquetDataset(sorted(directory.glob("*/*.parquet")), partitioning=None).read()
            )
            for directory in (place / "features", tmp_path / "whole" / "features")
        ]
        assert tables[0] == tables[1]


def training_mean(examples, action, recipe):
    """The mean rate of an action over what training showed, impressions by their weight."""
    code, done, shown, count = examples.metadata.actions.index(action), 0, 0.0, 0
    for block in examples.blocks("train"):
        rows = block["mask"] & (block["stage"] == 1)
        done += block["actions"][rows][:, code].sum()
        weight = recipe.impression_weight(block["position"][rows], block["propensity"][rows])
        shown += weight.sum()
        count += rows.sum()
    # The same divisions as in the preparation, so that no bit differs.
    return (done / count) / (shown / count)


class TestGrowth:
    @pytest.mark.long  # builds a state several times
    def test_days_added_one_by_one_equal_all_at_once(self, log, whole, backend, tmp_path):
        last = whole.chunks[-1].last
        for day in (*range(FIRST, FIRST + 5), FIRST + 13, last):
            grown = build_store(state_config(), log, tmp_path / "state", backend, through=day)
            assert grown.next_day == day + 1
        assert len(grown.chunks) == 7
        assert everything(grown, backend) == everything(whole, backend)
        assert grown.figures() == whole.figures()

    @pytest.mark.long  # builds a state several times
    def test_chunks_of_few_rows_equal_all_at_once(self, log, whole, backend, tmp_path):
        parts = build_store(state_config(), log, tmp_path / "state", backend, chunk_rows=300)
        assert len(parts.chunks) > 4
        assert everything(parts, backend) == everything(whole, backend)

    def test_another_log_is_not_added(self, log, backend, tmp_path):
        build_store(state_config(), log, tmp_path / "state", backend, through=FIRST + 9)
        other = open_log(write_log(tmp_path / "other", make_tables(seed=1)))
        with pytest.raises(InputError, match=r"requests of 2022-01-08: the log has .* but had"):
            build_store(state_config(), other, tmp_path / "state", backend)
        # What is older than the last day may be gone from the log.
        tables = make_tables()
        late = pc.greater_equal(tables["requests"]["timestamp"], (FIRST + 9) * 86_400)
        tables["requests"] = tables["requests"].filter(late)
        known = pc.is_in(tables["impressions"]["request_id"], tables["requests"]["request_id"])
        tables["impressions"] = tables["impressions"].filter(known)
        short = open_log(write_log(tmp_path / "short", tables))
        grown = build_store(state_config(), short, tmp_path / "state", backend)
        assert len(grown.chunks) == 2

    def test_a_new_day_reads_nothing_of_the_days_before(self, log, whole, backend, tmp_path):
        shutil.copytree(log.path, tmp_path / "log")
        held = build_store(state_config(), log, tmp_path / "state", backend, through=FIRST + 20)
        events = pq.read_table(log.path / "events.parquet")
        later = pc.greater_equal(events["arrival_time"], (FIRST + 21) * 86_400)
        pq.write_table(events.filter(later), tmp_path / "log/events.parquet")
        rest = build_store(state_config(), open_log(tmp_path / "log"), held.path, backend)
        assert everything(rest, backend) == everything(whole, backend)

    def test_a_duplicate_counts_once_whenever_it_comes(self, log, whole):
        duplicates = sum(chunk.duplicates for chunk in whole.chunks)
        events = pq.read_table(log.path / "events.parquet")
        known = events.filter(pc.less(events["arrival_time"], whole.next_day * 86_400))
        assert duplicates == len(known) - len(pc.unique(known["event_id"])) > 0

    def test_late_events_count_from_their_arrival_on(self, log, whole, backend, tmp_path):
        events = pq.read_table(log.path / "events.parquet").to_pylist()
        days = {  # of each event's copies the one that arrived first
            event["event_id"]: (event["event_time"] // 86_400, event["arrival_time"] // 86_400)
            for event in sorted(events, key=lambda event: -event["arrival_time"])
        }
        late = [end for start, end in days.values() if end > start and end < whole.next_day]
        assert sum(chunk.late for chunk in whole.chunks) == len(late) > 0
        # A snapshot made before they came can be made again when they have come.
        day = max(late)
        held = build_store(state_config(), log, tmp_path / "state", backend, through=day - 1)
        snapshot.write(log, held, backend, tmp_path / "then", day, MEANS)
        grown = build_store(state_config(), log, tmp_path / "state", backend)
        assert grown.next_day > day
        snapshot.write(log, grown, backend, tmp_path / "now", day, MEANS)
        for place in (tmp_path / "then").glob("*/"):
            before, after = (pq.read_table(tmp_path / t / place.name) for t in ("then", "now"))
            assert before.equals(after)
            assert len(before)

    def test_another_description_is_refused(self, log, whole, backend):
        for field, value in (("cross.lag_days", 2), ("cross.features", FEATURES[:2])):
            config = state_config(**{field: value})
            with pytest.raises(InputError, match=r"was built with .* asked for is"):
                build_store(config, log, whole.path, backend)

    def test_a_timeless_log_is_refused(self, backend, tmp_path):
        log = open_log(write_log(tmp_path / "log", make_tables(40, timeless=True)))
        with pytest.raises(InputError, match="is timeless, so its STATE has folds for days"):
            build_store(state_config(), log, tmp_path / "state", backend)

    def test_days_that_have_not_come_are_refused(self, log, backend, tmp_path):
        newest = pq.read_table(log.path / "events.parquet")["arrival_time"].to_numpy().max()
        last, out = int(newest) // 86_400 + 60, tmp_path / "state"
        with pytest.raises(InputError, match=r"lies 61 days after .* at most 60 days"):
            build_store(state_config(), log, out, backend, through=last + 1)
        assert build_store(state_config(), log, out, backend, through=last).next_day == last + 1


def served(tables, levels, asked, feature):
    """Looks a feature up as the snapshot's rule says: at the finest level that knows the keys."""
    for keys in levels:
        rows = tables[keys]
        at = tuple(asked[key] for key in keys)
        if any(key[:-1] == at for key in rows):
            return rows.get((*at, asked["item"]), {}).get(feature, 0.0)
    return 0.0


class TestSnapshot:
    @pytest.mark.long  # counts a log several times
    @pytest.mark.parametrize(("name", "day"), [("whole", 25), ("full", 25), ("full", 10)])
    def test_holds_what_requests_of_that_day_get(self, name, day, log, backend, tmp_path, request):
        held, day = request.getfixturevalue(name), FIRST + day
        rows = features_of(log, held, backend, MEANS, since=day, until=day).to_pylist()
        requests = pq.read_table(log.path / "requests.parquet").to_pylist()
        requests = {row["request_id"]: row for row in requests}
        record = snapshot.write(log, held, backend, tmp_path / "snapshot", day, MEANS)
        levels = {
            spec.name: [level.keys for level in held.recipe.levels(spec)]
            for spec in held.recipe.specs
        }
        forms = created = {}
        if name == "full":
            forms = backend.to_pyarrow(held.forms(backend)).to_pylist()
            forms = {row["query"]: row["query_form"] for row in forms}
            assert len(set(forms.values())) < len(forms)
            created = pq.read_table(log.path / "items.parquet").to_pylist()
            created = {row["item_id"]: row["created_at"] for row in created}
        tables = {}
        for keys in {keys for chain in levels.values() for keys in chain}:
            place = "+".join(keys) or "item"
            table = pq.read_table(tmp_path / "snapshot" / place).to_pylist()
            assert len(table) == record["rows"][place]
            order = [tuple(row[key] for key in (*keys, "item")) for row in table]
            assert order == sorted(set(order))
            tables[keys] = dict(zip(order, table, strict=True))

        def check(rows):
            """Looks every value up; returns how many are not 0, and which freshness was met."""
            others, met = 0, set()
            for row in rows:
                asked = requests[row["request_id"]] | {"item": row["item_id"]}
                asked |= {"query": asked["query_id"], "query_form": forms.get(asked["query_id"])}
                since = created.get(row["item_id"])
                asked["fresh"] = int(since is not None and day - since // 86_400 < 9)
                met.add(asked["fresh"])
                for feature, chain in levels.items():
                    assert served(tables, chain, asked, feature) == row[feature], feature
                    others += row[feature] != 0
            return others, met

        # To requests of its day it gives what is as of that day, and the same to later ones.
        found = [check(rows)]
        held = snapshot.open_snapshot(tmp_path / "snapshot", log)
        place = tmp_path / "served"
        snapshot.write_served(log, held, backend, place, until=day + 3)
        given = pq.read_table(place / "features").to_pylist()
        found.append(check(given))
        assert {row["request_id"] for row in rows} < {row["request_id"] for row in given}
        for others, met in found:
            assert others > 50
            assert met == ({0, 1} if day == FIRST + 10 else {0})

    def test_is_served_to_no_request_before_it(self, log, whole, backend, tmp_path):
        day = FIRST + 22
        snapshot.write(log, whole, backend, tmp_path / "snapshot", day, MEANS)
        held = snapshot.open_snapshot(tmp_path / "snapshot", log)
        with pytest.raises(InputError, match=r"is served from 2022-.* on, not on 2022-"):
            snapshot.write_served(log, held, backend, tmp_path / "served", since=day - 1)
        with pytest.raises(
            InputError, match=r"but was asked for those from 2022-.* on: name other"
        ):
            snapshot.write_served(log, held, backend, tmp_path / "served", since=day + 99)
        with pytest.raises(InputError, match="holds no snapshot"):
            snapshot.open_snapshot(tmp_path, log)

    def test_of_another_log_or_release_is_refused(self, log, full, backend, tmp_path):
        snapshot.write(log, full, backend, tmp_path / "snapshot", FIRST + 22, MEANS)

        def refuse(reason, tables, actions=ACTIONS):
            other = open_log(write_log(tmp_path / "other", tables, actions))
            with pytest.raises(InputError, match=reason):
                snapshot.open_snapshot(tmp_path / "snapshot", other)
            shutil.rmtree(other.path)

        refuse(
            "is timeless, what was counted has days: this is another log",
            make_tables(40, timeless=True),
        )
        tables = make_tables(40)
        tables["items"] = tables["items"].drop_columns("created_at")
        refuse("needs the column 'created_at' of items", tables)
        tables = make_tables(40)
        tables["impressions"] = tables["impressions"].append_column(
            "like", tables["impressions"]["click"]
        )
        refuse("this is another log", tables, (*ACTIONS, "like"))
        for place, opened in (
            (tmp_path / "snapshot" / snapshot.KIND.file, snapshot.open_snapshot),
            (shutil.copytree(full.path, tmp_path / "state") / store.KIND.file, store.open_store),
        ):
            record = files.read_sealed(place)
            files.write_sealed(place, {**record, "format_version": 3})
            with pytest.raises(InputError, match="format_version is 3, expected"):
                opened(place.parent, log)


@pytest.mark.parametrize("text", ["2024-05", "2024", "NaT", "today", "2024-02-30"])
def test_what_is_no_day_is_refused(text):
    assert days.day_number("1970-01-02") == 1
    with pytest.raises(InputError, match=f"'{text}' is no date"):
        days.day_number(text)
