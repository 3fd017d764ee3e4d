"""Writes what README, docs/results.md and configs/ say of results, from the JSON files in results/.

    python -m experiments.make_results

`results/page.md` is that page with fields in place of figures, in the syntax of `str.format`:

    {table[NAME]}                           a table, see `tables`
    {row[DATASET PROTOCOL MODEL][KEY]}      a value of a row of `public_datasets.json`
    {FILE[KEY]}                             a value of FILE.json

To add a table of another file, add one entry to `TABLES` and its field to the page. A data set that
`public_datasets` adds needs its field alone. The README shows the online test of
`quickstart.json`, and the docstring of a config ends with its model's rows.
"""

import argparse
import re
import string
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import (
    ab_test,
    cells,
    comparison,
    contenders,
    defaults,
    efficiency,
    freshness,
    interactrank_offline,
    loop_summary,
    over_inputs,
    quickstart,
    trials,
    unseen_queries,
)
from experiments.benchmarks import score_tables
from experiments.command_line import exit_status
from experiments.public_datasets import ARGUMENTS
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "experiments/results"
TEMPLATE = RESULTS / "page.md"
PAGE, README = REPOSITORY / "docs/results.md", REPOSITORY / "README.md"
COMPARED, QUICKSTART = "public_datasets", "quickstart"

# What the quickstart prints at its end stands in a block of its own.
_PRINTED = re.compile(r"^```\nExpected fulfilment of .*?^```$", re.DOTALL | re.MULTILINE)
# A config's docstring ends with its results, from these words on.
EXPECTED = "Expected on the test split"
_EXPECTED = re.compile(rf'^{EXPECTED}.*?(?=""")', re.DOTALL | re.MULTILINE)


def prepare_table(results: Mapping[str, Any]) -> str:
    """Returns the Markdown table of `benchmarks/prepare.py`: a row per size of the log."""
    columns = ("impressions", "seconds", "impressions/s", "peak memory", "seconds over before")
    lines = cells.header(columns)
    for size in ("1m", "10m", "100m"):
        before = results.get(f"seconds_over_before_{size}")
        texts = [
            size.upper(),
            f"{results[f'seconds_{size}']:,.1f}",
            f"{results[f'rows_per_s_{size}']:,.0f}",
            f"{results[f'peak_gib_{size}']:.1f} GiB",
            cells.number(before, ".2f"),
        ]
        lines.append(cells.row(texts))
    return "\n".join(lines)


def vmap_table(results: Mapping[str, Any]) -> str:
    """Returns the Markdown table of models in one step: a row per number of models."""
    lines = cells.header(["size", "models", "examples/s, one by one", "together", "ratio"])
    for size, counts in results["examples_per_s"].items():
        for count, rates in counts.items():
            ratio = results["throughput_ratio_by_models"][size][count]
            texts = [f"{rates[way]:,.0f}" for way in ("one_by_one", "together")]
            lines.append(cells.row([size, count, *texts, f"{ratio:.2f}"]))
    return "\n".join(lines)


def over_inputs_table(results: Mapping[str, Any]) -> str:
    """Returns the Markdown table of models beside reference lines: a row per log and model."""
    return over_inputs.table(results["rows"])


# Name of a JSON file in results/, and of its table -> what makes the table of its content.
TABLES: dict[str, Callable[[Any], str]] = {
    "freshness": lambda results: freshness.table(results["rows"]),
    "unseen_queries": lambda results: unseen_queries.table(results["rows"]),
    "prepare": prepare_table,
    "ab_test": ab_test.table,
    "closed_loop": loop_summary.table,
    "interactrank_offline": interactrank_offline.table,
    "defaults": lambda results: defaults.table(results["validation"]),
    "over_inputs": over_inputs_table,
    "over_inputs_medium": over_inputs_table,
    "over_inputs_movielens_1m": over_inputs_table,
    "quickstart": quickstart.offline,
    "vmap_sweep": vmap_table,
    "score_corpus": score_tables.corpus,
    "score_lists": score_tables.lists,
    "score_latency": score_tables.latency,
    "efficiency": lambda results: efficiency.table(results["models"], efficiency.COLUMNS),
}


