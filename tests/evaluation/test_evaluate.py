import json
from types import SimpleNamespace

import numpy as np
import pytest

from interactrank_jax import cli, metrics
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation import evaluate, scorers, tables
from interactrank_jax.examples.format import PADDING, Examples
from interactrank_jax.examples.input import evaluation_batches, request_batches
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses import prior
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.runs.run import Run
from interactrank_jax.serving.probabilities import Calibration
from tests.conftest import REPOSITORY
from tests.synthetic import ACTIONS, tiny_config


class Constant:
    """A scorer without an opinion."""

    name, heads, calibration, has_corpus = "constant", (), Calibration(), True
    utility = (1.0,)

    def __init__(self, num_items):
        self.num_items = num_items

    def slate(self, batch):
        return np.zeros((*batch["mask"].shape, 1), np.float32)

    def corpus(self, batch, at_once):
        for start in range(0, len(batch["mask"]), at_once):
            request = batch["request_index"][start : start + at_once]
            yield start, self.all_items(request)

    def all_items(self, request):
        return np.zeros((len(request), self.num_items), np.float32)


class Oracle(Constant):
    """A scorer that has read the labels, by request and item."""

    def __init__(self, examples, split, rule):
        super().__init__(examples.num_items)
        self.relevant = np.zeros((examples.split(split).requests, examples.num_items), np.float32)
        for batch in evaluation_batches(examples, split, 32):
            row, column = np.nonzero(rule.engaged(batch["actions"]) & batch["mask"])
            self.relevant[batch["request_index"][row], batch["item"][row, column]] = 1

    def slate(self, batch):
        return self.relevant[batch["request_index"][:, None], batch["item"]][..., None]

    def all_items(self, request):
        return self.relevant[request]


@pytest.fixture(scope="module")
def examples(examples_path):
    return Examples(examples_path)


@pytest.fixture(scope="module")
def rule():
    return LabelRule.from_config(tiny_config("interactrank").label, ACTIONS)


@pytest.fixture(scope="module")
def result(trained_run, examples_path):
    return evaluate.evaluate(trained_run, examples_path, "test")


def test_a_constant_scorer_earns_nothing(examples, rule):
    config = tiny_config("interactrank").evaluate
    figures = evaluate.evaluate_scorer(
        Constant(examples.num_items), rule, examples, "test", config
    )[0]["metrics"]
    assert figures["roc_auc"] == 0.5
    assert figures["recall_at_10"] == 0.0
    assert figures["hit_at_1"] < 0.3  # only requests without any negative


def test_a_scorer_that_knows_the_labels_gets_everything(examples, rule):
    config = tiny_config("interactrank").evaluate
    figures = evaluate.evaluate_scorer(
        Oracle(examples, "test", rule), rule, examples, "test", config
    )[0]["metrics"]
    perfect = ("roc_auc", "pr_auc", "request_auc", "pooled_request_auc", "hit_at_1", "mrr")
    for name in (*perfect, "recall_at_10"):
        assert figures[name] == 1.0, name


def test_every_candidate_counts_once_in_every_batch_size(examples):
    for batch_size in (1, 7, 45, 64):
        rows = evaluate.Rows(Constant(examples.num_items), examples, "test", batch_size)
        assert len(rows.request) == examples.split("test").candidates
        assert len(np.unique(rows.request * 1000 + rows.item)) == len(rows.request)


def test_every_request_comes_once_from_request_batches(examples):
    found = np.concatenate(
        [batch["request_index"] for batch in request_batches(examples, "test", 8)]
    )
    assert sorted(found[found >= 0]) == list(range(45))


def test_figures_are_those_of_the_models_own_scores(trained_run, examples, rule, result):
    run = Run.open(trained_run)
    model, _ = run.restore_model()
    parallel = DataParallel("pmap")
    scorer = scorers.ModelScorer(run, examples, "test", parallel).use(parallel.replicate(model))
    request, score, engaged = [], [], []
    for batch in evaluation_batches(examples, "test", 45):
        ranked = scorer.slate(batch) @ np.array([1.0, 0.25], np.float32)  # the config's utility
        for row, column in np.argwhere(batch["mask"]):
            request.append(batch["request_index"][row])
            score.append(ranked[row, column])
            engaged.append(batch["actions"][row, column].any())
    assert result["metrics"]["roc_auc"] == pytest.approx(metrics.roc_auc(score, engaged))
    for name in ("request_auc", "pooled_request_auc"):
        expected = getattr(metrics, name)(request, score, engaged)
        assert result["metrics"][name] == pytest.approx(expected)
        low, high = result["intervals"][name]
        assert low <= expected <= high
        assert f" {name} |" in tables.table([result])


