"""Runs that were edited and sealed again: their checksums are right, and they do not fit.

Config, encoder, metadata, parameters and saved scores are held against each other; nothing outside
the directory is opened.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs import best
from interactrank_jax.runs.run import Run
from interactrank_jax.training.train import train
from tests.faults.forging import at, reseal
from tests.synthetic import make_encoder, tiny_config


@pytest.fixture
def workdir(trained_run, tmp_path):
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def test_a_run_whose_config_is_of_another_model_than_its_parameters_is_refused(workdir):
    reseal(workdir / "config.json", at("config", "model", "embedding_dim", 4))
    with pytest.raises(InputError, match=r"best/\d+ holds .* another than in training"):
        Run.open(workdir).restore_model()


def test_a_run_with_another_encoder_is_refused(workdir, examples_path):
    shutil.rmtree(workdir / "encoder")
    make_encoder(prefix="x").save(workdir / "encoder")
    with pytest.raises(InputError, match=r"config\.json: it was written with another encoder"):
        Run.open(workdir)
    with pytest.raises(InputError, match="row 3 of vocabulary 'user' was 'xuser-1', is 'user"):
        train(tiny_config("interactrank"), examples_path, workdir)
    digest = make_encoder(prefix="x").digest
    reseal(workdir / "config.json", at("metadata", "encoder", digest))
    with pytest.raises(InputError, match="row 3 of vocabulary 'user' was 'xuser-1', is 'user"):
        Run.open(workdir).check_examples(Examples(examples_path))


@pytest.mark.parametrize("tables", [{}, {"user": -1, "query": 1, "item": 1}, None])
def test_a_run_with_an_encoder_that_is_none_is_refused(workdir, tables):
    reseal(workdir / "encoder" / "encoder.json", at("tables", tables))
    with pytest.raises(InputError, match=r"encoder\.json"):
        Run.open(workdir)


@pytest.mark.parametrize(
    "change",
    [
        at("metadata", None),
        at("metadata", "encoder", None),
        at("metadata", "splits", None),
        at("metadata", "splits", "test", "requests", -3),
        at("prior_offsets", None),
        at("prior_offsets", [0.5]),
        at("prior_offsets", ["a", "b"]),
    ],
)
def test_a_run_with_metadata_that_is_none_is_refused(workdir, change):
    reseal(workdir / "config.json", change)
    with pytest.raises(InputError, match=r"config\.json"):
        Run.open(workdir)


def test_a_run_of_another_release_is_refused(workdir, examples_path):
    reseal(workdir / "config.json", lambda value: value.pop("format_version"))
    message = "format_version is None, expected 2.* with a new --workdir"
    with pytest.raises(InputError, match=message):
        Run.open(workdir)
    with pytest.raises(InputError, match=message):
        train(tiny_config("interactrank"), examples_path, workdir)


@pytest.mark.parametrize("field", ["config", "metadata", "prior_offsets", "numerics"])
def test_a_run_that_lacks_a_field_is_refused(workdir, examples_path, field):
    reseal(workdir / "config.json", lambda value: value.pop(field))
    message = r"config\.json is not what `interactrank train` writes"
    with pytest.raises(InputError, match=message):
        Run.open(workdir)
    with pytest.raises(InputError, match=message):
        train(tiny_config("interactrank"), examples_path, workdir)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("score", lambda array: array[:-1], "'score' as float32 of shape"),
        ("score", lambda array: array.astype(int), "'score' as int64"),
        ("item", lambda array: array[:, None], "'item' as"),
        ("engaged", lambda array: array.astype(int), "'engaged' as int64"),
        ("request_index", lambda array: array + 45, "'request_index' holds"),
    ],
)
def test_a_run_with_saved_scores_of_other_shapes_is_refused(
    workdir, examples_path, name, change, message
):
    run, examples = Run.open(workdir), Examples(examples_path)
    count = examples.split("test").candidates
    arrays = {
        "request_index": np.zeros(count, int),
        "item": np.ones(count, int),
        "score": np.zeros(count, np.float32),
        "engaged": np.zeros(count, bool),
    }
    file = workdir / "eval" / "test.npz"
    file.parent.mkdir(exist_ok=True)
    of_examples = {"examples": np.array(examples.metadata.digest)}
    np.savez(file, **arrays, **of_examples)
    assert run.saved_scores(examples, "test").keys() == arrays.keys()
    np.savez(file, **{**arrays, name: change(arrays[name])}, **of_examples)
    with pytest.raises(InputError, match=message) as error:
        run.saved_scores(examples, "test")
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"../../secret": ""}, "Expected a plain name"),
        ({"/secret": ""}, "Expected a plain name"),
        ({"default/_METADATA": 3}, "_METADATA is damaged: .* train again in a new"),
        ([["a"]], r"checksums\.json is not what .* train again in a new"),
        (None, r"checksums\.json is not what .* train again in a new"),
    ],
)
def test_a_run_with_checksums_of_what_lies_elsewhere_is_refused(workdir, content, message):
    (model,) = (workdir / "best").glob("[0-9]*")
    reseal(model / best.KIND.file, at("files", content))
    with pytest.raises(InputError, match=message) as error:
        Run.open(workdir).restore_model()
    assert str(model) in str(error.value)
