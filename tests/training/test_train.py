import json
import shutil

import jax
import numpy as np
import pytest

from interactrank_jax.evaluation.evaluate import evaluate
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.best import fingerprint
from interactrank_jax.runs.run import Run
from interactrank_jax.training import loop
from interactrank_jax.training.checkpoint import Progress
from interactrank_jax.training.loop import Loop
from interactrank_jax.training.timetable import Timetable
from interactrank_jax.training.train import train
from interactrank_jax.training.trainer import Trainer
from interactrank_jax.training.validation import record_validation
from tests.faults.configs import long_config
from tests.faults.processes import assert_same_run, metric_lines
from tests.synthetic import make_encoder, tiny_config, write_examples


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, examples_path):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(long_config(), examples_path, workdir)
    return workdir


class TestRun:
    @pytest.mark.long  # trains a model for itself
    def test_loss_falls_and_the_best_validation_is_what_is_kept(self, uninterrupted):
        lines = metric_lines(uninterrupted)
        losses = [line["train/loss"] for line in lines if "train/loss" in line]
        assert losses[-1] < losses[0]
        best = max(
            (line for line in lines if "validation/roc_auc" in line),
            key=lambda line: line["validation/roc_auc"],
        )
        _, step = Run.open(uninterrupted).restore_model()
        assert step == best["step"]

    @pytest.mark.long  # trains a model for itself
    def test_running_a_finished_run_again_changes_nothing(self, uninterrupted, examples_path):
        before = fingerprint(Run.open(uninterrupted).restore_model()[0])
        train(long_config(), examples_path, uninterrupted)
        assert fingerprint(Run.open(uninterrupted).restore_model()[0]) == before

    @pytest.mark.long  # three trainings
    def test_same_seed_same_model_other_seed_another(self, tmp_path, examples_path, trained_run):
        config = tiny_config("interactrank")
        train(config, examples_path, tmp_path / "again")
        config.train.seed = 1
        train(config, examples_path, tmp_path / "other")
        prints = [
            fingerprint(Run.open(path).restore_model()[0])
            for path in (trained_run, tmp_path / "again", tmp_path / "other")
        ]
        assert prints[0] == prints[1] != prints[2]

    @pytest.mark.long  # two trainings
    def test_rates_are_those_of_steps_alone(self, tmp_path, examples_path, monkeypatch):
        clock = [0.0]

        def taking(seconds, method):
            def call(*arguments):
                clock[0] += seconds
                return method(*arguments)

            return call

        monkeypatch.setattr(loop.time, "perf_counter", lambda: clock[0])
        monkeypatch.setattr(Trainer, "advance", taking(0.5, Trainer.advance))
        monkeypatch.setattr(Loop, "_validate", taking(100.0, Loop._validate))
        monkeypatch.setattr(Loop, "_save", taking(1000.0, Loop._save))
        config = tiny_config("two_tower")
        # Validations and checkpoints at steps that are logged, and at others.
        due = {"max_steps": 12, "log_every": 4, "eval_every": 3, "checkpoint_every": 5}
        config.train.update({**due, "patience": 0})
        train(config, examples_path, tmp_path / "run")
        lines = metric_lines(tmp_path / "run")
        rates = [line["train/steps_per_second"] for line in lines if "train/loss" in line]
        assert rates == pytest.approx([2.0] * 3)

    # The other tests train with pmap; with all of this it compiles for half a minute.
    @pytest.mark.parametrize(
        "parallel",
        [
            pytest.param("shard_map", marks=pytest.mark.thorough),
            pytest.param("pmap", marks=pytest.mark.slow),
        ],
    )
    def test_every_option_at_once_trains_resumes_and_is_evaluated(
        self, tmp_path, examples_path, parallel
    ):
        config = tiny_config("interactrank")
        config.model.dtype = "bfloat16"
        config.train.update({"parallel": parallel, "microbatches": 2, "max_steps": 12})
        config.train.loss.update(
            {
                "log_q": "sketch",
                "correction": "positive_apart",
                "uniform_negatives": 6,
                "hard_negatives": 3,
                "pairwise_weight": 0.1,
                "listwise_weight": 0.1,
            }
        )
        workdir = tmp_path / "run"
        train(config, examples_path, workdir)
        losses = [line for line in metric_lines(workdir) if "train/loss/listwise" in line]
        assert len(losses) == 12 / config.train.log_every
        assert all(line["train/loss/softmax"] > 0 for line in losses)

        # Again from its checkpoint at step 8, where the index of hard negatives is made anew too.
        resumed = tmp_path / "resumed"
        shutil.copytree(workdir, resumed)
        shutil.rmtree(resumed / "checkpoints" / "12")
        train(config, examples_path, resumed)
        assert_same_run(resumed, workdir)
        assert 0 < evaluate(workdir, examples_path)["metrics"]["roc_auc"] < 1

    def test_early_stopping_ends_the_run_after_patience_worse_validations(self):
        config = tiny_config("interactrank").train
        config.patience = 2
        progress = Progress()
        for step, metric in enumerate((0.6, 0.7, 0.69, 0.7)):
            record_validation(progress, {"roc_auc": metric}, step, config)
        assert progress.stopped
        assert (progress.best_step, progress.best_metric) == (1, 0.7)

    def test_a_start_that_training_has_yet_to_reach_does_not_end_the_run(self):
        config = tiny_config("interactrank").train
        config.patience = 2
        progress = Progress()
        for step, metric in enumerate((0.9, 0.7, 0.75, 0.74, 0.8, 0.85)):
            record_validation(progress, {"roc_auc": metric}, step, config)
            assert not progress.stopped
        assert (progress.best_step, progress.best_metric) == (0, 0.9)
        record_validation(progress, {"roc_auc": 0.91}, 6, config)
        assert progress.best_step == 6
        for step in (7, 8):
            record_validation(progress, {"roc_auc": 0.905}, step, config)
        assert progress.stopped

    def test_of_log_losses_the_lowest_is_the_best(self):
        config = tiny_config("interactrank").train
        config.select_by = "logloss"
        progress = Progress()
        for step, metric in enumerate((0.5, 0.4, 0.45)):
            record_validation(progress, {"logloss": metric}, step, config)
        assert (progress.best_step, progress.best_metric) == (1, 0.4)

    def test_a_metric_that_is_undefined_selects_nothing(self):
        config = tiny_config("interactrank").train
        with pytest.raises(InputError, match="roc_auc is not defined on the validation split"):
            record_validation(Progress(), {"roc_auc": float("nan")}, 1, config)


