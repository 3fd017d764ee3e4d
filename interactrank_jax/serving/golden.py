"""Golden requests: a bundle's own examples, by which it proves itself wherever it is opened.

They are drawn from what the encoder knows, with a tenth of unseen ids: they prove that a bundle
computes here what it did at export, not that it ranks well. They are ranked without the delta of a
bundle that was updated since.

golden/requests.parquet, candidates.parquet, events.parquet     raw, as a user would give them;
                        no events where there is no time
golden/NAME.npy         what the requests became, by the names of `index.json`
golden/scores.parquet   scores and probabilities that the model gave when it was exported, by its
                        own code
"""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.io.errors import InputError
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.ranking import Ranked, Ranking

FOLDER = "golden"
RAW = ("requests", "candidates", "events")
TOLERANCE = 1e-5  # of scores, relative to their size where that is above 1


def raw_golden(bundle: Bundle) -> dict[str, pa.Table]:
    """Returns the golden requests as a user would give them: the tables by their names, `RAW`."""
    directory = (bundle.path / FOLDER).absolute()
    names = RAW[:-1] if bundle["timeless"] else RAW
    return {name: pq.read_table(directory / f"{name}.parquet") for name in names}


def rank_golden(ranking: Ranking) -> Ranked:
    """Ranks the golden requests of a bundle."""
    raw = raw_golden(ranking.bundle)
    fresh = ranking.read_events(raw["events"])[0] if "events" in raw else None
    candidates = raw["candidates"]
    return ranking.rank(raw["requests"], candidates, fresh, k=len(candidates), with_features=True)


def save_golden(ranking: Ranking) -> Ranked:
    """Ranks the golden requests of a bundle, and writes what they became; returns it."""
    ranked, directory = rank_golden(ranking), ranking.bundle.path / FOLDER
    arrays = _features(ranked)
    for number, array in enumerate(arrays.values()):
        np.save(directory / f"{number}.npy", array)
    (directory / "index.json").write_text(json.dumps(list(arrays)))
    pq.write_table(ranked.table, directory / "scores.parquet")
    return ranked


def verify_golden(ranking: Ranking) -> float:
    """Ranks the golden requests and compares features, to the bit, and scores.

    Returns:
      The largest difference of a score or probability from what it was at export, relative where
      that is above 1.

    Raises:
      InputError: a feature or a score is another than at export.
    """
    directory = (ranking.bundle.path / FOLDER).absolute()
    ranked = rank_golden(ranking)
    names = json.loads((directory / "index.json").read_text())
    arrays = _features(ranked)
    for number, name in enumerate(names):
        expected = np.load(directory / f"{number}.npy", allow_pickle=False)
        if name not in arrays or not np.array_equal(arrays[name], expected):
            raise InputError(
                f"{ranking.bundle.path}: '{name}' of the golden requests is not what it was at "
                f"export: export it again, by the release that it is read with."
            )
    difference = score_difference(ranked.table, pq.read_table(directory / "scores.parquet"))
    if not difference <= TOLERANCE:
        raise InputError(
            f"{ranking.bundle.path}: scores of the golden requests differ from those at export by "
            f"{difference:.1e}, more than {TOLERANCE:.0e}: the graphs do not compute the same here."
        )
    return difference


def score_difference(table: pa.Table, expected: pa.Table) -> float:
    """Returns the largest difference of two tables' scores and probabilities, by request and item.

    Infinite where their rows or columns differ.
    """
    names = [name for name in expected.column_names if name not in ("request_id", "item_id")]
    if table.column_names != expected.column_names:
        return float("inf")
    both = table.join(
        expected, ["request_id", "item_id"], join_type="full outer", right_suffix="_expected"
    )
    largest = 0.0
    for name in names:
        if name == "rank":  # what differs by a rounding error may change places
            continue
        value, other = (both[column].to_numpy() for column in (name, f"{name}_expected"))
        if len(both) != len(expected) or not (np.isfinite(value) & np.isfinite(other)).all():
            return float("inf")
        gap = np.abs(value - other) / np.maximum(np.abs(other), 1)
        largest = max(largest, float(gap.max(initial=0.0)))
    return largest


def _features(ranked: Ranked) -> dict[str, np.ndarray]:
    assert ranked.candidates is not None
    arrays = {f"requests/{name}": values for name, values in ranked.requests.arrays.items()}
    return arrays | {f"candidates/{name}": values for name, values in ranked.candidates.items()}
