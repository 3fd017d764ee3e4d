"""The simulated world: items, queries and users, their texts, and how much an item appeals.

Nothing here depends on time passing: `simulate.py` lets people loose on it. An oracle can rebuild
the world from the log's preset and seed, and ask for the appeal of any item to any request.
"""

import dataclasses
import functools

import numpy as np

from interactrank_jax.log.simulator.draws import draw, hash_normal, stream
from interactrank_jax.log.simulator.presets import SimulatorConfig

DAY = 86_400
START = 1_672_531_200  # 2023-01-01 00:00 UTC

COUNTRIES = ("US", "BR", "DE", "JP", "IN", "FR", "MX", "GB")
# A large home market and a tail, as international services report.
COUNTRY_SHARES = (0.4, 0.15, 0.11, 0.09, 0.08, 0.07, 0.05, 0.05)
GENDERS = ("female", "male", "unspecified")
GENDER_SHARES = (0.55, 0.35, 0.1)

_SYLLABLES = [c + v for c in "bdfghjklmnprstvwxyzq" for v in "aeiou"]
_SUFFIXES = ("s", "en", "ing")

# Of items that come and go, none is older than ten years when the log starts.
OLDEST = 10 * 365 * DAY
# A trend's correlation over s knots is (1 - s/2) cos(pi s/2) + sin(pi s/2) / pi, up to s = 1, when
# both times lie anywhere between knots: one half at this s.
_HALF_LIFE_KNOTS = 0.786796


