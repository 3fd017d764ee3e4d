"""MovieLens-100K and -1M as logs. The data are GroupLens's: https://grouplens.org/datasets/movielens.

What stands in for a search log (`rating_log.py` has the rest):

- `like` is a rating above 3, `dislike` one below, a rating of 3 is neutral and no impression;
- a query is the user's context, gender and age group such as 'F-25-34': what is known of somebody
  who has typed nothing. So the query of InteractRank's cross features is a segment of users: they
  say how an item does within it, as of the request, or out of fold where there is no time or the
  split is random. There are 14 of them in MovieLens-1M (7 age groups);
- ratings without timestamps become a timeless log: one request per user, no events.
"""

import re
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.movielens_layouts import VARIANTS, Columns, detect, open_folder
from interactrank_jax.log.adapters.rating_log import NEUTRAL, Ratings, write_log
from interactrank_jax.log.adapters.raw_values import joined, numbers, positions, repeats, shown
from interactrank_jax.log.schema import FeatureSpec

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
      source: a directory with one of the layouts, its files plain, `.xz`, `.gz`, `.bz2` or
        `.zip`; or the zip archive as downloaded.
      out: a new or empty directory, not inside `source`.
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
    outputs.output_directory(out, source)
    folder = open_folder(source)
    variant = detect(folder, variant)
    found, movies, people = VARIANTS[variant].read(folder)
    rating = _integers(found["rating"], f"{source}: ratings", "rating")
    if rating.min() < 1 or rating.max() > 5:
        raise InputError(
            f"{source}: ratings run from {rating.min()} to {rating.max()}. Expected 1 to 5 stars."
        )
    timeless = "time" not in found or variant == "1m-timeless"
    ratings = Ratings(
        user=_positions(found["user"], people["user"], f"{source}: ratings", "user"),
        item=_positions(found["item"], movies["item"], f"{source}: ratings", "item"),
        verdict=np.sign(rating - 3),
        time=None if timeless else _integers(found["time"], f"{source}: ratings", "timestamp"),
    )
    users = _user_columns(people, source)
    context = joined(pa.array(users["gender"]), pa.array(users["age"]))
    user_id = _ids(people["user"], f"{source}: users", "user id")
    item_id = _ids(movies["item"], f"{source}: movies", "movie id")
    counts = write_log(
        out,
        FEATURES,
        items=pa.table({"item_id": item_id, **_item_columns(movies)}),
        users=pa.table({"user_id": user_id, "query_id": context, **users}),
        ratings=ratings,
        has_neutral=True,
    )
    return {
        "variant": variant,
        "timeless": timeless,
        "ratings": len(rating),
        **counts,
        "neutral": int((ratings.verdict == NEUTRAL).sum()),
    }


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
    return numbers(pa.array(values, pa.string()), where, what, whole=True).astype(np.int64)


def _ids(values: list[str], where: str, what: str) -> np.ndarray:
    ids = _integers(values, where, what)
    again = repeats(pa.array(ids))
    if again.any():
        row = int(np.argmax(again))
        raise InputError(
            f"{where}: {what} repeats in {again.sum():,} of {len(ids):,} rows, for example "
            f"{shown(values[row])} in row {row + 1}: keep one row of each."
        )
    return ids


def _positions(values: list[str], known: list[str], where: str, what: str) -> np.ndarray:
    return positions(pa.array(values), pa.array(known), where, what)
