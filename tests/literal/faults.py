"""Readings of the contract with one rule wrong each, for showing that the comparison catches it."""

import dataclasses
from collections.abc import Iterator

from tests.literal.random_logs import DAY
from tests.literal.reading import Asked, Reading
from tests.literal.rows import TRAIN, Done, Row, day


class OwnDayIsCounted(Reading):
    """Counts end with the request's own day."""

    def last_day(self, asked: Asked) -> int:
        return day(self.time(asked.request))


class LagIsOneShort(Reading):
    """Counts end a day late."""

    def last_day(self, asked: Asked) -> int:
        return super().last_day(asked) + 1


class WindowIsOneLong(Reading):
    """A window holds a day more than it says."""

    def first_day(self, asked: Asked, window: int) -> int:
        return super().first_day(asked, window) - 1


class CapIsIgnored(Reading):
    """All rows of a user's day count."""

    def within_cap(self, rows: list[Done]) -> list[Done]:
        return rows


class CapKeepsTheLast(Reading):
    """Of a user's day the last rows count, not the first."""

    def within_cap(self, rows: list[Done]) -> list[Done]:
        late = [dataclasses.replace(row, time=self._mirrored(row)) for row in rows]
        kept = super().within_cap(late)
        return [dataclasses.replace(row, time=self._mirrored(row)) for row in kept]

    @staticmethod
    def _mirrored(row: Done) -> int:
        return row.time // DAY * DAY + DAY - 1 - row.time % DAY


class DelayIsIgnored(Reading):
    """A user's history holds what arrives in the second of the request."""

    def known_until(self, asked: Asked) -> int:
        return self.time(asked.request)


class DelayIsOneLong(Reading):
    """A user's history ends a second early."""

    def known_until(self, asked: Asked) -> int:
        return super().known_until(asked) - 1


class DelayIsOneShort(Reading):
    """A user's history ends a second late."""

    def known_until(self, asked: Asked) -> int:
        return super().known_until(asked) + 1


class EventsAreKnownAtOnce(Reading):
    """An event counts from when it happened, not from when it arrived."""

    def of_event(self, event: Row) -> Done:
        return super().of_event({**event, "arrival_time": event["event_time"]})


class CopiesCount(Reading):
    """An event counts as often as it was delivered."""

    def first_copies(self) -> list[Row]:
        return self.log.events


class LastCopyCounts(Reading):
    """Of several copies of an event the one counts that arrived last."""

    def first_copies(self) -> list[Row]:
        events = sorted(self.log.events, key=lambda event: event["arrival_time"])
        return list({event["event_id"]: event for event in events}.values())


class OwnFoldIsUsed(Reading):
    """A training row sees its own label."""

    def may_use_fold(self, asked: Asked, fold: int | None) -> bool:
        return True


class EvaluationRowsCount(Reading):
    """Labels of validation and test are counted where the split is random."""

    def is_usable(self, impression: Row) -> bool:
        return True


class FoldsAreOthers(Reading):
    """Training rows are in other folds than those of their slates."""

    def folds(self) -> dict[tuple[str, str], int]:
        folds = super().folds()
        return dict(zip(folds, [*list(folds.values())[1:], 0], strict=True))


class RetrievedIsShown(Reading):
    """Candidates that nobody saw count as impressions."""

    def was_seen(self, impression: Row) -> bool:
        return True


class WeightsAreIgnored(Reading):
    """Every impression counts one."""

    def impression_weight(self, impression: Row) -> float:
        return 1.0


class FormsAreKnownBefore(Reading):
    """A query has its form on days before it was first asked."""

    def form_on(self, query: object, on: int) -> str | None:
        return super().form_on(query, 2**31)


class FreshOneDayMore(Reading):
    """An item is fresh for a day more."""

    def is_fresh(self, item: object, on: int) -> bool:
        return super().is_fresh(item, on) or super().is_fresh(item, on - 1)


class UnknownAgeIsFresh(Reading):
    """An item without created_at is fresh."""

    def is_fresh(self, item: object, on: int) -> bool:
        return self.created[item] is None or super().is_fresh(item, on)


class NoLevelsOverSegments(Reading):
    """A feature backs off from its segment straight to the query's form."""

    def levels(self, name: str) -> list[tuple[str, ...]]:
        first, *coarser = super().levels(name)
        return [first, *(level for level in coarser if level == ("query_form",))]


class NoLevelsOfForms(Reading):
    """A feature never backs off to the query's form."""

    def levels(self, name: str) -> list[tuple[str, ...]]:
        first, *coarser = super().levels(name)
        return [first, *(level for level in coarser if level != ("query_form",))]


class EventsWithoutQueryAreDropped(Reading):
    """Events without a query count for nothing, though an item's share needs none."""

    def engagements(self) -> Iterator[Done]:
        return (row for row in super().engagements() if row.keys["query"] is not None)


class OldestFirst(Reading):
    """A user's history begins with the oldest."""

    def user_history(self, asked: Asked) -> list[list[tuple[str, int, float]]]:
        return super().user_history(asked)[::-1]


class MeansOfAllSplits(Reading):
    """The mean rate is taken over validation and test, too."""

    def training_means(self, asked: Asked, action: str) -> tuple[float, float]:
        split_of = self.split_of
        self.split_of = dict.fromkeys(split_of, TRAIN)
        result = super().training_means(asked, action)
        self.split_of = split_of
        return result


FAULTS = tuple(Reading.__subclasses__())
