"""A simulated log over real judgments: real texts and relevance, simulated people."""

import lzma

import numpy as np
import pyarrow.parquet as pq
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.log.simulator.judged import Judgments, open_judged_world
from interactrank_jax.log.simulator.presets import SimulatorConfig
from interactrank_jax.log.simulator.simulate import simulate
from interactrank_jax.log.validate import validate
from tests.conftest import SHARED_DATA

HEADER = "id,product_uid,product_title,search_term,relevance"
ROWS = [
    '1,100,"Angle Bracket, 12 in.",angle bracket,3',
    "2,101,L Bracket,angle bracket,2",
    "3,102,Shower Head,Rain Shower ,3.0",
    "4,100,Angle Bracket again,rain shower,1",
    "5,102,Shower Head,rain shower,2",
]


def write(path, rows=ROWS, encoding="utf-8"):
    path.mkdir()
    (path / "train.csv").write_text("\n".join([HEADER, *rows]) + "\n", encoding=encoding)
    return path


def judged(path, queries=40, products=60):
    """Writes judgments of six products for each query, whose relevance is by their numbers."""
    rows = []
    for query in range(queries):
        for k in range(6):
            product = (7 * query + 11 * k) % products
            relevance = 1 + (product * 5 + query) % 3
            title = f"tool {product % 9} kind {product}"
            rows.append(f"{len(rows)},{product},{title},tool {query % 9} no {query},{relevance}")
    return write(path, rows)


def columns(path, table):
    return pq.read_table(path / table).to_pydict()


def test_pairs_are_merged_whose_queries_differ_in_capitals_and_spaces_alone(tmp_path):
    judgments = Judgments.read(write(tmp_path / "data"))
    assert judgments.queries == ["angle bracket", "rain shower"]
    assert judgments.item_ids == ["100", "101", "102"]
    assert judgments.titles == ["Angle Bracket, 12 in.", "L Bracket", "Shower Head"]
    triples = zip(judgments.query, judgments.item, judgments.relevance, strict=True)
    assert list(triples) == [(0, 0, 3), (0, 1, 2), (1, 0, 1), (1, 2, 2.5)]


def test_a_packed_file_and_one_of_kaggles_encoding_are_read(tmp_path):
    rows = ["1,100,Caf\xe9 Table,caf\xe9 table,3"]
    source = write(tmp_path / "data", rows, encoding="latin-1")
    assert Judgments.read(source).titles == ["Café Table"]
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "train.csv.xz").write_bytes(lzma.compress((source / "train.csv").read_bytes()))
    assert Judgments.read(packed).titles == ["Café Table"]


def test_the_log_shows_judged_products_only_and_its_truth_is_their_relevance(tmp_path):
    source = judged(tmp_path / "data")
    summary = simulate("tiny", 0, tmp_path / "log", judgments=source)
    assert (summary["items"], summary["queries"], summary["requests"]) == (60, 40, 2_000)
    log = open_log(tmp_path / "log")
    assert validate(log)["requests"] == 2_000
    of_items = [spec.name for spec in log.schema.select(("item",))]
    assert of_items == ["title"]  # nothing else is known of products
    judgments = Judgments.read(source)
    pairs = zip(judgments.query, judgments.item, judgments.relevance, strict=True)
    relevance = {
        (judgments.queries[query], judgments.item_ids[item]): float(value)
        for query, item, value in pairs
    }
    requests = columns(tmp_path / "log", "requests")
    text = dict(zip(requests["request_id"], requests["query_text"], strict=True))
    shown = columns(tmp_path / "log", "impressions")
    truth = columns(tmp_path / "log" / "truth", "impressions")
    keys = [(text[r], i) for r, i in zip(shown["request_id"], shown["item_id"], strict=True)]
    assert set(keys) <= relevance.keys()
    score = np.array([relevance[key] for key in keys])
    weight = SimulatorConfig(1, 1, 1, 1).relevance
    np.testing.assert_allclose(truth["relevance"], weight * ((score - 1) / 2 - 0.5), rtol=1e-5)
    click = np.array(shown["click"], float)
    assert click[score == 3].mean() > 1.5 * click[score == 1].mean()
    # All of a query's products are there: nothing was left out by a draw.
    assert set(shown["propensity"]) == {1.0}
    counts = np.bincount(np.unique(shown["request_id"], return_inverse=True)[1])
    assert set(counts) == {6}


