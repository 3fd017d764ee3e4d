r"""Pre-rankers that learn from what they showed themselves: the online test, day after day.

    python -m experiments.closed_loop --preset=small --out=runs/closed_loop

A simulated log grows by a day at a time. At first its own policy makes the slates; then every arm
ranks what the simulator retrieves for the day's searches, the same for all, and shows its ten best.
Users act by the truth. That is the arm's log of the day, which `interactrank daily` counts and
trains on; it publishes the bundle that ranks the next day.

    policy                  the simulator's own: lexical match and popularity, drawn with noise
    two_tower, interactrank each learns from its own slates
    interactrank_explores   the last row of each slate is a random one of the other candidates
    interactrank_observes   ranks as well, but learns from the policy's slates, not from its own
    oracle                  ranks by the truth

An arm is worth the expected fulfilment of what it shows (`log/simulator/searches.py`). An item is
new for its first 14 days. What is done is kept.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from experiments import contenders, funnel, lifts, simulated, trials
from experiments.command_line import count, exit_status
from experiments.worlds import Simulation
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.simulator.searches import expected_fulfilment
from interactrank_jax.log.simulator.simulate import Slates, lived_through, simulate
from interactrank_jax.log.simulator.tables import write_part
from interactrank_jax.log.simulator.world import DAY, START, stream
from interactrank_jax.ranking.ranker import Ranker

BEFORE, DAYS, SEARCHES = 30, 30, 600  # days of the policy alone, days of the loop, searches a day
WINDOW = 7  # days that a model is trained on, from the second of the loop on
NEW_DAYS = 14
MOST_SHOWN = 0.01  # of all items: what share of the rows is theirs
PART = 10  # days of the loop's beginning and end


@dataclasses.dataclass(frozen=True)
class Arm:
    """A model, and how it is used.

    Attributes:
      model: name of its config.
      explores: whether the last row of its slates is random.
      observes: whether it learns from the policy's slates.
    """

    model: str
    explores: bool = False
    observes: bool = False


POLICY, ORACLE, TWO_TOWER = "policy", "oracle", "two_tower"
ARMS = {
    TWO_TOWER: Arm(TWO_TOWER),
    "interactrank": Arm("interactrank"),
    "interactrank_explores": Arm("interactrank", explores=True),
    "interactrank_observes": Arm("interactrank", observes=True),
}


def grow(log: Path, simulation: Simulation, days: int) -> None:
    """Gives a log the policy's parts of the first days, where it has none, and the items so far."""
    for name in ("requests", "impressions", "events"):
        (log / name).mkdir(parents=True, exist_ok=True)
        for part in sorted((simulation.log / name).iterdir())[:days]:
            if not (log / name / part.name).exists():
                with outputs.new_file(log / name / part.name) as partial:
                    partial.write_bytes(part.read_bytes())
    with outputs.new_file(log / "schema.json") as partial:
        partial.write_bytes((simulation.log / "schema.json").read_bytes())
    items = pq.read_table(simulation.log / "items")
    with outputs.new_file(log / "items.parquet") as partial:
        exists = pc.less(items["created_at"], START + days * DAY)
        pq.write_table(items.filter(exists), partial, store_schema=False)


