"""The commands that make a log: `simulate` and `convert`."""

import importlib
from typing import Any

from interactrank_jax.cli.command import REQUIRED, Command, show
from interactrank_jax.io.errors import InputError, did_you_mean

# Names of modules of `log/adapters`.
FORMATS = ("ratings", "movielens", "recflow", "kuaisearch", "open_bandit")


def _simulate(args: Any) -> None:
    from interactrank_jax.log.simulator.simulate import simulate

    fields = _simulator_fields({flag: getattr(args, flag) for flag in _SIMULATOR_FLAGS})
    summary = simulate(
        args.preset, args.seed, args.out, args.variant, judgments=args.judgments, **fields
    )
    show(f"log in {args.out}", summary)


def _simulator_fields(texts: dict[str, str]) -> dict[str, Any]:
    """Returns the fields of the simulator that flags give; the others are the preset's."""
    from interactrank_jax.log.simulator.presets import SimulatorConfig

    result: dict[str, Any] = {}
    for flag, text in texts.items():
        kind = type(getattr(SimulatorConfig, flag))
        words: dict[str, Any] = {"true": True, "false": False}
        try:
            if text:
                result[flag] = words[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError) as error:
            expected = {bool: "true or false", int: "an integer", float: "a number"}[kind]
            raise InputError(f"--{flag}={text}. Expected {expected}.") from error
    return result


def _convert(args: Any) -> None:
    if args.format not in FORMATS:
        raise InputError(f"--format={args.format}." + did_you_mean(args.format, FORMATS))
    if args.format == "ratings":
        from interactrank_jax.log.adapters import ratings

        summary = ratings.convert(args.source, args.out, _rating_options(args), report=print)
    else:
        for flag, (default, _) in _RATING_FLAGS.items():
            if getattr(args, flag) != default:
                raise InputError(f"--{flag} is for --format=ratings only: leave it out.")
        adapter = importlib.import_module(f"interactrank_jax.log.adapters.{args.format}")
        summary = adapter.convert(args.source, args.out)
    show(f"log in {args.out}", summary)


def _rating_options(args: Any) -> Any:
    from interactrank_jax.log.adapters.ratings import Options
    from interactrank_jax.log.negatives import SampledNegatives

    if args.seed and not args.negatives:
        raise InputError("--seed is of --negatives: give both, or leave it out.")
    try:
        neutral = float(args.neutral) if args.neutral else None
    except ValueError as error:
        raise InputError(f"--neutral={args.neutral}. Expected a number, such as 3.") from error
    names = {
        flag: tuple(filter(None, getattr(args, flag).split(",")))
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
        schema=args.schema,
        created=args.created,
        negatives=SampledNegatives.parse(args.negatives, args.seed) if args.negatives else None,
        **names,
    )


_SIMULATOR_FLAGS: dict[str, tuple[Any, str]] = {
    "slate": ("", "candidates per request; the preset's 10 if not given"),
    "trend": ("", "how strongly items rise and fall, in log-odds, such as 1; if not given, not"),
    "trend_half_life_days": ("", "when such a trend is half forgotten; 14 if not given"),
    "turnover": ("", "share of the catalogue that is replaced in half a year; if not given, none"),
    "engaged_share": ("", "share of candidates engaged with; about .15 if not given"),
    "positives_only": ("", "true: only what users engaged with is logged"),
}

_RATING_FLAGS: dict[str, tuple[Any, str]] = {
    "user": ("user_id", "ratings: column of user ids, in users.* too"),
    "item": ("item_id", "ratings: column of item ids, in items.* too"),
    "rating": ("rating", "ratings: column of labels or ratings; --rating=: all are successes"),
    "time": ("", "ratings: column of times, in UTC seconds or ISO 8601; none: no time"),
    "threshold": (0.0, "ratings: a rating above it is a success"),
    "neutral": ("", "ratings: a rating that is neither success nor failure"),
    "separator": ("", "ratings: between columns; found by itself if not given"),
    "columns": ("", "ratings: names of the columns, A,B,C, if the file has no header"),
    "text": ("", "ratings: columns A,B of users.* and items.* that are text"),
    "categorical": ("", "ratings: numbers there that are categories"),
    "ignore": ("", "ratings: columns there that are no features"),
    "query": ("", "ratings: categorical features of users that stand for the query"),
    "schema": ("", "ratings: JSON file of the features' kinds; written if it does not exist"),
    "created": ("", "ratings: column of items.* that says when each came to be"),
    "negatives": (
        "",
        "ratings: uniform:N or popularity:N, sampled for each success, where rows are successes",
    ),
    "seed": (0, "ratings: of --negatives"),
}

COMMANDS: dict[str, Command] = {
    "simulate": Command(
        _simulate,
        "simulates a search log with a known truth.",
        "interactrank simulate --preset=small --seed=0 --out=runs/log",
        {
            "preset": ("small", "size: tiny, small, medium or large"),
            "variant": (
                "",
                "of the log, A,B: drift, turnover, positives, labels_1, labels_50, slate_3, "
                "slate_300",
            ),
            "judgments": (
                "",
                "directory of the Home Depot product-search judgments: its queries, products and "
                "relevance in place of simulated ones",
            ),
            "seed": (0, "the same seed gives the same bytes"),
            "out": (REQUIRED, "new directory for the log"),
            **_SIMULATOR_FLAGS,
        },
    ),
    "convert": Command(
        _convert,
        "converts a data set of ratings or clicks, or a published log, to a log.",
        "interactrank convert --format=movielens --source=ml-100k --out=runs/log",
        {
            "format": (
                REQUIRED,
                "movielens, recflow, kuaisearch, open_bandit, or ratings: any table of user, item "
                "and label",
            ),
            "source": (REQUIRED, "directory or archive of the data set, as its owner packs it"),
            "out": (REQUIRED, "new directory for the log"),
            **_RATING_FLAGS,
        },
    ),
}
