"""The code cache on disk: one file per kernel, in a folder per version.

The folder's name is a hash of the package's sources. Numba's cache keeps a callee's
code when its file has changed, raises for unusable folders and files, and lets
processes overwrite each other's index. A file is a checksum, a line of JSON and machine
code, written whole or not at all, and read without Numba and LLVM. On any failure code
is compiled in memory. A filled folder that is read-only, as in a container's image, is
read.

A user who can write to the folder can run code in your process. So a folder is used
only if it belongs to this user, to root or to the owner of this package, and no other
can write to it. The same holds for the folder above, `fastmlp`, whose owner can replace
those within.

On Linux, and on macOS with arm64, code is an image: code and constants that refer to
themselves by distances. Slots in it take the addresses of the functions that it calls:
C's `memset`, and functions of Python's. The memory belongs to no file, so the disk need
not permit execution, and forked children share it. Elsewhere LLVM loads the objects.
"""

import ctypes
import hashlib
import json
import mmap
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastmlp._process import warn
from fastmlp._process.memory import immortal
from fastmlp.compiler.jit import setting

PACKAGE = Path(__file__).parent.parent
CODE_DIGEST_BYTES = 32
CODE_SUFFIX = ".code"
NOWHERE = "none: no folder can be written; set NUMBA_CACHE_DIR to one that can"
ANOTHER = "or set NUMBA_CACHE_DIR to another folder"
# Why files could not be written, for `fastmlp warmup`.
failures: list[str] = []


def sources(package: Path | str = PACKAGE) -> list[str]:
    """Return every source below `package`, or bytecode without a source;
    an empty list for a zip or a frozen program.

    A list of the modules that reach compiled code was wrong twice.
    """
    if not os.path.isdir(package):
        return []
    files = list[str]()
    for entry in os.scandir(package):
        if entry.is_dir():
            files += sources(entry.path) if entry.name != "__pycache__" else ()
        elif entry.name.endswith((".py", ".pyc")):
            files.append(entry.path)
    return sorted(files)


def hash_of_sources(package: Path = PACKAGE) -> bytes:
    digest = hashlib.sha256()
    for path in sources(package):
        name = path[len(str(package)) :].replace(os.sep, "/")
        digest.update(f"\0{name}\0".encode())
        with open(path, "rb", buffering=0) as file:
            digest.update(file.read())
    return digest.digest()


def fingerprint(package: Path = PACKAGE) -> str:
    digest = hashlib.sha256(hash_of_sources(package))
    for name in ("numba", "llvmlite"):
        spec = find_spec(name)
        for place in (spec and spec.submodule_search_locations) or ():
            with suppress(OSError):
                digest.update(Path(place, "_version.py").read_bytes())
    compiler = os.environ.get("FASTMLP_COMPILER", "")
    digest.update(repr((_options(), compiler, sys.version)).encode())
    return digest.hexdigest()[:20]


def _options() -> list[int]:
    """Numba's settings of compiled code: the same before and after its import."""
    defaults = {
        "BOUNDSCHECK": 0,
        "OPT": 3,
        "DEBUGINFO_DEFAULT": 0,
        "LOOP_VECTORIZE": 1,
        "SLP_VECTORIZE": 0,
    }
    return [int(setting(name, default) or 0) for name, default in defaults.items()]


def _root() -> str:
    if sys.platform == "win32":
        return os.environ.get("LOCALAPPDATA", "")
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Caches")
    return os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")


@cache
def folder() -> Path | None:
    """Warn, once, of a folder that is there and not used."""
    path, reason = find()
    if path is None and reason.startswith("not used"):
        warn(
            f"code cache {reason}; until then each process compiles anew",
            RuntimeWarning,
        )
    return path


