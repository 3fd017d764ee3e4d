"""The export station: a run, and STATE as of a day, become a bundle. Read top to bottom.

run -> items of the catalogue, encoded -> index -> what history knows -> graphs -> golden
requests, ranked by the model's own code and then, in fresh processes, by the bundle
"""

import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ml_collections import ConfigDict

from interactrank_jax.examples.format import PUBLISHED
from interactrank_jax.export import golden
from interactrank_jax.export.catalogue import read_items
from interactrank_jax.export.features import write_features
from interactrank_jax.export.formats import write_graphs
from interactrank_jax.export.graphs import Graph, ServedModel
from interactrank_jax.io import artifact, files, interrupts, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.schema import FeatureSpec
from interactrank_jax.log.values import as_values
from interactrank_jax.ranking.index import encode_items
from interactrank_jax.runs.best import fingerprint
from interactrank_jax.runs.run import Run
from interactrank_jax.serving.bundle import KIND, Bundle
from interactrank_jax.serving.golden import FOLDER, rank_golden, save_features
from interactrank_jax.serving.ranking import Ranking
from interactrank_jax.state import engines
from interactrank_jax.state.days import date, day_number
from interactrank_jax.state.store import Description, Store, open_without_log

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pyarrow", "jax2onnx", "onnxruntime")
MEMORY = "4GB"


def export(
    workdir: files.PathLike,
    state: files.PathLike,
    out: files.PathLike,
    *,
    as_of: str = "",
    items: files.PathLike = "",
    onnx: bool = True,
    vectors: str = "",
    memory: str = MEMORY,
    progress: Callable[[str], None] = lambda phase: None,
) -> dict[str, Any]:
    """Writes a bundle.

    Args:
      workdir: a run; its best model is exported.
      state: STATE of the log that it was trained on, or of that log since grown.
      out: a new directory.
      as_of: the day that requests will come on, such as '2024-05-31': counts are as of it, and user
        timelines end before it. By default the first day that STATE does not hold.
      items: Parquet file or directory of further items, which go before those of the catalogue.
      onnx: whether graphs are written as ONNX too.
      vectors: 'parquet' or 'npy' writes the items' vectors of a dot model for a vector index.
      memory: of the engine that reads STATE.
      progress: called with the name of each phase as it begins.

    Returns:
      Figures: items, day, parity.

    Raises:
      InputError: a model that cannot be served, STATE of another log or config, or one that ends
        before the day.
    """
    outputs.output_directory(out, workdir, *(path for path in (state, items) if path))
    run = Run.open(workdir)
    _check_run(run, vectors)
    store, features, number = _open_state(run, state, as_of)
    model, step = run.restore_model()
    with (
        interrupts.deferred(),
        outputs.new_directory(out) as directory,
        engines.connect("duckdb", directory / "scratch", memory) as backend,
    ):
        progress("items")
        raw = read_items(store, backend, features, items, run.encoder)
        progress("history")
        data = run.metadata.config
        knowledge = write_features(
            store, backend, number, run.encoder, data, features, raw, directory
        )
        progress("index")
        index = encode_items(run, model, knowledge.store)
        progress("graphs")
        served = ServedModel(
            run.model,
            model["params"],
            {name: np.shape(table) for name, table in model["tables"].items()},
            run.encoder,
            run.rule.utility,
        )
        graphs = served.graphs()
        _write_arrays(model, index, graphs, directory)
        if vectors:
            ids = as_values(raw["item_id"])
            _write_vectors(served, ids, index, vectors, directory / "vectors")
        record = {
            **_describe(run, model, step),
            **knowledge.record,
            "vector_bias": served.vector_bias if served.is_dot else None,
            "graphs": write_graphs(graphs, directory / "graphs", onnx),
        }
        progress("golden requests")
        parity = _prove(record, raw, graphs, directory)
    return {"items": len(raw), "as_of": record["as_of"], "step": step, **parity}


def _check_run(run: Run, vectors: str) -> None:
    if not run.model.is_decoupled:
        raise InputError(
            f"{run.workdir} holds a '{run.config.model.name}' model, a network over each pair of "
            f"query and item: nothing can be computed ahead. Export a model of two towers."
        )
    if vectors and not hasattr(run.model, "serving_query"):
        raise InputError(
            f"--vectors={vectors}: the score of '{run.config.model.name}' is no dot product, so "
            f"that no vector index computes it. Leave --vectors out."
        )
    if run.metadata.config["protocol"] == PUBLISHED:
        raise InputError(
            f"{run.workdir} was trained under protocol '{PUBLISHED}', whose features leak the "
            f"label: no new request has them. Train it under another protocol."
        )


