"""Replay: what a bundle serves for the requests of its day, against what the log tells afterwards.

Each request of the day is ranked by the bundle from its raw row, given the events that had arrived
on that day. Then examples of the same requests are prepared from the log, by a STATE built anew.
Every feature must have the same bits, and scores and probabilities be those of evaluation. So
training/serving skew is found where it arises: at a feature, with an example.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict

from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation.scorers import ModelScorer
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.input import evaluation_batches
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.examples.splits import Days
from interactrank_jax.io import files, interrupts, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.printable import cell
from interactrank_jax.log.read import Log, open_log
from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.runs.best import fingerprint
from interactrank_jax.runs.run import Run
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.probabilities import Calibration
from interactrank_jax.serving.probabilities import column as probability_column
from interactrank_jax.serving.ranking import Ranked
from interactrank_jax.state import engines
from interactrank_jax.state.days import day_number
from interactrank_jax.state.source import Source
from interactrank_jax.state.store import Description

BATCH_SIZE = 64
SPLIT = "test"
TOLERANCE = 1e-5  # of scores and probabilities, relative where they are above 1
_ITEMS = ("history_item", "query_history_item")


@dataclasses.dataclass
class Difference:
    """How a feature, or the score, as served compares with the same rebuilt.

    Attributes:
      rows: compared.
      equal: of these, to the bit; of scores, within `TOLERANCE`.
      largest: largest difference of a number.
      first: request (and item), served and rebuilt, where they first differ; ''.
    """

    rows: int = 0
    equal: int = 0
    largest: float = 0.0
    first: str = ""

    def add(self, where: str, served: Any, rebuilt: Any, tolerance: float = 0.0) -> None:
        """Compares one row."""
        self.rows += 1
        served, rebuilt = np.asarray(served), np.asarray(rebuilt)
        if served.dtype.kind in "fiu" and served.shape == rebuilt.shape:
            gap = np.abs(served.astype(np.float64) - rebuilt.astype(np.float64))
            gap = gap / np.maximum(np.abs(rebuilt), 1) if tolerance else gap
            difference = float(gap.max(initial=0.0))
            is_equal = difference <= tolerance
            self.largest = max(self.largest, difference)
        else:
            is_equal = served.shape == rebuilt.shape and bool((served == rebuilt).all())
        self.equal += is_equal
        if not is_equal and not self.first:
            self.first = f"{where}: served {_short(served)}, rebuilt {_short(rebuilt)}"


def _short(values: np.ndarray) -> str:
    text = str(values.tolist())
    return text if len(text) <= 200 else f"{text[:200]} ..."


def replay(
    bundle_path: files.PathLike,
    log_path: files.PathLike,
    workdir: files.PathLike = "",
    progress: Callable[[str], None] = lambda phase: None,
) -> dict[str, Difference]:
    """Compares what a bundle serves on its day with what a log tells of that day.

    Args:
      bundle_path: what `export` wrote.
      log_path: a log that has the day; events of that day are handed over as they arrived.
      workdir: the run of the bundle, whose evaluation gives the scores; '': the bundle's own model,
        on the features rebuilt.
      progress: called with the name of each phase as it begins.

    Returns:
      By name of the feature, 'score', and `probability_HEAD` of each head.

    Raises:
      InputError: a bundle without days, or a log without requests of its day.
    """
    ranker, log = Ranker(bundle_path), open_log(log_path)
    bundle = ranker.bundle
    if bundle["timeless"]:
        raise InputError(f"{bundle_path} is of timeless data: there is no day to replay.")
    if workdir:
        _check_model(bundle, workdir)
    number = day_number(bundle["as_of"])
    with outputs.scratch_directory() as scratch, interrupts.deferred():
        progress("rebuild")
        data = ConfigDict(bundle["config"]["data"])
        days = Days(number, number)
        prepare(data, log_path, scratch / "examples", encoder=bundle.encoder, days=days)
        examples = Examples(scratch / "examples")
        progress("serve")
        rebuilt = list(rebuilt_examples(examples))
        candidates = pa.table(
            {
                "request_id": pa.array([row.request for row in rebuilt for _ in row.items]),
                "item_id": pa.array([item for row in rebuilt for item in row.items]),
            }
        )
        events = arrived_events(log, data, number, scratch / "engine")
        requests = examples.raw_requests(SPLIT)
        ranked = ranker.rank_fully(requests, candidates, events, len(candidates), True)
        progress("compare")
        differences = compare(bundle, ranked, rebuilt, examples.metadata.cross)
        scores = _evaluated(workdir, examples) if workdir else _rescored(ranker, examples)
        differences |= _compare_scores(ranked.table, scores, bundle.calibration)
    return differences


def _check_model(bundle: Bundle, workdir: files.PathLike) -> None:
    model, step = Run.open(workdir).restore_model()
    if fingerprint(model) != bundle["fingerprint"]:
        raise InputError(
            f"{bundle.path} is a bundle of another model than the best of {workdir}, of step "
            f"{step}: name the run that it was exported from, or export again."
        )


@dataclasses.dataclass(frozen=True)
class RebuiltExample:
    """One example: its request, items, cross features `[C, K]` and arrays."""

    request: Any
    items: list[Any]
    cross: np.ndarray
    arrays: dict[str, Any]


def rebuilt_examples(examples: Examples, split: str = SPLIT) -> Iterator[RebuiltExample]:
    """Yields the examples of a split, items by their ids."""
    ids = [None, *examples.item_ids[1:].tolist()]
    requests = examples.raw_requests(split)["request_id"].to_pylist()
    for batch in evaluation_batches(examples, split, BATCH_SIZE):
        for row, index in enumerate(batch["request_index"]):
            if index < 0:  # padding of the last batch
                continue
            mask = batch["mask"][row]
            arrays = {
                name: [ids[item] for item in values[row]] if name in _ITEMS else values[row]
                for name, values in batch.items()
            }
            items = [ids[item] for item in batch["item"][row][mask]]
            yield RebuiltExample(requests[index], items, batch["cross"][row][mask], arrays)


def compare(
    bundle: Bundle, ranked: Ranked, rebuilt: list[RebuiltExample], names: tuple[str, ...]
) -> dict[str, Difference]:
    """Compares the features of requests and candidates."""
    assert ranked.candidates is not None
    numbers = {request: number for number, request in enumerate(ranked.requests.ids.to_pylist())}
    ids = [None, *bundle.items.ids.to_pylist()]
    pairs = zip(ranked.candidates["request"], ranked.candidates["row"], strict=True)
    of_pair = {(int(request), ids[row]): number for number, (request, row) in enumerate(pairs)}
    differences: dict[str, Difference] = {}
    for example in rebuilt:
        request = numbers[example.request]
        for name, values in ranked.requests.arrays.items():
            served = values[request]
            if name in _ITEMS:
                served = [ids[row] for row in served]
            difference = differences.setdefault(name, Difference())
            difference.add(f"request {example.request}", served, example.arrays[name])
        for item, cross in zip(example.items, example.cross, strict=True):
            served = ranked.candidates["cross"][of_pair[request, item]]
            for column, name in enumerate(names):
                difference = differences.setdefault(name, Difference())
                where = f"request {example.request}, item {item}"
                difference.add(where, served[column], cross[column])
    return differences


def arrived_events(log: Log, data: ConfigDict, number: int, scratch: Path) -> pa.Table:
    """Returns what users did and arrived on a day, as the service that day would have handed over.

    Args:
      log: the log.
      data: `config.data`.
      number: of the day.
      scratch: for the engine.
    """
    description = Description.from_config(data, log)
    with engines.connect("duckdb", scratch) as backend:
        source = Source(log, description.recipe, backend)
        parts = [backend.to_pyarrow(source.engagements(number, number))]
        if description.user_impressions:
            parts.append(backend.to_pyarrow(source.impressions_seen(number, number)))
    names = {"user_id": "user", "item_id": "item", "query_id": "query", "arrival_time": "time"}
    same = ("action", "event_time", "event_id", "request_id", "position")
    tables = []
    for part in parts:
        columns = {new: part[old] for new, old in names.items()}
        columns |= {name: part[name] for name in same if name in part.column_names}
        tables.append(pa.table(columns))
    return pa.concat_tables(tables, promote_options="permissive")


Scores = dict[tuple[Any, Any], np.ndarray]  # by request and item: score, probability of each head


def _evaluated(workdir: files.PathLike, examples: Examples) -> Scores:
    """Returns what evaluation gives."""
    run = Run.open(workdir)
    parallel = DataParallel("pmap", tables=run.metadata.tables)
    scorer = ModelScorer(run, run.check_examples(examples), SPLIT, parallel)
    model, step = run.restore_model()
    scorer.use(parallel.place(model), run.calibration(step))
    utility = np.asarray(scorer.utility)

    def score(batch: dict[str, np.ndarray]) -> np.ndarray:
        logits = scorer.slate(batch)
        return _with_probabilities(logits @ utility, logits, scorer.calibration)

    return _by_pair(examples, score)


def _with_probabilities(
    score: np.ndarray, logits: np.ndarray, calibration: Calibration
) -> np.ndarray:
    """Returns scores `[R, C]` and the probabilities of H heads beside them, `[R, C, 1 + H]`."""
    return np.concatenate([score[..., None], calibration.probabilities(logits)], -1)


def _rescored(ranker: Ranker, examples: Examples) -> Scores:
    """Returns what the bundle's model gives on the features that were rebuilt."""
    bundle, graphs = ranker.bundle, ranker.ranking.graphs
    ids = pa.array(examples.item_ids[1:].tolist(), bundle.items.ids.type)
    row_of = np.append(0, bundle.rows_of(ids)).astype(np.int32)

    def score(batch: dict[str, np.ndarray]) -> np.ndarray:
        arrays = {**batch, "row": row_of[batch["item"]]}
        arrays |= {name: row_of[batch[name]] for name in _ITEMS}
        wanted = bundle["graphs"]["score_list"]["inputs"]
        inputs = {name: values for name, values in arrays.items() if name in wanted}
        outputs = graphs.run("score_list", inputs)
        return _with_probabilities(outputs["score"], outputs["logits"], bundle.calibration)

    return _by_pair(examples, score)


