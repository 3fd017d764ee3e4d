"""Names of models: given where a class is defined, and given once."""

import textwrap

import pytest

from interactrank_jax.config import configuration
from interactrank_jax.config.field_kinds import Number
from interactrank_jax.config.field_table import Field
from interactrank_jax.io.errors import InputError
from interactrank_jax.models import flops
from interactrank_jax.models.registry import MODELS, register
from interactrank_jax.models.two_tower import TwoTower

FILE = """
from interactrank_jax.models.registry import register
from interactrank_jax.models.two_tower import TwoTower
from ml_collections import ConfigDict

@register("mine")
class {name}(TwoTower):
    pass

def get_config():
    return ConfigDict()
"""


def write(path, name="Mine"):
    path.write_text(textwrap.dedent(FILE.format(name=name)))
    return path


def test_ours_are_known_once_the_package_is_imported():
    assert len(MODELS) == 13
    assert all(entry.is_ours for entry in MODELS.values())


def test_a_registration_keeps_what_it_was_given(registries):
    fields = (Field("model.alpha", Number(0, 1), "how much"),)

    @register("own", flops=flops.two_tower, fields=fields)
    class Own(TwoTower):
        pass

    entry = MODELS["own"]
    assert (entry.model, entry.flops, entry.fields) == (Own, flops.two_tower, fields)
    assert entry.file == __file__
    assert not entry.is_ours


def test_a_file_that_is_run_again_registers_its_model_anew(tmp_path, registries, monkeypatch):
    file = write(tmp_path / "mine.py")
    configuration.load(str(file))
    first = MODELS["mine"].model
    monkeypatch.chdir(tmp_path)
    configuration.load("mine.py")  # the same file by another path
    assert MODELS["mine"].model is not first
    assert MODELS["mine"].file == str(file)


def test_two_models_of_one_name_are_refused(tmp_path, registries):
    configuration.load(str(write(tmp_path / "mine.py")))
    with pytest.raises(InputError, match=r"'mine' is that of Mine in .*mine\.py, and Mine in .*of"):
        configuration.load(str(write(tmp_path / "of_others.py")))
    with pytest.raises(InputError, match=r"and Other in .*choose another"):
        configuration.load(str(write(tmp_path / "mine.py", name="Other")))
    with pytest.raises(InputError, match="'two_tower' is that of TwoTower"):
        register("two_tower")(TwoTower)
    assert MODELS["two_tower"].is_ours


def test_what_is_no_model_is_not_registered():
    with pytest.raises(InputError, match="expected a subclass of PreRanker"):

        @register("no_model")
        class NoModel:
            pass
