r"""What history under another name is worth to queries that have none: test AUC by popularity.

    python -m experiments.unseen_queries --preset=small --retyped=0.5 --out=runs/unseen

On the simulated log, where a user may type a query in a way of their own (`--retyped`: in capitals,
in another order; another query_id for the log), InteractRank with cross features that back off from
the query

    none      nowhere
    segments  from a segment to all of the query, as the two below do too
    words     to its words in any order (`backoff.query_form=query_text`)
    nearest   to the nearest head query: of the queries that had most requests in training the one
              whose vector of a two-tower model's query tower is closest to its own

A query's vector is the mean over its requests in training; of one that training did not see it is
that of its first request. Deciles are of test requests, in the order of their query's number of
requests in training. What is done is kept.
"""

import dataclasses
import os
import statistics
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments import cells, contenders, simulated, trials
from experiments.command_line import exit_status, share
from interactrank_jax import metrics
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.input import request_batches
from interactrank_jax.examples.splits import SPLITS
from interactrank_jax.io import outputs
from interactrank_jax.log.schema import FeatureSpec, Schema

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
    from interactrank_jax.ranking.score import QueryEncoder
    from interactrank_jax.runs.run import Run

    run, examples = Run.open(outcome.trial.workdir), Examples(outcome.trial.examples)
    encode = QueryEncoder(run, run.restore_model()[0], examples)
    for split in SPLITS:
        raw = examples.raw_requests(split)
        ids, times = (raw[name].to_pylist() for name in ("query_id", "timestamp"))
        for batch in request_batches(examples, split, 256):
            vectors = np.asarray(encode(batch).vectors)[:, 0]
            for index, vector in zip(batch["request_index"], vectors, strict=True):
                if index >= 0:
                    yield split, ids[index], times[index], vector


def nearest_heads(outcome: trials.Outcome, head_share: float) -> dict[str, str]:
    """Returns the head query of each query; a head query's is itself.

    Args:
      outcome: a trained two-tower model.
      head_share: of the queries that training saw, how many are heads.
    """
    vectors = query_vectors(outcome)
    requests = Examples(outcome.trial.examples).raw_requests("train")["query_id"].to_pylist()
    trained, counts = np.unique(requests, return_counts=True)
    heads = trained[np.argsort(-counts, kind="stable")[: max(int(head_share * len(trained)), 1)]]
    queries, matrix = list(vectors), np.stack(list(vectors.values()))
    rows = {query: row for row, query in enumerate(queries)}
    closest = (matrix @ matrix[[rows[head] for head in heads]].T).argmax(1)
    nearest = {query: str(heads[head]) for query, head in zip(queries, closest, strict=True)}
    return nearest | {str(head): str(head) for head in heads}


def add_column(log: Path, heads: dict[str, str], out: Path) -> None:
    """Writes a copy of a log whose requests have their head query as a feature."""

    def add(requests: pa.Table) -> pa.Table:
        column = [heads.get(query, query) for query in requests["query_id"].to_pylist()]
        return requests.append_column(COLUMN, pa.array(column))

    schema = Schema.load(log)
    feature = FeatureSpec(COLUMN, "request", "categorical")
    schema = dataclasses.replace(schema, features=(*schema.features, feature))
    _copy(log, out, schema, {"requests": add})


def retype(log: Path, retyped: float, out: Path) -> None:
    """Writes a copy of a log in which a share of (user, query) is typed in a way of the user's own.

    What is typed otherwise has another query_id, in requests and events alike, and a text of the
    same words: in capitals, in reverse order, or both.
    """

    def rewrite(rows: pa.Table) -> pa.Table:
        users, queries = (rows[name].to_pylist() for name in ("user_id", "query_id"))
        ways = [_way(user, query, retyped) for user, query in zip(users, queries, strict=True)]
        ids = [f"{query}.{way}" if way else query for query, way in zip(queries, ways, strict=True)]
        rows = rows.set_column(rows.schema.get_field_index("query_id"), "query_id", pa.array(ids))
        if "query_text" in rows.column_names:
            texts = zip(rows["query_text"].to_pylist(), ways, strict=True)
            typed = pa.array([_typed(text, way) for text, way in texts])
            rows = rows.set_column(rows.schema.get_field_index("query_text"), "query_text", typed)
        return rows

    _copy(log, out, Schema.load(log), {"requests": rewrite, "events": rewrite})


def _way(user: str, query: str, retyped: float) -> int:
    """Returns how a user types a query: 0 as it stands, 1 to 3 see `_typed`."""
    drawn = zlib.crc32(f"{user} {query}".encode())
    return drawn % 3 + 1 if drawn // 3 < retyped * 2**32 / 3 else 0


def _typed(text: str, way: int) -> str:
    words = text.split()[:: -1 if way & 2 else 1]
    return " ".join(words).upper() if way & 1 else " ".join(words)


def _copy(
    log: Path, out: Path, schema: Schema, change: dict[str, Callable[[pa.Table], pa.Table]]
) -> None:
    """Writes a copy of a log, some of its tables changed; the others are links."""
    with outputs.new_directory(out) as directory:
        schema.save(directory)
        for table in ("requests", "items", "impressions", "events"):
            (directory / table).mkdir()
            for part in (log / table).iterdir():
                copied = directory / table / part.name
                if table in change:
                    pq.write_table(change[table](pq.read_table(part)), copied)
                else:
                    os.link(part, copied)


