r"""Pre-rankers that learn from what they showed themselves: the online test, day after day.

    python -m experiments.closed_loop --preset=small --seeds 0 --out=runs/closed_loop

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
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from experiments import funnel, loop_summary, simulated, trials
from experiments.command_line import count, exit_status
from experiments.worlds import Simulation
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.simulator.presets import resolve
from interactrank_jax.log.simulator.simulate import Slates, responses, simulate
from interactrank_jax.log.simulator.tables import write_part
from interactrank_jax.log.simulator.world import DAY, START, stream
from interactrank_jax.ranking.ranker import Ranker

BEFORE, DAYS, SEARCHES = 30, 30, 600  # days of the policy alone, days of the loop, searches a day
WINDOW = 7  # days that a model is trained on, from the second of the loop on


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


POLICY, ORACLE = "policy", "oracle"
TWO_TOWER, CROSS = "two_tower", "interactrank"
ARMS = {
    TWO_TOWER: Arm(TWO_TOWER),
    CROSS: Arm(CROSS),
    f"{CROSS}_explores": Arm(CROSS, explores=True),
    f"{CROSS}_observes": Arm(CROSS, observes=True),
}


def grow(log: Path, simulation: Simulation, days: int) -> None:
    """Gives a log the policy's parts of the first days, where it has none, and the items so far.

    Parts of later days are removed: a run that was killed left them, perhaps half written.
    """
    for name in ("requests", "impressions", "events"):
        (log / name).mkdir(parents=True, exist_ok=True)
        for part in sorted((log / name).iterdir())[days:]:
            part.unlink()
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
    spec = trials.config_spec(arm.model, "search")
    words = Words((f"--config={spec}", *overrides), (), str(directory / "log"), onnx=False)
    root = Root(directory / "daily")
    # What is compared here is what models do when all of them go on being published.
    everything = Bounds(fall=1.0, psi=1e6, null_rate=1.0, staleness=10_000)
    with (
        (directory / "daily.txt").open("a", encoding="utf-8") as output,
        contextlib.redirect_stdout(output),
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


def run_arm(
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
            tables, _ = responses(
                *(simulation.world, simulation.seed, simulation.names, day, searches.requests),
                Slates(np.where(shown, item, 0), shown, propensity),
                simulation.clicks(log, day),
                sum(pq.read_metadata(part).num_rows for part in parts),
            )
            del tables["truth/impressions"]
            write_part(log, day, tables)
        loop_summary.write_day(directory / f"{day}.npz", simulation, day, item, appeal)
        print(f"{name}, day {day - days.start + 1} of {len(days)}", flush=True)


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
                loop_summary.write_day(file, simulation, day, *shown)


def run_world(arguments: argparse.Namespace, seed: int) -> dict[str, loop_summary.Days]:
    """Simulates a world and runs every arm in it; returns the days by arm.

    Raises:
      InputError: what is there is of another world, or of other flags.
    """
    before = min(BEFORE, 8) if arguments.quick else BEFORE
    days = range(before, before + arguments.days)
    preset, directory = simulated.preset(arguments), simulated.place(arguments) / f"world-{seed}"
    log = directory / "log"
    sizes = {"days": days.stop, "chunk_days": 1, "requests": arguments.searches * days.stop}
    if not log.exists():
        simulate(preset, seed, log, **sizes)
    simulation = Simulation.open(log)
    expected, config = resolve(preset, **sizes), simulation.world.config
    names = ("days", "requests", "items", "queries", "users")
    if any(getattr(config, name) != getattr(expected, name) for name in names):
        raise InputError(
            f"{log} is of another --preset, --days or --searches. Remove {directory}, or name "
            f"another --out."
        )
    observe(simulation, directory, days)
    common = {**_common(arguments), "train.seed": seed}
    for name in arguments.arms:
        (directory / name).mkdir(exist_ok=True)
        run_arm(name, simulation, directory / name, days, common)
    arms = (POLICY, *arguments.arms, ORACLE)
    return {arm: loop_summary.read_days(directory / arm, days) for arm in arms}


def _common(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of the config that differ from its file, the seed aside."""
    small = {"data.block_size": 64} if arguments.quick else {}
    return {**simulated.common(arguments), **small}


def run(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Runs the loop in every world; returns the table and what the file holds."""
    import jax

    compiled = simulated.place(arguments) / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(compiled.absolute()))
    worlds = [run_world(arguments, seed) for seed in arguments.seeds]
    content = {
        "rows": loop_summary.summarise(
            worlds, [arm for arm in (TWO_TOWER, CROSS) if arm in arguments.arms]
        ),
        "days": arguments.days,
        "days_before": min(BEFORE, 8) if arguments.quick else BEFORE,
        "searches": sum(len(day["user"]) for world in worlds for day in world[POLICY]),
        "worlds": len(worlds),
        "configs": {
            model: trials.config_record(trials.config_spec(model, "search"), _common(arguments))
            for model in sorted({ARMS[arm].model for arm in arguments.arms})
        },
    }
    return loop_summary.table(content), content


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the loop."""
    parser = simulated.parser(__doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS)
    parser.add_argument("--days", type=count, help=f"of the loop, {DAYS}")
    parser.add_argument("--searches", type=count, help=f"of a day, {SEARCHES}")
    arguments = parser.parse_args(argv)
    quick = arguments.quick
    arguments.arms = arguments.arms or ([TWO_TOWER] if quick else list(ARMS))
    if TWO_TOWER not in arguments.arms:
        parser.error(f"--arms must name {TWO_TOWER}, which lifts are over")
    arguments.days = arguments.days or (1 if quick else DAYS)
    arguments.searches = arguments.searches or (80 if quick else SEARCHES)
    if quick:
        trials.compile_quickly()
    name, draw = "closed_loop", loop_summary.draw
    return exit_status(
        name, lambda: simulated.publish(arguments, name, lambda: run(arguments), draw)
    )


if __name__ == "__main__":
    sys.exit(main())
