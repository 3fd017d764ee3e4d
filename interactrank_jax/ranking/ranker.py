"""Ranks requests by a bundle on jax's devices.

    ranker = Ranker.load("BUNDLE")
    ranker.rank(requests, candidates, k=500)

Opens a bundle without flax, grain, orbax or an engine, and needs no code of the model.
"""

from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from interactrank_jax.io import artifact, files
from interactrank_jax.io.errors import InputError
from interactrank_jax.serving.base import BundleRanker
from interactrank_jax.serving.bundle import Bundle

SMALLEST = 8  # lists and batches are padded to powers of 2 from this on: each size compiles once


class JaxGraphs:
    """The graphs of a bundle, run by jax; tables and index are put on the device once.

    Args:
      bundle: the bundle.
      device: to run on; jax's first by default.

    Raises:
      InputError: a graph cannot be read, or not run on this kind of device.
    """

    def __init__(self, bundle: Bundle, device: jax.Device | None = None):
        self._bundle = bundle
        self._device = jax.local_devices()[0] if device is None else device
        self._inputs = {name: list(graph["inputs"]) for name, graph in bundle["graphs"].items()}
        self._outputs = {name: graph["outputs"] for name, graph in bundle["graphs"].items()}
        self._calls: dict[str, Any] = {}
        self._placed: dict[str, jax.Array] = {}
        for name, graph in bundle["graphs"].items():
            path = artifact.inside(bundle.path, graph["jax"])
            try:
                exported = jax_export.deserialize(bytearray(path.read_bytes()))
            except Exception as error:  # of many types, for a damaged graph
                raise InputError(f"{path} cannot be read ({error}): export it again.") from error
            platforms = {p.replace("rocm", "gpu") for p in exported.platforms}
            here = {"gpu": "cuda"}.get(self._device.platform, self._device.platform)
            if here not in platforms:
                raise InputError(
                    f"{path} is for {', '.join(sorted(platforms))}, the device is a {here}."
                )
            self._calls[name] = jax.jit(exported.call)

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs of a graph, see `serving.graphs.Graphs`."""
        arrays: list[Any] = []
        for key in self._inputs[name]:
            if key in inputs:
                arrays.append(inputs[key])  # placed by the call, sooner than one by one
                continue
            if key not in self._placed:
                self._placed[key] = jax.device_put(self._bundle.arrays[key], self._device)
            arrays.append(self._placed[key])
        with jax.default_device(self._device):
            outputs = self._calls[name](*arrays)
        return dict(zip(self._outputs[name], jax.device_get(outputs), strict=True))

    def padded(self, length: int) -> int:
        """Returns the next power of 2."""
        return max(SMALLEST, 1 << max(length - 1, 0).bit_length())


class Ranker(BundleRanker):
    """Ranks requests by a bundle.

    Example:
      >>> import interactrank_jax as ir
      >>> from interactrank_jax.log.simulator.simulate import simulate
      >>> sizes = simulate("tiny", 0, "log")
      >>> config = ir.configs.matrix_factorization("search")
      >>> trainer = ir.Trainer(config, ir.prepare("log", config)).fit(steps=3)
      >>> bundle = ir.export_bundle(trainer, "bundle").bundle
      >>> ranker = ir.Ranker.load("bundle")
      >>> requests = trainer.examples.raw_requests("test").slice(0, 1).to_pylist()
      >>> candidates = {"request_id": [requests[0]["request_id"]] * 2, "item_id": ["p001", "p002"]}
      >>> ranker.rank(requests, candidates)["rank"].to_pylist()
      [1, 2]

    Can be pickled: another process opens the same path, which it must be able to read, on its own
    first device.

    Args:
      path: of a bundle, what `interactrank export` wrote.
      verify: whether every file is compared with its digest, and the golden requests are ranked.
      device: of jax; its first by default.

    Raises:
      InputError: no bundle there, or a damaged one.
    """

    def __init__(
        self, path: files.PathLike, *, verify: bool = False, device: jax.Device | None = None
    ):
        bundle = Bundle.open(path, verify)
        super().__init__(bundle, JaxGraphs(bundle, device), verify)

    @classmethod
    def load(cls, path: files.PathLike, *, verify: bool = False) -> "Ranker":
        """Opens a bundle, see the class."""
        return cls(path, verify=verify)

    def __reduce__(self) -> Any:
        return Ranker, (str(self.bundle.path.absolute()),)
