"""The log contract: what a search or recommendation log must look like on disk.

    LOG/
      schema.json              a `Schema`
      items.parquet            item_id and the item features, text included; optional created_at
      requests.parquet         request_id, user_id, query_id, timestamp, user and request features
      impressions.parquet      request_id, item_id, position, one column per action;
                               optional propensity, stage, teacher_score
      events.parquet           optional: event_id, user_id, query_id or null, item_id, action,
                               event_time, arrival_time; columns named like categorical user or
                               request features hold their values as of the event

Each table is one file as above or a directory of parts, `items/*.parquet`, read in the order of
their names. Times are UTC seconds. A timeless log has neither timestamps nor events. Where events
exist, histories and cross features come from them, else from the impressions' actions.

Impressions of stage 'random' were not seen by anybody: no feature counts them. A log whose schema
has `negatives` declares that these are all its negatives, or all but those that users gave, and how
they were drawn.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.negatives import SampledNegatives

FORMAT = "interactrank-log"
FORMAT_VERSION = 1

ENTITIES = ("user", "request", "item")
KINDS = ("categorical", "numeric", "embedding", "text")
# Shown rows carry this action implicitly: every impression is one.
IMPLICIT_ACTION = "impression"

REQUIRED_TABLES = ("items", "requests", "impressions")
TABLES = (*REQUIRED_TABLES, "events")
# Names that columns of the log, embedding tables or arrays of the item store already have.
RESERVED_NAMES = frozenset(
    (
        *("request_id", "user_id", "query_id", "item_id", "event_id"),
        *("timestamp", "event_time", "arrival_time", "created_at", "action"),
        *("position", "propensity", "stage", "teacher_score"),
        *("user", "query", "item", "text", "id", "count", "numeric"),
    )
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """One declared feature of the log.

    Attributes:
      name: its column.
      entity: 'item' (column of items), 'user' or 'request' (columns of requests: user features as
        they were at the request).
      kind: 'categorical' (string, integer or boolean), 'numeric', 'embedding' (a list of floats of
        one width) or 'text'.
    """

    name: str
    entity: str
    kind: str


def _check_names(what: str, names: list[Any]) -> None:
    """Refuses names of features, or of actions, that an engine would take for others."""
    reserved = {name.lower(): name for name in RESERVED_NAMES}
    twins: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(
                f"{what} name {name!r} is malformed. Expected letters, digits and underscores, not "
                f"starting with a digit."
            )
        if what == "action" and name.lower() == IMPLICIT_ACTION:
            raise InputError(
                f"action '{name}' is reserved: every row of impressions is one. Remove it from the "
                f"actions."
            )
        # DuckDB does not tell capitals apart, so it would read one column for the other.
        if name.lower() in reserved:
            taken = reserved[name.lower()]
            as_what = "" if name == taken else f" as '{taken}', which differs in capitals alone"
            raise InputError(f"{what} name '{name}' is reserved{as_what}: rename it.")
        twin = twins.get(name.lower())
        if twin == name:
            raise InputError(f"{what} '{name}' is declared twice.")
        if twin is not None:
            raise InputError(
                f"{what}s '{twin}' and '{name}' have one name, capitals aside: rename one."
            )
        twins[name.lower()] = name


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a log declares about itself.

    Attributes:
      features: the declared features; other columns are ignored.
      actions: what users can do with a shown item, apart from seeing it.
      timeless: requests carry no timestamp, so nothing can be as of anything.
      negatives: how the impressions of stage 'random' were drawn; None where the log is as it came.

    Raises:
      InputError: unknown kind or entity, or a name that is malformed, or reserved or used twice,
        capitals aside.
    """

    features: tuple[FeatureSpec, ...]
    actions: tuple[str, ...]
    timeless: bool = False
    negatives: SampledNegatives | None = None

    def __post_init__(self):
        for feature in self.features:
            for what, value, known in (
                ("entity", feature.entity, ENTITIES),
                ("kind", feature.kind, KINDS),
            ):
                if value not in known:
                    raise InputError(
                        f"feature '{feature.name}' has {what} '{value}'."
                        + did_you_mean(str(value), known)
                    )
        if not self.actions:
            raise InputError("schema: no actions. Expected at least one, such as 'click'.")
        _check_names("feature", [feature.name for feature in self.features])
        _check_names("action", list(self.actions))
        ours = {f"user_{what}_{action}" for action in self.actions for what in ("count", "rate")}
        for feature in self.features:
            if feature.name in ours:
                raise InputError(
                    f"feature name '{feature.name}' is that of what preparation counts of users "
                    f"(config.data.history.rates): rename it."
                )

    def select(self, entities: tuple[str, ...], kind: str | None = None) -> tuple[FeatureSpec, ...]:
        """Returns the features of some entities, in order, optionally of one kind."""
        return tuple(
            feature
            for feature in self.features
            if feature.entity in entities and kind in (None, feature.kind)
        )

    def to_json(self) -> dict[str, Any]:
        """Returns plain dictionaries and lists."""
        value = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "timeless": self.timeless,
            "features": [dataclasses.asdict(feature) for feature in self.features],
            "actions": list(self.actions),
        }
        if self.negatives is not None:
            value["negatives"] = self.negatives.to_json()
        return value

    @classmethod
    def from_json(cls, value: Any) -> "Schema":
        """Builds it back from `to_json`.

        Raises:
          InputError: another format or version, a missing field, or contents that do not hold.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InputError(f'expected a JSON object with "format": "{FORMAT}".')
        if value.get("version") != FORMAT_VERSION:
            raise InputError(
                f"version is {value.get('version')!r}, this release reads {FORMAT_VERSION}."
            )
        fields = ("format", "version", "timeless", "features", "actions", "negatives")
        for name in value:
            if name not in fields:
                raise InputError(f"unknown field '{name}'." + did_you_mean(name, fields))
        timeless = value.get("timeless", False)
        if not isinstance(timeless, bool):
            raise InputError(f"timeless is {timeless!r}. Expected true or false.")
        for name, expected in (
            ("actions", 'a list of names, such as ["click"]'),
            ("features", "a list of objects with name, entity and kind"),
        ):
            if name not in value:
                raise InputError(f"'{name}' is missing. Expected {expected}.")
            if not isinstance(value[name], list):
                raise InputError(f"'{name}' is {value[name]!r}. Expected {expected}.")
        try:
            features = tuple(FeatureSpec(**feature) for feature in value["features"])
        except TypeError as error:
            raise InputError(
                f"a feature is incomplete ({error}). Expected each to be an object with name, "
                f"entity and kind, and nothing else."
            ) from error
        negatives = value.get("negatives")
        if negatives is not None:
            negatives = SampledNegatives.from_json(negatives)
        return cls(features, tuple(value["actions"]), timeless, negatives)

    def save(self, path: files.PathLike) -> None:
        """Writes `schema.json` into the directory `path`."""
        files.write_json(Path(path) / "schema.json", self.to_json())

    @classmethod
    def load(cls, path: files.PathLike) -> "Schema":
        """Reads `schema.json` from the directory `path`.

        Raises:
          InputError: absent, or see `from_json`.
        """
        file = Path(path) / "schema.json"
        if not file.is_file():
            raise InputError(
                f"{path} holds no log (no schema.json). Expected the --out of `interactrank "
                f"simulate` or `interactrank convert`, or a log written by hand as "
                f"interactrank_jax/log/schema.py describes."
            )
        try:
            return cls.from_json(files.read_json(file))
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
