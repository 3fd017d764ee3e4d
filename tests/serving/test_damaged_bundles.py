"""A bundle that is not what export wrote: an error that names the file."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from interactrank_jax.export.export import write_record
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.serving import bundle as bundle_module
from interactrank_jax.serving.bundle import KIND, Bundle
from interactrank_jax.serving.golden import verify_golden


@pytest.fixture
def copy(served, tmp_path):
    return Path(shutil.copytree(served.bundle, tmp_path / "bundle"))


def all_files(root: Path) -> list[str]:
    paths = (path for path in root.rglob("*") if path.is_file())
    return sorted(path.relative_to(root).as_posix() for path in paths)


def damaged(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
        return
    if damage == "flipped":
        content[len(content) // 2] ^= 8
    elif damage == "truncated":
        del content[-9:]
    else:
        content += b"x"
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "longer", "removed"])
def test_any_file(copy, damage):
    for name in all_files(copy):
        content = (copy / name).read_bytes()
        damaged(copy / name, damage)
        with pytest.raises(InputError) as raised:
            Bundle.open(copy)
        said = str(raised.value)
        assert (name in said) or (name == KIND.file and damage == "removed"), said
        assert "export" in said.lower()
        (copy / name).write_bytes(content)
    Bundle.open(copy)


def test_a_large_file_is_compared_on_request(copy, monkeypatch):
    """Opening one reads no more of it than its size."""
    monkeypatch.setattr(bundle_module, "SMALL", 100)
    damaged(copy / "tables" / "item.npy", "flipped")
    Bundle.open(copy)
    with pytest.raises(InputError, match=r"tables/item\.npy is damaged: its checksum"):
        Bundle.open(copy, verify=True)
    damaged(copy / "tables" / "item.npy", "truncated")
    with pytest.raises(InputError, match=r"tables/item\.npy has [\d,]+ bytes, it had"):
        Bundle.open(copy)


@pytest.mark.parametrize("path", ["", "log", "examples", "run", "nowhere"])
def test_what_is_no_bundle(served, path):
    with pytest.raises(
        InputError, match=r"holds no bundle .*Expected the --out of `interactrank ex"
    ):
        Bundle.open(served.root / path)


def test_another_version(copy):
    record = files.read_sealed(copy / KIND.file)
    for version in (2, 99):  # 2 had no delta
        files.write_sealed(copy / KIND.file, record | {"format_version": version})
        message = rf"format_version is {version}, expected 3.*export"
        with pytest.raises(InputError, match=message):
            Bundle.open(copy)


@pytest.mark.parametrize("field", ["graphs", "sizes", "as_of", "vectors", "calibration"])
def test_a_record_without_a_field(copy, field):
    record = files.read_sealed(copy / KIND.file)
    del record[field]
    files.write_sealed(copy / KIND.file, record)
    with pytest.raises(InputError, match="is not what `interactrank export` writes"):
        Bundle.open(copy)


def test_a_calibration_that_is_none(copy, reader):
    record = files.read_sealed(copy / KIND.file)
    forged = {**record["calibration"], "scale": [-1.0, 1.0]}
    files.write_sealed(copy / KIND.file, record | {"calibration": forged})
    with pytest.raises(InputError, match=r"bundle\.json: the calibration is .*scales > 0"):
        type(reader)(copy)


def test_a_name_that_leads_elsewhere(copy):
    record = files.read_sealed(copy / KIND.file)
    files.write_sealed(copy / KIND.file, record | {"files": {"../../etc/passwd": "0" * 64}})
    with pytest.raises(InputError, match="Expected a plain name inside that directory"):
        Bundle.open(copy)


class TestVerify:
    """The golden requests tell what checksums cannot: another model, or graphs that differ."""

    def test_another_models_arrays(self, copy, reader):
        record = Bundle.open(copy).artifact.record
        index = np.load(copy / "index" / "0.npy")
        files.save_array(copy / "index" / "0.npy", np.roll(index, 1, 0))
        write_record(copy, record)
        opened = type(reader)(copy)
        with pytest.raises(InputError, match="scores of the golden requests differ from those at"):
            verify_golden(opened.ranking)
        with pytest.raises(InputError, match="graphs do not compute the same here"):
            type(reader)(copy, verify=True)

    def test_another_calibration(self, copy, reader):
        record = Bundle.open(copy).artifact.record
        forged = {**record["calibration"], "bias": [3.0, 3.0]}
        write_record(copy, record | {"calibration": forged})
        with pytest.raises(InputError, match="scores of the golden requests differ from those at"):
            type(reader)(copy, verify=True)

    def test_other_features(self, copy, reader):
        record = Bundle.open(copy).artifact.record
        value = np.load(copy / "cross" / "0" / "value.npy")
        files.save_array(copy / "cross" / "0" / "value.npy", value + 1)
        write_record(copy, record)
        with pytest.raises(InputError, match="'candidates/cross' of the golden requests is not wh"):
            type(reader)(copy, verify=True)

    def test_what_was_exported(self, ranker, reader):
        assert verify_golden(ranker.ranking) <= 1e-5
        assert verify_golden(reader.ranking) <= 1e-5
        assert max(ranker.bundle["parity"].values()) <= 1e-5
        assert set(ranker.bundle["parity"]) == {"jax", "onnx"}


class TestOnnx:
    def test_a_graph_that_could_not_be_converted_is_named(self, copy, reader):
        record = Bundle.open(copy).artifact.record
        graphs = json.loads(json.dumps(record["graphs"]))
        del graphs["score"]["onnx"]
        graphs["score"]["onnx_error"] = "the converter failed: no plugin for erf_inv"
        write_record(copy, {**record, "graphs": graphs})
        with pytest.raises(
            InputError,
            match=r"has no ONNX form of 'score': the converter failed: no plugin for erf_inv. Rank",
        ):
            type(reader)(copy)

    def test_without_onnxruntime(self, copy, reader, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(InputError, match="needs onnxruntime: pip install onnxruntime"):
            type(reader)(copy)

    @pytest.mark.parametrize("form", ["jax", "onnx"])
    def test_a_graph_that_is_none(self, copy, form, ranker, reader):
        record = Bundle.open(copy).artifact.record
        (copy / "graphs" / f"score.{form}").write_bytes(b"nothing")
        write_record(copy, record)
        opener = type(ranker if form == "jax" else reader)
        with pytest.raises(InputError, match=rf"graphs/score\.{form} cannot be (read|run).*export"):
            opener(copy)
