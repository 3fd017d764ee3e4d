"""Encoded features: numbers that are not finite go no further, wherever they come from."""

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.examples.encode import Encoder, numeric_statistics
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.schema import FeatureSpec
from tests.log.handmade_log import data_config

NAN, INF = float("nan"), float("inf")


def test_statistics_are_weighted_by_what_training_saw():
    values = np.array([1.0, 3.0, 100.0], np.float32)
    found = numeric_statistics("price", values, np.array([3, 1, 0]))
    assert (found.minimum, found.maximum, found.mean) == (1.0, 3.0, 1.5)
    np.testing.assert_allclose(found.std, np.std([1, 1, 1, 3]))


@pytest.mark.parametrize("wrong", [NAN, INF, -INF])
def test_statistics_that_are_not_finite_name_the_feature(wrong):
    values = np.array([1.0, wrong, 2.0], np.float32)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(InputError, match="feature 'price' has statistics that are not finite"),
    ):
        numeric_statistics("price", values, np.ones(3))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("numeric", [1.0, 1.0, NAN]),
        ("numeric", [1.0, 1.0, 1e300]),
        ("embedding", [[1.0, 2.0], [1.0, 2.0], [1.0, INF]]),
    ],
)
def test_a_number_that_is_not_finite_is_not_encoded_even_where_training_saw_none(kind, values):
    encoder = Encoder(data_config(), None)
    table = pa.table({"x": values})
    with (
        np.errstate(over="ignore"),
        pytest.raises(InputError, match="feature 'x' is not finite in 1 of 3 rows"),
    ):
        encoder.encode([FeatureSpec("x", "item", kind)], table, np.array([1, 1, 0]))
