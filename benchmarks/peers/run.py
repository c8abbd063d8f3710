"""The interface of every contestant."""

from collections.abc import Callable
from typing import Any, Protocol

from benchmarks.workloads import Array


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
        """Compute the gradient on the first batch."""

    def loss(self) -> float:
        """The mean loss over all rows, without penalties."""

    def parameters(self) -> Array:
        """All weights, then all biases, in one vector."""

    def rows(self, x: Array) -> Any:
        """These rows in the library's own form."""

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        """Ways to predict, by name: from rows to the last layer's values, before any link."""
