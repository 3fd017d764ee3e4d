"""A log made of data frames: what is written, what is guessed, and what is refused by name."""

import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import Log, open_log
from interactrank_jax.log.schema import FeatureSpec, Schema
from tests.log import handmade_log
from tests.marks import some_quick

TEXTS = {"title": "text", "query_text": "text"}
OF_USERS = ("country", "tenure")


@pytest.fixture(scope="module")
def tables():
    """Arrow tables of a log with everything in it."""
    return handmade_log.make_tables()


def from_frames(frames, **arguments):
    arguments = {"actions": handmade_log.ACTIONS, "kinds": TEXTS} | arguments
    return Log.from_frames(**frames, **arguments)


def small_frames(**changes):
    """Returns a log of two items and three impressions; `table__column` sets or drops (None)."""
    frames = {
        "items": pd.DataFrame({"item_id": ["a", "b"], "price": [1.5, 2.0]}),
        "requests": pd.DataFrame(
            {
                "request_id": [1, 2],
                "user_id": ["u", "v"],
                "query_id": ["q", "q"],
                "timestamp": pd.to_datetime(["2024-05-01 10:00", "2024-05-02 11:30"]),
            }
        ),
        "impressions": pd.DataFrame(
            {
                "request_id": [1, 1, 2],
                "item_id": ["a", "b", "b"],
                "position": [0, 1, 0],
                "click": [True, False, True],
            }
        ),
        "events": pd.DataFrame(
            {
                "event_id": [10, 11],
                "user_id": ["u", "v"],
                "query_id": ["q", None],
                "item_id": ["a", "b"],
                "action": ["click", "click"],
                "event_time": [1_714_550_000, 1_714_550_100],
                "arrival_time": [1_714_550_000, 1_714_550_200],
            }
        ),
    }
    for name, values in changes.items():
        table, _, column = name.partition("__")
        if values is None:
            del frames[table][column]
        else:
            frames[table][column] = values
    return frames


def small_log(frames=None, **arguments):
    frames = small_frames() if frames is None else frames
    return Log.from_frames(**frames, **({"actions": ("click",)} | arguments))


def written(table, frames, **arguments):
    """Returns a table of a log of such frames, as it is on disk; the log goes."""
    log = small_log(frames, **arguments)
    return pq.read_table(log.path / f"{table}.parquet")


class Streamed:
    """A data frame of another library, as Polars': Arrow's stream of views and large lists."""

    def __init__(self, table):
        wide = {pa.string(): pa.string_view(), pa.large_string(): pa.string_view()}
        fields = []
        for field in table.schema:
            kind = wide.get(field.type, field.type)
            if pa.types.is_list(kind):
                kind = pa.large_list(kind.value_type)
            fields.append((field.name, kind))
        self._table = table.cast(pa.schema(fields))

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


MAKERS = {
    "arrow": lambda table: table,
    "pandas": lambda table: table.to_pandas(),
    "pandas with arrow types": lambda table: table.to_pandas(types_mapper=pd.ArrowDtype),
    "a stream": Streamed,
    "columns": lambda table: {
        name: table[name].to_numpy() if name in ("price", "position") else table[name].to_pylist()
        for name in table.column_names
    },
}


