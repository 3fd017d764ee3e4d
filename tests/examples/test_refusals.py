"""What the preparation refuses or is kept from finishing: it says why, and leaves nothing."""

import gc
import tempfile

import numpy as np
import pytest

from interactrank_jax.examples import corpus, past
from interactrank_jax.examples.assemble import Assembler
from interactrank_jax.examples.blocks import BlockWriter
from interactrank_jax.examples.candidates import CandidateBuckets
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.examples.rates import MeanRates
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from tests.log.handmade_log import ACTIONS, data_config, random_config, replace, write_log
from tests.marks import some_quick


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "history.actions",
            ("click", "sav"),
            r"config\.data\.history\.actions names action 'sav'\. Did you mean",
        ),
        ("history.rates", ("buy",), "config.data.history.rates names action 'buy'"),
        ("query_history.actions", ("buy",), "config.data.query_history.actions names action 'buy'"),
        ("history.delay_s", 0, "config.data.history.delay_s is 0"),
        ("history.length", 0, "config.data.history.length is 0"),
        (
            "cross.features",
            ("share:buy:7",),
            "config.data.cross.features: 'share:buy:7' has action 'buy'",
        ),
        (
            "cross.features",
            ("share:click:7:city",),
            "config.data.cross.features: .* has segment 'city'",
        ),
        ("cross.lag_days", 0, "config.data.cross.lag_days is 0. Expected a whole number from 1"),
        ("cross.prior", 0.0, "config.data.cross.prior is 0.0"),
        ("protocol", "clean_tim", "config.data.protocol is .* Did you mean 'clean_time'"),
        ("split.fractions", (0.5, 0.5, 0.5), "config.data.split.fractions is .* sum to 1"),
        (
            "split.fractions",
            (0.9998, 0.0001, 0.0001),
            "split is empty.* config.data.split.fractions",
        ),
        ("vocabulary.out_of_vocabulary", 0, "config.data.vocabulary.out_of_vocabulary is 0"),
        ("slate", 0, "config.data.slate is 0"),
    ],
)
def test_a_wrong_config_is_refused_and_leaves_nothing(field, value, message, log, tmp_path):
    with pytest.raises(InputError, match=message):
        prepare(data_config(**{field: value}), log, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_folds_close_to_leave_one_out_are_refused(log, tmp_path):
    with pytest.raises(InputError, match=r"config\.data\.folds is 1000.*leave-one-out"):
        prepare(random_config(folds=1000), log, tmp_path / "out")


def test_training_without_any_action_is_refused(tables, tmp_path):
    impressions = tables["impressions"]
    for action in ACTIONS:
        impressions = replace(impressions, action, np.zeros(len(impressions), np.int64))
    log = write_log(tmp_path / "log", tables | {"impressions": impressions})
    with pytest.raises(InputError, match="nobody did anything in training"):
        prepare(data_config(), log, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_segment_that_events_lack_is_refused(tables, tmp_path):
    events = tables["events"].drop_columns(["country"])
    log = write_log(tmp_path / "log", tables | {"events": events})
    with pytest.raises(InputError, match=r"config\.data\.cross.* events have no column 'country'"):
        prepare(data_config(), log, tmp_path / "out")


def test_a_directory_that_holds_something_is_refused(log, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="exists already"):
        prepare(data_config(), log, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


PHASES = [
    (past, "build_for"),
    (MeanRates, "from_tally"),
    (past, "look_up"),
    (CandidateBuckets, "read"),  # in another thread
    (Assembler, "bucket"),
    (BlockWriter, "write"),  # in another thread
    (corpus, "write_sparse_cross"),
]


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Directories that must be empty afterwards: for output, for scratch, and the current one."""
    result = [tmp_path / name for name in ("parent", "scratch", "here")]
    for place in result:
        place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(result[1]))
    monkeypatch.chdir(result[2])
    return result


@pytest.mark.long  # prepares a log several times
@pytest.mark.parametrize(
    ("owner", "phase"),
    some_quick(PHASES, (PHASES[2], PHASES[3], PHASES[5])),
    ids=[phase for _, phase in PHASES],
)
def test_an_interrupted_preparation_leaves_nothing(owner, phase, log, places, monkeypatch):
    def interrupt(*args, **kwargs):
        assert list(places[0].iterdir())  # work had begun there
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, phase, interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(data_config(), log, places[0] / "out")
    gc.collect()  # an error from another thread keeps the log, and its scratch, until then
    assert not [left for place in places for left in place.iterdir()]


def test_what_does_not_fit_into_memory_goes_to_no_place_of_the_user(log, places):
    backend = open_log(log)._duckdb
    backend.raw_sql("set memory_limit = '40MB'; set threads = 1")
    numbers = "select hash(range) as number from range(4000000)"
    (row,) = backend.raw_sql(f"select count(distinct number) from ({numbers})").fetchall()
    assert row == (4_000_000,)
    assert not list(places[2].iterdir())
    backend.disconnect()
    assert not list(places[1].iterdir())
