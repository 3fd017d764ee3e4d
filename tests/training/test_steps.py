"""One device, one batch: what a training step reports, learns, touches and refuses to hide."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from interactrank_jax.examples.format import PADDING, Examples
from interactrank_jax.examples.input import train_iterator
from interactrank_jax.tables import lookup
from interactrank_jax.training import steps
from interactrank_jax.training.loop import check_health
from interactrank_jax.training.state import HEALTHY
from tests.marks import some_quick
from tests.step_trainer import BATCH, StepTrainer
from tests.synthetic import HISTORY, TABLES

LOSS = {"impression_sampling": 1.0, "softmax_weight": 0.5}


@pytest.fixture(scope="module")
def examples(examples_path):
    return Examples(examples_path)


@pytest.fixture(scope="module")
def batches(examples):
    stream = train_iterator(examples, BATCH, seed=0)
    return [next(stream) for _ in range(5)]


@pytest.fixture(scope="module")
def trainer(examples):
    return StepTrainer(
        examples,
        "interactrank",
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
        LOSS,
    )


@pytest.fixture(scope="module")
def warm(trainer, batches):
    """A state after four steps, so that nothing is zero by initialisation."""
    return trainer(trainer.initial, *batches[:4])


@pytest.fixture(scope="module")
def sampled(examples):
    """A model that scores by its bias alone, and learns nothing: only the sampling moves."""
    return StepTrainer(
        examples,
        "two_tower",
        optax.sgd(0.0),
        {"name": "focal", "impression_sampling": 0.25, "softmax_weight": 0.0},
        table_rate=0.0,
        exclude=("user_id",),
    )


def assert_identical(left, right):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def scored(trainer):
    """Compiled logits, and similarities to every candidate of the batch."""

    @jax.jit
    def score(state, batch, store):
        run = trainer.run
        apply = functools.partial(run.model.apply, {"params": state.params})
        request = lookup.embed_requests(state.tables, batch, store, run.inputs)
        items = lookup.embed_items(state.tables, batch["item"], store, run.inputs)
        query = apply(request, method="encode_query")
        encoded: Any = apply(items, method="encode_item")
        similarity = apply(query, encoded.reshape(-1, encoded.shape[-1]), method="similarity")
        return apply(query, encoded, batch["cross"], method="score"), similarity

    return lambda state, batch: jax.tree.map(np.asarray, score(state, batch, trainer.store))


def bce_by_hand(logits, labels, weights, mask):
    loss = weight = 0.0
    for place in np.argwhere(mask):
        logit, label = float(logits[tuple(place)]), labels[tuple(place)]
        p = 1 / (1 + np.exp(-logit))
        loss -= weights[tuple(place)] * np.log(p if label else 1 - p)
        weight += weights[tuple(place)]
    return loss / weight


def softmax_by_hand(similarity, batch, engaged, counts, total):
    """Each engaged item against the batch's distinct items that the request did not engage with."""
    items = batch["item"].reshape(-1)
    column = {int(item): place for place, item in reversed(list(enumerate(items))) if item}
    p = np.maximum(counts, 1) / total
    log_q = np.log(1 - (1 - p) ** np.count_nonzero(items))
    losses = []
    for row in range(len(engaged)):
        positives = {int(item) for item in batch["item"][row][engaged[row]]}
        odds = {
            item: np.exp(float(similarity[row, place]) - log_q[item])
            for item, place in column.items()
        }
        rest = sum(value for item, value in odds.items() if item not in positives)
        losses += [-np.log(odds[item] / (odds[item] + rest)) for item in positives]
    return np.mean(losses)


