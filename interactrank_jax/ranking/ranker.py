"""Ranks requests by a bundle on jax's devices.

    ranker = Ranker.load("BUNDLE")
    ranker.rank(requests, candidates, k=500)

Opens a bundle without flax, grain, orbax or an engine, and needs no code of the model.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from interactrank_jax.io import artifact, files
from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking import formats
from interactrank_jax.ranking.device_index import DeviceIndex, first_local, tile_bytes, tile_scorer
from interactrank_jax.serving.base import BundleRanker
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.graphs import Graphs, Leaves, index_leaves, padded_rows
from interactrank_jax.serving.scan import Tiles
from interactrank_jax.serving.top_k import Top

# Lists and batches are padded to powers of 2 from SMALLEST on: each size compiles once. Beyond
# WHOLE there are four sizes to an octave: what is padded costs time too.
SMALLEST, WHOLE = 8, 1 << 13
# The list of a single request is padded to this at least: few sizes have to be compiled, half a
# second each.
ALONE = 1 << 9


class JaxGraphs(Graphs):
    """The graphs of a bundle, run by jax; tables and index are put on the device once.

    Args:
      bundle: the bundle.
      devices: to run on; jax's first by default. The first of this process runs everything but the
        scan of the corpus, whose rows are split over all.
      scan: format of the vectors that a scan of the corpus reads, see `formats`.
      recall: of a scan, see `DeviceTopK`.

    Raises:
      InputError: no such format or recall, a graph cannot be read, or not run on this kind of
        device.
    """

    def __init__(
        self,
        bundle: Bundle,
        devices: Sequence[jax.Device] | None = None,
        scan: str = formats.FLOAT32,
        recall: float = 1.0,
    ):
        if not 0 < recall <= 1:
            raise InputError(f"recall={recall}. Expected a share above 0, at most 1.")
        self._bundle, self._format = bundle, formats.check_format(scan)
        self._recall = recall
        self._devices = tuple(jax.local_devices()[:1] if devices is None else devices)
        self._device = first_local(self._devices)
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
        if not self.has_whole_index and "row" in inputs:
            inputs = self._with_rows(inputs)
        # Inputs are placed by the call, sooner than one by one.
        names = self._inputs[name]
        arrays = [inputs[key] if key in inputs else self._place(key) for key in names]
        with jax.default_device(self._device):
            outputs = self._calls[name](*arrays)
        return {
            name: np.asarray(output)
            for name, output in zip(self._outputs[name], outputs, strict=True)
        }

    def padded(self, length: int) -> int:
        """Returns the next power of 2, or of large ones the next quarter of the way to it."""
        size = max(SMALLEST, 1 << max(length - 1, 0).bit_length())
        step = size // 8 if size > WHOLE else size
        return -(-max(length, 1) // step) * step

    def padded_alone(self, length: int) -> int:
        """Returns what `padded` does, from `ALONE` on."""
        return self.padded(max(length, ALONE))

    def lengths_alone(self, longest: int) -> Sequence[int]:
        """Returns each length to which lists up to `longest` are padded."""
        lengths = [self.padded_alone(1)]
        while lengths[-1] < longest:
            lengths.append(self.padded_alone(lengths[-1] + 1))
        return lengths

    def tiles(self, bundle: Bundle, query: Leaves) -> Sequence[Tiles]:
        """Returns the tiles of the index on the devices, see `serving.graphs.Graphs`."""
        return self._index.tiles(self._score_tile, query)

    def exact_tiles(self, bundle: Bundle, query: Leaves) -> Sequence[Tiles]:
        """Returns tiles of all rows, see `serving.graphs.Graphs`."""
        if self.has_whole_index:
            return self.tiles(bundle, query)
        return super().exact_tiles(bundle, query)

    def tile_bytes(self) -> int:
        """Returns how much memory the scores of a tile may take."""
        return tile_bytes(self._device)

    def surplus(self) -> int:
        """Returns how many times k items a scan must find, whose scores may be rounded."""
        return 1 if self._format == formats.FLOAT32 else formats.RESCORED

    def gather(self, top: Top) -> list[Top]:
        """Returns the best of each process whose devices share the index."""
        return self._index.gather(top)

    def _place(self, key: str) -> jax.Array:
        if key not in self._placed:
            self._placed[key] = jax.device_put(self._bundle.arrays[key], self._device)
        return self._placed[key]

    def _with_rows(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Adds the index's rows that are asked for: no device has them all, or not exactly."""
        rows, position = np.unique(inputs["row"], return_inverse=True)
        # As many as the padded list of a single request has: its shapes stay few.
        is_alone = inputs["row"].ndim == 1 or len(inputs["row"]) == 1
        size = inputs["row"].size if is_alone else self.padded(len(rows))
        index = {
            name: padded_rows(np.asarray(values[rows]), size)
            for name, values in index_leaves(self._bundle).items()
        }
        row = position.reshape(inputs["row"].shape).astype(np.int32)
        return {**inputs, **index, "row": row}

    @functools.cached_property
    def _index(self) -> DeviceIndex:
        leaves: dict[str, Any] = dict(index_leaves(self._bundle))
        if self.has_whole_index:
            leaves = {name: self._place(name) for name in leaves}
        encoded = {name: formats.encode(leaf, self._format) for name, leaf in leaves.items()}
        return DeviceIndex(encoded, self._devices, recall=self._recall)

    @property
    def has_whole_index(self) -> bool:
        """Whether the first device has all vectors as they are."""
        return len(self._devices) == 1 and self._format == formats.FLOAT32

    @functools.cached_property
    def _score_tile(self) -> Any:
        inputs, call = self._inputs["score_all"], self._calls["score_all"]

        def score(query: Leaves, items: dict[str, formats.Encoded]) -> jax.Array:
            leaves = {
                name.replace("index/", "item/"): formats.decode(leaf)
                for name, leaf in items.items()
            }
            arrays = {**query, **leaves}
            return call(*(arrays[name] for name in inputs))[0]

        return tile_scorer(score)


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
      devices: of jax; its first by default. Over several the index is split by rows, to rank a
        corpus that one cannot hold, or faster; with those of several processes (`jax.devices()`
        under `jax.distributed`) each must rank the same requests.
      scan: 'float32', 'bfloat16' or 'int8': how the vectors lie in memory that a scan of the corpus
        reads. With the last two it takes half and a quarter of the memory, finds four times k items
        by rounded scores, and returns the best k of them by exact ones; see `formats`.
      recall: share of the best k that a scan of the corpus must find, in expectation. Below 1 it is
        quicker on a TPU, by `jax.lax.approx_max_k`; CPUs and GPUs find all.

    Raises:
      InputError: no bundle there, or a damaged one, devices that are none, an unknown format or a
        recall that is no share.
    """

    def __init__(
        self,
        path: files.PathLike,
        *,
        verify: bool = False,
        devices: Sequence[jax.Device] | None = None,
        scan: str = formats.FLOAT32,
        recall: float = 1.0,
    ):
        bundle = Bundle.open(path, verify)
        open_graphs = functools.partial(JaxGraphs, devices=devices, scan=scan, recall=recall)
        super().__init__(bundle, open_graphs, verify)
        self._scan, self._recall = scan, recall

    @classmethod
    def load(cls, path: files.PathLike, **options: Any) -> "Ranker":
        """Opens a bundle, see the class, whose options it takes."""
        return cls(path, **options)

    def __reduce__(self) -> Any:
        path = str(self.bundle.path.absolute())
        return functools.partial(Ranker, scan=self._scan, recall=self._recall), (path,)
