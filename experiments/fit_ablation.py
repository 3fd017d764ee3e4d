r"""What FIT's parts are worth, how many meta queries and heads it takes, and what that costs.

    python -m experiments.fit_ablation --preset=small --parallel=2 --out=runs/fit_ablation
    python -m experiments.fit_ablation --variants --movielens_1m=../shared/data/ml-1m \
        --groups parts queries heads models --out=runs/fit_ablation

One change of FIT's config at a time (`ablation.py`), on the simulated log, its variants, and on
MovieLens where a flag says where it lies. The other models of `--models` stand beside FIT, with
their own configs. Training mixes meta queries (soft), serving takes the nearest (hard): how close
the two are is the query similarity QS, their cosine, which training logs. What is done is kept.

    auc_against_queries.png   ROC-AUC against N, the number of meta queries
    query_similarity.png      QS against the step, by how the temperature falls
    meta_queries.png          the meta matrix in 2-D, by category, with usage
    pareto.png                ROC-AUC against the FLOPs of a request with 10,000 candidates, and
                              the Pareto front
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import (
    ablation,
    cells,
    comparison,
    contenders,
    fit_figures,
    over_inputs,
    simulated,
    soft_queries,
    trials,
)
from experiments.ablation import Change
from experiments.command_line import exit_status
from experiments.sweeps import over, zipped
from interactrank_jax.config import configuration
from interactrank_jax.examples.format import Examples
from interactrank_jax.ranking.index import encode_items
from interactrank_jax.runs.run import Run
from interactrank_jax.tables.lookup import item_store
from interactrank_jax.training import reports

MODEL = "fit"
PARTS, TEMPERATURE, QUERIES, HEADS, MODELS = "parts", "temperature", "queries", "heads", "models"
GROUPS = (PARTS, TEMPERATURE, QUERIES, HEADS, MODELS)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # N
HEAD_COUNTS = (1, 2, 4, 8, 16)
BESIDE = tuple(
    model for model in (*contenders.PRE_RANKERS, *contenders.RANKING_REFERENCES) if model != MODEL
)
VECTORS, DECAY, MINIMUM = "model.meta.vectors", "model.meta.decay", "model.meta.temperature_min"
TEMPERATURES = (
    # Training then mixes as evenly at its end as at its start, and serving takes the nearest alone.
    Change("soft throughout: tau stays 1", {MINIMUM: 1.0}, TEMPERATURE),
    Change("hard from the second step: tau_min at once", {DECAY: 1e-6}, TEMPERATURE),
    Change("tau falls over a quarter of training", {DECAY: 0.25}, TEMPERATURE),
    Change("tau falls over all of training", {DECAY: 1.0}, TEMPERATURE),
    Change("tau_min .01", {MINIMUM: 0.01}, TEMPERATURE),
    Change("tau_min .1", {MINIMUM: 0.1}, TEMPERATURE),
)
QUICK = ("N = 2",)


def changes(pooling: str, models: Sequence[str]) -> tuple[Change, ...]:
    """Returns every change, the models beside FIT among them.

    Args:
      pooling: of the history that no meta query attends to.
      models: those beside FIT.
    """
    history, dot = {"model.sequence.history": pooling}, {"model.late.user_heads": 0}
    no_queries = {VECTORS: 0, **history}
    return (
        Change("no MQM", no_queries, PARTS),
        Change("no target attention", {"model.meta.attention_hidden": 0, **history}, PARTS),
        Change("attention weights sum to one", {"model.meta.attention_softmax": True}, PARTS),
        Change("no LSS: a dot product", dot, PARTS),
        Change("neither MQM nor LSS", {**no_queries, **dot}, PARTS),
        *TEMPERATURES,
        *(Change(f"N = {each[VECTORS]}", each, QUERIES) for each in over(VECTORS, COUNTS)),
        *_heads(),
        *(Change(model, {}, MODELS, model) for model in models),
    )


def _heads() -> Iterator[Change]:
    both = zipped(
        over("model.late.user_heads", HEAD_COUNTS), over("model.late.item_heads", HEAD_COUNTS)
    )
    for count, overrides in zip(HEAD_COUNTS, both, strict=True):
        yield Change(f"{count} x {count} heads", overrides, HEADS)


def query_similarity(outcome: trials.Outcome) -> list[tuple[int, float]]:
    """Returns (step, QS) as a training logged it."""
    return reports.series(outcome.trial.workdir / "metrics.jsonl", "train/model/query_similarity")


def meta_queries(outcome: trials.Outcome) -> dict[str, Any]:
    """Returns where a trained model's meta queries lie, what goes with them, and how often.

    Returns:
      `points` `[N, 2]`, the rows of the meta matrix on its two principal axes; `usage` `[N]`, the
      share of the test split's candidates that go with each; `category` `[N]`, the commonest value
      of the first categorical feature of the items that do, '' where none does; `purity` `[N]`, the
      share of those items that have it.
    """
    run, examples = Run.open(outcome.trial.workdir), Examples(outcome.trial.examples)
    model, _ = run.restore_model()
    matrix = np.asarray(model["params"]["meta"]["matrix"])
    nearest = np.asarray(encode_items(run, model, item_store(examples.items)).meta)
    count = len(matrix)
    usage = np.zeros(count)
    for block in examples.blocks("test", ("item", "mask")):
        usage += np.bincount(nearest[block["item"][block["mask"]]], minlength=count)
    category, purity = _categories(examples, nearest, count)
    return {
        "points": principal_axes(matrix).tolist(),
        "usage": (usage / usage.sum()).tolist(),
        "category": category,
        "purity": purity,
    }


def _categories(
    examples: Examples, nearest: np.ndarray, count: int
) -> tuple[list[str], list[float]]:
    """Returns the commonest category of each meta query's items, and its share of them."""
    features = examples.metadata.select(("item",), "categorical")
    if not features:
        return [""] * count, [0.0] * count
    values = np.array(examples.raw_items()[features[0].name].to_pylist(), object).astype(str)
    names, shares = [], []
    for number in range(count):
        rows = 1 + np.flatnonzero(nearest[1:] == number)  # the first row is padding
        present, counts = np.unique(values[rows], return_counts=True)
        names.append(str(present[counts.argmax()]) if len(rows) else "")
        shares.append(float(counts.max() / len(rows)) if len(rows) else 0.0)
    return names, shares


