"""What `Ranker` and `Reader` have in common: they rank by a bundle, whatever runs its graphs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.explain import explain
from interactrank_jax.serving.golden import verify_golden
from interactrank_jax.serving.graphs import Graphs
from interactrank_jax.serving.items import ItemEncoder
from interactrank_jax.serving.ranking import Ranked, Ranking
from interactrank_jax.serving.warm_up import warm_up


class BundleRanker:
    """Ranks requests by a bundle.

    Attributes:
      ranking: how it does.

    Args:
      bundle: the bundle.
      open_graphs: gives what computes the graphs of a bundle.
      verify: whether the golden requests are ranked.

    Raises:
      InputError: the golden requests have other features or scores than at export.
    """

    def __init__(self, bundle: Bundle, open_graphs: Callable[[Bundle], Graphs], verify: bool):
        self.ranking = Ranking(bundle, open_graphs(bundle))
        if verify:
            exported = bundle.as_exported()
            is_same = exported is bundle
            verify_golden(self.ranking if is_same else Ranking(exported, open_graphs(exported)))

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return self.ranking.bundle

    def rank(
        self,
        requests: Any,
        candidates: Any = None,
        events: Any = None,
        k: int = 500,
        *,
        blocked: Any = None,
        allowed: Any = None,
    ) -> pa.Table:
        """Ranks candidates, or the whole corpus, of requests that no log needs to hold.

        Args:
          requests: a table with request_id, user_id, query_id, timestamp and the features of users
            and requests that the log has: of Arrow, pandas or Polars, or dictionaries.
          candidates: request_id and item_id, a row per candidate. None: the requests' own list
            column `candidates`, or else every item of the bundle.
          events: what users did since the bundle's day began: user_id, item_id, action, event_time,
            optionally arrival_time and event_id.
          k: items kept of each request.
          blocked: items that a request must not be given: request_id and item_id, a row per pair,
            or item_id alone for all requests. The requests' own list column `blocked` counts too.
          allowed: the same of items, which alone a request may be given; a request that it does
            not name gets none. An item must be allowed by each of table and list column `allowed`.
            Both filter candidates and the corpus alike, before the best k are taken; ids that the
            bundle does not know are ignored. A request with nothing left has no rows.

        Returns:
          request_id, item_id, rank (from 1), score, and `probability_HEAD` of each head, which is
          calibrated as in evaluation; a request's rows together, best first by score; of equal
          scores the item that comes first in the bundle. Candidates that the bundle does not know
          are left out; `rank_fully` names them.

        Raises:
          InputError: what is given does not fit the bundle.
        """
        return self.rank_fully(
            requests, candidates, events, k, blocked=blocked, allowed=allowed
        ).table

    def warm_up(self, candidates: int | None = 10_000, k: int = 500) -> None:
        """Compiles what ranks a single request, so that no request waits for it.

        jax compiles a graph when a list is longer or shorter than those before, about half a second
        for each of the few lengths that lists are padded to: several seconds for 10,000 candidates.
        onnxruntime does not compile. Batches of requests are compiled when they first occur.

        Args:
          candidates: the most that a request will have; None: requests for the whole corpus.
          k: items kept of each.

        Raises:
          InputError: candidates or k below 1.
        """
        warm_up(self.ranking, candidates, k)

    def rank_fully(
        self,
        requests: Any,
        candidates: Any = None,
        events: Any = None,
        k: int = 500,
        with_features: bool = False,
        *,
        blocked: Any = None,
        allowed: Any = None,
    ) -> Ranked:
        """Ranks as `rank` does, and returns what was left out and what scores were made of."""
        fresh = None if events is None else self.ranking.read_events(events)[0]
        return self.ranking.rank(
            requests, candidates, fresh, k, with_features, blocked=blocked, allowed=allowed
        )

    def encode_requests(self, requests: Any, events: Any = None) -> dict[str, np.ndarray]:
        """Returns the representation of requests: leaves `query/0`, ..., `[R, ...]`."""
        return self.ranking.encode_requests(requests, events)

    def encode_items(self, items: Any) -> dict[str, np.ndarray]:
        """Returns the representation of items by their raw features: leaves `item/0`, `[N, ...]`.

        Args:
          items: item_id and the item features of the log. Ids that training did not see have an
            out-of-vocabulary row.
        """
        return ItemEncoder(self.bundle, self.ranking.graphs).encode(items)

    def explain(
        self, request: Any, candidates: Sequence[Any] | None = None, events: Any = None
    ) -> pa.Table:
        """Takes the scores of one request's candidates apart, see `serving.explain`."""
        return explain(self.ranking, request, candidates, events)
