"""Examples from a STATE that is given are those that `prepare` makes alone, or refused."""

import shutil
import subprocess
import sys

import pyarrow as pa
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.state import as_of, engines, snapshot, store
from interactrank_jax.state.build import build_store
from tests.conftest import REPOSITORY
from tests.golden import canonical
from tests.golden.cases import BY_POSITION, EVERYTHING
from tests.log.handmade_log import (
    FEATURES,
    START,
    data_config,
    make_tables,
    published_config,
    random_config,
    replace,
    write_log,
)
from tests.state.conftest import MEANS
from tests.state.test_growth import until
from tests.state.test_outputs import contents

FIRST = START // 86_400
OLD = FIRST + 21  # the last day of the log when its examples were made first
CONFIG = data_config(**EVERYTHING, **BY_POSITION)


# Half a minute each on a busy machine; what differs is where engagements come from.
WAYS = ["events", pytest.param("no events", marks=pytest.mark.thorough)]


@pytest.fixture(scope="module", params=WAYS)
def grown(request, tmp_path_factory):
    """A log as it was and as it is, a STATE that grew with it, and examples from it on the way."""
    root = tmp_path_factory.mktemp("grown")
    tables = make_tables(events=request.param == "events")
    before = open_log(write_log(root / "log before", until(tables, OLD)))
    after = open_log(write_log(root / "log after", tables))
    with engines.connect("duckdb", root / "scratch") as backend:
        build_store(CONFIG, before, root / "state", backend, through=FIRST + 9)
        build_store(CONFIG, before, root / "state", backend, through=OLD - CONFIG.cross.lag_days)
        prepare(CONFIG, before.path, root / "then", state=root / "state")
        build_store(CONFIG, after, root / "state", backend)
    return root


