"""Data flows one way: a room imports only from rooms before it."""

import ast
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "interactrank_jax"
# In the order in which data flows. A room may import itself and what lies before it: all of it, or
# where that is more than it needs, the rooms that are named.
ORDER = (
    *("io", "metrics", "config", "log", "state", "examples", "serving", "losses", "models"),
    *("tables", "devices", "runs", "ranking", "evaluation", "training", "export", "daily"),
    *("report", "cli"),
)
ONLY = {
    "io": {"io"},
    "metrics": {"io", "metrics"},
    "config": {"io", "config", "metrics"},
    "log": {"io", "log"},
    "state": {"io", "config", "log", "state"},
    "examples": {"io", "config", "log", "state", "examples"},
    "serving": {"io", "log", "state", "examples", "serving"},
    "losses": {"io", "config", "examples", "losses"},
    "models": {"io", "config", "examples", "losses", "models"},
}


def rooms() -> list[str]:
    """Returns the packages and modules below `interactrank_jax`."""
    paths = (path for path in PACKAGE.iterdir() if not path.name.startswith(("_", ".")))
    return sorted(path.stem for path in paths)


def imported(path: Path) -> set[str]:
    """Returns the rooms and modules of the package that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = node.module.split(".")
            if module[0] == "interactrank_jax":
                names |= {module[1]} if module[1:] else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            parts = (alias.name.split(".") for alias in node.names)
            names |= {part[1] for part in parts if part[0] == "interactrank_jax" and part[1:]}
    return names


def test_every_room_has_its_place_in_the_order():
    assert rooms() == sorted(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_rooms_before_it(room):
    files = sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]
    allowed = ONLY.get(room, set(ORDER[: ORDER.index(room) + 1]))
    for file in files:
        others = imported(file) - allowed
        assert not others, f"{file.relative_to(PACKAGE)} imports {sorted(others)}"


def test_training_and_scoring_import_no_engine():
    """What reads logs is another extra: a machine that trains need not have it."""
    engines = {"ibis", "duckdb", "pyspark", "pandas"}
    rooms = (
        "io",
        "serving",
        "losses",
        "models",
        "tables",
        "devices",
        "runs",
        "ranking",
        "training",
    )
    for room in rooms:
        for file in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names]
                    module = getattr(node, "module", None)
                    roots = {name.split(".")[0] for name in ([module] if module else names)}
                    assert not roots & engines, file
