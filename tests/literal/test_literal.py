"""Random logs under random options: what `prepare` makes of them is what a plain reading says.

This is the net under everything that depends on history. It knows `prepare` and its examples alone,
so that it holds whatever is behind them.
"""

import dataclasses
import functools
import itertools
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest

from interactrank_jax.examples.format import Examples, Metadata
from interactrank_jax.examples.prepare import prepare
from tests.golden import canonical
from tests.literal.compare import Columns, Comparison, split_of
from tests.literal.equality import Tied
from tests.literal.faults import FAULTS
from tests.literal.random_configs import draw_options, make_config, plain_options
from tests.literal.random_logs import RandomLog, draw_log
from tests.literal.reading import Reading

SEEDS = range(12)
MORE_SEEDS = range(12, 72)


@dataclasses.dataclass(frozen=True)
class Case:
    """A log, its options, and the examples made of it."""

    log: RandomLog
    options: dict[str, Any]
    columns: Columns
    metadata: Metadata

    def differences(self, reading: type[Reading] = Reading, most: int = 10) -> list[str]:
        """Returns the first lines of where the examples are not what a reading says."""
        options = plain_options(make_config(self.options))
        comparison = Comparison(
            self.columns, self.metadata, reading(self.log, options, split_of(self.columns))
        )
        return list(itertools.islice(comparison.differences(), most))

    def __str__(self) -> str:
        return f"seed {self.log.seed}, log {self.log.kind}, options {self.options}"


@functools.cache
def _case(seed: int) -> Case:
    log = draw_log(seed)
    options = draw_options(log)
    with tempfile.TemporaryDirectory() as root:
        path = log.write(Path(root) / "log", random.Random(f"files {seed}"))
        prepare(make_config(options), path, Path(root) / "examples")
        examples = Examples(Path(root) / "examples")
        columns = {name: values.tolist() for name, values in canonical.columns(examples)}
        return Case(log, options, columns, examples.metadata)


@pytest.mark.parametrize(
    "seed", [*SEEDS, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in MORE_SEEDS)]
)
def test_examples_are_what_a_plain_reading_of_the_log_says(seed):
    case = _case(seed)
    differences = case.differences()
    assert not differences, "\n  ".join([str(case), *differences])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_wrong_rule_is_caught(fault):
    assert any(_case(seed).differences(fault, most=1) for seed in SEEDS)


@pytest.mark.thorough
def test_a_wrong_value_is_caught_in_any_column():
    case = _case(0)
    reading = Reading(case.log, plain_options(make_config(case.options)), split_of(case.columns))
    unnoticed = []
    for name, values in case.columns.items():
        columns = {**case.columns, name: _with_one_other(values)}
        if not any(Comparison(columns, case.metadata, reading).differences()):
            unnoticed.append(name)
    assert not unnoticed


def _with_one_other(values: Any) -> Any:
    """Returns values of which the first is another one."""
    if isinstance(values, list):
        return [_with_one_other(values[0]), *values[1:]]
    if isinstance(values, bool):
        return not values
    if isinstance(values, str):
        text, _, number = values.rpartition(" ")  # of a line of the corpus
        return f"{text} {(float.fromhex(number) + 1).hex()}" if text else f"{values}x"
    return values + 1


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        ("abcd", True),
        ("bacd", True),  # ties in another order
        ("ab", True),  # cut
        ("b", True),  # cut within a tie
        ("cabd", False),  # not in order
        ("acd", False),  # cut within a group that is not the last
        ("aacd", False),
        ("abce", False),
        ("abcde", False),
        ("abcd--", True),
        ("ab--", False),  # padding where something is missing
        ("--abcd", False),
    ],
)
def test_only_ties_may_stand_in_another_order_or_be_cut(values, fits):
    assert Tied(["ab", "c", "d"], "-").allows(values) == fits
