"""How much an impression counts at each position: for `config.data.cross.debias.position_weights`.

The examination hypothesis (Craswell et al., WSDM 2008): what is engaged with was looked at, and how
often a position is looked at does not depend on what is there. Then the rates of engagement at the
positions are as the shares of looks, if what is shown there is alike. It rarely is: good items
stand in front, and make the first positions seem looked at more than they are.
"""

import math

import ibis
import numpy as np

from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.read import Log
from interactrank_jax.state.recipe import WEIGHT_STEPS, Recipe
from interactrank_jax.state.source import Source
from interactrank_jax.state.spec import refuse_taken

FEWEST = 100  # impressions of a position; one with fewer has the weight between its neighbours'


def position_weights(
    log: Log, backend: ibis.BaseBackend, action: str, until: int | None = None
) -> tuple[float, ...]:
    """Returns the rate of an action at each position over that of the best position.

    Args:
      log: the log, with time.
      backend: where it is read.
      action: to look at.
      until: the last day, such as training's last; None for all.

    Raises:
      InputError: an unknown action, one that nobody did or of the name of another column, or a
        timeless log.
    """
    if action not in log.schema.actions:
        raise InputError(f"--action={action}." + did_you_mean(action, log.schema.actions))
    if log.schema.timeless:
        raise InputError(
            f"{log.path} is timeless, and weights of positions are for counts by day. Name a log "
            f"with times."
        )
    for name in log.schema.actions:
        refuse_taken("action", name, str(log.path))
    nothing = Recipe(specs=(), lag_days=1, prior=1.0)
    shown = Source(log, nothing, backend).shown(until=until)
    rows = shown.group_by("position").aggregate(
        count=shown.count(), done=shown.count(where=shown[action].cast("boolean"))
    )
    columns = backend.to_pyarrow(rows.order_by("position")).to_pydict()
    counts, done = (np.array(columns[name], float) for name in ("count", "done"))
    position = np.array(columns["position"])
    enough = counts >= min(FEWEST, counts.max(initial=0))
    if not done[enough].any():
        raise InputError(f"--action={action}: nobody did it, so that no position has a rate.")
    last = int(position[enough].max())
    rates = np.full(last + 1, np.nan)
    rates[position[enough]] = done[enough] / counts[enough]
    measured = np.flatnonzero(~np.isnan(rates))
    rates = np.interp(np.arange(last + 1), measured, rates[measured])
    weights = np.maximum(rates / rates.max(), 1 / WEIGHT_STEPS)
    return tuple(math.ceil(float(weight) * 1e4) / 1e4 for weight in weights)
