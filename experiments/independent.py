"""COLD's core, DCN-V2 and matrix factorisation written anew: is it the model, or our training?

    python -m experiments.independent --examples=EXAMPLES --model=cold --trials=8 --seeds 0 1 2

An MLP, and a cross network beside it, over embeddings side by side: dense tables, optax's AdamW,
plain functions. Nothing is shared with the package but the reading of blocks. Trials are drawn at
random and chosen on validation by one seed; the best is trained with every seed and tested, once.
"""

import argparse
import json
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.metrics import roc_auc_score

from experiments.command_line import count, exit_status, natural
from interactrank_jax.examples.format import Examples

Array = jax.Array
Parameters = dict[str, Any]
SPLITS = ("train", "validation", "test")
BATCH, EPOCHS = 256, 10


class Settings(NamedTuple):
    """A trial: `decay` is of layers, as in AdamW, `l2` of the embeddings that a row looks up."""

    model: str
    fields: str = "all"  # "ids": user and item alone
    dot: bool = False  # adds what matrix factorisation is
    dim: int = 16
    hidden: tuple[int, ...] = (64,)
    rate: float = 1e-2
    l2: float = 0.02
    decay: float = 0.0
    dropout: float = 0.0


class Rows(NamedTuple):
    """Impressions; the label is whether the first action was done."""

    ids: np.ndarray  # [N, F], user and item first
    numbers: np.ndarray  # [N, M], of requests and cross features
    history: np.ndarray  # [N, L, 2], items and their actions
    label: np.ndarray  # [N]


def read_rows(examples: Examples) -> dict[str, Rows]:
    """Returns the impressions of all splits, numbers of mean 0 and deviation 1 over training."""
    result = {}
    for split in SPLITS:
        parts = []
        for block in examples.blocks(split):
            slate, place = np.nonzero(block["mask"])
            one = [name for name in block if name.startswith("request/") and block[name].ndim == 1]
            ids = [block["user"][slate], block["item"][slate, place]]
            ids += [block[name][slate] for name in ("query", *sorted(one))]
            numbers = [block["request_numeric"][slate], block["cross"][slate, place]]
            history = np.stack([block["history_item"], block["history_action"]], -1)[slate]
            label = block["actions"][slate, place, 0]
            parts.append((np.stack(ids, 1), np.concatenate(numbers, 1), history, label))
        result[split] = Rows(*map(np.concatenate, zip(*parts, strict=True)))
    values = result["train"].numbers
    mean, spread = values.mean(0, keepdims=True), values.std(0, keepdims=True) + 1e-9
    return {
        name: rows._replace(numbers=np.clip((rows.numbers - mean) / spread, -5, 5))
        for name, rows in result.items()
    }


def start(settings: Settings, key: Array, sizes: list[int], numbers: int) -> Parameters:
    """Returns small embeddings, of fields of so many ids each, and Glorot's layers."""
    normal, glorot = jax.nn.initializers.normal(0.05), jax.nn.initializers.glorot_normal()
    keys = iter(jax.random.split(key, 64))
    if settings.fields == "ids":
        sizes, width = sizes[:2], 2 * settings.dim
    else:  # two histories, by action, and the numbers
        width = (len(sizes) + 2) * settings.dim + numbers

    def layer(size: int, out: int) -> tuple[Array, Array]:
        return glorot(next(keys), (size, out)), jnp.zeros((1, out))

    inputs = (width, *settings.hidden[:-1])
    last = settings.hidden[-1] + (width if settings.model == "dcn" else 0)
    layers = [layer(size, out) for size, out in zip(inputs, settings.hidden, strict=True)]
    return {
        "tables": [normal(next(keys), (size, settings.dim)) for size in sizes],
        "biases": [jnp.zeros(size) for size in sizes[:2]],
        "factors": [normal(next(keys), (size, settings.dim)) for size in sizes[:2]],
        "layers": layers,
        "cross": [layer(width, width) for _ in range(2)],
        "last": glorot(next(keys), (last, 1)),
        "bias": jnp.zeros(()),
    }


