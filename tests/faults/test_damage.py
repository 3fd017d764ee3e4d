"""Bits that flip, files cut short or gone: each is an error that names the file.

What no checksum covers is provably harmless: the whitespace of a JSON file, or the fields of a zip
archive that nobody reads, leave every value as it was.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from interactrank_jax.examples.blocks import BlockWriter, read_blocks
from interactrank_jax.examples.format import STATE, Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking.index import Index
from interactrank_jax.runs import best
from interactrank_jax.runs.run import Run
from interactrank_jax.training.train import train
from tests.synthetic import tiny_config

VOCABULARIES = ("user", "query", "item", "country", "brand")


def read_examples(path: Path) -> list[Any]:
    """Everything that any station reads of examples."""
    examples = Examples(path)
    values: list[Any] = [examples.metadata, dict(examples.items), examples.item_ids.tolist()]
    for split in examples.metadata.splits:
        values += examples.blocks(split)
        values.append(examples.raw_requests(split))
        if examples.has_corpus(split):
            cross = examples.sparse_cross(split)
            values += [cross.group, cross.indptr, cross.item, cross.value]
    values.append(examples.raw_items())
    for table in VOCABULARIES:
        values.append(examples.encoder.vocabularies[table].values)
    return values


def read_checkpoint(path: Path) -> list[Any]:
    """What a restore looks at before it reads: the directory's files."""
    best.verify(path)
    return [
        file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.name != best.KIND.file
        if file.is_file()
    ]


def read_run(path: Path) -> list[Any]:
    run = Run.open(path)
    vocabularies = [vocabulary.values for vocabulary in run.encoder.vocabularies.values()]
    return [run.config.to_json(), run.metadata, *vocabularies]


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return list(left) == list(right) and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=True)
    return bool(left == right) if not hasattr(left, "equals") else left.equals(right)


def attempt(read: Callable[[Any], Any], argument: Any) -> tuple[Any, str]:
    """Returns what was read, and ''; or None, and the message of the error."""
    try:
        return read(argument), ""
    except InputError as error:
        return None, str(error)


def damages(file: Path, rng: random.Random, flips: int) -> Iterator[tuple[str, bytes | None]]:
    """Yields what becomes of a file: bits flipped, cut short, gone."""
    content = file.read_bytes()
    for _ in range(flips):
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        yield f"bit {bit} of byte {place}", bytes(damaged)
    yield "cut short", content[: rng.randrange(len(content))]
    yield "gone", None


def assert_detected(
    root: Path, files: list[Path], flips: int, read: Callable[[Path], Any], *harmless: str
) -> int:
    """Damages each file in turn, `flips` flips over all; returns how many did no harm.

    Only to the files named `harmless` may that happen.
    """
    rng = random.Random(3)
    whole = read(root)
    counts = np.bincount([k % len(files) for k in range(flips)], minlength=len(files))
    unharmed = 0
    for file, count in zip(files, counts.tolist(), strict=True):
        content = file.read_bytes()
        for what, damaged in damages(file, rng, count):
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            found, message = attempt(read, root)
            if message:
                # A directory without its metadata.json is none of ours, and is called so.
                named = root if damaged is None and file.parent == root else file
                assert str(named) in message, f"{file}, {what}: {message}"
            else:
                assert file.name in harmless, f"{file}, {what}: nothing was noticed"
                assert equal(found, whole), f"{file}, {what}: a wrong value"
                unharmed += 1
            file.write_bytes(content)
    assert equal(read(root), whole)
    return unharmed


