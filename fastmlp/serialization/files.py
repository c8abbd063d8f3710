"""Files: named arrays and a header of names, in one safetensors file.

A safetensors file holds arrays and a table of strings. The table has one entry,
`ENTRY`: JSON with the version of the format, the kind of the object, and a header of
the kind. Nothing in a file is run. Files are written whole or not at all. Reading takes
memory bounded by the file's size.
"""

import contextlib
import itertools
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fastmlp.validation import Array
from fastmlp.validation.messages import imported

ENTRY = "fastmlp"
# fastmlp 0.1 and 0.2 write version 1; tests/golden has files of version 2.
FORMAT_VERSION = 2
# The version of files with a net that has one of these entries in its header.
NEWER_VERSION = 3
NORMS_FIELD = "norms"
HEADS = "heads"
NEWER = (NORMS_FIELD, HEADS)
TENSOR_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
}
# Python objects take twenty times the bytes of JSON.
# A net of 1,000 layers has 200 KB of header.
MAX_HEADER_BYTES = 4 << 20
# Integers of more than 64 bits, such as a generator's. Sets and dicts take quadratic
# time for integers equal modulo 2**61 - 1: 3.4 s for 20,000.
LONG_DIGITS, MOST_LONG = 20, 4096
# Arrays without words in the header, such as moments and losses.
FREE_ARRAYS = 64
# Maximum length of a message that quotes the file.
LONGEST_QUOTE = 2000
# First bytes of other formats.
OTHER_FORMATS = {
    b"\x80": "a pickle, which fastmlp does not run",
    b"PK": "a zip archive, such as a file of PyTorch or Keras",
    b"\x89HDF": "a file of HDF5, such as one of Keras",
}
# Endings that promise another format, and its remedy.
ENDINGS = {
    **dict.fromkeys((".keras", ".h5", ".hdf5", ".pt", ".pth"), ""),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), "; pickle.dump writes pickles"),
    ".onnx": "; to_onnx(model, path) writes ONNX",
    ".h": "; to_c(model, path) writes C",
}
# Exceptions of arbitrary content, which become a FileError.
DEFECTS = (
    *(
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    ),
    MemoryError,
)


class FileError(ValueError):
    """A file is damaged, of another kind, or of a later version.

    Examples
    --------
    >>> from fastmlp import FileError
    >>> issubclass(FileError, ValueError)
    True
    """


class Content(NamedTuple):
    """The content of a file.

    Attributes
    ----------
    kind : str, such as "MLP"
    header : dict of objects that JSON can hold
    arrays : dict of arrays by name, each of a dtype in `DTYPES`
    """

    kind: str
    header: dict[str, Any]
    arrays: dict[str, Array]


def write(path: str | os.PathLike[str], content: Content) -> None:
    """Write a file whole. On failure an old file is unchanged."""
    packed = file_bytes(content)
    with writing(path) as file:
        file.write(packed)


def check_ending(path: str | os.PathLike[str], who: str) -> None:
    """Refuse a name that says another format."""
    name = Path(os.fsdecode(path))
    remedy = ENDINGS.get(name.suffix.lower())
    if remedy is not None:
        raise ValueError(
            f"{who}: {name.name!r} is a name of another format, and save writes "
            f"safetensors: name it {name.with_suffix('.safetensors').name!r}{remedy}"
        )


def file_bytes(content: Content) -> bytes:
    """Bytes of a file. A header that no reader would accept is an error."""
    if _is_newer(content.header):
        version = NEWER_VERSION
    else:
        version = FORMAT_VERSION
    stands = {"format_version": version, "kind": content.kind, **content.header}
    words = json.dumps(stands, allow_nan=False, separators=(",", ":"))
    arrays = {
        name: np.asarray(array, order="C") for name, array in content.arrays.items()
    }
    _entry({"__metadata__": {ENTRY: words}, **arrays})
    raw: bytes = safetensors().numpy.save(arrays, {ENTRY: words})
    if (length := _header_bytes(raw)) > MAX_HEADER_BYTES:
        raise ValueError(
            f"names and settings would take {length:,} bytes, and a file may have "
            f"{MAX_HEADER_BYTES:,} bytes of them"
        )
    return raw


def _is_newer(header: Any) -> bool:
    """True if a net anywhere in a header has an entry of `NEWER`."""
    if isinstance(header, Mapping):
        own = any(name in header for name in NEWER)
        return own or any(map(_is_newer, header.values()))
    return isinstance(header, list | tuple) and any(map(_is_newer, header))


def read(path: str | os.PathLike[str]) -> Content:
    """Read a file and check the format. The caller checks the content of the kind."""
    package = safetensors()
    with _open_regular(path) as file, refusing(path):
        kind, header = _entry(_table(file))
        file.seek(0)
        return Content(kind, header, _arrays(file.read(), package))


