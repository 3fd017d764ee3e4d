"""What each day of a log holds: by this a day is known again, or seen to have changed."""

import dataclasses
from typing import Any

import ibis.expr.types as ir

from interactrank_jax.state.log_days import requests_per_day
from interactrank_jax.state.source import Source
from interactrank_jax.state.spec import FRESH


@dataclasses.dataclass(frozen=True)
class DayRows:
    """What a day of a log holds of what STATE counts.

    Attributes:
      requests: made on it.
      rows: events that arrived on it, copies too; in a log without events its impressions.
      actions: of those rows, how many are or have each action, in the order of the log's actions.
    """

    requests: int = 0
    rows: int = 0
    actions: tuple[int, ...] = ()


def day_rows(
    source: Source, since: int | None = None, until: int | None = None, with_rows: bool = True
) -> dict[int, DayRows]:
    """Returns what each day holds, by the number of the day, ascending.

    Args:
      source: of the log, with time.
      since, until: days.
      with_rows: whether anything but requests is counted; otherwise it is 0.
    """
    days, requests = requests_per_day(source.log, source.backend, since, until)
    fields: dict[int, dict[str, Any]] = {
        day: {"requests": count}
        for day, count in zip(days.tolist(), requests.tolist(), strict=True)
    }
    if with_rows:
        table = _labels_per_day(as_it_came(source), since, until)
        for row in source.backend.to_pyarrow(table).to_pylist():
            fields.setdefault(row.pop("period"), {}).update(row)
    numbers = range(len(source.log.schema.actions))
    for of_day in fields.values():
        of_day["actions"] = tuple(of_day.pop(f"action:{k}", 0) for k in numbers)
    return {day: DayRows(**fields[day]) for day in sorted(fields)}


def tables_read(source: Source) -> dict[str, str]:
    """Returns the tables that `day_rows` looks at, with the column that says the day, or ''."""
    if source.has_events:
        return {"events": "arrival_time"}
    return {"requests": "timestamp", "impressions": ""}


def files_of(source: Source) -> dict[str, list[int]]:
    """Returns bytes and time of change of each file that `day_rows` reads, by TABLE/NAME.

    A file that has both as before is taken to be what it was.
    """
    if source.recipe.lag_days is None:
        return {}
    result = {}
    for table in tables_read(source):
        for part in source.log.parts(table):
            status = part.path.stat()
            result[f"{table}/{part.path.name}"] = [status.st_size, status.st_mtime_ns]
    return result


def as_it_came(source: Source) -> Source:
    """Returns a source of rows as they lie in the log, with no join but that of the request."""
    recipe = dataclasses.replace(source.recipe, user_day_cap=0, query_form="", backoff=0.0)
    if recipe.has_fresh:
        specs = tuple(
            spec if spec.segment != FRESH else dataclasses.replace(spec, segment="")
            for spec in recipe.specs
        )
        recipe = dataclasses.replace(recipe, specs=specs, fresh_days=0)
    return dataclasses.replace(source, recipe=recipe, forms=None)


def _labels_per_day(source: Source, since: int | None, until: int | None) -> ir.Table:
    actions = source.log.schema.actions
    if source.has_events:
        rows = source.events(since, until)
        labels = [rows.action == action for action in actions]
    else:
        rows = source.candidates(since, until)
        labels = [rows[action].cast("boolean") for action in actions]
    counts = {f"action:{k}": rows.count(where=label) for k, label in enumerate(labels)}
    return rows.group_by("period").aggregate(rows=rows.count(), **counts)
