"""The encoder: saved, opened and compared; and examples, read by one that theirs extends."""

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.examples.encoder import Encoder, config_differences, meaning
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.examples.view import ExamplesView
from interactrank_jax.examples.vocabulary import Fingerprint, Vocabulary
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.values import as_values
from interactrank_jax.runs.run import Run
from tests.log.handmade_log import data_config, replace, write_log
from tests.synthetic import HASHED, TABLES, make_encoder, tiny_config

ENCODER = make_encoder()


def with_vocabulary(name: str, values: pa.Array) -> Encoder:
    """Returns the synthetic encoder with other values in one vocabulary."""
    vocabularies = {**ENCODER.vocabularies, name: Vocabulary(values, HASHED)}
    return dataclasses.replace(
        ENCODER,
        vocabularies=vocabularies,
        tables={**ENCODER.tables, name: vocabularies[name].size},
        fingerprints={**ENCODER.fingerprints, name: Fingerprint.of(values)},
    )


def grown(name: str = "user", *values: str) -> Encoder:
    old = ENCODER.vocabularies[name].values
    return with_vocabulary(name, pa.concat_arrays([old, pa.array(values, old.type)]))


def with_statistic(part: str, name: str, **changes: float) -> Encoder:
    statistics = getattr(ENCODER, part)
    changed = dataclasses.replace(statistics[name], **changes)
    return dataclasses.replace(ENCODER, **{part: {**statistics, name: changed}})


class TestSaved:
    def test_is_opened_as_it_was(self, tmp_path):
        ENCODER.save(tmp_path)
        opened = Encoder.open(tmp_path)
        assert opened == ENCODER
        assert opened.digest == ENCODER.digest
        assert opened.difference(ENCODER) is None
        assert opened.vocabularies.keys() == TABLES.keys() - {"text"}
        for name, vocabulary in opened.vocabularies.items():
            assert vocabulary.values.equals(ENCODER.vocabularies[name].values)
            assert vocabulary.size == TABLES[name]

    def test_what_was_opened_can_be_saved_again(self, tmp_path):
        ENCODER.save(tmp_path / "first")
        Encoder.open(tmp_path / "first").save(tmp_path / "second")
        assert Encoder.open(tmp_path / "second").digest == ENCODER.digest

    def test_nothing_is_no_encoder(self, tmp_path):
        with pytest.raises(
            InputError, match=r"encoder\.json does not exist\. Expected the encoder"
        ):
            Encoder.open(tmp_path)


class TestFingerprint:
    def test_depends_on_values_alone(self):
        values = pa.array(["a", "bc", "", "d"], pa.large_string())
        padded = pa.array(["x", "a", "bc", "", "d", "yy"], pa.large_string()).slice(1, 4)
        assert Fingerprint.of(values) == Fingerprint.of(padded)
        numbers = pa.array([7, -1, 2**62])
        assert Fingerprint.of(numbers) == Fingerprint.of(pa.array([0, 7, -1, 2**62]).slice(1))

    @pytest.mark.parametrize(
        "other",
        [
            ["ab", "c", "", "d"],
            ["bc", "a", "", "d"],
            ["a", "bc", "d", ""],
            ["a", "bc", "", "d", ""],
        ],
    )
    def test_tells_values_apart(self, other):
        values = pa.array(["a", "bc", "", "d"], pa.large_string())
        assert Fingerprint.of(values) != Fingerprint.of(pa.array(other, pa.large_string()))

    def test_tells_types_apart(self):
        empty = [Fingerprint.of(pa.array([], kind)) for kind in (pa.int64(), pa.large_string())]
        assert empty[0] != empty[1]


