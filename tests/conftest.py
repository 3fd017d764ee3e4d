"""Set before jax starts: broadcasting must be meant, and compiling must be quick."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# Tests compile far more than they run.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest  # noqa: E402
from absl import flags  # noqa: E402

from tests.synthetic import write_examples  # noqa: E402

flags.FLAGS.mark_as_parsed()  # grain and absl ask for flags that pytest does not parse


@pytest.fixture(scope="session")
def examples_path(tmp_path_factory):
    """Synthetic examples; read only."""
    return write_examples(tmp_path_factory.mktemp("examples"))
