"""Each CUDA kernel compiles to PTX and links,
without a GPU, for each architecture in use.
"""

import random
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from loss_cases import CASES
from numba import config

sys.path.insert(0, str(Path(__file__).parent))
import cubins

from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.losses import LINKS, LOSSES, SKLEARN_LOSSES
from fastmlp.rules.optimizers import OPTIMIZERS, SGD
from fastmlp.rules.updates import PENALTIES

pytestmark = [
    pytest.mark.skipif(
        find_spec("numba_cuda") is None,
        reason='needs the extra "cuda": .ci/run installs it',
    ),
    pytest.mark.skipif(
        bool(config.DISABLE_JIT or config.ENABLE_CUDASIM), reason="nothing is compiled"
    ),
]
OURS = (9, 0)
# Registers of a thread, of which 256 share 65,536; bytes of shared memory.
MOST_REGISTERS = 240
MOST_SHARED = 24 * 1024
# The float64 instructions of a float32 kernel:
# sums of losses, and the factors made of them.
SUMS = {
    *(
        "abs",
        "add",
        "cvt",
        "div",
        "fma",
        "ld",
        "mov",
        "mul",
        "neg",
        "rcp",
        "selp",
        "setp",
        "st",
    ),
    *("sub", "copysign"),
}
each_dtype = pytest.mark.parametrize("dtype", cubins.DTYPES)


def float64_instructions(ptx: str) -> set[str]:
    lines = [line for line in ptx.splitlines() if ".f64" in line and ".reg" not in line]
    result = (re.match(r"\s*(?:@!?%p\d+\s+)?([a-z0-9]+)\.", line) for line in lines)
    return {match[1] for match in result if match}


def taken(soak: bool, name: str, among: tuple[Any, ...]) -> tuple[Any, ...]:
    """One of several, by the name, or with --soak all: each takes seconds."""
    return among if soak else (random.Random(name).choice(among),)


@each_dtype
def test_kernels_link_within_bounds(dtype: str, soak: bool) -> None:
    """The PTX is that of the oldest architecture; it links for the later ones too."""
    for name, kernel, signature in cubins.kernels(dtype):
        if dtype in taken(soak, name, cubins.DTYPES):
            ptx = cubins.ptx_of(kernel, signature, cubins.ARCHITECTURES[0])
            check_ptx(ptx, dtype, name)
            for capability in taken(soak, f"{name} sm", cubins.ARCHITECTURES):
                check_cubin(ptx, capability, name)


def check_ptx(ptx: str, dtype: str, name: str) -> None:
    assert "ld.local" not in ptx, name
    if dtype == "float32":
        assert float64_instructions(ptx) <= SUMS, (
            name,
            float64_instructions(ptx) - SUMS,
        )


def check_cubin(ptx: str, capability: tuple[int, int], name: str) -> None:
    code, details = cubins.cubin_of(ptx, capability)
    assert code[:4] == b"\x7fELF", name
    assert details.registers <= MOST_REGISTERS, name
    assert details.spilled == 0, (name, details)
    assert details.shared <= MOST_SHARED, (name, details)


def test_the_type_of_a_launch_is_that_of_its_arrays() -> None:
    from fastmlp.backends.cuda.device import type_of
    from fastmlp.backends.cuda.plan import Nets

    *_, (_, _, signature) = cubins.kernels("float32")
    *_, expected, _, _ = signature.args
    nets = Nets(
        *(SimpleNamespace(dtype=kind.dtype, _numba_type_=kind) for kind in expected)
    )
    assert nets._numba_type_ == type_of(nets) == expected
    assert nets._numba_type_ is nets._numba_type_


def device_rules() -> dict[str, tuple[Any, int, int]]:
    results: dict[str, tuple[Any, int, int]] = {}
    for table, n_in in ((ACTIVATIONS, 1), (PENALTIES, 1)):
        results |= {name: (rule, n_in, 2) for name, rule in table.items()}
    for name, loss in (LOSSES | SKLEARN_LOSSES).items():
        if not loss.by_row:
            results[f"{name} loss"] = (loss.rule, 2 + len(loss.constants), 2)
    results |= {f"{n} link": (k.rule, 1, 1) for n, k in LINKS.items() if not k.by_row}
    for optimizer in (
        *(kind() for kind in OPTIMIZERS.values()),
        SGD(0.1, momentum=0.9),
    ):
        n = optimizer.rule.__code__.co_argcount
        results[optimizer.rule.__name__] = (optimizer.rule, n, 3)
    return results


def test_rules_stay_in_float32() -> None:
    from fastmlp.backends.cuda.rule_blocks import _taker, compiled

    for name, (rule, n_in, n_out) in device_rules().items():
        cubins.without_a_card(OURS)
        function, take = compiled(rule), _taker(n_in)
        closed = _closed(function, take, n_out)
        ptx = cubins.ptx_of(closed, cubins.vector_signature(), OURS)
        assert ".f64" not in ptx, name


def _closed(function: Any, take: Any, n_out: int) -> Any:
    def one(x: Any) -> None:
        x[0] = function(*take(x, 0))

    def several(x: Any) -> None:
        results = function(*take(x, 0))
        x[0] = results[0]
        x[1] = results[1]

    return one if n_out == 1 else several


@each_dtype
def test_losses_and_their_links_compile(dtype: str, soak: bool) -> None:
    from nets import Net
    from numba import types

    from fastmlp.backends.cuda import rule_blocks
    from fastmlp.backends.cuda.device import SCALARS
    from fastmlp.backends.cuda.plan import rules_of

    scalar = SCALARS[dtype]
    arrays = types.void(
        *[types.Array(scalar, n, "C") for n in (1, 2)], types.float64[::1]
    )
    for name, loss in (CASES | SKLEARN_LOSSES).items():
        if dtype not in taken(soak, name, cubins.DTYPES):
            continue
        link = LINKS[loss.link or "identity"]
        of_net = rules_of(Net(dtype=dtype).network._replace(loss=loss, link=link))
        cubins.without_a_card(OURS)
        loss = rule_blocks.row_loss(of_net)
        predict = rule_blocks.row_link(of_net)
        ptx = cubins.ptx_of(_row(loss, predict), arrays, OURS)
        if dtype == "float32" and name not in ("binary_log_loss", "log_loss"):
            # These two clip in float64, by the eps of the precision.
            assert float64_instructions(ptx) <= SUMS, name


def _row(loss: Any, predict: Any) -> Any:
    from fastmlp.backends.cuda.rule_blocks import OutputRow

    def row(x: Any, y: Any, values: Any) -> None:
        loss(x, OutputRow(0, 3, 6, 3), values, 0, y, 0, 0.5)
        predict(x, 0, y, 1, 3)

    return row
