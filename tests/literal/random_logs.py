"""Small random logs: rows as plain dictionaries, so that a reading needs no library for them.

A log is drawn from a seed alone. It holds what the contract allows and logs in the field have:
several requests of one second, requests at midnight and without candidates, events that arrive days
late or twice, users and queries that no request has, nulls, ids and columns of every type.
"""

import dataclasses
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.log.schema import FeatureSpec, Schema

DAY = 86_400
START = 19_000 * DAY  # midnight
DELAYS = (
    1,
    60,
    3600,
    100_000,
)  # seconds after which an event may be used, on the edge of which some are
EVENTS, TIMED, TIMELESS, AT_RANDOM = (
    *("timed with events", "timed", "timeless", "timed, split at random"),
)
KINDS = (EVENTS, TIMELESS, TIMED, EVENTS, AT_RANDOM)  # taken in turn
ACTIONS = ("save", "click", "buy")  # not in the order of their names
FEATURES = (
    FeatureSpec("country", "user", "categorical"),
    FeatureSpec("tier", "user", "categorical"),
    FeatureSpec("tenure", "user", "numeric"),
    FeatureSpec("persona", "user", "embedding"),
    FeatureSpec("about", "user", "text"),
    FeatureSpec("query_text", "request", "text"),
    FeatureSpec("device", "request", "categorical"),
    FeatureSpec("member", "request", "categorical"),
    FeatureSpec("hour", "request", "numeric"),
    FeatureSpec("taste", "request", "embedding"),
    FeatureSpec("title", "item", "text"),
    FeatureSpec("brand", "item", "categorical"),
    FeatureSpec("shelf", "item", "categorical"),
    FeatureSpec("vegan", "item", "categorical"),
    FeatureSpec("price", "item", "numeric"),
    FeatureSpec("looks", "item", "embedding"),
)
CATEGORIES = {
    "country": ("de", "fr", "us", "só"),
    "tier": (3, 1, 2),
    "device": ("phone", "desk", "tv"),
    "member": (False, True),
    "brand": ("b1", "b2", "b3", "b4", ""),
    "shelf": (10, 2, 33),
    "vegan": (False, True),
}
WORDS = ("red", "Blue", "ﬁne", "shoes", "2", "Größe", "Ｓhop", "red")

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RandomLog:
    """A log in memory.

    Attributes:
      seed: what it was drawn from.
      kind: one of `KINDS`.
      schema: what is written as schema.json.
      tables: rows by table; 'events' only where there are any.
      types: by table the Arrow type of each column.
      copies_differ_in_segments: whether copies of an event that arrived at one time may differ in
        nothing but their segments. A cap may then cut among events that only segments tell apart.
    """

    seed: int
    kind: str
    schema: Schema
    tables: dict[str, list[Row]]
    types: dict[str, dict[str, pa.DataType]]
    copies_differ_in_segments: bool

    @property
    def segments(self) -> list[str]:
        """Features that cross features may be counted within."""
        features = self.schema.select(("user", "request"), "categorical")
        names = [feature.name for feature in features]
        return [name for name in names if name in self.types["events"]] if self.events else names

    @property
    def events(self) -> list[Row]:
        """The events; none where there is no such table."""
        return self.tables.get("events", [])

    def columns(self, table: str) -> set[str]:
        """Returns the names of a table's columns."""
        return set(self.types[table])

    def write(self, path: Path, rng: random.Random) -> Path:
        """Writes the log; a table is one file or a directory of parts."""
        path.mkdir(parents=True)
        self.schema.save(path)
        for name, rows in self.tables.items():
            table = pa.table(
                {
                    column: pa.array([row[column] for row in rows]).cast(kind)
                    for column, kind in self.types[name].items()
                }
            )
            if rng.random() < 0.5:
                pq.write_table(table, path / f"{name}.parquet")
                continue
            (path / name).mkdir()
            cut = rng.randrange(1, len(rows))
            pq.write_table(table.slice(0, cut), path / name / "0.parquet")
            pq.write_table(table.slice(cut), path / name / "1.parquet")
        return path