def test_corpus_ranks_equal_a_full_sort(trained_run, examples, rule):
    run = Run.open(trained_run)
    model, _ = run.restore_model()
    parallel = DataParallel("pmap")
    scorer = scorers.ModelScorer(run, examples, "test", parallel, has_corpus=True)
    scorer.use(parallel.replicate(model))
    rows = evaluate.Rows(scorer, examples, "test", 32)
    engaged = rule.engaged(rows.actions)
    config = tiny_config("interactrank").evaluate
    config.corpus_batch_size = 7  # of batches of 32: the last tile of a batch overlaps
    ranks = evaluate.corpus_ranks(scorer, rows, engaged, examples, "test", config)
    expected = []
    for batch in request_batches(examples, "test", 45):
        scores = np.concatenate([part for _, part in scorer.corpus(batch, 45)])
        for row, index in enumerate(batch["request_index"]):
            own = np.flatnonzero(engaged & (rows.request == index))
            for item in rows.item[own]:
                others = np.delete(scores[row], [PADDING, item])
                expected.append((index, 1 + (others >= scores[row, item]).sum()))
    assert sorted(zip(ranks.request, ranks.rank, strict=True)) == sorted(expected)


def test_the_result_is_written_without_nan(trained_run, result):
    saved = json.loads((trained_run / "eval" / "test.json").read_text())
    assert saved["metrics"]["roc_auc"] == result["metrics"]["roc_auc"]
    assert "NaN" not in (trained_run / "eval" / "test.json").read_text()
    low, high = saved["intervals"]["roc_auc"]
    assert low < saved["metrics"]["roc_auc"] < high
    assert set(saved["heads"]) == {"engaged", "save"}
    assert saved["negatives"] is None  # they are as the log came
    assert not saved["corpus_as_of_request"]  # the log has no dates of items


@pytest.mark.parametrize("name", ["bm25", "iqp"])
def test_baselines_go_through_the_same_evaluation(name, examples_path, result):
    figures = evaluate.evaluate_baseline(name, tiny_config("interactrank"), examples_path, "test")
    for field in ("requests", "candidates", "engaged", "corpus", "corpus_requests"):
        assert figures[field] == result[field]
    assert set(figures["metrics"]) == set(result["metrics"])
    if name == "iqp":  # the synthetic clicks follow the first cross feature
        assert figures["metrics"]["roc_auc"] > 0.5
        assert figures["feature"] == "share:click:365"


@pytest.mark.parametrize("name", ["share:click:30", "share:click:365"])
def test_the_iqp_baseline_ranks_by_the_feature_that_is_named(name, examples, rule, examples_path):
    config = tiny_config("interactrank")
    figures = evaluate.evaluate_baseline(f"iqp:{name}", config, examples_path, "test")
    assert (figures["name"], figures["feature"]) == (f"iqp:{name}", name)
    blocks = list(examples.blocks("test"))
    column = examples.metadata.cross.index(name)
    score = np.concatenate([block["cross"][block["mask"], column] for block in blocks])
    engaged = np.concatenate([rule.engaged(block["actions"][block["mask"]]) for block in blocks])
    assert figures["metrics"]["roc_auc"] == pytest.approx(metrics.roc_auc(score, engaged))


def test_the_command_says_which_feature_it_ranked_by(examples_path, capsys):
    config = REPOSITORY / "tests" / "faults" / "configs.py"
    flags = [f"--config={config}:tiny", f"--examples={examples_path}"]
    assert cli.main(["evaluate", "--baseline=iqp", *flags]) == 0
    assert "iqp ranks by share:click:365" in capsys.readouterr().out
    assert cli.main(["evaluate", "--baseline=iqp:share:click:300", *flags]) == 2
    assert "Did you mean 'share:click:30'?" in capsys.readouterr().err


def test_prior_correction_takes_out_weights_and_sampling(trained_run, examples, rule):
    run = Run.open(trained_run)
    kept = run.config.train.loss.impression_sampling
    positive, negative = [], []
    for block in examples.blocks("train"):
        actions, mask = block["actions"], block["mask"]
        weight = rule.example_weights(actions) * np.where(rule.acted(actions), 1, kept)
        engaged = rule.engaged(actions)
        positive.append(weight[engaged & mask])
        negative.append(weight[~engaged & mask])
    expected = np.log(np.concatenate(positive).mean() / np.concatenate(negative).mean())
    assert run.prior_offsets(examples)[0] == pytest.approx(expected, rel=1e-6)
    computed = prior.prior_offsets(run.rule, run.config.train.loss, examples)
    assert run.prior_offsets(examples) == computed


def test_the_training_split_is_evaluated_without_a_corpus(trained_run, examples_path, examples):
    result = evaluate.evaluate(trained_run, examples_path, "train")
    assert result["candidates"] == examples.split("train").candidates
    assert "recall_at_10" not in result["metrics"]


def test_heads_have_calibration_with_intervals(result):
    for figures in result["heads"].values():
        for name in ("ece", "predicted_over_observed", "roc_auc"):
            value, low, high = figures[name]
            assert low <= high
            assert value >= 0
    assert "| engaged |" in tables.part_table(result, "heads")


