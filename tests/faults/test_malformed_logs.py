"""Every malformed log of `mutations.py` is a clear error, or a result that is said: none silent."""

import fnmatch
import json

import numpy as np
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from tests.faults.mutate import Arrays
from tests.faults.mutations import MUTATIONS
from tests.log.handmade_log import data_config, write_log

CONFIG = data_config(block_size=8)


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


@pytest.fixture(scope="module")
def good(prepared):
    return arrays(prepared)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_malformed_log(name, log_tables, good_log, good, tmp_path):
    (kind, mutate), outcome = MUTATIONS[name]
    tables = dict(log_tables)
    if kind == "tables":
        mutate(tables)
    log = write_log(tmp_path / "log", tables)
    (log / "schema.json").write_text((good_log / "schema.json").read_text())
    if kind == "disk":
        mutate(log)
    out = tmp_path / "out"
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


def test_there_are_sixty_and_more():
    assert len(MUTATIONS) > 120
    errors = [outcome for _, outcome in MUTATIONS.values() if isinstance(outcome, str)]
    assert len(errors) > 90
