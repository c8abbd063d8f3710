"""Files that are written whole or not at all."""

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LEFTOVER_SECONDS = 3600.0
TOKEN_BYTES = 8


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A temporary file to write to, which is synced and renamed over the target.

    After an exception it is removed, and the target is as before. The mode is the replaced file's,
    or follows the umask.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    if target.exists() and not target.is_file():
        raise OSError(f"{target}: is not a regular file, and would be replaced")
    _remove_leftovers(target)
    temporary = target.with_name(f".{_start(target)}.{secrets.token_hex(TOKEN_BYTES)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    mode = target.stat().st_mode & 0o777 if target.exists() else None
    with _naming(path, temporary):
        try:
            # Inside: an interrupt may come as soon as the file exists.
            descriptor = os.open(temporary, flags, 0o666 if mode is None else mode)
            with os.fdopen(descriptor, "wb") as file:
                if mode is not None:
                    os.chmod(temporary, mode)  # bits that the umask took
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _sync_folder(target.parent)


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str], temporary: Path) -> Iterator[None]:
    """Make an OSError name the path that the caller passed."""
    try:
        yield
    except OSError as error:
        known = error.filename in (None, str(temporary))
        if error.errno is not None and error.filename2 is None and known:
            error.filename = os.fspath(path)
        raise


def _remove_leftovers(target: Path) -> None:
    """Remove killed processes' temporary files, if an hour old: others may be in use."""
    now = time.time()
    ours = re.compile(rf"\.{re.escape(_start(target))}\.[0-9a-f]{{{2 * TOKEN_BYTES}}}\.tmp")
    for old in filter(lambda path: ours.fullmatch(path.name), target.parent.glob(".*.tmp")):
        with contextlib.suppress(OSError):
            state = old.lstat()
            if stat.S_ISREG(state.st_mode) and now - state.st_mtime > LEFTOVER_SECONDS:
                old.unlink()


def _start(target: Path) -> str:
    """As much of a name as leaves room for 22 bytes, in 255, if a letter takes four."""
    return target.name[:58]


def _sync_folder(folder: Path) -> None:
    """Sync the folder, if the system can open folders, so that the new name is durable."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
