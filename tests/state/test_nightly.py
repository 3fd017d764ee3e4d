"""Night after night: STATE through today, a snapshot for tomorrow, and a day without rows."""

import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.state import snapshot, store
from interactrank_jax.state.build import build_store
from interactrank_jax.state.days import date
from tests.log.handmade_log import START, make_tables, replace, write_log
from tests.state.conftest import FULL, MEANS, everything, state_config

FIRST = START // 86_400
EMPTY = FIRST + 13  # nothing was asked on it, and nothing arrived
NIGHTS = range(EMPTY - 1, EMPTY + 3)


def through(tables, last):
    """Returns the log as it is in the night after a day."""

    def kept(name, column):
        days = pc.divide(tables[name][column], 86_400)
        return tables[name].filter(pc.and_(pc.less_equal(days, last), pc.not_equal(days, EMPTY)))

    requests = kept("requests", "timestamp")
    known = pc.is_in(tables["impressions"]["request_id"], requests["request_id"])
    return tables | {
        "requests": requests,
        "impressions": tables["impressions"].filter(known),
        "events": kept("events", "arrival_time"),
    }


@pytest.mark.long  # builds a state several times
def test_nights_one_by_one_equal_one_build_of_all(backend, tmp_path):
    tables, config = make_tables(), state_config(**FULL)
    for today in NIGHTS:
        shutil.rmtree(tmp_path / "log", ignore_errors=True)
        log = open_log(write_log(tmp_path / "log", through(tables, today)))
        held = build_store(config, log, tmp_path / "nightly", backend, through=today)
        assert held.next_day == today + 1
        snapshot.write(log, held, backend, tmp_path / f"for {today + 1}", today + 1, MEANS)
    once = build_store(config, log, tmp_path / "once", backend, through=today)
    assert everything(held, backend) == everything(once, backend)
    assert held.figures() == once.figures()
    empty = [chunk for chunk in held.chunks if (chunk.first, chunk.last) == (EMPTY, EMPTY)]
    assert [chunk.rows for chunk in empty] == [0]
    # What was served on each day is what the whole log, later, says that it should have been.
    for today in NIGHTS:
        again = tmp_path / f"again {today + 1}"
        snapshot.write(log, once, backend, again, today + 1, MEANS)
        for folder in (path for path in again.iterdir() if path.is_dir()):
            served = pq.read_table(tmp_path / f"for {today + 1}" / folder.name)
            assert served.equals(pq.read_table(folder))
            assert len(served)


def test_a_day_that_was_counted_as_empty_takes_no_rows(backend, tmp_path):
    tables = make_tables()
    log = open_log(write_log(tmp_path / "before", through(tables, EMPTY)))
    build_store(state_config(), log, tmp_path / "state", backend, through=EMPTY)
    log = open_log(write_log(tmp_path / "after", tables))
    expected = rf"requests of {date(EMPTY)}: the log has \d+, but had 0"
    with pytest.raises(InputError, match=expected):
        build_store(state_config(), log, tmp_path / "state", backend)


