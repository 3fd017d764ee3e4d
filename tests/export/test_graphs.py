"""Every decoupled model computes the same in both formats, at any size of its dimensions."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax.examples.format import PADDING, Examples
from interactrank_jax.export import formats
from interactrank_jax.export.formats import write_graphs
from interactrank_jax.export.graphs import INDEX, STORE, TABLE, Graph, ServedModel
from interactrank_jax.io.errors import InputError
from interactrank_jax.models.fit import FIT
from interactrank_jax.models.registry import MODELS
from interactrank_jax.models.two_tower import TwoTower
from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.serving.reader import Reader
from tests.log.handmade_log import make_tables
from tests.marks import some_quick
from tests.models.model_case import CASES, UTILITY, Case
from tests.serving.making import ITEMS, assert_scores, candidates, events, make_config, make_run
from tests.serving.making import requests as new_requests

SIZES = [
    {"requests": 1, "candidates": 1, "items": 2, "tile": 1},
    {"requests": 3, "candidates": 5, "items": 11, "tile": 7},
    {"requests": 6, "candidates": 2, "items": 40, "tile": 6},
]
QUICK = ("interactrank", "fit")
DECOUPLED = [name for name, (model, _) in CASES.items() if MODELS[model].model.is_decoupled]


def draw_inputs(case: Case, graph: Graph, sizes: dict[str, int], rng) -> dict[str, np.ndarray]:
    """Returns arrays for a graph; rows are of the tables and of the items that there are."""
    features = {feature.name: feature for feature in case.inputs.request + case.inputs.item}
    arrays = {}
    for name, spec in graph.inputs.items():
        shape = [sizes.get(size, size) for size in spec.shape]
        if name.startswith(TABLE):
            arrays[name] = case.tables[name.removeprefix(TABLE)]
            continue
        if not spec.dtype.startswith("int"):
            arrays[name] = rng.normal(size=shape).astype(spec.dtype)
            if name == "cross":
                arrays[name] = np.abs(arrays[name])
            if name == "history_age":
                arrays[name] = np.abs(100 * arrays[name])
            continue
        bare = {"user": "user_id", "query": "query_id", f"{STORE}id": "item_id"}.get(
            name, name.partition("/")[2]
        )
        table = getattr(features.get(bare), "table", "")
        bound = case.tables[table].shape[0] if table else 3
        if name == "row" or name.endswith("_item"):
            bound = sizes["items"]
        arrays[name] = rng.integers(0, bound, shape).astype(spec.dtype)
        if name.startswith((INDEX, "item/")):  # the number of a meta query
            arrays[name] = rng.integers(0, case.model.number_limit(), shape).astype(spec.dtype)
    if "history_action" in arrays:  # one of the actions where there is an item
        is_event = arrays["history_item"] != PADDING
        arrays["history_action"] = np.where(is_event, 1 + arrays["history_action"] % 2, 0)
        arrays["history_action"] = arrays["history_action"].astype(np.int32)
    return arrays


def check(name: str, path, examples: Examples, all_sizes: list[dict[str, int]]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    case, rng = Case(name, examples), np.random.default_rng(0)
    shapes = {table: array.shape for table, array in case.tables.items()}
    encoder = examples.metadata.encoder
    served = ServedModel(case.model, case.params, shapes, encoder, UTILITY)
    graphs = served.graphs()
    record = write_graphs(graphs, path / "graphs")
    for graph_name, graph in graphs.items():
        entry = record[graph_name]
        exported = jax.export.deserialize(bytearray((path / entry["jax"]).read_bytes()))
        assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
        session, tolerance = None, 1e-5
        if name == "bfloat16":  # whose products the runtime does not have
            tolerance = 1e-2
        else:
            assert "onnx" in entry, f"{graph_name}: {entry.get('onnx_error')}"
            session = onnxruntime.InferenceSession((path / entry["onnx"]).read_bytes())
        for sizes in all_sizes:
            arrays = draw_inputs(case, graph, sizes, rng)
            expected = jax.jit(graph.function)({n: jnp.asarray(a) for n, a in arrays.items()})
            expected = [np.asarray(array) for array in expected]
            results = {"jax": jax.jit(exported.call)(*arrays.values())}
            if session is not None:
                feed = {node.name: arrays[node.name] for node in session.get_inputs()}
                results["onnx"] = session.run(None, feed)
            for form, outputs in results.items():
                for output, array, other in zip(graph.outputs, outputs, expected, strict=True):
                    assert array.shape == other.shape
                    assert str(array.dtype) == str(other.dtype)
                    pair = [np.asarray(values, np.float64) for values in (array, other)]
                    where = f"{form} {graph_name} {output} {sizes}"
                    np.testing.assert_allclose(*pair, tolerance, tolerance, err_msg=where)


@pytest.mark.long  # compiles every graph twice
@pytest.mark.parametrize("name", some_quick(QUICK, QUICK[:1], QUICK))
def test_both_formats_compute_what_the_model_does(name, tmp_path, examples_path):
    check(name, tmp_path, Examples(examples_path), [SIZES[0], SIZES[2]])


@pytest.mark.thorough  # all models, all sizes
@pytest.mark.parametrize("name", DECOUPLED)
def test_both_formats_compute_what_every_model_does(name, tmp_path, examples_path):
    check(name, tmp_path, Examples(examples_path), SIZES)


@pytest.mark.long  # compiles many small programs
def test_the_graphs_are_the_models_own_scores(examples_path):
    """Encoded, indexed and scored by the graphs, a slate has the scores of the model's call."""
    case = Case("interactrank", Examples(examples_path))
    shapes = {table: array.shape for table, array in case.tables.items()}
    encoder = Examples(examples_path).metadata.encoder
    graphs = ServedModel(case.model, case.params, shapes, encoder, UTILITY).graphs()
    arrays = {f"{TABLE}{name}": table for name, table in case.tables.items()}
    arrays |= {f"{STORE}{name}": values for name, values in case.store.items()}
    names = graphs["encode_item"].inputs
    leaves = graphs["encode_item"].function({name: arrays[name] for name in names})
    arrays |= {f"{INDEX}{number}": leaf for number, leaf in enumerate(leaves)}
    arrays |= {**case.batch, "row": case.batch["item"]}
    names = graphs["score_list"].inputs
    score, logits = graphs["score_list"].function({name: arrays[name] for name in names})
    mask = case.batch["mask"]
    np.testing.assert_allclose(logits[mask], case()["call"][mask], atol=1e-5)
    np.testing.assert_allclose(score, logits @ np.asarray(UTILITY), atol=1e-5)
    assert (case.batch["item"][mask] != PADDING).all()


