"""Set before jax starts: broadcasting must be meant, and compiling must be quick."""

import collections
import gc
import importlib.metadata
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# Tests compile far more than they run, and several processes compile the same.
_FLAGS = ["--xla_backend_optimization_level=0"]
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    # It halves the time to compile; later versions abort on a flag that they no longer have.
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))
_CACHE = tempfile.mkdtemp(prefix="interactrank-jax-compiled-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

# Tracing makes many small objects that stay. Looking at all of them again and again took 6% of the
# time of tests that train.
gc.set_threshold(200_000, 20, 100)

import ibis  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

from tests.once import made_once  # noqa: E402
from tests.synthetic import tiny_config, write_examples  # noqa: E402

# Merging its selects is two fifths of the time that writing a query takes. Tests write thousands
# of small ones; commands that they start merge them.
ibis.options.sql.fuse_selects = False

flags.FLAGS.mark_as_parsed()  # grain and absl ask for flags that pytest does not parse

REPOSITORY = Path(__file__).parents[1]
SHARED_DATA = REPOSITORY / "../shared/data"  # real data, where there is any


def pytest_collection_modifyitems(items):
    """Files with long tests first, then those with most: what takes long must not come last."""
    sizes = collections.Counter(item.path for item in items)
    marked = {
        item.path
        for item in items
        if item.get_closest_marker("thorough") or item.get_closest_marker("long")
    }
    items.sort(key=lambda item: (item.path not in marked, -sizes[item.path]))


def pytest_sessionfinish():
    shutil.rmtree(_CACHE, ignore_errors=True)


MOST_MAPS = 20_000  # of the 65,530 that Linux gives a process


@pytest.fixture(autouse=True, scope="module")
def compiled_programs():
    """Forgets compiled programs before their maps of memory run out, which ends in a crash."""
    yield
    jax = sys.modules.get("jax")
    maps = Path("/proc/self/maps")
    if jax is None or not maps.exists():
        return
    if maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def registries():
    """Names of models and losses that a test registers are forgotten after it."""
    from interactrank_jax import losses
    from interactrank_jax.models.registry import MODELS

    registries = [(registry, dict(registry)) for registry in (MODELS, losses.LOSSES)]
    yield
    for registry, before in registries:
        registry.clear()
        registry.update(before)


@pytest.fixture(scope="session")
def examples_path(tmp_path_factory):
    """Synthetic examples; read only."""
    return made_once(tmp_path_factory, "examples", write_examples)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, examples_path):
    """An InteractRank run on the synthetic examples; read only."""
    from interactrank_jax.training.train import train

    def make(root: Path) -> Path:
        train(tiny_config("interactrank"), examples_path, root / "interactrank")
        return root / "interactrank"

    return made_once(tmp_path_factory, "runs", make)


@pytest.fixture(scope="session")
def tiny_log(tmp_path_factory):
    """The simulator's smallest log; read only."""
    from interactrank_jax.log.simulator.simulate import simulate

    def make(root: Path) -> Path:
        simulate("tiny", 0, root / "tiny")
        return root / "tiny"

    return made_once(tmp_path_factory, "logs", make)


@pytest.fixture(scope="session")
def tiny_examples(tmp_path_factory, tiny_log):
    """Examples of the simulator's smallest log, by the search config; read only."""
    from interactrank_jax.config import models
    from interactrank_jax.examples.prepare import prepare

    def make(root: Path) -> Path:
        prepare(models.interactrank("search").data, tiny_log, root / "tiny")
        return root / "tiny"

    return made_once(tmp_path_factory, "prepared", make)


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A run on the handmade log and its bundle, see `tests.serving.making.Made`; read only."""
    from tests.serving.making import make_served

    return made_once(tmp_path_factory, "served", make_served)


@pytest.fixture(scope="session")
def ranker(served):
    """A Ranker of that bundle."""
    from interactrank_jax.ranking.ranker import Ranker

    return Ranker(served.bundle)


@pytest.fixture(scope="session")
def reader(served):
    """A Reader of that bundle."""
    pytest.importorskip("onnxruntime")
    from interactrank_jax.serving.reader import Reader

    return Reader(served.bundle)
