"""Examples of a bucket of candidates: padded arrays, block by block."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interactrank_jax.examples.candidates import Candidates, cross_values, first_counts
from interactrank_jax.examples.fitting import Fitted
from interactrank_jax.examples.ordered import OrderedLog
from interactrank_jax.examples.past import Lookups
from interactrank_jax.examples.plan import Plan
from interactrank_jax.examples.protocols import TEST_SPLIT
from interactrank_jax.examples.rates import rate_features
from interactrank_jax.examples.slates import Slates, make_slates
from interactrank_jax.state.as_of import Places
from interactrank_jax.state.days import SECONDS_PER_DAY
from interactrank_jax.state.histories import IMPRESSION, History


@dataclasses.dataclass(frozen=True)
class AssembledBucket:
    """The examples of a bucket, before padding.

    Attributes:
      slates: which candidates make which example.
      of_examples: columns `[E, ...]`, in the order of `slates`.
      of_candidates: columns `[M, ...]`.
    """

    slates: Slates
    of_examples: dict[str, np.ndarray]
    of_candidates: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Assembler:
    """Makes the arrays of examples; what it holds is of all requests.

    Attributes:
      plan: what is asked for.
      ordered: the log.
      fitted: what encodes them.
      lookups: what is looked up of the past.
      places: from keys, action and days to the column of a count.
    """

    plan: Plan
    ordered: OrderedLog
    fitted: Fitted
    lookups: Lookups
    places: Places

    def bucket(self, candidates: Candidates, split: str) -> AssembledBucket:
        """Computes the columns of a bucket.

        All that is looked up by request is looked up in their order: what lies on disk is read page
        by page.
        """
        slates = make_slates(candidates.request, candidates.fold, self.plan.slate)
        request, fitted = slates.request, self.fitted
        of_examples = {"user": fitted.user_row[request], "query": fitted.query_row[request]}
        of_examples |= {
            f"request/{name}": values[request] for name, values in fitted.requests.columns.items()
        }
        of_examples |= {
            "request_index": np.searchsorted(self.ordered.rows.requests[split], request),
            "request_numeric": self._numeric(slates, split),
        }
        if self.plan.timeless:
            of_examples["fold"] = slates.fold
        of_examples |= self._past(slates)
        return AssembledBucket(slates, of_examples, self._of_candidates(candidates, split))

    def _of_candidates(self, candidates: Candidates, split: str) -> dict[str, np.ndarray]:
        recipe, rows, item = self.plan.cross, len(candidates.item), candidates.item
        means = self.fitted.means.of_items(candidates.fold)
        count, total = first_counts(recipe, candidates.counts, self.places, rows)
        if self.fitted.leaking is not None and split == TEST_SPLIT:
            item = item + self.fitted.leaking.items
        return {
            "item": item,
            "position": candidates.position,
            "actions": candidates.actions,
            "cross": cross_values(recipe, candidates.counts, self.places, means, rows),
            "cross_count": count,
            "cross_total": total,
            **candidates.optional,
        }

    def _numeric(self, slates: Slates, split: str) -> np.ndarray:
        numeric = [self.fitted.requests.numeric[slates.request]]
        user = self.ordered.requests.user[slates.request]
        if self.fitted.leaking is not None:
            numeric.append(self.fitted.leaking.of_users(split)[user])
        if self.plan.rates:
            assert self.lookups.user_history is not None
            counts = self.lookups.user_history.counts(
                user,
                self.ordered.requests.timestamp[slates.request],
                slates.fold,
                (*self.plan.rates, IMPRESSION),
            )
            means = self.fitted.means.of_users(slates.fold)
            rated = [means[self.fitted.means.actions[action]] for action in self.plan.rates]
            numeric.append(rate_features(counts[:, :-1], counts[:, -1], rated))
        return np.concatenate(numeric, axis=1).astype(np.float32, copy=False)

    def blocks(
        self, bucket: AssembledBucket, order: np.ndarray, size: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields the examples in an order, so many at a time; the last block may be smaller."""
        for first in range(0, len(order), size):
            examples = order[first : first + size]
            slates, width = bucket.slates.take(examples), self.plan.slate
            columns = {
                name: values.take(examples, axis=0) for name, values in bucket.of_examples.items()
            }
            columns["mask"] = slates.mask(width)
            columns |= slates.padded(bucket.of_candidates, width)
            # Integers are int32 and numbers float32 in blocks; flags stay as small as they are.
            yield {name: _as_in_blocks(values) for name, values in columns.items()}

    def _past(self, slates: Slates) -> dict[str, np.ndarray]:
        """Returns the histories of some examples' users and queries."""
        requests, request = self.ordered.requests, slates.request
        timestamp = requests.timestamp[request]
        shape = (len(slates), self.plan.history_length)
        past = History(
            np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        )
        if self.lookups.user_history is not None:
            past = self.lookups.user_history.last(requests.user[request], timestamp, slates.fold)
        top = np.zeros((len(slates), self.plan.query_history_length), np.int32)
        if self.lookups.query_history is not None:
            period = slates.fold if self.plan.timeless else timestamp // SECONDS_PER_DAY
            top = self.lookups.query_history.top(requests.query[request], period)
        return {
            "history_item": past.item,
            "history_action": past.action,
            "history_age": past.age,
            "query_history_item": top,
        }


def _as_in_blocks(values: np.ndarray) -> np.ndarray:
    if values.dtype == bool or values.dtype == np.uint8:
        return values
    kind = np.int32 if np.issubdtype(values.dtype, np.integer) else np.float32
    return values.astype(kind, copy=False)


def action_patterns(actions: np.ndarray) -> dict[str, int]:
    """Counts candidates by pattern of actions, uint8 `[M, A]`: '1000' is the first action alone."""
    number, width = actions.shape
    bits = np.packbits(actions, axis=1)
    # Counted by Arrow, which hashes them: NumPy would sort whole rows.
    buffers = [None, pa.py_buffer(np.ascontiguousarray(bits))]
    packed = pa.Array.from_buffers(pa.binary(bits.shape[1]), number, buffers)
    patterns = {}
    for entry in pc.value_counts(packed).to_pylist():
        flags = np.unpackbits(np.frombuffer(entry["values"], np.uint8), count=width)
        patterns["".join(map(str, flags.tolist()))] = entry["counts"]
    return patterns
