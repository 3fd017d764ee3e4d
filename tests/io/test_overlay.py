"""Arrays written some rows at a time, and read with some rows that are others than on disk."""

import errno
from pathlib import Path

import numpy as np
import pytest

from interactrank_jax.io import contents, files
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.overlay import overlay

PAGE = 4096


def replaced(base: np.ndarray, row: np.ndarray, values: np.ndarray, total: int) -> np.ndarray:
    whole = np.zeros((total, *base.shape[1:]), base.dtype)
    whole[: len(base)] = base
    whole[row] = values
    return whole


@pytest.mark.parametrize("seed", range(30))
def test_rows_of_a_file_are_replaced_and_appended(seed, tmp_path):
    """Whatever pages and the ends of the file do: sizes below, at and above a page."""
    rng = np.random.default_rng(seed)
    shape = [(7,), (1,), (4, 3), (), (0,)][seed % 5]
    dtype = (np.float32, np.int32, np.int8, np.float64)[seed % 4]
    count = int(rng.choice([1, 2, 100, PAGE // 4, PAGE, 5 * PAGE + 3]))
    added = int(rng.choice([0, 1, 3, 2 * PAGE]))
    base = rng.integers(-100, 100, (count, *shape)).astype(dtype)
    files.save_array(tmp_path / "base.npy", base)
    before = (tmp_path / "base.npy").read_bytes()
    inside = rng.choice(count, int(rng.integers(0, min(count, 50) + 1)), replace=False)
    row = np.sort(np.append(inside, count + np.arange(added)))
    values = rng.integers(-100, 100, (len(row), *shape)).astype(dtype)
    result = overlay(tmp_path / "base.npy", base.shape, "iuf", row, values, count + added)
    np.testing.assert_array_equal(result, replaced(base, row, values, count + added))
    assert result.dtype == base.dtype
    assert result.flags.c_contiguous
    assert (tmp_path / "base.npy").read_bytes() == before


def test_it_cannot_be_written_to_and_outlives_its_file(tmp_path):
    base = np.arange(PAGE * 3, dtype=np.float32).reshape(-1, 4)
    files.save_array(tmp_path / "base.npy", base)
    result = overlay(tmp_path / "base.npy", base.shape, "f", np.array([1]), base[:1], len(base))
    with pytest.raises(ValueError, match="read-only"):
        result[0] = 1
    (tmp_path / "base.npy").unlink()
    np.testing.assert_array_equal(result[2:], base[2:])


def test_a_file_of_another_shape(tmp_path):
    files.save_array(tmp_path / "base.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(InputError, match=r"Expected shape \(3, 5\)"):
        overlay(tmp_path / "base.npy", (3, 5), "f", np.array([1]), np.zeros((1, 5)), 3)


@pytest.mark.parametrize("shape", [(0, 3), (5,), (7, 2, 3), (4, 0)])
def test_rows_written_one_after_the_other_are_the_array(shape, tmp_path):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    files.save_array(tmp_path / "whole.npy", array)
    with files.ArrayWriter(tmp_path / "parts.npy", shape, np.float32) as writer:
        for first in range(0, len(array), 2):
            writer.write(array[first : first + 2].astype(np.float64))
    assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_rows_that_are_missing_or_of_another_shape(tmp_path):
    with (
        pytest.raises(ValueError, match="2 rows were written, expected 3"),
        files.ArrayWriter(tmp_path / "a.npy", (3, 2), np.float32) as writer,
    ):
        writer.write(np.zeros((2, 2)))
    with (
        pytest.raises(ValueError, match=r"rows of shape \(3,\), expected \(2,\)"),
        files.ArrayWriter(tmp_path / "a.npy", (3, 2), np.float32) as writer,
    ):
        writer.write(np.zeros((1, 3)))


def test_what_was_read_is_given_back_and_read_again(tmp_path):
    array = np.arange(10 * PAGE, dtype=np.float32)
    files.save_array(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert mapped.sum() == array.sum()
    contents.release(mapped)
    np.testing.assert_array_equal(mapped, array)
    own = array.copy()
    contents.release(own)
    np.testing.assert_array_equal(own, array)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_what_cannot_be_linked_is_copied(number, tmp_path, monkeypatch):
    def refuse(path, target):
        raise OSError(number, "no")

    (tmp_path / "a").write_text("text")
    files.link(tmp_path / "a", tmp_path / "below" / "b")
    assert (tmp_path / "below" / "b").samefile(tmp_path / "a")
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    files.link(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "text"
    assert not (tmp_path / "c").samefile(tmp_path / "a")
