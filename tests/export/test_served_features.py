"""Random logs under random options: what a bundle serves has the bits of what `prepare` makes."""

import random
from pathlib import Path

import pytest

from interactrank_jax.examples.format import STATE, Examples
from interactrank_jax.examples.prepare import prepare
from tests.export.served import differences, write_bundle
from tests.literal.random_configs import draw_options, make_config
from tests.literal.random_logs import draw_log

SEEDS, MORE_SEEDS, MOST_SEEDS = range(2), range(2, 8), range(8, 40)


def check(seed: int, root: Path) -> None:
    log = draw_log(seed)
    options = draw_options(log)
    config = make_config(options)
    path = log.write(root / "log", random.Random(f"files {seed}"))
    prepare(config, path, root / "examples")
    examples = Examples(root / "examples")
    state = root / "examples" / STATE
    if not state.is_dir():
        pytest.skip("no feature depends on history")
    for split in ("validation", "test"):
        if examples.encoder.timeless:
            bundle = write_bundle(examples, state, 0, root / f"bundle-{split}")
            result = differences(bundle, examples, path, None, split, root / "scratch")
            assert_equal(result, f"seed {seed}, {split}, options {options}")
            continue
        requests = examples.raw_requests(split)
        days = sorted(set((requests["timestamp"].to_numpy() // 86_400).tolist()))
        for number in random.Random(seed).sample(days, min(2, len(days))):
            name = f"{split}-{number}"
            bundle = write_bundle(examples, state, number, root / f"bundle-{name}")
            result = differences(bundle, examples, path, number, split, root / "scratch")
            assert_equal(result, f"seed {seed}, {name}, options {options}")


def assert_equal(result, where: str) -> None:
    assert result
    for name, difference in result.items():
        assert difference.rows
        assert difference.equal == difference.rows, f"{where}: {name}: {difference.first}"


@pytest.mark.long  # prepares a log several times
@pytest.mark.parametrize(
    "seed",
    [
        *SEEDS,
        *(pytest.param(seed, marks=pytest.mark.thorough) for seed in MORE_SEEDS),
        *(pytest.param(seed, marks=pytest.mark.slow) for seed in MOST_SEEDS),
    ],
)
def test_what_is_served_is_what_was_prepared(seed, tmp_path):
    check(seed, tmp_path)