class TestRefusals:
    def test_an_unknown_split_is_named(self, trained_run, examples_path):
        with pytest.raises(InputError, match="Did you mean 'test'"):
            evaluate.evaluate(trained_run, examples_path, "tset")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("bm52", "Did you mean 'bm25'"),
            ("ipq:share:click:30", "Did you mean 'iqp'"),
            ("bm25:title", "'bm25' takes no feature"),
        ],
    )
    def test_an_unknown_baseline_is_named(self, examples_path, name, message):
        with pytest.raises(InputError, match=message):
            evaluate.evaluate_baseline(name, tiny_config("interactrank"), examples_path)

    def test_a_directory_without_a_run(self, tmp_path, examples_path):
        with pytest.raises(InputError, match="holds no run"):
            evaluate.evaluate(tmp_path, examples_path)

    def test_a_split_without_an_engaged_candidate(self, examples):
        label = tiny_config("interactrank").label
        label.positive = ("save",)
        label.negative = ("click",)  # every save is a click
        rule = LabelRule.from_config(label, ACTIONS)
        config = tiny_config("interactrank").evaluate
        with pytest.raises(InputError, match="counts as engaged"):
            evaluate.evaluate_scorer(Constant(examples.num_items), rule, examples, "test", config)


class TestStages:
    def rows(self):
        """Two requests: an engaged item, one shown, one retrieved and two random ones each."""
        stage = np.array([1, 1, 2, 3, 3] * 2)
        score = np.array([5, 6, 7, 1, 2, 5, 1, 7, 1, 9], np.float32)
        engaged = np.array([True, False, False, False, False] * 2)
        return SimpleNamespace(request=np.repeat([0, 1], 5), score=score, stage=stage), engaged

    def test_each_stage_is_measured_against_its_own_negatives(self):
        figures = evaluate.stage_figures(*self.rows(), replicates=20)
        expected = {"shown": 1 / 2, "retrieved": 0.0, "random": 3 / 4}
        assert {name: figure["request_auc"][0] for name, figure in figures.items()} == expected
        assert figures["random"]["hit_at_3"][0] == 1.0
        value, low, high = figures["shown"]["roc_auc"]
        assert low <= value <= high

    def test_a_log_of_one_stage_has_nothing_to_tell_apart(self):
        rows, engaged = self.rows()
        rows.stage[:] = 1
        assert evaluate.stage_figures(rows, engaged, replicates=20) == {}

    def test_the_prior_correction_knows_the_weights_of_stages(self, rule):
        actions = np.array([[[1, 0], [0, 0], [0, 0], [0, 0], [0, 0]]], np.uint8)
        stage = np.array([[1, 1, 3, 3, 0]])
        block = {"actions": actions, "stage": stage, "mask": stage > 0}
        examples = SimpleNamespace(blocks=lambda split, names: [block])
        found = prior.stage_multipliers(rule, examples, (1.0, 0.5, 0.1))
        assert found == {"10": 1.0, "00": pytest.approx((1 + 0.1 + 0.1) / 3)}
        assert prior.stage_multipliers(rule, examples, (1.0, 1.0, 1.0)) == {}
        split = SimpleNamespace(actions={"10": 1, "00": 3})
        plain, staged = (rule.class_weights(split, 1.0, m) for m in (None, found))
        assert staged[0][0] == plain[0][0]
        assert staged[0][1] == pytest.approx(plain[0][1] * 0.4)


class TestFlags:
    """No flag is taken and then ignored."""

    def run(self, *argv):
        return cli.main(["evaluate", *argv])

    def test_a_run_and_a_baseline_at_once_are_refused(self, trained_run, examples_path, capsys):
        config = f"--config={REPOSITORY / 'configs' / 'interactrank.py'}"
        flags = ["--baseline=iqp", f"--workdir={trained_run}", f"--examples={examples_path}"]
        assert self.run(config, *flags) == 2
        assert "or --baseline=bm25 with --config" in capsys.readouterr().err

    def test_results_are_not_written_over_a_directory(self, trained_run, examples_path, capsys):
        flags = [f"--workdir={trained_run}", f"--examples={examples_path}"]
        assert self.run(*flags, f"--json={trained_run}") == 2
        assert "is a directory. Expected a file to write" in capsys.readouterr().err

    def test_fields_of_evaluate_are_taken_beside_a_run(self, trained_run, examples_path, capsys):
        flags = [f"--workdir={trained_run}", f"--examples={examples_path}"]
        assert self.run(*flags, "--config.evaluate.bootstrap=0") == 0
        printed = capsys.readouterr().out
        assert "0." in printed
        assert "±0" not in printed  # no intervals rather than empty ones
        assert self.run(*flags, "--config.evaluate.bootstrap=20") == 0
        assert "±0." in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            ("--config.evaluate.bootstrap=1", "config.evaluate.bootstrap is 1. Expected"),
            ("--config.evaluate.batch_size=0", "config.evaluate.batch_size is 0. Expected"),
            ("--config.train.seed=1", "beside --workdir only config.evaluate can be set"),
            ("--config.evaluate.btstrap=1", "Did you mean config.evaluate.bootstrap"),
        ],
    )
    def test_others_are_refused(self, trained_run, examples_path, capsys, flag, message):
        flags = [f"--workdir={trained_run}", f"--examples={examples_path}"]
        assert self.run(*flags, flag) == 2
        assert message in capsys.readouterr().err
