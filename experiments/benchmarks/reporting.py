"""What the benchmarks share: their flags, and the record that each leaves."""

import argparse
import concurrent.futures
import importlib.metadata
import json
import multiprocessing
import os
import subprocess
from pathlib import Path
from typing import Any

from interactrank_jax.io import files

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "grain", "duckdb", "torch", "faiss-cpu", "usearch")


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser with `--quick`, `--seed`, `--out` and `--json`."""
    result = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--quick", action="store_true", help="smallest sizes: shows that it runs")
    result.add_argument("--out", type=Path, help="directory to write the record into")
    result.add_argument("--json", type=Path, help="file to write the record to")
    return result


def report(
    name: str, arguments: argparse.Namespace, figures: dict[str, Any], **context: Any
) -> None:
    """Prints the figures; writes them with their context, options, versions and machine's load."""
    print(json.dumps(figures, indent=2))
    options = {  # without paths, which are of this machine alone
        key: value
        for key, value in vars(arguments).items()
        if key not in ("out", "json") and not isinstance(value, Path)
    }
    record = {
        **figures,
        **context,
        "seed": arguments.seed,
        "options": {key: _plain(value) for key, value in options.items()},
        **provenance(*PACKAGES),
        "cpu_count": os.cpu_count(),
        "load_average": os.getloadavg(),
    }
    for path in (arguments.json, arguments.out and arguments.out / f"{name}.json"):
        if path:
            files.write_json(path, record)


def apart(function: Any, *arguments: Any) -> Any:
    """Calls a function in a fresh process and returns what it returns."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def peak_gib() -> float:
    """Returns the most memory that this process ever had resident (Linux).

    Not by getrusage: what that says is inherited from the process that started this one.
    """
    return _memory("VmHWM")


def resident_gib() -> float:
    """Returns the memory that this process has resident now (Linux)."""
    return _memory("VmRSS")


def _memory(name: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 2**20


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def provenance(*packages: str) -> dict[str, Any]:
    """Returns what made a result: `versions` of packages and the `commit` of this checkout.

    Args:
      *packages: by default those that a training's figures depend on.
    """
    names = packages or ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")
    return {"versions": versions(*names), "commit": commit()}


def commit() -> str | None:
    """Returns the hash of the commit, '-dirty' after it where tracked files differ from it.

    None outside of a checkout: the hash of a repository around a copy would mislead.
    """
    if not (REPOSITORY / ".git").exists():
        return None
    command = ("git", "-C", str(REPOSITORY), "describe", "--always", "--exclude=*", "--dirty")
    try:
        described = subprocess.run(
            (*command, "--abbrev=40"), capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
