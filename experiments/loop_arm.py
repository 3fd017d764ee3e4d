"""An arm of the closed loop, in a process of its own: it learns, ranks and shows, day after day.

    python -m experiments.loop_arm WORLD/ARM --days FIRST STOP

What `closed_loop.py` starts, several at once. WORLD/log is the whole of a simulated log, with a
part per day; WORLD/ARM/fields.json says what the arm's config has instead of its file's. Of each
day WORLD/ARM/DAY.npz is kept.
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

from experiments import funnel, loop_summary, trials
from experiments.command_line import exit_status
from experiments.worlds import Simulation
from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.simulator.simulate import Slates, responses
from interactrank_jax.log.simulator.tables import write_part
from interactrank_jax.log.simulator.world import DAY, START, stream
from interactrank_jax.ranking.ranker import Ranker

FIELDS = "fields.json"
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


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the arm."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("directory", type=Path, help="of the arm, WORLD/ARM")
    parser.add_argument("--days", type=int, nargs=2, required=True, metavar=("FIRST", "STOP"))
    arguments = parser.parse_args(argv)

    def run() -> int:
        directory = arguments.directory
        fields = files.read_json(directory / FIELDS)
        common = {name: trials.plain(value) for name, value in fields.items()}
        simulation = Simulation.open(directory.parent / "log")
        run_arm(directory.name, simulation, directory, range(*arguments.days), common)
        return 0

    return exit_status("loop_arm", run)


if __name__ == "__main__":
    sys.exit(main())
