"""The preparation station: from a log to examples, top to bottom.

    validate -> requests in order -> splits -> STATE -> candidates with counts, in buckets ->
    encoder, fitted on training -> blocks, bucket by bucket -> ragged cross features, metadata

What depends on history is looked up in STATE, which is given or built inside the examples. Memory
holds a few numbers per request, ids and items, and one bucket of candidates; everything else lies
in a scratch directory within the output, which is written beside `out` and renamed when whole.
"""

import concurrent.futures
import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ibis

from interactrank_jax.config import configuration
from interactrank_jax.examples import corpus, extension, past
from interactrank_jax.examples.assemble import Assembler
from interactrank_jax.examples.candidates import write_buckets
from interactrank_jax.examples.encoder import DIRECTORY as ENCODER
from interactrank_jax.examples.encoder import Encoder
from interactrank_jax.examples.fitting import fit, fitted_before
from interactrank_jax.examples.format import Examples, Metadata, write_metadata
from interactrank_jax.examples.ordered import order_log
from interactrank_jax.examples.plan import Plan, make_plan
from interactrank_jax.examples.splits import Days
from interactrank_jax.examples.survey import Survey, survey
from interactrank_jax.examples.writing import (
    Written,
    finish_encoder,
    write_raw_requests,
    write_splits,
)
from interactrank_jax.io import files, outputs
from interactrank_jax.log import read, schema
from interactrank_jax.log.validate import validate
from interactrank_jax.state import engines
from interactrank_jax.state.store import Store

MEMORY = "4GB"  # of the engine, which spills to disk beyond it


