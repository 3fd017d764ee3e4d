"""KuaiSearch as a log: product search with what was shown, clicked and bought.

Y. Li et al., "KuaiSearch: A Large-Scale E-Commerce Search Dataset for Recall, Ranking, and
Relevance", 2026 (arXiv 2602.11518); https://github.com/benchen4395/KuaiSearch.

SOURCE is the owners' directory, whole or the lite one. Of each table below it reads NAME.jsonl,
or all NAME/*.jsonl, or all NAME_lite/*.jsonl:

    recall   user_id, session_id, time_index, query, and the lists impressed_item_ids,
             clicked_item_ids, purchased_item_ids: a row is a request
    rank     user_id, session_id, time_index, query, target_item_id, is_clicked, is_purchased,
             search_entrance, user_fan_number, user_follow_number: a row is a candidate
    items    item_id, item_title, and of brand, seller and three levels of categories what is there
             (or corpus, the name of that file in the owners' code)
    users    user_id, and of gender and age what is there; may be absent

One of recall and rank is enough. Where both are there they are joined by request and item, and a
click or purchase that either has counts; the number of rows that differ is reported.

- A request is what one user searched at one time in one session. `query_id` is the query in lower
  case without spaces around it.
- Every candidate was impressed, so all are `shown`. Clicks and purchases of items that a request
  did not impress are left out, and counted.
- **`time_index` is no date.** The owners say that it orders requests, not what one step is. Times
  of the log are 2000-01-01 plus so many seconds: their order is true, hours and days are nominal.
- **`position` says nothing.** In the owners' demo the rows of rank come clicked ones first, and
  nothing says what the order of impressed_item_ids means: a request's rows are ordered by a hash.
- Left out: recently_clicked_item_ids, recently_purchased_item_ids and the statistics of 30 days,
  for nothing published says that they end before the request (histories and counts are made from
  the log itself), prices, which vary between requests while a log's items are static, and `split`.

Confirmed by the owners' repository: rank's columns by its demo file; recall's user_id, session_id,
query, split and lists, and corpus's item_id and item_title, by README and code; gender and age by
README. Not confirmed there, only by others who read the release: `time_index` in recall, the
folders NAME and NAME_lite, and the spelling of brand_name, seller_name and category_levelK_name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.streams import (
    Check,
    Stream,
    binary,
    json_keys,
    json_rows,
    open_stream,
    present,
    refuse_missing,
)
from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.log.validate import LATEST

ACTIONS = ("click", "purchase")
FIRST_SECOND = 946_684_800  # 2000-01-01 UTC, the time of time_index 0
_KEY = {
    "user_id": "BIGINT",
    "session_id": "BIGINT",
    "time_index": "BIGINT",
    "query": "VARCHAR",
}
_LISTS = ("impressed_item_ids", "clicked_item_ids", "purchased_item_ids")
_RANK = {"target_item_id": "BIGINT", "is_clicked": "BIGINT", "is_purchased": "BIGINT"}
_RANK_FEATURES = {
    "search_entrance": "VARCHAR",
    "user_fan_number": "DOUBLE",
    "user_follow_number": "DOUBLE",
}
# Feature -> its column under the names that it may have.
_ITEM_FEATURES = {
    "brand": ("brand_name", "brand"),
    "seller": ("seller_name",),
    "category_1": ("category_level1_id", "category_level1_name"),
    "category_2": ("category_level2_id", "category_level2_name"),
    "category_3": ("category_level3_id", "category_level3_name"),
}
_USER_FEATURES = ("gender", "age")
_EXPECTED = (
    "Expected KuaiSearch's directory, with recall.jsonl or rank.jsonl (or folders recall or rank, "
    "or recall_lite or rank_lite) beside items (or corpus)."
)


def convert(source: files.PathLike, out: files.PathLike) -> dict[str, Any]:
    """Writes KuaiSearch as a log to the directory `out`; what does not fit in memory is spilled.

    Args:
      source: the owners' directory.
      out: a new or empty directory, not inside `source`.

    Returns:
      Rows written per table (`items`, `requests`, `impressions`), `clicks`, `purchases`,
      `differing` rows whose labels are not the same in recall and rank, and `outside`, the clicks
      and purchases of items that the request did not impress.

    Raises:
      InputError: what is wrong, by file, column, number of rows and an example.
    """
    outputs.output_directory(out, source)
    tables = _tables(Path(source))
    where = {name: _where(paths) for name, paths in tables.items()}
    log_of = " and ".join(where[name] for name in ("recall", "rank") if name in tables)
    with outputs.new_directory(out) as path, open_stream(path) as stream:
        item_features = _read_items(stream, tables["items"])
        user_features = _read_users(stream, tables.get("users", []))
        sources = []
        outside = 0
        if "recall" in tables:
            outside = _read_recall(stream, tables["recall"])
            sources.append("SELECT * FROM of_recall")
        if "rank" in tables:
            _read_rank(stream, tables["rank"])
            sources.append("SELECT * FROM of_rank")
        stream.run(f"CREATE TABLE rows AS {_joined(' UNION ALL '.join(sources))}", log_of)
        unknown = "SELECT item_id AS id FROM rows ANTI JOIN items USING (item_id)"
        stream.refuse_unknown(unknown, log_of, "item ids", where["items"])
        _schema(item_features, user_features, "rank" in tables).save(path)
        counts = {
            "items": stream.write("SELECT * FROM items ORDER BY item_id", "items", where["items"]),
            "requests": stream.write(
                _requests(user_features, "rank" in tables), "requests", log_of
            ),
            "impressions": stream.write(_IMPRESSIONS, "impressions", log_of),
        }
        totals = stream.row(
            "SELECT count(*) FILTER (WHERE click) AS clicks, count(*) FILTER (WHERE purchase) AS "
            "purchases, count(*) FILTER (WHERE differs) AS differing FROM rows",
            log_of,
        )
    return counts | totals | {"outside": outside}


def _tables(source: Path) -> dict[str, list[Path]]:
    """Returns the files of each table that is there."""
    named: dict[str, tuple[str, ...]] = {
        "recall": ("recall",),
        "rank": ("rank",),
        "items": ("items", "corpus"),
        "users": ("users",),
    }
    candidates = {name: _files(source, stems) for name, stems in named.items()}
    tables = {name: paths for name, paths in candidates.items() if paths}
    if not source.is_dir():
        raise InputError(f"{source} is no directory. {_EXPECTED}")
    if "items" not in tables or not tables.keys() & {"recall", "rank"}:
        listed = ", ".join(sorted(entry.name for entry in source.iterdir())[:8]) or "nothing"
        raise InputError(f"{source} holds {listed}. {_EXPECTED}")
    return tables


def _files(source: Path, stems: tuple[str, ...]) -> list[Path]:
    layouts = [
        paths
        for stem in stems
        for paths in (
            [path for path in [source / f"{stem}.jsonl"] if path.is_file()],
            sorted((source / stem).glob("*.jsonl")),
            sorted((source / f"{stem}_lite").glob("*.jsonl")),
        )
        if paths
    ]
    if len(layouts) > 1:
        raise InputError(
            f"{source} holds {' and '.join(str(paths[0]) for paths in layouts)}, which are the "
            f"same table twice. Expected the whole data set or the lite one: remove the other."
        )
    return layouts[0] if layouts else []


def _where(paths: list[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0].parent}/*.jsonl"


def _view(stream: Stream, name: str, paths: list[Path], types: Mapping[str, str]) -> str:
    """Makes a view of a table's files; returns where they are."""
    for path in paths:
        refuse_missing(str(path), json_keys(path), list(types))
    rows = json_rows(paths, types)
    stream.run(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * FROM {rows}", _where(paths))
    return _where(paths)


def _id_check(column: str, view: str) -> Check:
    repeated = f"SELECT {column} FROM {view} GROUP BY {column} HAVING count(*) > 1"
    return Check(column, f"{column} IN ({repeated})", "repeats", "expected one row of each")


def _read_items(stream: Stream, paths: list[Path]) -> list[str]:
    """Makes the table `items`; returns the features that there are beside the title."""
    keys = set(json_keys(paths[0]))
    columns = {
        feature: next(name for name in names if name in keys)
        for feature, names in _ITEM_FEATURES.items()
        if keys & set(names)
    }
    texts = dict.fromkeys(("item_title", *columns.values()), "VARCHAR")
    where = _view(stream, "raw_items", paths, {"item_id": "BIGINT"} | texts)
    named = [("title", "item_title"), *columns.items()]
    features = ", ".join(f"coalesce({name}, '') AS {feature}" for feature, name in named)
    stream.run(f"CREATE TABLE items AS SELECT item_id, {features} FROM raw_items", where)
    stream.check("items", where, [present("item_id"), _id_check("item_id", "items")])
    return list(columns)


def _read_users(stream: Stream, paths: list[Path]) -> list[str]:
    """Makes the table `users`, empty if there is no file; returns their features."""
    if not paths:
        stream.run("CREATE TABLE users (user_id BIGINT)", "users")
        return []
    keys = json_keys(paths[0])
    features = [name for name in _USER_FEATURES if name in keys]
    types = {"user_id": "BIGINT"} | dict.fromkeys(features, "VARCHAR")
    where = _view(stream, "raw_users", paths, types)
    stream.run("CREATE TABLE users AS SELECT * FROM raw_users", where)
    stream.check("users", where, [present("user_id"), _id_check("user_id", "users")])
    return features


def _key_checks() -> list[Check]:
    latest = LATEST - FIRST_SECOND
    bounds = Check(
        "time_index",
        f"time_index NOT BETWEEN 0 AND {latest}",
        "is out of range",
        f"expected an index from 0 to {latest:,}",
    )
    return [*map(present, _KEY), bounds]


_KEY_COLUMNS = ", ".join(_KEY)


def _read_recall(stream: Stream, paths: list[Path]) -> int:
    """Makes the view `of_recall`; returns clicks and purchases of items that were not impressed."""
    where = _view(stream, "recall", paths, _KEY | dict.fromkeys(_LISTS, "BIGINT[]"))
    stream.check("recall", where, [*_key_checks(), present("impressed_item_ids")])
    features = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in _RANK_FEATURES.items())
    clicked, purchased = (f"coalesce({name}, [])" for name in _LISTS[1:])
    stream.run(
        f"CREATE TEMP VIEW of_recall AS SELECT {_KEY_COLUMNS}, item_id, list_contains(clicked, "
        f"item_id) AS click, list_contains(purchased, item_id) AS purchase, {features} FROM ("
        f"SELECT {_KEY_COLUMNS}, {clicked} AS clicked, {purchased} AS purchased, "
        f"unnest(list_distinct(impressed_item_ids)) AS item_id FROM recall)",
        where,
    )
    outside = " + ".join(
        f"len(list_filter(list_distinct({items}), lambda item: NOT "
        f"list_contains(impressed_item_ids, item)))"
        for items in (clicked, purchased)
    )
    total = stream.row(f"SELECT coalesce(sum({outside}), 0) AS outside FROM recall", where)
    return int(total["outside"])


