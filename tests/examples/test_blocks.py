"""The codec of a block: what goes in comes out, and damage is an error, never a wrong number."""

import numpy as np
import pytest

from interactrank_jax.examples.blocks import BlockWriter, decode_block, encode_block, read_blocks
from interactrank_jax.io.errors import InputError


def columns(seed=0, rows=7):
    rng = np.random.default_rng(seed)
    return {
        "user": rng.integers(0, 9, rows).astype(np.int32),
        "mask": rng.random((rows, 3)) < 0.5,
        "actions": rng.integers(0, 2, (rows, 3, 2)).astype(np.uint8),
        "cross": rng.normal(size=(rows, 3, 2)).astype(np.float32),
        "nothing": np.zeros((rows, 0), np.float32),
    }


def assert_equal(left, right):
    assert list(left) == list(right)
    for name, value in right.items():
        assert left[name].dtype == value.dtype
        assert left[name].shape == value.shape
        np.testing.assert_array_equal(left[name], value)


class TestCodec:
    @pytest.mark.parametrize("rows", [0, 1, 7])
    def test_a_round_trip_keeps_names_types_shapes_and_bits(self, rows):
        block = columns(rows=rows)
        assert_equal(decode_block(encode_block(block)), block)

    def test_values_that_are_not_finite_and_strided_arrays_survive(self):
        block = {"x": np.array([np.nan, np.inf, -0.0], np.float32)[::-1]}
        assert decode_block(encode_block(block))["x"].tobytes() == block["x"].tobytes()

    def test_the_same_columns_give_the_same_bytes(self):
        assert encode_block(columns()) == encode_block(columns())

    def test_names_limit_what_is_decoded(self):
        block = columns()
        found = decode_block(encode_block(block), ("cross", "user"))
        assert_equal(found, {name: block[name] for name in ("user", "cross")})

    def test_a_missing_column_is_named(self):
        with pytest.raises(InputError, match=r"hold no column \['age', 'query'\]"):
            decode_block(encode_block(columns()), ("user", "query", "age"))

    def test_columns_of_unequal_length_are_refused(self):
        with pytest.raises(ValueError, match=r"one length, got \[2, 3\]"):
            encode_block({"a": np.zeros(2), "b": np.zeros(3)})

    def test_every_flipped_bit_is_an_error(self):
        record = encode_block(columns())
        for place in [*range(40), *range(40, len(record), 7), len(record) - 1]:
            damaged = bytearray(record)
            damaged[place] ^= 1 << (place % 8)
            with pytest.raises(InputError, match=r"no.* block|checksum"):
                decode_block(bytes(damaged))

    @pytest.mark.parametrize("kept", [0, 3, 4, 11, 12, 100, -1])
    def test_a_truncated_record_is_an_error(self, kept):
        with pytest.raises(InputError, match="prepare"):
            decode_block(encode_block(columns())[:kept])


class TestFiles:
    def write(self, path, count=5, blocks_per_file=2):
        with BlockWriter(path, blocks_per_file) as writer:
            for seed in range(count):
                writer.write(columns(seed))
        return writer.files, [path / name for name, _ in writer.files]

    def test_blocks_are_spread_over_files_and_read_in_order(self, tmp_path):
        listed, paths = self.write(tmp_path / "train")
        assert [count for _, count in listed] == [2, 2, 1]
        assert sorted(path.name for path in (tmp_path / "train").iterdir()) == [
            name for name, _ in listed
        ]
        for seed, block in enumerate(read_blocks(paths)):
            assert_equal(block, columns(seed))
        assert seed == 4

    def test_a_file_that_is_exactly_full_is_not_followed_by_an_empty_one(self, tmp_path):
        listed, _ = self.write(tmp_path, count=4)
        assert [count for _, count in listed] == [2, 2]

    def test_an_absent_file_is_named(self, tmp_path):
        with pytest.raises(InputError, match=r"blocks-00007.*does not exist: prepare"):
            list(read_blocks([tmp_path / "blocks-00007.array_record"]))

    def test_a_missing_column_is_named_with_its_file(self, tmp_path):
        _, paths = self.write(tmp_path)
        with pytest.raises(InputError, match=r"blocks-00000.*no column \['query'\]"):
            list(read_blocks(paths, ("user", "query")))

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
    def test_a_truncated_file_is_an_error_that_names_it(self, tmp_path, share):
        _, paths = self.write(tmp_path)
        content = paths[1].read_bytes()
        paths[1].write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=r"blocks-00001.*prepare"):
            list(read_blocks(paths))

    def test_a_flipped_bit_in_a_file_is_an_error_or_changes_nothing(self, tmp_path):
        _, paths = self.write(tmp_path, count=2)
        content = paths[0].read_bytes()
        places = np.flatnonzero(np.frombuffer(content, np.uint8))  # the rest is fill
        caught = []
        for place in np.resize(places[:: max(1, len(places) // 80)], 80):
            damaged = bytearray(content)
            damaged[place] ^= 0x10
            paths[0].write_bytes(damaged)
            try:
                found = list(read_blocks(paths))
            except InputError as error:
                caught.append(str(error))
            else:
                assert len(found) == 2
                for seed, block in enumerate(found):
                    assert_equal(block, columns(seed))
        assert len(caught) > 40
        assert all("blocks-00000" in message for message in caught)
