"""Encoded features: numbers that are not finite go no further, and parts of a table are one."""

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.examples.encode import Fitter, RequestArrays, ValueCounts
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.schema import FeatureSpec
from tests.log.handmade_log import data_config

NAN, INF = float("nan"), float("inf")
FEATURES = (FeatureSpec("brand", "item", "categorical"), FeatureSpec("x", "item", "numeric"))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("numeric", [1.0, 1.0, NAN]),
        ("numeric", [1.0, 1.0, 1e300]),
        ("embedding", [[1.0, 2.0], [1.0, 2.0], [1.0, INF]]),
    ],
)
def test_a_number_that_is_not_finite_is_not_encoded(kind, values):
    with (
        np.errstate(over="ignore"),
        pytest.raises(InputError, match="feature 'x' is not finite in 1 of 3 rows"),
    ):
        Fitter(data_config(), None).encode(
            [FeatureSpec("x", "item", kind)], pa.table({"x": values})
        )


def _table() -> tuple[pa.Table, np.ndarray]:
    rng = np.random.default_rng(0)
    brands = np.array([f"b{i}" for i in range(9)])[rng.integers(0, 9, 60)]
    return pa.table({"brand": brands, "x": rng.random(60)}), rng.integers(0, 3, 60)


def test_values_are_counted_over_all_parts():
    table, counts = _table()
    total = ValueCounts()
    for first in range(0, 60, 7):
        part = table["brand"].slice(first, 7).combine_chunks()
        total.add(part, counts[first : first + 7])
    values, sums = total.result()
    brands = np.array(table["brand"].to_pylist())
    assert values.to_pylist() == sorted(set(brands))
    assert sums.tolist() == [int(counts[brands == value].sum()) for value in values.to_pylist()]


def test_a_table_in_parts_is_encoded_as_the_whole(tmp_path):
    table, counts = _table()
    whole, parts = Fitter(data_config(), None), Fitter(data_config(), None)
    whole.fit_features(FEATURES, [(table, counts)])
    parts.fit_features(
        FEATURES, ((table.slice(first, 7), counts[first : first + 7]) for first in range(0, 60, 7))
    )
    arrays = RequestArrays(tmp_path / "arrays", len(table))
    for first in range(0, 60, 7):
        arrays.write(first, parts.encode(FEATURES, table.slice(first, 7)))
    expected = whole.encode(FEATURES, table)
    assert np.array_equal(arrays.encoded.columns["brand"], expected.columns["brand"])
    assert np.array_equal(arrays.encoded.numeric, expected.numeric)
    assert len(np.unique(expected.columns["brand"])) > 5
