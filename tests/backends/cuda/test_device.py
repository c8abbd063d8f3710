"""Errors without a usable GPU, and kernels in the simulator,
which replaces the compiler.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest

from fastmlp import MLP, Residual
from fastmlp.backends.cuda import device
from fastmlp.backends.cuda.device import Card, adopted, compiled_for
from fastmlp.backends.cuda.plan import rules_of

ROOT = Path(__file__).parents[3]


class Device(NamedTuple):
    compute_capability: tuple[int, int] = (9, 0)


class Module:
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
    monkeypatch.setattr(device, "installed", lambda: package)
    monkeypatch.setattr(device, "NUMBA_MODULE", Module(devices))


# With CUDA_VISIBLE_DEVICES empty, the driver does not initialise.
EMPTY = OSError("Error at driver init: Call to cuInit results in CUDA_ERROR_NO_DEVICE")
NO_DRIVER = OSError(
    "Error at driver init: \n\nCUDA driver library cannot be found.\nIf"
)
NO_DEVICE = r"MLP: the NVIDIA driver sees no device: check nvidia"
# Devices, or what the driver raises, and what is said of them.
UNUSABLE: dict[str, tuple[Any, str]] = {
    "no driver": (
        NO_DRIVER,
        r'MLP: device="cuda" needs the NVIDIA driver, which does not load \(CUDA '
        r"driver library "
        r"cannot be found\): install it, see that nvidia-smi runs, or use device=",
    ),
    "no device": ([], NO_DEVICE),
    "a driver without a device": (EMPTY, NO_DEVICE),
    "too old": (
        [Device((7, 0))],
        r"MLP: cuda:0 has compute capability 7.0, .* need 7.5",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_without_a_device_that_can_be_used(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices, words = UNUSABLE[name]
    has(devices, monkeypatch)
    with pytest.raises(RuntimeError, match=words):
        net("cuda")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    has([], monkeypatch, package=False)
    words = (
        r'"cuda" needs numba-cuda: pip install "numba-cuda\[cu13\]==0.30.\*", '
        'or use device="cpu"$'
    )
    with pytest.raises(ImportError, match=words):
        net("cuda")


def test_a_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    has([Device()], monkeypatch)
    monkeypatch.setattr(device, "_versions", lambda: (12, 13))
    words = (
        r"MLP: the NVIDIA driver is for CUDA 12, .* CUDA 13: .* "
        r"or pip install .numba-cuda\[cu12"
    )
    with pytest.raises(RuntimeError, match=words):
        net("cuda")
    monkeypatch.setattr(device, "_versions", lambda: (13, 12))
    assert net("cuda").device == "cuda"


def test_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    has([Device()], monkeypatch)
    monkeypatch.setattr(device, "_first_user", os.getppid())
    with pytest.raises(
        RuntimeError, match=r"MLP: this process was forked from .* \"spawn\""
    ):
        net("cuda")


def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    made = object.__new__(Card)
    made.index = 3
    monkeypatch.setattr(device, "SIMULATED", False)
    return made


def test_memory_that_runs_out_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may allocate between the check and the allocation."""

    def device_array(*_: Any) -> Any:
        raise OSError("Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")

    has([Device()], monkeypatch)
    monkeypatch.setattr(
        device.NUMBA_MODULE, "device_array", device_array, raising=False
    )
    with pytest.raises(
        MemoryError, match=r"cuda:3 has no room for 8 KB in one piece: use a small"
    ):
        card(monkeypatch).empty((10, 100), np.float64)


def test_what_is_freed_but_kept_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [10]
    gpu = card(monkeypatch)
    monkeypatch.setattr(Card, "free_bytes", lambda self: free[0])
    monkeypatch.setattr(Card, "reclaim", lambda self: free.insert(0, 100))
    gpu.require_bytes(50, "MLP.fit")
    with pytest.raises(
        MemoryError,
        match=r"MLP.fit: this takes 200 bytes of .* cuda:3, where 100 bytes",
    ):
        gpu.require_bytes(200, "MLP.fit")


class Array:
    def __init__(self, **more: Any) -> None:
        interface = {
            "shape": (1, 1),
            "typestr": "<f4",
            "data": (64, False),
            "version": 2,
        }
        self.__cuda_array_interface__ = interface | more


