"""The speed benchmarks run, agree with their peers, and leave the keys that readers look for."""

import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.benchmarks import input as input_benchmark
from experiments.benchmarks import (
    prepare,
    roofline,
    scatter,
    score,
    score_corpus,
    searches,
    state,
    train_step,
    update,
    vmap_sweep,
)
from experiments.benchmarks.workload import (
    BenchmarkTrainer,
    make_batch,
    make_workload,
    one_row_per_impression,
)
from interactrank_jax.tables import lookup
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.long  # scripts as a whole, their peers included

RECORD = {"seed", "options", "versions", "load_average"}


def run(benchmark, tmp_path, *flags):
    """Runs a benchmark in quick mode; returns its figures and the record it wrote."""
    file = tmp_path / "record.json"
    figures = benchmark.main(["--quick", f"--json={file}", *flags])
    record = json.loads(file.read_text())
    assert record.keys() >= RECORD
    assert record.items() >= json.loads(json.dumps(figures)).items()
    return figures, record


def test_train_step_leaves_the_keys_of_the_issue(tmp_path):
    figures, record = run(train_step, tmp_path, "--tables", "adagrad")
    speedups = {f"speedup_vs_torch_{peer}_1m" for peer in ("dense", "sparse", "request_batches")}
    expected = {"impressions_per_s_ours_10k", "impressions_per_s_ours_1m"} | speedups
    assert figures.keys() >= expected | {"step_time_ratio_10m_over_10k"}
    assert record["config"]["model"]["name"] == "interactrank"
    missing = train_step.pytorch is None
    assert ("torch_1m" in record["skipped"]) == missing
    for name in speedups:  # no peer, no figure: never a made-up one
        assert (figures[name] is None) == missing
    assert all(value is None or value > 0 for value in figures.values())


def test_vmap_sweep_compares_the_same_work(tmp_path):
    figures, record = run(vmap_sweep, tmp_path)
    assert figures["throughput_ratio"] == figures["throughput_ratio_by_models"]["small"]["2"]
    rates, seconds = figures["examples_per_s"]["small"]["2"], record["seconds_per_batch"]["small_2"]
    assert rates.keys() == seconds.keys() == {"one_by_one", "together"}
    assert all(rates[way] > 0 for way in rates)
    # With one round its ratio is that of the rates.
    assert figures["throughput_ratio"] == pytest.approx(rates["together"] / rates["one_by_one"])


def test_roofline_counts_work_and_finds_no_copy_of_a_table(tmp_path):
    figures, _ = run(roofline, tmp_path)
    assert figures["gflop_per_step"] > 0
    # XLA counts tables whole wherever they are indexed; what moves is less.
    assert 0 < figures["gb_per_step"] < figures["gb_counted_by_xla"]
    assert figures["matmul_gflop_per_s"] > 0
    assert figures["table_copies"] == 0
    assert figures["aliased_share_of_output"] > 0.99  # the state is updated where it lies


def test_score_leaves_the_keys_of_the_corpus_and_its_peers_agree(tmp_path):
    figures, record = run(score, tmp_path, "--parts", "corpus")
    assert figures.keys() == {
        "corpus_speedup_vs_best_peer",
        "corpus_speedup_vs_jax_top_k",
        "corpus_fraction_of_matmul",
        "growth_items",
        "corpus",
    }
    assert record["corpus"].keys() == {"3x2000", "8x2000", "3x6000", "8x6000"}
    for cell in figures["corpus"].values():
        rates = cell["million_candidates_per_s"]
        for name in ("ours", "numpy", "jax", "matmul_numpy", "matmul_jax"):
            assert rates[name] > 0
        for name, package in (("torch", "torch"), ("faiss", "faiss"), ("usearch", "usearch")):
            # No peer, no figure: never a made-up one.
            assert (rates[name] is None) == (importlib.util.find_spec(package) is None)
        assert cell["ceiling_gb_per_s"] > 0


def test_score_says_what_fewer_bits_weigh_and_lose(tmp_path):
    figures, _ = run(score, tmp_path, "--parts", "formats")
    for of_kind in figures["formats"].values():
        assert [of_kind[name]["bytes"] for name in ("float32", "bfloat16", "int8")] == [
            256,
            128,
            68,
        ]
        for name, of_format in of_kind.items():
            assert of_format["recall"]["4"] == 1
            assert of_format["recall"]["1"] > (1 - 1e-9 if name == "float32" else 0.9)


