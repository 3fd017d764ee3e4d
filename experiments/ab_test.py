r"""An online test of pre-rankers on simulated users, whose truth is known.

    python -m experiments.ab_test --preset=small --out=runs/ab_test

Every arm gets the same searches of a day that no model has seen, with the same candidates
(`funnel.py`). What it keeps goes to one full ranker, whose best ten are shown. An arm is worth its
expected fulfilment: the probability that a slate has a long click or a save, exact from the appeal
of what is shown, so that arms are compared search by search. A test as it is run online, with users
hashed to arms and their actions drawn, stands beside it, with its power and an A/A test.

Arms: BM25; popularity, clicks so far; the models, each as `interactrank export` serves it; the
oracle, which ranks by the truth. Intervals are 95%, over worlds (`--seeds`) and their users. What
is done is kept.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import contenders, funnel, simulated, trials
from experiments.command_line import count, exit_status
from experiments.lifts import Outcome, lift, searches_needed, split_test
from experiments.worlds import open_world
from interactrank_jax.config import configuration
from interactrank_jax.examples.format import STATE, Examples
from interactrank_jax.io import files
from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.runs.run import Run

MODELS = ("two_tower", "interactrank", "fit", "interactfit")
TWO_TOWER, CROSS, BM25, POPULARITY, ORACLE = MODELS[0], MODELS[1], "bm25", "popularity", "oracle"
PAPER = {"vs_bm25": 0.065, "vs_two_tower": 0.037}  # InteractRank's, online
CUTS = (100, 500, 1000)
CUT = 100  # the headline's
ALONE = "alone"  # the best ten of an arm, without a full ranker after it
BUCKET = 4_000  # searches of the bucket that the full ranker is fitted on, of each world
Ranks = Mapping[str, np.ndarray]  # `[R, P]` of each arm, see `funnel.ranks_by_score`


def world_setting(arguments: argparse.Namespace, seed: int) -> contenders.Setting:
    """Returns what the arms of a world are trained with; makes its log unless it is there."""
    from interactrank_jax.log.simulator.simulate import simulate

    name = f"world-{seed}"
    log = simulated.place(arguments) / name / "log"
    if not log.exists():
        simulate(simulated.preset(arguments), seed, log)
    return simulated.setting(arguments, "search", log, name)


def run_world(setting: contenders.Setting, models: Sequence[str], seed: int, count: int) -> Outcome:
    """Trains the arms on one world's log, and lets its users search so many times."""
    examples, runs = train(setting, models, seed)
    trained = [run.workdir.parent for run in runs.values()]
    digest = files.digest([count, BUCKET, *(directory.name for directory in trained)])
    path = setting.out / f"outcome-{digest[:8]}.json"
    if not path.exists():
        bundles = {model: run.workdir.with_name("bundle") for model, run in runs.items()}
        for model, bundle in bundles.items():
            if not bundle.exists():
                export(examples, runs[model], bundle)
        files.write_json(path, search(setting.log, bundles, count).to_json())
    return Outcome.from_json(files.read_json(path))


def search(log: Path, bundles: Mapping[str, Path], count: int, bucket: int = BUCKET) -> Outcome:
    """Lets the users of a simulated log search on the day that bundles are of.

    Args:
      log: what `simulate` wrote.
      bundles: by model, those of `TWO_TOWER` and `CROSS` among them.
      count: searches.
      bucket: searches that the full ranker is fitted on, at most `count`.
    """
    from interactrank_jax.log.simulator.searches import searches
    from interactrank_jax.log.simulator.tables import Names
    from interactrank_jax.log.simulator.world import DAY, START
    from interactrank_jax.state.days import day_number

    world, seed = open_world(log)
    rankers = {model: Ranker(bundle) for model, bundle in bundles.items()}
    day = day_number(rankers[TWO_TOWER].bundle["as_of"]) - START // DAY
    names = Names(world)
    clicks = funnel.popularity(log, names, day)

    def ranked(purpose: str, count: int) -> tuple[funnel.Searches, Ranks, np.ndarray]:
        requests = searches(world, seed, purpose, day, count)
        retrieved = funnel.retrieve(world, names, requests, rankers[TWO_TOWER], clicks)
        ranks, scores = rank(retrieved, rankers, clicks)
        return retrieved, ranks, funnel.features(retrieved, rankers[CROSS], scores, clicks)

    shown, ranks, features = ranked("bucket", min(count, bucket))
    full_ranker = funnel.FullRanker(shown, features, ranks.values(), seed)
    tested, ranks, features = ranked("test", count)
    return compare(tested, ranks, full_ranker.scores(features), seed)


