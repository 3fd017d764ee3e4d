"""The export station: a run, and STATE as of a day, become a bundle. Read top to bottom.

run -> items of the catalogue, encoded -> index -> what history knows -> graphs -> golden
requests, ranked by the model's own code and then, in fresh processes, by the bundle
"""

import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict

from interactrank_jax.examples.format import PUBLISHED
from interactrank_jax.export import golden
from interactrank_jax.export.catalogue import read_items
from interactrank_jax.export.features import write_features
from interactrank_jax.export.formats import write_graphs
from interactrank_jax.export.graphs import INDEX, Graph, ServedModel
from interactrank_jax.export.vectors import FORMS, write_vectors
from interactrank_jax.io import artifact, files, interrupts, outputs
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.schema import FeatureSpec
from interactrank_jax.ranking.index import write_representation
from interactrank_jax.runs.best import fingerprint
from interactrank_jax.runs.run import Run
from interactrank_jax.serving.bundle import KIND, Bundle
from interactrank_jax.serving.golden import FOLDER, save_golden
from interactrank_jax.serving.graphs import Graphs
from interactrank_jax.serving.keys import KeyIndex
from interactrank_jax.serving.ranking import Ranking
from interactrank_jax.state import engines
from interactrank_jax.state.days import date, day_number
from interactrank_jax.state.store import Description, Store, open_without_log

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pyarrow", "jax2onnx", "onnxruntime")
MEMORY = "4GB"
ITEMS_AS_SAMPLE = 200  # of the raw ones, for words of golden requests
ITEMS_TO_CHECK = 64  # by each of a model's ways to score
logger = logging.getLogger(__name__)


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
        pa.default_memory_pool().release_unused()  # of the tables that it was made from
        progress("history")
        of_run = (run.encoder, run.metadata.config)
        knowledge = write_features(store, backend, number, *of_run, features, raw, directory)
        sample = raw.take(pa.array(np.arange(min(len(raw), ITEMS_AS_SAMPLE))))
        del raw  # a third of the index, which is to come
        pa.default_memory_pool().release_unused()
        progress("graphs")
        served, graphs, fields = _write_model(run, model, onnx, directory)
        progress("index")
        dtypes = [s.dtype for name, s in graphs["score"].inputs.items() if name.startswith(INDEX)]
        write_representation(run, model, knowledge.store, directory / "index", dtypes)
        if vectors:
            ids = KeyIndex.open(directory / "items" / "ids").ids
            leaf = np.load(directory / "index" / "0.npy", mmap_mode="r")
            write_vectors(ids, leaf[1:], np.ones(len(ids), bool), vectors, directory / "vectors")
        record = _describe(run, model, step) | knowledge.record | fields | {"vectors": vectors}
        progress("golden requests")
        parity = _prove(record, sample, served, graphs, directory)
    said = {name: record[name] for name in ("as_of", "step", "protocol")}
    return {"items": record["items"] - 1, **said, **parity}


def _check_run(run: Run, vectors: str) -> None:
    if not run.model.is_decoupled:
        raise InputError(
            f"{run.workdir} holds a '{run.config.model.name}' model, a network over each pair of "
            f"query and item: nothing can be computed ahead. Export a model of two towers."
        )
    if vectors and vectors not in FORMS:
        raise InputError(f"--vectors={vectors}." + did_you_mean(vectors, FORMS))
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
    features = _features(run, path, schema.features)
    if timeless:
        if as_of:
            raise InputError(f"--as_of={as_of}: the data is timeless, there are no days.")
        return store, features, 0
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
    return store, features, number


def _features(
    run: Run, path: files.PathLike, declared: tuple[FeatureSpec, ...]
) -> tuple[FeatureSpec, ...]:
    """Returns the features of a log that a run was trained with; the log may have grown others."""
    by_name = {feature.name: feature for feature in declared}
    features = []
    for feature in run.encoder.features:
        if feature.name in by_name:
            spec = by_name[feature.name]
            if (spec.entity, spec.kind) == (feature.entity, feature.kind):
                features.append(spec)
                continue
            present = f"is a {spec.kind} feature of {spec.entity}s"
        elif (feature.entity, feature.kind) == ("user", "numeric"):
            continue  # the rate of an action, which no log has
        else:
            present = "is not there"
        raise InputError(
            f"--state={path}: {run.workdir} was trained with '{feature.name}', a {feature.kind} "
            f"feature of {feature.entity}s; in the log of that STATE it {present}. Name the STATE "
            f"of the log that the run was trained on."
        )
    return tuple(features)


