r"""What each part of InteractFIT is worth: the whole, then one part less.

    python -m experiments.run --config=configs/interactfit.py:search --examples=EXAMPLES \
        --sweep=experiments/sweeps/interactfit_parts.py --out=OUT

Each for one epoch on the simulated log (medium), with three seeds. Results: docs/results.md.
"""

from collections.abc import Iterator

from experiments.sweeps import Overrides, over, product

POOLING = {"model.sequence.history": "interactrank"}  # in place of the target attention
PARTS: tuple[Overrides, ...] = (
    {},
    {"model.name": "fit"},  # no cross features
    {"model.late.user_heads": 0},  # a dot product for the scorer
    {"model.tower.masknet.blocks": 0},
    {"train.loss.softmax_weight": 0.0},
    POOLING,
    {"model.meta.vectors": 0, **POOLING},
)


def sweep() -> Iterator[Overrides]:
    """Yields 21 trials."""
    return product(({"train.epochs": 1.0},), PARTS, over("train.seed", (0, 1, 2)))
