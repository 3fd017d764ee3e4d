"""Models that share a step are those of separate trainings, and leave the same runs."""

import contextlib
import gc
import itertools
import shutil

import jax
import numpy as np
import pytest

from interactrank_jax import losses
from interactrank_jax.config import configuration
from interactrank_jax.devices import distributed
from interactrank_jax.evaluation.evaluate import evaluate
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.run import Run
from interactrank_jax.training import loop, vmapped
from interactrank_jax.training.checkpoint import Checkpoints
from interactrank_jax.training.train import train
from interactrank_jax.training.trainer import Trainer
from interactrank_jax.training.vmapped import Vmapped, train_many
from tests.faults.processes import assert_same_run, computed, metric_lines, steps
from tests.synthetic import tiny_config, without_blocks

# Shares of the largest entry of a tensor, and an amount. Sums of float32 are taken in another
# order. Adam divides by the size of a gradient, so that it moves an entry whose gradient is almost
# zero by much more than the sums differ. One such entry in a thousand was seen, off by 5e-4.
MOST, ALL, SMALLEST = 1e-4, 1e-3, 1e-6
OVERRIDES = (
    {"train.seed": 0, "train.optimizer.learning_rate": 0.0, "train.tables.learning_rate": 0.0},
    {"train.seed": 1},
    {
        "train.seed": 1,
        "train.optimizer.learning_rate": 5e-3,
        "train.optimizer.warmup_steps": 0,
        "train.optimizer.weight_decay": 0.1,
        "train.affine.rate_scale": 3.0,
        "train.tables.learning_rate": 0.2,
        "train.tables.decay": "cosine",
        "train.tables.weight_decay": 0.5,
    },
)


def shared_config(model="two_tower", **train):
    """Compiles in a second or two; the first of `OVERRIDES` ends early, at step 4."""
    config = tiny_config(model)
    without_blocks(config)
    config.train.update({"order_seed": 5, "eval_every": 2, "patience": 1} | train)
    config.train.optimizer.warmup_steps = 2
    return config


def configs(config, overrides=OVERRIDES):
    return [configuration.with_values(config, values) for values in overrides]


def assert_close(tree, other):
    """Asserts that 99% of the entries of a tensor differ by no more than `MOST`, all by `ALL`."""
    for (path, one), two in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(other), strict=True
    ):
        one, two = np.asarray(one), np.asarray(two)
        if one.dtype.kind == "f":
            one, two = one.astype(np.float64), two.astype(np.float64)
        difference, largest = np.abs(one - two), np.abs(two).max()
        name = jax.tree_util.keystr(path)
        assert difference.max() <= ALL * largest + SMALLEST, name
        assert np.mean(difference > MOST * largest + SMALLEST) <= 0.01, name


class TestSteps:
    @pytest.mark.long  # four trainings
    @pytest.mark.parametrize(
        ("model", "fields", "loss"),
        [
            ("two_tower", {"parallel": "pmap"}, {"uniform_negatives": 6}),
            pytest.param(
                "interactrank",
                {"parallel": "shard_map", "id_dropout": 0.2},
                {"impression_sampling": 0.5, "listwise_weight": 0.1},
                marks=pytest.mark.thorough,  # compiles each of these steps anew
            ),
            pytest.param(
                *("fit", {"parallel": "pmap", "microbatches": 2}, {"log_q": "sketch"}),
                marks=pytest.mark.thorough,
            ),
        ],
    )
    def test_states_are_those_of_separate_trainings(self, examples_path, model, fields, loss):
        config = shared_config(model, **fields)
        config.model.tower.dropout = 0.2
        config.train.loss.update(loss)
        config.train.tables.name = "adam" if model == "fit" else "adagrad"
        made = [Trainer(each, examples_path, devices=jax.devices()[:1]) for each in configs(config)]
        together, data = Vmapped(made), made[0].batches()
        for _ in range(4):
            batch = next(data)
            for each in (together, *made[1:]):  # those of `made` start anew, from their seeds
                copies = {name: np.copy(value) for name, value in batch.items()}
                each.advance(made[0].parallel.shard(copies))
        states = [made[0].parallel.unstack(together.states, index) for index in range(3)]
        for state, trainer in zip(states[1:], made[1:], strict=True):
            assert_close(state, trainer.placed)
        # They are three models: of two seeds, and of two rates.
        for one, other in itertools.combinations(states, 2):
            with pytest.raises(AssertionError):
                assert_close(one.params, other.params)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, examples_path):
    """Runs of models that share a step, of separate trainings, and both summaries; read only."""
    root, config = tmp_path_factory.mktemp("vmapped"), shared_config()
    together = [root / "together" / str(number) for number in range(len(OVERRIDES))]
    alone = [root / "alone" / str(number) for number in range(len(OVERRIDES))]
    summary = train_many(config, examples_path, OVERRIDES, together)
    expected = [
        train(each, examples_path, path, devices=jax.devices()[:1])
        for each, path in zip(configs(config), alone, strict=True)
    ]
    return list(zip(together, alone, summary, expected, strict=True))


