"""ROOT on disk: STATE, a version per day, their history, and what is published.

    ROOT/state/               STATE of the log
    ROOT/versions/DATE/       what was made on a day, see `steps.py`, and
      plan.json                 what it was decided upon before any work
      outcome.json              how it ended, as a line of the history; written when it is certain
    ROOT/history.jsonl        a line per day that ended, ascending
    ROOT/history.png          the same drawn, where matplotlib is installed
    ROOT/current              link to versions/DATE/bundle of the version that is published

A day that was killed has no outcome yet. One that has is settled: published, and in the history.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError

PUBLISHED, REFUSED = "published", "refused"
PLAN, OUTCOME, BUNDLE = "plan.json", "outcome.json", "bundle"
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_CURRENT, _REMOVED = ".current.partial-", ".removed-"
_OURS = re.compile(
    r"state|versions|current|history\.(jsonl|png)|\.lock|\.(current|history\.(jsonl|png))\.partial-.*"
)


class Root:
    """The directory of a daily loop.

    Attributes:
      path: absolute.
    """

    def __init__(self, path: files.PathLike):
        self.path = Path(path).absolute()

    @property
    def state(self) -> Path:
        """STATE of the log."""
        return self.path / "state"

    @property
    def figure(self) -> Path:
        """The history, drawn."""
        return self.path / "history.png"

    def version(self, day: str) -> Path:
        """The directory of a day."""
        return self.path / "versions" / day

    def check(self, log: files.PathLike) -> None:
        """Refuses a directory that holds something else.

        Raises:
          InputError: it does, is no directory, or is inside the log or around it.
        """
        ours, theirs = self.path.resolve(), Path(log).resolve()
        if ours == theirs or theirs in ours.parents or ours in theirs.parents:
            raise InputError(
                f"--root={self.path} and --log={log}: one is inside the other. Expected two "
                f"directories beside each other."
            )
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--root={self.path} is a file. Expected a directory, new or ours.")
        names = sorted(path.name for path in self.path.iterdir()) if self.path.exists() else []
        foreign = [name for name in names if not _OURS.fullmatch(name)]
        if foreign:
            raise InputError(
                f"--root={self.path} holds '{foreign[0]}', which is none of the daily loop's. "
                f"Expected a new or empty directory, or one that `interactrank daily` wrote."
            )

    # --- history ---------------------------------------------------------------------------------

    def history(self) -> dict[str, dict[str, Any]]:
        """Returns the line of each day that ended, by its date, ascending.

        Raises:
          InputError: the file was edited so that it is no history.
        """
        path = self.path / "history.jsonl"
        if not path.exists():
            return {}
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return {line["day"]: line for line in sorted(lines, key=lambda line: line["day"])}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is no history ({error!r}). Expected a JSON object with 'day' on each "
                f"line: mend it, or move it away."
            ) from error

    def _record(self, line: Mapping[str, Any]) -> None:
        """Writes a day's line, in place of one that it may have already."""
        history = {**self.history(), line["day"]: line}
        text = "".join(f"{json.dumps(history[day])}\n" for day in sorted(history))
        with outputs.new_file(self.path / "history.jsonl") as partial:
            partial.write_text(text, encoding="utf-8")

    # --- versions --------------------------------------------------------------------------------

    def days(self) -> list[str]:
        """Returns the dates that have a directory, ascending."""
        paths = self.version("").iterdir() if self.version("").is_dir() else ()
        return sorted(path.name for path in paths if _DATE.fullmatch(path.name))

    def published(self) -> str:
        """Returns the date of the published version, '' if none is.

        Raises:
          InputError: ROOT/current is something else than a link to a version's bundle.
        """
        link = self.path / "current"
        if not os.path.lexists(link):
            return ""
        target = os.path.relpath(link.resolve(), self.version("").resolve())
        day, _, rest = target.partition("/")
        if not (link.is_symlink() and _DATE.fullmatch(day) and rest == BUNDLE and link.is_dir()):
            raise InputError(
                f"{link} is no link to versions/DATE/{BUNDLE} of a version that is there. Set it "
                f"to one, `ln -sfn versions/DATE/{BUNDLE} {link}`, or remove it to begin anew."
            )
        return day

    def settle(self) -> None:
        """Publishes what was accepted, and writes into the history what ended.

        For days of which a killed run had written the outcome, and no more.
        """
        for day in self.days():
            file = self.version(day) / OUTCOME
            outcome = files.read_json(file) if file.exists() else None
            if outcome is None or self.history().get(day) == outcome:
                continue
            if outcome["outcome"] == PUBLISHED:
                self._publish(day)
            self._record(outcome)

    def _publish(self, day: str) -> None:
        """Lets ROOT/current name a version's bundle: at any moment it names one that is whole."""
        outputs.replace_link(self.path / "current", self.version(day) / BUNDLE)

    def remove_old(self, keep: int) -> None:
        """Removes all but the newest versions, and the published one; and what kills left.

        Versions that did not end go too, unless they are the newest.
        """
        days, published, history = self.days(), self.published(), self.history()
        ended = [day for day in days if day in history]
        kept = {*ended[-keep:], published, days[-1] if days else ""}
        for day in days:
            if day not in kept:
                # Renamed first: what is half removed must not be taken for a version.
                self.version(day).rename(self.version(f"{_REMOVED}{day}"))
        if self.version("").is_dir():
            for path in self.version("").glob(f"{_REMOVED}*"):
                shutil.rmtree(path)
        for path in self.path.glob(f"{_CURRENT}*"):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