class Sloped(TwoTower):
    """Whose scores depend on cross features, which it does not say."""

    def score(self, query, items, cross):
        return super().score(query, items, cross) + cross.sum(-1, keepdims=True)


class Shifted(TwoTower):
    """Who ranks lists otherwise than the corpus."""

    def score(self, query, items, cross):
        return super().score(query, items, cross) + 1.0


class Lifted(FIT):
    """Who scores lists otherwise than one request with all items."""

    def score(self, query, items, cross):
        return super().score(query, items, cross) + 1.0


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("two_tower", None, None),
        ("fit", None, None),
        ("fit", Lifted, "`score_one` gives other scores than `score` does"),
        ("two_tower", Sloped, "`score` depends on cross features, although `uses_cross` is False"),
        ("two_tower", Shifted, "`rank_all` gives other scores than `score` does"),
    ],
)
def test_a_model_that_contradicts_itself(name, model, expected, examples_path):
    case = Case(name, Examples(examples_path))
    shapes = {table: array.shape for table, array in case.tables.items()}
    encoder = Examples(examples_path).metadata.encoder
    checked = case.model if model is None else model(case.model.config, case.model.inputs)
    served = ServedModel(checked, case.params, shapes, encoder, UTILITY)
    rng = np.random.default_rng(0)
    inputs = served.graphs()["score_all"].inputs
    sizes = {"requests": 3, "tile": 5}
    arrays = {
        name: np.abs(rng.normal(size=[sizes.get(n, n) for n in spec.shape])).astype(spec.dtype)
        for name, spec in inputs.items()
    }
    contradiction = served.contradiction(arrays)
    assert contradiction == expected or contradiction.startswith(expected)


