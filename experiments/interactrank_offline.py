r"""InteractRank's offline comparison: quality on the test split, and what serving costs.

    python -m experiments.interactrank_offline --preset=small --out=runs/offline
    python -m experiments.interactrank_offline --judgments=DIR --out=runs/offline

BM25, popularity and IQP alone, the two-tower model, IntTower and InteractRank, on the simulated log
and, where `--judgments` says where they lie, on people simulated over the Home Depot judgments;
with the configs as they stand: nothing is chosen, and the test split is looked at once. Models are
trained with every seed; baselines have none. Recall is among all items of the log. FLOPs are of
`score` for one more candidate, milliseconds of a request with 100 thousand candidates
(`efficiency.py`). BM25's are of the whole corpus, scaled. Of the paper's offline figures the FLOPs
alone are known to us. What is trained and evaluated is kept; baselines are evaluated, and times
measured, each time.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cells, comparison, contenders, efficiency, logs, simulated, trials
from experiments.command_line import exit_status
from interactrank_jax.evaluation import evaluate
from interactrank_jax.evaluation.baseline_scorers import BaselineScorer, BM25Scorer, baseline
from interactrank_jax.examples.format import Examples
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.runs.run import Run

BASELINES = ("bm25", "popularity", "iqp")
MODELS: tuple[str, ...] = ("two_tower", "inttower", "interactrank")
QUICK = ("inttower", "interactrank")
OURS = "interactrank"
METRICS = {
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "request_auc": "request AUC",
    "hit_at_3": "HIT@3",
    "recall_at_10": "Recall@10",
    "recall_at_100": "Recall@100",
    "recall_at_1000": "Recall@1000",
}
COMPARED = ("roc_auc", "request_auc", "hit_at_3")  # InteractRank minus each other, paired
TIMED_QUERIES = 32  # of BM25
LOOKED_UP_FLOPS = 0.0  # of a score that is gathered: XLA counts no gather of the models' either
COSTS = (
    "Popularity and IQP are looked up: 0 FLOPs, as a gather is none, and no time of their own, as "
    "models are timed with their cross features gathered before. BM25 is computed in NumPy, whose "
    "FLOPs are not counted. In the paper: what it states of the same model."
)
SKIPPED = f"Not run on the log '{logs.HOMEDEPOT}': --judgments=DIR names no directory of judgments."

Row = dict[str, Any]
Scores = list[comparison.Scored]


def settings(arguments: argparse.Namespace) -> dict[str, contenders.Setting]:
    """Returns what trainings are run with, by log; makes the logs unless they are there.

    Raises:
      InputError: `--judgments` names a directory that does not hold them.
    """
    by_log = {logs.SEARCH: simulated.setting(arguments)}
    if arguments.judgments is not None:
        out = simulated.place(arguments) / logs.HOMEDEPOT
        preset = simulated.preset(arguments)
        log = logs.make_log(logs.HOMEDEPOT, arguments.judgments, preset, out)
        by_log[logs.HOMEDEPOT] = simulated.setting(arguments, "search", log, logs.HOMEDEPOT)
    return by_log


def measure(
    setting: contenders.Setting, models: Sequence[str], candidates: int, log: str
) -> list[Row]:
    """Trains, evaluates on the test split, and returns a row for each ranker.

    Args:
      setting: what trainings are run with.
      models: InteractRank, and what it is compared with beside the baselines.
      candidates: that are scored to measure the time; it is scaled to 100 thousand.
      log: what the setting's log is called in the rows.
    """
    made = {model: _make(model, setting) for model in models}
    trainings = list(itertools.chain(*made.values()))
    outcomes = iter(simulated.trained(trainings, setting.parallel))
    results = [_test_baseline(name, setting) for name in BASELINES]
    for model, seeds in made.items():
        results.append(_test_model(model, list(itertools.islice(outcomes, len(seeds))), candidates))
    ours = next(scores for row, scores in results if row["ranker"] == OURS)
    rows = []
    for row, scores in results:
        differences = {}
        if row["ranker"] != OURS:
            request = scores[0].request_index
            for metric in COMPARED:
                paired = comparison.paired_difference(request, ours, scores, metric=metric)
                differences[metric] = [float(value) for value in paired]
        config = setting.config(row["ranker"]) if row["seeds"] else None
        rows.append({"log": log, **row, "config": config, "interactrank_minus": differences})
    return rows


def _make(model: str, setting: contenders.Setting) -> tuple[trials.Trial, ...]:
    """Returns a trial per seed, and prepares their examples."""
    spec = setting.spec(model)
    examples = setting.examples(trials.resolve(spec, setting.common).data)
    sweep = [{"train.seed": seed} for seed in setting.seeds]
    return trials.make(spec, sweep, examples, setting.out / "models", setting.common)


def _test_baseline(name: str, setting: contenders.Setting) -> tuple[Row, Scores]:
    config = trials.resolve(setting.spec(OURS), setting.common)
    examples = Examples(setting.examples(config.data))
    rule = LabelRule.from_config(config.label, examples.metadata.actions)
    scorer = baseline(name, rule, examples, "test")
    result, rows = evaluate.evaluate_scorer(scorer, rule, examples, "test", config.evaluate)
    engaged = rule.engaged(rows.actions)
    scores = comparison.Scored(rows.request, rows.item, engaged, rows.score, float("nan"))
    is_bm25 = isinstance(scorer, BM25Scorer)
    row: Row = {
        "ranker": name,
        "seeds": [],
        "ranks_by": scorer.feature,
        "metrics": figures([result]),
        "serving_flops_per_candidate": None if is_bm25 else LOOKED_UP_FLOPS,
        "ms_per_100k_candidates": _bm25_ms(scorer, examples) if is_bm25 else None,
    }
    return row, [scores]


def _bm25_ms(scorer: BaselineScorer, examples: Examples) -> float:
    """Returns the milliseconds of a query over the corpus, per 100 thousand items."""
    requests = np.arange(min(TIMED_QUERIES, examples.split("test").requests))
    scorer.all_items(requests[:1])
    start = time.perf_counter()
    scorer.all_items(requests)
    of_query = (time.perf_counter() - start) / len(requests)
    return 1e3 * of_query * efficiency.CANDIDATES / examples.num_items


def _test_model(
    model: str, outcomes: Sequence[trials.Outcome], candidates: int
) -> tuple[Row, Scores]:
    results, scores = [], []
    for outcome in outcomes:
        results.append(contenders.evaluated(outcome))
        scores.append(contenders.saved_scores(outcome, results[-1]["metrics"]["logloss"]))
    run = Run.open(outcomes[0].trial.workdir)
    seconds, _ = efficiency.score_seconds(run, candidates, seed=0)
    row: Row = {
        "ranker": model,
        "seeds": [outcome.trial.config.train.seed for outcome in outcomes],
        "ranks_by": "",
        "metrics": figures(results),
        "serving_flops_per_candidate": efficiency.serving_flops(run),
        "ms_per_100k_candidates": 1e3 * seconds * efficiency.CANDIDATES / candidates,
    }
    return row, scores


def figures(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns mean, deviation over seeds and, of a single result, its interval, by metric.

    Args:
      results: what `evaluate` says of each seed.
    """
    summary = {}
    for metric in METRICS:
        values = [result["metrics"][metric] for result in results]
        summary[metric] = {
            "mean": statistics.fmean(values),
            "std": cells.deviation(values),
            "interval": None if len(values) > 1 else list(results[0]["intervals"][metric]),
        }
    return summary


