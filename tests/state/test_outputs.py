"""No station writes into what it reads, and a build removes nothing but what a build left."""

import shutil

import pytest

from interactrank_jax import cli
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.state import as_of, engines, snapshot, store
from interactrank_jax.state.build import build_store
from tests.log.handmade_log import START, make_tables, write_log
from tests.state.conftest import MEANS, everything, state_config

FIRST = START // 86_400


def contents(place):
    """Everything below a directory: the bytes of files, None for directories."""
    return {
        path.relative_to(place).as_posix(): path.read_bytes() if path.is_file() else None
        for path in place.rglob("*")
    }


def fill(place, *names):
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("precious")


@pytest.mark.parametrize(
    "names",
    [
        ("partial/notes.txt", "seen/thesis/notes.txt"),
        ("counts/query/000000-000001/part.parquet",),
        (".partial-019000-019001/notes.txt",),
        ("chunks/019000-019001.json",),
        ("notes.txt",),
        (".lock",),
        ("state.json",),
    ],
)
def test_a_directory_of_something_else_is_left_as_it_was(names, log, backend, tmp_path):
    out = tmp_path / "mine"
    fill(out, *names)
    before = contents(out)
    with pytest.raises(InputError, match=r"is no STATE|not valid JSON"):
        build_store(state_config(), log, out, backend)
    assert contents(out) == before


def test_a_file_or_another_artefact_is_no_store(log, whole, backend, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match="is no STATE"):
        build_store(state_config(), log, tmp_path / "file", backend)
    assert (tmp_path / "file").read_text() == "precious"
    snapshot.write(log, whole, backend, tmp_path / "snapshot", FIRST + 25, MEANS)
    before = contents(tmp_path / "snapshot")
    with pytest.raises(InputError, match="is no STATE"):
        build_store(state_config(), log, tmp_path / "snapshot", backend)
    assert contents(tmp_path / "snapshot") == before


def test_foreign_files_in_a_store_stay(log, whole, backend, tmp_path, monkeypatch):
    """Also where a build was killed and its remains are removed; and what is ours is counted."""
    out = tmp_path / "state"
    build_store(state_config(), log, out, backend, through=FIRST + 8)
    names = ("notes.txt", "partial/notes.txt", "seen/thesis/notes.txt", "counts/query/x/notes.txt")
    names += ("counts/query/000001-000002/part.parquet", "chunks/notes.json")
    names += (".partial-thesis/notes.txt", ".partial-000001-000002")
    fill(out, *names)
    write, left = engines.write_parquet, [4]

    def dying(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engines, "write_parquet", dying)
        with pytest.raises(KeyboardInterrupt):
            build_store(state_config(), log, out, backend)
    assert list(out.glob(".partial-*-*/events"))
    rest = build_store(state_config(), log, out, backend)
    assert not list(out.glob(".partial-*-*/events"))
    assert everything(rest, backend) == everything(whole, backend)
    for name in names:
        assert (out / name).read_text() == "precious"


def test_what_stands_in_a_chunks_place_is_told_and_stays(log, backend, tmp_path):
    out = tmp_path / "state"
    build_store(state_config(), log, out, backend, through=FIRST + 8)
    taken = store.Chunk.name_of(FIRST + 9, FIRST + 10)
    fill(out, f"seen/{taken}/mine.parquet")
    for _ in range(2):
        with pytest.raises(InputError, match=rf"{taken} is where .* would be counted.* Move it"):
            build_store(state_config(), log, out, backend, through=FIRST + 10)
        assert (out / f"seen/{taken}/mine.parquet").read_text() == "precious"


def test_a_build_killed_at_its_beginning_is_gone_on_with(log, backend, tmp_path):
    out = tmp_path / "state"
    out.mkdir()
    (out / ".lock").touch()
    (out / ".state.json.partial-0123abcd").write_text("{")
    assert build_store(state_config(), log, out, backend, through=FIRST + 8).chunks


@pytest.mark.parametrize("where", ["log", "log/new", "link", "link/new", ".", "log/../log"])
def test_no_station_writes_into_the_log_or_around_it(where, whole, backend, tmp_path, monkeypatch):
    log = open_log(write_log(tmp_path / "log", make_tables(40)))
    (tmp_path / "link").symlink_to("log")
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    held = snapshot.open_snapshot(_snapshot(whole, backend, log), log)
    for write in (
        lambda: build_store(state_config(), log, where, backend),
        lambda: as_of.write(log, whole, backend, where, means=MEANS),
        lambda: snapshot.write(log, whole, backend, where, FIRST + 5, MEANS),
        lambda: snapshot.write_served(log, held, backend, where),
    ):
        with pytest.raises(InputError, match=r"is (the same directory as|inside|around) .*log"):
            write()
    assert contents(tmp_path) == before


def _snapshot(whole, backend, log):
    place = log.path.parent.with_name("snapshot of " + log.path.parent.name)
    snapshot.write(log, whole, backend, place, FIRST + 25, MEANS)
    return place


def test_beside_the_log_is_no_inside(tmp_path):
    (tmp_path / "log").mkdir()
    outputs.refuse_inside(tmp_path / "log2", tmp_path / "log")
    outputs.refuse_inside(tmp_path / "runs" / "log", tmp_path / "log")


def test_into_the_log_is_refused_before_work(log, tmp_path, capsys):
    place = shutil.copytree(log.path, tmp_path / "log")
    config = tmp_path / "config.py"
    config.write_text(
        "import ml_collections\n"
        "from tests.state.conftest import state_config\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict({'data': state_config()})\n"
    )
    before = contents(place)
    assert (
        cli.main(["state", "build", f"--config={config}", f"--log={place}", f"--out={place}"]) == 2
    )
    assert "is the same directory as" in capsys.readouterr().err
    assert contents(place) == before
