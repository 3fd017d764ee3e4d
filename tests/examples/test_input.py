"""Input: training that resumes exactly, evaluation that sees every row once."""

import collections

import numpy as np
import pytest

from interactrank_jax.examples import input
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from tests.synthetic import write_examples

BLOCKS, ROWS = 10, 150  # of the training split; the last block holds 6


@pytest.fixture(scope="module")
def examples(examples_path):
    return Examples(examples_path)


@pytest.fixture(scope="module")
def training_rows(examples):
    """Every training example by a value that no other has."""
    blocks = list(examples.blocks("train", ("request/mood", "user")))
    keys = [float(value) for block in blocks for value in block["request/mood"][:, 0]]
    assert len(set(keys)) == ROWS
    return keys


def keys_of(batches):
    return [float(value) for batch in batches for value in batch["request/mood"][:, 0]]


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_same(left, right):
    for one, other in zip(left, right, strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def iterator(examples, batch_size=8, seed=3, **kwargs):
    return input.train_iterator(examples, batch_size, seed, **kwargs)


class TestTraining:
    def test_batches_have_the_columns_and_shapes_a_step_needs(self, examples):
        batch = next(iterator(examples))
        assert set(batch) == set(input.train_columns(examples))
        assert {"request/country", "request/query_text", "request/mood"} < set(batch)
        assert all(len(value) == 8 for value in batch.values())
        assert batch["cross"].shape == (8, 5, 2)

    @pytest.mark.parametrize("num_shards", [1, 3])
    def test_a_restored_state_gives_the_very_batches_that_follow(self, examples, num_shards):
        for shard in range(num_shards):
            sharded = {"shard": shard, "num_shards": num_shards, "window": 3}
            original = iterator(examples, **sharded)
            states, batches = [], []
            for _ in range(30):  # epochs of a shard, windows across their borders
                states.append(original.get_state())
                batches.append(next(original))
            for position in (0, 1, 7, 24):
                restored = iterator(examples, **sharded)
                take(restored, position % 3)  # wherever it stands
                restored.set_state(states[position])
                assert_same(take(restored, 5), batches[position : position + 5])

    def test_asking_for_the_state_does_not_move_the_iterator(self, examples):
        quiet, asked = iterator(examples), iterator(examples)
        expected = take(quiet, 6)
        found = []
        for _ in range(6):
            asked.get_state()
            found.append(next(asked))
        assert_same(found, expected)

    @pytest.mark.parametrize("window", [5, 10])
    def test_an_epoch_holds_every_example_once_and_the_next_in_another_order(
        self, examples, training_rows, window
    ):
        stream = iterator(examples, batch_size=15, window=window)
        first, second = keys_of(take(stream, 10)), keys_of(take(stream, 10))
        assert sorted(first) == sorted(second) == sorted(training_rows)
        assert first != second
        assert first != training_rows

    def test_the_rows_of_an_example_stay_together(self, examples):
        stored = {}
        for block in examples.blocks("train", input.train_columns(examples)):
            for row, key in enumerate(block["request/mood"][:, 0]):
                stored[float(key)] = {name: value[row] for name, value in block.items()}
        for batch in take(iterator(examples), 5):
            for row, key in enumerate(batch["request/mood"][:, 0]):
                for name, value in batch.items():
                    np.testing.assert_array_equal(value[row], stored[float(key)][name])

    def test_three_shards_share_an_epoch_without_overlap(self, examples, training_rows):
        seen = []
        for shard, rows in enumerate((54, 48, 48)):  # 4, 3 and 3 blocks
            stream = iterator(examples, batch_size=6, shard=shard, num_shards=3)
            seen += keys_of(take(stream, rows // 6))
        assert sorted(seen) == sorted(training_rows)

    def test_no_window_loses_or_repeats_rows_in_the_long_run(self, examples, training_rows):
        # 10 blocks in windows of 4: two epochs end together with a window
        stream = iterator(examples, batch_size=10, window=4)
        count = collections.Counter(keys_of(take(stream, 2 * ROWS // 10)))
        assert count == dict.fromkeys(training_rows, 2)

    def test_the_order_is_a_function_of_the_seed(self, examples):
        first, again = take(iterator(examples), 4), take(iterator(examples), 4)
        assert_same(first, again)
        assert keys_of(first) != keys_of(take(iterator(examples, seed=4), 4))

    def test_the_number_of_threads_changes_nothing(self, examples):
        assert_same(take(iterator(examples, threads=1), 6), take(iterator(examples, threads=4), 6))

    def test_more_shards_than_blocks_are_refused_with_the_remedy(self, examples):
        with pytest.raises(InputError, match=r"10 blocks for 11 processes.*smaller.*block_size"):
            iterator(examples, num_shards=11)


class TestDamagedTrainingBlocks:
    @pytest.fixture
    def damaged(self, tmp_path):
        """Examples of which the second training file can be replaced."""
        examples = Examples(write_examples(tmp_path, seed=1, requests=96))
        return examples, examples.block_files("train")[1]

    def test_an_absent_file_is_named_at_once(self, damaged):
        examples, file = damaged
        file.unlink()
        with pytest.raises(InputError, match=r"blocks-00001.*does not exist"):
            iterator(examples)

    def test_a_truncated_file_is_an_error(self, damaged):
        examples, file = damaged
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(InputError, match=r"blocks-00001.*damaged"):
            take(iterator(examples), 12)

    def test_a_flipped_bit_is_an_error(self, damaged):
        examples, file = damaged
        content = bytearray(file.read_bytes())
        used = np.flatnonzero(np.frombuffer(bytes(content), np.uint8))
        content[used[len(used) // 2]] ^= 4
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"blocks-00001.*damaged"):
            take(iterator(examples), 12)

    def test_blocks_that_lack_a_column_are_an_error_that_names_it(self, damaged, monkeypatch):
        examples, _ = damaged
        names = (*input.train_columns(examples), "request/mode")
        monkeypatch.setattr(input, "train_columns", lambda _: names)
        with pytest.raises(InputError, match=r"train: blocks hold no column \['request/mode'\]"):
            next(iterator(examples))


def sharded(examples, batch_size, num_shards, split="test"):
    return [
        list(
            input.evaluation_batches(
                examples, split, batch_size, shard=shard, num_shards=num_shards
            )
        )
        for shard in range(num_shards)
    ]


class TestEvaluation:
    # 45 examples in blocks of 16, 16 and 13
    @pytest.mark.parametrize("batch_size", [1, 7, 16, 45, 64])
    @pytest.mark.parametrize("num_shards", [1, 2, 3, 5])
    def test_every_example_is_seen_once_and_all_shards_take_as_many_steps(
        self, examples, batch_size, num_shards
    ):
        shards = sharded(examples, batch_size, num_shards)
        steps = {len(batches) for batches in shards}
        assert steps == {input.evaluation_steps(examples, "test", batch_size, num_shards)}
        index = [batch["request_index"] for batches in shards for batch in batches]
        assert all(len(value) == batch_size for value in index)
        seen = np.concatenate(index)
        assert sorted(seen[seen >= 0]) == list(range(45))

    def test_batches_are_in_order_with_the_values_on_disk(self, examples):
        (batches,) = sharded(examples, 7, 1)
        merged = {name: np.concatenate([b[name] for b in batches])[:45] for name in batches[0]}
        stored = list(examples.blocks("test"))
        for name, value in merged.items():
            np.testing.assert_array_equal(value, np.concatenate([block[name] for block in stored]))

    def test_padding_has_no_candidates_and_no_request(self, examples):
        (batches,) = sharded(examples, 16, 1)
        padding = batches[-1]["request_index"] == -1
        assert padding.sum() == 3
        assert not batches[-1]["mask"][padding].any()
        assert not batches[-1]["item"][padding].any()
        assert batches[-1]["mask"][~padding].any(1).all()

    def test_every_candidate_is_counted_once_over_shards(self, examples):
        for num_shards in (1, 2, 3):
            masks = [b["mask"].sum() for shard in sharded(examples, 8, num_shards) for b in shard]
            assert sum(masks) == examples.split("test").candidates

    def test_a_whole_number_of_batches_has_no_padding(self, examples):
        (batches,) = sharded(examples, 15, 1)
        assert len(batches) == 3
        assert all((batch["request_index"] >= 0).all() for batch in batches)

    def test_columns_can_be_chosen(self, examples):
        batch = next(input.evaluation_batches(examples, "test", 4, names=("request_index", "mask")))
        assert set(batch) == {"request_index", "mask"}

    def test_requests_come_once_each(self, examples):
        for batch_size in (7, 45, 64):
            batches = list(input.request_batches(examples, "test", batch_size))
            assert all(len(batch["user"]) == batch_size for batch in batches)
            seen = np.concatenate([batch["request_index"] for batch in batches])
            assert seen[seen >= 0].tolist() == list(range(45))


def test_a_request_of_several_examples_is_taken_from_the_first(tmp_path, monkeypatch):
    examples = Examples(write_examples(tmp_path, seed=1, requests=20))
    original = examples.blocks

    def halved(split, names=None):  # examples 2i and 2i + 1 belong to request i
        for block in original(split, names):
            yield {**block, "request_index": block["request_index"] // 2}

    monkeypatch.setattr(examples, "blocks", halved)
    (stored,) = [np.concatenate([b["user"] for b in original("test", ("user",))])]
    batches = list(input.request_batches(examples, "test", 10))
    index = np.concatenate([batch["request_index"] for batch in batches])
    users = np.concatenate([batch["user"] for batch in batches])
    assert index[index >= 0].tolist() == list(range(23))
    np.testing.assert_array_equal(users[index >= 0], stored[::2])
