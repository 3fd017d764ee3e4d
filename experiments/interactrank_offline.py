r"""InteractRank's offline comparison: quality on the test split, and what serving costs.

    python -m experiments.interactrank_offline --preset=small --out=runs/offline

BM25, popularity and IQP alone, the two-tower model, IntTower and InteractRank, on the simulated
log, with the configs as they stand: nothing is chosen, and the test split is looked at once. Models
are trained with every seed; baselines have none. Recall is among all items of the log. FLOPs are of
`score` for one more candidate, milliseconds of a request with 100 thousand candidates
(`efficiency.py`). BM25's are of the whole corpus, scaled; popularity and IQP are looked up, not
computed. Of the paper's offline figures the FLOPs alone are known to us. What is done is kept.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import comparison, contenders, efficiency, simulated, trials
from experiments.command_line import exit_status
from interactrank_jax.evaluation import evaluate
from interactrank_jax.evaluation.baseline_scorers import BM25Scorer, baseline
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

Row = dict[str, Any]
Scores = list[comparison.Scored]


def measure(setting: contenders.Setting, models: Sequence[str], candidates: int) -> list[Row]:
    """Trains, evaluates on the test split, and returns a row for each ranker.

    Args:
      setting: what trainings are run with.
      models: InteractRank, and what it is compared with beside the baselines.
      candidates: that are scored to measure the time; it is scaled to 100 thousand.
    """
    made = {model: _make(model, setting) for model in models}
    every = [trial for of_model in made.values() for trial in of_model]
    outcomes = iter(simulated.trained(every, setting.parallel))
    results = [_test_baseline(name, setting) for name in BASELINES]
    for model, of_model in made.items():
        of_seeds = list(itertools.islice(outcomes, len(of_model)))
        results.append(_test_model(model, of_seeds, candidates))
    ours = next(scores for row, scores in results if row["ranker"] == OURS)
    rows = []
    for row, scores in results:
        differences = {}
        if row["ranker"] != OURS:
            request = scores[0].request_index
            for metric in COMPARED:
                paired = comparison.paired_difference(request, ours, scores, metric=metric)
                differences[metric] = [float(value) for value in paired]
        rows.append({**row, "interactrank_minus": differences})
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
    milliseconds = None
    if isinstance(scorer, BM25Scorer):
        milliseconds = _bm25_ms(scorer, examples)
    row: Row = {
        "ranker": name,
        "seeds": [],
        "ranks_by": scorer.feature,
        "metrics": figures([result]),
        "serving_flops_per_candidate": None,
        "ms_per_100k_candidates": milliseconds,
    }
    return row, [scores]


def _bm25_ms(scorer: BM25Scorer, examples: Examples) -> float:
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
        workdir = outcome.trial.workdir
        results.append(evaluate.evaluate(workdir, outcome.trial.examples))
        scores.append(_saved_scores(workdir, results[-1]["metrics"]["logloss"]))
    run = Run.open(workdir)
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


def _saved_scores(workdir: Path, logloss: float) -> comparison.Scored:
    """Returns the scores that `evaluate` left in a run."""
    with np.load(workdir / "eval" / "test.npz", allow_pickle=False) as arrays:
        return comparison.Scored(
            arrays["request_index"], arrays["item"], arrays["engaged"], arrays["score"], logloss
        )


def figures(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns mean, deviation over seeds and, of a single result, its interval, by metric.

    Args:
      results: what `evaluate` says of each seed.
    """
    summary = {}
    for metric in METRICS:
        values = [result["metrics"][metric] for result in results]
        several = len(values) > 1
        summary[metric] = {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if several else None,
            "interval": None if several else list(results[0]["intervals"][metric]),
        }
    return summary


def table(content: Mapping[str, Any]) -> str:
    """Returns Markdown: quality and cost of each ranker, then InteractRank minus each other."""
    rows = content["rows"]
    header = ["ranker", *METRICS.values(), "FLOPs per candidate", "in the paper", "ms per 100k"]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in rows:
        cells = [
            row["ranker"],
            *(_cell(row["metrics"][metric]) for metric in METRICS),
            _number(row["serving_flops_per_candidate"], ",.0f"),
            _number(efficiency.PAPER.get(row["ranker"]), ",d"),
            _number(row["ms_per_100k_candidates"], ",.1f"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    header = ["InteractRank minus", *(f"{METRICS[metric]} [95%]" for metric in COMPARED)]
    lines += ["", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in rows:
        if row["interactrank_minus"]:
            differences = [row["interactrank_minus"][metric] for metric in COMPARED]
            texts = [f"{value:+.4f} [{low:+.4f}, {high:+.4f}]" for value, low, high in differences]
            lines.append("| " + " | ".join([row["ranker"], *texts]) + " |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, Any]) -> str:
    deviation = figure["std"]
    return f"{figure['mean']:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment."""
    parser = simulated.parser(__doc__)
    arguments = parser.parse_args(argv)
    models, candidates = MODELS, efficiency.CANDIDATES
    if arguments.quick:
        models, candidates = QUICK, efficiency.QUICK_CANDIDATES
        arguments.seeds, arguments.parallel = arguments.seeds[:1], max(arguments.parallel, 2)

    def make() -> tuple[str, dict[str, Any]]:
        content = {"rows": measure(simulated.setting(arguments), models, candidates)}
        return table(content), content

    name = "interactrank_offline"
    return exit_status(name, lambda: simulated.publish(arguments, name, make))


if __name__ == "__main__":
    sys.exit(main())
