"""Markdown tables of the records that `score` and `score_latency` leave."""

from collections.abc import Mapping
from typing import Any

from experiments import cells

ENGINES = ("ours", "numpy", "faiss", "torch", "usearch", "jax", "matmul_jax", "matmul_numpy")


def corpus(record: Mapping[str, Any]) -> str:
    """Returns million candidates/s of every engine: a row for each number of queries and items."""
    titles = [name.replace("_", " alone, ").replace("matmul", "product") for name in ENGINES]
    ratios = ("over the best peer", "over jax", "of the product alone")
    lines = cells.header(["queries, items", *titles, *ratios])
    for name, figures in record["corpus"].items():
        queries, items = map(int, name.split("x"))
        rates = figures["million_candidates_per_s"]
        texts = [f"{queries:,}, {items // 1_000_000}M"]
        texts += [cells.number(rates[engine]) for engine in ENGINES]
        texts += [
            cells.number(figures[ratio], ".2f")
            for ratio in ("speedup_vs_best_peer", "speedup_vs_jax", "fraction_of_matmul")
        ]
        lines.append(cells.row(texts))
    return "\n".join(lines)


def lists(record: Mapping[str, Any]) -> str:
    """Returns milliseconds of every engine, then those of fewer bits below them."""
    sizes = record["list_sizes"]
    lines = cells.header(["engine", f"ms for {sizes['requests']} lists"])
    seconds = sorted(record["list_seconds"].items(), key=lambda item: item[1])
    lines += [cells.row([name, f"{1e3 * value:,.0f}"]) for name, value in seconds]
    columns = ["vectors", "scan", "bytes per item", "recall, m = 1", "m = 2", "m = 4"]
    lines += ["", *cells.header([*columns, "ms, 1 query", "ms, 64 queries"])]
    for spectrum, formats in record["formats"].items():
        for name, figures in formats.items():
            recall = [f"{value:.4f}" for value in figures["recall"].values()]
            times = [f"{figures['ms'][count]:,.0f}" for count in ("1", "64")]
            lines.append(cells.row([spectrum, name, f"{figures['bytes']:,.0f}", *recall, *times]))
    return "\n".join(lines)


def latency(record: Mapping[str, Any]) -> str:
    """Returns p50 and p99 in milliseconds: a row for each model and number of candidates.

    Below them stands how many times a two-tower model's time FIT takes.
    """
    peers = next(iter(record["latency_ms_of_peers"].values()))
    lines = cells.header(["model", "candidates", "ours", *peers, "ours over the best, p50"])
    for model, counts in record["latency_ms"].items():
        for count, ours in counts.items():
            engines = record["latency_ms_of_peers"][model].values()
            texts = [_pair(ours), *(_pair(times.get(count)) for times in engines)]
            ratio = record["latency_over_best_peer"][model][count][0]
            lines.append(cells.row([model, f"{int(count):,}", *texts, f"{ratio:.2f}"]))
    over = [f"{value:.1f} ({int(n):,})" for n, value in record["fit_over_two_tower"].items()]
    lines += ["", f"FIT over two-tower, p50, by candidates: {', '.join(over)}."]
    return "\n".join(lines)


def _pair(times: list[float] | None) -> str:
    return "" if times is None else f"{times[0]:.1f}, {times[1]:.1f}"