def test_integers_that_grow_wider_one_night_are_counted_as_before(backend, tmp_path):
    """Chunks are read together, so all must be of one type, whatever the log's was at the time."""
    config = state_config(**{"cross.features": ("share:click:30:country", "rate:click:14")})
    first, second = FIRST + 12, FIRST + 25
    wide = through(make_tables(), second)
    codes = {"de": 1, "fr": 2, "us": 3}
    for kind, last in ((pa.int32(), first), (pa.int64(), second)):
        tables = through(wide, last)
        # Countries get other codes, beyond 32 bits, in the second part of the log.
        for name, column in (("requests", "timestamp"), ("events", "arrival_time")):
            table = tables[name]
            is_late = [at // 86_400 > first for at in table[column].to_pylist()]
            country = table["country"].to_pylist()
            numbers = [codes[c] + (late << 40) for c, late in zip(country, is_late, strict=True)]
            tables[name] = replace(table, "country", pa.array(numbers, kind))
        ids = [int(text[1:]) for text in tables["events"]["event_id"].to_pylist()]
        tables["events"] = replace(tables["events"], "event_id", pa.array(ids, kind))
        shutil.rmtree(tmp_path / "log", ignore_errors=True)
        log = open_log(write_log(tmp_path / "log", tables))
        grown = build_store(config, log, tmp_path / "grown", backend, through=last)
    once = build_store(config, log, tmp_path / "once", backend, through=last)
    assert len(grown.chunks) == 2
    assert everything(grown, backend) == everything(once, backend)
    assert grown.figures() == once.figures()
    codes = backend.to_pyarrow(grown.counts(("query", "country"), backend))["country"]
    assert set(codes.to_pylist()) == {1, 2, 3, 2**40 + 1, 2**40 + 2, 2**40 + 3}


def test_ids_that_become_of_another_kind_one_night_are_refused(backend, tmp_path):
    """In a log that keeps its latest days only, so that its own parts agree."""
    config = state_config(**{"cross.features": ("share:click:30",)})
    tables = make_tables()
    for number, last in enumerate((FIRST + 12, FIRST + 25)):
        for name in ("requests", "events"):
            kept = tables[name]
            if number:
                column = {"requests": "timestamp", "events": "arrival_time"}[name]
                kept = kept.filter(pc.greater_equal(kept[column], (FIRST + 12) * 86_400))
                text = [None if q is None else str(q) for q in kept["query_id"].to_pylist()]
                kept = replace(kept, "query_id", text)
            tables[name] = kept
        log = open_log(write_log(tmp_path / str(number), through(tables, last)))
        held = build_store(config, log, tmp_path / "state", backend, through=last)
    with pytest.raises(InputError, match=r"'query': 'string'.*'query': 'int64'.*another kind"):
        everything(held, backend)


def test_a_log_on_which_nothing_counts_has_its_days_all_the_same(backend, tmp_path):
    tables = make_tables(40, events=False)
    nothing = pa.array([False] * len(tables["impressions"]))
    for action in ("click", "save"):
        index = tables["impressions"].column_names.index(action)
        tables["impressions"] = tables["impressions"].set_column(index, action, nothing)
    log = open_log(write_log(tmp_path / "log", tables))
    config = state_config(**{"cross.features": ("share:click:7",)})
    held = build_store(config, log, tmp_path / "state", backend, through=FIRST + 40)
    assert held.next_day == FIRST + 41
    snapshot.write(log, held, backend, tmp_path / "snapshot", FIRST + 41)


@pytest.mark.long  # counts a log several times
def test_the_command_for_tomorrow_is_told_and_helps(log, examples_with_rates, tmp_path, capsys):
    """As printed, but for the config, which STATE does not know the file of."""
    config = tmp_path / "config.py"
    config.write_text(
        "import ml_collections\n"
        "from tests.state.conftest import state_config\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict({'data': state_config()})\n"
    )
    state = tmp_path / "the state"
    build = ["state", "build", f"--config={config}", f"--log={log.path}", f"--out={state}"]
    assert cli.main(build) == 0
    newest = pq.read_table(log.path / "requests.parquet")["timestamp"].to_numpy().max()
    tomorrow = int(newest) // 86_400 + 1
    serve = ["state", "snapshot", f"--log={log.path}", f"--state={state}"]
    serve += [f"--as_of={date(tomorrow)}", f"--encoder={examples_with_rates}"]
    assert cli.main([*serve, f"--out={tmp_path / 'snapshot'}"]) == 2
    message = capsys.readouterr().err
    command = (
        f"`interactrank state build --config=CONFIG --log={log.path} --out='{state}' "
        f"--through={date(tomorrow - 1)}`"
    )
    assert command in message
    assert cli.main([*build, f"--through={date(tomorrow - 1)}"]) == 0
    assert cli.main([*serve, f"--out={tmp_path / 'snapshot'}"]) == 0
    assert store.open_store(state, log).next_day == tomorrow
