"""What is ranked, and what its scores do not depend on."""

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking import ranker as jax_ranker
from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.serving import corpus as serving_corpus
from interactrank_jax.serving import pairs as serving_pairs
from interactrank_jax.serving import ranking, scan
from interactrank_jax.serving.scan import TileSize
from interactrank_jax.serving.top_k import top_k
from tests.serving.making import (
    ITEMS,
    assert_scores,
    by_pair,
    candidates,
    events,
    requests,
)

COUNT = 20


@pytest.fixture(scope="module")
def together(ranker):
    return ranker.rank(requests(COUNT), candidates(COUNT, 9), events())


def assert_ranked(table: pa.Table) -> None:
    """Ranks go from 1 in each request, whose rows are together, scores descend."""
    previous = (None, 0, np.inf)
    seen = set()
    columns = (table[name].to_pylist() for name in ("request_id", "rank", "score"))
    for request, rank, score in zip(*columns, strict=True):
        if request != previous[0]:
            assert request not in seen
            seen.add(request)
            assert rank == 1
        else:
            assert rank == previous[1] + 1
            assert score <= previous[2]
        previous = (request, rank, score)


def test_every_candidate_has_its_rank(together):
    assert len(together) == COUNT * 9
    assert_ranked(together)
    columns = ["request_id", "item_id", "rank", "score"]
    assert together.schema.names == [*columns, "probability_engaged", "probability_save"]


def test_scores_depend_on_no_other_request(ranker, together):
    asked, listed = requests(COUNT), candidates(COUNT, 9)
    parts = []
    for first, end in [(0, 1), (1, 4), (4, COUNT)]:
        part = asked.slice(first, end - first)
        of_part = listed.slice(first * 9, (end - first) * 9)
        parts.append(ranker.rank(part, of_part, events()))
    assert_scores(pa.concat_tables(parts), together)


@pytest.mark.parametrize("engine", ["ranker", "reader", "int8"])
def test_a_request_that_comes_alone_is_one_call_of_a_graph(
    engine, request, served, together, monkeypatch
):
    if engine == "int8":  # no device has the vectors as they are
        opened = Ranker(served.bundle, scan="int8")
    else:
        opened = request.getfixturevalue(engine)
    graphs, calls = opened.ranking.graphs, []
    run = graphs.run
    monkeypatch.setattr(graphs, "run", lambda name, inputs: calls.append(name) or run(name, inputs))
    asked, listed = requests(COUNT).slice(0, 1), candidates(COUNT, 9).slice(0, 9)
    alone = opened.rank(asked, listed, events())
    first = list(calls)
    assert first == (["encode_query", "score"] if engine == "int8" else ["score_list"])
    monkeypatch.setattr(ranking, "ONE_CALL", 8)  # one candidate more is two
    in_two_calls = opened.rank(asked, listed, events())
    assert calls[len(first) :] == ["encode_query", "score"]
    assert_scores(alone, in_two_calls)
    assert_scores(alone, together.slice(0, 9))


def test_a_request_that_comes_alone_without_candidates_has_no_rows(ranker):
    assert len(ranker.rank(requests(1), candidates(1, 9).slice(0, 0))) == 0


@pytest.mark.parametrize(
    ("length", "size"),
    [(0, 8), (9, 16), (8192, 8192), (8193, 10240), (10241, 12288), (16384, 16384), (16385, 20480)],
)
def test_lists_are_padded_to_few_sizes(ranker, length, size):
    assert ranker.ranking.graphs.padded(length) == size


@pytest.mark.parametrize("scan", ["float32", "int8"])
@pytest.mark.parametrize("count", [1, 30, None])
def test_no_request_compiles_after_the_warm_up(count, scan, served, monkeypatch):
    monkeypatch.setattr(jax_ranker, "ALONE", 8)
    monkeypatch.setattr(ranking, "ONE_CALL", 16)
    ranker = Ranker(served.bundle, scan=scan)
    ranker.warm_up(count)
    graphs = ranker.ranking.graphs
    compiled = {name: call._cache_size() for name, call in graphs._calls.items()}
    assert sum(compiled.values())
    lengths = (1, 5, 9, 14, 17, 30)
    for length in (length for length in lengths if count and length <= count):
        asked = requests(COUNT).slice(length % COUNT, 1)
        listed = {"request_id": asked["request_id"].to_pylist() * length}
        ranker.rank(asked, {**listed, "item_id": [f"i{n}" for n in range(length)]}, events())
    if count is None:
        for number in range(COUNT):
            ranker.rank(requests(COUNT).slice(number, 1), None, events())
    assert {name: call._cache_size() for name, call in graphs._calls.items()} == compiled


def test_a_reader_warms_up_too(reader):
    reader.warm_up(5)
    reader.warm_up(None)


