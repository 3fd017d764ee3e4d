"""Huge pages for the memory that a process on CPUs takes and gives back. Does not import jax.

A training step takes tens of megabytes of temporaries from malloc and gives them back. With pages
of 4 KiB, up to a third of the step goes into mapping them again. glibc 2.35 and newer asks the
kernel for huge pages when GLIBC_TUNABLES says so, which it reads once, before Python starts. So the
command sets the variable and starts itself again, in the same process: process id, arguments,
standard streams and ignored signals stay.

GLIBC_TUNABLES=glibc.malloc.hugetlb=0 turns this off, as any value of that tunable does which the
user sets.
"""

import contextlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from interactrank_jax.devices import cuda

VARIABLE, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
# Set to the process id by a process that starts itself again: some systems drop GLIBC_TUNABLES, and
# it would do so for ever.
RESTARTED = "INTERACTRANK_RESTARTED"
SCRIPT, PACKAGES = "interactrank", ("interactrank_jax", "experiments")

_FIRST_GLIBC = (2, 35)
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Starts this program again with huge pages, where it is ours and they help; else returns.

    To be called before any work, best before anything large is imported. A process in which another
    program is the main one, such as a test runner or a notebook, is left alone.
    """
    environ = with_huge_pages(os.environ)
    if environ is None or not _is_ours() or not is_supported():
        return
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    with contextlib.suppress(OSError):  # then it goes on as it is
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)


def with_huge_pages(environ: Mapping[str, str]) -> dict[str, str] | None:
    """Returns the variables of a process with huge pages; None if it is to stay as it is.

    It stays where the user chose the tunable, where jax is to run on accelerators, and where it was
    started again before.

    Args:
      environ: `os.environ`.
    """
    tunables = environ.get(VARIABLE, "")
    process = str(os.getpid())
    if TUNABLE in tunables or environ.get(RESTARTED) == process or not _is_for_cpu(environ):
        return None
    joined = ":".join(filter(None, (tunables, f"{TUNABLE}=1")))
    return {**environ, VARIABLE: joined, RESTARTED: process}


def is_supported() -> bool:
    """Returns whether the tunable has an effect: Linux, glibc 2.35, and a kernel that is asked.

    Where the kernel gives huge pages always or never, glibc does not ask for them.
    """
    if sys.platform != "linux":
        return False
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
        modes = _KERNEL.read_text()
    except (OSError, ValueError):  # another libc has no such name
        return False
    version = re.fullmatch(r"glibc (\d+)\.(\d+).*", library)
    is_recent = version is not None and tuple(map(int, version.groups())) >= _FIRST_GLIBC
    return is_recent and "[madvise]" in modes


def _is_for_cpu(environ: Mapping[str, str]) -> bool:
    """Returns whether jax will run on CPUs, by its variable or else by what is installed."""
    if platforms := environ.get("JAX_PLATFORMS", ""):
        return platforms.split(",")[0].strip() == "cpu"
    return not any(map(_is_installed, (*cuda.PLUGINS, "libtpu")))


def _is_installed(name: str) -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version(name)
        return True
    return False


def _is_ours() -> bool:
    """Returns whether the main program is the console script or `python -m` of our packages.

    Another that calls ours may have done work already, and may have read its standard input.
    """
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    if specification is None:
        return Path(sys.argv[0]).name == SCRIPT
    return specification.name.split(".")[0] in PACKAGES