def files_below(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_examples(prepared, tmp_path):
    root = Path(shutil.copytree(prepared, tmp_path / "examples"))
    # What STATE holds has checksums of its own, which those who read it look at.
    files = [file for file in files_below(root) if root / STATE not in file.parents]
    assert {path.parent.name for path in files} >= {
        *("train", "validation", "test", "items", "encoder", "vocabulary", "raw", "examples")
    }
    assert assert_detected(root, files, 100, read_examples, "metadata.json") < 3


def test_blocks_of_which_only_their_own_checksums_are_looked_at(tmp_path):
    """Also what becomes damaged after the examples were opened is no wrong number."""
    rng = np.random.default_rng(0)
    with BlockWriter(tmp_path) as writer:
        for _ in range(4):
            writer.write({"cross": rng.normal(size=(40, 3)).astype(np.float32)})
    (file,) = files_below(tmp_path)
    content = file.read_bytes()
    whole = list(read_blocks([file]))
    # Blocks are padded to 64 KiB: most places are padding, so these are where something stands.
    places = np.flatnonzero(np.frombuffer(content, np.uint8))
    errors = 0
    for place in random.Random(0).sample(places.tolist(), 40):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        file.write_bytes(damaged)
        found, message = attempt(lambda paths: list(read_blocks(paths)), [file])
        errors += bool(message)
        assert str(file) in message if message else equal(found, whole)
    assert errors > 30


@pytest.mark.parametrize("kind", ["checkpoints", "best"])
def test_checkpoints(kind, trained_run, tmp_path):
    step = max((trained_run / kind).glob("[0-9]*"), key=lambda path: int(path.name))
    root = Path(shutil.copytree(step, tmp_path / step.name))
    files = [path for path in files_below(root) if path.name != best.KIND.file]
    assert assert_detected(root, files, 20, read_checkpoint) == 0
    # The checksums themselves; their absence is that of a run killed before it wrote them.
    seal = root / best.KIND.file
    content = seal.read_bytes()
    for place in random.Random(1).sample(range(len(content)), 5):
        damaged = bytearray(content)
        damaged[place] ^= 2  # never one kind of whitespace for another
        seal.write_bytes(damaged)
        with pytest.raises(InputError, match=r"checksums\.json.* there is no older one"):
            read_checkpoint(root)


@pytest.mark.long  # trains a model for itself
def test_a_run_goes_on_from_the_older_checkpoint_when_told_to(trained_run, examples_path, tmp_path):
    workdir = Path(shutil.copytree(trained_run, tmp_path / "run"))
    newest = workdir / "checkpoints" / "8"
    file = max((newest / "state").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"{file.name} is damaged: its checksum") as error:
        train(tiny_config("interactrank"), examples_path, workdir)
    assert f"remove {newest} to go on from step 4" in str(error.value)
    shutil.rmtree(newest)
    train(tiny_config("interactrank"), examples_path, workdir)
    models = [Run.open(path).restore_model()[0] for path in (workdir, trained_run)]
    assert best.fingerprint(models[0]) == best.fingerprint(models[1])


def test_a_damaged_model_is_not_scored_with(trained_run, tmp_path):
    workdir = Path(shutil.copytree(trained_run, tmp_path / "run"))
    (best,) = (workdir / "best").glob("[0-9]*")
    file = max(best.rglob("*"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{file.name} is damaged: .* there is no older"):
        Run.open(workdir).restore_model()


def test_the_run_itself(trained_run, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(trained_run / "encoder", root / "encoder")
    shutil.copy(trained_run / "config.json", root)
    harmless = ("config.json", "encoder.json")
    assert assert_detected(root, files_below(root), 60, read_run, *harmless) < 6


def test_the_index(trained_run, index_path, examples_path, tmp_path):
    run = Run.open(trained_run)
    model, _ = run.restore_model()

    def read(path):
        index = Index(path, run, model, Examples(examples_path))
        return [index.metadata, index.ids, *jax.tree.leaves(index.items)]

    root = Path(shutil.copytree(index_path, tmp_path / "index"))
    assert assert_detected(root, files_below(root), 25, read, "index.json") < 3


def test_saved_scores(trained_run, examples_path, tmp_path):
    workdir = tmp_path / "run"
    (workdir / "eval").mkdir(parents=True)
    shutil.copy(trained_run / "config.json", workdir)
    shutil.copytree(trained_run / "encoder", workdir / "encoder")
    examples = Examples(examples_path)
    run, rng = Run.open(workdir), np.random.default_rng(0)
    split = examples.split("test")
    count = split.candidates
    np.savez(
        workdir / "eval" / "test.npz",
        request_index=np.arange(count) % split.requests,
        item=np.arange(count),
        score=rng.normal(size=count).astype(np.float32),
        engaged=rng.random(count) < 0.5,
        examples=np.array(examples.metadata.digest),
    )

    def read(_):
        return run.saved_scores(examples, "test")

    files = [workdir / "eval" / "test.npz"]
    assert assert_detected(workdir / "eval", files, 40, read, "test.npz") < 10
