"""A bundle of many items: export, an update of 1% of them, opening; seconds, and peak memory.

    python -m experiments.benchmarks.update --items 1000000 10000000 --out=runs/benchmarks

The model is full InteractRank of the `search` config, trained for a moment on the simulator's
smallest log; its items, 64 numbers each, are that log's under new ids, as often as it takes. An
update changes .6% of them, adds .2% and deletes .2%; a rebuild is an export with the same items.
Each is run in a process of its own. Its peak counts what it maps and reads, and is divided by the
size of the table, the representations of the items. A process without items takes some .6 GiB; what
grows with the items is in `peak_growth_over_table`.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.benchmarks import reporting
from interactrank_jax import configs
from interactrank_jax.examples.format import STATE, Examples, write_metadata
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.export.compact import compact
from interactrank_jax.export.export import export
from interactrank_jax.export.update import update_items
from interactrank_jax.io import files
from interactrank_jax.log.simulator.simulate import simulate
from interactrank_jax.ranking.index import Index, build_index
from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.runs.run import Run
from interactrank_jax.training.trainer import Trainer

ITEMS = (1_000_000, 10_000_000)
CHANGED, ADDED, DELETED = 0.006, 0.002, 0.002
CHUNK = 1 << 20


def make_run(seed: int, place: Path) -> Path:
    """Writes a log, its examples and a run of a few steps below `place`; returns the run."""
    simulate("tiny", seed, place / "log")
    config = configs.interactrank("search")
    prepare(config.data, place / "log", place / "examples")
    config.train.affine.fit = False
    Trainer(config, place / "examples", workdir=place / "run").fit(steps=2)
    return place / "run"


def write_items(log: Path, first: int, end: int, file: Path) -> Path:
    """Writes items with the numbers from `first` to `end`, with features of the log's."""
    some = pq.read_table(log / "items")
    with pq.ParquetWriter(file, some.schema) as writer:
        for start in range(first, end, CHUNK):
            number = np.arange(start, min(start + CHUNK, end))
            table = some.take(pa.array(number % len(some)))
            column = some.column_names.index("item_id")
            ids = pa.array([f"x{n:09}" for n in number]).cast(some.schema.field(column).type)
            writer.write_table(table.set_column(column, some.schema.field(column), ids))
    return file


def grow_examples(source: Path, items: int, out: Path) -> Path:
    """Copies examples, with so many items in the store."""
    shutil.copytree(source, out, ignore=shutil.ignore_patterns(STATE))
    for path in (out / "items").glob("*.npy"):
        array = np.load(path)
        shape = (1 + items, *array.shape[1:])
        with files.ArrayWriter(path, shape, array.dtype) as writer:
            writer.write(array[:1])
            for start in range(0, items, CHUNK):
                number = np.arange(start, min(start + CHUNK, items))
                writer.write(array[1 + number % (len(array) - 1)])
    ids = pa.chunked_array([pa.array([None, *(f"x{n:09}" for n in range(items))])])
    pq.write_table(pa.table({"item_id": ids}), out / "items" / "ids.parquet")
    write_metadata(out, Examples(source).metadata)
    return out


def run_export(place: Path, items: Path, out: Path) -> dict[str, float]:
    """Exports; returns seconds, peak memory and the table's size in GiB."""
    start = time.perf_counter()
    state = place / "examples" / STATE
    export(place / "run", state, out, items=items, onnx=False, memory="1GB")
    return _figures(start) | {"table_gib": _table_gib(out)}


def run_update(bundle: Path, items: Path, delete: Path, out: Path) -> dict[str, float]:
    """Updates; returns seconds, peak memory and what the delta takes on disk, in GiB."""
    start = time.perf_counter()
    update_items(bundle, items, out, delete=delete)
    sizes = (path.stat().st_size for path in (out / "delta").rglob("*"))
    return _figures(start) | {"delta_gib": sum(sizes) / 2**30}


def run_compact(bundle: Path, out: Path) -> dict[str, float]:
    """Writes the arrays anew; returns seconds and peak memory in GiB."""
    start = time.perf_counter()
    compact(bundle, out)
    return _figures(start)


