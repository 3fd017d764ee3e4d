"""The subcommands: their flags, and what each calls.

Each station imports what it needs when it runs, so that training and scoring do not import the
data-preparation packages, nor `--help` jax.
"""

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from interactrank_jax.errors import InputError, did_you_mean

REQUIRED = object()


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
      run: takes the parsed flags.
      summary: one line.
      example: a whole command line.
      flags: name -> (default, help); the default's type is the flag's, REQUIRED a string's.
      config: None, or whether `--config` must be given.
    """

    run: Callable[[Any], None]
    summary: str
    example: str
    flags: dict[str, tuple[Any, str]]
    config: bool | None = None

    def usage(self, name: str) -> str:
        """Returns what the command expects, and an example."""
        lines = [f"interactrank {name}: {self.summary}", ""]
        if self.config is not None:
            what = "" if self.config else " (only with --baseline)"
            lines.append(
                f"  --config       FILE[:ARGUMENT]; override a field: --config.a.b=...{what}"
            )
        for flag, (default, help_text) in self.flags.items():
            suffix = "" if default is REQUIRED or default == "" else f" (default {default})"
            lines.append(f"  --{flag:<12} {help_text}{suffix}")
        return "\n".join([*lines, "", f"Example: {self.example}"])


def _report(title: str, figures: dict[str, Any]) -> None:
    print(title)
    for name, value in figures.items():
        print(f"  {name}: {value:,}" if isinstance(value, int) else f"  {name}: {value}")


def _simulate(args: Any) -> None:
    from interactrank_jax.data.simulate import simulate

    _report(f"log in {args.out}", simulate(args.preset, args.seed, args.out))


def _convert(args: Any) -> None:
    if args.format == "ratings":
        from interactrank_jax.data import ratings

        _report(f"log in {args.out}", ratings.convert(args.source, args.out, _rating_options(args)))
    elif args.format == "movielens":
        for flag, (default, _) in _RATING_FLAGS.items():
            if args[flag].value != default:
                raise InputError(f"--{flag} is for --format=ratings only: leave it out.")
        from interactrank_jax.data.movielens import convert

        _report(f"log in {args.out}", convert(args.source, args.out))
    else:
        raise InputError(
            f"--format={args.format}." + did_you_mean(args.format, ["movielens", "ratings"])
        )


def _rating_options(args: Any) -> Any:
    from interactrank_jax.data.ratings import Options

    try:
        neutral = float(args.neutral) if args.neutral else None
    except ValueError as error:
        raise InputError(f"--neutral={args.neutral}. Expected a number, such as 3.") from error
    names = {
        flag: tuple(filter(None, args[flag].value.split(",")))
        for flag in ("columns", "text", "categorical", "ignore", "query")
    }
    return Options(
        user=args.user,
        item=args.item,
        rating=args.rating,
        time=args.time,
        threshold=args.threshold,
        neutral=neutral,
        separator=args.separator,
        **names,
    )


def _prepare(args: Any) -> None:
    from interactrank_jax.data.prepare import prepare

    metadata = prepare(
        args.config.data, args.log, args.out, extend=args.extend or None, progress=logging.info
    )
    sizes = {
        name: f"{split.requests:,} requests, {split.candidates:,} candidates"
        for name, split in metadata.splits.items()
    }
    _report(f"examples in {args.out}", sizes)


@contextlib.contextmanager
def _engine(args: Any) -> Iterator[Any]:
    from interactrank_jax.iqp import engines

    with (
        tempfile.TemporaryDirectory(prefix="interactrank-") as scratch,
        engines.connect(args.engine, scratch, args.memory, args.master) as backend,
    ):
        yield backend


def _iqp_build(args: Any) -> None:
    from interactrank_jax.data.schema import open_log
    from interactrank_jax.iqp import store

    with _engine(args) as backend:
        built = store.build(
            args.config.data,
            open_log(args.log),
            args.out,
            backend,
            through=store.day_number(args.through) if args.through else None,
            progress=logging.info,
        )
    _report(f"counts in {args.out}", built.figures())


def _iqp_features(args: Any) -> None:
    from interactrank_jax.data.schema import open_log
    from interactrank_jax.iqp import snapshot, store

    log = open_log(args.log)
    with _engine(args) as backend:
        since, until, train_until = (
            store.day_number(args[name].value) if args[name].value else None
            for name in ("since", "until", "train_until")
        )
        held = store.open_store(args.counts, log)
        record = snapshot.write_features(log, held, backend, args.out, since, until, train_until)
    _report(f"features in {args.out}", {"rows": record["rows"]})


def _iqp_snapshot(args: Any) -> None:
    from interactrank_jax.data.schema import open_log
    from interactrank_jax.iqp import snapshot, store

    log = open_log(args.log)
    with _engine(args) as backend:
        record = snapshot.write_snapshot(
            log,
            store.open_store(args.counts, log),
            backend,
            args.out,
            store.day_number(args.as_of),
            store.day_number(args.train_until) if args.train_until else None,
        )
    _report(f"snapshot in {args.out}", record["rows"])


def _iqp_positions(args: Any) -> None:
    from interactrank_jax.data.schema import open_log
    from interactrank_jax.iqp import positions, store

    with _engine(args) as backend:
        until = store.day_number(args.until) if args.until else None
        weights = positions.position_weights(open_log(args.log), backend, args.action, until)
    print(f"--config.data.cross.debias.position_weights='{weights}'")


def _iqp_report(args: Any) -> None:
    from interactrank_jax.iqp import report

    bounds = report.Bounds(args.max_psi, args.max_null_rate, args.max_staleness)
    with _engine(args) as backend:
        made = report.make(args.features, args.training, backend, bounds, args.snapshot or None)
    report.write(made, args.out)
    print(report.table(made))
    if made.problems:
        raise InputError("past its bound: " + "; ".join(made.problems))


def _leaks(args: Any) -> None:
    from interactrank_jax.data.leaks import check

    _report("no leak found", check(args.config.data, args.log))


def _train(args: Any) -> None:
    from interactrank_jax import distributed

    with distributed.joined(args.coordinator, args.processes, args.process):
        from interactrank_jax.train import train

        _report(f"run in {args.workdir}", train(args.config, args.examples, args.workdir))


def _evaluate(args: Any) -> None:
    from interactrank_jax import evaluate

    if args.baseline:
        if args.config is None:
            raise InputError("--baseline needs --config, for the label and the evaluation.")
        result = evaluate.evaluate_baseline(args.baseline, args.config, args.examples, args.split)
    elif args.workdir:
        result = evaluate.evaluate(args.workdir, args.examples, args.split)
    else:
        raise InputError("give --workdir=RUN, or --baseline=bm25 with --config.")
    print(evaluate.table([result]))
    for part in ("heads", "stages"):
        if result[part]:
            print(f"\n{evaluate.part_table(result, part)}")
    corpus = ""
    if result["corpus_requests"]:
        corpus = (
            f"; recall over {result['corpus_requests']:,} requests with an engaged item, among all "
            f"{result['corpus']:,} items of the log"
        )
    print(
        f"\nprotocol {result['protocol']}, {result['requests']:,} requests, "
        f"{result['candidates']:,} candidates{corpus}. ± is half a 95% interval over requests; "
        f"heads are calibrated for weights and sampling."
    )


def _index(args: Any) -> None:
    from interactrank_jax.scoring.index import build_index

    metadata = build_index(args.workdir, args.examples, args.out)
    _report(f"index in {args.out}", {key: metadata[key] for key in ("items", "model_checksum")})


def _score(args: Any) -> None:
    from interactrank_jax.scoring.score import score

    summary = score(
        args.workdir,
        args.index,
        args.examples,
        args.out,
        split=args.split,
        k=args.k,
        candidates=args.candidates,
    )
    _report(f"scores in {args.out}/scores.parquet", summary)


def _explain(args: Any) -> None:
    from interactrank_jax.scoring import explain

    print(explain.table(explain.explain(args.workdir, args.examples, args.request, args.split)))


_EXAMPLES = (REQUIRED, "directory that `prepare` wrote")
_WORKDIR = (REQUIRED, "run directory")
_CONFIG = "--config=configs/interactrank.py"

_LOG = (REQUIRED, "directory of the log")
_COUNTS = (REQUIRED, "directory that `iqp build` wrote")
_ENGINE_FLAGS: dict[str, tuple[Any, str]] = {
    "engine": ("duckdb", "duckdb, or spark"),
    "memory": ("8GB", "what the engine may hold in memory; the rest goes to disk"),
    "master": ("", "spark: URL of a cluster; else SPARK_REMOTE, else this machine"),
}
_TRAIN_UNTIL = ("", "last day that the mean of a rate is taken over, as 2024-05-31")

_RATING_FLAGS: dict[str, tuple[Any, str]] = {
    "user": ("user_id", "ratings: column of user ids, in users.* too"),
    "item": ("item_id", "ratings: column of item ids, in items.* too"),
    "rating": ("rating", "ratings: column of labels or ratings"),
    "time": ("", "ratings: column of times, in UTC seconds or ISO 8601; none: no time"),
    "threshold": (0.0, "ratings: a rating above it is a success"),
    "neutral": ("", "ratings: a rating that is neither success nor failure"),
    "separator": ("", "ratings: between columns; found by itself if not given"),
    "columns": ("", "ratings: names of the columns, A,B,C, if the file has no header"),
    "text": ("", "ratings: columns A,B of users.* and items.* that are text"),
    "categorical": ("", "ratings: numbers there that are categories"),
    "ignore": ("", "ratings: columns there that are no features"),
    "query": ("", "ratings: categorical features of users that stand for the query"),
}

COMMANDS: dict[str, Command] = {
    "simulate": Command(
        _simulate,
        "simulates a search log with a known truth.",
        "interactrank simulate --preset=small --seed=0 --out=runs/log",
        {
            "preset": ("small", "size: tiny, small, medium or large"),
            "seed": (0, "the same seed gives the same bytes"),
            "out": (REQUIRED, "new directory for the log"),
        },
    ),
    "convert": Command(
        _convert,
        "converts a data set of ratings or clicks to a log.",
        "interactrank convert --format=movielens --source=ml-100k --out=runs/log",
        {
            "format": (REQUIRED, "movielens, or ratings: any table of user, item and label"),
            "source": (REQUIRED, "directory or archive of the data set, as its owner packs it"),
            "out": (REQUIRED, "new directory for the log"),
            **_RATING_FLAGS,
        },
    ),
    "prepare": Command(
        _prepare,
        "turns a log into examples.",
        f"interactrank prepare {_CONFIG} --log=runs/log --out=runs/examples",
        {
            "log": (REQUIRED, "directory of the log"),
            "out": (REQUIRED, "new directory for the examples"),
            "extend": ("", "examples whose vocabularies and statistics to keep"),
        },
        config=True,
    ),
    "iqp build": Command(
        _iqp_build,
        "counts the days of a log that are not counted yet.",
        f"interactrank iqp build {_CONFIG} --log=runs/log --out=runs/counts",
        {
            "log": _LOG,
            "out": (REQUIRED, "directory of the counts, new or to go on with"),
            "through": ("", "last day to count; else the day before the last request"),
            **_ENGINE_FLAGS,
        },
        config=True,
    ),
    "iqp features": Command(
        _iqp_features,
        "writes the cross features of a log's impressions, as of the day of each.",
        "interactrank iqp features --log=runs/log --counts=runs/counts --out=runs/iqp",
        {
            "log": _LOG,
            "counts": _COUNTS,
            "out": (REQUIRED, "new directory"),
            "since": ("", "first day of the requests, as 2024-05-31"),
            "until": ("", "last day of the requests"),
            "train_until": _TRAIN_UNTIL,
            **_ENGINE_FLAGS,
        },
    ),
    "iqp snapshot": Command(
        _iqp_snapshot,
        "writes what requests of one day are served with: items and values of each query.",
        "interactrank iqp snapshot --log=runs/log --counts=runs/counts --as_of=2024-05-31 "
        "--out=runs/snapshot",
        {
            "log": _LOG,
            "counts": _COUNTS,
            "out": (REQUIRED, "new directory"),
            "as_of": (REQUIRED, "day of the requests, as 2024-05-31"),
            "train_until": _TRAIN_UNTIL,
            **_ENGINE_FLAGS,
        },
    ),
    "iqp positions": Command(
        _iqp_positions,
        "estimates how much an impression counts at each position.",
        "interactrank iqp positions --log=runs/log --action=click --until=2024-05-31",
        {
            "log": _LOG,
            "action": (REQUIRED, "whose rates to compare"),
            "until": ("", "last day to look at, such as training's last"),
            **_ENGINE_FLAGS,
        },
    ),
    "iqp report": Command(
        _iqp_report,
        "tells what features cover and how far they drifted; fails past a bound.",
        "interactrank iqp report --features=runs/iqp-now --training=runs/iqp-training "
        "--out=runs/report",
        {
            "features": (REQUIRED, "directory that `iqp features` wrote, of the days to look at"),
            "training": (REQUIRED, "the same of the days that a model was trained on"),
            "out": (REQUIRED, "new directory for the table and the figure"),
            "snapshot": ("", "directory that `iqp snapshot` wrote, served on the last of the days"),
            "max_psi": (0.25, "bound of a feature's population stability index"),
            "max_null_rate": (0.1, "bound of the change of its share of zeros"),
            "max_staleness": (7, "bound of the days from what is known of to the last request"),
            **_ENGINE_FLAGS,
        },
    ),
    "leaks": Command(
        _leaks,
        "checks that no feature of a log's examples knows its own label or the future.",
        f"interactrank leaks {_CONFIG} --log=runs/log",
        {"log": (REQUIRED, "directory of the log")},
        config=True,
    ),
    "train": Command(
        _train,
        "trains a model, or resumes the run in the workdir.",
        f"interactrank train {_CONFIG} --examples=runs/examples --workdir=runs/interactrank",
        {
            "examples": _EXAMPLES,
            "workdir": _WORKDIR,
            "coordinator": ("", "HOST:PORT of process 0, or 'auto'; for several processes"),
            "processes": (1, "number of processes"),
            "process": (0, "number of this process"),
        },
        config=True,
    ),
    "evaluate": Command(
        _evaluate,
        "evaluates a run, or a baseline, on a split.",
        "interactrank evaluate --workdir=runs/interactrank --examples=runs/examples --split=test",
        {
            "workdir": ("", "run directory"),
            "examples": _EXAMPLES,
            "split": ("test", "train, validation or test"),
            "baseline": ("", "bm25 or iqp, instead of a run"),
        },
        config=False,
    ),
    "index": Command(
        _index,
        "encodes every item with a run's best model.",
        "interactrank index --workdir=runs/interactrank --examples=runs/examples --out=runs/index",
        {"workdir": _WORKDIR, "examples": _EXAMPLES, "out": (REQUIRED, "new directory")},
    ),
    "score": Command(
        _score,
        "writes the best items of each request.",
        "interactrank score --workdir=runs/interactrank --index=runs/index "
        "--examples=runs/examples --split=test --k=100 --candidates=corpus --out=runs/scores",
        {
            "workdir": _WORKDIR,
            "index": (REQUIRED, "directory that `index` wrote"),
            "examples": _EXAMPLES,
            "out": (REQUIRED, "new directory"),
            "split": ("test", "whose requests"),
            "k": (100, "items kept per request"),
            "candidates": ("slate", "slate (those of the log) or corpus (every item)"),
        },
    ),
    "explain": Command(
        _explain,
        "takes the scores of a request's candidates apart.",
        "interactrank explain --workdir=runs/interactrank --examples=runs/examples --request=r17",
        {
            "workdir": _WORKDIR,
            "examples": _EXAMPLES,
            "request": (REQUIRED, "its request_id"),
            "split": ("test", "where it is"),
        },
    ),
}
