"""A call of a net in C, as `to_c` writes it,
beside emlearn's C code of the same weights.

Each is compiled with a loop of calls, of one row of 64 after the other.
"""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench_train import Race
from benchmarks.peers import Unsupported
from benchmarks.race import Ways
from fastmlp import MLP, to_c
from fastmlp.rules.activations import ActivationName

NETS: dict[str, tuple[tuple[int, ...], ActivationName]] = {
    "4-32-32-1-relu": ((4, 32, 32, 1), "relu"),
    "16-64-64-1-relu": ((16, 64, 64, 1), "relu"),
    "4-32-32-1-tanh": ((4, 32, 32, 1), "tanh"),
    "16-64-64-1-tanh": ((16, 64, 64, 1), "tanh"),
}
OPTIONS = {"native": ("-O3", "-march=native"), "O2": ("-O2",)}
LOOP = """
static float rows[64][16];
float loop(int n)
{
    float y = 0, sum = 0;
    for (int i = 0; i < 64 * 16; ++i) rows[i / 16][i % 16] = (float)(i * 37 % 101 - 50) / 30;
    for (int i = 0; i < n; ++i) { @CALL; sum += y; }
    return sum;
}
"""


def with_loop(code: str, call: str, flags: tuple[str, ...]) -> Callable[[int], float]:
    """The compiled loop of a call behind its code."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Unsupported("there is no C compiler")
    folder = Path(tempfile.mkdtemp())
    source = folder / "net.c"
    library = folder / "net.so"
    source.write_text(code + LOOP.replace("@CALL", call))
    files = ["-o", str(library), str(source), "-lm"]
    subprocess.run([compiler, *flags, "-shared", "-fPIC", *files], check=True)
    loop: Callable[[int], float] = ctypes.CDLL(str(library)).loop
    return loop


class Work(Ways):
    """Calls of a net, by the compiler's options."""

    def __init__(self, worker: Any, quick: bool, net: str, options: str) -> None:
        sizes, activation = NETS[net]
        model = MLP(sizes, activation=activation, seed=0)
        if worker.name == "fastmlp":
            with tempfile.TemporaryDirectory() as folder:
                header = Path(folder, "net.h")
                to_c(model, header, prefix="net", tests=0)
                code = f"#define NET_IMPLEMENTATION\n{header.read_text()}"
            call = "net_predict(rows[i & 63], &y)"
        else:
            import emlearn
            from emlearn.net import c_generate_net_loadable

            names = [activation] * (len(sizes) - 2) + ["identity"]
            generate: Any = c_generate_net_loadable
            place = f'"{Path(emlearn.includedir, "eml_net.h").as_posix()}"'
            net_code = generate(names, model.weights, model.biases, "net")
            code = net_code.replace("<eml_net.h>", place)
            call = f"y = net_regress1(rows[i & 63], {sizes[0]})"
        loop = with_loop(code, call, OPTIONS[options])
        super().__init__(worker, quick, {" ".join(OPTIONS[options]): loop})


@pytest.mark.libraries("fastmlp", "emlearn")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("net", NETS)
def test_export(race: Race, net: str, options: str) -> None:
    race(Work, seconds=0.02, net=net, options=options)