def test_an_engine_that_finds_other_items_ends_the_benchmark():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((101, 64), dtype=np.float32)
    engines = score_corpus.make_engines(vectors, 5)
    engines = {name: engines[name] for name in ("ours", "numpy")}
    queries = vectors[:3]
    seconds = score_corpus.take_turns(engines, queries, vectors, 1)
    assert all(len(times) == 1 for times in seconds.values())
    engines["numpy"] = lambda queries: np.tile(np.arange(5), (len(queries), 1))
    with pytest.raises(RuntimeError, match="numpy found other items"):
        score_corpus.take_turns(engines, queries, vectors, 1)


def test_a_copied_table_is_found():
    table = jax.numpy.zeros((1500, 32))

    def both(table):  # old and new are wanted, so the new one cannot take the old one's place
        return table.at[3].set(1.0), table

    text = jax.jit(both, donate_argnums=0).lower(table).compile().as_text()
    assert roofline.table_copies(text, 1500)
    assert not roofline.table_copies(text, 1501)


def test_scatter_methods_agree_and_are_timed(tmp_path):
    figures, _ = run(scatter, tmp_path)
    assert figures.keys() == {
        f"ms_{method}_{rows}_rows" for method in scatter.METHODS for rows in (2, 25)
    }


def test_input_is_measured_with_its_peer_and_with_training(tmp_path, tiny_examples):
    figures, _ = run(input_benchmark, tmp_path, f"--examples={tiny_examples}")
    assert 0 < figures["share_of_training_waiting_for_input"] < 1
    assert figures["ratio"] > 1


def test_state_equals_pandas_and_leaves_the_keys_of_the_issue(tmp_path):
    figures, record = run(state, tmp_path, "--no_spark")
    assert figures["rows_per_s"] > 0
    assert 0 < figures["peak_gib"] < 4
    assert figures["speedup_vs_pandas"] > 0
    assert figures["largest_difference_from_pandas"] == 0
    assert figures["engines_equal"] is None
    assert record["runs"].keys() >= {"20000", "40000"}


def test_prepare_is_measured_in_a_process_of_its_own(tmp_path):
    figures, record = run(prepare, tmp_path)
    assert figures["rows_per_s_50k"] > 0
    assert figures["peak_gib_50k"] > 0.05
    phases = record["runs"]["50k"]["ours"][0]["phases"]
    assert {"validate", "state", "candidates", "metadata"} <= phases.keys()
    assert sum(phases.values()) == pytest.approx(figures["seconds_50k"], rel=0.02)


def test_rows_per_impression_are_the_same_impressions():
    workload = make_workload(1_500)
    batch = make_batch(workload, 8, seed=1)
    rows = one_row_per_impression(batch)
    assert rows["mask"].shape == (80, 1)
    np.testing.assert_array_equal(rows["item"].reshape(8, 10), batch["item"])
    np.testing.assert_array_equal(rows["cross"].reshape(batch["cross"].shape), batch["cross"])
    for row in (0, 9):
        np.testing.assert_array_equal(rows["history_item"][row], batch["history_item"][0])
    assert (rows["user"][10:20] == batch["user"][1]).all()


def test_ids_are_zipf_distributed_and_distinct_in_a_slate():
    workload = make_workload(1_500)
    batch = make_batch(workload, 2_000, seed=1)
    assert all(len(set(slate)) == 10 for slate in batch["item"].tolist())
    count = np.sort(np.bincount(batch["history_item"][batch["history_item"] > 0]))[::-1]
    # The second and the tenth most frequent: a half and a tenth of the first, roughly.
    assert 1.5 < count[0] / count[1] < 2.5
    assert 6 < count[0] / count[9] < 15