def arrays_at(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arrays by the first part of their path and the rest, in one pass.

    Examples
    --------
    >>> arrays_at({"0.weights.0": 1, "1.biases.0": 2, "moments": 3})
    {'0': {'weights.0': 1}, '1': {'biases.0': 2}, 'moments': {'': 3}}
    """
    by_place = dict[str, dict[str, Any]]()
    for name, array in arrays.items():
        first, _, rest = name.partition(".")
        by_place.setdefault(first, {})[rest] = array
    return by_place


def content_of(header: Mapping[str, Any], arrays: dict[str, Any]) -> Content:
    entries = dict(header)
    return Content(entries.pop("kind"), entries, arrays)


@contextlib.contextmanager
def refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors in the content of a file into a `FileError` with the path.

    Sizes are bounded by the file's size,
    so memory runs out only if the process has little.
    """
    try:
        yield
    except DEFECTS as error:
        is_message = isinstance(error, TypeError | ValueError)
        if is_message:
            why = str(error)
        else:
            why = f"damaged: {type(error).__name__}: {error}"
        shown = why if len(why) <= LONGEST_QUOTE else f"{why[:LONGEST_QUOTE]}..."
        raise FileError(f"{os.fspath(path)}: {shown}") from error


def _open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read, but not a device or a pipe, which may never end."""
    with contextlib.suppress(OSError):  # `open` raises it
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise FileError(f"{os.fspath(path)}: is not a regular file")
    return open(path, "rb")


def _table(file: BinaryIO) -> dict[str, Any]:
    """The header of a safetensors file, whose end must be the file's end.

    The claimed length is checked before anything of that size is read.
    """
    start = file.read(8)
    size = os.fstat(file.fileno()).st_size
    length = _header_bytes(start)
    if not 0 < length <= size - 8:
        kind = next(
            (OTHER_FORMATS[mark] for mark in OTHER_FORMATS if start.startswith(mark)),
            "",
        )
        if kind:
            raise FileError(
                f"{kind}, not a safetensors file; fastmlp loads what its save has "
                f"written"
            )
        raise FileError("not a safetensors file, or one that was cut short")
    if length > MAX_HEADER_BYTES:
        raise FileError(
            f"the header claims {length:,} bytes, more than {MAX_HEADER_BYTES:,}"
        )
    try:
        table = json.loads(file.read(length))
    except ValueError as error:
        raise FileError(f"not a safetensors file, or a damaged one: {error}") from None
    ends = [
        tensor["data_offsets"][1]
        for name, tensor in table.items()
        if name != "__metadata__"
    ]
    if size != (expected := 8 + length + max(ends, default=0)):
        raise FileError(
            f"damaged: it has {size:,} bytes, and {expected:,} by its header"
        )
    return table


def _entry(table: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    entry = table.get("__metadata__", {}).get(ENTRY)
    if entry is None:
        raise FileError("a safetensors file that fastmlp did not write")
    if (n := len(table)) > FREE_ARRAYS + len(entry):
        raise FileError(
            f"{n:,} arrays, more than {len(entry):,} characters can describe"
        )
    header = json.loads(entry, parse_constant=_no_constant, parse_int=_integers())
    version = header.pop("format_version")
    kind = header.pop("kind")
    if version not in (FORMAT_VERSION, NEWER_VERSION):
        raise FileError(
            f"format version {version!r}, and this fastmlp reads versions "
            f"{FORMAT_VERSION} and {NEWER_VERSION}: use the fastmlp that wrote the "
            f"file, or train the model again"
        )
    return kind, header


def _arrays(raw: bytes, package: Any) -> dict[str, Array]:
    try:
        tensors = package.deserialize(raw)
        return {name: _array(tensor, len(raw)) for name, tensor in tensors}
    except package.SafetensorError as error:
        raise FileError(f"not a safetensors file, or a damaged one: {error}") from error


def _header_bytes(raw: bytes) -> int:
    return int.from_bytes(raw[:8], "little")


def _array(tensor: Mapping[str, Any], most: int) -> Array:
    """An empty array may claim any length beside its 0."""
    kind: Any = TENSOR_DTYPES[tensor["dtype"]]
    if max(tensor["shape"], default=0) > most:
        raise FileError(f"damaged: an array of shape {tensor['shape']}")
    stored = np.frombuffer(tensor["data"], kind.newbyteorder("<"))
    return stored.reshape(tensor["shape"]).astype(kind, copy=False)


def _integers() -> Callable[[str], int]:
    n_long = itertools.count(1)

    def integer(digits: str) -> int:
        if len(digits) > LONG_DIGITS and next(n_long) > MOST_LONG:
            raise FileError(
                f"more than {MOST_LONG:,} integers of more than {LONG_DIGITS} digits"
            )
        return int(digits)

    return integer


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of a header")


def safetensors() -> Any:
    imported("safetensors.numpy", "a model file", "safetensors")
    return imported("safetensors", "a model file")


LEFTOVER_SECONDS = 3600.0
TOKEN_BYTES = 8


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A temporary file to write to, which is synced and renamed over the target.

    After an exception it is removed, and the target is as before.
    The mode is the replaced file's, or follows the umask.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    if target.exists() and not target.is_file():
        raise OSError(f"{target}: is not a regular file, and would be replaced")
    _remove_leftovers(target)
    temporary = target.with_name(
        f".{_start(target)}.{secrets.token_hex(TOKEN_BYTES)}.tmp"
    )
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
    """Remove killed processes' temporary files,
    if an hour old: others may be in use.
    """
    now = time.time()
    ours = re.compile(
        rf"\.{re.escape(_start(target))}\.[0-9a-f]{{{2 * TOKEN_BYTES}}}\.tmp"
    )
    for old in filter(
        lambda path: ours.fullmatch(path.name), target.parent.glob(".*.tmp")
    ):
        with contextlib.suppress(OSError):
            state = old.lstat()
            if stat.S_ISREG(state.st_mode) and now - state.st_mtime > LEFTOVER_SECONDS:
                old.unlink()


def _start(target: Path) -> str:
    """The start of a name that leaves 22 of 255 bytes, if a letter takes four."""
    return target.name[:58]


def _sync_folder(folder: Path) -> None:
    """Sync the folder, if the system can open folders,
    so that the new name is durable.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
