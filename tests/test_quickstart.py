"""How the quickstart's stations are kept, redone and started over; the run itself is .ci/run's."""

import json

import pytest

from experiments import quickstart
from experiments.quickstart import Stations
from interactrank_jax.errors import InputError


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
