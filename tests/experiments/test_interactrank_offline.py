"""InteractRank's offline comparison: its table, its logs, the script as a whole."""

import json

import pytest

from experiments import interactrank_offline
from tests.log.simulator.test_judged import judged


def test_the_offline_table_has_the_papers_flops_beside_ours():
    results = [
        {
            "metrics": dict.fromkeys(interactrank_offline.METRICS, value),
            "intervals": dict.fromkeys(interactrank_offline.METRICS, (0.6, 0.7)),
        }
        for value in (0.64, 0.66)
    ]
    ours = interactrank_offline.figures(results)
    assert ours["hit_at_3"]["mean"] == pytest.approx(0.65)
    assert ours["hit_at_3"]["std"] == pytest.approx(0.02 / 2**0.5)
    line = interactrank_offline.figures(results[:1])
    assert line["roc_auc"] == {"mean": 0.64, "std": None, "interval": [0.6, 0.7]}
    cost = {"serving_flops_per_candidate": 143.0, "ms_per_100k_candidates": 3.25}
    rows = [
        {
            "log": "search", "ranker": "iqp", "metrics": line,
            "serving_flops_per_candidate": 0.0, "ms_per_100k_candidates": None,
            "interactrank_minus": dict.fromkeys(interactrank_offline.COMPARED, (0.01, 0.0, 0.02)),
        },
        {"log": "search", "ranker": "interactrank", "metrics": ours, **cost,
         "interactrank_minus": {}},
    ]  # fmt: skip
    lines = interactrank_offline.table({"rows": rows}).splitlines()
    assert lines[2] == "| iqp |" + " 0.6400 |" * 7 + " 0 |  |  |"
    assert lines[3].endswith(" 0.6500 ± 0.0141 | 143 | 142 | 3.2 |")
    assert lines[7] == "| iqp |" + " +0.0100 [+0.0000, +0.0200] |" * 3
    # What is empty, and what was not run, is said.
    assert interactrank_offline.COSTS in lines
    assert interactrank_offline.SKIPPED in lines
    both = [*rows, *({**row, "log": "homedepot"} for row in rows)]
    lines = interactrank_offline.table({"rows": both}).splitlines()
    assert lines[0] == "search:"
    assert lines.count("homedepot:") == 1
    assert interactrank_offline.SKIPPED not in lines


def test_the_home_depot_log_is_made_of_the_judgments_that_a_flag_names(tmp_path):
    source = judged(tmp_path / "data")
    parser = interactrank_offline.parser()
    flags = ["--quick", f"--out={tmp_path / 'out'}"]
    (tmp_path / "out/quick/log-tiny").mkdir(parents=True)  # of the search log: not looked at
    assert set(interactrank_offline.settings(parser.parse_args(flags))) == {"search"}
    arguments = parser.parse_args([*flags, f"--judgments={source}"])
    setting = interactrank_offline.settings(arguments)["homedepot"]
    assert setting.argument == "search"
    assert setting.out == tmp_path / "out/quick/homedepot"
    assert json.loads((setting.log / "truth/config.json").read_text())["judgments"]


@pytest.mark.long  # two trainings
def test_the_smallest_offline_comparison_ends_in_its_table_and_file(tmp_path):
    file = tmp_path / "result.json"
    flags = ["--quick", f"--out={tmp_path / 'out'}", f"--json={file}"]
    assert interactrank_offline.main(flags) == 0
    content = json.loads(file.read_text())
    rows = {row["ranker"]: row for row in content["rows"]}
    assert set(rows) == {*interactrank_offline.BASELINES, *interactrank_offline.QUICK}
    assert rows["interactrank"]["serving_flops_per_candidate"] == 143
    assert rows["interactrank"]["config"]["model"]["name"] == "interactrank"
    assert rows["bm25"]["config"] is None
    for row in rows.values():
        means = {name: figure["mean"] for name, figure in row["metrics"].items()}
        assert all(0 <= value <= 1 for value in means.values())
        assert means["recall_at_10"] <= means["recall_at_100"] <= means["recall_at_1000"]
    value, low, high = rows["bm25"]["interactrank_minus"]["roc_auc"]
    assert low <= value <= high
    ours, bm25 = (rows[name]["metrics"]["roc_auc"]["mean"] for name in ("interactrank", "bm25"))
    assert value == pytest.approx(ours - bm25)