def principal_axes(matrix: np.ndarray) -> np.ndarray:
    """Returns the rows of `[N, D]`, centred, on their two principal axes: `[N, 2]`."""
    centred = matrix - matrix.mean(0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    axes = (left * scale)[:, :2]
    return np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))


def measure(
    setting: contenders.Setting, wanted: Sequence[Change], log: str
) -> tuple[list[ablation.Row], list[dict[str, Any]]]:
    """Returns the rows of a log, and of each FIT with meta queries what its figures need."""
    rows, details = [], []
    for one in ablation.measure(setting, MODEL, wanted, log):
        rows.append(one.row)
        if not one.outcomes or not _vectors(one.outcomes[0]):
            continue
        steps, matrix = query_similarity(one.outcomes[0]), meta_queries(one.outcomes[0])
        best = one.outcomes[0].best
        assert best is not None
        rows[-1] = {
            **one.row,
            "meta_vectors": _vectors(one.outcomes[0]),
            "meta_vectors_used": sum(usage > 0 for usage in matrix["usage"]),
            # The latest that was logged up to the step of the model that was kept.
            "query_similarity": next(
                value for step, value in reversed(steps) if step <= max(best[0], steps[0][0])
            ),
            "query_similarity_last": steps[-1][1],
            "soft_minus_hard": soft_minus_hard(one.outcomes) if one.row["model"] == MODEL else None,
        }
        key = {name: one.row[name] for name in ("log", "model", "group", "change")}
        details.append({**key, "steps": steps, "matrix": matrix})
    return rows, details


def soft_minus_hard(outcomes: Sequence[trials.Outcome]) -> dict[str, list[float]]:
    """Returns by split the ROC-AUC of soft queries minus that of hard ones, and its interval."""
    hard = contenders.score_splits(outcomes, ablation.SPLITS)
    soft = [  # one by one: each seed's best step has a temperature of its own
        contenders.score_splits([outcome], ablation.SPLITS, soft_queries.make_scorer, "soft-")
        for outcome in outcomes
    ]
    differences = {}
    for split in ablation.SPLITS:
        request, seeds = hard[split][0].request_index, [scores[split][0] for scores in soft]
        paired = comparison.paired_difference(request, seeds, hard[split])
        differences[split] = [float(value) for value in paired]
    return differences


def _vectors(outcome: trials.Outcome) -> int:
    """Returns the number of a model's meta queries."""
    model = outcome.trial.config.model
    return int(model.meta.vectors) if "meta" in model else 0


def table(content: Mapping[str, Any]) -> str:
    """Returns Markdown: the changes; then of each with meta queries QS, and how many are used.

    QS, at the step that was kept and at the last, and use, by candidates of the test split, are of
    the first seed.
    """
    columns = ["change", "log", "QS", "at the end", "meta queries used"]
    lines = cells.header([*columns, "soft minus hard, test [95%]"])
    for row in content["rows"]:
        if "query_similarity" in row:
            used = f"{row['meta_vectors_used']} of {row['meta_vectors']}"
            difference = row["soft_minus_hard"] and row["soft_minus_hard"]["test"]
            texts = [row["change"], row["log"], f"{row['query_similarity']:.4f}"]
            texts += [f"{row['query_similarity_last']:.4f}", used, cells.difference(difference)]
            lines.append(cells.row(texts))
    return "\n\n".join([ablation.table(content["rows"]), "\n".join(lines)])


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment."""
    parser = simulated.parser(__doc__)
    ablation.add_groups(parser, GROUPS)
    parser.add_argument(
        "--variants", nargs="*", choices=over_inputs.VARIANTS, default=[over_inputs.SEARCH]
    )
    parser.add_argument("--models", nargs="*", choices=BESIDE, default=list(BESIDE))
    over_inputs.add_sources(parser)
    arguments = parser.parse_args(argv)
    ablation.shorten(arguments, QUICK)
    rows: list[ablation.Row] = []

    def make() -> tuple[str, dict[str, Any]]:
        details = []
        for log, setting in over_inputs.data_sets(arguments, arguments.variants).items():
            pooling = configuration.load(setting.spec("two_tower")).model.sequence.history
            wanted = ablation.selected(changes(pooling, arguments.models), arguments)
            log_rows, log_details = measure(setting, wanted, log)
            rows.extend(log_rows)
            details.extend(log_details)
        content = {"rows": rows, "meta_queries": details}
        return table(content), content

    def work() -> int:
        published = simulated.publish(arguments, "fit_ablation", make, fit_figures.draw)
        return ablation.status(published, rows)

    return exit_status("fit_ablation", work)


if __name__ == "__main__":
    sys.exit(main())
