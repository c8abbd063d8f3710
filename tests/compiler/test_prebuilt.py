"""Code that a wheel brings: what it must have,
when it is taken, and what happens without it.
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest
from conditions import DAMAGES, EVALUATE, IMPORTED, RIGHT, only_compiled

from fastmlp.compiler import cache, target
from fastmlp.compiler.target import BFMMLA, NEON, SHIPPED_NAMES, V3, V4, Host, level_of

pytestmark = only_compiled

LEVEL = target.level()
of_a_level = pytest.mark.skipif(
    LEVEL is None, reason="no level of this processor has code"
)

# Prints the blocks that nets, groups, estimators and tables ask for,
# and that no wheel would have.
MISSING = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
import fastmlp
from fastmlp import MLP, NetGroup, Quantile
from fastmlp.compiler import blocks
from fastmlp.compiler.blocks import is_ours
from fastmlp.rules.activations import RULES
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.optimizers import OPTIMIZERS
from fastmlp.warmup import every_block
from pairwise import all_pairs

asked, compile = set(), blocks._compile
def noted(factory, dtype, rule, options):
    if is_ours(factory) and (rule is None or is_ours(rule)):
        asked.add((factory, dtype, rule, tuple(sorted(options.items()))))
    return compile(factory, dtype, rule, options)
blocks._compile = noted

X = np.random.default_rng(0).uniform(0.1, 0.9, (40, 4))
two, numbers = np.eye(2)[np.arange(40) % 2], X[:, :2] * X[:, 2:]
of_averages = [{}, {"clipvalue": 1.0}, {"clipnorm": 1.0}, {"average": fastmlp.EMA(0.9)}]
for case in all_pairs(
    dtype=["float32", "float64"], activation=list(RULES), loss=list(LOSSES),
    optimizer=list(OPTIMIZERS), setting=of_averages,
    net=[{}, {"l2": 0.1}, {"l1": 0.1}, {"l1": 0.1, "l2": 0.1}, {"dropout": 0.2}],
    n_threads=[1, 2], width=[3, 70],
):
    setting, loss = case.pop("setting"), case.pop("loss")
    kind = OPTIMIZERS[case["optimizer"]]
    more, width, averages = case.pop("net"), case.pop("width"), case["optimizer"].startswith("sch")
    setting = {} if averages and "average" in setting else setting
    case["optimizer"] = kind(**setting)
    outputs = 2 * LOSSES[loss].per_target
    net = MLP((4, width, width, outputs), loss=loss, seed=0, **case, **more)
    y = (two if LOSSES[loss].targets == "classes" else numbers).astype(net.dtype)
    x = X.astype(net.dtype)
    net.fit(x, y, epochs=1, batch_size=16, validation_data=(x, y))
    net.predict(x), net.predict(x[:1]), net.predict(x[:1]), net.loss_and_gradient(x, y)
    for _ in range(2):
        net.train_on_batch(x, y), net.vjp(x, np.ones((40, outputs), net.dtype))
    fastmlp.jacobian(net, x)
    if not averages:
        rises = MLP((4, 3, 1), monotonic_cst=[1, 0, 0, -1], optimizer=case["optimizer"], **more)
        rises.fit(X, numbers[:, 0], epochs=1)
for dtype in ("float32", "float64"):
    nets = [MLP((4, 5, 2), dtype=dtype, seed=seed) for seed in range(3)]
    group = NetGroup(nets)
    group.train_on_batch(X.astype(dtype), numbers.astype(dtype)), group.predict(X.astype(dtype))
    fastmlp.fit_many(nets, X, numbers, epochs=1)
    MLP((4, 3, 3), dtype=dtype, loss=Quantile([0.1, 0.5, 0.9])).fit(X, numbers[:, :1], epochs=1)
    MLP((4, 6, 2), dtype=dtype, label_smoothing=0.1, loss="cross_entropy").fit(X, two, epochs=1)
for weights in ({}, {"sample_weight": X[:, :2]}):
    net = MLP((4, 6, 2), dtype="float64", optimizer=fastmlp.LevenbergMarquardt())
    net.fit(X, numbers, epochs=2, **weights)
MLP((4, 64, 64, 2), compute_dtype="bfloat16", n_threads=1).fit(X, numbers, epochs=1)
fastmlp.MLPClassifier(max_iter=2).fit(X, two[:, 0]).predict_proba(X)
fastmlp.MLPRegressor(max_iter=2, early_stopping=True).fit(X, numbers).predict(X)
for kind in (fastmlp.TabularMLPClassifier, fastmlp.TabularMLPRegressor):
    kind(max_iter=2, n_members=2, random_state=0, n_jobs=1).fit(X, two[:, 0]).predict(X)
shipped = {
    (factory, np.dtype(dtype), rule, tuple(sorted(options.items())))
    for keys in every_block(["float32", "float64"]).values()
    for factory, dtype, rule, options in keys
}
print(len(asked) > 250, *(asked - shipped), sep="\\n")
"""


