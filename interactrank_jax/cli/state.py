"""The subcommands of STATE: see `interactrank_jax/cli/commands.py`."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from interactrank_jax.cli.command import CONFIG, LOG, REQUIRED, Command, show
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError

_STATE = (REQUIRED, "STATE: directory that `state build` wrote")
ENGINE_FLAGS: dict[str, tuple[Any, str]] = {
    "engine": ("duckdb", "duckdb, or spark"),
    "memory": ("8GB", "what the engine may hold in memory; the rest goes to disk"),
    "master": ("", "spark: URL of a cluster; else SPARK_REMOTE, else this machine"),
}
_ENCODER = "examples or a run, whose mean rates are used; needed where a feature is a rate"


@contextlib.contextmanager
def _engine(args: Any) -> Iterator[Any]:
    from interactrank_jax.state import engines

    with (
        outputs.scratch_directory() as scratch,
        engines.connect(args.engine, scratch, args.memory, args.master) as backend,
    ):
        yield backend


def _open_log(path: str) -> Any:
    from interactrank_jax.log import read, validate

    log = read.open_log(path)
    validate.check_columns(log, needs_features=False)
    return log


def _build(args: Any) -> None:
    from interactrank_jax.log.read import open_log
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
    show(f"STATE in {args.out}", built.figures())


def _features(args: Any) -> None:
    from interactrank_jax.state import as_of, days, engines, snapshot, store

    if bool(args.state) == bool(args.snapshot):
        raise InputError(
            "name either --state, for features as of each request's day, or --snapshot, for those "
            "that it served."
        )
    if args.snapshot and args.encoder:
        raise InputError("--encoder is part of a snapshot: leave it out beside --snapshot.")
    log = _open_log(args.log)
    since, until = (
        days.day_number(getattr(args, name)) if getattr(args, name) else None
        for name in ("since", "until")
    )
    with _engine(args) as backend, engines.readable(backend, log):
        if args.snapshot:
            opened = snapshot.open_snapshot(args.snapshot, log)
            record = snapshot.write_served(log, opened, backend, args.out, since, until)
        else:
            state = store.open_store(args.state, log)
            means = _means(args.encoder, state)
            record = as_of.write(log, state, backend, args.out, since, until, means)
    show(f"features in {args.out}", {"rows": record["rows"]})


def _means(path: str, state: Any) -> dict[str, float]:
    """Returns the mean rates of the encoder of examples or of a run.

    Raises:
      InputError: there impressions count otherwise than in STATE.
    """
    if not path:
        return {}
    from interactrank_jax.examples import encoder, rates

    opened = encoder.Encoder.open(f"{path}/{encoder.DIRECTORY}")
    debias = str(opened.meaning.get("cross.debias.name", "none"))
    weights = tuple(map(float, opened.meaning.get("cross.debias.position_weights", ())))
    theirs, ours = (debias, weights), (state.recipe.debias, state.recipe.position_weights)
    if theirs != ours:
        raise InputError(
            f"--encoder={path}: its impressions count by config.data.cross.debias {theirs}, those "
            f"of {state.path} by {ours}. Name examples, or a run, of the config that it was built "
            f"with."
        )
    return rates.item_means(opened.mean_rates)


def _snapshot(args: Any) -> None:
    from interactrank_jax.state import days, engines, snapshot, store

    log = _open_log(args.log)
    with _engine(args) as backend, engines.readable(backend, log):
        state = store.open_store(args.state, log)
        day, means = days.day_number(args.as_of), _means(args.encoder, state)
        record = snapshot.write(log, state, backend, args.out, day, means)
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
    "state build": Command(
        _build,
        "counts the days of a log that are not counted yet, and adds them to user timelines.",
        f"interactrank state build {CONFIG} --log=runs/log --out=runs/state",
        {
            "log": LOG,
            "out": (REQUIRED, "STATE, new or to go on with"),
            "through": (
                "",
                "last day to count, one that is over; else the day before the last request",
            ),
            **ENGINE_FLAGS,
        },
        config=True,
    ),
    "state features": Command(
        _features,
        "writes the cross features of a log's impressions: as of the day of each, or as served.",
        "interactrank state features --log=runs/log --state=runs/state --encoder=runs/examples "
        "--out=runs/features",
        {
            "log": LOG,
            "state": ("", f"{_STATE[1]}: features as of each request's day"),
            "snapshot": ("", "instead, directory that `state snapshot` wrote: what it served"),
            "out": (REQUIRED, "new directory"),
            "since": ("", "first day of the requests, as 2024-05-31; else a snapshot's, or all"),
            "until": ("", "last day of the requests"),
            "encoder": ("", _ENCODER),
            **ENGINE_FLAGS,
        },
    ),
    "state snapshot": Command(
        _snapshot,
        "writes what requests of one day are served with: items and values of each query.",
        "interactrank state snapshot --log=runs/log --state=runs/state --as_of=2024-05-31 "
        "--out=runs/snapshot",
        {
            "log": LOG,
            "state": _STATE,
            "out": (REQUIRED, "new directory"),
            "as_of": (REQUIRED, "day of the requests, as 2024-05-31"),
            "encoder": ("", _ENCODER),
            **ENGINE_FLAGS,
        },
    ),
    "state positions": Command(
        _positions,
        "estimates how much an impression counts at each position.",
        "interactrank state positions --log=runs/log --action=click --until=2024-05-31",
        {
            "log": LOG,
            "action": (REQUIRED, "whose rates to compare"),
            "until": ("", "last day to look at, such as training's last"),
            **ENGINE_FLAGS,
        },
    ),
    "state report": Command(
        _report,
        "tells what features cover and how far they drifted; fails past a bound.",
        "interactrank state report --features=runs/features-now --training=runs/features-training "
        "--out=runs/report",
        {
            "features": (REQUIRED, "directory that `state features` wrote, of the days to look at"),
            "training": (REQUIRED, "the same of the days that a model was trained on"),
            "out": (REQUIRED, "new directory for the table and the figure"),
            "max_psi": (0.25, "bound of a feature's population stability index"),
            "max_null_rate": (0.1, "bound of the change of its share of zeros"),
            "max_staleness": (7, "bound of the days from what is known of to the last request"),
            **ENGINE_FLAGS,
        },
    ),
}
