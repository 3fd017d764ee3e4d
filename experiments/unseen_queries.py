r"""What history under another name is worth to queries that have none: test AUC by popularity.

    python -m experiments.unseen_queries --preset=small --out=runs/unseen

On the simulated log, InteractRank with cross features that back off from the query

    none      nowhere
    segments  from a segment to all of the query, as the two below do too
    words     to its words in any order (`backoff.query_form=query_text`)
    nearest   to the nearest head query: of the queries that had most requests in training the one
              whose vector of a two-tower model's query tower is closest to its own

A query's vector is the mean over its requests in training; of one that training did not see it is
that of its first request. Deciles are of test requests,
in the order of their query's number of requests in training. What is done is kept.
"""

import argparse
import dataclasses
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments import contenders, simulated, trials
from experiments.benchmarks import reporting
from experiments.command_line import exit_status
from interactrank_jax import files, metrics
from interactrank_jax.data.examples import Examples
from interactrank_jax.data.pipeline import request_batches
from interactrank_jax.data.schema import FeatureSpec, Schema
from interactrank_jax.data.splits import SPLITS

COLUMN = "head_query"  # of the requests, in the copy of the log
DECILES = 10
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "segments": {"backoff.query_form": ""},
    "words": {"backoff.query_form": "query_text"},
    "nearest": {"backoff.query_form": COLUMN},
}


def query_vectors(outcome: trials.Outcome) -> dict[str, np.ndarray]:
    """Returns a vector `[d]` of each query, by a trained two-tower model."""
    vectors: dict[str, np.ndarray] = {}
    first: dict[str, int] = {}
    for split, query, time, vector in _request_vectors(outcome):
        if split == "train":
            vectors[query] = vectors.get(query, 0) + vector
            first[query] = -1
        elif time < first.get(query, time + 1):
            vectors[query], first[query] = vector, time
    return {query: vector / np.linalg.norm(vector) for query, vector in vectors.items()}


def _request_vectors(outcome: trials.Outcome) -> Iterator[tuple[str, str, int, np.ndarray]]:
    """Yields split, query_id, timestamp and vector of every request, those of training first."""
    from interactrank_jax.runs import Run
    from interactrank_jax.scoring.score import QueryEncoder

    run, examples = Run.open(outcome.trial.workdir), Examples(outcome.trial.examples)
    encode = QueryEncoder(run, run.restore_model()[0], examples)
    for split in SPLITS:
        raw = examples.raw_requests(split)
        ids, times = (raw[name].to_pylist() for name in ("query_id", "timestamp"))
        for batch in request_batches(examples, split, 256):
            vectors = np.asarray(encode(batch))[:, 0]
            for index, vector in zip(batch["request_index"], vectors, strict=True):
                if index >= 0:
                    yield split, ids[index], times[index], vector


def nearest_heads(outcome: trials.Outcome, share: float) -> dict[str, str]:
    """Returns the head query of each query; a head query's is itself.

    Args:
      outcome: a trained two-tower model.
      share: of the queries that training saw, how many are heads.
    """
    vectors = query_vectors(outcome)
    requests = Examples(outcome.trial.examples).raw_requests("train")["query_id"].to_pylist()
    known, seen = np.unique(requests, return_counts=True)
    heads = known[np.argsort(-seen, kind="stable")[: max(int(share * len(known)), 1)]]
    queries, matrix = list(vectors), np.stack(list(vectors.values()))
    rows = {query: row for row, query in enumerate(queries)}
    closest = (matrix @ matrix[[rows[head] for head in heads]].T).argmax(1)
    nearest = {query: str(heads[place]) for query, place in zip(queries, closest, strict=True)}
    return nearest | {str(head): str(head) for head in heads}


def add_column(log: Path, heads: dict[str, str], out: Path) -> Path:
    """Writes a copy of a log whose requests have their head query as a feature."""
    schema = Schema.load(log)
    with files.new_directory(out) as directory:
        feature = FeatureSpec(COLUMN, "request", "categorical")
        dataclasses.replace(schema, features=(*schema.features, feature)).save(directory)
        for table in ("items", "impressions", "events"):
            (directory / table).mkdir()
            for part in (log / table).iterdir():
                os.link(part, directory / table / part.name)
        (directory / "requests").mkdir()
        for part in (log / "requests").iterdir():
            held = pq.read_table(part)
            column = [heads.get(query, query) for query in held["query_id"].to_pylist()]
            pq.write_table(
                held.append_column(COLUMN, pa.array(column)), directory / "requests" / part.name
            )
    return out


