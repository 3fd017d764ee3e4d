"""The subcommands around a bundle: export it, add items, rank by it, compare it with the past."""

import functools
from collections.abc import Callable
from typing import Any

from interactrank_jax.cli.command import (
    LOG,
    REGISTERS,
    REQUIRED,
    WORKDIR,
    Command,
    check_registers_only,
    show,
)
from interactrank_jax.cli.state import ENGINE_FLAGS
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError


def _export(args: Any) -> None:
    from interactrank_jax.export.export import export

    check_registers_only(args)
    summary = export(
        args.workdir,
        args.state,
        args.out,
        as_of=args.as_of,
        items=args.items,
        onnx=bool(args.onnx),
        vectors=args.vectors,
        memory=args.memory,
        progress=lambda phase: print(f"{phase} ...", flush=True),
    )
    show(f"bundle in {args.out}", summary)


def _update(args: Any) -> None:
    from interactrank_jax.export.update import update_items

    figures = update_items(args.bundle, args.items, args.out, delete=args.delete, link=args.link)
    show(f"bundle in {args.out}", figures)


def _compact(args: Any) -> None:
    from interactrank_jax.export.compact import compact

    show(f"bundle in {args.out}", compact(args.bundle, args.out, link=args.link))


def _score(args: Any) -> None:
    if args.bundle:
        _score_requests(args)
        return
    from interactrank_jax.examples.format import Examples
    from interactrank_jax.ranking.score import score

    check_registers_only(args)
    for flag in WITH_BUNDLE:
        if getattr(args, flag) != COMMANDS["score"].flags[flag][0]:
            raise InputError(f"--{flag} goes with --bundle: name one, or leave it out.")
    for flag in ("workdir", "index", "examples"):
        if not getattr(args, flag):
            raise InputError(
                f"missing --{flag}. Expected --bundle and --requests, to rank new requests; or "
                f"--workdir, --index and --examples, to rank those of a split."
            )
    summary = score(
        args.workdir,
        args.index,
        args.examples,
        args.out,
        split=args.split,
        k=args.k,
        candidates=args.candidates or "slate",
    )
    protocol = Examples(args.examples).metadata.protocol_in_words
    show(f"scores in {args.out}/scores.parquet", {**summary, "protocol": protocol})


def _score_requests(args: Any) -> None:
    for flag in ("workdir", "index", "examples", "config"):
        if getattr(args, flag):
            raise InputError(f"--{flag} beside --bundle, which holds all it needs: leave it out.")
    if not args.requests:
        raise InputError("missing --requests: Parquet file or directory of the requests to rank.")
    named: dict[str, Any] = {
        "candidates": outputs.from_user(args.candidates, "--candidates"),
        "events": args.events,
        "k": args.k,
        "verify": bool(args.verify),
    }
    scanned = {"scan": args.scan or "float32", "recall": args.recall}
    score_requests: Callable[..., dict[str, Any]]
    if args.engine:
        from interactrank_jax.export.spark import MEMORY, score_requests

        if args.engine != "spark":
            raise InputError(f"--engine={args.engine}. Expected spark, or none: this process.")
        if args.log_features:
            raise InputError("--log_features does not go with --engine=spark: leave one out.")
        named |= {**scanned, "memory": args.memory or MEMORY, "master": args.master}
    else:
        from interactrank_jax.ranking.ranker import Ranker
        from interactrank_jax.ranking.requests import score_requests

        for flag in ("master", "memory"):
            if value := getattr(args, flag):
                raise InputError(f"--{flag}={value} is for --engine=spark: leave it out.")
        named["log_features"] = bool(args.log_features)
        named["open_ranker"] = functools.partial(Ranker, **scanned)
    summary = score_requests(args.bundle, args.requests, args.out, **named)
    show(f"scores in {args.out}/scores.parquet", summary)


def _replay(args: Any) -> None:
    from interactrank_jax.export import replay

    check_registers_only(args)
    if args.json:
        outputs.check_output_file(args.json, "--json")
    differences = replay.replay(
        args.bundle,
        args.log,
        args.workdir,
        progress=lambda phase: print(f"{phase} ...", flush=True),
    )
    print(replay.table(differences))
    if args.json:
        replay.write(differences, args.json)
    different = [name for name, one in differences.items() if one.equal < one.rows]
    if different:
        raise InputError(
            f"served and rebuilt differ in {', '.join(different)}: this model would rank with "
            f"other features than it was trained on."
        )


