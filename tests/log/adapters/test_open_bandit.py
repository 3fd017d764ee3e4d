"""The Open Bandit Dataset as a log: one candidate a request, with its true propensity."""

import pyarrow.parquet as pq
import pytest

from interactrank_jax.config import models
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.open_bandit import convert
from interactrank_jax.log.read import open_log
from interactrank_jax.log.validate import validate
from tests.log.adapters.raw_open_bandit import FIRST, row, trainable, write

T0 = int(FIRST.timestamp())


def rows(path, table):
    return pq.read_table(path / table).to_pylist()


def test_a_row_becomes_a_request_of_one_candidate_with_its_propensity(tmp_path):
    source = write(
        tmp_path / "random/men",
        [
            row(0.75, 0, position=1, click=1),
            row(3_600, 3, position=3, propensity_score=0.0625, user_feature_1="b"),
        ],
        campaign="men",
    )
    assert convert(source, tmp_path / "log") == {
        "campaign": "men",
        "items": 4,
        "requests": 2,
        "impressions": 2,
        "clicks": 1,
    }
    assert rows(tmp_path / "log", "impressions") == [
        {"request_id": 0, "item_id": 0, "position": 0, "click": True, "propensity": 0.25},
        {"request_id": 1, "item_id": 3, "position": 2, "click": False, "propensity": 0.0625},
    ]
    first, second = rows(tmp_path / "log", "requests")
    assert first == {
        "request_id": 0,
        "user_id": "0a-1a-2a-3a",
        "query_id": "0a-1a-2a-3a",
        "timestamp": T0,
        **{f"user_feature_{k}": f"{k}a" for k in range(4)},
        "hour": 0,
        "affinity": [1.0, 0.0, 0.0, 0.0],
    }
    assert (second["timestamp"], second["hour"], second["user_id"]) == (
        T0 + 3_600,
        1,
        "0a-b-2a-3a",
    )
    assert rows(tmp_path / "log", "items")[1] == {
        "item_id": 1,
        "item_feature_0": 0.5,
        "item_feature_1": "x1",
        "item_feature_2": "y",
        "item_feature_3": "z1",
    }
    assert validate(open_log(tmp_path / "log"))["actions"] == {"click": 1}


def test_times_with_an_offset_are_utc(tmp_path):
    times = ("2019-11-24 09:00:00.5+09:00", "2019-11-24 00:00:01")
    source = write(tmp_path / "all", [row(0, 0, timestamp=time) for time in times])
    convert(source, tmp_path / "log")
    assert [each["timestamp"] for each in rows(tmp_path / "log", "requests")] == [T0, T0 + 1]


def test_the_affinities_are_in_the_order_of_items_whatever_that_of_columns(tmp_path):
    source = write(tmp_path / "all", [row(0, 2)])
    text = (source / "all.csv").read_text()
    (source / "all.csv").write_text(text.replace("affinity_2", "affinity_10"))
    convert(source, tmp_path / "log")
    # The column user-item_affinity_10, before that of 3 in the file, holds the 1.
    assert rows(tmp_path / "log", "requests")[0]["affinity"] == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(1, 9), r"column 'item_id' names 1 ids that are not in .*item_context\.csv"),
        (
            row(1, 0, propensity_score=0),
            "column 'propensity_score' is no probability in 1 of 2 rows, for example '0.0'",
        ),
        (row(1, 0, propensity_score="x"), "'propensity_score' is empty or no number in 1 of 2"),
        (row(1, 0, position=0), "column 'position' is no place in 1 of 2 rows"),
        (row(1, 0, click=2), "column 'click' is neither 0 nor 1 in 1 of 2 rows"),
        (row(1, 0, timestamp="noon"), "column 'timestamp' is no time in 1 of 2 rows"),
        (
            row(1, 0, **{"user-item_affinity_1": "x"}),
            "column 'affinity' lacks a number .user-item_affinity_0 and on. in 1 of 2 rows",
        ),
    ],
)
def test_rows_that_are_wrong_are_named_by_file_column_and_number(tmp_path, bad, message):
    source = write(tmp_path / "all", [row(0, 0), bad])
    with pytest.raises(InputError, match=rf"all\.csv: .*{message}|all\.csv: {message}"):
        convert(source, tmp_path / "log")
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


@pytest.mark.parametrize("name", ["propensity_score", "user_feature_2", "item_id"])
def test_a_missing_column_is_named(tmp_path, name):
    source = write(tmp_path / "all", [row(0, 0)])
    text = (source / "all.csv").read_text()
    (source / "all.csv").write_text(text.replace(f",{name},", ",other,", 1))
    with pytest.raises(InputError, match=rf"all\.csv has no column '{name}'"):
        convert(source, tmp_path / "log")


def test_a_directory_of_several_campaigns_says_how_to_name_one(tmp_path):
    source = tmp_path / "open_bandit_dataset"
    for policy in ("random", "bts"):
        write(source / policy / "all", [row(0, 0)])
    with pytest.raises(InputError, match=r"random/all, bts/all, whose.*--source=.*random/all"):
        convert(source, tmp_path / "log")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no such files\. Expected the directory of"):
        convert(tmp_path / "empty", tmp_path / "log")
    with pytest.raises(InputError, match="absent does not exist"):
        convert(tmp_path / "absent", tmp_path / "log")


@pytest.mark.long  # prepares a log several times
def test_the_propensities_of_the_log_weigh_what_the_config_counts(tmp_path):
    convert(trainable(tmp_path / "all"), tmp_path / "log")  # all propensities are .25
    data = models.two_tower("open_bandit").data
    rates = {}
    for name in ("none", "propensity"):
        data.cross.debias.name = name
        prepare(data, tmp_path / "log", tmp_path / name)
        blocks = Examples(tmp_path / name).blocks("test", ("cross",))
        rates[name] = max(float(block["cross"].max()) for block in blocks)
    # Clicks over the sum of propensities, a quarter of the impressions: nearly four times the rate.
    assert 2 < rates["propensity"] / rates["none"] <= 4
