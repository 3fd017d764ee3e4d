"""How engagements are counted and what is made of the counts: `config.data.cross`, checked.

A feature has levels, from fine to coarse: within its segment, over all segments, and for the
query's form (its words, in lower case, each once and sorted). With a back-off each level's value is
the prior of the finer one, so that an empty cell has its parent's value:

    v_0 = e_0 / (n_0 + prior)        v_j = (e_j + k v_{j-1}) / (n_j + k)        k = backoff.strength

e and n are a level's excess and total, see `value`; level 0 is the coarsest. Without a back-off
there is one level.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np

from interactrank_jax.config import fields
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.read import Log
from interactrank_jax.log.schema import IMPLICIT_ACTION, Schema
from interactrank_jax.state.spec import FRESH, CrossSpec, parse_specs

QUERY_ID = "query_id"
# Weights are multiples of 1 / WEIGHT_STEPS, whose sums are exact: no engine rounds them otherwise.
WEIGHT_STEPS = 128


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is counted, and how counts become values.

    Attributes:
      specs: the features.
      lag_days: days between the last day counted and the request's; None where timeless.
      prior: added to the denominator of the coarsest level.
      backoff: strength k of the parent's value; 0: no levels but the feature's own.
      query_form: request column whose words are the query's form, QUERY_ID or a feature; '': none.
      user_day_cap: of one user's rows of one action on one day so many count, the first; 0: all.
      debias: what an impression counts: 'none' 1; 'propensity' the log's propensity, where that is
        the probability that the user looked; 'position' the weight of its position.
      smallest_propensity: smaller ones are taken for it.
      position_weights: by position from 0 on; the last one is that of all positions after it.
      fresh_days: an item is fresh for so many days from its creation on: the values of segment
        'fresh'.
    """

    specs: tuple[CrossSpec, ...]
    lag_days: int | None
    prior: float
    backoff: float = 0.0
    query_form: str = ""
    user_day_cap: int = 0
    debias: str = "none"
    smallest_propensity: float = 0.1
    position_weights: tuple[float, ...] = ()
    fresh_days: int = 0

    @classmethod
    def from_config(cls, config: Any, log: Log, timeless: bool) -> "Recipe":
        """Reads `config.data.cross`.

        Args:
          config: that part of a config; fields that are not there are switched off.
          log: the log, for its schema and columns.
          timeless: whether counts are out of fold instead of as of a day.

        Raises:
          InputError: a value out of range, or what the log does not have.
        """
        fields.check(config, "data.cross")
        recipe = cls.of_schema(config, log.schema, timeless)
        recipe.check(log)
        return recipe

    @classmethod
    def of_schema(cls, config: Any, schema: Schema, timeless: bool) -> "Recipe":
        """Reads `config.data.cross` for a log that is not at hand; as `from_config` otherwise."""
        backoff, debias = config.get("backoff", {}), config.get("debias", {})
        fresh_days = int(config.get("fresh_days", 0))
        return cls(
            specs=parse_specs(config.features, schema, with_fresh=fresh_days > 0),
            lag_days=None if timeless else int(config.lag_days),
            prior=float(config.prior),
            backoff=float(backoff.get("strength", 0.0)),
            query_form=str(backoff.get("query_form", "")),
            user_day_cap=int(config.get("user_day_cap", 0)),
            debias=str(debias.get("name", "none")),
            smallest_propensity=float(debias.get("smallest_propensity", 0.1)),
            position_weights=tuple(map(float, debias.get("position_weights", ()))),
            fresh_days=fresh_days,
        )

    def check(self, log: Log) -> None:
        """Raises InputError for what the log lacks, or for fields that contradict each other."""
        where = "config.data.cross."
        if self.lag_days is None and (self.user_day_cap or self.has_fresh):
            name = "user_day_cap" if self.user_day_cap else "fresh_days"
            raise InputError(
                f"{where}{name} is set, but there are no days where impressions are split at "
                f"random. Set it to 0."
            )
        if self.query_form:
            known = [QUERY_ID, *(f.name for f in log.schema.select(("request",), "text"))]
            known += [f.name for f in log.schema.select(("request",), "categorical")]
            if self.query_form not in known:
                raise InputError(
                    f"{where}backoff.query_form is '{self.query_form}'."
                    + did_you_mean(self.query_form, known)
                )
            if not self.backoff:
                raise InputError(
                    f"{where}backoff.query_form needs a backoff.strength above 0, such as 5."
                )
        if self.debias == "propensity" and "propensity" not in log.columns("impressions"):
            raise InputError(
                f"{where}debias.name is 'propensity', but the impressions have no column "
                f"'propensity'. Add it, or use 'position'."
            )
        if self.debias == "position" and not self.position_weights:
            raise InputError(
                f"{where}debias.position_weights is empty. Expected a weight per position, the "
                f"first position's first: `interactrank state positions` estimates them."
            )
        smallest = min(self.position_weights, default=1.0)
        if self.debias != "none" and min(smallest, self.smallest_propensity) < 1 / WEIGHT_STEPS:
            raise InputError(
                f"{where}debias: weights are multiples of 1/{WEIGHT_STEPS}, so that none may be "
                f"smaller than that."
            )
        if self.has_fresh and "created_at" not in log.columns("items"):
            raise InputError(
                f"{where}features: segment '{FRESH}' needs the column 'created_at' of items (UTC "
                f"seconds), which {log.path} does not have."
            )

    @property
    def segments(self) -> tuple[str, ...]:
        """Features of the log that counts are taken within."""
        apart = {"", FRESH} if self.fresh_days else {""}
        return tuple(sorted({spec.segment for spec in self.specs} - apart))

    @property
    def has_fresh(self) -> bool:
        """Whether a feature sets fresh items apart."""
        return self.fresh_days > 0 and any(spec.segment == FRESH for spec in self.specs)

    @property
    def key_columns(self) -> tuple[str, ...]:
        """What rows that count need beside query, item, action and period."""
        form = ("query_form",) if self.query_form else ()
        return (*self.segments, *form, *([FRESH] if self.has_fresh else ()))

    @property
    def counts_impressions(self) -> bool:
        """Whether any of the features counts impressions."""
        return any(IMPLICIT_ACTION in (spec.action, spec.total_action) for spec in self.specs)

    @property
    def is_weighted(self) -> bool:
        """Whether impressions count something else than 1."""
        return self.debias != "none"

    @property
    def rates(self) -> tuple[str, ...]:
        """Actions whose mean rate is needed."""
        return tuple(sorted({spec.action for spec in self.specs if spec.is_rate}))

    def levels(self, spec: CrossSpec) -> tuple[CrossSpec, ...]:
        """Returns a feature and its parents, from fine to coarse."""
        if not self.backoff:
            return (spec,)
        levels = [spec]
        if spec.segment:
            levels.append(dataclasses.replace(spec, segment=""))
        if self.query_form and not spec.kind.startswith("item_"):
            levels.append(dataclasses.replace(spec, segment="", query="query_form"))
        return tuple(levels)

    @property
    def windows(self) -> dict[tuple[str, ...], list[tuple[str, int]]]:
        """By the columns that counts are taken by, the pairs of action and days to count."""
        windows: dict[tuple[str, ...], list[tuple[str, int]]] = {}
        for spec in self.specs:
            for level in self.levels(spec):
                for keys, action in (
                    (level.count_keys, level.action),
                    (level.total_keys, level.total_action),
                ):
                    known = windows.setdefault(keys, [])
                    if (action, spec.window) not in known:
                        known.append((action, spec.window))
        return windows

    def value(self, spec: CrossSpec, counts: Sequence[tuple[Any, Any]], mean_rate: Any) -> Any:
        """Returns a feature's value; where no level has seen anything it is exactly 0.

        share: e = c, n = C. rate: e = c - m i, n = i, with i impressions and m the mean rate.

        Args:
          spec: the feature.
          counts: c, and C or i, of each of its levels: arrays, or columns of a table.
          mean_rate: m, of a rate.
        """
        result = None
        for count, total in reversed(counts):
            # Divided by 1, not times 1.0: of integers and a point Spark makes decimals, and rounds.
            excess = count - mean_rate * total if spec.is_rate else count / 1
            if result is None:
                result = excess / (total + self.prior)
            else:
                result = (excess + self.backoff * result) / (total + self.backoff)
        return result

    def impression_weight(self, position: np.ndarray, propensity: np.ndarray | None) -> np.ndarray:
        """Returns what impressions count: float64 `[M]`, from `[M]` each."""
        if self.debias == "position":
            steps = np.array(self._position_steps)
            return steps[np.minimum(position, len(steps) - 1)] / WEIGHT_STEPS
        if self.debias == "propensity":
            assert propensity is not None
            values = np.maximum(propensity.astype(np.float32).astype(np.float64), self._smallest)
            return np.floor(values * WEIGHT_STEPS + 0.5) / WEIGHT_STEPS
        return np.ones(len(position))

    def impression_weight_column(self, impressions: ir.Table) -> ir.Value:
        """Does what `impression_weight` does, as an expression on the impressions table."""
        # Whole steps, divided: a literal with a point would make a decimal of the column.
        steps = ibis.literal(WEIGHT_STEPS)
        if self.debias == "position":
            *first, last = self._position_steps
            cases = [(impressions.position == at, number) for at, number in enumerate(first)]
            steps = ibis.cases(*cases, else_=last) if cases else ibis.literal(last)
        elif self.debias == "propensity":
            value = impressions.propensity.cast("float32").cast("float64")
            value = ibis.greatest(value, ibis.literal(self._smallest).cast("float64"))
            steps = (value * float(WEIGHT_STEPS) + 0.5).floor()
        return steps / WEIGHT_STEPS

    @property
    def _smallest(self) -> float:
        return float(np.float32(self.smallest_propensity))

    @property
    def _position_steps(self) -> list[int]:
        return [int(np.floor(weight * WEIGHT_STEPS + 0.5)) for weight in self.position_weights]
