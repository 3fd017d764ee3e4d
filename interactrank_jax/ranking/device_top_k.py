"""The best k of the scores of tiles, exactly, on the device that computed them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from interactrank_jax.serving.masks import RowMask
from interactrank_jax.serving.top_k import Scored, Top

Array = jax.Array
GROUP = 32  # scores whose maximum stands for them


class DeviceTopK:
    """The best k of each request, of scores that come tile by tile in the order of the store.

    Beside the tile, nothing that is in proportion to the corpus lies on the device but the mask's
    bits.

    Args:
      requests: R.
      k: items kept of each.
      mask: rows that are no candidate; None: all are.
      device: where the scores are.
      recall: share of the best k that a tile must give at least, in expectation. Below 1, the
        device's approximate top-k is used: faster on a TPU, exact all the same elsewhere.
    """

    def __init__(
        self, requests: int, k: int, mask: RowMask | None, device: jax.Device, recall: float = 1.0
    ):
        self._requests, self._k, self._device, self._recall = requests, k, device, recall
        self._bits = None if mask is None else mask.bits
        self._placed_bits: Array | None = None
        self._best: tuple[Array, Array] | None = None

    def add(self, scored: Scored, begin: int, first: int) -> None:
        """Takes the scores `[R' >= R, T]` of rows from `begin`; those from `first` count."""
        scores, _ = scored
        if self._best is None:
            shape = (len(scores), self._k)
            empty = np.zeros(shape, np.int32), np.full(shape, -np.inf, np.float32)
            self._best = jax.device_put(empty, self._device)
            self._placed_bits = self._place_bits(len(scores))
        self._best = _merge(
            self._best,
            scores,
            np.int32(begin),
            np.int32(first),
            self._placed_bits,
            self._k,
            self._recall,
        )

    def best(self) -> Top:
        """Returns rows and scores `[R, k]`, best first; where there are fewer, row 0 and -inf."""
        assert self._best is not None
        row, score = (array[: self._requests] for array in jax.device_get(self._best))
        return np.where(np.isneginf(score), 0, row), score

    def _place_bits(self, padded: int) -> Array | None:
        bits = self._bits
        if bits is None:
            return None
        if len(bits) > 1:
            bits = np.pad(bits, ((0, padded - len(bits)), (0, 0)))
        return jax.device_put(bits, self._device)


@functools.partial(jax.jit, static_argnums=(5, 6))
def _merge(
    best: tuple[Array, Array],
    scores: Array,
    begin: Array,
    first: Array,
    bits: Array | None,
    k: int,
    recall: float,
) -> tuple[Array, Array]:
    row = begin + jnp.arange(scores.shape[1], dtype=jnp.int32)
    barred = (row < first)[None, :]
    if bits is not None:
        bit = jnp.left_shift(1, row & 7).astype(jnp.uint8)
        barred = barred | (jnp.take(bits, row >> 3, axis=1) & bit[None, :] != 0)
    scores = jnp.where(barred, -jnp.inf, scores.astype(jnp.float32))
    if recall < 1:
        width = min(k, scores.shape[1])
        value, column = jax.lax.approx_max_k(scores, width, recall_target=recall)
    else:
        value, column = grouped_top_k(scores, k)
    # Rows of earlier tiles come first, so that ties keep the order of the store.
    value = jnp.concatenate([best[1], value], 1)
    row = jnp.concatenate([best[0], begin + column.astype(jnp.int32)], 1)
    value, position = jax.lax.top_k(value, k)
    return jnp.take_along_axis(row, position, 1), value


def grouped_top_k(scores: Array, k: int) -> tuple[Array, Array]:
    """Returns the best `[R, min(k, T)]` of scores `[R, T]` and their columns, as `lax.top_k` does.

    The best k lie in the k groups with the best maxima, so those alone are looked into: an item of
    another group comes behind the best item of each of them.
    """
    requests, width = scores.shape
    groups, k = -(-width // GROUP), min(k, width)
    if groups <= k:
        return jax.lax.top_k(scores, k)
    padding = ((0, 0), (0, groups * GROUP - width))
    grouped = jnp.pad(scores, padding, constant_values=-jnp.inf).reshape(requests, groups, GROUP)
    chosen = jnp.sort(jax.lax.top_k(grouped.max(-1), k)[1], axis=1)  # ties: in order of the columns
    inside = jnp.take_along_axis(grouped, chosen[:, :, None], 1).reshape(requests, k * GROUP)
    value, position = jax.lax.top_k(inside, k)
    column = jnp.take_along_axis(chosen, position // GROUP, 1) * GROUP + position % GROUP
    return value, column
