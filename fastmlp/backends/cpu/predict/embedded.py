"""A model inside compiled code of the user's: a record that names its blocks by their addresses."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.row_blocks import FlatNet, make_flat
from fastmlp.backends.cpu.predict.row_gradient import DERIVED, row_gradient
from fastmlp.backends.cpu.predict.small_batch import predict_row_of
from fastmlp.backends.cpu.simd.vector import Scalar
from fastmlp.compiler import (
    Record,
    block_of,
    call,
    flush_denormals,
    hinted,
    njit,
    record_at,
    records_at,
    restore_denormals,
    row,
)
from fastmlp.network.spec import Network
from fastmlp.rules.links import LINKS

Array = NDArray[Any]
# Buffers of a row: its values before and after each activation, and slopes.
BUFFERS = 3
LINE = 64


class Handle(Record):
    """A model for compiled code. Its fields are the same for every model, so that a function of the
    user's is compiled once; a field is never given another meaning, as code that is stored reads
    it."""

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


class MeanTerm(Record):
    """A net of a mean."""

    net: int  # address of its `FlatNet`; 0: its only prediction is 1
    places: int  # address of the places of its completed predictions among the model's
    n_places: int


class MeanOfNets(Record):
    """A model whose predictions are the mean of its nets'."""

    n_terms: int
    terms: int  # address of the `MeanTerm` records
    n_in: int
    n_out: int
    completion: int  # COMPLETIONS
    unit: int  # bytes of a buffer
    n_buffers: int  # of a net that is derived,
    derive: int  # by the block at this address


COMPLETIONS = ("none", "complement", "sum")
COMPLEMENT, SUM = 1, 2


def single_row(scalar: Scalar) -> Callable[[int, int, int, int], None]:
    """Make the block that predicts a row of a net."""
    predict_row = predict_row_of(scalar)

    @hinted(control=True)
    def predict_one(net: int, x: int, out: int, work: int) -> None:
        mode = flush_denormals()
        predict_row(record_at(net, FlatNet), x, out, work)
        restore_denormals(mode)

    return predict_one


def mean_row(scalar: Scalar) -> Callable[[int, int, int, int], None]:
    """Make the block that predicts a row of a `MeanOfNets`."""
    mean_of = _mean(scalar, derives=False)

    def predict_mean(model: int, x: int, out: int, work: int) -> None:
        mode = flush_denormals()
        mean_of(record_at(model, MeanOfNets), 0, x, out, 0, work)
        restore_denormals(mode)

    return predict_mean


def mean_gradient(scalar: Scalar) -> Callable[[int, int, int, int, int, int], None]:
    """Make the block that predicts a row of a `MeanOfNets`, and writes its derivatives."""
    mean_of = _mean(scalar, derives=True)

    def derive_mean(model: int, kind: int, x: int, out: int, grad: int, work: int) -> None:
        mode = flush_denormals()
        mean_of(record_at(model, MeanOfNets), kind, x, out, grad, work)
        restore_denormals(mode)

    return derive_mean


def _mean(scalar: Scalar, *, derives: bool) -> Callable[..., None]:
    """Make the function that predicts a row by a mean, and `derives` it.

    Its buffers are a net's predictions, those in their places, the net's buffers and derivatives.
    """
    predict_row, complete = predict_row_of(scalar), _completion(scalar, derives=derives)
    zero, one, size = scalar(0), scalar(1), np.dtype(scalar).itemsize

    @njit
    def add(term: MeanTerm, n_in: int, slopes: int, grad: int) -> None:
        """Add a net's derivatives to those in their places."""
        places = row(term.places, term.n_places, np.int64)
        for j in range(term.n_places):
            numbers = row(slopes + j * n_in * size, n_in, scalar)
            sums = row(grad + places[j] * n_in * size, n_in, scalar)
            for k in range(n_in):
                sums[k] += numbers[k]

    @njit
    def mean_of(mean: MeanOfNets, kind: int, x: int, out: int, grad: int, work: int) -> None:
        terms, count = records_at(mean.terms, mean.n_terms, MeanTerm), scalar(mean.n_terms)
        n_out, n_numbers, buffers = mean.n_out, mean.n_out * mean.n_in, work + 2 * mean.unit
        slopes = buffers + mean.n_buffers * mean.unit
        total, mine = row(out, n_out, scalar), row(work + mean.unit, n_out, scalar)
        if derives:
            sums = row(grad, n_numbers, scalar)
            sums[:] = 0
        for t in range(mean.n_terms):
            term = terms[t]
            places = row(term.places, term.n_places, np.int64)
            values = row(work, term.n_places, scalar)
            for j in range(n_out):
                mine[j] = zero
            if term.net == 0:
                values[0] = one
            else:
                net = record_at(term.net, FlatNet)
                if derives:
                    call(mean.derive, (term.net, kind, x, work, slopes, buffers))
                else:
                    predict_row(net, x, work, buffers)
                complete(mean, net, term, work, slopes)
                if derives:
                    add(term, mean.n_in, slopes, grad)
            for j in range(term.n_places):
                mine[places[j]] = values[j]
            for j in range(n_out):
                total[j] = total[j] + mine[j] if t > 0 else mine[j]
        for j in range(n_out):
            total[j] = total[j] / count
        if derives:
            for k in range(n_numbers):
                sums[k] = sums[k] / count

    return mean_of


