"""Files: whole or not at all, read within their size,
and every defect is a FileError.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Required, TypedDict

import numpy as np
import pytest
import safetensors.numpy
from fitting import peak_of
from numpy.typing import NDArray

from fastmlp import FileError
from fastmlp.serialization import codec, files
from fastmlp.serialization.files import Content

CONTENT = Content("THING", {"a": [1, 2.5, "b"]}, {"x": np.arange(6.0).reshape(2, 3)})


def listing(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_what_is_written_is_read_by_all_in_the_same_bytes(path: Path) -> None:
    files.write(path, CONTENT)
    kind, header, arrays = files.read(path)
    assert (kind, header) == ("THING", {"a": [1, 2.5, "b"]})
    assert arrays.keys() == {"x"}
    np.testing.assert_array_equal(arrays["x"], CONTENT.arrays["x"])
    assert listing(path.parent) == [path.name]
    files.write(path, CONTENT)
    (array,) = safetensors.numpy.load_file(path).values()
    np.testing.assert_array_equal(array, CONTENT.arrays["x"])
    assert files.file_bytes(CONTENT) == files.file_bytes(CONTENT)


@pytest.mark.parametrize("dtype", files.TENSOR_DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)], ids=str)
def test_arrays_of_every_dtype_and_shape(
    dtype: Any, shape: tuple[int, ...], path: Path
) -> None:
    array = np.ones(shape, dtype)
    files.write(path, Content("THING", {}, {"x": array}))
    back = files.read(path).arrays["x"]
    assert back.dtype == dtype
    assert back.shape == shape
    assert back.tobytes() == array.tobytes()


def test_an_empty_array_of_more_columns_than_bytes_is_refused(path: Path) -> None:
    """Its lists, as of a table's curves, would take any memory."""
    files.write(path, Content("THING", {}, {"x": np.empty((0, 1 << 40))}))
    with pytest.raises(FileError, match=r"damaged: an array of shape \[0, 1099"):
        files.read(path)


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
@pytest.mark.parametrize(
    ("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)]
)
def test_the_mode_is_by_the_umask(umask: int, mode: int, path: Path) -> None:
    before = os.umask(umask)
    try:
        files.write(path, CONTENT)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_file_that_is_replaced_keeps_its_mode(mode: int, path: Path) -> None:
    files.write(path, CONTENT)
    path.chmod(mode)
    files.write(path, CONTENT)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_link_stays_a_link(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path.name)
    files.write(link, CONTENT)
    assert link.is_symlink()
    assert files.read(path).kind == "THING"


def test_what_is_no_regular_file_is_not_replaced(path: Path) -> None:
    path.mkdir()
    with pytest.raises(OSError, match="not a regular file"):
        files.write(path, CONTENT)
    assert listing(path.parent) == [path.name]
    if os.name == "posix":
        with pytest.raises(OSError, match="not a regular file"):
            files.write("/dev/null", CONTENT)


@pytest.mark.skipif(
    os.name != "posix", reason="elsewhere a path is shorter than a name may be"
)
@pytest.mark.parametrize(
    "name", ["n" * 255, "\N{GRINNING FACE}" * 63], ids=["ASCII", "UTF-8"]
)
def test_the_longest_names_can_be_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    left = path.with_name(f".{name[:58]}.{'0f' * 8}.tmp")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    files.write(path, CONTENT)
    assert files.read(path).kind == "THING"
    assert listing(tmp_path) == [name]


@pytest.mark.parametrize("name", ["fsync", "replace", "fdopen"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()]
)
def test_a_failed_write_keeps_the_file(
    name: str, error: BaseException, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(path, CONTENT)
    before = path.read_bytes()

    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(type(error)):
            files.write(path, CONTENT._replace(kind="ANOTHER"))
    assert path.read_bytes() == before
    assert listing(path.parent) == [path.name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "disk"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(where)]
    if (
        not shutil.which("mount")
        or subprocess.run(command, capture_output=True).returncode
    ):
        pytest.skip("only root may mount a file system, and not in every container")
    yield where
    subprocess.run(["umount", str(where)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full_leaves_the_old_file(small_disk: Path) -> None:
    path = small_disk / "thing.safetensors"
    files.write(path, CONTENT)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'$"):
        files.write(path, CONTENT._replace(arrays={"x": np.zeros(20_000)}))
    assert files.read(path).arrays["x"].shape == (2, 3)
    assert listing(small_disk) == [path.name]


def test_errors_name_the_file_that_was_asked_for(path: Path) -> None:
    there = path.parent / "no" / "thing.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        files.write(there, CONTENT)
    assert caught.value.filename == str(there)
    assert str(caught.value).endswith(f"{str(there)!r}")
    with pytest.raises(FileNotFoundError):
        files.read(path)
    with pytest.raises(IsADirectoryError):
        files.read(path.parent)
    with pytest.raises(FileNotFoundError):
        files.write(path / "below", CONTENT)


def test_an_interrupt_leaves_no_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def interrupted(*arguments: Any) -> int:
        os.close(opened(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, CONTENT)
    assert listing(path.parent) == []


@pytest.mark.parametrize("name", ["thing.safetensors", "a[b]+.x", "a(b"])
def test_leftovers_of_killed_processes_go_after_an_hour(
    name: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / name
    ours = [f".{name}.{rng.bytes(8).hex()}.tmp" for _ in range(4)]
    middles = [
        "0f",
        "backup",
        "g" * 16,
        "0" * 15,
        "0" * 17,
        "0F" * 8,
        "0" * 16 + ".0" * 8,
        "",
    ]
    others = [
        f".{start}.{middle}.tmp" for middle in middles for start in (name, f"{name}.x")
    ]
    others += [
        f".{name}x.{'0' * 16}.tmp",
        f"{name}.{'0' * 16}.tmp",
        f".{name}.{'0' * 16}.tmp2",
    ]
    for each in (*ours, *others):
        (tmp_path / each).write_bytes(b"half")
        os.utime(tmp_path / each, (0, 0))
    os.utime(tmp_path / ours[0])
    files.write(path, CONTENT)
    assert listing(tmp_path) == sorted({ours[0], *others, name})


def stored(header: Any, metadata: Any = None) -> bytes:
    words = json.dumps({"__metadata__": metadata} if metadata is not None else header)
    return len(words).to_bytes(8, "little") + words.encode()


def ours(text: str) -> bytes:
    return stored(None, {"fastmlp": text})


DEFECTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a safetensors file"),
    "text": (b"hello, world: this is no model", "not a safetensors file"),
    "zeros": (bytes(100), "not a safetensors file"),
    "an array beyond the file": (
        stored({"x": {"data_offsets": [0, 8]}}),
        "and 47 by its header",
    ),
    "an array without an end": (stored({"x": {"data_offsets": []}}), "IndexError"),
    "header beyond the file": (
        (1000).to_bytes(8, "little") + b"{}",
        "not a safetensors file",
    ),
    "huge header": ((1 << 62).to_bytes(8, "little") + b"{}", "not a safetensors file"),
    "deep JSON": (ours("[" * 100_000 + "]" * 100_000), "RecursionError"),
    "not ours": (stored({}), "fastmlp did not write"),
    "no JSON": (ours("{"), "Expecting property name"),
    "no object": (ours("3"), "AttributeError"),
    "no version": (ours("{}"), "KeyError: 'format_version'"),
    "of another version": (
        ours('{"format_version": 1, "kind": "MLP"}'),
        "1, .* reads versions 2 and 3",
    ),
    "of version true": (
        ours('{"format_version": "1", "kind": "MLP"}'),
        "format version '1'",
    ),
    "NaN": (ours('{"format_version": NaN, "kind": "MLP"}'), "NaN is not a number"),
    "long number": (
        ours('{"format_version": ' + "9" * 5000 + "}"),
        "integer string conversion",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_named(defect: str, path: Path) -> None:
    raw, words = DEFECTS[defect]
    path.write_bytes(raw)
    with pytest.raises(FileError, match=words) as caught:
        files.read(path)
    assert str(path) in str(caught.value)


def test_errors_of_dtypes_are_short(path: Path) -> None:
    header = json.dumps({"format_version": 2, "kind": "MLP"})
    safetensors.numpy.save_file(
        {"x": np.zeros(3, np.float16)}, path, {"fastmlp": header}
    )
    with pytest.raises(FileError, match="KeyError: 'F16'"):
        files.read(path)
    with pytest.raises(FileError) as raised, files.refusing(path):
        raise ValueError("long" * 10_000)
    assert len(str(raised.value)) < 2100 + len(str(path))
    with pytest.raises(FileError, match="MemoryError: 80 GB"), files.refusing(path):
        raise MemoryError("80 GB")


@pytest.mark.skipif(
    os.name != "posix", reason="devices and pipes have these names on POSIX only"
)
def test_devices_and_pipes_are_not_read(path: Path) -> None:
    os.mkfifo(path)
    for endless in ("/dev/zero", path):
        with pytest.raises(FileError, match=f"^{endless}: is not a regular file"):
            files.read(endless)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "not a safetensors file"),
        ((1 << 23).to_bytes(8, "little"), "the header claims 8,388,608 bytes"),
        (files.file_bytes(CONTENT), "it has 268,435,456 bytes"),
    ],
    ids=["zeros", "a long header", "a file"],
)
def test_the_size_is_checked_before_arrays_are_read(
    start: bytes, words: str, path: Path
) -> None:
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(1 << 28)

    def read() -> None:
        with pytest.raises(FileError, match=words):
            files.read(path)

    assert peak_of(read) < 1 << 20


@pytest.mark.slow
def test_the_header_is_checked_before_the_arrays_are_read(path: Path) -> None:
    array = np.zeros(1 << 22, np.float32)
    safetensors.numpy.save_file(
        {"x": array}, path, {"fastmlp": '{"format_version": 4, "kind": 0}'}
    )

    def read() -> None:
        with pytest.raises(FileError, match="reads versions 2 and 3"):
            files.read(path)

    assert peak_of(read) < 1 << 20


def test_a_header_of_long_integers_and_of_many_arrays(path: Path) -> None:
    """Sets of integers that are equal modulo 2**61 - 1 take the square of the time."""
    equal = [(2**61 - 1) * (i + 1024) for i in range(5000)]
    contents = {
        "more than 4,096 integers of more than 20 digits": ({"a": equal}, {}),
        "501 arrays, more than 35 characters can describe": (
            {},
            {f"x{i}": np.zeros(1) for i in range(500)},
        ),
    }
    for words, (header, arrays) in contents.items():
        with pytest.raises(ValueError, match=words):
            files.write(path, Content("THING", header, arrays))
        entry = json.dumps(
            {"format_version": 2, "kind": "THING", **header}, separators=(",", ":")
        )
        safetensors.numpy.save_file(arrays, path, {"fastmlp": entry})
        with pytest.raises(FileError, match=words):
            files.read(path)


def test_without_safetensors_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(
        ImportError, match=r"model file needs safetensors: pip install safeten"
    ):
        files.file_bytes(CONTENT)


class Part(NamedTuple):
    name: str
    share: float
    sizes: tuple[int, ...]
    kind: Literal["a", "b"]


class Named(TypedDict, total=False):
    count: Required[int]
    curve: NDArray[Any] | None


@dataclass
class Whole:
    parts: tuple[Part, ...]
    numbers: NDArray[Any]
    pair: tuple[str, float]
    free: dict[str, Any]
    named: Named
    first: Part | None = None
    more: "Whole | None" = None


def drawn(rng: np.random.Generator, depth: int = 2) -> Whole:
    def part() -> Part:
        sizes = tuple(rng.integers(9, size=rng.integers(3)).tolist())
        share = float(rng.choice([0.5, np.nan, -np.inf]))
        return Part(
            f"n{rng.integers(9)}", share, sizes, "a" if rng.integers(2) else "b"
        )

    named: list[Named] = [{"count": 3}, {"count": 0, "curve": None}]
    named.append({"count": 1, "curve": np.ones(2)})
    return Whole(
        tuple(part() for _ in range(rng.integers(4))),
        rng.normal(size=(2, 3)),
        ("x.y", 1.5),
        {"a": [1, {"b": None}]},
        named[rng.integers(3)],
        part() if rng.integers(2) else None,
        drawn(rng, depth - 1) if depth else None,
    )


@pytest.mark.parametrize("seed", range(10))
def test_declared_fields_come_back(seed: int, path: Path) -> None:
    whole = drawn(np.random.default_rng(seed))
    files.write(path, Content("THING", *codec.of_fields(Whole, whole, {})))
    _, header, arrays = files.read(path)
    assert repr(codec.fields_from(Whole, header, arrays, {})) == repr(whole)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda h, a: h["parts"][0].update(share="x"),
            "parts.0.share must be float, got 'x'",
        ),
        (
            lambda h, a: h["parts"][0].update(share=1),
            "parts.0.share must be float, got 1",
        ),
        (
            lambda h, a: h["parts"][0].update(kind="c"),
            "parts.0.kind must be 'a' or 'b', got 'c'",
        ),
        (
            lambda h, a: h["parts"][0].update(sizes=[1, True]),
            "sizes.1 must be int, got True",
        ),
        (
            lambda h, a: h["parts"][0].update(speed=1),
            "parts.0 must have name, .*, got .*, speed",
        ),
        (
            lambda h, a: h["parts"][0].pop("name"),
            "parts.0 must have name, .*, got share",
        ),
        (lambda h, a: h.update(parts={}), "parts must have parts, got {}"),
        (lambda h, a: h.update(pair=["x", 1.5, 2]), "pair must have 0, 1, got 0, 1, 2"),
        (lambda h, a: h.update(free=[]), r"free must be dict, got \[\]"),
        (lambda h, a: h.update(first=3), "first must have parts, got 3"),
        (lambda h, a: h["named"].pop("count"), "named must have count"),
        (
            lambda h, a: h["more"].update(numbers=1) or a.pop("more.numbers"),
            "more.numbers must be",
        ),
        (lambda h, a: h.pop("more"), "the content must have parts, .*, more, got"),
    ],
)
def test_fields_of_other_types_are_refused(
    damage: Callable[..., Any], words: str
) -> None:
    header, arrays = codec.of_fields(Whole, drawn(np.random.default_rng(1)), {})
    damage(header, arrays)
    with pytest.raises(FileError, match=words):
        codec.fields_from(Whole, header, arrays, {})
