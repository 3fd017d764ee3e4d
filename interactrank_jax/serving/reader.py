"""Ranks from a bundle by onnxruntime: in a process that has no jax.

    reader = Reader("BUNDLE")
    reader.rank(requests, candidates, k=500)

Needs numpy, pyarrow and onnxruntime.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.io import artifact, files
from interactrank_jax.io.errors import InputError
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.ranking import Ranked, Ranking


class OnnxGraphs:
    """The graphs of a bundle, run by onnxruntime on the CPU.

    Args:
      bundle: the bundle.
      threads: of a session; 0 for what onnxruntime chooses.

    Raises:
      InputError: onnxruntime is not installed, or the bundle has no ONNX graphs, or broken ones.
    """

    def __init__(self, bundle: Bundle, threads: int = 0):
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(
                "reading a bundle without jax needs onnxruntime: pip install onnxruntime."
            ) from error
        self._bundle, self._sessions = bundle, {}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        for name, graph in bundle["graphs"].items():
            if "onnx" not in graph:
                raise InputError(
                    f"{bundle.path} has no ONNX form of '{name}': {graph['onnx_error']}. Rank with "
                    f"`interactrank_jax.Ranker`, which needs jax."
                )
            path = artifact.inside(bundle.path, graph["onnx"])
            try:
                self._sessions[name] = onnxruntime.InferenceSession(
                    path.read_bytes(), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # whatever a damaged graph leads it to
                raise InputError(f"{path} cannot be run ({error}): export it again.") from error

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs of a graph, see `ranking.Graphs`."""
        session = self._sessions[name]
        arrays = self._bundle.arrays
        feed = {
            node.name: np.ascontiguousarray(inputs.get(node.name, arrays.get(node.name)))
            for node in session.get_inputs()
        }
        names = [node.name for node in session.get_outputs()]
        return dict(zip(names, session.run(names, feed), strict=True))

    def padded(self, length: int) -> int:
        """Returns `length`: a graph takes any."""
        return length


class Reader:
    """Ranks requests by a bundle, without jax.

    Args:
      path: of a bundle, what `interactrank export` wrote.
      verify: whether every file is compared with its digest, and the golden requests are ranked.
      threads: of onnxruntime; 0 for what it chooses.

    Raises:
      InputError: no bundle there, a damaged one, or one without ONNX graphs.
    """

    def __init__(self, path: files.PathLike, *, verify: bool = False, threads: int = 0):
        bundle = Bundle.open(path, verify)
        self.ranking = Ranking(bundle, OnnxGraphs(bundle, threads))
        if verify:
            from interactrank_jax.serving.golden import verify_golden

            verify_golden(self.ranking)

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return self.ranking.bundle

    def rank(
        self, requests: Any, candidates: Any = None, events: Any = None, k: int = 500
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

        Returns:
          request_id, item_id, rank (from 1) and score, a request's rows together, best first.
          Candidates that the bundle does not know are left out; `rank_fully` names them.

        Raises:
          InputError: what is given does not fit the bundle.
        """
        return self.rank_fully(requests, candidates, events, k).table

    def rank_fully(
        self,
        requests: Any,
        candidates: Any = None,
        events: Any = None,
        k: int = 500,
        with_features: bool = False,
    ) -> Ranked:
        """Ranks as `rank` does, and returns what was left out and what scores were made of."""
        fresh = None if events is None else self.ranking.read_events(events)[0]
        return self.ranking.rank(requests, candidates, fresh, k, with_features)