class _World:
    """What a log is about: its ids, and values that belong to a user at a time."""

    def __init__(self, seed: int, rng: random.Random):
        self.seed, self.rng = seed, rng
        self.kind = KINDS[seed % len(KINDS)]
        self.timeless = self.kind == TIMELESS
        self.days = rng.choice((4, 15, 40, 430))
        self.items = _ids(rng, "i", rng.randint(8, 30))
        self.users = _ids(rng, "u", rng.randint(3, 9))
        self.queries = _ids(rng, "q", rng.randint(2, 6))
        # The last two of each come up in events alone.
        self.asked_users, self.asked_queries = self.users[:-2], self.queries[:-2]
        self.actions = ACTIONS[: rng.choice((1, 2, 3, 3))]
        self.features = tuple(feature for feature in FEATURES if rng.random() < 0.8)
        self.created = rng.random() < 0.8

    def value(self, feature: FeatureSpec, owner: Any, time: int) -> Any:
        """Returns a feature of a user, or of the user's request, at a time."""
        changes = 10 * DAY if feature.entity == "user" else 1
        rng = random.Random(f"{self.seed} {feature.name} {owner} {time // changes}")
        if feature.kind == "categorical":
            return rng.choice(CATEGORIES[feature.name])
        if feature.kind == "numeric":
            return rng.choice((rng.randint(0, 23), rng.gauss(0, 10)))
        if feature.kind == "embedding":
            return [rng.gauss(0, 1) for _ in range(3)]
        return " ".join(rng.sample(WORDS, rng.randint(0, 4)))

    def queries_asked_by(self, time: int) -> list[Any]:
        """Returns what is asked at a time: some queries come up later than others."""
        queries = self.asked_queries or self.queries
        share = (time - START) / (self.days * DAY)
        return queries[: 1 + int(1.5 * share * len(queries))]

    def on_the_edge(self, time: int, direction: int) -> int:
        """Returns a time after or before another by one of the delays, or just off it."""
        return time + direction * self.rng.choice(DELAYS) + self.rng.choice((0, 0, 1, -1))


def draw_log(seed: int) -> RandomLog:
    """Draws a log of a few hundred impressions."""
    rng = random.Random(f"log {seed}")
    world = _World(seed, rng)
    tables = {"items": _items(world), "requests": _requests(world)}
    tables["impressions"] = _impressions(world, tables["requests"])
    differ = rng.random() < 0.2
    # Where the split is random nobody looks at them.
    if world.kind == EVENTS or (world.kind == AT_RANDOM and rng.random() < 0.5):
        tables["events"] = _events(world, tables, differ)
    for name in tables:
        rng.shuffle(tables[name])
    return RandomLog(
        seed=seed,
        kind=world.kind,
        schema=Schema(world.features, world.actions, world.timeless),
        tables=tables,
        types={name: _types(rows, rng) for name, rows in tables.items()},
        copies_differ_in_segments=differ,
    )


def _ids(rng: random.Random, letter: str, count: int) -> list[Any]:
    """Returns distinct ids: strings whose order is that of their numbers, or not, or integers."""
    numbers = rng.sample(range(1, 120), count)
    style = rng.choice(("padded", "plain", "integer"))
    if style == "integer":
        return numbers
    return [f"{letter}{number:03d}" if style == "padded" else f"{letter}{number}"
            for number in numbers]  # fmt: skip


def _items(world: _World) -> list[Row]:
    rows = []
    for item in world.items:
        row = {"item_id": item}
        for feature in world.features:
            if feature.entity == "item":
                row[feature.name] = world.value(feature, item, START)
        if world.created:
            created = START + world.rng.randint(-10 * DAY, world.days * DAY)
            row["created_at"] = None if world.rng.random() < 0.2 else created
        rows.append(row)
    return rows


def _requests(world: _World) -> list[Row]:
    rng, rows, time, user = world.rng, [], START, world.users[0]
    for request_id in _ids(rng, "r", rng.randint(45, 90)):
        draw = rng.random()
        if draw > 0.3 or not rows:
            time = START + rng.randrange(world.days * DAY)
            time = time // DAY * DAY if draw > 0.85 else time
        elif draw > 0.15:  # else in the second of the request before
            time = world.on_the_edge(time, 1)
        if draw > 0.05 or not rows:  # else by the same user, too
            user = rng.choice(world.asked_users or world.users)
        query = rng.choice(world.queries_asked_by(time))
        row = {"request_id": request_id, "user_id": user, "query_id": query, "timestamp": time}
        for feature in world.features:
            if feature.entity != "item":
                row[feature.name] = world.value(feature, user, time)
        if "query_text" in row:
            row["query_text"] = _query_text(rng, query)
        if world.timeless:
            del row["timestamp"]
        rows.append(row)
    return rows


def _query_text(rng: random.Random, query: Any) -> str:
    """Returns how a query is written this time; some queries share a form, some texts have none."""
    words = WORDS[int(str(query).strip("q")) % 3 :][:2]
    draw = rng.random()
    if draw < 0.1:
        return rng.choice(("", "!? -", " ".join(rng.sample(WORDS, 2))))
    words = rng.sample(words, len(words))
    return rng.choice((" ", "  ", "-")).join(rng.choice((str.upper, str))(word) for word in words)


def _impressions(world: _World, requests: list[Row]) -> list[Row]:
    rng, rows = world.rng, []
    has = {name: rng.random() < 0.5 for name in ("propensity", "stage", "teacher_score")}
    shown_items = world.items[:-1]  # one stays cold
    chance = {action: rng.uniform(0.1, 0.5) for action in world.actions}
    for request in requests:
        size = rng.choice((0, 1, 3, 4, 5, 6, 8, 9, rng.randint(10, 20)))
        position = 0
        for item in rng.sample(shown_items, min(size, len(shown_items))):
            row = {"request_id": request["request_id"], "item_id": item, "position": position}
            for action in world.actions:
                row[action] = rng.random() < chance[action]
            if has["propensity"]:
                row["propensity"] = rng.choice((1.0, rng.uniform(0.01, 1)))
            if has["stage"]:
                row["stage"] = rng.choice(("shown", "shown", "shown", "retrieved", "random"))
            if has["teacher_score"]:
                row["teacher_score"] = rng.gauss(0, 3)
            rows.append(row)
            position += rng.choice((1, 1, 1, 2, 0))
    return rows