class TestLosses:
    @pytest.mark.long  # compiles the step twice
    def test_reported_losses_equal_a_recomputation_from_the_logits(
        self, trainer, warm, batches, scored
    ):
        batch = batches[4]
        logits, similarity = scored(warm, batch)
        sums = trainer(warm, batch).sums
        rule = trainer.run.rule
        labels, mask = rule.labels(batch["actions"]), batch["mask"]
        weights = rule.example_weights(batch["actions"])
        heads = [
            bce_by_hand(logits[..., head], labels[..., head], weights, mask) for head in range(2)
        ]
        softmax = softmax_by_hand(
            similarity,
            batch,
            rule.engaged(batch["actions"]) & mask,
            trainer.store["count"].astype(np.float64),
            trainer.run.metadata.splits["train"].candidates,
        )
        assert sums["loss/engaged"] == pytest.approx(heads[0], rel=1e-4)
        assert sums["loss/save"] == pytest.approx(heads[1], rel=1e-4)
        assert sums["loss/softmax"] == pytest.approx(softmax, rel=1e-4)
        total = 20 / 27 * heads[0] + 7 / 27 * heads[1] + 0.5 * softmax
        assert sums["loss"] == pytest.approx(total, rel=1e-4)

    def test_counts_candidates_and_successes_without_padding(self, trainer, warm, batches):
        batch = batches[4]
        sums = trainer(warm, batch).sums
        assert sums["steps"] == 1
        assert sums["candidates"] == batch["mask"].sum()
        engaged = batch["actions"].any(-1) & batch["mask"]
        assert sums["engaged"] == engaged.sum()
        assert sums["gradient_norm"] > 0

    def test_sums_add_up_over_steps(self, trainer, warm, batches):
        first = trainer(warm, batches[4])
        second = trainer(first, batches[0])  # from sums of zero
        both = trainer.step(first, batches[0])
        for name, value in both.sums.items():
            assert value == pytest.approx(first.sums[name] + second.sums[name], rel=1e-5)

    def test_repeating_a_batch_lowers_every_loss(self, trainer, batches):
        first = trainer(trainer.initial, batches[0])
        last = trainer(first, *[batches[0]] * 30)
        for name in trainer.objective.loss_names:
            # Of a head, the first step has the regression's loss already.
            share = 1.0 if name in ("loss/engaged", "loss/save") else 0.8
            assert last.sums[name] < share * first.sums[name], name
        assert last.step == 31

    def test_a_request_alone_scores_as_in_its_batch(self, warm, batches, scored):
        batch = batches[4]
        alone = {name: value[:1] for name, value in batch.items()}
        np.testing.assert_allclose(scored(warm, alone)[0][0], scored(warm, batch)[0][0], atol=1e-5)


