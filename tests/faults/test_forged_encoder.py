"""Encoders that were edited and sealed again: their checksums are right, and they do not fit."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.examples.format import Examples, write_metadata
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from tests.faults.forging import at, read_examples, reseal_encoder


@pytest.fixture
def examples(examples_path, tmp_path):
    """A copy of the synthetic examples, to be forged."""
    return Path(shutil.copytree(examples_path, tmp_path / "examples"))


def test_an_encoder_resealed_as_it_was_is_taken(examples):
    reseal_encoder(examples, lambda value: None)
    read_examples(examples)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("tables", {"user": 60}), "no table"),
        (at("tables", "user", -60), "Expected a whole number"),
        (at("tables", "user", "many"), "Expected a whole number"),
        (at("tables", "user", 61), "'user' has 61 rows, its 57 values .* make 60"),
        (at("fingerprints", "user", "length", 58), "'user' has 60 rows, its 58 values"),
        (at("fingerprints", {}), "has no vocabulary"),
        (at("fingerprints", "../user", {"length": 3, "sha256": ""}), "Expected a plain name"),
        (at("fingerprints", "user", None), "is incomplete"),
        (at("out_of_vocabulary", 0), "out_of_vocabulary is 0"),
        (at("features", 0, "table", "nowhere"), "into no table 'nowhere'"),
        (at("features", 0, "kind", "unkind"), "of kind 'unkind'"),
        (at("features", 2, "width", 0), "the width of feature 'query_text' is 0"),
        (at("history_length", -1), "history_length is -1"),
        (at("cross", ["share:click:30", "share:click:7"]), "has no statistics"),
        (at("numeric_statistics", {}), "has no statistics"),
        (at("numeric_statistics", "age", {"mean": 1.0}), "is incomplete"),
        (at("another", 3), "is incomplete"),
        (at("files", None), "is incomplete"),
        (at("format", "interactrank-index"), "expected .'interactrank-encoder', 1."),
        (at("format_version", 2), "expected .'interactrank-encoder', 1."),
    ],
)
def test_an_encoder_that_contradicts_itself_is_refused(examples, change, message):
    reseal_encoder(examples, change)
    with pytest.raises(InputError, match=message) as error:
        Examples(examples)
    assert str(examples / "encoder" / "encoder.json") in str(error.value)


@pytest.mark.parametrize("change", ["shorter", "swapped", "integers", "another", "none"])
def test_an_encoder_with_a_vocabulary_of_other_values_is_refused(examples, change):
    file = examples / "encoder" / "vocabulary" / "user.parquet"
    table = pq.read_table(file)
    swapped = table["value"].take(pa.array([1, 0, *range(2, len(table))]))
    other = {
        "shorter": table.slice(0, 9),
        "swapped": pa.table({"value": swapped, "row": table["row"]}),
        "integers": pa.table({"value": table["row"], "row": table["row"]}),
        "another": table.rename_columns(["name", "row"]),
        "none": pa.table({}),
    }
    pq.write_table(other[change], file)
    write_metadata(examples, Examples(examples).metadata)
    for _ in range(2):  # as it was written over, and with its checksum made right
        with pytest.raises(InputError, match=r"user\.parquet is absent or damaged"):
            _ = Examples(examples).encoder.vocabularies["user"]
        reseal_encoder(examples, at("files", file.name, files.file_digest(file)))
