"""Retrieval: which items a query's words match."""

import numpy as np

from interactrank_jax.log.simulator.draws import stream
from interactrank_jax.log.simulator.world import START, World


def candidate_pools(
    world: World, seed: int, since: float = START, until: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """Retrieves each query's candidates by word overlap, weighted by inverse document frequency.

    Args:
      world: its items and queries.
      seed: of the log.
      since, until: items are retrieved that exist at some time between (UTC seconds). Which of them
        exist at a request is for the policy to ask.

    Returns:
      Items `[Q, P]` int32 and lexical scores `[Q, P]` float32: 1 for a query's best match, minus
      infinity for padding. Where fewer than two slates of the matches exist for all of that time,
      other items that do fill up, with score 0: every request has something to show.
    """
    config, items = world.config, world.items
    rng = stream(seed, "retrieval")
    lengths = np.array([len(row) for row in items.words])
    flat_word = np.concatenate([np.asarray(row) for row in items.words])
    flat_item = np.repeat(np.arange(config.items), lengths)
    order = np.argsort(flat_word, kind="stable")
    flat_item, sorted_word = flat_item[order], flat_word[order]
    if items.gone is not None:
        exists = ((items.created < until) & (items.gone > since))[flat_item]
        flat_item, sorted_word = flat_item[exists], sorted_word[exists]
    vocabulary = 1 + max(int(sorted_word[-1]), max(max(row) for row in world.queries.words))
    start = np.searchsorted(sorted_word, np.arange(vocabulary + 1))
    frequency = np.diff(start)
    idf = np.log1p((config.items - frequency + 0.5) / (frequency + 0.5))
    # Short titles match more sharply. The tiny random part makes every tie a fixed draw.
    norm = (1 + 1e-4 * rng.random(config.items)) / np.sqrt(lengths)
    existing = items.created < since
    if items.gone is not None:
        existing &= items.gone >= until
    filling = rng.permutation(np.flatnonzero(existing))

    pool = np.zeros((config.queries, config.pool), np.int32)
    lexical = np.full((config.queries, config.pool), -np.inf, np.float32)
    score = np.zeros(config.items)
    for query, words in enumerate(world.queries.words):
        new = []
        for word in words:
            posting = flat_item[start[word] : start[word + 1]]
            before = score[posting]
            new.append(posting[before == 0])
            score[posting] = before + idf[word]
        matched = np.concatenate(new)
        value = score[matched] * norm[matched]
        score[matched] = 0
        if len(matched) > config.pool:
            top = np.argpartition(-value, config.pool - 1)[: config.pool]
            matched, value = matched[top], value[top]
        best = np.argsort(-value)
        lacking = max(0, 2 * config.slate - int(existing[matched[best]].sum()))
        best = best[: config.pool - lacking]
        matches = matched[best]
        pool[query, : len(matches)] = matches
        if len(matches):
            lexical[query, : len(matches)] = value[best] / value[best[0]]
        if lacking:
            window = query * lacking + np.arange(min(lacking + len(matches), len(filling)))
            rest = filling[window % len(filling)]
            rest = rest[~np.isin(rest, matches)][:lacking]
            pool[query, len(matches) : len(matches) + len(rest)] = rest
            lexical[query, len(matches) : len(matches) + len(rest)] = 0
    return pool, lexical