def _write_model(
    run: Run, model: Mapping[str, Any], onnx: bool, directory: Path
) -> tuple[ServedModel, dict[str, Graph], dict[str, Any]]:
    """Writes tables and graphs; returns the model, its graphs, and the fields that name them."""
    served = ServedModel(
        run.model,
        model["params"],
        {name: np.shape(table) for name, table in model["tables"].items()},
        run.encoder,
        run.rule.utility,
    )
    graphs = served.graphs()
    (directory / "tables").mkdir()
    for name, table in model["tables"].items():
        files.save_array(directory / "tables" / f"{name}.npy", np.asarray(table))
    fields = {"graphs": write_graphs(graphs, directory / "graphs", onnx)}
    return served, graphs, fields


def _describe(run: Run, model: dict[str, Any], step: int) -> dict[str, Any]:
    """Returns what `bundle.json` says of the model."""
    return {
        "model": run.config.model.name,
        "step": step,
        "fingerprint": fingerprint(model),
        "protocol": run.metadata.protocol_in_words,
        "heads": list(run.rule.heads),
        "utility": list(run.rule.utility),
        "calibration": run.calibration(step).to_json(),
        "config": run.config.to_dict(),
        "versions": {name: _version(name) for name in PACKAGES if _version(name)},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _prove(
    record: dict[str, Any],
    sample: pa.Table,
    served: ServedModel,
    graphs: Mapping[str, Graph],
    directory: Path,
) -> dict[str, float]:
    """Writes golden requests, with words of some raw items; returns the parity of each format."""
    write_record(directory, {**record, "parity": {}})
    bundle = Bundle.open(directory)
    golden.write_raw(bundle, sample)
    ranking = Ranking(bundle, _ModelGraphs(bundle, graphs))
    ranked = save_golden(ranking)
    _check_scores(record["model"], served, ranking.encode(ranked.requests), bundle)
    known = {
        name: digest
        for name, digest in bundle.artifact.digests.items()
        if not name.startswith(f"{FOLDER}/")
    }
    write_record(directory, {**record, "parity": {}}, known)
    parity = {"jax": golden.largest_difference(directory, "ranking.ranker", "Ranker")}
    if all("onnx" in graph for graph in record["graphs"].values()) and _version("onnxruntime"):
        try:
            parity["onnx"] = golden.largest_difference(directory, "serving.reader", "Reader")
        except InputError as error:
            record = {**record, "graphs": _without_onnx(record["graphs"], str(error), directory)}
    write_record(directory, {**record, "parity": parity}, known)
    return {f"largest difference, {name}": value for name, value in parity.items()}


def _without_onnx(graphs: dict[str, Any], problem: str, directory: Path) -> dict[str, Any]:
    """Removes graphs that do not compute what the model does, which bfloat16 may lead to."""
    logger.warning("no ONNX form: %s", problem)
    result = {}
    for name, graph in graphs.items():
        (directory / graph["onnx"]).unlink()
        kept = {key: value for key, value in graph.items() if key != "onnx"}
        result[name] = {**kept, "onnx_error": problem}
    return result


def _check_scores(
    model: str, served: ServedModel, query: dict[str, np.ndarray], bundle: Bundle
) -> None:
    index = {
        name.replace("index/", "item/"): array[1 : 1 + ITEMS_TO_CHECK]
        for name, array in bundle.arrays.items()
        if name.startswith("index/")
    }
    if problem := served.contradiction({**query, **index}):
        raise InputError(
            f"model '{model}' contradicts itself: {problem}. Lists and the whole corpus would be "
            f"ranked differently, or otherwise than in evaluation: correct its class."
        )


def write_record(
    directory: Path, record: dict[str, Any], known: Mapping[str, str] | None = None
) -> None:
    """Writes `bundle.json`, which makes what lies in a directory a bundle.

    Args:
      directory: of the bundle.
      record: what it says besides.
      known: digests of files that are not read for it, see `artifact.write`.
    """
    (directory / KIND.file).unlink(missing_ok=True)
    folders = [path.name for path in sorted(directory.iterdir()) if path.is_dir()]
    folders = [name for name in folders if name != "scratch"]
    sizes = {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for folder in folders
        for path in sorted((directory / folder).rglob("*"))
        if path.is_file()
    }
    artifact.write(KIND, directory, {**record, "sizes": sizes}, folders, known=known)


class _ModelGraphs(Graphs):
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