@pytest.mark.parametrize("count", [0, -1])
def test_a_warm_up_without_candidates_is_refused(count, ranker):
    with pytest.raises(InputError, match="at least 1"):
        ranker.warm_up(count)


def test_scores_depend_on_no_other_candidate(ranker, together):
    listed = candidates(COUNT, 9)
    chosen = pa.array(np.random.default_rng(0).random(len(listed)) < 0.4)
    alone = ranker.rank(requests(COUNT), listed.filter(chosen), events())
    expected = by_pair(together)
    for pair, score in by_pair(alone).items():
        assert score == pytest.approx(expected[pair], abs=1e-5)


def test_the_order_of_rows_changes_nothing(ranker, together):
    order = np.random.default_rng(0).permutation(COUNT * 9)
    shuffled = requests(COUNT).take(order[order < COUNT])
    table = ranker.rank(
        shuffled, candidates(COUNT, 9).take(order), events().take(np.arange(40)[::-1])
    )
    assert_scores(table, together)


@pytest.mark.parametrize(
    ("pairs", "at_once", "tile"), [(1, 256, 7), (16, 3, 1), (50, 1, 25), (1 << 19, 7, 100)]
)
@pytest.mark.parametrize("kind", ["ranker", "reader"])
def test_scores_depend_on_no_size(kind, pairs, at_once, tile, together, monkeypatch, request):
    opened = request.getfixturevalue(kind)
    corpus = opened.rank(requests(COUNT), None, events(), k=ITEMS)
    monkeypatch.setattr(serving_pairs, "PAIRS_AT_ONCE", pairs)
    monkeypatch.setattr(ranking, "REQUESTS_AT_ONCE", at_once)
    monkeypatch.setattr(scan, "REQUESTS_AT_ONCE", at_once)
    monkeypatch.setattr(opened.ranking.corpus, "size", TileSize(tile * min(at_once, COUNT)))
    assert_scores(opened.rank(requests(COUNT), candidates(COUNT, 9), events()), together)
    assert_scores(opened.rank(requests(COUNT), None, events(), k=ITEMS), corpus)


@pytest.mark.parametrize("k", [1, 10, ITEMS, 1000])
def test_the_corpus_is_the_list_of_all_items(ranker, k):
    asked = requests(COUNT)
    everything = candidates(COUNT, ITEMS)
    corpus = ranker.rank(asked, None, events(), k)
    listed = ranker.rank(asked, everything, events(), k)
    assert len(corpus) == COUNT * min(k, ITEMS)
    assert corpus["item_id"].equals(listed["item_id"])
    assert_scores(corpus, listed)
    assert_ranked(corpus)