@pytest.mark.thorough  # trains whole runs, together and apart
class TestRuns:
    def test_are_those_of_separate_trainings(self, runs):
        for path, other, summary, expected in runs:
            assert summary == pytest.approx(expected, abs=1e-3)
            assert (summary["step"], summary["steps"]) == (expected["step"], expected["steps"])
            model, step = Run.open(path).restore_model()
            assert_close(model, Run.open(other).restore_model()[0])
            logits = np.zeros((1, 2), np.float32)
            probabilities = [
                Run.open(run).calibration(step).probabilities(logits) for run in (path, other)
            ]
            np.testing.assert_allclose(*probabilities, atol=1e-3)

    def test_each_has_an_end_of_its_own(self, runs):
        """The first learns nothing, and ends at its second validation; the last goes on."""
        ends = [summary["steps"] for _, _, summary, _ in runs]
        assert ends[0] == 4 < ends[2]
        assert len({summary["step"] for _, _, summary, _ in runs}) > 1

    def test_curves_have_the_same_lines(self, runs):
        for path, other, _, _ in runs:
            lines, expected = map(metric_lines, (path, other))
            assert [line.keys() for line in lines] == [line.keys() for line in expected]
            for line, values in zip(map(computed, lines), map(computed, expected), strict=True):
                assert line == pytest.approx(values, rel=1e-3, abs=1e-3)
            rates = [line["train/steps_per_second"] for line in lines if "train/loss" in line]
            assert min(rates) > 0

    def test_the_same_files_are_left(self, runs):
        def files(path):
            names = {file.relative_to(path).as_posix() for file in path.rglob("*")}
            return {
                name for name in names if not name.startswith(("events", "best/", "checkpoints/"))
            }

        for path, other, _, _ in runs:
            assert files(path) == files(other)
            assert steps(path) == steps(other)
            config = configuration.to_json(Run.open(path).config)
            assert config == configuration.to_json(Run.open(other).config)

    def test_each_is_evaluated_as_any_run(self, runs, examples_path):
        path, other = runs[1][:2]
        result, expected = (evaluate(run, examples_path, "test") for run in (path, other))
        figures, others = (each["metrics"] for each in (result, expected))
        assert figures.keys() == others.keys()
        assert figures["roc_auc"] == pytest.approx(others["roc_auc"], abs=1e-3)

    def test_each_is_resumed_as_any_run(self, runs, examples_path, tmp_path):
        """Here one that is finished: the same summary, and nothing is trained again."""
        path, _, summary, _ = runs[2]
        shutil.copytree(path, tmp_path / "run")
        config = configs(shared_config())[2]
        again = train(config, examples_path, tmp_path / "run", devices=jax.devices()[:1])
        assert again == summary
        assert_same_run(tmp_path / "run", path)


@contextlib.contextmanager
def stop_at_step(step):
    yield lambda done: done == step


@pytest.mark.thorough  # whole runs
def test_stopped_and_resumed_they_end_with_the_same_bits(
    runs, examples_path, tmp_path, monkeypatch
):
    """Also where a kill left one of them an older checkpoint than the others."""
    paths = [tmp_path / str(number) for number in range(len(OVERRIDES))]
    arguments = shared_config(), examples_path, OVERRIDES, paths
    with monkeypatch.context() as patched:
        patched.setattr(distributed, "stop_requests", lambda: stop_at_step(6))
        with pytest.raises(distributed.TrainingInterrupted, match="stopped after step 6"):
            train_many(*arguments)
    assert [steps(path)[-1] for path in paths] == [4, 6, 6]  # the first had ended
    shutil.rmtree(paths[1] / "checkpoints/6")
    summary = train_many(*arguments)
    assert summary == [each[2] for each in runs]
    for path, each in zip(paths, runs, strict=True):
        assert_same_run(path, each[0])
    assert train_many(*arguments) == summary  # nothing is left to do


@pytest.mark.thorough  # whole runs
def test_one_that_is_not_finite_ends_alone(runs, examples_path, tmp_path, monkeypatch):
    read = vmapped.Rates.of.__func__

    def broken(cls, trainer):
        rates = read(cls, trainer)
        is_broken = trainer.workdir.name == "1"
        return rates.replace(dense=rates.dense * np.nan) if is_broken else rates

    monkeypatch.setattr(vmapped.Rates, "of", classmethod(broken))
    paths = [tmp_path / str(number) for number in range(len(OVERRIDES))]
    summary = train_many(shared_config(), examples_path, OVERRIDES, paths)
    assert summary[0] == runs[0][2]
    assert summary[2] == runs[2][2]
    assert summary[1].keys() == {"error"}
    assert "step 1: loss is not finite" in summary[1]["error"]
    assert_same_run(paths[2], runs[2][0])