def _read_rank(stream: Stream, paths: list[Path]) -> None:
    """Makes the view `of_rank`."""
    where = _view(stream, "rank_rows", paths, _KEY | _RANK | _RANK_FEATURES)
    labels = ("is_clicked", "is_purchased")
    checks = [*_key_checks(), *map(present, _RANK), *map(binary, labels)]
    stream.check("rank_rows", where, checks)
    stream.run(
        f"CREATE TEMP VIEW of_rank AS SELECT {_KEY_COLUMNS}, target_item_id AS item_id, "
        f"is_clicked = 1 AS click, is_purchased = 1 AS purchase, {', '.join(_RANK_FEATURES)} "
        f"FROM rank_rows",
        where,
    )


def _joined(sources: str) -> str:
    """Returns SQL: a row per request and item."""
    key = f"concat_ws('-', user_id, session_id, time_index, {_NORMALIZED})"
    features = ", ".join(f"any_value({name}) AS {name}" for name in _RANK_FEATURES)
    return (
        f"SELECT md5({key}) AS request_id, user_id, time_index, {_NORMALIZED} AS query_id, "
        f"min(query) AS query_text, item_id, bool_or(click) AS click, bool_or(purchase) AS "
        f"purchase, bool_or(click) <> bool_and(click) OR bool_or(purchase) <> bool_and(purchase) "
        f"AS differs, {features} FROM ({sources}) GROUP BY user_id, session_id, time_index, "
        f"{_NORMALIZED}, item_id"
    )


