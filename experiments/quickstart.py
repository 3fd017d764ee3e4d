"""From nothing to an online test: simulate, prepare, train, evaluate, index, score, export, search.

    python -m experiments.quickstart --preset=small --out=runs/quickstart

BM25, IQP alone, the two-tower model and InteractRank are evaluated on the same test requests by the
same code. Then users of the simulated log search anew, and what the rankers show them is worth what
the simulator's truth says (`ab_test.py`). Run again, it goes on where it was.
"""

import argparse
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments import ab_test, trials
from experiments.benchmarks import reporting
from experiments.command_line import exit_status
from interactrank_jax.config import configuration
from interactrank_jax.evaluation import uncertainty
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.training import reports

MODELS = ("two_tower", "interactrank")
SEARCHES, BUCKET = 2_000, 1_000  # of the online test, and of its full ranker
TABLE_METRICS = ("roc_auc", "request_auc", "hit_at_3", "ndcg_at_10", "recall_at_100")


class Stations:
    """Runs named stations once each, and remembers how long they took.

    What is done is kept; with other settings than before, everything starts over.
    """

    def __init__(self, out: Path, settings: dict[str, Any]):
        self._out, self._settings = out, settings
        self._file = out / "stations.json"
        self.seconds: dict[str, float] = {}
        if not self._file.exists():
            if out.is_dir() and any(out.iterdir()):
                raise InputError(
                    f"{out} holds something that is no quickstart. Choose another --out."
                )
            return
        saved = files.read_json(self._file)
        if saved["settings"] == settings:
            self.seconds = saved["seconds"]
            return
        print(f"{out} was made with other settings: starting over.", flush=True)
        shutil.rmtree(out)

    def run(
        self, name: str, function: Callable[[], Any], directory: str = "", resumes: bool = False
    ) -> None:
        """Runs a station unless it is done.

        Args:
          name: of the station.
          function: does the work.
          directory: what it makes, of which there may be remains if it was killed.
          resumes: whether it goes on from remains; else they are removed.
        """
        if name in self.seconds:
            print(f"{name}: kept", flush=True)
            return
        self._write()
        if directory and not resumes:
            shutil.rmtree(self._out / directory, ignore_errors=True)
        print(f"{name} ...", flush=True)
        start = time.perf_counter()
        function()
        self.seconds[name] = round(time.perf_counter() - start, 1)
        self._write()

    def _write(self) -> None:
        files.write_json(self._file, {"settings": self._settings, "seconds": self.seconds})


def load_config(model: str, preset: str, seed: int):
    """Returns a model's config for the simulated log; `tiny` is cut to a few dozen steps."""
    config = configuration.load(trials.config_spec(model, "search"))
    config.train.seed = seed
    if preset == "tiny":
        config.train.batch_size = 64
        config.train.epochs = 3.0
        config.train.eval_every = 50
        config.train.log_every = 25
        config.model.tower.hidden = (64,)
        config.evaluate.bootstrap = 50
    return config


def quickstart(preset: str, seed: int, out: Path) -> dict[str, Any]:
    """Runs every station; returns (and writes) the summary."""
    configs = {model: load_config(model, preset, seed) for model in MODELS}
    resolved = {model: configuration.to_json(config) for model, config in configs.items()}
    settings = {"preset": preset, "seed": seed, "configs": files.digest(resolved)}
    stations = Stations(out, settings)
    train_and_score(stations, preset, seed, configs, out)
    search_anew(stations, preset, out)
    summary = {
        "preset": preset,
        "seed": seed,
        **summarise(out),
        "seconds": stations.seconds,
        "configs": resolved,
        **reporting.provenance(),
    }
    files.write_json(out / "summary.json", summary)
    print(f"\n{report(summary)}")
    print("\nseconds: " + ", ".join(f"{name} {value}" for name, value in stations.seconds.items()))
    for name, path in summary["artefacts"].items():
        print(f"{name:>19}: {out / path}")
    print(f"{'summary':>19}: {out / 'summary.json'}")
    return summary


def train_and_score(
    stations: Stations, preset: str, seed: int, configs: Mapping[str, Any], out: Path
) -> None:
    """From nothing to scored candidates of the test split."""
    from interactrank_jax.evaluation import evaluate
    from interactrank_jax.evaluation.baseline_scorers import BASELINES
    from interactrank_jax.examples.prepare import prepare
    from interactrank_jax.log.simulator.simulate import simulate
    from interactrank_jax.ranking.index import build_index
    from interactrank_jax.ranking.score import score
    from interactrank_jax.training.train import train

    log, examples, best = out / "log", out / "examples", out / "interactrank"
    data = configs["interactrank"].data
    stations.run("simulate", lambda: simulate(preset, seed, log), "log")
    stations.run("prepare", lambda: prepare(data, log, examples), "examples")
    for model in MODELS:
        stations.run(
            f"train_{model}",
            lambda model=model: train(configs[model], examples, out / model),  # type: ignore[misc]
            model,
            resumes=True,
        )

    def evaluate_all() -> None:
        for name in BASELINES:
            result = evaluate.evaluate_baseline(name, configs["interactrank"], examples, "test")
            evaluate.write_result(out / "baselines" / f"{name}.json", result)
        for model in MODELS:
            evaluate.evaluate(out / model, examples, "test")

    stations.run("evaluate", evaluate_all)
    stations.run("index", lambda: build_index(best, examples, out / "index"), "index")
    stations.run(
        "score",
        lambda: score(
            best, out / "index", examples, out / "scores", split="test", k=100, candidates="corpus"
        ),
        "scores",
    )


