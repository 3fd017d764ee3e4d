"""Rows whose figures are recorded in `golden.json`: requests of many sizes, some of one class."""

import numpy as np


def rows() -> dict[str, np.ndarray]:
    """Returns `request`, `score` (with ties), `engaged` and `logit`, `[n]` each, unordered."""
    rng = np.random.default_rng(20)
    sizes = rng.integers(1, 30, 400)
    request = np.repeat(rng.permutation(1000)[:400], sizes)
    ease = np.repeat(rng.normal(size=400), sizes)
    logit = (ease + rng.normal(size=request.size) - 1.0).astype(np.float32)
    engaged = rng.random(request.size) < 1 / (1 + np.exp(-logit))
    score = np.round(logit + rng.normal(size=request.size), 1).astype(np.float32)
    order = rng.permutation(request.size)
    columns = {"request": request, "score": score, "engaged": engaged, "logit": logit}
    return {name: values[order] for name, values in columns.items()}
