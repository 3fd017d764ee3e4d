"""Ranks from a bundle by onnxruntime: in a process that has no jax.

    reader = Reader("BUNDLE")
    reader.rank(requests, candidates, k=500)

Needs numpy, pyarrow and onnxruntime.
"""

import functools
from typing import Any

import numpy as np

from interactrank_jax.io import artifact, files
from interactrank_jax.io.errors import InputError
from interactrank_jax.serving.base import BundleRanker
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.graphs import Graphs


class OnnxGraphs(Graphs):
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
            except Exception as error:  # of many types, for a damaged graph
                raise InputError(f"{path} cannot be run ({error}): export it again.") from error

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs of a graph, see `serving.graphs.Graphs`."""
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


class Reader(BundleRanker):
    """Ranks requests by a bundle, without jax.

    Can be pickled: another process opens the same path, which it must be able to read.

    Args:
      path: of a bundle, what `interactrank export` wrote.
      verify: whether every file is compared with its digest, and the golden requests are ranked.
      threads: of onnxruntime; 0 for what it chooses.

    Raises:
      InputError: no bundle there, a damaged one, or one without ONNX graphs.
    """

    def __init__(self, path: files.PathLike, *, verify: bool = False, threads: int = 0):
        bundle = Bundle.open(path, verify)
        super().__init__(bundle, functools.partial(OnnxGraphs, threads=threads), verify)
        self._threads = threads

    def __reduce__(self) -> Any:
        return _reopen, (str(self.bundle.path.absolute()), self._threads)


def _reopen(path: str, threads: int) -> Reader:
    return Reader(path, threads=threads)
