"""How single values become numbers, in plain Python: words, hashes, vocabularies, statistics."""

import math
import re
import struct
import unicodedata
from collections.abc import Sequence
from typing import Any

_MASK = 2**64 - 1


def float32(value: float) -> float:
    """Rounds to the nearest float32."""
    return struct.unpack("f", struct.pack("f", value))[0]


def plain(value: Any) -> str:
    """Writes an id or a category as text; flags are 0 and 1."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def words(text: str) -> list[str]:
    """Words of a text: Unicode-normalised (NFKC), lower case, letters and digits."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())


def form(text: str) -> str:
    """A text's words, each once and sorted."""
    return " ".join(sorted(set(words(text))))


def hashed(text: str) -> int:
    """64-bit FNV-1a of the UTF-8 text, then the finaliser of MurmurHash3."""
    result = 0xCBF29CE484222325
    for octet in text.encode():
        result = ((result ^ octet) * 0x100000001B3) & _MASK
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        result = ((result ^ (result >> 33)) * factor) & _MASK
    return result ^ (result >> 33)


def tokens(text: str, buckets: int, max_tokens: int, ngram: int) -> list[int]:
    """A text's words in order, then the n-grams of each with its ends marked, hashed to rows."""
    pieces = words(text)
    for word in words(text):
        marked = f"<{word}>"
        pieces += [f"#{marked[i : i + ngram]}" for i in range(max(len(marked) - ngram + 1, 1))]
    rows = [1 + hashed(piece) % buckets for piece in pieces[:max_tokens]]
    return rows + [0] * (max_tokens - len(rows))


def in_vocabulary(value: Any, count: int, min_count: int, hashed_rows: int) -> str:
    """A value that training saw `min_count` times has a row of its own, others share hashed ones.

    A row of its own is shown as the value, a hashed one as '#' and its number.
    """
    text = plain(value)
    return text if count >= min_count else f"#{1 + hashed(text) % hashed_rows}"


def numeric_statistics(values: Sequence[float]) -> list[float]:
    """Minimum, maximum, mean and deviation, then these two of log(1 + x - minimum)."""
    low = min(values)
    logs = [math.log1p(value - low) for value in values]
    return [low, max(values), *_mean_and_deviation(values), *_mean_and_deviation(logs)]


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def cross_statistics(values: Sequence[float]) -> list[float]:
    """The share of candidates whose value is not zero, and the root mean square over those."""
    nonzero = [value for value in values if value]
    rms = math.sqrt(math.fsum(value**2 for value in nonzero) / len(nonzero)) if nonzero else 1.0
    return [len(nonzero) / max(len(values), 1), rms]
