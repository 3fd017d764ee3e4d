"""A model and a loss of one's own, in a single config file: trained here, served elsewhere."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.config import configuration, fields
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.models.registry import MODELS
from interactrank_jax.runs.run import Run
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.long  # a training in a process of its own, and every command on it

CONFIG = """
import jax
from interactrank_jax import losses
from interactrank_jax.config.field_kinds import Number
from interactrank_jax.config.field_table import Field
from interactrank_jax.models.registry import register
from interactrank_jax.models.two_tower import TwoTower
from tests.synthetic import tiny_config

print("this file was run")


@register("mine", fields=(Field("model.slope", Number(0, 10), "weight of the cross features"),))
class Mine(TwoTower):
    def score(self, query, items, cross):
        slope = self.config.slope
        return super().score(query, items, cross) + slope * cross.sum(-1, keepdims=True)


@losses.register("margin", kind="slate")
def margin(logits, labels, *, where=None, weights=None):
    return losses.pairwise_logistic(logits - labels, labels, where=where, weights=weights)


def get_config():
    config = tiny_config("two_tower", name="mine", slope=2.0)
    config.train.loss.margin_weight = 0.5
    config.train.max_steps = 4
    return config
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "mine.py"
    file.write_text(textwrap.dedent(CONFIG))
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory, examples_path, config_file):
    """A run that another process trained."""
    workdir = tmp_path_factory.mktemp("own") / "run"
    subprocess.run(
        [
            *(sys.executable, "-m", "interactrank_jax", "train", f"--config={config_file}"),
            *(f"--examples={examples_path}", f"--workdir={workdir}"),
        ],
        check=True,
        cwd=workdir.parent,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    return workdir


def test_an_own_loss_is_trained_on_and_reported(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    reported = [line["train/loss/margin"] for line in lines if "train/loss" in line]
    assert reported
    assert min(reported) > 0


def test_the_model_is_evaluated_indexed_scored_and_explained(
    run, examples_path, config_file, tmp_path, registries, capsys
):
    assert "mine" not in MODELS
    flags = [f"--workdir={run}", f"--examples={examples_path}", f"--config={config_file}"]
    index, scores = tmp_path / "index", tmp_path / "scores"
    assert cli.main(["evaluate", *flags]) == 0
    assert cli.main(["index", *flags, f"--out={index}"]) == 0
    assert cli.main(["score", *flags, f"--index={index}", f"--out={scores}"]) == 0
    assert cli.main(["explain", *flags, "--request=test-3"]) == 0
    assert "request_id=test-3" in capsys.readouterr().out
    assert pq.read_table(scores / "scores.parquet").num_rows > 45
    assert Run.open(run).model.__class__.__name__ == "Mine"


def test_opening_the_run_runs_no_file_but_says_which_to_pass(run, examples_path, capsys):
    with pytest.raises(InputError, match=r"holds a 'mine' model.*mine\.py registered it.*trust"):
        Run.open(run)
    assert cli.main(["evaluate", f"--workdir={run}", f"--examples={examples_path}"]) == 2
    printed = capsys.readouterr()
    assert "--config=" in printed.err
    assert "this file was run" not in printed.out


def test_a_run_keeps_its_own_config(run, examples_path, config_file, registries, capsys):
    flags = [f"--workdir={run}", f"--examples={examples_path}", f"--config={config_file}"]
    argv = ["index", *flags, "--config.model.embedding_dim=4", "--out=unused"]
    assert cli.main(argv) == 2
    assert "--config.model.embedding_dim=4 beside a run" in capsys.readouterr().err


@pytest.mark.parametrize("station", ["evaluate", "index --out=x", "score --out=x --index=x",
                                     "explain --request=test-3"])  # fmt: skip
def test_an_argument_of_the_file_beside_a_run_is_refused_before_the_file_is_run(
    run, examples_path, config_file, station, registries, capsys
):
    command, *rest = station.split()
    flags = [f"--workdir={run}", f"--examples={examples_path}", f"--config={config_file}:large"]
    assert cli.main([command, *flags, *rest]) == 2
    printed = capsys.readouterr()
    assert f"--config={config_file}:large beside a run" in printed.err
    assert "leave ':large' out" in printed.err
    assert "this file was run" not in printed.out
    assert "mine" not in MODELS


def test_a_file_that_only_registers_will_do(run, examples_path, tmp_path, registries, capsys):
    """Nothing but the registration is taken from it: it need not have a config."""
    file = tmp_path / "model.py"
    file.write_text(textwrap.dedent(CONFIG).partition("def get_config")[0])
    flags = [f"--workdir={run}", f"--examples={examples_path}", f"--config={file}"]
    assert cli.main(["evaluate", *flags, "--config.evaluate.bootstrap=0"]) == 0
    assert "| mine |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.slope=11.0", "model.slope is 11.0. Expected a number from 0 to 10: weight of"),
        ("train.loss.margin_weight=-1.0", "train.loss.margin_weight is -1.0. Expected"),
        ("train.loss.margin_wieght=1.0", "Did you mean config.train.loss.margin_weight?"),
    ],
)
def test_own_fields_are_checked_like_ours(
    override, message, examples_path, config_file, tmp_path, registries, capsys
):
    flags = [f"--workdir={tmp_path / 'run'}", f"--examples={examples_path}"]
    argv = ["train", *flags, f"--config={config_file}", f"--config.{override}"]
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_own_fields_are_listed(config_file, registries, capsys):
    assert cli.main(["config", f"--config={config_file}"]) == 0
    printed = capsys.readouterr().out
    assert "config.model.slope = 2.0\n    weight of the cross features" in printed
    assert "config.train.loss.margin_weight = 0.5" in printed


def test_a_required_field_that_is_absent_is_named(config_file, examples_path, registries):
    config = configuration.load(str(config_file))
    del config.model["slope"]
    with pytest.raises(InputError, match=r"config\.model\.slope is missing"):
        fields.check(config)
    config.model.name = "two_tower"
    fields.check(config)
    config.model.slope = 1.0
    with pytest.raises(InputError, match=r"no field config\.model\.slope"):
        fields.check(config)


def test_a_run_of_ours_names_no_file(trained_run, run, config_file):
    assert "model_file" not in files.read_sealed(trained_run / "config.json")
    assert files.read_sealed(run / "config.json")["model_file"] == str(config_file)


def test_a_model_that_became_another_is_refused(run, examples_path, tmp_path, registries, capsys):
    """Same name, same file, other shapes: parameters do not fit, and nothing is trained on."""
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    file = tmp_path / "mine.py"
    file.write_text(
        textwrap.dedent(CONFIG).replace(
            "    def score(",
            "    def row_width(self, table):\n        return 6\n\n    def score(",
        )
    )
    flags = [f"--workdir={workdir}", f"--examples={examples_path}", f"--config={file}"]
    for command in ("evaluate", "train"):
        assert cli.main([command, *flags]) == 2
        assert "another than in training" in capsys.readouterr().err