def _events(world: _World, tables: dict[str, list[Row]], differ: bool) -> list[Row]:
    """Returns the events: what impressions led to, others at any time, and copies of some."""
    rng, rows = world.rng, []
    requests = {row["request_id"]: row for row in tables["requests"]}
    for shown in tables["impressions"]:
        request = requests[shown["request_id"]]
        for action in world.actions:
            if shown[action] and rng.random() < 0.8:
                time = request["timestamp"] + rng.randint(0, 300)
                who = request["user_id"], request["query_id"]
                rows.append(_event(world, *who, shown["item_id"], action, time))
    for _ in range(rng.randint(30, 100)):
        time = START + rng.randrange(-2 * DAY, world.days * DAY)
        user, item, action = map(rng.choice, (world.users, world.items, world.actions))
        row = _event(world, user, rng.choice(world.queries), item, action, time)
        if rng.random() < 0.3:  # arrives when a request of the user just may, or may not, use it
            request = rng.choice(tables["requests"])
            row["user_id"] = request["user_id"]
            row["event_time"] = row["arrival_time"] = world.on_the_edge(request["timestamp"], -1)
        rows.append(row)
        if rng.random() < 0.4:  # several in one second
            rows.append({**row, "item_id": rng.choice(world.items)})
            rows.append({**row, "action": rng.choice(world.actions)})
    if rng.random() < 0.1:
        rows = [{**row, "query_id": None} for row in rows]
    for row, event_id in zip(rows, rng.sample(range(10 * len(rows)), len(rows)), strict=True):
        row["event_id"] = event_id
    with_text_ids = rng.random() < 0.5
    segments = [
        feature
        for feature in world.features
        if feature.entity != "item" and feature.kind == "categorical" and rng.random() < 0.8
    ]
    rows += [_copy(world, rng.choice(rows)) for _ in range(len(rows) // 8)]
    for row in rows:
        for feature in segments:
            # Where the cap cuts among rows of one second, these must not tell them apart.
            row[feature.name] = world.value(feature, row["user_id"], row["arrival_time"])
    if differ and segments:
        rows += [{**row, segments[0].name: rng.choice(CATEGORIES[segments[0].name])}
                 for row in rng.sample(rows, len(rows) // 8)]  # fmt: skip
    return [{**row, "event_id": f"e{row['event_id']}"} for row in rows] if with_text_ids else rows


def _event(world: _World, user: Any, query: Any, item: Any, action: str, time: int) -> Row:
    rng = world.rng
    arrival = rng.choice(
        (
            *(time, time, time + rng.randint(1, 600), time + rng.randint(1, 4 * DAY)),
            (time // DAY + 1) * DAY,  # midnight
        )
    )
    return {
        "user_id": user,
        "query_id": None if rng.random() < 0.1 else query,
        "item_id": item,
        "action": action,
        "event_time": time,
        "arrival_time": arrival,
    }


def _copy(world: _World, row: Row) -> Row:
    """Returns a copy of an event that may say something else, and arrive at another time."""
    rng = world.rng
    changes = {
        "item_id": rng.choice(world.items),
        "action": rng.choice(world.actions),
        "user_id": rng.choice(world.users),
        "query_id": rng.choice((None, *world.queries)) if row["query_id"] is not None else None,
        "event_time": row["event_time"] - rng.randint(0, DAY),
        "arrival_time": row["arrival_time"] + rng.randint(0, 3 * DAY),
    }
    return {**row, **{name: changes[name] for name in rng.sample(sorted(changes), 2)}}


def _types(rows: list[Row], rng: random.Random) -> dict[str, pa.DataType]:
    """Returns an Arrow type for each column that holds its values."""
    result = {}
    for name in rows[0]:
        values = [row[name] for row in rows if row[name] is not None]
        kinds = {type(value) for value in values}
        if not values:
            result[name] = pa.null() if name == "query_id" else pa.int64()
        elif kinds == {str}:
            coded = pa.dictionary(pa.int32(), pa.string())
            result[name] = rng.choice((pa.string(), pa.large_string(), coded))
        elif kinds == {bool}:
            result[name] = rng.choice((pa.bool_(), pa.int8(), pa.int64()))
        elif kinds == {int}:
            result[name] = rng.choice((pa.int32(), pa.int64()))
        elif kinds == {list}:
            result[name] = pa.list_(rng.choice((pa.float32(), pa.float64())))
        else:
            result[name] = rng.choice((pa.float32(), pa.float64()))
    return result
