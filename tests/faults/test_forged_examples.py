"""Examples that were edited and sealed again: their checksums are right, and they do not fit.

What is read is held against its metadata; nothing outside the directory is opened, and no id
reaches a device that lies beyond its table.
"""

import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.examples.blocks import BlockWriter, decode_block
from interactrank_jax.examples.format import Examples, write_metadata
from interactrank_jax.examples.input import train_iterator
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from tests.faults.forging import at, read_examples, reseal, reseal_encoder


@pytest.fixture
def examples(examples_path, tmp_path):
    """A copy of the synthetic examples, to be forged."""
    return Path(shutil.copytree(examples_path, tmp_path / "examples"))


def test_the_copy_is_sound(examples):
    read_examples(examples)


def first_is(value):
    def change(array):
        array.reshape(-1)[-1] = value
        return array

    return change


class TestArrays:
    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("items/id", first_is(90), "holds 90. Expected at least 0 and below 90"),
            ("items/id", first_is(-1), "holds -1"),
            ("items/id", lambda array: array[:-1], "Expected shape"),
            ("items/id", lambda array: array[:0], "is empty"),
            ("items/category", first_is(8), "below 8"),
            ("items/category", lambda array: array[:, None], "Expected shape"),
            ("items/title", first_is(50), "below 50"),
            ("items/title", lambda array: array[:, :-1], "Expected shape"),
            ("items/numeric", lambda array: array[:-1], "Expected shape"),
            ("items/numeric", lambda array: array.astype(np.int64), "of numbers"),
            ("items/count", lambda array: array[:-1], "Expected shape"),
            ("items/count", first_is(-4), "holds -4"),
            ("cross/test/group", first_is(45), "below 45"),
            ("cross/test/group", lambda array: array[:-1], "Expected shape"),
            ("cross/test/indptr", first_is(10**6), "does not rise"),
            ("cross/test/indptr", lambda array: array[::-1].copy(), "does not rise"),
            ("cross/test/item", first_is(81), "below 81"),
            ("cross/test/item", first_is(-2), "holds -2"),
            ("cross/test/value", lambda array: array[:, :1], "Expected shape"),
        ],
    )
    def test_that_do_not_fit_are_refused(self, examples, name, change, message):
        file = examples / f"{name}.npy"
        expected = file
        np.save(file, change(np.load(file)))
        write_metadata(examples, Examples(examples).metadata)
        if name == "items/id" and message == "Expected shape":
            expected = examples / "items" / "count.npy"  # which is then the longer one
        with pytest.raises(InputError, match=message) as error:
            read_examples(examples)
        assert str(expected) in str(error.value)

    def test_that_are_no_arrays_are_refused(self, examples):
        file = examples / "items" / "numeric.npy"
        whole = file.read_bytes()
        # The last says it is larger than it is.
        for content in (b"no array", whole[:90], whole.replace(b"(81, 1), ", b"(9**9,1),")):
            file.write_bytes(content)
            write_metadata(examples, Examples(examples).metadata)
            with pytest.raises(InputError, match=r"numeric\.npy (is no array|holds)"):
                read_examples(examples)
        np.save(file, np.array([{}], object), allow_pickle=True)
        write_metadata(examples, Examples(examples).metadata)
        with pytest.raises(InputError, match=r"numeric\.npy is no array"):
            read_examples(examples)

    @pytest.mark.parametrize("name", ["items/ids", "raw/items", "raw/test"])
    @pytest.mark.parametrize("change", ["shorter", "longer", "another", "none"])
    def test_tables_that_do_not_fit_are_refused(self, examples, name, change):
        file = examples / f"{name}.parquet"
        table = pq.read_table(file)
        if change == "none":
            file.write_bytes(b"PAR1")
        else:
            shorter, longer = table.slice(0, 7), pa.concat_tables([table, table])
            another = table.rename_columns([f"{name}_" for name in table.column_names])
            pq.write_table({"shorter": shorter, "longer": longer, "another": another}[change], file)
        write_metadata(examples, Examples(examples).metadata)
        with pytest.raises(InputError, match=f"{file} (has|is no Parquet)"):
            read_examples(examples)


def set_at(value):
    def change(column):
        column[(0,) * column.ndim] = value
        return column

    return change


def narrower(column):
    return column[..., :-1]


BLOCKS = [
    ("item", set_at(81), "'item' holds 81. Expected at least 0 and below 81"),
    ("item", set_at(-1), "'item' holds -1"),
    ("item", narrower, "'item' holds int32 of shape"),
    ("history_item", set_at(81), "'history_item' holds 81"),
    ("history_item", narrower, "'history_item' holds"),
    ("history_action", set_at(3), "'history_action' holds 3"),
    ("history_age", narrower, "'history_age' holds"),
    ("query_history_item", set_at(2**31 - 1), "'query_history_item' holds"),
    ("user", set_at(60), "'user' holds 60"),
    ("query", set_at(-5), "'query' holds -5"),
    ("request/country", set_at(6), "'request/country' holds 6"),
    ("request/query_text", set_at(50), "'request/query_text' holds 50"),
    ("request/query_text", narrower, "'request/query_text' holds"),
    ("request/mood", narrower, "'request/mood' holds"),
    ("request_numeric", narrower, "'request_numeric' holds"),
    ("request_index", set_at(10**6), "'request_index' holds"),
    ("mask", lambda column: column.astype(np.int32), "Expected flags"),
    ("actions", narrower, "'actions' holds"),
    ("actions", set_at(2), "'actions' holds 2"),
    ("cross", narrower, "'cross' holds"),
    ("cross", lambda column: column.astype(np.int32), "Expected numbers"),
]


