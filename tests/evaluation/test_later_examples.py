"""A model of some days is evaluated on examples of later ones, with ids that it never saw."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from interactrank_jax import cli
from interactrank_jax.evaluation import evaluate
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.run import Run
from interactrank_jax.training.train import train
from tests.log import handmade_log
from tests.synthetic import tiny_config, without_blocks

pytestmark = pytest.mark.long  # two preparations and a training


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """A run on the first 20 of 30 days, and examples of all; later days have ids of their own."""
    root = tmp_path_factory.mktemp("days")
    tables = handmade_log.make_tables(events=False)
    requests, impressions = tables["requests"], tables["impressions"]
    is_late = pc.greater(requests["timestamp"], handmade_log.START + 20 * handmade_log.DAY)
    half = pa.array(np.arange(len(requests)) % 2 == 0)
    is_new = pc.and_(is_late, half)
    users = pc.if_else(
        is_new, pc.binary_join_element_wise("new-", requests["user_id"], ""), requests["user_id"]
    )
    queries = pc.if_else(is_new, pc.add(requests["query_id"], 1000), requests["query_id"])
    later = handmade_log.replace(requests, "user_id", users)
    later = handmade_log.replace(later, "query_id", queries)
    early = requests.filter(pc.invert(is_late))
    shown = impressions.filter(
        pc.is_in(impressions["request_id"], early["request_id"].combine_chunks())
    )
    items = tables["items"].filter(
        pc.is_in(tables["items"]["item_id"], shown["item_id"].combine_chunks())
    )
    first = {"items": items.slice(0, len(items) - 3), "requests": early}
    known = first["items"]["item_id"].combine_chunks()
    first["impressions"] = shown.filter(pc.is_in(shown["item_id"], known))
    handmade_log.write_log(root / "early", first)
    handmade_log.write_log(root / "log", {**tables, "requests": later})
    config = tiny_config("interactrank")
    without_blocks(config)
    config.model.sequence.features = ("item_id", "brand")
    config.data = handmade_log.data_config()
    config.train.update({"batch_size": 16, "max_steps": 2, "eval_every": 2})
    prepare(config.data, root / "early", root / "old")
    prepare(config.data, root / "log", root / "new", extend=root / "old")
    prepare(config.data, root / "log", root / "other")
    train(config, root / "old", root / "run")
    return root


def test_later_requests_are_evaluated_seen_users_and_new_ones(days):
    examples = Examples(days / "new")
    assert examples.num_items > Examples(days / "old").num_items
    result = evaluate.evaluate(days / "run", days / "new", "test", by=["user", "query_popularity"])
    assert result["examples_digest"] == examples.metadata.digest
    assert result["candidates"] == examples.split("test").candidates
    assert result["corpus"] == examples.num_items - 1
    assert np.isfinite(result["metrics"]["roc_auc"])
    by_user = {part["slice"]: part["candidates"] for part in result["slices"]["user"]}
    assert set(by_user) == {"new", "known"}
    assert sum(by_user.values()) == result["candidates"]


def test_new_is_what_the_runs_vocabulary_lacks_not_that_of_the_examples(days):
    run, examples = Run.open(days / "run"), Examples(days / "new")
    users = [set(side.encoder.vocabularies["user"].values.to_pylist()) for side in (run, examples)]
    asked = examples.raw_requests("test")["user_id"].to_pylist()
    new = {index for index, user in enumerate(asked) if user not in users[0]}
    assert any(asked[index] in users[1] for index in new)  # the examples know some of them
    result = evaluate.evaluate(days / "run", days / "new", "test", by=["user"])
    parts = {part["slice"]: part["requests"] for part in result["slices"]["user"]}
    assert parts["new"] == len(new)


def test_the_command_takes_them_and_refuses_those_of_another_encoder(days, capsys):
    flags = [f"--workdir={days / 'run'}", "--split=test"]
    assert cli.main(["evaluate", *flags, f"--examples={days / 'new'}"]) == 0
    capsys.readouterr()
    saved = files.read_json(days / "run" / "eval" / "test.json")
    assert saved["examples_digest"] == Examples(days / "new").metadata.digest
    with pytest.raises(InputError, match="does not fit"):
        evaluate.evaluate(days / "run", days / "other", "test")
