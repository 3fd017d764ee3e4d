"""The simulator's variants: its options together, by name and by flags."""

import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from interactrank_jax.cli.commands import COMMANDS
from interactrank_jax.cli.entry import main
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.log.simulator.presets import PRESETS, VARIANTS, SimulatorConfig, resolve
from interactrank_jax.log.simulator.simulate import simulate
from interactrank_jax.log.validate import validate
from tests.conftest import REPOSITORY
from tests.log.simulator.reading import rows_of, world_of


def combinations():
    """Yields every set of variants that go together, by name."""
    for labels, slate in itertools.product(
        ("", "labels_1", "labels_50"), ("", "slate_3", "slate_300")
    ):
        for flags in itertools.product(("", "drift"), ("", "turnover"), ("", "positives")):
            yield ",".join(filter(None, (*flags, labels, slate)))


ALL = [name for name in combinations() if "," in name]
# Every pair of variants that go together is among these.
SOME = [
    "drift,turnover,positives,labels_50,slate_300",
    "drift,turnover,labels_1,slate_3",
    "turnover,positives,labels_1,slate_300",
    "drift,positives,labels_50,slate_3",
    "drift,positives,labels_1",
    "turnover,labels_50,slate_3",
    "turnover,positives,slate_3",
]


def test_the_combinations_that_are_tried_hold_every_pair_of_variants():
    pairs = {pair for name in ALL for pair in itertools.combinations(name.split(","), 2)}
    tried = {pair for name in SOME for pair in itertools.combinations(name.split(","), 2)}
    assert tried == pairs


@pytest.mark.long  # simulates a log for each case
@pytest.mark.parametrize(
    "variant",
    [name if name in SOME else pytest.param(name, marks=pytest.mark.thorough) for name in ALL],
)
def test_options_work_together(tmp_path, variant):
    path, names = tmp_path / "log", variant.split(",")
    summary = simulate("tiny", 3, path, variant)
    config, rows = resolve("tiny", variant), rows_of(path)
    checked = validate(open_log(path))
    assert checked["impressions"] == summary["impressions"]
    assert checked["duplicate_events"] == 0
    everything = config.requests * config.slate
    if config.engaged_share:
        share = rows["engaged"].sum() / everything
        noise = 4 * np.sqrt(config.engaged_share / everything)
        assert share == pytest.approx(config.engaged_share, abs=0.1 * config.engaged_share + noise)
    if "positives" in names:
        assert rows["engaged"].all()
        assert (path / "ratings" / "ratings.parquet").exists()
    else:
        assert summary["impressions"] == everything
        assert roc_auc_score(rows["engaged"], rows["truth_appeal"]) > 0.65
    # An oracle that rebuilds the world knows what items appeal to requests, and which exist.
    world = world_of(path)
    assert world.config.turnover == config.turnover
    assert not world.items.absent(rows["item"][:, None], rows["time"]).any()
    appeal = world.appeal(rows["query"], rows["user"], rows["time"], rows["item"][:, None])
    np.testing.assert_allclose(appeal.total[:, 0], rows["truth_appeal"], atol=1e-4)
    assert ("truth_trend" in rows) == ("drift" in names)


def test_variants_give_the_same_bytes_for_the_same_seed(tmp_path):
    for name in ("first", "second"):
        simulate("tiny", 5, tmp_path / name, SOME[0])
    files = [path for path in sorted((tmp_path / "first").rglob("*")) if path.is_file()]
    for file in files:
        assert (
            file.read_bytes()
            == (tmp_path / "second" / file.relative_to(tmp_path / "first")).read_bytes()
        )


def test_flags_say_the_same_as_variants(tmp_path, capsys):
    flags = ["--turnover=0.5", "--engaged_share=0.01", "--positives-only=true", "--slate=3"]
    command = ["simulate", "--preset=tiny", "--seed=2", f"--out={tmp_path / 'flags'}"]
    assert main([*command, "--variant=drift", *flags]) == 0
    assert "variant: drift" in capsys.readouterr().out
    simulate("tiny", 2, tmp_path / "named", "drift,turnover,labels_1,positives,slate_3")
    for table in ("items", "requests", "impressions", "events", "truth/impressions"):
        assert pq.read_table(tmp_path / "flags" / table).equals(
            pq.read_table(tmp_path / "named" / table)
        )


def test_the_help_and_the_docs_name_every_variant():
    page = (REPOSITORY / "docs" / "data.md").read_text()
    for name in VARIANTS:
        assert name in COMMANDS["simulate"].flags["variant"][1]
        assert f"| `{name}` |" in page


def test_a_field_that_is_given_goes_before_a_variant_and_the_later_variant_before_the_earlier():
    assert resolve("tiny", "labels_1,labels_50").engaged_share == 0.5
    assert resolve("tiny", "slate_300", slate=5, pool=60).slate == 5
    assert resolve("tiny", "slate_300").pool == 600
    assert resolve("tiny", "") == PRESETS["tiny"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("variant", [*VARIANTS, SOME[0], SOME[1]])
def test_every_preset_has_every_variant(preset, variant):
    config = resolve(preset, variant)
    assert config != PRESETS[preset]
    assert SimulatorConfig(**config.to_json()) == config


@pytest.mark.parametrize(
    ("variant", "overrides", "message"),
    [
        ("drfit", {}, "Did you mean 'drift'"),
        ("", {"turnover": 1.0}, "0 to below 1"),
        ("", {"turnover": -0.1}, "0 to below 1"),
        ("", {"turnover": 0.9}, "fewer than the pool"),
        ("turnover", {"items": 250}, "last for the 73 days of a retrieval index"),
        ("", {"engaged_share": 0.6}, "A smaller 'examination'"),
        ("labels_50", {"examination": 0.5}, "examine 50% of the rows"),
        ("", {"engaged_share": -0.1}, "0 \\(off\\)"),
        ("", {"trend": -1.0}, "0 \\(off\\) to 10"),
        ("", {"trend": 11.0}, "0 \\(off\\) to 10"),
        ("", {"trend": float("nan")}, "Expected a finite number"),
        ("", {"trend_half_life_days": 0.0}, "Expected 0.5 or more"),
        ("", {"positives_only": 1}, "Expected True or False"),
        ("", {"slate": 300}, "fewer than the pool of 600"),
    ],
)
def test_wrong_options_are_errors_that_help(tmp_path, variant, overrides, message):
    with pytest.raises(InputError, match=message):
        simulate("tiny", 0, tmp_path / "log", variant, **overrides)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--turnover=half", "Expected a number"),
        ("--slate=2.5", "Expected an integer"),
        ("--positives_only=perhaps", "Expected true or false"),
    ],
)
def test_wrong_flags_are_errors_that_help(tmp_path, capsys, flag, message):
    assert main(["simulate", "--preset=tiny", f"--out={tmp_path / 'log'}", flag]) == 2
    assert message in capsys.readouterr().err
