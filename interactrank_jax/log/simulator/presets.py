"""The simulator's constants, each chosen once from what is plausible in a search log, and why.

They were set from the rates a reader of real logs would expect (clicks, saves, decay with
position), before any model had been trained on the result, and are not tuned to one.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from interactrank_jax.io.errors import InputError, did_you_mean

HALF_YEAR_DAYS = 182.5
# Under turnover the retrieval index is rebuilt this often: in between, few of the items that it
# retrieves disappear.
_INDEX_DAYS = 60


@dataclasses.dataclass(frozen=True)
class SimulatorConfig:
    """Sizes and constants of a simulated log. Appeal is on the log-odds scale of a click.

    Attributes:
      requests, items, queries, users: rows to simulate.
      topics: number of topics; more of them for a larger corpus, so that a topic's size stays
        in the hundreds of items.
      pool: candidates retrieved per query, at most. Up to twenty slates: the policy has a choice.
        Where it is not given, a preset's grows to two slates.
      slate: rows shown per request; a first screen or two of results.
      days: length of the log; two years, the longest window of the cross features.
      chunk_days: the policy's popularity counts move on once per chunk, and a chunk is one part
        on disk. A week is a usual rhythm of such batch jobs.
      chunk_requests: a chunk holds at most so many requests (the chunk is then shorter than
        chunk_days): memory then does not grow with `requests` (medium takes about half a GB).

      initial_items: share of items older than the log. The rest appears during it, evenly: a
        catalogue that grows by two thirds in two years. Under turnover the share follows from it.
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

      The rest are options. Where they are off, as by default, a log does not change by a bit.

      trend: weight of an item's trend, a standard normal that turns with time: items rise and fall.
        0 (off) to 10; at 1 a rise by one deviation multiplies the odds of a click by e.
      trend_half_life_days: when an item's trend correlates by half with today's; .5 or more.
      turnover: share of the catalogue that is replaced within half a year, 0 (off) to below 1.
        Items disappear at a constant rate and as many appear, so that its size stays; only items
        that exist are retrieved and shown. `items` counts all that ever exist.
      engaged_share: share of shown rows that are engaged with: clicked or saved, and not clicked
        for a moment only. 0 (off: what the biases give) to what examination allows: the biases of
        clicks and saves are moved together, once per chunk, until the expected share is this.
      positives_only: whether only what users engaged with is logged: no other impressions, no
        requests without any, no short clicks. Propensities are unknown then, and positions count
        what is left.
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

    trend: float = 0.0
    trend_half_life_days: float = 14.0
    turnover: float = 0.0
    engaged_share: float = 0.0
    positives_only: bool = False

    @property
    def chunks(self) -> int:
        """Number of chunks of equal time, each one part on disk."""
        return max(-(-self.days // self.chunk_days), -(-self.requests // self.chunk_requests))

    @property
    def mean_life_days(self) -> float:
        """Mean time for which an item exists; endless without turnover."""
        return -HALF_YEAR_DAYS / math.log1p(-self.turnover) if self.turnover else math.inf

    @property
    def existing_share(self) -> float:
        """Share of items that exist when the log starts."""
        if not self.turnover:
            return self.initial_items
        return 1 / (1 + self.days / self.mean_life_days)

    @property
    def index_chunks(self) -> int:
        """Number of chunks that one retrieval index serves."""
        if not self.turnover:
            return self.chunks
        return max(1, round(_INDEX_DAYS * self.chunks / self.days))

    @property
    def examined_share(self) -> float:
        """Expected share of the rows of a full slate that are examined."""
        positions = range(self.slate)
        return sum((1 + position) ** -self.examination for position in positions) / self.slate

    def to_json(self) -> dict[str, Any]:
        """Returns the fields; of the options those that are not as by default."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default or field.name not in OPTIONS
        }


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

OPTIONS = ("trend", "trend_half_life_days", "turnover", "engaged_share", "positives_only")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A log of a kind that search logs are not: its meaning, and the fields it sets of a preset."""

    meaning: str
    fields: Callable[[SimulatorConfig], dict[str, Any]]


VARIANTS = {
    "drift": Variant(
        "items rise and fall: a trend's half-life is two weeks", lambda preset: {"trend": 1.0}
    ),
    "turnover": Variant(
        "half of the catalogue is replaced within half a year", lambda preset: {"turnover": 0.5}
    ),
    "positives": Variant(
        "only what users engaged with is logged", lambda preset: {"positives_only": True}
    ),
    "labels_1": Variant(
        "1% of candidates are engaged with", lambda preset: {"engaged_share": 0.01}
    ),
    # Nobody engages with what they do not look at: half of all rows can only be engaged with where
    # nearly all are examined.
    "labels_50": Variant(
        "50% of candidates are engaged with; nearly all are examined",
        lambda preset: {"engaged_share": 0.5, "examination": 0.05},
    ),
    "slate_3": Variant("3 candidates per request", lambda preset: {"slate": 3}),
    "slate_300": Variant(
        "300 candidates per request, in a tenth of the requests",
        lambda preset: {
            "slate": 300,
            "requests": max(1, preset.requests // 10),
            "items": max(4_000, preset.items),
        },
    ),
}

_COUNTS = ("requests", "items", "queries", "users", "topics", "slate", "days", "chunk_days")
_SHARES = (
    *("initial_items", "category_noise", "group_taste", "segment_share", "late_share"),
    *("title_generic", "query_generic"),
)


def resolve(preset: str, variant: str = "", **overrides: Any) -> SimulatorConfig:
    """Returns a preset with some fields replaced.

    Args:
      preset: a name of `PRESETS`.
      variant: names of `VARIANTS`, 'drift,turnover', whose fields are set in this order; '' for
        none.
      **overrides: fields, set last.

    Raises:
      InputError: unknown preset, variant or field, or a value out of its range.
    """
    if preset not in PRESETS:
        raise InputError(f"no preset '{preset}'." + did_you_mean(preset, PRESETS))
    base = PRESETS[preset]
    _check_types(base, overrides)
    replaced: dict[str, Any] = {}
    for name in filter(None, variant.split(",")):
        if name not in VARIANTS:
            raise InputError(f"no variant '{name}'." + did_you_mean(name, VARIANTS))
        replaced |= VARIANTS[name].fields(base)
    replaced |= overrides
    slate = replaced.get("slate", base.slate)
    config = dataclasses.replace(base, **{"pool": max(base.pool, 2 * slate)} | replaced)
    _check_ranges(config)
    _check_catalogue(config)
    return config


def _check_types(base: SimulatorConfig, overrides: dict[str, Any]) -> None:
    fields = [field.name for field in dataclasses.fields(SimulatorConfig)]
    for name, value in overrides.items():
        if name not in fields:
            raise InputError(f"the simulator has no field '{name}'." + did_you_mean(name, fields))
        default = getattr(base, name)
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise InputError(f"simulator field '{name}' is {value!r}. Expected True or False.")
            continue
        number = isinstance(value, int) or (
            isinstance(value, float) and not isinstance(default, int)
        )
        if not isinstance(default, tuple) and (not number or isinstance(value, bool)):
            raise InputError(
                f"simulator field '{name}' is {value!r}. Expected a number like {default!r}."
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"simulator field '{name}' is {value}. Expected a finite number.")


def _check_ranges(config: SimulatorConfig) -> None:
    low = dict.fromkeys((*_COUNTS, "chunk_requests", "query_choices"), 1) | {
        "pool": 2 * config.slate,
        "trend_half_life_days": 0.5,
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
    if not 0 <= config.trend <= 10:
        raise InputError(f"simulator field 'trend' is {config.trend}. Expected 0 (off) to 10.")
    if config.temperature <= 0:
        raise InputError("simulator field 'temperature' must be above 0: the policy explores.")
    # Some of those who examine a row click for a moment only, however much it appeals.
    largest = 0.8 * config.examined_share
    if not 0 <= config.engaged_share <= largest:
        raise InputError(
            f"simulator field 'engaged_share' is {config.engaged_share}. Expected 0 (off) to "
            f"{largest:.3g}: users examine {config.examined_share:.0%} of the rows of slates of "
            f"{config.slate}. A smaller 'examination' lets them see more, as the variant "
            f"'labels_50' does."
        )


def _check_catalogue(config: SimulatorConfig) -> None:
    if not 0 <= config.turnover < 1:
        raise InputError(
            f"simulator field 'turnover' is {config.turnover}. Expected a share, 0 to below 1."
        )
    existing = config.items * config.existing_share
    if existing < config.pool:
        raise InputError(
            f"{config.items} items, {config.existing_share:.0%} of them there from the start, are "
            f"fewer than the pool of {config.pool}. Expected more items, as a larger preset has, "
            f"or a smaller pool or slate."
        )
    index_days = config.days * config.index_chunks / config.chunks
    lasting = existing * math.exp(-index_days / config.mean_life_days)
    if lasting < config.pool:
        raise InputError(
            f"of {existing:.0f} items at a time about {lasting:.0f} last for the {index_days:.0f} "
            f"days of a retrieval index, fewer than the pool of {config.pool}. Expected more "
            f"items, as a larger preset has, less turnover, or a smaller pool or slate."
        )
