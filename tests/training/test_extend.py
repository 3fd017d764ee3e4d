"""A later preparation and a warm start: ids keep their rows, and the model goes on."""

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.config import models
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation import evaluate
from interactrank_jax.evaluation.scorers import ModelScorer
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses import prior
from interactrank_jax.ranking.explain import explain
from interactrank_jax.ranking.index import build_index
from interactrank_jax.ranking.score import score
from interactrank_jax.runs.run import Run
from interactrank_jax.training.train import train
from tests.synthetic import without_blocks

pytestmark = pytest.mark.long  # trains on two preparations


def small_config():
    config = models.interactrank("search")
    config.train.update({"batch_size": 16, "max_steps": 2, "eval_every": 2})
    config.model.tower.hidden = (16,)
    without_blocks(config)
    return config


def first_months(log, out, share):
    """Copies the log up to a moment, as it was then: items not yet created are not yet there."""
    out.mkdir()
    (out / "schema.json").write_text((log / "schema.json").read_text())
    tables = {name: pq.read_table(log / name) for name in ("requests", "impressions", "events")}
    times = np.sort(tables["requests"]["timestamp"].to_numpy())
    end = int(times[int(share * len(times))])
    requests = tables["requests"].filter(pc.less(tables["requests"]["timestamp"], end))
    shown = pc.is_in(tables["impressions"]["request_id"], requests["request_id"])
    impressions = tables["impressions"].filter(shown)
    events = tables["events"].filter(pc.less(tables["events"]["arrival_time"], end))
    seen = pa.concat_arrays(
        [column.combine_chunks() for column in (impressions["item_id"], events["item_id"])]
    )
    items = pq.read_table(log / "items")
    items = items.filter(pc.is_in(items["item_id"], seen))
    for name, table in (
        ("items", items),
        ("requests", requests),
        ("impressions", impressions),
        ("events", events),
    ):
        pq.write_table(table, out / f"{name}.parquet")


@pytest.fixture(scope="module")
def two_preparations(tmp_path_factory, tiny_log):
    root = tmp_path_factory.mktemp("extend")
    first_months(tiny_log, root / "log", share=0.6)
    config = small_config()
    prepare(config.data, root / "log", root / "old")
    prepare(config.data, tiny_log, root / "new", extend=root / "old")
    train(config, root / "old", root / "run")
    return root


def test_old_items_and_ids_keep_their_rows(two_preparations):
    old, new = (Examples(two_preparations / name) for name in ("old", "new"))
    assert new.metadata.extends == old.metadata.digest
    assert new.num_items > old.num_items
    assert list(new.item_ids[: old.num_items]) == list(old.item_ids)
    assert new.encoder.extends(old.encoder)
    for table in ("user", "query", "item"):
        before, after = (part.encoder.vocabularies[table].values for part in (old, new))
        assert after.slice(0, len(before)).equals(before)
        assert len(after) > len(before)


@pytest.mark.long  # two trainings
def test_a_warm_start_keeps_old_rows_and_grows_the_tables(two_preparations, tmp_path):
    root = two_preparations
    config = small_config()
    config.train.update({"warm_start": str(root / "run"), "max_steps": 1})
    config.train.optimizer.update({"learning_rate": 0.0, "warmup_steps": 0})
    config.train.tables.learning_rate = 0.0
    train(config, root / "new", tmp_path / "warm")
    old, new = (Run.open(path).restore_model()[0] for path in (root / "run", tmp_path / "warm"))
    jax.tree.map(np.testing.assert_array_equal, old["params"], new["params"])
    for name, table in old["tables"].items():
        np.testing.assert_array_equal(new["tables"][name][: len(table)], table)
        assert len(new["tables"][name]) >= len(table)


def ids_of(examples, split, columns):
    """Returns the log's ids of request and candidate for each row of some flat columns."""
    requests = examples.raw_requests(split)["request_id"].to_pylist()
    return [
        (requests[request], examples.item_ids[item]) for request, item in zip(*columns, strict=True)
    ]


def scores_of(run, examples):
    """Returns {(request_id, item_id): score} over all splits."""
    parallel = DataParallel("pmap")
    model = parallel.replicate(run.restore_model()[0])
    scores = {}
    for split in examples.metadata.splits:
        scorer = ModelScorer(run, examples, split, parallel).use(model)
        rows = evaluate.Rows(scorer, examples, split, scorer.batch_size)
        pairs = ids_of(examples, split, (rows.request, rows.item))
        scores |= dict(zip(pairs, rows.score.tolist(), strict=True))
    return scores


