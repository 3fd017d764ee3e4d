import dataclasses
from pathlib import Path

import pytest

from interactrank_jax.config import configuration
from interactrank_jax.daily import daily, history
from interactrank_jax.daily.plan import Bounds, Windows
from interactrank_jax.daily.root import Root
from interactrank_jax.daily.steps import Words
from tests.daily.fake_commands import FakeCommands
from tests.log.handmade_log import make_tables, write_log

CONFIG = Path(__file__).with_name("config.py")
# Days of the handmade log, which begins on 2022-01-08; the last, with requests of a later one.
DAYS = tuple(f"2022-01-{number}" for number in range(20, 25))
# Commands of a day, of the first and of any later.
FIRST = ["state build", "prepare", "train", "evaluate"]
FIRST += ["state features", "state features", "state report", "export"]
LATER = ["state build", "prepare", "evaluate", *FIRST[1:]]
BOUNDS = Bounds(fall=0.01, psi=0.25, null_rate=0.1, staleness=7)


@pytest.fixture(scope="package")
def log(tmp_path_factory):
    """The handmade log; read only."""
    return write_log(tmp_path_factory.mktemp("daily") / "log", make_tables(300))


@dataclasses.dataclass
class Loop:
    """A daily loop of commands that do no work."""

    root: Root
    log: Path
    lines: list[str] = dataclasses.field(default_factory=list)

    def run(self, day: str, commands: FakeCommands | None = None, **options):
        """Runs a day; returns its line and the commands."""
        commands = commands or FakeCommands()
        config = configuration.load(str(CONFIG))
        for name, value in options.pop("fields", {}).items():
            config.update_from_flattened_dict({name: value})
        options = {"windows": Windows(4), "bounds": BOUNDS, "keep": 9} | options
        words = Words(config=(f"--config={CONFIG}",), registers=(), log=str(self.log))
        line = daily.run_day(
            *(config, words, self.root),
            day=day,
            execute=commands,
            show=self.lines.append,
            **options,
        )
        return line, commands

    def published(self) -> str:
        """Returns the date of the version that ROOT/current names."""
        return (self.root.path / "current").resolve().parent.name

    def contents(self) -> dict[str, str | bytes]:
        """Returns every file's bytes, and where every link leads, by path below ROOT."""
        root = self.root.path
        paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
        return {
            name: str(path.readlink()) if path.is_symlink() else path.read_bytes()
            for name, path in sorted(paths.items())
            if path.is_symlink() or (path.is_file() and name != "history.png")
        }


@pytest.fixture
def loop(tmp_path, log):
    return Loop(Root(tmp_path / "root"), log)


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    """To draw takes longer than all else here."""
    monkeypatch.setattr(history, "draw", lambda lines, path: path.write_bytes(b""))
