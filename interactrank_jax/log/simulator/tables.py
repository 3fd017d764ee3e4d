"""Tables of a simulated log: dense ids and codes turned into the log's values, in Parquet parts."""

import dataclasses
import functools
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.log.simulator.world import COUNTRIES, DAY, GENDERS, World

ACTIONS = ("click", "long_click", "short_click", "save")
SCHEMA = Schema(
    features=(
        FeatureSpec("country", "user", "categorical"),
        FeatureSpec("gender", "user", "categorical"),
        FeatureSpec("tenure_days", "user", "numeric"),
        FeatureSpec("query_text", "request", "text"),
        FeatureSpec("device", "request", "categorical"),
        FeatureSpec("hour", "request", "categorical"),
        FeatureSpec("title", "item", "text"),
        FeatureSpec("category", "item", "categorical"),
        FeatureSpec("price", "item", "numeric"),
        FeatureSpec("review_score", "item", "numeric"),
    ),
    actions=ACTIONS,
)

DEVICES = ("phone", "desktop", "tablet")
DEVICE_SHARES = (0.65, 0.28, 0.07)


@dataclasses.dataclass(frozen=True)
class Requests:
    """Requests of one chunk in time order, `[R]` each; `id` is dense over the whole log."""

    id: np.ndarray
    time: np.ndarray
    user: np.ndarray
    query: np.ndarray
    device: np.ndarray


@dataclasses.dataclass(frozen=True)
class Events:
    """Actions done in one chunk, `[E]` each; `query` is -1 outside search."""

    user: np.ndarray
    query: np.ndarray
    item: np.ndarray
    action: np.ndarray
    time: np.ndarray
    arrival: np.ndarray


