"""Why a bundle ranks the candidates of a request as it does: the score, taken apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.io.errors import InputError
from interactrank_jax.serving.lists import candidate_lists
from interactrank_jax.serving.ranking import Ranking
from interactrank_jax.serving.tables import as_table, column

TOLERANCE = 1e-4  # of the sum of the parts


def explain(
    ranking: Ranking, request: Any, candidates: Sequence[Any] | None = None, events: Any = None
) -> pa.Table:
    """Takes the scores of one request's candidates apart.

    Args:
      ranking: of a bundle.
      request: raw, one row.
      candidates: item ids; None: the request's own list column. Those that the bundle does not know
        are left out.
      events: what the user did since the bundle's day began, see `BundleRanker.rank`.

    Returns:
      item_id, rank, score, `probability_HEAD` of each head, `towers` (the score with all cross
      features zero), and of each cross feature that the model looks at its value and `NAME part`,
      what it adds to the score; best first.

    Raises:
      InputError: several requests, no candidates, or cross features that are not addends of the
        score.
    """
    bundle, table = ranking.bundle, ranking.encoder.check(request)
    if len(table) != 1:
        raise InputError(f"explain takes one request. Got {len(table)}.")
    listed = None
    if candidates is not None:
        ids = as_table({"item_id": candidates}, "candidates")["item_id"]
        asked = column(table, "request_id").take(pa.array(np.zeros(len(ids), np.int64)))
        listed = pa.table({"request_id": asked, "item_id": ids})
    lists = candidate_lists(bundle, table, listed)
    if lists is None:
        raise InputError("explain needs candidates: name item ids.")
    encoded = ranking.encoder.encode(
        table, None if events is None else ranking.read_events(events)[0]
    )
    items, names = lists.row, bundle.cross.names if ranking.pairs.uses_cross else ()
    cross = bundle.cross.values(encoded.groups, items[None, :])[0]
    # The request as it is; without cross features; and with each of them alone.
    variants = np.zeros((2 + len(names), *cross.shape), np.float32)
    variants[0] = cross
    for number in range(len(names)):
        variants[2 + number, :, number] = cross[:, number]
    chosen, rows = np.zeros(len(variants), np.int64), np.tile(items, (len(variants), 1))
    scores, logits, _ = ranking.pairs.scores(
        encoded, ranking.encode(encoded), chosen, rows, variants
    )
    total, towers, parts = scores[0], scores[1], scores[2:] - scores[1]
    if not np.allclose(towers + parts.sum(0), total, rtol=TOLERANCE, atol=TOLERANCE):
        raise InputError(
            f"the cross features of '{bundle['model']}' are not addends of its score: they cannot "
            f"be told apart."
        )
    columns: dict[str, Any] = {"score": total, **ranking.calibration.columns(logits[0])}
    columns["towers"] = towers
    for number, name in enumerate(names):
        columns |= {name: cross[:, number], f"{name} part": parts[number]}
    order = np.lexsort((items, -total))
    result = pa.table({"item_id": bundle.ids_of(items), **columns}).take(order)
    return result.add_column(1, "rank", pa.array(np.arange(1, len(result) + 1), pa.int32()))
