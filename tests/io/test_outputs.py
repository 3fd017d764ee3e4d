"""Directories and files that are whole or absent, whatever is in their way."""

import os
from pathlib import Path

import pytest

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError


def fill(path):
    with outputs.new_directory(path) as directory:
        (directory / "a").write_text("a")


def hidden(path):
    return [entry.name for entry in path.iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("name", ["out", "a[1]", "w*?", "a:b", "two words", "é", "x" * 250])
def test_a_new_directory_is_whole_and_nothing_else_is_left(tmp_path, name):
    fill(tmp_path / name)
    assert (tmp_path / name / "a").read_text() == "a"
    assert hidden(tmp_path) == []


def test_an_empty_directory_is_taken_and_a_link_is_followed(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "dangling").symlink_to("nowhere")
    fill(tmp_path / "link")
    fill(tmp_path / "dangling")
    assert (tmp_path / "empty" / "a").is_file()
    assert (tmp_path / "nowhere" / "a").is_file()
    assert (tmp_path / "link").is_symlink()


def test_what_cannot_be_written_is_refused_before_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for path, message in (
        ("file", "exists already"),
        (".", "exists already"),
        ("file/below", "cannot be written"),
        ("loop", "cannot be written"),
        ("x" * 300, "cannot be written: File name too long"),
    ):
        with pytest.raises(InputError, match=message), outputs.new_directory(path):
            pytest.fail("the block must not run")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="is the current directory"), outputs.new_directory("."):
        pytest.fail("the block must not run")


def test_a_file_that_cannot_be_written_is_refused_before_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    outputs.check_output_file(tmp_path / "file")  # it is replaced
    outputs.check_output_file(tmp_path / "new" / "deep" / "file")
    for path, message in (
        (".", "is a directory"),
        ("file/below", "is read-only or a file"),
        ("x" * 300, "cannot be written: File name too long"),
    ):
        with pytest.raises(InputError, match=message):
            outputs.check_output_file(tmp_path / path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"--json=.* is read-only"):
        outputs.check_output_file(tmp_path / "new", "--json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_was_left_by_one_killed_while_it_removed_is_removed(tmp_path, monkeypatch):
    abandoned = tmp_path / ".out.partial-0123abcd"
    (abandoned / "deep").mkdir(parents=True)
    (abandoned / "deep" / "half").write_text("half")
    (abandoned / "half").write_text("half")
    (abandoned / outputs.MARKER).touch()

    remove = outputs.shutil.rmtree

    def dying(path, **options):
        if abandoned not in (path, path.parent):
            remove(path, **options)
            return
        for file in path.rglob("*"):
            if file.is_file():
                file.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(outputs.shutil, "rmtree", dying)
        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path / "out")
    assert not (abandoned / "deep" / "half").exists()
    fill(tmp_path / "out")
    assert hidden(tmp_path) == []


def test_what_a_killed_run_left_is_named_and_removed(tmp_path, caplog):
    abandoned = tmp_path / ".out.partial-0123abcd"
    (abandoned / "deep").mkdir(parents=True)
    (abandoned / "deep" / "half").write_text("half")
    (abandoned / outputs.MARKER).touch()
    with caplog.at_level("INFO"):
        fill(tmp_path / "out")
    assert ".out.partial-0123abcd is removed: a run that was killed left it" in caplog.text
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["a"]
    assert hidden(tmp_path) == []


def test_what_is_not_ours_is_left_alone_whatever_it_is_called(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs.tempfile, "tempdir", str(tmp_path))
    scratch = f"interactrank-{os.getuid()}-"
    (tmp_path / "target").mkdir()
    for name in (".out.partial", ".out.partial-0123abcd", ".out.partial-notes", f"{scratch}notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis").write_text("precious")
    for name in (".out.partial-89abcdef", f"{scratch}89abcdef"):
        (tmp_path / name).symlink_to("target")
    (tmp_path / "target" / outputs.MARKER).touch()
    (tmp_path / "target" / "thesis").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    fill(tmp_path / "out")
    with outputs.scratch_directory():
        pass
    after = sorted(tmp_path.rglob("*"))
    assert [path for path in after if path not in before] == [tmp_path / "out", tmp_path / "out/a"]
    assert [path for path in before if path not in after] == []


def test_two_at_once_on_one_output_the_second_is_told(tmp_path):
    with outputs.new_directory(tmp_path / "out") as first:
        (first / "a").write_text("first")
        with pytest.raises(InputError, match=r"out is being written by another process"):
            fill(tmp_path / "out")
        fill(tmp_path / "other")
    assert (tmp_path / "out" / "a").read_text() == "first"


def test_a_file_of_a_killed_run_is_removed_but_not_one_being_written(tmp_path):
    (tmp_path / ".x.json.partial-dead0000").write_text("half")
    with outputs.new_file(tmp_path / "x.json") as first:
        assert not (tmp_path / ".x.json.partial-dead0000").exists()
        first.write_text("1")
        files.write_json(tmp_path / "x.json", 2)
        assert first.exists()
    assert files.read_json(tmp_path / "x.json") == 1
    assert hidden(tmp_path) == []


def test_scratch_of_a_killed_run_is_removed_but_not_one_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs.tempfile, "tempdir", str(tmp_path))
    abandoned = tmp_path / f"interactrank-{os.getuid()}-0123abcd"
    abandoned.mkdir()
    (abandoned / outputs.MARKER).touch()
    (abandoned / "spilled").write_text("x")
    (tmp_path / "interactrank-notes").mkdir()  # somebody's own
    with outputs.scratch_directory() as first, outputs.scratch_directory() as second:
        assert first != second
        assert first.is_dir()
        assert not abandoned.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["interactrank-notes"]


@pytest.mark.parametrize("path", ["x" * 256, f"a/{'é' * 130}/b", "a\0b", "bad\udcff"])
def test_a_name_that_no_file_can_have_is_refused_at_the_door(path):
    with pytest.raises(InputError, match="--out="):
        outputs.from_user(path, "--out")


def test_a_home_is_expanded_and_a_colon_is_no_scheme(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert outputs.from_user("~/x", "--out") == str(tmp_path / "x")
    assert outputs.from_user("a~b", "--out") == "a~b"
    assert outputs.from_user("", "--out") == ""
    assert Path(outputs.from_user("log:1", "--out")).is_absolute()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_json_is_not_written(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"figure": value})
    assert not list(tmp_path.iterdir())