def forge_blocks(path: Path, split: str, name: str, change: Any) -> None:
    """Changes a column of the second block, and makes all checksums right."""
    examples = Examples(path)
    blocks = [dict(block) for block in examples.blocks(split)]
    blocks[1][name] = change(blocks[1][name].copy())
    shutil.rmtree(path / split)
    with BlockWriter(path / split, blocks_per_file=3) as writer:
        for block in blocks:
            writer.write(block)
    write_metadata(path, examples.metadata)


def block_of(header: str) -> bytes:
    """A block with this header, no columns to speak of, and the checksum that it needs."""
    body = len(header).to_bytes(4, "little") + header.encode() + bytes(64)
    return b"IRB1" + zlib.crc32(body).to_bytes(4, "little") + body


class TestBlocks:
    @pytest.mark.parametrize(("name", "change", "message"), BLOCKS)
    def test_that_do_not_fit_are_refused(self, examples, name, change, message):
        forge_blocks(examples, "test", name, change)
        with pytest.raises(InputError, match=message) as error:
            list(Examples(examples).blocks("test"))
        assert str(examples / "test" / "blocks-00000") in str(error.value)

    @pytest.mark.parametrize("name", ["item", "history_item", "user", "request/country"])
    def test_that_do_not_fit_are_not_trained_on(self, examples, name):
        forge_blocks(examples, "train", name, set_at(10**6))
        with pytest.raises(InputError, match=f"{examples / 'train'}.*'{name}' holds 1000000"):
            for _ in zip(range(20), train_iterator(Examples(examples), 16, seed=0), strict=False):
                pass

    def test_a_split_with_other_examples_than_it_says_is_refused(self, examples):
        def change(value):
            value["splits"]["test"]["examples"] = 44

        reseal(examples / "metadata.json", change)
        with pytest.raises(InputError, match=f"{examples / 'test'} holds 45 examples.* says 44"):
            read_examples(examples)

    @pytest.mark.parametrize(
        "header", ["[[1, 2, 3]]", '[["user", "O", [2]]]', '[["user", "<i4", [-1]]]', "{}1", "[4]"]
    )
    def test_a_header_that_is_none_is_refused(self, header):
        with pytest.raises(InputError, match="header is wrong"):
            decode_block(block_of(header))

    @pytest.mark.parametrize(
        "header",
        ['[["user", "<i4", [2]], ["query", "<i4", [3]]]', '[["user", "<i4", []]]'],
    )
    def test_columns_of_different_lengths_are_refused(self, examples, header):
        examples = Examples(examples)
        with pytest.raises(InputError, match="columns of the lengths"):
            examples.block_check("test")(decode_block(block_of(header)))


class TestMetadata:
    @pytest.mark.parametrize(
        "change",
        [
            at("splits", "test", "files", [["../../secret", 1]]),
            at("splits", "test", "files", [["/etc/passwd", 1]]),
            at("splits", "test", "files", [[7, 1]]),
            at("splits", "test", "files", [["blocks-00000.array_record", -1]]),
            at("splits", "test", "actions", {"00000": 4}),
            at("splits", "test", "actions", {"00": 4}),
            at("splits", "test", "requests", -3),
            at("splits", "test", None),
            at("slate", 0),
            at("encoder", "0123456789abcdef"),
            at("encoder", None),
            at("features", []),
            at("config", {"block_size": 0}),
            at("files", None),
        ],
    )
    def test_that_contradicts_itself_is_refused(self, examples, change):
        file = examples / "metadata.json"
        reseal(file, change)
        with pytest.raises(InputError, match=r"prepare again|is not what .* writes") as error:
            Examples(examples)
        assert str(file) in str(error.value)

    @pytest.mark.parametrize("name", ["../../secret", "/secret", "a/../../secret", "", "."])
    def test_no_name_leads_out_of_the_directory(self, examples, name):
        """A feature is the name of a file."""
        np.save(examples.parent / "secret.npy", np.zeros(81, np.int32))

        def change(value):
            digest = files.file_digest(examples.parent / "secret.npy")
            value["files"][f"items/{name}.npy"] = digest

        reseal_encoder(examples, at("features", 4, "name", name))
        reseal(examples / "metadata.json", change)
        with pytest.raises(InputError, match=f"(?s){examples}.*(Expected a plain name|not exist)"):
            read_examples(examples)
