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
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import jobs, loop_summary, simulated, trials
from experiments.command_line import count, exit_status
from experiments.loop_arm import ARMS, CROSS, FIELDS, TWO_TOWER
from experiments.worlds import Simulation
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.simulator.presets import resolve
from interactrank_jax.log.simulator.simulate import simulate

POLICY, ORACLE = "policy", "oracle"
BEFORE, DAYS, SEARCHES = 30, 30, 600  # days of the policy alone, days of the loop, searches a day


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
    run_arms(directory, arguments.arms, days, _common(arguments, seed), arguments.parallel)
    arms = (POLICY, *arguments.arms, ORACLE)
    return {arm: loop_summary.read_days(directory / arm, days) for arm in arms}


def run_arms(
    world: Path, arms: Sequence[str], days: range, common: Mapping[str, Any], parallel: int
) -> None:
    """Runs the arms of a world, some at once, each in a process of its own (`loop_arm.py`).

    Raises:
      InputError: an arm failed, or what is there of it had other fields.
    """
    queue = []
    for name in arms:
        path = world / name / FIELDS
        if not path.exists():
            files.write_json(path, common)
        if files.digest(files.read_json(path)) != files.digest(common):
            raise InputError(
                f"{path} is of other flags. Remove {path.parent}, or name another --out."
            )
        span = (str(days.start), str(days.stop))
        command = (sys.executable, "-m", "experiments.loop_arm", str(path.parent), "--days", *span)
        queue.append(jobs.Job(f"{world.name}, {name}", command, path.with_name("arm.json")))
    compiled = str((world.parent / "compiled").absolute())
    environment = {"JAX_COMPILATION_CACHE_DIR": compiled}
    for job, record in zip(
        queue, jobs.run(queue, parallel=parallel, environment=environment), strict=True
    ):
        if record.status != jobs.FINISHED:
            raise InputError(f"{job.name}: {record.error}; see {job.record.with_suffix('.log')}.")


def _common(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Returns the fields of the config that differ from its file."""
    small = {"data.block_size": 64} if arguments.quick else {}
    return {**simulated.common(arguments), **small, "train.seed": seed}


def run(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Runs the loop in every world; returns the table and what the file holds."""
    worlds = [run_world(arguments, seed) for seed in arguments.seeds]
    common = _common(arguments, arguments.seeds[0])
    content = {
        "rows": loop_summary.summarise(
            worlds, [arm for arm in (TWO_TOWER, CROSS) if arm in arguments.arms]
        ),
        "days": arguments.days,
        "days_before": min(BEFORE, 8) if arguments.quick else BEFORE,
        "searches": sum(len(day["user"]) for world in worlds for day in world[POLICY]),
        "worlds": len(worlds),
        "configs": {
            model: trials.config_record(trials.config_spec(model, "search"), common)
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