class TestWhatAStepTouches:
    def test_whatever_stands_in_padded_candidates_contributes_nothing(self, trainer, warm, batches):
        batch = batches[4]
        padded = ~batch["mask"]
        assert padded.any()
        rng = np.random.default_rng(0)
        garbage = {
            **batch,
            "cross": np.where(
                padded[..., None], rng.normal(size=batch["cross"].shape), batch["cross"]
            ).astype(np.float32),
            "actions": np.where(padded[..., None], 1, batch["actions"]).astype(np.uint8),
        }
        assert_identical(trainer(warm, garbage), trainer(warm, batch))

    def test_the_order_of_candidates_in_a_slate_does_not_matter(self, trainer, warm, batches):
        turned = {
            name: value[:, ::-1] if name in ("item", "mask", "actions", "cross") else value
            for name, value in batches[4].items()
        }
        left, right = trainer(warm, turned), trainer(warm, batches[4])
        for a, b in zip(jax.tree.leaves(left.params), jax.tree.leaves(right.params), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4)

    def test_only_rows_in_the_batch_and_their_optimizer_rows_move(self, trainer, warm, batches):
        batch, store = batches[4], trainer.store
        items = np.concatenate(
            [batch[name].reshape(-1) for name in ("item", "history_item", "query_history_item")]
        )
        looked_up = {
            "user": batch["user"],
            "query": batch["query"],
            "country": batch["request/country"],
            "item": store["id"][items],
            "category": store["category"][items],
            "text": np.concatenate(
                [batch["request/query_text"].reshape(-1), store["title"][batch["item"]].reshape(-1)]
            ),
        }
        assert set(looked_up) == set(TABLES)
        after = trainer(warm, batch)
        for table, ids in looked_up.items():
            touched = np.setdiff1d(ids, PADDING)
            others = np.setdiff1d(np.arange(TABLES[table]), touched)
            old, new = warm.tables[table], after.tables[table]
            np.testing.assert_array_equal(new[others], old[others], err_msg=table)
            assert (new[touched] != old[touched]).any(-1).all(), table
            np.testing.assert_array_equal(new[PADDING], 0)
            for key, state in after.table_states[table].items():
                before = warm.table_states[table][key]
                np.testing.assert_array_equal(state[others], before[others], err_msg=table)
        assert any(len(np.setdiff1d(np.arange(TABLES[t]), ids)) > 1 for t, ids in looked_up.items())

    def test_every_parameter_moves_and_the_key_stays(self, trainer, warm, batches):
        after = trainer(warm, batches[4])
        assert after.step == warm.step + 1
        np.testing.assert_array_equal(after.rng, warm.rng)
        for path, leaf in jax.tree_util.tree_leaves_with_path(after.params):
            old = functools.reduce(lambda node, key: node[key.key], path, warm.params)
            assert (leaf != old).any(), jax.tree_util.keystr(path)

    def test_the_same_step_twice_gives_the_same_bits(self, trainer, warm, batches):
        assert_identical(trainer(warm, batches[4]), trainer(warm, batches[4]))


@pytest.mark.parametrize("model", some_quick(["interactrank", "fit"], (), ["interactrank"]))
def test_microbatches_give_the_step_of_the_whole_batch(examples, trainer, batches, model):
    at_once, in_parts = (
        StepTrainer(examples, model, trainer.optimizer, LOSS, microbatches=number)
        for number in (1, 4)
    )
    whole, parts = (each(at_once.initial, *batches[:2]) for each in (at_once, in_parts))
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(whole), jax.tree.leaves(parts), strict=True
    ):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=5e-5, err_msg=jax.tree_util.keystr(path))
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (whole, parts)), strict=True))


class TestImpressionSampling:
    BIAS = 0.7

    @pytest.fixture(scope="class")
    def kept(self, sampled, batches):
        """Number of impression-only candidates kept, and there, by step."""
        zero = jax.tree.map(np.zeros_like, sampled.initial.params)
        zero["bias"] = np.full_like(zero["bias"], self.BIAS)
        state = sampled.initial.replace(params=zero)
        p = 1 / (1 + np.exp(-self.BIAS))
        positive, negative = -((1 - p) ** 2) * np.log(p), -(p**2) * np.log(1 - p)  # focal
        batch = batches[0]
        acted = batch["actions"].any(-1) & batch["mask"]
        weight = sampled.run.rule.example_weights(batch["actions"])[acted].sum()
        impression = sampled.run.rule.impression_weight
        found = []
        for _ in range(40):
            state = sampled(state, batch)
            loss = float(state.sums["loss/engaged"])
            # loss = (weight positive + n impression negative) / (weight + n impression)
            found.append(weight * (positive - loss) / (impression * (loss - negative)))
        assert_identical(state.params, zero)
        return np.array(found), int((batch["mask"] & ~acted).sum())

    @pytest.mark.long  # compiles a step for itself
    def test_keeps_whole_candidates_and_all_that_acted(self, kept):
        found, there = kept
        np.testing.assert_allclose(found, np.round(found), atol=2e-2)
        assert (found >= -0.02).all()
        assert (found <= there).all()

    @pytest.mark.long  # compiles a step for itself
    def test_keeps_the_configured_share_drawn_anew_each_step(self, kept):
        found, there = kept
        draws = there * len(found)
        assert found.sum() / draws == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / draws))
        assert len(set(np.round(found))) > 3

    @pytest.mark.long  # compiles a step for itself
    def test_without_the_softmax_its_loss_is_not_reported(self, sampled):
        assert "loss/softmax" not in sampled.initial.sums
        assert sampled.objective.loss_names == ("loss/engaged", "loss/save")


