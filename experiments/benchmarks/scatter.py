"""Adding up the gradients of a table's rows: scatter-add, one-hot matmul, sorted segmented scan.

    python -m experiments.benchmarks.scatter --json=scatter.json

Some releases of jaxlib compile a contended float32 scatter-add on a GPU into a loop of
compare-and-swaps (openxla/xla #46225): worst where many gradients meet in few rows. Run it on the
device that is trained on, before choosing; on a CPU it only shows that all three agree.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import reporting
from experiments.benchmarks.roofline import seconds_of

DIM = 32


def scatter_add(ids: jax.Array, gradients: jax.Array, rows: int) -> jax.Array:
    """Returns `[rows, d]`, the sums of `[n, d]` by id `[n]`."""
    return jnp.zeros((rows, gradients.shape[1])).at[ids].add(gradients)


def one_hot_matmul(ids: jax.Array, gradients: jax.Array, rows: int) -> jax.Array:
    """The same as a matrix product; costs n * rows * d."""
    return jax.nn.one_hot(ids, rows, dtype=gradients.dtype).T @ gradients


def sorted_scan(ids: jax.Array, gradients: jax.Array, rows: int) -> jax.Array:
    """The same without any contended write: sorted by id, scanned, each run's end written once."""
    order = jnp.argsort(ids)
    ids, gradients = ids[order], gradients[order]
    starts = jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])

    def combine(left, right):
        (left_starts, left_sum), (right_starts, right_sum) = left, right
        total = jnp.where(right_starts[:, None], right_sum, left_sum + right_sum)
        return left_starts | right_starts, total

    _, sums = jax.lax.associative_scan(combine, (starts, gradients))
    ends = jnp.concatenate([starts[1:], jnp.ones(1, bool)])
    places = jnp.where(ends, ids, rows)
    return jnp.zeros((rows, gradients.shape[1])).at[places].set(sums, mode="drop")


METHODS = {
    "scatter_add": scatter_add,
    "one_hot_matmul": one_hot_matmul,
    "sorted_scan": sorted_scan,
}
ONE_HOT_UP_TO = 2_000  # rows; beyond, the one-hot matrix alone would be too large


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints and returns the figures."""
    parser = reporting.parser(__doc__)
    parser.add_argument("--gradients", type=int, default=65_536, help="of how many lookups")
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 25, 1_000, 1_000_000])
    arguments = parser.parse_args(argv)
    count, sizes = arguments.gradients, arguments.rows
    if arguments.quick:
        count, sizes = 512, [2, 25]
    rng = np.random.default_rng(arguments.seed)
    gradients = rng.normal(size=(count, DIM)).astype(np.float32)
    figures: dict[str, Any] = {}
    for rows in sizes:
        ids = rng.integers(0, rows, count).astype(np.int32)
        expected = np.zeros((rows, DIM))
        np.add.at(expected, ids, gradients)
        for name, method in METHODS.items():
            if name == "one_hot_matmul" and rows > ONE_HOT_UP_TO:
                continue

            def call(ids, gradients, method=method, rows=rows):
                return method(ids, gradients, rows)

            np.testing.assert_allclose(
                jax.jit(call)(ids, gradients), expected, atol=1e-2, err_msg=f"{name}, {rows} rows"
            )
            seconds = seconds_of(call, jnp.asarray(ids), jnp.asarray(gradients))
            figures[f"ms_{name}_{rows}_rows"] = 1e3 * seconds
    device = str(jax.local_devices()[0].device_kind)
    reporting.report("scatter", arguments, figures, device=device, gradients=count, dim=DIM)
    return figures


if __name__ == "__main__":
    main()
