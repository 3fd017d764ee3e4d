"""KuaiSearch as a log: recall and rank joined, and what is not known of them."""

import pyarrow.parquet as pq
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.kuaisearch import FIRST_SECOND, convert
from interactrank_jax.log.read import open_log
from interactrank_jax.log.validate import validate
from tests.log.adapters.raw_kuaisearch import item_row, rank_rows, recall_row, user_row, write

TEA = recall_row(1, " Tea ", [1, 2, 3], clicked=[2], purchased=[2])
RED = recall_row(2, "红茶", [3, 1])


def source_of(path, **tables):
    """Writes the tables given, each as NAME.jsonl, and items 1 to 3 unless they are given."""
    tables = {"items": [item_row(item) for item in (1, 2, 3)]} | tables
    for name, rows in tables.items():
        write(path / f"{name}.jsonl", rows)
    return path


def rows(path, table):
    return pq.read_table(path / table).to_pylist()


def labels(path):
    """Returns the clicks and purchases by query and item."""
    query = {each["request_id"]: each["query_id"] for each in rows(path, "requests")}
    return {
        (query[each["request_id"]], each["item_id"]): (each["click"], each["purchase"])
        for each in rows(path, "impressions")
    }


EXPECTED = {
    ("tea", 1): (False, False),
    ("tea", 2): (True, True),
    ("tea", 3): (False, False),
    ("红茶", 3): (False, False),
    ("红茶", 1): (False, False),
}


def test_recall_and_rank_make_one_log(tmp_path):
    source = source_of(
        tmp_path / "source", recall=[TEA, RED], rank=rank_rows(TEA), users=[user_row(2)]
    )
    assert convert(source, tmp_path / "log") == {
        "items": 3,
        "requests": 2,
        "impressions": 5,
        "clicks": 1,
        "purchases": 1,
        "differing": 0,
        "outside": 0,
    }
    tea, red = rows(tmp_path / "log", "requests")
    del tea["request_id"], red["request_id"]
    assert tea == {
        "user_id": 2,
        "query_id": "tea",
        "query_text": " Tea ",
        "timestamp": FIRST_SECOND + 100,
        "search_entrance": "search_entrance_ksstore",
        "user_fan_number": 9.0,
        "user_follow_number": 65.0,
        "gender": "M",
        "age": "18-23",
    }
    # Of a request that rank lacks, and of a user that users lacks, nothing more is known.
    assert red == {
        "user_id": 3,
        "query_id": "红茶",
        "query_text": "红茶",
        "timestamp": FIRST_SECOND + 200,
        "search_entrance": "",
        "user_fan_number": 0.0,
        "user_follow_number": 0.0,
        "gender": "",
        "age": "",
    }
    assert labels(tmp_path / "log") == EXPECTED
    assert rows(tmp_path / "log", "items")[0] == {
        "item_id": 1,
        "title": "商品 1",
        "brand": "b1",
        "seller": "s",
        "category_1": "c1",
    }
    checked = validate(open_log(tmp_path / "log"))
    assert checked["actions"] == {"click": 1, "purchase": 1}


def test_recall_alone_and_rank_alone_give_the_same_labels(tmp_path):
    ranked = rank_rows(TEA) + rank_rows(RED)
    for name, tables in (("recall", {"recall": [TEA, RED]}), ("rank", {"rank": ranked})):
        convert(source_of(tmp_path / f"{name}-source", **tables), tmp_path / name)
        assert labels(tmp_path / name) == EXPECTED
        features = {spec.name for spec in open_log(tmp_path / name).schema.features}
        assert ("search_entrance" in features) == (name == "rank")
    ids = [sorted(each["request_id"] for each in rows(tmp_path / name, "requests"))
           for name in ("recall", "rank")]  # fmt: skip
    assert ids[0] == ids[1]