def live_states(template):
    """Returns how many states the devices hold, stacked or not, by the largest of their leaves."""
    leaves = jax.tree.leaves(template)
    shape = max(leaves, key=lambda leaf: leaf.size).shape
    arrays = [each for each in jax.live_arrays() if each.shape[-len(shape) :] == shape]
    # Several arrays can be views of one buffer.
    sizes = {each.addressable_data(0).unsafe_buffer_pointer(): each.size for each in arrays}
    return sum(sizes.values()) / sum(leaf.size for leaf in leaves if leaf.shape == shape)


@pytest.mark.slow  # collects garbage before each of many measurements
def test_one_stack_one_state_beside_it_and_one_iterator(examples_path, tmp_path, monkeypatch):
    """Nothing is saved here: of what is, Orbax has copies of its own."""
    config, states, made = shared_config(max_steps=4), [], []
    trainer = Trainer(config, examples_path)
    template = trainer.parallel.template(trainer.init)
    gc.collect()
    before = live_states(template)

    def measured(function):
        def call(*arguments):
            gc.collect()
            states.append(live_states(template) - before)
            return function(*arguments)

        return call

    def batches(self):
        made.append(read(self))
        return made[-1]

    read = Trainer.batches
    monkeypatch.setattr(Trainer, "batches", batches)
    for name in ("save", "save_best"):
        monkeypatch.setattr(Checkpoints, name, lambda *_: None)
    for name in ("follow", "_validate", "_say_what_is_wrong"):
        monkeypatch.setattr(loop.Loop, name, measured(getattr(loop.Loop, name)))
    paths = [tmp_path / str(number) for number in range(len(OVERRIDES))]
    train_many(config, examples_path, OVERRIDES, paths)
    assert len(OVERRIDES) <= max(states) <= len(OVERRIDES) + 1
    assert len(made) == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "overrides", "message"),
        [
            ({}, [{}, {"model.embedding_dim": 4}], r"config\.model\.embedding_dim is 8 and 4"),
            ({}, [{}, {"train.batch_size": 8}], r"config\.train\.batch_size is 16 and 8"),
            (
                {"train.order_seed": None},
                [{"train.seed": 0}, {"train.seed": 1}],
                r"train\.seed is 0 and 1.*Set config\.train\.order_seed to one number",
            ),
            ({"train.loss.hard_negatives": 2}, [{}], "an index of all items of its own"),
            (
                {"train.table_shards": 2, "train.parallel": "shard_map"},
                [{}],
                "train on one device: set it to 1",
            ),
            (
                {},
                [{"train.sed": 1}],
                r"no field config\.train\.sed.*Did you mean config\.train\.seed",
            ),
            ({}, [{"train.seed": "x"}], r"config\.train\.seed cannot be 'x'"),
            ({}, [{"data.block_size": 8}], "was prepared with 16"),
            ({}, [], "at least one model"),
        ],
    )
    def test_models_that_cannot_share_a_step(
        self, examples_path, tmp_path, fields, overrides, message
    ):
        config = shared_config()
        with config.ignore_type():
            config.update_from_flattened_dict(fields)
        paths = [tmp_path / str(number) for number in range(len(overrides))]
        with pytest.raises(InputError, match=message):
            train_many(config, examples_path, overrides, paths)
        assert not list(tmp_path.iterdir())

    def test_one_directory_for_two(self, examples_path, tmp_path):
        with pytest.raises(InputError, match="two models have one run directory"):
            train_many(shared_config(), examples_path, [{}, {}], [tmp_path / "a", tmp_path / "a"])

    def test_several_processes(self, examples_path, tmp_path, monkeypatch):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        with pytest.raises(InputError, match="2 processes train together"):
            train_many(shared_config(), examples_path, [{}], [tmp_path / "a"])

    @pytest.mark.thorough  # compiles a step
    def test_a_callback_without_a_rule_for_several(self, examples_path, tmp_path, registries):
        @losses.register("counted", kind="slate")
        def counted(logits, labels, *, where=None, weights=None):
            one = jax.ShapeDtypeStruct((), np.float32)
            value = jax.pure_callback(
                lambda logits: np.float32(logits.mean()), one, jax.lax.stop_gradient(logits)
            )
            return losses.Total(value, np.float32(1))

        config = shared_config()
        config.train.loss.counted_weight = 0.1
        with pytest.raises(InputError, match=r"two_tower cannot share a step with others.*vmap"):
            train_many(config, examples_path, [{}, {}], [tmp_path / "a", tmp_path / "b"])
