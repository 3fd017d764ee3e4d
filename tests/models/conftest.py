import functools

import pytest

from interactrank_jax.examples.format import Examples
from tests.models.model_case import Case


@pytest.fixture(scope="module")
def examples(examples_path):
    return Examples(examples_path)


@pytest.fixture(scope="module")
def cases(examples):
    """Cases by name, each made once a file."""
    return functools.cache(lambda name: Case(name, examples))
