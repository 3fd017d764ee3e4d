"""The models that the properties are checked on, and a harness that asks one for everything."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interactrank_jax.examples.format import PADDING, Examples
from interactrank_jax.examples.input import evaluation_batches
from interactrank_jax.models.inputs import zero_inputs
from interactrank_jax.models.registry import MODELS
from interactrank_jax.runs.run import Run
from interactrank_jax.tables import lookup
from interactrank_jax.tables.sharding import init_tables
from tests.synthetic import SLATE, tiny_config

INTERACTRANK = "interactrank"
SWITCHES: dict[str, dict[str, Any]] = {  # of InteractRank
    "without masknet": {"tower": {"masknet": {"blocks": 0}}},
    "without sequences": {"sequence": {"history": "none", "query_history": "none"}},
    "mean of sequences": {"sequence": {"history": "mean", "query_history": "mean"}},
    "without action and age": {"sequence": {"action": False, "age_buckets": 0}},
    "weighted pooling only": {"sequence": {"query_attention": False}},
    "attention pooling only": {"sequence": {"weighted_pooling": False}},
    "one numeric view": {"tower": {"numeric_views": ("gaussian",)}},
    "linear cross": {"cross": {"transform": "linear"}},
    "bfloat16": {"dtype": "bfloat16"},
    "without layer norm of hidden layers": {"tower": {"layer_norm": False}},
}
FIT_SWITCHES: dict[str, dict[str, Any]] = {
    "fit without meta queries": {"meta": {"vectors": 0}, "sequence": {"history": "mean"}},
    "fit without attention": {
        "meta": {"attention_hidden": 0},
        "sequence": {"history": "mean_by_action"},
    },
    "fit with a softmax over events": {"meta": {"attention_softmax": True}},
    "fit with a dot product": {"late": {"user_heads": 0}},
    "fit with 3 by 2 heads": {"late": {"user_heads": 3, "item_heads": 2}},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = (
    {name: (name, {}) for name in MODELS}
    | {name: (INTERACTRANK, fields) for name, fields in SWITCHES.items()}
    | {name: ("fit", fields) for name, fields in FIT_SWITCHES.items()}
)
# What `make test` looks at: the models of the papers, what they are measured against, one that runs
# for each pair, and a switch of numbers' width.
QUICK = ("two_tower", INTERACTRANK, "fit", "interactfit", "inttower", "cold", "bfloat16")
# CI: every model, and of the switches those that take out a part of it.
LONG = (
    *MODELS,
    "without masknet",
    "bfloat16",
    "fit without meta queries",
    "fit with a dot product",
)
UTILITY = (1.0, 0.25)
REQUESTS, HEADS = 6, 2
CORPUS = np.arange(1, 12, dtype=np.int32)
REQUEST_COLUMNS = (
    "user",
    "query",
    "request/country",
    "request/query_text",
    "request/mood",
    "request_numeric",
    "history_item",
    "history_action",
    "history_age",
    "query_history_item",
)


class Case:
    """A model with random parameters and tables, and everything it says about a batch."""

    def __init__(self, name: str, examples: Examples, **further: Any):
        model, fields = CASES[name]
        self.name = name
        self.config = tiny_config(model, **fields, **further)
        run = Run("unused", self.config, examples.metadata)
        self.model, self.inputs = run.model, run.inputs
        rng = np.random.default_rng(0)
        template = run.model_template

        def draw(path, leaf):
            value = rng.normal(size=leaf.shape)
            if leaf.ndim > 1:
                return (value / np.sqrt(leaf.shape[0])).astype(np.float32)
            return (0.2 * value + (path[-1].key == "scale")).astype(np.float32)

        self.params = jax.tree_util.tree_map_with_path(draw, template["params"])
        self.tables = {
            table: rng.normal(size=leaf.shape).astype(np.float32)
            for table, leaf in template["tables"].items()
        }
        for table in self.tables.values():
            table[PADDING] = 0.0
        self.store = lookup.item_store(examples.items)
        self.batch = next(evaluation_batches(examples, "test", REQUESTS))
        self._outputs = jax.jit(self._everything)

    def __call__(self, batch=None, *, params=None, tables=None, corpus=CORPUS):
        """Returns numpy outputs; the same shapes, so that it compiles once."""
        batch = self.batch if batch is None else batch
        outputs = self._outputs(
            self.params if params is None else params,
            self.tables if tables is None else tables,
            self.store,
            batch,
            corpus,
        )
        return jax.tree.map(np.asarray, outputs)

    def _everything(self, params, tables, store, batch, corpus):
        apply = functools.partial(self.model.apply, {"params": params})
        request = lookup.embed_requests(tables, batch, store, self.inputs)
        slate = lookup.embed_items(tables, batch["item"], store, self.inputs)
        query = apply(request, method="encode_query")
        items = apply(slate, method="encode_item")
        corpus_items = apply(
            lookup.embed_items(tables, corpus, store, self.inputs), method="encode_item"
        )
        requests, cross = len(batch["item"]), batch["cross"]
        broadcast = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[None], (requests, *leaf.shape)), corpus_items
        )
        no_cross = jnp.zeros((requests, len(corpus), cross.shape[-1]))
        return {
            "query": query,
            "items": items,
            "corpus": corpus_items,
            "call": apply(request, slate, cross),
            "score": apply(query, items, cross, method="score"),
            "score_without_cross": apply(query, items, jnp.zeros_like(cross), method="score"),
            "aligned": apply(query, broadcast, no_cross, method="score"),
            "score_all": apply(query, corpus_items, method="score_all"),
            "rank_all": apply(query, corpus_items, UTILITY, method="rank_all"),
            "similarity": apply(query, corpus_items, method="similarity"),
        }

    @functools.cached_property
    def training(self):
        """What the model says in training, with dropout: of progress, parameters, and a batch."""
        compiled = jax.jit(self.train)

        def training(progress=0.0, params=None, batch=None):
            return compiled(
                self.params if params is None else params,
                self.tables,
                self.store,
                self.batch if batch is None else batch,
                jnp.float32(progress),
            )

        return training

    def encode_training(self, params, tables, store, batch, seed=0):
        """Encodes requests and slates as a training step does, with dropout."""
        apply = functools.partial(
            self.model.apply, {"params": params}, rngs={"dropout": jax.random.key(seed)}
        )
        request = lookup.embed_requests(tables, batch, store, self.inputs)
        slate = lookup.embed_items(tables, batch["item"], store, self.inputs)
        query: Any = apply(request, train=True, method="encode_query")
        items: Any = apply(slate, train=True, method="encode_item")
        return query, items

    def train(self, params, tables, store, batch, progress):
        """Encodes, scores and compares as a training step does."""
        apply = functools.partial(
            self.model.apply, {"params": params}, rngs={"dropout": jax.random.key(0)}
        )
        query, items = self.encode_training(params, tables, store, batch)
        first = jax.tree.map(lambda leaf: leaf[:, 0], items)
        training: Any = apply(
            query,
            items,
            batch["cross"],
            engaged=batch["mask"],
            mask=batch["mask"],
            progress=progress,
            method="train_score",
        )
        return training, apply(query, first, method="similarity")

    @functools.cached_property
    def gradient(self):
        """Gradient of a random functional of logits and similarities: by parameter, by row."""
        rng = np.random.default_rng(1)
        logit_weight = rng.normal(size=(REQUESTS, SLATE, HEADS)).astype(np.float32)
        similarity_weight = rng.normal(size=(REQUESTS, REQUESTS)).astype(np.float32)

        def functional(params, tables, batch, store):
            apply = functools.partial(self.model.apply, {"params": params})
            request = lookup.embed_requests(tables, batch, store, self.inputs)
            slate = lookup.embed_items(tables, batch["item"], store, self.inputs)
            query = apply(request, method="encode_query")
            items = apply(slate, method="encode_item")
            logits: Any = apply(query, items, batch["cross"], method="score")
            first = jax.tree.map(lambda leaf: leaf[:, 0], items)
            similarity: Any = apply(query, first, method="similarity")
            return (logits * logit_weight).sum() + (similarity * similarity_weight).sum()

        compiled = jax.jit(jax.grad(functional, argnums=(0, 1)))
        return lambda batch: compiled(self.params, self.tables, batch, self.store)


def first_logits(config: Any, examples: Examples) -> np.ndarray:
    """Returns the logits `[S, R, C, H]` of a model and tables as they start, for ten seeds."""
    run = Run("unused", config, examples.metadata)
    store = lookup.item_store(examples.items)
    rng = np.random.default_rng(0)
    batch = {
        name: rng.permutation(np.concatenate([block[name] for block in blocks]))[:64]
        for blocks in [list(examples.blocks("train"))]
        for name in blocks[0]
    }

    @jax.jit
    def first(seed):
        key = jax.random.key(seed)
        sample = zero_inputs(run.inputs, run.model.row_width)
        params = run.model.init(key, **sample)["params"]
        tables = init_tables(key, run.metadata.tables, run.model.row_width, 0.05)
        request = lookup.embed_requests(tables, batch, store, run.inputs)
        items = lookup.embed_items(tables, batch["item"], store, run.inputs)
        return run.model.apply({"params": params}, request, items, batch["cross"])

    return np.array([first(seed) for seed in range(10)])
