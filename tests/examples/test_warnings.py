"""What preparation says of a log: one sentence for each fault, none of a log without."""

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from interactrank_jax import cli
from interactrank_jax.evaluation import tables as evaluation_tables
from interactrank_jax.evaluation.evaluate import evaluate_baseline
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.examples.splits import Days
from interactrank_jax.examples.survey import Sameness, few_candidates
from interactrank_jax.examples.warnings import before_training, of_requests
from interactrank_jax.io.errors import InputError
from tests.faults.forging import at, reseal
from tests.log.handmade_log import START, data_config, make_tables, replace, write_log
from tests.synthetic import tiny_config

CROSS = ("share:click:7", "item_share:click:7", "rate:click:7", "item_rate:click:7")


def warnings_of(path, tables, **config) -> list[str]:
    """Prepares a log of these tables, and returns its warnings as read from disk."""
    log = write_log(path / "log", tables)
    prepare(data_config(**config), log, path / "examples")
    return before_training(Examples(path / "examples").metadata)


def test_a_log_without_faults_has_no_warning(examples, tiny_examples):
    assert before_training(examples.metadata) == []
    assert before_training(Examples(tiny_examples).metadata) == []


def test_examples_of_an_older_release_have_no_warning(examples):
    assert before_training(dataclasses.replace(examples.metadata, survey=None)) == []


def test_with_one_query_features_over_all_queries_count_twice(tmp_path):
    tables = make_tables()
    requests = replace(tables["requests"], "query_id", [7] * len(tables["requests"]))
    tables["requests"] = replace(requests, "query_text", ["all"] * len(requests))
    events = tables["events"]
    tables["events"] = replace(events, "query_id", [7] * len(events))
    shares, rates = warnings_of(tmp_path, tables, **{"cross.features": CROSS})
    assert "share:click:7 and item_share:click:7 are equal in all" in shares
    assert "rate:click:7 and item_rate:click:7 are equal in all" in rates
    for text in (shares, rates):
        assert "count twice: keep one of them in config.data.cross.features" in text
        assert "(convert --query)" in text
    metadata = Examples(tmp_path / "examples").metadata
    assert before_training(metadata, uses_cross=False) == []
    # It is what a model of these features is given.
    cross = np.concatenate([b["cross"] for b in Examples(tmp_path / "examples").blocks("train")])
    np.testing.assert_array_equal(cross[..., 0], cross[..., 1])


def test_windows_longer_than_the_log_count_several_times(tmp_path):
    features = ("share:click:7", "share:click:40", "share:click:50", "share:click:60")
    (text,) = warnings_of(tmp_path, make_tables(), **{"cross.features": features})
    assert "share:click:40, share:click:50 and share:click:60 are equal in all" in text
    assert "count 3 times" in text
    assert "convert" not in text  # there are several queries


def _with(table: str, column: str, value):
    def change(tables):
        rows = len(tables[table])
        return tables | {table: replace(tables[table], column, [value] * rows)}

    return change


def _no_saves(tables):
    """No save but one, near the end of training, which a window of a day forgets."""
    events = tables["events"].filter(pc.not_equal(tables["events"]["action"], "save"))
    time = START + 18 * 86_400
    one = pa.table({name: events[name][:1] for name in events.column_names})
    for name, value in (("event_id", "one"), ("action", "save"), ("event_time", time)):
        one = replace(one, name, [value])
    if "arrival_time" in one.column_names:
        one = replace(one, "arrival_time", [time])
    impressions = replace(tables["impressions"], "save", np.zeros(len(tables["impressions"]), int))
    events = pa.concat_tables([events, one.cast(events.schema)])
    return tables | {"events": events, "impressions": impressions}


def _rare_hour(tables):
    hour = np.zeros(len(tables["requests"]))
    earliest = np.argmin(tables["requests"]["timestamp"].to_numpy())
    hour[earliest] = 5
    return tables | {"requests": replace(tables["requests"], "hour", hour)}


def _pairs(tables):
    shown = tables["impressions"]
    return tables | {"impressions": shown.filter(pc.less(shown["position"], 2))}


@pytest.mark.long  # prepares a log several times
@pytest.mark.parametrize(
    ("change", "requests", "features", "expected"),
    [
        (_with("items", "price", 3.5), 200, (), "feature price has one value in all of training"),
        (_with("requests", "hour", 4), 200, (), "feature hour has one value in all of training"),
        (_with("items", "brand", "b"), 200, (), "feature brand has one value in all of training"),
        (_with("requests", "user_id", "u1"), 200, (), "feature user_id has one value"),
        (_rare_hour, 1_500, (), "feature hour is 0 in all but 0.0"),
        (
            _no_saves,
            1_500,
            ("share:click:7", "share:save:1"),
            "cross feature share:save:1 is 0 in all but 0.0",
        ),
        (
            _with("impressions", "save", 0),
            200,
            ("share:click:7", "share:save:7"),
            "cross feature share:save:7 has the same value in every training candidate",
        ),
        (_pairs, 200, (), "100% of the requests of train, 100% of the requests of validation and "),
    ],
)
def test_a_fault_has_a_sentence_and_nothing_else_has(
    tmp_path, change, requests, features, expected
):
    tables = change(make_tables(requests))
    if expected.endswith("every training candidate"):  # as is said of no event, too
        kept = pc.not_equal(tables["events"]["action"], "save")
        tables["events"] = tables["events"].filter(kept)
    config = {"cross.features": features} if features else {}
    if "save" in str(features) or "user_id" in expected:
        config["history.rates"] = ()
    (text,) = warnings_of(tmp_path, tables, **config)
    assert text.startswith(expected)
    assert text.endswith(".")
    assert "leave it out" in text or "log all candidates" in text


