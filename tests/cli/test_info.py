"""What `info` tells, and that it is true of this process."""

import platform
from pathlib import Path
from typing import get_args

import llvmlite.binding
import numba
import numpy as np
import pytest

import fastmlp
from fastmlp.backends.cpu.threads import limits
from fastmlp.cli.info import format_info, info
from fastmlp.compiler import COMPILER, INTERPRETED
from fastmlp.compiler.target import PairProducts


def test_versions() -> None:
    told = info()
    assert told["fastmlp"] == fastmlp.__version__
    assert told["Python"].startswith(platform.python_version())
    assert told["numba"] == numba.__version__
    assert told["numpy"] == np.__version__


def test_every_entry_is_a_text() -> None:
    assert all(type(text) is str and text for text in info().values())


def test_threads_are_those_of_a_fit() -> None:
    assert info()["threads"].split()[0] == str(limits.thread_limit())


def test_a_layer_that_is_not_used_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "threading_layer", lambda: "workqueue")
    assert info()["threading layer"].startswith("workqueue (not used: workers")


@pytest.mark.parametrize("kind", get_args(PairProducts))
def test_how_pairs_are_multiplied(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmlp.cli.info.pair_products", lambda: kind)
    words = {"tiles": "AMX", "matrices": "bfmmla", "lanes": "AVX512-BF16", "widened": "float32"}
    assert words[kind] in info()["bfloat16"]


def test_whether_a_gpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastmlp.backends.cuda.device import card

    monkeypatch.setattr("fastmlp.cli.info.CUDA_PACKAGES", ("no_such_package",))
    assert info()["GPU"] == 'none: no package; pip install "numba-cuda[cu13]"'
    monkeypatch.setattr("fastmlp.cli.info.CUDA_PACKAGES", ("numba",))
    monkeypatch.setattr(card, "count", lambda who: 2)
    assert info()["GPU"] == "2 seen by the driver"

    def fail(who: str) -> int:
        raise RuntimeError(f"{who}: the driver is not there")

    monkeypatch.setattr(card, "count", fail)
    assert info()["GPU"] == "none: the driver is not there"


@pytest.mark.parametrize(
    ("interpreted", "compiler", "asked", "expected"),
    [
        (False, "translator", "", "translator"),
        (False, "numba", "numba", "numba (FASTMLP_COMPILER=numba)"),
        (False, "numba", "", "numba (the translator was not tried with version"),
        (True, "translator", "", "none (NUMBA_DISABLE_JIT=1)"),
    ],
)
def test_the_compiler_at_work(
    monkeypatch: pytest.MonkeyPatch, interpreted: bool, compiler: str, asked: str, expected: str
) -> None:
    monkeypatch.setattr("fastmlp.cli.info.INTERPRETED", interpreted)
    monkeypatch.setattr("fastmlp.cli.info.COMPILER", compiler)
    monkeypatch.setenv("FASTMLP_COMPILER", asked)
    assert info()["compiler"].startswith(expected)


def test_the_compiler_is_that_of_this_process() -> None:
    if not INTERPRETED:
        assert info()["compiler"].startswith(COMPILER)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("FASTMLP_CACHE", raising=False)
    assert Path(info()["cache"]).is_relative_to(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/dev/null")
    assert info()["cache"].startswith("none: no folder can be written")
    monkeypatch.setenv("FASTMLP_CACHE", "0")
    assert info()["cache"] == "off (FASTMLP_CACHE=0)"


def test_vector_features(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"avx2": True, "fma": True, "avx512f": False, "rdseed": True}
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", lambda: told)
    assert info()["vector features"] == "avx2 fma"
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", dict)
    assert info()["vector features"] == "none"


def test_vector_features_unknown_to_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, bool]:
        raise RuntimeError

    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", fail)
    assert info()["vector features"] == "unknown to LLVM"


def test_the_processor_is_the_one_that_numba_compiles_for(monkeypatch: pytest.MonkeyPatch) -> None:
    host = info()["CPU"]
    monkeypatch.setattr(numba.config, "CPU_NAME", "generic")
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "")
    assert info()["CPU"] == f"generic (NUMBA_CPU_NAME; the host is {host})"
    assert info()["vector features"] == "none"
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+avx2,-avx512f,+fma,+rdseed")
    assert info()["vector features"] == "avx2 fma"


def test_text_is_aligned() -> None:
    told = info()
    width = max(map(len, told))
    for line, (name, text) in zip(format_info().splitlines(), told.items(), strict=True):
        assert line == name.ljust(width) + "  " + text
