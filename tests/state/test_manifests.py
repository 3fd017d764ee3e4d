"""STATE, features and snapshots are read as they were written, or not at all."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.state import as_of, report, snapshot, store
from interactrank_jax.state.build import build_store
from tests.log.handmade_log import START
from tests.state.conftest import FULL, MEANS, everything, state_config

FIRST = START // 86_400
DAY = FIRST + 25
KINDS = ("state", "features", "snapshot")


@pytest.fixture(scope="module")
def made(log, tmp_path_factory):
    """A directory of each kind, of several chunks; read only."""
    from interactrank_jax.state import engines

    place = tmp_path_factory.mktemp("made")
    with engines.connect("duckdb", place / "scratch") as backend:
        for day in (FIRST + 12, None):
            held = build_store(state_config(**FULL), log, place / "state", backend, through=day)
        days = {"since": FIRST + 9, "until": FIRST + 14, "means": MEANS}
        as_of.write(log, held, backend, place / "features", **days, rows_at_once=200)
        snapshot.write(log, held, backend, place / "snapshot", DAY, MEANS)
    return place


def read_all(kind, place, log, backend):
    """Reads every file of a directory."""
    if kind == "state":
        held = store.open_store(place, log)
        everything(held, backend)
    elif kind == "features":
        report.make(place, place, backend)
    else:
        held = snapshot.open_snapshot(place, log)
        backend.to_pyarrow(snapshot.served(log, held, backend))


@pytest.fixture(params=KINDS)
def case(request, made, log, backend, tmp_path):
    """A copy to damage, and what reads all of it."""
    place = shutil.copytree(made / request.param, tmp_path / "copy")

    def read():
        read_all(request.param, place, log, backend)

    read()
    return request.param, place, read


def test_every_flipped_bit_is_an_error_that_names_the_file(case):
    kind, place, read = case
    rng = np.random.default_rng(0)
    paths = sorted(path for path in place.rglob("*") if path.is_file())
    assert len(paths) > {"state": 30, "features": 2, "snapshot": 4}[kind]
    for path in paths:
        good = path.read_bytes()
        for bit in rng.integers(0, 8 * len(good), 3).tolist():
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            with pytest.raises(InputError) as error:
                read()
            assert path.name in str(error.value)
            assert f"make {place} again, by `interactrank state" in str(error.value)
        path.write_bytes(good)
    read()


def test_a_missing_file_is_an_error_that_names_it(case, log, backend):
    kind, place, read = case
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        good = path.read_bytes()
        last_chunk = kind == "state" and path == max((place / "chunks").iterdir())
        path.unlink()
        if last_chunk:  # then its days are not counted yet
            read()
            with pytest.raises(InputError, match=r"that file was lost\. Move it elsewhere, or"):
                build_store(state_config(**FULL), log, place, backend)
        else:
            with pytest.raises(InputError, match=r"is missing|holds no|does not follow on"):
                read()
        path.write_bytes(good)
    read()


def test_a_file_too_many_is_an_error_that_names_it(case):
    kind, place, read = case
    tables = sorted(place.rglob("*.parquet"))
    for folder in {path.parent for path in tables}:
        extra = shutil.copy(tables[0], folder / "more.parquet")
        with pytest.raises(InputError, match=r"more\.parquet is not one of the files .* Move it"):
            read()
        extra.unlink()
    if kind == "features":
        extra = shutil.copytree(tables[0].parent, place / "features" / "999999")
        with pytest.raises(InputError, match=r"999999/part\.parquet is not one of the files"):
            read()
        shutil.rmtree(extra)
    # What lies beside our files is nobody's business.
    (place / "notes.txt").write_text("mine")
    if kind == "state":
        (place / "chunks" / "notes.json").write_text("mine")
        (place / "seen" / "notes").mkdir()
    read()


@pytest.mark.parametrize("name", ["../x.parquet", "/etc/passwd", "a/../../x.parquet", "a\\b"])
def test_a_name_outside_is_refused(case, name):
    kind, place, read = case
    file = place / {"features": as_of.KIND.file, "snapshot": snapshot.KIND.file}.get(kind, "")
    file = min((place / "chunks").iterdir()) if kind == "state" else file
    record = files.read_sealed(file)
    files.write_sealed(file, record | {"files": record["files"] | {name: "0" * 64}})
    with pytest.raises(InputError, match="Expected a plain name inside"):
        read()


def test_a_record_of_something_else_is_refused(case):
    kind, place, read = case
    other = {"state": store.KIND, "features": as_of.KIND}.get(kind, snapshot.KIND)
    files.write_sealed(place / other.file, {"format_version": other.version, "files": {}})
    with pytest.raises(InputError, match=r"is not what `interactrank state .* writes"):
        read()


def test_a_chunk_of_another_store_is_refused(made, log, backend, tmp_path):
    place = shutil.copytree(made / "state", tmp_path / "state")
    first, second = sorted((place / "chunks").iterdir())
    record = files.read_sealed(second)
    for change in ({"follows": ""}, {"chunk": record["chunk"] | {"first": DAY}}, {"chunk": {}}):
        files.write_sealed(second, record | change)
        with pytest.raises(InputError, match=r"does not follow on|describes no run of days"):
            store.open_store(place, log)
    files.write_sealed(second, record)
    first.unlink()
    with pytest.raises(InputError, match=r"does not follow on '': a file of .* is missing"):
        build_store(state_config(**FULL), log, place, backend)


def test_a_file_is_hashed_once_a_process(case, monkeypatch):
    _, place, read = case
    hashed = []
    digest = files.file_digest
    monkeypatch.setattr(files, "file_digest", lambda path: hashed.append(path) or digest(path))
    read()
    assert not hashed
    path = min(place.rglob("*.parquet"))
    path.write_bytes(path.read_bytes())  # written to, if to the same
    read()
    assert hashed == [path]
    assert pq.read_metadata(path).num_rows
