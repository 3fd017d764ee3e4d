"""Writes the recorded values anew: `python -m tests.golden.record`, where they are meant to move.

Of MovieLens-100K, where its owner's files are at hand, digests alone are kept: no value of it.
"""

import json
import tempfile
from pathlib import Path

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from tests.golden.canonical import summary
from tests.golden.cases import CASES, REAL

VALUES = Path(__file__).with_name("values.json")


def prepare_case(name: str, root: Path) -> dict[str, list]:
    """Prepares a case below a directory; returns the summary of its examples."""
    write, config = CASES[name]
    log = write(root / "log")
    prepare(config(), log, root / "examples")
    result = summary(Examples(root / "examples"))
    return {key: value[:1] for key, value in result.items()} if name in REAL else result


def main() -> None:
    """Records every case that can be made here; keeps the others."""
    values = json.loads(VALUES.read_text()) if VALUES.exists() else {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as root:
            values[name] = prepare_case(name, Path(root))
    lines = [
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in columns.items())
        + "\n }"
        for name, columns in values.items()
    ]
    VALUES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
