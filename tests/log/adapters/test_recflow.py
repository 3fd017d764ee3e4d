"""RecFlow as a log: stages, feedback on what was exposed, days one by one."""

import pyarrow as pa
import pyarrow.feather as pa_feather
import pyarrow.parquet as pq
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.recflow import ACTIONS, convert
from interactrank_jax.log.read import open_log
from interactrank_jax.log.validate import validate
from tests.log.adapters.raw_recflow import T0_MS, row, write

DAY = "2024-01-13"
T0 = T0_MS // 1_000


def rows(path, table):
    return pq.read_table(path / table).to_pylist()


def by_item(path):
    return {each["item_id"]: each for each in rows(path, "impressions")}


def test_the_log_of_a_request_whose_candidates_left_the_funnel_at_every_stage(tmp_path):
    candidates = [
        row(1, 10, "realshow", "rerank_pos", rerank_index=2, effective_view=1, like=1),
        row(1, 11, "realshow", "rerank_pos", rerank_index=1, long_view=0),
        row(1, 12, "rerank_pos", "rank_pos", rerank_index=3, rank_index=2),
        row(1, 13, "rank_pos", rank_index=1),
        row(1, 14, "rank_neg", rank_index=70),
        row(1, 15, "rerank_neg", rerank_index=40),
        row(1, 16, "coarse_neg"),
        row(1, 17, "prerank_neg"),
        row(1, 18),
    ]
    source = write(tmp_path / "source", {DAY: candidates})
    assert convert(source, tmp_path / "log") == {
        "days": 1,
        "items": 9,
        "candidates": 9,
        "requests": 1,
        "impressions": 9,
        "shown": 2,
        "unmarked": 1,
    }
    (request,) = rows(tmp_path / "log", "requests")
    assert request == {
        "request_id": 1,
        "user_id": 1,
        "query_id": "1-3",  # gender and age
        "timestamp": T0 + 1,  # milliseconds in the data
        "age": "3",
        "gender": "1",
        "province": "7",
        "device_id": "0",
        "hour": 0,
    }
    logged = by_item(tmp_path / "log")
    stages = {
        item: (each["position"], each["stage"], each["teacher_score"], each["funnel_stage"])
        for item, each in logged.items()
    }
    assert stages == {
        11: (0, "shown", 5.0, "realshow"),  # the order of re-ranking
        10: (1, "shown", 5.0, "realshow"),
        12: (2, "retrieved", 4.0, "rerank_pos"),
        13: (3, "retrieved", 4.0, "rank_pos"),
        15: (4, "retrieved", 3.0, "rerank_neg"),
        14: (5, "retrieved", 3.0, "rank_neg"),
        16: (6, "retrieved", 2.0, "coarse_neg"),
        17: (7, "retrieved", 1.0, "prerank_neg"),
        18: (8, "retrieved", 0.0, ""),
    }
    done = {item: [a for a in ACTIONS if each[a]] for item, each in logged.items()}
    assert {item: actions for item, actions in done.items() if actions} == {
        10: ["effective_view", "like"]
    }
    assert rows(tmp_path / "log", "items")[0] == {
        "item_id": 10,
        "author_id": "0",
        "category_level_one": "2",
        "category_level_two": "1",
        "upload_type": "0",
        "duration_s": 16.5,
        "created_at": T0 - 11 * 86_400,
    }
    log = open_log(tmp_path / "log")
    assert validate(log)["actions"]["effective_view"] == 1
    assert not log.has_events


def test_what_was_never_exposed_has_no_action_whatever_its_columns_say(tmp_path):
    candidates = [
        row(1, 10, "realshow"),
        row(1, 11, "prerank_neg", effective_view=1),
        row(1, 12, "rank_pos", like=None),  # no value where none applies
    ]
    convert(write(tmp_path / "source", {DAY: candidates}), tmp_path / "log")
    assert not any(each[name] for each in by_item(tmp_path / "log").values() for name in ACTIONS)


def test_several_rows_of_one_candidate_are_joined(tmp_path):
    candidates = [
        row(1, 10, "rank_pos", rank_index=3),
        row(1, 10, "realshow", like=1),
        row(1, 11, "coarse_neg"),
    ]
    summary = convert(write(tmp_path / "source", {DAY: candidates}), tmp_path / "log")
    assert (summary["candidates"], summary["impressions"]) == (3, 2)
    candidate = by_item(tmp_path / "log")[10]
    assert (candidate["stage"], candidate["teacher_score"], candidate["like"]) == ("shown", 5, True)


def test_what_a_row_without_exposure_says_is_no_action_of_the_exposed_one(tmp_path):
    candidates = [
        row(1, 10, "realshow", like=1),
        row(1, 10, "rank_pos", effective_view=1),
        row(1, 11, "realshow", effective_view=None),
        row(1, 11, "rank_pos", effective_view=1),
    ]
    convert(write(tmp_path / "source", {DAY: candidates}), tmp_path / "log")
    logged = by_item(tmp_path / "log")
    done = {item: [a for a in ACTIONS if each[a]] for item, each in logged.items()}
    assert done == {10: ["like"], 11: []}


