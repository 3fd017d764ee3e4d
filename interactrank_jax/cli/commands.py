"""The subcommands: their flags, and what each calls.

Each station imports what it needs when it runs, so that training and scoring do not import the
data-preparation packages, nor `--help` jax.
"""

import logging
from typing import Any

from interactrank_jax.cli import daily as daily_commands
from interactrank_jax.cli import logs as log_commands
from interactrank_jax.cli import serving as serving_commands
from interactrank_jax.cli import state as state_commands
from interactrank_jax.cli.command import (
    CONFIG,
    EXAMPLES,
    LOG,
    REGISTERS,
    REQUIRED,
    WORKDIR,
    Command,
    check_registers_only,
    show,
)
from interactrank_jax.io import interrupts, outputs
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.io.printable import printable


def _prepare(args: Any) -> None:
    from interactrank_jax.examples.prepare import prepare
    from interactrank_jax.examples.splits import Days
    from interactrank_jax.examples.warnings import before_training
    from interactrank_jax.serving.bundle import open_encoder
    from interactrank_jax.state.days import day_number

    days = None
    if args.since or args.until or args.split_since:
        if not (args.since and args.until):
            raise InputError("--since and --until go together: name both of them.")
        split_since = args.split_since or ("" if args.encoder else args.since)
        days = Days(
            day_number(args.since),
            day_number(args.until),
            day_number(split_since) if split_since else None,
        )
    metadata = prepare(
        args.config.data,
        args.log,
        args.out,
        extend=args.extend or None,
        progress=logging.info,
        state=args.state or None,
        encoder=open_encoder(args.encoder) if args.encoder else None,
        days=days,
        engine=args.engine,
        memory=args.memory,
        master=args.master,
    )
    sizes = {
        name: f"{split.requests:,} requests, {split.candidates:,} candidates"
        for name, split in metadata.splits.items()
    }
    show(f"examples in {args.out}", {**sizes, "protocol": metadata.protocol_in_words})
    for text in before_training(metadata):
        logging.warning("warning: %s", text)


def _leaks(args: Any) -> None:
    from interactrank_jax.examples.leaks import check

    show("no leak found", check(args.config.data, args.log))


def _config(args: Any) -> None:
    from interactrank_jax.config import fields

    if args.format not in ("text", "markdown"):
        raise InputError(
            f"--format={args.format}." + did_you_mean(args.format, ("text", "markdown"))
        )
    if args.format == "markdown":
        print(fields.markdown(), end="")
    else:
        print(fields.describe(args.config or None))


def _train(args: Any) -> None:
    from interactrank_jax.devices import distributed

    with distributed.joined(args.coordinator, args.processes, args.process):
        from interactrank_jax.examples.format import Examples
        from interactrank_jax.training.train import train

        summary = train(args.config, args.examples, args.workdir, overrides=args.overrides)
        protocol = Examples(args.examples).metadata.protocol_in_words
        show(f"run in {args.workdir}", {**summary, "protocol": protocol})


def _evaluate(args: Any) -> None:
    from interactrank_jax.evaluation import evaluate, tables

    by = [name for name in args.by.split(",") if name]
    what = args.examples, args.split
    if args.against and (args.scores or args.baseline or not args.workdir):
        raise InputError("--against=RUN goes with --workdir=RUN alone: the two are compared.")
    if (args.baseline and (args.workdir or args.scores)) or not (
        args.baseline or args.workdir or args.scores
    ):
        raise InputError(
            "give either --workdir=RUN, or --scores=FILE with --workdir=RUN or --config beside it, "
            "or --baseline=bm25 with --config, which names the label."
        )
    if not args.workdir and not args.config:
        named = "--baseline" if args.baseline else "--scores without --workdir"
        raise InputError(f"{named} needs --config, for the label and the evaluation.")
    if args.json:
        outputs.check_output_file(args.json, "--json")
    config = _evaluate_config(args) if args.workdir else args.config
    if args.baseline:
        results = [evaluate.evaluate_baseline(args.baseline, config, *what, by=by)]
    elif args.scores:
        results = evaluate.evaluate_scores(
            args.scores, *what, config=config, workdir=args.workdir or None, by=by
        )
    elif args.against:
        results = evaluate.evaluate_pair(args.workdir, args.against, *what, config=config, by=by)
    else:
        results = [evaluate.evaluate(args.workdir, *what, config=config, by=by)]
    print(tables.report(results))
    if args.json:
        evaluate.write_result(args.json, results)


def _evaluate_config(args: Any) -> Any:
    """Returns the run's `config.evaluate` with what the command line sets of it."""
    from interactrank_jax.config import configuration, fields
    from interactrank_jax.runs.run import Run

    config = Run.open(args.workdir).config
    for name in configuration.override(config, args.config_arguments):
        if not name.startswith("evaluate."):
            raise InputError(
                f"--config.{name}: beside --workdir only config.evaluate can be set, all else is "
                f"the run's."
            )
    fields.check(config.evaluate, "evaluate")
    return config.evaluate


def _report(args: Any) -> None:
    from interactrank_jax.report.page import write_report

    check_registers_only(args)
    data = write_report(
        args.runs, args.out, args.examples or None, split=args.split, ab=args.ab or None
    )
    notes = [f"{run['name']}: {note}" for run in data["runs"] for note in run["notes"]]
    for text in (*notes, *data["notes"]):
        logging.warning("warning: %s", printable(text))
    names = ", ".join(run["name"] for run in data["runs"])
    show(f"report in {args.out}", {"runs": names, "split": data["split"]})


