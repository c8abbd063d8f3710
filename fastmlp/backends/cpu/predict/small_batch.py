"""Predictions of small batches, straight from the live flat parameters.

Packing the weights would cost more than using them: 5,000 copies for one row of
16-64-64-2, of 5,000 multiply-adds. Up to four rows are predicted one by one, more by
vectors of rows. The sums run in the order of the packed kernels, so all methods give
the same bits.

Weights of wide nets are packed once for many predictions; rows in tiles read them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy import ndarray

from fastmlp._process import locks
from fastmlp._process.locks import NetLock
from fastmlp.backends.cpu.dispatch import LedCalls, Runner
from fastmlp.backends.cpu.plan.plan import aligned
from fastmlp.backends.cpu.plan.records import address, fields_of
from fastmlp.backends.cpu.predict import row_blocks
from fastmlp.backends.cpu.simd.flat_weights import one_row
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.backends.cpu.simd.vector import Scalar
from fastmlp.backends.cpu.team import JOINED
from fastmlp.backends.cpu.tuning import LIVE_ROWS, ONE_BY_ONE
from fastmlp.backends.cpu.worker_pool import LATE, Lead, NextCalls, lead_call
from fastmlp.compiler import (
    block_of,
    call,
    entry_of,
    flush_denormals,
    hinted,
    njit,
    restore_denormals,
)
from fastmlp.compiler.memory import load_acquire, record_at, records_at, row
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Network
from fastmlp.validation import Array

# A row's buffers: values before and after each activation, and slopes.
ROW_BUFFERS = 3


def pack_net(scalar: row_blocks.Scalar) -> Callable[[int], None]:
    """Make the block that packs a `FlatNet` record's weights and biases."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    pack_matrix = moves(scalar, lanes).pack_matrix

    def pack(address: int) -> None:
        net = record_at(address, row_blocks.FlatNet)
        layers = records_at(net.layers, net.n_layers, row_blocks.FlatLayer)
        for i in range(net.n_layers):
            layer = layers[i]
            n_in = layer.n_in
            n_out = layer.n_out
            place = net.packed + layer.panels
            pack_matrix(net.parameters + layer.weights, n_in, n_out, place)
            place += n_in * row_blocks.n_vectors(n_out, lanes) * lanes * size
            pack_matrix(net.parameters + layer.biases, 1, n_out, place)

    return pack


class PackedWeights:
    """A net's weights in panels,
    kept from call to call until somebody may have written.

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
        self._size = row_blocks.panels_of(network)[-1]
        self._dtype = network.dtype
        self._flat = row_blocks.make_flat(network, parameters, blocks=False)
        self._pack = block_of(pack_net, network.dtype)
        self._place = 0

    def at(self, lock: NetLock, n_rows: int) -> tuple[int, int]:
        """Return the address of the packed weights, or 0, and `n_packed`.

        Few rows read the live weights if somebody may have written since the last
        packing and the last call: packing takes longer than two such calls. A caller
        whose `n_packed` has changed meanwhile may have read the numbers of two states.
        """
        n_packed = self.n_packed
        state = lock.settled(self.parameters)
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
        self._state = None
        self.n_packed = self.n_packed + 1
        if not self._place:
            self._panels = aligned(self._size, self._dtype)
            self._flat.net[0].packed = self._place = address(self._panels)
        self._pack(address(self._flat.net))


def packed_weights(
    runner: Runner, network: Network, parameters: Array
) -> PackedWeights:
    """Return the packed weights that the net's calls share."""
    kept: PackedWeights | None = runner.lock.packed
    if kept is None or kept.parameters is not parameters:
        kept = runner.lock.packed = PackedWeights(network, parameters)
    return kept


class TiledRows(row_blocks.RowBlocks):
    """Predicts the rows of a network in tiles of rows and outputs,
    which read packed weights.

    A call during which the weights were packed again is repeated from the live ones.
    """

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


def row_pass(
    scalar: Scalar, *, keeps: bool = False
) -> Callable[[row_blocks.FlatNet, int, int, int], tuple[int, int]]:
    """The forward pass of the row at x, which also writes its predictions.

    `buffers` are two vectors of the widest layer, then slopes, in one vector or, if it
    `keeps` them, in one for each layer. The results are the addresses of the raw
    outputs and of the slopes' end. Relu's values are positive where its slopes are 1:
    they are kept in their place.
    """
    multiply = one_row(scalar)

    @njit
    def forward(
        net: row_blocks.FlatNet, x: int, out: int, buffers: int
    ) -> tuple[int, int]:
        """`inputs` and `z` take turns between the two vectors; a relu whose slopes are
        kept writes its values in their place.
        """
        layers = records_at(net.layers, net.n_layers, row_blocks.FlatLayer)
        other = buffers + net.block_bytes
        slopes = other + net.block_bytes
        inputs = x
        z = buffers
        for i in range(net.n_layers):
            layer = layers[i]
            if keeps and layer.relu:
                z = slopes
            w = net.parameters + layer.weights
            b = net.parameters + layer.biases
            multiply(z, b, w, layer.n_out, inputs, layer.n_in, layer.relu)
            inputs = z
            z = other if z == buffers else buffers
            if layer.stages:
                kept = slopes + net.block_bytes
                places = (inputs, z, slopes, kept, x)
                call(net.row_stages, (layer.stages, net.parameters, *places))
            elif layer.activation:
                call(layer.activation, (inputs, z, slopes, layer.n_out))
                inputs, z = z, inputs
            if keeps:
                slopes += net.block_bytes
        if net.link:
            call(net.link, (inputs, out, net.link_settings, 1, net.n_out))
        else:
            raw = row(inputs, net.n_out, scalar)
            predictions = row(out, net.n_out, scalar)
            for j in range(net.n_out):
                predictions[j] = raw[j]
        return inputs, slopes

    return forward