class TestTimetable:
    def test_the_last_step_is_logged_validated_and_saved_whatever_its_number(self):
        timetable = Timetable(total=7, log_every=2, validate_every=4, save_every=3)
        due = {done: timetable.due(done) for done in range(1, 8)}
        assert [done for done in due if due[done].log] == [2, 4, 6, 7]
        assert [done for done in due if due[done].validation] == [4, 7]
        assert [done for done in due if due[done].checkpoint] == [3, 4, 6, 7]

    @pytest.mark.parametrize(
        ("fields", "total", "validate_every"),
        [
            ({"max_steps": 5}, 5, 7),
            ({"max_steps": 0, "epochs": 2.5}, 17, 7),
            ({"max_steps": 0, "epochs": 0.01}, 1, 7),
            ({"max_steps": 0, "epochs": 1, "eval_every": 3}, 7, 3),
        ],
    )
    def test_zero_stands_for_what_the_epochs_have(
        self, examples_path, fields, total, validate_every
    ):
        examples, config = Examples(examples_path), tiny_config("two_tower").train
        config.batch_size = examples.split("train").examples // 7
        config.update({"eval_every": 0} | fields)
        timetable = Timetable.from_config(config, examples)
        assert (timetable.total, timetable.validate_every) == (total, validate_every)


