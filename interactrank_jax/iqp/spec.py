"""Which cross features a config asks for: the grammar `kind:action:window_days[:segment]`.

    share        C(q, p) / (C(q) + prior)                         InteractRank's ItemQueryPerf
    item_share   C(p) / (C(all) + prior)                          the same without the query
    rate         (C_a(q, p) - m C_imp(q, p)) / (C_imp(q, p) + prior)
    item_rate    the same with counts over all queries

C counts an action, C_imp impressions, m is the action's mean rate in the training split.
"""

import dataclasses
from collections.abc import Sequence

from interactrank_jax.data.schema import IMPLICIT_ACTION, Log, Schema
from interactrank_jax.errors import InputError, did_you_mean

# Columns beside the keys in the tables of `expressions.py` and `rows.py`.
_TAKEN = ("period", "probe", "first", "group", "copies", "copy", "is_late")
KINDS = ("share", "item_share", "rate", "item_rate")
_GRAMMAR = (
    "Expected kind:action:window_days or kind:action:window_days:segment, "
    "such as 'share:click:30' or 'share:click:365:country'."
)


@dataclasses.dataclass(frozen=True)
class CrossSpec:
    """One cross feature, parsed.

    Attributes:
      name: as in the config.
      kind: one of `KINDS`.
      action: name of the action counted in the numerator.
      window: days.
      segment: categorical feature within which both counts are taken, or ''.
    """

    name: str
    kind: str
    action: str
    window: int
    segment: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that must match, apart from the item."""
        query = () if self.kind.startswith("item_") else ("query",)
        return (*query, self.segment) if self.segment else query

    @property
    def is_rate(self) -> bool:
        """Whether it compares an action with impressions, rather than items with each other."""
        return self.kind.endswith("rate")

    @property
    def count_keys(self) -> tuple[str, ...]:
        """Columns that the numerator is counted by."""
        return (*self.keys, "item")

    @property
    def total_keys(self) -> tuple[str, ...]:
        """Columns that the denominator is counted by: a rate looks at one item alone."""
        return self.count_keys if self.is_rate else self.keys

    @property
    def total_action(self) -> str:
        """Name of the action counted in the denominator."""
        return IMPLICIT_ACTION if self.is_rate else self.action


def parse_specs(names: Sequence[str], schema: Schema) -> tuple[CrossSpec, ...]:
    """Parses `config.data.cross.features` against the log's schema.

    Raises:
      InputError: not the grammar, a name used twice, or an unknown kind, action or segment.
    """
    segments = [feature.name for feature in schema.select(("user", "request"), "categorical")]
    specs: list[CrossSpec] = []
    for name in names:
        parts = str(name).split(":")
        where = f"config.data.cross.features: '{name}'"
        if len(parts) not in (3, 4) or not parts[2].isdecimal() or not int(parts[2]):
            raise InputError(f"{where} is malformed. {_GRAMMAR}")
        spec = CrossSpec(name, parts[0], parts[1], int(parts[2]), *parts[3:])
        actions = (*schema.actions, IMPLICIT_ACTION)
        for what, value, known in (
            ("kind", spec.kind, KINDS),
            ("action", spec.action, actions),
            ("segment", spec.segment or None, segments),
        ):
            if value is not None and value not in known:
                raise InputError(f"{where} has {what} '{value}'." + did_you_mean(value, known))
        if spec.segment in (*_TAKEN, *schema.actions):
            raise InputError(
                f"{where}: a segment cannot be called '{spec.segment}', which a column of the "
                f"counts is. Rename the feature in the log."
            )
        if spec.is_rate and spec.action == IMPLICIT_ACTION:
            raise InputError(f"{where}: the rate of impressions is 1. Name another action.")
        if spec in specs:
            raise InputError(f"{where} is listed twice. Remove one.")
        specs.append(spec)
    return tuple(specs)


def check_lag(lag_days: int) -> int:
    """Returns `lag_days`, checked.

    Raises:
      InputError: below 1, so that counts would include the request's own day, and its outcome.
    """
    if lag_days < 1:
        raise InputError(
            f"config.data.cross.lag_days is {lag_days}. Expected at least 1 (day): with less, "
            f"cross features would count what happened after the request, its own outcome included."
        )
    return int(lag_days)


def segments_of(specs: Sequence[CrossSpec]) -> tuple[str, ...]:
    """Returns the categorical features that counts are taken within."""
    return tuple(sorted({spec.segment for spec in specs} - {""}))


def counts_impressions(specs: Sequence[CrossSpec]) -> bool:
    """Returns whether any of the features counts impressions."""
    return any(IMPLICIT_ACTION in (spec.action, spec.total_action) for spec in specs)


def check_event_columns(log: Log, segments: Sequence[str]) -> None:
    """Raises InputError where the events lack a column that a cross feature is segmented by."""
    for name in segments:
        if name not in log.columns("events"):
            raise InputError(
                f"config.data.cross.features: '{name}' is a segment, but the events have no column "
                f"'{name}'. Add it to the events (its value as of the event), or leave that "
                f"cross feature out."
            )


def windows_of(
    specs: Sequence[CrossSpec],
) -> dict[tuple[str, ...], list[tuple[str, int]]]:
    """Returns, by the columns that counts are taken by, the pairs of action and days to count."""
    windows: dict[tuple[str, ...], list[tuple[str, int]]] = {}
    for spec in specs:
        for keys, action in (
            (spec.count_keys, spec.action),
            (spec.total_keys, spec.total_action),
        ):
            known = windows.setdefault(keys, [])
            if (action, spec.window) not in known:
                known.append((action, spec.window))
    return windows
