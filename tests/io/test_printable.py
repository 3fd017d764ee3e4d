"""What a log says is printed as text: a terminal obeys none of it."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.cli.command import show
from interactrank_jax.evaluation import tables
from interactrank_jax.examples.format import Examples, write_metadata
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.printable import cell, printable

HOSTILE = "\x1b]0;owned\x07 \x1b[2J \u202egnp.exe\u2066 a|b\r\n\x9b31m \u2028 \ud800"


def is_safe(text: str) -> bool:
    controls = {*map(chr, range(32)), *map(chr, range(127, 160))} - {"\n"}
    return not (controls | {*"\u202e\u2066\u2028\ud800"}) & set(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u202eb", r"a\u202eb"),
        ("two\nlines", "two\nlines"),
        ("tab\tbell\x07", r"tab\tbell\x07"),
        ("naïve 日本 🙂 می‌خواهم", "naïve 日本 🙂 می‌خواهم"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped_and_the_rest_kept(text, expected):
    assert printable(text) == expected


def test_a_cell_is_one_line_of_one_column():
    assert cell("a|b\nc") == r"a\|b\nc"
    assert is_safe(cell(HOSTILE))
    assert "\n" not in cell(HOSTILE)


def test_errors_and_figures_are_printed_safely(capsys):
    error = InputError(f"no item '{HOSTILE}'.")
    assert is_safe(str(error))
    assert "\\x1b]0;owned" in str(error)
    show("title", {HOSTILE: HOSTILE})
    assert is_safe(capsys.readouterr().out)
    result = {"name": HOSTILE, "metrics": {"auc": 0.5}, "intervals": {}, "heads": {HOSTILE: {}}}
    assert is_safe(tables.table([result]))
    assert is_safe(tables.part_table(result, "heads"))


def test_explain_escapes_titles_ids_and_the_request(trained_run, examples_path, tmp_path, capsys):
    text = HOSTILE.removesuffix("\ud800")  # no text of a Parquet file has halves of pairs
    path = Path(shutil.copytree(examples_path, tmp_path / "examples"))
    for name, columns in (
        ("raw/items", {"title": [None] + [text] * 80}),
        ("items/ids", {"item_id": [None] + [f"{text}{row}" for row in range(80)]}),
        ("raw/test", {"query_text": [text] * 45}),
    ):
        table = pq.read_table(path / f"{name}.parquet")
        for column, values in columns.items():
            table = table.set_column(
                table.column_names.index(column), column, pa.array(values, pa.string())
            )
        pq.write_table(table, path / f"{name}.parquet")
    write_metadata(path, Examples(path).metadata)
    flags = [f"--workdir={trained_run}", f"--examples={path}"]
    assert cli.main(["explain", *flags, "--request=test-3"]) == 0
    printed = capsys.readouterr().out
    assert is_safe(printed)
    assert r"\x1b]0;owned" in printed
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    columns = {line.replace(r"\|", "").count("|") for line in rows}
    assert len(columns) == 1  # of the table, whatever a title says
    assert cli.main(["explain", *flags, f"--request={text}"]) == 2
    assert is_safe(capsys.readouterr().err)
