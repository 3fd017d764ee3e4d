"""Outputs: directories and files that are whole or absent, locks, scratch space.

What is written lies hidden beside its place until it is whole. Its writer holds a lock on it, which
the system gives back however the writer dies: what nobody holds, the next run removes.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from interactrank_jax.io.errors import InputError

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike
MARKER = ".interactrank"  # in a directory that a killed run may leave

_REMEDIES = {
    errno.ENOSPC: "Free some space and run the same command again",
    errno.EDQUOT: "Free some space and run the same command again",
    errno.EFBIG: "Free some space and run the same command again",
    errno.EROFS: "Choose another directory, or make it writable",
}


def write_problem(error: BaseException) -> str | None:
    """Returns why a file could not be written and what to do, None for any other error.

    Libraries raise this under many types, so their texts are looked at too, and the errors that an
    error came from.
    """
    seen: BaseException | None = error
    while seen is not None:
        for number, remedy in _REMEDIES.items():
            reason = os.strerror(number)
            if (isinstance(seen, OSError) and seen.errno == number) or reason in str(seen):
                return f"{reason}. {remedy}"
        seen = seen.__cause__ or seen.__context__
    return None


@contextlib.contextmanager
def writing(path: PathLike, left: str) -> Iterator[None]:
    """Turns what keeps the block from writing `path` into an error that says what to do.

    Where one such block is inside another, the error speaks of the outer one.

    Args:
      path: what the block writes.
      left: what stands on disk afterwards, for the message.

    Raises:
      InputError: no space, a quota, or a place that is read-only.
    """
    try:
        yield
    except Exception as error:
        problem = write_problem(error)
        if problem is None:
            raise
        raise InputError(f"{path} was not written: {problem}; {left}.") from error


def from_user(path: str, what: str) -> str:
    """Returns a path as a user gave it, `~` expanded; '' stays ''.

    One with a colon is made absolute: libraries take the relative `a:b` for a URI.

    Args:
      path: the path.
      what: what it is, for the message.

    Raises:
      InputError: no path can be so.
    """
    is_text = path.isascii() or path.encode(errors="replace").decode() == path
    if not is_text or "\0" in path or max(map(len, os.fsencode(path).split(b"/"))) > 255:
        name = repr(path if len(path) <= 80 else f"{path[:77]}...")
        raise InputError(f"{what}={name} cannot be a path: a name in it is too long or malformed.")
    path = os.path.expanduser(path)  # noqa: PTH111
    return os.path.abspath(path) if ":" in path else path  # noqa: PTH100


def output_directory(path: PathLike, *sources: PathLike) -> Path:
    """Returns where a directory is to be written, links followed; to be called before any work.

    Args:
      path: the directory.
      *sources: directories that are read, which it may not be part of.

    Raises:
      InputError: it exists and holds something, is a file or the current directory, inside or
        around a source, or no such name can be.
    """
    with _nameable(path):
        final = Path(path).resolve()
        for source in sources:
            refuse_inside(final, source)
        if final.exists() and (not final.is_dir() or any(final.iterdir())):
            raise InputError(
                f"{path} exists already. Expected a new or empty directory: choose another one, or "
                f"remove it first."
            )
    if final == Path.cwd():
        raise InputError(f"{path} is the current directory. Name a new one, such as ./out.")
    return final


def check_output_file(path: PathLike, flag: str = "--out") -> None:
    """Refuses a file that cannot be written; to be called before any work, writes nothing.

    Raises:
      InputError: it is a directory, or below something that is none or may not be written.
    """
    with _nameable(path):
        final = Path(path).absolute()
        if final.is_dir():
            raise InputError(f"{flag}={path} is a directory. Expected a file to write.")
        parent = next(parent for parent in final.parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{flag}={path}: {parent} is read-only or a file. Name another place.")


def refuse_inside(out: PathLike, source: PathLike) -> None:
    """Refuses an output that is its own source, or inside it, or around it.

    Args:
      out: directory to write.
      source: directory that is read, such as a log.

    Raises:
      InputError: one of the two is the other, or inside it.
    """
    written, read = Path(out).resolve(), Path(source).resolve()
    if written == read or read in written.parents or written in read.parents:
        where = (
            "the same directory as"
            if written == read
            else ("inside" if read in written.parents else "around")
        )
        raise InputError(
            f"--out={out} is {where} {source}, which is only read. Name a directory beside it."
        )


@contextlib.contextmanager
def _nameable(path: PathLike) -> Iterator[None]:
    """Turns what the system says of a path that cannot be into an error."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        name = str(path) if len(str(path)) <= 80 else f"{str(path)[:77]}..."
        raise InputError(
            f"{name} cannot be written: {reason}. Choose another directory, or make this one "
            f"writable."
        ) from error


@contextlib.contextmanager
def new_directory(path: PathLike) -> Iterator[Path]:
    """Yields a directory beside `path` and renames it to `path` when the block ends well.

    So a reader never sees half an artefact. If the block raises, what was written is removed; what
    a killed run left, the next one removes.

    Raises:
      InputError: see `output_directory`; another process writes there; or it cannot be written.
    """
    final = output_directory(path)
    with _nameable(path):
        final.parent.mkdir(parents=True, exist_ok=True)
    prefix = _partial_prefix(final)
    with _marked(final.parent, prefix, path) as partial:
        if _remove_abandoned(final.parent, prefix, but=partial):
            raise InputError(
                f"{final} is being written by another process. Wait until it ends, or choose "
                f"another directory."
            )
        with writing(final, "nothing was left behind"):
            yield partial
            with _nameable(path):
                (partial / MARKER).unlink()
                partial.replace(final)  # an empty directory gives way