def auc_by_decile(outcome: trials.Outcome) -> list[float]:
    """Returns the test AUC of each decile of requests, rarest queries first, then that of all."""
    examples = Examples(outcome.trial.examples)
    tested = contenders.score_test(outcome)
    known = examples.raw_requests("train")["query_id"].to_pylist()
    seen = dict(zip(*np.unique(known, return_counts=True), strict=True))
    queries = examples.raw_requests("test")["query_id"].to_pylist()
    popularity = np.array([seen.get(query, 0) for query in queries])
    decile = np.empty(len(popularity), int)
    order = np.argsort(popularity, kind="stable")
    decile[order] = np.arange(len(order)) * DECILES // len(order)
    of_row = decile[tested.request_index]
    parts = [of_row == number for number in range(DECILES)]
    return [
        metrics.roc_auc(tested.score[part], tested.engaged[part])
        for part in (*parts, np.ones(len(of_row), bool))
    ]


def measure(setting: contenders.Setting, strength: float, share: float) -> list[dict[str, Any]]:
    """Trains, tests, and returns a row per way to back off."""
    base = setting.spec("two_tower")
    examples = setting.examples(trials.resolve(base, setting.common).data)
    first = [{"train.seed": setting.seeds[0]}]
    made = trials.make(base, first, examples, setting.out / "two_tower", setting.common)
    (tower,) = simulated.trained(made)
    place = setting.out / f"heads-{share:g}-{setting.seeds[0]}"
    if not (place / "log").exists():
        add_column(setting.log, nearest_heads(tower, share), place / "log")
    setting = dataclasses.replace(setting, log=place / "log", out=place)
    rows = []
    for way, fields in WAYS.items():
        data = {f"data.cross.{field}": value for field, value in fields.items()}
        if fields:
            data["data.cross.backoff.strength"] = strength
        # The head query serves to count by; no tower looks at it.
        common = {**setting.common, "model.exclude": (COLUMN,), **data}
        spec = setting.spec("interactrank")
        examples = setting.examples(trials.resolve(spec, common).data)
        sweep = [{"train.seed": seed} for seed in setting.seeds]
        made = trials.make(spec, sweep, examples, setting.out / way, common)
        outcomes = simulated.trained(made, setting.parallel)
        found = [auc_by_decile(outcome) for outcome in outcomes]
        columns = list(zip(*found, strict=True))
        rows.append(
            {
                "way": way,
                "seeds": len(found),
                "auc_mean": [statistics.fmean(column) for column in columns],
                "auc_std": [statistics.stdev(c) if len(c) > 1 else 0.0 for c in columns],
            }
        )
        print(rows[-1], flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table: AUC without a back-off, and what the others gain."""
    header = [*(str(number + 1) for number in range(DECILES)), "all"]
    lines = ["| back-off to | " + " | ".join(header) + " |", "|---" * (DECILES + 2) + "|"]
    base = rows[0]["auc_mean"]
    for row in rows:
        means = row["auc_mean"]
        shown = [f"{mean:.4f}" for mean in means]
        if row is not rows[0]:
            shown = [f"{mean - start:+.4f}" for mean, start in zip(means, base, strict=True)]
        cells = [f"{a} ± {b:.4f}" for a, b in zip(shown, row["auc_std"], strict=True)]
        lines.append(f"| {row['way']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment."""
    parser = simulated.parser(__doc__)
    parser.add_argument("--strength", type=float, default=5.0, help="of the back-off")
    parser.add_argument("--heads", type=float, default=0.1, help="share of queries that are heads")
    arguments = parser.parse_args(argv)
    return exit_status("unseen_queries", lambda: _main(arguments))


def _main(arguments: argparse.Namespace) -> int:
    out = simulated.place(arguments)
    with files.lock(out):
        rows = measure(simulated.setting(arguments), arguments.strength, arguments.heads)
        print(f"\n{table(rows)}\n")
        versions = reporting.versions("jax", "jaxlib", "flax", "numpy")
        files.write_json(out / "unseen_queries.json", {"rows": rows, "versions": versions})
    print(out / "unseen_queries.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
