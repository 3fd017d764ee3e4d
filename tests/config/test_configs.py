"""Every config, with every argument, becomes a model that trains a step on data of its kind."""

import ast
import itertools
import json
import re

import jax
import numpy as np
import pytest

from experiments.public_datasets import ARGUMENTS as COMPARED
from interactrank_jax import cli
from interactrank_jax.config import configuration, data_sets
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters import kuaisearch, open_bandit, recflow
from interactrank_jax.log.adapters.movielens import convert
from interactrank_jax.models.inputs import zero_inputs
from interactrank_jax.models.registry import MODELS
from interactrank_jax.runs.run import Run
from interactrank_jax.training.train import train
from tests.conftest import REPOSITORY
from tests.log.adapters import raw_kuaisearch, raw_open_bandit, raw_recflow
from tests.marks import some_quick

ARGUMENTS = tuple(data_sets.DATA_SETS)
TIMED = ("movielens_100k", "movielens_100k_random", "ratings_time")
# Published logs: their adapter, and what writes tiny files in the owners' schema.
PUBLISHED = {
    "recflow": (recflow, raw_recflow),
    "kuaisearch": (kuaisearch, raw_kuaisearch),
    "open_bandit": (open_bandit, raw_open_bandit),
}


def load(model: str, argument: str):
    return configuration.load(f"{REPOSITORY / 'configs' / model}.py:{argument}")


def write_movielens(path, timed: bool):
    """Ratings in the layout of MovieLens-1M, random but for some users being kinder."""
    rng = np.random.default_rng(0)
    path.mkdir()
    rows = []
    for user in range(1, 61):
        kind = rng.random()
        for index, movie in enumerate(rng.choice(np.arange(1, 41), 15, replace=False)):
            stars = int(rng.choice([1, 2, 4, 5], p=[(1 - kind) / 2] * 2 + [kind / 2] * 2))
            second = 946_684_800 + user * 86_400 + index * 900
            rows.append(f"{user}::{movie}::{stars}" + (f"::{second}" if timed else ""))
    name = "ratings.dat" if timed else "ratings.notime.dat"
    (path / name).write_text("\n".join(rows))
    movies = [f"{movie}::Movie {movie} (19{50 + movie})::Drama|Comedy" for movie in range(1, 41)]
    (path / "movies.dat").write_text("\n".join(movies))
    users = [f"{user}::{'MF'[user % 2]}::25::{user % 5}::{user:05d}" for user in range(1, 61)]
    (path / "users.dat").write_text("\n".join(users))
    return path


@pytest.fixture(scope="module")
def examples(tmp_path_factory, tiny_examples):
    root = tmp_path_factory.mktemp("movielens")
    paths = {"search": tiny_examples}
    for timed in (True, False):
        convert(write_movielens(root / f"raw-{timed}", timed), root / f"log-{timed}")
    for argument in ARGUMENTS[1:]:
        log = root / f"log-{argument in TIMED}"
        if argument in PUBLISHED:
            log = root / f"log-{argument}"
            adapter, raw = PUBLISHED[argument]
            adapter.convert(raw.trainable(root / f"raw-{argument}"), log)
        paths[argument] = root / argument
        prepare(load("interactrank", argument).data, log, paths[argument])
    return paths


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_interactfit_with_interactranks_parts_switched_off_is_fit(argument):
    fit, config = load("fit", argument), load("interactfit", argument)
    del config.model["cross"]
    config.model.name = "fit"
    config.model.tower.masknet.blocks = 0
    config.model.dot_weight_init = fit.model.dot_weight_init
    if config.model.sequence.query_history != "none":
        config.model.sequence.query_history = fit.model.sequence.query_history
    assert configuration.difference(configuration.to_json(fit), configuration.to_json(config)) == ""


PAIRS = list(itertools.product(MODELS, ARGUMENTS))
# Every model on one data set, and every data set with one model.
LONG = [pair for pair in PAIRS if pair[0] == "interactfit" or pair[1] == "search"]


