"""The table of config fields: type, range and meaning of each. `fields.py` is what uses it."""

import dataclasses

from interactrank_jax.config.field_kinds import (
    Choice,
    Kind,
    Many,
    Number,
    Record,
    Switch,
    Text,
    Whole,
)
from interactrank_jax.metrics import METRICS

COUNT = 2**31 - 1  # the largest int32
PARTS = ("data", "label", "model", "train", "evaluate")


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      name: with its parents, as 'train.batch_size'.
      kind: type and range.
      meaning: one line.
      optional: whether a config may lack it, which switches it off.
      models: the models that have it; (): all.
    """

    name: str
    kind: Kind
    meaning: str
    optional: bool = False
    models: tuple[str, ...] = ()


def _fields(prefix: str, *rows: tuple[str, Kind, str], optional: bool = False) -> tuple[Field, ...]:
    return tuple(Field(f"{prefix}.{name}", kind, text, optional) for name, kind, text in rows)


def _model_fields(models: tuple[str, ...], *rows: tuple[str, Kind, str]) -> tuple[Field, ...]:
    return tuple(dataclasses.replace(row, models=models) for row in _fields("model", *rows))


_ACTIONS = Many(Text("the name of an action"), distinct=True)
_FEATURES = Many(Text("the name of a feature"), distinct=True)
_WEIGHT = Number(0, 1e6)
_WIDTH = Whole(1, 65_536)
_DROPOUT = Number(0, 1, below=True)
_POOLINGS = ("interactrank", "mean", "mean_by_action", "none")
_DECAYS = Choice(("cosine", "constant"))

DATA = _fields(
    "data",
    ("slate", Whole(1, 4096), "candidates of an example, at most"),
    ("block_size", Whole(1, 65_536), "examples of a block on disk"),
    ("seed", Whole(0, COUNT), "of random splits, folds and the order of training examples"),
    (
        "protocol",
        Choice(("clean_time", "clean_random", "published")),
        "how the log is split; 'published' leaks the label",
    ),
    (
        "split.fractions",
        Many(Number(0, 1, above=True, below=True), 3, 3),
        "training, validation and test; they sum to 1",
    ),
    (
        "folds",
        Whole(2, 100, zero="none, in a split by time"),
        "for statistics of labels where rows are split at random; more come close to leave-one-out",
    ),
    ("history.length", Whole(1, 10_000), "events of a user's history, the latest"),
    ("history.actions", _ACTIONS, "actions that a user's history holds"),
    (
        "history.delay_s",
        Whole(1, 10**9),
        "seconds that an event must have arrived before the request; with less than 1, a request's "
        "own actions would be in its history",
    ),
    ("history.rates", _ACTIONS, "actions whose count and rate are features of the user"),
    ("query_history.length", Whole(1, 10_000), "items of a query's history, the commonest"),
    ("query_history.actions", _ACTIONS, "actions that a query's history counts"),
    (
        "cross.features",
        Many(Text("'kind:action:window_days' or 'kind:action:window_days:segment'"), distinct=True),
        "query-item features",
    ),
    (
        "cross.lag_days",
        Whole(1, 36_500),
        "days from the last day counted to the request's; with less than 1, features would count "
        "what happened after the request",
    ),
    ("cross.prior", Number(0, 1e9, above=True), "added to the denominator of a cross feature"),
    ("vocabulary.min_count", Whole(1, COUNT), "ids that training has less often share rows"),
    ("vocabulary.out_of_vocabulary", Whole(1, 1_000_000), "rows that unknown ids are hashed to"),
    ("text.buckets", Whole(1, 100_000_000), "rows that words and their n-grams are hashed to"),
    ("text.max_tokens", Whole(1, 4096), "tokens of a text, the first"),
    ("text.ngram", Whole(1, 100), "characters of an n-gram"),
)
CROSS_OPTIONS = _fields(
    "data",
    ("cross.backoff.strength", Number(0, 1e9), "weight of the coarser level's value; 0: no levels"),
    (
        "cross.backoff.query_form",
        Text("'query_id' or a text or categorical feature of requests", empty="none"),
        "what a query without history falls back on, its words lower-cased and sorted",
    ),
    ("cross.user_day_cap", Whole(0, COUNT), "rows counted per user, action and day; 0: all"),
    (
        "cross.debias.name",
        Choice(("none", "propensity", "position")),
        "what an impression counts: 1, its propensity, or the weight of its position",
    ),
    (
        "cross.debias.smallest_propensity",
        Number(0, 1, above=True),
        "smaller propensities are raised to it",
    ),
    (
        "cross.debias.position_weights",
        Many(Number(0, 1e6, above=True), most=10_000),
        "by position from 0 on; the last one is that of all later positions",
    ),
    ("cross.fresh_days", Whole(0, 36_500), "days for which an item is fresh; 0: none is"),
    ("cross.corpus", Switch(), "whether evaluation requests get cross features beyond their slate"),
    (
        "cross.corpus_requests",
        Whole(0, COUNT),
        "requests of each evaluation split that get them, drawn at random; 0: all",
    ),
    optional=True,
)

LABEL = _fields(
    "label",
    (
        "heads",
        Many(Text("'engaged' or the name of an action"), 1, distinct=True),
        "one logit each",
    ),
    ("utility", Many(Number(-1e6, 1e6), 1), "weight of each head in the ranked score"),
    (
        "positive",
        Many(Text("the name of an action"), 1, distinct=True),
        "a candidate with any of them is engaged",
    ),
    ("negative", _ACTIONS, "unless it has any of these"),
    (
        "weights",
        Many(Record((Text("the name of an action"), Number(0, 1e6, above=True)))),
        "weight of a training row: that of the first of these actions that happened",
    ),
    ("impression_weight", Number(0, 1e6, above=True), "weight of a row without any of them"),
)

MODEL = _fields(
    "model",
    ("name", Text("the name of a model"), "which model"),
    ("only", _FEATURES, "embedded features that the model sees, ids included; (): all"),
    ("exclude", _FEATURES, "features that it does not see, ids and numeric ones included"),
    ("embedding_dim", Whole(1, 4096), "width of an embedding"),
    ("embedding_scale", Number(0, 10), "standard deviation of embeddings at the start"),
    (
        "dtype",
        Choice(("float32", "bfloat16")),
        "of the towers' arithmetic; parameters stay float32",
    ),
    ("sequence.features", _FEATURES, "item features that histories are made of"),
    ("sequence.history", Choice((*_POOLINGS, "target")), "how a user's history is pooled"),
    ("sequence.query_history", Choice(_POOLINGS), "how a query's history is pooled"),
    ("sequence.action", Switch(), "whether an event's action is embedded"),
    ("sequence.age_buckets", Whole(0, 1000), "exponential buckets of an event's age; 0: no age"),
    ("sequence.weighted_pooling", Switch(), "of 'interactrank': a learned weight per position"),
    ("sequence.query_attention", Switch(), "of 'interactrank': cross-attention by the query"),
    (
        "tower.numeric_views",
        Many(Choice(("range", "log", "gaussian")), 1, 3, distinct=True),
        "normalizations that numeric features are a learned mixture of",
    ),
    ("tower.hidden", Many(_WIDTH, 1, 64), "widths of the hidden layers"),
    ("tower.layer_norm", Switch(), "whether a layer norm follows the ReLU of each hidden layer"),
    ("tower.output_dim", _WIDTH, "width of a tower's vector"),
    ("tower.dropout", _DROPOUT, "after each hidden layer"),
    ("tower.masknet.blocks", Whole(0, 64), "parallel MaskNet blocks; 0: none"),
    ("tower.masknet.width", _WIDTH, "of a block's output"),
    (
        "tower.masknet.reduction",
        Number(0, 16, above=True),
        "a mask's hidden width over its input's",
    ),
    ("tower.masknet.dropout", _DROPOUT, "in each block"),
    ("dot_weight_init", Number(0, 100, above=True), "weight of the dot product at the start"),
    (
        "positive_dot_weight",
        Switch(),
        "whether that weight stays positive, as an index needs",
    ),
)
_FIT = ("fit", "interactfit")
_CROSS = ("interactrank", "interactfit", "cold", "lr", "wide_deep", "deepfm", "dcn_v2", "autoint")
SOME_MODELS = (
    *_model_fields(
        _CROSS,
        (
            "cross.transform",
            Choice(("odds", "log", "linear")),
            "of cross features; 'odds': rates as log odds ratios, shares as 'log'",
        ),
    ),
    *_model_fields(
        ("cold", "wide_deep", "deepfm", "dcn_v2", "autoint"),
        ("cross.affine", Switch(), "whether they are addends of the logit too, with users' rates"),
    ),
    *_model_fields(
        ("interactrank", "interactfit", "lr"),
        (
            "cross.weight_init",
            Number(-100, 100),
            "weight of each cross feature, where it is not fitted",
        ),
    ),
    *_model_fields(
        _FIT,
        ("meta.vectors", Whole(0, 1024), "meta queries N; 0: none"),
        ("meta.attention_hidden", Whole(0, 65_536), "width of target attention; 0: none"),
        ("meta.attention_softmax", Switch(), "whether a target's attention weights sum to one"),
        ("meta.decay", Number(0, 1, above=True), "share of training in which tau falls from 1"),
        ("meta.temperature_min", Number(0, 1, above=True), "the smallest tau"),
        ("late.user_heads", Whole(0, 1024), "heads of the query tower; 0: a dot product"),
        ("late.item_heads", Whole(1, 1024), "heads of the item tower"),
        ("late.width", _WIDTH, "width of a head"),
        ("late.hidden", Many(_WIDTH, 2, 2), "widths of the scorer's two layers"),
        ("late.scale_init", Number(0, 100, above=True), "scale of similarities at the start"),
    ),
    *_model_fields(
        ("inttower",),
        ("fe.heads", Whole(1, 1024), "heads of a layer"),
        ("fe.width", _WIDTH, "width of a head"),
    ),
    *_model_fields(
        ("dat",),
        ("augment.request", Choice(("user_id", "query_id")), "the id that is augmented"),
        ("mimic_weight", _WEIGHT, "weight of the mimic loss"),
    ),
    *_model_fields(
        ("matrix_factorization", "cold", "wide_deep", "deepfm", "dcn_v2", "autoint"),
        ("l2", _WEIGHT, "decay of embedding rows"),
    ),
    *_model_fields(("dcn_v2",), ("cross_layers", Whole(1, 64), "cross layers")),
    *_model_fields(
        ("autoint",),
        ("interacting.heads", Whole(1, 1024), "heads of a layer"),
        ("interacting.layers", Whole(1, 64), "interacting layers"),
        ("interacting.width", _WIDTH, "width of a head"),
    ),
)

TRAIN = _fields(
    "train",
    ("seed", Whole(0, COUNT), "of parameters, dropout, sampling and the order of examples"),
    ("batch_size", Whole(1, 2**24), "requests of a step, over all devices"),
    ("epochs", Number(0, 1e6, above=True), "passes over the training split"),
    ("max_steps", Whole(1, COUNT, zero="as many as the epochs have"), "steps of the run"),
    (
        "warm_start",
        Text("a run directory", empty="none"),
        "the run whose model this one starts from",
    ),
    ("parallel", Choice(("pmap", "shard_map")), "how a step is mapped over devices"),
    ("table_shards", Whole(1, 128), "devices that the rows of long tables are split over"),
    ("microbatches", Whole(1, 65_536), "parts of a device's batch, encoded one after the other"),
    (
        "optimizer.learning_rate",
        Number(0, 100),
        "peak rate of AdamW for all but tables; 0: none",
    ),
    (
        "id_dropout",
        _DROPOUT,
        "share of users', queries' and candidates' ids replaced by hashed rows in training",
    ),
    (
        "affine.fit",
        Switch(),
        "whether the terms of cross features and users' rates start at their regression",
    ),
    (
        "affine.rate_scale",
        Number(0, 1e6),
        "what the learning rate of those terms and of the dot product's weight is multiplied by",
    ),
    ("affine.weight_decay", Number(0, 100), "of those terms"),
    ("optimizer.warmup_steps", Whole(0, COUNT), "steps in which the rate rises from 0"),
    ("optimizer.decay", _DECAYS, "how the rate falls after that"),
    ("optimizer.weight_decay", Number(0, 100), "of AdamW"),
    ("optimizer.clip_norm", Number(0, 1e9), "bound of the gradient's global norm; 0: none"),
    ("tables.name", Choice(("adagrad", "adam")), "optimizer of table rows, those touched alone"),
    ("tables.learning_rate", Number(0, 100), "peak rate of table rows; 0: none"),
    ("tables.warmup_steps", Whole(0, COUNT), "steps in which the rate rises from 0"),
    ("tables.decay", _DECAYS, "how the rate falls after that"),
    ("tables.initial_accumulator", Number(0, 1e9), "of Adagrad"),
    ("tables.weight_decay", Number(0, 1e4), "of table rows, those touched alone"),
    ("loss.name", Text("the name of a pointwise loss"), "the pointwise loss of each head"),
    (
        "loss.head_weights",
        Many(_WEIGHT),
        "weight of each head's loss; (): from label.weights",
    ),
    (
        "loss.impression_sampling",
        Number(0, 1, above=True),
        "share of candidates without any action kept in training, drawn at each step",
    ),
    (
        "loss.stage_weights",
        Many(_WEIGHT, 3, 3),
        "of candidates not engaged with: shown, retrieved, random",
    ),
    ("loss.softmax_weight", _WEIGHT, "of the sampled softmax; 0: none"),
    ("loss.log_q", Choice(("counts", "sketch", "none")), "source of its logQ correction"),
    (
        "loss.correction",
        Choice(("standard", "positive_apart")),
        "whether the positive is corrected like the negatives",
    ),
    ("loss.uniform_negatives", Whole(0, 2**24), "items drawn uniformly beside the batch's"),
    ("loss.hard_negatives", Whole(0, 4096), "per request, from the last checkpoint's index"),
    ("loss.pairwise_weight", _WEIGHT, "of RankNet on the ranked score"),
    ("loss.listwise_weight", _WEIGHT, "of ListNet on the ranked score"),
    ("loss.distill_weight", _WEIGHT, "of pointwise distillation from teacher_score"),
    ("loss.distill_ndcg_weight", _WEIGHT, "of distillation by delta NDCG"),
    ("loss.distill_temperature", Number(0, 1e6, above=True), "of pointwise distillation"),
    ("log_every", Whole(1, COUNT), "steps between lines of metrics.jsonl"),
    ("eval_every", Whole(1, COUNT, zero="once an epoch"), "steps between validations"),
    ("checkpoint_every", Whole(1, COUNT), "steps between checkpoints"),
    ("profile_steps", Whole(0, 10_000), "steps traced into RUN/profile"),
    ("patience", Whole(0, COUNT), "worse validations after step 0 that end the run; 0: none does"),
    ("select_by", Choice(METRICS), "validation metric of the best model"),
)

TRAIN_OPTIONS = _fields(
    "train",
    (
        "order_seed",
        Whole(0, COUNT, none="train.seed"),
        "of the order of examples alone: with it, runs of several seeds see the same batches",
    ),
    optional=True,
)

EVALUATE = _fields(
    "evaluate",
    ("batch_size", Whole(1, 1_000_000), "requests at a time"),
    (
        "bootstrap",
        Whole(20, 1_000_000, zero="no intervals"),
        "resamples of an interval",
    ),
    ("corpus_requests", Whole(0, COUNT), "requests that corpus recall is taken over; 0: all"),
    ("corpus_batch_size", Whole(1, 65_536), "requests at a time in corpus recall"),
)

FIELDS = (*DATA, *CROSS_OPTIONS, *LABEL, *MODEL, *SOME_MODELS, *TRAIN, *TRAIN_OPTIONS, *EVALUATE)
