"""A later preparation and a warm start: ids keep their rows, and the model goes on."""

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from configs import interactrank
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs import Run
from interactrank_jax.train import train
from tests.synthetic import without_blocks


def small_config():
    config = interactrank.get_config("search")
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
    for table in ("user", "query", "item"):
        rows = {
            name: dict(zip(*pq.read_table(path).to_pydict().values(), strict=True))
            for name, path in (
                ("old", old.path / "vocabulary" / f"{table}.parquet"),
                ("new", new.path / "vocabulary" / f"{table}.parquet"),
            )
        }
        assert rows["old"].items() <= rows["new"].items()
        assert new.metadata.tables[table] > old.metadata.tables[table]


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


def test_a_model_does_not_score_examples_it_was_not_trained_on(two_preparations):
    run = Run.open(two_preparations / "run")
    with pytest.raises(InputError, match="its ids may mean other things"):
        run.check_examples(Examples(two_preparations / "new"))