def test_positions_say_nothing_of_clicks(tmp_path):
    # The rows of rank come clicked ones first.
    searches = [recall_row(k, "q", range(8), clicked=[k % 8]) for k in range(1, 201)]
    ranked = [each for search in searches for each in rank_rows(search)]
    assert ranked[0]["is_clicked"] == 1
    source = source_of(tmp_path / "source", rank=ranked, items=[item_row(k) for k in range(8)])
    convert(source, tmp_path / "log")
    clicked = [each["position"] for each in rows(tmp_path / "log", "impressions") if each["click"]]
    assert len(clicked) == 200
    assert 2.9 < sum(clicked) / 200 < 4.1  # 3.5 of 0 to 7


def test_labels_that_differ_and_items_that_were_not_impressed_are_counted(tmp_path):
    search = recall_row(1, "tea", [1, 2], clicked=[1, 3], purchased=[3])
    ranked = rank_rows(recall_row(1, "tea", [1, 2]))
    source = source_of(tmp_path / "source", recall=[search], rank=ranked)
    summary = convert(source, tmp_path / "log")
    assert (summary["impressions"], summary["differing"], summary["outside"]) == (2, 1, 2)
    assert labels(tmp_path / "log") == {("tea", 1): (True, False), ("tea", 2): (False, False)}


def test_the_lite_folders_of_the_release_are_read(tmp_path):
    for table, content in (("recall", [TEA]), ("items", [item_row(k) for k in (1, 2, 3)])):
        write(tmp_path / f"source/{table}_lite/train.jsonl", content)
    assert convert(tmp_path / "source", tmp_path / "log")["impressions"] == 3
    write(tmp_path / "source/recall/train.jsonl", [TEA])
    with pytest.raises(InputError, match=r"are the same table twice.*the lite one: remove"):
        convert(tmp_path / "source", tmp_path / "twice")


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


RANKED = rank_rows(TEA)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"recall": [without(TEA, "impressed_item_ids")]},
            r"recall\.jsonl has no column 'impressed_item_ids'",
        ),
        (
            {"recall": [TEA, without(RED, "user_id")]},
            "column 'user_id' is empty or no number in 1 of 2 rows",
        ),
        (
            {"recall": [TEA | {"time_index": -1}]},
            "column 'time_index' is out of range in 1 of 1 rows, for example '-1'",
        ),
        (
            {"rank": [RANKED[0] | {"is_clicked": 2}, *RANKED[1:]]},
            r"rank\.jsonl: column 'is_clicked' is neither 0 nor 1 in 1 of 3 rows",
        ),
        ({"rank": [RANKED[0] | {"target_item_id": "x"}]}, r"rank\.jsonl cannot be read"),
        (
            {"recall": [TEA], "items": [item_row(1), item_row(2)]},
            r"names 1 ids that are not in .*items\.jsonl, for example 3: were files",
        ),
        (
            {"recall": [TEA], "items": [item_row(1), item_row(1), item_row(2), item_row(3)]},
            r"items\.jsonl: column 'item_id' repeats in 2 of 4 rows, for example '1'",
        ),
        (
            {"recall": [TEA], "users": [user_row(1), user_row(1)]},
            r"users\.jsonl: column 'user_id' repeats in 2 of 2 rows",
        ),
        ({"recall": [TEA], "items": [{"item_id": 1}]}, "has no column 'item_title'"),
        ({}, "source holds items.jsonl. Expected KuaiSearch's directory"),
    ],
)
def test_what_is_wrong_is_named_by_file_column_and_rows(tmp_path, tables, message):
    source = source_of(tmp_path / "source", **tables)
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / "log")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_is_no_directory_or_no_json_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent is no directory\. Expected KuaiSearch's"):
        convert(tmp_path / "absent", tmp_path / "log")
    for text, message in (
        ("[1]\n", "line 1: .* Expected one JSON object a line"),
        ("not json\n", "line 1: .* Expected one JSON object a line"),
        ("", "is empty"),
    ):
        source = source_of(tmp_path / "source")
        (source / "recall.jsonl").write_text(text)
        with pytest.raises(InputError, match=rf"recall\.jsonl.*{message}"):
            convert(source, tmp_path / "log")