def row_by_row(scalar: Scalar) -> Callable[[int], None]:
    """Predicts the rows of a `FlatNet` record, one after the other."""
    size = np.dtype(scalar).itemsize
    predict_row = row_pass(scalar)

    @hinted(control=True)
    def predict_each(address: int) -> None:
        net = record_at(address, row_blocks.FlatNet)
        for r in range(net.n_rows):
            x = net.x + r * net.n_in * size
            out = net.out + r * net.n_out * size
            predict_row(net, x, out, net.buffers)

    return predict_each


def small_batch(scalar: Scalar) -> Callable[[int], None]:
    """Predicts the rows of a `FlatNet` record, one by one or by blocks of rows.

    Rows that go one by one have blocks if the net is so wide that a worker has come for
    them.
    """

    def predict_all(address: int) -> None:
        mode = flush_denormals()
        net = record_at(address, row_blocks.FlatNet)
        alone = net.team == 0 or load_acquire(net.team + JOINED) < 2
        if net.rows_in_lanes == 0 or (alone and net.n_rows <= net.one_by_one):
            call(net.row_by_row, (address,))
        else:
            call(net.rows_in_lanes, (net.team, address, net.n_parts))
        restore_denormals(mode)

    return predict_all


class SmallBatch:
    """Predicts small batches of one network, in buffers made beforehand.

    Parameters
    ----------
    network : Network
    parameters : (n_parameters,) array, live: each call reads its numbers of that moment
    most : int, the most rows of a call
    method : str, of a `Way`
        More than `ONE_BY_ONE` rows go by vectors of rows, or more than one by tiles,
        whose blocks take 0.3 s to compile; "one by one": all rows.
    lock : of the net
    packed : PackedWeights that tiles read, optional
    n_threads : the most threads of a call from Python
    """

    parameters: Array
    dtype: np.dtype[Any]
    most: int
    address: int  # of its `FlatNet`

    def __init__(
        self,
        network: Network,
        parameters: Array,
        most: int,
        method: str,
        lock: NetLock,
        packed: PackedWeights | None = None,
        n_threads: int = 1,
    ) -> None:
        """Everything is prepared here, records, buffers and compiled blocks, so that a
        call only sets addresses and the number of rows.
        """
        dtype = network.dtype
        self._lock = lock
        self._packed = packed
        self.parameters = parameters
        self.dtype = dtype
        self.most = most
        self._n_out = network.layout.sizes[-1]
        tiled = method == "row tiles"
        blocks = method != "one by one"
        self._flat = row_blocks.make_flat(
            network, parameters, n_threads=n_threads, blocks=blocks, tiled=tiled
        )
        net = self._flat.net[0]
        self._net = fields_of(self._flat.net)
        self._driver = block_of(small_batch, dtype)
        entry = entry_of(predict_small, dtype)
        self._predict: Callable[..., float] = lock.exclusive(entry)
        kind = "small batch", network.layout.sizes, dtype
        self._calls = LedCalls(
            kind,
            n_threads if blocks else 1,
            self._net,
            n_weights=network.layout.n_weights,
        )
        net.least = self._calls.least
        net.next_calls = self._calls.next_calls
        net.lead = self._calls.lead
        net.row_by_row = block_of(row_by_row, dtype).address
        net.small_batch = self._driver.address
        if blocks:
            factory = row_blocks.rows_in_tiles if tiled else row_blocks.rows_in_lanes
            net.rows_in_lanes = block_of(factory, dtype).address
            net.one_by_one = 1 if tiled else ONE_BY_ONE
        self.address = address(self._flat.net)

    def __reduce__(self) -> Any:
        """Addresses are valid in this object and process only,
        so a copy or a pickle is None.
        """
        return type(None), ()

    def __call__(self, x: object, out: object) -> Array | None:
        """Return the predictions,
        or None if x or out is not a plain array of this dtype and size.

        Holds the GIL, or the lock without a GIL: one thread at a time uses the buffers.
        """
        dtype = self.dtype
        # A pickled array has another dtype object: equal, not the same.
        if (
            type(x) is not ndarray
            or x.dtype != dtype
            or x.ndim != 2
            or len(x) > self.most
        ):
            return None
        if out is None:
            result = np.empty((len(x), self._n_out), dtype)
        elif type(out) is ndarray and out.dtype == dtype and out.ndim == 2:
            result = out
        else:
            return None
        # C-contiguous, aligned and writeable: it reads their addresses alone.
        if not (x.flags.carray and result.flags.carray):
            return None
        if self._packed is None:
            status = self._predict(self.address, x, result)
            # 0: `PREDICTED`. A comparison and a call take a sixth of a row's time.
            if not status or self._settled(status, x, result):
                return result
            return None
        if locks.HAS_GIL:
            return self._by_packed(self._packed, x, result)
        with self._lock.parameters:
            return self._by_packed(self._packed, x, result)

    def _settled(self, status: float, x: Array, out: Array) -> bool:
        """Do what a status asks for; return True once the rows are predicted."""
        if status == NOTED:
            self._calls.note(int(self._net["row_flops"]) * len(x))
        # Calls of other threads may take what was decided for this one: it asks again.
        while status == ASKS:
            flops = int(self._net["row_flops"]) * len(x)
            self._net["lead_call"] = block_of(lead_call, np.int64).address
            predict = partial(self._predict, self.address, x, out)
            status = self._calls.timed(flops, predict)
        return status != NOT_PREDICTED

    def _by_packed(self, packed: PackedWeights, x: Array, out: Array) -> Array | None:
        n_packed = self._share(len(x))
        status = self._predict(self.address, x, out)
        is_finite = self._settled(status, x, out)
        return out if is_finite and n_packed in (0, packed.n_packed) else None

    def _share(self, n_rows: int) -> int:
        """Point to the packed weights, if n_rows read them;
        return the number of packings.
        """
        if self._packed is None:
            return 0
        if n_rows == 1 and not self._calls.is_shared(int(self._net["row_flops"])):
            self._net["packed"] = 0
            return 0
        self._net["packed"], n_packed = self._packed.at(self._lock, n_rows)
        return n_packed

    def write(self, x: Array, out: Array) -> None:
        """Write the predictions of rows to out, without the GIL.

        Only one thread may call it at a time, and `__call__` must wait meanwhile;
        the caller holds the lock of the parameters.
        """
        net = self._net
        net["x"], net["out"], net["n_rows"] = address(x), address(out), len(x)
        self._share(len(x))
        self._driver(self.address)