class TestSameness:
    def test_one_row_in_the_last_part_tells_columns_apart(self):
        rng = np.random.default_rng(0)
        values = np.tile(rng.random((200_000, 1), np.float32), (1, 4))
        values[:, 3] = 2
        same = Sameness(4)
        same.add(values)
        assert (same.equal, same.constant) == ([[0, 1, 2]], [3])
        values = values[:100_001].copy()
        values[-1, 1] = np.nextafter(values[-1, 1], np.float32(9))
        values[-1, 3] = np.nextafter(np.float32(2), np.float32(9))
        same.add(values)
        assert (same.equal, same.constant) == ([[0, 2]], [])

    def test_two_groups_part_from_one(self):
        same = Sameness(4)
        same.add(np.zeros((5, 4), np.float32))
        assert same.equal == []
        assert same.constant == [0, 1, 2, 3]
        same.add(np.array([[1, 2, 1, 2]], np.float32))
        assert (same.equal, same.constant) == ([[0, 2], [1, 3]], [])

    def test_no_row_tells_nothing(self):
        same = Sameness(3)
        same.add(np.zeros((0, 3), np.float32))
        assert (same.equal, same.constant) == ([], [])


def test_requests_are_counted_by_all_their_candidates():
    request = np.array([4, 4, 9, 9, 9, 2])
    assert few_candidates(request) == (2, 3)
    # A request of several slates is one.
    assert few_candidates(np.array([4, 4, 9]), np.array([10, 1, 2])) == (1, 2)


def test_evaluation_says_where_requests_have_few_candidates(tmp_path, examples):
    assert of_requests(np.repeat(np.arange(9), 3), "test") == []
    (text,) = of_requests(np.array([0, 0, 1, 2, 2, 2]), "test")
    assert text.startswith("66.7% of the requests of test have at most 2 candidates")
    config = tiny_config("interactrank")
    config.data = data_config()
    result = evaluate_baseline("constant", config, examples.path)
    assert result["warnings"] == []
    assert "warning" not in evaluation_tables.report([result])
    prepare(config.data, write_log(tmp_path / "log", _pairs(make_tables())), tmp_path / "pairs")
    result = evaluate_baseline("constant", config, tmp_path / "pairs")
    (text,) = result["warnings"]
    assert text.startswith("100% of the requests of test")
    assert f"warning: {text}" in evaluation_tables.report([result, result])
    assert evaluation_tables.report([result, result]).count(text) == 1


def test_days_of_another_encoder_have_no_training_to_speak_of(tmp_path, log, examples):
    day = START // 86_400
    days = Days(day + 28, day + 29)
    prepare(data_config(), log, tmp_path / "days", encoder=examples.encoder, days=days)
    survey = Examples(tmp_path / "days").metadata.survey
    assert (survey.equal, survey.constant, survey.absent) == ((), (), {})
    assert set(survey.few) == {"test"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("survey", "absent", 3), "is incomplete"),
        (at("survey", "equal", 3), "is incomplete"),
        (at("survey", {}), "is incomplete"),
        (at("survey", "few", {"trian": 3}), "speaks of the split 'trian'"),
    ],
)
def test_a_survey_that_was_edited_is_refused(tmp_path, examples, change, message):
    copy = shutil.copytree(examples.path, tmp_path / "examples")
    reseal(copy / "metadata.json", change)
    with pytest.raises(InputError, match=rf"metadata\.json.*{message}"):
        Examples(copy)


def test_the_command_prints_them_at_its_end(tmp_path, caplog):
    log = write_log(tmp_path / "log", _with("items", "price", 3.5)(make_tables()))
    flags = ["--config.data.cross.features=('share:click:7','share:save:30:country')"]
    for name in ("history.actions", "query_history.actions"):
        flags.append(f"--config.data.{name}=('click','save')")
    command = ["prepare", "--config=configs/interactrank.py", f"--log={log}", *flags]
    assert cli.main([*command, f"--out={tmp_path / 'examples'}"]) == 0
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "warning: feature price has one value in all of training, from which nothing is learned: "
        "look at how the log fills it, or leave it out of schema.json."
    ]
