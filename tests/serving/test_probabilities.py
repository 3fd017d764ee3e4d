"""Logits become probabilities in one place, and alike wherever they are printed or returned."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from interactrank_jax.evaluation.evaluate import evaluate
from interactrank_jax.examples.format import Examples
from interactrank_jax.export import replay
from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking.explain import explain
from interactrank_jax.ranking.index import build_index
from interactrank_jax.ranking.score import score
from interactrank_jax.runs.run import Run
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.probabilities import Calibration, column
from tests.serving.making import candidates, events, requests

HEADS = ("engaged", "save")
COLUMNS = tuple(map(column, HEADS))
SHAPE = {"heads": HEADS, "offsets": (0.5, -1.0), "scale": (0.5, 2.0), "bias": (-0.25, 0.0)}
FITTED = Calibration(**SHAPE, fitted=(True, True))


class TestFormula:
    def test_by_hand(self):
        logits = np.array([[2.5, -1.0], [-800.0, 800.0]], np.float32)
        expected = [[0.5 * 2.0 - 0.25, 0.0], [0.5 * -800.5 - 0.25, 2.0 * 801.0]]
        np.testing.assert_allclose(FITTED.logits(logits), expected)
        probabilities = FITTED.probabilities(logits)
        np.testing.assert_allclose(probabilities[0], [1 / (1 + np.exp(-0.75)), 0.5])
        assert 0 <= probabilities[1, 0] < 1e-100
        assert probabilities[1, 1] == 1.0

    def test_nothing_fitted_is_the_prior_correction(self):
        calibration = Calibration.unfitted(HEADS, (0.5, -1.0))
        np.testing.assert_array_equal(calibration.logits(np.zeros((1, 2))), [[-0.5, 1.0]])
        assert calibration.fitted == (False, False)

    def test_it_is_read_as_it_was_written(self):
        assert Calibration.from_json(FITTED.to_json(), HEADS) == FITTED

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("scale", [1.0]),
            ("scale", [0.0, 1.0]),
            ("scale", [-1.0, 1.0]),
            ("scale", [float("nan"), 1.0]),
            ("scale", None),
            ("bias", ["a", 0.0]),
            ("bias", [float("inf"), 0.0]),
            ("offsets", [None, 0.0]),
            ("heads", ["engaged", "click"]),
            ("fitted", [1, 0]),
        ],
    )
    def test_what_is_none_is_refused(self, name, value):
        with pytest.raises(InputError, match="the calibration is"):
            Calibration.from_json({**FITTED.to_json(), name: value}, HEADS)

    @pytest.mark.parametrize("value", [None, [], {}, {"scale": [1.0, 1.0]}])
    def test_another_shape_is_refused(self, value):
        with pytest.raises(InputError, match="Expected heads, offsets, scale, bias, fitted"):
            Calibration.from_json(value, HEADS)


def by_pair(table, names=COLUMNS):
    keys = zip(*(table[name].to_pylist() for name in ("request_id", "item_id")), strict=True)
    values = np.stack([table[name].to_numpy() for name in names], 1)
    return dict(zip(keys, values, strict=True))


@pytest.fixture(scope="module")
def evaluated(served):
    """Probabilities of the test split by evaluation, by request and item."""
    evaluate(served.run, served.examples)
    examples = Examples(served.examples)
    requests = examples.raw_requests("test")["request_id"].to_pylist()
    with np.load(served.run / "eval" / "test.npz") as saved:
        assert saved["heads"].tolist() == list(HEADS)
        pairs = zip(saved["request_index"], saved["item"], strict=True)
        keys = [(requests[request], examples.item_ids[item]) for request, item in pairs]
        return dict(zip(keys, saved["probability"], strict=True))


class TestAgreement:
    """Of evaluation, batch scoring, explanations, Ranker, Reader and replay."""

    def test_the_run_was_calibrated(self, served):
        """One head is; of the other's label its validation has too few rows."""
        run = Run.open(served.run)
        calibration = run.calibration(run.restore_model()[1])
        assert calibration.fitted == (True, False)
        assert calibration.scale[0] != calibration.scale[1] == 1.0
        assert Bundle.open(served.bundle).calibration == calibration

    @pytest.mark.parametrize("kind", ["slate", "corpus"])
    def test_of_batch_scores(self, served, evaluated, tmp_path, kind):
        build_index(served.run, served.examples, tmp_path / "index")
        score(*(served.run, tmp_path / "index", served.examples, tmp_path / "out"), candidates=kind)
        scored = by_pair(pq.read_table(tmp_path / "out" / "scores.parquet"))
        assert set(evaluated) <= set(scored)
        for pair, probability in evaluated.items():
            np.testing.assert_allclose(scored[pair], probability, rtol=0, atol=1e-6)

    def test_of_explanations(self, served, evaluated):
        request = next(iter(evaluated))[0]
        explained = explain(served.run, served.examples, request)
        assert explained.heads == HEADS
        for item, probability in zip(explained.item_id, explained.probability, strict=True):
            np.testing.assert_allclose(probability, evaluated[request, item], rtol=0, atol=1e-6)

    @pytest.mark.parametrize("listed", [True, False], ids=["lists", "corpus"])
    def test_of_ranker_and_reader(self, ranker, reader, listed):
        asked, since = requests(5), events()
        chosen = candidates(5, 9) if listed else None
        tables = [each.rank(asked, chosen, since, k=9) for each in (ranker, reader)]
        one, other = map(by_pair, tables)
        assert set(one) == set(other)
        for pair, probability in one.items():
            assert ((probability > 0) & (probability < 1)).all()
            np.testing.assert_allclose(probability, other[pair], rtol=0, atol=1e-6)

    def test_of_lists_and_the_corpus(self, ranker):
        ranked = ranker.rank(requests(3), None, events(), k=25)
        listed = ranker.rank(requests(3), ranked.select(["request_id", "item_id"]), events())
        for pair, probability in by_pair(ranked).items():
            np.testing.assert_allclose(probability, by_pair(listed)[pair], rtol=0, atol=1e-6)

    def test_of_a_bundles_explanation(self, ranker):
        asked, listed = requests(1), candidates(1, 9)
        ranked = by_pair(ranker.rank(asked, listed, events()))
        explained = ranker.explain(asked, listed["item_id"].to_pylist(), events())
        for row in explained.to_pylist():
            probability = [row[name] for name in COLUMNS]
            np.testing.assert_allclose(probability, ranked["q0", row["item_id"]], atol=1e-6)

    def test_of_what_is_served_and_what_is_evaluated_afterwards(self, served):
        differences = replay.replay(served.bundle, served.log, served.run)
        for name in COLUMNS:
            assert differences[name].rows > 0
            assert differences[name].largest < 1e-6


def test_the_ranked_score_is_of_the_logits_as_they_are(ranker):
    """With one head in the score and a fitted scale, score and probability rank alike."""
    table = ranker.rank(requests(5), candidates(5, 9), events())
    calibration, utility = ranker.bundle.calibration, ranker.bundle["utility"]
    values = by_pair(table, ("score", *COLUMNS))
    for score_of_pair, *probability in values.values():
        log_odds = np.log(np.array(probability) / (1 - np.array(probability, np.float64)))
        logits = (log_odds - calibration.bias) / calibration.scale + calibration.offsets
        assert score_of_pair == pytest.approx(logits @ utility, abs=1e-3)
