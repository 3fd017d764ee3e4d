"""FIT and InteractFIT against literal numpy versions of their equations, and beside each other."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from interactrank_jax.models import fit
from interactrank_jax.models.fit import FIT, MetaQueries, Query
from interactrank_jax.models.inputs import zero_inputs
from interactrank_jax.models.interactfit import InteractFIT
from interactrank_jax.models.two_tower import TwoTower
from interactrank_jax.runs.run import Run
from interactrank_jax.tables import lookup
from tests.models.literal import draw
from tests.models.model_case import CORPUS, REQUEST_COLUMNS, Case, first_logits
from tests.synthetic import tiny_config

N = 8
NO_DROPOUT = {"masknet": {"dropout": 0.0}}


@pytest.fixture(scope="module")
def case(examples):
    return Case("fit", examples, meta={"temperature_min": 1e-6})


class TestMetaQueries:
    def test_the_group_is_self_attention_of_the_matrix_alone(self):
        module, attributes = MetaQueries(3, 4), draw(0, 2, 5, 4)
        template = jax.eval_shape(
            lambda: module.init(jax.random.key(0), attributes, method="similarity")
        )
        matrix = draw(1, *template["params"]["matrix"].shape)
        variables = {"params": {"matrix": matrix}}
        group = np.zeros((3, 4))
        for i in range(3):
            for j in range(3):
                group[i] += (matrix[i] @ matrix[j]) * matrix[j]
        np.testing.assert_allclose(module.apply(variables, method="group"), group, rtol=1e-4)
        similarity = module.apply(variables, attributes, method="similarity")
        np.testing.assert_allclose(similarity, attributes @ matrix.T, rtol=1e-4, atol=1e-5)

    def test_starts_uniform_within_kaimings_bound(self):
        module = MetaQueries(200, 50)
        matrix = module.init(jax.random.key(0), method="group")["params"]["matrix"]
        bound = np.sqrt(6 / 50)
        assert 0.98 * bound < np.abs(matrix).max() <= bound
        assert abs(np.std(matrix) - bound / np.sqrt(3)) < 0.01

    @pytest.mark.parametrize(
        ("progress", "tau"), [(0.0, 1.0), (0.25, 0.5), (0.5, 1e-3), (1.0, 1e-3)]
    )
    def test_the_temperature_falls_linearly_to_its_least(self, progress, tau):
        assert fit.temperature(jnp.float32(progress), 0.5, 1e-3) == pytest.approx(tau)


class TestTraining:
    def test_the_soft_query_tends_to_the_hard_one_and_so_do_the_logits(self, case):
        hard = case()["call"]
        distances, cosines = [], []
        for progress in (0.0, 0.4, 0.49, 0.5):
            training = case.training(progress)[0]
            difference = np.abs(training.logits - hard)
            distances.append(difference[case.batch["mask"]].max())
            total = training.diagnostics["query_similarity"]
            cosines.append(float(total.mean()))
        assert distances == sorted(distances, reverse=True)
        assert cosines == sorted(cosines)
        assert distances[0] > 1e-2
        assert distances[-1] < 1e-4
        assert cosines[-1] == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("progress", [0.0, 0.25])
    def test_equals_a_tower_run_on_each_candidates_mixture(self, case, progress):
        """One candidate at a time, with the mixed query as the only meta query; and QS."""
        params = case.params
        matrix = params["meta"]["matrix"]
        items = lookup.embed_items(case.tables, case.batch["item"], case.store, case.inputs)
        attributes = np.concatenate([items.features[f.name] for f in case.inputs.item], -1)
        similarity = attributes @ matrix.T
        odds = np.exp(similarity / (1 - progress / 0.5))  # tau falls over half of training
        group = matrix @ matrix.T @ matrix
        soft = (odds / odds.sum(-1, keepdims=True)) @ group
        hard = group[similarity.argmax(-1)]
        found, _ = case.training(progress)

        @jax.jit
        def one(query):
            def vectors(module):
                encoded = module._encode_request(request, train=False)
                return module._user_vectors(encoded, query, train=False)

            request = lookup.embed_requests(case.tables, case.batch, case.store, case.inputs)
            user = case.model.apply({"params": params}, method=vectors)
            item = case.model.apply({"params": params}, items, method="encode_item")
            return case.model.apply(
                {"params": params}, user[:, 0], item.vectors[:, 0], method="_logits"
            )

        np.testing.assert_allclose(one(soft[:, :1]), found.logits[:, 0], rtol=1e-3, atol=1e-3)
        cosines = [
            soft[r, c] @ hard[r, c] / np.sqrt((soft[r, c] ** 2).sum() * (hard[r, c] ** 2).sum())
            for r, c in zip(*np.nonzero(case.batch["mask"]), strict=True)
        ]
        mean = found.diagnostics["query_similarity"].mean()
        assert float(mean) == pytest.approx(np.mean(cosines), rel=1e-4)

    def test_usage_counts_the_candidates_of_each_meta_query(self, case):
        diagnostics = case.training()[0].diagnostics
        meta = case()["items"].meta[case.batch["mask"]]
        used = [float(diagnostics[f"meta_usage/{n}"].loss) for n in range(N)]
        np.testing.assert_array_equal(used, np.bincount(meta, minlength=N))

    def test_at_temperature_one_every_meta_vector_learns_which_items_it_stands_for(self, case):
        """By the similarity alone: the group Q* has a gradient for every vector in any case."""
        params = jax.tree.map(jnp.asarray, case.params)
        arguments = (case.tables, case.store, case.batch)

        def loss(matrix, progress):
            nearest = {**params, "meta": {"matrix": matrix}}
            query, _ = case.encode_training(params, *arguments)
            _, items = case.encode_training(nearest, *arguments)
            training = case.model.apply(
                {"params": params},
                query,
                items,
                case.batch["cross"],
                engaged=case.batch["mask"],
                mask=case.batch["mask"],
                progress=progress,
                method="train_score",
            )
            return (training.logits**2).sum()

        gradient = jax.jit(jax.grad(loss))
        soft, hard = (
            np.abs(gradient(params["meta"]["matrix"], progress)).max(1) for progress in (0.0, 1.0)
        )
        assert np.isfinite(soft).all()
        assert (soft > 1e-3).all()
        assert (hard < 1e-3 * soft).all()

    def test_the_similarity_is_the_same_of_both_representations(self, case):
        outputs = case()
        first = jax.tree.map(lambda leaf: leaf[:, 0], outputs["items"])
        expected = case.model.apply(
            {"params": case.params}, outputs["query"], first, method="similarity"
        )
        np.testing.assert_allclose(case.training()[1], expected, rtol=1e-4, atol=1e-4)

    def test_vectors_for_a_softmax_that_is_not_there_are_not_computed(self, case):
        def flops(compared):
            def run(*arguments):
                training, similarity = case.train(*arguments, jnp.float32(0.0))
                return (training.logits, similarity) if compared else training.logits

            lowered = jax.jit(run).lower(case.params, case.tables, case.store, case.batch)
            return lowered.compile().cost_analysis()["flops"]

        assert flops(False) < 0.9 * flops(True)

    def test_user_vectors_are_of_the_query_and_of_what_it_attends_to(self, case):
        """One half of the MLP's columns for each, `[query, attended]`, is silenced in turn."""
        width = case.params["meta"]["matrix"].shape[1]

        def vectors(kept):
            def silence(path, leaf):
                if "pair" not in jax.tree_util.keystr(path):
                    return leaf
                return np.where(kept(np.arange(len(leaf))[:, None]), leaf, 0).astype(leaf.dtype)

            params = jax.tree_util.tree_map_with_path(silence, case.params)
            return case(params=params)["query"].vectors

        full, query_alone, attended_alone, neither = (
            vectors(kept)
            for kept in (
                lambda row: row >= 0,
                lambda row: row < width,
                lambda row: row >= width,
                lambda row: row < 0,
            )
        )
        lonely = case.batch["history_item"].max(1) == 0
        assert lonely.any()
        assert not lonely.all()
        np.testing.assert_allclose(neither, np.broadcast_to(neither[:, :1], neither.shape))
        # The query as a feature, whoever asks; the history as the query looks at it.
        assert (np.abs(query_alone - neither).max((2, 3)) > 1e-3).all()
        moved = np.abs(attended_alone - attended_alone[:, :1]).max((1, 2, 3)) > 1e-3
        np.testing.assert_array_equal(moved, ~lonely)
        assert not np.allclose(full, query_alone)

    def test_a_softmax_over_events_changes_the_vectors_of_requests_with_a_history(self, case):
        config = case.config.copy_and_resolve_references()
        config.model.meta.attention_softmax = True
        other = copy.copy(case)  # the same parameters: the switch adds none
        other.model = FIT(FrozenConfigDict(config.model), case.inputs)
        arguments = (case.params, case.tables, case.store, case.batch, CORPUS)
        found = np.asarray(jax.jit(other._everything)(*arguments)["query"].vectors)
        moved = np.abs(found - case()["query"].vectors).max((1, 2, 3)) > 1e-3
        np.testing.assert_array_equal(moved, case.batch["history_item"].max(1) > 0)

    def test_a_candidate_costs_less_than_a_user_tower(self, case):
        """FLOPs, by XLA, of one more mixed query, beside those of one more request."""
        width = case.params["meta"]["matrix"].shape[1]

        def flops(requests, queries):
            def vectors(module, request):
                encoded = module._encode_request(request, train=False)
                mixed = jnp.zeros((requests, queries, width))
                return module._user_vectors(encoded, mixed, train=False)

            batch = {name: case.batch[name][:requests] for name in REQUEST_COLUMNS}

            def run(params):
                request = lookup.embed_requests(case.tables, batch, case.store, case.inputs)
                return case.model.apply({"params": params}, request, method=vectors)

            return jax.jit(run).lower(case.params).compile().cost_analysis()["flops"]

        one_query = (flops(1, 5) - flops(1, 1)) / 4
        one_tower = (flops(5, 1) - flops(1, 1)) / 4
        assert 0 < one_query < 0.6 * one_tower

    def test_with_the_least_temperature_of_the_config_queries_are_hard(self, examples):
        trained = Case("fit", examples).training(1.0)[0]
        assert float(trained.diagnostics["query_similarity"].mean()) > 0.99

    def test_first_logits_have_a_usable_spread(self, examples):
        """Of the whole model: a twentieth at least, and no logit that saturates a sigmoid."""
        logits = first_logits(tiny_config("fit"), examples)[..., 0]
        assert logits.std((1, 2)).min() > 0.05
        assert np.abs(logits).max() < 4


