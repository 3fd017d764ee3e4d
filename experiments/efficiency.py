"""What serving costs: FLOPs per candidate and per request, bytes per item, measured time.

    python -m experiments.efficiency --out=runs/efficiency

Every model of the registry, with its own config, on the shapes of the search data. Costs depend on
shapes alone, so no data is needed and parameters are random. Counted and timed is the model as it
serves (`Serving`). The columns:

    FLOPs per candidate   of `score`: XLA's count (`serving_flops`), and the model's formula
                          if it has one (`analytic_flops`)
    bytes per item        of an item's representation in an index (`item_bytes`)
    FLOPs per request     of `encode_query`, XLA's count (`request_flops`)
    ms per 100k           of one request's 100 thousand candidates, see `score_seconds`

A model that is not decoupled has no index: its "item" is the fields that its network reads.

    OUT/table.md, figure.png, efficiency.json
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import trials
from experiments.benchmarks import reporting
from experiments.benchmarks.roofline import seconds_of
from experiments.benchmarks.workload import make_workload
from experiments.serving import Serving
from interactrank_jax.config import configuration
from interactrank_jax.examples.format import Metadata
from interactrank_jax.io import outputs
from interactrank_jax.models.flops import Shapes
from interactrank_jax.models.inputs import zero_inputs
from interactrank_jax.models.registry import MODELS
from interactrank_jax.runs.run import Run

Array = jax.Array

# Two sizes, for in the difference of their counts cancels what does not grow with the size.
CANDIDATE_COUNTS, REQUEST_COUNTS = (1_024, 2_048), (8, 16)
CANDIDATES, QUICK_CANDIDATES, TILE = 100_000, 4_000, 2_000
REPEATS, SLOW_REPEATS = 21, 3  # timed calls of a decoupled model, of another
META_VECTORS = (4, 16, 64)
PAPER = {"interactrank": 142, "inttower": 3069}  # FLOPs per candidate (InteractRank's paper)
COLUMNS = {
    "model": "model",
    "decoupled": "decoupled",
    "serving_flops_per_candidate": "FLOPs per candidate",
    "analytic_flops_per_candidate": "analytic",
    "bytes_per_item": "bytes per item",
    "flops_per_request": "FLOPs per request",
    "ms_per_100k_candidates": "ms per 100k candidates",
}
QUERY_COLUMNS = {
    "model": "model",
    "meta_vectors": "meta queries (N)",
    "flops_per_request": "FLOPs per request",
    "serving_flops_per_candidate": "FLOPs per candidate",
    "ms_per_100k_candidates": "ms per 100k candidates",
}


# --- Counts ---


def serving_flops(run: Run) -> float:
    """Returns the FLOPs that each candidate of a request costs in `score` as served (`Serving`).

    They are what XLA counts in the program that it compiles for a CPU, on whatever device this
    runs: the difference between 2,048 and 1,024 candidates of one request, so that what a request
    costs once is not in it. XLA counts a product of n terms as 2n, and each element that is added,
    multiplied, compared or selected as 1. It counts no gather, and exponentials, logarithms and
    sigmoids apart: neither is in this figure.
    """
    serving = Serving(run)

    def flops(count):
        return _xla_flops(serving.score, serving.variables, *serving.score_inputs(count))

    return _slope(flops, CANDIDATE_COUNTS)


def request_flops(run: Run) -> float:
    """Returns the FLOPs that each request costs in `encode_query`, counted as in `serving_flops`.

    From embedded inputs: looking rows up is not in it. FIT's user vectors of all meta queries are.
    """
    serving = Serving(run)

    def flops(count):
        return _xla_flops(serving.encode_query, serving.variables, serving.requests(count))

    return _slope(flops, REQUEST_COUNTS)


def _slope(flops: Callable[[int], float], counts: tuple[int, int]) -> float:
    few, many = counts
    return (flops(many) - flops(few)) / (many - few)


def _xla_flops(function: Callable[..., Any], *shapes: Any) -> float:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        analysis = jax.jit(function).lower(*shapes).compile().cost_analysis() or {}
    return float(analysis.get("flops", 0.0))  # a program that only gathers has none


def item_bytes(run: Run) -> int:
    """Returns the bytes of one item's representation, with all heads, as an index stores it."""
    items = zero_inputs(run.inputs, run.model.row_width)["items"]
    variables = {"params": run.model_template["params"]}
    shapes = jax.eval_shape(
        lambda variables, items: run.model.apply(variables, items, method="encode_item"),
        variables,
        items,
    )
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def analytic_flops(run: Run) -> float | None:
    """Returns what `serving_flops` should give for one ranked head, by the model's formula.

    None of a model that was registered without one.
    """
    formula = MODELS[run.config.model.name].flops
    if formula is None:
        return None
    serving = Serving(run)
    query, items, _ = serving.score_inputs(1)
    shapes = Shapes(
        serving.config,
        serving.cross,
        jax.tree.leaves(query)[0].shape[1:],
        jax.tree.leaves(items)[0].shape[2:],
    )
    return float(formula(shapes))


# --- Time ---


