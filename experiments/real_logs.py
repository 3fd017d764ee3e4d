r"""Published logs from the download to a table: converted, prepared, trained, tested.

    python -m experiments.real_logs --dataset=recflow --source=RecFlow --out=runs/real_logs

RecFlow, KuaiSearch and the Open Bandit Dataset by their adapters (`interactrank_jax/log/adapters`),
and the Home Depot judgments with simulated users (`log/simulator/judged.py`). Models train with
their configs as they stand, nothing is searched, and are tested once per seed. The same by hand
are four commands, in docs/data.md. What is done is kept when the command is given again; each row
is merged into OUT/DATASET/real_logs.json, the table and the figure come at the end. Open Bandit has
a directory for each policy and campaign, OUT/open_bandit/random-all, and rows name it as `part`.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import comparison, contenders, public_datasets, trials
from experiments.benchmarks import reporting
from experiments.command_line import count, exit_status, positive
from experiments.logs import HOMEDEPOT, make_log
from interactrank_jax.config import configuration
from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError, did_you_mean

PROTOCOL = "clean_time"
# Data set -> argument of the configs, and what readers of its table have to know.
DATASETS = {
    "recflow": (
        "recflow",
        "Label: an effective view of an exposed video. Videos that were not exposed are candidates "
        "without any action and weigh nothing as negatives in training; ROC-AUC is over all "
        "candidates, so it also says who gets past the funnel.",
    ),
    "kuaisearch": (
        "kuaisearch",
        "Label: clicked or bought. Times are the owners' index read as seconds: their order is "
        "true, days are nominal.",
    ),
    "open_bandit": (
        "open_bandit",
        "Label: a click. One candidate per request and no users: metrics over all rows only.",
    ),
    HOMEDEPOT: (
        "search",
        "Real queries, products and relevance judgments; users and clicks are simulated.",
    ),
}
MODELS = ("two_tower", "interactrank", "interactfit")
RESULTS = "real_logs.json"


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument("--source", type=Path, required=True, help="directory of the download")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="medium", help="homedepot: how much is simulated")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parallel", type=count, default=1, help="trainings at once")
    parser.add_argument("--epochs", type=positive, help="in place of what the config says")
    parser.add_argument("--json", type=Path, help="results file to merge the rows into as well")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that it runs")
    arguments = parser.parse_args(argv)
    return exit_status("real_logs", lambda: _main(arguments))


def _models(asked: Sequence[str]) -> list[str]:
    for model in asked:
        if model not in contenders.MODELS:
            raise InputError(f"--models={model}." + did_you_mean(model, contenders.MODELS))
    return [m for m in contenders.MODELS if m in asked or m == comparison.BASE]


def _part(dataset: str, source: Path) -> str | None:
    """Returns what a row names a part of a data set by: policy and campaign, the folders' names."""
    if dataset != "open_bandit":
        return None
    campaign = source.resolve()
    return f"{campaign.parent.name}-{campaign.name}"


def _main(arguments: argparse.Namespace) -> int:
    comparison.refuse_quick(arguments.quick, arguments.json)
    models = _models(arguments.models)
    argument, remark = DATASETS[arguments.dataset]
    size = "tiny" if arguments.quick else arguments.preset
    common: dict[str, Any] = {}
    if arguments.quick:
        trials.compile_quickly()
        common |= trials.QUICK
    if arguments.epochs:
        common["train.epochs"] = arguments.epochs
    part = _part(arguments.dataset, arguments.source)
    root = arguments.out / arguments.dataset / (part or "")
    out = root / "quick" if arguments.quick else root
    with outputs.lock(out):
        setting = contenders.Setting(
            argument=argument,
            log=make_log(arguments.dataset, arguments.source, size, root),
            out=out,
            seeds=tuple(arguments.seeds[:1] if arguments.quick else arguments.seeds),
            limit=1,
            parallel=arguments.parallel,
            budget_s=math.inf,
            common=common,
        )
        results = [out / RESULTS, *([arguments.json] if arguments.json else [])]
        preset = size if arguments.dataset == HOMEDEPOT else None
        names = arguments.dataset, PROTOCOL
        rows, failed = public_datasets.compare(names, models, setting, results, preset, part)
        _publish(arguments, setting, rows, failed, remark)
    return 1 if failed else 0


def _publish(
    arguments: argparse.Namespace,
    setting: contenders.Setting,
    rows: Sequence[comparison.Row],
    failed: dict[str, str],
    remark: str,
) -> None:
    """Prints the table; writes it, its figure and what it was made with."""
    part = _part(arguments.dataset, arguments.source)
    title = " ".join(filter(None, (arguments.dataset, part)))
    lines = [f"### {title}", "", public_datasets.PROTOCOLS[PROTOCOL], remark, ""]
    lines += [comparison.table(rows), "", *(f"- {line}." for line in comparison.versus(rows))]
    lines += [f"- {row['model']}: {row['note']}." for row in rows if row["note"]]
    lines += [f"- {model} has no row: {error}" for model, error in failed.items()]
    lines += ["- Configs as they stand: nothing was searched. ± is the deviation over seeds."]
    text = "\n".join(lines)
    print(f"\n{text}\n")
    with outputs.new_file(setting.out / "table.md") as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    comparison.draw(rows, title, setting.out / "figure.png")
    trained = [row["model"] for row in rows if row["model"] not in contenders.UNTRAINED]
    configs = {
        model: configuration.to_json(configuration.load(setting.spec(model))) for model in trained
    }
    summary = {
        "options": {key: str(value) for key, value in vars(arguments).items()},
        "versions": reporting.versions("jax", "jaxlib", "flax", "numpy", "scikit-learn"),
        "configs": configs,
        "failed": failed,
        "rows": list(rows),
    }
    files.write_json(setting.out / "summary.json", summary)
    for name in ("table.md", "figure.png", "summary.json", RESULTS):
        print(setting.out / name)


if __name__ == "__main__":
    sys.exit(main())
