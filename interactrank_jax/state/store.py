"""Daily counts on disk, opened: read by everything that needs the past of a log.

    STORE/store.json                      what is counted (`Description`)
    STORE/chunks/FIRST-LAST.json          one per run of days that is complete, with what was met
                                          and the digests of its files
    STORE/counts/KEYS/FIRST-LAST/         Parquet: keys, period (day number), one count per action
    STORE/seen/FIRST-LAST/                Parquet: event_id, those of these days
    STORE/forms/FIRST-LAST/               Parquet: query, query_form, period, of new queries
    STORE/.partial-FIRST-LAST/            what a build is at work on, or was when it was killed

Days are days of arrival, so a late event belongs to the day when it came and no day ever changes. A
chunk exists once its JSON does, which is written last. `build.py` writes all of it; other files in
the directory are nobody's business.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.schema import IMPLICIT_ACTION, Log
from interactrank_jax.state import manifests
from interactrank_jax.state.days import date
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.spec import parse_specs, refuse_taken

RECORD, COMMAND = "store.json", "iqp build"
SEEN, FORMS = "seen", "forms"  # folders


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
            refuse_taken("action", action, str(log.path))
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

    @staticmethod
    def is_name(text: str) -> bool:
        """Returns whether a text is such a name."""
        return re.fullmatch(r"\d{6,}-\d{6,}", text) is not None


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
        names = sorted(
            file.name for file in self.chunks_place.glob("*.json") if Chunk.is_name(file.stem)
        )
        self._manifests = [self._open(name) for name in names]
        self.chunks = tuple(Chunk(**manifest.record["chunk"]) for manifest in self._manifests)
        before = ""
        for manifest, chunk in zip(self._manifests, self.chunks, strict=True):
            if (manifest.file.stem, manifest.record["follows"]) != (chunk.name, before):
                raise InputError(
                    f"{manifest.file} does not follow on '{before}': a file of "
                    f"{self.chunks_place} is missing, or of another store. Bring it back from a "
                    f"copy, or build again into a new --out."
                )
            before = chunk.name

    def _open(self, name: str) -> manifests.Manifest:
        file = self.chunks_place / name
        manifest = manifests.read(file, self.path, COMMAND, ("chunk", "follows"))
        fields = {field.name for field in dataclasses.fields(Chunk)}
        record = manifest.record["chunk"]
        if not isinstance(record, dict) or set(record) != fields:
            raise InputError(f"{file} is no chunk of counts: build again into a new --out.")
        return manifest

    @property
    def next_day(self) -> int | None:
        """The first day that is not counted yet; None for a store without any."""
        return self.chunks[-1].last + 1 if self.chunks else None

    def counts(self, keys: Sequence[str], backend: ibis.BaseBackend) -> ir.Table:
        """Returns the daily counts by some keys, see `expressions.period_counts`."""
        if not self.chunks:
            raise InputError(f"{self.path} holds no day yet: run `interactrank iqp build` again.")
        return self._read(counts_folder(keys), backend)

    def forms(self, backend: ibis.BaseBackend) -> ir.Table:
        """Returns the form of each query that was asked, see `rows.Source.query_forms`."""
        return self._read(FORMS, backend)

    def seen(self, backend: ibis.BaseBackend) -> ir.Table:
        """Returns the event ids that were counted: one column event_id."""
        return self._read(SEEN, backend)

    def _read(self, folder: str, backend: ibis.BaseBackend) -> ir.Table:
        folders = [f"{folder}/{chunk.name}" for chunk in self.chunks]
        return manifests.read_parquet(backend, list(zip(self._manifests, folders, strict=True)))

    def folders(self, name: str, has_events: bool) -> list[str]:
        """Returns the folders of a chunk by its name, in a log with events or without."""
        folders = [counts_folder(keys) for keys in self.counted_keys]
        folders += [SEEN] if has_events else []
        folders += [FORMS] if self.recipe.query_form else []
        return [f"{folder}/{name}" for folder in folders]

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


def counts_folder(keys: Sequence[str]) -> str:
    """Returns the folder of the counts by some keys."""
    return "counts/" + ("+".join(keys) or "(all)")  # a segment may be called 'all'


def open_store(path: files.PathLike, log: Log) -> Store:
    """Opens a store.

    Raises:
      InputError: none there, damaged, or of another release.
    """
    path = Path(path)
    manifest = manifests.read(path / RECORD, path, COMMAND, ("description",))
    return Store(path, Description.from_json(manifest.record["description"], log))
