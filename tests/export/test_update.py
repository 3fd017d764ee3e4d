"""Items of a bundle that change, come and go: what readers see of it, and when."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.export import update as update_module
from interactrank_jax.export.compact import compact
from interactrank_jax.export.update import update_items
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.serving import bundle as bundle_module
from interactrank_jax.serving.bundle import KIND, Bundle
from tests.conftest import REPOSITORY
from tests.faults.forging import reseal
from tests.log.handmade_log import make_tables
from tests.serving.making import ITEMS, events, new_items, requests


def write_items(path: Path, **columns) -> Path:
    pq.write_table(new_items(**columns), path)
    return path


def write_ids(path: Path, *ids: str) -> Path:
    pq.write_table(pa.table({"item_id": pa.array(ids, pa.string())}), path)
    return path


def items_of(table: pa.Table) -> set[str]:
    return set(table["item_id"].to_pylist())


@pytest.fixture(scope="module")
def changed(tmp_path_factory, served):
    """Two new items of which one is deleted again, i3 with other words, i1 deleted."""
    root = tmp_path_factory.mktemp("changed")
    update_items(served.bundle, write_items(root / "new.parquet"), root / "first")
    other = write_items(root / "other.parquet", item_id=["i3", "new2"], title=["red", "blue 7"])
    ids = write_ids(root / "ids.parquet", "i1", "new1", "nobody")
    figures = update_items(root / "first", other, root / "second", delete=ids)
    assert figures == {"added": 0, "replaced": 2, "deleted": 2, "unknown": 1, "items": ITEMS}
    return root


@pytest.fixture(scope="module")
def opened(changed):
    return Ranker(changed / "second", verify=True)


class TestDeletedItems:
    def test_they_are_never_ranked(self, opened):
        ranked = opened.rank(requests(3), k=10_000)
        assert len(ranked) == 3 * ITEMS
        assert items_of(ranked) == {f"i{n}" for n in range(ITEMS)} - {"i1"} | {"new2"}
        assert np.isfinite(ranked["score"].to_numpy()).all()

    def test_as_candidates_they_are_unknown(self, opened):
        asked = pa.table({"request_id": ["q0"] * 4, "item_id": ["i1", "i2", "new1", "new2"]})
        ranked = opened.rank_fully(requests(1), asked)
        assert items_of(ranked.table) == {"i2", "new2"}
        assert ranked.left_out["item_id"].to_pylist() == ["i1", "new1"]

    def test_in_events_they_are_unknown(self, opened):
        happened = events(4, item_id=["i1", "i2", "i1", "new2"])
        assert opened.ranking.read_events(happened)[1] == {"unknown items": 2}

    def test_without_jax(self, opened, reader):
        by_onnx = type(reader)(opened.bundle.path, verify=True)
        assert items_of(by_onnx.rank(requests(2), k=99)) == items_of(opened.rank(requests(2), k=99))

    def test_they_come_back_with_their_history(self, changed, ranker, tmp_path):
        of_log = make_tables(200)["items"]
        row = of_log.filter(pa.compute.equal(of_log["item_id"], "i1"))
        pq.write_table(row, tmp_path / "i1.parquet")
        figures = update_items(changed / "second", tmp_path / "i1.parquet", tmp_path / "back")
        assert (figures["added"], figures["replaced"]) == (1, 0)
        again = Ranker(tmp_path / "back")
        asked = pa.table({"request_id": ["q0", "q1"], "item_id": ["i1", "i1"]})
        nobody = {"user_id": ["nobody"] * 2}  # whose history holds no item that is another now
        scores, before = (r.rank(requests(2, **nobody), asked)["score"] for r in (again, ranker))
        np.testing.assert_allclose(scores.to_numpy(), before.to_numpy(), atol=1e-5)

    def test_all_of_them(self, served, tmp_path):
        ids = write_ids(tmp_path / "ids.parquet", *(f"i{n}" for n in range(ITEMS)))
        assert update_items(served.bundle, "", tmp_path / "none", delete=ids)["items"] == 0
        emptied = Ranker(tmp_path / "none", verify=True)
        assert len(emptied.rank(requests(2))) == 0


class TestFiles:
    def test_what_is_the_same_is_shared(self, changed, served):
        names = [
            name
            for name in Bundle.open(served.bundle).artifact.digests
            if name.split("/")[0] in ("tables", "index", "items", "cross", "graphs", "users")
        ]
        assert names
        for name in names:
            assert (served.bundle / name).samefile(changed / "second" / name), name

    def test_on_another_file_system_it_is_copied(self, changed, tmp_path, monkeypatch):
        def refuse(path, target):
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        ids = write_ids(tmp_path / "ids.parquet", "i5")
        update_items(changed / "second", "", tmp_path / "copy", delete=ids)
        assert "i5" not in items_of(Ranker(tmp_path / "copy", verify=True).rank(requests(1), k=99))

    def test_the_bundle_before_is_as_it_was(self, changed, served, ranker):
        before = ranker.rank(requests(2), k=99)
        assert Ranker(served.bundle, verify=True).rank(requests(2), k=99).equals(before)
        assert "new1" in items_of(Ranker(changed / "first", verify=True).rank(requests(2), k=99))

    def test_compacted_it_ranks_to_the_bit_alike(self, changed, opened, tmp_path):
        assert compact(changed / "second", tmp_path / "compact")["items"] == ITEMS
        compacted = Ranker(tmp_path / "compact", verify=True)
        assert not len(compacted.bundle.delta.row)
        assert compacted.rank(requests(4), k=99).equals(opened.rank(requests(4), k=99))
        table = pq.read_table(tmp_path / "compact" / "vectors" / "ids.parquet")
        assert items_of(table) == items_of(opened.rank(requests(1), k=99))
        ids = write_ids(tmp_path / "ids.parquet", "i1", "new2")
        figures = update_items(tmp_path / "compact", "", tmp_path / "next", delete=ids)
        assert (figures["deleted"], figures["unknown"], figures["items"]) == (1, 1, ITEMS - 1)

    def test_vectors_that_changed(self, changed, opened):
        rows = pq.read_table(changed / "second" / "vectors" / "changed.parquet").to_pylist()
        assert [row["item_id"] for row in rows] == ["i3", "new2"]
        expected = opened.bundle.arrays["index/0"][opened.bundle.rows_of(pa.array(["i3", "new2"]))]
        np.testing.assert_array_equal(np.array([row["vector"] for row in rows]), expected)
        table = pq.read_table(changed / "second" / "vectors" / "deleted.parquet")
        assert table["item_id"].to_pylist() == ["i1", "new1"]


class TestReaders:
    """Who has a bundle open keeps it; who opens one anew sees one whole version."""

    VERSIONS = 4

    def signature(self, bundle: Bundle) -> tuple:
        """Returns what tells versions apart: three items, of which each update changes all."""
        row = bundle.rows_of(pa.array(["i3", "new1", "i7"], pa.large_string()))
        return bundle["items"], *row.tolist(), bundle.arrays["index/0"][row].tobytes()

    def test_a_reader_in_a_loop_sees_whole_versions(self, served, tmp_path):
        link = tmp_path / "current"
        link.symlink_to(served.bundle)
        first = Ranker(link)
        before = first.rank(requests(2), k=99)
        seen, is_done, failures = [], threading.Event(), []

        def read() -> None:
            try:
                while not is_done.is_set():
                    seen.append(self.signature(Bundle.open(link)))
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        versions = [served.bundle]
        try:
            for number in range(self.VERSIONS):
                items = tmp_path / f"items-{number}.parquet"
                write_items(items, item_id=["i3", "new1"], title=[f"red {number}"] * 2)
                gone = write_ids(tmp_path / "ids.parquet", "i7")
                back = write_items(tmp_path / "back.parquet", item_id=["i7", f"more{number}"])
                if number % 2:
                    pq.write_table(pa.concat_tables(map(pq.read_table, (items, back))), items)
                out = tmp_path / f"version-{number}"
                delete = "" if number % 2 else gone
                update_items(versions[-1], items, out, delete=delete, link=link)
                versions.append(out)
        finally:
            is_done.set()
            thread.join()
        assert not failures
        written = [self.signature(Bundle.open(path)) for path in versions]
        assert len(set(written)) == len(versions)
        assert set(seen) <= set(written)
        assert len(set(seen)) > 1, "the reader saw no update"
        assert link.samefile(versions[-1])
        assert first.rank(requests(2), k=99).equals(before)

    def test_a_link_that_is_none(self, served, changed, tmp_path, capsys):
        (tmp_path / "file").write_text("something of mine")
        command = [f"--bundle={served.bundle}", f"--items={changed / 'new.parquet'}"]
        command += [f"--out={tmp_path / 'out'}", f"--link={tmp_path / 'file'}"]
        assert cli.main(["index", "update", *command]) == 2
        assert "exists and is no link" in capsys.readouterr().err
        command[-1] = f"--link={tmp_path / 'out'}"
        assert cli.main(["index", "update", *command]) == 2
        assert "is --out itself" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_the_commands(self, served, changed, tmp_path, capsys):
        ids = write_ids(tmp_path / "ids.parquet", "i2")
        command = [f"--bundle={served.bundle}", f"--delete={ids}", f"--link={tmp_path / 'now'}"]
        assert cli.main(["index", "update", *command, f"--out={tmp_path / 'out'}"]) == 0
        assert "deleted: 1" in capsys.readouterr().out
        assert (tmp_path / "now").resolve() == tmp_path / "out"
        command = [f"--bundle={tmp_path / 'now'}", f"--out={tmp_path / 'next'}"]
        assert cli.main(["index", "compact", *command, f"--link={tmp_path / 'now'}"]) == 0
        assert (tmp_path / "now").resolve() == tmp_path / "next"


@pytest.mark.parametrize(
    ("items", "delete", "message"),
    [
        ("", "", "nothing to do"),
        ("new.parquet", "new.parquet", "2 of its items are in --items too, for example 'new1'"),
        ("", "nowhere.parquet", "--delete=.*expected a Parquet file"),
        ("", "numbers.parquet", "'item_id' has type int64"),
        ("", "null.parquet", "'item_id' has no value"),
    ],
)
def test_what_cannot_be(changed, items, delete, message, tmp_path):
    pq.write_table(pa.table({"item_id": [1, 2]}), changed / "numbers.parquet")
    pq.write_table(pa.table({"item_id": ["i1", None]}), changed / "null.parquet")
    items, delete = (str(changed / name) if name else "" for name in (items, delete))
    with pytest.raises(InputError, match=message):
        update_items(changed / "first", items, tmp_path / "out", delete=delete)
    assert not list(tmp_path.iterdir())


class TestDamage:
    @pytest.fixture
    def copy(self, changed, tmp_path):
        return Path(shutil.copytree(changed / "second", tmp_path / "bundle"))

    @pytest.mark.parametrize("damage", ["removed", "truncated", "flipped"])
    def test_any_file_of_a_delta(self, copy, damage):
        names = [path for path in (copy / "delta").rglob("*") if path.is_file()]
        assert len(names) > 8
        for path in names:
            content = path.read_bytes()
            other = bytearray(content[:-9] if damage == "truncated" else content)
            other[len(other) // 2] ^= 8 if damage == "flipped" else 0
            path.unlink() if damage == "removed" else path.write_bytes(other)
            with pytest.raises(InputError, match=path.relative_to(copy).as_posix()):
                Bundle.open(copy)
            path.write_bytes(content)
        Bundle.open(copy)

    def test_damage_is_not_sealed_by_what_comes_next(self, copy, changed, tmp_path, monkeypatch):
        """Of a large file only the size is compared when a bundle is opened."""
        monkeypatch.setattr(bundle_module, "SMALL", 0)
        path = copy / "delta" / "index" / "0.npy"
        content = bytearray(path.read_bytes())
        content[-1] ^= 8
        path.write_bytes(content)
        for write in (
            lambda: update_items(copy, changed / "new.parquet", tmp_path / "out"),
            lambda: compact(copy, tmp_path / "out"),
        ):
            with pytest.raises(InputError, match=r"delta/index/0\.npy is damaged: its checksum"):
                write()
            assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("row", lambda array: array[::-1], "not ascending"),
            ("row", lambda array: array + 99, "not of 1 to"),
            ("row", lambda array: array[:-1], "rows and 2 ids of added items"),
            ("deleted", lambda array: array - 99, "not of 1 to"),
            ("index/0", lambda array: array[:-1], r"Expected shape \(3, \d+\)"),
            ("index/0", lambda array: array[:, :-1], r"Expected shape \(3, \d+\)"),
            ("items/id", lambda array: array.astype(np.float32), "of integers"),
        ],
    )
    def test_a_delta_of_other_rows_or_dimensions(self, copy, name, change, message):
        path = copy / "delta" / f"{name}.npy"
        files.save_array(path, change(np.load(path)))

        def seal(value):
            value["files"][f"delta/{name}.npy"] = files.file_digest(path)
            value["sizes"][f"delta/{name}.npy"] = path.stat().st_size

        reseal(copy / KIND.file, seal)
        with pytest.raises(InputError, match=message):
            assert Bundle.open(copy).arrays

    def test_items_that_bundle_and_ids_disagree_about(self, copy):
        reseal(copy / KIND.file, lambda value: value.update(has_delta=False))
        with pytest.raises(InputError, match=r"ids, bundle\.json tells of"):
            assert Bundle.open(copy).items


KILLED = """
import os, signal, sys
from interactrank_jax.export import compact, update
from interactrank_jax.io import files
place, calls, (bundle, items, out) = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
module, name = {"save": (files, "save_array"), "record": (update, "write_record")}[place]
real = getattr(module, name)
def counting(*arguments, **named):
    global calls
    calls -= 1
    if not calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)
setattr(module, name, counting)
update.update_items(bundle, items, out)
"""


@pytest.mark.thorough  # processes of their own
@pytest.mark.parametrize(("place", "calls"), [("save", 3), ("record", 1)])
def test_an_update_that_was_killed_is_run_again(place, calls, changed, tmp_path):
    """What the killed run left is removed; the output is that of a run that nothing stopped."""
    arguments = [str(changed / name) for name in ("first", "other.parquet")]
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, place, str(calls), *arguments, str(out)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    assert ended.returncode == -9, ended.stderr
    assert not out.exists()
    assert list(tmp_path.iterdir())
    update_module.update_items(*arguments, out)
    update_module.update_items(*arguments, tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    assert files.file_digests(out) == files.file_digests(tmp_path / "whole")
