"""Expressions by themselves: the same for every engine, and what a window holds."""

import ibis
import pytest

from interactrank_jax.state import expressions


@pytest.mark.parametrize("keys", [(), ("item",), ("query", "item"), ("query", "country")])
def test_the_same_expressions_compile_for_spark(keys):
    columns = dict.fromkeys(("query", "item", "country", "action", "period"), "int32")
    counts = expressions.period_counts(ibis.table(columns, "log"), keys, {"click": 0, "save": 1})
    probes = ibis.table(dict.fromkeys((*keys, "period"), "int32") | {"probe": "int64"}, "probes")
    windows = [("click", 7), ("save", 30)]
    for expression in (
        expressions.windowed(counts, probes, keys, windows, 1),
        expressions.out_of_fold(counts, probes, keys, windows),
    ):
        assert "OVER" in ibis.to_sql(expression, dialect="pyspark")
    assert "RANGE BETWEEN 6 PRECEDING AND CURRENT ROW" in ibis.to_sql(
        expressions.windowed(counts, probes, keys, windows, 1), dialect="pyspark"
    )


@pytest.mark.parametrize("lag_days", [1, 3])
@pytest.mark.parametrize("days", [7, 30, 90, 365, 730])
def test_a_window_knows_so_many_days_and_no_more(days, lag_days):
    first, last = 1000 + lag_days, 1000 + lag_days + days - 1
    asked = [first - 1, first, last, last + 1]
    counts = ibis.memtable({"query": [5], "period": [1000], "click": [2]})
    probes = ibis.memtable({"query": [5] * 4, "period": asked, "probe": range(4)})
    found = expressions.windowed(counts, probes, ("query",), [("click", days)], lag_days)
    rows = found.order_by("probe").to_pyarrow()
    assert rows[f"click:{days}"].to_pylist() == [0, 2, 2, 0]
