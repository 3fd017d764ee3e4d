"""The Open Bandit Dataset as a log: impressions with the true probability of each choice.

Y. Saito, S. Aihara, M. Matsutani and Y. Narita, "Open Bandit Dataset and Pipeline: Towards
Realistic and Reproducible Off-policy Evaluation", NeurIPS 2021, datasets (arXiv 2008.07146);
columns as in the README and the loader (`obp.dataset`) of https://github.com/st-tech/zr-obp.

SOURCE is the directory of one policy and campaign, such as `open_bandit_dataset/random/all`: the
table `all.csv` (or `men.csv`, `women.csv`, by its name) beside `item_context.csv`. Item ids are
numbered within a campaign, and the anonymised item features differ between policies, so that two of
them never make one log.

- A row is one of the three places that a visitor saw, with the item that the policy chose for it.
  Nothing says which rows were on one screen, so a row is a request of its own with one candidate:
  metrics over all rows mean something, those within requests nothing.
- `propensity` is `propensity_score`, the probability that the policy chooses this item for this
  place. `data.cross.debias.name="propensity"` counts by it.
- There are no users. `user_id` and `query_id` are what is known of the visitor, the four hashed
  features joined; the config `open_bandit` has no histories.
- `user-item_affinity_K`, the visitor's past clicks on each item, is the request's embedding
  `affinity`.
- `position` counts from 0; in the data from 1. Times are floored to the second.
"""

import re
from pathlib import Path
from typing import Any

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.streams import (
    Check,
    Stream,
    binary,
    in_time,
    literal,
    open_stream,
    present,
    quoted,
    refuse_missing,
)
from interactrank_jax.log.engine_paths import duckdb_to_read
from interactrank_jax.log.schema import FeatureSpec, Schema

CAMPAIGNS = ("all", "men", "women")
USER_FEATURES = tuple(f"user_feature_{k}" for k in range(4))
ITEM_FEATURES = tuple(f"item_feature_{k}" for k in range(4))
_POLICIES = ("random", "bts")
_AFFINITY = re.compile(r"user-item_affinity_(\d+)")
_EXPECTED = (
    "Expected the directory of one policy and campaign, such as open_bandit_dataset/random/all, "
    "with all.csv (or men.csv, or women.csv) and item_context.csv."
)
_COLUMNS = ("timestamp", "item_id", "position", "click", "propensity_score", *USER_FEATURES)


def convert(source: files.PathLike, out: files.PathLike) -> dict[str, Any]:
    """Writes one campaign under one policy as a log to the directory `out`, in one stream.

    Args:
      source: the directory of that policy and campaign.
      out: a new or empty directory, not inside `source`.

    Returns:
      `campaign`, and rows written per table: `items`, `requests`, `impressions`; `clicks`.

    Raises:
      InputError: what is wrong, by file, column, number of rows and an example.
    """
    outputs.output_directory(out, source)
    table, context = _files(Path(source))
    where = str(table)
    # The number of a row is its request's id, in both tables that are made of it.
    with outputs.new_directory(out) as path, open_stream(path, keeps_order=True) as stream:
        items = _convert_items(stream, context)
        affinities = _view(stream, table)
        _schema(affinities).save(path)
        _check(stream, where)
        unknown = "SELECT item_id AS id FROM typed ANTI JOIN items USING (item_id)"
        stream.refuse_unknown(unknown, where, "item_id", str(context))
        requests = stream.write(_requests(affinities), "requests", where)
        impressions = stream.write(_IMPRESSIONS, "impressions", where)
        clicks = stream.row("SELECT sum(click) AS clicks FROM typed", where)
    return {
        "campaign": table.stem,
        "items": items,
        "requests": requests,
        "impressions": impressions,
        "clicks": int(clicks["clicks"]),
    }


def _files(source: Path) -> tuple[Path, Path]:
    """Returns the table of impressions and that of items."""
    tables = [source / f"{name}.csv" for name in CAMPAIGNS if (source / f"{name}.csv").is_file()]
    context = source / "item_context.csv"
    if len(tables) == 1 and context.is_file():
        return tables[0], context
    below = [
        f"{policy}/{campaign}"
        for policy in _POLICIES
        for campaign in CAMPAIGNS
        if (source / policy / campaign / f"{campaign}.csv").is_file()
    ]
    if below:
        raise InputError(
            f"{source} holds {', '.join(below)}, whose item ids differ. Expected one of them: "
            f"--source={source / below[0]}."
        )
    what = "does not exist" if not source.exists() else "holds no such files"
    raise InputError(f"{source} {what}. {_EXPECTED}")


