"""Preparing a later log so that a trained model can go on: what is kept, and what is refused."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from interactrank_jax.examples import prepare as prepare_module
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.schema import FeatureSpec
from tests.log import handmade_log
from tests.log.handmade_log import data_config, replace, write_log


def _later(tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """The same log with item i0 gone, i24 renamed, u0 renamed, prices and hours shifted."""
    new = {
        name: table.filter(pc.not_equal(table["item_id"], "i0")) if "item_id" in table.column_names
        else table
        for name, table in tables.items()
    }  # fmt: skip
    items = new["items"]
    ids = [{"i24": "new"}.get(i, i) for i in items["item_id"].to_pylist()]
    items = replace(items, "item_id", ids)
    new["items"] = replace(items, "price", items["price"].to_numpy() + 100)
    requests = new["requests"]
    users = ["newcomer" if user == "u0" else user for user in requests["user_id"].to_pylist()]
    requests = replace(requests, "user_id", users)
    new["requests"] = replace(requests, "hour", requests["hour"].to_numpy() + 100)
    return new


@pytest.mark.long  # prepares a log several times
def test_extending_keeps_rows_and_statistics_and_appends(examples, tables, tmp_path):
    log = write_log(tmp_path / "log", _later(tables))
    config = data_config()
    prepare(config, log, tmp_path / "out", extend=examples.path)
    extended = Examples(tmp_path / "out")

    assert extended.item_ids[: examples.num_items].tolist() == examples.item_ids.tolist()
    assert extended.item_ids[examples.num_items :].tolist() == ["new"]
    known = examples.items["id"] > 4
    assert np.array_equal(
        extended.items["id"][: examples.num_items][known], examples.items["id"][known]
    )
    prices = extended.items["numeric"][1:, 0]
    assert prices[0] == 0  # i0 is gone from the log: what was known of it stays
    assert prices[1] == 1.5 + 100

    for table in ("user", "query", "country", "item"):
        old, new = (
            part.encoder.vocabularies[table].values.to_pylist() for part in (examples, extended)
        )
        assert new[: len(old)] == old
    assert "newcomer" in extended.encoder.vocabularies["user"].values.to_pylist()
    assert extended.metadata.numeric_statistics == examples.metadata.numeric_statistics
    assert extended.metadata.cross_statistics == examples.metadata.cross_statistics


def _refused(config, log, examples, tmp_path, monkeypatch) -> str:
    """Returns the message of an extension that is refused before any row is looked at."""
    monkeypatch.setattr(prepare_module, "validate", lambda log: pytest.fail("the work had begun"))
    with pytest.raises(InputError) as error:
        prepare(config, log, tmp_path / "out", extend=examples.path)
    assert not (tmp_path / "out").exists()
    message = str(error.value)
    assert f"--extend={examples.path}" in message
    return message


@pytest.mark.parametrize(
    ("field", "value", "was", "now"),
    [
        ("text.buckets", 50, "100", "50"),
        ("text.ngram", 4, "3", "4"),
        ("text.max_tokens", 5, "6", "5"),
        ("vocabulary.out_of_vocabulary", 3, "4", "3"),
        (
            "cross.features",
            ("share:click:9",),
            r"['share:click:7', 'share:save:30:country']",
            "['share:click:9']",
        ),
        ("cross.prior", 6.0, "5.0", "6.0"),
        ("cross.lag_days", 2, "1", "2"),
        ("history.length", 7, "6", "7"),
        ("history.actions", ("save",), "['click', 'save']", "['save']"),
        ("history.delay_s", 61, "60", "61"),
        ("history.rates", (), "['save']", "[]"),
        ("query_history.length", 5, "4", "5"),
        ("query_history.actions", ("click",), "['click', 'save']", "['click']"),
    ],
)
def test_extending_with_another_meaning_is_refused_at_once(
    field, value, was, now, log, examples, tmp_path, monkeypatch
):
    config = data_config(**{field: value})
    message = _refused(config, log, examples, tmp_path, monkeypatch)
    assert f"config.data.{field} was {was}, is {now}. " in message
    assert "set it back, or prepare without --extend" in message


def test_every_field_that_differs_is_named(log, examples, tmp_path, monkeypatch):
    config = data_config(**{"text.ngram": 4, "cross.prior": 6.0})
    message = _refused(config, log, examples, tmp_path, monkeypatch)
    assert "config.data.cross.prior was 5.0, is 6.0; config.data.text.ngram was 3, is 4" in message


def test_extending_with_other_splits_slates_and_seed_is_taken(log, examples, tmp_path):
    config = data_config(**{
        "slate": 9, "block_size": 16, "seed": 1, "folds": 4,
        "split.fractions": (0.6, 0.2, 0.2), "vocabulary.min_count": 3,
    })  # fmt: skip
    metadata = prepare(config, log, tmp_path / "out", extend=examples.path)
    assert metadata.slate == 9
    assert metadata.extends == examples.metadata.digest


def test_extending_other_actions_is_refused_at_once(tables, examples, tmp_path, monkeypatch):
    log = write_log(tmp_path / "log", tables, actions=("save", "click"))
    config = data_config()
    message = _refused(config, log, examples, tmp_path, monkeypatch)
    assert "actions were ['click', 'save'], those of the log are ['save', 'click']" in message


def test_extending_other_features_is_refused_at_once(tables, examples, tmp_path, monkeypatch):
    as_number = tuple(
        FeatureSpec("hour", "request", "categorical") if spec.name == "hour" else spec
        for spec in handmade_log.FEATURES
    )
    monkeypatch.setattr(handmade_log, "FEATURES", as_number)
    log = write_log(tmp_path / "log", tables)
    config = data_config()
    message = _refused(config, log, examples, tmp_path, monkeypatch)
    before, after = message.split("those of the log are")
    assert "hour (request, numeric)" in before
    assert "hour (request, categorical)" in after


def test_extending_wider_embeddings_is_refused(tables, examples, tmp_path):
    taste = [[*row, 0.0] for row in tables["requests"]["taste"].to_pylist()]
    requests = replace(tables["requests"], "taste", taste)
    log = write_log(tmp_path / "log", tables | {"requests": requests})
    config = data_config()
    with pytest.raises(InputError, match="'taste' had width 3, it has width 4 in the log"):
        prepare(config, log, tmp_path / "out", extend=examples.path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "column"),
    [("items", "brand"), ("items", "item_id"), ("requests", "country"), ("requests", "user_id")],
)
def test_extending_strings_by_integers_is_refused(table, column, tables, examples, tmp_path):
    changed = {}
    for name, rows in tables.items():
        if column in rows.column_names:
            values = rows[column].combine_chunks().dictionary_encode().dictionary.to_pylist()
            code = {value: index for index, value in enumerate(sorted(values))}
            if column in ("item_id", "user_id"):
                code = {value: int(value[1:]) for value in values}
            rows = replace(rows, column, [code[value] for value in rows[column].to_pylist()])
        changed[name] = rows
    log = write_log(tmp_path / "log", changed)
    config = data_config()
    message = f"'{column}' of {table} was large_string, it is int64 in the log"
    with pytest.raises(InputError, match=message):
        prepare(config, log, tmp_path / "out", extend=examples.path)
    assert not (tmp_path / "out").exists()


def test_a_column_may_come_as_a_dictionary_where_it_did_not(tables, examples, tmp_path):
    later = _later(tables)
    encoded = later["items"]["brand"].combine_chunks().dictionary_encode()
    items = replace(later["items"], "brand", encoded)
    log = write_log(tmp_path / "log", later | {"items": items})
    config = data_config()
    prepare(config, log, tmp_path / "out", extend=examples.path)
    found = Examples(tmp_path / "out").items["brand"]
    assert np.array_equal(found[: examples.num_items], examples.items["brand"])