def test_the_same_seed_gives_the_same_log_and_another_seed_another(tmp_path):
    source = judged(tmp_path / "data")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        simulate("tiny", seed, tmp_path / name, judgments=source)
    a, b, c = (columns(tmp_path / name, "impressions") for name in "abc")
    assert a == b
    assert a != c


def test_an_oracle_rebuilds_the_world_and_takes_unjudged_pairs_for_irrelevant(tmp_path):
    source = judged(tmp_path / "data")
    simulate("tiny", 3, tmp_path / "log", judgments=source, slate=6, requests=500)
    world = open_judged_world(tmp_path / "log")
    config, judgments = world.config, world.judgments
    unjudged = np.setdiff1d(np.arange(60), judgments.item[judgments.query == 0])[:3]
    zero = np.zeros(1, np.int64)
    appeal = world.appeal(zero, zero, zero + 1_672_531_200, unjudged[None])
    np.testing.assert_allclose(appeal.relevance, -0.5 * config.relevance)


def test_a_log_of_a_relative_path_is_opened_from_anywhere_and_never_with_others(
    tmp_path, monkeypatch
):
    source = judged(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    simulate("tiny", 3, "log", judgments="data", slate=6, requests=500)
    monkeypatch.chdir("/")
    world = open_judged_world(tmp_path / "log")
    assert world.judgments.digest == Judgments.read(source).digest
    file = source / "train.csv"
    text = file.read_text(encoding="latin-1")
    file.write_text("".join(text.splitlines(True)[:-1]), encoding="latin-1")
    with pytest.raises(InputError, match="holds other judgments than"):
        open_judged_world(tmp_path / "log")
    simulate("tiny", 0, tmp_path / "other", requests=500)
    with pytest.raises(InputError, match="is not that of a log of judgments"):
        open_judged_world(tmp_path / "other")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["1,100,Title,query,4"],
            "'relevance' is no number from 1 to 3 in 1 of 1 rows.*'4' in row",
        ),
        (["1,100,Title,query,good"], "'relevance' is no number from 1 to 3 in 1 of 1 rows"),
        (["1,100,Title,query"], "1 of 1 rows have not the 5 columns of the header.*row 2"),
        ([], "train.csv has no rows"),
    ],
)
def test_a_file_that_is_wrong_is_named_by_column_and_row(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        simulate("tiny", 0, tmp_path / "log", judgments=write(tmp_path / "data", rows))
    assert not (tmp_path / "log").exists()


def test_a_missing_file_or_column_is_named(tmp_path):
    source = write(tmp_path / "data")
    file = source / "train.csv"
    file.write_text(file.read_text().replace("search_term", "search_terms"))
    with pytest.raises(InputError, match=r"no column 'search_term'\. Did you mean 'search_terms'"):
        simulate("tiny", 0, tmp_path / "log", judgments=source)
    file.rename(source / "test.csv")
    with pytest.raises(InputError, match=r"test\.csv\. Expected the directory of the Home"):
        simulate("tiny", 0, tmp_path / "log", judgments=source)


def test_what_judgments_decide_cannot_be_set(tmp_path):
    source = write(tmp_path / "data")
    with pytest.raises(InputError, match="items are those of the judgments"):
        simulate("tiny", 0, tmp_path / "log", judgments=source, items=1_000)
    with pytest.raises(InputError, match="do not say when products came and went"):
        simulate("tiny", 0, tmp_path / "log", variant="turnover", judgments=source)


def test_the_home_depot_judgments_make_a_valid_log(tmp_path):
    source = SHARED_DATA / "homedepot"
    if not source.is_dir():
        pytest.skip("no homedepot at ../shared/data")
    summary = simulate("tiny", 0, tmp_path / "log", judgments=source)
    assert (summary["items"], summary["queries"]) == (54_667, 11_795)
    assert validate(open_log(tmp_path / "log"))["requests"] == 2_000