def run_open(bundle: Path, log: Path) -> dict[str, float]:
    """Opens a bundle and ranks 1,000 candidates; returns seconds and peak memory in GiB."""
    jax.device_put(np.zeros(1))  # jax starts
    start = time.perf_counter()
    ranker = Ranker(bundle)
    opened = _figures(start)
    assert ranker.bundle.arrays
    mapped = time.perf_counter() - start
    requests = pq.read_table(log / "requests").slice(0, 1)
    step = max((ranker.bundle["items"] - 1) // 1000, 1)
    row = 1 + step * np.arange(1000) % (ranker.bundle["items"] - 1)
    request_id = requests["request_id"].take(pa.array(np.zeros(len(row), np.int64)))
    candidates = {"request_id": request_id, "item_id": ranker.bundle.ids_of(row)}
    ranker.rank(requests, pa.table(candidates))
    return opened | {"mapped": mapped, "peak_gib_ranking": reporting.peak_gib()}


def run_index(workdir: Path, examples: Path, out: Path) -> dict[str, float]:
    """Builds and opens an index; returns seconds of each and peak memory in GiB."""
    start = time.perf_counter()
    build_index(workdir, examples, out)
    built = _figures(start)
    run = Run.open(workdir)
    model, _ = run.restore_model()
    start = time.perf_counter()
    Index(out, run, model, Examples(examples))
    return built | {"open": time.perf_counter() - start, "peak_gib_open": reporting.peak_gib()}


def _figures(start: float) -> dict[str, float]:
    return {"seconds": time.perf_counter() - start, "peak_gib": reporting.peak_gib()}


def _table_gib(bundle: Path) -> float:
    return sum(path.stat().st_size for path in (bundle / "index").glob("*.npy")) / 2**30


def measure(items: int, repeats: int, place: Path, scratch: Path) -> dict[str, Any]:
    """Measures all stations with so many items; returns their figures by name."""
    log, bundle = place / "log", scratch / "bundle"
    given = write_items(log, 0, items, scratch / "items.parquet")
    result = {"export": reporting.apart(run_export, place, given, bundle)}
    given.unlink()
    changed, added, deleted = (max(int(items * s), 1) for s in (CHANGED, ADDED, DELETED))
    rng = np.random.default_rng(0)
    number = rng.permutation(items)[: changed + deleted]
    some = write_items(log, items, items + changed + added, scratch / "some.parquet")
    table = pq.read_table(some)
    ids = [f"x{n:09}" for n in number]
    names = pa.array([*ids[:changed], *table["item_id"][changed:].to_pylist()])
    column = table.column_names.index("item_id")
    pq.write_table(table.set_column(column, "item_id", names), some)
    gone = scratch / "gone.parquet"
    pq.write_table(pa.table({"item_id": ids[changed:]}), gone)
    updates = [
        reporting.apart(run_update, bundle, some, gone, scratch / f"updated-{repeat}")
        for repeat in range(repeats)
    ]
    updates.sort(key=lambda figures: figures["seconds"])
    updated = scratch / "updated-0"
    result |= {"update": updates[len(updates) // 2], "updates": updates}
    result["open"] = reporting.apart(run_open, bundle, log)
    result["open_updated"] = reporting.apart(run_open, updated, log)
    result["compact"] = reporting.apart(run_compact, updated, scratch / "compact")
    shutil.rmtree(scratch / "compact")
    examples = grow_examples(place / "examples", items, scratch / "examples")
    result["index"] = reporting.apart(run_index, place / "run", examples, scratch / "index")
    return result


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints and returns the figures."""
    parser = reporting.parser(__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=list(ITEMS), help="of each bundle")
    parser.add_argument("--repeats", type=int, default=3, help="of the update")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.items, arguments.repeats = [1_000], 1
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=arguments.out) as directory:
        place = Path(directory)
        make_run(arguments.seed, place)
        for items in arguments.items:
            with tempfile.TemporaryDirectory(dir=place) as scratch:
                runs[str(items)] = result = measure(items, arguments.repeats, place, Path(scratch))
            print(f"{items:>12,} items: {result}", flush=True)
    figures = summary(runs)
    reporting.report("update", arguments, figures, runs=runs)
    return figures


def summary(runs: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of the most items, and how those before grew to them."""
    *before, last = runs.values()
    stations = ("export", "index", "open")
    table = last["export"]["table_gib"]
    figures: dict[str, Any] = {
        "items": int(list(runs)[-1]),
        "update_over_rebuild": last["update"]["seconds"] / last["export"]["seconds"],
        "compact_over_rebuild": last["compact"]["seconds"] / last["export"]["seconds"],
        "seconds": {
            name: last[name]["seconds"]
            for name in ("export", "update", "compact", "index", "open", "open_updated")
        },
        "peak_over_table": {name: last[name]["peak_gib"] / table for name in stations},
    }
    if before:
        first = before[0]
        figures["peak_growth_over_table"] = {
            name: (last[name]["peak_gib"] - first[name]["peak_gib"])
            / (table - first["export"]["table_gib"])
            for name in (*stations, "update", "compact")
        }
    return figures


if __name__ == "__main__":
    main()
