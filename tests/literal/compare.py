"""Examples beside a reading of their log: every column of every example, the items, the statistics.

Examples come in the form of `tests/golden/canonical.py`. Integers, text, counts and shares must be
equal to the bit; a rate whose impressions are weighted, and statistics, to a part in a million.
What ties may stand in any order, and where a list is cut, any of those that tie there may be in it.
"""

import functools
from collections import Counter
from collections.abc import Iterator
from typing import Any

from interactrank_jax.examples.format import Metadata
from tests.literal import encoding
from tests.literal.encoding import float32, plain
from tests.literal.equality import Close, Tied, line, padding_like, same
from tests.literal.reading import Asked, Reading
from tests.literal.rows import TRAIN, Row

SPLITS = (TRAIN, "validation", "test")
STAGES = ("shown", "retrieved", "random")  # numbered from 1

Columns = dict[str, Any]  # of `canonical.columns`, as lists


def split_of(columns: Columns) -> dict[tuple[str, str], str]:
    """Returns the split of every candidate, by request and item."""
    return {
        (request, item): split
        for split in SPLITS
        for request, items in zip(
            columns[f"{split}/request_id"], columns[f"{split}/item"], strict=True
        )
        for item in items
        if item
    }


class Comparison:
    """Says where examples and a reading differ.

    Args:
      columns: the examples.
      metadata: of the examples.
      reading: of their log.
    """

    def __init__(self, columns: Columns, metadata: Metadata, reading: Reading):
        self.columns, self.metadata, self.reading = columns, metadata, reading
        self.log, self.options = reading.log, reading.options
        self.impressions = {
            (plain(row["request_id"]), plain(row["item_id"])): row
            for row in self.log.tables["impressions"]
        }

    def differences(self) -> Iterator[str]:
        """Yields a line per value that differs: where, what was expected, what it is."""
        misplaced = [*self._all_are_read(), *self._splits()]
        yield from misplaced
        if misplaced:
            return
        for split in SPLITS:
            yield from self._slates(split)
            for number, request_id in enumerate(self.columns[f"{split}/request_id"]):
                row = {
                    name.removeprefix(f"{split}/"): values[number]
                    for name, values in self.columns.items()
                    if name.startswith(f"{split}/") and name != f"{split}/corpus"
                }
                for name, expected, value in self._example(row):
                    if not same(expected, value):
                        yield line(f"{split}, request {request_id}, {name}", expected, value)
            if f"{split}/corpus" in self.columns:
                yield from self._corpus(split)
        yield from self._items()
        yield from self._tables()
        yield from self._statistics()

    def request(self, request_id: str) -> Row:
        """Returns a request of the log."""
        return self.reading.by_plain_id[request_id]

    @functools.cached_property
    def trained(self) -> list[Row]:
        """The request of each training example."""
        return [self.request(request_id) for request_id in self.columns["train/request_id"]]

    @functools.cached_property
    def seen(self) -> Counter:
        """How many training impressions each item has."""
        return Counter(item for items in self.columns["train/item"] for item in items if item)

    # Which examples there are.

    def _all_are_read(self) -> Iterator[str]:
        """Every column is compared: one that is new needs a reading."""
        for name, expected_names in (
            ("actions", self.log.schema.actions),
            ("cross", self.options.cross.features),
        ):
            if getattr(self.metadata, name) != tuple(expected_names):
                yield line(name, expected_names, getattr(self.metadata, name))
        features = self.log.schema.select(("user", "request"))
        expected = {"request_id", "user", "query", "request_numeric", "query_history_item", "mask"}
        expected |= {f"history_{name}" for name in ("item", "action", "age")}
        expected |= {"item", "position", "actions", "cross", "cross_count", "cross_total"}
        expected |= {f"request/{feature.name}" for feature in features if feature.kind != "numeric"}
        expected |= self._optional()
        for split in SPLITS:
            names = {
                name.removeprefix(f"{split}/") for name in self.columns if name.startswith(split)
            }
            if names - {"corpus"} != expected:
                yield line(f"{split}, columns", sorted(expected), sorted(names))
            if ("corpus" in names) != (split != TRAIN):
                yield f"{split}: features of whole requests belong to evaluation splits alone"

    def _optional(self) -> set[str]:
        return {"propensity", "stage", "teacher_score"} & self.log.columns("impressions")

    def _splits(self) -> Iterator[str]:
        """Every impression is in one example; by time, all of a split are before the next."""
        keys = [
            (request, item)
            for split in SPLITS
            for request, items in zip(
                self.columns[f"{split}/request_id"], self.columns[f"{split}/item"], strict=True
            )
            for item in items
            if item
        ]
        if sorted(keys) != sorted(self.impressions):
            other = Counter(keys)
            other.subtract([*self.impressions])
            twice_or_never = [key for key, count in other.items() if count]
            yield f"impressions are not in one example each: {twice_or_never[:5]}"
        elif not self.reading.timeless:
            times = [
                [self.request(key)["timestamp"] for key in self.columns[f"{split}/request_id"]]
                for split in SPLITS
            ]
            if not max(times[0]) < min(times[1]) <= max(times[1]) < min(times[2]):
                yield f"splits overlap in time: {[(min(part), max(part)) for part in times]}"

    def _slates(self, split: str) -> Iterator[str]:
        """Candidates of one request and fold fill slates in order of position, all but the last."""
        sizes: dict[Any, list[int]] = {}
        for request, items in zip(
            self.columns[f"{split}/request_id"], self.columns[f"{split}/item"], strict=True
        ):
            keys = [(request, item) for item in items if item]
            folds = {self.reading.fold_of.get(key) for key in keys}
            positions = [self.impressions[key]["position"] for key in keys]
            if (
                len(folds) > 1
                or positions != sorted(positions)
                or items[len(keys) :] != ([""] * (self.options.slate - len(keys)))
            ):
                yield f"{split}, request {request}: a slate of folds {folds}, positions {positions}"
            sizes.setdefault((request, *folds), []).append(len(keys))
        for (request, *_), lengths in sizes.items():
            whole, rest = divmod(sum(lengths), self.options.slate)
            expected = [self.options.slate] * whole + [rest] * (rest > 0)
            if sorted(lengths) != sorted(expected):
                yield line(f"{split}, request {request}, sizes of slates", expected, lengths)

    # One example.

    def _example(self, row: Columns) -> Iterator[tuple[str, Any, Any]]:
        """Yields name, expected and actual value of everything in an example."""
        request = self.request(row["request_id"])
        items = [item for item in row["item"] if item]
        asked = Asked(request, self.reading.fold_of.get((row["request_id"], items[0])))
        yield from self._of_request(request, row)
        yield from self._rates(asked, row)
        yield from self._candidates(asked, items, row)
        yield from self._histories(asked, row)

    def _of_request(self, request: Row, row: Columns) -> Iterator[tuple[str, Any, Any]]:
        for name, column in (("user", "user_id"), ("query", "query_id")):
            yield name, self._request_value(column, request[column]), row[name]
        for feature in self.log.schema.select(("user", "request")):
            if feature.kind != "numeric":
                expected = self._encoded(feature.kind, feature.name, request[feature.name])
                yield feature.name, expected, row[f"request/{feature.name}"]

    def _rates(self, asked: Asked, row: Columns) -> Iterator[tuple[str, Any, Any]]:
        """Numbers of the request in their declared order, then count and rate of each action."""
        expected = {
            feature.name: float32(asked.request[feature.name])
            for feature in self.log.schema.select(("user", "request"), "numeric")
        }
        for action in self.options.history.rates:
            count, rate = self.reading.user_rate(asked, action)
            expected |= {f"user_count_{action}": count, f"user_rate_{action}": rate}
        names = [f.name for f in self.metadata.select(("user", "request"), "numeric")]
        yield "names of numbers", list(expected), names
        for name, value in zip(names, row["request_numeric"], strict=True):
            yield name, expected.get(name), value

    def _candidates(
        self, asked: Asked, items: list[str], row: Columns
    ) -> Iterator[tuple[str, Any, Any]]:
        size = self.options.slate
        shown = [self.impressions[row["request_id"], item] for item in items]
        yield "mask", [True] * len(items) + [False] * (size - len(items)), row["mask"]
        columns = {
            "position": [impression["position"] for impression in shown],
            "actions": [[int(s[action]) for action in self.log.schema.actions] for s in shown],
        }
        for name in self._optional() - {"stage"}:
            columns[name] = [float32(impression[name]) for impression in shown]
        if "stage" in self._optional():
            columns["stage"] = [1 + STAGES.index(impression["stage"]) for impression in shown]
        for name, values in columns.items():
            nothing = [0] * len(self.log.schema.actions) if name == "actions" else 0
            yield name, values + [nothing] * (size - len(items)), row[name]
        for slot in range(size):
            item = shown[slot]["item_id"] if slot < len(items) else None
            for k, name in enumerate(self.options.cross.features):
                value, count, total = 0.0, 0, 0
                if item is not None:
                    value = self.reading.cross_value(asked, item, name)
                    count, total = map(round, self.reading.counts(asked, item, name)[0])
                where = f"{name} of item {item}"
                yield where, self._tolerant(name, value), row["cross"][slot][k]
                yield f"count of {where}", count, row["cross_count"][slot][k]
                yield f"total of {where}", total, row["cross_total"][slot][k]

    def _tolerant(self, name: str, value: float) -> Any:
        """How a mean is divided by a mean weight is open: two divisions, or one of the sums."""
        is_rate = name.split(":")[0].endswith("rate")
        return Close(value) if is_rate and self.options.cross.debias.name != "none" else value

    def _histories(self, asked: Asked, row: Columns) -> Iterator[tuple[str, Any, Any]]:
        columns = (row[f"history_{name}"] for name in ("item", "action", "age"))
        yield (
            "history",
            Tied(self.reading.user_history(asked), ("", 0, 0.0)),
            list(zip(*columns, strict=True)),
        )
        by_count: dict[int, list[str]] = {}
        for item, count in self.reading.query_history(asked).items():
            by_count.setdefault(count, []).append(item)
        groups = [by_count[count] for count in sorted(by_count, reverse=True)]
        yield "query history", Tied(groups, ""), row["query_history_item"]

    def _corpus(self, split: str) -> Iterator[str]:
        """Of every item, whether it was shown or not; what is not listed has zeros."""
        values = {}
        for entry in self.columns[f"{split}/corpus"]:
            request, item, *numbers = entry.split(" ")
            values[request, item] = [float.fromhex(number) for number in numbers]
        names = self.options.cross.features
        for request_id in sorted(set(self.columns[f"{split}/request_id"])):
            asked = Asked(self.request(request_id))
            for row in self.log.tables["items"]:
                expected = [
                    self._tolerant(name, self.reading.cross_value(asked, row["item_id"], name))
                    for name in names
                ]
                listed = values.pop((request_id, plain(row["item_id"])), [0.0] * len(names))
                if not same(expected, listed):
                    where = f"{split}, request {request_id}, {list(names)} of any item"
                    yield line(f"{where} {row['item_id']}", expected, listed)
        if values:
            example = next(iter(values))
            yield f"{split}: features of whole requests that no request asks for: {example}"

    # Vocabularies, items and statistics.

    def _request_value(self, column: str, value: Any) -> str:
        """A value of a request, or '#n'; its count is of training examples."""
        count = sum(request[column] == value for request in self.trained)
        vocabulary = self.options.vocabulary
        return encoding.in_vocabulary(
            value, count, vocabulary.min_count, vocabulary.out_of_vocabulary
        )

    def _encoded(self, kind: str, name: str, value: Any) -> Any:
        if kind == "text":
            text = self.options.text
            return encoding.tokens(value, text.buckets, text.max_tokens, text.ngram)
        if kind == "embedding":
            return [float32(number) for number in value]
        return self._request_value(name, value)

    def _item_value(self, column: str, value: Any) -> str:
        """A value of an item, or '#n'; its count is of training impressions."""
        count = sum(
            self.seen[plain(row["item_id"])]
            for row in self.log.tables["items"]
            if row[column] == value
        )
        vocabulary = self.options.vocabulary
        return encoding.in_vocabulary(
            value, count, vocabulary.min_count, vocabulary.out_of_vocabulary
        )

    def _items(self) -> Iterator[str]:
        """The item store: after the padding row a row per item, here in the order of their ids."""
        rows = sorted(self.log.tables["items"], key=lambda row: plain(row["item_id"]))
        expected: Columns = {
            "item_id": [self._item_value("item_id", row["item_id"]) for row in rows],
            "count": [self.seen[plain(row["item_id"])] for row in rows],
            "numeric": [[] for _ in rows],
        }
        for feature in self.log.schema.select(("item",)):
            values = [row[feature.name] for row in rows]
            if feature.kind == "numeric":
                for numbers, value in zip(expected["numeric"], values, strict=True):
                    numbers.append(float32(value))
            elif feature.kind == "categorical":
                expected[feature.name] = [self._item_value(feature.name, v) for v in values]
            else:
                expected[feature.name] = [self._encoded(feature.kind, "", v) for v in values]
        names = {name.removeprefix("items/") for name in self.columns if name.startswith("items/")}
        if names != set(expected):
            yield line("items, columns", sorted(expected), sorted(names))
        for name in sorted(names & set(expected)):
            wanted = [padding_like(expected[name][0]), *expected[name]]
            for row, *pair in zip([{"item_id": None}, *rows], wanted, self.columns[f"items/{name}"],
                                  strict=True):  # fmt: skip
                if not same(*pair):
                    yield line(f"item {row['item_id']}, {name}", *pair)

    def _tables(self) -> Iterator[str]:
        """An embedding table has a row of padding, the hashed rows, and one per known value."""
        features = self.log.schema.features
        named: dict[str, set[str]] = {"user": set(), "query": set(), "item": set()}
        names = {"user": "user_id", "query": "query_id", "item": "item_id"}
        names |= {f.name: f.name for f in features if f.kind == "categorical"}
        of_items = {"item", *(f.name for f in features if f.entity == "item")}
        for table, column in names.items():
            rows = self.log.tables["items" if table in of_items else "requests"]
            encode = self._item_value if table in of_items else self._request_value
            values = {encode(column, row[column]) for row in rows}
            named[table] = {value for value in values if not value.startswith("#")}
        first = 1 + self.options.vocabulary.out_of_vocabulary
        expected = [f"{table}={first + len(values)}" for table, values in named.items()]
        if any(feature.kind == "text" for feature in features):
            expected.append(f"text={1 + self.options.text.buckets}")
        if sorted(expected) != sorted(self.columns["tables"]):
            yield line("rows of tables", sorted(expected), sorted(self.columns["tables"]))

    def _statistics(self) -> Iterator[str]:
        """Statistics of numbers and cross features, over what training saw of them."""
        expected = {}
        for number, feature in enumerate(self.metadata.select(("user", "request"), "numeric")):
            values = [row[number] for row in self.columns["train/request_numeric"]]
            expected[feature.name] = encoding.numeric_statistics(values)
        for feature in self.log.schema.select(("item",), "numeric"):
            values = [
                float32(row[feature.name])
                for row in self.log.tables["items"]
                for _ in range(self.seen[plain(row["item_id"])])
            ]
            expected[feature.name] = encoding.numeric_statistics(values)
        for k, name in enumerate(self.options.cross.features):
            masks, cross = self.columns["train/mask"], self.columns["train/cross"]
            expected[name] = encoding.cross_statistics([
                values[k]
                for mask, slate in zip(masks, cross, strict=True)
                for is_real, values in zip(mask, slate, strict=True)
                if is_real
            ])  # fmt: skip
        for name, numbers in expected.items():
            values = self.columns[f"statistics/{name}"]
            if not same([Close(number) for number in numbers], values):
                yield line(f"statistics of {name}", numbers, values)
