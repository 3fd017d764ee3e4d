"""Preparation gives the values that it always gave, to the bit."""

import json

import pytest

from tests.golden.cases import CASES, REAL, SLOW, is_close
from tests.golden.record import VALUES, prepare_case

RECORDED = json.loads(VALUES.read_text())


NAMES = [
    pytest.param(name, marks=pytest.mark.thorough) if name in SLOW else name for name in RECORDED
]


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_what_was_recorded(name, tmp_path):
    if name in REAL and name not in CASES:
        pytest.skip("MovieLens-100K is not here")
    values, recorded = prepare_case(name, tmp_path), RECORDED[name]
    assert sorted(values) == sorted(recorded)
    moved = [key for key in recorded if values[key][0] != recorded[key][0]]
    shown = [
        f"{key}: {'other bits' if is_close(recorded[key], values[key]) else 'other values'}\n"
        f"  was {recorded[key][1:]}\n  is  {values[key][1:]}"
        for key in moved
    ]
    assert not moved, "\n".join(shown)