# What `score` takes beside a bundle alone.
WITH_BUNDLE = (
    "requests",
    "events",
    "log_features",
    "verify",
    "scan",
    "recall",
    "engine",
    "memory",
    "master",
)
BUNDLE = (REQUIRED, "directory that `export` wrote")
LINK = ("", "symbolic link to the output, made or replaced in one step once that is whole")

COMMANDS: dict[str, Command] = {
    "export": Command(
        _export,
        "writes a bundle: all that ranks requests nobody has seen, for a day.",
        "interactrank export --workdir=runs/interactrank --state=runs/examples/state "
        "--out=runs/bundle",
        {
            "workdir": WORKDIR,
            "state": (REQUIRED, "STATE of the log, of `state build` or in the examples"),
            "out": (REQUIRED, "new directory"),
            "as_of": ("", "day of the requests, as 2024-05-31; else the first that STATE lacks"),
            "items": ("", "Parquet file or directory of items beyond those of the log"),
            "onnx": (1, "whether ONNX is written, for readers without jax: 1 or 0"),
            "vectors": ("", "parquet or npy: folded vectors of a dot model, for a vector index"),
            "memory": ("4GB", "what the engine may hold in memory; the rest goes to disk"),
        },
        config=False,
        config_help=REGISTERS,
        on_devices=True,
        registers=True,
    ),
    "index update": Command(
        _update,
        "adds, changes and deletes items of a bundle, at what those items cost.",
        "interactrank index update --bundle=runs/bundle --items=runs/new.parquet --out=runs/next",
        {
            "bundle": BUNDLE,
            "items": ("", "Parquet file or directory: item_id and item features"),
            "delete": ("", "Parquet file or directory: item_id of items to delete"),
            "out": (REQUIRED, "new directory, which shares with the bundle what is the same"),
            "link": LINK,
        },
        on_devices=True,
    ),
    "index compact": Command(
        _compact,
        "writes the arrays of a bundle anew, with what updates changed of them.",
        "interactrank index compact --bundle=runs/next --out=runs/compact",
        {"bundle": BUNDLE, "out": (REQUIRED, "new directory"), "link": LINK},
        on_devices=True,
    ),
    "score": Command(
        _score,
        "ranks new requests by a bundle, or those of a split by a run and its index.",
        "interactrank score --bundle=runs/bundle --requests=runs/requests.parquet "
        "--candidates=runs/candidates.parquet --out=runs/scores",
        {
            "bundle": ("", "directory that `export` wrote"),
            "requests": ("", "with --bundle: Parquet file or directory of raw requests"),
            "candidates": (
                "",
                "with --bundle: Parquet file or directory of request_id and item_id, else the "
                "whole corpus; without: slate (of the log, the default) or corpus",
            ),
            "events": ("", "with --bundle: Parquet of what users did since its day began"),
            "verify": (0, "with --bundle: 1 compares all its files and ranks its golden requests"),
            "log_features": (0, "with --bundle: 1 writes what scores were made of"),
            "scan": (
                "",
                "with --bundle: vectors of the corpus are scanned in float32, else "
                "bfloat16 or int8, a half and a quarter of the memory",
            ),
            "recall": (1.0, "with --bundle: share of the best k that a TPU must find"),
            "engine": ("", "with --bundle: spark ranks on Spark's workers; else this process"),
            "memory": ("", "with --engine: what Spark's driver may hold in memory, else 4GB"),
            "master": ("", ENGINE_FLAGS["master"][1]),
            "workdir": ("", "instead, run directory"),
            "index": ("", "directory that `index` wrote"),
            "examples": ("", "directory that `prepare` wrote"),
            "split": ("test", "whose requests"),
            "out": (REQUIRED, "new directory"),
            "k": (500, "items kept per request"),
        },
        config=False,
        config_help=REGISTERS,
        on_devices=True,
        registers=True,
    ),
    "replay": Command(
        _replay,
        "compares what a bundle serves on its day with what the log tells of it afterwards.",
        "interactrank replay --bundle=runs/bundle --log=runs/log",
        {
            "bundle": BUNDLE,
            "log": LOG,
            "workdir": ("", "run of the bundle, for the scores of its evaluation"),
            "json": ("", "file for the figures"),
        },
        config=False,
        config_help=REGISTERS,
        on_devices=True,
        registers=True,
    ),
}