def test_training_benchmarks_need_neither_grain_nor_duckdb():
    code = (
        "import sys\n"
        "for name in ('grain', 'duckdb', 'ibis'): sys.modules[name] = None\n"
        "import experiments.benchmarks.train_step, experiments.benchmarks.roofline\n"
        "import experiments.benchmarks.scatter\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


@pytest.mark.slow  # seven processes, each of which compiles
def test_gpu_script_runs_on_a_cpu_too(tmp_path):
    script = REPOSITORY / "experiments/benchmarks/gpu.sh"
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"}
    subprocess.run(["bash", script, tmp_path, "--quick"], check=True, env=environment)
    assert {path.stem for path in tmp_path.glob("*.json")} >= {"train_step", "roofline", "scatter"}


class TestPeer:
    """The PyTorch model does the same work as ours."""

    @pytest.fixture(scope="class", params=[False, True], ids=["plain", "layer norm"])
    def pair(self, request):
        pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[bench]'")
        from experiments.benchmarks.torch_interactrank import TorchTrainer

        workload = make_workload(1_500, small=True)
        workload.config.train.loss.impression_sampling = 1.0
        workload.config.model.tower.masknet.dropout = 0.0
        workload.config.model.tower.layer_norm = request.param
        ours, peer = BenchmarkTrainer(workload), TorchTrainer(workload, sparse=True)
        state = ours.snapshot()
        peer.model.load(state.params, state.tables)
        return workload, ours, peer, state

    def test_logits_are_equal(self, pair):
        workload, ours, peer, state = pair
        batch, inputs = make_batch(workload, 8, seed=5), ours.run.inputs
        store = lookup.item_store(workload.store)
        request = lookup.embed_requests(state.tables, batch, store, inputs)
        items = lookup.embed_items(state.tables, batch["item"], store, inputs)
        expected = ours.run.model.apply({"params": state.params}, request, items, batch["cross"])
        logits = peer.model(peer.model.convert(batch)).detach().numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        rows = peer.model(peer.model.convert(one_row_per_impression(batch))).detach().numpy()
        np.testing.assert_allclose(rows.reshape(logits.shape), expected, atol=1e-4)

    def test_losses_gradient_and_updated_rows_are_equal(self, pair):
        workload, ours, peer, _ = pair
        batch = make_batch(workload, 8, seed=6)
        tensors = peer.model.convert(batch)
        loss, terms = peer.model.loss(tensors)
        before = peer.model.tables["item"].detach().clone()
        norm = peer.step(tensors)
        ours.run_steps([batch])
        after = ours.snapshot()
        np.testing.assert_allclose(loss.item(), after.sums["loss"], rtol=1e-4)
        for name, value in terms.items():
            np.testing.assert_allclose(value.item(), after.sums[name], rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(norm.item(), after.sums["gradient_norm"], rtol=1e-4)
        moved = (peer.model.tables["item"] != before).any(1).numpy()
        changed = (after.tables["item"] != before.numpy()).any(1)
        assert moved.sum() > 100
        np.testing.assert_array_equal(moved, changed)


def test_update_benchmark(tmp_path):
    figures = update.main(["--quick", f"--json={tmp_path / 'update.json'}"])
    record = json.loads((tmp_path / "update.json").read_text())
    assert record["peak_over_table"].keys() == {"export", "index", "open"}
    assert figures["update_over_rebuild"] > 0
    assert record["runs"]["1000"]["open_updated"]["seconds"] < 30


def test_growth_of_memory_is_what_more_items_add():
    def run(table, peak):
        stations = ("export", "index", "open", "open_updated", "update", "compact")
        measured = {name: {"seconds": 2.0, "peak_gib": peak} for name in stations}
        measured["export"] = measured["export"] | {"table_gib": table}
        return measured

    figures = update.summary({"10": run(1.0, 5.0), "30": run(3.0, 6.0)})
    assert figures["items"] == 30
    assert figures["peak_over_table"]["export"] == 2.0
    assert set(figures["peak_growth_over_table"].values()) == {0.5}
    assert "peak_growth_over_table" not in update.summary({"10": run(1.0, 5.0)})


def test_searches_gain_and_a_study_costs_milliseconds(tmp_path):
    figures, _ = run(searches, tmp_path)
    assert set(figures["gain_mean_and_standard_error"]["8"]) == {"stages", "tpe", "random"}
    assert 0 < figures["study_ms_per_trial"]["10"] < 5000
    trials = figures["grid_sampler_trials_of_12_points"]
    assert trials["1"] == 12 <= trials["4"]


def test_a_slow_peer_is_left_out_and_one_that_is_not_there_is_none():
    rates = {"ours": 500.0, "numpy": 100.0, "faiss": 200.0, "torch": None, "usearch": 49.0}
    assert score_corpus.slow_peers({"million_candidates_per_s": rates}) == ["usearch"]
