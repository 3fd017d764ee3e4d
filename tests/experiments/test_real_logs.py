"""From a download to a table: by one script, and by the four commands of docs/data.md."""

import json
import re

import pytest

from experiments import comparison, logs, real_logs
from interactrank_jax import cli
from interactrank_jax.config import data_sets
from interactrank_jax.io.errors import InputError
from tests.conftest import REPOSITORY
from tests.experiments.test_comparison import row
from tests.log.adapters import raw_kuaisearch, raw_open_bandit, raw_recflow
from tests.log.simulator.test_judged import judged

DOWNLOADS = {
    "recflow": raw_recflow.trainable,
    "kuaisearch": raw_kuaisearch.trainable,
    "open_bandit": raw_open_bandit.trainable,
    "homedepot": judged,
}
# By command, so that most of the time is not the compiler's.
_SMALL_DATA = ("--config.data.slate=8", "--config.data.history.length=4")
SMALL = {
    "prepare": _SMALL_DATA,
    "train": (
        *_SMALL_DATA,
        *("--config.train.batch_size=16", "--config.train.max_steps=4"),
        *("--config.train.eval_every=4", "--config.evaluate.bootstrap=20"),
        *("--config.model.tower.hidden=(16,)", "--config.model.tower.masknet.blocks=1"),
    ),
}


def commands(dataset: str) -> list[list[str]]:
    """Returns the four commands of docs/data.md for a data set, without `interactrank`."""
    text = (REPOSITORY / "docs/data.md").read_text()
    block = next(
        b for b in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if f"/{dataset}/" in b
    )
    return [line.split()[1:] for line in block.strip().splitlines()]


@pytest.mark.parametrize("dataset", DOWNLOADS)
def test_the_documented_commands_parse(dataset, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    made = commands(dataset)
    first = "simulate" if dataset == "homedepot" else "convert"
    assert [argv[0] for argv in made] == [first, "prepare", "train", "evaluate"]
    for argv in made:
        command, flags = cli.split_command(argv)
        cli.parse(cli.COMMANDS[command], command, flags)


@pytest.mark.long  # every station by its command
@pytest.mark.parametrize("dataset", DOWNLOADS)
def test_the_documented_commands_lead_from_the_download_to_a_table(
    dataset, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(REPOSITORY)
    source = DOWNLOADS[dataset](tmp_path / "download")
    for argv in commands(dataset):
        argv = [re.sub(r"=runs/\w+/", f"={tmp_path}/", arg) for arg in argv]
        argv = [re.sub("^--(source|judgments)=.*", rf"--\1={source}", arg) for arg in argv]
        argv = [arg.replace("=medium", "=tiny") for arg in argv]
        assert cli.main([*argv, *SMALL.get(argv[0], ())]) == 0, argv
    assert "| interactrank |" in capsys.readouterr().out


@pytest.mark.long  # trains in a process of its own
def test_the_script_leads_from_the_download_to_a_table_and_does_nothing_twice(tmp_path, capsys):
    source = raw_open_bandit.trainable(tmp_path / "download")
    flags = ["--dataset=open_bandit", f"--source={source}", f"--out={tmp_path / 'out'}", "--quick"]
    flags += ["--models", "two_tower"]
    assert real_logs.main(flags) == 0
    part = real_logs._part("open_bandit", source)
    out = tmp_path / "out/open_bandit" / part / "quick"
    table = (out / "table.md").read_text()
    assert table.strip() in capsys.readouterr().out
    assert "One candidate per request and no users" in table
    (row,) = json.loads((out / "real_logs.json").read_text())
    assert (row["dataset"], row["model"], row["seeds"]) == ("open_bandit", "two_tower", 1)
    assert 0 <= row["auc_mean"] <= 1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["configs"]["two_tower"]["data"]["slate"] == 1
    before = (out / "real_logs.json").read_text()
    assert real_logs.main(flags) == 0
    assert "log ..." not in capsys.readouterr().out
    assert (out / "real_logs.json").read_text() == before


def test_every_data_set_has_a_config_and_an_adapter():
    for dataset, (argument, _) in real_logs.DATASETS.items():
        assert argument in data_sets.DATA_SETS
        assert dataset in (*logs.SIMULATED, *logs.ADAPTERS)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=recflow", "--models", "fits"], "--models=fits. Did you mean 'fit'"),
        (["--dataset=recflow"], "no-such is no directory. Expected RecFlow's directory"),
        (["--dataset=homedepot", "--preset=small"], "no-such does not exist. Expected the"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path, capsys, flags, message):
    flags = [*flags, f"--source={tmp_path / 'no-such'}", f"--out={tmp_path / 'out'}"]
    assert real_logs.main(flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_log_of_a_data_set_needs_its_source(tmp_path):
    for dataset in ("homedepot", "kuaisearch"):
        with pytest.raises(InputError, match=f"--dataset={dataset} needs --source"):
            logs.make_log(dataset, None, "tiny", tmp_path)


def test_the_log_of_the_home_depot_judgments_is_of_the_size_asked_for(tmp_path):
    path = logs.make_log("homedepot", judged(tmp_path / "data"), "tiny", tmp_path)
    assert path == tmp_path / "log-tiny"
    assert json.loads((path / "truth/config.json").read_text())["judgments"]


def test_a_log_of_another_download_is_refused_and_campaigns_do_not_mix(tmp_path, capsys):
    first = raw_open_bandit.trainable(tmp_path / "random/all")
    other = raw_open_bandit.trainable(tmp_path / "bts/all")
    log = logs.make_log("open_bandit", first, "", tmp_path / "out")
    assert logs.make_log("open_bandit", first, "", tmp_path / "out") == log
    with pytest.raises(InputError, match=r"was made of .*random/all, not of .*bts/all"):
        logs.make_log("open_bandit", other, "", tmp_path / "out")
    (tmp_path / "out/log.source.json").unlink()
    with pytest.raises(InputError, match="does not say what it was made of"):
        logs.make_log("open_bandit", first, "", tmp_path / "out")
    parts = [real_logs._part("open_bandit", each) for each in (first, other)]
    assert parts == ["random-all", "bts-all"]
    results = tmp_path / "results.json"
    comparison.merge(results, [row("fit", part=part) for part in parts])
    comparison.merge(results, [row("fit", part=parts[0], auc=0.8)])
    kept = json.loads(results.read_text())
    assert [(each["part"], each["auc_mean"]) for each in kept] == [(parts[0], 0.8), (parts[1], 0.7)]
    with pytest.raises(InputError, match="do not belong in one table"):
        comparison.table(kept)


def test_a_quick_run_merges_nothing_into_results(tmp_path, capsys):
    flags = ["--dataset=recflow", f"--source={tmp_path}", f"--out={tmp_path / 'out'}", "--quick"]
    assert real_logs.main([*flags, f"--json={tmp_path / 'results.json'}"]) == 2
    assert "rows of the smallest sizes would replace those of full runs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
