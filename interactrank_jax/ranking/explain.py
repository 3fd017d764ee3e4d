"""Why the candidates of a request are ranked as they are: the score, taken apart.

    score = towers + sum_k w_k f(x_k)

`towers` is the model's score with all cross features zero: the dot product of InteractRank, or the
scorer of FIT, with their bias and what the user's past adds to all candidates. x_k is a cross
feature's value, f its transform (`models/history_terms.py`), w_k its weight over all heads. The
parts are of the one ranked score: heads weighted by utility.
Beside it are the heads' probabilities, which are calibrated: the score is not.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.input import Batch, evaluation_batches
from interactrank_jax.io import files, interrupts
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.io.printable import cell, printable
from interactrank_jax.ranking.index import encode_items
from interactrank_jax.ranking.score import QueryEncoder
from interactrank_jax.runs.run import Run
from interactrank_jax.tables.lookup import item_store

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A request's candidates, best first.

    Attributes:
      request: the raw request.
      features: names of the K cross features; () of a model that looks at none.
      item_id: `[C]` ids as in the log.
      text: `[C]` the item's first text feature, '' where items have none.
      engaged: `[C]` whether the label counts as a success.
      score: `[C]`.
      heads: names of the H heads.
      probability: `[C, H]` of each head's label, calibrated.
      towers: `[C]` the score without cross features.
      value, part: `[C, K]` each cross feature's value, and what it adds to the score.
      weight: `[K]` what a feature adds per unit of its transformed value.
    """

    request: dict[str, Any]
    features: tuple[str, ...]
    item_id: np.ndarray
    text: tuple[str, ...]
    engaged: np.ndarray
    score: np.ndarray
    heads: tuple[str, ...]
    probability: np.ndarray
    towers: np.ndarray
    value: np.ndarray
    part: np.ndarray
    weight: np.ndarray


def explain(
    workdir: files.PathLike, examples_path: files.PathLike, request: str, split: str = "test"
) -> Explanation:
    """Takes the scores of a request's candidates apart.

    Args:
      workdir: a run; its best model is used.
      examples_path: examples with the request.
      request: its request_id.
      split: where it is.

    Raises:
      InputError: examples of another encoder, an unknown split or request, or a model whose cross
        features are not addends of its score.
    """
    run, examples = Run.open(workdir), Examples(examples_path)
    examples = run.check_examples(examples)
    examples.split(split)
    raw = examples.raw_requests(split)
    index = _index_of(raw["request_id"].to_pylist(), request, split)
    model, step = run.restore_model()
    calibration = run.calibration(step)
    names = examples.metadata.cross if run.model.uses_cross else ()
    batch = _batch_of(examples, split, index)
    mask, cross = batch["mask"], batch["cross"]
    parts = run.model.apply({"params": model["params"]}, cross, method="cross_parts")
    if parts is None and names:
        raise InputError(
            f"the cross features of '{run.config.model.name}' are inputs beside others, not "
            f"addends of its score: they cannot be told apart."
        )
    utility = np.asarray(run.rule.utility, np.float32)
    query = QueryEncoder(run, model, examples)(batch)
    shape, rows = batch["item"].shape, batch["item"].reshape(-1)
    store = {name: values[rows] for name, values in item_store(examples.items).items()}
    items = encode_items(run, model, store)
    items = jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(shape + leaf.shape[1:]), items)

    def logits_of(cross: np.ndarray) -> np.ndarray:
        logits = run.model.apply({"params": model["params"]}, query, items, cross, method="score")
        return np.asarray(logits)[mask]

    item, logits = batch["item"][mask], logits_of(cross)
    total = logits @ utility
    part, value = np.zeros((len(item), 0), np.float32), np.zeros((len(item), 0), np.float32)
    weight = np.zeros(0, np.float32)
    if names:
        part, value = (np.asarray(parts) @ utility)[mask], cross[mask]
        weight = np.asarray(cross_weights(run, model)) @ utility
    order = np.lexsort((item, -total))
    return Explanation(
        request=raw.slice(index, 1).to_pylist()[0],
        features=names,
        item_id=examples.item_ids[item[order]],
        text=_texts(examples, item[order]),
        engaged=run.rule.engaged(batch["actions"])[mask][order],
        score=total[order],
        heads=calibration.heads,
        probability=calibration.probabilities(logits)[order],
        towers=(logits_of(np.zeros_like(cross)) @ utility)[order],
        value=value[order],
        part=part[order],
        weight=weight,
    )


def _index_of(ids: Sequence[Any], request: str, split: str) -> int:
    known = [str(value) for value in ids]
    if request not in known:
        raise InputError(
            f"--request={request} is not in the {split} split." + did_you_mean(request, known)
        )
    return known.index(request)


def _batch_of(examples: Examples, split: str, index: int) -> Batch:
    """Returns the examples of one request."""
    found = []
    for batch in evaluation_batches(examples, split, BATCH_SIZE):
        interrupts.check()
        rows = batch["request_index"] == index
        if rows.any():
            found.append({name: column[rows] for name, column in batch.items()})
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _texts(examples: Examples, item: np.ndarray) -> tuple[str, ...]:
    """Returns a text of each item, for the eye."""
    names = [f.name for f in examples.metadata.features if (f.entity, f.kind) == ("item", "text")]
    if not names:
        return ("",) * len(item)
    column = examples.raw_items()[names[0]]
    return tuple(column[int(row)].as_py() or "" for row in item)


def cross_weights(run: Run, model: Mapping[str, Any]) -> np.ndarray | None:
    """Returns the weights `[K, H]` of cross features in each head's logit.

    A weight is of a feature's value after `config.model.cross.transform`.

    Args:
      run: of the model.
      model: {'params', 'tables'}.

    Returns:
      None for a model that has no cross features, or has them as inputs beside others.
    """
    shape = (len(run.metadata.cross), len(run.rule.heads))
    weight = model["params"].get("cross_terms", {}).get("weight")
    if not run.model.uses_cross or np.shape(weight) != shape:
        return None
    return np.asarray(weight)


def table(explanation: Explanation) -> str:
    """Returns the explanation as text: the request, then a Markdown table of its candidates."""
    found = explanation
    lines = [printable(", ".join(f"{key}={value}" for key, value in found.request.items())), ""]
    weights = [
        f"{cell(name)} ({weight:+.3g})"
        for name, weight in zip(found.features, found.weight, strict=True)
    ]
    probabilities = [cell(f"P({head})") for head in found.heads]
    header = ["rank", "item", "engaged", "score", *probabilities, "towers", *weights]
    lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row, item_id in enumerate(found.item_id):
        text = f" {found.text[row]}" if found.text[row] else ""
        cells = [
            *(str(row + 1), cell(f"{item_id}{text}")),
            "yes" if found.engaged[row] else "",
            f"{found.score[row]:.4f}",
            *(f"{probability:.4f}" for probability in found.probability[row]),
            f"{found.towers[row]:.4f}",
        ]
        cells += [
            f"{value:.4g}: {part:+.4f}" if value else ""
            for value, part in zip(found.value[row], found.part[row], strict=True)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "score = towers + the cross features' parts; a feature's column has its value: part,",
    ]
    lines[-1] += " its head the weight. P is calibrated, the score is not."
    return "\n".join(lines)
