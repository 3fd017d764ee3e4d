"""Preparation gives the values that it always gave, to the bit."""

import json

import pytest

from tests.golden.cases import CASES, REAL, SLOW, has_moved, is_close
from tests.golden.record import VALUES, prepare_case

pytestmark = pytest.mark.long  # prepares a log for each case

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
    moved = [key for key in recorded if has_moved(name, key, recorded[key], values[key])]
    shown = [
        f"{key}: {'other bits' if is_close(recorded[key], values[key]) else 'other values'}\n"
        f"  was {recorded[key][1:]}\n  is  {values[key][1:]}"
        for key in moved
    ]
    assert not moved, "\n".join(shown)


def test_a_simulated_propensity_may_differ_in_its_last_bit_and_nothing_else_may():
    recorded, rounded, other = ["a", 0.25, 1.0], ["b", 0.25000003, 1.0], ["c", 0.26, 1.0]
    assert not has_moved("tiny", "train/propensity", recorded, rounded)
    assert has_moved("tiny", "train/propensity", recorded, other)
    assert has_moved("tiny", "train/cross", recorded, rounded)
    assert has_moved("timeless", "train/propensity", recorded, rounded)
