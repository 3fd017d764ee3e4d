"""Logs made wrong on purpose: what is done to a good one, and what has to come of it.

`MUTATIONS` maps a name to (mutation, outcome). A mutation changes the tables, before they are
written, or the directory, after. An outcome is what the error must say (a regular expression); or
`Changes`, of the examples against those of the good log: which arrays may differ, and to what.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.faults.mutate import (
    LIST,
    MEGABYTE,
    MS,
    SAME,
    Changes,
    Mutation,
    as_bytes,
    cast,
    column,
    contents,
    drop,
    everywhere,
    feature,
    invalid_utf8,
    made,
    on_disk,
    one_title,
    part,
    rename,
    rows,
    schema,
    schema_text,
    shuffle,
    slates,
    twice,
    two_columns,
    value,
    zeros,
)

MUTATIONS: dict[str, tuple[Mutation, Any]] = {
    # Columns.
    "no item_id": (drop("items", "item_id"), r"items .*column 'item_id' is missing"),
    "no user_id": (drop("requests", "user_id"), r"requests .*column 'user_id' is missing"),
    "no action": (drop("impressions", "save"), r"impressions .*column 'save' is missing"),
    "no arrival": (drop("events", "arrival_time"), r"events .*'arrival_time' is missing"),
    "no feature": (drop("items", "price"), r"items .*column 'price' is missing"),
    "a column renamed": (
        rename("requests", {"timestamp": "timestamps"}),
        r"column 'timestamp' is missing\. Did you mean 'timestamps'",
    ),
    "a column in capitals": (rename("items", {"item_id": "Item_ID"}), "'item_id' is missing"),
    "a column with a space": (rename("items", {"price": "price "}), "Did you mean 'price '"),
    "a column twice": (
        rows("impressions", two_columns("click")),
        r"impressions .*columns 'click' and 'click' have one name",
    ),
    "two columns but for capitals": (
        rows("impressions", lambda t: t.append_column("Click", t["click"])),
        r"impressions .*columns 'click' and 'Click' have one name, capitals aside",
    ),
    "columns nobody declared": (
        rows("items", lambda t: t.append_column("colour", t["title"])),
        SAME,
    ),
    "columns in another order": (
        rows("requests", lambda t: t.select(t.column_names[::-1])),
        SAME,
    ),
    # Types.
    "time as timestamp": (
        cast("requests", "timestamp", pa.timestamp("s")),
        r"'timestamp' has type timestamp\[ms\]\. Expected an integer",
    ),
    "time as text": (cast("requests", "timestamp", pa.string()), "has type string"),
    "time as float": (cast("events", "event_time", pa.float64()), "has type double"),
    "time in 32 bits": (cast("requests", "timestamp", pa.int32()), SAME),
    "time unsigned": (cast("requests", "timestamp", pa.uint64()), SAME),
    "a decimal": (cast("items", "price", pa.decimal128(12, 2)), "has type decimal128"),
    "a number as text": (cast("items", "price", pa.string()), "has type string"),
    "a number in 16 bits": (cast("items", "price", pa.float16()), SAME),
    "a date": (
        made("requests", "hour", lambda n: [1] * n, pa.date32()),
        "'hour' has type date32",
    ),
    "a struct": (
        made("items", "brand", lambda n: [{"a": 1}] * n, pa.struct([("a", pa.int64())])),
        "'brand' has type struct",
    ),
    "an action in words": (
        made("impressions", "click", lambda n: ["yes"] * n, pa.string()),
        "has type string. Expected a boolean",
    ),
    "an action in floats": (cast("impressions", "save", pa.float32()), "has type float"),
    "an action twice done": (value("impressions", "save", 2), "save=2. Expected 0 or 1"),
    "an id in floats": (cast("requests", "query_id", pa.float64()), "has type double"),
    "an id in bytes": (column("items", "item_id", as_bytes), "has type binary"),
    "an id text here, number there": (
        cast("requests", "query_id", pa.string()),
        "'query_id' is string in requests, int64 in events",
    ),
    "an id of 64 unsigned bits": (
        everywhere("query_id", lambda x: x + 2**63, pa.uint64()),
        "signed 64-bit",
    ),
    "a list in a list": (
        made("requests", "taste", lambda n: [[[0.5]]] * n, pa.list_(LIST)),
        "'taste' has type list<.*list.*Expected a list of floats",
    ),
    "a list of integers": (
        made("requests", "taste", lambda n: [[1, 2, 3]] * n, pa.list_(pa.int64())),
        "'taste' has type list<.*int64",
    ),
    "dictionaries": (column("requests", "country", lambda c: c.dictionary_encode()), SAME),
    "large strings": (cast("items", "item_id", pa.large_string()), SAME),
    "large lists": (cast("requests", "taste", pa.large_list(pa.float64())), SAME),
    "lists of fixed size": (cast("requests", "taste", pa.list_(pa.float64(), 3)), SAME),
    "booleans as integers": (cast("impressions", "click", pa.int8()), SAME),
    "positions in 16 bits": (cast("impressions", "position", pa.int16()), SAME),
    # Nulls.
    "no request id": (value("requests", "request_id", None), r"'request_id' is wrong in 1 of"),
    "no time": (value("requests", "timestamp", None), "'timestamp' is wrong in 1 of"),
    "no text": (value("items", "title", None), "'title' is wrong in 1 of"),
    "no number": (value("items", "price", None), "'price' is wrong in 1 of"),
    "no label": (value("impressions", "click", None), "'click' is wrong in 1 of"),
    "no embedding": (value("requests", "taste", None), "'taste' is wrong in 1 of"),
    "nothing in a column": (
        made("items", "title", lambda n: [None] * n, pa.null()),
        "'title' has type null",
    ),
    "no event has a query": (
        made("events", "query_id", lambda n: [None] * n, pa.null()),
        Changes(
            ("*/query_history_item", "*/cross*", "cross/*", "statistics"),
            zeros("train/query_history_item", "test/query_history_item"),
        ),
    ),
    # Encodings and strings.
    "Latin-1 in a text": (column("items", "title", invalid_utf8), r"items.*'title'.*UTF-?8"),
    "Latin-1 in an id": (column("items", "item_id", invalid_utf8), r"items.*'item_id'.*UTF-?8"),
    "ids that differ after a NUL": (
        everywhere("request_id", lambda x: x.replace("r", "r\0")),
        SAME,
    ),
    "ids of emoji": (everywhere("request_id", lambda x: x.replace("r", "🛒")), SAME),
    "ids from right to left": (everywhere("request_id", lambda x: "\u202eم" + x), SAME),
    "an id without letters": (everywhere("user_id", lambda x: "" if x == "u0" else x), SAME),
    "an id decomposed on one side": (
        value("impressions", "item_id", "ite\u0301"),
        "'item_id' is unknown to items in 1 of",
    ),
    "a text of emoji": (value("items", "title", "🛒 🛍️"), one_title(lambda t: True)),
    "a text of blanks": (
        value("items", "title", " \t\u00a0"),
        one_title(lambda tokens: not tokens.any()),
    ),
    "a text of a megabyte": (
        value("items", "title", "word " * (MEGABYTE // 5)),
        one_title(lambda tokens: bool(tokens.all())),
    ),
    "an id of a megabyte": (
        everywhere("user_id", lambda x: x * (MEGABYTE // 2) if x == "u0" else x),
        SAME,
    ),
    # Duplicates and orders.
    "an item twice": (rows("items", twice), "items: column 'item_id' repeats: 1 of"),
    "a request twice": (rows("requests", twice), "requests: column 'request_id' repeats: 1 of"),
    "an impression twice": (rows("impressions", twice), "impressions: column .* repeats: 1 of"),
    "an event twice": (rows("events", twice), SAME),
    "requests in another order": (rows("requests", shuffle), SAME),
    "impressions in another order": (rows("impressions", shuffle), SAME),
    "events in another order": (rows("events", shuffle), SAME),
    "one position for two": (
        made("impressions", "position", lambda n: [0] * n, pa.int64()),
        Changes(
            ("train/*", "validation/*", "test/*"),
            lambda good, found: all(
                slates(good, split) == slates(found, split) and not found[f"{split}/position"].any()
                for split in ("train", "validation", "test")
            ),
        ),
    ),
    "positions that start at 5": (
        column("impressions", "position", lambda c: pa.array(c.to_numpy() + 5)),
        Changes(
            ("*/position",),
            lambda good, found: np.array_equal(
                (good["test/position"] + 5) * good["test/mask"], found["test/position"]
            ),
        ),
    ),
    # Empty tables.
    "no items": (rows("items", lambda t: t.slice(0, 0)), "items .* the table is empty"),
    "no requests": (rows("requests", lambda t: t.slice(0, 0)), "requests .* is empty"),
    "no impressions": (rows("impressions", lambda t: t.slice(0, 0)), "impressions .* is empty"),
    "no events": (rows("events", lambda t: t.slice(0, 0)), "events .* is empty.*remove it"),
    "a request without impressions": (
        rows("impressions", lambda t: t.filter(pc.not_equal(t["request_id"], "r0003"))),
        Changes(
            ("*",),
            lambda good, found: (
                set(good["requests"]) - set(found["requests"]) == {"r0003"}
                and set(found["requests"]) < set(good["requests"])
            ),
        ),
    ),
    # Numbers.
    "NaN": (value("items", "price", float("nan")), "price=nan. Expected finite"),
    "infinity": (value("requests", "tenure", float("inf")), "tenure=inf. Expected finite"),
    "a number beyond float32": (value("items", "price", 1e300), r"price=1e\+300"),
    "a position beyond int32": (
        value("impressions", "position", 2**31),
        "position=2147483648",
    ),
    "a position below zero": (value("impressions", "position", -1), "position=-1"),
    "NaN in an embedding": (value("requests", "taste", [0, float("nan"), 0]), "'taste' is wrong"),
    "an embedding cut short": (value("requests", "taste", [0.0]), "lists of 1 to 3 numbers"),
    "a propensity of zero": (value("impressions", "propensity", 0.0), "propensity=0.0"),
    "a propensity above one": (value("impressions", "propensity", 1.1), "propensity=1.1"),
    # Times.
    "milliseconds": (
        column("requests", "timestamp", lambda c: pa.array(c.to_numpy() * MS)),
        "look like milliseconds: divide by 1000",
    ),
    "the year 2200": (value("requests", "timestamp", 7_258_118_400), "between 1990 and 2100"),
    "before 1970": (value("requests", "timestamp", -5), "timestamp=-5. Expected UTC seconds"),
    "the beginning of time": (value("events", "event_time", 0), "event_time=0. Expected UTC"),
    "arrival before the event": (
        value("events", "arrival_time", 700_000_000),
        "Expected arrival at or after the event",
    ),
    "one moment for all": (
        made("requests", "timestamp", lambda n: [1_700_000_000] * n, pa.int64()),
        "split is empty",
    ),
    "an event after all requests": (
        column("events", "arrival_time", lambda c: pa.array(c.to_numpy() + 10**8)),
        Changes(
            (
                "*/history_*",
                "*/query_history_item",
                "*/cross*",
                "cross/*",
                "*/request_numeric",
                "statistics",
            ),
            zeros("train/history_item", "test/history_item", "test/query_history_item"),
        ),
    ),
    # What refers to nothing.
    "an unknown item": (value("impressions", "item_id", "i99"), "unknown to items in 1 of"),
    "an unknown request": (value("impressions", "request_id", "r9"), "unknown to requests in 1"),
    "an event of an unknown item": (value("events", "item_id", "i99"), "unknown to items in 1 of"),
    "an undeclared action": (value("events", "action", "buy"), "action='buy'"),
    "an unknown stage": (value("impressions", "stage", "seen"), "stage='seen'"),
    # The schema.
    "no schema": (on_disk(lambda log: (log / "schema.json").unlink()), "no schema.json"),
    "a schema cut short": (schema_text(lambda b: b[:50]), r"schema\.json is not valid JSON"),
    "a schema in UTF-16": (
        schema_text(lambda b: b.decode().encode("utf-16")),
        r"schema\.json is not valid JSON",
    ),
    "a schema with a byte order mark": (
        schema_text(lambda b: b"\xef\xbb\xbf" + b),
        r"schema\.json is not valid JSON",
    ),
    "a schema that is a list": (schema_text(lambda b: b"[" + b + b"]"), "expected a JSON object"),
    "a field twice": (
        schema_text(lambda b: b.replace(b'"actions"', b'"actions": ["click"], "actions"', 1)),
        r"schema\.json.*'actions' occurs twice",
    ),
    "another format": (schema(format="csv"), '"format": "interactrank-log"'),
    "a later version": (schema(version=2), "version is 2, this release reads 1"),
    "an unknown field": (schema(timeles=True), "'timeles'.* Did you mean 'timeless'"),
    "timeless with events": (schema(timeless=True), "is timeless: its requests have no timestamp"),
    "no actions": (schema(actions=[]), "no actions"),
    "an action that is a number": (schema(actions=[1]), "action name 1 is malformed"),
    "an action that is a list": (schema(actions=[["click"]]), r"action name \['click'\]"),
    "an action not in the log": (
        schema(actions=["click", "save", "buy"]),
        r"impressions .*'buy' is missing",
    ),
    "a feature of no kind": (feature(kind="categoric"), "Did you mean 'categorical'"),
    "a feature of a list as kind": (feature(kind=["text"]), r"has kind '\['text'\]'"),
    "a feature of no entity": (feature(entity="users"), "Did you mean 'user'"),
    "a feature of a reserved name": (feature(name="item_id"), "'item_id' is reserved"),
    "a feature declared twice": (feature(name="price"), "'price' is declared twice"),
    "a feature not in the log": (feature(7, name="bran"), "'bran' is missing. Did you mean"),
    "a feature that misses its kind": (feature(kind=None), "has kind 'None'"),
    "a path as a feature": (feature(name="../x"), "malformed"),
    # Files.
    "a file cut short": (
        contents("items.parquet", lambda b: b[: len(b) // 2]),
        r"items\.parquet is not a readable Parquet file",
    ),
    "a file of nothing": (contents("items.parquet", lambda b: b""), "not a readable Parquet file"),
    "a table as CSV": (
        contents("items.parquet", lambda b: b"item_id,title\ni0,Item\n"),
        r"items\.parquet is not a readable Parquet file",
    ),
    "another extension": (
        on_disk(lambda log: (log / "items.parquet").rename(log / "items.pq")),
        r"no table 'items'\. Expected items\.parquet",
    ),
    "a directory without parts": (
        on_disk(lambda log: [p.unlink() for p in (log / "impressions").iterdir()]),
        "no table 'impressions'",
    ),
    "a table twice": (
        on_disk(
            lambda log: (log / "impressions" / "0.parquet").rename(log / "impressions.parquet")
        ),
        r"holds both impressions\.parquet and impressions/",
    ),
    "a part with another type": (
        part(lambda t: t.set_column(0, "request_id", pa.array([7] * len(t)))),
        r"1\.parquet\): column 'request_id' has type int64, in .*0\.parquet it has type string",
    ),
    "a part that lacks a column": (
        part(lambda t: t.drop_columns(["position"])),
        r"1\.parquet\): column 'position' is missing",
    ),
    "a part that lacks an optional column": (
        part(lambda t: t.drop_columns(["propensity"])),
        r"1\.parquet\): column 'propensity' is missing",
    ),
    "a part without rows": (
        on_disk(
            lambda log: pq.write_table(
                pq.read_table(log / "impressions" / "1.parquet").slice(0, 0),
                log / "impressions" / "2.parquet",
            )
        ),
        SAME,
    ),
    "a part with narrower integers": (
        part(lambda t: t.set_column(2, "position", t["position"].cast(pa.int8()))),
        SAME,
    ),
    "a directory beside its file": (
        on_disk(lambda log: (log / "items").mkdir()),
        r"holds both items\.parquet and items/",
    ),
    "marks of another writer": (
        on_disk(lambda log: (log / "impressions" / "_SUCCESS").write_text("")),
        SAME,
    ),
}
