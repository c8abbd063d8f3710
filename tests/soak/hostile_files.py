"""A file of every kind that fastmlp writes, small,
and what disks and enemies make of it.
"""

import json
import math
import random
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy
from small_models import untrained, with_trees

import fastmlp
from fastmlp import (
    EMA,
    MLP,
    SGD,
    Adam,
    AdamW,
    Cosine,
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
    Quantile,
    Warmup,
)
from fastmlp.serialization import files

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    1 << 31,
    1 << 32,
    1 << 62,
    1 << 63,
    1 << 64,
    10**30,
    -(1 << 63),
    0.5,
    -0.5,
    1e308,
    5e-324,
    "",
    "mse",
    "relu",
    "adam",
    "F32",
    "F64",
    "BF16",
    "I64",
    "MLP",
    "\0",
    "é",
    "x" * 1000,
    [],
    [1],
    [[1]],
    [1 << 40, 1 << 40],
    {},
    {"own": "f"},
    {"name": "Warmup", "schedule": 0.1},
    {"own": {}},
]
MOST = 1 << 62
INTEGERS = [
    0,
    1,
    -1,
    2,
    255,
    6 * 10**7,
    10**9,
    1 << 31,
    1 << 32,
    MOST,
    -MOST - 1,
    (1 << 63) - 1,
]
FLOATS = [0.0, -0.0, 1.0, -1.0, 3e38, -3e38, 1e-45, math.nan, math.inf, -math.inf]
FORMS: dict[str, tuple[str, list[Any]]] = {
    "I64": ("<q", [*INTEGERS, -(1 << 63)]),
    "I32": ("<i", [n for n in INTEGERS if abs(n) < 1 << 31]),
    "F32": ("<f", FLOATS),
    "F64": ("<d", [*FLOATS, 1e308, -1e308, 5e-324]),
}
RAW = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "[" * 3000 + "]" * 3000,
    "9" * 5000,
    "{",
    "\\",
]


def split(raw: bytes) -> tuple[dict[str, Any], bytes]:
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
    content = bytearray(raw)
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        where = draw.randrange(len(content))
        what = draw.randrange(5)
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
            content[:8] = draw.getrandbits(draw.choice([8, 16, 32, 63])).to_bytes(
                8, "little"
            )
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
    content = bytearray(raw)
    start = len(raw) - len(rest)
    arrays = [each for name, each in outer.items() if name != "__metadata__"]
    whole = [each for each in arrays if each["dtype"] in ("I32", "I64")]
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        array = draw.choice(whole if whole and draw.random() < 0.7 else arrays)
        first, last = array["data_offsets"]
        form, numbers = FORMS[array["dtype"]]
        if size := (last - first) // struct.calcsize(form):
            where = start + first + draw.randrange(size) * struct.calcsize(form)
            (old,) = struct.unpack_from(form, content, where)
            if abs(old) < 1 << 8 * struct.calcsize(form) - 2:
                near = old + draw.choice([-1, 1])
            else:
                near = 0
            struct.pack_into(form, content, where, draw.choice([*numbers, near]))
    return bytes(content)


CHANGES = (of_bytes, of_header, of_description, of_numbers)


def mutated(raw: bytes, number: int) -> bytes:
    draw = random.Random(number)
    return CHANGES[number % len(CHANGES)](raw, draw)


X = np.arange(60.0).reshape(20, 3) % 7 / 7
Y = np.arange(20) % 5 / 5
LABELS = np.arange(20) % 3
SMALL: dict[str, Any] = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}


def trained(net: MLP, y: Any = Y, **options: Any) -> MLP:
    net.fit(pd.DataFrame(X, columns=list("abc")), y, epochs=2, batch_size=7, **options)
    return net


def several() -> MLP:
    """A net with everything that a header can hold."""
    adam = Adam(Warmup(Cosine(0.01), n_steps=3), clipnorm=1.0, average=EMA(0.9))
    more: dict[str, Any] = {
        "dropout": [0.1, Cosine(0.2)],
        "input_noise": 0.1,
        "l1": 0.1,
    }
    rates = [1.0, 0.5, 0.1]
    return trained(MLP((3, 4, 5, 1), optimizer=adam, layer_rates=rates, seed=0, **more))


def resumed(path: Path, stop: int = 9) -> MLP:
    """The net of a checkpoint after a fit of three epochs;
    or of a fit that stops before.
    """
    net = MLP((3, 4, 3), loss="cross_entropy", optimizer=AdamW(0.01), seed=0)
    data: dict[str, Any] = {"validation_data": (X, LABELS), "metrics": ["accuracy"]}
    options = {"epochs": 3, "batch_size": 7, "early_stopping": 5, **data}
    with suppress(LookupError):
        net.fit(
            X,
            LABELS,
            **options,
            callbacks=stopping(stop),
            checkpoint=path,
            resume=path.exists(),
        )
    return net


def stopping(epoch: int) -> Callable[[Any], None]:
    def stop(report: Any) -> None:
        if report.epoch >= epoch:
            raise LookupError

    return stop


def of_table(seed: int) -> Any:
    return untrained(seed)[0]


def search(estimator: Any, y: Any, **options: Any) -> Any:
    options = {
        "param_grid": {"alpha": [0.1, 1.0], "solver": ["sgd", "adam"]},
        **options,
    }
    return MLPSearchCV(estimator(**SMALL), cv=2, **options).fit(X, y)


