"""Two runs on the handmade log, one of them of FIT, and what a page shows of them."""

import dataclasses
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from interactrank_jax.io.printable import printable
from interactrank_jax.report import page
from interactrank_jax.training.train import train
from tests.conftest import REPOSITORY
from tests.once import made_once
from tests.serving.making import make_config

AB_TEST = REPOSITORY / "experiments/results/ab_test.json"
EVIL = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"&amp;\u202e</style>"
# Objects whose keys are names of the user's.
NAMED = {"config", "metrics", "intervals", "heads", "reliability", "slices", "references", "arms"}
NAMED |= {"cuts", "differences"}
VOID = ("meta", "wbr")  # they have no end


@dataclasses.dataclass
class Runs:
    """What the tests read, and none may write.

    Attributes:
      examples, cross, fit: directories; `cross` is the run of InteractRank.
      data: of the page on both.
      text: of that page.
    """

    examples: Path
    cross: Path
    fit: Path
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    text: str = ""

    def copy(self, to: Path, which: str = "cross") -> Path:
        """Copies a run, which a test may then change."""
        return Path(shutil.copytree(getattr(self, which), to / which))


@pytest.fixture(scope="session")
def runs(tmp_path_factory, served):
    def make(root: Path) -> Runs:
        config = make_config("fit")
        config.model.meta.vectors = 3
        train(config, served.examples, root / "fit")
        # Evaluations are written beside the run.
        cross = Path(shutil.copytree(served.run, root / "run"))
        result = Runs(served.examples, cross, root / "fit")
        out = root / "page.html"
        result.data = page.write_report([result.cross, result.fit], out, ab=AB_TEST)
        result.text = out.read_text()
        return result

    return made_once(tmp_path_factory, "report", make)


class Page(HTMLParser):
    """A page as a browser reads it.

    Attributes:
      numbers: (JSON pointer, text) of the elements that have one.
      tags: names of all elements.
      attributes: (name, value) of all elements.
      scripts: texts of the script elements.
      sections: by title the text.
    """

    def __init__(self, text: str):
        super().__init__()
        self.numbers: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self.sections: dict[str, str] = {}
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._section = ""
        self.feed(text)
        self.close()
        assert not self._open, self._open  # each element was closed

    @property
    def data(self) -> Any:
        (text,) = self.scripts
        return json.loads(text)

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.attributes += attributes
        if name not in VOID:
            self._open.append((name, dict(attributes)))
        if name == "h2":
            self._section = ""
        if name == "script":
            self.scripts.append("")

    def handle_startendtag(self, name, attributes):
        self.tags.append(name)
        self.attributes += attributes

    def handle_endtag(self, name):
        assert self._open.pop()[0] == name

    def handle_data(self, text):
        name, attributes = self._open[-1] if self._open else ("", {})
        if name == "script":
            self.scripts[-1] += text
        elif name == "h2":
            self._section += text
            self.sections[self._section] = ""
        elif self._section:
            self.sections[self._section] += text
        if "data-json" in attributes:
            self.numbers.append((str(attributes["data-json"]), text))


def follow(value: Any, pointer: str) -> Any:
    """Returns what a JSON pointer names."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def check_numbers(data: Any, numbers: list[tuple[str, str]]) -> None:
    """Holds each number of a page's tables against the JSON that it is said to be of."""
    assert numbers
    for pointer, text in numbers:
        value = follow(data, pointer)
        if isinstance(value, str):
            assert text == printable(value), pointer
            continue
        if isinstance(value, list | bool):
            continue
        plain = text.replace("−", "-").replace(",", "").replace("+", "")
        share = plain.endswith("%")
        plain = plain.removesuffix("%")
        decimals = len(plain.partition(".")[2]) + 2 * share
        if plain != str(value):  # a config's value is written in full
            shown = float(plain) / 100 if share else float(plain)
            assert abs(shown - value) <= 0.5001 * 10.0**-decimals, (pointer, text, value)


def forged(data: Any) -> Any:
    """Returns a page's JSON with hostile text in every string, and in every name that is a user's.

    One run has a name without a place to break it.
    """
    copy = _forged(json.loads(json.dumps(data)))
    for run in copy["runs"]:
        run["notes"].append(f"`{EVIL}` {EVIL}")
    copy["notes"].append(EVIL)
    copy["runs"][0]["name"] += "x" * 200
    return copy


def _forged(value, key=""):
    if isinstance(value, dict):
        suffix = EVIL if key in NAMED else ""
        return {name + suffix: _forged(entry, name) for name, entry in value.items()}
    if isinstance(value, list):
        return [_forged(entry) for entry in value]
    return value + EVIL if isinstance(value, str) else value