def rank(
    searches: funnel.Searches, rankers: Mapping[str, Ranker], clicks: np.ndarray
) -> tuple[Ranks, np.ndarray]:
    """Returns the ranks of pools by every arm but the oracle, and the models' scores `[R, P, M]`.

    Args:
      searches: with their pools.
      rankers: by model.
      clicks: `[I]` popularity.
    """
    no_clicks = np.append(clicks, 0)
    ranks = {
        BM25: funnel.ranks_by_score(searches, searches.lexical),
        POPULARITY: funnel.ranks_by_score(searches, no_clicks[searches.pool]),
    }
    scores = []
    for model, ranker in rankers.items():
        ranks[model], of_model = funnel.ranks_by_model(searches, ranker)
        scores.append(of_model)
    return ranks, np.stack(scores, -1)


def train(
    setting: contenders.Setting, models: Sequence[str], seed: int
) -> tuple[Examples, dict[str, Run]]:
    """Returns the examples of a world's log, and a run of each model."""
    made: list[trials.Trial] = []
    for model in models:
        spec = setting.spec(model)
        examples = setting.examples(configuration.load(spec).data)
        sweep = [{"train.seed": seed}]
        made += trials.make(spec, sweep, examples, setting.out / model, setting.common)
    outcomes = simulated.trained(made, setting.parallel)
    runs = [Run.open(outcome.trial.workdir) for outcome in outcomes]
    return Examples(examples), dict(zip(models, runs, strict=True))