def prepare(
    config: Any,
    log_path: files.PathLike,
    out: files.PathLike,
    extend: files.PathLike | None = None,
    progress: Callable[[str], None] = lambda phase: None,
    *,
    state: files.PathLike | None = None,
    encoder: Encoder | None = None,
    days: Days | None = None,
    engine: str = "duckdb",
    memory: str = MEMORY,
    master: str = "",
) -> Metadata:
    """Turns a log into examples.

    Args:
      config: the `data` part of a config.
      log_path: directory of the log (see `log/schema.py`).
      out: directory to write, new or empty.
      extend: older examples whose vocabularies, item store rows and statistics are kept; new ids
        and items are appended, so that a model trained on those can go on with these.
      progress: called with the name of each phase as it begins.
      state: STATE of the log (`state build`); None builds one, OUT/state.
      encoder: of a run or of other examples: nothing is fitted, and the examples can be read by
        every model of that encoder. Needs `days`, all of whose requests are split 'test'.
      days: whose requests become examples; None for all of the log.
      engine, memory, master: see `engines.connect`.

    Returns:
      What `metadata.json` holds.

    Raises:
      InputError: the log, the config, `state` or `extend` does not hold, a split is empty, or
        nothing was ever engaged with in training.
    """
    log = read.open_log(log_path)
    outputs.output_directory(out, log.path, *(path for path in (extend, state) if path is not None))
    progress("validate")
    asked = _check(config, log, extend, state, encoder, days)
    engines.check_flags(engine, memory, master)
    log_statistics = validate(log)
    if asked.old is not None:
        extension.check_columns(log, asked.old)
    with outputs.new_directory(out) as directory:
        with (
            _scratch(directory) as scratch,
            engines.connect(engine, scratch / "engine", memory, master) as backend,
            engines.readable(backend, log),
        ):
            written, made, seen = _make(asked, backend, scratch, directory, progress)
            made.save(directory / ENCODER)
        metadata = Metadata(
            encoder=made,
            slate=asked.plan.slate,
            candidate_columns=written.candidate_columns,
            splits=written.sizes,
            log_statistics=log_statistics,
            config=configuration.to_json(config),
            digest=examples_digest(log, config, asked.old, encoder, days),
            extends=asked.old.metadata.digest if asked.old is not None else "",
            survey=seen,
        )
        write_metadata(directory, metadata)
    return metadata


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What a preparation is asked for, checked.

    Attributes:
      config: the `data` part of a config.
      log: the log.
      plan: the config, checked against the log.
      old: examples to extend.
      given: STATE to look things up in; None to build one.
      encoder: to encode by; None to fit one.
      days: whose requests become examples; None for all.
    """

    config: Any
    log: read.Log
    plan: Plan
    old: Examples | None
    given: Store | None
    encoder: Encoder | None
    days: Days | None


def _check(
    config: Any,
    log: read.Log,
    extend: files.PathLike | None,
    state: files.PathLike | None,
    encoder: Encoder | None,
    days: Days | None,
) -> _Asked:
    """Holds what is asked for against each other, before any row is read."""
    plan, config_json = make_plan(config, log), configuration.to_json(config)
    extension.check_days(plan, days, encoder)
    if encoder is not None:
        extension.check_encoder(encoder, plan, config_json, extend)
    old = Examples(extend) if extend is not None else None
    if old is not None:
        extension.check_extension(config_json, log, plan, old)
    given = past.open_given(state, plan, log) if state is not None else None
    return _Asked(config, log, plan, old, given, encoder, days)


def _make(
    asked: _Asked,
    backend: ibis.BaseBackend,
    scratch: Path,
    directory: Path,
    progress: Callable[[str], None],
) -> tuple[Written, Encoder, Survey]:
    """Writes all but encoder and metadata; returns what was written, the encoder and a survey."""
    plan, config = asked.plan, asked.config
    progress("requests")
    ordered = order_log(plan, asked.log, asked.old, backend, scratch, asked.days)
    progress("state")
    history = past.open_past(plan, ordered, asked.given, directory, progress)
    progress("candidates")
    buckets = write_buckets(ordered, history)
    progress("encoder")
    old_encoder = asked.old.encoder if asked.old is not None else None
    if asked.encoder is not None:
        fitted = fitted_before(plan, ordered, asked.encoder)
    else:
        fitted = fit(config, plan, ordered, buckets, old_encoder)
    fitted.write_items(directory)
    progress("histories")
    with buckets.read_ahead(ordered.rows.buckets) as candidates:
        lookups = past.look_up(plan, ordered, history)
        assembler = Assembler(plan, ordered, fitted, lookups, buckets.places)
        with _ragged(assembler, history, directory, progress):
            size = int(config.block_size)
            written = write_splits(assembler, candidates, directory, size, progress)
            write_raw_requests(ordered, fitted.leaking, directory / "raw")
    progress("metadata")
    seen = survey(ordered, fitted, written, [spec.name for spec in plan.cross.specs])
    if asked.encoder is not None:
        return written, asked.encoder, seen
    config_json = configuration.to_json(config)
    return written, finish_encoder(config_json, plan, fitted, written, old_encoder), seen


@contextlib.contextmanager
def _ragged(
    assembler: Assembler, history: past.Past, directory: Path, progress: Callable[[str], None]
) -> Iterator[None]:
    """Writes the cross features of whole requests while the block writes blocks.

    An engine works at the former, NumPy at the latter, which asks no engine.
    """
    plan, means = assembler.plan, assembler.fitted.means
    if not plan.corpus_requests:
        yield
        return
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ragged = pool.submit(corpus.write, plan, assembler.ordered, history, means, directory)
        yield
        progress("cross features of whole requests")
        ragged.result()


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """Yields a directory for what does not fit into memory, on the disk of the output."""
    scratch = directory / "scratch"
    scratch.mkdir()
    yield scratch
    shutil.rmtree(scratch)


def examples_digest(
    log: read.Log,
    config: Any,
    old: Examples | None = None,
    encoder: Encoder | None = None,
    days: Days | None = None,
) -> str:
    """Returns the hash of the log, the `data` part of a config, and what else was given."""
    of_config = configuration.to_json(config)
    parts: list[Any] = [log_digest(log), of_config, old and old.metadata.digest]
    if days is not None:
        parts += [encoder and encoder.digest, str(days)]
    return files.digest(parts)


def log_digest(log: read.Log) -> dict[str, str]:
    """Returns the SHA-256 of each file of a log."""
    paths = [log.path / "schema.json", *(p for name in schema.TABLES for p in log.files(name))]
    names = [str(path.relative_to(log.path)) for path in paths]
    return dict(zip(names, files.digests_of(paths), strict=True))