class TestExamples:
    @pytest.mark.long  # prepares a log several times
    def test_of_a_state_that_has_grown_since_are_the_same(self, grown, tmp_path):
        prepare(CONFIG, grown / "log before", tmp_path / "now", state=grown / "state")
        canonical.assert_equal(tmp_path / "now", grown / "then")

    @pytest.mark.long  # prepares a log several times
    def test_are_those_of_the_state_that_prepare_builds(self, grown, tmp_path):
        prepare(CONFIG, grown / "log before", tmp_path / "alone")
        canonical.assert_equal(grown / "then", tmp_path / "alone")
        found = dict(canonical.columns(Examples(grown / "then")))
        assert (found["test/cross"] != 0).any()
        assert (found["test/history_item"] != "").any()
        assert (found["test/query_history_item"] != "").any()

    @pytest.mark.long  # prepares a log several times
    def test_do_not_hold_a_state_that_was_given(self, grown):
        assert not (grown / "then" / "state").exists()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A log and its STATE through all days that its last requests need; read only."""
    root = tmp_path_factory.mktemp("given")
    log = open_log(write_log(root / "log", make_tables()))
    with engines.connect("duckdb", root / "scratch") as backend:
        build_store(data_config(), log, root / "state", backend)
    return root


def refuse(expected, log, out, state, config=None):
    """Preparing fails as expected, writes nothing and changes nothing."""
    before = contents(state) if state.exists() else None
    with pytest.raises(InputError, match=expected):
        prepare(config or data_config(), log, out, state=state)
    assert not out.exists()
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}.")]
    assert (contents(state) if state.exists() else None) == before


def test_a_request_without_impressions_asks_for_no_day(root, tmp_path):
    """Nothing is made of it, so STATE need not reach it."""
    tables = make_tables()
    last = tables["requests"].sort_by("timestamp").slice(len(tables["requests"]) - 1)
    later = replace(last, "timestamp", [last["timestamp"][0].as_py() + 9 * 86_400])
    tables["requests"] = pa.concat_tables([tables["requests"], replace(later, "request_id", ["x"])])
    log = write_log(tmp_path / "log", tables)
    prepare(data_config(), log, tmp_path / "examples", state=root / "state")
    prepare(data_config(), root / "log", tmp_path / "as before", state=root / "state")
    canonical.assert_equal(tmp_path / "examples", tmp_path / "as before")


@pytest.mark.long  # prepares a log several times
def test_a_segment_may_be_called_like_what_requests_and_items_are_numbered_by(tmp_path):
    tables = make_tables()
    names = {"bucket": "country", "request": "country", "item_row": "country"}
    features = FEATURES
    for name, source in names.items():
        features = (*features, FeatureSpec(name, "user", "categorical"))
        for table in ("requests", "events"):
            tables[table] = tables[table].append_column(name, tables[table][source])
    log = write_log(tmp_path / "log", tables)
    Schema(features, ("click", "save")).save(log)
    segments = tuple(f"share:click:30:{name}" for name in ("country", *names))
    prepare(data_config(**{"cross.features": segments}), log, tmp_path / "examples")
    for block in Examples(tmp_path / "examples").blocks("train", ("cross",)):
        assert (block["cross"] == block["cross"][..., :1]).all()


class TestRefusals:
    """What was expected, what came and what to do."""

    def test_of_another_log(self, root, tmp_path):
        log = write_log(tmp_path / "log", make_tables(seed=1))
        expected = r"requests of \d{4}-.*: the log has \d+, but had \d+ .* another log: build again"
        refuse(expected, log, tmp_path / "out", root / "state")

    def test_of_another_log_s_actions(self, root, tmp_path):
        tables = make_tables()
        clicks = tables["impressions"]["click"]
        tables["impressions"] = tables["impressions"].append_column("like", clicks)
        log = write_log(tmp_path / "log", tables, ("click", "save", "like"))
        expected = r"has the actions .*'like'\), what was counted had .* this is another log"
        refuse(expected, log, tmp_path / "out", root / "state")

    @pytest.mark.parametrize(
        ("field", "value", "named"),
        [
            ("cross.lag_days", 2, "lag_days 1, asked for is 2"),
            ("cross.features", ("share:click:7",), "features"),
            ("cross.prior", 4.0, "prior 5.0, asked for is 4.0"),
            ("query_history.actions", ("save",), "query_actions"),
            ("history.rates", (), "user_impressions True, asked for is False"),
        ],
    )
    def test_of_another_recipe(self, field, value, named, root, tmp_path):
        expected = rf"--state=.*state was built with {named}.*Prepare with the --config .* build"
        config = data_config(**{field: value})
        refuse(expected, root / "log", tmp_path / "out", root / "state", config)

    def test_of_fewer_days_than_asked(self, root, backend, tmp_path):
        log = open_log(root / "log")
        build_store(data_config(), log, tmp_path / "state", backend, through=FIRST + 9)
        expected = (
            r"state is counted through 2022-01-17, but day 2022-02-06 needs 2022-02-05\. .* run "
            r"`interactrank state build --config=CONFIG --log=.* --through=2022-02-05`"
        )
        refuse(expected, log.path, tmp_path / "out", tmp_path / "state")

    @pytest.mark.parametrize("column", ["user_id", "item_id", "query_id"])
    def test_of_ids_of_another_kind(self, column, root, tmp_path):
        tables = make_tables()
        for name, table in tables.items():
            if column in table.column_names:
                values = table[column].to_pylist()
                other = [
                    v if v is None else str(v) if column == "query_id" else int(v[1:])
                    for v in values
                ]
                tables[name] = replace(table, column, other)
        log = write_log(tmp_path / "log", tables)
        expected = rf"state: '{column}' was \w+ when it was built, it is \w+ in .*another log\."
        refuse(expected, log, tmp_path / "out", root / "state")

    def test_of_no_day_at_all(self, root, backend, tmp_path):
        """As a build leaves it that was killed in its first days."""
        shutil.copytree(root / "state", tmp_path / "state")
        for file in (tmp_path / "state" / "chunks").iterdir():
            file.unlink()
        expected = r"state is counted through nothing, but day 2022-02-06 needs 2022-02-05"
        refuse(expected, root / "log", tmp_path / "out", tmp_path / "state")

    @pytest.mark.parametrize("folder", ["counts", "timelines", "query_items", "chunks", "state"])
    def test_of_a_damaged_one(self, folder, root, tmp_path):
        state = shutil.copytree(root / "state", tmp_path / "state")
        name = "state.json" if folder == "state" else f"{folder}/**/*.*"
        file = next(path for path in sorted(state.glob(name)) if path.is_file())
        contents = bytearray(file.read_bytes())
        contents[len(contents) // 2] ^= 4
        file.write_bytes(contents)
        expected = rf"{file.name}.*make .*state again, by `interactrank state build`"
        refuse(expected, root / "log", tmp_path / "out", state)

    def test_of_nothing(self, root, tmp_path):
        expected = r"holds no STATE .*Expected the --out of `interactrank state build`"
        refuse(expected, root / "log", tmp_path / "out", tmp_path / "nowhere")

    def test_of_one_that_is_being_built(self, root, tmp_path):
        state = shutil.copytree(root / "state", tmp_path / "state")
        script = (
            "import sys\n"
            "from interactrank_jax.io import outputs\n"
            "with outputs.lock(sys.argv[1]):\n"
            "    print('locked', flush=True)\n"
            "    sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(state)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as builder:
            assert builder.stdout.readline() == b"locked\n"
            expected = r"state is being written by another process\. Wait until it ends, or"
            refuse(expected, root / "log", tmp_path / "out", state)
            builder.stdin.close()
            builder.wait()
        prepare(data_config(), root / "log", tmp_path / "out", state=state)

    @pytest.mark.parametrize("kind", ["random", "timeless", "published"])
    def test_where_the_split_decides_what_counts(self, kind, root, tmp_path):
        log = root / "log"
        if kind == "timeless":
            log = write_log(tmp_path / "log", make_tables(timeless=True))
        config = published_config() if kind == "published" else random_config()
        expected = r"under protocol '.*' the split decides what STATE counts.* Leave --state out"
        refuse(expected, log, tmp_path / "out", root / "state", config)

    def test_of_one_with_folds_for_days(self, root, backend, tmp_path):
        log = open_log(root / "log")
        prepare(random_config(), log.path, tmp_path / "random")
        state = tmp_path / "random" / "state"
        refuse(r"was built with lag_days None, asked for is 1", log.path, tmp_path / "out", state)
        held = store.open_store(state, log)
        for write in (
            lambda: as_of.write(log, held, backend, tmp_path / "out", means=MEANS),
            lambda: snapshot.write(log, held, backend, tmp_path / "out", FIRST + 9, MEANS),
        ):
            with pytest.raises(InputError, match=r"has folds for days.*Expected one with days"):
                write()


def test_a_state_that_belongs_to_examples_does_not_grow(root, backend, tmp_path):
    """Their digest does not cover what it would become; a copy of it may."""
    tables = make_tables()
    log = open_log(write_log(tmp_path / "log", until(tables, OLD)))
    prepare(data_config(), log.path, tmp_path / "examples")
    state = tmp_path / "examples" / "state"
    before = contents(tmp_path / "examples")
    whole = open_log(root / "log")
    with pytest.raises(InputError, match=r"belongs to the examples in .*examples, .* Copy it"):
        build_store(data_config(), whole, state, backend)
    assert contents(tmp_path / "examples") == before
    copy = shutil.copytree(state, tmp_path / "copy")
    assert build_store(data_config(), whole, copy, backend).next_day == OLD + 8
