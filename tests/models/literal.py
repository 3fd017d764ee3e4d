"""What tests against literal numpy versions share: random inputs and parameters, plain layers."""

from typing import Any

import jax
import numpy as np


def draw(seed, *shape) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_like(module, seed, *args, **kwargs):
    """Parameters of a module, every entry random: zero biases would hide mistakes."""
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), template)


def apply(module, params, *args, **kwargs):
    return np.asarray(
        jax.jit(lambda p, *a: module.apply({"params": p}, *a, **kwargs))(params, *args)
    )


def dense(params, x):
    return x @ params["kernel"] + params.get("bias", 0.0)


def layer_norm(params, x):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * params["scale"] + params["bias"]
