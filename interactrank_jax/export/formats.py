"""Writes the graphs of a model in two formats: `jax.export`, for jax on any device, and ONNX."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax import export as jax_export

from interactrank_jax.export.graphs import Graph, abstract
from interactrank_jax.io.errors import InputError

PLATFORMS = ("cpu", "cuda", "tpu")
logger = logging.getLogger(__name__)


def write_graphs(graphs: dict[str, Graph], directory: Path, onnx: bool = True) -> dict[str, Any]:
    """Writes graphs as DIRECTORY/NAME.jax and, where they can be converted, NAME.onnx.

    Args:
      graphs: by name.
      directory: new.
      onnx: whether ONNX is asked for.

    Returns:
      By name: its inputs and outputs, its files, and why there is no ONNX if there is none.

    Raises:
      InputError: ONNX is asked for, and the converter is not installed.
    """
    directory.mkdir(parents=True)
    convert = _converter() if onnx else None
    result: dict[str, Any] = {}
    for name, graph in graphs.items():
        specs = abstract(graph.inputs)
        exported = jax_export.export(jax.jit(graph.positional), platforms=PLATFORMS)
        (directory / f"{name}.jax").write_bytes(exported(*specs.values()).serialize())
        result[name] = {
            "inputs": {
                key: {"dtype": spec.dtype, "shape": list(spec.shape)}
                for key, spec in graph.inputs.items()
            },
            "outputs": list(graph.outputs),
            "jax": f"{directory.name}/{name}.jax",
        }
        if convert is None:
            result[name]["onnx_error"] = "it was exported without ONNX"
            continue
        try:
            with _quietly():
                model = convert(
                    graph.positional,
                    [jax.ShapeDtypeStruct(spec.shape, spec.dtype) for spec in specs.values()],
                    model_name=name,
                    input_names=list(graph.inputs),
                    output_names=list(graph.outputs),
                )
        except Exception as error:  # of many types, for an operation that it lacks
            result[name]["onnx_error"] = f"the converter failed: {error}".splitlines()[0][:300]
            logger.warning("no ONNX form of %s: %s", name, result[name]["onnx_error"])
            continue
        content = model.SerializeToString()
        if problem := _problem(content):
            result[name]["onnx_error"] = problem
            logger.warning("no ONNX form of %s: %s", name, problem)
            continue
        (directory / f"{name}.onnx").write_bytes(content)
        result[name]["onnx"] = f"{directory.name}/{name}.onnx"
    return result


def _problem(content: bytes) -> str | None:
    """Returns why onnxruntime does not run a graph, None where it does or is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has types of its own
        return f"onnxruntime does not run it: {error}".splitlines()[0][:300]
    return None


def _converter() -> Any:
    try:
        import jax2onnx
    except ImportError as error:
        raise InputError(
            "exporting ONNX needs jax2onnx: pip install -c constraints.txt -e '.[onnx]', or leave "
            "ONNX out by --onnx=0."
        ) from error
    return jax2onnx.to_onnx


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps the converter from logging every call, and every dimension that is a symbol."""
    loggers = [logging.getLogger(), logging.getLogger("onnx_ir")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
