"""The best of a whole corpus, by run's scorer and on a device, against float64 brute force."""

import jax
import numpy as np
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking.corpus import CorpusScorer
from interactrank_jax.ranking.device_index import DeviceIndex, tile_scorer
from interactrank_jax.ranking.device_top_k import grouped_top_k
from interactrank_jax.serving import scan
from interactrank_jax.serving.masks import RowMask
from tests.models.model_case import UTILITY, Case
from tests.ranking.dot_models import (
    CrossDot,
    Dot,
    assert_best,
    best_of,
    brute_force,
    cross_of,
    make_case,
    make_scorer,
)

PRODUCT = tile_scorer(lambda query, items: 2 * query @ items.T)


def on_device(case, k, tile, mask=None, recall=1.0):
    """Returns scores and rows as an accelerator ranks: the best are picked on the device."""
    index = DeviceIndex(case["items"], jax.devices()[:1], on_host=False, recall=recall)
    requests = len(case["query"])
    row, score = scan.corpus_top_k(
        lambda part: index.tiles(PRODUCT, case["query"][part]),
        requests,
        index.rows,
        k,
        scan.TileSize(tile * requests),
        mask,
    )
    return score, row


@pytest.mark.parametrize(
    ("rows", "tile"), [(1, 9), (2, 1), (33, 5), (150, 64), (150, 7), (300, 1_000)]
)
@pytest.mark.parametrize("k", [1, 10, 1_000])
def test_the_best_are_those_of_brute_force(rows, tile, k):
    for requests in (1, 3):
        case = make_case(requests, rows, seed=rows)
        scorer = make_scorer(case, pairs=tile * requests)
        expected = best_of(brute_force(case), min(k, rows - 1))
        assert_best(scorer.top_k(case["query"], *cross_of(case), k), expected)
        np.testing.assert_array_equal(
            scorer.scores(case["query"], *cross_of(case)), brute_force(case)
        )


@pytest.mark.parametrize("share", ["some", "all", "none"])
def test_a_mask_bars_items_with_cross_features_too(share):
    case = make_case(3, 90)
    barred = {"some": case["barred"], "all": case["barred"] | True, "none": case["barred"] & False}
    mask = RowMask.of(3, 90, *np.nonzero(barred[share]))
    expected = best_of(np.where(barred[share], -np.inf, brute_force(case)), 50)
    top = make_scorer(case).top_k(case["query"], *cross_of(case), 50, mask)
    assert_best(top, expected)


def test_a_model_without_cross_features_looks_at_none():
    case = make_case(2, 70)
    top = make_scorer(case, Dot).top_k(case["query"], *cross_of(case), 9)
    assert_best(top, best_of(brute_force(case, has_cross=False), 9))


def test_logits_are_of_the_items_that_were_ranked():
    case = make_case(2, 70)
    scorer = make_scorer(case, CrossDot)
    score, row = scorer.top_k(case["query"], *cross_of(case), 9)
    logits = scorer.logits(case["query"], row, *cross_of(case))
    np.testing.assert_array_equal(2 * logits[..., 0], score)


@pytest.mark.parametrize(("rows", "tile"), [(2, 1), (45, 6), (700, 320), (700, 90)])
@pytest.mark.parametrize("k", [1, 5, 999])
def test_the_device_picks_the_same(rows, tile, k):
    k = min(k, rows - 1)
    case = make_case(3, rows)
    every = brute_force(case, has_cross=False)
    assert_best(on_device(case, k, tile), best_of(every, k))
    for barred in (case["barred"], case["barred"][:1], np.ones((1, rows), bool)):
        mask = RowMask.of(len(barred), rows, *np.nonzero(barred))
        expected = best_of(np.where(barred, -np.inf, every), k)
        assert_best(on_device(case, k, tile, mask), expected)


def test_a_device_that_runs_out_of_memory_goes_on_with_smaller_tiles(monkeypatch, caplog):
    case, product, counts = make_case(2, 600), PRODUCT, []

    def fails(query, items, begin, count, with_maxima):
        counts.append(count)
        if count > 200:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return product(query, items, begin, count, with_maxima)

    monkeypatch.setitem(globals(), "PRODUCT", fails)
    assert_best(on_device(case, 8, 600), best_of(brute_force(case, has_cross=False), 8))
    assert counts[0] > 200
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("width", "k"), [(1, 1), (31, 3), (320, 10), (333, 4), (100, 90)])
def test_groups_give_what_lax_top_k_gives(width, k):
    score = np.random.default_rng(0).integers(-4, 5, (3, width)).astype(np.float32)
    for array, other in zip(grouped_top_k(score, k), jax.lax.top_k(score, k), strict=True):
        np.testing.assert_array_equal(array, other)


def test_an_approximate_top_k_finds_its_share():
    """Only a TPU approximates; elsewhere it is exact, but for the order of ties."""
    case = make_case(3, 700)
    score, _ = on_device(case, 20, 320, recall=0.9)
    np.testing.assert_array_equal(score, best_of(brute_force(case, has_cross=False), 20)[0])


@pytest.mark.parametrize("devices", [[], "twice"])
def test_devices_that_are_none_are_refused(devices):
    chosen = jax.devices()[:1] * 2 if devices else []
    with pytest.raises(InputError, match="Expected at least one of this process, each once"):
        make_scorer(make_case(1, 9), devices=chosen)


@pytest.mark.long  # compiles three models
@pytest.mark.parametrize("name", ["fit", "interactfit", "interactrank"])
def test_other_models_than_products_are_ranked_by_their_own_scores(name, examples_path):
    case, rows = Case(name, Examples(examples_path)), 81
    outputs = case(corpus=np.arange(rows))
    query, items = outputs["query"], outputs["corpus"]
    requests, features = outputs["score"].shape[0], case.batch["cross"].shape[-1]
    made = make_case(requests, rows)
    cross_items, barred = made["cross_items"], made["barred"]
    values = np.random.default_rng(0).random((*cross_items.shape, features), np.float32)
    cross = np.zeros((requests, rows + 1, features), np.float32)
    np.put_along_axis(cross, cross_items[..., None], values, 1)
    every = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (requests, *leaf.shape)), items)
    logits = case.model.apply(
        {"params": case.params}, query, every, cross[:, :rows], method="score"
    )
    score = np.asarray(logits, np.float64) @ np.array(UTILITY)
    score[:, 0] = -np.inf
    for mask, expected in (
        (None, score),
        (RowMask.of(requests, rows, *np.nonzero(barred)), np.where(barred, -np.inf, score)),
    ):
        best, _ = best_of(expected, 30)
        for tile in (7, 64, 1_000):
            scorer = CorpusScorer(case.model, case.params, items, UTILITY, pairs=tile * requests)
            value, row = scorer.top_k(query, cross_items, values, 30, mask)
            np.testing.assert_allclose(value, best, rtol=1e-5, atol=1e-5)
            # The same items, but where two scores are equal to within rounding.
            of_rows = np.take_along_axis(expected, row, 1)
            np.testing.assert_allclose(of_rows, best, rtol=1e-5, atol=1e-5)
            assert all(len(set(one)) == 30 for one in row.tolist())