class TestDataOfTheExamples:
    @pytest.mark.long  # trains a model for itself
    def test_a_config_takes_its_data_part_from_the_examples(self, tmp_path, examples_path, caplog):
        config = tiny_config("two_tower")
        config.train.update({"max_steps": 1})
        config.data.history.length = 7
        with caplog.at_level("INFO"):
            train(config, examples_path, tmp_path / "run")
        assert "config.data is that of the examples: config.data.history.length" in caplog.text
        prepared = Examples(examples_path).metadata.config
        assert Run.open(tmp_path / "run").config.data.to_dict() == prepared
        assert config.data.history.length == 7  # the caller's own

    @pytest.mark.long  # trains a model for itself
    def test_a_field_set_by_hand_must_be_theirs(self, tmp_path, examples_path):
        config = tiny_config("two_tower")
        config.train.update({"max_steps": 1})
        length = Examples(examples_path).metadata.config["history"]["length"]
        config.data.history.length = length + 1
        overrides = {"data.history.length": length + 1}
        message = rf"--config\.data\.history\.length is {length + 1}, but .* with {length}"
        with pytest.raises(InputError, match=message):
            train(config, examples_path, tmp_path / "run", overrides=overrides)
        config.data.history.length = length
        overrides = {"data.history.length": length, "data.split.fractions": (0.8, 0.1, 0.1)}
        train(config, examples_path, tmp_path / "run", overrides=overrides)


class TestRefusals:
    @pytest.mark.long  # trains a model for itself
    def test_a_workdir_of_another_config_names_the_field(self, examples_path, trained_run):
        config = tiny_config("interactrank")
        config.train.optimizer.learning_rate = 0.5
        with pytest.raises(InputError, match=r"config\.train\.optimizer\.learning_rate was 0\.001"):
            train(config, examples_path, trained_run)

    def test_a_workdir_of_other_examples_is_refused(self, tmp_path, trained_run):
        other = write_examples(tmp_path / "examples", seed=9)
        with pytest.raises(InputError, match="run on other examples"):
            train(tiny_config("interactrank"), other, trained_run)

    def test_a_directory_without_examples_says_what_to_give(self, tmp_path):
        with pytest.raises(InputError, match="Expected the --out of `interactrank prepare`"):
            train(tiny_config("interactrank"), tmp_path, tmp_path / "run")

    def test_a_workdir_that_holds_something_else_is_left_alone(self, tmp_path, examples_path):
        (tmp_path / "letter").write_text("mine")
        with pytest.raises(InputError, match="holds something that is no run"):
            train(tiny_config("interactrank"), examples_path, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["letter"]

    @pytest.mark.parametrize("name", [".encoder.partial-0123abcd", ".config.json.partial-0123abcd"])
    def test_what_a_killed_training_left_before_its_config_is_gone_on_from(
        self, tmp_path, examples_path, name
    ):
        examples = Examples(examples_path)
        run = Run(tmp_path / "run", tiny_config("interactrank"), examples.metadata)
        examples.encoder.save(run.workdir / "encoder")
        (run.workdir / name).touch()
        run.claim(examples)
        assert Run.open(run.workdir).encoder == examples.encoder
        run.claim(examples)

    @pytest.mark.parametrize("kind", ["another", "none", "a file"])
    def test_a_workdir_with_another_encoder_is_left_alone(self, tmp_path, examples_path, kind):
        examples, copy = Examples(examples_path), tmp_path / "run" / "encoder"
        run = Run(tmp_path / "run", tiny_config("interactrank"), examples.metadata)
        if kind == "a file":
            copy.parent.mkdir()
            copy.write_text("mine")
        else:
            copy.mkdir(parents=True)
        if kind == "another":
            make_encoder(prefix="x").save(copy)
        before = sorted(run.workdir.rglob("*"))
        with pytest.raises(InputError, match="holds something that is no run"):
            run.claim(examples)
        assert sorted(run.workdir.rglob("*")) == before

    def test_a_truncated_run_config_says_so(self, tmp_path, trained_run):
        whole = (trained_run / "config.json").read_text()
        (tmp_path / "config.json").write_text(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=r"config\.json is not valid JSON .* truncated"):
            Run.open(tmp_path)

    def test_examples_of_another_format_version_are_refused(self, tmp_path, examples_path):
        copy = shutil.copytree(examples_path, tmp_path / "examples")
        metadata = json.loads((copy / "metadata.json").read_text())
        metadata["format_version"] = 99
        (copy / "metadata.json").write_text(json.dumps(metadata))
        with pytest.raises(InputError, match="format_version is 99"):
            train(tiny_config("interactrank"), copy, tmp_path / "run")

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("model.name", "interactrnk", "Did you mean 'interactrank'"),
            ("model.sequence.features", ("item_ids",), "Did you mean 'item_id'"),
            ("model.exclude", ("contry",), "Did you mean 'country'"),
            ("train.loss.name", "bec", "Did you mean 'bce'"),
            ("train.parallel", "pmep", "Did you mean 'pmap'"),
            ("train.tables.name", "adagrd", "Did you mean 'adagrad'"),
            ("train.optimizer.decay", "cosin", "Did you mean 'cosine'"),
            ("train.select_by", "roc_acu", "Did you mean 'roc_auc'"),
            ("train.batch_size", 1000, "fewer than one batch"),
            ("train.batch_size", 0, "a whole number from 1"),
            ("train.log_every", 0, "a whole number from 1"),
            ("label.positive", (), "a tuple of 1 to 1,000 values"),
            ("label.negative", ("click", "save"), "0 of the .* in split 'train' count as engaged"),
            ("label.impression_weight", 0.0, "a number above 0"),
            ("model.tower.numeric_views", ("rnge",), "Did you mean 'range'"),
            ("label.positive", ("clik",), "Did you mean 'click'"),
            ("label.utility", (1.0,), "one weight per head"),
            ("train.loss.head_weights", (1.0,), "one per head"),
            ("train.warm_start", "nowhere", "holds no run"),
        ],
    )
    def test_a_wrong_field_is_named_before_any_work(
        self, tmp_path, examples_path, field, value, message
    ):
        config = tiny_config("interactrank")
        with config.unlocked():
            config.update_from_flattened_dict({field: value})
        with pytest.raises(InputError, match=message):
            train(config, examples_path, tmp_path / "run")
        # So that the corrected command is not refused as another config.
        assert not (tmp_path / "run").exists()


