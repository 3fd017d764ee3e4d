"""The same per-device function on one device or many: `pmap`, or `jit` of `shard_map`.

Outside this file a state is unreplicated and a batch is one array for all devices.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from interactrank_jax.errors import InputError, did_you_mean

AXIS = "data"


class DataParallel:
    """Places states and batches on this process's devices, and maps functions over them.

    Attributes:
      kind: 'pmap' or 'shard_map'.
      devices: the devices that share a batch.
    """

    def __init__(self, kind: str, devices: Sequence[jax.Device] | None = None):
        if kind not in ("pmap", "shard_map"):
            raise InputError(
                f"config.train.parallel is '{kind}'." + did_you_mean(kind, ["pmap", "shard_map"])
            )
        self.kind = kind
        self.devices = list(devices if devices is not None else jax.local_devices())
        self._mesh = Mesh(np.array(self.devices), (AXIS,), axis_types=(AxisType.Auto,))

    @property
    def size(self) -> int:
        """Number of devices."""
        return len(self.devices)

    def replicate(self, tree: Any) -> Any:
        """Puts one copy on each device."""
        if self.kind == "shard_map":
            return jax.device_put(tree, NamedSharding(self._mesh, P()))
        sharding = NamedSharding(self._mesh, P(AXIS))
        return jax.tree.map(
            lambda leaf: jax.device_put(
                np.broadcast_to(np.asarray(leaf)[None], (self.size, *np.shape(leaf))), sharding
            ),
            tree,
        )

    def unreplicate(self, tree: Any) -> Any:
        """Returns the first device's copy, as arrays on that device."""

        def first(leaf: jax.Array) -> jax.Array:
            copy = leaf.addressable_shards[0].data
            return copy[0] if self.kind == "pmap" else copy

        return jax.tree.map(first, tree)

    def shard(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Splits the leading axis `[R, ...]` over the devices.

        Raises:
          InputError: R is not a multiple of the number of devices.
        """
        sharding = NamedSharding(self._mesh, P(AXIS))

        def split(value: np.ndarray) -> jax.Array:
            if value.shape[0] % self.size:
                raise InputError(
                    f"a batch of {value.shape[0]} requests cannot be split over {self.size} "
                    f"devices: set config.train.batch_size to a multiple of it."
                )
            if self.kind == "pmap":
                value = value.reshape(self.size, -1, *value.shape[1:])
            return jax.device_put(value, sharding)

        return {key: split(value) for key, value in batch.items()}

    def map_step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles `function(state, batch, store) -> state`, donating state and batch."""
        if self.kind == "pmap":
            compiled = jax.pmap(
                function, axis_name=AXIS, devices=self.devices, donate_argnums=(0, 1)
            )
        else:
            mapped = jax.shard_map(
                function,
                mesh=self._mesh,
                in_specs=(P(), P(AXIS), P()),
                out_specs=P(),
                check_vma=False,
            )
            compiled = jax.jit(mapped, donate_argnums=(0, 1))
        # CPU collectives of several steps in flight can deadlock; see jax's rendezvous.
        wait = self.size > 1 and self.devices[0].platform == "cpu"

        @functools.wraps(function)
        def step(state, batch, store):
            with warnings.catch_warnings():
                # No output has a batch's shape; donating it still lets its memory be reused.
                warnings.filterwarnings("ignore", "Some donated buffers were not usable")
                state = compiled(state, batch, store)
            return jax.block_until_ready(state) if wait else state

        return step

    def map_rows(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles `function(model_state, batch, store) -> tree of [R, ...]` and gathers the rows.

        The result is a tree of numpy arrays, in the order of the batch.
        """
        if self.kind == "pmap":
            compiled = jax.pmap(function, axis_name=AXIS, devices=self.devices)
        else:
            compiled = jax.jit(
                jax.shard_map(
                    function,
                    mesh=self._mesh,
                    in_specs=(P(), P(AXIS), P()),
                    out_specs=P(AXIS),
                    check_vma=False,
                )
            )

        def rows(model_state, batch, store):
            output = jax.device_get(compiled(model_state, self.shard(batch), store))
            if self.kind == "pmap":
                output = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), output)
            return output

        return rows