def score_seconds(run: Run, candidates: int, seed: int) -> tuple[float, int]:
    """Returns the seconds to score one request's candidates, and the tile's size.

    Representations and cross features of the candidates lie side by side, gathered before; the
    query is encoded. The median of several calls, of the fastest way: `score` or, where the model
    has one, `score_one`, of all candidates at once, or of 2,000 at a time, whose intermediate
    values stay in the cache. Models that are not decoupled only so: all at once they would fill
    gigabytes.
    """
    serving = Serving(run)
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(lambda leaf: 0.1 * _draw(rng, leaf), serving.variables)
    items, cross = serving.candidates(candidates)
    query = jax.jit(serving.encode_query)(variables, _draw_all(rng, serving.requests(1)))
    encoded = jax.jit(serving.encode_item)(variables, _draw_all(rng, items))
    decoupled = run.model.is_decoupled

    def seconds(way, tile):
        def cut(leaf):
            return leaf.reshape(-1, 1, tile, *leaf.shape[2:])

        def tiled(variables, query, *candidates):
            return jax.lax.map(
                lambda part: way(variables, query, *part), jax.tree.map(cut, candidates)
            )

        function = way if tile == candidates else tiled
        repeats = REPEATS if decoupled else SLOW_REPEATS
        arguments = variables, query, encoded, _draw(rng, cross)
        return seconds_of(function, *arguments, repeats=repeats), tile

    ways = (serving.score, serving.score_one) if serving.has_score_one else (serving.score,)
    tiles = (TILE, candidates) if decoupled else (TILE,)
    return min(seconds(way, tile) for way in ways for tile in tiles)


def _draw_all(rng: np.random.Generator, shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: _draw(rng, leaf), shapes)


def _draw(rng: np.random.Generator, leaf: Any) -> Array:
    """Returns a normal array, or ones where integers or flags are asked for."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.ones(leaf.shape, leaf.dtype)
    return jnp.asarray(rng.standard_normal(leaf.shape, np.float32), leaf.dtype)


# --- The table ---


def make_run(name: str, metadata: Metadata, **model_fields: Any) -> Run:
    """Returns a model's run on the search data, with fields of its config's `model` replaced."""
    config = configuration.load(trials.config_spec(name, "search"))
    config.model.update(model_fields)
    return Run("unused", config, metadata)


def measure(name: str, metadata: Metadata, candidates: int, seed: int) -> dict[str, Any]:
    """Returns a model's row; time is scaled to 100 thousand candidates if there were fewer."""
    run = make_run(name, metadata)
    seconds, tile = score_seconds(run, candidates, seed)
    return {
        "model": name,
        "decoupled": run.model.is_decoupled,
        "serving_flops_per_candidate": serving_flops(run),
        "analytic_flops_per_candidate": analytic_flops(run),
        "bytes_per_item": item_bytes(run),
        "flops_per_request": request_flops(run),
        "ms_per_100k_candidates": 1e3 * seconds * CANDIDATES / candidates,
        "tile": tile,
    }


def measure_meta_vectors(
    name: str, metadata: Metadata, vectors: int, candidates: int, seed: int
) -> dict[str, Any]:
    """Returns what a model with so many meta queries costs; time as in `measure`.

    FLOPs count no gather, and picking an item's user vector is one: hence the time beside them.
    """
    run = make_run(name, metadata, meta={"vectors": vectors})
    seconds, _ = score_seconds(run, candidates, seed)
    return {
        "model": name,
        "meta_vectors": vectors,
        "flops_per_request": request_flops(run),
        "serving_flops_per_candidate": serving_flops(run),
        "ms_per_100k_candidates": 1e3 * seconds * CANDIDATES / candidates,
    }


def table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    """Returns a Markdown table of rows; columns are titles by key."""
    lines = [list(columns.values()), ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[_text(row[key]) for key in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Saves the figure: FLOPs against time, a point per model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for place, row in enumerate(rows):
        axes.plot(
            row["serving_flops_per_candidate"],
            row["ms_per_100k_candidates"],
            "o" if row["decoupled"] else "s",
            color=plt.get_cmap("tab20")(place % 20),
            label=row["model"],
        )
    axes.set(xscale="log", yscale="log", xlabel="FLOPs per candidate (XLA)")
    axes.set_ylabel("ms per 100 thousand candidates of one request")
    axes.set_title("Scoring: decoupled models (circles), a network per pair (squares)")
    figure.legend(loc="outside right center")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parses the command line, counts, times, prints and returns the figures."""
    parser = reporting.parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments = parser.parse_args(argv)
    metadata = make_workload(1_500).metadata
    candidates = QUICK_CANDIDATES if arguments.quick else CANDIDATES
    rows = [
        measure(name, metadata, candidates, arguments.seed)
        for name in tqdm(arguments.models, unit="model", disable=None)
    ]
    queries = [
        measure_meta_vectors(name, metadata, vectors, candidates, arguments.seed)
        for name in arguments.models
        if "meta" in make_run(name, metadata).config.model
        for vectors in META_VECTORS
    ]
    flops = {row["model"]: row["serving_flops_per_candidate"] for row in rows}
    figures: dict[str, Any] = {
        f"serving_flops_per_candidate_{name}": value for name, value in flops.items()
    }
    figures |= {f"ms_per_100k_candidates_{r['model']}": r["ms_per_100k_candidates"] for r in rows}
    parts = [table(rows, COLUMNS)] + ([table(queries, QUERY_COLUMNS)] if queries else [])
    if flops.keys() >= PAPER.keys():
        ours, paper = (counts["inttower"] / counts["interactrank"] for counts in (flops, PAPER))
        figures["flops_inttower_over_interactrank"] = ours
        parts.append(
            f"FLOPs per candidate, IntTower over InteractRank: {ours:.1f}; in InteractRank's paper "
            f"{paper:.1f} ({PAPER['inttower']} / {PAPER['interactrank']})."
        )
    reporting.report(
        "efficiency",
        arguments,
        figures,
        device=str(jax.local_devices()[0].device_kind),
        candidates=candidates,
        models=rows,
        meta_vectors=queries,
    )
    text = "\n\n".join(parts)
    print(f"\n{text}\n")
    if arguments.out:
        with outputs.new_file(arguments.out / "table.md") as partial:
            partial.write_text(text + "\n", encoding="utf-8")
        draw(rows, arguments.out / "figure.png")
    return figures


if __name__ == "__main__":
    main()
