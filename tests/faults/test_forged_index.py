"""Indices that were edited and sealed again: their checksums are right, and they do not fit.

Rows, shapes and types are held against the model and the examples; nothing outside the directory
is opened.
"""

import shutil
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking.index import KIND, Index, build_index
from interactrank_jax.runs.run import Run
from tests.faults.forging import at, reseal
from tests.synthetic import tiny_config

FIRST = "representation/0.npy"


@pytest.fixture
def forged(index_path, tmp_path):
    return Path(shutil.copytree(index_path, tmp_path / "index"))


@pytest.fixture(scope="module")
def opened(trained_run, examples_path):
    run = Run.open(trained_run)
    return run, run.restore_model()[0], Examples(examples_path)


def save(index, array):
    """Replaces an array, and says of it what there is to say."""
    np.save(index / FIRST, array)

    def change(value):
        value["files"][FIRST] = files.file_digest(index / FIRST)
        value["items"] = len(array)

    reseal(index / KIND.file, change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda array: array[:-1], "of 80 items.*have 81 items"),
        (lambda array: np.concatenate([array, array]), "of 162 items"),
        (lambda array: array[:, :-1], r"representation/0\.npy.*Expected shape \(81, 8\)"),
        (lambda array: array[..., None], r"representation/0\.npy holds"),
        (lambda array: array.astype(np.float64), r"representation/0\.npy holds float64"),
        (lambda array: array.astype(np.int32), r"representation/0\.npy holds int32"),
    ],
)
def test_an_index_of_other_shapes_is_refused(forged, opened, change, message):
    save(forged, change(np.load(forged / FIRST)))
    with pytest.raises(InputError, match=message) as error:
        Index(forged, *opened)
    assert str(forged) in str(error.value)


@pytest.mark.parametrize("name", ["../secret.npy", "/secret.npy", "a/../../secret.npy"])
def test_nothing_outside_an_index_is_named(forged, opened, name, tmp_path):
    shutil.copy(forged / FIRST, tmp_path / "secret.npy")
    digest = files.file_digest(forged / FIRST)
    reseal(forged / KIND.file, at("files", name, digest))
    with pytest.raises(InputError, match="Expected a plain name inside"):
        Index(forged, *opened)


@pytest.mark.parametrize("change", [at("files", None), at("files", [3])])
def test_an_index_whose_manifest_is_none_is_refused(forged, opened, change):
    reseal(forged / KIND.file, change)
    with pytest.raises(InputError, match="is not what `interactrank index` writes") as error:
        Index(forged, *opened)
    assert str(forged) in str(error.value)


@pytest.mark.parametrize(
    "field", ["model", "model_checksum", "step", "examples_digest", "protocol", "items"]
)
def test_an_index_that_lacks_a_field_is_refused(forged, opened, field):
    reseal(forged / KIND.file, lambda value: value.pop(field))
    with pytest.raises(InputError, match="is not what `interactrank index` writes"):
        Index(forged, *opened)


def test_an_index_of_another_release_is_refused(forged, opened):
    reseal(forged / KIND.file, at("format_version", 2))
    with pytest.raises(InputError, match="format_version is 2, expected 3") as error:
        Index(forged, *opened)
    assert f"make {forged} again, by `interactrank index`" in str(error.value)


def test_an_index_with_an_array_fewer_is_refused(forged, opened):
    (forged / FIRST).unlink()
    reseal(forged / KIND.file, lambda value: value["files"].pop(FIRST))
    with pytest.raises(InputError, match="has 0 arrays of 81 items, the model makes 1"):
        Index(forged, *opened)


def test_an_index_with_an_array_that_its_manifest_does_not_name_is_refused(forged, opened):
    shutil.copy(forged / FIRST, forged / "representation" / "1.npy")
    with pytest.raises(InputError, match=r"representation/1\.npy is not one of the files"):
        Index(forged, *opened)


def test_an_index_whose_ids_no_manifest_names_is_refused(forged, opened):
    reseal(forged / KIND.file, lambda value: value["files"].pop("ids.parquet"))
    with pytest.raises(InputError, match=r"ids\.parquet is damaged: its checksum is not the one"):
        Index(forged, *opened)


@pytest.mark.parametrize("rows", [80, 82])
def test_an_index_with_another_number_of_ids_is_refused(forged, opened, rows):
    pq.write_table(pa.table({"item_id": ["x"] * rows}), forged / "ids.parquet")
    digest = files.file_digest(forged / "ids.parquet")
    reseal(forged / KIND.file, at("files", "ids.parquet", digest))
    with pytest.raises(InputError, match=rf"ids\.parquet has {rows} rows.*Expected 81"):
        Index(forged, *opened)


def test_an_index_of_meta_queries_that_are_not_there_is_refused(
    examples_path, tmp_path, monkeypatch
):
    """FIT's score takes the user vector of an item's number without looking."""
    examples = Examples(examples_path)
    run = Run(tmp_path / "run", tiny_config("fit"), examples.metadata)
    run.claim(examples)
    model = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), run.model_template)
    monkeypatch.setattr(Run, "restore_model", lambda run: (model, 0))
    build_index(run.workdir, examples_path, tmp_path / "index")
    Index(tmp_path / "index", run, model, examples)
    file = tmp_path / "index" / "representation" / "1.npy"
    meta = np.load(file)
    meta[7] = run.config.model.meta.vectors
    np.save(file, meta)
    digest = files.file_digest(file)
    reseal(tmp_path / "index" / KIND.file, at("files", "representation/1.npy", digest))
    with pytest.raises(InputError, match=r"representation/1\.npy holds 8\. .* below 8"):
        Index(tmp_path / "index", run, model, examples)