def find() -> tuple[Path | None, str]:
    """Return this version's cache folder, created if necessary, or None and the reason.

    ``FASTMLP_CACHE=0`` switches the cache off; ``NUMBA_CACHE_DIR`` moves it.
    Without sources the cache is off: the hash could not distinguish versions.
    """
    if os.environ.get("FASTMLP_CACHE") == "0":
        return None, "off (FASTMLP_CACHE=0)"
    if not sources():
        return (
            None,
            "none: fastmlp's files lie in no folder, as in a zip or a frozen program",
        )
    chosen = setting("CACHE_DIR", "")
    root = chosen or _root()
    if not chosen and not os.path.isabs(root):
        return (
            None,
            NOWHERE,
        )  # without a home, "~" would be a folder in the current directory
    import tempfile  # 3 ms, which a process with the code of a wheel does not need

    path = Path(root) / "fastmlp" / fingerprint()
    try:
        for each in (path.parent, path):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError:
        try:
            if not _is_filled(path):
                return None, NOWHERE
        except PermissionError:
            if not chosen and not os.path.exists(path):
                return None, NOWHERE
            cure = "its owner can run fastmlp warmup --shared"
            return None, f"not used: {path} cannot be read; {cure}, {ANOTHER}"
    reason = _distrust(path.parent) or _distrust(path)
    if reason is None:
        return (path, "")
    return (None, f"not used: {reason}, {ANOTHER}")


def _is_filled(path: Path) -> bool:
    try:
        files = [path / name for name in os.listdir(path) if name.endswith(CODE_SUFFIX)]
    except PermissionError:
        raise
    except OSError:
        return False
    if files and not any(os.access(file, os.R_OK) for file in files):
        raise PermissionError(path)
    return bool(files)


def _distrust(path: Path) -> str | None:
    """Return how another user may write to a folder,
    and what to do; None if nobody may.
    """
    if not hasattr(os, "geteuid"):
        return None
    state = path.stat()
    if state.st_mode & 0o022:
        return f"{path} can be written by others, who could run code here; run chmod go-w on it"
    # The package's owner runs code here anyway, as in an environment that many use.
    if state.st_uid not in (0, os.geteuid(), PACKAGE.stat().st_uid):
        owner = f"belongs to another user ({state.st_uid})"
        return f"{path} {owner}, who could run code here; let root own it"
    return None


def let_all_read() -> None:
    """Let every user read the cache, whatever the umask:
    folders get mode 0755, files 0644, also those stored later.
    """
    path = folder()
    if path is None or not setting("CACHE_DIR", ""):
        raise OSError("--shared needs NUMBA_CACHE_DIR, the folder that others read")
    path = path.resolve()
    for above in (path.parent.parent, path.parent):
        if (mode := above.stat().st_mode) & 0o055 != 0o055:
            above.chmod(mode | 0o055)
    path.chmod(0o755)
    for file in path.glob("*" + CODE_SUFFIX):
        file.chmod(0o644)
    if shut := [
        str(above) for above in path.parents if not above.stat().st_mode & 0o001
    ]:
        raise OSError(f"others cannot enter {shut[-1]}: run chmod a+x {' '.join(shut)}")


# Code that a wheel brings: a file for each level of processors, in the cache's form.
# The file's words have the offsets of blocks, each a file without its checksum.
# FASTMLP_PREBUILT=0: it is not used; "require": a block that it lacks is an error.
LIBRARY_SUFFIX = ".images"
PREBUILT = os.environ.get("FASTMLP_PREBUILT", "")


def library(level: str) -> Path:
    return PACKAGE / "compiler" / f"{level}{LIBRARY_SUFFIX}"


@cache
def shipped(level: str) -> tuple[dict[str, Any], bytes] | None:
    """The wheel's code for a level of processors;
    None without code of these sources, settings and this Python's objects.
    """
    stored = None if PREBUILT == "0" else read(library(level))
    if stored is not None and stored[0]["for"] == of_this_package():
        return stored
    return None


def of_this_package() -> list[Any]:
    """Everything that code in a wheel depends on, beside the processor."""
    return [hash_of_sources().hex(), object.__basicsize__, *_options()]


def read(path: Path | None) -> tuple[dict[str, Any], bytes] | None:
    """A file's words and content, or None if it is absent, damaged or unreadable."""
    try:
        stored = path.read_bytes() if path else b""
    except OSError:
        return None
    payload = stored[CODE_DIGEST_BYTES:]
    if not payload or hashlib.sha256(payload).digest() != stored[:CODE_DIGEST_BYTES]:
        return None
    return _parts(payload)