def _schema(affinities: list[str]) -> Schema:
    embedding = [FeatureSpec("affinity", "request", "embedding")] if affinities else []
    return Schema(
        features=(
            *(FeatureSpec(name, "user", "categorical") for name in USER_FEATURES),
            FeatureSpec("hour", "request", "categorical"),
            *embedding,
            FeatureSpec("item_feature_0", "item", "numeric"),
            *(FeatureSpec(name, "item", "categorical") for name in ITEM_FEATURES[1:]),
        ),
        actions=("click",),
    )


def _text(file: Path) -> str:
    path = literal(duckdb_to_read(file))
    return f"read_csv({path}, header = true, delim = ',', quote = '\"', all_varchar = true)"


def _names(stream: Stream, file: Path, needed: tuple[str, ...]) -> list[str]:
    stream.run(f"CREATE OR REPLACE TEMP VIEW raw AS SELECT * FROM {_text(file)}", str(file))
    names = [row[0] for row in stream.connection.execute("DESCRIBE raw").fetchall()]
    refuse_missing(str(file), names, needed)
    return names


def _convert_items(stream: Stream, file: Path) -> int:
    where = str(file)
    _names(stream, file, ("item_id", *ITEM_FEATURES))
    texts = ", ".join(f"coalesce({name}, '') AS {name}" for name in ITEM_FEATURES[1:])
    stream.run(
        f"CREATE TABLE items AS SELECT TRY_CAST(item_id AS BIGINT) AS item_id, "
        f"TRY_CAST(item_feature_0 AS FLOAT) AS item_feature_0, {texts} FROM raw",
        where,
    )
    repeats = "item_id IN (SELECT item_id FROM items GROUP BY item_id HAVING count(*) > 1)"
    once = Check("item_id", repeats, "repeats", "expected one row of each item")
    stream.check("items", where, [present("item_id"), present("item_feature_0"), once])
    return stream.write("SELECT * FROM items ORDER BY item_id", "items", where)


def _view(stream: Stream, file: Path) -> list[str]:
    """Makes the view `typed` of a campaign's table; returns its affinity columns in their order."""
    names = _names(stream, file, _COLUMNS)
    numbered = [(int(match[1]), match[0]) for match in map(_AFFINITY.fullmatch, names) if match]
    affinities = [name for _, name in sorted(numbered)]
    casts = [
        # A TIMESTAMP would ignore the offset.
        "CAST(floor(epoch(TRY_CAST(timestamp AS TIMESTAMPTZ))) AS BIGINT) AS timestamp",
        *(f"TRY_CAST({name} AS BIGINT) AS {name}" for name in ("item_id", "position", "click")),
        "TRY_CAST(propensity_score AS DOUBLE) AS propensity_score",
        *(f"coalesce({name}, '') AS {name}" for name in USER_FEATURES),
    ]
    if affinities:
        values = ", ".join(f"TRY_CAST({quoted(name)} AS FLOAT)" for name in affinities)
        casts.append(f"[{values}] AS affinity")
    stream.run(
        f"CREATE OR REPLACE TEMP VIEW typed AS SELECT row_number() OVER () - 1 AS request_id, "
        f"{', '.join(casts)} FROM raw",
        str(file),
    )
    return affinities


def _check(stream: Stream, where: str) -> None:
    checks = [
        Check(
            "timestamp",
            f"timestamp IS NULL OR NOT {in_time('timestamp')}",
            "is no time",
            "expected UTC dates and times, as in 2019-11-24 00:00:00+00:00",
        ),
        *map(present, ("item_id", "position", "click", "propensity_score")),
        Check("position", "position < 1", "is no place", "expected 1, 2 or 3"),
        binary("click"),
        Check(
            "propensity_score",
            "NOT (propensity_score > 0 AND propensity_score <= 1)",
            "is no probability",
            "expected one above 0, at most 1",
        ),
    ]
    names = {row[0] for row in stream.connection.execute("DESCRIBE typed").fetchall()}
    if "affinity" in names:
        gaps = "list_count(affinity) < len(affinity)"  # nulls are not counted
        what = "lacks a number (user-item_affinity_0 and on)"
        checks.append(Check("affinity", gaps, what, "fill them in"))
    stream.check("typed", where, checks)


def _requests(affinities: list[str]) -> str:
    context = " || '-' || ".join(USER_FEATURES)
    embedding = ", affinity" if affinities else ""
    return (
        f"SELECT request_id, {context} AS user_id, {context} AS query_id, "
        f"timestamp, {', '.join(USER_FEATURES)}, CAST(timestamp % 86400 // 3600 AS INTEGER) AS "
        f"hour{embedding} FROM typed"
    )


_IMPRESSIONS = (
    "SELECT request_id, item_id, CAST(position - 1 AS INTEGER) AS position, click = 1 AS click, "
    "CAST(propensity_score AS FLOAT) AS propensity FROM typed"
)
