"""The leak detector: change what a request must not know, prepare again, and see what moves.

It treats the preparation as a closed box, on the user's own log and config. What is checked depends
on the protocol (`protocols.py`); `published` is held to the rules of `clean_random`, and fails.

With time (`clean_time`): at a moment t, every label of a request at or after t and every event that
arrives at or after t is changed; no feature of an example at or before t may move, nor any of an
item. There are three moments, each in the middle of the busiest day of a split. Vocabularies and
statistics come from the training split as a whole, by design. So where t lies inside it, what
shapes vocabularies (the items shown) is left alone, and features made with a training mean (the
kinds rate and item_rate, user_rate_*) are not compared, but their counts are.

Timeless: a training row may depend only on the rows of other folds. The labels of one fold are
changed, and no feature of its own rows may move, nor any of an item, which all folds share; then
those of the evaluation splits, and nothing may move at all. Last, all labels are shuffled, and a
boosted tree on the training features must not find in one half of the rows what predicts the other
half: this is what gives away leave-one-out statistics, which depend on no label of their own row
and yet reveal it.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.examples.differences import Leak, compare, compare_items, compare_sparse
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.plan import SPLITS, Plan, make_plan
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log import read, schema
from interactrank_jax.log.values import as_values, index_in, ranks
from interactrank_jax.state.days import SECONDS_PER_DAY

# A tree on out-of-fold features of shuffled labels was seen to reach .507 on the other half of the
# rows, on leave-one-out features .98 (MovieLens-100K, 58 thousand rows): far from both.
NOISE_MARGIN = 0.03
NOISE_ROWS = 60_000
# What the tree needs; not imported above, as no other check does.
NOISE_PACKAGES = ("sklearn", "threadpoolctl")

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Report:
    """What was checked, and what leaks.

    Attributes:
      protocol: that the log was prepared under.
      checks: what was done to the log, in order.
      leaks: empty where all is well.
    """

    protocol: str
    checks: tuple[str, ...]
    leaks: tuple[Leak, ...]

    def __str__(self) -> str:
        lines = [f"protocol: {self.protocol}", *(f"checked: {check}" for check in self.checks)]
        lines += [
            f"LEAK {leak.feature} ({leak.split}), {leak.check}: {leak.finding}"
            for leak in self.leaks
        ] or ["no leak found"]
        return "\n".join(lines)


def check(
    config: Any, log_path: files.PathLike, progress: Progress = lambda phase: None
) -> dict[str, str]:
    """Does what `examine` does, and fails if there is a leak.

    Returns:
      `protocol`, and for each check what came of it: 'nothing moved'.

    Raises:
      InputError: as `prepare` raises it; or features leak, named with an example each.
    """
    report = examine(config, log_path, progress)
    if report.leaks:
        raise InputError(f"features know what they must not.\n{report}")
    return {"protocol": report.protocol, **dict.fromkeys(report.checks, "nothing moved")}


def examine(
    config: Any, log_path: files.PathLike, progress: Progress = lambda phase: None
) -> Report:
    """Looks for leaks in the examples that a config makes of a log.

    Takes about four times as long as one preparation, and the space of as many examples.

    Args:
      config: the `data` part of a config.
      log_path: the log.
      progress: called with the name of each phase as it begins.

    Raises:
      InputError: as `prepare` raises it, or a package is missing that a random split's checks need.
    """
    log = read.open_log(log_path)
    plan = make_plan(config, log)
    if plan.timeless:
        _check_packages()
    with outputs.scratch_directory() as scratch:
        progress("prepare")
        before = Path(scratch) / "before"
        prepare(config, log_path, before)
        work = _Work(config, log, plan, Examples(before), Path(scratch), progress)
        checks = _timeless_checks(work) if plan.timeless else _timed_checks(work)
        results = list(checks)
    return Report(
        plan.protocol,
        tuple(name for name, _ in results),
        tuple(leak for _, leaks in results for leak in leaks),
    )


def _check_packages() -> None:
    try:
        for name in NOISE_PACKAGES:
            importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"leaks of a random split are looked for with scikit-learn and threadpoolctl, and "
            f"'{error.name}' is not installed. They come with the data extra: "
            f"`pip install interactrank-jax[data]`."
        ) from error


@dataclasses.dataclass(frozen=True)
class _Work:
    """One run of the detector: the log, what was prepared from it, and where to write."""

    config: Any
    log: read.Log
    plan: Plan
    before: Examples
    scratch: Path
    progress: Progress

    def prepare_again(self, name: str, **tables: pa.Table) -> Examples:
        """Prepares the log with some tables replaced."""
        self.progress(name)
        number = len(list(self.scratch.iterdir()))
        changed, out = self.scratch / f"log-{number}", self.scratch / f"after-{number}"
        changed.mkdir()
        # Sampled rows get labels too, which a log that declares them must not have.
        dataclasses.replace(self.log.schema, negatives=None).save(changed)
        for table in schema.TABLES:
            if table in tables:
                pq.write_table(tables[table], changed / f"{table}.parquet")
            elif len(paths := self.log.files(table)) == 1:
                (changed / f"{table}.parquet").symlink_to(paths[0].resolve())
            elif paths:
                (changed / table).symlink_to(paths[0].parent.resolve())
        prepare(self.config, changed, out)
        return Examples(out)


# --- With time -----------------------------------------------------------------------------------


def _timed_checks(work: _Work) -> Iterator[tuple[str, list[Leak]]]:
    for split in SPLITS:
        times = np.sort(work.before.raw_requests(split)["timestamp"].to_numpy())
        # In the middle of the busiest day: that puts the most requests at risk.
        _, first, counts = np.unique(
            times // SECONDS_PER_DAY, return_index=True, return_counts=True
        )
        busiest = np.argmax(counts)
        moment = int(times[first[busiest] + counts[busiest] // 2])
        name = f"labels and events changed from t = {moment} on (in {split})"
        in_training = split == "train"
        tables = _changed_from(work.log, moment, change_items=not in_training)
        after = work.prepare_again(name, **tables)
        seconds = {part: work.before.raw_requests(part)["timestamp"].to_numpy() for part in SPLITS}

        def visible(part: str, block: dict[str, np.ndarray], _: int) -> np.ndarray:
            return seconds[part][block["request_index"]] <= moment  # noqa: B023, used at once

        skip = _made_with_training_means(work) if in_training else ()
        leaks = compare(name, work.before, after, visible, skip)
        leaks += compare_items(name, work.before, after)
        for part in SPLITS[1:]:
            requests = np.flatnonzero(seconds[part] <= moment)
            leaks += compare_sparse(name, work.before, after, part, requests)
        yield name, leaks


def _made_with_training_means(work: _Work) -> tuple[str, ...]:
    actions = work.before.metadata.actions
    rates = [spec.name for spec in work.plan.cross.specs if spec.is_rate]
    return (*rates, *(f"user_rate_{actions[action]}" for action in work.plan.rates))


def _changed_from(log: read.Log, moment: int, change_items: bool) -> dict[str, pa.Table]:
    """Returns impressions and events with everything known from `moment` on changed.

    Labels of requests at or after it are flipped. If `change_items`, requests after it show other
    items. Events that arrive at or after it get another action, item, user and query.
    """
    requests = _read(log, "requests", ["request_id", "timestamp"])
    item_ids = as_values(_read(log, "items", ["item_id"])["item_id"])
    impressions = _read(log, "impressions")
    request = index_in(as_values(impressions["request_id"]), as_values(requests["request_id"]))
    time = requests["timestamp"].to_numpy()[request]
    for action in log.schema.actions:
        impressions = _flip(impressions, action, time >= moment)
    if change_items:
        impressions = _next_item(impressions, item_ids, time > moment)
    if not log.has_events:
        return {"impressions": impressions}
    events = _read(log, "events")
    changed = events["arrival_time"].to_numpy() >= moment
    events = _next_item(events, item_ids, changed)
    actions = as_values(pa.array(log.schema.actions))
    code = index_in(as_values(events["action"]), actions)
    code[changed] = (code[changed] + 1) % len(actions)
    events = _replace(events, "action", actions.take(pa.array(code)))
    rows = np.arange(len(events))
    rows[changed] = np.roll(rows[changed], 1)
    for column in ("user_id", "query_id"):
        events = _replace(events, column, events[column].take(pa.array(rows)))
    return {"impressions": impressions, "events": events}


def _replace(table: pa.Table, column: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, values)


def _flip(table: pa.Table, action: str, rows: np.ndarray) -> pa.Table:
    values = table[action].to_numpy().astype(bool)
    return _replace(table, action, pa.array(values ^ rows))


def _next_item(table: pa.Table, item_ids: pa.Array, rows: np.ndarray) -> pa.Table:
    """Replaces the item of some rows by the next one: a permutation, so none comes twice."""
    code = index_in(as_values(table["item_id"]), item_ids)
    code[rows] = (code[rows] + 1) % len(item_ids)
    return _replace(table, "item_id", item_ids.take(pa.array(code)))


# --- Timeless ------------------------------------------------------------------------------------


def _timeless_checks(work: _Work) -> Iterator[tuple[str, list[Leak]]]:
    log, seed = work.log, work.config.seed
    table = _read(log, "impressions")
    split, fold = _split_and_fold(work.before, table)

    def flipped(changed: np.ndarray) -> pa.Table:
        result = table
        for action in log.schema.actions:
            result = _flip(result, action, changed)
        return result

    def in_fold(part: str, block: dict[str, np.ndarray], first: int) -> np.ndarray:
        return block["fold"] == 0

    def everywhere(part: str, block: dict[str, np.ndarray], first: int) -> np.ndarray:
        return np.ones(len(block["item"]), bool)

    name = "labels of fold 0 changed"
    after = work.prepare_again(name, impressions=flipped(fold == 0))
    leaks = compare(name, work.before, after, in_fold)
    yield name, leaks + compare_items(name, work.before, after)
    name = "labels of validation and test changed"
    after = work.prepare_again(name, impressions=flipped(split != 0))
    leaks = compare(name, work.before, after, everywhere)
    leaks += compare_items(name, work.before, after)
    for part in SPLITS[1:] if work.plan.corpus_requests else ():
        everyone = np.arange(work.before.metadata.splits[part].requests)
        leaks += compare_sparse(name, work.before, after, part, everyone)
    yield name, leaks
    name = "all labels shuffled"
    shuffled = np.random.default_rng([seed, 5]).permutation(len(table))
    noise = table
    for action in log.schema.actions:
        noise = _replace(noise, action, table[action].take(pa.array(shuffled)))
    yield name, _find_noise(name, work.prepare_again(name, impressions=noise), seed)


def _split_and_fold(examples: Examples, impressions: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Returns index of the split and fold of each impression, `[M]`."""
    requests, items, splits, folds = [], [], [], []
    ids = pa.array(examples.item_ids)
    for index, name in enumerate(SPLITS):
        request_ids = as_values(examples.raw_requests(name)["request_id"])
        for block in examples.blocks(name, ("request_index", "item", "mask", "fold")):
            example, _ = np.nonzero(block["mask"])
            requests.append(request_ids.take(pa.array(block["request_index"][example])))
            items.append(ids.take(pa.array(block["item"][block["mask"]])))
            splits.append(np.full(len(example), index))
            folds.append(block["fold"][example])
    keys = [
        (as_values(pa.concat_arrays(parts)), as_values(impressions[name]))
        for name, parts in (("request_id", requests), ("item_id", items))
    ]
    # Both sides in the order of their ids are the same rows.
    examples_order, impressions_order = (
        np.lexsort([ranks(pair[side]) for pair in keys]) for side in (0, 1)
    )
    split, fold = np.empty(len(impressions), np.int64), np.empty(len(impressions), np.int64)
    split[impressions_order] = np.concatenate(splits)[examples_order]
    fold[impressions_order] = np.concatenate(folds)[examples_order]
    return split, fold


