"""The subcommand of the daily loop: see `interactrank_jax/cli/commands.py`."""

from typing import Any

from interactrank_jax.cli.command import CONFIG, LOG, REQUIRED, Command, show
from interactrank_jax.cli.state import ENGINE_FLAGS
from interactrank_jax.io.errors import InputError


def _daily(args: Any) -> None:
    from interactrank_jax.daily import daily
    from interactrank_jax.daily.plan import Bounds, Windows
    from interactrank_jax.daily.root import REFUSED, Root
    from interactrank_jax.daily.steps import Words
    from interactrank_jax.models.registry import MODELS

    model = MODELS.get(args.config.model.name)
    memory = (f"--memory={args.memory}",) if args.memory else ()
    given = {"engine": args.engine, "master": args.master}
    engine = tuple(f"--{name}={value}" for name, value in given.items() if value)
    line = daily.run_day(
        args.config,
        Words(
            config=(f"--config={args.config_file}", *args.config_arguments),
            registers=() if model is None or model.is_ours else (f"--config={model.file}",),
            log=args.log,
            engine=(*engine, *memory),
            memory=memory,
            onnx=bool(args.onnx),
        ),
        Root(args.root),
        day=args.day,
        windows=Windows(args.window, args.first_window),
        bounds=Bounds(args.max_fall, args.max_psi, args.max_null_rate, args.max_staleness),
        keep=args.keep,
        show=lambda text: print(text, flush=True),
    )
    show(f"{line['day']} {line['outcome']} in {args.root}", daily.describe(line))
    if line["outcome"] == REFUSED:
        raise InputError(
            f"{line['day']} is not published, {args.root}/current stays as it is: "
            + "; ".join(line["reasons"])
        )


COMMANDS: dict[str, Command] = {
    "daily": Command(
        _daily,
        "takes a log's new day: evaluates, trains, checks and publishes; can be run again.",
        f"interactrank daily {CONFIG} --log=runs/log --root=runs/daily",
        {
            "log": LOG,
            "root": (REQUIRED, "directory of the loop, new or to go on with"),
            "day": ("", "day to run, one that is over; else the newest that has a later one"),
            "window": (7, "days of requests to train on, the newest included"),
            "first_window": (0, "the same of a model trained from scratch; 0: all of the log"),
            "keep": (7, "versions to keep, the newest"),
            "max_fall": (0.01, "bound of how much worse config.train.select_by may be than before"),
            "max_psi": (0.25, "bound of a feature's population stability index"),
            "max_null_rate": (0.1, "bound of the change of a feature's share of zeros"),
            "max_staleness": (
                7,
                "bound of the days from what features know of to the last request",
            ),
            "onnx": (1, "whether bundles have ONNX: 1 or 0"),
            "engine": ("", "of the steps that read the log: duckdb, the default, or spark"),
            "memory": ("", "what the engine may hold in memory; else what each step says"),
            "master": ("", ENGINE_FLAGS["master"][1]),
        },
        config=True,
    ),
}