def _parts(payload: bytes) -> tuple[dict[str, Any], bytes]:
    words, _, content = payload.partition(b"\n")
    return json.loads(words), content


class CodeCache:
    """The file of one kernel, by its name: what it is,
    for which dtype, options and processor.

    With `level`, the name of a level of processors,
    the wheel's code is looked through first.
    """

    def __init__(self, name: str, level: str = "") -> None:
        self.name: str = name
        self._level = level
        self._key = hashlib.sha256(name.encode()).hexdigest()[:32]

    def load(self) -> tuple[dict[str, Any], bytes] | None:
        brought = shipped(self._level) if self._level else None
        if brought is not None and self._key in brought[0]["blocks"]:
            start, end = brought[0]["blocks"][self._key]
            return _parts(brought[1][start:end])
        if (
            brought is not None
            and PREBUILT == "require"
            and self.name.startswith("fastmlp.")
        ):
            raise LookupError(
                f"FASTMLP_PREBUILT=require: the wheel has no code of {self.name}"
            )
        return read(self._path())

    def save(self, words: dict[str, Any], content: bytes) -> None:
        """Store words of JSON and machine code; on failure change nothing."""
        path = self._path()
        if path is not None:
            _write_whole(path, json.dumps(words).encode() + b"\n" + content)

    def _path(self) -> Path | None:
        where = folder()
        return where / f"{self._key}{CODE_SUFFIX}" if where else None


def pack(files: Iterable[Path], out: Path) -> int:
    """Write the images of the cache's files to the file that a wheel brings;
    return their number.
    """
    blocks = dict[str, tuple[int, int]]()
    content = b""
    for path in sorted(files):
        words, code = read(path) or ({}, b"")
        if "entry" in words:
            start = len(content)
            content += json.dumps(words).encode() + b"\n" + code
            blocks[path.stem] = start, len(content)
    head = json.dumps({"for": of_this_package(), "blocks": blocks})
    _write_whole(out, head.encode() + b"\n" + content)
    return len(blocks)


def _write_whole(path: Path, payload: bytes) -> None:
    import tempfile

    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            # Readers of the folder may read its files.
            os.chmod(temporary, 0o600 | path.parent.stat().st_mode & 0o044)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        failures.append(str(error))


# LLVM's word for the architecture of this machine.
HERE = {"amd64": "x86_64", "arm64": "aarch64"}.get(
    platform.machine().lower(), platform.machine().lower()
)
# True where code is stored and loaded as images.
LOADS = sys.maxsize > 1 << 32 and (sys.platform, HERE) in (
    ("linux", "x86_64"),
    ("linux", "aarch64"),
    ("darwin", "aarch64"),
)


def executable(code: bytes, slots: Mapping[str, int] | None = None) -> int:
    """Return the address of an immortal copy of an image, executable and read-only.

    Parameters
    ----------
    slots : offset of each function's address in the image
    """
    memory = mmap.mmap(-1, len(code), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(code)
    for name, offset in (slots or {}).items():
        memory[offset : offset + 8] = address_of(name).to_bytes(8, "little")
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    place = ctypes.c_void_p(address)
    size = ctypes.c_size_t(len(code))
    if protect(place, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(
            ctypes.get_errno(), "the system does not allow to execute code in memory"
        )
    if HERE == "aarch64":
        _show_instructions(address, len(code))
    immortal(memory)
    return address


def _show_instructions(address: int, n_bytes: int) -> None:
    """Arm's processors may hold old instructions of memory that has been written."""
    first = ctypes.c_void_p(address)
    if sys.platform == "darwin":
        ctypes.CDLL(None).sys_icache_invalidate(first, ctypes.c_size_t(n_bytes))
    else:
        clear: Any = ctypes.CDLL("libgcc_s.so.1")["__clear_cache"]
        clear(first, ctypes.c_void_p(address + n_bytes))


def address_of(name: str) -> int:
    for library in (ctypes.pythonapi, ctypes.CDLL(None)):
        function: Any = getattr(library, name, None)
        if function is not None:
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    raise OSError(f"the process has no function {name}")
