"""The way round a slow scatter-add of some CUDA releases of jaxlib. Does not import jax.

jaxlib 0.10.2 and 0.11.0 compile a float32 scatter-add, which is what the gradient of an embedding
lookup is, into a loop of compare-and-swaps on CUDA: up to thousands of times slower where gradients
meet in one row. 0.10.1 does not, 0.11.1 is said to be mended.
"""

import logging
import re
from collections.abc import MutableMapping
from importlib import metadata

SLOW_FROM, MENDED_IN = (0, 10, 2), (0, 11, 1)
# The compiler for CUDA comes in these; they bear jaxlib's version.
PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")
OPTION = "nvptx-allow-ftz-atomics"
FLAG = f"--xla_backend_extra_options=-{OPTION}"

logger = logging.getLogger(__name__)


def has_slow_scatter(version: str) -> bool:
    """Returns whether a version of jaxlib is among those that compile the slow loop on CUDA."""
    release = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if release is None:
        return False
    return SLOW_FROM <= tuple(int(number or 0) for number in release.groups()) < MENDED_IN


def plugin_versions() -> list[str]:
    """Returns the versions of the installed CUDA plugins of jax; none on a machine without."""
    versions = []
    for plugin in PLUGINS:
        try:
            versions.append(metadata.version(plugin))
        except metadata.PackageNotFoundError:
            continue
    return versions


def avoid_slow_scatter(environ: MutableMapping[str, str]) -> None:
    """Adds FLAG to XLA_FLAGS where the installed CUDA plugin needs it.

    To be called before jax starts its backend, which reads XLA_FLAGS once. Flags that are set stay,
    and so does the user's own choice about this option.

    Args:
      environ: `os.environ`.
    """
    flags = environ.get("XLA_FLAGS", "")
    if OPTION in flags or not any(has_slow_scatter(version) for version in plugin_versions()):
        return
    environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()
    logger.info("XLA_FLAGS: %s added, for this jaxlib's scatter-add is slow on CUDA", FLAG)