SHUFFLED = ENCODER.vocabularies["query"].values.take(pa.array([0, 1, 3, 2, *range(4, 37)]))
DIFFERENT = {
    "the log": (
        make_encoder(prefix="x"),
        "row 3 of vocabulary 'user' was 'user-1', is 'xuser-1'",
    ),
    "text": (
        dataclasses.replace(ENCODER, meaning={**ENCODER.meaning, "text.buckets": 7}),
        f"config.data.text.buckets was {ENCODER.meaning['text.buckets']}, is 7",
    ),
    "actions": (
        dataclasses.replace(ENCODER, actions=("click", "buy")),
        "actions was ['click', 'save'], is ['click', 'buy']",
    ),
    "a feature": (
        dataclasses.replace(
            ENCODER,
            features=(
                *ENCODER.features[:3],
                dataclasses.replace(ENCODER.features[3], width=9),
                *ENCODER.features[4:],
            ),
        ),
        "feature 4 was mood (request, embedding, width 3), is mood (request, embedding, width 9)",
    ),
    "one feature less": (
        dataclasses.replace(ENCODER, features=ENCODER.features[:-1]),
        "feature 7 was title (item, text, width 6, table 'text'), is absent",
    ),
    "cross features": (
        dataclasses.replace(ENCODER, cross=ENCODER.cross[:1]),
        "cross was ['share:click:30', 'share:click:365'], is ['share:click:30']",
    ),
    "a length": (dataclasses.replace(ENCODER, history_length=8), "history_length was 7, is 8"),
    "time": (dataclasses.replace(ENCODER, timeless=True), "timeless was False, is True"),
    "a table of tokens": (
        dataclasses.replace(ENCODER, tables={**TABLES, "text": 51}),
        "rows of table 'text' was 50, is 51",
    ),
    "the order of a vocabulary": (
        with_vocabulary("query", SHUFFLED),
        "row 5 of vocabulary 'query' was 'query-3', is 'query-4'",
    ),
    "the type of a vocabulary": (
        with_vocabulary("query", pa.array(range(37))),
        "type of vocabulary 'query' was large_string, is int64",
    ),
    "a shorter vocabulary": (
        with_vocabulary("item", ENCODER.vocabularies["item"].values.slice(0, 80)),
        "length of vocabulary 'item' was 87, is 80",
    ),
    "a statistic": (
        with_statistic("numeric_statistics", "price", mean=4.25),
        "mean of 'price' was 4.5, is 4.25",
    ),
    "a scale": (
        with_statistic("cross_statistics", "share:click:30", rms=0.5),
        "rms of 'share:click:30' was 0.3, is 0.5",
    ),
    "a mean rate": (
        dataclasses.replace(ENCODER, mean_rates={"click": 0.125}),
        "mean rate of 'click' was absent, is 0.125",
    ),
}


class TestDifference:
    @pytest.mark.parametrize("name", DIFFERENT)
    def test_the_first_is_named(self, name):
        other, message = DIFFERENT[name]
        assert ENCODER.difference(other) == message
        assert ENCODER.difference(other, may_grow=True) == message
        assert not other.extends(ENCODER)
        assert other.difference(ENCODER) is not None

    @pytest.mark.parametrize("name", DIFFERENT)
    def test_a_run_refuses_such_examples_and_says_what_to_do(self, name, examples_path):
        examples = Examples(examples_path)
        run = Run("unused", tiny_config("interactrank"), examples.metadata)
        other, message = DIFFERENT[name]
        examples.metadata = dataclasses.replace(examples.metadata, encoder=other)
        with pytest.raises(InputError) as error:
            run.check_examples(examples)
        said = str(error.value)
        assert f"{examples.path} does not fit unused: {message}. " in said
        assert "prepare the log with --extend=" in said

    def test_a_longer_vocabulary_extends(self):
        longer = grown("user", "new")
        assert longer.extends(ENCODER)
        assert not ENCODER.extends(longer)
        assert ENCODER.difference(longer) == "length of vocabulary 'user' was 57, is 58"

    def test_every_encoder_extends_itself(self):
        assert ENCODER.extends(ENCODER)
        assert make_encoder().extends(ENCODER)

    def test_a_field_that_there_was_not_was_off(self):
        assert config_differences({"text.buckets": 9}, {"text.buckets": 9, "text.stem": ""}) == []
        assert config_differences({"text.stem": 0}, {}) == []
        assert config_differences({}, {"text.stem": "en"}) == [
            "config.data.text.stem was None, is en"
        ]

    def test_what_splits_and_blocks_are_is_no_part_of_it(self):
        changed = data_config(**{
            "slate": 9, "block_size": 16, "seed": 1, "folds": 4,
            "split.fractions": (0.6, 0.2, 0.2), "vocabulary.min_count": 3,
            "cross.debias.smallest_propensity": 0.3,
        })  # fmt: skip
        assert meaning(changed.to_dict()) == meaning(data_config().to_dict())


class TestRowsOfAnOlderEncoder:
    def test_known_rows_stay_and_the_rest_are_hashed(self):
        longer = grown("user", "a", "user-99", "\N{SNOWMAN}")
        rows = longer.rows_in(ENCODER)
        assert rows.keys() == {"user"}
        old = ENCODER.vocabularies["user"]
        assert rows["user"][:60].tolist() == list(range(60))
        unseen = pa.array(["a", "user-99", "\N{SNOWMAN}"], pa.large_string())
        assert rows["user"][60:].tolist() == old.rows(unseen).tolist()
        assert set(rows["user"][60:].tolist()) <= {1, 2}

    def test_integers_are_hashed_as_the_older_vocabulary_does(self):
        before = with_vocabulary("query", pa.array(range(37)))
        after = with_vocabulary("query", pa.array([*range(37), 500, -3]))
        expected = before.vocabularies["query"].rows(pa.array([500, -3]))
        assert after.rows_in(before)["query"][40:].tolist() == expected.tolist()


