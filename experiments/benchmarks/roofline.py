"""How far the training step is from what the machine can do: FLOPs, bytes, and measured ceilings.

    python -m experiments.benchmarks.roofline --json=roofline.json

FLOPs and bytes are those that XLA counts in the compiled step, after fusion. XLA counts the WHOLE
array for every gather from it and twice for every scatter into it, although only the rows of a
batch move; that part is in proportion to the item table, so it is found by compiling the step for
one twice as long, and taken off (`gb_counted_by_xla` has it in). What is left counts every operand
of every kernel, also where it lies in a cache: an upper bound of the traffic with memory, so its
share of the bandwidth may pass 1 and is no proof that memory is the limit.

The ceilings are measured in the same run, with jax on the same device: a matrix product, a triad
that writes into its own input (into a fresh array it would measure page faults), and gathers of
random 128-byte rows. Also printed: whether the compiled step copies a table, which would make it
slower the larger it is.
"""

import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import reporting
from experiments.benchmarks.workload import BenchmarkTrainer, Workload, make_batch, make_workload

ROW_BYTES = 128  # 32 float32


def seconds_of(function: Callable[..., Any], *arguments: Any, repeats: int = 7) -> float:
    """Returns the median time of a compiled call."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def triad_seconds(length: int, repeats: int = 7) -> float:
    """Returns the median time of a = a + 3 b in place, float32 arrays of that length."""
    triad = jax.jit(lambda a, b: a + 3.0 * b, donate_argnums=0)
    first, second = jnp.ones(length), jnp.ones(length)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        first = jax.block_until_ready(triad(first, second))
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def ceilings(quick: bool) -> dict[str, float]:
    """Measures the device: GFLOP/s of a matmul, GB/s of a triad, GB/s of gathered rows."""
    key = jax.random.key(0)
    side, length, rows = (256, 1 << 16, 1 << 12) if quick else (2048, 1 << 26, 1 << 22)
    matrix = jax.random.normal(key, (side, side))
    product = seconds_of(jnp.matmul, matrix, matrix)
    halves = matrix.astype(jnp.bfloat16)
    product_bf16 = seconds_of(jnp.matmul, halves, halves)
    triad = triad_seconds(length)
    table = jnp.ones((rows, ROW_BYTES // 4))
    ids = jax.random.randint(key, (rows // 8,), 0, rows)
    # Summed where it lies, so that reading the rows is all there is to do.
    gather = seconds_of(lambda t, i: t[i].sum(-1), table, ids)
    return {
        "matmul_gflop_per_s": 2e-9 * side**3 / product,
        "matmul_bfloat16_gflop_per_s": 2e-9 * side**3 / product_bf16,
        "triad_gb_per_s": 3e-9 * 4 * length / triad,
        "gather_gb_per_s": 1e-9 * ROW_BYTES * len(ids) / gather,
    }


def table_copies(text: str, rows: int) -> list[str]:
    """Returns the instructions of a compiled step that make a new array as long as the table.

    Scatters that update in place are not among them: a copy is an instruction of its own. For
    tables longer than a batch's ids; a shorter one is read and written whole on purpose.
    """
    pattern = re.compile(rf"= f32\[(1,)?{rows}(,\d+)?\]\S* (copy|copy-start|broadcast|select)\(")
    return [line.strip() for line in text.splitlines() if pattern.search(line)]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints and returns the figures."""
    parser = reporting.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the item table")
    parser.add_argument("--requests", type=int, default=256, help="per batch")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--parallel", choices=("pmap", "shard_map"), default="pmap")
    parser.add_argument("--tables", choices=("adagrad", "adam"), default="adagrad")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args(argv)
    rows, requests, steps = arguments.rows, arguments.requests, arguments.steps
    if arguments.quick:
        rows, requests, steps = 1_500, 8, 2  # more rows than a batch has ids

    def trainer_of(table_rows: int) -> tuple[BenchmarkTrainer, Workload]:
        workload = make_workload(
            table_rows,
            arguments.seed,
            row_optimizer=arguments.tables,
            parallel=arguments.parallel,
            dtype=arguments.dtype,
            small=arguments.quick,
        )
        return BenchmarkTrainer(workload), workload

    longer, workload = trainer_of(2 * rows)
    counted_longer = longer.compile(make_batch(workload, requests, 0)).cost_analysis()
    del longer
    trainer, workload = trainer_of(rows)
    batches = [make_batch(workload, requests, seed) for seed in range(steps)]
    compiled = trainer.compile(batches[0])
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    counted = cost["bytes accessed"]
    moved = counted - (counted_longer["bytes accessed"] - counted)
    trainer.run_steps(batches[:2])
    before = ceilings(arguments.quick)
    step = statistics.median(trainer.run_steps([batch]) for batch in batches)
    after = ceilings(arguments.quick)
    best = {name: max(before[name], after[name]) for name in before}

    infix = "_bfloat16" if arguments.dtype == "bfloat16" else ""
    by_flops = 1e-9 * cost["flops"] / best[f"matmul{infix}_gflop_per_s"]
    by_bytes = 1e-9 * moved / best["triad_gb_per_s"]
    figures = {
        "step_ms": 1e3 * step,
        "gflop_per_step": 1e-9 * cost["flops"],
        "gb_per_step": 1e-9 * moved,
        "gb_counted_by_xla": 1e-9 * counted,
        **best,
        "ms_by_flops": 1e3 * by_flops,
        "ms_by_bytes": 1e3 * by_bytes,
        "share_of_matmul_ceiling": by_flops / step,
        "share_of_bandwidth_ceiling": by_bytes / step,
        "temporary_mb": 1e-6 * memory.temp_size_in_bytes,
        "aliased_share_of_output": memory.alias_size_in_bytes / memory.output_size_in_bytes,
        "table_copies": len(copies := table_copies(compiled.as_text(), rows)),
    }
    reporting.report(
        "roofline",
        arguments,
        figures,
        device=str(jax.local_devices()[0].device_kind),
        rows=rows,
        requests=requests,
        copies=copies,
    )
    return figures


if __name__ == "__main__":
    main()
