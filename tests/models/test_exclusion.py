"""Features that a model shall not see: any of them, ids included."""

from typing import ClassVar

import jax
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.models.registry import MODELS
from interactrank_jax.runs.run import Run
from interactrank_jax.training.train import train
from tests.marks import some_quick
from tests.models.model_case import CORPUS, HEADS, REQUESTS, Case
from tests.synthetic import FEATURES, SLATE, tiny_config


def excluded(model, feature, examples):
    """The shapes of everything that a model without a feature says, and its inputs."""
    case = Case(model, examples, exclude=(feature,))
    arguments = case.params, case.tables, case.store, case.batch, CORPUS
    return jax.eval_shape(case._everything, *arguments), case.inputs


class TestExclusion:
    """Any feature can be left out, ids included; a model that is nothing without one says so."""

    NEEDED: ClassVar[dict[str, tuple[str, ...]]] = {"matrix_factorization": ("user_id", "item_id")}
    NAMES = ("user_id", "query_id", "item_id", *(feature.name for feature in FEATURES))

    @pytest.mark.long  # compiles many small programs
    @pytest.mark.parametrize("feature", NAMES)
    @pytest.mark.parametrize("model", some_quick(MODELS, ("interactrank",), ("fit", "cold")))
    def test_of_each_feature_in_turn(self, examples, model, feature):
        if feature in self.NEEDED.get(model, ()):
            with pytest.raises(InputError, match=rf"needs '{feature}': take it out of"):
                excluded(model, feature, examples)
            return
        outputs, inputs = excluded(model, feature, examples)
        assert outputs["call"].shape == (REQUESTS, SLATE, HEADS)
        assert outputs["rank_all"].shape == (REQUESTS, len(CORPUS))
        seen = {f.name for f in (*inputs.request, *inputs.item)}
        assert feature not in seen | set(inputs.sequence)

    @pytest.mark.parametrize("model", MODELS)
    def test_of_all_embedded_features_of_items(self, examples, model):
        """Numbers are left; what a model cannot do without, it names."""
        config = tiny_config(model, exclude=("item_id", "category", "title"))
        refused = {"fit": "'target'", "interactfit": "'target'", "matrix_factorization": "item_id"}
        if model in refused:
            with pytest.raises(InputError, match=refused[model]):
                _ = Run("unused", config, examples.metadata).model_template
            return
        run = Run("unused", config, examples.metadata)
        assert run.inputs.histories == run.inputs.sequence == ()
        assert run.model_template["params"]

    @pytest.mark.parametrize("model", ["fit", "interactfit"])
    def test_meta_queries_are_refused_where_there_is_nothing_to_compare_them_with(
        self, examples, model
    ):
        fields = {"exclude": ("item_id", "category", "title"), "sequence": {"history": "mean"}}
        with pytest.raises(InputError, match=r"meta queries are compared.*vectors to 0"):
            _ = Run("unused", tiny_config(model, **fields), examples.metadata).model_template
        config = tiny_config(model, **fields, meta={"vectors": 0})
        assert Run("unused", config, examples.metadata).model_template["params"]

    @pytest.mark.thorough  # a training
    def test_a_model_trains_and_is_evaluated_without_item_ids(self, examples_path, tmp_path):
        config = tiny_config("interactrank", exclude=("item_id", "category"))
        config.train.update({"max_steps": 2, "eval_every": 2})
        assert 0 <= train(config, examples_path, tmp_path / "run")["roc_auc"] <= 1
        assert Run.open(tmp_path / "run").inputs.sequence == ("title",)


class TestExcludedQuery:
    EXCLUDE = ("query_id", "query_text")

    def shapes(self, examples, model):
        config = tiny_config(model, exclude=self.EXCLUDE)
        return Run("unused", config, examples.metadata).model_template

    def test_a_model_that_averages_its_histories_needs_none(self, examples, cases):
        def width(params):
            return params["query_tower"]["tower_input"]["LayerNorm_0"]["scale"].shape[0]

        dim = cases("two_tower").config.model.embedding_dim
        without = width(self.shapes(examples, "two_tower")["params"])
        assert without == width(cases("two_tower").params) - 2 * dim

    def test_histories_cannot_be_pooled_with_it_then(self, examples):
        with pytest.raises(InputError, match=r"leaves nothing of the query.*'mean'"):
            self.shapes(examples, "interactrank")
