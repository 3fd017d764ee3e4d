r"""Every model on one data set under one protocol: chosen on validation, tested once, one table.

    python -m experiments.public_datasets --dataset=movielens_1m --protocol=clean_random \
        --source=../shared/data/ml-1m --out=runs/public --parallel=2 \
        --json=experiments/results/public_datasets.json

What is done is kept when the command is given again: the log (converted, or simulated), the
examples (once per distinct `config.data`), every training and every test. A model's row is merged
into OUT/DATASET/PROTOCOL/public_datasets.json, and into the file that `--json` names, as soon as it
is through. The table and the figure come at the end, beside that file.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import comparison, contenders, search, trials
from experiments.benchmarks import reporting
from experiments.command_line import count, exit_status, positive
from experiments.logs import make_log
from interactrank_jax.config import configuration
from interactrank_jax.examples.format import Examples, describe_protocol
from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError, did_you_mean

# (data set, protocol) -> argument of the configs.
ARGUMENTS = {
    ("search", "clean_time"): "search",
    ("movielens_100k", "clean_random"): "movielens_100k_random",
    ("movielens_100k", "clean_time"): "movielens_100k",
    ("movielens_1m", "clean_random"): "movielens_1m",
    ("movielens_1m", "published"): "movielens_1m_published",
}
_MOVIELENS = (
    "Label: a rating above 3; ratings of 3 are left out. The query of the cross features is the "
    "user's gender and age group."
)
DATASETS = {
    "search": "A simulated search log; the query is what the user typed.",
    "movielens_100k": _MOVIELENS,
    "movielens_1m": _MOVIELENS,
}
PROTOCOLS = {
    "clean_random": "Rows 8:1:1 at random; features from the training split, out of fold.",
    "clean_time": "Rows 8:1:1 by time; every feature as of its request.",
    "published": "THIS PROTOCOL LEAKS THE LABEL: features hold means of labels, those of the test "
    "rows included. It is here for comparison with published figures that leak alike; none of its "
    "figures says how good a model is.",
}
# Of the published protocol on MovieLens-1M: IntTower (CIKM 2022, arXiv 2210.09890), Table 2.
PUBLISHED = {
    "lr": (0.8501, 0.4845),
    "two_tower": (0.8697, 0.4559),
    "dat": (0.8712, 0.4556),
    "cold": (0.8836, 0.3297),
    "wide_deep": (0.8820, 0.3344),
    "deepfm": (0.8920, 0.3211),
    "autoint": (0.8948, 0.3192),
    "inttower": (0.8974, 0.3128),
}
PUBLISHED_MODELS = ("two_tower", "dat", "inttower", "cold", "fit", "interactfit")
RESULTS = "public_datasets.json"


def compare(
    names: tuple[str, str],
    models: Sequence[str],
    setting: contenders.Setting,
    results: Sequence[Path],
    preset: str | None = None,
    part: str | None = None,
) -> tuple[list[comparison.Row], dict[str, str]]:
    """Runs the contenders; merges each row into the results files when it is there.

    Args:
      names: data set and protocol.
      models: to compare; two-tower is the base and always among them.
      setting: what they are run with.
      results: files.
      preset: size of the simulated log, None of another log.
      part: of the data set, if it comes in several that rows must not mix.

    Returns:
      (rows in the order of `models`, by name why a model has none).
    """
    rows: dict[str, comparison.Row] = {}
    failed: dict[str, str] = {}
    done: dict[str, list[comparison.Scored]] = {}
    is_timed = names[1] == "clean_time"
    for model in sorted(models, key=lambda model: model != comparison.BASE):
        print(f"\n{model}", flush=True)
        try:
            tested, further = contenders.run(model, setting)
        except InputError as error:
            if model == comparison.BASE:
                raise
            print(error, flush=True)
            failed[model] = str(error)
            continue
        done[model] = tested
        base = done[comparison.BASE]
        if model == comparison.BASE:
            data = configuration.load(setting.spec(model)).data
            raw = Examples(setting.examples(data)).raw_requests("test")
            users = np.unique(raw["user_id"].to_numpy(), return_inverse=True)[1]
            user = users[base[0].request_index]
        published = PUBLISHED.get(model) if names == ("movielens_1m", "published") else None
        auc, logloss = published or (None, None)
        rows[model] = comparison.make_row(
            (*names, model),
            tested,
            None if model == comparison.BASE else base,
            user,
            base[0].request_index if is_timed else user,
            grouped_metric="request AUC" if is_timed else "per-user AUC",
            rivals={
                rival: done[rival] for rival in comparison.RIVALS.get(model, ()) if rival in done
            },
            published_auc=auc,
            published_logloss=logloss,
            leaks=names[1] == "published",
            preset=preset,
            overrides=dict(setting.common),  # of every training; `chosen` come on top
            **reporting.provenance(),
            **further,
            **({} if part is None else {comparison.PART: part}),
        )
        for path in results:
            comparison.merge(path, [rows[model]])
    return [rows[model] for model in models if model in rows], failed


def report(
    names: tuple[str, str],
    rows: Sequence[comparison.Row],
    failed: dict[str, str],
    setting: contenders.Setting,
) -> str:
    """Returns the table with what has to be said about it."""
    dataset, protocol = names
    lines = [f"### {dataset}, {protocol}", "", PROTOCOLS[protocol], DATASETS[dataset]]
    lines += ["", comparison.table(rows), ""]
    lines += [f"- {line}." for line in comparison.versus(rows)]
    lines += [f"- {row['model']}: {row['note']}." for row in rows if row["note"]]
    lines += [f"- {model} has no row: {error}" for model, error in failed.items()]
    lines += [
        "- ± is the standard deviation over seeds, which lines fitted without a seed have none of. "
        "The interval is of the mean difference over seeds: users resampled with all their rows, "
        f"the same for both models, and seeds; {comparison.REPLICATES} times.",
        f"- {search.describe(setting.limit, setting.stages)}",
        *([f"- Every training with {trials.describe(setting.common)}."] if setting.common else []),
        f"- Training examples (candidates) per second: {setting.parallel} at once on "
        f"{os.cpu_count()} CPU cores.",
    ]
    chosen = [row for row in rows if row["chosen"]]
    lines += [f"- chosen for {r['model']}: {trials.describe(r['chosen'])}" for r in chosen]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument("--protocol", required=True, choices=PROTOCOLS)
    parser.add_argument("--source", type=Path, help="directory of the data set; none for search")
    parser.add_argument("--preset", default="medium", help="size of the simulated log")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="results file to merge the rows into as well")
    parser.add_argument("--models", nargs="+", help="default: all, or those of the published table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--trials", type=count, default=search.TRIALS, help="per model, at most")
    parser.add_argument(
        "--search", nargs="+", help="fields, such as loss.softmax_weight; default: all"
    )
    parser.add_argument("--parallel", type=count, default=1, help="trainings at once")
    parser.add_argument(
        "--budget_s", type=positive, default=math.inf, help="per model, for all its trainings"
    )
    parser.add_argument(
        "--epochs", type=positive, help="of every training, in place of what its config says"
    )
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that it runs")
    arguments = parser.parse_args(argv)
    return exit_status("public_datasets", lambda: _main(arguments))


def choose_models(asked: Sequence[str] | None, protocol: str) -> list[str]:
    """Returns the models to compare in the order of the table, two-tower among them.

    Raises:
      InputError: an unknown one.
    """
    if not asked:
        published = (*contenders.REFERENCE_LINES, *PUBLISHED_MODELS)
        asked = published if protocol == "published" else contenders.MODELS
    for model in asked:
        if model not in contenders.MODELS:
            raise InputError(f"--models={model}." + did_you_mean(model, contenders.MODELS))
    return [m for m in contenders.MODELS if m in asked or m == comparison.BASE]


def _main(arguments: argparse.Namespace) -> int:
    comparison.refuse_quick(arguments.quick, arguments.json)
    names = arguments.dataset, arguments.protocol
    if names not in ARGUMENTS:
        known = [protocol for dataset, protocol in ARGUMENTS if dataset == arguments.dataset]
        raise InputError(
            f"{arguments.dataset} cannot be split by --protocol={arguments.protocol}, only by: "
            f"{', '.join(known)}."
        )
    models = choose_models(arguments.models, arguments.protocol)
    stages = search.choose(arguments.search) if arguments.search else search.SPACE
    root = arguments.out / arguments.dataset
    quick = arguments.quick
    if quick:
        trials.compile_quickly()
    size = "tiny" if quick else arguments.preset
    preset = size if arguments.dataset == "search" else None
    parts = [arguments.protocol, *([preset] if preset else [])]
    out = root / "-".join([*parts, *(["quick"] if quick else [])])
    common: dict[str, Any] = dict(trials.QUICK) if quick else {}
    if arguments.epochs:
        common["train.epochs"] = arguments.epochs
    with outputs.lock(out):
        setting = contenders.Setting(
            argument=ARGUMENTS[names],
            log=make_log(arguments.dataset, arguments.source, size, root),
            out=out,
            seeds=tuple(arguments.seeds[:2] if quick else arguments.seeds),
            limit=min(arguments.trials, 2) if quick else arguments.trials,
            parallel=arguments.parallel,
            budget_s=arguments.budget_s,
            common=common,
            stages=stages,
        )
        for model in models:
            if model not in contenders.UNTRAINED:
                configuration.load(setting.spec(model))  # before hours are spent on the others
        results = [out / RESULTS, *([arguments.json] if arguments.json else [])]
        rows, failed = compare(names, models, setting, results, preset)
        text = report(names, rows, failed, setting)
        print(f"\n{text}\n")
        with outputs.new_file(out / "table.md") as partial:
            partial.write_text(text + "\n", encoding="utf-8")
        title = f"{arguments.dataset}, {describe_protocol(arguments.protocol)}"
        comparison.draw(rows, title, out / "figure.png")
        configs = {
            model: configuration.to_json(configuration.load(setting.spec(model)))
            for model in models
            if model not in contenders.UNTRAINED
        }
        files.write_json(
            out / "summary.json",
            {
                "options": {key: str(value) for key, value in vars(arguments).items()},
                **reporting.provenance(),
                "configs": configs,
                "failed": failed,
                "rows": rows,
            },
        )
    for name in ("table.md", "figure.png", "summary.json", RESULTS):
        print(out / name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
