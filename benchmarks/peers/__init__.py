"""Contestants: each module makes a `Run` of a workload, as an expert in its library writes it.

A module has `VARIANTS`, ways to write it of which the fastest counts, `make(workload, variant)`,
and `about()`, what it runs on; some have `sgemm(size)`, GFLOP/s of its own matrix product.
"""

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple


class Peer(NamedTuple):
    """A contestant: its module here, what must be installed, whether it trains, and its modules for
    workloads with a recipe, and in mixed precision."""

    title: str
    module: str
    needs: tuple[str, ...]
    trains: bool = True
    recipe: str = ""
    mixed: str = ""


PEERS = {
    "fastmlp": Peer("fastmlp", "fastmlp_fit", ("fastmlp",), True, "fastmlp_fit", "fastmlp_fit"),
    "numpy": Peer("NumPy", "numpy_loop", ("numpy",)),
    "sklearn": Peer("scikit-learn", "sklearn_fit", ("sklearn",)),
    "torch": Peer("PyTorch", "torch_eager", ("torch",), True, "torch_recipe", "torch_mixed"),
    "compile": Peer(
        "torch.compile", "torch_compile", ("torch",), True, "compile_recipe", "torch_compile"
    ),
    "jax": Peer("JAX", "jax_scan", ("jax", "optax"), True, "jax_recipe", "jax_mixed"),
    "onnx": Peer("ONNX Runtime", "onnx_runtime", ("onnx", "onnxruntime"), trains=False),
}
TRAINERS = [name for name, peer in PEERS.items() if peer.trains]
WITH_RECIPE = [name for name, peer in PEERS.items() if peer.recipe]
IN_MIXED = [name for name, peer in PEERS.items() if peer.mixed]
Form = Literal["module", "recipe", "mixed"]


def missing(name: str) -> str | None:
    """Return why this contestant cannot take part, or None."""
    absent = [library for library in PEERS[name].needs if find_spec(library) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def load(name: str, form: Form = "module") -> Any:
    """Import and return the contestant's module; its library's warnings are its own affair."""
    module = getattr(PEERS[name], form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(f"benchmarks.peers.{module}")