@dataclasses.dataclass(frozen=True)
class Items:
    """Items: `topics` `[I, T]` of unit length, `quality` `[I]`, `created` `[I]` (UTC seconds),

    `category` `[I]`, `price` `[I]`, `review_score` `[I]`, `words` (per item, word ids), `titles`,
    `gone` `[I]` (UTC seconds, the first at which an item no longer exists; None if items stay).
    """

    topics: np.ndarray
    quality: np.ndarray
    created: np.ndarray
    category: np.ndarray
    price: np.ndarray
    review_score: np.ndarray
    words: list[list[int]]
    titles: list[str]
    gone: np.ndarray | None

    @functools.cached_property
    def _existence(self) -> tuple[np.ndarray, np.ndarray | None]:
        # Seconds from the start fit int32, which halves the memory traffic of the largest gather.
        gone = None if self.gone is None else (self.gone - START).astype(np.int32)
        return (self.created - START).astype(np.int32), gone

    def absent(self, item: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Returns which of items `[R, C]` do not exist at times `[R]`: not yet, or no more."""
        created, gone = self._existence
        seconds = (time - START).astype(np.int32)[:, None]
        absent = created[item] > seconds
        if gone is not None:
            absent |= gone[item] <= seconds
        return absent

    def existing(self, since: float, until: float) -> np.ndarray:
        """Returns the items that exist at some time between; all of them if items stay."""
        if self.gone is None:
            return np.arange(len(self.created))
        return np.flatnonzero((self.created < until) & (self.gone > since))


@dataclasses.dataclass(frozen=True)
class Queries:
    """Queries: `topics` `[Q, T]` of unit length, `popularity` `[Q]` cumulative, words, texts."""

    topics: np.ndarray
    popularity: np.ndarray
    words: list[list[int]]
    texts: list[str]


@dataclasses.dataclass(frozen=True)
class Users:
    """Users: tastes `early`, `late` `[U, T]` and `turn` `[U]` (radians over the whole log) between

    them, the tastes of their groups `[G, T]`, `country`, `gender` `[U]`, `activity` `[U]`
    cumulative, `joined` `[U]` (UTC seconds).
    """

    early: np.ndarray
    late: np.ndarray
    turn: np.ndarray
    group_taste: np.ndarray
    country: np.ndarray
    gender: np.ndarray
    activity: np.ndarray
    joined: np.ndarray


@dataclasses.dataclass(frozen=True)
class Appeal:
    """What an item's appeal to a request is made of, each `[R, C]` float32, weights included."""

    relevance: np.ndarray
    taste: np.ndarray
    quality: np.ndarray
    idiosyncratic: np.ndarray
    mood: np.ndarray  # [R, 1]: the user's day; moves all candidates alike
    trend: np.ndarray | None = None  # None if items have none

    @functools.cached_property
    def total(self) -> np.ndarray:
        """The sum `[R, C]`: log-odds of a click on an examined item, but for the bias."""
        lasting = self.relevance + self.taste + self.quality + self.idiosyncratic + self.mood
        return lasting if self.trend is None else lasting + self.trend

    def parts(self) -> dict[str, np.ndarray]:
        """Returns what `total` adds up, by name, in its shape."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: np.broadcast_to(value, self.total.shape)
            for name, value in fields.items()
            if value is not None
        }


class World:
    """Items, queries, users of one config and seed.

    Attributes:
      config: of the simulator.
      item_features: what of the items the log has.
      item_ids: of the items in the log; None to number them.
      items, queries, users: who and what there is.
      category_names: by the categories of items.
    """

    item_features: tuple[str, ...] = ("title", "category", "price", "review_score")
    item_ids: list[str] | None = None
    items: Items
    queries: Queries
    category_names: list[str]

    def __init__(self, config: SimulatorConfig, seed: int):
        self.config = config
        self._populate(seed)
        self.users = _users(config, stream(seed, "users"))
        self._pair_seed, self._segment_seed, self._mood_seed = (
            int(value) for value in stream(seed, "hash").integers(2**63, size=3)
        )
        trends = stream(seed, "trends")
        self._trend_seed = int(trends.integers(2**63))
        self._trend_phase = trends.random(config.items)

    def _populate(self, seed: int) -> None:
        """Makes items, queries and category names."""
        config = self.config
        lexicon = _Lexicon(config, stream(seed, "lexicon"))
        self.items = _items(config, lexicon, seed)
        self.queries = _queries(config, lexicon, stream(seed, "queries"))
        self.category_names = lexicon.topic_names

    def pools(self, seed: int, since: float, until: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns each query's candidates, see `retrieval.candidate_pools`."""
        from interactrank_jax.log.simulator.retrieval import candidate_pools

        return candidate_pools(self, seed, since, until)

    def tastes(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Returns the tastes `[R, T]` of users `[R]` at times `[R]`; coordinates have variance 1.

        A user's own taste turns from one random vector towards another, at a pace of the user's.
        """
        config, users = self.config, self.users
        angle = (users.turn[user] * ((time - START) / (config.days * DAY))).astype(np.float32)
        own = np.cos(angle)[:, None] * users.early[user]
        own += np.sin(angle)[:, None] * users.late[user]
        group = users.group_taste[users.country[user] * len(GENDERS) + users.gender[user]]
        share = np.float32(config.group_taste)
        return np.sqrt(share) * group + np.sqrt(1 - share) * own

    def appeal(
        self, query: np.ndarray, user: np.ndarray, time: np.ndarray, item: np.ndarray
    ) -> Appeal:
        """Returns the appeal of items `[R, C]` to requests: queries, users, times `[R]`."""
        config, items = self.config, self.items
        topics = items.topics[item]
        cosine = np.einsum("rt,rct->rc", self.queries.topics[query], topics)
        taste = np.einsum("rt,rct->rc", self.tastes(user, time), topics)
        day = (time - START) // DAY
        mood = hash_normal(self._mood_seed, user, day)[:, None]
        return Appeal(
            relevance=np.float32(config.relevance) * (cosine - np.float32(0.5)),
            taste=np.float32(config.taste) * taste,
            quality=np.float32(config.quality) * items.quality[item],
            idiosyncratic=self.idiosyncratic(query, self.users.country[user], item),
            mood=np.float32(config.day_noise) * mood,
            trend=np.float32(config.trend) * self.trend(item, time) if config.trend else None,
        )

    def trend(self, item: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Returns the trends `[R, C]` of items `[R, C]` at times `[R]`: standard normals.

        An item has an independent draw at each knot, and between two it turns from one towards the
        other, as tastes do. Knots of different items lie at different times.
        """
        knots = (time - START) / (DAY * self.config.trend_half_life_days / _HALF_LIFE_KNOTS)
        knots = knots[:, None] + self._trend_phase[item]
        last = np.floor(knots)
        angle = (np.pi / 2 * (knots - last)).astype(np.float32)
        last = last.astype(np.int64)
        before = hash_normal(self._trend_seed, item, last)
        after = hash_normal(self._trend_seed, item, last + 1)
        return np.cos(angle) * before + np.sin(angle) * after

    def idiosyncratic(self, query: np.ndarray, country: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Returns the appeal `[R, C]` of items to queries `[R]` that no feature explains.

        One part holds everywhere, the rest (`segment_share` of the variance) in one country only.
        """
        config = self.config
        if not config.idiosyncratic:
            return np.zeros(item.shape, np.float32)
        query, country = query[:, None], country[:, None]
        everywhere = hash_normal(self._pair_seed, query, item)
        local = hash_normal(self._segment_seed, query, item, country)
        scale, share = np.float32(config.idiosyncratic), np.float32(config.segment_share)
        return scale * (np.sqrt(1 - share) * everywhere + np.sqrt(share) * local)


class _Lexicon:
    """Pseudo-words: per topic, each in three forms (itself, inflected, a synonym); and generic."""

    def __init__(self, config: SimulatorConfig, rng: np.random.Generator):
        concepts = config.topics * config.words_per_topic + config.generic_words
        numbers = rng.choice(len(_SYLLABLES) ** 3, 2 * concepts, replace=False)
        roots = [
            _SYLLABLES[n // 10_000] + _SYLLABLES[n // 100 % 100] + _SYLLABLES[n % 100]
            for n in numbers.tolist()
        ]
        suffixes = [_SUFFIXES[k] for k in rng.integers(len(_SUFFIXES), size=concepts)]
        base, synonym = roots[:concepts], roots[concepts:]
        inflected = [root + suffix for root, suffix in zip(base, suffixes, strict=True)]
        self.words = [*base, *inflected, *synonym]
        self.concepts = concepts
        self.config = config
        self.topic_names = [base[topic * config.words_per_topic] for topic in range(config.topics)]
        ranks = np.arange(1, config.words_per_topic + 1)
        self._within_topic = np.cumsum(ranks**-config.word_exponent)

    def draw(
        self,
        rng: np.random.Generator,
        mixture: np.ndarray,
        generic: float,
        forms: tuple[float, float, float],
    ) -> np.ndarray:
        """Draws one word id `[N]` from topic mixtures `[N, T]` that sum to 1."""
        config, count = self.config, len(mixture)
        cumulative = np.cumsum(mixture, axis=1)
        topic = (rng.random(count)[:, None] > cumulative[:, :-1]).sum(1)
        concept = topic * config.words_per_topic + draw(rng, self._within_topic, count)
        meaningless = config.topics * config.words_per_topic + rng.integers(
            config.generic_words, size=count
        )
        concept = np.where(rng.random(count) < generic, meaningless, concept)
        return concept + self.concepts * draw(rng, np.cumsum(forms), count)

    def join(self, words: list[int]) -> str:
        return " ".join(self.words[word] for word in words)


def _mixtures(rng: np.random.Generator, count: int, topics: int, concentration: float):
    return rng.dirichlet(np.full(topics, concentration / topics), count)


def unit(mixture: np.ndarray) -> np.ndarray:
    """Returns rows `[N, T]` divided by their length, float32."""
    return (mixture / np.linalg.norm(mixture, axis=1, keepdims=True)).astype(np.float32)


def _items(config: SimulatorConfig, lexicon: _Lexicon, seed: int) -> Items:
    rng, count = stream(seed, "items"), config.items
    mixture = _mixtures(rng, count, config.topics, config.topic_concentration)
    quality = rng.standard_normal(count, dtype=np.float32)
    shortest, longest = config.title_words
    slots = [
        lexicon.draw(rng, mixture, config.title_generic, config.title_forms) for _ in range(longest)
    ]
    lengths = rng.integers(shortest, longest, endpoint=True, size=count)
    words = [
        list(dict.fromkeys(row[:length]))  # a title does not repeat a word
        for row, length in zip(np.stack(slots, 1).tolist(), lengths.tolist(), strict=True)
    ]
    # Older items: up to one log's length old at its start. Newer ones: evenly through the log.
    span = config.days * DAY
    age = rng.integers(1, span, size=count)
    initial = np.zeros(count, bool)
    initial[rng.permutation(count)[: round(count * config.existing_share)]] = True
    created = np.where(initial, START - age, START + age)
    created, gone = (created, None) if not config.turnover else _lives(config, seed, created)
    category = mixture.argmax(1)
    random_category = rng.integers(config.topics, size=count)
    category = np.where(rng.random(count) < config.category_noise, random_category, category)
    review = quality + config.review_noise * rng.standard_normal(count, dtype=np.float32)
    return Items(
        topics=unit(mixture),
        quality=quality,
        created=created,
        category=category,
        # Median 20 in the currency of the day, a factor e per deviation, as retail prices spread.
        price=np.exp(rng.normal(3, 1, count)).round(2).astype(np.float32),
        # Stars: centred on 3.5, half a star per deviation.
        review_score=(3.5 + 0.5 * review).clip(1, 5).round(1).astype(np.float32),
        words=words,
        titles=[lexicon.join(row) for row in words],
        gone=gone,
    )


def _lives(
    config: SimulatorConfig, seed: int, created: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns when items `[I]` appear and disappear, given when they do if they stay.

    At a constant rate of disappearing, the ages and the remaining lives of those that exist at one
    time are exponential with one mean.
    """
    rng = stream(seed, "lives")
    age, life = np.ceil(rng.exponential(config.mean_life_days * DAY, (2, len(created))))
    created = np.where(created < START, START - age.clip(1, OLDEST), created)
    gone = np.maximum(created, START) + life.clip(1)
    latest = START + np.iinfo(np.int32).max
    return created.astype(np.int64), gone.clip(max=latest).astype(np.int64)


def _queries(config: SimulatorConfig, lexicon: _Lexicon, rng: np.random.Generator) -> Queries:
    count = config.queries
    mixture = _mixtures(rng, count, config.topics, config.query_concentration)
    shortest, longest = config.query_words
    lengths = rng.integers(shortest, longest, endpoint=True, size=count)
    words: list[list[int]] = [[] for _ in range(count)]
    short, position = np.arange(count), 0
    while len(short):
        # Two queries of one text would be one query: those that repeat get another word.
        drawn = lexicon.draw(rng, mixture[short], config.query_generic, config.query_forms)
        for query, word in zip(short.tolist(), drawn.tolist(), strict=True):
            if word not in words[query]:
                words[query].append(word)
        position += 1
        seen: set[tuple[int, ...]] = set()
        repeated = []
        for row in words:
            repeated.append(tuple(row) in seen)
            seen.add(tuple(row))
        short = np.flatnonzero((lengths > position) | np.array(repeated))
    ranks = np.arange(1, count + 1)
    return Queries(
        topics=unit(mixture),
        popularity=np.cumsum(ranks**-config.query_exponent),
        words=words,
        texts=[lexicon.join(row) for row in words],
    )


def _users(config: SimulatorConfig, rng: np.random.Generator) -> Users:
    count, shape = config.users, (config.users, config.topics)
    groups = (len(COUNTRIES) * len(GENDERS), config.topics)
    return Users(
        early=rng.standard_normal(shape, dtype=np.float32),
        late=rng.standard_normal(shape, dtype=np.float32),
        turn=np.pi / 2 * config.drift * rng.uniform(0.5, 1.5, count),
        group_taste=rng.standard_normal(groups, dtype=np.float32),
        country=draw(rng, np.cumsum(COUNTRY_SHARES), count),
        gender=draw(rng, np.cumsum(GENDER_SHARES), count),
        activity=np.cumsum(rng.lognormal(0, config.user_activity, count)),
        # Accounts up to four years old when the log starts.
        joined=START - rng.integers(0, 4 * 365 * DAY, size=count),
    )