# Results of `predict_small`: predictions; the same, but workers sleep or were late;
# Python is to decide on threads first; no predictions.
PREDICTED, NOTED, ASKS, NOT_PREDICTED = range(4)


def predict_small(scalar: Scalar) -> Callable[[int, Array, Array], float]:
    """Python predicts a small batch by this function."""
    size = np.dtype(scalar).itemsize
    zero = scalar(0)
    entry_bytes = NextCalls.size

    @njit
    def all_finite(address: int, n: int) -> bool:
        """Bits vectorise, a sum would be one chain."""
        numbers = row(address, n, scalar)
        faults = 0
        for i in range(n):
            faults |= 0 if numbers[i] * zero == zero else 1
        return faults == 0

    @njit
    def lead(net: row_blocks.FlatNet, address: int, flops: int) -> int:
        """Predict on the threads of the table; return a status."""
        place, status = net.next_calls, PREDICTED
        while flops > 0:
            flops >>= 1
            place += entry_bytes
        ahead = record_at(place, NextCalls)
        if ahead.left == 0:
            status = ASKS
        elif ahead.n == 1:
            ahead.left -= 1
            call(net.small_batch, (address,))
        else:
            ahead.left -= 1
            call(net.lead_call, (net.lead, place, net.small_batch, address))
            if record_at(net.lead, Lead).status >= LATE:
                status = NOTED
        return status

    def predict(address: int, x: Array, out: Array) -> float:
        """Write the predictions to out; return `NOT_PREDICTED` for wrong shapes,
        for memory that x and out share, and for numbers that are not finite.
        """
        net = record_at(address, row_blocks.FlatNet)
        n = x.shape[0]
        status = PREDICTED
        net.x = x.ctypes.data
        net.out = out.ctypes.data
        net.n_rows = n
        if (
            n == 0
            or x.shape[1] != net.n_in
            or out.shape[0] != n
            or out.shape[1] != net.n_out
        ):
            return float(NOT_PREDICTED)
        if net.x < net.out + out.size * size and net.out < net.x + x.size * size:
            return float(NOT_PREDICTED)
        if not all_finite(net.x, x.size):
            return float(NOT_PREDICTED)
        if n * net.row_flops >= net.least:
            status = lead(net, address, n * net.row_flops)
        else:
            call(net.small_batch, (address,))
        if status != ASKS and not all_finite(net.out, out.size):
            status = NOT_PREDICTED
        return float(status)

    return predict
