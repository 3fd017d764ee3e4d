"""Random logs under random options: what `prepare` makes of them is what a plain reading says.

This is the net under everything that depends on history. Of `prepare` it knows the examples, and
how large the pieces are that it works in.
"""

import dataclasses
import functools
import itertools
import random
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from interactrank_jax.examples import candidates, splits
from interactrank_jax.examples.format import Examples, Metadata
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.log.read import open_log
from interactrank_jax.state import build, engines
from interactrank_jax.state.log_days import requests_per_day
from tests.golden import canonical
from tests.literal.compare import Columns, Comparison, split_of
from tests.literal.equality import Tied
from tests.literal.faults import FAULTS
from tests.literal.random_configs import draw_options, make_config, plain_options
from tests.literal.random_logs import RandomLog, draw_log
from tests.literal.reading import Reading

pytestmark = pytest.mark.long  # prepares a log for each case

SEEDS = (8, 13, 4, 2)  # each fault shows in one of them
MORE_SEEDS = [seed for seed in range(12) if seed not in SEEDS]
MOST_SEEDS = [seed for seed in range(12, 72) if seed not in SEEDS]


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


def _prepare(config: Any, path: Path, root: Path, rng: random.Random) -> None:
    """Prepares a log in random buckets, parts and chunks, half of them from a STATE that is given.

    None of it may change a value. A STATE that is given ends as early as it may, so that the rest
    is read from the log.
    """
    with (
        mock.patch.object(splits, "BUCKET_CANDIDATES", rng.choice((30, 300, 1_000_000))),
        mock.patch.object(candidates, "ROWS_AT_ONCE", rng.choice((50, 10_000_000))),
        mock.patch.object(build, "CHUNK_ROWS", rng.choice((40, 1_000_000))),
    ):
        state = _built(config, path, root / "state") if rng.random() < 0.5 else None
        prepare(config, path, root / "examples", state=state)


def _built(config: Any, path: Path, out: Path) -> Path | None:
    """Builds STATE through the last day that the examples need; None where there is no such day."""
    log = open_log(path)
    if config.protocol != "clean_time":
        return None
    with engines.connect("duckdb", out.with_name("scratch")) as backend:
        days, _ = requests_per_day(log, backend)
        through = int(days[-1]) - int(config.cross.lag_days)
        built = build.build_store(config, log, out, backend, through=through, chunk_rows=40)
    return out if built.chunks else None


@functools.cache
def _case(seed: int) -> Case:
    log = draw_log(seed)
    options = draw_options(log)
    with tempfile.TemporaryDirectory() as root:
        path = log.write(Path(root) / "log", random.Random(f"files {seed}"))
        _prepare(make_config(options), path, Path(root), random.Random(f"machinery {seed}"))
        examples = Examples(Path(root) / "examples")
        columns = {name: values.tolist() for name, values in canonical.columns(examples)}
        return Case(log, options, columns, examples.metadata)


@pytest.mark.parametrize(
    "seed",
    [
        *SEEDS,
        *(pytest.param(seed, marks=pytest.mark.thorough) for seed in MORE_SEEDS),
        *(pytest.param(seed, marks=pytest.mark.slow) for seed in MOST_SEEDS),
    ],
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