def check_link(link: PathLike, out: PathLike) -> None:
    """Refuses a path that `replace_link` cannot let name the directory `out`; '' passes.

    Raises:
      InputError: it is `out` itself, or something other than a link is there.
    """
    path = Path(link)
    if link and path.absolute() == Path(out).absolute():
        raise InputError(f"--link={link} is --out itself. Name another path for the link.")
    if link and not path.is_symlink() and path.exists():
        raise InputError(f"--link={link} exists and is no link. Name a new path, or a link.")


def replace_link(link: PathLike, target: PathLike) -> None:
    """Lets a symbolic link name a directory: at any moment it names the one before or this one."""
    path = Path(link).absolute()
    partial = path.parent / f".{path.name}.partial-{uuid.uuid4().hex[:8]}"
    with writing(path, "what it named before is unchanged"), _nameable(link):
        path.parent.mkdir(parents=True, exist_ok=True)
        parent = path.parent.resolve()
        partial.symlink_to(os.path.relpath(Path(target).resolve(), parent), True)
        partial.replace(path)


def _partial_prefix(final: Path) -> str:
    """Returns how hidden directories begin in which `final` is written, beside it."""
    name = final.name
    if len(os.fsencode(name)) > 200:  # a file name has 255 bytes at most
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}.partial-"


@contextlib.contextmanager
def _marked(parent: Path, prefix: str, path: PathLike) -> Iterator[Path]:
    """Yields a new directory with our marker, locked; removed at the end if it is still there.

    The lock is on the directory itself: the system gives it back when its holder dies.
    """
    with _nameable(path):
        partial = parent / f"{prefix}{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        descriptor = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with _nameable(path):
            (partial / MARKER).touch()
        yield partial
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or something cannot be removed
            _remove_marked(partial)
        shutil.rmtree(partial, ignore_errors=True)
        os.close(descriptor)


def _remove_marked(directory: Path) -> None:
    """Removes a directory, its marker last: if killed on the way, the next run removes the rest."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()
    shutil.rmtree(directory)


def _lock(descriptor: int, path: Path) -> bool:
    """Locks an opened file or directory; returns whether it is still the one at `path`.

    Raises:
      InputError: another process holds the lock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"{path} is being written by another process. Wait until it ends, or choose another "
            f"directory."
        ) from error
    return path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))


@contextlib.contextmanager
def new_file(path: PathLike) -> Iterator[Path]:
    """Yields a path beside `path`; moves it to `path`, replacing it, when the block ends well.

    What a killed run left beside `path` is removed.

    Raises:
      InputError: it cannot be written.
    """
    final = Path(path)
    stem = f".{final.name}.partial-"
    partial = final.parent / f"{stem}{uuid.uuid4().hex[:8]}"
    with writing(final, "what was there before is unchanged"):
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(final.parent, stem)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield partial
            partial.replace(final)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def _remove_abandoned(parent: Path, prefix: str, but: Path | None = None) -> bool:
    """Removes what a killed run left, and returns whether another one is at work, `but` aside.

    Ours are files and directories of a prefix and eight hexadecimal digits, directories with our
    marker in them; nobody holds the lock of what a dead process left.
    """
    is_busy = False
    for path in parent.iterdir():
        if path == but or not path.name.startswith(prefix):
            continue
        if not re.fullmatch("[0-9a-f]{8}", path.name.removeprefix(prefix)):
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            is_busy |= _is_locked_or_removed(path)
    return is_busy


def _is_locked_or_removed(path: Path) -> bool:
    if path.is_symlink() or (path.is_dir() and not (path / MARKER).exists()):
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        logger.info("%s is removed: a run that was killed left it.", path)
        _remove_marked(path) if path.is_dir() else path.unlink()
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Yields a directory for temporary files, removed when the block ends.

    What killed runs of this user left in its place is removed first.
    """
    root = Path(tempfile.gettempdir())
    prefix = f"interactrank-{os.getuid()}-"
    _remove_abandoned(root, prefix)
    with _marked(root, prefix, root) as scratch:
        yield scratch


@contextlib.contextmanager
def lock(directory: PathLike) -> Iterator[None]:
    """Keeps other processes out of `directory`, which is made where it is absent.

    The system gives the lock back when the process dies, however it dies: what a killed one leaves
    of `directory/.lock` locks nothing.

    Raises:
      InputError: another process holds it, or the directory cannot be written.
    """
    path = Path(directory) / ".lock"
    with _nameable(directory):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            is_current = _lock(file.fileno(), path)
        except InputError:
            is_current = False
        if not is_current:  # held, or just removed by its last holder
            raise InputError(
                f"{path.parent} is in use by another process. Wait until it ends, or choose "
                f"another directory."
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def refuse_locked(directory: PathLike) -> None:
    """Refuses a directory that another process holds the `lock` of.

    Raises:
      InputError: one does.
    """
    path = Path(directory) / ".lock"
    if not path.exists():
        return
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{directory} is being written by another process. Wait until it ends, or read a "
                f"copy that is complete."
            ) from error