def logits(settings: Settings, params: Parameters, rows: Rows, key: Any = None) -> Any:
    """Returns logits `[N]`, with dropout by a key, and squared lengths of embeddings `[N]`."""
    user, item = rows.ids[:, 0], rows.ids[:, 1]
    total, length = jnp.full(len(user), params["bias"]), jnp.zeros(len(user))
    if settings.model == "mf" or settings.dot:
        left, right = params["factors"][0][user], params["factors"][1][item]
        total += (left * right).sum(-1) + params["biases"][0][user] + params["biases"][1][item]
        length += (left**2 + right**2).sum(-1)
    if settings.model == "mf":
        return total, length
    vectors = [table[rows.ids[:, place]] for place, table in enumerate(params["tables"])]
    length += sum((vector**2).sum(-1) for vector in vectors)
    if settings.fields == "all":
        past = params["tables"][1][rows.history[..., 0]]
        for action in (1, 2):  # 0 where there is no event
            done = (rows.history[..., 1] == action)[..., None]
            vectors.append((past * done).sum(-2) / jnp.maximum(done.sum(-2), 1))
        vectors.append(rows.numbers)
    first = hidden = jnp.concatenate(vectors, -1)
    for weight, bias in params["layers"]:
        hidden = jax.nn.relu(hidden @ weight + bias)
        if key is not None and settings.dropout:
            key, now = jax.random.split(key)
            hidden *= jax.random.bernoulli(now, 1 - settings.dropout, hidden.shape)
            hidden /= 1 - settings.dropout
    if settings.model == "dcn":
        crossed = first
        for weight, bias in params["cross"]:
            crossed = first * (crossed @ weight + bias) + crossed
        hidden = jnp.concatenate([hidden, crossed], -1)
    return total + (hidden @ params["last"])[:, 0], length


def train(settings: Settings, splits: dict[str, Rows], seed: int) -> tuple[float, ...]:
    """Returns ROC-AUC on validation, and on the test, at the best epoch by the former."""
    rows = splits["train"]
    ids = np.concatenate([part.ids for part in splits.values()])
    key, first = jax.random.split(jax.random.key(seed))
    params = start(settings, first, [int(row) + 1 for row in ids.max(0)], rows.numbers.shape[1])
    steps = len(rows.label) // BATCH
    rate = optax.cosine_decay_schedule(settings.rate, steps * EPOCHS)
    decayed = {name: name in ("layers", "cross", "last") for name in params}
    optimizer = optax.adamw(rate, weight_decay=settings.decay, mask=decayed)

    def loss(params: Parameters, batch: Rows, key: Array) -> Array:
        scores, length = logits(settings, params, batch, key)
        entropy = optax.sigmoid_binary_cross_entropy(scores, batch.label.astype(jnp.float32))
        return (entropy + settings.l2 * length).mean()

    @jax.jit
    def epoch(carry: Any, batches: Array, data: Rows, key: Array) -> Any:
        def step(carry, inputs):
            (params, state), (index, now) = carry, inputs
            batch = jax.tree.map(lambda column: column[index], data)
            change, state = optimizer.update(jax.grad(loss)(params, batch, now), state, params)
            return (optax.apply_updates(params, change), state), None

        return jax.lax.scan(step, carry, (batches, jax.random.split(key, len(batches))))[0]

    carry, data = (params, optimizer.init(params)), jax.tree.map(jnp.asarray, rows)
    shuffle = np.random.default_rng(seed)
    best: tuple[float, ...] = (0.0,)
    for _ in range(EPOCHS):
        key, now = jax.random.split(key)
        order = shuffle.permutation(len(rows.label))[: steps * BATCH]
        carry = epoch(carry, order.reshape(steps, BATCH), data, now)
        scores = [logits(settings, carry[0], splits[split])[0] for split in SPLITS[1:]]
        aucs = map(roc_auc_score, (splits[split].label for split in SPLITS[1:]), scores)
        best = max(best, tuple(map(float, aucs)))
    return best


def compare(settings: Settings, given: argparse.Namespace) -> int:
    """Chooses on validation by the first seed, tests with every seed; prints lines of JSON."""
    splits, rng = read_rows(Examples(given.examples)), np.random.default_rng(0)
    best = (0.0, settings)
    for _ in range(given.trials):
        trial = settings._replace(
            rate=float(10 ** rng.uniform(-2.6, -1.6)),
            l2=float(10 ** rng.uniform(-2.3, -1)),
            decay=float(rng.choice([0.0, 0.1, 0.3])),
            dropout=float(rng.choice([0.0, 0.2])),
            hidden=((64,), (128, 64))[rng.integers(2)],
        )
        reached, _ = train(trial, splits, given.seeds[0])
        print(json.dumps({"validation": reached, **trial._asdict()}), flush=True)
        best = max(best, (reached, trial), key=lambda pair: pair[0])
    for seed in given.seeds:
        validation, test = train(best[1], splits, seed)
        print(json.dumps({"seed": seed, "validation": validation, "test": test}), flush=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", required=True, help="a directory of prepared examples")
    parser.add_argument("--model", required=True, choices=("mf", "cold", "dcn"))
    parser.add_argument("--fields", default="all", choices=("all", "ids"))
    parser.add_argument("--dot", action="store_true", help="add <user, item> and their biases")
    parser.add_argument("--trials", type=count, default=8)
    parser.add_argument("--seeds", type=natural, nargs="+", default=[0, 1, 2])
    given = parser.parse_args(argv)
    settings = Settings(given.model, given.fields, given.dot)
    return exit_status("independent", lambda: compare(settings, given))


if __name__ == "__main__":
    sys.exit(main())