class TestWhatIsWritten:
    @pytest.mark.parametrize("make", some_quick(MAKERS, ["arrow"], MAKERS))
    def test_examples_of_it_are_those_of_the_log_by_hand(
        self, tables, prepared_by_hand, make, tmp_path
    ):
        frames = {name: MAKERS[make](table) for name, table in tables.items()}
        log = from_frames(frames, user_features=OF_USERS)
        assert set(log.schema.features) == set(handmade_log.FEATURES)
        prepare(handmade_log.data_config(), log.path, tmp_path / "examples")
        expected, examples = Examples(prepared_by_hand), Examples(tmp_path / "examples")
        assert examples.encoder.difference(expected.encoder) is None
        assert examples.metadata.log_statistics == expected.metadata.log_statistics
        for split in examples.metadata.splits:
            for block, other in zip(examples.blocks(split), expected.blocks(split), strict=True):
                for name, values in other.items():
                    np.testing.assert_array_equal(block[name], values, err_msg=name)

    @pytest.fixture(scope="class")
    def prepared_by_hand(self, tables, tmp_path_factory):
        root = tmp_path_factory.mktemp("by hand")
        handmade_log.write_log(root / "log", tables)
        # The order of features is that of columns, items first.
        columns = [*tables["items"].column_names, *tables["requests"].column_names]
        features = sorted(handmade_log.FEATURES, key=lambda spec: columns.index(spec.name))
        Schema(tuple(features), handmade_log.ACTIONS).save(root / "log")
        prepare(handmade_log.data_config(), root / "log", root / "examples")
        return root / "examples"

    def test_a_log_without_a_place_goes_with_its_object(self):
        log = small_log()
        path = log.path
        assert open_log(path).schema == log.schema
        del log
        assert not path.exists()
        assert not path.parent.exists()

    def test_a_log_with_a_place_stays(self, tmp_path):
        log = small_log(path=tmp_path / "log")
        assert log.path == tmp_path / "log"
        del log
        assert sorted(path.name for path in (tmp_path / "log").iterdir()) == [
            *("events.parquet", "impressions.parquet", "items.parquet", "requests.parquet"),
            "schema.json",
        ]

    def test_nothing_is_left_of_a_log_that_does_not_hold(self, tmp_path):
        with pytest.raises(InputError):
            small_log(small_frames(impressions__item_id=["a", "b", "c"]), path=tmp_path / "log")
        assert list(tmp_path.iterdir()) == []

    def test_frames_are_left_as_they_were(self):
        frames = small_frames()
        before = {name: frame.copy() for name, frame in frames.items()}
        small_log(frames)
        for name, frame in frames.items():
            pd.testing.assert_frame_equal(frame, before[name])

    @pytest.mark.parametrize(
        "times",
        [
            ["2024-05-01 10:00", "2024-05-02 11:30"],
            pd.to_datetime(["2024-05-01 10:00", "2024-05-02 11:30"]),
            pd.to_datetime(["2024-05-01 12:00", "2024-05-02 13:30"]).tz_localize("Europe/Berlin"),
            [1_714_557_600, 1_714_649_400],
            [1_714_557_600.0, 1_714_649_400.0],
        ],
        ids=["text", "timestamps", "with a zone", "seconds", "floats"],
    )
    def test_times_are_utc_seconds_however_they_are_given(self, times):
        requests = written("requests", small_frames(requests__timestamp=times))
        assert requests["timestamp"].to_pylist() == [1_714_557_600, 1_714_649_400]

    def test_items_may_have_been_created_at_no_known_time(self):
        times = [pd.NaT, pd.Timestamp("2024-05-01")]
        items = written("items", small_frames(items__created_at=times))
        assert items["created_at"].to_pylist() == [None, 1_714_521_600]

    def test_ids_that_a_missing_one_turned_into_floats_are_integers_again(self):
        frames = small_frames(
            requests__query_id=[3, 4], events__query_id=[3.0, np.nan], events__event_id=[1.0, 2.0]
        )
        events = written("events", frames)
        assert events["query_id"].to_pylist() == [3, None]
        assert events["event_id"].to_pylist() == [1, 2]

    def test_columns_that_nobody_named_are_left_out_and_logged(self, caplog):
        frames = small_frames(impressions__device=["x", "y", "z"], impressions__propensity=0.5)
        with caplog.at_level(logging.INFO):
            impressions = written("impressions", frames)
        names = ["request_id", "item_id", "position", "click", "propensity"]
        assert impressions.column_names == names
        assert "not used: 'device' of impressions" in caplog.text

    def test_events_hold_the_segment_as_it_was(self):
        frames = small_frames(requests__plan=["free", "paid"], events__plan=["free", None])
        log = small_log(frames, actions="click", user_features="plan")  # one name will do
        assert log.schema.features[-1] == FeatureSpec("plan", "user", "categorical")
        assert pq.read_table(log.path / "events.parquet")["plan"].to_pylist() == ["free", ""]

    def test_a_timeless_log_has_no_times(self):
        frames = small_frames(requests__timestamp=None) | {"events": None}
        log = small_log(frames, timeless=True)
        assert log.schema.timeless
        assert not log.has_events

    def test_a_schema_says_everything(self):
        schema = Schema((FeatureSpec("price", "item", "categorical"),), ("click",))
        log = small_log(actions=None, schema=schema)
        assert log.schema == schema
        assert pq.read_table(log.path / "items.parquet")["price"].to_pylist() == ["1.5", "2"]


