"""The way round the slow scatter-add: which versions, what becomes of XLA_FLAGS, and when."""

import dataclasses
import os
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from interactrank_jax import cli
from interactrank_jax.devices import cuda
from tests.conftest import REPOSITORY

SLOW = ("0.10.2", "0.11.0")
FAST = ("0.8.0", "0.9", "0.10.0", "0.10.1", "0.11.1", "0.11.2", "0.12.0.1", "1.0.0")
STATIONS = ("train", "evaluate", "index", "score")


def install(monkeypatch, **versions):
    """Pretends that these plugins are installed, and no others."""
    by_name = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name):
        if name not in by_name:
            raise metadata.PackageNotFoundError(name)
        return by_name[name]

    monkeypatch.setattr(cuda.metadata, "version", version)


class TestVersions:
    @pytest.mark.parametrize("version", [*SLOW, "0.10.2.post1", "0.11.0.dev20260101", "0.11"])
    def test_from_0_10_2_to_0_11_0_are_slow(self, version):
        assert cuda.has_slow_scatter(version)

    @pytest.mark.parametrize("version", [*FAST, "", "unknown"])
    def test_the_others_are_not(self, version):
        assert not cuda.has_slow_scatter(version)

    @pytest.mark.parametrize("name", ["jax", "jaxlib", "jax-cuda12-plugin"])
    def test_the_extra_admits_the_fast_ones_alone(self, name):
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        requirements = [Requirement(text) for text in project["optional-dependencies"]["gpu"]]
        (specifier,) = (entry.specifier for entry in requirements if entry.name == name)
        assert {version: specifier.contains(version) for version in (*SLOW, *FAST)} == {
            **dict.fromkeys(SLOW, False),
            **dict.fromkeys(FAST, True),
        }


class TestFlags:
    @pytest.mark.parametrize("version", SLOW)
    @pytest.mark.parametrize("plugin", ["jax_cuda12_plugin", "jax_cuda13_plugin"])
    def test_are_added_for_a_slow_plugin(self, monkeypatch, plugin, version):
        install(monkeypatch, **{plugin: version})
        environ: dict[str, str] = {}
        cuda.avoid_slow_scatter(environ)
        assert environ == {"XLA_FLAGS": "--xla_backend_extra_options=-nvptx-allow-ftz-atomics"}

    def test_come_after_what_is_set_and_only_once(self, monkeypatch):
        install(monkeypatch, jax_cuda12_plugin="0.10.2")
        environ = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}
        for _ in range(2):
            cuda.avoid_slow_scatter(environ)
            assert environ["XLA_FLAGS"] == f"--xla_gpu_deterministic_ops=true {cuda.FLAG}"

    def test_leave_the_users_own_choice_about_the_option(self, monkeypatch):
        install(monkeypatch, jax_cuda12_plugin="0.10.2")
        chosen = {"XLA_FLAGS": "--xla_backend_extra_options=nvptx-allow-ftz-atomics=true"}
        environ = dict(chosen)
        cuda.avoid_slow_scatter(environ)
        assert environ == chosen

    @pytest.mark.parametrize("plugins", [{}, *({"jax_cuda12_plugin": name} for name in FAST)])
    def test_stay_as_they_are_without_a_slow_plugin(self, monkeypatch, plugins):
        """So on a CPU, whatever the version of jaxlib."""
        install(monkeypatch, **plugins)
        for environ in ({}, {"XLA_FLAGS": "--xla_dump_to=x"}):
            before = dict(environ)
            cuda.avoid_slow_scatter(environ)
            assert environ == before


@pytest.mark.parametrize("station", STATIONS)
def test_every_station_starts_with_the_flag(monkeypatch, station):
    install(monkeypatch, jax_cuda12_plugin="0.10.2")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    monkeypatch.chdir(REPOSITORY)
    command, seen = cli.COMMANDS[station], []
    spy = dataclasses.replace(command, run=lambda _: seen.append(os.environ["XLA_FLAGS"]))
    monkeypatch.setitem(cli.COMMANDS, station, spy)
    assert cli.main(command.example.split()[1:]) == 0
    assert seen == [f"--xla_dump_to=x {cuda.FLAG}"]


def test_the_flag_is_set_before_jax_starts_its_backend():
    script = """
from interactrank_jax import cli
from interactrank_jax.devices import cuda

def check(environ):
    from jax._src import xla_bridge
    print("started" if xla_bridge.backends_are_initialized() else "not yet")

cuda.avoid_slow_scatter = check
cli.main(["evaluate", "--workdir=missing", "--examples=missing"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "not yet\n"