def _read(log: read.Log, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns the declared columns of a table, or some of them."""
    table = log.table(name)
    return (table if columns is None else table.select(columns)).to_pyarrow()


def _find_noise(name: str, examples: Examples, seed: int) -> list[Leak]:
    """Lets a boosted tree look for the label in training features, when labels are noise."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from threadpoolctl import threadpool_limits

    columns: dict[str, list[np.ndarray]] = {}
    of_request = ("user", "request_numeric")
    names = (*of_request, "item", "cross", "cross_count", "cross_total", "actions")
    for block in examples.blocks("train", (*names, "mask")):
        example, _ = np.nonzero(block["mask"])
        for column in names:
            values = block[column]
            values = values[example] if column in of_request else values[block["mask"]]
            columns.setdefault(column, []).append(values.reshape(len(values), -1))
    arrays = {column: np.concatenate(parts)[:NOISE_ROWS] for column, parts in columns.items()}
    action = int(np.argmin(np.abs(arrays["actions"].mean(axis=0) - 0.5)))
    label = arrays.pop("actions")[:, action]
    # Frequencies tell a tree which user or item a row is of; ids themselves need not be split.
    for column in ("user", "item"):
        ids = arrays[column][:, 0]
        arrays[column] = np.bincount(ids)[ids][:, None]
    inputs, half = np.concatenate(list(arrays.values()), axis=1), len(label) // 2
    if min(len(np.unique(part)) for part in (label[:half], label[half:])) < 2:
        return []
    tree = HistGradientBoostingClassifier(random_state=seed, early_stopping=False)
    with threadpool_limits(1):  # its threads wait by spinning: on a busy machine 10 times slower
        tree.fit(inputs[:half], label[:half])
    auc = roc_auc_score(label[half:], tree.predict_proba(inputs[half:])[:, 1])
    positives = label[half:].sum()
    negatives = len(label) - half - positives
    deviation = np.sqrt((1 / positives + 1 / negatives) / 12)  # of the AUC of noise
    if auc <= 0.5 + NOISE_MARGIN + 3 * deviation:
        return []
    finding = (
        f"a tree on half of the rows predicts the labels of the other half, which are noise, with "
        f"AUC {auc:.3f}: features of labels tell about their own row, as leave-one-out does"
    )
    return [Leak("training features", "train", name, finding)]