class TestHealth:
    @pytest.mark.parametrize(
        ("column", "value"),
        [("cross", np.nan), ("request_numeric", np.nan), ("request/mood", np.inf)],
    )
    def test_a_planted_value_is_named_with_its_step(self, trainer, warm, batches, column, value):
        bad = {**batches[1], column: batches[1][column].copy()}
        bad[column][3] = value
        step = int(warm.step) + 1
        state = trainer(warm, batches[0], bad, batches[2])  # the first stands, whatever follows
        with pytest.raises(FloatingPointError, match=f"step {step}: batch/{column} is not finite"):
            check_health(state, state.health, batches[2])

    def test_healthy_steps_say_nothing(self, trainer, warm, batches):
        state = trainer(warm, batches[4])
        np.testing.assert_array_equal(state.health, HEALTHY)
        check_health(state, state.health, batches[4])

    def test_a_parameter_gone_wrong_is_seen_in_the_loss(self, trainer, warm, batches):
        params = {**warm.params, "bias": np.full_like(warm.params["bias"], np.nan)}
        state = trainer(warm.replace(params=params), batches[0])
        with pytest.raises(FloatingPointError, match="loss is not finite"):
            check_health(state, state.health, batches[0])

    def test_a_temperature_beyond_its_limit_keeps_everything_finite(self, trainer, warm, batches):
        params = {**warm.params, "log_inverse_temperature": np.float32(200.0)}
        state = trainer(warm.replace(params=params), batches[0])
        check_health(state, state.health, batches[0])
        # ... and comes back to it, from where the gradient can move it again.
        np.testing.assert_allclose(state.params["log_inverse_temperature"], np.log(100), rtol=1e-6)

    @pytest.mark.parametrize("name", ["trainer", "sampled"])
    def test_the_state_alone_names_every_check_in_order(self, request, name, batches, monkeypatch):
        trainer = request.getfixturevalue(name)  # one of them has a table nothing looks up
        seen: list[str] = []

        def record(health, step, checks, axes):
            seen.extend(label for label, _ in checks)
            return health

        monkeypatch.setattr(steps, "_first_unhealthy", record)
        state = trainer.initial
        jax.make_jaxpr(
            trainer.per_device, axis_env=[(axis, 1) for axis in trainer.parallel.layout.batch]
        )(jax.tree.map(jnp.asarray, state), batches[0], trainer.store)
        checks = steps.health_checks(batches[0], state.sums, state.params, state.tables)
        assert seen == [label for label, _ in checks]


class TestInitialState:
    def test_starts_from_the_configured_weights_and_temperature(self, trainer):
        state, config = trainer.initial, trainer.config.model
        assert state.step == 0
        np.testing.assert_array_equal(state.health, HEALTHY)
        weight = np.log1p(np.exp(state.params["dot_weight"]))
        np.testing.assert_allclose(weight, config.dot_weight_init, rtol=1e-5)
        np.testing.assert_array_equal(
            state.params["cross_terms"]["weight"], trainer.trainer.affine.cross
        )
        inverse = np.exp(state.params["log_inverse_temperature"])
        np.testing.assert_allclose(inverse, 1 / 0.07, rtol=1e-5)
        alpha = state.params["query_tower"]["pooling_history"]["alpha"]  # starts as the mean
        np.testing.assert_allclose(alpha, 1 / HISTORY)

    def test_has_a_table_and_its_state_for_every_name(self, trainer):
        state = trainer.initial
        assert {name: len(table) for name, table in state.tables.items()} == TABLES
        assert set(state.table_states) == set(TABLES)
        assert set(state.sums) == set(trainer.objective.sum_names)