def export(examples: Examples, run: Run, out: Path) -> None:
    """Writes a run's bundle of the first whole day of the test split."""
    from interactrank_jax.export.export import export
    from interactrank_jax.log.simulator.world import DAY
    from interactrank_jax.state.days import date

    first = examples.raw_requests("test")["timestamp"].to_numpy().min()
    as_of = str(date(int(first) // DAY + 1))
    export(run.workdir, examples.path / STATE, out, as_of=as_of, onnx=False)


def compare(searches: funnel.Searches, ranks: Ranks, full_ranker: np.ndarray, seed: int) -> Outcome:
    """Returns what each arm, and the oracle, is worth on the same searches.

    Args:
      searches: with their pools.
      ranks: of the arms.
      full_ranker: `[R, P]` its scores.
      seed: of the draws.
    """
    from interactrank_jax.log.simulator.draws import stream
    from interactrank_jax.log.simulator.searches import drawn_fulfilment, is_fulfilled

    width = searches.pool.shape[1]
    final = np.where(searches.pool < searches.no_item, full_ranker, -np.inf)
    ranks = {**ranks, ORACLE: funnel.ranks_by_score(searches, searches.appeal)}
    slate = min(searches.world.config.slate, width)
    by_ranker = funnel.slates(ranks[ORACLE], final, width, slate)
    by_truth = funnel.slates(ranks[ORACLE], searches.appeal, width, slate)

    expected: dict[str, dict[str, np.ndarray]] = {}
    survival: dict[str, dict[str, tuple[float, float]]] = {}
    drawn = {}
    for arm, of_arm in ranks.items():
        shown = {ALONE: funnel.slates(of_arm, -of_arm, slate, slate)}
        shown |= {str(cut): funnel.slates(of_arm, final, cut, slate) for cut in CUTS}
        for name, slates in shown.items():
            expected.setdefault(name, {})[arm] = searches.expected_fulfilment(slates)
        for cut in CUTS:
            kept = [funnel.survival(of_arm, wanted, cut) for wanted in (by_ranker, by_truth)]
            survival.setdefault(str(cut), {})[arm] = (kept[0], kept[1])
        rng = stream(seed, f"actions of {arm}")
        items = np.take_along_axis(searches.pool, shown[str(CUT)], 1)
        is_shown = items < searches.no_item
        items = np.minimum(items, searches.no_item - 1)
        actions = drawn_fulfilment(searches.world, rng, searches.requests, items, is_shown)
        drawn[arm] = is_fulfilled(actions)
    pool = float((searches.pool < searches.no_item).sum(1).mean())
    return Outcome(searches.requests.user, expected, survival, drawn, pool)


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Returns what the file holds: the headline's arms, all cuts, the tests as run online."""
    arms = list(outcomes[0].drawn)
    tests = {}

    def figures(arm: str, cut: str) -> dict[str, Any]:
        result: dict[str, Any] = {
            "fulfilment": statistics.fmean(o.expected[cut][arm].mean() for o in outcomes),
            "lift_vs_bm25": lift(outcomes, arm, BM25, cut),
            "lift_vs_two_tower": lift(outcomes, arm, TWO_TOWER, cut),
        }
        if cut != ALONE:
            kept = np.mean([outcome.survival[cut][arm] for outcome in outcomes], axis=0)
            result["survival"] = dict(zip(("full_ranker", "oracle"), kept.tolist(), strict=True))
        return result

    of_cut = {arm: figures(arm, str(CUT)) for arm in arms}
    for arm in arms:
        kept = [outcome.survival["500"][arm][0] for outcome in outcomes]
        of_cut[arm] |= {"survival_at_500": statistics.fmean(kept)}
        of_cut[arm]["drawn"] = statistics.fmean(o.drawn[arm].mean() for o in outcomes)
    for other in (BM25, TWO_TOWER):
        mean, low, high = split_test(outcomes, CROSS, other, f"{CROSS}/{other}")
        needed = searches_needed(of_cut[other]["drawn"], PAPER[f"vs_{other}"])
        tests[f"vs_{other}"] = {"lift": mean, "low": low, "high": high, "searches_needed": needed}
    mean, low, high = split_test(outcomes, CROSS, CROSS, "aa")
    return {
        "arms": of_cut,
        "cuts": {cut: {arm: figures(arm, cut) for arm in arms} for cut in outcomes[0].expected},
        "searches": sum(len(outcome.user) for outcome in outcomes),
        "users": sum(len(np.unique(outcome.user)) for outcome in outcomes),
        "worlds": len(outcomes),
        "cut": CUT,
        "candidates": statistics.fmean(outcome.pool for outcome in outcomes),
        "split_tests": tests,
        "aa": {"lift": mean, "low": low, "high": high},
        "paper": PAPER,
    }


def headline(content: Mapping[str, Any]) -> str:
    """Returns Markdown: an arm a row, what it fulfils by itself and before a full ranker."""
    lines = [
        f"Expected fulfilment of {content['searches']:,} new searches, "
        f"{content['candidates']:,.0f} candidates each, by the best ten of a pre-ranker and by the",
        f"ten that a full ranker picks of its best {CUT}; lifts with 95% intervals:",
        "",
        f"| arm | alone | over BM25 | over two-tower | of {CUT} | over BM25 | over two-tower |",
        "|---" * 7 + "|",
    ]
    for arm in content["arms"]:
        cells = [arm]
        for cut in (ALONE, str(CUT)):
            figures = content["cuts"][cut][arm]
            cells.append(f"{figures['fulfilment']:.4f}")
            cells += [_percent(figures[f"lift_vs_{other}"]) for other in (BM25, TWO_TOWER)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _of_paper(content)])


def _of_paper(content: Mapping[str, Any]) -> str:
    paper = content["paper"]
    return (
        f"InteractRank's paper, online: {paper['vs_bm25']:+.1%} over BM25, "
        f"{paper['vs_two_tower']:+.1%} over two-tower."
    )


def table(content: Mapping[str, Any]) -> str:
    """Returns Markdown: an arm a row, its fulfilment and lifts by cut."""
    cuts = content["cuts"]
    lines = [
        f"{content['searches']:,} searches of {content['users']:,} users, "
        f"{content['candidates']:,.0f} candidates each; fulfilment is expected, lifts are over "
        f"BM25 and over two-tower, with 95% intervals.",
        "",
        "| arm | cut | fulfilment | over BM25 | over two-tower | kept of the full ranker's ten "
        "| of the oracle's |",
        "|---" * 7 + "|",
    ]
    for cut, arms in cuts.items():
        for arm, figures in arms.items():
            kept = figures.get("survival", {})
            cells = [
                *(arm, cut, f"{figures['fulfilment']:.4f}"),
                *(_percent(figures[f"lift_vs_{other}"]) for other in (BM25, TWO_TOWER)),
                *(f"{kept[name]:.3f}" if kept else "" for name in ("full_ranker", "oracle")),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", _of_paper(content)]
    for name, test in content["split_tests"].items():
        lines.append(
            f"Drawn, half of the users each: InteractRank {name.replace('_', ' ', 1)} "
            f"{_percent((test['lift'], test['low'], test['high']))}; the paper's lift "
            f"needs {test['searches_needed']:,} searches per arm for a power of 80%."
        )
    aa = content["aa"]
    lines.append(f"A/A: {_percent((aa['lift'], aa['low'], aa['high']))}.")
    return "\n".join(lines)


def _percent(value: Sequence[float]) -> str:
    mean, low, high = value
    return f"{mean:+.1%} [{low:+.1%}, {high:+.1%}]"


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the test."""
    parser = simulated.parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--searches", type=count, default=4_000, help="of each world")
    arguments = parser.parse_args(argv)
    if arguments.models is None:
        arguments.models = list(MODELS[:2] if arguments.quick else MODELS)
    if not {TWO_TOWER, CROSS} <= set(arguments.models):
        parser.error(f"--models must name {TWO_TOWER} and {CROSS}")
    if arguments.quick:
        arguments.searches = min(arguments.searches, 200)

    def make() -> tuple[str, dict[str, Any]]:
        outcomes = []
        models = arguments.models
        for seed in arguments.seeds:
            setting = world_setting(arguments, seed)
            outcomes.append(run_world(setting, models, seed, arguments.searches))
            content = summarise(outcomes)
            print(f"{table(content)}\n", flush=True)
        configs = {model: setting.config(model) for model in models}
        return table(content), {**content, "configs": configs}

    return exit_status("ab_test", lambda: simulated.publish(arguments, "ab_test", make))


if __name__ == "__main__":
    sys.exit(main())
