"""Changes to model files: what disks, networks and enemies make of them."""

import json
import math
import random
import struct
from collections.abc import Iterator
from typing import Any

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 1 << 31, 1 << 32, 1 << 62, 1 << 63, 1 << 64, 10**30,
    -(1 << 63), 0.5, -0.5, 1e308, 5e-324, "", "mse", "relu", "adam", "F32", "F64", "BF16", "I64",
    "MLP", "\0", "é", "x" * 1000, [], [1], [[1]], [1 << 40, 1 << 40], {}, {"own": "f"},
    {"name": "Warmup", "schedule": 0.1}, {"own": {}},
]  # fmt: skip
MOST = 1 << 62
INTEGERS = [0, 1, -1, 2, 255, 6 * 10**7, 10**9, 1 << 31, 1 << 32, MOST, -MOST - 1, (1 << 63) - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 3e38, -3e38, 1e-45, math.nan, math.inf, -math.inf]
FORMS: dict[str, tuple[str, list[Any]]] = {
    "I64": ("<q", [*INTEGERS, -(1 << 63)]),
    "F32": ("<f", FLOATS),
    "F64": ("<d", [*FLOATS, 1e308, -1e308, 5e-324]),
}
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "[" * 3000 + "]" * 3000, "9" * 5000, "{", "\\"]


def split(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the outer header and the rest."""
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def joined(header: str, rest: bytes) -> bytes:
    words = header.encode()
    return len(words).to_bytes(8, "little") + words + rest


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything in a tree of JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in items:
        yield (*path, key)
        if isinstance(each, dict | list):
            yield from places(each, (*path, key))


def change(tree: Any, draw: random.Random) -> None:
    """Put a value in the place of another one, or take one out, or put one in."""
    *way, last = draw.choice(list(places(tree)))
    for key in way:
        tree = tree[key]
    what = draw.randrange(8)
    if what == 0:
        del tree[last]
    elif what == 1 and isinstance(tree, list):
        tree.insert(last, draw.choice(VALUES))
    elif what == 1:
        tree[str(draw.choice(VALUES))] = tree[last]
    elif what == 2 and type(tree[last]) is int:
        tree[last] += draw.choice([-8, -4, -1, 1, 4, 8, 1 << 40])
    else:
        tree[last] = draw.choice(VALUES)


def of_bytes(raw: bytes, draw: random.Random) -> bytes:
    """Flip bits, overwrite, cut, insert or append bytes."""
    content = bytearray(raw)
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        where, what = draw.randrange(len(content)), draw.randrange(5)
        if what == 0:
            content[where] ^= 1 << draw.randrange(8)
        elif what == 1:
            content[where] = draw.randrange(256)
        elif what == 2 and len(content) > 40:
            del content[where : where + draw.choice([1, 4, 8, len(content)])]
            content = content or bytearray(1)
        elif what == 3:
            content[where:where] = draw.randbytes(draw.choice([1, 4, 8]))
        else:
            content[:8] = draw.getrandbits(draw.choice([8, 16, 32, 63])).to_bytes(8, "little")
    return bytes(content)


def of_header(raw: bytes, draw: random.Random) -> bytes:
    """Lie in the header of the format: shapes, offsets, dtypes, names."""
    outer, rest = split(raw)
    for _ in range(draw.choice([1, 1, 2, 3])):
        change(outer, draw)
    return joined(json.dumps(outer), rest)


def of_description(raw: bytes, draw: random.Random) -> bytes:
    """Lie in what the header says of the net."""
    outer, rest = split(raw)
    inner = json.loads(outer["__metadata__"]["fastmlp"])
    for _ in range(draw.choice([1, 1, 1, 2])):
        change(inner, draw)
    text = json.dumps(inner)
    if draw.random() < 0.1:
        where = text.find(": ", draw.randrange(len(text)))
        text = text[: where + 2] + draw.choice(RAW) + text[where + 2 :]
    outer["__metadata__"]["fastmlp"] = text
    return joined(json.dumps(outer), rest)


def of_numbers(raw: bytes, draw: random.Random) -> bytes:
    """Lie in the arrays: places, sizes and numbers that nothing was computed with."""
    outer, rest = split(raw)
    content, start = bytearray(raw), len(raw) - len(rest)
    arrays = [each for name, each in outer.items() if name != "__metadata__"]
    whole = [each for each in arrays if each["dtype"] == "I64"]
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        array = draw.choice(whole if whole and draw.random() < 0.7 else arrays)
        first, last = array["data_offsets"]
        form, numbers = FORMS[array["dtype"]]
        if size := (last - first) // struct.calcsize(form):
            where = start + first + draw.randrange(size) * struct.calcsize(form)
            (old,) = struct.unpack_from(form, content, where)
            near = old + draw.choice([-1, 1]) if abs(old) < MOST else 0
            struct.pack_into(form, content, where, draw.choice([*numbers, near]))
    return bytes(content)


CHANGES = (of_bytes, of_header, of_description, of_numbers)


def mutated(raw: bytes, number: int) -> bytes:
    """Return the change of this number, always the same."""
    draw = random.Random(number)
    return CHANGES[number % len(CHANGES)](raw, draw)
