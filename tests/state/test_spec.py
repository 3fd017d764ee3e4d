"""Names of cross features: what they say, and what is wrong with a wrong one."""

import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.state import spec as spec_lib

SCHEMA = Schema(
    (
        FeatureSpec("country", "user", "categorical"),
        FeatureSpec("device", "request", "categorical"),
        FeatureSpec("age", "user", "numeric"),
        FeatureSpec("period", "user", "categorical"),
    ),
    ("click", "save"),
)


def test_specs_are_parsed():
    share, rate = spec_lib.parse_specs(["share:click:30:country", "item_rate:save:7"], SCHEMA)
    assert (share.kind, share.action, share.window, share.segment) == (
        "share",
        "click",
        30,
        "country",
    )
    assert share.count_keys == ("query", "country", "item")
    assert share.total_keys == ("query", "country")
    assert rate.total_keys == rate.count_keys == ("item",)
    assert (share.total_action, rate.total_action) == ("click", "impression")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("share:click", "malformed"),
        ("share:click:0", "1 to 36,500 days"),
        ("share:click:36501", "1 to 36,500 days"),
        ("share:click:99999999999999999999999", "malformed"),
        ("share:click:-3", "malformed"),
        ("share:click:7:country:more", "malformed"),
        ("shares:click:7", "Did you mean 'share'"),
        ("share:clik:7", "Did you mean 'click'"),
        ("share:click:7:county", "Did you mean 'country'"),
        ("share:click:7:age", "has segment 'age'"),
        ("share:click:7:period", "cannot be called 'period'.*Rename"),
        ("rate:impression:7", "the rate of impressions is 1"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(name, message):
    with pytest.raises(InputError, match=message) as error:
        spec_lib.parse_specs(["share:click:9", name], SCHEMA)
    assert name in str(error.value)


def test_a_spec_listed_twice_is_refused():
    with pytest.raises(InputError, match="listed twice"):
        spec_lib.parse_specs(["share:click:9", "share:click:9"], SCHEMA)


def test_names_are_all_combinations():
    assert spec_lib.names(["share", "rate"], ["click"], [7, 30], ["", "country"]) == (
        "share:click:7", "share:click:7:country", "share:click:30", "share:click:30:country",
        "rate:click:7", "rate:click:7:country", "rate:click:30", "rate:click:30:country",
    )  # fmt: skip