@pytest.mark.parametrize("scan", ["bfloat16", "int8"])
def test_a_rounded_scan_returns_exact_scores(scan, served, ranker):
    rounded = Ranker(served.bundle, scan=scan)
    asked = requests(COUNT)
    # Four times k are all items: none can be lost.
    k = -(-ITEMS // 4)
    exact = ranker.rank(asked, None, events(), k)
    again = rounded.rank(asked, None, events(), k)
    assert again["item_id"].equals(exact["item_id"])
    assert_scores(again, exact)
    # With fewer, an item may be lost, but what is returned has the scores it has.
    assert_ranked(rounded.rank(asked, None, events(), 2))
    everything = ranker.rank(asked, None, events(), ITEMS).to_pylist()
    scores = {(row["request_id"], row["item_id"]): row["score"] for row in everything}
    for row in rounded.rank(asked, None, events(), 2).to_pylist():
        expected = scores[row["request_id"], row["item_id"]]
        assert row["score"] == pytest.approx(expected, abs=1e-5)
    # Lists are never rounded.
    listed = candidates(COUNT, 9)
    assert_scores(rounded.rank(asked, listed, events()), ranker.rank(asked, listed, events()))


@pytest.mark.parametrize("pairs", [1, 30])
def test_pairs_with_cross_features_are_held_for_some_requests_at_a_time(pairs, ranker, monkeypatch):
    asked = requests(COUNT)
    expected = ranker.rank(asked, None, events(), 7)
    monkeypatch.setattr(serving_corpus, "PAIRS", pairs)
    again = ranker.rank(asked, None, events(), 7)
    assert again["item_id"].equals(expected["item_id"])
    assert_scores(again, expected)


def test_a_format_of_the_scan_that_is_none_is_refused(served):
    with pytest.raises(InputError, match="int4"):
        Ranker(served.bundle, scan="int4")


def test_cross_features_count_in_the_corpus(ranker):
    """Else the test above would say nothing of them."""
    ranked = ranker.rank_fully(requests(COUNT), candidates(COUNT, ITEMS), with_features=True)
    assert (ranked.candidates["cross"] != 0).any(0).all()


def test_what_users_did_since_changes_their_scores(ranker):
    asked, listed = requests(COUNT), candidates(COUNT, 9)
    before, after = (by_pair(ranker.rank(asked, listed, e)) for e in (None, events()))
    assert sum(before[pair] != after[pair] for pair in before) > COUNT


def test_ties_are_in_the_order_of_the_store():
    score = np.array([1, 3, 3, 2, 3, 2], np.float32)
    row = np.array([9, 8, 4, 7, 6, 2])
    for k, expected in [(1, [4]), (2, [4, 6]), (4, [4, 6, 8, 2]), (9, [4, 6, 8, 2, 7, 9])]:
        assert row[top_k(score, row, k)].tolist() == expected


def test_equal_items_are_in_the_order_of_their_ids(tmp_path, served, monkeypatch):
    """Ties of real scores: all items are made one."""
    opened = Ranker(served.bundle)
    index = {name: a for name, a in opened.bundle.arrays.items() if name.startswith("index/")}
    for name, array in index.items():
        opened.bundle.arrays[name] = np.broadcast_to(array[1], array.shape).copy()
    new = requests(2, query_id=[7, 8])  # no cross features
    ids = sorted(f"i{n}" for n in range(ITEMS))
    for tile in (4, 1 << 17):
        monkeypatch.setattr(opened.ranking.corpus, "size", TileSize(tile * 2))
        for k in (1, 5, ITEMS):
            assert opened.rank(new, k=k)["item_id"].to_pylist() == ids[:k] * 2
            listed = opened.rank(new, candidates(2, ITEMS), k=k)
            assert listed["item_id"].to_pylist() == ids[:k] * 2


def test_any_table_will_do(ranker):
    asked, listed, happened = requests(), candidates(), events()
    expected = ranker.rank(asked, listed, happened)
    pandas = pytest.importorskip("pandas")
    for convert in (
        lambda table: table.to_pandas(),
        lambda table: table.to_pydict(),
        lambda table: table.to_pylist(),
        lambda table: table.combine_chunks().to_batches()[0],
    ):
        assert ranker.rank(*(convert(t) for t in (asked, listed, happened))).equals(expected)
    assert isinstance(asked.to_pandas(), pandas.DataFrame)


def test_a_list_column_is_candidates(ranker):
    listed = candidates()
    expected = ranker.rank(requests(), listed)
    lists = [listed["item_id"].to_pylist()[5 * n : 5 * n + 5] for n in range(3)]
    for kind in (pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.string(), 5)):
        asked = requests(candidates=pa.array(lists, kind))
        assert ranker.rank(asked).equals(expected)
    chunked = pa.concat_tables([requests(candidates=lists).slice(n, 1) for n in range(3)])
    assert ranker.rank(chunked).equals(expected)


def test_narrow_types_and_dictionaries_are_the_same(ranker):
    asked = requests()
    narrow = asked
    for name, kind in [
        ("query_id", pa.int32()),
        ("hour", pa.int8()),
        ("user_id", pa.large_string()),
    ]:
        narrow = narrow.set_column(asked.column_names.index(name), name, asked[name].cast(kind))
    position = asked.column_names.index("country")
    narrow = narrow.set_column(position, "country", asked["country"].dictionary_encode())
    assert ranker.rank(narrow).equals(ranker.rank(asked))


def test_encoded_requests_and_items_are_what_ranks_them(ranker):
    asked = requests(COUNT)
    query = ranker.encode_requests(asked, events())
    spec = ranker.bundle["graphs"]["score"]["inputs"]
    for name, leaf in query.items():
        assert leaf.shape == (COUNT, *spec[name]["shape"][1:])
    assert {name: leaf.shape[1:] for name, leaf in ranker.encode_requests(requests(0)).items()} == {
        name: leaf.shape[1:] for name, leaf in query.items()
    }
    vector = np.load(ranker.bundle.path / "index" / "0.npy")
    inputs = {**query, "row": np.tile(np.arange(1, ITEMS + 1, dtype=np.int32), (COUNT, 1))}
    inputs["cross"] = np.zeros((COUNT, ITEMS, 2), np.float32)
    scores = ranker.ranking.graphs.run("score", inputs)["score"]
    assert scores.shape == (COUNT, ITEMS)
    assert vector.shape[0] == ITEMS + 1


def test_an_item_is_encoded_as_the_index_has_it(ranker, served):
    import pyarrow.parquet as pq

    items = pq.read_table(served.log / "items.parquet")
    leaves = ranker.encode_items(items)
    row = ranker.bundle.rows_of(items["item_id"].combine_chunks().cast(pa.large_string()))
    assert (row > 0).all()
    for name, leaf in leaves.items():
        array = ranker.bundle.arrays[name.replace("item/", "index/")]
        np.testing.assert_allclose(leaf, array[row], atol=1e-6)
    none = ranker.encode_items(items.slice(0, 0))
    assert {n: leaf.shape for n, leaf in none.items()} == {
        n: (0, *leaf.shape[1:]) for n, leaf in leaves.items()
    }
