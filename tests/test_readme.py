"""The README's commands, at tiny size."""

import json
import re

import pytest

from experiments import comparison, contenders
from interactrank_jax import cli
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
RESULTS = (REPOSITORY / "docs/results.md").read_text()
SMALL = (
    "--config.train.batch_size=32",
    "--config.train.max_steps=4",
    "--config.evaluate.bootstrap=20",
)


def commands(section: str) -> list[list[str]]:
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.split() for line in lines if line.startswith("interactrank ")]


# In place of what is so at preset small. A model of four steps has not drifted far.
AT_TINY_SIZE = {
    "--preset=small": "--preset=tiny",
    "--request=49000": "--request=1999",
}


@pytest.mark.thorough  # every station by its command
def test_the_commands_work_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    found = commands("Station by station")
    assert [line[1] for line in found][:4] == ["simulate", "prepare", "leaks", "train"]
    for _, *argv in (*found, *commands("STATE: what history knows")):
        argv = [AT_TINY_SIZE.get(argument, argument) for argument in argv]
        if argv[0] == "train":
            argv += SMALL
        if argv[:2] == ["state", "report"]:
            argv += ["--max_psi=9", "--max_null_rate=1"]  # two thousand requests drift at random
        assert cli.main(argv) == 0, argv
    assert (tmp_path / "runs/scores/scores.parquet").is_file()
    assert (tmp_path / "runs/report/report.png").is_file()
    printed = capsys.readouterr().out
    for expected in ("no leak found", "| interactrank |", "| bm25 |", "| share:click:365 |"):
        assert expected in printed


@pytest.mark.parametrize(
    "section", ["Station by station", "MovieLens", "STATE: what history knows"]
)
def test_every_command_and_config_field_in_the_readme_exists(section, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for _, *argv in commands(section):
        command, flags = cli.split_command(argv)
        cli.parse(cli.COMMANDS[command], command, flags)


def test_tables_are_those_of_the_committed_results():
    rows = json.loads((REPOSITORY / "experiments/results/public_datasets.json").read_text())
    rows.sort(key=lambda row: contenders.MODELS.index(row["model"]))
    for key in {(row["dataset"], row["protocol"]) for row in rows}:
        of_key = [row for row in rows if (row["dataset"], row["protocol"]) == key]
        assert f"### {', '.join(key)}" in RESULTS
        assert comparison.table(of_key) in RESULTS
        for line in comparison.versus(of_key):
            assert line in RESULTS


def test_config_fields_named_in_the_table_exist():
    from configs import interactrank

    config = interactrank.get_config()
    table = README.split("how to switch it off")[1].split("\n## ")[0]
    fields = re.findall(r"`((?:data|model|label|train)\.[a-z_.]+)", table)
    assert len(fields) >= 10
    for field in fields:
        value = config
        for name in field.split("."):
            value = value[name]


def test_the_schema_in_the_readme_is_valid():
    from interactrank_jax.log.schema import Schema

    text = re.findall(r"```json\n(.*?)```", README, re.DOTALL)[0]
    assert Schema.from_json(json.loads(text)).actions