def slates(
    searches: funnel.Searches, ranks: np.ndarray, explores: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns slates as positions in pools `[R, C]`, and their propensities `[R, C]`.

    Args:
      searches: with their pools.
      ranks: `[R, P]` of the arm.
      explores: whether the last row is drawn from all candidates that the others leave.
      rng: of these draws.
    """
    length = searches.world.config.slate
    position = np.argsort(ranks, axis=1, kind="stable")[:, :length]
    propensity = np.ones(position.shape, np.float32)
    if explores:
        rows = np.arange(len(ranks))
        others = searches.pool < searches.no_item
        np.put_along_axis(others, position[:, :-1], False, 1)
        drawn = np.where(others, rng.random(others.shape), -1).argmax(1)
        has_others = others[rows, drawn]
        position[:, -1] = np.where(has_others, drawn, position[:, -1])
        propensity[:, -1] = 1 / np.maximum(others.sum(1), 1)
    return position, propensity


def learn(arm: Arm, day: int, directory: Path, common: Mapping[str, Any]) -> Ranker:
    """Publishes the bundle of the day after the newest of an arm's log, and opens it.

    Args:
      arm: the arm.
      day: of the loop's searches, from 0 at the beginning of the log; the log ends the day before.
      directory: of the arm.
      common: fields of the config.
    """
    from interactrank_jax import cli
    from interactrank_jax.daily import daily
    from interactrank_jax.daily.plan import Bounds, Windows
    from interactrank_jax.daily.root import Root
    from interactrank_jax.daily.steps import Words
    from interactrank_jax.state.days import date

    overrides = [f"--config.{name}={value!r}" for name, value in common.items()]
    spec = f"{contenders.CONFIGS / arm.model}.py:search"
    words = Words((f"--config={spec}", *overrides), (), str(directory / "log"), onnx=False)
    root = Root(directory / "daily")
    # What is compared here is what models do when all of them go on being published.
    everything = Bounds(fall=1.0, psi=1e6, null_rate=1.0, staleness=10_000)
    with (
        (directory / "daily.txt").open("a", encoding="utf-8") as said,
        contextlib.redirect_stdout(said),
    ):
        line = daily.run_day(
            *(trials.resolve(spec, common), words, root),
            day=date(START // DAY + day - 1),
            windows=Windows(WINDOW),
            bounds=everything,
            keep=1,
            execute=cli.main,
        )
    if line["outcome"] != "published":
        raise InputError(f"{root.path}: no model of {line['day']}: {line['reasons']}.")
    return Ranker((root.path / "current").resolve())


def live(
    name: str, simulation: Simulation, directory: Path, days: range, common: Mapping[str, Any]
) -> None:
    """Lets an arm rank the searches of some days, each after it learned from those before."""
    import jax

    arm, log = ARMS[name], directory / "log"
    for day in days:
        if (directory / f"{day}.npz").exists():
            continue
        # What was compiled on the days before lies in maps of memory, which a process has few of.
        jax.clear_caches()
        grow(log, simulation, day)
        ranker = learn(arm, day, directory, common)
        searches = simulation.searches(day)
        ranks, _ = funnel.ranks_by_model(searches, ranker)
        rng = stream(simulation.seed, f"exploration of {name}", day)
        position, propensity = slates(searches, ranks, arm.explores, rng)
        item, appeal = (
            np.take_along_axis(a, position, 1) for a in (searches.pool, searches.appeal)
        )
        shown = item < searches.no_item
        if not arm.observes:
            parts = sorted((log / "events").iterdir())[:day]
            tables, _ = lived_through(
                *(simulation.world, simulation.seed, simulation.names, day, searches.requests),
                Slates(np.where(shown, item, 0), shown, propensity),
                simulation.clicks(log, day),
                sum(pq.read_metadata(part).num_rows for part in parts),
            )
            del tables["truth/impressions"]
            write_part(log, day, tables)
        keep(directory / f"{day}.npz", searches, item, appeal)
        print(f"{name}, day {day - days.start + 1} of {len(days)}", flush=True)


def keep(file: Path, searches: funnel.Searches, item: np.ndarray, appeal: np.ndarray) -> None:
    """Writes what was shown on a day."""
    shown = np.isfinite(appeal)
    age = searches.requests.time[:, None] - searches.world.items.created[np.where(shown, item, 0)]
    with outputs.new_file(file) as partial, partial.open("wb") as opened:
        np.savez(
            opened,
            user=searches.requests.user,
            fulfilment=expected_fulfilment(searches.world.config, appeal),
            counts=np.bincount(item[shown], minlength=searches.no_item),
            new=(shown & (age < NEW_DAYS * DAY)).sum(),
        )


def observe(simulation: Simulation, directory: Path, days: range) -> None:
    """Keeps what the policy and the oracle show."""
    for day in days:
        searches = simulation.searches(day)
        best = np.argsort(-searches.appeal, axis=1, kind="stable")
        best = best[:, : searches.world.config.slate]
        of_oracle = (np.take_along_axis(a, best, 1) for a in (searches.pool, searches.appeal))
        for name, shown in ((POLICY, simulation.shown_by_policy(day)), (ORACLE, tuple(of_oracle))):
            file = directory / name / f"{day}.npz"
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                keep(file, searches, *shown)


def summarise(directory: Path, names: Sequence[str], days: range) -> dict[str, Any]:
    """Returns what the arms showed: over all days, in the first and in the last."""
    kept = {name: [dict(np.load(directory / name / f"{d}.npz")) for d in days] for name in names}
    fulfilment = {name: [day["fulfilment"] for day in kept[name]] for name in names}
    spans = {
        "all": slice(None),
        "first": slice(None, PART),
        "last": slice(-PART, None),
    }
    outcome = lifts.Outcome(np.zeros(0), {}, {}, {}, 0.0)
    rows = []
    for name in names:
        row: dict[str, Any] = {"arm": name}
        for span, part in spans.items():
            expected = {arm: np.concatenate(fulfilment[arm][part]) for arm in names}
            user = np.concatenate([day["user"] for day in kept[name][part]])
            of_span = dataclasses.replace(outcome, user=user, expected={span: expected})
            row[f"fulfilment_{span}"] = float(expected[name].mean())
            row[f"lift_{span}"] = lifts.lift([of_span], name, TWO_TOWER, span)
        counts = sum(day["counts"] for day in kept[name])
        most = np.sort(counts)[::-1][: max(1, round(MOST_SHOWN * len(counts)))]
        row |= {
            "new": float(sum(day["new"] for day in kept[name]) / counts.sum()),
            "items": int((counts > 0).sum()),
            "most_shown": float(most.sum() / counts.sum()),
            "by_day": [float(day.mean()) for day in fulfilment[name]],
            "roc_auc": _progressive(directory / name / "daily" / "history.jsonl"),
        }
        rows.append(row)
    return {
        "rows": rows,
        "days": len(days),
        "days_before": days.start,
        "searches": sum(map(len, fulfilment[names[0]])),
    }


def _progressive(history: Path) -> list[float]:
    """Returns the ROC-AUC of each day, of the model that ranked it."""
    if not history.exists():
        return []
    lines = map(json.loads, history.read_text(encoding="utf-8").splitlines())
    return [line["progressive"]["metrics"]["roc_auc"] for line in lines if line["progressive"]]


def table(content: Mapping[str, Any]) -> str:
    """Returns Markdown: an arm a row."""
    part = min(PART, content["days"])
    lines = [
        f"{content['searches']:,} searches in {content['days']} days, after "
        f"{content['days_before']} of the policy alone. Fulfilment is expected; lifts are over "
        f"two-tower, with 95% intervals over users.",
        "",
        f"| arm | fulfilment | lift | days 1 to {part} | last {part} | rows of new items "
        f"| items shown | rows of the most shown {MOST_SHOWN:.0%} |",
        "|---" * 8 + "|",
    ]
    for row in content["rows"]:
        spans = [row[f"lift_{span}"] for span in ("all", "first", "last")]
        cells = [
            *(row["arm"], f"{row['fulfilment_all']:.4f}"),
            *(f"{mean:+.1%} [{low:+.1%}, {high:+.1%}]" for mean, low, high in spans),
            *(f"{row['new']:.1%}", f"{row['items']:,}", f"{row['most_shown']:.1%}"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(content: Mapping[str, Any], directory: Path) -> list[Path]:
    """Saves the figure: fulfilment by day, an arm a curve; returns its path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for row in content["rows"]:
        axes.plot(range(1, content["days"] + 1), row["by_day"], label=row["arm"])
    axes.set(xlabel="day", ylabel="expected fulfilment", title="Arms that learn from their slates")
    figure.legend(loc="outside right center")
    path = directory / "closed_loop.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return [path]


def run(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Simulates, lets every arm live, and returns the table and what the file holds."""
    import jax

    directory = simulated.place(arguments)
    jax.config.update("jax_compilation_cache_dir", str((directory / "compiled").absolute()))
    before = min(BEFORE, 8) if arguments.quick else BEFORE
    days = range(before, before + arguments.days)
    log = directory / "log"
    if not log.exists():
        simulate(
            *(simulated.preset(arguments), arguments.seed, log),
            **{"days": days.stop, "chunk_days": 1, "requests": arguments.searches * days.stop},
        )
    simulation = Simulation.open(log)
    if simulation.world.config.days != days.stop:
        raise InputError(f"{log} is of other --days. Remove it, or name another --out.")
    observe(simulation, directory, days)
    common = {**trials.QUICK, "data.block_size": 64} if arguments.quick else {}
    common |= {"train.seed": arguments.seed}
    for name in arguments.arms:
        (directory / name).mkdir(exist_ok=True)
        live(name, simulation, directory / name, days, common)
    content = summarise(directory, [POLICY, *arguments.arms, ORACLE], days)
    return table(content), content


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the loop."""
    parser = simulated.parser(__doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS)
    parser.add_argument("--days", type=count, help=f"of the loop, {DAYS}")
    parser.add_argument("--searches", type=count, help=f"of a day, {SEARCHES}")
    arguments = parser.parse_args(argv)
    arguments.seed = arguments.seeds[0]
    quick = arguments.quick
    arguments.arms = arguments.arms or ([TWO_TOWER] if quick else list(ARMS))
    if TWO_TOWER not in arguments.arms:
        parser.error(f"--arms must name {TWO_TOWER}, which lifts are over")
    arguments.days = arguments.days or (1 if quick else DAYS)
    arguments.searches = arguments.searches or (80 if quick else SEARCHES)
    if quick:
        trials.compile_quickly()
    name = "closed_loop"
    return exit_status(
        name, lambda: simulated.publish(arguments, name, lambda: run(arguments), draw)
    )


if __name__ == "__main__":
    sys.exit(main())
