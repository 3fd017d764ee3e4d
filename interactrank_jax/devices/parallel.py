"""The same per-device function on one device or many: `pmap`, or `jit` of `shard_map`.

Three forms of a state:
- canonical, everywhere outside this file: one global array a leaf, on the mesh of all devices of
  all processes; replicated, or split by row where the layout says so. Checkpoints hold this.
- placed: what the mapped functions take. With shard_map that is the canonical form; with pmap each
  leaf has a leading axis of this process's devices.
- unreplicated: one plain array a leaf on one device, for what one device does alone.

A batch is the requests of this process, one array a column.
"""

import functools
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from interactrank_jax.io.errors import InputError
from interactrank_jax.tables.sharding import DATA, MODEL, ROW_MULTIPLE, SHARDED_FROM, Layout


def all_devices() -> list[jax.Device]:
    """Returns the devices of all processes; starts jax's platform if nothing did yet.

    Raises:
      InputError: the platform that JAX_PLATFORMS asks for cannot be started.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for 'cuda' where no plugin is
        platforms = os.environ.get("JAX_PLATFORMS")
        if not platforms:
            raise
        reason = str(error).partition(" (set JAX_PLATFORMS")[0] or "there is no such device"
        raise InputError(
            f"JAX_PLATFORMS={platforms}: {reason.rstrip('.')}. Set it to a platform that jax can "
            f"start here, such as cpu, or unset it and jax takes what there is."
        ) from error


class DataParallel:
    """Places states and batches on devices, and maps functions over them.

    Attributes:
      kind: 'pmap' or 'shard_map'.
      devices: the devices that share a batch, of all processes.
      layout: what the mapped functions must know of them.
    """

    def __init__(
        self,
        kind: str,
        devices: Sequence[jax.Device] | None = None,
        *,
        shards: int = 1,
        tables: Mapping[str, int] | None = None,
    ):
        """Lays out the devices.

        Args:
          kind: 'pmap' or 'shard_map'.
          devices: all of all processes by default.
          shards: devices that the rows of long tables are split over.
          tables: rows by table, to tell which are long.

        Raises:
          InputError: shards that this kind or these devices cannot have.
        """
        self.kind = kind
        self.devices = list(devices if devices is not None else all_devices())
        self._local = [d for d in self.devices if d.process_index == jax.process_index()]
        if shards < 1 or len(self.devices) % shards or ROW_MULTIPLE % shards:
            raise InputError(
                f"config.train.table_shards is {shards}. Expected a power of two up to "
                f"{ROW_MULTIPLE} that divides the number of devices, {len(self.devices)}."
            )
        if shards > 1 and kind != "shard_map":
            raise InputError(
                f"config.train.table_shards is {shards}: only shard_map can split tables. Set "
                f"config.train.parallel='shard_map'."
            )
        grid = np.array(self.devices).reshape(-1, shards)
        self._mesh = Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)
        self._local_mesh = Mesh(np.array(self._local), (DATA,), axis_types=(AxisType.Auto,))
        long = [name for name, rows in (tables or {}).items() if rows >= SHARDED_FROM]
        self.layout = Layout(
            batch=(DATA,) if kind == "pmap" else (DATA, MODEL),
            shards=shards,
            sharded=frozenset(long if shards > 1 else ()),
        )

    @property
    def size(self) -> int:
        """Number of devices, of all processes."""
        return len(self.devices)

    # --- states ----------------------------------------------------------------------------------

    def specs(self, tree: Any) -> Any:
        """Returns each leaf's partition: rows of sharded tables and of their optimizer's state."""

        def spec(path: Any, leaf: Any) -> P:
            names = [getattr(entry, "key", getattr(entry, "name", None)) for entry in path]
            after = dict(itertools.pairwise(names))
            table = after.get("tables") or after.get("table_states")
            # One that was short when it was saved may not divide.
            is_sharded = table in self.layout.sharded and leaf.shape[0] % self.layout.shards == 0
            return P(MODEL) if is_sharded else P()

        return jax.tree_util.tree_map_with_path(spec, tree)

    def shardings(self, tree: Any) -> Any:
        """Returns where each leaf of the canonical form lies."""
        return jax.tree.map(
            lambda spec: NamedSharding(self._mesh, spec),
            self.specs(tree),
            is_leaf=lambda leaf: isinstance(leaf, P),
        )

    def template(self, init: Callable[[], Any]) -> Any:
        """Returns the shapes of `init()`'s canonical form, and where they lie; makes nothing."""
        shapes = jax.eval_shape(init)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.shardings(shapes),
        )

    def initialise(self, init: Callable[..., Any], *arguments: Any) -> Any:
        """Runs `init(...)` so that each device computes only what it holds; returns it canonical.

        The same function is compiled once for arguments of the same types.
        """
        # Compiled in haste: it runs once, and drawing random numbers for a dozen shapes would
        # otherwise take longer to compile than the training step.
        options = {"xla_backend_optimization_level": 0}
        shardings = self.shardings(jax.eval_shape(init, *arguments))
        return jax.jit(init, out_shardings=shardings, compiler_options=options)(*arguments)

    def place(self, canonical: Any) -> Any:
        """Returns the placed form of a canonical one."""
        return canonical if self.kind == "shard_map" else self.replicate(_first_copy(canonical))

    def replicate(self, tree: Any) -> Any:
        """Returns the placed form of plain arrays, equal in every process: a copy per device."""
        if self.kind == "shard_map":
            sharding = NamedSharding(self._mesh, P())
            return jax.tree.map(
                lambda leaf: jax.make_array_from_callback(
                    np.shape(leaf), sharding, np.asarray(leaf).__getitem__
                ),
                tree,
            )
        sharding = NamedSharding(self._local_mesh, P(DATA))
        return jax.tree.map(
            lambda leaf: jax.device_put(
                np.broadcast_to(np.asarray(leaf)[None], (len(self._local), *np.shape(leaf))),
                sharding,
            ),
            tree,
        )

    def canonical(self, placed: Any) -> Any:
        """Returns the canonical form of a placed one; it outlives the placed one's donation."""
        if self.kind == "shard_map":
            # A CPU's arrays are written to disk from where they lie, which the next step reuses.
            is_cpu = self.devices[0].platform == "cpu"
            return jax.tree.map(lambda leaf: leaf.copy(), placed) if is_cpu else placed
        sharding = NamedSharding(self._mesh, P())

        leaves, structure = jax.tree.flatten(placed)
        shards = [[shard.data for shard in leaf.addressable_shards] for leaf in leaves]
        # A call per device, not one per array of it.
        copies = [_without_first_axis(held) for held in zip(*shards, strict=True)]
        arrays = [
            jax.make_array_from_single_device_arrays(held[0].shape, sharding, list(held))
            for held in zip(*copies, strict=True)
        ]
        return jax.tree.unflatten(structure, arrays)

    def unreplicate(self, placed: Any) -> Any:
        """Returns a placed, replicated tree as plain arrays on one device.

        Raises:
          ValueError: a leaf is split by row, so that no device has it whole.
        """
        if self.kind == "shard_map":
            if not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(placed)):
                raise ValueError("a table split over devices cannot be unreplicated.")
            return _first_copy(placed)
        return _without_first_axis(_first_copy(placed))

    # --- several states on one device ------------------------------------------------------------

    def stack(self, placed: Iterable[Any], count: int) -> Any:
        """Returns placed trees as one, with an axis of theirs before those of each leaf, placed.

        Args:
          placed: the trees, of one shape. Each is taken when the one before it has been copied, so
            that a generator need never have two of them on the device.
          count: how many they are.
        """
        stacked, axis = None, self._stack_axis
        for index, tree in enumerate(placed):
            if stacked is None:
                stacked = self.replicate(
                    jax.tree.map(lambda x: np.zeros((count, *x.shape[axis:]), x.dtype), tree)
                )
            stacked = self.put(stacked, index, tree)
        return stacked

    def unstack(self, stacked: Any, index: int) -> Any:
        """Returns one of the trees of `stack`, placed; it outlives the donation of the others."""
        return _at(stacked, index, axis=self._stack_axis)

    def put(self, stacked: Any, index: int, placed: Any) -> Any:
        """Returns what `stack` gave with another tree at an index; takes the memory of it over."""
        return _put(stacked, index, placed, axis=self._stack_axis)

    @property
    def _stack_axis(self) -> int:
        return 0 if self.kind == "shard_map" else 1

    # --- batches ---------------------------------------------------------------------------------

    def shard(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Splits this process's requests, the leading axis `[R, ...]`, over its devices.

        Raises:
          InputError: R is not a multiple of their number.
        """
        devices = len(self._local)

        def split(value: np.ndarray) -> jax.Array:
            if value.shape[0] % devices:
                raise InputError(
                    f"a batch of {value.shape[0]} requests cannot be split over {devices} "
                    f"devices: set config.train.batch_size to a multiple of it."
                )
            if self.kind == "pmap":
                value = value.reshape(devices, len(value) // devices, *value.shape[1:])
                return jax.device_put(value, NamedSharding(self._local_mesh, P(DATA)))
            sharding = NamedSharding(self._mesh, P(self.layout.batch))
            return jax.make_array_from_process_local_data(sharding, value)

        return {key: split(value) for key, value in batch.items()}

    # --- functions -------------------------------------------------------------------------------

    def map_step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles `function(state, batch, store) -> state`, donating state and batch."""
        mapped = self._map(
            function, outputs=lambda state, *_: self.specs(state), donate_argnums=(0, 1)
        )
        # CPU collectives of several steps in flight can deadlock; see jax's rendezvous.
        wait = self.size > 1 and self.devices[0].platform == "cpu"

        @functools.wraps(function)
        def step(state, batch, store):
            with warnings.catch_warnings():
                # No output has a batch's shape; donating it still lets its memory be reused.
                warnings.filterwarnings("ignore", "Some donated buffers were not usable")
                state = mapped(state, batch, store)
            return jax.block_until_ready(state) if wait else state

        return step

    def map_rows(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles `function(model_state, batch, store) -> tree of [R, ...]` and gathers the rows.

        Every process gives the same whole batch and gets all rows, a tree of numpy arrays in the
        order of the batch.
        """
        mapped = self._map(function, outputs=lambda *_: P(self.layout.batch))

        def rows(model_state, batch, store):
            count, processes = len(next(iter(batch.values()))), jax.process_count()
            if count % self.size:
                raise InputError(
                    f"{count} requests cannot be split over {self.size} devices: pad them."
                )
            start = jax.process_index() * count // processes
            mine = {key: value[start:][: count // processes] for key, value in batch.items()}
            output = mapped(model_state, self.shard(mine), store)

            def gather(leaf: jax.Array) -> np.ndarray:
                parts = [np.asarray(shard.data) for shard in leaf.addressable_shards]
                if self.kind == "pmap":
                    parts = [part[0] for part in parts]
                local = np.concatenate(parts)
                if processes == 1:
                    return local
                return multihost_utils.process_allgather(local, tiled=True)

            return jax.tree.map(gather, output)

        return rows

    def _map(self, function, *, outputs, donate_argnums=()):
        """Maps `function(state, batch, store)`; `outputs` gives its partitions from the inputs."""
        if self.kind == "pmap":
            return jax.pmap(
                function,
                axis_name=DATA,
                devices=self.devices,
                donate_argnums=donate_argnums,
            )

        @functools.partial(jax.jit, donate_argnums=donate_argnums)
        def mapped(*arguments):
            state, _, _ = arguments
            return jax.shard_map(
                function,
                mesh=self._mesh,
                in_specs=(self.specs(state), P(self.layout.batch), P()),
                out_specs=outputs(*arguments),
                check_vma=False,
            )(*arguments)

        return mapped


def _first_copy(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree)


@functools.partial(jax.jit, static_argnames="axis")
def _at(tree: Any, index: int, axis: int) -> Any:
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, axis, keepdims=False), tree
    )


@functools.partial(jax.jit, static_argnames="axis", donate_argnums=0)
def _put(tree: Any, index: int, new: Any, axis: int) -> Any:
    return jax.tree.map(
        lambda leaf, part: jax.lax.dynamic_update_index_in_dim(leaf, part, index, axis), tree, new
    )


@jax.jit
def _without_first_axis(arrays: Any) -> Any:
    return jax.tree.map(lambda array: array[0], arrays)