def test_a_request_in_the_files_of_two_days_is_refused(tmp_path):
    days = {
        DAY: [row(1, 10, "realshow"), row(2, 10, "realshow")],
        "2024-01-14": [row(3, 10, "realshow"), row(2, 11, "realshow")],
    }
    source = write(tmp_path / "source", days)
    with pytest.raises(InputError, match=r"names 1 requests that .* too, for example 2") as error:
        convert(source, tmp_path / "log")
    for day in days:
        assert str(source / f"all_stage/{day}.feather") in str(error.value)
    assert not (tmp_path / "log").exists()


def test_the_features_of_a_video_are_those_of_its_first_request(tmp_path):
    def later(request, seconds, **values):
        return row(request, 10, "realshow", request_timestamp=T0_MS + 1_000 * seconds, **values)

    days = {
        DAY: [later(2, 50, category_level_one=1), later(3, 10, category_level_one=9)],
        "2024-01-14": [later(1, 90_000, category_level_one=0, duration=1)],
    }
    convert(write(tmp_path / "source", days), tmp_path / "log")
    (item,) = rows(tmp_path / "log", "items")
    assert (item["category_level_one"], item["duration_s"]) == ("9", 16.5)


def test_a_log_has_a_part_for_each_day_and_one_row_for_each_video(tmp_path):
    days = {
        DAY: [row(1, 10, "realshow", upload_timestamp=T0 - 5)],
        "2024-01-14": [row(2, 10, "realshow", request_timestamp=T0_MS + 86_400_000)],
        # 0 is no time of upload: it is unknown.
        "2024-01-15": [row(3, 11, "realshow", upload_timestamp=0)],
    }
    summary = convert(write(tmp_path / "source", days), tmp_path / "log")
    assert (summary["days"], summary["items"], summary["requests"]) == (3, 2, 3)
    for table in ("requests", "impressions"):
        parts = sorted(path.stem for path in (tmp_path / "log" / table).iterdir())
        assert parts == sorted(days)
    created = {each["item_id"]: each["created_at"] for each in rows(tmp_path / "log", "items")}
    assert created == {10: T0 - 11 * 86_400, 11: None}
    assert validate(open_log(tmp_path / "log"))["requests"] == 3


def test_the_exposed_videos_alone_make_a_log_of_shown_ones(tmp_path):
    marks = ("realshow", "rerank_pos", "rerank_neg", "rank_pos", "rank_neg")
    marks += ("coarse_neg", "prerank_neg", "rank_index", "rerank_index")
    candidate = row(1, 10, effective_view=1)
    for name in marks:
        del candidate[name]
    source = write(tmp_path / "source", {DAY: [candidate]}, folder="realshow")
    assert convert(source, tmp_path / "log")["shown"] == 1
    (logged,) = by_item(tmp_path / "log").values()
    assert (logged["stage"], logged["effective_view"]) == ("shown", True)


def without(name):
    changed = row(1, 10, "realshow")
    del changed[name]
    return changed


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([without("user_id")], r"2024-01-13\.feather has no column 'user_id'"),
        ([without("like")], "has no column 'like'"),
        (
            [row(1, 10, "realshow"), row(1, 11, video_id=None)],
            "column 'video_id' is empty or no number in 1 of 2 rows: ",
        ),
        (
            [row(1, 10, "realshow", like=2), row(1, 11, "realshow", like=3)],
            "column 'like' is neither 0 nor 1 in 2 of 2 rows, for example '[23]'",
        ),
        (
            [row(1, 10, "realshow", request_timestamp=T0)],
            "column 'request_timestamp' is no time in 1 of 1 rows.*expected UTC milliseconds",
        ),
        (
            [row(1, 10, "realshow"), row(1, 11, "realshow", user_id=5)],
            "column 'user_id' has several users of one request in 1 of 1 rows",
        ),
    ],
)
def test_what_is_wrong_is_named_by_file_column_and_rows(tmp_path, candidates, message):
    source = write(tmp_path / "source", {DAY: candidates})
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / "log")
    assert not (tmp_path / "log").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_directory_or_a_file_that_is_none_of_it_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, what in (("empty", "holds no such file"), ("absent", "is no directory")):
        with pytest.raises(InputError, match=f"{name} {what}. Expected RecFlow's directory"):
            convert(tmp_path / name, tmp_path / "log")
    folder = tmp_path / "damaged/all_stage"
    folder.mkdir(parents=True)
    (folder / f"{DAY}.feather").write_bytes(b"no feather")
    with pytest.raises(InputError, match=rf"{DAY}\.feather is no Feather file of version 2"):
        convert(tmp_path / "damaged", tmp_path / "log")
    pa_feather.write_feather(pa.table({"request_id": [1]}), str(folder / f"{DAY}.feather"))
    with pytest.raises(InputError, match=r"has no column 'user_id'"):
        convert(tmp_path / "damaged", tmp_path / "log")


def test_a_day_without_rows_is_refused(tmp_path):
    source = write(tmp_path / "source", {DAY: [row(1, 10, "realshow")]})
    file = source / "all_stage" / f"{DAY}.feather"
    pa_feather.write_feather(pa_feather.read_table(str(file), memory_map=False)[:0], str(file))
    with pytest.raises(InputError, match=rf"{DAY}\.feather has no rows"):
        convert(source, tmp_path / "log")
