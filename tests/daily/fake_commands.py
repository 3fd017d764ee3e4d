"""Commands that do no work, and write what the real ones do: whole, once, or not at all.

Their words are parsed as the command line parses them.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from interactrank_jax import cli
from interactrank_jax.io import files, outputs

UNDEFINED = "undefined"


class Killed(BaseException):
    """The process ends here."""


@dataclasses.dataclass
class FakeCommands:
    """Runs commands of `interactrank`, as `daily.run_day` asks for it.

    Attributes:
      quality: of the model of a day, else 0.7; UNDEFINED for none.
      drift: days on which a feature drifts past its bound of 0.25, to 0.3.
      kill: number of the call that is killed, and whether before or after it wrote its output.
      kill_new: instead, each command is killed when it is run for the first time, so.
      seen: commands that were run for the first time; shared by several runs.
      failing: name of a command that fails.
      calls: words of what was run.
    """

    quality: dict[str, float | str] = dataclasses.field(default_factory=dict)
    drift: set[str] = dataclasses.field(default_factory=set)
    kill: tuple[int, str] | None = None
    kill_new: str = ""
    seen: set[tuple[str, ...]] = dataclasses.field(default_factory=set)
    failing: str = ""
    metric: str = "roc_auc"
    calls: list[tuple[str, ...]] = dataclasses.field(default_factory=list)

    def __call__(self, words: Sequence[str]) -> int:
        name, rest = cli.split_command(words)
        args = cli.parse(cli.COMMANDS[name], name, rest)
        self.calls.append(tuple(words))
        moment = self.kill_new if words not in self.seen else ""
        self.seen.add(words)
        if moment == "before" or self.kill == (len(self.calls), "before"):
            raise Killed
        if name == self.failing:
            return 2
        try:
            status = getattr(self, "_" + name.replace(" ", "_"))(args)
        except ValueError as error:
            print(error)
            return 2
        if moment == "after" or self.kill == (len(self.calls), "after"):
            raise Killed
        return status

    @property
    def names(self) -> list[str]:
        """The commands that were run."""
        return [cli.split_command(words)[0] for words in self.calls]

    def _state_build(self, args) -> int:
        path = Path(args.out) / "state.json"
        counted = files.read_json(path) if path.exists() else []
        path.parent.mkdir(exist_ok=True)
        files.write_json(path, sorted({*counted, args.through}))
        return 0

    def _prepare(self, args) -> int:
        assert args.state
        if args.encoder:
            assert (Path(args.encoder) / "model").exists()
            assert not args.split_since
        if args.extend:
            assert (Path(args.extend) / "made").exists()
        return self._write(args.out, made=[args.since, args.until, args.extend, args.encoder])

    def _train(self, args) -> int:
        assert (Path(args.examples) / "made").exists()
        run = Path(args.workdir)
        run.mkdir(exist_ok=True)
        start = args.overrides.get("train.warm_start", "")
        (run / "model").write_text(json.dumps(start))
        return 0

    def _evaluate(self, args) -> int:
        assert Path(args.examples, "made").exists()
        runs = [args.workdir, *([args.against] if args.against else [])]
        results = [self._result(Path(run).parent.name) for run in runs]
        if args.against:
            values = [result["metrics"][self.metric] for result in results]
            gap = None if None in values else values[0] - values[1]
            around = [gap, None if gap is None else gap - 0.01, None if gap is None else gap + 0.01]
            results[0]["differences"] = {self.metric: around}
        files.write_json(args.json, results)
        return 0

    def _result(self, day: str) -> dict:
        value = self.quality.get(day, 0.7)
        value = None if value == UNDEFINED else value
        bounds = [None, None] if value is None else [value - 0.02, value + 0.02]
        return {
            "requests": 30,
            "candidates": 300,
            "metrics": {self.metric: value},
            "intervals": {self.metric: bounds},
        }

    def _state_features(self, args) -> int:
        assert (Path(args.encoder) / "made").exists()
        return self._write(args.out, made=[args.since, args.until])

    def _state_report(self, args) -> int:
        day = Path(args.features).parent.name
        psi = 0.3 if day in self.drift else 0.1
        feature = {"name": "share", "psi": psi, "null_rate": 0.2, "training_null_rate": 0.1}
        problems = [f"share: PSI {psi}"] if psi > args.max_psi else []
        report = {"features": [feature], "staleness": 1, "problems": problems}
        status = self._write(args.out, **{"report.json": report})
        return status or 2 * bool(problems)

    def _export(self, args) -> int:
        assert (Path(args.workdir) / "model").exists()
        return self._write(args.out, **{"bundle.json": args.as_of})

    def _write(self, out: str, **contents) -> int:
        with outputs.new_directory(out) as directory:
            for name, value in contents.items():
                (directory / name).write_text(json.dumps(value))
        return 0
