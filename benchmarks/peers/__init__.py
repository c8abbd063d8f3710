"""Contestants: each module makes a `Run` of a workload,
as an expert in its library writes it.

A module has `VARIANTS`, by form of workload the ways to write it, of which the fastest
counts, `make(workload, variant)`, and `about()`, the versions it runs on; some have
`sgemm(size)`, a call of the library's own matrix product.
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

from benchmarks.workloads import Array

ALL = ("plain", "recipe", "mixed")


class Peer(NamedTuple):
    """A contestant: its module here, the libraries it needs, and the forms of workloads
    that it trains: plain ones, with the recipe, in mixed precision.
    """

    title: str
    module: str
    needs: tuple[str, ...]
    forms: tuple[str, ...] = ()


PLAIN = ("plain",)
PEERS = {
    "fastmlp": Peer("fastmlp", "fastmlp_nets", ("fastmlp",), ALL),
    "before": Peer("fastmlp before", "fastmlp_nets", ("fastmlp",)),
    "numpy": Peer("NumPy", "numpy_loop", ("numpy",), PLAIN),
    "sklearn": Peer("scikit-learn", "sklearn_nets", ("sklearn",), PLAIN),
    "torch": Peer("PyTorch", "torch_nets", ("torch",), ALL),
    "compile": Peer("torch.compile", "torch_compile", ("torch",), ALL),
    "jax": Peer("JAX", "jax_nets", ("jax", "optax"), ALL),
    "onnx": Peer("ONNX Runtime", "onnx_runtime", ("onnx", "onnxruntime")),
    "keras": Peer("Keras over TensorFlow", "", ("keras", "tensorflow")),
    "river": Peer("river", "", ("river",)),
    "lightgbm": Peer("LightGBM", "", ("lightgbm", "pandas")),
    "catboost": Peer("CatBoost", "", ("catboost", "pandas")),
    "chimeraboost": Peer("chimeraboost", "", ("chimeraboost",)),
    "emlearn": Peer("emlearn", "", ("emlearn",)),
    "optimistix": Peer("optimistix, JAX", "", ("optimistix", "equinox", "jax")),
    "lm": Peer("torch-levenberg-marquardt", "", ("torch_levenberg_marquardt",)),
}


def trainers(form: str) -> list[str]:
    """The contestants that train workloads of a form."""
    return [name for name, peer in PEERS.items() if form in peer.forms]


def title(library: str) -> str:
    """The title of a contestant, and its form after it."""
    name, _, form = library.partition("-")
    if form:
        return f"{PEERS[name].title}, {form}"
    return PEERS[name].title


def missing(name: str) -> str | None:
    """The reason that a contestant cannot take part,
    or None; its form may stand after a dash.
    """
    needs = PEERS[name.partition("-")[0]].needs
    absent = [library for library in needs if find_spec(library) is None]
    if not absent:
        return None
    return f"not installed: {', '.join(absent)}"


def load(name: str) -> Any:
    """The contestant's module, imported without the warnings of its library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(f"benchmarks.peers.{PEERS[name].module}")


class Unsupported(Exception):
    """The library has no such option; the text says which."""


class Run(Protocol):
    """One net in training, its data in memory in the library's own form.

    Calls return when the work is done, not while it is under way.
    """

    def reset(self) -> None:
        """Go back to the starting parameters, and forget the optimizer's state."""

    def epochs(self, n: int) -> None:
        """Train n epochs, each in a new order of rows."""

    def steps(self, n: int) -> None:
        """Take n steps on the batches in the order of the rows."""

    def gradient(self) -> Any:
        """Compute the loss and the gradient of the first batch."""
        raise Unsupported("the library's gradient is private")

    def loss(self) -> float:
        """The mean loss over all rows, without penalties."""

    def parameters(self) -> Array:
        """All weights, then all biases, in one vector."""

    def rows(self, x: Array) -> Any:
        """These rows in the library's own form, an array if it has no other."""
        return x

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        """Ways to predict, by name:
        from rows to the last layer's values, before any link.
        """
