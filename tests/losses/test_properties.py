"""One table of properties over every loss; what is particular to one is in a file of its own."""

import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax import losses
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses import properties
from interactrank_jax.losses.properties import Case
from tests.losses.cases import CASES


def test_every_public_loss_is_in_the_table():
    helpers = {"CORRECTIONS", "LOSSES", "MAX_LOG_SCALE", "Total", "accidental_hits"}
    helpers |= {"first_occurrence", "log_q_from_counts", "of_kind", "register", "scale_logits"}
    helpers |= {"stage_weights"}
    names = {name.split(",")[0] for name in CASES}
    assert names == set(losses.__all__) - helpers
    assert names >= {entry.loss.__name__ for entry in losses.LOSSES.values()}


@pytest.mark.parametrize("holds", properties.PROPERTIES, ids=lambda holds: holds.__name__)
@pytest.mark.parametrize("name", CASES)
def test_every_loss(name, holds):
    holds(CASES[name])


def squared(logits, labels, *, where=None, weights=None):
    """(z - y)^2 over a slate's rows."""
    logits, labels = losses.total.existing_rows(logits, labels, where)
    return losses.total.sum_rows((logits - labels) ** 2, where, weights)


def squared_by_hand(logits, weights, labels):
    return (weights * (logits - labels) ** 2).sum(), weights.sum()


class TestALossOfOnesOwn:
    def check(self, loss, by_hand=squared_by_hand, **fields):
        losses.register("own", kind="slate", case=Case(by_hand, **fields))(loss)
        properties.check("own")

    def test_runs_through_the_same_table(self, registries):
        self.check(squared)

    @pytest.mark.parametrize(
        ("broken", "holds"),
        [
            (lambda z, y, where=None, weights=None: squared(2 * z, y, where=where), "by_hand"),
            (
                lambda z, y, where=None, weights=None: squared(
                    z, jnp.nan_to_num(y), where=where, weights=weights
                ),
                "never_passed_over",
            ),
            (
                lambda z, y, where=None, weights=None: losses.Total(
                    *squared_by_hand(z, jnp.ones(z.shape) if weights is None else weights, y)
                ),
                "masking_equals_deleting",
            ),
        ],
        ids=["another value", "passes over NaN", "forgets the mask"],
    )
    def test_that_breaks_a_property_is_told_which(self, broken, holds, registries):
        with pytest.raises(AssertionError, match=holds):
            self.check(broken)

    def test_with_a_wrong_case_is_not_taken_for_right(self, registries):
        with pytest.raises(AssertionError, match="by_hand"):
            self.check(squared, lambda *arrays: np.add(squared_by_hand(*arrays), 0.01))

    def test_without_a_case_is_not_checked(self, registries):
        losses.register("own", kind="slate")(squared)
        with pytest.raises(InputError, match="'own' has no case"):
            properties.check("own")
        with pytest.raises(InputError, match="Did you mean 'own'"):
            properties.check("onw")


class TestNames:
    @pytest.mark.parametrize(
        ("name", "kind", "message"),
        [
            ("mine", "slat", "Did you mean 'slate'"),
            ("my loss", "slate", "cannot be called 'my loss'"),
            ("softmax", "slate", "none of .*softmax"),
        ],
    )
    def test_a_wrong_one_is_refused(self, name, kind, message, registries):
        with pytest.raises(InputError, match=message):
            losses.register(name, kind=kind)

    def test_a_name_is_given_once_and_again_to_the_same_function(self, registries):
        losses.register("own", kind="slate")(squared)
        losses.register("own", kind="slate")(squared)
        with pytest.raises(InputError, match=r"'own' is that of squared in .*squared_by_hand in"):
            losses.register("own", kind="slate")(squared_by_hand)
        with pytest.raises(InputError, match="'bce' is that of sigmoid_cross_entropy"):
            losses.register("bce", kind="pointwise")(squared)
        assert losses.of_kind("pointwise")["bce"] is losses.sigmoid_cross_entropy
