"""The subcommands of ItemQueryPerf: see `interactrank_jax/cli/commands.py`."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from interactrank_jax.cli.command import CONFIG, LOG, REQUIRED, Command, show
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError

_COUNTS = (REQUIRED, "directory that `iqp build` wrote")
_ENGINE_FLAGS: dict[str, tuple[Any, str]] = {
    "engine": ("duckdb", "duckdb, or spark"),
    "memory": ("8GB", "what the engine may hold in memory; the rest goes to disk"),
    "master": ("", "spark: URL of a cluster; else SPARK_REMOTE, else this machine"),
}
_TRAIN_UNTIL = "last day that the mean of rates is taken over, as 2024-05-31"


@contextlib.contextmanager
def _engine(args: Any) -> Iterator[Any]:
    from interactrank_jax.state import engines

    with (
        outputs.scratch_directory() as scratch,
        engines.connect(args.engine, scratch, args.memory, args.master) as backend,
    ):
        yield backend


def _open_log(path: str) -> Any:
    from interactrank_jax.log import schema, validate

    log = schema.open_log(path)
    validate.check_columns(log, needs_features=False)
    return log


def _build(args: Any) -> None:
    from interactrank_jax.log.schema import open_log
    from interactrank_jax.state import days
    from interactrank_jax.state.build import build_store

    with _engine(args) as backend:
        built = build_store(
            args.config.data,
            open_log(args.log),
            args.out,
            backend,
            through=days.day_number(args.through) if args.through else None,
            progress=logging.info,
        )
    show(f"counts in {args.out}", built.figures())


def _features(args: Any) -> None:
    from interactrank_jax.state import as_of, days, engines, snapshot, store

    if bool(args.counts) == bool(args.snapshot):
        raise InputError(
            "name either --counts, for features as of each request's day, or --snapshot, for those "
            "that it served."
        )
    if args.snapshot and args.train_until:
        raise InputError("--train_until is part of a snapshot: leave it out beside --snapshot.")
    log = _open_log(args.log)
    since, until, train_until = (
        days.day_number(getattr(args, name)) if getattr(args, name) else None
        for name in ("since", "until", "train_until")
    )
    with _engine(args) as backend, engines.readable(backend, log):
        if args.snapshot:
            held = snapshot.open_snapshot(args.snapshot, log)
            record = snapshot.write_served(log, held, backend, args.out, since, until)
        else:
            counts = store.open_store(args.counts, log)
            record = as_of.write(log, counts, backend, args.out, since, until, train_until)
    show(f"features in {args.out}", {"rows": record["rows"]})


def _snapshot(args: Any) -> None:
    from interactrank_jax.state import days, engines, snapshot, store

    log = _open_log(args.log)
    with _engine(args) as backend, engines.readable(backend, log):
        record = snapshot.write(
            log,
            store.open_store(args.counts, log),
            backend,
            args.out,
            days.day_number(args.as_of),
            days.day_number(args.train_until) if args.train_until else None,
        )
    show(f"snapshot in {args.out}", record["rows"])


def _positions(args: Any) -> None:
    from interactrank_jax.state import days, engines, positions

    log = _open_log(args.log)
    with _engine(args) as backend, engines.readable(backend, log):
        until = days.day_number(args.until) if args.until else None
        weights = positions.position_weights(log, backend, args.action, until)
    print(f"--config.data.cross.debias.position_weights='{weights}'")


def _report(args: Any) -> None:
    from interactrank_jax.state import report

    outputs.output_directory(args.out, args.features, args.training)
    bounds = report.Bounds(args.max_psi, args.max_null_rate, args.max_staleness)
    with _engine(args) as backend:
        made = report.make(args.features, args.training, backend, bounds)
    report.write(made, args.out)
    print(report.table(made))
    if made.problems:
        raise InputError("past its bound: " + "; ".join(made.problems))


COMMANDS: dict[str, Command] = {
    "iqp build": Command(
        _build,
        "counts the days of a log that are not counted yet.",
        f"interactrank iqp build {CONFIG} --log=runs/log --out=runs/counts",
        {
            "log": LOG,
            "out": (REQUIRED, "directory of the counts, new or to go on with"),
            "through": (
                "",
                "last day to count, one that is over; else the day before the last request",
            ),
            **_ENGINE_FLAGS,
        },
        config=True,
    ),
    "iqp features": Command(
        _features,
        "writes the cross features of a log's impressions: as of the day of each, or as served.",
        "interactrank iqp features --log=runs/log --counts=runs/counts --train_until=2024-08-06 "
        "--out=runs/iqp",
        {
            "log": LOG,
            "counts": ("", f"{_COUNTS[1]}: features as of each request's day"),
            "snapshot": ("", "instead, directory that `iqp snapshot` wrote: what it served"),
            "out": (REQUIRED, "new directory"),
            "since": ("", "first day of the requests, as 2024-05-31; else a snapshot's, or all"),
            "until": ("", "last day of the requests"),
            "train_until": ("", f"{_TRAIN_UNTIL}; needed where there are any"),
            **_ENGINE_FLAGS,
        },
    ),
    "iqp snapshot": Command(
        _snapshot,
        "writes what requests of one day are served with: items and values of each query.",
        "interactrank iqp snapshot --log=runs/log --counts=runs/counts --as_of=2024-05-31 "
        "--out=runs/snapshot",
        {
            "log": LOG,
            "counts": _COUNTS,
            "out": (REQUIRED, "new directory"),
            "as_of": (REQUIRED, "day of the requests, as 2024-05-31"),
            "train_until": ("", f"{_TRAIN_UNTIL}; needed where there are any"),
            **_ENGINE_FLAGS,
        },
    ),
    "iqp positions": Command(
        _positions,
        "estimates how much an impression counts at each position.",
        "interactrank iqp positions --log=runs/log --action=click --until=2024-05-31",
        {
            "log": LOG,
            "action": (REQUIRED, "whose rates to compare"),
            "until": ("", "last day to look at, such as training's last"),
            **_ENGINE_FLAGS,
        },
    ),
    "iqp report": Command(
        _report,
        "tells what features cover and how far they drifted; fails past a bound.",
        "interactrank iqp report --features=runs/iqp-now --training=runs/iqp-training "
        "--out=runs/report",
        {
            "features": (REQUIRED, "directory that `iqp features` wrote, of the days to look at"),
            "training": (REQUIRED, "the same of the days that a model was trained on"),
            "out": (REQUIRED, "new directory for the table and the figure"),
            "max_psi": (0.25, "bound of a feature's population stability index"),
            "max_null_rate": (0.1, "bound of the change of its share of zeros"),
            "max_staleness": (7, "bound of the days from what is known of to the last request"),
            **_ENGINE_FLAGS,
        },
    ),
}
