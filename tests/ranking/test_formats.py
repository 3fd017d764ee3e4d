"""Vectors in fewer bits: what they lose, and what they weigh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking import formats

ROWS = np.random.default_rng(0).standard_normal((1_000, 64)).astype(np.float32)


def test_float32_and_what_is_no_matrix_of_it_stay_as_they_are():
    assert formats.encode(ROWS, "float32")["values"] is ROWS
    numbers = np.arange(5, dtype=np.int32)
    assert formats.encode(numbers, "int8")["values"] is numbers
    np.testing.assert_array_equal(formats.decode(formats.encode(numbers, "int8")), numbers)


def test_a_row_in_bytes_is_off_by_half_a_step_at_most(monkeypatch):
    monkeypatch.setattr(formats, "ROWS_AT_ONCE", 7)
    encoded = formats.encode(ROWS, "int8")
    assert encoded["values"].dtype == np.int8
    step = np.abs(ROWS).max(1, keepdims=True) / 127
    assert (np.abs(formats.decode(encoded) - ROWS) <= step / 2 * (1 + 1e-5)).all()
    assert (np.abs(encoded["values"]).max(1) == 127).all()
    assert formats.bytes_per_row(encoded) == 68
    assert not formats.decode(formats.encode(np.zeros((2, 3), np.float32), "int8")).any()


def test_a_row_of_several_vectors_has_a_scale_for_each():
    heads = ROWS.reshape(-1, 4, 16) * np.array([1, 10, 100, 1000], np.float32)[:, None]
    encoded = formats.encode(heads, "int8")
    step = np.abs(heads).max(-1, keepdims=True) / 127
    assert (np.abs(formats.decode(encoded) - heads) <= step / 2 * (1 + 1e-5)).all()
    assert formats.bytes_per_row(encoded) == 64 + 4 * 4


def test_bfloat16_keeps_eight_significant_bits():
    encoded = formats.encode(ROWS, "bfloat16")
    assert formats.bytes_per_row(encoded) == 128
    assert (np.abs(formats.decode(encoded) - ROWS) <= np.abs(ROWS) / 256).all()


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_compiled_function_decodes_the_same(name):
    encoded = formats.encode(ROWS, name)
    decoded = jax.jit(formats.decode)(jax.tree.map(jnp.asarray, encoded))
    np.testing.assert_array_equal(decoded, formats.decode(encoded))
    assert decoded.dtype == jnp.float32


def test_a_format_that_is_none_is_refused():
    with pytest.raises(InputError, match="Did you mean 'int8'"):
        formats.check_format("int4")
