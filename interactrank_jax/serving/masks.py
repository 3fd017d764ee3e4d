"""Rows of the store that are no candidate of a request: a bit for each."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class RowMask:
    """Rows that are barred.

    Attributes:
      bits: uint8 `[R, ceil(N / 8)]`, or `[1, ...]` where all requests have the same; bit r % 8 of
        byte r // 8 is set where row r is barred.
      rows: N.
    """

    bits: np.ndarray
    rows: int

    @classmethod
    def of(cls, requests: int, rows: int, request: np.ndarray | int, row: np.ndarray) -> "RowMask":
        """Bars some rows, `request` and `row` `[M]`."""
        if requests == 1:  # sooner than bit by bit
            barred = np.zeros(rows, bool)
            barred[row] = True
            return cls(np.packbits(barred, bitorder="little")[None], rows)
        bits = np.zeros((requests, -(-rows // 8)), np.uint8)
        np.bitwise_or.at(bits, (np.broadcast_to(request, row.shape), row >> 3), _bit(row))
        return cls(bits, rows)

    def __or__(self, other: "RowMask | None") -> "RowMask":
        """Bars what either bars."""
        return self if other is None else RowMask(self.bits | other.bits, self.rows)

    def inverted(self) -> "RowMask":
        """Bars all others."""
        bits = ~self.bits
        if self.rows % 8:
            bits[:, -1] &= (1 << self.rows % 8) - 1
        return RowMask(bits, self.rows)

    def has(self, request: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Returns whether rows of requests are barred, `[M]`."""
        byte = self.bits[request if len(self.bits) > 1 else 0, row >> 3]
        return byte & _bit(row) != 0

    def barred(self, first: int, count: int) -> np.ndarray:
        """Returns whether each of some rows is barred, `[R or 1, count]`."""
        begin = first // 8
        bits = self.bits[:, begin : -(-(first + count) // 8)]
        start = first - begin * 8
        return np.unpackbits(bits, axis=1, bitorder="little")[:, start : start + count].view(bool)

    def of_requests(self, first: int, end: int) -> "RowMask":
        """Returns the mask of some requests."""
        return RowMask(self.bits[first:end], self.rows) if len(self.bits) > 1 else self

    def left(self) -> np.ndarray:
        """Returns how many rows are not barred, `[R or 1]`."""
        return self.rows - np.bitwise_count(self.bits).sum(1, dtype=np.int64)


def _bit(row: np.ndarray) -> np.ndarray:
    return np.left_shift(1, row & 7).astype(np.uint8)
