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
from interactrank_jax.ranking.index import Index, build_index
from interactrank_jax.runs.run import Run
from tests.faults.forging import at, reseal
from tests.synthetic import tiny_config


@pytest.fixture
def forged(index_path, tmp_path):
    return Path(shutil.copytree(index_path, tmp_path / "index"))


@pytest.fixture(scope="module")
def opened(trained_run, examples_path):
    run = Run.open(trained_run)
    return run, run.restore_model()[0], Examples(examples_path)


def save(index, name, array):
    """Replaces an array, and says of it what there is to say."""
    np.save(index / name, array)

    def change(value):
        entry = value["leaves"][0]
        entry |= {"file": name, "shape": list(array.shape), "dtype": str(array.dtype)}
        entry["sha256"] = files.file_digest(index / name)
        value["items"] = len(array)

    reseal(index / "metadata.json", change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda array: array[:-1], "of 80 items.*have 81 items"),
        (lambda array: np.concatenate([array, array]), "of 162 items"),
        (
            lambda array: array[:, :-1],
            r"representation-0\.npy.*Expected shape \(81, 8\)",
        ),
        (lambda array: array[..., None], r"representation-0\.npy holds"),
        (lambda array: array.astype(np.float64), r"representation-0\.npy holds float64"),
        (lambda array: array.astype(np.int32), r"representation-0\.npy holds int32"),
    ],
)
def test_an_index_of_other_shapes_is_refused(forged, opened, change, message):
    name = "representation-0.npy"
    save(forged, name, change(np.load(forged / name)))
    with pytest.raises(InputError, match=message) as error:
        Index(forged, *opened)
    assert str(forged) in str(error.value)


@pytest.mark.parametrize("name", ["../secret.npy", "/secret.npy", "a/../../secret.npy", ""])
def test_nothing_outside_an_index_is_read(forged, opened, name, tmp_path):
    shutil.copy(forged / "representation-0.npy", tmp_path / "secret.npy")
    (forged / "a").mkdir()
    reseal(forged / "metadata.json", lambda value: at("file", name)(value["leaves"][0]))
    with pytest.raises(InputError, match="Expected a plain name inside"):
        Index(forged, *opened)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.pop("leaves"), "is incomplete"),
        (lambda value: value.pop("ids_sha256"), "is incomplete"),
        (at("leaves", []), "has 0 arrays"),
        (at("leaves", [3]), "is incomplete"),
        (at("leaves", None), "is incomplete"),
    ],
)
def test_an_index_with_metadata_that_is_none_is_refused(forged, opened, change, message):
    reseal(forged / "metadata.json", change)
    with pytest.raises(InputError, match=message) as error:
        Index(forged, *opened)
    assert str(forged) in str(error.value)


@pytest.mark.parametrize("rows", [80, 82])
def test_an_index_with_another_number_of_ids_is_refused(forged, opened, rows):
    pq.write_table(pa.table({"item_id": ["x"] * rows}), forged / "ids.parquet")
    digest = files.file_digest(forged / "ids.parquet")
    reseal(forged / "metadata.json", at("ids_sha256", digest))
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
    file = tmp_path / "index" / "representation-1.npy"
    meta = np.load(file)
    meta[7] = run.config.model.meta.vectors
    np.save(file, meta)
    digest = files.file_digest(file)
    reseal(file.parent / "metadata.json", at("leaves", 1, "sha256", digest))
    with pytest.raises(InputError, match=r"representation-1\.npy holds 8\. .* below 8"):
        Index(tmp_path / "index", run, model, examples)