@pytest.fixture(scope="module")
def extended(tables, examples, tmp_path_factory):
    """Examples that extend `examples`: of each kind of id, one gave way to a new one."""
    root = tmp_path_factory.mktemp("extended")
    renamed = {
        "user_id": {"u0": "newcomer"},
        "query_id": {104: 999},
        "country": {"us": "br"},
        "item_id": {"i5": "new"},
        "brand": {"b3": "b9"},
    }
    later = {}
    for name, table in tables.items():
        for column in renamed.keys() & set(table.column_names):
            values = table[column].to_pylist()
            table = replace(table, column, [renamed[column].get(v, v) for v in values])
        later[name] = table
    prepare(data_config(), write_log(root / "log", later), root / "out", extend=examples.path)
    return Examples(root / "out")


class TestView:
    @pytest.fixture(scope="class")
    def view(self, examples, extended):
        return ExamplesView(extended, examples.encoder)

    def test_ids_of_requests_are_those_of_the_older_vocabularies(self, view, examples, extended):
        unseen = set()
        for split in extended.metadata.splits:
            raw = view.raw_requests(split)
            for block, as_it_lies in zip(view.blocks(split), extended.blocks(split), strict=True):
                rows = raw.take(pa.array(block["request_index"]))
                for column, table, name in (
                    ("user", "user", "user_id"),
                    ("query", "query", "query_id"),
                    ("request/country", "country", "country"),
                ):
                    expected = examples.encoder.vocabularies[table].rows(as_values(rows[name]))
                    np.testing.assert_array_equal(block[column], expected)
                    assert block[column].dtype == as_it_lies[column].dtype
                    if (as_it_lies[column] >= examples.metadata.tables[table]).any():
                        unseen.add(column)
                for name in block.keys() - {"user", "query", "request/country"}:
                    np.testing.assert_array_equal(block[name], as_it_lies[name])
        assert unseen == {"user", "query", "request/country"}

    def test_ids_of_items_are_those_of_the_older_vocabularies(self, view, examples, extended):
        raw = view.raw_items()
        vocabularies = examples.encoder.vocabularies
        for column, name, table in (("id", "item_id", "item"), ("brand", "brand", "brand")):
            expected = vocabularies[table].rows(as_values(raw[name]))
            np.testing.assert_array_equal(view.items[column], expected)
            assert (np.asarray(extended.items[column]) >= examples.metadata.tables[table]).any()
        for name in extended.items.keys() - {"id", "brand"}:
            np.testing.assert_array_equal(view.items[name], extended.items[name])
        assert view.num_items == extended.num_items

    def test_columns_are_limited_as_without_it(self, view):
        for block in view.blocks("test", ("item", "user")):
            assert block.keys() == {"item", "user"}

    def test_its_tables_are_those_of_the_model(self, view, examples, extended):
        assert view.encoder == examples.encoder
        assert view.metadata.splits == extended.metadata.splits
        assert view.metadata.digest == extended.metadata.digest

    def test_the_rest_is_that_of_the_examples(self, view, extended):
        assert view.item_ids.tolist() == extended.item_ids.tolist()
        assert view.has_corpus("test") == extended.has_corpus("test")
        assert not view.has_corpus("train")
        assert view.sparse_cross("test") is extended.sparse_cross("test")
        assert view.block_files("test") == extended.block_files("test")

    def test_a_damaged_vocabulary_is_named(self, examples, extended, tmp_path):
        copy = shutil.copytree(extended.path, tmp_path / "examples")
        opened = Examples(copy)
        file = copy / "encoder" / "vocabulary" / "brand.parquet"
        shutil.copy(examples.path / "encoder" / "vocabulary" / "brand.parquet", file)
        with pytest.raises(InputError, match=r"brand\.parquet is absent or damaged"):
            ExamplesView(opened, examples.encoder)


def test_examples_of_the_same_encoder_are_read_as_they_lie(examples_path):
    examples = Examples(examples_path)
    run = Run("unused", tiny_config("interactrank"), examples.metadata)
    assert run.check_examples(examples) is examples


def test_examples_do_not_hold_it_twice(examples):
    value = examples.metadata.to_json()
    fields = {field.name for field in dataclasses.fields(Encoder)}
    assert not value.keys() & fields
    assert value["encoder"] == examples.encoder.digest