def _index(args: Any) -> None:
    from interactrank_jax.ranking.index import build_index

    check_registers_only(args)
    metadata = build_index(args.workdir, args.examples, args.out)
    names = ("items", "model_checksum", "protocol")
    show(f"index in {args.out}", {name: metadata[name] for name in names})


def _explain(args: Any) -> None:
    from interactrank_jax.examples.format import Examples
    from interactrank_jax.ranking import explain

    check_registers_only(args)
    with interrupts.deferred():
        explanation = explain.explain(args.workdir, args.examples, args.request, args.split)
    print(explain.table(explanation))
    print(f"\nprotocol {Examples(args.examples).metadata.protocol_in_words}")


COMMANDS: dict[str, Command] = {
    **log_commands.COMMANDS,
    "prepare": Command(
        _prepare,
        "turns a log into examples.",
        f"interactrank prepare {CONFIG} --log=runs/log --out=runs/examples",
        {
            "log": LOG,
            "out": (REQUIRED, "new directory for the examples"),
            "extend": ("", "examples whose vocabularies and statistics to keep"),
            "state": ("", "STATE of the log, which `state build` wrote; built if not given"),
            "encoder": ("", "run, examples or bundle whose encoder is used: nothing is fitted"),
            "since": ("", "first day of the requests, as 2024-05-31; else all of the log"),
            "until": ("", "last day of the requests; with --encoder all are split 'test'"),
            "split_since": (
                "",
                "without --encoder: requests before this day are for training, those from it on "
                "are split by config.data.split; else all are split",
            ),
            **state_commands.ENGINE_FLAGS,
            "memory": ("4GB", state_commands.ENGINE_FLAGS["memory"][1]),
        },
        config=True,
    ),
    **state_commands.COMMANDS,
    **serving_commands.COMMANDS,
    **daily_commands.COMMANDS,
    "leaks": Command(
        _leaks,
        "checks that no feature of a log's examples knows its own label or the future.",
        f"interactrank leaks {CONFIG} --log=runs/log",
        {"log": LOG},
        config=True,
    ),
    "config": Command(
        _config,
        "prints the fields of a config: values, types, ranges and meanings.",
        f"interactrank config {CONFIG}",
        {"format": ("text", "text, or markdown: the whole table as in docs/config.md")},
        config=False,
        config_help="to see its values",
    ),
    "train": Command(
        _train,
        "trains a model, or resumes the run in the workdir.",
        f"interactrank train {CONFIG} --examples=runs/examples --workdir=runs/interactrank",
        {
            "examples": EXAMPLES,
            "workdir": WORKDIR,
            "coordinator": ("", "HOST:PORT of process 0, or 'auto'; for several processes"),
            "processes": (1, "number of processes"),
            "process": (0, "number of this process"),
        },
        config=True,
    ),
    "evaluate": Command(
        _evaluate,
        "evaluates a run, a baseline, or scores made elsewhere, on a split.",
        "interactrank evaluate --workdir=runs/interactrank --examples=runs/examples --split=test",
        {
            "workdir": ("", "run directory"),
            "against": ("", "another run, evaluated beside it, with the paired differences"),
            "examples": EXAMPLES,
            "split": ("test", "train, validation or test"),
            "baseline": (
                "",
                "bm25, popularity or iqp, or iqp:FEATURE, instead of a run; needs --config",
            ),
            "scores": (
                "",
                "Parquet or CSV of request_id, item_id, score: a file, a directory, or A,B; paired "
                "with the run of --workdir",
            ),
            "by": (
                "",
                "slices, A,B: query_popularity, item_age, user, user_history or a categorical "
                "feature",
            ),
            "json": ("", "file to write the results to, a list"),
        },
        config=False,
        config_help="with --baseline, or --scores alone: its label; with --workdir: "
        f"{REGISTERS}; --config.evaluate.FIELD=... with either",
        on_devices=True,
        registers=True,
    ),
    "report": Command(
        _report,
        "writes one HTML page on runs, side by side; evaluates those that were not.",
        "interactrank report runs/interactrank --out=runs/report.html",
        {
            "out": (REQUIRED, "the page, a file that ends in .html; replaced where it is there"),
            "examples": ("", "to evaluate on; else those that each run was trained on"),
            "split": ("test", "train, validation or test"),
            "ab": ("", "ab_test.json of `python -m experiments.ab_test`, to show too"),
        },
        words=("runs", "run directories, one or more"),
        config=False,
        config_help=REGISTERS,
        on_devices=True,
        registers=True,
    ),
    "index": Command(
        _index,
        "encodes every item with a run's best model.",
        "interactrank index --workdir=runs/interactrank --examples=runs/examples --out=runs/index",
        {"workdir": WORKDIR, "examples": EXAMPLES, "out": (REQUIRED, "new directory")},
        config=False,
        config_help=REGISTERS,
        on_devices=True,
        registers=True,
    ),
    "explain": Command(
        _explain,
        "takes the scores of a request's candidates apart.",
        "interactrank explain --workdir=runs/interactrank --examples=runs/examples --request=r17",
        {
            "workdir": WORKDIR,
            "examples": EXAMPLES,
            "request": (REQUIRED, "its request_id"),
            "split": ("test", "where it is"),
        },
        config=False,
        config_help=REGISTERS,
        on_devices=True,
        registers=True,
    ),
}
