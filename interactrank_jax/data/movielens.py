"""MovieLens-100K and -1M as logs. The data are GroupLens's: https://grouplens.org/datasets/movielens.

What stands in for a search log:

- an impression is a rating other than 3; `like` is a rating above 3, `dislike` one below;
- a request is all that one user rated within one clock hour (UTC), at the start of that hour, so no
  feature can know what happened inside it; positions follow the order of rating;
- a query is the user's context, gender and age group such as 'F-25-34': what is known of somebody
  who has typed nothing. Cross features are then the history of an item within such a group;
- events are the ratings at their own second, 3 included as `neutral`, so that histories are exact.

Ratings without timestamps become a timeless log: one request per user, no events.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax import files
from interactrank_jax.data.movielens_layouts import VARIANTS, Columns, Folder, detect
from interactrank_jax.data.schema import FeatureSpec, Schema
from interactrank_jax.errors import InputError

HOUR = 3_600
FEATURES = (
    FeatureSpec("gender", "user", "categorical"),
    FeatureSpec("age", "user", "categorical"),
    FeatureSpec("occupation", "user", "categorical"),
    FeatureSpec("zip_region", "user", "categorical"),
    FeatureSpec("title", "item", "text"),
    FeatureSpec("genres", "item", "text"),
    FeatureSpec("year", "item", "numeric"),
    FeatureSpec("decade", "item", "categorical"),
)
# MovieLens-1M's age groups; its codes are each group's first age, so one rule serves both.
AGE_GROUPS = ("<18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+")
_AGE_STARTS = (18, 25, 35, 45, 50, 56)
_YEAR = re.compile(r"^(.*?)\s*\((\d{4})\)\s*$")


def convert(
    source: files.PathLike, out: files.PathLike, variant: str | None = None
) -> dict[str, Any]:
    """Writes MovieLens as a log to the directory `out`.

    Args:
      source: a directory with one of the layouts, its files plain, `.xz` or `.zip`; or the zip
        archive as downloaded.
      out: a new or empty directory.
      variant: layout, found by the files there when None: 'atomic' (NAME.inter, NAME.item,
        NAME.user, tab-separated with a header), '100k' (u.data, u.item, u.user), '1m'
        (ratings.dat, movies.dat, users.dat) or '1m-timeless' (ratings.notime.dat, or ratings.dat
        without looking at its times).

    Returns:
      `variant`, `timeless`, `ratings` read, and rows written per table: `items`, `requests`,
      `impressions`, `events`; `neutral`, the ratings of 3 that are no impressions.

    Raises:
      InputError: none or several of the layouts in `source`, a malformed file, a rating of an
        unknown user or movie, or `out` holds something.
    """
    folder = Folder(Path(source))
    variant = detect(folder, variant)
    ratings, items, users = VARIANTS[variant].read(folder)
    timeless = "time" not in ratings or variant == "1m-timeless"
    rating = _integers(ratings["rating"], f"{source}: ratings", "rating")
    user = _positions(ratings["user"], users["user"], f"{source}: ratings", "user")
    item = _positions(ratings["item"], items["item"], f"{source}: ratings", "item")
    if rating.min() < 1 or rating.max() > 5:
        raise InputError(
            f"{source}: ratings run from {rating.min()} to {rating.max()}. Expected 1 to 5 stars."
        )
    if timeless:
        time = np.zeros(len(rating), np.int64)
    else:
        time = _integers(ratings["time"], f"{source}: ratings", "timestamp")
    # By time; ratings of one second stay in the order of the file.
    order = np.lexsort((np.arange(len(time)), time))
    rating, user, item, time = rating[order], user[order], item[order], time[order]

    item_id = _integers(items["item"], f"{source}: movies", "movie id")
    user_id = _integers(users["user"], f"{source}: users", "user id")
    user_columns = _user_columns(users, source)
    context = np.char.add(np.char.add(user_columns["gender"], "-"), user_columns["age"])
    actions = ("like", "dislike") if timeless else ("like", "dislike", "neutral")
    tables = {
        "items": pa.table({"item_id": item_id, **_item_columns(items)}),
        **_requests_and_impressions(
            user_id, item_id, user_columns, context, user, item, rating, None if timeless else time
        ),
    }
    if not timeless:
        names = np.array(["dislike", "neutral", "like"])
        tables["events"] = pa.table(
            {
                "event_id": np.arange(len(time)),
                "user_id": user_id[user],
                "query_id": context[user],
                "item_id": item_id[item],
                "action": names[np.sign(rating - 3) + 1],
                "event_time": time,
                "arrival_time": time,
                **{name: user_columns[name][user] for name in ("gender", "age", "occupation")},
            }
        )
    with files.new_directory(out) as path:
        Schema(FEATURES, actions, timeless).save(path)
        for name, table in tables.items():
            pq.write_table(table, path / f"{name}.parquet", store_schema=False)
    return {
        "variant": variant,
        "timeless": timeless,
        "ratings": len(rating),
        **{name: len(table) for name, table in tables.items()},
        "events": len(rating) if not timeless else 0,
        "neutral": int((rating == 3).sum()),
    }


def _requests_and_impressions(
    user_id: np.ndarray,
    item_id: np.ndarray,
    user_columns: dict[str, np.ndarray],
    context: np.ndarray,
    user: np.ndarray,
    item: np.ndarray,
    rating: np.ndarray,
    time: np.ndarray | None,
) -> dict[str, pa.Table]:
    """Groups ratings other than 3, in time order, into requests.

    `user`, `item`, `rating` and `time` are `[N]`, the first two indices into the ids.
    """
    kept = rating != 3
    user, item, rating = user[kept], item[kept], rating[kept]
    hour = np.zeros(len(user), np.int64) if time is None else time[kept] // HOUR
    pairs, request = np.unique(np.stack([hour, user]), axis=1, return_inverse=True)
    request_hour, request_user = pairs
    request = request.reshape(-1)
    ids = user_id[request_user].astype(str)
    if time is not None:
        ids = np.char.add(np.char.add(ids, "-"), request_hour.astype(str))
    by_request = np.argsort(request, kind="stable")
    request, item, rating = request[by_request], item[by_request], rating[by_request]
    first = np.searchsorted(request, np.arange(len(ids)))
    requests = {
        "request_id": ids,
        "user_id": user_id[request_user],
        "query_id": context[request_user],
        **({} if time is None else {"timestamp": request_hour * HOUR}),
        **{name: value[request_user] for name, value in user_columns.items()},
    }
    impressions = {
        "request_id": ids[request],
        "item_id": item_id[item],
        "position": (np.arange(len(request)) - first[request]).astype(np.int32),
        "like": rating > 3,
        "dislike": rating < 3,
        **({} if time is None else {"neutral": np.zeros(len(request), bool)}),
    }
    return {"requests": pa.table(requests), "impressions": pa.table(impressions)}


def _user_columns(users: Columns, source: files.PathLike) -> dict[str, np.ndarray]:
    age = _integers(users["age"], f"{source}: users", "age")
    return {
        "gender": np.array(users["gender"]),
        "age": np.array(AGE_GROUPS)[np.searchsorted(_AGE_STARTS, age, side="right")],
        "occupation": np.array(users["occupation"]),
        # The first digit of a US zip code is a region of the country; Canadian codes are letters.
        "zip_region": np.array([z[:1] if z[:1].isdigit() else "other" for z in users["zip"]]),
    }


def _item_columns(items: Columns) -> dict[str, Any]:
    titles, years = [], []
    for title, year in zip(items["title"], items["year"], strict=True):
        match = _YEAR.match(title)
        titles.append(match[1] if match else title)
        stated = match[2] if match else year
        years.append(int(stated) if re.fullmatch(r"\d{4}", stated) else 0)
    values = np.array(years, np.float32)
    known = values > 0
    decades = [f"{value // 10}0s" if value else "unknown" for value in years]
    return {
        "title": titles,
        "genres": items["genres"],
        "year": np.where(known, values, np.median(values[known]) if known.any() else 0),
        "decade": decades,
    }


def _integers(values: list[str], where: str, what: str) -> np.ndarray:
    """Parses whole numbers, int64; `3.0` is one."""
    try:
        numbers = np.array(values, np.float64)
        wrong = np.flatnonzero(numbers != np.round(numbers))
    except ValueError:
        wrong = np.array([k for k, value in enumerate(values) if not _is_number(value)])
    if len(wrong):
        raise InputError(
            f"{where}: {what} is not a whole number in {len(wrong):,} of {len(values):,} rows, for "
            f"example {values[wrong[0]]!r} in row {wrong[0] + 1}. Was the file truncated?"
        )
    return numbers.astype(np.int64)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _positions(values: list[str], known: list[str], where: str, what: str) -> np.ndarray:
    """Returns the index of each value in `known`."""
    index = {value: k for k, value in enumerate(known)}
    positions = np.array([index.get(value, -1) for value in values])
    unknown = np.flatnonzero(positions < 0)
    if len(unknown):
        raise InputError(
            f"{where}: {len(unknown):,} of {len(values):,} ratings are of an unknown {what}, for "
            f"example {values[unknown[0]]!r}. Expected all of them in the {what}s' own file: were "
            f"files of two data sets mixed?"
        )
    return positions