def test_what_the_converter_cannot_is_recorded(tmp_path, examples_path, monkeypatch, caplog):
    case = Case("two_tower", Examples(examples_path))
    shapes = {table: array.shape for table, array in case.tables.items()}
    encoder = Examples(examples_path).metadata.encoder
    graphs = ServedModel(case.model, case.params, shapes, encoder, UTILITY).graphs()

    def fails(*arguments, **options):
        raise NotImplementedError("no plugin for primitive 'erf_inv'\nand more lines")

    monkeypatch.setattr(formats, "_converter", lambda: fails)
    with caplog.at_level(logging.WARNING):
        record = write_graphs(graphs, tmp_path / "graphs")
    for name, entry in record.items():
        assert entry["onnx_error"] == "the converter failed: no plugin for primitive 'erf_inv'"
        assert "onnx" not in entry
        assert (tmp_path / entry["jax"]).is_file()
        assert f"no ONNX form of {name}: the converter failed" in caplog.text


def test_without_the_converter(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jax2onnx", None)
    with pytest.raises(InputError, match="exporting ONNX needs jax2onnx: pip install"):
        write_graphs({}, tmp_path / "graphs")
    assert write_graphs({}, tmp_path / "others", onnx=False) == {}


@pytest.mark.long  # exports graphs
def test_a_bundle_without_onnx_says_so(served, tmp_path):
    path = served.export("without-onnx", onnx=False)
    with pytest.raises(InputError, match=r"no ONNX form of 'encode_item|no ONNX form of"):
        Reader(path)
    with pytest.raises(InputError, match=r"it was exported without ONNX. Rank with"):
        Reader(path)
    assert len(Ranker(path).rank(new_requests(), k=3)) == 9


@pytest.mark.thorough  # a run of its own, of each model
@pytest.mark.parametrize(
    ("name", "fields"),
    [("fit", {}), ("interactfit", {}), ("two_tower", {}), ("inttower", {})],
)
def test_a_whole_bundle(name, fields, tmp_path):
    config = make_config(name)
    config.model.update(fields)
    made = make_run(tmp_path / "made", config, make_tables(120))
    path = made.export("bundle")
    ranker, reader = Ranker(path, verify=True), Reader(path, verify=True)
    asked, listed = new_requests(20), candidates(20, ITEMS)
    corpus = ranker.rank(asked, None, events(), k=ITEMS)
    assert_scores(ranker.rank(asked, listed, events()), corpus)
    assert_scores(reader.rank(asked, listed, events()), corpus)
    assert_scores(reader.rank(asked, None, events(), k=ITEMS), corpus)


@pytest.mark.thorough  # a run of its own
def test_a_model_that_onnxruntime_computes_otherwise(tmp_path):
    """The sums of bfloat16 depend on who adds: jax has the model's scores, and ONNX is none."""
    config = make_config("interactrank")
    config.model.dtype = "bfloat16"
    made = make_run(tmp_path / "made", config, make_tables(120))
    path = made.export("bundle")
    ranker = Ranker(path, verify=True)
    assert len(ranker.rank(new_requests(20), k=ITEMS)) == 20 * ITEMS
    assert set(ranker.bundle["parity"]) == {"jax"}
    assert not list(path.rglob("*.onnx"))
    message = "no ONNX form of 'encode_query': .*(differ|does not run it).*Rank with"
    with pytest.raises(InputError, match=message) as raised:
        Reader(path)
    assert "partial" not in str(raised.value)
