"""Daily counts on disk, opened: read by everything that needs the past of a log.

    STORE/store.json                      what is counted (`Description`), sealed
    STORE/chunks/FIRST-LAST.json          one per run of days that is complete, with what was met
    STORE/counts/KEYS/FIRST-LAST/         Parquet: keys, period (day number), one count per action
    STORE/seen/FIRST-LAST/                Parquet: event_id, those of these days
    STORE/forms/FIRST-LAST/               Parquet: query, query_form, period, of new queries

Days are days of arrival, so a late event belongs to the day when it came and no day ever changes. A
chunk exists once its JSON does, which is written last. `build.py` writes all of it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from interactrank_jax import files
from interactrank_jax.data.schema import IMPLICIT_ACTION, Log
from interactrank_jax.errors import InputError
from interactrank_jax.iqp import engines
from interactrank_jax.iqp.days import date
from interactrank_jax.iqp.recipe import Recipe
from interactrank_jax.iqp.spec import TAKEN, parse_specs

FORMAT_VERSION = 3  # of counts, features and snapshots
RECORD = "store.json"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a store counts; two stores with one description hold the same numbers.

    Attributes:
      recipe: the features and how they are counted.
      actions: of the log.
    """

    recipe: Recipe
    actions: tuple[str, ...]

    @classmethod
    def from_config(cls, config: Any, log: Log) -> "Description":
        """Reads `config.data.cross` for a log.

        Raises:
          InputError: a timeless log, no features, one that the log cannot have, or an action of
            the name of a column.
        """
        _check_timed(log)
        for action in log.schema.actions:
            if action in TAKEN:
                raise InputError(
                    f"{log.path}: an action cannot be called '{action}', which a column of the "
                    f"counts is. Rename it in the log."
                )
        if not len(config.cross.features):
            raise InputError("config.data.cross.features is empty: name what to count.")
        recipe = Recipe.from_config(config.cross, log, timeless=False)
        return cls(recipe, tuple(log.schema.actions))

    def to_json(self) -> dict[str, Any]:
        """Returns its fields, the features by their names."""
        fields = dataclasses.asdict(self.recipe)
        features = [spec.name for spec in self.recipe.specs]
        return {**fields, "specs": features, "actions": list(self.actions)}

    @classmethod
    def from_json(cls, fields: dict[str, Any], log: Log) -> "Description":
        """Builds it back from `to_json`.

        Raises:
          InputError: of another log, which lacks what it needs.
        """
        _check_timed(log)
        held: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        actions = held.pop("actions")
        if actions != log.schema.actions:
            raise InputError(
                f"{log.path} has the actions {log.schema.actions}, what was counted had {actions}: "
                f"this is another log."
            )
        specs = parse_specs(held.pop("specs"), log.schema, with_fresh=held["fresh_days"] > 0)
        recipe = Recipe(specs, **held)
        recipe.check(log)
        return cls(recipe, actions)


