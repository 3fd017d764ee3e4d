"""Every malformed log of `mutations.py` is a clear error, or a result that is said: none silent."""

import fnmatch
import json
import re

import numpy as np
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.state import engines
from interactrank_jax.state.build import build_store
from tests.faults.mutate import SAME, Arrays
from tests.faults.mutations import MUTATIONS
from tests.log.handmade_log import data_config, write_log
from tests.marks import some_quick
from tests.state.conftest import everything

CONFIG = data_config(block_size=8)
QUICK = list(MUTATIONS)[::16]


def arrays(path) -> Arrays:
    """Returns everything that the examples hold by name, raw rows aside."""
    examples = Examples(path)
    found = {f"items/{name}": np.asarray(value) for name, value in examples.items.items()}
    requests = []
    for split in examples.metadata.splits:
        blocks = list(examples.blocks(split))
        for name in blocks[0]:
            found[f"{split}/{name}"] = np.concatenate([block[name] for block in blocks])
        if examples.has_corpus(split):
            cross = examples.sparse_cross(split)
            for name in ("group", "indptr", "item", "value"):
                found[f"cross/{split}/{name}"] = np.asarray(getattr(cross, name))
        requests += examples.raw_requests(split)["request_id"].to_pylist()
    metadata = examples.encoder.to_json()
    found["tables"] = np.array([json.dumps(metadata["tables"])])
    names = ("numeric_statistics", "cross_statistics")
    found["statistics"] = np.array([json.dumps([metadata[name] for name in names])])
    return found | {"requests": np.array(requests)}


def malformed(name, log_tables, good_log, tmp_path):
    """Writes a malformed log; returns its path."""
    (kind, mutate), _ = MUTATIONS[name]
    tables = dict(log_tables)
    if kind == "tables":
        mutate(tables)
    log = write_log(tmp_path / "log", tables)
    (log / "schema.json").write_text((good_log / "schema.json").read_text())
    if kind == "disk":
        mutate(log)
    return log


@pytest.fixture(scope="module")
def good(prepared):
    return arrays(prepared)


@pytest.mark.parametrize("name", some_quick(MUTATIONS, QUICK, MUTATIONS))
def test_a_malformed_log(name, log_tables, good_log, good, tmp_path):
    _, outcome = MUTATIONS[name]
    log, out = malformed(name, log_tables, good_log, tmp_path), tmp_path / "out"
    if isinstance(outcome, str):
        with pytest.raises(InputError, match=f"(?s){outcome}"):
            prepare(CONFIG, log, out)
        assert [path.name for path in tmp_path.iterdir()] == ["log"]  # nothing was left behind
        return
    prepare(CONFIG, log, out)
    found = arrays(out)
    assert found.keys() == good.keys()
    different = {
        key
        for key in good.keys() - {"requests"}
        if good[key].dtype != found[key].dtype or not np.array_equal(good[key], found[key])
    }
    unexpected = {
        key
        for key in different
        if not any(fnmatch.fnmatch(key, pattern) for pattern in outcome.arrays)
    }
    assert not unexpected
    assert bool(different) == bool(outcome.arrays)
    assert outcome.hold(good, found)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with engines.connect("duckdb", tmp_path_factory.mktemp("engine") / "scratch") as backend:
        yield backend


@pytest.fixture(scope="module")
def good_counts(good_log, engine, tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "state"
    return counts(build_store(CONFIG, open_log(good_log), path, engine), engine)


def counts(store, engine):
    """Returns what STATE counted, by keys; users and texts aside."""
    return {
        name: table
        for name, table in everything(store, engine).items()
        if name == "query_items" or name.startswith("counts")
    }


@pytest.mark.parametrize("name", MUTATIONS)
@pytest.mark.thorough  # the checks are those of the test before
def test_a_malformed_log_in_state_build(name, log_tables, good_log, good_counts, engine, tmp_path):
    """Refused, or counted as the good log; what STATE does not look at, prepare refuses."""
    _, outcome = MUTATIONS[name]
    log, state = malformed(name, log_tables, good_log, tmp_path), tmp_path / "state"
    message = ""
    try:
        store = build_store(CONFIG, open_log(log), state, engine)
    except InputError as error:
        message = str(error)
    if message:
        assert isinstance(outcome, str), message
        assert re.search(OTHER_WORDS.get(name, outcome), message, re.DOTALL), message
        assert not list(state.glob("chunks/*"))
    elif outcome == SAME:
        assert counts(store, engine) == good_counts
    elif isinstance(outcome, str):
        with pytest.raises(InputError, match=f"(?s){outcome}"):
            prepare(CONFIG, log, tmp_path / "out", state=state)
        assert not (tmp_path / "out").exists()


# Errors that say it from where STATE stands.
OTHER_WORDS = {"timeless with events": "is timeless, so its STATE has folds for days"}


def test_there_are_sixty_and_more():
    assert len(MUTATIONS) > 120
    errors = [outcome for _, outcome in MUTATIONS.values() if isinstance(outcome, str)]
    assert len(errors) > 90
