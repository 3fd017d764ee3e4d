"""The one object that trains: what it puts together, and what a notebook gets from it."""

import gc
import importlib.util
import json

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.best import fingerprint
from interactrank_jax.runs.run import Run
from interactrank_jax.training import reports
from interactrank_jax.training.trainer import Trainer
from tests.faults.processes import metric_lines
from tests.synthetic import tiny_config, without_blocks


def quick_config(**train):
    """Compiles in a second or two."""
    config = tiny_config("two_tower")
    without_blocks(config)
    config.train.update({"max_steps": 4, "eval_every": 2} | train)
    return config


def best(trainer):
    return fingerprint(Run.open(trainer.workdir).restore_model()[0])


@pytest.fixture(scope="module")
def fitted(examples_path):
    """A trainer without a directory of its own; read only."""
    return Trainer(quick_config(), Examples(examples_path)).fit()


class TestFit:
    @pytest.mark.long  # two trainings
    def test_trains_as_the_command_does(self, examples_path, trained_run, tmp_path):
        """To the bit: `trained_run` is of `train`, whose figures other tests hold."""
        config = tiny_config("interactrank")
        trainer = Trainer(config, examples_path, tmp_path / "run")
        assert trainer.fit() is trainer
        assert best(trainer) == fingerprint(Run.open(trained_run).restore_model()[0])
        clocks = ("time", "train/candidates_per_second", "train/steps_per_second")
        curves = [
            [{k: v for k, v in line.items() if k not in clocks} for line in metric_lines(run)]
            for run in (trained_run, tmp_path / "run")
        ]
        assert curves[0] == curves[1]
        assert trainer.summary["steps"] == config.train.max_steps

    @pytest.mark.long  # trains a model for itself
    def test_again_changes_nothing(self, fitted):
        before, state = best(fitted), jax.tree.map(np.array, fitted.state)
        fitted.fit()
        fitted.fit(steps=4)
        assert best(fitted) == before
        for one, other in zip(*map(jax.tree.leaves, (state, fitted.state)), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_another_length_is_another_training(self, fitted):
        with pytest.raises(InputError, match=r"laid out for 4 steps.*warm_start="):
            fitted.fit(steps=6)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"steps": 0}, "at least one step"),
            ({"steps": 4, "epochs": 1.0}, "Expected one of them"),
            ({"epochs": -1.0}, r"config\.train\.epochs is -1"),
        ],
    )
    def test_a_length_that_is_none(self, examples_path, arguments, message):
        with pytest.raises(InputError, match=message):
            Trainer(quick_config(), examples_path).fit(**arguments)

    @pytest.mark.long  # two trainings
    @pytest.mark.parametrize(("arguments", "steps"), [({"steps": 3}, 3), ({"epochs": 0.5}, 4)])
    def test_a_length_takes_the_place_of_the_configs(self, examples_path, arguments, steps):
        config = quick_config(max_steps=7, patience=0)
        trainer = Trainer(config, examples_path).fit(**arguments)
        assert trainer.summary["steps"] == steps == int(trainer.state.step)
        assert config.train.max_steps == 7  # the caller's own
        assert Run.open(trainer.workdir).config.train.max_steps == arguments.get("steps", 0)

    @pytest.mark.long  # trains a model for itself
    def test_a_run_directory_without_a_name_goes_with_the_trainer(self, examples_path):
        trainer = Trainer(quick_config(max_steps=1), examples_path).fit()
        workdir = trainer.workdir
        assert (workdir / "best").is_dir()
        del trainer
        gc.collect()
        assert not workdir.exists()
        assert not workdir.parent.exists()

    def test_several_processes_need_a_directory_of_all(self, examples_path, monkeypatch):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        with pytest.raises(InputError, match=r"2 processes train together\. Expected a workdir"):
            Trainer(quick_config(), examples_path)

    @pytest.mark.long  # two trainings
    def test_one_starts_from_the_best_model_of_another(self, examples_path, fitted):
        config = quick_config(warm_start=str(fitted.workdir), max_steps=1)
        config.train.optimizer.learning_rate = 0.0
        config.train.optimizer.weight_decay = 0.0
        config.train.tables.learning_rate = 0.0
        assert best(Trainer(config, examples_path).fit()) == best(fitted)


class TestOrder:
    @pytest.mark.long  # trains a model for itself
    def test_has_a_seed_of_its_own_and_without_one_the_trainings(self, examples_path):
        def first(**train):
            trainer = Trainer(quick_config(**train), examples_path)
            return next(trainer.batches())["user"].tolist(), fingerprint(trainer.state.params)

        (order, start), (other_order, other_start) = first(seed=0), first(seed=1)
        assert order != other_order
        assert start != other_start
        assert first(seed=1, order_seed=0) == (order, other_start)
        assert first(seed=0, order_seed=1) == (other_order, start)


