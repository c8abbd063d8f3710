"""The optimizer's state of a net: two numbers a parameter, in the panels that training works on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.plan.pack import pack, unpack
from fastmlp.backends.cpu.plan.packing import (
    CLOSE,
    Spacing,
    numbers_packed,
    packed_layers,
    round_up,
)
from fastmlp.backends.cpu.plan.plan import Addresses, make_plan
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.plan.workspace import aligned, make_workspace
from fastmlp.backends.cpu.tuning import PAGE_ROWS
from fastmlp.compiler import block_of
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Network

Array = NDArray[Any]


def packed_numbers(network: Network, *, sparse: bool, spacing: Spacing = CLOSE) -> int:
    """Return the numbers of a packed vector, padding included."""
    lanes = lanes_of(network.dtype.type)
    layers = packed_layers(network.layout, lanes, 1, train=True, sparse=sparse, spacing=spacing)
    return round_up(numbers_packed(layers, lanes), PAGE_ROWS)


class Panels:
    """Moves flat vectors of a net's parameters into the panels of training, and back.

    Attributes
    ----------
    size : int, the numbers of a packed vector, padding included
    """

    size: int

    def __init__(self, network: Network, *, sparse: bool = False, spacing: Spacing = CLOSE) -> None:
        layout, self._dtype = network.layout, network.dtype
        lanes = lanes_of(network.dtype.type)
        self._n_parameters = layout.n_parameters
        self._workspace = make_workspace(
            layout, 1, 0, network.dtype, lanes, train=True, sparse=sparse, spacing=spacing
        )
        nothing = (0,) * layout.n_layers
        self._plan = make_plan(layout, self._workspace, Addresses(nothing, nothing))
        self.size = round_up(len(self._workspace.parameters), PAGE_ROWS)

    def packed(self, flat: Array) -> Array:
        """Return a new packed vector, padded with zeros."""
        result = aligned(self.size, self._dtype)
        net = address(self._plan.net)
        block_of(pack, self._dtype)(net, address(flat), address(result))
        return result

    def flat(self, packed: Array, out: Array | None = None) -> Array:
        """Return the parameters of a packed vector, shape (n_parameters,)."""
        result = np.empty(self._n_parameters, self._dtype) if out is None else out
        net = address(self._plan.net)
        block_of(unpack, self._dtype)(net, address(result), address(packed))
        return result


class Moments:
    """An optimizer's state, zeros at first; training writes to it in place.

    It is never held flat: to copy 8 million parameters' state at the end of a fit, into memory new
    to the process, took 0.2 s.

    Attributes
    ----------
    network : Network
    sparse : bool, True if they belong to a training on sparse rows
    spacing : Spacing, of the panels
    """

    network: Network
    sparse: bool
    spacing: Spacing

    def __init__(
        self, network: Network, flat: Array | None = None, *, sparse: bool = False
    ) -> None:
        self.network, self.sparse, self.spacing = network, sparse, CLOSE
        self._packed = None if flat is None else self._pack(flat)

    @property
    def m(self) -> Array:
        """The first numbers, a packed vector as `Panels` has them."""
        return self._both()[0]

    @property
    def v(self) -> Array:
        """The second numbers, a packed vector as `Panels` has them."""
        return self._both()[1]

    def arrange(self, spacing: Spacing) -> None:
        """Arrange the panels with this spacing."""
        if spacing == self.spacing:
            return
        flat = None if self._packed is None else self.flat()
        self.spacing = spacing
        self._packed = None if flat is None else self._pack(flat)

    def flat(self) -> Array:
        """Return a copy in the order of the parameters, shape (2, n_parameters)."""
        panels = self._panels()
        return np.stack([panels.flat(packed) for packed in self._both()])

    def _both(self) -> tuple[Array, Array]:
        """Return both packed vectors; zeros are allocated now, with the spacing that is now set."""
        if self._packed is None:
            n = packed_numbers(self.network, sparse=self.sparse, spacing=self.spacing)
            dtype = self.network.dtype
            self._packed = aligned(n, dtype), aligned(n, dtype)
        return self._packed

    def _pack(self, flat: Array) -> tuple[Array, Array]:
        panels = self._panels()
        m, v = (panels.packed(np.ascontiguousarray(row)) for row in flat)
        return m, v

    def _panels(self) -> Panels:
        return Panels(self.network, sparse=self.sparse, spacing=self.spacing)

    def __reduce__(self) -> Any:
        """Panels are as wide as this machine's registers; a copy may live on another."""
        return Moments, (self.network, self.flat())
