"""The README and docs/: their commands, config fields, files, links and tables are true."""

import importlib
import importlib.util
import json
import re
import shlex
import tokenize
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.config import fields
from interactrank_jax.losses import LOSSES
from interactrank_jax.models.registry import MODELS
from tests.conftest import REPOSITORY

PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text()
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
README = PAGES["README.md"]
# A page and a command that are named before they are there.
COMING: set[str] = set()  # pages and commands that are named before they are there
SMALL = (
    "--config.train.batch_size=32",
    "--config.train.max_steps=4",
    "--config.evaluate.bootstrap=20",
)
# In place of what is so at preset small. A model of four steps has not drifted far.
AT_TINY_SIZE = {"--preset=small": "--preset=tiny", "--request=49000": "--request=1999"}
FURTHER_FLAGS = {
    "train": SMALL,
    "state report": ("--max_psi=9", "--max_null_rate=1"),  # 2,000 requests drift at random
    "export": ("--onnx=0",),
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def section(page: str, title: str) -> str:
    return re.split(rf"^## {title}\n", PAGES[page], flags=re.MULTILINE)[1].split("\n## ")[0]


def commands(text: str) -> list[list[str]]:
    """Returns the arguments of each `interactrank` in the bash and indented blocks of a text."""
    argument_lists = []
    for block in (*blocks(text, "bash"), "\n".join(re.findall(r"^ {4}.*", text, re.MULTILINE))):
        for line in block.replace("\\\n", " ").replace("$process", "0").splitlines():
            if match := re.search(r"(?:^|[\s/])interactrank ([a-z].*?)(?:[&\"].*)?$", line):
                argument_lists.append(shlex.split(match[1]))
    return argument_lists


def of_ours(argv: list[str]) -> list[str]:
    """Returns arguments with a config of ours in place of a reader's own file."""
    return [
        "--config=configs/interactrank.py"
        if argument.startswith("--config=") and not argument.startswith("--config=configs/")
        else argument
        for argument in argv
    ]


def run(argv: list[str]) -> None:
    command, _ = cli.split_command(argv)
    argv = [AT_TINY_SIZE.get(argument, argument) for argument in argv]
    assert cli.main([*argv, *FURTHER_FLAGS.get(command, ())]) == 0, argv


@pytest.mark.thorough  # every station by its command
def test_the_commands_work_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    stations = commands(section("README.md", "Eight commands"))
    assert len(stations) == 8
    at_bundle = [argv[0] for argv in stations].index("export")
    for argv in (
        *stations[:at_bundle],
        *commands(section("docs/training.md", "Evaluating a run, and scoring a split")),
        *commands(section("docs/features.md", "STATE")),
    ):
        run(argv)
    assert (tmp_path / "runs/scores-of-test/scores.parquet").is_file()
    assert (tmp_path / "runs/report/report.png").is_file()
    printed = capsys.readouterr().out
    for expected in ("no leak found", "| interactrank |", "| bm25 |", "| share:click:365 |"):
        assert expected in printed
    pytest.importorskip("flatbuffers", reason="jax exports nothing without it")
    requests = pq.read_table(tmp_path / "runs/log/requests").slice(1_900)
    shown = pq.read_table(tmp_path / "runs/log/impressions", columns=["request_id", "item_id"])
    is_asked = pa.compute.is_in(shown["request_id"], requests["request_id"])
    pq.write_table(requests, tmp_path / "runs/requests.parquet")
    pq.write_table(shown.filter(is_asked), tmp_path / "runs/candidates.parquet")
    for argv in stations[at_bundle:]:
        run(argv)
    ranked = pq.read_table(tmp_path / "runs/scores/scores.parquet")
    assert set(ranked["request_id"].to_pylist()) == set(requests["request_id"].to_pylist())


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(monkeypatch, page):
    monkeypatch.chdir(REPOSITORY)
    for argv in commands(PAGES[page]):
        command, flags = cli.split_command(of_ours(argv))
        assert command in cli.COMMANDS, argv
        if flags:
            cli.parse(cli.COMMANDS[command], command, flags)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_a_sentence_exists_with_its_flags(page):
    for text in re.findall(r"`(?:interactrank )((?:[^`]|\n)+)`", PAGES[page]):
        command, flags = cli.split_command(text.split())
        assert command in {*cli.COMMANDS, *COMING, "help", "state"}, text
        names = {flag.partition("=")[0] for flag in flags if flag.startswith("--")}
        known = {f"--{name}" for name in (*cli.COMMANDS[command].flags, "config")} if names else {}
        assert {name for name in names if not name.startswith("--config.")} <= set(known), text


@pytest.mark.parametrize("page", PAGES)
def test_every_script_exists_with_its_flags(page, capsys):
    text = PAGES[page].replace("\\\n", " ")
    for module, rest in re.findall(r"python -m ([\w.]+\w)([^`\n]*)", text):
        assert importlib.util.find_spec(module), module
        flags = set(re.findall(r"--\w+", rest))
        if flags:
            with pytest.raises(SystemExit):
                importlib.import_module(module).main(["--help"])
            assert flags <= set(re.findall(r"--\w+", capsys.readouterr().out)), module


def test_every_make_target_exists():
    makefile = (REPOSITORY / "Makefile").read_text()
    for text in PAGES.values():
        for target in re.findall(r"^make ((?:\w+ ?)+)", "\n".join(blocks(text, "bash")), re.M):
            for name in target.split():
                assert re.search(rf"^{name}:", makefile, re.M), name


@pytest.fixture
def examples_of_extending(registries):
    """What the Python blocks of docs/extending.md define."""
    names: dict = {}
    for block in blocks(PAGES["docs/extending.md"], "python"):
        exec(compile(block, "docs/extending.md", "exec"), names)
    return names


def test_a_model_and_a_loss_are_added_as_extending_says(examples_of_extending):
    assert MODELS["mine"].model is examples_of_extending["Mine"]
    config = examples_of_extending["get_config"]("search")
    fields.check(config)
    assert config.model.name == "mine"
    loss = LOSSES["squared"].loss
    logits, labels = ([[1.0, 2.0]], [[0.0, 0.0]])
    arrays = (importlib.import_module("jax.numpy").asarray(rows) for rows in (logits, labels))
    assert float(loss(*arrays).mean()) == pytest.approx(2.5)


@pytest.mark.parametrize("page", PAGES)
def test_every_config_field_exists(examples_of_extending, page):
    known = set(re.findall(r"^\| `([a-z_.\d]+)` \|", PAGES["docs/config.md"], re.M))
    known |= {field.name for entry in LOSSES.values() for field in entry.fields}
    parts = {".".join(name.split(".")[:n]) for name in known for n in (1, 2, 3)}
    for name in re.findall(r"`((?:data|label|model|train|evaluate)\.[a-z_.\d]+)", PAGES[page]):
        assert name in known | parts, name


def test_the_tables_of_parts_name_fields_of_the_config():
    table = section("docs/models.md", "What InteractRank is made of, and how to switch it off")
    assert len(re.findall(r"`((?:data|label|model|train)\.)", table)) >= 10


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_module_exists(page):
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    for path in re.findall(
        r"`((?:interactrank_jax|experiments|tests|configs|docs)/[\w./*-]*|\.ci/run)", text
    ):
        if "NAME" in path:
            path = str(Path(path).parent)
        path = path.rstrip("/")
        assert [*REPOSITORY.glob(path), *REPOSITORY.glob(f"{path}.py")], path
    for name in re.findall(r"`((?:interactrank_jax|ir)\.\w[\w.]*\w)", text):
        name = re.sub(r"^ir\.", "interactrank_jax.", name)
        parts = name.split(".")
        depth = next(n for n in range(len(parts), 0, -1) if is_module(".".join(parts[:n])))
        value = importlib.import_module(".".join(parts[:depth]))
        for part in parts[depth:]:
            value = getattr(value, part)


@pytest.mark.parametrize("directory", ["interactrank_jax", "experiments", "configs"])
def test_every_file_named_in_a_docstring_or_comment_exists(directory):
    for path in (REPOSITORY / directory).rglob("*.py"):
        with path.open("rb") as opened:
            texts = [
                token.string
                for token in tokenize.tokenize(opened.readline)
                if token.type == tokenize.COMMENT or token.string.lstrip("r").startswith('"""')
            ]
        below = [path.parent, *path.parents, REPOSITORY / "interactrank_jax"]
        for name in re.findall(r"[\w/]*\w\.py\b", "\n".join(texts)):
            assert any((parent / name).exists() for parent in below), f"{path}: {name}"


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def anchors(text: str) -> set[str]:
    """Returns the anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page
        if path:
            resolved = (REPOSITORY / page).parent.joinpath(path).resolve()
            target = resolved.relative_to(REPOSITORY).as_posix()
        if target not in COMING:
            assert (REPOSITORY / target).exists(), link
            assert not anchor or anchor in anchors(PAGES[target]), link


def test_nothing_that_is_there_is_still_coming():
    assert not COMING & {*PAGES, *cli.COMMANDS}


def test_every_page_is_linked_from_the_readme():
    assert {page for page in PAGES if page.startswith("docs/")} <= {
        f"docs/{name}" for name in re.findall(r"\]\(docs/([\w.]+)", README)
    }


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_flops_in_the_readme_are_those_of_the_results():
    rows = json.loads((REPOSITORY / "experiments/results/public_datasets.json").read_text())
    table = dict(re.findall(r"^\| `(\w+)` \| [^|]* \| ([\d,]+) \|", README, re.MULTILINE))
    counted = {
        row["model"]: f"{row['serving_flops_per_candidate']:,.0f}"
        for row in rows
        if row["dataset"] == "search" and row["serving_flops_per_candidate"]
    }
    assert table == counted


def test_the_models_table_names_every_model():
    named = set(re.findall(r"`(\w+)`", section("README.md", "Models")))
    assert {name for name, entry in MODELS.items() if entry.is_ours} <= named


def test_the_schema_in_the_docs_is_valid():
    from interactrank_jax.log.schema import Schema

    (text,) = blocks(PAGES["docs/data.md"], "json")
    assert Schema.from_json(json.loads(text)).actions
