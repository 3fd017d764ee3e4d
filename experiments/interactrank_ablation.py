r"""What each part of InteractRank is worth: the whole, then one part less (`ablation.py`).

    python -m experiments.interactrank_ablation --preset=small --parallel=2 --out=runs/ablation

On the simulated log, with the config as it stands. A part that is taken out of the counts changes
the examples, never their rows, so that differences stay paired. What is done is kept. No figure of
the paper's offline tables is known to us, so none stands beside ours.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import ablation, simulated
from experiments.ablation import Change
from experiments.command_line import exit_status
from interactrank_jax.config import configuration

MODEL = "interactrank"
COUNTS, SEQUENCES, TOWERS, LOSS, LABEL = "counts", "sequences", "towers", "loss", "label"
GROUPS = (COUNTS, SEQUENCES, TOWERS, LOSS, LABEL)
FEATURES = "data.cross.features"
UNSEGMENTED = "unsegmented"

PARTS = (
    Change("no user history", {"model.sequence.history": "none"}, SEQUENCES),
    Change("no query history", {"model.sequence.query_history": "none"}, SEQUENCES),
    Change("no weighted pooling", {"model.sequence.weighted_pooling": False}, SEQUENCES),
    Change("no query attention", {"model.sequence.query_attention": False}, SEQUENCES),
    Change("no age of events", {"model.sequence.age_buckets": 0}, SEQUENCES),
    Change("no action of events", {"model.sequence.action": False}, SEQUENCES),
    Change("no MaskNet", {"model.tower.masknet.blocks": 0}, TOWERS),
    Change("no sampled softmax", {"train.loss.softmax_weight": 0.0}, LOSS),
    Change("no logQ", {"train.loss.log_q": "none"}, LOSS),
    # At the paper's weight of .01 the correction can hardly matter: here ten times as much.
    Change("softmax weight .1", {"train.loss.softmax_weight": 0.1}, LOSS),
    Change(
        "softmax weight .1, no logQ",
        {"train.loss.softmax_weight": 0.1, "train.loss.log_q": "none"},
        LOSS,
        base="softmax weight .1",
    ),
    Change(
        "all rows weigh the same",
        # The heads keep the weights that the label's would give them.
        {
            "label.weights": (),
            "label.impression_weight": 1.0,
            "train.loss.head_weights": (20.0, 7.0, 20.0),
        },
        LABEL,
    ),
    Change("one head, engagement", {"label.heads": ("engaged",), "label.utility": (1.0,)}, LABEL),
)
QUICK = ("window of 30 days less",)
QUICK_MODEL = {"model.tower.masknet.blocks": 1}  # four take long to compile


def without_counts(features: Sequence[str]) -> tuple[Change, ...]:
    """Returns a change for every action, window and segment of the cross features, and for all.

    Args:
      features: 'kind:action:window_days[:segment]'.
    """
    parts = [(*feature.split(":"), UNSEGMENTED)[:4] for feature in features]
    changes = [Change("no ItemQueryPerf", {FEATURES: ()}, COUNTS)]
    for position, title in ((2, "window of {} days less"), (1, "action {} less"), (3, "{} less")):
        for value in dict.fromkeys(part[position] for part in parts):
            kept = tuple(
                feature
                for feature, part in zip(features, parts, strict=True)
                if part[position] != value
            )
            if kept:  # else it is all of them
                changes.append(Change(title.format(value), {FEATURES: kept}, COUNTS))
    return tuple(changes)


def changes(config: Any) -> tuple[Change, ...]:
    """Returns every change of InteractRank's config."""
    return (*without_counts(tuple(config.data.cross.features)), *PARTS)


def table(content: Mapping[str, Any]) -> str:
    """Returns the Markdown table of what the experiment wrote."""
    return ablation.table(content["rows"])


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment."""
    parser = simulated.parser(__doc__)
    ablation.add_groups(parser, GROUPS)
    arguments = parser.parse_args(argv)
    ablation.shorten(arguments, QUICK)
    rows: list[ablation.Row] = []

    def make() -> tuple[str, dict[str, Any]]:
        setting = simulated.setting(arguments)
        if arguments.quick:
            setting = dataclasses.replace(setting, common={**setting.common, **QUICK_MODEL})
        possible = changes(configuration.load(setting.spec(MODEL)))
        wanted = ablation.selected(possible, arguments)
        trained = ablation.measure(setting, MODEL, wanted, "search")
        rows.extend(one.row for one in trained)
        content = {"rows": rows}
        return table(content), content

    def work() -> int:
        published = simulated.publish(arguments, "interactrank_ablation", make)
        return ablation.status(published, rows)

    return exit_status("interactrank_ablation", work)


if __name__ == "__main__":
    sys.exit(main())
