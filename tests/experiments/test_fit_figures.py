"""FIT's figures: the front, the meta matrices, what is drawn of which rows."""

import numpy as np

from experiments import ablation, fit_ablation, fit_figures


def test_the_front_is_what_nothing_cheaper_reaches():
    points = [(100.0, 0.7), (100.0, 0.6), (200.0, 0.65), (300.0, 0.8), (400.0, 0.8)]
    assert fit_figures.front(points) == [(100.0, 0.7), (300.0, 0.8)]


def test_principal_axes_keep_distances_in_a_plane():
    plane = np.random.default_rng(0).normal(size=(6, 2)) @ np.random.default_rng(1).normal(
        size=(2, 5)
    )
    axes = fit_ablation.principal_axes(plane)

    def distances(points):
        return np.linalg.norm(points[:, None] - points, axis=-1)

    np.testing.assert_allclose(distances(axes), distances(plane), atol=1e-9)
    assert fit_ablation.principal_axes(np.ones((1, 5))).tolist() == [[0.0, 0.0]]


def test_the_front_counts_what_meta_queries_cost_the_request(tmp_path):
    """Of equal cost per candidate, the model with more work on the request costs more."""
    few, many = (
        {**fit_row(f"N = {count}", auc, 1_633, vectors=count), "flops_per_request": flops}
        for count, auc, flops in ((1, 0.67, 427_617), (256, 0.66, 56_192_604))
    )
    assert fit_figures.cost(few) == 427_617 + 10_000 * 1_633
    assert fit_figures.cost(many) == 56_192_604 + 10_000 * 1_633
    (axis,) = fit_figures._draw_pareto([many, few]).axes
    assert axis.get_xlabel() == "FLOPs of a request with 10,000 candidates"
    drawn = {float(x) for line in axis.lines for x in line.get_xdata()}
    assert drawn == {fit_figures.cost(few), fit_figures.cost(many)}


def test_meta_matrices_have_panels_for_each_log():
    def detail(log, change, count):
        group = "" if change == ablation.WHOLE else "queries"
        matrix = {
            "points": [[number, number**2] for number in range(count)],
            "usage": [1 / count] * count,
            "category": ["toys"] * count,
            "purity": [0.5] * count,
        }
        key = {"log": log, "model": "fit", "group": group, "change": change}
        return {**key, "steps": [[1, 0.5]], "matrix": matrix}

    counts = (1, 2, 4, 8, 16, 32)
    logs = ("search", "drift", "movielens_1m")
    details = [
        detail(log, change, count)
        for log in logs
        for change, count in [(ablation.WHOLE, 8), *((f"N = {count}", count) for count in counts)]
        if log != "drift" or count < 4 or change == ablation.WHOLE
    ]
    figure = fit_figures._draw_matrices(details)
    titles = [axis.get_title().split(":")[0] for axis in figure.axes if axis.axison]
    assert titles == [
        *("as configured, search", "N = 8, search", "N = 16, search", "N = 32, search"),
        *("as configured, drift", "N = 2, drift"),
        *(f"{name}, movielens_1m" for name in ("as configured", "N = 8", "N = 16", "N = 32")),
    ]


def fit_row(change, auc, flops, group="", model="fit", overrides=None, vectors=0):
    figure = {"mean": auc, "std": None, "difference": None}
    figures = {"roc_auc": figure, "request_auc": figure}
    return {
        "log": "search", "group": group, "change": change, "model": model, "verdict": "",
        "base": ablation.WHOLE,
        "overrides": overrides or {}, "validation": figures, "test": figures,
        "serving_flops_per_candidate": flops, "flops_per_request": 1e6,
        **({"meta_vectors": vectors, "meta_vectors_used": 2, "query_similarity": 0.99,
            "query_similarity_last": 0.999, "soft_minus_hard": {"test": [0.01, -0.01, 0.02]}}
           if vectors else {}),
    }  # fmt: skip


def test_figures_are_drawn_of_what_there_is(tmp_path):
    matrix = {
        "points": [[0, 0], [1, 0], [0, 1]],
        "usage": [0.75, 0.25, 0],
        "category": ["toys", "pets", ""],
        "purity": [0.5, 0.6, 0],
    }
    detail = {"log": "search", "model": "fit", "group": "", "change": ablation.WHOLE}
    rows = [
        fit_row(ablation.WHOLE, 0.68, 600, vectors=3),
        fit_row("N = 1", 0.67, 600, "queries", overrides={"model.meta.vectors": 1}, vectors=1),
        fit_row("two_tower", 0.66, 129, "models", "two_tower"),
        {
            "log": "search",
            "group": "parts",
            "change": "no MQM",
            "model": "fit",
            "base": ablation.WHOLE,
            "error": "none",
        },
    ]
    content = {
        "rows": rows,
        "meta_queries": [{**detail, "steps": [[50, 0.4], [100, 0.99]], "matrix": matrix}],
    }
    names = ["auc_against_queries", "query_similarity", "meta_queries", "pareto"]
    assert fit_figures.draw(content, tmp_path) == [tmp_path / f"{name}.png" for name in names]
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in names)
    table = fit_ablation.table(content).splitlines()
    line = "| search | 0.9900 | 0.9990 | 2 of 3 | +0.0100 [-0.0100, +0.0200] |"
    assert f"| {ablation.WHOLE} {line}" in table
    assert fit_figures.draw({"rows": rows[:1], "meta_queries": []}, tmp_path / "none") == []