def _by_pair(examples: Examples, score: Callable[[dict[str, np.ndarray]], np.ndarray]) -> Scores:
    ids = [None, *examples.item_ids[1:].tolist()]
    requests = examples.raw_requests(SPLIT)["request_id"].to_pylist()
    result = {}
    for batch in evaluation_batches(examples, SPLIT, BATCH_SIZE):
        scores = score(batch)
        for row, column in np.argwhere(batch["mask"]):
            request = requests[batch["request_index"][row]]
            result[request, ids[batch["item"][row, column]]] = scores[row, column]
    return result


def _compare_scores(
    served: pa.Table, rebuilt: Scores, calibration: Calibration
) -> dict[str, Difference]:
    names = ("score", *map(probability_column, calibration.heads))
    columns = (served[name].to_pylist() for name in ("request_id", "item_id", *names))
    result, seen = {name: Difference() for name in names}, set()
    for request, item, *values in zip(*columns, strict=True):
        seen.add((request, item))
        where = f"request {request}, item {item}"
        for name, value, other in zip(names, values, rebuilt[request, item], strict=True):
            result[name].add(where, value, other, TOLERANCE)
    if missing := [pair for pair in rebuilt if pair not in seen]:
        raise InputError(f"{len(missing)} candidates were not ranked, the first {missing[0]}.")
    return result


def table(differences: dict[str, Difference]) -> str:
    """Returns differences as a Markdown table, those that differ first."""
    lines = ["| feature | rows | equal | largest difference |", "|---|---|---|---|"]
    ordered = sorted(differences.items(), key=lambda pair: pair[1].equal == pair[1].rows)
    for name, one in ordered:
        share = one.equal / max(one.rows, 1)
        lines.append(f"| {cell(name)} | {one.rows:,} | {share:.2%} | {one.largest:.2g} |")
    lines += [f"{name}: {one.first}" for name, one in ordered if one.first]
    return "\n".join(lines)


def write(differences: dict[str, Difference], path: files.PathLike) -> None:
    """Writes differences as JSON; a `largest` that is infinite is None."""
    rows = {name: dataclasses.asdict(one) for name, one in differences.items()}
    for row in rows.values():
        row["largest"] = row["largest"] if np.isfinite(row["largest"]) else None
    files.write_json(path, rows)
