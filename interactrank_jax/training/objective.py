"""What training minimises: weighted heads, and losses over the slate, the batch and the corpus.

`Objective` is read from `config.train.loss`. `draw` says which items beside the slates' a step
needs, `total` sums the terms. All of it is written for one device and names the axes it is mapped
over.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from interactrank_jax import losses
from interactrank_jax.examples.format import PADDING, Metadata
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses import loss_config, sketch
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.models.preranker import PreRanker

Array = jax.Array

SKETCH_WIDTH = 1 << 18


class Encoded(NamedTuple):
    """Representations of a step, on one device.

    Attributes:
      query: of its requests, `[R]`.
      items: of their candidates, `[R, C]`.
      uniform: of items drawn uniformly, `[U]`, or None.
      hard: of each request's hard negatives, `[R, K]`, or None.
    """

    query: Any
    items: Any
    uniform: Any = None
    hard: Any = None


@dataclasses.dataclass(frozen=True)
class Objective:
    """The training loss.

    The default is InteractRank's: a pointwise loss per head, the heads weighted, plus a sampled
    softmax of every engaged item against the items of all devices' batches.

    Attributes:
      rule: labels and weights.
      pointwise: loss of the logits, the name of a registered one (`losses.register`).
      head_weights: of each head's loss; they are normalised to sum to one.
      impression_sampling: share of impression-only candidates kept, drawn anew each step.
      stage_weights: of candidates that are not engaged, by stage: shown, retrieved, random.
      softmax_weight: of the sampled softmax on `PreRanker.similarity`; 0 leaves it out.
      log_q: how often an item is in a batch: 'counts' of training, a 'sketch' of the stream so
        far, or 'none' for no correction.
      correction: one of `losses.CORRECTIONS`.
      uniform_negatives: items drawn uniformly from the store in each step, over all devices.
      hard_negatives: items per request that rank highest for it by the last checkpoint's index. A
        run that was stopped between checkpoints makes the index anew when it goes on: its
        negatives, and so its bits, are then not those of a run that was never stopped.
      slate_weights, distillation_weights: of registered losses, by name; those of 0 are left out.
      distill_temperature: of the pointwise distillation.
      offset: what weights and sampling add to the first head's logit in training; a teacher's
        score is a logit without it.
      auxiliary: weights of the model's own losses, by name.
      diagnostics: names of the figures that the model reports.
      train_candidates: impressions in training, the sum of the item store's `count`.
      num_items: items in the store, padding included.
    """

    rule: LabelRule
    pointwise: str
    head_weights: tuple[float, ...]
    impression_sampling: float
    stage_weights: tuple[float, ...]
    softmax_weight: float
    log_q: str
    correction: str
    uniform_negatives: int
    hard_negatives: int
    slate_weights: tuple[tuple[str, float], ...]
    distillation_weights: tuple[tuple[str, float], ...]
    distill_temperature: float
    offset: float
    auxiliary: tuple[tuple[str, float], ...]
    diagnostics: tuple[str, ...]
    train_candidates: float
    num_items: int

    @classmethod
    def from_config(
        cls,
        config: Any,
        rule: LabelRule,
        metadata: Metadata,
        num_items: int,
        model: PreRanker,
        offset: float = 0.0,
    ) -> "Objective":
        """Reads `config.train.loss`; `model` adds terms of its own. The rest is as the attributes.

        Raises:
          InputError: an unknown loss, another number of weights than there are heads, fields that
            contradict each other, or a column that the examples lack.
        """
        loss = config.train.loss
        loss_config.check(loss, rule)
        objective = cls(
            rule=rule,
            pointwise=loss.name,
            head_weights=loss_config.head_weights(loss, rule),
            impression_sampling=float(loss.impression_sampling),
            stage_weights=tuple(float(weight) for weight in loss.stage_weights),
            softmax_weight=float(loss.softmax_weight),
            log_q=loss.log_q,
            correction=loss.correction,
            uniform_negatives=int(loss.uniform_negatives) if loss.softmax_weight else 0,
            hard_negatives=int(loss.hard_negatives) if loss.softmax_weight else 0,
            slate_weights=loss_config.above_zero(loss, "slate"),
            distillation_weights=loss_config.above_zero(loss, "distillation"),
            distill_temperature=float(loss.distill_temperature),
            offset=offset,
            auxiliary=tuple(model.auxiliary_losses().items()),
            diagnostics=model.diagnostic_names(),
            train_candidates=float(metadata.splits["train"].candidates),
            num_items=num_items,
        )
        objective._check(metadata)
        return objective

    def _check(self, metadata: Metadata) -> None:
        for column in self.columns:
            if column not in metadata.candidate_columns:
                raise InputError(
                    f"config.train.loss asks for the column '{column}', which these examples do "
                    f"not have: add it to the log's impressions and prepare again, or leave out "
                    f"stage_weights and distillation."
                )
        if self.hard_negatives >= self.num_items:
            raise InputError(
                f"config.train.loss.hard_negatives is {self.hard_negatives}, of "
                f"{self.num_items - 1} items: ask for fewer."
            )
        for name in self.loss_names:
            if self.loss_names.count(name) > 1:
                raise InputError(
                    f"two terms of the loss are called '{name.removeprefix('loss/')}': a head, the "
                    f"softmax, a term of the model's or a loss of config.train.loss. Expected "
                    f"different names: register the loss under another."
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the optional candidate columns that the loss reads."""
        staged = ("stage",) if set(self.stage_weights) != {1.0} else ()
        return (*staged, "teacher_score") if self.distillation_weights else staged

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the loss terms."""
        names = [*self.rule.heads, *(["softmax"] if self.softmax_weight else [])]
        further = (*self.slate_weights, *self.distillation_weights, *self.auxiliary)
        names += [name for name, _ in further]
        return tuple(f"loss/{name}" for name in names)

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Names of the sums a step adds to `TrainState.sums`."""
        names = ("steps", "candidates", "engaged", "loss", "gradient_norm", *self.loss_names)
        return names + tuple(f"model/{name}" for name in self.diagnostics)

    def init_sketch(self) -> sketch.Sketch | None:
        """Returns what counts the stream, None where nothing asks for it."""
        wanted = self.softmax_weight and self.log_q == "sketch"
        return sketch.init(SKETCH_WIDTH) if wanted else None