@pytest.mark.parametrize(("model", "argument"), some_quick(PAIRS, (), LONG))
def test_every_config_makes_a_model_of_its_data(tmp_path, examples, model, argument):
    config = load(model, argument)
    run = Run(tmp_path, config, Examples(examples[argument]).metadata)
    assert config.model.name == model
    sample = zero_inputs(run.inputs, run.model.row_width)
    logits = jax.eval_shape(run.model.apply, {"params": run.model_template["params"]}, **sample)
    assert logits.shape == (1, 1, len(config.label.heads))


@pytest.mark.parametrize(
    ("model", "argument"),
    [
        ("interactfit", "movielens_1m"),
        ("fit", "movielens_1m_published"),
        ("matrix_factorization", "movielens_100k_random"),
        ("dat", "ratings_time"),
    ],
)
@pytest.mark.thorough  # four models to compile
def test_a_config_trains_a_step(tmp_path, examples, model, argument):
    config = load(model, argument)
    config.train.update({"batch_size": 16, "max_steps": 1})
    config.model.tower.masknet.blocks = min(config.model.tower.masknet.blocks, 1)
    result = train(config, examples[argument], tmp_path / "run")
    assert result["steps"] == 1
    assert 0 <= result["roc_auc"] <= 1


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_the_models_of_one_data_set_share_its_examples(argument):
    whole = {model: configuration.to_json(load(model, argument)) for model in MODELS}
    if argument == "movielens_100k":  # see configs/matrix_factorization.py
        vocabulary = whole["matrix_factorization"]["data"]["vocabulary"]
        assert vocabulary != whole["two_tower"]["data"]["vocabulary"]
        vocabulary.update(whole["two_tower"]["data"]["vocabulary"])
    for config in whole.values():
        assert config["data"] == whole["two_tower"]["data"]
        assert config["label"] == whole["two_tower"]["label"]


def test_a_config_survives_json():
    config = load("interactrank", "search")
    again = configuration.to_json(config)
    assert configuration.difference(again, configuration.to_json(config)) == ""


def test_an_unknown_argument_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'movielens_1m'"):
        load("interactrank", "movielens_10m")


def test_the_difference_of_two_configs_names_the_fields():
    saved = {"train": {"lr": 1.0, "steps": 2}, "name": "a"}
    now = {"train": {"lr": 0.5, "steps": 2}, "name": "a"}
    assert configuration.difference(saved, now) == "config.train.lr was 1.0, is 0.5"


def docstring(model: str) -> str:
    return ast.get_docstring(ast.parse((REPOSITORY / f"configs/{model}.py").read_text()))


@pytest.mark.parametrize("model", MODELS)
def test_the_docstring_names_commands_that_parse(monkeypatch, model):
    monkeypatch.chdir(REPOSITORY)
    lines = [line.split() for line in docstring(model).splitlines() if "interactrank " in line[:20]]
    assert [line[1] for line in lines] == ["prepare", "train"]
    for _, *argv in lines:
        command, flags = cli.split_command(argv)
        values = cli.parse(cli.COMMANDS[command], command, flags)
        assert values.config.model.name == model


@pytest.mark.parametrize("model", MODELS)
def test_the_docstring_names_hardware_time_and_the_results_of_every_data_set(model):
    rows = json.loads((REPOSITORY / "experiments/results/public_datasets.json").read_text())
    _, _, text = docstring(model).partition("Expected on the test split")
    assert "Hardware: " in text
    assert "Time: " in text
    blocks = dict(re.findall(r"^ +:(\w+)(.*?)(?=^ +:|\Z)", text, re.DOTALL | re.MULTILINE))
    results = {
        COMPARED[row["dataset"], row["protocol"]]: row
        for row in rows
        if row["model"] == model and row["protocol"] != "published"
    }
    assert blocks.keys() == results.keys()
    for argument, row in results.items():
        block = " ".join(blocks[argument].split())
        for expected in (
            f"{row['seeds']} seeds",
            f"ROC-AUC {row['auc_mean']:.4f} ± {row['auc_std']:.4f}",
            f"log loss {row['logloss_mean']:.4f}",
            f"{row['examples_per_s']:,} examples/s",
            *(f"{field}={value}" for field, value in row["chosen"].items()),
        ):
            assert expected in block, (model, argument)
