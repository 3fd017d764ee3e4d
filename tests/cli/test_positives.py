"""A log of purchases from its file to its figures: every output says how negatives were sampled."""

import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli, metrics
from interactrank_jax.config import builders
from interactrank_jax.evaluation.baseline_scorers import baseline
from interactrank_jax.evaluation.corpus_ranks import corpus_ranks
from interactrank_jax.evaluation.rows import Rows
from interactrank_jax.examples.format import PADDING, STATE, Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.log.negatives import SampledNegatives
from interactrank_jax.losses.labels import LabelRule
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.long  # every command on one log

T0 = 946_684_800
WORDS = "3 sampled for each positive, in proportion to their successes before the request"
CONFIG = f"--config={REPOSITORY / 'configs' / 'two_tower.py'}:ratings_time"
SMALL = (
    "--config.model.embedding_dim=4",
    "--config.model.tower.hidden=(8,)",
    "--config.train.batch_size=64",
    "--config.train.max_steps=4",
    "--config.train.eval_every=2",
    "--config.evaluate.bootstrap=20",
)


def purchases(path):
    """Writes what 30 users bought of 24 items in 40 days; a third of the items come late."""
    rng = np.random.default_rng(0)
    second = np.sort(rng.integers(0, 40 * 86_400, 700))
    born = np.where(np.arange(24) % 3, 0, np.arange(24) * 1.6 * 86_400)
    user = rng.integers(0, 30, 700)
    item = [rng.choice(np.flatnonzero((born <= t) & (np.arange(24) % 2 == u % 2 * (t % 3 > 0))))
            for u, t in zip(user, second, strict=True)]  # fmt: skip
    path.mkdir()
    lines = [f"u{u},i{i},{T0 + t}" for u, i, t in zip(user, item, second, strict=True)]
    (path / "purchases.csv").write_text("\n".join(["user_id,item_id,time", *lines]))
    return path


def new_request(examples, path):
    """Writes a request of the test split as of after the log; returns the id that it had."""
    request = Examples(examples).raw_requests("test").slice(0, 1)
    later = pa.array([T0 + 50 * 86_400], request["timestamp"].type)
    column = request.schema.get_field_index("timestamp")
    pq.write_table(request.set_column(column, "timestamp", later), path)
    return str(request["request_id"][0].as_py())


@pytest.fixture(scope="module")
def stations(tmp_path_factory):
    """The commands from the file on, what each printed, and the paths."""
    root, printed = tmp_path_factory.mktemp("positives"), {}
    source, log = purchases(root / "source"), root / "log"
    examples, run = root / "examples", root / "run"
    commands = {
        "convert": [
            *("--format=ratings", f"--source={source}", f"--out={log}", "--rating="),
            *("--time=time", "--negatives=popularity:3", "--seed=5"),
        ],
        "prepare": [CONFIG, f"--log={log}", f"--out={examples}"],
        "train": [CONFIG, f"--examples={examples}", f"--workdir={run}", *SMALL],
        "evaluate": [f"--workdir={run}", f"--examples={examples}", f"--json={root / 'json'}"],
        "baseline": [CONFIG, f"--examples={examples}", "--baseline=popularity", "--split=train"],
        "explain": [f"--workdir={run}", f"--examples={examples}", "--request="],
        "index": [f"--workdir={run}", f"--examples={examples}", f"--out={root / 'index'}"],
        "score": [
            *(f"--workdir={run}", f"--examples={examples}", f"--index={root / 'index'}"),
            f"--out={root / 'scores'}",
        ],
        "export": [
            *(f"--workdir={run}", f"--state={examples / STATE}", f"--out={root / 'bundle'}"),
            "--onnx=0",
        ],
        "score bundle": [
            *(f"--bundle={root / 'bundle'}", f"--requests={root / 'requests.parquet'}"),
            f"--out={root / 'ranked'}",
        ],
    }
    for name, flags in commands.items():
        if name == "explain":
            flags[-1] += new_request(examples, root / "requests.parquet")
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            command = {"baseline": "evaluate", "score bundle": "score"}.get(name, name)
            assert cli.main([command, *flags]) == 0, name
        printed[name] = said.getvalue()
    return SimpleNamespace(root=root, log=log, path=examples, run=run, printed=printed)


@pytest.mark.parametrize(
    "name",
    [
        *("convert", "prepare", "train", "evaluate", "baseline", "explain", "index", "score"),
        *("export", "score bundle"),
    ],
)
def test_every_command_names_the_protocol(stations, name):
    assert WORDS in stations.printed[name]
    assert "--negatives=popularity:3, seed 5" in stations.printed[name]


def test_tables_point_to_the_corpus(stations):
    printed = stations.printed["evaluate"]
    assert "| recall_at_10 |" in printed
    assert "| corpus_mrr |" in printed
    assert "all 24 items of the log, those that existed at the request" in printed
    assert "The honest test is recall and corpus_mrr above" in printed
    assert "among all items, which need a run or a baseline" in stations.printed["baseline"]


