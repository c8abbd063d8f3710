"""Weights packed once for many predictions, and rows in tiles that read them."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from fastmlp._process.locks import NetLock
from fastmlp.backends.cpu.dispatch import Runner
from fastmlp.backends.cpu.plan.plan import aligned
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict import row_blocks
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.tuning import LIVE_ROWS
from fastmlp.compiler import block_of
from fastmlp.compiler.memory import record_at, records_at
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Network
from fastmlp.validation import Array


def pack_net(scalar: row_blocks.Scalar) -> Callable[[int], None]:
    """Make the block that packs a `FlatNet` record's weights and biases."""
    lanes, size = lanes_of(scalar), np.dtype(scalar).itemsize
    pack_matrix = moves(scalar, lanes).pack_matrix

    def pack(address: int) -> None:
        net = record_at(address, row_blocks.FlatNet)
        layers = records_at(net.layers, net.n_layers, row_blocks.FlatLayer)
        for i in range(net.n_layers):
            layer = layers[i]
            n_in, n_out, place = layer.n_in, layer.n_out, net.packed + layer.panels
            pack_matrix(net.parameters + layer.weights, n_in, n_out, place)
            place += n_in * row_blocks.n_vectors(n_out, lanes) * lanes * size
            pack_matrix(net.parameters + layer.biases, 1, n_out, place)

    return pack


class PackedWeights:
    """A net's weights in panels, kept from call to call until somebody may have written.

    Attributes
    ----------
    parameters : (n_parameters,) array, live
    n_packed : int, how often they have been packed; changes before the panels do
    """

    n_packed = 0

    def __init__(self, network: Network, parameters: Array) -> None:
        self.parameters = parameters
        self._state: object = None
        self._asked: object = None
        self._size, self._dtype = row_blocks.panels_of(network)[-1], network.dtype
        self._flat = row_blocks.make_flat(network, parameters, blocks=False)
        self._pack = block_of(pack_net, network.dtype)
        self._place = 0

    def at(self, lock: NetLock, n_rows: int) -> tuple[int, int]:
        """Return the address of the packed weights, or 0, and `n_packed`.

        Few rows read the live weights unless these are packed, or as they were in the last call:
        packing takes longer than two such calls. A caller whose `n_packed` has changed meanwhile
        may have read the numbers of two states.
        """
        n_packed, state = self.n_packed, lock.settled(self.parameters)
        if state is not None and state == self._state:
            return self._place, n_packed
        if n_rows <= LIVE_ROWS and (state is None or state != self._asked):
            self._asked = state
            return 0, 0
        with lock.parameters:
            state = lock.settled(self.parameters)
            if state is None or state != self._state:
                self._renew()
                self._state = self._asked = state
            return self._place, self.n_packed

    def _renew(self) -> None:
        self._state, self.n_packed = None, self.n_packed + 1
        if not self._place:
            self._panels = aligned(self._size, self._dtype)
            self._flat.net[0].packed = self._place = address(self._panels)
        self._pack(address(self._flat.net))


def packed_weights(runner: Runner, network: Network, parameters: Array) -> PackedWeights:
    """Return the packed weights that the net's calls share."""
    kept: PackedWeights | None = runner.lock.packed
    if kept is None or kept.parameters is not parameters:
        kept = runner.lock.packed = PackedWeights(network, parameters)
    return kept


class TiledRows(row_blocks.RowBlocks):
    """Predicts the rows of a network in tiles of rows and outputs."""

    FACTORY = staticmethod(row_blocks.rows_in_tiles)
    OPTIONS: ClassVar = {"tiled": True}

    def __call__(self, parameters: Array, x: Array, out: Array) -> bool:
        packed = packed_weights(self._runner, self._network, parameters)
        self._net["packed"], n_packed = packed.at(self._runner.lock, len(out))
        if n_packed:
            finite = self._write(parameters, x, out)
            if packed.n_packed == n_packed:
                return finite
            self._net["packed"] = 0
        return super().__call__(parameters, x, out)