def table(content: Mapping[str, Any]) -> str:
    """Returns Markdown, for each log: quality and cost, then InteractRank minus each other."""
    rows = content["rows"]
    names = list(dict.fromkeys(row["log"] for row in rows))
    parts = []
    for log in names:
        log_rows = [row for row in rows if row["log"] == log]
        title = [f"{log}:"] if len(names) > 1 else []
        parts += [*title, _quality(log_rows), _differences(log_rows)]
    skipped = [] if logs.HOMEDEPOT in names else [SKIPPED]
    return "\n\n".join([*parts, COSTS, *skipped])


def _quality(rows: Sequence[Row]) -> str:
    lines = cells.header(
        ["ranker", *METRICS.values(), "FLOPs per candidate", "in the paper", "ms per 100k"]
    )
    for row in rows:
        figures = [row["metrics"][metric] for metric in METRICS]
        texts = [
            row["ranker"],
            *(cells.spread(figure["mean"], figure["std"]) for figure in figures),
            cells.number(row["serving_flops_per_candidate"]),
            cells.number(efficiency.PAPER.get(row["ranker"])),
            cells.number(row["ms_per_100k_candidates"], ",.1f"),
        ]
        lines.append(cells.row(texts))
    return "\n".join(lines)


def _differences(rows: Sequence[Row]) -> str:
    lines = cells.header(
        ["InteractRank minus", *(f"{METRICS[metric]} [95%]" for metric in COMPARED)]
    )
    for row in rows:
        differences = row["interactrank_minus"]
        if differences:
            texts = [cells.difference(differences[metric]) for metric in COMPARED]
            lines.append(cells.row([row["ranker"], *texts]))
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    result = simulated.parser(__doc__)
    result.add_argument("--judgments", type=Path, help="directory of the Home Depot data, if any")
    return result


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment."""
    arguments = parser().parse_args(argv)
    models, candidates = MODELS, efficiency.CANDIDATES
    if arguments.quick:
        models, candidates = QUICK, efficiency.QUICK_CANDIDATES
        arguments.seeds, arguments.parallel = arguments.seeds[:1], max(arguments.parallel, 2)

    def make() -> tuple[str, dict[str, Any]]:
        if arguments.judgments is None:
            print(SKIPPED, flush=True)
        rows = []
        for log, setting in settings(arguments).items():
            rows += measure(setting, models, candidates, log)
        content = {"rows": rows}
        return table(content), content

    name = "interactrank_offline"
    return exit_status(name, lambda: simulated.publish(arguments, name, make))


if __name__ == "__main__":
    sys.exit(main())
