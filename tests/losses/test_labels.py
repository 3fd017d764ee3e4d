"""The unified label and its weights, computed by hand, and the counts behind the calibration."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from interactrank_jax.config.data_sets import search_label
from interactrank_jax.examples.format import Split
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.labels import LabelRule

ACTIONS = ("click", "long_click", "short_click", "save")


def rule(actions=ACTIONS, **fields) -> LabelRule:
    config: ConfigDict = search_label()
    config.update(fields)
    return LabelRule.from_config(config, actions)


# Actions of a candidate, then: engaged, save and long-click labels, weight. InteractRank's code
# takes the first of long click 20, save 7, short click 20, click 1; else impression only, 5.
BY_HAND = [
    ((), 0, 0, 0, 5.0),
    (("click",), 1, 0, 0, 1.0),
    (("click", "long_click"), 1, 0, 1, 20.0),
    (("click", "short_click"), 0, 0, 0, 20.0),
    (("short_click",), 0, 0, 0, 20.0),
    (("save",), 1, 1, 0, 7.0),
    (("click", "save"), 1, 1, 0, 7.0),
    (("click", "long_click", "save"), 1, 1, 1, 20.0),
    (("click", "short_click", "save"), 0, 1, 0, 7.0),
    (("click", "long_click", "short_click"), 0, 0, 1, 20.0),
]
HAPPENED = np.array([[name in row[0] for name in ACTIONS] for row in BY_HAND], np.uint8)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
class TestUnifiedLabel:
    def test_is_a_positive_action_without_a_clear_negative(self, array):
        expected = [row[1] for row in BY_HAND]
        engaged = rule().engaged(array(HAPPENED))
        assert engaged.dtype == bool
        np.testing.assert_array_equal(engaged, expected)

    def test_heads_are_in_order_the_unified_label_and_plain_actions(self, array):
        labels = rule().labels(array(HAPPENED))
        assert labels.dtype == bool
        np.testing.assert_array_equal(labels, [row[1:4] for row in BY_HAND])
        other = rule(heads=("long_click", "engaged"), utility=(0.0, 1.0))
        np.testing.assert_array_equal(
            other.labels(array(HAPPENED)), [(row[3], row[1]) for row in BY_HAND]
        )

    def test_the_first_action_in_the_order_of_the_code_gives_the_weight(self, array):
        weights = rule().example_weights(array(HAPPENED))
        assert weights.dtype == np.float32
        np.testing.assert_array_equal(weights, [row[4] for row in BY_HAND])

    def test_the_order_of_the_weights_decides_not_their_size(self, array):
        turned = rule(weights=(("click", 1.0), ("save", 7.0)), impression_weight=0.5)
        expected = [1, 0.5, 7, 1]
        rows = [HAPPENED[index] for index in (1, 0, 5, 6)]
        np.testing.assert_array_equal(turned.example_weights(array(np.stack(rows))), expected)

    def test_an_impression_only_has_not_acted(self, array):
        acted = rule().acted(array(HAPPENED))
        np.testing.assert_array_equal(acted, [bool(row[0]) for row in BY_HAND])

    def test_takes_any_leading_axes(self, array):
        actions = array(HAPPENED.reshape(2, 5, 4))
        assert rule().labels(actions).shape == (2, 5, 3)
        assert rule().example_weights(actions).shape == rule().engaged(actions).shape == (2, 5)

    def test_rules_without_weights_or_negatives_are_plain(self, array):
        plain = LabelRule.from_config(
            ConfigDict(
                {
                    "heads": ("engaged",),
                    "utility": (1.0,),
                    "positive": ("save",),
                    "negative": (),
                    "weights": (),
                    "impression_weight": 1.0,
                }
            ),
            ACTIONS,
        )
        actions = array(HAPPENED)
        np.testing.assert_array_equal(plain.engaged(actions), HAPPENED[:, 3])
        np.testing.assert_array_equal(plain.example_weights(actions), 1)


class TestClassWeights:
    def split(self, rows):
        patterns: dict[str, int] = {}
        for row in rows:
            key = "".join(map(str, row))
            patterns[key] = patterns.get(key, 0) + 1
        return Split(len(rows), len(rows), len(rows), patterns, [])

    @pytest.mark.parametrize("sampling", [1.0, 0.5])
    def test_equal_the_mean_training_weight_over_every_row(self, sampling):
        rows = (np.random.default_rng(0).random((400, 4)) < [0.4, 0.2, 0.1, 0.1]).astype(np.uint8)
        found = rule().class_weights(self.split(rows), sampling)
        assert len(found) == 3
        for head, pair in enumerate(found):
            totals = {0: [0.0, 0], 1: [0.0, 0]}
            for row in rows:
                weight = float(rule().example_weights(row))
                if not row.any():
                    weight *= sampling  # kept that often
                entry = totals[int(rule().labels(row)[head])]
                entry[0] += weight
                entry[1] += 1
            expected = [totals[label][0] / totals[label][1] for label in (1, 0)]
            np.testing.assert_allclose(pair, expected, rtol=1e-6)

    def test_a_class_that_never_occurs_weighs_one(self):
        rows = np.zeros((3, 4), np.uint8)
        assert rule().class_weights(self.split(rows), 1.0) == [(1.0, 5.0)] * 3


class TestErrors:
    @pytest.mark.parametrize(
        "fields",
        [
            {"positive": ("click", "svae")},
            {"negative": ("svae",)},
            {"weights": (("svae", 1.0),)},
            {"heads": ("engaged", "svae", "long_click")},
        ],
        ids=lambda fields: next(iter(fields)),
    )
    def test_an_action_the_examples_lack_is_named_with_the_nearest(self, fields):
        with pytest.raises(InputError, match=r"'svae'.*Did you mean 'save'"):
            rule(**fields)

    def test_one_utility_per_head(self):
        with pytest.raises(InputError, match=r"utility has 2 values for 3 heads.*one weight per"):
            rule(utility=(1.0, 0.0))

    def test_an_action_has_one_weight(self):
        with pytest.raises(InputError, match=r"weights names an action twice: save, click, save"):
            rule(weights=(("save", 7.0), ("click", 1.0), ("save", 2.0)))

    def test_examples_without_an_action_of_the_config_are_refused(self):
        with pytest.raises(InputError, match="'short_click', which the examples do not have"):
            rule(actions=("click", "long_click", "save"))


def test_every_combination_of_actions_has_been_thought_of_in_the_engaged_rule():
    for happened in itertools.product([0, 1], repeat=4):
        click, long_click, short_click, save = happened
        expected = bool((click or long_click or save) and not short_click)
        assert rule().engaged(np.array(happened, np.uint8)) == expected
