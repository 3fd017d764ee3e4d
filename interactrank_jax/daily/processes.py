"""Runs a command of ours in a process of its own, which does not outlive this one."""

import os
import subprocess
import sys
from collections.abc import Sequence

# On Linux the system kills a child whose parent dies, if the child asks for it, so that what goes
# on after a kill finds nobody at work. It asks before it becomes the command; its parent may have
# died before that.
_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def run_command(words: Sequence[str]) -> int:
    """Runs `interactrank WORDS...`; returns its exit status, negative where a signal ended it.

    What interrupts this process interrupts the command, which is waited for.
    """
    command = [sys.executable, "-m", "interactrank_jax", *words]
    if sys.platform == "linux":
        command = [sys.executable, "-c", _TIED, str(os.getpid()), *command]
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
