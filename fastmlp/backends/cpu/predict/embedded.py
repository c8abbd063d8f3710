"""A model inside the user's compiled code: a record that names its blocks by their addresses."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.jacobian import DERIVED, row_gradient
from fastmlp.backends.cpu.predict.row_blocks import FlatNet, make_flat
from fastmlp.backends.cpu.predict.small_batch import predict_row_of
from fastmlp.backends.cpu.simd.vector import Scalar
from fastmlp.compiler import block_of, call, flush_denormals, hinted, njit, restore_denormals
from fastmlp.compiler.memory import Record, record_at, row
from fastmlp.network.spec import Network
from fastmlp.rules.losses import LINKS

Array = NDArray[Any]
# A row's buffers: values before and after each activation, and slopes.
BUFFERS = 3
LINE = 64


class Handle(Record):
    """A model for compiled code. All models have the same fields, so that a user's function is
    compiled once; a field is never given another meaning, as stored code reads it."""

    me: int  # address of this record: a copy has another
    number_bytes: int  # of a number of the model's
    n_in: int
    n_out: int
    block: int  # address of the block that predicts a row,
    model: int  # and of the record that it reads
    out_at: int  # bytes from the buffers to a row's predictions,
    work_at: int  # to the block's buffers,
    n_bytes: int  # and to their end
    learner: int  # address of what trains, or 0
    gradient: int  # address of the block that derives a row
    link: int  # the number of the link, for that block
    n_slopes: int  # how many vectors it keeps beside two


class CompletedNet(Record):
    """A net of one output p, whose predictions become 1 - p and p."""

    net: int  # address of its `FlatNet`
    n_in: int
    n_out: int  # of the model
    derive: int  # address of the block that derives a row of the net


def single_row(scalar: Scalar) -> Callable[[int, int, int, int], None]:
    """The block that predicts a row of a net."""
    predict_row = predict_row_of(scalar)

    @hinted(control=True)
    def predict_one(net: int, x: int, out: int, work: int) -> None:
        mode = flush_denormals()
        predict_row(record_at(net, FlatNet), x, out, work)
        restore_denormals(mode)

    return predict_one


def completed_row(scalar: Scalar) -> Callable[[int, int, int, int], None]:
    """The block that predicts a row of a `CompletedNet`."""
    predict_row, complete = predict_row_of(scalar), _completion(scalar, derives=False)

    def predict_completed(model: int, x: int, out: int, work: int) -> None:
        mode, whole = flush_denormals(), record_at(model, CompletedNet)
        predict_row(record_at(whole.net, FlatNet), x, out, work)
        complete(whole, out, 0)
        restore_denormals(mode)

    return predict_completed


def completed_gradient(scalar: Scalar) -> Callable[[int, int, int, int, int, int], None]:
    """A row of a `CompletedNet` and its derivatives."""
    complete = _completion(scalar, derives=True)

    def derive_completed(model: int, kind: int, x: int, out: int, grad: int, work: int) -> None:
        mode, whole = flush_denormals(), record_at(model, CompletedNet)
        call(whole.derive, (whole.net, kind, x, out, grad, work))
        complete(whole, out, grad)
        restore_denormals(mode)

    return derive_completed


def _completion(scalar: Scalar, *, derives: bool) -> Callable[..., None]:
    """Completes a net's predictions, and their derivatives."""
    one = scalar(1)

    @njit
    def complete(model: CompletedNet, out: int, grad: int) -> None:
        n_in, n = model.n_in, model.n_out
        values, slopes = row(out, n, scalar), row(grad, n * n_in, scalar)
        values[1] = values[0]
        values[0] = one - values[0]
        if derives:
            for k in range(n_in):
                slopes[n_in + k] = slopes[k]
                slopes[k] = -slopes[k]

    return complete


class Owner:
    """The objects that a handle points to, which its array keeps alive.

    Parameters
    ----------
    n_out : of the model, which has 1 - p and p where a net of one output p has one less
    """

    def __init__(self, network: Network, parameters: Array, n_out: int) -> None:
        dtype, n_in = parameters.dtype, network.layout.sizes[0]
        flat = make_flat(network._replace(compute_dtype=None), parameters, blocks=False)
        unit = round_up(max(n_out, *network.layout.sizes) * dtype.itemsize, LINE)
        flat.net[0].block_bytes = unit
        self.block, derive = block_of(single_row, dtype), block_of(row_gradient, dtype)
        self.kept: list[Any] = [parameters, flat, derive]
        model = address(flat.net)
        if n_out > network.layout.sizes[-1]:
            whole = np.array([(model, n_in, n_out, derive.address)], CompletedNet.dtype)
            self.block, derive = block_of(completed_row, dtype), block_of(completed_gradient, dtype)
            self.kept += [derive, whole]
            model = address(whole)
        self.fields = {
            "number_bytes": dtype.itemsize,
            "n_in": n_in,
            "n_out": n_out,
            "block": self.block.address,
            "model": model,
            "out_at": unit,
            "work_at": 2 * unit,
            "n_bytes": (2 + BUFFERS) * unit,
            "gradient": derive.address,
            "link": max(
                (DERIVED.index(n) for n, link in LINKS.items() if link == network.link), default=0
            ),
            # And raw outputs.
            "n_slopes": 1 + network.layout.n_layers,
        }

    def __reduce__(self) -> Any:
        """Addresses are valid in this object and process only, so a copy or a pickle is None."""
        return type(None), ()

    def handle(self) -> Any:
        """Shape (1,); keeps this object alive."""
        return handles_of([self])[0]


def handles_of(owners: Sequence[Any]) -> Any:
    """Shape (n, 1); the memory keeps the owners alive."""
    buffer: Any = (ctypes.c_char * (Handle.size * len(owners)))()
    buffer.owners = owners
    handles = np.frombuffer(buffer, Handle.dtype).reshape(-1, 1)
    for handle, owner in zip(handles, owners, strict=True):
        for name, value in {"me": address(handle), **owner.fields}.items():
            handle[name] = value
    return handles


HANDLE: Any = numba.typeof(np.zeros(1, Handle.dtype))