@pytest.mark.slow
def test_a_wheel_has_all_that_nets_estimators_and_tables_take(
    python: Callable[..., str],
) -> None:
    assert python(MISSING).split("\n") == ["True", ""]


BITS = """
import hashlib
import numpy as np
from fastmlp import MLP
from fastmlp.rules.activations import RULES
X = np.random.default_rng(0).uniform(0.1, 0.9, (70, 4))
for dtype in ("float32", "float64"):
    nets = [
        MLP((4, 17, 9, 3), activation=name, dtype=dtype, optimizer=kind, l2=0.1, seed=0)
        for name, kind in zip(RULES, 2 * ["adam", "sgd", "rmsprop", "adamw", "nadam", "adagrad"])
    ]
    for net in nets:
        net.fit(X, X[:, :3] * X[:, 1:], epochs=3, batch_size=16)
        seen = b"".join(a.tobytes() for a in (net.predict(X), net.predict(X[:1]), net.parameters))
        print(dtype, net.optimizer, hashlib.sha256(seen).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not (LEVEL and cache.shipped(SHIPPED_NAMES[LEVEL])),
    reason="there is no code of a wheel",
)
def test_the_code_has_the_bits_of_code_that_is_compiled_here(
    python: Callable[..., str],
) -> None:
    brought, compiled = (
        python(BITS, FASTMLP_PREBUILT=word) for word in ("require", "0")
    )
    assert len(brought.splitlines()) > 20
    assert brought == compiled


@of_a_level
@pytest.mark.skipif(
    cache.PREBUILT != "require", reason="FASTMLP_PREBUILT=require is not set"
)
def test_the_code_that_is_required_is_there() -> None:
    assert LEVEL is not None
    assert cache.shipped(SHIPPED_NAMES[LEVEL])


@pytest.fixture(autouse=True)
def of_this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of a wheel is not taken where the run is told another processor."""
    for name in ("CPU_NAME", "CPU_FEATURES"):
        monkeypatch.delenv(f"NUMBA_{name}", raising=False)
        monkeypatch.setattr(numba.config, name, None)


@pytest.fixture(scope="session")
def brought(
    tmp_path_factory: pytest.TempPathFactory, python: Callable[..., str]
) -> Path:
    """A folder with a copy of the package,
    which has the code of two blocks for this level.
    """
    if LEVEL is None:
        pytest.skip("no level of this processor has code")
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", f"*{cache.LIBRARY_SUFFIX}")
    shutil.copytree(cache.PACKAGE, folder / "fastmlp", ignore=ignored)
    level = {"NUMBA_CPU_NAME": LEVEL.name, "NUMBA_CPU_FEATURES": LEVEL.features}
    wheel = {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / "cache")}
    python(EVALUATE, **wheel, **level, FASTMLP_PREBUILT="0")
    pack = f"""
from pathlib import Path
from fastmlp.compiler.cache import library, pack
print(pack(Path({str(folder / "cache")!r}).rglob("*.code"), library({SHIPPED_NAMES[LEVEL]!r})))"""
    assert python(pack, **wheel) == "2\n"
    return folder


def test_the_code_is_taken_without_a_home_and_in_memory_of_no_file(
    brought: Path, python: Callable[..., str]
) -> None:
    maps = """
if sys.platform == "linux":
    for line in open("/proc/self/maps"):
        assert ".images" not in line
"""
    forked = """
import os
if hasattr(os, "fork"):
    if not os.fork():
        os._exit(kind(address)(chosen.ctypes.data, value.ctypes.data, slope.ctypes.data, 1) or 7)
    print(os.wait()[1] >> 8)
"""
    alone = {
        "PYTHONPATH": str(brought),
        "FASTMLP_PREBUILT": "require",
        "HOME": "/dev/null",
    }
    home = {"XDG_CACHE_HOME": "", "NUMBA_CACHE_DIR": ""}
    printed = python(
        f"{EVALUATE}{IMPORTED}{maps}{forked}", **alone, **home
    ).splitlines()
    assert printed[:2] == [f"{RIGHT} False", ""]
    assert printed[2:] in (["7"], [])


def of_another_python(content: bytes) -> bytes:
    head, _, code = content[cache.CODE_DIGEST_BYTES :].partition(b"\n")
    words = json.loads(head)
    words["for"][1] += 16
    payload = json.dumps(words).encode() + b"\n" + code
    return hashlib.sha256(payload).digest() + payload


