import sys

import ibis
import numpy as np
import pytest

from interactrank_jax.examples import leaks
from interactrank_jax.examples.rates import MeanRates
from interactrank_jax.io.errors import InputError
from interactrank_jax.state import expressions, histories
from interactrank_jax.state.histories import NO_FOLD, Timelines
from interactrank_jax.state.query_history import QueryHistory
from tests.log.handmade_log import data_config, make_tables, random_config, write_log

CROSS = ("share:click:7", "item_share:click:30:country", "rate:save:30", "share:impression:7")

# Every option of ItemQueryPerf at once.
OPTIONS = {
    "cross.features": (*CROSS, "rate:click:30:fresh", "item_rate:save:400:country"),
    "cross.lag_days": 2,
    "cross.backoff.strength": 3.0,
    "cross.backoff.query_form": "query_text",
    "cross.user_day_cap": 4,
    "cross.debias.name": "propensity",
    "cross.fresh_days": 20,
}


def _config(make=data_config, **overrides):
    return make(**{"history.rates": ("click",), "cross.features": CROSS, **overrides})


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log") / "log", make_tables(300))


@pytest.fixture(scope="module")
def log_without_events(tmp_path_factory):
    tables = make_tables(300, events=False)
    return write_log(tmp_path_factory.mktemp("log") / "log", tables)


def _features(report: leaks.Report) -> set[str]:
    return {leak.feature for leak in report.leaks}


@pytest.mark.long  # prepares a log several times
@pytest.mark.parametrize(
    ("name", "options"),
    [pytest.param("log", OPTIONS, marks=pytest.mark.thorough), ("log_without_events", {})],
)
def test_the_preparation_of_a_log_with_time_does_not_leak(name, options, request):
    phases: list[str] = []
    report = leaks.examine(_config(**options), request.getfixturevalue(name), phases.append)
    assert not report.leaks, str(report)
    assert len(report.checks) == 3
    assert len(phases) == 4
    assert str(report).endswith("no leak found")


@pytest.mark.thorough  # as do tests of protocols, of a smaller log
def test_the_preparation_of_a_random_split_does_not_leak(log):
    report = leaks.examine(_config(random_config), log)
    assert not report.leaks, str(report)
    assert len(report.checks) == 3


@pytest.mark.long  # prepares a log several times
def test_counts_of_the_same_day_are_caught(log, monkeypatch):
    monkeypatch.setattr(expressions, "frame", lambda window, lag_days: (window - 1, 0))
    config = _config(**{"cross.features": ("share:click:7",)})
    report = leaks.examine(config, log)
    found = _features(report)
    assert {"share:click:7", "count of share:click:7", "ragged cross features"} <= found
    assert not any("history" in feature for feature in found)
    assert "such as request 'r" in str(report)


@pytest.mark.thorough
def test_histories_without_a_cut_are_caught(log_without_events, monkeypatch):
    monkeypatch.setattr(histories, "known_until", lambda timestamp, delay_s: timestamp + 7 * 86_400)
    config = _config(**{"cross.features": ("share:click:7",)})
    found = _features(leaks.examine(config, log_without_events))
    assert {"history_item", "history_action", "history_age", "user_count_click"} <= found
    assert not any("share" in feature for feature in found)


@pytest.mark.thorough
def test_query_histories_without_a_lag_are_caught(log, monkeypatch):
    as_of_days = QueryHistory._as_of_days

    def without_lag(self, rows, days, result):
        as_of_days(self, rows, days + self._lag_days, result)

    monkeypatch.setattr(QueryHistory, "_as_of_days", without_lag)
    config = _config(**{"cross.features": ()})
    assert _features(leaks.examine(config, log)) == {"query_history_item"}


@pytest.mark.thorough
def test_counts_that_include_the_own_fold_are_caught(log, monkeypatch):
    def of_all_folds(counts, probes, keys, windows):
        # Moved to one day, the counts of every fold fall into the window of every probe.
        once = counts.mutate(period=ibis.literal(0, "int32"))
        later = probes.mutate(period=(probes.period + 100).cast("int32"))
        sums = expressions.windowed(once, later, keys, windows, 1)
        return sums.mutate(period=(sums.period - 100).cast("int32"))

    monkeypatch.setattr(expressions, "out_of_fold", of_all_folds)
    config = _config(random_config, **{"cross.features": ("share:click:500", "rate:save:500")})
    report = leaks.examine(config, log)
    found = {leak.feature for leak in report.leaks if leak.check.startswith("labels of fold")}
    assert {"share:click:500", "rate:save:500", "count of rate:save:500"} <= found


@pytest.mark.thorough
def test_histories_that_include_the_own_fold_are_caught(log, monkeypatch):
    monkeypatch.setattr(Timelines, "visible_to", lambda self, fold: self)
    out_of_fold = QueryHistory._out_of_fold

    def of_all_folds(self, rows, folds, result):
        out_of_fold(self, rows, np.full(len(folds), NO_FOLD), result)

    monkeypatch.setattr(QueryHistory, "_out_of_fold", of_all_folds)
    report = leaks.examine(_config(random_config, **{"cross.features": ()}), log)
    found = {leak.feature for leak in report.leaks if leak.check.startswith("labels of fold")}
    assert {"history_item", "query_history_item", "user_count_click", "user_rate_click"} <= found


@pytest.mark.thorough
def test_mean_rates_that_include_the_own_fold_are_caught(log, monkeypatch):
    by_action = MeanRates._by_action
    monkeypatch.setattr(
        MeanRates,
        "_by_action",
        lambda self, means, fold: by_action(self, means, np.full(len(fold), NO_FOLD)),
    )
    report = leaks.examine(_config(random_config, **{"cross.features": ("rate:save:30",)}), log)
    found = {leak.feature for leak in report.leaks if leak.check.startswith("labels of fold")}
    assert found == {"rate:save:30", "user_rate_click"}


@pytest.mark.thorough
def test_leave_one_out_is_caught(log):
    # With so many folds nearly every count leaves out one row. No feature depends on the labels of
    # its own fold: only the tree finds it.
    config = _config(random_config, folds=100, **{"cross.features": ("item_share:click:9",)})
    (leak,) = leaks.examine(config, log).leaks
    assert leak.check == "all labels shuffled"
    assert "AUC" in leak.finding


@pytest.mark.long  # every feature is counted again
def test_the_command_fails_on_a_leak_and_names_it(log, monkeypatch):
    monkeypatch.setattr(expressions, "frame", lambda window, lag_days: (window - 1, 0))
    config = _config(**{"cross.features": ("share:click:7",)})
    with pytest.raises(InputError, match=r"LEAK share:click:7 \(validation\), labels and"):
        leaks.check(config, log)


@pytest.mark.parametrize("package", leaks.NOISE_PACKAGES)
def test_a_missing_package_is_named_before_any_work(package, log, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(leaks, "prepare", lambda *args: pytest.fail("the work had begun"))
    with pytest.raises(InputError, match=rf"'{package}'.*pip install interactrank-jax\[data\]"):
        leaks.examine(_config(random_config), log)
