"""Logs of positives only: what is refused, and what `convert` makes of them with negatives."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.config import builders
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.ratings import Options, convert
from interactrank_jax.log.negatives import SampledNegatives
from interactrank_jax.log.read import open_log
from interactrank_jax.log.validate import validate

T0 = 946_684_800  # 2000-01-01 00:00 UTC, an hour's start
HOUR = 3_600
ALL_SUCCEED = Options(rating="", time="time", negatives=SampledNegatives("uniform", 2))
# user, item, seconds after T0. Hour 0 shows that a, b and c exist, hour 1 that d does.
TAKEN = [
    ("ann", "a", 0),
    ("bob", "b", 1),
    ("cat", "c", 2),
    ("ann", "b", HOUR),
    ("dan", "d", HOUR + 5),
    ("dan", "a", HOUR + 6),
    ("eve", "a", 2 * HOUR),
    ("eve", "b", 2 * HOUR + 1),
    ("eve", "a", 2 * HOUR + 2),
    ("ann", "a", 3 * HOUR),
]
HOUR_OF_T0 = T0 // HOUR


def write(path, rows=TAKEN, header="user_id,item_id,time", items=None):
    path.mkdir()
    lines = [header, *(f"{u},{i},{T0 + t}" for u, i, t in rows)]
    (path / "ratings.csv").write_text("\n".join(lines))
    if items is not None:
        (path / "items.csv").write_text("\n".join(items))
    return path


def rows(path, table):
    return pq.read_table(path / f"{table}.parquet").to_pylist()


def slates(log):
    """Returns of each request what was shown and what was sampled."""
    result = {}
    for row in rows(log, "impressions"):
        assert row["like"] == (row["stage"] == "shown")
        assert not row["dislike"]
        parts = result.setdefault(row["request_id"], {"shown": [], "random": []})
        parts[row["stage"]].append(row["item_id"])
    return {name: (sorted(p["shown"]), sorted(p["random"])) for name, p in result.items()}


def test_a_request_has_what_was_taken_and_what_else_existed(tmp_path):
    summary = convert(write(tmp_path / "source"), tmp_path / "log", ALL_SUCCEED)
    assert slates(tmp_path / "log") == {
        # Ann took a too; d came within the hour.
        f"ann-{HOUR_OF_T0 + 1}": (["b"], ["c"]),
        # Dan's d is the first of its kind: nobody could have ranked it.
        f"dan-{HOUR_OF_T0 + 1}": (["a"], ["b", "c"]),
        f"eve-{HOUR_OF_T0 + 2}": (["a", "b"], ["c", "d"]),
        f"ann-{HOUR_OF_T0 + 3}": (["a"], ["c", "d"]),
    }
    counts = {"sampled": 7, "lacking": 3, "too_early": 4, "repeated": 0, "replaced": 1}
    assert {name: summary[name] for name in counts} == counts
    assert summary["successes"] == summary["events"] == 10
    assert "2 sampled for each positive, uniformly" in summary["negatives"]
    log = open_log(tmp_path / "log")
    assert log.schema.negatives == SampledNegatives("uniform", 2, 0)
    statistics = validate(log)
    assert statistics["actions"] == {"like": 5, "dislike": 0}
    assert statistics["sampled_negatives"] == 7
    assert statistics["negatives"] == {"method": "uniform", "per_positive": 2, "seed": 0}
    # All that was taken is an event, and nothing else.
    assert [(e["user_id"], e["item_id"], e["event_time"] - T0) for e in rows(log.path, "events")] \
        == TAKEN  # fmt: skip
    assert {e["action"] for e in rows(log.path, "events")} == {"like"}
    created = {i["item_id"]: i["created_at"] - T0 for i in rows(log.path, "items")}
    assert created == {"a": 1, "b": 2, "c": 3, "d": HOUR + 6}


def test_a_date_says_that_an_item_existed_before_anybody_took_it(tmp_path):
    items = ["item_id,born", *(f"{name},1999-12-31" for name in "abcd"), "e,2000-01-01T03:00:00",
             "f,2000-01-02"]  # fmt: skip
    dated = dataclasses.replace(ALL_SUCCEED, created="born")
    summary = convert(write(tmp_path / "source", items=items), tmp_path / "log", dated)
    assert (summary["too_early"], summary["features"]) == (0, "")
    parts = slates(tmp_path / "log")
    assert parts[f"ann-{HOUR_OF_T0}"] == (["a"], ["c", "d"])
    assert parts[f"dan-{HOUR_OF_T0 + 1}"] == (["a", "d"], ["b", "c"])
    assert parts[f"eve-{HOUR_OF_T0 + 2}"] == (["a", "b"], ["c", "d"])
    assert set(parts[f"ann-{HOUR_OF_T0 + 3}"][1]) <= {"c", "d", "e"}
    created = {i["item_id"]: i["created_at"] - T0 for i in rows(tmp_path / "log", "items")}
    assert created == dict.fromkeys("abcd", -86_400) | {"e": 3 * HOUR, "f": 86_400}


def test_dates_are_kept_without_negatives_too(tmp_path):
    source = write(tmp_path / "source", header="user_id,item_id,time",
                   items=["item_id,born", *(f"{name},1999-12-31" for name in "abcd")])  # fmt: skip
    text = (source / "ratings.csv").read_text().splitlines()
    graded = [f"{line},{k % 2}" for k, line in enumerate(text[1:])]
    (source / "ratings.csv").write_text("\n".join([f"{text[0]},rating", *graded]))
    convert(source, tmp_path / "log", Options(time="time", created="born"))
    assert {i["created_at"] for i in rows(tmp_path / "log", "items")} == {T0 - 86_400}
    assert "stage" not in rows(tmp_path / "log", "impressions")[0]


def test_an_item_that_nobody_took_has_no_date_and_is_never_drawn(tmp_path):
    source = write(tmp_path / "source", items=["item_id,kind", *(f"{name},k" for name in "abcdz")])
    convert(source, tmp_path / "log", dataclasses.replace(ALL_SUCCEED, time=""))
    assert all("z" not in sampled for _, sampled in slates(tmp_path / "log").values())
    convert(source, tmp_path / "timed", ALL_SUCCEED)
    assert [i["created_at"] for i in rows(tmp_path / "timed", "items")][-1] is None
    validate(open_log(tmp_path / "timed"))


def test_without_time_negatives_are_what_the_user_never_took(tmp_path):
    options = dataclasses.replace(ALL_SUCCEED, time="")
    summary = convert(write(tmp_path / "source"), tmp_path / "log", options)
    assert slates(tmp_path / "log") == {
        "ann": (["a", "b"], ["c", "d"]),
        "bob": (["b"], slates(tmp_path / "log")["bob"][1]),
        "cat": (["c"], slates(tmp_path / "log")["cat"][1]),
        "dan": (["a", "d"], ["b", "c"]),
        "eve": (["a", "b"], ["c", "d"]),
    }
    assert (summary["sampled"], summary["too_early"], summary["lacking"]) == (10, 0, 6)
    assert "created_at" not in rows(tmp_path / "log", "items")[0]


def test_what_users_rated_low_stays_a_dislike_and_is_never_drawn(tmp_path):
    path = tmp_path / "source"
    path.mkdir()
    graded = [(*row, 5) for row in TAKEN] + [("eve", "c", 2 * HOUR + 3, 1)]
    lines = ["user_id,item_id,time,rating", *(f"{u},{i},{T0 + t},{r}" for u, i, t, r in graded)]
    (path / "ratings.csv").write_text("\n".join(lines))
    options = dataclasses.replace(ALL_SUCCEED, rating="rating", threshold=3.0)
    convert(path, tmp_path / "log", options)
    of_eve = {
        r["item_id"]: (r["like"], r["dislike"], r["stage"])
        for r in rows(tmp_path / "log", "impressions")
        if r["request_id"].startswith("eve")
    }
    assert of_eve == {
        "a": (True, False, "shown"),
        "b": (True, False, "shown"),
        "c": (False, True, "shown"),
        "d": (False, False, "random"),
    }


def random_positives(path, seed, users=40, items=30, count=600):
    """Users that take at random what exists, new items coming all the time."""
    rng = np.random.default_rng(seed)
    second = np.sort(rng.integers(0, 40 * 86_400, count))
    born = np.where(rng.random(items) < 0.4, 0, rng.integers(0, 30 * 86_400, items))
    item = np.array([rng.choice(np.flatnonzero(born <= t)) for t in second])
    user = rng.integers(0, users, count)
    return write(path, zip(user.tolist(), item.tolist(), second.tolist(), strict=True))


@pytest.mark.parametrize("method", ["uniform", "popularity"])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_logs(tmp_path, method, seed):
    source = random_positives(tmp_path / "source", seed)
    options = dataclasses.replace(ALL_SUCCEED, negatives=SampledNegatives(method, 3, seed))
    summary = convert(source, tmp_path / "log", options)
    validate(open_log(tmp_path / "log"))
    time = {r["request_id"]: r["timestamp"] for r in rows(tmp_path / "log", "requests")}
    first, taken = {}, set()
    for event in rows(tmp_path / "log", "events"):
        first.setdefault(event["item_id"], event["event_time"])
        taken.add((event["user_id"], event["item_id"]))
    impressions = rows(tmp_path / "log", "impressions")
    assert {row["request_id"] for row in impressions} == set(time)
    for row in impressions:
        user = row["request_id"].split("-")[0]
        # The past tells nobody apart: positives and negatives alike were taken in an earlier hour.
        assert first[row["item_id"]] < time[row["request_id"]]
        assert ((user, row["item_id"]) in taken) == row["like"] == (row["stage"] == "shown")
        assert not row["dislike"]
    positions = [row["position"] for row in impressions if row["like"]]
    assert 0.9 < np.mean(positions) < 2.4  # of 0 to 3 or more: not all at one end
    asked = 3 * sum(row["like"] for row in impressions)
    assert summary["sampled"] + summary["lacking"] == asked
    assert summary["lacking"] < 0.05 * asked
    convert(source, tmp_path / "again", options)
    for name in ("impressions", "items", "requests"):
        assert rows(tmp_path / "log", name) == rows(tmp_path / "again", name)


def test_the_log_is_refused_where_a_sampled_row_has_an_action_or_no_stage(tmp_path):
    convert(write(tmp_path / "source"), tmp_path / "log", ALL_SUCCEED)
    file = tmp_path / "log" / "impressions.parquet"
    table = pq.read_table(file)
    disliked = pa.array([stage == "random" for stage in table["stage"].to_pylist()])
    pq.write_table(table.set_column(table.column_names.index("dislike"), "dislike", disliked), file)
    with pytest.raises(InputError, match=r"'dislike' is wrong in 7 .* nobody saw a sampled row"):
        validate(open_log(tmp_path / "log"))
    pq.write_table(table.drop(["stage"]), file)
    with pytest.raises(InputError, match="impressions lack column 'stage'"):
        validate(open_log(tmp_path / "log"))
    schema = tmp_path / "log" / "schema.json"
    value = json.loads(schema.read_text())
    schema.write_text(json.dumps(value | {"negatives": {"method": "best", "per_positive": 2}}))
    with pytest.raises(InputError, match=r"schema\.json: negatives are drawn by 'best'\. Known: "):
        open_log(tmp_path / "log")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "has no column 'rating'. Known: item_id, time, user_id. If every row is a success"),
        (["--rating="], "A model learns from items that users did not take too; draw some: --neg"),
        (["--rating=time"], "no rating lies at or below --threshold=0;"),
        (["--rating=time"], "draw some: --negatives=uniform:4 or --negatives=popularity:4"),
        (["--rating=", "--negatives=unifrm:4"], "Did you mean 'uniform'"),
        (["--rating=", "--threshold=3"], "--rating is empty, so every row is a success, yet"),
        (["--rating=", "--negatives=uniform:4", "--created=born"], "which means nothing without"),
        (["--rating=", "--time=time", "--negatives=uniform:4", "--created=born"], "no items.*"),
        (["--rating=time", "--seed=3"], "--seed is of --negatives"),
        (["--rating=", "--negatives=uniform:4", "--seed=-3"], "seed is -3. Expected a whole"),
    ],
)
def test_a_wrong_flag_says_what_to_do(tmp_path, flags, message, capsys):
    source = write(tmp_path / "source")
    out = tmp_path / "log"
    assert cli.main(["convert", "--format=ratings", f"--source={source}", f"--out={out}", *flags]) \
        == 2  # fmt: skip
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_what_makes_figures_doubtful_is_said(tmp_path):
    said = []
    convert(write(tmp_path / "source"), tmp_path / "log", ALL_SUCCEED, report=said.append)
    printed = "\n".join(said)
    assert "warning: 4 of 9 rows are events but no impressions, for nothing says" in printed
    assert "warning: 3 of 10 negatives are lacking" in printed
    assert "the user had before" not in printed
    again = [*TAKEN, *(("ann", "b", hour * HOUR) for hour in (5, 6, 7))]
    convert(write(tmp_path / "more", again), tmp_path / "again", ALL_SUCCEED, report=said.append)
    assert "warning: 3 of 8 successes are of an item that the user had before" in said[-1]
    many = random_positives(tmp_path / "many", 0, users=400)
    said.clear()
    convert(many, tmp_path / "many-log", ALL_SUCCEED, report=said.append)
    assert not said


@pytest.mark.long  # prepares a log several times
@pytest.mark.parametrize(("argument", "time"), [("ratings", ""), ("ratings", "time")])
def test_a_config_prepares_such_a_log_at_random_too(tmp_path, argument, time):
    source = random_positives(tmp_path / "source", 3, users=60)
    options = dataclasses.replace(ALL_SUCCEED, time=time)
    summary = convert(source, tmp_path / "log", options)
    data = builders.base_config(argument).data
    metadata = prepare(data, tmp_path / "log", tmp_path / "examples")
    assert metadata.negatives == options.negatives
    assert metadata.protocol_in_words.startswith("clean_random, negatives: 2 sampled for each pos")
    candidates = sum(split.candidates for split in metadata.splits.values())
    assert candidates == summary["impressions"] > summary["sampled"] > 0


def test_where_every_item_is_new_nothing_can_be_drawn(tmp_path):
    source = write(tmp_path / "source", [("ann", "a", 0), ("bob", "b", HOUR)])
    with pytest.raises(InputError, match=r"every row is the first of its item.*--created=COLUMN"):
        convert(source, tmp_path / "log", ALL_SUCCEED)
