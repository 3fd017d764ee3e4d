"""Data flows one way: a room imports only from rooms before it."""

import ast
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "interactrank_jax"
# By room, the rooms of the package that it may import; '' stands for the modules of the top level.
ROOMS = {
    "io": {"io"},
    "log": {"io", "log"},
    "state": {"io", "log", "state", "fields"},
    "examples": {"io", "log", "state", "examples", "fields", "configuration"},
    "losses": {"io", "losses", "registration", "field_table", "field_kinds"},
}


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


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_before_it(room):
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    for file in files:
        others = imported(file) - ROOMS[room]
        assert not others, f"{file.relative_to(PACKAGE)} imports {sorted(others)}"


def test_training_and_scoring_import_no_engine():
    """What reads logs is another extra: a machine that trains need not have it."""
    engines = {"ibis", "duckdb", "pyspark", "pandas"}
    for room in ("io", "losses", "models", "scoring"):
        for file in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names]
                    module = getattr(node, "module", None)
                    roots = {name.split(".")[0] for name in ([module] if module else names)}
                    assert not roots & engines, file