_NORMALIZED = "lower(trim(query))"


def _schema(item_features: list[str], user_features: list[str], has_rank: bool) -> Schema:
    of_rank = (
        FeatureSpec("search_entrance", "request", "categorical"),
        FeatureSpec("user_fan_number", "user", "numeric"),
        FeatureSpec("user_follow_number", "user", "numeric"),
    )
    return Schema(
        features=(
            FeatureSpec("query_text", "request", "text"),
            *(FeatureSpec(name, "user", "categorical") for name in user_features),
            *(of_rank if has_rank else ()),
            FeatureSpec("title", "item", "text"),
            *(FeatureSpec(name, "item", "categorical") for name in item_features),
        ),
        actions=ACTIONS,
    )


def _requests(user_features: list[str], has_rank: bool) -> str:
    """Returns SQL: a row per request; what is not known of it is empty, or 0 of a number."""
    of_rank = {
        "search_entrance": "coalesce(min(search_entrance), '')",
        "user_fan_number": "CAST(coalesce(min(user_fan_number), 0) AS FLOAT)",
        "user_follow_number": "CAST(coalesce(min(user_follow_number), 0) AS FLOAT)",
    }
    features = "".join(
        f", {value} AS {name}" for name, value in of_rank.items() if has_rank
    ) + "".join(f", coalesce(any_value(users.{name}), '') AS {name}" for name in user_features)
    return (
        f"SELECT request_id, rows.user_id, min(query_id) AS query_id, min(query_text) AS "
        f"query_text, {FIRST_SECOND} + min(time_index) AS timestamp{features} FROM rows LEFT JOIN "
        f"users USING (user_id) GROUP BY request_id, rows.user_id ORDER BY timestamp, request_id"
    )


_IMPRESSIONS = (
    "SELECT request_id, item_id, CAST(row_number() OVER (PARTITION BY request_id ORDER BY "
    "hash(request_id, item_id), item_id) - 1 AS INTEGER) AS position, click, purchase FROM rows"
)