def auc_by_decile(outcome: trials.Outcome) -> list[float]:
    """Returns the test AUC of each decile of requests, rarest queries first, then that of all."""
    examples = Examples(outcome.trial.examples)
    tested = contenders.score_test(outcome)
    trained = examples.raw_requests("train")["query_id"].to_pylist()
    counts = dict(zip(*np.unique(trained, return_counts=True), strict=True))
    queries = examples.raw_requests("test")["query_id"].to_pylist()
    popularity = np.array([counts.get(query, 0) for query in queries])
    decile = np.empty(len(popularity), int)
    order = np.argsort(popularity, kind="stable")
    decile[order] = np.arange(len(order)) * DECILES // len(order)
    of_row = decile[tested.request_index]
    parts = [of_row == number for number in range(DECILES)]
    return [
        metrics.roc_auc(tested.score[part], tested.engaged[part])
        for part in (*parts, np.ones(len(of_row), bool))
    ]


def measure(
    setting: contenders.Setting, strength: float, head_share: float
) -> list[dict[str, Any]]:
    """Trains, tests, and returns a row per way to back off.

    Args:
      setting: what trainings are run with.
      strength: of the back-off.
      head_share: of the queries that training saw, how many are heads.
    """
    base = setting.spec("two_tower")
    examples = setting.examples(trials.resolve(base, setting.common).data)
    first = [{"train.seed": setting.seeds[0]}]
    made = trials.make(base, first, examples, setting.out / "two_tower", setting.common)
    (tower,) = simulated.trained(made)
    out = setting.out / f"heads-{head_share:g}-{setting.seeds[0]}"
    if not (out / "log").exists():
        add_column(setting.log, nearest_heads(tower, head_share), out / "log")
    setting = dataclasses.replace(setting, log=out / "log", out=out)
    rows: list[dict[str, Any]] = []
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
        aucs = [auc_by_decile(outcome) for outcome in outcomes]
        rows.append(summary(way, aucs, rows[0]["auc"] if rows else None))
        print(rows[-1], flush=True)
    return rows


def summary(
    way: str, auc: Sequence[Sequence[float]], base: Sequence[Sequence[float]] | None
) -> dict[str, Any]:
    """Returns a row: by decile and over all, AUC and what it gains, seed by seed.

    Args:
      way: of `WAYS`.
      auc: of each seed, see `auc_by_decile`.
      base: the same without a back-off; None for that itself.
    """
    row = {"way": way, "seeds": len(auc), "auc": auc, **_moments("auc", auc)}
    if base is not None:
        pairs = zip(auc, base, strict=True)
        row |= _moments("gain", [np.subtract(after, before).tolist() for after, before in pairs])
    return row


def _moments(name: str, of_seeds: Sequence[Sequence[float]]) -> dict[str, list[Any]]:
    columns = list(zip(*of_seeds, strict=True))
    return {
        f"{name}_mean": [statistics.fmean(column) for column in columns],
        f"{name}_std": [cells.deviation(column) for column in columns],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table: AUC without a back-off, and what the others gain, with deviations.

    A gain's deviation is that of the difference between two models of one seed.
    """
    header = [*(str(number + 1) for number in range(DECILES)), "all"]
    lines = cells.header(["back-off to", *header])
    for row in rows:
        name, sign = ("gain", "+") if "gain_mean" in row else ("auc", "")
        # Older files have deviations of 0 where there is one seed.
        deviations = row[f"{name}_std"] if row["seeds"] > 1 else [None] * len(row[f"{name}_mean"])
        pairs = zip(row[f"{name}_mean"], deviations, strict=True)
        texts = [cells.spread(mean, deviation, sign) for mean, deviation in pairs]
        lines.append(cells.row([row["way"], *texts]))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment."""
    parser = simulated.parser(__doc__)
    parser.add_argument(
        "--retyped", type=share, default=0.0, help="share of (user, query) typed another way"
    )
    parser.add_argument("--strength", type=float, default=5.0, help="of the back-off")
    parser.add_argument("--heads", type=share, default=0.1, help="share of queries that are heads")
    arguments = parser.parse_args(argv)
    retyped = f"retyped-{arguments.retyped:g}" if arguments.retyped else ""

    def make() -> tuple[str, dict[str, Any]]:
        setting = simulated.setting(arguments)
        if retyped:
            out = simulated.place(arguments) / retyped
            if not (out / "log").exists():
                retype(setting.log, arguments.retyped, out / "log")
            setting = dataclasses.replace(setting, log=out / "log", out=out)
        rows = measure(setting, arguments.strength, arguments.heads)
        configs = {model: setting.config(model) for model in ("two_tower", "interactrank")}
        return table(rows), {"rows": rows, "configs": configs, "ways": WAYS}

    def work() -> int:
        return simulated.publish(arguments, "unseen_queries", make, subdirectory=retyped)

    return exit_status("unseen_queries", work)


if __name__ == "__main__":
    sys.exit(main())
