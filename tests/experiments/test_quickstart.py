"""How the quickstart's stations are kept, redone and started over; the smallest one as a whole."""

import json
import subprocess
import sys

import pytest

from experiments import quickstart
from experiments.quickstart import Stations
from interactrank_jax.io.errors import InputError
from tests.conftest import REPOSITORY


def test_a_station_that_is_done_is_kept(tmp_path):
    calls = []
    for _ in range(2):
        Stations(tmp_path / "out", {"preset": "tiny"}).run("one", lambda: calls.append(1))
    assert calls == [1]


def test_remains_of_a_killed_station_are_removed_unless_it_resumes(tmp_path):
    out = tmp_path / "out"

    def killed():
        raise KeyboardInterrupt

    for name, resumes in (("made", False), ("trained", True)):
        stations = Stations(out, {})
        (out / name).mkdir(parents=True)
        (out / name / "remains").write_text("")
        if not (out / "stations.json").exists():  # the directory came before its record
            stations._write()
        with pytest.raises(KeyboardInterrupt):
            stations.run(name, killed, name, resumes)
        assert (out / name / "remains").exists() == resumes
        assert name not in json.loads((out / "stations.json").read_text())["seconds"]


def test_other_settings_start_over(tmp_path, capsys):
    out = tmp_path / "out"
    Stations(out, {"preset": "small"}).run("one", lambda: None)
    (out / "log").mkdir()
    stations = Stations(out, {"preset": "tiny"})
    assert stations.seconds == {}
    assert not (out / "log").exists()
    assert "starting over" in capsys.readouterr().out


def test_a_directory_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "letter").write_text("mine")
    with pytest.raises(InputError, match="no quickstart"):
        Stations(tmp_path, {})
    assert (tmp_path / "letter").read_text() == "mine"


def test_an_unknown_preset_is_named(tmp_path, capsys):
    assert quickstart.main(["--preset=smal", f"--out={tmp_path / 'out'}"]) == 2
    assert "Did you mean 'small'" in capsys.readouterr().err


@pytest.mark.long  # every station, as `make quickstart PRESET=tiny`
def test_the_smallest_one_ends_in_its_table_and_files(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "experiments.quickstart", "--preset=tiny", f"--out={out}"]

    def run():
        return subprocess.check_output(command, cwd=REPOSITORY, text=True)

    first, again = run(), run()
    summary = json.loads((out / "summary.json").read_text())
    for printed in (first, again):
        for name in ("bm25", "iqp", "two_tower", "interactrank"):
            assert f"| {name} | {summary['models'][name]['roc_auc']:.4f}" in printed
    assert (out / "scores" / "scores.parquet").is_file()
    assert (out / "figure.png").is_file()
    # What was done is kept: the second run trains nothing.
    assert "train_interactrank ..." in first
    assert "train_interactrank ..." not in again
