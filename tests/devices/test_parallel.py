"""One device and four, `pmap` and `shard_map`: the same step, the same evaluation."""

import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from tests.conftest import REPOSITORY
from tests.devices.device_worker import (
    DEVICES,
    FLAG,
    KINDS,
    LONG_ROWS,
    RESTORES,
    RUNS,
    STEPS,
    TABLE_SIZES,
)

FIRST, *OTHERS = RUNS
SHARDED = [name for name, (_, _, shards) in RUNS.items() if shards > 1]


@pytest.fixture(scope="module")
def result(examples_path, tmp_path_factory):
    """What `device_worker` found: arrays by name."""
    file = tmp_path_factory.mktemp("devices") / "result.npz"
    subprocess.run(
        [sys.executable, "-m", "tests.devices.device_worker", str(examples_path), str(file)],
        cwd=REPOSITORY,
        env={**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {FLAG}"},
        check=True,
        timeout=300,
    )
    with np.load(file) as arrays:
        return dict(arrays)


def under(result, prefix):
    return {key[len(prefix) :]: value for key, value in result.items() if key.startswith(prefix)}


@pytest.mark.thorough  # a process that compiles everything for four devices
@pytest.mark.devices
class TestDevices:
    @pytest.mark.parametrize("run", OTHERS)
    def test_the_initial_state_is_the_same(self, result, run):
        expected, found = under(result, f"{FIRST}/initial"), under(result, f"{run}/initial")
        assert set(found) == set(expected)
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)

    @pytest.mark.parametrize("run", OTHERS)
    def test_one_step_gives_the_same_state(self, result, run):
        expected, found = under(result, f"{FIRST}/first"), under(result, f"{run}/first")
        assert set(found) == set(expected)
        assert sum(key.startswith(".sums") for key in found) >= 8
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5, err_msg=key)

    @pytest.mark.parametrize("run", [name for name in RUNS if name not in SHARDED])
    def test_steps_move_tables_parameters_and_sums(self, result, run):
        first, last = under(result, f"{run}/first"), under(result, f"{run}/device0")
        assert first[".step"] == 1
        assert last[".step"] == last[".sums['steps']"] == STEPS
        for key in first:
            if key.startswith((".params", ".tables", ".sums")):
                assert (first[key] != last[key]).any(), key

    @pytest.mark.parametrize("kind", KINDS)
    def test_replicas_are_bit_identical_after_several_steps(self, result, kind):
        first = under(result, f"{kind}{DEVICES}/device0")
        assert any(key.startswith(".tables") for key in first)
        for device in range(1, DEVICES):
            copy = under(result, f"{kind}{DEVICES}/device{device}")
            assert set(copy) == set(first)
            for key, value in first.items():
                np.testing.assert_array_equal(copy[key], value, err_msg=f"{device} {key}")

    @pytest.mark.parametrize("run", RUNS)
    def test_an_evaluation_counts_every_row_exactly_once(self, result, run, examples_path):
        expected = []
        for block in Examples(examples_path).blocks("test"):
            request = np.broadcast_to(block["request_index"][:, None], block["mask"].shape)
            expected += list(zip(request[block["mask"]], block["item"][block["mask"]], strict=True))
        rows = under(result, f"{run}/rows/")
        assert list(zip(rows["request"], rows["item"], strict=True)) == expected
        assert len(rows["logits"]) == len(expected)

    @pytest.mark.parametrize("run", SHARDED)
    def test_a_device_holds_its_shard_of_a_long_table_and_never_the_whole(self, result, run):
        found = under(result, f"{run}/")
        rows = found["first.tables['item']"].shape[0]
        assert rows >= LONG_ROWS
        shards = RUNS[run][2]
        for what in ("table", "accumulator"):
            assert (found[f"held_{what}"] == rows // shards).all()
        assert found["part_in_program"]
        assert not found["whole_in_program"]

    @pytest.mark.parametrize("run", SHARDED)
    def test_every_shard_is_written_and_its_replicas_stay_bit_identical(self, result, run):
        found, initial = under(result, f"{run}/"), under(result, f"{FIRST}/initial")
        table, part = initial[".tables['item']"], found["held_table"][0]
        starts = found["start_table"]
        assert sorted(set(starts)) == list(range(0, len(table), part))
        for start in set(starts):
            copies = found["shards_table"][starts == start]
            assert (copies[0] != table[start : start + part]).any()
            assert len(copies) == DEVICES // RUNS[run][2]
            for copy in copies:
                np.testing.assert_array_equal(copy, copies[0])

    @pytest.mark.parametrize("number", range(len(RESTORES)), ids=lambda n: "->".join(RESTORES[n]))
    def test_a_checkpoint_is_restored_onto_other_devices_bit_by_bit(self, result, number):
        saved, found = (under(result, f"restore{number}/{what}") for what in ("saved", "found"))
        assert saved[".step"] == STEPS
        for key, value in saved.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)
        devices = RUNS[RESTORES[number][1]][1]
        assert (result[f"restore{number}/devices"] == devices).all()

    @pytest.mark.parametrize("run", OTHERS)
    def test_an_evaluation_gives_the_same_logits_and_figures(self, result, run):
        expected, found = under(result, f"{FIRST}/"), under(result, f"{run}/")
        np.testing.assert_allclose(found["rows/logits"], expected["rows/logits"], atol=1e-5)
        figures = [key for key in expected if key.startswith("figures/")]
        assert "figures/roc_auc" in figures
        for key in figures:
            assert found[key] == pytest.approx(float(expected[key]), abs=1e-5), key

    @pytest.mark.parametrize("size", TABLE_SIZES)
    def test_row_gradients_of_all_devices_update_the_table_as_one(self, result, size):
        assert result[f"reduced{size}/finite"]
        case = under(result, f"reduced{size}/")
        gradient = np.zeros_like(case["table"], dtype=np.float64)
        np.add.at(gradient, case["ids"], case["weight"])
        touched = np.setdiff1d(case["ids"], 0)
        accumulator = np.full(size, 0.1)
        accumulator[touched] += (gradient[touched] ** 2).mean(-1)
        expected = case["table"].astype(np.float64)
        expected[touched] -= 0.1 * gradient[touched] / np.sqrt(accumulator[touched])[:, None]
        np.testing.assert_allclose(case["after"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(case["accumulator"], accumulator, rtol=1e-5)
        others = np.setdiff1d(np.arange(size), touched)
        np.testing.assert_array_equal(case["after"][others], case["table"][others])


@pytest.mark.parametrize("kind", KINDS)
class TestOneDevice:
    def parallel(self, kind):
        return DataParallel(kind, jax.devices()[:1])

    def test_replicating_and_taking_back_changes_nothing(self, kind):
        tree: dict[str, Any] = {
            "a": np.arange(6.0, dtype=np.float32).reshape(2, 3),
            "b": np.int32(4),
        }
        parallel = self.parallel(kind)
        back = parallel.unreplicate(parallel.replicate(tree))
        for name, value in tree.items():
            assert back[name].shape == value.shape
            np.testing.assert_array_equal(back[name], value)

    def test_rows_come_back_in_the_order_of_the_batch(self, kind):
        parallel = self.parallel(kind)
        double = parallel.map_rows(lambda state, batch, store: batch["x"] * state + store)
        batch = {"x": np.arange(8.0, dtype=np.float32).reshape(4, 2)}
        two, one = parallel.replicate(np.float32(2)), parallel.replicate(np.float32(1))
        rows = double(two, batch, one)
        assert isinstance(rows, np.ndarray)
        np.testing.assert_array_equal(rows, 2 * batch["x"] + 1)


def test_a_batch_that_cannot_be_split_is_refused_with_the_remedy():
    parallel = DataParallel("pmap", jax.devices()[:1] * 3)
    with pytest.raises(InputError, match=r"8 requests cannot be split over 3.*multiple"):
        parallel.shard({"x": np.zeros((8, 2))})


@pytest.mark.parametrize("shards", [0, 2, 3])
def test_shards_that_the_devices_cannot_have_are_refused(shards):
    with pytest.raises(InputError, match=r"config\.train\.table_shards is .*power of two"):
        DataParallel("shard_map", jax.devices()[:1], shards=shards)


def test_pmap_cannot_split_tables():
    with pytest.raises(InputError, match=r"only shard_map can split tables"):
        DataParallel("pmap", jax.devices()[:1] * 2, shards=2)
