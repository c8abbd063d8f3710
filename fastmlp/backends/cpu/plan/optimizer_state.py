"""The slots of a net's optimizer, in the panels that training works on."""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.plan import packing
from fastmlp.backends.cpu.plan.packing import Spacing, pack, packed_layers, round_up, unpack
from fastmlp.backends.cpu.plan.plan import Addresses, aligned, make_plan, make_workspace
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.tuning import PAGE_ROWS
from fastmlp.compiler import block_of
from fastmlp.compiler.target import lanes_of
from fastmlp.network import layer_settings
from fastmlp.network.spec import Network
from fastmlp.network.state import N_SLOTS
from fastmlp.validation import Array


def packed_numbers(network: Network, *, sparse: bool, spacing: Spacing = packing.CLOSE) -> int:
    lanes = lanes_of(network.dtype.type)
    layers = packed_layers(network.layout, lanes, 1, train=True, sparse=sparse, spacing=spacing)
    return round_up(packing.numbers_packed(layers, lanes), PAGE_ROWS)


class PanelPacking:
    """Moves flat vectors of a net's parameters into the panels of training, and back.

    Attributes
    ----------
    size : numbers of a packed vector, padding included
    """

    size: int

    def __init__(
        self, network: Network, *, sparse: bool = False, spacing: Spacing = packing.CLOSE
    ) -> None:
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
        result = aligned(self.size, self._dtype)
        net = address(self._plan.net)
        block_of(pack, self._dtype)(net, address(flat), address(result))
        return result

    def flat(self, packed: Array, out: Array | None = None) -> Array:
        result = np.empty(self._n_parameters, self._dtype) if out is None else out
        net = address(self._plan.net)
        block_of(unpack, self._dtype)(net, address(result), address(packed))
        return result


class Moments:
    """An optimizer's state, zeros at first; training writes to it in place.

    The state is never flat: copying that of 8 million parameters at the end of a fit took 0.2 s.

    Attributes
    ----------
    n_slots : 2: m and v. 4: also the trained parameters, and the shown ones, an average
    lag : of a rule that averages by itself
    sparse : True for training on sparse rows
    spacing : of the panels
    """

    network: Network
    n_slots: int
    lag: float
    sparse: bool
    spacing: Spacing

    def __init__(
        self,
        network: Network,
        flat: Array | None = None,
        *,
        sparse: bool = False,
        n_slots: int = N_SLOTS,
    ) -> None:
        self.network, self.sparse, self.spacing = network, sparse, packing.CLOSE
        self.n_slots = n_slots if flat is None else len(flat)
        self.lag = 0.0
        # Steps on few and on many rows, of other spacings, may take turns.
        self._packings: dict[Spacing, PanelPacking] = {}
        self._signs: Array | None = None
        self._packed = None if flat is None else self._pack(flat)

    @property
    def m(self) -> Array:
        return self._arrays()[0]

    @property
    def v(self) -> Array:
        return self._arrays()[1]

    @property
    def trained(self) -> Array | None:
        """The trained parameters, packed; None: the shown ones."""
        return self._arrays()[2] if self.n_slots > N_SLOTS else None

    @property
    def average(self) -> Array | None:
        """The packed vector from which the shown parameters are computed: the average, or m of a
        rule that averages by itself; None: no average."""
        if self.n_slots == N_SLOTS:
            return None
        return self._arrays()[0 if self.lag else 3]

    @property
    def signs(self) -> Array:
        """Codes of the parameters' signs, packed, in the net's dtype."""
        if self._signs is None:
            codes = layer_settings.codes_of(self.network).astype(self.network.dtype)
            self._signs = self.panels.packed(codes)
        return self._signs

    @property
    def has_features(self) -> bool:
        """True if steps average or bound parameters: phases have no plain form then."""
        return self.n_slots > N_SLOTS or bool(self.network.signs)

    def begin(self, parameters: Array, lag: float) -> bool:
        self.lag, panels = lag, self.panels
        m, _, trained, shown = self._arrays()
        if panels.flat(shown).tobytes() == parameters.tobytes():
            return False
        trained[:] = shown[:] = panels.packed(parameters)
        if lag:
            m[:] = 0
        return True

    def shown(self, trained: Array) -> Array:
        """Keep the parameters trained so far, packed; return the shown ones."""
        if self.n_slots == N_SLOTS:
            return trained
        m, _, kept, shown = self._arrays()
        n = len(trained)
        kept[:n] = trained
        if self.lag:
            with np.errstate(all="ignore"):
                shown[:n] = trained - self.lag * m[:n]
        return shown

    def arrange(self, spacing: Spacing) -> None:
        if spacing == self.spacing:
            return
        flat = None if self._packed is None else self.flat()
        self.spacing, self._signs = spacing, None
        self._packed = None if flat is None else self._pack(flat)

    def flat(self) -> Array:
        """A copy in the order of the parameters, shape (n_slots, n_parameters)."""
        panels = self.panels
        return np.stack([panels.flat(packed) for packed in self._arrays()])

    def _arrays(self) -> tuple[Array, ...]:
        """All packed vectors, allocated on first use with the current spacing."""
        if self._packed is None:
            n = packed_numbers(self.network, sparse=self.sparse, spacing=self.spacing)
            dtype = self.network.dtype
            self._packed = tuple(aligned(n, dtype) for _ in range(self.n_slots))
        return self._packed

    def _pack(self, flat: Array) -> tuple[Array, ...]:
        panels = self.panels
        return tuple(panels.packed(np.ascontiguousarray(row)) for row in flat)

    @property
    def panels(self) -> PanelPacking:
        """The plan that packs takes 0.1 ms to make."""
        if self.spacing not in self._packings:
            made = PanelPacking(self.network, sparse=self.sparse, spacing=self.spacing)
            self._packings[self.spacing] = made
        return self._packings[self.spacing]

    def __reduce__(self) -> Any:
        """A copy may move to a machine with registers of another width."""
        return Moments, (self.network, self.flat())
