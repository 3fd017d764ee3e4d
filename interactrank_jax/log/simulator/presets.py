"""The simulator's constants, each chosen once from what is plausible in a search log, and why.

They were set from the rates a reader of real logs would expect (clicks, saves, decay with
position), before any model had been trained on the result, and are not tuned to one.
"""

import dataclasses
from typing import Any

from interactrank_jax.io.errors import InputError, did_you_mean


@dataclasses.dataclass(frozen=True)
class SimulatorConfig:
    """Sizes and constants of a simulated log. Appeal is on the log-odds scale of a click.

    Attributes:
      requests, items, queries, users: rows to simulate.
      topics: number of topics; more of them for a larger corpus, so that a topic's size stays
        in the hundreds of items.
      pool: candidates retrieved per query, at most. Up to twenty slates: the policy has a choice.
      slate: rows shown per request; a first screen or two of results.
      days: length of the log; two years, the longest window of the cross features.
      chunk_days: the policy's popularity counts move on once per chunk, and a chunk is one part
        on disk. A week is a usual rhythm of such batch jobs.
      chunk_requests: a chunk holds at most so many requests (the chunk is then shorter than
        chunk_days): memory then does not grow with `requests` (medium takes about half a GB).

      initial_items: share of items older than the log. The rest appears during it, evenly: a
        catalogue that grows by two thirds in two years.
      topic_concentration: Dirichlet total of item mixtures. 1 gives about two topics per item.
      query_concentration: the same for queries, which are about one thing more often.
      words_per_topic, generic_words: vocabulary. So few words per topic that a query matches tens
        to hundreds of items; Zipf distributed within a topic, with exponent `word_exponent`.
      title_words, query_words: shortest and longest text. Search queries average 2 to 3 words.
      title_generic, query_generic: share of words that say nothing about the topic.
      title_forms, query_forms: how often a word appears as itself, inflected, or as a synonym.
        Searchers and authors name the same thing differently in roughly a third of cases, so
        lexical match is imperfect.
      category_noise: share of items filed under a random category.
      review_noise: standard deviation of the review score around quality (itself 1).

      query_exponent: Zipf exponent of query popularity; measured query logs are near 1.
      user_activity: log-normal sigma of how often users come. 1 lets the top tenth of users make
        about 40% of the requests.
      query_choices: a user picks the most tempting of so many popular queries, so what people
        search for follows their taste.
      group_taste: share of taste variance that a country and gender have in common.
      drift: quarter turns of a user's taste over the log; 1 leaves year-old history with a
        correlation of about 0.7 to today.

      relevance, taste, quality: weights of cosine(query, item) - 0.5 and of the standard normal
        personal taste and item quality. Relevance spans about 2.5 log-odds from off topic to on
        topic, a factor 12; taste and quality move clicks by factors 2 and 1.6 per deviation.
      idiosyncratic: standard deviation of the appeal of one item for one query that no feature
        explains. 1: as large as the topical variation among retrieved items, for per-pair click
        history is among the strongest features search engines report. 0 turns it off.
      segment_share: share of its variance that holds within one country only.
      day_noise: deviation of a user's mood, one draw per user and day.

      click_bias: log-odds of a click on an examined item of zero appeal; gives a CTR of 10 to 20%.
      save_bias: the same for a save; gives a few percent.
      examination: P(row examined) = (1 + position)^-examination. 0.5: the tenth row is seen a
        third as often as the first.
      dwell_seconds, dwell_appeal, dwell_sigma: a click's dwell time is log-normal, its median
        growing by exp(dwell_appeal) per unit of appeal (clicked items have about 1). Half a minute
        separates long clicks, so that about half of the clicks are long.
      long_seconds, short_seconds: a long click stays longer, a short click less.

      lexical, popularity, freshness: weights of the logging policy on word overlap (0 to 1 within
        a pool), log of relative clicks so far, and age below `fresh_days`.
      temperature: of the policy's exploration (Gumbel noise). 0.5 shows an average candidate
        several times less often than the best, and never never.
      popularity_half_life_days: clicks so far are forgotten at this rate.

      organic: visits outside search per request. A third of engagement happens there.
      arrival_seconds: mean delay until an event is stored.
      late_share, late_hours: share of events that come from devices that were offline, and their
        mean delay: half a day.
    """

    requests: int
    items: int
    queries: int
    users: int
    topics: int = 24
    pool: int = 200
    slate: int = 10
    days: int = 730
    chunk_days: int = 7
    chunk_requests: int = 20_000

    initial_items: float = 0.6
    topic_concentration: float = 1.0
    query_concentration: float = 0.5
    words_per_topic: int = 30
    generic_words: int = 200
    word_exponent: float = 1.0
    title_words: tuple[int, int] = (4, 9)
    query_words: tuple[int, int] = (1, 4)
    title_generic: float = 0.25
    query_generic: float = 0.05
    title_forms: tuple[float, float, float] = (0.7, 0.2, 0.1)
    query_forms: tuple[float, float, float] = (0.6, 0.15, 0.25)
    category_noise: float = 0.15
    review_noise: float = 1.0

    query_exponent: float = 1.0
    user_activity: float = 1.0
    query_choices: int = 4
    group_taste: float = 0.3
    drift: float = 1.0

    relevance: float = 2.5
    taste: float = 0.7
    quality: float = 0.5
    idiosyncratic: float = 1.0
    segment_share: float = 0.3
    day_noise: float = 0.2

    click_bias: float = -2.0
    save_bias: float = -4.5
    examination: float = 0.5
    dwell_seconds: float = 20.0
    dwell_appeal: float = 0.3
    dwell_sigma: float = 1.1
    long_seconds: float = 30.0
    short_seconds: float = 5.0

    lexical: float = 2.0
    popularity: float = 0.5
    freshness: float = 0.5
    fresh_days: float = 30.0
    temperature: float = 0.5
    popularity_half_life_days: float = 90.0

    organic: float = 0.5
    arrival_seconds: float = 5.0
    late_share: float = 0.02
    late_hours: float = 12.0

    @property
    def chunks(self) -> int:
        """Number of chunks of equal time, each one part on disk."""
        return max(-(-self.days // self.chunk_days), -(-self.requests // self.chunk_requests))


PRESETS = {
    # Seconds for every station: tests.
    "tiny": SimulatorConfig(
        requests=2_000, items=400, queries=80, users=200, topics=8, pool=60, chunk_days=73
    ),
    # The quickstart: half a million impressions.
    "small": SimulatorConfig(
        requests=50_000, items=5_000, queries=2_000, users=4_000, chunk_days=14
    ),
    # Five million impressions: experiments.
    "medium": SimulatorConfig(
        requests=500_000, items=50_000, queries=20_000, users=50_000, topics=60
    ),
    # Fifty million, or as many as `requests` says, in parts of bounded memory.
    "large": SimulatorConfig(
        requests=5_000_000, items=200_000, queries=100_000, users=500_000, topics=60
    ),
}

_COUNTS = ("requests", "items", "queries", "users", "topics", "slate", "days", "chunk_days")
_SHARES = (
    *("initial_items", "category_noise", "group_taste", "segment_share", "late_share"),
    *("title_generic", "query_generic"),
)


def resolve(preset: str, **overrides: Any) -> SimulatorConfig:
    """Returns a preset with some fields replaced.

    Raises:
      InputError: unknown preset or field, or a value out of its range.
    """
    if preset not in PRESETS:
        raise InputError(f"no preset '{preset}'." + did_you_mean(preset, PRESETS))
    base = PRESETS[preset]
    fields = [field.name for field in dataclasses.fields(SimulatorConfig)]
    for name, value in overrides.items():
        if name not in fields:
            raise InputError(f"the simulator has no field '{name}'." + did_you_mean(name, fields))
        default = getattr(base, name)
        number = isinstance(value, int) or (
            isinstance(value, float) and not isinstance(default, int)
        )
        if not isinstance(default, tuple) and (not number or isinstance(value, bool)):
            raise InputError(
                f"simulator field '{name}' is {value!r}. Expected a number like {default!r}."
            )
    config = dataclasses.replace(base, **overrides)
    low = dict.fromkeys((*_COUNTS, "chunk_requests", "query_choices"), 1) | {
        "pool": 2 * config.slate
    }
    for name, least in low.items():
        if getattr(config, name) < least:
            raise InputError(
                f"simulator field '{name}' is {getattr(config, name)}. Expected {least} or more."
            )
    for name in _SHARES:
        if not 0 <= getattr(config, name) <= 1:
            raise InputError(
                f"simulator field '{name}' is {getattr(config, name)}. Expected a share, 0 to 1."
            )
    if config.days > 20_000:
        raise InputError(f"simulator field 'days' is {config.days}. Expected at most 20,000.")
    if config.temperature <= 0:
        raise InputError("simulator field 'temperature' must be above 0: the policy explores.")
    if config.items * config.initial_items < config.pool:
        raise InputError(
            f"{config.items} items, {config.initial_items:.0%} of them there from the start, are "
            f"fewer than the pool of {config.pool}. Expected more items or a smaller pool."
        )
    return config