class TestLoss:
    @pytest.mark.long  # trains twice
    @pytest.mark.parametrize("kind", ["pmap", "shard_map"])
    def test_is_what_the_next_step_reports_and_leaves_everything_as_it_was(
        self, examples_path, kind
    ):
        trainer = Trainer(quick_config(parallel=kind), examples_path)
        batches = trainer.batches()
        for batch in (next(batches), next(batches)):
            before = {name: value.copy() for name, value in batch.items()}
            state = jax.tree.map(np.array, trainer.state)
            loss = trainer.loss(batch)
            assert loss == trainer.loss(batch)
            for one, other in zip(*map(jax.tree.leaves, (state, trainer.state)), strict=True):
                np.testing.assert_array_equal(one, other)
            for name, value in batch.items():
                np.testing.assert_array_equal(value, before[name], err_msg=name)
            trainer.advance(trainer.parallel.shard(batch))
            sums = trainer.state.sums
            assert float(sums["loss"]) - float(state.sums["loss"]) == pytest.approx(loss, rel=1e-6)

    def test_falls_with_training(self, examples_path):
        trainer = Trainer(quick_config(), examples_path)
        batch = next(trainer.batches())
        before = trainer.loss(batch)
        for _ in range(30):
            copy = {name: value.copy() for name, value in batch.items()}
            trainer.advance(trainer.parallel.shard(copy))
        assert trainer.loss(batch) < before

    def test_a_batch_without_a_column(self, fitted):
        batch = next(fitted.batches())
        del batch["cross"]
        with pytest.raises(InputError, match=r"the batch has no column 'cross'"):
            fitted.loss(batch)


class TestResults:
    def test_history_has_a_row_a_step(self, fitted):
        history = fitted.history
        assert history["step"].tolist() == [2, 4]
        lines = metric_lines(fitted.workdir)
        assert len(lines) == 4
        for line in lines:
            row = history[history["step"] == line["step"]].iloc[0]
            for name in set(line) - {"time"}:
                assert row[name] == line[name]
        assert "time" not in history.columns

    def test_what_was_not_measured_at_a_step_is_missing(self, tmp_path):
        lines = [{"step": 1, "time": 0.5, "a": 1.0}, {"step": 2, "time": 1.5, "a": 2.0, "b": None}]
        file = tmp_path / "metrics.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        history = reports.history(file)
        assert history.columns.tolist() == ["step", "a", "b"]
        assert history["b"].isna().all()

    def test_a_damaged_line_is_named(self, tmp_path):
        file = tmp_path / "metrics.jsonl"
        file.write_text('{"step": 1}\n{"ste')
        with pytest.raises(InputError, match=r"metrics\.jsonl, line 2 is damaged"):
            reports.history(file)

    def test_a_line_that_is_being_written_is_left_out(self, tmp_path):
        file = tmp_path / "metrics.jsonl"
        file.write_text('{"step": 1, "a": 0.5}\n{"step": 2, "a": 0.')
        assert reports.curves(file, growing=True) == ([1], {"a": [0.5]})

    def test_a_series_is_what_was_measured_of_one_metric(self, tmp_path):
        file = tmp_path / "metrics.jsonl"
        file.write_text('{"step": 1, "a": 0.5}\n{"step": 2, "b": 1}\n{"step": 3, "a": null}\n')
        assert reports.series(file, "a") == [(1, 0.5)]
        assert reports.series(file, "c") == []

    def test_the_first_rate_has_compiling_in_it(self):
        assert reports.median_rate([1.0, 10.0, 30.0, 20.0]) == 20.0
        assert reports.median_rate([5.0]) == 5.0

    def test_evaluation_is_a_table_with_intervals(self, fitted):
        evaluation = fitted.evaluate("validation")
        saved = json.loads((fitted.workdir / "eval" / "validation.json").read_text())
        table = evaluation.table()
        assert table.columns.tolist() == ["metric", "value", "low", "high"]
        assert dict(zip(table["metric"], table["value"], strict=True)) == saved["metrics"]
        row = table[table["metric"] == "roc_auc"].iloc[0]
        assert [row["low"], row["high"]] == saved["intervals"]["roc_auc"]
        assert row["low"] <= row["value"] <= row["high"]

    def test_without_pandas_they_are_arrow_tables(self, fitted, monkeypatch):
        frames = [fitted.history, fitted.evaluate().table()]
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        tables = [fitted.history, fitted.evaluate().table()]
        for frame, table in zip(frames, tables, strict=True):
            assert isinstance(table, pa.Table)
            pd.testing.assert_frame_equal(table.to_pandas(), frame)

    @pytest.mark.parametrize("ask", [lambda t: t.history, lambda t: t.evaluate()])
    def test_before_any_training_there_are_none(self, examples_path, ask):
        with pytest.raises(InputError, match=r"trained nothing yet: call \.fit\(\) first"):
            ask(Trainer(quick_config(), examples_path))
