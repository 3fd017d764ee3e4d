import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli, metrics
from interactrank_jax.evaluation import evaluate, uncertainty
from interactrank_jax.evaluation.external_scores import ExternalScorer, score_files
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.run import Run
from tests.conftest import REPOSITORY
from tests.synthetic import tiny_config

CONFIG = f"--config={REPOSITORY / 'tests' / 'faults' / 'configs.py'}:tiny"


@pytest.fixture(scope="module")
def of_run(trained_run, examples_path):
    """The run's own result, and its scores as a table with the ids of the log."""
    result = evaluate.evaluate(trained_run, examples_path, "test")
    examples = Examples(examples_path)
    saved = Run.open(trained_run).saved_scores(examples, "test")
    requests = examples.raw_requests("test")["request_id"]
    table = pa.table(
        {
            "request_id": requests.take(pa.array(saved["request_index"])),
            "item_id": pa.array(examples.item_ids[saved["item"]].tolist()),
            "score": saved["score"],
        }
    )
    return result, table


def write(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pa_csv.write_csv(table, path)
    return str(path)


def with_scores(table, values):
    place = table.column_names.index("score")
    return table.set_column(place, "score", pa.array(values))


def shuffled(table, seed=0):
    return table.take(pa.array(np.random.default_rng(seed).permutation(len(table))))


def evaluated(scores, examples_path, **arguments):
    return evaluate.evaluate_scores(
        str(scores), examples_path, "test", tiny_config("interactrank"), **arguments
    )


def scorer(scores, examples_path):
    return ExternalScorer(str(scores), Examples(examples_path), "test")


def test_a_runs_own_scores_give_its_own_figures(of_run, examples_path, tmp_path):
    result, table = of_run
    path = write(tmp_path / "mine.parquet", shuffled(table))
    (of_scores,) = evaluated(path, examples_path)
    assert of_scores["name"] == "mine"
    assert of_scores["extra"] == 0
    ranked = [name for name in metrics.METRICS if name != "logloss"]
    for name in ranked:
        assert of_scores["metrics"][name] == pytest.approx(result["metrics"][name], abs=1e-12)
        assert of_scores["intervals"][name] == pytest.approx(result["intervals"][name], abs=1e-12)
    assert np.isnan(of_scores["metrics"]["logloss"])
    assert set(ranked) | {"logloss"} == set(of_scores["metrics"])  # nothing over the corpus


def test_differences_are_paired_with_the_run(of_run, trained_run, examples_path, tmp_path):
    _, table = of_run
    rng = np.random.default_rng(0)
    noisy = table["score"].to_numpy() + rng.normal(size=len(table))
    path = write(tmp_path / "noisy.csv", shuffled(with_scores(table, noisy)))
    config = tiny_config("interactrank").evaluate
    results = evaluate.evaluate_scores(path, examples_path, "test", config, workdir=trained_run)
    of_scores, result = results
    saved = Run.open(trained_run).saved_scores(Examples(examples_path), "test")
    for name in ("roc_auc", "request_auc", "mrr"):
        expected = uncertainty.paired_bootstrap(
            *(saved["request_index"], noisy, saved["score"], saved["engaged"], name),
            replicates=int(config.bootstrap),
        )
        assert of_scores["differences"][name] == pytest.approx(list(expected), abs=1e-9)
        gap = of_scores["metrics"][name] - result["metrics"][name]
        assert of_scores["differences"][name][0] == pytest.approx(gap, abs=1e-9)
    assert "logloss" not in of_scores["differences"]
    same = write(tmp_path / "same.parquet", table)
    of_same, _ = evaluate.evaluate_scores(same, examples_path, "test", config, workdir=trained_run)
    assert all(value == [0, 0, 0] for value in of_same["differences"].values())


def test_files_and_directories_are_read_as_one(of_run, examples_path, tmp_path):
    _, table = of_run
    half = len(table) // 2
    first = write(tmp_path / "parts" / "a.parquet", table.slice(0, half))
    second = write(tmp_path / "parts" / "deep" / "b.csv", table.slice(half))
    write(tmp_path / "parts" / "_old.csv", table)  # hidden, as Spark and Hive have it
    (tmp_path / "parts" / "metadata.json").write_text("{}")
    whole = scorer(write(tmp_path / "whole.parquet", table), examples_path)
    for paths in (
        f"{first},{second}",
        tmp_path / "parts",
        f"{tmp_path / 'parts' / 'deep'},{first}",
    ):
        parts = scorer(paths, examples_path)
        np.testing.assert_array_equal(parts._keys, whole._keys)
        np.testing.assert_allclose(parts._scores, whole._scores)
    assert scorer(tmp_path / "parts", examples_path).name == "parts"


def test_pairs_that_the_split_lacks_are_counted_and_ignored(of_run, examples_path, tmp_path):
    _, table = of_run
    request, item = (table[name][0].as_py() for name in ("request_id", "item_id"))
    shown = [row["item_id"] for row in table.to_pylist() if row["request_id"] == request]
    others = [name for name in table["item_id"].to_pylist() if name not in shown]
    extra = pa.table(
        {
            "request_id": [request, "train-0", "nobody", "nobody"],
            "item_id": [others[0], item, item, item],
            "score": [1.0, float("nan"), None, 2.0],
        }
    )
    path = write(
        tmp_path / "scores.parquet", pa.concat_tables([extra, table], promote_options="permissive")
    )
    (with_extra,), (plain,) = (
        evaluated(name, examples_path) for name in (path, write(tmp_path / "plain.parquet", table))
    )
    assert (with_extra["extra"], plain["extra"]) == (4, 0)
    assert with_extra["metrics"] == pytest.approx(plain["metrics"], nan_ok=True)


def without(table):
    return table.slice(2)


def repeated(table):
    return pa.concat_tables([table, table.slice(0, 3)])


def undefined(table):
    values = table["score"].to_pylist()
    return with_scores(table, [float("nan"), None, *values[2:]])


def renamed(table):
    return table.rename_columns(["request", "item_id", "score"])


BAD = {
    "missing": (
        without,
        r"2 of the split's \d+ candidates have no score, such as request_id 'test-",
    ),
    "empty": (lambda table: table.slice(0, 0), "candidates have no score"),
    "repeated": (repeated, "3 rows repeat a pair, such as request_id 'test-"),
    "undefined": (undefined, "2 scores of candidates are NaN or null, such as that of request_id"),
    "no score": (lambda table: table.drop_columns("score"), "no column 'score', it has request_id"),
    "renamed": (renamed, "has no column 'request_id'"),
    "text": (lambda table: with_scores(table, ["high"] * len(table)), "score"),
    "flags": (lambda table: with_scores(table, [True] * len(table)), "score"),
}


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("name", BAD)
def test_scores_that_do_not_fit_are_refused(of_run, examples_path, tmp_path, name, suffix):
    change, message = BAD[name]
    path = write(tmp_path / f"scores.{suffix}", change(of_run[1]))
    with pytest.raises(InputError, match=message) as caught:
        scorer(path, examples_path)
    assert "scores." in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        score_files(str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match="holds no file that ends in"):
        score_files(str(tmp_path))
    (tmp_path / "scores.txt").write_text("")
    with pytest.raises(InputError, match=r"ends in none of \.parquet, \.csv"):
        score_files(str(tmp_path / "scores.txt"))


@pytest.mark.parametrize("name", ["scores.parquet", "scores.csv"])
def test_a_file_that_is_none_is_refused(examples_path, tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        scorer(tmp_path / name, examples_path)


def test_infinite_scores_rank_first_and_last(of_run, examples_path, tmp_path):
    result, table = of_run
    values = table["score"].to_numpy().astype(float)
    values[values.argmax()], values[values.argmin()] = np.inf, -np.inf
    (figures,) = evaluated(
        write(tmp_path / "scores.csv", with_scores(table, values)), examples_path
    )
    assert figures["metrics"]["roc_auc"] == pytest.approx(result["metrics"]["roc_auc"])


class TestIds:
    """The simulated log has integers for requests and strings for items."""

    @pytest.fixture(scope="class")
    def table(self, tiny_examples):
        examples = Examples(tiny_examples)
        requests = examples.raw_requests("test")["request_id"]
        columns = [], []
        for block in examples.blocks("test"):
            row, column = np.nonzero(block["mask"])
            columns[0].extend(requests.take(pa.array(block["request_index"][row])).to_pylist())
            columns[1].extend(examples.item_ids[block["item"][row, column]])
        score = np.arange(len(columns[0])) * 0.5
        return pa.table({"request_id": columns[0], "item_id": columns[1], "score": score})

    @pytest.mark.parametrize("kind", [pa.int32(), pa.uint64(), pa.string(), pa.large_string()])
    @pytest.mark.parametrize("suffix", ["parquet", "csv"])
    def test_integers_are_known_however_they_are_written(
        self, table, tiny_examples, tmp_path, kind, suffix
    ):
        ids = table["request_id"].cast(kind)
        changed = table.set_column(0, "request_id", ids)
        changed = changed.set_column(1, "item_id", table["item_id"].dictionary_encode())
        if suffix == "csv":
            changed = changed.set_column(1, "item_id", table["item_id"])
        path = write(tmp_path / f"scores.{suffix}", changed)
        found = scorer(path, tiny_examples)
        assert found.extra == 0
        assert len(found._keys) == len(table)

    def test_what_is_no_integer_is_refused(self, table, tiny_examples, tmp_path):
        for ids, message in (
            (["r1"] * len(table), "whose ids are integers"),
            (table["request_id"].cast(pa.float64()), "column 'request_id' is double"),
        ):
            changed = table.set_column(
                0, "request_id", pa.array(ids) if isinstance(ids, list) else ids
            )
            with pytest.raises(InputError, match=message):
                scorer(write(tmp_path / "scores.parquet", changed), tiny_examples)

    def test_strings_of_digits_keep_their_zeros(self, handmade, tmp_path):
        examples = Examples(handmade.root / "examples")
        path = tmp_path / "scores.csv"
        path.write_text("request_id,item_id,score\n007,i1,1\n")
        with pytest.raises(InputError, match="have no score"):
            ExternalScorer(str(path), examples, "test")


class TestCommand:
    def run(self, *argv):
        return cli.main(["evaluate", *argv])

    def test_scores_beside_a_run(self, of_run, trained_run, examples_path, tmp_path, capsys):
        path = write(tmp_path / "other.csv", of_run[1])
        flags = [f"--scores={path}", f"--examples={examples_path}", "--by=user"]
        file = tmp_path / "result.json"
        assert self.run(*flags, f"--workdir={trained_run}", f"--json={file}") == 0
        printed = capsys.readouterr().out
        assert "| other minus interactrank | difference |" in printed
        assert "other: 0 pairs that the split does not have were ignored" in printed
        of_scores, result = files.read_json(file)
        assert set(of_scores["differences"]) < set(result["metrics"])
        assert of_scores["slices"]["user"]
        assert result["slices"]["user"]

    def test_scores_alone_need_a_label(self, of_run, examples_path, tmp_path, capsys):
        flags = [f"--scores={write(tmp_path / 'o.csv', of_run[1])}", f"--examples={examples_path}"]
        assert self.run(*flags) == 2
        assert "--scores without --workdir needs --config" in capsys.readouterr().err
        assert self.run(*flags, CONFIG) == 0
        assert "| o |" in capsys.readouterr().out
        assert self.run(*flags, CONFIG, "--baseline=iqp") == 2
        assert "give either --workdir=RUN" in capsys.readouterr().err

    def test_what_score_wrote_is_read_back(self, trained_run, examples_path, tmp_path):
        index = tmp_path / "index"
        flags = [f"--workdir={trained_run}", f"--examples={examples_path}"]
        assert cli.main(["index", *flags, f"--out={index}"]) == 0
        out = f"--out={tmp_path / 'scores'}"
        assert cli.main(["score", *flags, f"--index={index}", "--split=test", out]) == 0
        of_scores, _ = evaluate.evaluate_scores(
            str(tmp_path / "scores"), examples_path, "test", workdir=trained_run
        )
        for difference, _, _ in of_scores["differences"].values():
            assert difference == pytest.approx(0, abs=1e-5)
