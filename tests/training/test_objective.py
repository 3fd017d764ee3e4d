"""The loss as the config composes it: every term, every kind of negative, and what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from interactrank_jax import losses
from interactrank_jax.config import builders, data_sets, models
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.input import train_iterator
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses import loss_config, sketch
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.models.two_tower import Query
from interactrank_jax.ranking.index import encode_items
from interactrank_jax.runs.run import Run
from interactrank_jax.training import objective as objectives
from interactrank_jax.training.objective import Objective
from interactrank_jax.training.steps import HARD_INDEX
from tests.step_trainer import BATCH, StepTrainer
from tests.synthetic import tiny_config

EVERYTHING = {
    "impression_sampling": 1.0,
    "stage_weights": (1.0, 0.5, 0.1),
    "softmax_weight": 0.5,
    "log_q": "sketch",
    "correction": "positive_apart",
    "uniform_negatives": 6,
    "hard_negatives": 3,
    "pairwise_weight": 0.1,
    "listwise_weight": 0.1,
    "distill_weight": 0.1,
    "distill_ndcg_weight": 0.1,
}


class StagedExamples(Examples):
    """Examples whose log had stages and a teacher."""

    def __init__(self, path):
        super().__init__(path)
        columns = ("stage", "teacher_score")
        self.metadata = dataclasses.replace(self.metadata, candidate_columns=columns)

    def blocks(self, split, names=None):
        for seed, block in enumerate(super().blocks(split)):
            yield with_stages(block, seed)


@pytest.fixture(scope="module")
def examples(examples_path):
    return StagedExamples(examples_path)


@pytest.fixture(scope="module")
def batches(examples_path):
    stream = train_iterator(Examples(examples_path), BATCH, seed=0)
    return [with_stages(next(stream), seed) for seed in range(3)]


def with_stages(batch, seed):
    rng = np.random.default_rng(seed)
    mask = batch["mask"]
    teacher = rng.normal(size=mask.shape).astype(np.float32)
    teacher[rng.random(mask.shape) < 0.2] = np.nan  # a score that is missing
    stage = rng.integers(1, 4, mask.shape).astype(np.int32) * mask
    return {**batch, "stage": stage, "teacher_score": teacher}


@pytest.fixture(scope="module")
def trainer(examples):
    """Every term at once."""
    made = StepTrainer(
        examples,
        "interactrank",
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
        EVERYTHING,
    )
    model = {"params": made.initial.params, "tables": made.initial.tables}
    made.store[HARD_INDEX] = encode_items(made.run, model, made.store)
    return made


def make_objective(examples, **loss) -> Objective:
    config = tiny_config("two_tower")
    config.train.loss.update(loss)
    run = Run("unused", config, examples.metadata)
    return Objective.from_config(config, run.rule, examples.metadata, examples.num_items, run.model)


class TestEveryTermTogether:
    @pytest.mark.long  # compiles a step for itself
    def test_every_term_is_reported_and_they_add_up(self, trainer, batches):
        state = trainer(trainer.initial, batches[0])
        sums, objective = state.sums, trainer.objective
        names = ("engaged", "save", "softmax", "pairwise", "listwise", "distill", "distill_ndcg")
        assert set(objective.loss_names) == {f"loss/{name}" for name in names}
        weights = dict(zip(objective.rule.heads, objective.head_weights, strict=True))
        weights |= {"softmax": 0.5} | dict.fromkeys(names[3:], 0.1)
        assert all(sums[f"loss/{name}"] > 0 for name in names)
        expected = sum(weight * sums[f"loss/{name}"] for name, weight in weights.items())
        assert sums["loss"] == pytest.approx(float(expected), rel=1e-5)

    @pytest.mark.long  # compiles a step for itself
    def test_a_few_steps_lower_the_loss_and_stay_healthy(self, trainer, batches):
        before = trainer(trainer.initial, batches[0])
        after = trainer(trainer.initial, *[batches[0]] * 12)
        assert after.sums["loss"] < before.sums["loss"]
        assert (after.health == -1).all()  # although some of the teacher's scores are NaN

    @pytest.mark.long  # compiles a step for itself
    def test_the_sketch_counts_every_item_that_came(self, trainer, batches):
        state = trainer(trainer.initial, *batches)
        items = np.concatenate([batch["item"][batch["mask"]] for batch in batches])
        ids, times = np.unique(items, return_counts=True)
        np.testing.assert_array_equal(sketch.count(state.sketch, jnp.asarray(ids)), times)
        assert state.sketch.total == len(items)

    @pytest.mark.long  # compiles a step for itself
    def test_a_missing_score_of_the_teacher_teaches_nothing(self, trainer, batches):
        other = batches[0]["teacher_score"].copy()
        other[~batches[0]["mask"]] = 1e6
        changed = {**batches[0], "teacher_score": other}
        states = [trainer(trainer.initial, batch) for batch in (batches[0], changed)]
        for a, b in zip(*map(jax.tree.leaves, states), strict=True):
            np.testing.assert_array_equal(a, b)


class TestNegatives:
    def test_uniform_ones_are_items_shared_out_over_devices(self, examples):
        objective = make_objective(examples, uniform_negatives=4000)
        drawn = objectives.draw_uniform(objective, jax.random.key(0), 2)
        assert drawn.shape == (2000,)
        assert set(np.unique(drawn)) == set(range(1, examples.num_items))

    def test_hard_ones_rank_highest_and_are_no_positives_nor_padding(self, examples):
        objective = make_objective(examples, hard_negatives=3)
        similarity = np.zeros((2, examples.num_items), np.float32)
        similarity[0, [0, 4, 9, 7, 2]] = [9, 8, 7, 6, 5]
        similarity[1, [1, 2, 3]] = [3, 2, 1]
        engaged = jnp.array([[-1, 4], [-1, -1]], jnp.int32)
        hard = objectives.hardest(objective, jnp.asarray(similarity), engaged)
        assert hard.tolist() == [[9, 7, 2], [1, 2, 3]]

    def test_without_a_softmax_none_are_drawn(self, examples):
        loss = {"softmax_weight": 0.0, "uniform_negatives": 8, "hard_negatives": 2}
        objective = make_objective(examples, **loss)
        assert objective.uniform_negatives == objective.hard_negatives == 0
        assert objective.init_sketch() is None

    def test_a_hard_one_that_is_a_column_already_does_not_count_twice(
        self, examples, trainer, batches
    ):
        batch = batches[0]
        requests, width = batch["item"].shape
        rng = np.random.default_rng(0)
        query, items = (unit_vectors(rng, requests, n) for n in (2, width))
        hard = unit_vectors(rng, requests, 1)
        objective = make_objective(examples, softmax_weight=1.0, log_q="none", hard_negatives=1)

        def softmax(ids):
            encoded = objectives.Encoded(Query(query), items, hard=hard)
            drawn = {} if ids is None else {"hard": jnp.full((requests, 1), ids)}
            return softmax_loss(trainer, objective, encoded, drawn, batch)

        absent = np.setdiff1d(np.arange(1, examples.num_items), batch["item"])[0]
        assert softmax(int(batch["item"][batch["mask"]][0])) == softmax(None)
        assert softmax(int(absent)) > softmax(None)

    @pytest.mark.parametrize("kind", ["uniform_negatives", "hard_negatives"])
    def test_more_negatives_make_the_softmax_harder(self, examples, trainer, batches, kind):
        """The same representations: only the columns they are compared with grow."""
        rng = np.random.default_rng(0)
        unit = functools.partial(unit_vectors, rng)
        batch = batches[0]
        requests, width = batch["item"].shape
        encoded = objectives.Encoded(
            query=Query(unit(requests, 2)), items=unit(requests, width), uniform=unit(5),
            hard=unit(requests, 4),
        )  # fmt: skip
        fields = {"softmax_weight": 1.0, "log_q": "none", kind: 5}
        objective = make_objective(examples, **fields)
        absent = np.setdiff1d(np.arange(1, examples.num_items), batch["item"])
        drawn = {
            "uniform": jnp.asarray(absent[:5]),
            "hard": jnp.broadcast_to(absent[None, :4], (requests, 4)),
        }
        role = kind.removesuffix("_negatives")

        harder = softmax_loss(trainer, objective, encoded, {role: drawn[role]}, batch)
        assert harder > softmax_loss(trainer, objective, encoded, {}, batch)


def softmax_loss(trainer, objective, encoded, drawn, batch):
    """Returns the sampled softmax of one device on given representations."""
    apply = functools.partial(trainer.run.model.apply, {"params": trainer.initial.params})

    def loss(_):
        return objectives._sampled_softmax(
            objective, apply, encoded, drawn, batch, trainer.store, None, ("data",)
        )

    return jax.vmap(loss, axis_name="data")(jnp.zeros(1)).loss[0]


def unit_vectors(rng, *shape):
    vectors = rng.normal(size=(*shape, 8))
    return jnp.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), jnp.float32)


class TestRefusals:
    def test_head_weights_are_normalised(self, examples):
        assert make_objective(examples).head_weights == pytest.approx((20 / 27, 7 / 27))

    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            ({"name": "bec"}, r"loss\.name is 'bec'.*Did you mean 'bce'"),
            ({"head_weights": (1.0, 2.0, 3.0)}, r"head_weights has 3 values.*one per head"),
            ({"log_q": "none", "correction": "positive_apart"}, r"set config.*log_q"),
            ({"hard_negatives": 500}, r"hard_negatives is 500, of 80 items"),
            ({"head_weights": (0.0, 0.0)}, r"head_weights is .*at least one weight above 0"),
        ],
    )
    def test_a_wrong_field_is_named(self, examples, loss, message):
        with pytest.raises(InputError, match=message):
            make_objective(examples, **loss)

    @pytest.mark.parametrize(
        ("loss", "column"),
        [
            ({"stage_weights": (1.0, 0.5, 0.1)}, "stage"),
            ({"distill_weight": 0.1}, "teacher_score"),
            ({"distill_ndcg_weight": 0.1}, "teacher_score"),
        ],
    )
    def test_a_column_that_the_examples_lack_is_named(self, examples_path, loss, column):
        with pytest.raises(InputError, match=f"the column '{column}'.*prepare again"):
            make_objective(Examples(examples_path), **loss)


class TestHeadWeights:
    def weights(self, examples, label, loss=()):
        config = tiny_config("two_tower")
        config.label.update(label)
        rule = Run("unused", config, examples.metadata).rule
        config.train.loss.head_weights = loss
        return loss_config.head_weights(config.train.loss, rule)

    def test_are_those_of_the_heads_actions_in_the_label(self, examples):
        label = {"heads": ("save", "click", "engaged"), "utility": (0.0, 0.0, 1.0)}
        assert self.weights(examples, label) == pytest.approx((7 / 16, 2 / 16, 7 / 16))

    def test_a_negative_actions_weight_is_not_that_of_engagement(self, examples):
        label = {"positive": ("click",), "negative": ("save",)}
        assert self.weights(examples, label) == pytest.approx((2 / 9, 7 / 9))

    def test_an_action_without_a_weight_counts_one(self, examples):
        assert self.weights(examples, {"weights": ()}) == (0.5, 0.5)
        assert self.weights(examples, {"weights": (("click", 3.0),)}) == (0.75, 0.25)

    def test_of_interactranks_label_are_twenty_to_seven_to_twenty(self):
        config = models.interactrank("search")
        actions = ("click", "long_click", "short_click", "save")
        rule = LabelRule.from_config(config.label, actions)
        assert rule.heads == ("engaged", "save", "long_click")
        assert not config.train.loss.head_weights
        weights = loss_config.head_weights(config.train.loss, rule)
        assert weights == (20 / 47, 7 / 47, 20 / 47)

    def test_given_ones_are_taken(self, examples):
        assert self.weights(examples, {}, (3.0, 1.0)) == (0.75, 0.25)

    @pytest.mark.parametrize("argument", data_sets.DATA_SETS)
    def test_no_config_of_ours_has_to_give_any(self, argument):
        assert builders.base_config(argument).train.loss.head_weights == ()


class TestALossOfOnesOwn:
    def test_is_left_out_where_the_config_has_no_weight_for_it(self, examples, registries):
        losses.register("own", kind="slate")(losses.listwise_softmax)
        assert make_objective(examples).slate_weights == ()
        assert make_objective(examples, own_weight=0.5).slate_weights == (("own", 0.5),)

    @pytest.mark.long  # trains twice
    def test_is_called_as_its_kind_is(self, examples, batches, registries):
        """Beside ours under another name, each gives the same."""
        losses.register("bce_too", kind="pointwise")(losses.sigmoid_cross_entropy)
        losses.register("own_slate", kind="slate")(losses.listwise_softmax)
        losses.register("own_distill", kind="distillation")(losses.distill_delta_ndcg)
        terms = {"listwise_weight": 0.1, "own_slate_weight": 0.1}
        terms |= {"distill_ndcg_weight": 0.1, "own_distill_weight": 0.1}
        optimizer = optax.sgd(0.1)
        trainer = StepTrainer(examples, "two_tower", optimizer, {**terms, "name": "bce_too"})
        sums = trainer(trainer.initial, batches[0]).sums
        assert sums["loss/own_slate"] == sums["loss/listwise"] > 0
        assert sums["loss/own_distill"] == sums["loss/distill_ndcg"] > 0
        plain = StepTrainer(examples, "two_tower", optimizer, {**terms, "name": "bce"})
        assert sums["loss"] == plain(plain.initial, batches[0]).sums["loss"]

    def test_cannot_have_the_name_of_a_head(self, examples, registries):
        losses.register("save", kind="slate")(losses.listwise_softmax)
        with pytest.raises(InputError, match=r"two terms of the loss are called 'save'.*register"):
            make_objective(examples, save_weight=0.5)