def adopting(monkeypatch: pytest.MonkeyPatch, *, ordinal: int) -> list[str]:
    """Put arrays on a device; return the list of calls to the module."""
    calls: list[str] = []
    has([Device()], monkeypatch)
    monkeypatch.setattr(device, "SIMULATED", False)
    monkeypatch.setattr(device, "_device_of", lambda address: ordinal)
    context = SimpleNamespace(device=SimpleNamespace(id=0))
    for name, does in (
        ("current_context", lambda: context),
        ("synchronize", lambda: calls.append("synchronize")),
        ("as_cuda_array", lambda array: calls.append("taken")),
    ):
        monkeypatch.setattr(device.NUMBA_MODULE, name, does, raising=False)
    return calls


def test_an_array_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    adopting(monkeypatch, ordinal=1)
    with pytest.raises(
        ValueError, match=r"MLP.fit: X lies on cuda:1, the net on cuda:0: move"
    ):
        adopted(Array(), "MLP.fit: X")


def test_work_that_an_array_waits_for_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = adopting(monkeypatch, ordinal=0)
    adopted(Array(), "X")
    assert calls == ["synchronize", "taken"]
    # Version 3 names the stream to wait for, and the module waits for it.
    adopted(Array(stream=None, version=3), "X")
    assert calls == ["synchronize", "taken", "taken"]


def test_an_error_of_the_driver_is_no_rule_that_does_not_compile() -> None:
    class Dispatcher:
        typeof_pyval = staticmethod(type)

        def compile(self, kinds: Any) -> None:
            raise OSError(
                "[2] Call to cuLibraryLoadData results in CUDA_ERROR_OUT_OF_MEMORY"
            )

    with pytest.raises(OSError, match="cuLibraryLoadData"):
        compiled_for(Dispatcher(), (1, 2.0))


def test_a_rule_that_does_not_compile() -> None:
    class Dispatcher:
        typeof_pyval = staticmethod(type)

        def compile(self, kinds: Any) -> None:
            raise KeyError(np.exp)

    words = (
        r"a rule of this net does not compile for a GPU; it must "
        r".* of fastmlp.rules.elementary and of"
    )
    with pytest.raises(TypeError, match=words):
        compiled_for(Dispatcher(), (1, 2.0))


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    has([object()], monkeypatch)
    with pytest.raises(
        RuntimeError, match="MLP: the device cuda:1 does not exist; known: cuda:0"
    ):
        net("cuda:1")


def test_a_net_that_cannot_move_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    has([], monkeypatch)
    cpu_net = net("cpu")
    cpu_net.save(tmp_path / "net.safetensors")
    before = cpu_net.predict([[1, 2]])
    with pytest.raises(RuntimeError, match=r"MLP.to: the NVIDIA driver sees no device"):
        cpu_net.to("cuda")
    assert cpu_net.device == "cpu"
    assert np.array_equal(cpu_net.predict([[1, 2]]), before)
    with pytest.raises(
        RuntimeError, match=r"MLP.load: the NVIDIA driver sees no device"
    ):
        MLP.load(tmp_path / "net.safetensors", device="cuda")


@pytest.mark.slow
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


FOLDER = Path(__file__).parent / "simulated"
# The simulator runs Python and NumPy: DISABLE_JIT and BOUNDSCHECK change nothing.
plain = numba.config.DISABLE_JIT or numba.config.BOUNDSCHECK


@pytest.mark.slow
@pytest.mark.skipif(bool(plain), reason="the simulator runs plain Python in any case")
def test_the_kernels_do_in_the_simulator_what_the_cpu_does() -> None:
    environment = os.environ | {
        "NUMBA_ENABLE_CUDASIM": "1",
        # The limit of fast tests is one of compiled code.
        "PYTEST_ADDOPTS": "",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(FOLDER),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=560
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-5_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 180


@pytest.mark.parametrize(
    ("sizes", "settings"),
    [
        ((3, 4, 2), {"norm": "rms"}),
        ((3, Residual(4), 2), {}),
        ((3, 4, 2), {"skip": "input"}),
    ],
)
def test_a_gpu_refuses_norms_and_skips_by_name(sizes: Any, settings: Any) -> None:
    network = MLP(sizes, **settings)._network
    with pytest.raises(ValueError, match="does not compute norms, residual blocks or"):
        rules_of(network)
