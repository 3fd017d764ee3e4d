"""What serving costs: XLA's counts agree with formulas, and grow only with what they should."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from experiments import efficiency
from experiments.benchmarks.workload import make_workload
from interactrank_jax.models.registry import MODELS
from interactrank_jax.models.two_tower import Query
from interactrank_jax.runs.run import Run

# Sums of n terms counted as n or n - 1, and what XLA computes twice rather than keep.
ABSOLUTE, RELATIVE = 2, 0.002


@pytest.fixture(scope="module")
def metadata():
    return make_workload(1_500).metadata


@pytest.mark.long  # compiles many small programs
@pytest.mark.parametrize("name", MODELS)
def test_xla_and_the_formula_agree(metadata, name):
    run = efficiency.make_run(name, metadata)
    expected = efficiency.analytic_flops(run)
    if expected is None:
        pytest.skip(f"'{name}' was registered without a formula")
    counted = efficiency.serving_flops(run)
    slack = max(ABSOLUTE, RELATIVE * expected)
    assert expected - slack <= counted <= expected + slack


def test_every_model_of_ours_has_a_formula():
    assert [name for name, entry in MODELS.items() if entry.is_ours and not entry.flops] == []


def test_a_model_without_a_formula_is_listed_without_one(metadata, registries):
    before = MODELS["two_tower"]
    MODELS["two_tower"] = dataclasses.replace(before, flops=None)
    row = efficiency.measure("two_tower", metadata, candidates=4_000, seed=0)
    assert row["analytic_flops_per_candidate"] is None
    line = efficiency.table([row], efficiency.COLUMNS).splitlines()[-1]
    assert line.startswith("| two_tower | yes | 130 |  | 256 |")


def test_interactrank_costs_what_its_paper_says(metadata):
    run = efficiency.make_run("interactrank", metadata)
    assert efficiency.analytic_flops(run) == 142
    assert efficiency.serving_flops(run) == 143  # with the bias


def test_the_formula_follows_what_is_switched_off(metadata):
    late = {"user_heads": 0}
    whole = efficiency.analytic_flops(efficiency.make_run("interactfit", metadata))
    dot = efficiency.analytic_flops(efficiency.make_run("interactfit", metadata, late=late))
    assert dot == 142 < whole


@pytest.mark.parametrize("name", ["wide_deep", "cold"])
def test_the_formula_counts_layer_norms(metadata, name):
    plain, normed = (
        efficiency.make_run(name, metadata, tower={"layer_norm": switch})
        for switch in (False, True)
    )
    units = sum(plain.config.model.tower.hidden)
    assert efficiency.analytic_flops(normed) - efficiency.analytic_flops(plain) == 7 * units
    counted = efficiency.serving_flops(normed) - efficiency.serving_flops(plain)
    # XLA makes some terms anew rather than keep them, how many depends on its version.
    assert 7 * units <= counted <= 12 * units


def test_heads_that_are_ranked_by_fold_into_one_query_vector_where_they_can(metadata):
    def flops(name, utility):
        config = efficiency.make_run(name, metadata).config
        config.label.utility = utility
        return efficiency.serving_flops(Run("unused", config, metadata))

    assert flops("two_tower", (1.0, 0.5, 0.0)) == flops("two_tower", (1.0, 0.0, 0.0)) == 130
    # Factors of two heads are two dot products, whose logits are then weighed.
    assert flops("matrix_factorization", (1.0, 0.5, 0.0)) == 2 * 35 + 4


def test_what_is_counted_gives_the_ranked_score(metadata):
    run = efficiency.make_run("interactrank", metadata)
    serving, d = efficiency.Serving(run), run.config.model.tower.output_dim
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(scale=0.2, size=leaf.shape).astype(np.float32),
        run.model_template["params"],
    )
    served = jax.tree.map(
        lambda shape, leaf: leaf[tuple(slice(n) for n in shape.shape)],  # the first head's
        serving.variables["params"],
        params,
    )
    query = rng.normal(size=(2, len(run.rule.heads), d)).astype(np.float32)
    items = rng.normal(size=(2, 5, d)).astype(np.float32)
    cross = rng.exponential(0.1, (2, 5, serving.cross)).astype(np.float32)
    logits = run.model.apply({"params": params}, Query(query), items, cross, method="score")
    transformed = np.log1p(cross / np.array(run.inputs.cross_scale, np.float32))
    score = serving.score({"params": served}, Query(query[:, :1]), items, transformed)
    np.testing.assert_allclose(score, logits @ np.array(run.rule.utility), rtol=1e-4)


@pytest.mark.thorough  # two models with as many meta queries as there may be
def test_more_meta_queries_cost_a_request_more_and_a_candidate_nothing(metadata):
    rows = [
        efficiency.measure_meta_vectors("fit", metadata, vectors, candidates=4_000, seed=0)
        for vectors in efficiency.META_VECTORS
    ]
    assert len({row["serving_flops_per_candidate"] for row in rows}) == 1
    assert all(row["ms_per_100k_candidates"] > 0 for row in rows)
    few, some, many = (row["flops_per_request"] for row in rows)
    # A user vector for each, beside what a request costs whatever their number.
    assert (many - some) / (64 - 16) == pytest.approx((some - few) / (16 - 4), rel=0.01)
    assert few > 4 * (some - few) / (16 - 4)


@pytest.mark.long  # compiles two models
@pytest.mark.parametrize("name", ["fit", "interactfit"])
def test_both_ways_to_score_a_list_give_the_same_scores(metadata, name):
    serving = efficiency.Serving(efficiency.make_run(name, metadata))
    assert serving.has_score_one
    rng = np.random.default_rng(0)
    draw = functools.partial(jax.tree.map, functools.partial(efficiency._draw, rng))
    variables = draw(serving.variables)
    items, cross = serving.candidates(50)
    query = serving.encode_query(variables, draw(serving.requests(1)))
    encoded, cross = serving.encode_item(variables, draw(items)), draw(cross)
    scores = serving.score(variables, query, encoded, cross)
    assert scores.shape == (1, 50)
    other = serving.score_one(variables, query, encoded, cross)
    np.testing.assert_allclose(other, scores, rtol=1e-4, atol=1e-4 * np.abs(scores).max())


def test_an_index_holds_the_bytes_it_says(metadata):
    def size(name):
        return efficiency.item_bytes(efficiency.make_run(name, metadata))

    assert size("two_tower") == size("interactrank") == 64 * 4
    assert size("fit") == 64 * 4 + 4  # with the number of its meta query
    assert size("matrix_factorization") == 3 * 17 * 4  # all heads


@pytest.mark.long  # times every model
def test_the_script_leaves_a_table_a_figure_and_a_record(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(efficiency, "META_VECTORS", (4,))
    names = ["interactrank", "inttower", "fit", "lr"]
    file = tmp_path / "record.json"
    argv = ["--quick", f"--out={tmp_path}", f"--json={file}", "--models", *names]
    figures = efficiency.main(argv)
    assert figures["serving_flops_per_candidate_interactrank"] == 143
    ratio = figures["flops_inttower_over_interactrank"]
    assert ratio == figures["serving_flops_per_candidate_inttower"] / 143
    assert all(figures[f"ms_per_100k_candidates_{name}"] > 0 for name in names)
    record = json.loads(file.read_text())
    assert record == json.loads((tmp_path / "efficiency.json").read_text())
    assert record.keys() >= figures.keys() | {"seed", "versions", "load_average", "device"}
    assert [row["model"] for row in record["models"]] == names
    assert [row["model"] for row in record["meta_vectors"]] == ["fit"]
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert "| interactrank | yes | 143 | 142 | 256 |" in text
    assert "21.6 (3069 / 142)" in text
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_a_model_that_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit):
        efficiency.main(["--models", "interactranc"])
    assert "interactrank" in capsys.readouterr().err
