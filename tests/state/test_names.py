"""Names of the log's features and actions meet no column of STATE, capitals aside."""

import dataclasses

import pyarrow.compute as pc
import pytest

from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.log.schema import Schema
from interactrank_jax.state import positions
from interactrank_jax.state.build import build_store
from tests.log.handmade_log import ACTIONS, data_config, make_tables, replace, write_log
from tests.state.conftest import MEANS, by_pair, features_of, state_config

CLICKS = {
    "history.rates": (),
    "history.actions": ("click",),
    "query_history.actions": ("click",),
}


def _renamed(path, name):
    """Returns a log whose feature 'country' has another name."""
    tables = make_tables()
    for table in ("requests", "events"):
        tables[table] = tables[table].rename_columns({"country": name})
    write_log(path, tables)
    schema = Schema.load(path)
    renamed = (dataclasses.replace(schema.features[0], name=name), *schema.features[1:])
    dataclasses.replace(schema, features=renamed).save(path)
    return open_log(path)


@pytest.mark.parametrize("name", ["period", "PERIOD", "Time", "rank"])
def test_an_action_called_like_a_column_is_refused(name, backend, tmp_path):
    tables = make_tables(40)
    tables["impressions"] = tables["impressions"].rename_columns({"save": name})
    actions = [{"save": name}.get(action, action) for action in ACTIONS]
    named = pc.replace_substring(tables["events"]["action"], "save", name)
    tables["events"] = replace(tables["events"], "action", named)
    log = open_log(write_log(tmp_path / "log", tables, tuple(actions)))
    by_name = data_config(**{**CLICKS, "cross.features": (f"share:{name}:7",)})
    for use in (
        lambda: build_store(
            state_config(**{"cross.features": ("share:click:7",)}), log, tmp_path / "state", backend
        ),
        lambda: positions.position_weights(log, backend, "click"),
        lambda: prepare(by_name, log.path, tmp_path / "examples"),
    ):
        with pytest.raises(InputError, match=f"an action cannot be called '{name}'"):
            use()
    assert [path.name for path in tmp_path.iterdir() if path.name != "scratch"] == ["log"]


@pytest.mark.parametrize("name", ["period", "Period", "CLICK", "weight", "Fresh"])
def test_a_segment_called_like_a_column_is_refused(name, backend, tmp_path):
    log = _renamed(tmp_path / "log", name)
    config = state_config(**{"cross.features": (f"share:click:7:{name}",)})
    config.cross.fresh_days = 9 if name == "Fresh" else 0
    expected = f"a segment cannot be called '{name}'|'{name}' is a feature of the log"
    with pytest.raises(InputError, match=expected):
        build_store(config, log, tmp_path / "state", backend)
    with pytest.raises(InputError, match=expected):
        prepare(config, log.path, tmp_path / "examples")
    assert not (tmp_path / "state").exists()


@pytest.mark.long  # builds a state several times
@pytest.mark.parametrize("name", ["click_7", "click_7_0", "all"])
def test_no_count_is_called_like_a_segment(name, whole, backend, tmp_path):
    """Whatever the log's own columns are called."""
    log = _renamed(tmp_path / "log", name)
    specs = ("share:click:7:{0}", "rate:click:7", "item_share:click:7:{0}")
    tables = []
    for segment, opened in ((name, log), ("country", _renamed(tmp_path / "plain", "country"))):
        names = tuple(spec.format(segment) for spec in specs)
        config = state_config(**{"cross.features": names})
        held = build_store(config, opened, tmp_path / f"state by {segment}", backend)
        table = by_pair(features_of(opened, held, backend, MEANS))
        tables.append(table.rename_columns([*table.column_names[:4], *specs]))
    assert tables[0] == tables[1]
    assert max(tables[0][specs[0]].to_pylist()) > 0


def test_a_segment_that_requests_lack_is_refused(backend, tmp_path):
    tables = make_tables(40)
    tables["requests"] = tables["requests"].drop_columns(["country"])
    log = open_log(write_log(tmp_path / "log", tables))
    config = state_config(**{"cross.features": ("share:click:7:country",)})
    with pytest.raises(InputError, match="'country' is missing, which config"):
        build_store(config, log, tmp_path / "state", backend)
    # What is not counted by may be absent.
    config = state_config(**{"cross.features": ("share:click:7",)})
    assert build_store(config, log, tmp_path / "others", backend).chunks
