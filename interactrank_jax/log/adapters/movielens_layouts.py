"""The layouts in which MovieLens comes, read into columns of strings."""

import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.adapters.raw_files import Folder, refuse_repeats
from interactrank_jax.log.adapters.raw_values import shown

# The flags at the end of each line of u.item, in their order.
_GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)

Columns = dict[str, list[str]]


# MovieLens-10M is UTF-8, the others are not; text of either is hardly ever valid as the other.
_ENCODINGS = ("utf-8", "latin-1")


def _rows(folder: Folder, name: str, separator: str, columns: Sequence[str]) -> Columns:
    """Returns the columns of a separated file without a header, by the names given."""
    return _split(folder, name, folder.lines(name, *_ENCODINGS), separator, columns, 1)


def _split(
    folder: Folder, name: str, lines: list[str], separator: str, columns: Sequence[str], first: int
) -> Columns:
    split = [line.split(separator) for line in lines]
    width = len(columns)
    for number, row in enumerate(split, first):
        if len(row) != width:
            raise InputError(
                f"{folder.where(name)}, line {number}: {len(row)} columns separated by "
                f"{separator!r}. Expected {width} ({', '.join(columns)}), found "
                f"{shown(lines[number - first])}: was the file truncated?"
            )
    return {column: [row[k] for row in split] for k, column in enumerate(columns)}


def _table(folder: Folder, name: str, wanted: dict[str, str]) -> Columns:
    """Returns columns of a tab-separated file with a header, renamed as `wanted` says."""
    header, *lines = folder.lines(name, "utf-8")
    if not lines:
        raise InputError(f"{folder.where(name)} has no rows.")
    present = [column.split(":")[0] for column in header.split("\t")]
    refuse_repeats(present, folder.where(name))
    for column in wanted:
        if column not in present:
            raise InputError(
                f"{folder.where(name)}: column '{column}' is missing."
                + did_you_mean(column, present)
            )
    rows = _split(folder, name, lines, "\t", present, 2)
    return {ours: rows[theirs] for theirs, ours in wanted.items()}


def _only(folder: Folder, pattern: str) -> str:
    names = sorted(fnmatch.filter(folder.names, pattern))
    if len(names) > 1:
        raise InputError(
            f"{folder.path} holds {' and '.join(names)}. Expected one {pattern}: remove the others."
        )
    return names[0]


def _atomic(folder: Folder) -> tuple[Columns, Columns, Columns]:
    inter, item, user = (_only(folder, f"*.{suffix}") for suffix in ("inter", "item", "user"))
    ratings = _table(
        folder,
        inter,
        {"user_id": "user", "item_id": "item", "rating": "rating", "timestamp": "time"},
    )
    items = _table(
        folder,
        item,
        {"item_id": "item", "movie_title": "title", "release_year": "year", "class": "genres"},
    )
    users = _table(
        folder,
        user,
        {
            "user_id": "user",
            "age": "age",
            "gender": "gender",
            "occupation": "occupation",
            "zip_code": "zip",
        },
    )
    return ratings, items, users


def _original_100k(folder: Folder) -> tuple[Columns, Columns, Columns]:
    ratings = _rows(folder, "u.data", "\t", ("user", "item", "rating", "time"))
    head = ("item", "title", "released", "video", "url")
    items = _rows(folder, "u.item", "|", (*head, *_GENRES_100K))
    flags = zip(*(items[genre] for genre in _GENRES_100K), strict=True)
    genres = [
        " ".join(genre for genre, flag in zip(_GENRES_100K, row, strict=True) if flag == "1")
        for row in flags
    ]
    # Release dates read 01-Jan-1995: the year is what a title without one falls back to.
    years = [date[-4:] for date in items["released"]]
    users = _rows(folder, "u.user", "|", ("user", "age", "gender", "occupation", "zip"))
    return (
        ratings,
        {"item": items["item"], "title": items["title"], "year": years, "genres": genres},
        users,
    )


def _original_1m(folder: Folder, name: str = "ratings.dat") -> tuple[Columns, Columns, Columns]:
    columns = ("user", "item", "rating", "time")
    if name not in folder.names:
        name = "ratings.dat"
    timed = folder.lines(name, *_ENCODINGS)[0].count("::") >= 3
    ratings = _rows(folder, name, "::", columns if timed else columns[:3])
    items = _rows(folder, "movies.dat", "::", ("item", "title", "genres"))
    items["genres"] = [genres.replace("|", " ") for genres in items["genres"]]
    items["year"] = [""] * len(items["title"])  # the title has it
    users = _rows(folder, "users.dat", "::", ("user", "gender", "age", "occupation", "zip"))
    return ratings, items, users


@dataclasses.dataclass(frozen=True)
class Variant:
    """A layout: file names it is known by (any one of the first), and how it is read."""

    ratings: tuple[str, ...]
    others: tuple[str, ...]
    read: Callable[[Folder], tuple[Columns, Columns, Columns]]


VARIANTS = {
    "atomic": Variant(("*.inter",), ("*.item", "*.user"), _atomic),
    "100k": Variant(("u.data",), ("u.item", "u.user"), _original_100k),
    "1m": Variant(("ratings.dat",), ("movies.dat", "users.dat"), _original_1m),
    "1m-timeless": Variant(
        ("ratings.notime.dat", "ratings.dat"),
        ("movies.dat", "users.dat"),
        functools.partial(_original_1m, name="ratings.notime.dat"),
    ),
}


def open_folder(path: files.PathLike) -> Folder:
    """Opens where the data lie.

    Raises:
      InputError: neither a directory nor an archive.
    """
    return Folder(Path(path), f"Expected {_expected()}.")


def _expected() -> str:
    layouts = "; ".join(
        f"{name}: {' or '.join(variant.ratings)}, {', '.join(variant.others)}"
        for name, variant in VARIANTS.items()
    )
    return f"MovieLens in one of the layouts ({layouts}), each file plain, .xz, .gz, .bz2 or .zip"


def detect(folder: Folder, variant: str | None) -> str:
    """Returns the layout whose files are all there; a log with time is preferred.

    Raises:
      InputError: unknown variant, its files are not all there, or several layouts fit.
    """
    if variant is not None and variant not in VARIANTS:
        raise InputError(f"no MovieLens variant '{variant}'." + did_you_mean(variant, VARIANTS))

    def present(pattern: str) -> bool:
        return bool(fnmatch.filter(folder.names, pattern))

    complete = [
        name
        for name, layout in VARIANTS.items()
        if any(map(present, layout.ratings)) and all(map(present, layout.others))
    ]
    if "1m" in complete:
        complete = [name for name in complete if name != "1m-timeless" or variant == name]
    if variant is not None:
        complete = [name for name in complete if name == variant]
    if not complete:
        raise folder.nothing()
    if len(complete) > 1:
        raise InputError(
            f"{folder.path} holds several layouts ({', '.join(complete)}). Expected one: remove "
            f"the files of the others."
        )
    return complete[0]
