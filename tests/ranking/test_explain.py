import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax import cli
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation import evaluate, scorers
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.models.history_terms import transform_cross
from interactrank_jax.ranking.explain import explain
from interactrank_jax.runs.run import Run
from interactrank_jax.training.train import train
from tests.synthetic import tiny_config


def own_scores(workdir, examples_path):
    run, examples = Run.open(workdir), Examples(examples_path)
    parallel = DataParallel("pmap")
    model, _ = run.restore_model()
    scorer = scorers.ModelScorer(run, examples, "test", parallel).use(parallel.replicate(model))
    rows = evaluate.Rows(scorer, examples, "test", 32)
    return examples, rows


def check(found, examples, rows, index):
    of_request = rows.request == index
    assert len(found.item_id) == of_request.sum()
    expected = {
        examples.item_ids[item]: score
        for item, score in zip(rows.item[of_request], rows.score[of_request], strict=True)
    }
    for item, score in zip(found.item_id, found.score, strict=True):
        assert score == pytest.approx(expected[item], abs=1e-5)
    np.testing.assert_allclose(found.towers + found.part.sum(1), found.score, atol=1e-5)
    assert (np.diff(found.score) <= 0).all()


@pytest.mark.long  # compiles many small programs
def test_the_parts_sum_to_the_score(trained_run, examples_path):
    examples, rows = own_scores(trained_run, examples_path)
    ids = examples.raw_requests("test")["request_id"].to_pylist()
    for index in (0, 7):
        found = explain(trained_run, examples_path, ids[index])
        check(found, examples, rows, index)
        assert found.request["request_id"] == ids[index]
        run = Run.open(trained_run)
        transform = run.config.model.cross.transform
        transformed = transform_cross(jnp.asarray(found.value), run.model.inputs, transform)
        np.testing.assert_allclose(found.part, found.weight * np.asarray(transformed), atol=1e-6)
    assert found.part.any()


@pytest.mark.long  # a training
def test_a_model_without_cross_features_is_its_towers(examples_path, tmp_path):
    config = tiny_config("two_tower")
    train(config, examples_path, tmp_path / "run")
    examples, rows = own_scores(tmp_path / "run", examples_path)
    found = explain(tmp_path / "run", examples_path, "test-3")
    check(found, examples, rows, 3)
    assert found.part.shape == (len(found.item_id), 0)


def test_the_command_prints_a_row_per_candidate(trained_run, examples_path, capsys):
    flags = [f"--workdir={trained_run}", f"--examples={examples_path}"]
    assert cli.main(["explain", *flags, "--request=test-3"]) == 0
    printed = capsys.readouterr().out
    assert "request_id=test-3" in printed
    assert printed.count("\n| ") - 1 == len(explain(trained_run, examples_path, "test-3").item_id)


def test_an_unknown_request_is_refused(trained_run, examples_path):
    with pytest.raises(InputError, match="Did you mean 'test-3"):
        explain(trained_run, examples_path, "tset-3")
