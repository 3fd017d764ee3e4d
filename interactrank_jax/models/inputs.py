"""What a model takes: embedded requests and items, and what it must know of both beforehand.

In: the metadata of prepared examples and the `model` part of a config. Out: the `Inputs` that every
model is made with. `tables/lookup.py` fills the other classes, at every step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from interactrank_jax.examples.encoder import Feature, NumericStatistics
from interactrank_jax.examples.format import REQUEST_ENTITIES, Metadata
from interactrank_jax.examples.rates import item_means
from interactrank_jax.io.errors import InputError, did_you_mean

Array = jax.Array

HISTORIES = ("history", "query_history")
LOOKED_UP = ("categorical", "text")  # kinds of features that embedding tables hold
USER, QUERY, ITEM = "user_id", "query_id", "item_id"  # names of the id features
IDS = (
    Feature(USER, "user", "categorical", "user"),
    Feature(QUERY, "request", "categorical", "query"),
    Feature(ITEM, "item", "categorical", "item"),
)
ITEM_ENTITIES = ("item",)


class UserValue(NamedTuple):
    """A count or rate of what a user did before a request.

    Attributes:
      column: its place among the numeric features of requests that the model looks at.
      mean: the rate that a rate is a difference from; 0 of a count.
    """

    column: int
    mean: float


class Inputs(NamedTuple):
    """What a model must know of its inputs before it sees one; hashable.

    Attributes:
      request, item: features of each side that are embedded or given as vectors, in order.
      request_numeric, item_numeric: statistics of the numeric features that the model looks at.
      request_columns, item_columns: their places among the stacked numeric features of the data.
      cross: names of the cross features.
      cross_scale: root mean square of each one's non-zero training values.
      cross_mean: the rate that each one of kind rate is a difference from; 0 of shares.
      user_values: what is known of the user's past.
      heads: names of the heads.
      actions: number of actions (of history events).
      history_length, query_history_length: L, Lq.
      sequence: names of the item features that histories are made of.
      histories: which of 'history' and 'query_history' the model looks at.
    """

    request: tuple[Feature, ...]
    item: tuple[Feature, ...]
    request_numeric: tuple[NumericStatistics, ...]
    item_numeric: tuple[NumericStatistics, ...]
    request_columns: tuple[int, ...]
    item_columns: tuple[int, ...]
    cross: tuple[str, ...]
    cross_scale: tuple[float, ...]
    cross_mean: tuple[float, ...]
    user_values: tuple[UserValue, ...]
    heads: tuple[str, ...]
    actions: int
    history_length: int
    query_history_length: int
    sequence: tuple[str, ...]
    histories: tuple[str, ...]

    @classmethod
    def from_metadata(
        cls, metadata: Metadata, heads: Sequence[str], config: Mapping[str, Any]
    ) -> "Inputs":
        """Reads them off prepared examples.

        Args:
          metadata: of the examples.
          heads: names of the model's heads.
          config: the `model` part of a config: `only` names the embedded features, ids included,
            that the model shall see (all if empty), `exclude` the features, numeric ones too, that
            it shall not; `sequence` says what histories are made of. Features that the model shall
            not see drop out of histories too; where none is left, histories are made of the other
            embedded features of items, and without any there are none.

        Raises:
          InputError: `only`, `exclude` or `sequence.features` names what is not there; nothing is
            left of a request, of an item, or of a history that a target attends to.
        """
        sequence = config["sequence"]
        _check_names(metadata, config)
        request_columns, request_numeric = _numeric(metadata, REQUEST_ENTITIES, config)
        item_columns, item_numeric = _numeric(metadata, ITEM_ENTITIES, config)
        inputs = cls(
            request=_vectors(metadata, REQUEST_ENTITIES, config),
            item=_vectors(metadata, ITEM_ENTITIES, config),
            request_numeric=request_numeric,
            item_numeric=item_numeric,
            request_columns=request_columns,
            item_columns=item_columns,
            cross=metadata.cross,
            cross_scale=tuple(metadata.cross_statistics[name].rms for name in metadata.cross),
            cross_mean=cross_means(metadata),
            user_values=user_values(metadata, request_columns),
            heads=tuple(heads),
            actions=len(metadata.actions),
            history_length=metadata.history_length,
            query_history_length=metadata.query_history_length,
            sequence=(),
            histories=tuple(role for role in HISTORIES if sequence[role] != "none"),
        )
        if inputs.histories:
            inputs = inputs._with_sequence(sequence)
        inputs._check_sides()
        return inputs

    def _check_sides(self) -> None:
        for side, *features in (
            ("a request", self.request, self.request_numeric, self.histories),
            ("an item", self.item, self.item_numeric),
        ):
            if not any(features):
                raise InputError(
                    f"config.model.only and config.model.exclude leave nothing of {side}: keep at "
                    f"least one feature of each side."
                )

    def _with_sequence(self, sequence: Mapping[str, Any]) -> "Inputs":
        """Returns these inputs with what histories are made of: what `self.item` has of it."""
        if not sequence["features"]:
            raise InputError(
                "config.model.sequence.features is empty: name item features such as "
                f"{[feature.name for feature in self.item][:2]}, or set "
                "config.model.sequence.history and .query_history to 'none'."
            )
        looked_up = [feature.name for feature in self.item if feature.kind in LOOKED_UP]
        chosen = tuple(name for name in sequence["features"] if name in looked_up)
        if looked_up:
            return self._replace(sequence=chosen or tuple(looked_up))
        if sequence["history"] == "target":
            raise InputError(
                "config.model.sequence.history is 'target', and config.model.only and .exclude "
                "leave no embedded feature of items that a history could be made of: set it to "
                "'none', or keep one."
            )
        return self._replace(histories=())


def _embedded(metadata: Metadata, entities: Sequence[str]) -> tuple[Feature, ...]:
    """Returns the ids of a side and its features that are embedded or given as vectors."""
    features = [feature for feature in metadata.select(entities) if feature.kind != "numeric"]
    return (*(feature for feature in IDS if feature.entity in entities), *features)


def _vectors(
    metadata: Metadata, entities: Sequence[str], config: Mapping[str, Any]
) -> tuple[Feature, ...]:
    """Returns those that a model shall see."""
    only, exclude = config["only"], config["exclude"]
    return tuple(
        feature
        for feature in _embedded(metadata, entities)
        if feature.name not in exclude and (not only or feature.name in only)
    )


def _numeric(
    metadata: Metadata, entities: Sequence[str], config: Mapping[str, Any]
) -> tuple[tuple[int, ...], tuple[NumericStatistics, ...]]:
    """Returns places and statistics of the numeric features of a side that a model shall see."""
    names = [feature.name for feature in metadata.select(entities, "numeric")]
    columns = tuple(n for n, name in enumerate(names) if name not in config["exclude"])
    return columns, tuple(metadata.numeric_statistics[names[n]] for n in columns)


def _check_names(metadata: Metadata, config: Mapping[str, Any]) -> None:
    """Refuses names of features that are not there."""
    sides = (REQUEST_ENTITIES, ITEM_ENTITIES)
    embedded = [feature.name for side in sides for feature in _embedded(metadata, side)]
    numeric = [feature.name for side in sides for feature in metadata.select(side, "numeric")]
    items = [f.name for f in metadata.select(ITEM_ENTITIES) if f.kind in LOOKED_UP]
    for field, given, names in (
        ("only", config["only"], embedded),
        ("exclude", config["exclude"], [*embedded, *numeric]),
        ("sequence.features", config["sequence"]["features"], [ITEM, *items]),
    ):
        for name in given:
            if name not in names:
                raise InputError(f"config.model.{field}: '{name}'." + did_you_mean(name, names))


def cross_means(metadata: Metadata) -> tuple[float, ...]:
    """Returns the mean rate that each cross feature of kind rate is a difference from, else 0."""
    means = item_means(metadata.encoder.mean_rates)
    parts = [name.split(":") for name in metadata.cross]
    return tuple(means.get(part[1], 0.0) if part[0].endswith("rate") else 0.0 for part in parts)


def user_values(metadata: Metadata, columns: Sequence[int]) -> tuple[UserValue, ...]:
    """Returns the user's counts and rates among some numeric features of requests.

    Args:
      metadata: of the examples.
      columns: places of those features among all numeric ones of requests.
    """
    numeric = metadata.select(REQUEST_ENTITIES, "numeric")
    names = [numeric[column].name for column in columns]
    rates = metadata.encoder.mean_rates
    result = []
    for action in metadata.actions:
        for what, mean in (("count", 0.0), ("rate", rates.get(f"{action} per impression", 0.0))):
            name = f"user_{what}_{action}"
            if name in names:
                result.append(UserValue(names.index(name), float(mean)))
    return tuple(result)


@struct.dataclass
class ItemInput:
    """Items, embedded. `features`: name -> `[..., d]`; `numeric`: `[..., Fn]` raw values."""

    features: dict[str, Array]
    numeric: Array


@struct.dataclass
class SequenceInput:
    """Items in a sequence: `items` `[R, L, D]`, `action` and `age` (hours) and `mask` `[R, L]`."""

    items: Array
    action: Array
    age: Array
    mask: Array


@struct.dataclass
class RequestInput:
    """Requests, embedded. `features`: name -> `[R, d]`; `numeric`: `[R, Fn]` raw values.

    A history that the model does not look at is None.
    """

    features: dict[str, Array]
    numeric: Array
    history: SequenceInput | None
    query_history: SequenceInput | None


def zero_inputs(inputs: Inputs, row_width: Callable[[str], int]) -> dict[str, Any]:
    """Returns inputs of one request and one item, all zero, to initialise a model with.

    `row_width` gives the width of a table's rows, see `PreRanker.row_width`.
    """

    def width_of(feature):
        return feature.width if feature.kind == "embedding" else row_width(feature.table)

    def features(specs):
        return {feature.name: jnp.zeros((1, width_of(feature))) for feature in specs}

    width = sum(width_of(feature) for feature in inputs.item if feature.name in inputs.sequence)

    def history(role, length):
        if role not in inputs.histories:
            return None
        zeros = jnp.zeros((1, length))
        return SequenceInput(
            items=jnp.zeros((1, length, width)),
            action=zeros.astype(jnp.int32),
            age=zeros,
            mask=zeros.astype(bool),
        )

    items = ItemInput(
        features=features(inputs.item), numeric=jnp.zeros((1, len(inputs.item_numeric)))
    )
    return {
        "request": RequestInput(
            features=features(inputs.request),
            numeric=jnp.zeros((1, len(inputs.request_numeric))),
            history=history("history", inputs.history_length),
            query_history=history("query_history", inputs.query_history_length),
        ),
        "items": jax.tree.map(lambda value: value[:, None], items),
        "cross": jnp.zeros((1, 1, len(inputs.cross))),
    }
