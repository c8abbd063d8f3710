"""Kernels as PTX and as cubins, without a GPU.

    python tests/backends/cuda/cubins.py

prints registers, spills and shared memory of each kernel on each architecture.
"""

import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ARCHITECTURES = ((7, 5), (8, 0), (9, 0))
DTYPES = ("float32", "float64")


class Resources(NamedTuple):
    """A kernel's registers per thread, spilled bytes, and bytes of shared memory."""

    registers: int
    spilled: int
    shared: int


def without_a_card(capability: tuple[int, int]) -> None:
    """Set the compute capability that the compiler asks the device for."""
    from numba.cuda import dispatcher

    class Device:
        compute_capability = capability

    dispatcher.get_current_device = Device


def ptx_of(kernel: Any, signature: Any, capability: tuple[int, int]) -> str:
    from numba import cuda

    without_a_card(capability)
    function = getattr(kernel, "py_func", kernel)
    code, _ = cuda.compile(
        function, signature, cc=capability, output="ptx", abi="numba", device=False
    )
    return str(code)


def cubin_of(ptx: str, capability: tuple[int, int]) -> tuple[bytes, Resources]:
    """Link PTX by nvJitLink;
    a cooperative kernel also with the device runtime library.
    """
    from cuda.core import Linker, LinkerOptions, ObjectCode

    parts = [ObjectCode.from_ptx(ptx.encode())]
    if "cudaCG" in ptx:
        parts.append(ObjectCode.from_library(str(_device_runtime())))
    options = LinkerOptions(
        arch="sm_{}{}".format(*capability), ptxas_options=["-v"], verbose=True
    )
    linker = Linker(*parts, options=options)
    code = linker.link("cubin").code
    return bytes(code), _resources(linker.get_info_log())


def _device_runtime() -> Path:
    nvidia = find_spec("nvidia")
    assert nvidia is not None
    (folder,) = list(nvidia.submodule_search_locations or [])
    return next(Path(folder).rglob("libcudadevrt.a"))


def _resources(log: str) -> Resources:
    """Read the linker's log; a cooperative kernel is the largest of its parts."""
    registers = max(int(n) for n in re.findall(r"[Uu]sed (\d+) registers", log))
    stores = [int(n) for n in re.findall(r"(\d+) bytes spill stores", log)]
    loads = [int(n) for n in re.findall(r"(\d+) bytes spill loads", log)]
    shared = [int(n) for n in re.findall(r"(\d+) bytes smem", log)]
    return Resources(registers, max(stores + loads, default=0), max(shared, default=0))


def kernels(dtype: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, kernel and signature of each kernel,
    with the shapes used on a GPU.
    """
    from nets import Net
    from numba import from_dtype, types

    from fastmlp.backends.cuda import device as device_arrays
    from fastmlp.backends.cuda import kernels, plan, training
    from fastmlp.backends.cuda.device import SCALARS
    from fastmlp.backends.cuda.plan import (
        GridShape,
        Layer,
        NetProgress,
        Nets,
        Plan,
        dtype_of,
        rules_of,
    )
    from fastmlp.rules.dropout import Dropout
    from fastmlp.rules.optimizer_protocol import EMA
    from fastmlp.rules.optimizers import Adam

    network = Net(sizes=(17, 64, 64, 6), dtype=dtype, penalties={"l2": 0.1}).network
    rules = rules_of(network, Adam(0.01, average=EMA()))
    scalar = SCALARS[dtype]

    def array(kind: Any, n: int) -> Any:
        return types.Array(kind, n, "C")

    def records(kind: Any) -> Any:
        return array(from_dtype(dtype_of(kind)), 1)

    matrix = array(scalar, 2)
    orders = array(types.int64, 2)
    of_nets = (
        matrix,
        array(types.float64, 2),
        *map(records, (NetProgress, Plan, Layer)),
        orders,
    )
    nets = types.NamedTuple(of_nets, Nets)
    numbers = (types.int64, types.int64)
    for name, shape in (
        ("16x128 rows, 32x32 weights", GridShape(plan.FEW_ROWS_TILE, plan.FEW_WEIGHTS)),
        ("64x64 rows, 64x64 weights", GridShape(plan.MANY_ROWS, plan.MANY_WEIGHTS)),
    ):
        made = training.make_kernels(rules, shape)
        yield f"phase, {name}", made.phase, types.void(matrix, matrix, nets, *numbers)
        yield f"run, {name}", made.run, types.void(matrix, matrix, nets, types.int64)
    signature = types.void(matrix, types.float64[::1])
    yield "finite", device_arrays._finite_kernel(), signature
    yield "apply", kernels.make_apply(rules, 256), types.void(nets)
    dropping = rules_of(
        network._replace(dropout=Dropout((0.2, 0.2), 0.1, 0.1)), Adam(0.01)
    )
    made = training.make_kernels(
        dropping, GridShape(plan.FEW_ROWS_TILE, plan.FEW_WEIGHTS)
    )
    yield "phase, dropout", made.phase, types.void(matrix, matrix, nets, *numbers)


def main() -> None:
    for dtype in DTYPES:
        for name, kernel, signature in kernels(dtype):
            for capability in ARCHITECTURES:
                code, details = cubin_of(
                    ptx_of(kernel, signature, capability), capability
                )
                sm = "sm_{}{}".format(*capability)
                row = f"| {dtype} | {name} | {sm} | {details.registers} | {details.spilled} |"
                sys.stdout.write(f"{row} {details.shared} | {len(code)} |\n")
                sys.stdout.flush()


def vector_signature() -> Any:
    from numba import types

    return types.void(types.float32[::1])


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    main()