class TestWarmStart:
    @pytest.mark.long  # two trainings
    def test_it_starts_where_the_other_run_ended(self, tmp_path, examples_path, trained_run):
        config = tiny_config("interactrank")
        config.train.update({"warm_start": str(trained_run), "max_steps": 1})
        config.train.optimizer.learning_rate = 0.0
        config.train.tables.learning_rate = 0.0
        config.train.optimizer.warmup_steps = 0
        train(config, examples_path, tmp_path / "warm")
        old, new = (Run.open(path).restore_model()[0] for path in (trained_run, tmp_path / "warm"))
        jax.tree.map(np.testing.assert_array_equal, old, new)

    def test_a_model_of_another_shape_is_refused(self, tmp_path, examples_path, trained_run):
        config = tiny_config("interactrank")
        config.train.warm_start = str(trained_run)
        config.model.tower.hidden = (24,)
        with pytest.raises(
            InputError, match=r"another model: config\.model\.tower\.hidden was \[16\], is \[24\]"
        ):
            train(config, examples_path, tmp_path / "warm")

    def test_other_heads_are_refused(self, tmp_path, examples_path, trained_run):
        config = tiny_config("interactrank")
        config.train.warm_start = str(trained_run)
        config.label.heads = ("engaged", "click")
        with pytest.raises(InputError, match="other heads or inputs"):
            train(config, examples_path, tmp_path / "warm")

    def test_examples_that_do_not_extend_are_refused(self, tmp_path, trained_run):
        other = write_examples(tmp_path / "examples", seed=3)
        config = tiny_config("interactrank")
        config.train.warm_start = str(trained_run)
        with pytest.raises(InputError, match="--extend"):
            train(config, other, tmp_path / "warm")