MAKERS: dict[str, Callable[[], Any]] = {
    "net": lambda: MLP((3, 4, 2), dtype="float64", loss="cross_entropy", seed=0),
    "net with all settings": several,
    "net of quantiles": lambda: trained(
        MLP((3, 4, 2), loss=Quantile([0.1, 0.9]), seed=0)
    ),
    "net of SGD": lambda: trained(
        MLP((3, 1), optimizer=SGD(0.1, momentum=0.5), seed=0)
    ),
    "classifier": lambda: MLPClassifier(**SMALL).fit(
        X, np.array(["no", "so", "yes"])[LABELS]
    ),
    "classifier of booleans": lambda: MLPClassifier(solver="lbfgs", **SMALL).fit(
        X, LABELS > 1
    ),
    "classifier of several": lambda: MLPClassifier(**SMALL).fit(
        X, np.eye(3, dtype=int)[LABELS]
    ),
    "regressor": lambda: MLPRegressor(
        **{**SMALL, "random_state": np.random.RandomState(3)}, early_stopping=True
    ).fit(X, Y),
    "search": lambda: search(MLPClassifier, LABELS),
    "search by halving": lambda: search(
        MLPRegressor, Y, halving=True, factor=2, random_state=0
    ),
    **{f"ensemble of a table {i}": partial(of_table, i) for i in range(8)},
    "ensemble with trees": lambda: with_trees("multiclass")[0],
}
CHECKPOINT = "checkpoint"


def write_all(folder: Path) -> list[Path]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, make in MAKERS.items():
            fastmlp.save(make(), folder / name, include_training_state=True)
        resumed(folder / CHECKPOINT, stop=2)
    return [folder / name for name in (*MAKERS, CHECKPOINT)]


# Integers that are equal modulo 2**61 - 1, as many as a header has room for.
EQUAL = [(2**61 - 1) * (i + 1024) for i in range(100_000)]
EMPTY = np.empty(0, np.float32)
NONE = {"dict": list[Any]()}


def many_arrays(names: Iterable[str], array: Any = EMPTY) -> dict[str, Any]:
    return dict.fromkeys(names, array)


def of_layers(h: Any, a: Any) -> None:
    h.update(layer_sizes=[1] * 400_000, activation=["relu"])
    a["more"] = np.zeros(800_000, np.float32)


def of_encodings(h: Any, a: Any) -> None:
    h["pack"]["encodings"] += [{}] * 3_000
    for i, name in product(range(1, 3_000), ("columns", "columns_")):
        a[f"pack.encodings.{i}.missing.{name}"] = np.zeros(1, np.int64)


def of_names(h: Any, a: Any) -> None:
    named = {"dict": [[f"n{i}", i] for i in range(10_000)]}
    h["results"]["params"] = [named] + [NONE] * 30_000


def of_texts(h: Any, a: Any) -> None:
    params = [{"dict": [["a", text]]} for text in ["x" * 10**6, *["y"] * 30_000]]
    h["results"].update(params=params, names=[["param_a", False]])
    a["results.more"] = np.zeros(30_001)


def of_results(h: Any, a: Any) -> None:
    h["results"].update(names=[["more", "float64"]] * 20_000, params=[NONE] * 50_000)
    a["results.more"] = np.zeros(50_000)


def of_no_numbers(h: Any, a: Any) -> None:
    for name in a:
        if name.endswith(("table_", "quantiles_", "frequencies_")):
            a[name] = np.empty((1 << 40, 0), np.float32)


def of_places(h: Any, a: Any) -> None:
    for name in a:
        if name.endswith(".columns"):
            a[name][-1] = 10**9


# Files that claim more than they hold: by name the kind,
# and what is changed in header and arrays.
BOMBS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "layers": ("net", of_layers),
    "layers of a classifier": ("classifier", of_layers),
    "arrays": (
        "net",
        lambda h, a: a.update(many_arrays(f"e{i}" for i in range(60_000))),
    ),
    "keys": ("net", lambda h, a: h.update({f"k{n}": n for n in range(200_000)})),
    "keywords": (
        "net",
        lambda h, a: h["optimizer"].update({f"k{n}": n for n in range(50_000)}),
    ),
    "a long name": ("net", lambda h, a: h.update(loss="mse" * 10**6)),
    "encodings": ("ensemble of a table 0", of_encodings),
    "places": ("ensemble of a table 0", of_places),
    "rows of no numbers": ("ensemble of a table 0", of_no_numbers),
    "levels": (
        "ensemble of a table 0",
        lambda h, a: h["schema"]["levels"].update({min(h["schema"]["levels"]): EQUAL}),
    ),
    "penalties": ("net", lambda h, a: h.update(penalties=[["l2", 1.0]] * 200_000)),
    "labels": (
        "classifier",
        lambda h, a: h["labels"].update(dtype="object", values=EQUAL),
    ),
    "names of candidates": ("search", of_names),
    "texts of candidates": ("search", of_texts),
    "names of results": ("search", of_results),
}


def write_bombs(folder: Path) -> list[Path]:
    """Write files that claim more than they hold, of kinds that are in the folder."""
    for name, (kind, change) in BOMBS.items():
        content = files.read(folder / kind)
        arrays = {name: array.copy() for name, array in content.arrays.items()}
        change(content.header, arrays)
        words = {"format_version": 2, "kind": content.kind, **content.header}
        raw = safetensors.numpy.save(arrays, {files.ENTRY: json.dumps(words)})
        (folder / f"bomb of {name}").write_bytes(raw)
    return [folder / f"bomb of {name}" for name in BOMBS]