def _completion(scalar: Scalar, *, derives: bool) -> Callable[..., None]:
    """Make the function that completes a net's predictions, and their derivatives."""
    zero, one = scalar(0), scalar(1)

    @njit
    def complete(mean: MeanOfNets, net: FlatNet, term: MeanTerm, out: int, grad: int) -> None:
        n_in, n = mean.n_in, term.n_places
        values, slopes = row(out, n, scalar), row(grad, n * n_in, scalar)
        if mean.completion == COMPLEMENT and net.n_out == 1:
            values[1] = values[0]
            values[0] = one - values[0]
            if derives:
                for k in range(n_in):
                    slopes[n_in + k] = slopes[k]
                    slopes[k] = -slopes[k]
        if mean.completion == SUM:
            weight = zero
            for j in range(n):
                weight += values[j]
            for j in range(n):
                values[j] /= weight
            if derives:
                for k in range(n_in):
                    of_sum = zero
                    for j in range(n):
                        of_sum += slopes[j * n_in + k]
                    for j in range(n):
                        i = j * n_in + k
                        slopes[i] = (slopes[i] - values[j] * of_sum) / weight

    return complete


class Part(NamedTuple):
    """A net of a model, or None for a prediction of 1; the places of its predictions."""

    network: Network | None
    parameters: Array
    places: NDArray[np.intp]


class Owner:
    """The objects that a handle points to, which its array keeps alive.

    Parameters
    ----------
    parts : of one dtype; a net alone is one part
    completion : of `COMPLETIONS`
    n_in, n_out : of the model
    alone : True for the predictions of one net, as they are
    """

    def __init__(
        self, parts: Sequence[Part], completion: str, n_in: int, n_out: int, *, alone: bool
    ) -> None:
        networks = [part.network for part in parts if part.network is not None]
        dtype = parts[0].parameters.dtype
        flats = [
            None
            if part.network is None
            else make_flat(part.network._replace(compute_dtype=None), part.parameters, blocks=False)
            for part in parts
        ]
        nets = [0 if flat is None else address(flat.net) for flat in flats]
        widest = max([n_in, n_out, *(n for network in networks for n in network.layout.sizes)])
        unit = round_up(widest * dtype.itemsize, LINE)
        for flat in flats:
            if flat is not None:
                flat.net[0].block_bytes = unit
        # And one of raw outputs.
        n_slopes = 1 + max([0, *(network.layout.n_layers for network in networks)])
        links = {network.link for network in networks}
        self.block, derive = block_of(single_row, dtype), block_of(row_gradient, dtype)
        self.kept: list[Any] = [parts, flats, derive]
        model, buffers = nets[0], BUFFERS
        if not alone:
            places = [np.asarray(part.places, np.int64) for part in parts]
            terms = np.array(
                [(net, address(p), len(p)) for net, p in zip(nets, places, strict=True)],
                MeanTerm.dtype,
            )
            mean = np.array(
                [(
                    len(parts), address(terms), n_in, n_out, COMPLETIONS.index(completion), unit,
                    2 + n_slopes, derive.address,
                )],
                MeanOfNets.dtype,
            )  # fmt: skip
            self.block, derive = block_of(mean_row, dtype), block_of(mean_gradient, dtype)
            self.kept += [derive, places, terms, mean]
            # A net's predictions and those in their places; its derivatives.
            model, buffers = address(mean), buffers + 2
            n_slopes += 2 + -(-n_out * n_in * dtype.itemsize // unit)
        self.fields = {
            "number_bytes": dtype.itemsize,
            "n_in": n_in,
            "n_out": n_out,
            "block": self.block.address,
            "model": model,
            "out_at": unit,
            "work_at": 2 * unit,
            "n_bytes": (2 + buffers) * unit,
            "gradient": derive.address,
            "link": max(
                (DERIVED.index(n) for n, link in LINKS.items() if link in links), default=0
            ),
            "n_slopes": n_slopes,
        }

    def __reduce__(self) -> Any:
        """Copy and pickle as None: addresses are valid in this object and process only."""
        return type(None), ()

    def handle(self) -> Any:
        """A handle, shape (1,), which keeps this object alive."""
        handle = _empty(self)
        for name, value in {"me": address(handle), **self.fields}.items():
            handle[name] = value
        return handle


def _empty(owner: Any) -> Any:
    """An array of one `Handle`, whose memory keeps its owner alive."""
    buffer: Any = (ctypes.c_char * Handle.size)()
    buffer.owner = owner
    return np.frombuffer(buffer, Handle.dtype)


HANDLE: Any = numba.typeof(_empty(None))
