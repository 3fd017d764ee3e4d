r"""What FIT's parts are worth, and how many meta queries and heads it takes.

    python -m experiments.run --config=configs/fit.py:movielens_100k_random --examples=EXAMPLES \
        --sweep=experiments/sweeps/fit_parts.py --out=OUT

Each with three seeds.
"""

from collections.abc import Iterator

from experiments.sweeps import Overrides, over, product, zipped

# What is pooled where no meta query attends to the history.
POOLING = {"model.sequence.history": "mean_by_action"}
PARTS: tuple[Overrides, ...] = (
    {},
    {"model.meta.vectors": 0, **POOLING},
    {"model.meta.attention_hidden": 0, **POOLING},
    {"model.late.user_heads": 0},  # a dot product for the scorer
    {"model.meta.vectors": 0, "model.late.user_heads": 0, **POOLING},  # two-tower
)
HEADS = (1, 2, 8)


def sweep() -> Iterator[Overrides]:
    """Yields 36 trials."""
    heads = zipped(over("model.late.user_heads", HEADS), over("model.late.item_heads", HEADS))
    variants = (*PARTS, *over("model.meta.vectors", (1, 2, 16, 32)), *heads)
    return product(variants, over("train.seed", (0, 1, 2)))
