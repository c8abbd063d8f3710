"""The code cache on disk: one file per kernel and signature, in a folder per version.

Numba's own cache keeps the machine code of a callee whose file changed, raises if a folder cannot
be written or a file is damaged, and lets two processes that start together overwrite each other's
entries of one index. Here the folder's name is a hash of the package's sources. A file holds its
own checksum and is written whole or not at all. On any failure code is compiled in memory. A folder
that was filled and is read-only, as in a container's image, is read.

The files are pickles: a user who can write to the folder can run code in your process.
"""

import hashlib
import os
import pickle
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

PACKAGE = Path(__file__).parent.parent
DIGEST_BYTES = 32
SUFFIX = ".code"
# Why files could not be written, for `fastmlp warmup`: elsewhere a failure changes nothing.
failures: list[str] = []


def sources(package: Path = PACKAGE) -> list[Path]:
    """Return every source below `package`, or bytecode that has no source; none for a package in a
    zip or a frozen program.

    All of them, in 6 ms: a list of the modules that reach compiled code was wrong twice.
    """
    found = [*package.rglob("*.py"), *package.rglob("*.pyc")]
    return sorted(path for path in found if path.parent.name != "__pycache__")


def fingerprint(package: Path = PACKAGE) -> str:
    """Hash every source below `package`, the versions and the options of the compiler."""
    digest = hashlib.sha256()
    for path in sources(package):
        name = path.relative_to(package).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    config = numba.config
    compiler = os.environ.get("FASTMLP_COMPILER", "")
    options = (config.BOUNDSCHECK, config.OPT, config.DEBUGINFO_DEFAULT, compiler)
    versions = (numba.__version__, llvmlite.__version__, sys.version)
    digest.update(repr((options, versions)).encode())
    return digest.hexdigest()[:20]


@cache
def folder() -> Path | None:
    """Return this version's cache folder, creating it if necessary, or None if there is none.

    ``FASTMLP_CACHE=0`` switches the cache off; ``NUMBA_CACHE_DIR`` moves it. Without sources there
    is no cache: the hash could not distinguish versions.
    """
    if os.environ.get("FASTMLP_CACHE") == "0" or not sources():
        return None
    root = numba.config.CACHE_DIR or AppDirs("numba", appauthor=False).user_cache_dir
    if not numba.config.CACHE_DIR and not os.path.isabs(root):
        return None  # without a home, "~" would be a folder in the current directory
    path = Path(root) / "fastmlp" / fingerprint()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError:
        return path if _is_filled(path) else None
    return path


def _is_filled(path: Path) -> bool:
    with suppress(OSError):
        return any(name.endswith(SUFFIX) for name in os.listdir(path))
    return False


class CodeCache:
    """A cache for one kernel, by its name, with the interface that Numba expects."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def cache_path(self) -> str | None:
        return str(folder()) if folder() else None

    def load_overload(self, signature: Any, target_context: Any) -> CompileResult | None:
        """Return the stored code for `signature`; None if it is absent, damaged or unreadable."""
        # Numba refreshes the whole context here, which imports SciPy without need: 0.3 s.
        rtsys.initialize(target_context)
        stored = _read_whole(self._path(signature, target_context.codegen()))
        return None if stored is None else CompileResult._rebuild(target_context, *stored)

    def save_overload(self, signature: Any, result: CompileResult) -> None:
        """Store the code; on failure change nothing."""
        path = self._path(signature, result.codegen)
        if path is None or result.lifted or result.library.has_dynamic_globals:
            return
        # Numba links a CFunc after it has noted what to start at loading: here, its threads.
        result.library._ensure_finalized()
        result = result._replace(reload_init=[*result.library._reload_init])
        _write_whole(path, dumps(result._reduce()))

    def load(self, codegen: Any) -> Any:
        """Return the objects that `save` stored, or None."""
        return _read_whole(self._path("", codegen))

    def save(self, codegen: Any, state: Any) -> None:
        """Store plain objects; on failure change nothing."""
        path = self._path("", codegen)
        if path is not None:
            _write_whole(path, pickle.dumps(state))

    def enable(self) -> None:
        """Do nothing: a kernel without a cache has no CodeCache."""

    disable = flush = enable

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        key = repr((self.name, str(signature), codegen.magic_tuple()))
        where = folder()
        return where / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}{SUFFIX}" if where else None


def _read_whole(path: Path | None) -> Any:
    """Return a file's objects, or None if it is absent, damaged or unreadable."""
    try:
        stored = path.read_bytes() if path else b""
    except OSError:
        return None
    payload = stored[DIGEST_BYTES:]
    if not payload or hashlib.sha256(payload).digest() != stored[:DIGEST_BYTES]:
        return None
    return pickle.loads(payload)


def _write_whole(path: Path, payload: bytes) -> None:
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        failures.append(str(error))
