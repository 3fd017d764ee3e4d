"""STATE on disk, opened: what history knows, read by everything that needs the past of a log.

    STATE/state.json                      what is kept (`Description`)
    STATE/chunks/FIRST-LAST.json          one per run of days that is complete, with what was met
                                          and the digests of its files
    STATE/counts/KEYS/FIRST-LAST/         Parquet: keys, period (day number), one count per action
    STATE/query_items/FIRST-LAST/         Parquet: query, item, period, engagements
    STATE/timelines/FIRST-LAST/           Parquet: what each user did, by user and time of arrival
    STATE/catalogue/FIRST-LAST/           Parquet: items new or changed since the last chunk
    STATE/seen/FIRST-LAST/                Parquet: event_id, those of these days
    STATE/forms/FIRST-LAST/               Parquet: query, query_form, period, of new queries
    STATE/.partial-FIRST-LAST/            what a build is at work on, or was when it was killed

Days are days of arrival, so a late event belongs to the day when it came and no day ever changes. A
chunk exists once its JSON does, which is written last. `build.py` writes all of it; other files in
the directory are ignored.

Where impressions are split at random a period is a fold, and there is one chunk.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from interactrank_jax.io import files
from interactrank_jax.io.artifact import Artifact, Kind, open_artifact
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import Log
from interactrank_jax.log.schema import Schema
from interactrank_jax.state import engines
from interactrank_jax.state.day_rows import DayRows
from interactrank_jax.state.days import date
from interactrank_jax.state.expressions import union
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.rules import first_copies
from interactrank_jax.state.source import Source
from interactrank_jax.state.spec import FIRST_DAY, parse_specs, refuse_taken

KIND = Kind("STATE", "state build", "state.json", version=6)
# Folders, beside those of counts.
SEEN, FORMS, TIMELINES, QUERY_ITEMS = "seen", "forms", "timelines", "query_items"
CATALOGUE = "catalogue"
CLEAN_TIME = "clean_time"  # the protocol whose periods are days
OUT_OF_FOLD = (
    "the split decides what it counts, so `interactrank prepare` makes it, in its examples"
)


@dataclasses.dataclass(frozen=True)
class Description:
    """What STATE holds; two of one description, made of one log, hold the same numbers.

    Attributes:
      recipe: the cross features and how they are counted.
      actions: of the log.
      query_actions: those that query histories count.
      user_impressions: whether timelines have impressions, which rates of users need.
    """

    recipe: Recipe
    actions: tuple[str, ...]
    query_actions: tuple[str, ...]
    user_impressions: bool

    @classmethod
    def from_config(cls, config: Any, log: Log, timeless: bool = False) -> "Description":
        """Reads `config.data` for a log.

        Args:
          config: `config.data`.
          log: the log.
          timeless: whether periods are folds.

        Raises:
          InputError: a timeless log whose days are asked for, a feature that the log cannot have,
            or an action of the name of a column.
        """
        if log.schema.timeless and not timeless:
            raise InputError(
                f"{log.path} is timeless, so its STATE has folds for days: {OUT_OF_FOLD}."
            )
        for action in log.schema.actions:
            refuse_taken("action", action, str(log.path))
        Recipe.from_config(config.cross, log, timeless)
        return cls.of_schema(config, log.schema, timeless)

    @classmethod
    def of_schema(cls, config: Any, schema: Schema, timeless: bool) -> "Description":
        """Reads `config.data` for a log that is not at hand, which is not checked."""
        return cls(
            Recipe.of_schema(config.cross, schema, timeless),
            tuple(schema.actions),
            tuple(sorted(config.query_history.actions)),
            bool(len(config.history.rates)),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns its fields, the features by their names."""
        fields = dataclasses.asdict(self.recipe)
        features = [spec.name for spec in self.recipe.specs]
        return {
            **fields,
            "specs": features,
            "actions": list(self.actions),
            "query_actions": list(self.query_actions),
            "user_impressions": self.user_impressions,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any], schema: Schema, where: Path) -> "Description":
        """Builds it back from `to_json`.

        Args:
          fields: what `to_json` gave.
          schema: of the log.
          where: the log, for messages.

        Raises:
          InputError: of another log, which lacks what it needs.
        """
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        actions = values.pop("actions")
        if actions != schema.actions:
            raise InputError(
                f"{where} has the actions {schema.actions}, what was counted had {actions}: this "
                f"is another log."
            )
        history = (values.pop("query_actions"), values.pop("user_impressions"))
        specs = parse_specs(values.pop("specs"), schema, with_fresh=values["fresh_days"] > 0)
        recipe = Recipe(specs, **values)
        if schema.timeless and recipe.lag_days is not None:
            raise InputError(
                f"{where} is timeless, what was counted has days: this is another log."
            )
        return cls(recipe, actions, *history)

    def difference(self, other: "Description") -> str | None:
        """Returns the first field in which two differ, None where they agree."""
        ours, theirs = self.to_json(), other.to_json()
        for field, value in ours.items():
            if value != theirs[field]:
                name = "features" if field == "specs" else field
                return f"{name} {value}, asked for is {theirs[field]}"
        return None


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
      days: what each day held that had any rows, by which the log is known again.
      files: see `day_rows.files_of`; of when the chunk was counted.
    """

    first: int
    last: int
    rows: int
    duplicates: int
    late: int
    early: int
    unknown: int
    days: Mapping[int, DayRows]
    files: Mapping[str, list[int]]

    def to_json(self) -> dict[str, Any]:
        """Returns its fields."""
        days = {str(day): dataclasses.asdict(rows) for day, rows in self.days.items()}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {
            "days": days
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Chunk":
        """Builds it back from `to_json`."""
        days = {
            int(day): DayRows(**{**rows, "actions": tuple(rows["actions"])})
            for day, rows in fields["days"].items()
        }
        return cls(**{**fields, "days": days})

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
    """STATE on disk, opened: what it describes and which of its days are complete.

    Attributes:
      path: its directory.
      description: what it holds.
      recipe: the features and how they are counted.
      has_events: whether the log that it was built from has events.
      chunks: complete, in the order of time.
    """

    def __init__(self, path: Path, description: Description, has_events: bool):
        self.path, self.description, self.recipe = path, description, description.recipe
        self.has_events = has_events
        names = sorted(
            file.name for file in self.chunks_place.glob("*.json") if Chunk.is_name(file.stem)
        )
        self._manifests = [self._open(name) for name in names]
        self.chunks = tuple(
            Chunk.from_json(manifest.record["chunk"]) for manifest in self._manifests
        )
        before = ""
        for manifest, chunk in zip(self._manifests, self.chunks, strict=True):
            if (manifest.file.stem, manifest.record["follows"]) != (chunk.name, before):
                raise InputError(
                    f"{manifest.file} does not follow on '{before}': a file of "
                    f"{self.chunks_place} is missing, or of another STATE. Bring it back from a "
                    f"copy, or build again into a new --out."
                )
            before = chunk.name

    def _open(self, name: str) -> Artifact:
        file = self.chunks_place / name
        manifest = open_artifact(KIND, self.path, ("chunk", "follows"), file)
        fields = {field.name for field in dataclasses.fields(Chunk)}
        record = manifest.record["chunk"]
        if not isinstance(record, dict) or set(record) != fields:
            raise InputError(f"{file} describes no run of days: build again into a new --out.")
        return manifest

    @property
    def next_day(self) -> int | None:
        """The first day that is not counted yet; None without any, and where there are no days."""
        has_days = self.chunks and self.recipe.lag_days is not None
        return self.chunks[-1].last + 1 if has_days else None

    def counts(self, keys: Sequence[str], backend: ibis.BaseBackend) -> ir.Table:
        """Returns the daily counts by some keys, see `expressions.period_counts`."""
        return self._read(counts_folder(keys), backend)

    def query_items(self, backend: ibis.BaseBackend) -> ir.Table:
        """Returns the daily engagements by query and item, see `query_history.query_items`."""
        return self._read(QUERY_ITEMS, backend)

    def timelines(self, backend: ibis.BaseBackend) -> ir.Table:
        """Returns what users did, see `timelines.timeline_rows`."""
        return self._read(TIMELINES, backend)

    def catalogue(self, backend: ibis.BaseBackend) -> ir.Table:
        """Returns the items as the log last had them: `item_id`, `created_at` and item features."""
        rows = self._read(CATALOGUE, backend)
        newest = rows.group_by("item_id").aggregate(**{FIRST_DAY: rows[FIRST_DAY].max()})
        return rows.inner_join(newest, ["item_id", FIRST_DAY]).drop(FIRST_DAY)

    def forms(self, backend: ibis.BaseBackend) -> ir.Table:
        """Returns the form of each query that was asked, see `Source.query_forms`."""
        return self._read(FORMS, backend)

    def all_forms(self, source: Source) -> ir.Table:
        """Returns `forms`, and those of queries that were first asked after the last day."""
        if self.next_day is None:
            return self.forms(source.backend) if self.chunks else source.query_forms()
        earlier = self.forms(source.backend)
        recent = source.query_forms(since=self.next_day).anti_join(earlier, "query")
        return union([earlier, recent.select(earlier.columns).cast(earlier.schema())])

    def first_copies(self, events: ir.Table, backend: ibis.BaseBackend) -> ir.Table:
        """Returns the events that were not counted, each once, see `rules.first_copies`."""
        events = first_copies(events, backend)
        return events.anti_join(self._read(SEEN, backend), "event_id") if self.chunks else events

    def _read(self, folder: str, backend: ibis.BaseBackend) -> ir.Table:
        if not self.chunks:
            raise InputError(
                f"{self.path} holds no day yet: run `interactrank {KIND.command}` again."
            )
        folders = [f"{folder}/{chunk.name}" for chunk in self.chunks]
        return engines.read_artifact(backend, list(zip(self._manifests, folders, strict=True)))

    def folders(self, name: str) -> list[str]:
        """Returns the folders of a chunk by its name."""
        folders = [counts_folder(keys) for keys in self.counted_keys]
        folders += [QUERY_ITEMS, TIMELINES, CATALOGUE]
        folders += [SEEN] if self.has_events else []
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
        """By the columns that counts are taken by, the actions counted."""
        return {
            keys: sorted({action for action, _ in windows})
            for keys, windows in self.recipe.windows.items()
        }


def counts_folder(keys: Sequence[str]) -> str:
    """Returns the folder of the counts by some keys."""
    return "counts/" + ("+".join(keys) or "(all)")  # a segment may be called 'all'


def open_store(path: files.PathLike, log: Log) -> Store:
    """Opens STATE.

    Raises:
      InputError: none there, damaged, or of another release.
    """
    path = Path(path)
    record = open_artifact(KIND, path, ("description", "has_events")).record
    description = Description.from_json(record["description"], log.schema, log.path)
    description.recipe.check(log)
    has_events = log.has_events and description.recipe.lag_days is not None
    if record["has_events"] != has_events:
        raise InputError(
            f"{log.path} has {'' if log.has_events else 'no '}events, the log that {path} was "
            f"built from had {'some' if record['has_events'] else 'none'}: this is another log. "
            f"Build again into a new --out."
        )
    return Store(path, description, has_events)


def open_without_log(path: files.PathLike) -> tuple[Store, Schema]:
    """Opens STATE where its log is not at hand; returns the schema of the log that was counted.

    Raises:
      InputError: none there, damaged, or of another release.
    """
    path = Path(path)
    record = open_artifact(KIND, path, ("description", "has_events", "schema")).record
    schema = Schema.from_json(record["schema"])
    description = Description.from_json(record["description"], schema, path)
    return Store(path, description, bool(record["has_events"])), schema