class Names:
    """Turns dense ids and codes into the log's values and tables."""

    def __init__(self, world: World):
        self.world = world
        config = world.config
        item_ids = world.item_ids
        self.item = _ids("p", config.items) if item_ids is None else pa.array(item_ids)
        self.user = _ids("u", config.users)
        self.query = _ids("q", config.queries)
        self.query_text = pa.array(world.queries.texts)
        self.country = pa.array(COUNTRIES)
        self.gender = pa.array(GENDERS)
        self.device = pa.array(DEVICES)
        self.action = pa.array(ACTIONS)
        self.shown = pa.array(["shown"])

    def requests(self, requests: Requests, logged: np.ndarray) -> pa.Table:
        """Returns the requests table of a chunk; of positives only, those with a logged row."""
        users = self.world.users
        user, query = requests.user, requests.query
        table = pa.table(
            {
                "request_id": requests.id,
                "user_id": self.user.take(user),
                "query_id": self.query.take(query),
                "timestamp": requests.time,
                "country": self.country.take(users.country[user]),
                "gender": self.gender.take(users.gender[user]),
                "tenure_days": ((requests.time - users.joined[user]) // DAY).astype(np.float32),
                "query_text": self.query_text.take(query),
                "device": self.device.take(requests.device),
                "hour": (requests.time % DAY // 3600).astype(np.int32),
            }
        )
        return table.filter(logged.any(1)) if self.world.config.positives_only else table

    def impressions(
        self,
        requests: Requests,
        item: np.ndarray,
        logged: np.ndarray,
        propensity: np.ndarray,
        actions: np.ndarray,
    ) -> pa.Table:
        """Returns the impressions table of a chunk: requests in order, positions in order."""
        row, position = np.nonzero(logged)
        drawn = {"propensity": propensity[logged]}
        if self.world.config.positives_only:
            # Neither what else was shown nor how often is known to such a log.
            position, drawn = (np.cumsum(logged, axis=1) - 1)[logged], {}
        return pa.table(
            {
                "request_id": requests.id[row],
                "item_id": self.item.take(item[logged]),
                "position": position.astype(np.int32),
                **{name: actions[..., k][logged] for k, name in enumerate(ACTIONS)},
                **drawn,
                "stage": self.shown.take(np.zeros(len(row), np.int32)),
            }
        )

    def events(self, events: Events, first: int) -> pa.Table:
        """Returns the events table of a chunk."""
        users = self.world.users
        query = pa.array(events.query, mask=events.query < 0)
        return pa.table(
            {
                "event_id": np.arange(first, first + len(events.time)),
                "user_id": self.user.take(events.user),
                "query_id": self.query.take(query),
                "item_id": self.item.take(events.item),
                "action": self.action.take(events.action),
                "event_time": events.time,
                "arrival_time": events.arrival,
                "country": self.country.take(users.country[events.user]),
                "gender": self.gender.take(users.gender[events.user]),
            }
        )


def schema_of(world: World) -> Schema:
    """Returns the schema of a world's log: `SCHEMA` but for features that its items lack."""
    features = tuple(
        feature
        for feature in SCHEMA.features
        if feature.entity != "item" or feature.name in world.item_features
    )
    return dataclasses.replace(SCHEMA, features=features)


def _ids(prefix: str, count: int) -> pa.Array:
    width = len(str(count))
    return pa.array([f"{prefix}{k:0{width}}" for k in range(count)])


def write_world(world: World, names: Names, path: Path) -> None:
    """Writes what does not change with time: the items table and the truth about the world."""
    items, queries, users = world.items, world.queries, world.users
    write = functools.partial(pq.write_table, store_schema=False)
    of_items = {
        "title": lambda: items.titles,
        "category": lambda: pa.array(world.category_names).take(items.category),
        "price": lambda: items.price,
        "review_score": lambda: items.review_score,
    }
    columns = {
        "item_id": names.item,
        **{name: of_items[name]() for name in world.item_features},
        "created_at": items.created,  # not declared: for the eye, and for slicing by freshness
    }
    write(pa.table(columns), path / "items" / _part(0))
    truth = path / "truth"
    topics = _vectors(items.topics)
    columns = {"item_id": names.item, "topics": topics, "quality": items.quality}
    columns |= {"created": items.created} | ({} if items.gone is None else {"gone": items.gone})
    write(pa.table(columns), truth / "items.parquet")
    columns = {"query_id": names.query, "topics": _vectors(queries.topics)}
    write(pa.table(columns), truth / "queries.parquet")
    columns = {
        "user_id": names.user,
        "country": names.country.take(users.country),
        "gender": names.gender.take(users.gender),
        "early": _vectors(users.early),
        "late": _vectors(users.late),
        "turn": users.turn,
    }
    write(pa.table(columns), truth / "users.parquet")


def write_ratings(names: Names, path: Path) -> None:
    """Writes the impressions of a log, once it has all its parts, as a table of ratings."""
    users, folder = names.world.users, path / "ratings"
    folder.mkdir()
    columns = {
        "user_id": names.user,
        "country": names.country.take(users.country),
        "gender": names.gender.take(users.gender),
    }
    pq.write_table(pa.table(columns), folder / "users.parquet", store_schema=False)
    shutil.copyfile(path / "items" / _part(0), folder / "items.parquet")
    text, integer = pa.string(), pa.int64()
    schema = pa.schema({"user_id": text, "item_id": text, "rating": integer, "timestamp": integer})
    with pq.ParquetWriter(folder / "ratings.parquet", schema, store_schema=False) as writer:
        for chunk in range(names.world.config.chunks):
            requests, rated = (
                pq.ParquetFile(path / table / _part(chunk)).read()
                for table in ("requests", "impressions")
            )
            # Both are in the order of request ids.
            row = pa.array(np.searchsorted(requests["request_id"], rated["request_id"]))
            user, time = (requests[name].take(row) for name in ("user_id", "timestamp"))
            ones = pa.array(np.ones(len(rated), np.int64))
            writer.write_table(pa.table([user, rated["item_id"], ones, time], schema=schema))


def _vectors(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def _part(chunk: int) -> str:
    return f"part-{chunk:06}.parquet"


def write_part(path: Path, chunk: int, tables: dict[str, pa.Table]) -> None:
    """Writes one part of each table into its folder."""
    for name, table in tables.items():
        # Drawn floats do not repeat: a dictionary of them, or compression, costs and gains nothing.
        drawn = [field.name for field in table.schema if pa.types.is_floating(field.type)]
        pq.write_table(
            table,
            path / name / _part(chunk),
            use_dictionary=[column for column in table.column_names if column not in drawn],
            compression={
                column: "none" if column in drawn else "snappy" for column in table.column_names
            },
        )