def compared(rows: Sequence[comparison.Row]) -> str:
    """Returns the table of one data set and protocol, with the differences below it."""
    rows = sorted(rows, key=lambda row: contenders.MODELS.index(row["model"]))
    lines = [f"- {line}." for line in comparison.versus(rows)]
    lines += [f"- {row['model']}: {row['note']}." for row in rows if row["note"]]
    return "\n\n".join(filter(None, (comparison.table(rows), "\n".join(lines))))


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Returns every table by its name: 'DATASET PROTOCOL', or the name of a file in `TABLES`.

    Args:
      results: content of the JSON files by name.
    """
    rows = results[COMPARED]
    keys = dict.fromkeys((row["dataset"], row["protocol"]) for row in rows)
    made = {
        " ".join(key): compared([row for row in rows if (row["dataset"], row["protocol"]) == key])
        for key in keys
    }
    return made | {name: make(results[name]) for name, make in TABLES.items()}


def read(directory: Path) -> dict[str, Any]:
    """Returns the content of the JSON files of a directory by name."""
    return {path.stem: files.read_json(path) for path in sorted(directory.glob("*.json"))}


def page(results: Mapping[str, Any], template: str) -> str:
    """Returns the page: the template with its fields filled in.

    Raises:
      InputError: a field that no result has, or a table that the page does not show.
    """
    made = tables(results)
    row = {" ".join(row[name] for name in comparison.KEY): row for row in results[COMPARED]}
    values = {**results, "table": made, "row": row}
    fields = [field for _, field, _, _ in string.Formatter().parse(template) if field]
    for name in made:
        if f"table[{name}]" not in fields:
            raise InputError(f"the page lacks {{table[{name}]}}. Add it where it belongs.")
    try:
        return template.format_map(values)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"a field of the page names no result: {error!r}.") from error


def expected(model: str, rows: Sequence[comparison.Row]) -> str:
    """Returns the end of a config's docstring: what the model came to, by data set.

    Rows of the protocol that leaks the label are left out.
    """
    lines = [
        f"{EXPECTED}, mean ± deviation over seeds; docs/results.md says by which code.",
        "Hardware: two CPU cores of a shared machine, two trainings at once. Time: training",
        "examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.",
        "",
    ]
    for key, argument in ARGUMENTS.items():
        for row in rows:
            of_key = tuple(row[name] for name in comparison.KEY) == (*key, model)
            if of_key and not row["leaks"]:
                lines += _expected_lines(argument, row)
    if not lines[-1]:
        raise InputError(f"no result of {model} in {COMPARED}.json.")
    return "\n".join(lines) + "\n"


def _expected_lines(argument: str, row: comparison.Row) -> list[str]:
    """Returns a result in lines that fit a docstring."""
    preset = f", preset {row['preset']}" if row["preset"] else ""
    lines = [
        f"    :{argument}{preset}, {row['seeds']} seeds",
        f"        ROC-AUC {row['auc_mean']:.4f} ± {row['auc_std']:.4f}, {row['grouped_metric']} "
        f"{row['grouped_auc_mean']:.4f}, log loss {row['logloss_mean']:.4f}, "
        f"{row['examples_per_s']:,} examples/s",
    ]
    changed = [f"{name}={value}" for name, value in {**row["overrides"], **row["chosen"]}.items()]
    if changed:
        indent = " " * 8
        text = "with " + ", ".join(changed)
        lines += textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=indent)
    return lines


def replaced(pattern: re.Pattern[str], text: str, where: Path) -> str:
    """Returns the content of a file with a text in place of the part that a pattern finds.

    Raises:
      InputError: the file has no such part.
    """
    content = where.read_text(encoding="utf-8")
    if not pattern.search(content):
        raise InputError(f"{where} has nothing like {pattern.pattern!r} to replace by results.")
    return pattern.sub(lambda _: text, content, count=1)


def written(directory: Path = RESULTS) -> dict[Path, str]:
    """Returns what each file that depends on the results in a directory must hold."""
    results = read(directory)
    printed = f"```\n{ab_test.headline(results[QUICKSTART]['ab_test'])}\n```"
    texts = {
        PAGE: page(results, TEMPLATE.read_text(encoding="utf-8")),
        README: replaced(_PRINTED, printed, README),
    }
    for path in sorted(trials.CONFIGS.glob("*.py")):
        texts[path] = replaced(_EXPECTED, expected(path.stem, results[COMPARED]), path)
    return texts


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.parse_args(argv)
    return exit_status("make_results", _main)


def _main() -> int:
    for path, text in written().items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(REPOSITORY))
    return 0


if __name__ == "__main__":
    sys.exit(main())