class TestServing:
    def test_an_item_picks_its_own_user_vector(self, case):
        outputs = case()
        meta = outputs["corpus"].meta
        assert len(np.unique(meta)) > 1
        for n in np.unique(meta):
            alone = {**outputs["corpus"]._asdict(), "meta": np.zeros_like(meta)}
            scores = case.model.apply(
                {"params": case.params},
                Query(outputs["query"].vectors[:, n : n + 1]),
                fit.Item(**alone),
                method="score_all",
            )
            chosen = meta == n
            np.testing.assert_allclose(
                scores[:, chosen], outputs["score_all"][:, chosen], rtol=1e-4, atol=1e-4
            )

    def test_an_item_goes_with_the_meta_vector_nearest_to_its_attributes(self, case):
        items = lookup.embed_items(case.tables, CORPUS, case.store, case.inputs)
        attributes = np.concatenate([items.features[f.name] for f in case.inputs.item], -1)
        expected = (attributes @ case.params["meta"]["matrix"].T).argmax(-1)
        np.testing.assert_array_equal(case()["corpus"].meta, expected)


class TestRelatives:
    @pytest.mark.long  # compiles a step for itself
    @pytest.mark.parametrize("positive", [True, False])
    def test_without_meta_queries_and_scorer_it_is_the_two_tower_model(self, examples, positive):
        fields = {
            "meta": {"vectors": 0},
            "late": {"user_heads": 0},
            "sequence": {"history": "mean"},
            "positive_dot_weight": positive,
        }
        case = Case("fit", examples, **fields)
        two_tower = TwoTower(case.model.config, case.inputs)
        assert_same_model(case, two_tower)

    @pytest.mark.long  # compiles a step for itself
    def test_without_both_dropout_too_is_the_two_tower_models(self, examples):
        """What its softmax compares is what is dropped out, as in every other model."""
        case = Case(
            "fit",
            examples,
            meta={"vectors": 0},
            late={"user_heads": 0},
            sequence={"history": "mean"},
            tower={"dropout": 0.5},
        )
        two_tower = copy.copy(case)
        two_tower.model = TwoTower(case.model.config, case.inputs)
        arguments = (case.params, case.tables, case.store, case.batch)
        expected, other = (
            two_tower.encode_training(*arguments, seed)[0].vectors for seed in (0, 1)
        )
        assert not np.allclose(expected, other)
        found = case.encode_training(*arguments)[0].hard[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        trained, plain = case.training(), two_tower.train(*arguments, 0.0)
        np.testing.assert_allclose(trained[0].logits, plain[0].logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(trained[1], plain[1], rtol=1e-4, atol=1e-4)

    def test_one_meta_query_and_a_dot_make_a_two_tower_model(self, examples):
        """The one query is a constant: it folds into the bias of the MLP's first layer."""
        case = Case(
            "fit",
            examples,
            meta={"vectors": 1, "attention_hidden": 0},
            late={"user_heads": 0},
            sequence={"history": "mean"},
        )
        outputs = case()
        assert outputs["query"].vectors.shape[1] == 1
        assert not outputs["corpus"].meta.any()
        matrix = case.params["meta"]["matrix"]
        params = {name: value for name, value in case.params.items() if name != "meta"}
        output = params["query_tower"]["tower_output"]
        mlp = dict(output["MLP_0"])
        constant = (matrix @ matrix.T @ matrix)[0] @ mlp.pop("pair")["kernel"]
        assert np.abs(constant).max() > 0.1
        mlp["Dense_0"] = {**mlp["Dense_0"], "bias": mlp["Dense_0"]["bias"] + constant}
        folded = {**params["query_tower"], "tower_output": {**output, "MLP_0": mlp}}

        other = copy.copy(case)
        other.model = TwoTower(case.model.config, case.inputs)
        other.params = {**params, "query_tower": folded}
        arguments = (other.params, case.tables, case.store, case.batch)
        expected = jax.jit(other._everything)(*arguments, CORPUS)
        for name in ("call", "score", "score_all", "similarity"):
            np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-4, atol=1e-4)
        for mine, theirs in zip(
            case.training(0.0), jax.jit(other.train)(*arguments, 0.0), strict=True
        ):
            logits = (getattr(each, "logits", each) for each in (mine, theirs))
            np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)

    @pytest.mark.long  # compiles a step for itself
    def test_interactfit_without_cross_features_is_fit(self, examples):
        """On one config; that the configs can be made one: tests/config/test_configs.py."""
        case = Case("fit", examples)
        bare = case.inputs._replace(cross=(), cross_scale=(), cross_mean=())
        config = tiny_config("interactfit", **case.config.model.to_dict() | {"name": "interactfit"})
        other = copy.copy(case)  # the same parameters, tables and batch
        other.model, other.inputs = InteractFIT(FrozenConfigDict(config.model), bare), bare
        found, expected = ((c._everything, c.train) for c in (other, case))
        arguments = (case.params, case.tables, case.store, case.batch)
        for mine, theirs, last in zip(found, expected, (CORPUS, jnp.float32(0.3)), strict=True):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
                jax.jit(mine)(*arguments, last),
                jax.jit(theirs)(*arguments, last),
            )

    def test_interactfit_adds_interactranks_cross_terms(self, examples):
        case = Case("interactfit", examples, tower=NO_DROPOUT)
        cross = case.batch["cross"] / np.array(case.inputs.cross_scale, np.float32)
        expected = np.sign(cross) * np.log1p(np.abs(cross)) @ case.params["cross_terms"]["weight"]
        outputs = case()
        difference = outputs["score"] - outputs["score_without_cross"]
        np.testing.assert_allclose(difference, expected, atol=1e-4)
        without = {**case.batch, "cross": np.zeros_like(case.batch["cross"])}
        trained, bare = (case.training(batch=batch)[0].logits for batch in (case.batch, without))
        np.testing.assert_allclose(np.asarray(trained - bare), expected, atol=1e-4)


def assert_same_model(case, other):
    """The same parameters and tables give the same logits, in serving and in training."""
    request = lookup.embed_requests(case.tables, case.batch, case.store, case.inputs)
    slate = lookup.embed_items(case.tables, case.batch["item"], case.store, case.inputs)
    expected = other.apply({"params": case.params}, request, slate, case.batch["cross"])
    np.testing.assert_allclose(case()["call"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(case.training()[0].logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vectors", [2, 9])
def test_the_number_of_meta_queries_is_that_of_the_user_vectors(examples, vectors):
    config = tiny_config("fit", meta={"vectors": vectors})
    run = Run("unused", config, examples.metadata)
    sample = zero_inputs(run.inputs, run.model.row_width)
    query = jax.eval_shape(
        functools.partial(run.model.apply, method="encode_query"),
        {"params": run.model_template["params"]},
        sample["request"],
    )
    late = config.model.late
    assert query.vectors.shape == (1, vectors, late.user_heads, late.width)