def test_the_json_says_how_many_were_sampled(stations):
    (result,) = json.loads((stations.root / "json").read_text())
    stages = pq.read_table(stations.log / "impressions.parquet", columns=["stage"])["stage"]
    examples = Examples(stations.path)
    assert examples.metadata.log_statistics["sampled_negatives"] == (
        stages.to_pylist().count("random")
    )
    assert examples.metadata.negatives == SampledNegatives("popularity", 3, 5)
    sampled = sum(
        int((block["stage"][block["mask"]] == 3).sum()) for block in examples.blocks("test")
    )
    expected = {"method": "popularity", "per_positive": 3, "seed": 5, "sampled": sampled}
    assert result["negatives"] == expected
    assert result["candidates"] == result["engaged"] + sampled
    assert result["corpus_as_of_request"]
    assert set(result["stages"]) == {"random"}
    assert 0 < result["metrics"]["corpus_mrr"] < result["metrics"]["mrr"]
    saved = json.loads((stations.run / "config.json").read_text())
    assert "popularity" in str(saved["metadata"]["log_statistics"]["negatives"])


def test_nothing_counts_a_sampled_row_as_shown(stations, tmp_path):
    """Features of what was taken are those of the log without its negatives."""
    log = tmp_path / "log"
    log.mkdir()
    for file in stations.log.iterdir():
        (log / file.name).write_bytes(file.read_bytes())
    impressions = pq.read_table(log / "impressions.parquet")
    stage = np.array(impressions["stage"].to_pylist())
    pq.write_table(impressions.filter(stage == "shown"), log / "impressions.parquet")
    data = builders.base_config("ratings_time").data
    prepare(data, log, tmp_path / "examples")
    values = [features(Examples(path)) for path in (stations.path, tmp_path / "examples")]
    assert set(values[1]) <= set(values[0])
    assert len(values[1]) == (stage == "shown").sum()
    for key, expected in values[1].items():
        assert np.array_equal(values[0][key], expected), key
    assert any(value[:4].any() for value in values[1].values())


def features(examples):
    """Returns cross features, rates and histories by (request, item)."""
    result = {}
    for split in ("train", "validation", "test"):
        requests = examples.raw_requests(split)["request_id"].to_pylist()
        for block in examples.blocks(split):
            for row, column in np.argwhere(block["mask"]):
                item = examples.item_ids[block["item"][row, column]]
                of_request = [block[name][row] for name in ("request_numeric", "history_item")]
                key = requests[block["request_index"][row]], item
                result[key] = np.concatenate([block["cross"][row, column], *of_request])
    return result


def test_the_corpus_is_what_existed_at_the_request(stations):
    examples, config = Examples(stations.path), builders.base_config("ratings_time")
    rule = LabelRule.from_config(config.label, examples.metadata.actions)
    scorer = baseline("popularity", rule, examples, "test")
    rows = Rows(scorer, examples, "test", 16)
    engaged = rule.engaged(rows.actions)
    ranks = corpus_ranks(scorer, rows, engaged, examples, "test", config.evaluate)
    created = examples.raw_items()["created_at"].to_pylist()
    time = examples.raw_requests("test")["timestamp"].to_pylist()
    expected, left_out = [], 0
    for row, request in zip(ranks.row, ranks.request, strict=True):
        scores, item = scorer.all_items(np.array([request]))[0], rows.item[row]
        late = [i for i in range(1, len(scores)) if created[i] > time[request]]
        others = [i for i in range(1, len(scores)) if i not in late and i != item]
        assert item not in late
        left_out += len(late)
        expected.append(1 + sum(scores[i] >= scores[item] for i in others))
    assert left_out
    assert ranks.rank.tolist() == expected
    best = {}
    for request, rank in zip(ranks.request, expected, strict=True):
        best[request] = min(rank, best.get(request, rank))
    mrr = np.mean([1 / rank for rank in best.values()])
    assert ranks.figures(0)["corpus_mrr"][0] == pytest.approx(mrr)


def test_an_engaged_item_is_a_candidate_whatever_its_date(stations, monkeypatch):
    examples, config = Examples(stations.path), builders.base_config("ratings_time")
    rule = LabelRule.from_config(config.label, examples.metadata.actions)
    scorer = baseline("popularity", rule, examples, "test")
    rows = Rows(scorer, examples, "test", 16)
    items = examples.raw_items()
    column = items.column_names.index("created_at")
    late = items.set_column(column, "created_at", [[None] + [4_000_000_000] * (len(items) - 1)])
    monkeypatch.setattr(examples, "raw_items", lambda: late)
    engaged = rule.engaged(rows.actions)
    ranks = corpus_ranks(scorer, rows, engaged, examples, "test", config.evaluate)
    assert PADDING not in rows.item[ranks.row]
    assert len(ranks.rank) == engaged.sum()
    of_request = np.bincount(ranks.request, minlength=ranks.request.max() + 1)[ranks.request]
    assert (ranks.rank <= of_request).all()  # the others engaged with alone compete


def test_the_best_item_counts_for_the_reciprocal_rank_of_a_request():
    by_request = metrics.corpus_reciprocal_rank_by_request([4, 2, 10], [7, 7, 1])
    assert by_request.tolist() == [0.1, 0.5]  # requests 1 and 7
    assert not len(metrics.corpus_reciprocal_rank_by_request([], []))


@pytest.mark.long  # every feature is counted again
def test_such_a_log_does_not_leak(stations, capsys):
    assert cli.main(["leaks", CONFIG, f"--log={stations.log}"]) == 0
    assert "no leak found" in capsys.readouterr().out