class TestKinds:
    def test_are_guessed_from_the_values(self):
        frames = small_frames(
            items__brand=["x", "y"],
            items__stock=[True, False],
            items__vector=[np.ones(3, np.float32), np.zeros(3, np.float32)],
            requests__hour=[3, 4],
        )
        kinds = {spec.name: (spec.entity, spec.kind) for spec in small_log(frames).schema.features}
        assert kinds == {
            "price": ("item", "numeric"),
            "brand": ("item", "categorical"),
            "stock": ("item", "categorical"),
            "vector": ("item", "embedding"),
            "hour": ("request", "numeric"),
        }

    def test_a_matrix_is_a_column_of_embeddings(self):
        frames = small_frames()
        frames["items"] = {"item_id": ["a", "b"], "vector": np.eye(2, 3)}
        assert small_log(frames).schema.features == (FeatureSpec("vector", "item", "embedding"),)

    def test_what_is_declared_holds(self):
        frames = small_frames(items__zip=[10115, 20095], items__note=["a b", "c"], items__n=[1, 2])
        kinds = {"zip": "categorical", "note": "text", "n": "ignore"}
        features = small_log(frames, kinds=kinds).schema.features
        assert [(spec.name, spec.kind) for spec in features] == [
            *(("price", "numeric"), ("zip", "categorical"), ("note", "text")),
        ]

    def test_what_looks_odd_is_a_warning_that_names_the_remedy(self, caplog):
        frames = small_frames(items__zip=[10115, 20095], items__size=["1", "2"])
        small_log(frames)
        assert "zip: integers named like codes: if so, kinds={'zip': 'categorical'}." in caplog.text
        assert "if they count something, kinds={'size': 'numeric'}." in caplog.text
        assert "--" not in caplog.text

    def test_row_numbers_of_pandas_are_no_feature(self):
        frames = small_frames()
        frames["items"].insert(0, "Unnamed: 0", [0, 1])
        frames["items"].index = [5, 7]
        assert [spec.name for spec in small_log(frames).schema.features] == ["price"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"items__item_id": None}, "items: column 'item_id' is missing"),
            ({"requests__timestamp": None}, "requests: column 'timestamp' is missing.*timeless"),
            ({"impressions__position": None}, "impressions: column 'position' is missing.*from 0"),
            ({"impressions__click": None}, "impressions: column 'click' is missing"),
            ({"events__arrival_time": None}, "events: column 'arrival_time' is missing.*event_tim"),
            ({"items__price": ["x", object()]}, "items: column 'price' cannot be read"),
            ({"items__price": [1.0, np.nan]}, "items: column 'price' is not a finite number in 1"),
            ({"items__item_id": ["a", "a"]}, "items: column 'item_id' repeats: 1 of 2 rows"),
            ({"items__item_id": ["a", None]}, "items: column 'item_id' is empty in 1 of 2 rows"),
            ({"requests__request_id": [1, 1]}, "requests: column 'request_id' repeats"),
            ({"impressions__item_id": ["a", "b", "z"]}, "impressions.*item_id.*item_id='z'"),
            ({"impressions__request_id": [1, 1, 9]}, "impressions.*request_id.*request_id=9"),
            ({"impressions__click": [0.0, 1.0, 0.0]}, "impressions: column 'click' has type doub"),
            ({"impressions__click": [0, 1, 2]}, "impressions: column 'click' is wrong in 1 of 3"),
            ({"events__action": ["click", "buy"]}, "events: column 'action' is wrong in 1 of 2"),
            ({"events__item_id": ["a", "z"]}, "events.*item_id.*item_id='z'"),
            ({"events__event_time": ["soon", "now"]}, "events: column 'event_time' is no time"),
            ({"requests__timestamp": [1e12, 2e12]}, "requests: column 'timestamp' is wrong.*milli"),
            (
                {"requests__request_id": ["1", "2"]},
                "column 'request_id' is string in requests, int",
            ),
            ({"requests__price": [1.0, 2.0]}, "feature 'price' is declared twice.*items and req"),
            ({"items__text": ["x", "y"]}, "feature name 'text' is reserved.*kinds="),
        ],
    )
    def test_name_table_and_column(self, changes, message):
        with pytest.raises(InputError, match=message) as raised:
            small_log(small_frames(**changes))
        assert "parquet" not in str(raised.value)
        assert "--" not in str(raised.value)

    @pytest.mark.parametrize("place", ["item_id", "made_up"])
    def test_a_named_index_of_pandas_would_be_lost(self, place):
        frames = small_frames()
        frames["items"] = frames["items"].rename(columns={"price": "made_up"}).set_index(place)
        with pytest.raises(InputError, match=rf"items: '{place}' is the index.*reset_index"):
            small_log(frames)

    def test_columns_of_one_name(self):
        frames = small_frames()
        frames["items"].columns = ["item_id", "Item_id"]
        with pytest.raises(InputError, match="items: columns 'item_id' and 'Item_id' have one"):
            small_log(frames)

    def test_columns_of_several_lengths(self):
        frames = small_frames() | {"items": {"item_id": ["a", "b"], "price": [1.0]}}
        with pytest.raises(InputError, match="items: column 'price' has 1 values, 'item_id' has 2"):
            small_log(frames)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"actions": None}, r"no actions.*Its columns: position, click"),
            ({"actions": ("clik",)}, r"impressions: column 'clik' is missing.*mean 'click'"),
            ({"kinds": {"prize": "text"}}, "kinds names 'prize'.*Did you mean 'price'"),
            ({"kinds": {"price": "texts"}}, "kinds=.*Did you mean 'text'"),
            ({"user_features": ("price",)}, "user_features names 'price', no feature of requests"),
            ({"schema": Schema((), ("click",))}, "schema=.*Expected it alone"),
            ({"timeless": True}, "a timeless log cannot hold events"),
        ],
    )
    def test_arguments_that_do_not_fit(self, arguments, message):
        with pytest.raises(InputError, match=message):
            small_log(**arguments)

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (None, "the log has no items"),
            ([1, 2], "items is list. Expected a data frame"),
            (pd.DataFrame({"item_id": []}), "items: the table is empty"),
        ],
    )
    def test_what_is_no_table(self, frame, message):
        with pytest.raises(InputError, match=message):
            small_log(small_frames() | {"items": frame})
