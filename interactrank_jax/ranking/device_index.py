"""The items' representation on devices, put there once, and scored tile by tile."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking.device_top_k import DeviceTopK
from interactrank_jax.serving.masks import RowMask
from interactrank_jax.serving.scan import CACHE_BYTES, SMALLEST, Tiles, TopK
from interactrank_jax.serving.top_k import GROUP, RunningTopK, Scored, Top

Array = jax.Array
DEVICE_BYTES = 1 << 28  # of a tile's scores on an accelerator,
MEMORY_SHARE = 32  # or this part of its memory, where that is less
TileScorer = Callable[[Any, Any, Any, int, bool], Scored]


def tile_scorer(score: Callable[[Any, Any], Array]) -> TileScorer:
    """Compiles a function of requests and items, so that it takes some rows out of many itself.

    Args:
      score: returns the scores `[R, T]` of a representation of requests and one of items.

    Returns:
      A function of requests, items `[I, ...]`, the first row, the number of rows, and whether the
      maxima of groups are wanted: those cost next to nothing while the scores lie in a cache.
    """

    @functools.partial(jax.jit, static_argnums=(3, 4))
    def run(query: Any, items: Any, begin: Any, count: int, with_maxima: bool) -> Scored:
        def some(leaf: Array) -> Array:
            whole = leaf.shape[0] == count
            return leaf if whole else jax.lax.dynamic_slice_in_dim(leaf, begin, count)

        scores = score(query, jax.tree.map(some, items)).astype(jnp.float32)
        if not with_maxima or count % GROUP:
            return scores, None
        return scores, scores.reshape(len(scores), -1, GROUP).max(-1)

    return run


class DeviceIndex:
    """The representation of all items, in shards of rows, one for each device.

    Attributes:
      rows: of the store.
      devices: as given.
      is_shared: whether other processes hold some of the shards.

    Args:
      items: leaves `[I, ...]`.
      devices: in the order of the shards; those of other processes hold theirs there.
      on_host: whether the best are picked by this process rather than on the device; by default
        where the device is a CPU.
      recall: see `DeviceTopK`.
    """

    def __init__(
        self,
        items: Any,
        devices: Sequence[jax.Device],
        on_host: bool | None = None,
        recall: float = 1.0,
    ):
        first_local(devices)
        self.rows, self._recall = len(jax.tree.leaves(items)[0]), recall
        self._on_host = devices[0].platform == "cpu" if on_host is None else on_host
        share = -(-self.rows // len(devices))
        share = -(-share // SMALLEST) * SMALLEST
        process = jax.process_index()
        self.is_shared = any(device.process_index != process for device in devices)
        self._shards = []
        for number, device in enumerate(devices):
            base, end = (min(n * share, self.rows) for n in (number, number + 1))
            if device.process_index == process and base < end:
                part = items
                if end - base < self.rows:
                    part = jax.tree.map(lambda leaf, b=base, e=end: leaf[b:e], items)
                self._shards.append(_Shard(jax.device_put(part, device), base, end, device))

    def whole(self) -> Any:
        """Returns all leaves on the one device."""
        (shard,) = self._shards
        return shard.items

    def tiles(self, scorer: TileScorer, query: Any) -> list[Tiles]:
        """Returns the tiles of this process's shards, to be scored with some requests.

        Args:
          scorer: see `tile_scorer`.
          query: what it takes of the requests.
        """
        return [
            _DeviceTiles(shard, scorer, query, self._on_host, self._recall)
            for shard in self._shards
        ]

    def gather(self, top: Top) -> list[Top]:
        """Returns the best of each process, where several share the index."""
        if not self.is_shared:
            return [top]
        row, score = multihost_utils.process_allgather(top)
        return list(zip(np.asarray(row), np.asarray(score), strict=True))


def first_local(devices: Sequence[jax.Device]) -> jax.Device:
    """Returns the first of some devices that is of this process.

    Raises:
      InputError: none is, or one is there twice.
    """
    local = [device for device in devices if device.process_index == jax.process_index()]
    if not local or len(set(devices)) < len(devices):
        raise InputError(
            f"devices are {list(devices)}. Expected at least one of this process, each once."
        )
    return local[0]


def tile_bytes(device: jax.Device) -> int:
    """Returns how much memory the scores of a tile may take: a cache, or some of a card's."""
    if device.platform == "cpu":
        return CACHE_BYTES
    limit = (device.memory_stats() or {}).get("bytes_limit", DEVICE_BYTES * MEMORY_SHARE)
    return min(DEVICE_BYTES, limit // MEMORY_SHARE)


class _Shard:
    """Rows of the index on a device.

    Attributes:
      items: leaves, on the device.
      base, end: which rows.
      device: the device.
    """

    def __init__(self, items: Any, base: int, end: int, device: jax.Device):
        self.base, self.end, self.device = base, end, device
        self.items = items
        # On a CPU a compiled function takes a piece of an array without a copy; a slice within the
        # function would be one.
        self._views = jax.tree.map(np.asarray, items) if device.platform == "cpu" else None

    def cut(self, begin: int, count: int) -> tuple[Any, int]:
        """Returns leaves that contain rows from `begin`, and where they begin in those."""
        begin -= self.base
        if self._views is None:
            return self.items, begin
        return jax.tree.map(lambda leaf: leaf[begin : begin + count], self._views), 0


class _DeviceTiles:
    """Scores of requests with the rows of a shard, see `serving.scan.Tiles`."""

    def __init__(self, shard: _Shard, scorer: TileScorer, query: Any, on_host: bool, recall: float):
        self.first, self.end = shard.base, shard.end
        self._shard, self._scorer = shard, scorer
        self._query = jax.device_put(query, shard.device)
        self._on_host, self._recall = on_host, recall

    def scores(self, begin: int, count: int) -> Scored:
        items, offset = self._shard.cut(begin, count)
        return self._scorer(self._query, items, np.int32(offset), count, self._on_host)

    def top_k(self, requests: int, k: int, mask: RowMask | None) -> TopK:
        if self._on_host:
            return RunningTopK(requests, k, mask)
        return DeviceTopK(requests, k, mask, self._shard.device, self._recall)