def _check_timed(log: Log) -> None:
    if log.schema.timeless:
        raise InputError(
            f"{log.path} is timeless: there are no days to count by. `interactrank prepare` counts "
            f"it out of fold."
        )


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A run of days that is complete.

    Attributes:
      first, last: day numbers, both included.
      rows: that were counted.
      duplicates: events dropped, for their event_id had come before.
      late: events that arrived on a later day than they happened.
      early: events that happened before the day when their item came to be; counted all the same.
      unknown: counted rows whose item the items table does not have.
      requests: on the last day, by which the log is known again.
    """

    first: int
    last: int
    rows: int
    duplicates: int
    late: int
    early: int
    unknown: int
    requests: int

    @property
    def name(self) -> str:
        """FIRST-LAST, in the order of time."""
        return self.name_of(self.first, self.last)

    @staticmethod
    def name_of(first: int, last: int) -> str:
        """Returns the name of a chunk of some days."""
        return f"{first:06d}-{last:06d}"


class Store:
    """A store on disk, opened: what it describes and which of its days are complete.

    Attributes:
      path: its directory.
      description: what it counts.
      recipe: the features and how they are counted.
      chunks: complete, in the order of time.
    """

    def __init__(self, path: Path, description: Description):
        self.path, self.description, self.recipe = path, description, description.recipe
        found = sorted(self.chunks_place.glob("*.json"))
        self.chunks = tuple(Chunk(**files.read_sealed(file)["chunk"]) for file in found)

    @property
    def next_day(self) -> int | None:
        """The first day that is not counted yet; None for a store without any."""
        return self.chunks[-1].last + 1 if self.chunks else None

    def counts(self, keys: Sequence[str], backend: ibis.BaseBackend) -> ir.Table:
        """Returns the daily counts by some keys, see `expressions.period_counts`."""
        if not self.chunks:
            raise InputError(f"{self.path} holds no day yet: run `interactrank iqp build` again.")
        return self._read(self.counts_place(keys), backend)

    def forms(self, backend: ibis.BaseBackend) -> ir.Table:
        """Returns the form of each query that was asked, see `rows.Source.query_forms`."""
        return self._read(self.forms_place, backend)

    def seen(self, backend: ibis.BaseBackend) -> ir.Table:
        """Returns the event ids that were counted: one column event_id."""
        return self._read(self.seen_place, backend)

    def _read(self, place: Path, backend: ibis.BaseBackend) -> ir.Table:
        return engines.read_parquet(backend, [place / chunk.name for chunk in self.chunks])

    def counts_place(self, keys: Sequence[str]) -> Path:
        """Returns the directory of the counts by some keys."""
        return self.path / "counts" / ("+".join(keys) or "all")

    @property
    def seen_place(self) -> Path:
        """The directory of the event ids."""
        return self.path / "seen"

    @property
    def forms_place(self) -> Path:
        """The directory of the queries' forms."""
        return self.path / "forms"

    @property
    def chunks_place(self) -> Path:
        """The directory of what says which days are complete."""
        return self.path / "chunks"

    def figures(self) -> dict[str, Any]:
        """Returns what was counted, for a reader."""
        if not self.chunks:
            return {"days": "none"}
        names = ("rows", "duplicates", "late", "early", "unknown")
        totals = {name: sum(getattr(chunk, name) for chunk in self.chunks) for name in names}
        days = f"{date(self.chunks[0].first)} to {date(self.chunks[-1].last)}"
        return {"days": days, **totals}

    @property
    def counted_keys(self) -> dict[tuple[str, ...], list[str]]:
        """By the columns that counts are taken by, the actions counted.

        Beside those of the features: each rate's action and impressions over everything, for its
        mean.
        """
        result = {
            keys: sorted({action for action, _ in windows})
            for keys, windows in self.recipe.windows.items()
        }
        if self.recipe.rates:
            result[()] = sorted({*result.get((), ()), *self.recipe.rates, IMPLICIT_ACTION})
        return result


def open_store(path: files.PathLike, log: Log) -> Store:
    """Opens a store.

    Raises:
      InputError: none there, damaged, or of another release.
    """
    held = read_record(Path(path) / RECORD, "iqp build")
    return Store(Path(path), Description.from_json(held["description"], log))


def read_record(file: Path, command: str) -> dict[str, Any]:
    """Returns what the JSON beside counts, features or a snapshot says.

    Raises:
      InputError: none there, damaged, or of another release.
    """
    if not file.is_file():
        raise InputError(
            f"{file.parent} holds no {file.name}. Expected the --out of `interactrank {command}`."
        )
    held = files.read_sealed(file)
    version = held.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise InputError(
            f"{file.parent} is of another release (format {version or 'unknown'}; this one reads "
            f"{FORMAT_VERSION}): make it again by `interactrank {command}`."
        )
    return held


def write_record(file: Path, held: Mapping[str, Any]) -> None:
    """Writes what `read_record` reads."""
    files.write_sealed(file, {"format_version": FORMAT_VERSION, **held})