def search_anew(stations: Stations, preset: str, out: Path) -> None:
    """Exports the models, and lets the simulated users search with them."""
    from interactrank_jax.examples.format import Examples
    from interactrank_jax.runs.run import Run

    bundles = {model: out / f"bundle_{model}" for model in MODELS}

    def export_all() -> None:
        for model, bundle in bundles.items():
            if not bundle.exists():
                ab_test.export(Examples(out / "examples"), Run.open(out / model), bundle)

    def search() -> None:
        count = SEARCHES // 10 if preset == "tiny" else SEARCHES
        outcome = ab_test.search(out / "log", bundles, count, BUCKET)
        files.write_json(out / "ab_test.json", ab_test.summarise([outcome]))

    stations.run("export", export_all)
    stations.run("search", search)


def summarise(out: Path) -> dict[str, Any]:
    """Returns the figures of all stations, and where what they made lies below `out`."""
    from interactrank_jax.evaluation.baseline_scorers import BASELINES

    results = [files.read_json(out / "baselines" / f"{name}.json") for name in BASELINES]
    results += [files.read_json(out / model / "eval" / "test.json") for model in MODELS]
    draw(results, {model: out / model for model in MODELS}, out / "figure.png")
    artefacts = {
        "log": out / "log",
        "examples": out / "examples",
        **{f"run_{model}": out / model for model in MODELS},
        "index": out / "index",
        "scores": out / "scores" / "scores.parquet",
        **{f"bundle_{model}": out / f"bundle_{model}" for model in MODELS},
        "figure": out / "figure.png",
    }
    runs = out / "interactrank", out / "two_tower"
    first = results[0]
    return {
        **{name: first[name] for name in ("requests", "candidates", "corpus")},
        "interactrank_minus_two_tower": {
            metric: paired_difference(*runs, out / "examples", metric)
            for metric in ("roc_auc", "request_auc", "hit_at_3")
        },
        "models": {result["name"]: result["metrics"] for result in results},
        "intervals": {result["name"]: result["intervals"] for result in results},
        "ab_test": files.read_json(out / "ab_test.json"),
        "artefacts": {name: str(path.relative_to(out)) for name, path in artefacts.items()},
    }


def report(summary: Mapping[str, Any]) -> str:
    """Returns what the quickstart prints: metrics on the log, and the online test."""
    return f"{offline(summary)}\n\n{ab_test.headline(summary['ab_test'])}"


def offline(summary: Mapping[str, Any]) -> str:
    """Returns the table of metrics on the log's test split, and differences."""
    from interactrank_jax.evaluation import tables

    results = [
        {"name": name, "metrics": metrics, "intervals": summary["intervals"][name]}
        for name, metrics in summary["models"].items()
    ]
    return "\n".join(
        [
            f"{summary['requests']:,} test requests, {summary['candidates']:,} candidates, recall "
            f"among {summary['corpus']:,} items; ± is half a 95% interval over requests",
            "",
            tables.table(results, TABLE_METRICS),
            "",
            "InteractRank minus two-tower, paired over requests, 95% intervals:",
            *(
                f"  {metric} {difference:+.4f} [{low:+.4f}, {high:+.4f}]"
                for metric, (difference, low, high) in (
                    summary["interactrank_minus_two_tower"].items()
                )
            ),
        ]
    )


def paired_difference(
    run: Path, other: Path, examples: Path, metric: str
) -> tuple[float, float, float]:
    """Returns a metric of one run minus that of another on the test split, and its interval."""
    from interactrank_jax.examples.format import Examples
    from interactrank_jax.runs.run import Run

    opened = Examples(examples)
    first, second = (Run.open(path).saved_scores(opened, "test") for path in (run, other))
    return uncertainty.paired_bootstrap(
        first["request_index"], first["score"], second["score"], first["engaged"], metric
    )


def draw(results: list[dict[str, Any]], runs: dict[str, Path], path: Path) -> None:
    """Saves one figure: test metrics with their intervals, and validation while training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    metrics = ("request_auc", "hit_at_3", "recall_at_100")
    figure, (bars, curves) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 2))
    width = 0.8 / len(results)
    for place, result in enumerate(results):
        values = [result["metrics"][name] for name in metrics]
        bounds = [result["intervals"][name] for name in metrics]
        errors = [
            [max(value - low, 0) for value, (low, _) in zip(values, bounds, strict=True)],
            [max(high - value, 0) for value, (_, high) in zip(values, bounds, strict=True)],
        ]
        positions = [index + place * width for index in range(len(metrics))]
        bars.bar(positions, values, width, yerr=errors, label=result["name"], capsize=2)
    bars.set_xticks([index + 0.4 - width / 2 for index in range(len(metrics))], metrics)
    bars.set_title("test requests, 95% intervals over requests")
    bars.legend()
    for model, run in runs.items():
        points = reports.series(run / "metrics.jsonl", "validation/roc_auc")
        curves.plot(*zip(*points, strict=True), marker="o", label=model)
    curves.set_xlabel("step")
    curves.set_title("validation ROC-AUC")
    curves.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the quickstart."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="small", help="tiny, small, medium or large")
    parser.add_argument("--quick", action="store_true", help="the same as --preset=tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--json", type=Path, help="write the summary here as well")
    arguments = parser.parse_args(argv)
    return exit_status("quickstart", lambda: _main(arguments))


def _main(arguments: Any) -> int:
    preset = "tiny" if arguments.quick else arguments.preset
    if preset == "tiny":  # compiling would be most of the time: let it be quick
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    for noisy in ("absl", "jax", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    summary = quickstart(preset, arguments.seed, arguments.out)
    if arguments.json:
        files.write_json(arguments.json, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
