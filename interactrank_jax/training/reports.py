"""What a training reports to a notebook: its curves and its evaluation, as tables."""

import dataclasses
import importlib.util
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The figures of one split.

    Attributes:
      result: all of them, as RUN/eval/SPLIT.json holds them (`evaluation.evaluate`).
    """

    result: Mapping[str, Any]

    def table(self) -> Any:
        """Returns the metrics of the ranked score, one row each, as `as_frame` does.

        Columns are metric, value, low and high: the bounds of a 95% interval over requests. What is
        not defined, such as the interval of a single request, is missing.
        """
        metrics, intervals = self.result["metrics"], self.result["intervals"]
        bounds = [intervals.get(name, (None, None)) for name in metrics]
        return as_frame(
            {
                "metric": list(metrics),
                "value": _floats(metrics.values()),
                "low": _floats(low for low, _ in bounds),
                "high": _floats(high for _, high in bounds),
            }
        )


def history(file: files.PathLike) -> Any:
    """Returns the curves of a metrics.jsonl, one row a step, as `as_frame` does.

    Columns are step and the metrics, in the order in which they first came. What was not measured
    at a step is missing.

    Raises:
      InputError: the file is damaged.
    """
    steps, values = curves(file)
    columns = {name: _floats(column) for name, column in values.items()}
    return as_frame({"step": steps, **columns})


def curves(
    file: files.PathLike, *, growing: bool = False
) -> tuple[list[int], dict[str, list[float | None]]]:
    """Returns the steps of a metrics.jsonl, and by metric its value at each, None: not measured.

    Args:
      file: the metrics.jsonl.
      growing: whether training may still write it: a last line without its end is left out.

    Raises:
      InputError: the file is damaged.
    """
    rows: dict[int, dict[str, Any]] = {}
    with Path(file).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if growing and not line.endswith("\n"):
                break
            try:
                record = json.loads(line)
                step = int(record.pop("step"))
            except (ValueError, KeyError, AttributeError) as error:
                raise InputError(
                    f"{file}, line {number} is damaged ({error}). Expected what training writes: "
                    f"remove the line."
                ) from error
            record.pop("time", None)
            rows.setdefault(step, {}).update(record)
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return list(rows), {name: [row.get(name) for row in rows.values()] for name in names}


def series(file: files.PathLike, name: str) -> list[tuple[int, float]]:
    """Returns (step, value) of one metric of a metrics.jsonl, where it was measured.

    Raises:
      InputError: the file is damaged.
    """
    steps, values = curves(file)
    pairs = zip(steps, values.get(name, [None] * len(steps)), strict=True)
    return [(step, value) for step, value in pairs if value is not None]


def median_rate(rates: Sequence[float]) -> float:
    """Returns the median of the rates that a training logged, in their order, at least one.

    The first is left out where there are others: compiling is in it.
    """
    return statistics.median(rates[1:] or rates)


def as_frame(columns: Mapping[str, Sequence[Any] | pa.Array]) -> Any:
    """Returns columns as a pandas DataFrame where pandas is installed, else as an Arrow table."""
    table = pa.table(dict(columns))
    return table.to_pandas() if importlib.util.find_spec("pandas") else table


def _floats(values: Any) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)  # NaN: not defined
