"""What a user is told where there is no GPU, and that nobody pays for one who has none."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP
from fastmlp.backends.cuda import adapter

ROOT = Path(__file__).parents[3]


class Module:
    """A CUDA module that finds these devices, or fails."""

    def __init__(self, devices: Any) -> None:
        self._devices = devices

    @property
    def gpus(self) -> Any:
        if isinstance(self._devices, Exception):
            raise self._devices
        return self._devices


def net(device: str) -> MLP:
    return MLP((2, 3, 1), device=device, seed=0)


def has(devices: Any, monkeypatch: pytest.MonkeyPatch, *, package: bool = True) -> None:
    monkeypatch.setattr(adapter, "installed", lambda: package)
    monkeypatch.setattr(adapter, "MODULE", Module(devices))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    has([], monkeypatch, package=False)
    with pytest.raises(ImportError, match=r'MLP: device="cuda" needs a package: pip install "fast'):
        net("cuda")


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    has(OSError("Error at driver init: \n\nCUDA driver library cannot be found.\nIf"), monkeypatch)
    words = (
        r'MLP: device="cuda" needs the NVIDIA driver, which does not load \(CUDA driver library '
        r"cannot be found\): install it, see that nvidia-smi runs, or use device="
    )
    with pytest.raises(RuntimeError, match=words):
        net("cuda")


def test_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    has([], monkeypatch)
    with pytest.raises(RuntimeError, match=r"MLP: the NVIDIA driver sees no device: check nvidia"):
        net("cuda")


def test_a_rule_that_does_not_compile() -> None:
    class Dispatcher:
        typeof_pyval = staticmethod(type)

        def compile(self, kinds: Any) -> None:
            raise KeyError(np.exp)

    words = (
        r"a rule of this net does not compile for a GPU; it must .* of fastmlp.elementary and of"
    )
    with pytest.raises(TypeError, match=words):
        adapter.compiled_for(Dispatcher(), (1, 2.0))


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    has([object()], monkeypatch)
    with pytest.raises(RuntimeError, match="MLP: there is no device cuda:1; known: cuda:0"):
        net("cuda:1")


def test_a_net_that_cannot_move_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    has([], monkeypatch)
    its = net("cpu")
    its.save(tmp_path / "net.safetensors")
    before = its.predict([[1, 2]])
    with pytest.raises(RuntimeError, match=r"MLP.to: the NVIDIA driver sees no device"):
        its.to("cuda")
    assert its.device == "cpu"
    assert np.array_equal(its.predict([[1, 2]]), before)
    with pytest.raises(RuntimeError, match=r"MLP.load: the NVIDIA driver sees no device"):
        MLP.load(tmp_path / "net.safetensors", device="cuda")


@pytest.mark.parametrize("device", ["cuda:", "cuda:x", "cuda:-1", "cuda:\u0661", "CUDA", 0, None])
def test_names_of_no_device(device: Any) -> None:
    with pytest.raises(ValueError, match=r"MLP: unknown device .*; known: cpu, cuda, cuda:0"):
        net(device)


def test_a_net_on_the_cpu_imports_nothing_of_cuda(python: Callable[..., str]) -> None:
    script = """
import sys
from fastmlp import MLP
net = MLP((1, 4, 1), seed=0).to("cpu")
net.fit([[0.0], [1.0]], [1.0, 0.0], epochs=1)
net.predict([[0.0]])
names = ("numba.cuda", "numba_cuda", "cuda", "fastmlp.backends.cuda")
print([name for name in names if name in sys.modules])
"""
    assert python(script) == "[]\n"


def test_the_benchmark_says_that_there_is_no_card() -> None:
    from fastmlp.backends.cuda.adapter import require

    try:
        require(0)
    except (ImportError, RuntimeError):
        pass
    else:
        pytest.skip("there is a card")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("benchmarks.gpu: ")
    assert done.stderr.count("\n") == 1