FALLBACKS: dict[str, Any] = {
    **{
        name: DAMAGES[name]
        for name in ("cut in the middle", "flipped at its end", "emptied")
    },
    "of another Python": of_another_python,
    "without AVX": {"NUMBA_ENABLE_AVX": "0"},
    "of another level of optimization": {"NUMBA_OPT": "1"},
    "of a processor that is told": {"NUMBA_CPU_NAME": "generic"},
    "not wanted": {"FASTMLP_PREBUILT": "0"},
    "of other sources": "new.py",
}


@of_a_level
@pytest.mark.slow
@pytest.mark.parametrize("why", FALLBACKS)
def test_code_that_cannot_be_taken_is_compiled_with_the_same_numbers(
    why: str, brought: Path, python: Callable[..., str], tmp_path: Path
) -> None:
    change = FALLBACKS[why]
    folder = tmp_path / "copy"
    wheel = {"FASTMLP_CACHE": "0"}
    shutil.copytree(brought, folder)
    assert LEVEL is not None
    file = (
        folder
        / "fastmlp"
        / "compiler"
        / f"{SHIPPED_NAMES[LEVEL]}{cache.LIBRARY_SUFFIX}"
    )
    if callable(change):
        file.write_bytes(change(file.read_bytes()))
    elif isinstance(change, dict):
        wheel |= change
    else:
        (folder / "fastmlp" / change).write_text("")
    assert python(EVALUATE, PYTHONPATH=str(folder), **wheel).split() == [
        *RIGHT.split(),
        "True",
    ]


@of_a_level
def test_missing_code_is_named(
    brought: Path, python: Callable[..., str], tmp_path: Path
) -> None:
    ask = """
import numpy as np
from fastmlp.compiler import block_of
from fastmlp.backends.cpu.kernels.epoch import train
try:
    block_of(train, np.float32)
except LookupError as error:
    print(error)
"""
    require = {"FASTMLP_PREBUILT": "require"}
    missing = python(ask, PYTHONPATH=str(brought), **require)
    assert (
        "the wheel has no code of fastmlp.backends.cpu.kernels.epoch.train:float32"
        in missing
    )
    assert "Numba" not in python(
        "import numba" + ask, PYTHONPATH=str(brought), **require
    )
    (tmp_path / "fastmlp").symlink_to(cache.PACKAGE)


def with_bits(leaves: bytes, bits: dict[int, int], *, on: bool) -> bytes:
    words = list(struct.unpack(f"<{len(leaves) // 4}I", leaves))
    for i, n in bits.items():
        if on:
            words[i] = words[i] | n
        else:
            words[i] = words[i] & ~n
    return struct.pack(f"<{len(words)}I", *words)


NOTHING = bytes(23 * 4)
AS_V3 = with_bits(NOTHING, target._OF_V3, on=True)
AS_V4 = with_bits(NOTHING, target._OF_V4, on=True)


@pytest.mark.parametrize(
    ("leaves", "level"),
    [
        (b"", None),
        (NOTHING, None),
        (AS_V3, V3),
        (AS_V4, V4),
        (with_bits(AS_V3, target._AVX512F, on=True), None),  # Knights Landing
        (with_bits(AS_V4, {22: 0xE0}, on=False), V3),  # switched off by the system
        (with_bits(AS_V3, {22: 0x4}, on=False), None),
        *(
            (with_bits(AS_V3, {i: n & -n}, on=False), None)
            for i, n in target._OF_V3.items()
        ),
    ],
)
def test_the_level_is_what_the_processor_says(
    leaves: bytes, level: Host | None
) -> None:
    assert level_of(leaves) == level


def test_blocks_of_mixed_precision_are_compiled_for_a_host_that_multiplies_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host("sapphirerapids", f"{V4.features},+avx512bf16")
    monkeypatch.setattr(target, "target", lambda: V4)
    monkeypatch.setattr(target, "host", lambda: host)
    for leaves, chosen in (
        (AS_V4, V4),
        (with_bits(AS_V4, target._BFLOAT16, on=True), host),
    ):
        monkeypatch.setattr(target, "cpuid", lambda leaves=leaves: leaves)
        assert target.pair_target() == chosen
    assert target.pair_products() == "lanes"


def test_arm_takes_the_level_of_bfmmla_where_the_system_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(target, "target", lambda: NEON)
    for has, chosen in ((False, NEON), (True, BFMMLA)):
        monkeypatch.setattr(target, "has_bfmmla", lambda has=has: has)
        assert target.pair_target() == chosen
    assert target.pair_products() == "matrices"