def draw_uniform(objective: Objective, key: Array, devices: int) -> Array:
    """Returns this device's share of the uniform negatives: store rows `[U / devices]`."""
    return jax.random.randint(
        key, (objective.uniform_negatives // devices,), PADDING + 1, objective.num_items
    )


def hardest(objective: Objective, similarity: Array, engaged_items: Array) -> Array:
    """Returns the items that rank highest for each request and are none of its positives.

    Args:
      objective: says how many, K.
      similarity: `[R, I]` of requests and every store row.
      engaged_items: `[R, C]` store rows, -1 where a candidate is not engaged.

    Returns:
      int32 `[R, K]`.
    """
    row = jnp.arange(len(similarity))[:, None]
    barred = similarity.at[:, PADDING].set(-jnp.inf)
    barred = barred.at[row, jnp.where(engaged_items < 0, similarity.shape[1], engaged_items)].set(
        -jnp.inf, mode="drop"
    )
    return jax.lax.top_k(barred, objective.hard_negatives)[1].astype(jnp.int32)


def engaged_items(objective: Objective, batch: Any) -> Array:
    """Returns the store rows of engaged candidates `[R, C]`, -1 elsewhere."""
    engaged = objective.rule.engaged(batch["actions"]) & batch["mask"]
    return jnp.where(engaged, batch["item"], -1)


def total(
    objective: Objective,
    apply: Any,
    encoded: Encoded,
    drawn: dict[str, Array],
    batch: Any,
    store: Any,
    counts: sketch.Sketch | None,
    progress: Array,
    key: Array,
    axes: tuple[str, ...],
) -> tuple[Array, dict[str, Array]]:
    """Returns this device's share of the loss over all devices, and the sums to report.

    Args:
      objective: the terms and their weights.
      apply: `model.apply` with the parameters.
      encoded: representations.
      drawn: store rows by role, 'uniform' `[U]` and 'hard' `[R, K]`, where the step drew them.
      batch: this device's requests.
      store: the item store.
      counts: of `init_sketch`, this batch counted.
      progress: share of training done.
      key: of the impressions to keep, and of dropout.
      axes: that the devices are mapped over.
    """
    rule = objective.rule
    actions, mask = batch["actions"], batch["mask"]
    labels = rule.labels(actions).astype(jnp.float32)
    engaged = rule.engaged(actions) & mask
    key, dropout_key = jax.random.split(key)
    training = apply(
        encoded.query,
        encoded.items,
        batch["cross"],
        engaged=engaged,
        mask=mask,
        progress=progress,
        rngs={"dropout": dropout_key},
        method="train_score",
    )
    kept = jax.random.uniform(key, mask.shape) < objective.impression_sampling
    where = mask & (rule.acted(actions) | kept)
    weights = rule.example_weights(actions)
    if "stage" in objective.columns:
        weights = weights * losses.stage_weights(
            batch["stage"], engaged, negative_weights=objective.stage_weights
        )
    terms = _logit_terms(objective, training.logits, labels, batch, where, weights)
    if objective.softmax_weight:
        softmax = _sampled_softmax(objective, apply, encoded, drawn, batch, store, counts, axes)
        terms["softmax"] = objective.softmax_weight, softmax
    for name, weight in objective.auxiliary:
        terms[name] = weight, training.losses[name]

    def share(term: losses.Total) -> Array:
        return losses.Total(term.loss, jax.lax.psum(term.weight, axes)).mean()

    result, sums = jnp.zeros(()), {}
    for name, (weight, term) in terms.items():
        if not isinstance(term, losses.Total):
            raise InputError(
                f"loss '{name}' returned {type(term).__name__}. Expected losses.Total."
            )
        sums[f"loss/{name}"] = share(term)
        result = result + weight * sums[f"loss/{name}"]
    for name in objective.diagnostics:
        sums[f"model/{name}"] = share(training.diagnostics[name])
    sums["loss"] = result
    sums["candidates"] = mask.sum().astype(jnp.float32)
    sums["engaged"] = engaged.sum().astype(jnp.float32)
    return result, sums


def _logit_terms(
    objective: Objective, logits: Array, labels: Array, batch: Any, where: Array, weights: Array
) -> dict[str, tuple[float, Any]]:
    """Returns weight and term by name of the losses of candidates, of slates, and of a teacher.

    Args:
      objective: the terms and their weights.
      logits, labels: `[R, C, H]`.
      batch: this device's requests.
      where: `[R, C]` which candidates the pointwise loss counts.
      weights: `[R, C]` of theirs.
    """
    terms: dict[str, tuple[float, Any]] = {}
    rule, mask = objective.rule, batch["mask"]
    pointwise = losses.LOSSES[objective.pointwise].loss
    for head, name in enumerate(rule.heads):
        term = pointwise(logits[..., head], labels[..., head], where=where, weights=weights)
        terms[name] = objective.head_weights[head], term
    utility = jnp.asarray(rule.utility, jnp.float32)
    for name, weight in objective.slate_weights:
        slate_loss = losses.LOSSES[name].loss
        terms[name] = weight, slate_loss(logits @ utility, labels @ utility, where=mask)
    for name, weight in objective.distillation_weights:
        teacher = batch["teacher_score"]
        loss = losses.LOSSES[name].loss
        if name == "distill":
            loss = functools.partial(loss, temperature=objective.distill_temperature)
        student = logits[..., 0] - objective.offset
        terms[name] = weight, loss(student, teacher, where=mask & ~jnp.isnan(teacher))
    return terms


def _sampled_softmax(objective, apply, encoded, drawn, batch, store, counts, axes) -> losses.Total:
    """Every engaged item against the distinct items of all devices, and its own hard negatives."""
    columns = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), encoded.items)
    items = batch["item"].reshape(-1)
    draws = jax.lax.psum((items != PADDING).sum(), axes)
    uniform = 0
    if "uniform" in drawn:
        columns = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), columns, encoded.uniform)
        items = jnp.concatenate([items, drawn["uniform"]])
        uniform = len(drawn["uniform"]) * jax.lax.axis_size(axes)
    columns, items = jax.lax.all_gather((columns, items), axes, tiled=True)
    logits = apply(encoded.query, columns, method="similarity")
    own = engaged_items(objective, batch)
    log_q = None
    if objective.log_q != "none":
        count, of = store["count"][items], objective.train_candidates
        if counts is not None:
            count, of = sketch.count(counts, items), jnp.maximum(counts.total, 1)
        log_q = losses.log_q_from_counts(
            count, of, draws, uniform=uniform, items=objective.num_items - 1
        )
    hard = {}
    if "hard" in drawn:
        hard["hard_logits"] = jax.vmap(
            lambda query, items: apply(query, items, method="similarity")[0]
        )(jax.tree.map(lambda leaf: leaf[:, None], encoded.query), encoded.hard)
        # One that is a column already would count twice.
        chosen = drawn["hard"]
        hard["hard_where"] = (
            ~losses.accidental_hits(chosen, own) & ~jnp.isin(chosen, items) & (chosen != PADDING)
        )
    return losses.sampled_softmax(
        logits,
        (own[:, :, None] == items[None, None, :]).any(1),
        log_q=log_q,
        correction=objective.correction,
        where=losses.first_occurrence(items, items != PADDING),
        **hard,
    )