def _open_state(
    run: Run, path: files.PathLike, as_of: str
) -> tuple[Store, tuple[FeatureSpec, ...], int]:
    """Opens STATE for a run; returns it, the features of its log, and the day to export."""
    store, schema = open_without_log(path)
    timeless = run.encoder.timeless
    wanted = Description.of_schema(ConfigDict(run.metadata.config), schema, timeless)
    difference = store.description.difference(wanted)
    if difference is not None:
        raise InputError(
            f"--state={path} was built with {difference}. Name the STATE that {run.workdir}'s "
            f"examples were prepared from, or that of their log built with the same config."
        )
    declared = {f.name: (f.entity, f.kind) for f in schema.features}
    for feature in run.encoder.features:
        known = declared.get(feature.name, ("user", "numeric"))  # rates of users are made by us
        if known != (feature.entity, feature.kind):
            raise InputError(
                f"--state={path}: the log has '{feature.name}' as {known}, {run.workdir} was "
                f"trained with {(feature.entity, feature.kind)}: this is another log."
            )
    if timeless:
        if as_of:
            raise InputError(f"--as_of={as_of}: the data is timeless, there are no days.")
        return store, schema.features, 0
    assert store.recipe.lag_days is not None
    if store.next_day is None:
        raise InputError(f"{path} holds no day yet: run `interactrank state build` again.")
    number = day_number(as_of) if as_of else store.next_day
    first, last = store.chunks[0].first, store.next_day
    if not first < number <= last:
        raise InputError(
            f"--as_of={date(number)}: {path} holds the days {date(first)} to {date(last - 1)}, so "
            f"that a bundle can be of {date(first + 1)} to {date(last)}. Name one of them, or "
            f"bring STATE up to date by `interactrank state build`."
        )
    return store, schema.features, number


def _write_arrays(
    model: Mapping[str, Any], index: Any, graphs: Mapping[str, Graph], directory: Path
) -> None:
    """Writes the embedding tables and the index."""
    (directory / "tables").mkdir()
    (directory / "index").mkdir()
    for name, table in model["tables"].items():
        files.save_array(directory / "tables" / f"{name}.npy", np.asarray(table))
    for number, leaf in enumerate(jax.tree.leaves(index)):
        spec = graphs["score"].inputs[f"index/{number}"]
        files.save_array(directory / "index" / f"{number}.npy", np.asarray(leaf, spec.dtype))


def _write_vectors(
    served: ServedModel, ids: pa.Array, index: Any, form: str, directory: Path
) -> None:
    """Writes what a vector index takes: score = <query_vector, vector> + bias, plus cross terms."""
    directory.mkdir()
    vector = np.asarray(jax.tree.leaves(index)[0], np.float32)[1:]
    files.write_json(directory / "bias.json", {"bias": served.vector_bias})
    if form == "npy":
        files.save_array(directory / "vector.npy", vector)
        pq.write_table(pa.table({"item_id": ids}), directory / "ids.parquet")
        return
    flat = pa.array(vector.reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, vector.shape[1])
    pq.write_table(pa.table({"item_id": ids, "vector": lists}), directory / "items.parquet")


def _describe(run: Run, model: dict[str, Any], step: int) -> dict[str, Any]:
    """Returns what `bundle.json` says of the model."""
    unknown: Any = None  # a run that was opened does not look at examples for its offsets
    return {
        "model": run.config.model.name,
        "step": step,
        "fingerprint": fingerprint(model),
        "heads": list(run.rule.heads),
        "utility": list(run.rule.utility),
        "prior_offsets": list(run.prior_offsets(unknown)),
        "config": run.config.to_dict(),
        "versions": {name: _version(name) for name in PACKAGES if _version(name)},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _prove(
    record: dict[str, Any], raw: pa.Table, graphs: Mapping[str, Graph], directory: Path
) -> dict[str, float]:
    """Writes golden requests and the manifest; returns the parity of each format."""
    write_record(directory, {**record, "parity": {}})
    bundle = Bundle.open(directory)
    golden.write_raw(bundle, raw)
    ranked = rank_golden(Ranking(bundle, _ModelGraphs(bundle, graphs)))
    save_features(ranked, directory / FOLDER)
    pq.write_table(ranked.table, directory / FOLDER / "scores.parquet")
    write_record(directory, {**record, "parity": {}})
    readers = {"jax": ("ranking.ranker", "Ranker")}
    if all("onnx" in graph for graph in record["graphs"].values()) and _version("onnxruntime"):
        readers["onnx"] = ("serving.reader", "Reader")
    parity = {
        name: golden.largest_difference(directory, *reader) for name, reader in readers.items()
    }
    write_record(directory, {**record, "parity": parity})
    return {f"largest difference, {name}": value for name, value in parity.items()}


def write_record(directory: Path, record: dict[str, Any]) -> None:
    """Writes `bundle.json`, which makes what lies in a directory a bundle."""
    (directory / KIND.file).unlink(missing_ok=True)
    folders = [path.name for path in sorted(directory.iterdir()) if path.is_dir()]
    folders = [name for name in folders if name != "scratch"]
    sizes = {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for folder in folders
        for path in sorted((directory / folder).rglob("*"))
        if path.is_file()
    }
    artifact.write(KIND, directory, {**record, "sizes": sizes}, folders)


class _ModelGraphs:
    """The graphs of a bundle as the model's own code computes them."""

    def __init__(self, bundle: Bundle, graphs: Mapping[str, Graph]):
        self._bundle, self._graphs = bundle, graphs
        self._calls = {name: jax.jit(graph.function) for name, graph in graphs.items()}

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph = self._graphs[name]
        arrays = {
            key: inputs[key] if key in inputs else self._bundle.arrays[key] for key in graph.inputs
        }
        return dict(zip(graph.outputs, jax.device_get(self._calls[name](arrays)), strict=True))

    def padded(self, length: int) -> int:
        return length