def test_a_run_gives_requests_that_it_was_trained_on_the_same_bits(two_preparations):
    """Also where an id was too rare for a row of its own, and has one in the new examples."""
    run = Run.open(two_preparations / "run")
    old, new = (Examples(two_preparations / name) for name in ("old", "new"))
    view = run.check_examples(new)
    for column, table in (("user", "user"), ("query", "query")):
        known = run.encoder.tables[table]
        assert any((block[column] >= known).any() for block in new.blocks("train"))
    before, after = scores_of(run, old), scores_of(run, view)
    assert len(after) > len(before) > 1000
    assert before.items() <= after.items()


def command(name, root, *flags):
    return cli.main([name, f"--workdir={root / 'run'}", f"--examples={root / 'new'}", *flags])


@pytest.mark.thorough  # three commands
def test_yesterdays_model_serves_todays_log_at_the_command_line(two_preparations, tmp_path, capsys):
    root = two_preparations
    run, new = Run.open(root / "run"), Examples(root / "new")
    expected = scores_of(run, run.check_examples(new))
    assert command("evaluate", root, "--split=test") == 0
    assert f"{new.split('test').candidates:,} candidates" in capsys.readouterr().out
    saved = run.saved_scores(new, "test")
    pairs = ids_of(new, "test", (saved["request_index"], saved["item"]))
    assert saved["score"].tolist() == [expected[pair] for pair in pairs]
    result = files.read_json(root / "run" / "eval" / "test.json")
    assert result["examples_digest"] == new.metadata.digest

    assert command("index", root, f"--out={tmp_path / 'index'}") == 0
    flags = [f"--index={tmp_path / 'index'}", "--split=test"]
    for candidates in ("slate", "corpus"):
        out = tmp_path / candidates
        more = [f"--candidates={candidates}", f"--out={out}", "--k=100000"]
        assert command("score", root, *flags, *more) == 0
        table = pq.read_table(out / "scores.parquet").to_pylist()
        scores = {(row["request_id"], row["item_id"]): row["score"] for row in table}
        of_new = set(new.item_ids[Examples(root / "old").num_items :].tolist())
        assert of_new & {item for _, item in scores}
        assert set(pairs) <= scores.keys()
        for pair in pairs:
            assert scores[pair] == pytest.approx(expected[pair], abs=1e-5)

    capsys.readouterr()
    request = pairs[0][0]
    assert command("explain", root, f"--request={request}", "--split=test") == 0
    assert f"request_id={request}" in capsys.readouterr().out
    explained = explain(root / "run", root / "new", str(request))
    for item, value in zip(explained.item_id, explained.score, strict=True):
        assert value == pytest.approx(expected[request, item], abs=1e-5)


def test_an_index_and_scores_are_of_the_examples_that_they_were_made_from(
    two_preparations, tmp_path
):
    root = two_preparations
    run, (old, new) = Run.open(root / "run"), (Examples(root / name) for name in ("old", "new"))
    build_index(root / "run", old.path, tmp_path / "index")
    with pytest.raises(InputError, match=r"built from other examples .*interactrank index` with"):
        score(root / "run", tmp_path / "index", new.path, tmp_path / "scores")
    evaluate.evaluate(root / "run", old.path, "validation")
    assert len(run.saved_scores(old, "validation")["score"])
    with pytest.raises(InputError, match=r"scores of other examples.*--examples=.*new"):
        run.saved_scores(new, "validation")


def test_a_run_keeps_what_weighting_added_to_its_logits(two_preparations):
    root = two_preparations
    run, (old, new) = Run.open(root / "run"), (Examples(root / name) for name in ("old", "new"))
    loss = run.config.train.loss
    trained, other = (prior.prior_offsets(run.rule, loss, part) for part in (old, new))
    assert trained != other
    scorer = ModelScorer(run, run.check_examples(new), "test", DataParallel("pmap"))
    assert scorer.calibration.offsets == trained


def test_a_later_model_does_not_read_earlier_examples(two_preparations):
    root = two_preparations
    run = Run("unused", small_config(), Examples(root / "new").metadata)
    with pytest.raises(InputError, match=r"length of vocabulary 'user' was \d+, is \d+\."):
        run.check_examples(Examples(root / "old"))
