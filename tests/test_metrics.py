"""One table of properties over every metric, then what is particular to one of them."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss, ndcg_score, roc_auc_score

from interactrank_jax import metrics
from interactrank_jax.evaluation import calibration, uncertainty
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses import prior

NAN = float("nan")

# Every metric as a function of (request, scores, labels).
ALL: dict[str, Callable[..., float]] = {
    "roc_auc": lambda request, scores, labels: metrics.roc_auc(scores, labels),
    "pr_auc": lambda request, scores, labels: metrics.pr_auc(scores, labels),
    "logloss": lambda request, scores, labels: metrics.logloss(scores, labels),
    "request_auc": metrics.request_auc,
    "pooled_request_auc": metrics.pooled_request_auc,
    "hit_at_1": lambda request, scores, labels: metrics.hit_at_k(request, scores, labels, 1),
    "hit_at_3": lambda request, scores, labels: metrics.hit_at_k(request, scores, labels, 3),
    "hit_at_10": lambda request, scores, labels: metrics.hit_at_k(request, scores, labels, 10),
    "ndcg_at_10": lambda request, scores, labels: metrics.ndcg_at_k(request, scores, labels, 10),
    "mrr": metrics.mrr,
}
NDCG = [1 / math.log2(1 + rank) for rank in range(1, 6)]  # of one positive at that rank

# Two requests: labels 1 0 0 0 and 1 1 0 0; expected values in the order of ALL, None: not checked.
REQUEST, LABELS = np.array([7, 7, 7, 7, 3, 3, 3, 3]), np.array([1, 0, 0, 0, 1, 1, 0, 0])
CASES: dict[str, tuple[np.ndarray, list[float | None]]] = {
    "perfect": (
        np.where(LABELS, 2.0, -2.0),
        [1, 1, math.log1p(math.exp(-2)), 1, 1, 1, 1, 1, 1, 1],
    ),
    "reversed": (
        np.where(LABELS, -2.0, 2.0),
        [
            0,
            3 / 8,
            math.log1p(math.exp(2)),
            0,
            0,
            0,
            0.5,  # positives at rank 4, and at ranks 3 and 4
            1,
            (NDCG[3] + (NDCG[2] + NDCG[3]) / (NDCG[0] + NDCG[1])) / 2,
            (1 / 4 + 1 / 3) / 2,
        ],
    ),
    # As the reversed list, for ties go against the model; only the AUCs split them.
    "constant": (
        np.zeros(8),
        [
            0.5,
            3 / 8,
            math.log(2),
            0.5,
            0.5,
            0,
            0.5,
            1,
            (NDCG[3] + (NDCG[2] + NDCG[3]) / (NDCG[0] + NDCG[1])) / 2,
            (1 / 4 + 1 / 3) / 2,
        ],
    ),
    "some ties": (  # request 7: positive tied with two of three; request 3: 1st, then a tie
        np.array([1.0, 1, 1, 0, 5, 1, 1, 0]),
        [
            # pairs won: 4.5, and the same for the two positives of request 3 (5, and 3.5 or 1)
            (2 * (2 + 3 / 2) + 5) / 15,
            None,
            None,
            ((1 + 2 / 2) / 3 + (2 + 1 + 1 / 2) / 4) / 2,
            ((1 + 2 / 2) + (2 + 1 + 1 / 2)) / (3 + 4),
            0.5,
            1,
            1,
            (NDCG[2] + (NDCG[0] + NDCG[2]) / (NDCG[0] + NDCG[1])) / 2,
            (1 / 3 + 1) / 2,
        ],
    ),
    "huge": (
        np.where(LABELS, 1e300, -1e300),
        [1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
    ),
    "infinite": (
        np.where(LABELS, np.inf, -np.inf),
        [1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
    ),
}


def _random(rows=400, seed=0, levels=None):
    generator = np.random.default_rng(seed)
    request = generator.integers(60, size=rows)
    scores = generator.normal(size=rows)
    if levels:
        scores = np.round(scores * levels) / levels
    labels = (generator.random(rows) < 1 / (1 + np.exp(1 - scores))).astype(np.int32)
    return request, scores, labels


@pytest.mark.parametrize("case", CASES)
def test_metrics_have_their_hand_computed_values(case):
    scores, expected = CASES[case]
    for (name, metric), value in zip(ALL.items(), expected, strict=True):
        if value is not None:
            assert metric(REQUEST, scores, LABELS) == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("name", ALL)
class TestEveryMetric:
    @pytest.mark.parametrize("levels", [None, 2])
    def test_does_not_depend_on_the_order_of_rows_or_the_names_of_requests(self, name, levels):
        request, scores, labels = _random(levels=levels)
        expected = ALL[name](request, scores, labels)
        order = np.random.default_rng(1).permutation(labels.size)
        shuffled = ALL[name](-5 * request[order] + 3, scores[order], labels[order])
        assert shuffled == pytest.approx(expected, rel=1e-12)

    def test_is_undefined_exactly_where_documented(self, name):
        request, scores, _ = _random()
        zeros, ones = np.zeros(scores.size), np.ones(scores.size)
        needs_positive = name != "logloss"
        assert math.isnan(ALL[name](request, scores, zeros)) == needs_positive
        needs_negative = name.endswith("_auc") and name != "pr_auc"
        assert math.isnan(ALL[name](request, scores, ones)) == needs_negative
        assert math.isnan(ALL[name]([], [], []))

    def test_takes_a_single_request_and_every_dtype(self, name):
        scores, labels = np.array([3, 1, 2]), np.array([0, 0, 1])
        expected = {
            "request_auc": 0.5,
            "pooled_request_auc": 0.5,
            "hit_at_1": 0,
            "hit_at_3": 1,
            "mrr": 0.5,
        }
        values = {
            ALL[name](np.zeros(3, int), scores.astype(kind), labels.astype(label_kind))
            for kind in (np.int32, np.float32, np.float64)
            for label_kind in (bool, np.uint8, float)
        }
        assert len(values) == 1
        assert values.pop() == pytest.approx(expected.get(name, ALL[name]([5] * 3, scores, labels)))

    def test_improves_when_a_positive_rises(self, name):
        request, scores, labels = _random()
        better = scores + 0.3 * labels - 0.3 * (1 - labels)
        change = ALL[name](request, better, labels) - ALL[name](request, scores, labels)
        assert (-change if name == "logloss" else change) > 0 or name == "hit_at_10"
        assert (-change if name == "logloss" else change) >= 0

    def test_equals_its_entry_in_evaluate_all_and_lies_in_its_interval(self, name):
        request, scores, labels = _random(levels=8)
        value = metrics.evaluate_all(request, scores, labels, logits=scores)[name]
        assert value == pytest.approx(ALL[name](request, scores, labels), rel=1e-12)
        low, high = uncertainty.intervals(request, scores, labels, scores, replicates=50)[name]
        assert low <= value <= high
        assert low < high or name == "hit_at_10"

    @pytest.mark.parametrize(
        ("rows", "match"),
        [
            (([0, 0], [1.0, NAN], [0, 1]), "1 of 2 are NaN, the first at row 1"),
            (([0, 0], [1.0, 2.0], [0, 2]), "neither 0 nor 1, for example 2 at row 1"),
            (([0, 0], [1.0], [0, 1]), r"scores has shape \(1,\)"),
        ],
    )
    def test_refuses_rows_it_cannot_rank(self, name, rows, match):
        with pytest.raises(InputError, match=match):
            ALL[name](*(np.array(column) for column in rows))

    def test_a_resample_equals_the_metric_on_the_repeated_requests(self, name):
        request, scores, labels = _random(levels=8)
        prepared, requests = metrics.statistics(request, scores, labels, scores)
        multiplicity = np.random.default_rng(2).integers(3, size=requests)
        drawn = np.repeat(np.unique(request), multiplicity)
        found = [np.flatnonzero(request == value) for value in drawn]
        copies = np.repeat(np.arange(drawn.size), [len(rows) for rows in found])
        rows = np.concatenate(found)
        expected = ALL[name](copies, scores[rows], labels[rows])
        assert prepared[name](multiplicity.astype(float)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("levels", [None, 2, 20])
@pytest.mark.parametrize("seed", range(3))
def test_row_metrics_equal_scikit_learn(levels, seed):
    _, scores, labels = _random(seed=seed, levels=levels)
    weights = np.random.default_rng(seed).random(labels.size)
    probabilities = 1 / (1 + np.exp(-scores))
    for given in (None, weights):
        assert metrics.roc_auc(scores, labels, given) == pytest.approx(
            roc_auc_score(labels, scores, sample_weight=given), rel=1e-12
        )
        assert metrics.pr_auc(scores, labels, given) == pytest.approx(
            average_precision_score(labels, scores, sample_weight=given), rel=1e-12
        )
        assert metrics.logloss(scores, labels, given) == pytest.approx(
            log_loss(labels, probabilities, sample_weight=given), rel=1e-12
        )


def test_request_metrics_equal_scikit_learn_request_by_request():
    request, scores, labels = _random(levels=4)
    auc = [
        roc_auc_score(labels[request == one], scores[request == one])
        for one in np.unique(request)
        if 0 < labels[request == one].mean() < 1
    ]
    assert metrics.request_auc(request, scores, labels) == pytest.approx(
        sum(auc) / len(auc), rel=1e-12
    )
    request, scores, labels = _random()  # no ties: scikit-learn averages over them
    for k in (1, 3, 10):
        ndcg = [
            ndcg_score([labels[request == one]], [scores[request == one]], k=k)
            for one in np.unique(request)
            if labels[request == one].any()
        ]
        value = metrics.ndcg_at_k(request, scores, labels, k)
        assert value == pytest.approx(sum(ndcg) / len(ndcg), rel=1e-12)


@pytest.mark.parametrize("name", ["roc_auc", "pr_auc", "logloss"])
def test_a_weight_is_a_row_repeated_and_zero_a_row_left_out(name):
    _, scores, labels = _random(levels=4)
    weights = np.random.default_rng(3).integers(4, size=labels.size)
    metric = getattr(metrics, name)
    repeated = metric(np.repeat(scores, weights), np.repeat(labels, weights))
    assert metric(scores, labels, weights) == pytest.approx(repeated, rel=1e-12)
    assert metric(scores, labels, 0.1 * weights) == pytest.approx(repeated, rel=1e-9)
    assert math.isnan(metric(scores, labels, np.zeros(labels.size)))
    with pytest.raises(InputError, match="negative or NaN"):
        metric(scores, labels, -1.0 * np.ones(labels.size))


def test_auc_is_undefined_where_float_weights_leave_one_class():
    weights = np.where([1, 0, 1, 1], [0.1, 0.2, 0.3, 0.7], 0.0)
    assert math.isnan(metrics.roc_auc([1.0, 2.0, 3.0, 4.0], [1, 0, 1, 1], weights))


def test_logloss_of_a_confident_logit_is_not_clipped():
    assert metrics.logloss([1e4, -1e4], [0, 1]) == 1e4
    assert metrics.logloss([40.0], [1]) == pytest.approx(math.exp(-40), rel=1e-12)
    assert metrics.logloss(np.array([40.0], np.float32), [1]) == pytest.approx(
        math.exp(-40), rel=1e-12
    )


def test_a_constant_scorer_never_hits_first_where_a_negative_exists():
    generator = np.random.default_rng(0)
    for _ in range(20):
        labels = generator.permutation([1] * generator.integers(1, 9) + [0])
        assert metrics.hit_at_k(np.zeros(labels.size, int), np.ones(labels.size), labels, 1) == 0


def test_ranking_in_float32_sees_the_ties_that_float32_has():
    scores = np.array([1e8, 1e8 + 1], np.float32)
    assert metrics.hit_at_k([0, 0], scores, [1, 0], 1) == 0
    assert metrics.request_auc([0, 0], scores, [0, 1]) == 0.5


def test_a_pooled_auc_weighs_a_request_by_its_pairs_and_the_mean_does_not():
    """One pair in order, and one of eight: the mean is 9/16, the pooled share 2/9."""
    request, labels = np.array([1] * 2 + [2] * 9), np.array([1, 0] + [1] + [0] * 8)
    scores = np.array([1, 0] + [1] + [0] + [2] * 7)
    assert metrics.request_auc(request, scores, labels) == (1 + 1 / 8) / 2
    assert metrics.pooled_request_auc(request, scores, labels) == 2 / 9
    one_class = np.append(request, 3), np.append(scores, 9), np.append(labels, 0)
    assert metrics.pooled_request_auc(*one_class) == 2 / 9


def test_rankings_report_each_request_in_sorted_order():
    rankings = metrics.Rankings([9, 2, 9, 2, 4], [1.0, 3, 2, 1, 0], [1, 0, 0, 1, 0])
    np.testing.assert_array_equal(rankings.requests, [2, 4, 9])
    np.testing.assert_array_equal(rankings.code, [2, 0, 2, 0, 1])
    np.testing.assert_array_equal(rankings.reciprocal_rank(), [0.5, NAN, 0.5])
    np.testing.assert_array_equal(rankings.auc(), [0, NAN, 0])


def test_corpus_recall_is_the_mean_over_requests_of_the_share_found():
    ranks, request = np.array([1, 10, 11, 500, 2]), np.array([5, 5, 5, 5, 1])
    by_request = metrics.corpus_recall_by_request(ranks, request, 10)
    np.testing.assert_array_equal(by_request, [1.0, 0.5])  # requests 1 and 5
    assert metrics.corpus_recall(ranks, request, 10) == 0.75
    assert metrics.corpus_recall(ranks, request, 500) == 1
    assert math.isnan(metrics.corpus_recall([], [], 10))
    low, high = uncertainty.mean_interval(by_request)
    assert (low, high) == (0.5, 1.0)
    with pytest.raises(InputError, match="counted from 1"):
        metrics.corpus_recall([0], [0], 10)


class TestCalibration:
    def test_error_is_small_for_true_probabilities_and_the_shift_for_shifted_ones(self):
        generator = np.random.default_rng(0)
        probabilities = generator.uniform(0.2, 0.7, size=40_000)
        labels = generator.random(40_000) < probabilities
        assert calibration.expected_calibration_error(probabilities, labels) < 0.015
        shifted = calibration.expected_calibration_error(probabilities + 0.1, labels)
        # Every bin predicts too much, so the bins' sum is the overall excess, exactly.
        assert shifted == pytest.approx(probabilities.mean() + 0.1 - labels.mean(), rel=1e-9)
        assert calibration.predicted_over_observed(probabilities, labels) == pytest.approx(
            1, abs=0.02
        )

    def test_error_of_a_constant_is_its_distance_from_the_rate(self):
        labels = np.array([1, 0, 0, 0])
        assert calibration.expected_calibration_error(np.full(4, 0.5), labels) == 0.25
        assert calibration.predicted_over_observed(np.full(4, 0.5), labels) == 2

    def test_bins_have_equal_mass_and_ignore_row_order(self):
        probabilities, labels = np.arange(8) / 8, np.array([0, 1, 0, 0, 1, 1, 0, 1])
        by_hand = np.abs((probabilities - labels).reshape(4, 2).sum(1)).sum() / 8
        assert calibration.expected_calibration_error(probabilities, labels, bins=4) == by_hand
        # Three tied rows share the bin of their middle one, the first of two.
        tied = calibration.expected_calibration_error([0.2, 0.2, 0.2, 0.8], [1, 1, 1, 0], bins=2)
        assert tied == pytest.approx((3 - 0.6) / 4 + 0.8 / 4)
        levels = np.repeat([0.1, 0.4, 0.4, 0.9], 25)
        labels = np.random.default_rng(0).random(100) < 0.5
        order = np.random.default_rng(1).permutation(100)
        assert calibration.expected_calibration_error(levels, labels) == pytest.approx(
            calibration.expected_calibration_error(levels[order], labels[order]), rel=1e-12
        )

    def test_undefined_without_rows_or_positives(self):
        assert math.isnan(calibration.expected_calibration_error([], []))
        assert math.isnan(calibration.predicted_over_observed([0.5], [0]))

    def test_prior_correction_undoes_class_weights_and_sampling(self):
        # The minimum of weighted cross entropy at p = .1, negatives kept at one half.
        p, positive, negative = 0.1, 20.0, 5.0 * 0.5
        fitted = positive * p / (positive * p + negative * (1 - p))
        logit = math.log(fitted / (1 - fitted)) - prior.prior_correction(positive, negative)
        assert 1 / (1 + math.exp(-logit)) == pytest.approx(p, rel=1e-12)
        with pytest.raises(InputError, match="both classes"):
            prior.prior_correction(0.0, 1.0)


class TestBootstrap:
    def test_interval_covers_a_known_auc_as_often_as_it_says(self):
        shift, known = 1.0, 0.5 * (1 + math.erf(0.5))  # Gaussians: AUC = Phi(shift / sqrt 2)
        covered = 0
        for seed in range(40):
            generator = np.random.default_rng(seed)
            labels = generator.random(600) < 0.3
            scores = generator.normal(size=600) + shift * labels
            rows = (np.arange(600) // 4, scores, labels)
            prepared, requests = metrics.statistics(*rows)
            only = {"roc_auc": prepared["roc_auc"]}
            low, high = uncertainty.bootstrap(only, requests, seed=seed)["roc_auc"]
            covered += low <= known <= high
        assert covered >= 34  # of 40 at 95%: 33 or fewer has probability .0034

    def test_resamples_requests_not_rows(self):
        request, scores, labels = _random()
        once = uncertainty.intervals(request, scores, labels)
        twice = uncertainty.intervals(*(np.tile(column, 2) for column in (request, scores, labels)))
        assert twice["roc_auc"] == pytest.approx(once["roc_auc"], rel=1e-12)

    def test_equal_seeds_give_equal_intervals(self):
        rows = _random()
        assert uncertainty.intervals(*rows)["mrr"] == uncertainty.intervals(*rows)["mrr"]
        assert uncertainty.intervals(*rows)["mrr"] != uncertainty.intervals(*rows, seed=1)["mrr"]

    def test_undefined_metrics_have_undefined_intervals(self):
        result = uncertainty.intervals([0, 1], [0.0, 1.0], [0, 0])
        assert all(math.isnan(low) and math.isnan(high) for low, high in result.values())
        assert math.isnan(metrics.evaluate_all([0, 1], [0.0, 1.0], [0, 1])["logloss"])
        empty = uncertainty.intervals([], [], [])
        assert set(empty) == set(metrics.METRICS)
        assert math.isnan(empty["mrr"][0])
        assert json.dumps(result)  # plain floats

    def test_paired_difference_is_narrower_than_the_two_intervals(self):
        request, scores, labels = _random(4000)
        worse = scores + 0.2 * np.random.default_rng(1).normal(size=scores.size)
        paired = uncertainty.paired_bootstrap(request, scores, worse, labels, "roc_auc")
        assert paired.difference == pytest.approx(
            metrics.roc_auc(scores, labels) - metrics.roc_auc(worse, labels)
        )
        assert 0 < paired.low < paired.difference < paired.high
        low, high = uncertainty.intervals(request, scores, labels)["roc_auc"]
        assert paired.high - paired.low < 0.5 * (high - low)
        itself = uncertainty.paired_bootstrap(request, scores, scores, labels, "logloss")
        assert itself == (0, 0, 0)

    def test_paired_refuses_an_unknown_metric(self):
        with pytest.raises(InputError, match="Did you mean 'roc_auc'"):
            uncertainty.paired_bootstrap([0], [1.0], [1.0], [1], "roc-auc")
