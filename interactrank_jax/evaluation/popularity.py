"""How popular items are where no cross feature says so.

Popularity is an item's share of all engagements before the request, over all queries. An item_share
cross feature is just that, as of the request (`baselines.py`). Without one, the daily counts of the
STATE within the examples give it as of each request's day. Without those it is counted in the
training split, which validation and test follow. An item_rate is no popularity: it is what an
impression is worth, and may be highest for an item that is hardly ever shown.
"""

from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.evaluation.item_rows import first_rows, rows_of_items
from interactrank_jax.examples.format import PADDING, STATE, Examples
from interactrank_jax.examples.input import Batch
from interactrank_jax.io import artifact
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.labels import LabelRule


class Popularity(Protocol):
    """Counts of items.

    Attributes:
      definition: what was counted, for a reader.
    """

    definition: str

    def of(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C]` of the candidates of a batch."""

    def of_all(self, requests: np.ndarray) -> np.ndarray:
        """Returns `[R, I]` of all items, for some requests by request_index."""


def popularity(examples: Examples, split: str, rule: LabelRule) -> Popularity:
    """Returns the best counts that there are: as of each request, else of training.

    Raises:
      InputError: on the training split, whose own labels the counts of training are; or no action
        counts as engagement anywhere.
    """
    if not examples.metadata.timeless and (examples.path / STATE).is_dir():
        counts = DailyPopularity.read(examples, split)
        if counts is not None:
            return counts
    return TrainingPopularity(examples, split, rule)


class TrainingPopularity:
    """Engagements of each item in the training split."""

    definition = "the number of an item's engagements in the training split"

    def __init__(self, examples: Examples, split: str, rule: LabelRule):
        if split == "train":
            raise InputError(
                "--baseline=popularity would rank the training split by its own labels. Take "
                "--split=validation or test, or prepare with an item_share feature of a positive "
                "action in config.data.cross.features, which is as of the request or out of fold."
            )
        canonical = first_rows(examples)
        counts = np.zeros(examples.num_items)
        for block in examples.blocks("train", ("item", "mask", "actions")):
            engaged = rule.engaged(block["actions"]) & block["mask"]
            counts += np.bincount(canonical[block["item"][engaged]], minlength=counts.size)
        self._counts = counts[canonical].astype(np.float32)

    def of(self, batch: Batch) -> np.ndarray:
        """See `Popularity`."""
        return self._counts[batch["item"]]

    def of_all(self, requests: np.ndarray) -> np.ndarray:
        """See `Popularity`."""
        return np.tile(self._counts, (len(requests), 1))


class DailyPopularity:
    """Each item's share of all engagements that STATE counted before the day of a request.

    Attributes:
      definition: what was counted.
    """

    def __init__(
        self,
        row: np.ndarray,
        day: np.ndarray,
        count: np.ndarray,
        day_of_request: np.ndarray,
        first_row: np.ndarray,
        actions: str,
    ):
        """Sums the counts up over the days, item by item.

        Args:
          row: `[N]` store row of an item, the first one; -1 of what is none of the log's items.
          day: `[N]` first day whose requests know of the count.
          count: `[N]`.
          day_of_request: `[requests]`.
          first_row: `[I]` first row of each row's item.
          actions: what was counted.
        """
        self.definition = f"an item's share of all engagements ({actions}) before the request's day"
        self._day_of_request, self._first_row = day_of_request, first_row
        # Row 0, of padding, sums over all items.
        row = np.concatenate([row, np.full(len(row), PADDING)])
        day, count = np.tile(day, 2), np.tile(count, 2)
        order = np.lexsort((day, row))
        self._row, day, count = row[order], day[order], count[order]
        self._low, high = (int(day.min()), int(day.max())) if len(day) else (0, 0)
        self._span = high - self._low + 2  # place 0 is that of all days before
        self._keys = self._key(self._row, day)
        running = np.cumsum(count)
        self._sum = running - (running - count)[np.searchsorted(self._row, self._row)]

    @classmethod
    def read(cls, examples: Examples, split: str) -> "DailyPopularity | None":
        """Reads the STATE that lies in examples; None where it counts no engagement of items.

        Raises:
          InputError: it is damaged, or the package that reads it is not installed.
        """
        try:
            from interactrank_jax.state.days import SECONDS_PER_DAY
            from interactrank_jax.state.query_history import COUNT
            from interactrank_jax.state.store import KIND, QUERY_ITEMS
        except ImportError as error:
            raise InputError(
                "--baseline=popularity reads STATE, for which a package is not installed. Install "
                "it with `pip install interactrank-jax[data]`."
            ) from error
        description, table = _read_counts(KIND, QUERY_ITEMS, examples)
        if not description["query_actions"]:
            return None
        return cls(
            row=rows_of_items(examples, table["item"]).astype(np.int64),
            day=table["period"].to_numpy().astype(np.int64) + int(description["lag_days"]),
            count=table[COUNT].to_numpy(),
            day_of_request=examples.raw_requests(split)["timestamp"].to_numpy() // SECONDS_PER_DAY,
            first_row=first_rows(examples),
            actions=", ".join(description["query_actions"]),
        )

    def of(self, batch: Batch) -> np.ndarray:
        """See `Popularity`."""
        day = self._day_of_request[np.maximum(batch["request_index"], 0)]
        return self._share(self._first_row[batch["item"]], day[:, None])

    def of_all(self, requests: np.ndarray) -> np.ndarray:
        """See `Popularity`."""
        days, place = np.unique(self._day_of_request[requests], return_inverse=True)
        return self._share(self._first_row[None], days[:, None])[place]

    def _share(self, row: np.ndarray, day: np.ndarray) -> np.ndarray:
        total = self._sum_before(np.full_like(day, PADDING), day)
        return (self._sum_before(row, day) / np.maximum(total, 1)).astype(np.float32)

    def _sum_before(self, row: np.ndarray, day: np.ndarray) -> np.ndarray:
        """Returns the counts `[...]` of rows `[...]` that requests of days `[...]` know of."""
        place = np.searchsorted(self._keys, self._key(row, day), side="right") - 1
        if not len(self._keys):
            return np.zeros(place.shape)
        return np.where((place >= 0) & (self._row[place] == row), self._sum[place], 0)

    def _key(self, row: np.ndarray, day: np.ndarray) -> np.ndarray:
        return row * self._span + np.clip(day - self._low + 1, 0, self._span - 1)


def _read_counts(kind: Any, folder: str, examples: Examples) -> tuple[dict[str, Any], pa.Table]:
    """Returns what the STATE in examples describes, and the rows of a folder of all its days."""
    root = examples.path / STATE
    description = artifact.open_artifact(kind, root, ("description",)).record["description"]
    tables = []
    for file in sorted((root / "chunks").glob("*.json")):
        manifest = artifact.open_artifact(kind, root, ("chunk", "follows"), file)
        names = manifest.names(f"{folder}/{file.stem}")
        tables += [pq.read_table(manifest.path(name).absolute()) for name in names]
    return description, pa.concat_tables(tables)
