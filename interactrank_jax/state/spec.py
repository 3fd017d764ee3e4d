"""Which cross features a config asks for: the grammar `kind:action:window_days[:segment]`.

    share        C(q, p) / (C(q) + prior)                         InteractRank's ItemQueryPerf
    item_share   C(p) / (C(all) + prior)                          the same without the query
    rate         (C_a(q, p) - m C_imp(q, p)) / (C_imp(q, p) + prior)
    item_rate    the same with counts over all queries

C counts an action, C_imp impressions, m is the action's mean rate in the training split. Segment
'fresh' compares items that are new with each other, and those that are not.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from itertools import product

from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.schema import IMPLICIT_ACTION, Schema

FRESH = "fresh"  # the segment that is of the item
# Columns of ours beside those of a log, whose names have no colon.
REQUEST_ROW, QUERY_ROW, ITEM_ROW = "request:row", "query:row", "item:row"
FIRST_DAY = "first:day"
# Columns that a table is partitioned by on disk.
PART, BUCKET = "__part", "__bucket"
# Columns in the tables of `expressions.py` and `source.py` beside segments and actions.
TAKEN = (
    *("period", "probe", "first", "group", "copies", "copy", "is_late", "is_early", "created"),
    *("time", "weight", "rank", "query_form", "known", PART, BUCKET),
    *("query", "item", "user", "action", "event_id", "event_time"),
)
_TAKEN = frozenset(name.lower() for name in TAKEN)
LONGEST_WINDOW = 36_500  # days
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
      query: column that stands for the query.
    """

    name: str
    kind: str
    action: str
    window: int
    segment: str = ""
    query: str = "query"

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that must match, apart from the item."""
        query = () if self.kind.startswith("item_") else (self.query,)
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


def names(
    kinds: Iterable[str],
    actions: Iterable[str],
    windows: Iterable[int],
    segments: Iterable[str] = ("",),
) -> tuple[str, ...]:
    """Returns the names of all combinations, for `config.data.cross.features`.

    Args:
      kinds: of `KINDS`.
      actions: to count.
      windows: days.
      segments: categorical features, 'fresh', or '' for none.
    """
    return tuple(
        ":".join((kind, action, str(days), *([segment] if segment else ())))
        for kind, action, days, segment in product(kinds, actions, windows, segments)
    )


def refuse_taken(what: str, name: str, where: str, also: Iterable[str] = ()) -> None:
    """Refuses the name of an action or segment that a column of the counts has, capitals aside.

    Engines do not tell capitals apart.

    Args:
      what: 'action' or 'segment'.
      name: of it.
      where: names it, for the message.
      also: further names of columns.

    Raises:
      InputError: it has such a name.
    """
    if name.lower() in _TAKEN.union(other.lower() for other in also):
        raise InputError(
            f"{where}: {'an' if what == 'action' else 'a'} {what} cannot be called '{name}', which "
            f"a column of the counts is, capitals aside. Rename it in the log."
        )


def parse_specs(
    names: Sequence[str], schema: Schema, with_fresh: bool = False
) -> tuple[CrossSpec, ...]:
    """Parses `config.data.cross.features` against the log's schema.

    Args:
      names: of the features.
      schema: of the log.
      with_fresh: whether fresh items can be set apart.

    Raises:
      InputError: not the grammar, a name used twice, or an unknown kind, action or segment.
    """
    segments = [feature.name for feature in schema.select(("user", "request"), "categorical")]
    if with_fresh and (twins := [name for name in segments if name.lower() == FRESH]):
        raise InputError(
            f"config.data.cross.fresh_days sets apart segment '{FRESH}', and '{twins[0]}' is a "
            f"feature of the log. Rename the feature, or set fresh_days to 0."
        )
    segments += [FRESH] if with_fresh else []
    specs: list[CrossSpec] = []
    for name in names:
        parts = str(name).split(":")
        where = f"config.data.cross.features: '{name}'"
        if len(parts) not in (3, 4) or not re.fullmatch("[0-9]{1,5}", parts[2]):
            raise InputError(f"{where} is malformed. {_GRAMMAR}")
        if not 1 <= int(parts[2]) <= LONGEST_WINDOW:
            raise InputError(f"{where}: a window has 1 to {LONGEST_WINDOW:,} days.")
        spec = CrossSpec(name, parts[0], parts[1], int(parts[2]), *parts[3:])
        actions = (*schema.actions, IMPLICIT_ACTION)
        for what, value, known in (
            ("kind", spec.kind, KINDS),
            ("action", spec.action, actions),
            ("segment", spec.segment or None, segments),
        ):
            if value == FRESH and what == "segment" and not with_fresh:
                raise InputError(
                    f"{where} sets fresh items apart: set config.data.cross.fresh_days to the days "
                    f"for which an item is one, such as 30."
                )
            if value is not None and value not in known:
                raise InputError(f"{where} has {what} '{value}'." + did_you_mean(value, known))
        refuse_taken("action", spec.action, where)
        refuse_taken("segment", spec.segment, where, also=schema.actions)
        if spec.is_rate and spec.action == IMPLICIT_ACTION:
            raise InputError(f"{where}: the rate of impressions is 1. Name another action.")
        if spec in specs:
            raise InputError(f"{where} is listed twice. Remove one.")
        specs.append(spec)
    return tuple(specs)
