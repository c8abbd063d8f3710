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
    flush_denormals,
    hinted,
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
    gradient: int  # address of the block that derives a row, or 0
    link: int  # the number of the link, for that block
    n_slopes: int  # how many vectors of slopes it keeps


class MeanTerm(Record):
    """A net of a mean."""

    net: int  # address of its `FlatNet`; 0: its only prediction is 1
    places: int  # address of the places of its completed predictions among the model's
    n_places: int


class MeanOfNets(Record):
    """A model whose predictions are the mean of its nets'."""

    n_terms: int
    terms: int  # address of the `MeanTerm` records
    n_out: int
    completion: int  # COMPLETIONS
    values_at: int  # bytes from the block's buffers to a net's predictions,
    mine_at: int  # and to those in their places


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
    predict_row, zero, one = predict_row_of(scalar), scalar(0), scalar(1)

    def predict_mean(model: int, x: int, out: int, work: int) -> None:
        mode = flush_denormals()
        mean = record_at(model, MeanOfNets)
        terms = records_at(mean.terms, mean.n_terms, MeanTerm)
        total, mine = row(out, mean.n_out, scalar), row(work + mean.mine_at, mean.n_out, scalar)
        for t in range(mean.n_terms):
            term = terms[t]
            places = row(term.places, term.n_places, np.int64)
            values = row(work + mean.values_at, term.n_places, scalar)
            for j in range(mean.n_out):
                mine[j] = zero
            if term.net == 0:
                values[0] = one
            else:
                net = record_at(term.net, FlatNet)
                predict_row(net, x, work + mean.values_at, work)
                if mean.completion == COMPLEMENT and net.n_out == 1:
                    values[1] = values[0]
                    values[0] = one - values[0]
                if mean.completion == SUM:
                    weight = zero
                    for j in range(term.n_places):
                        weight += values[j]
                    for j in range(term.n_places):
                        values[j] /= weight
            for j in range(term.n_places):
                mine[places[j]] = values[j]
            for j in range(mean.n_out):
                total[j] = total[j] + mine[j] if t > 0 else mine[j]
        for j in range(mean.n_out):
            total[j] = total[j] / scalar(mean.n_terms)
        restore_denormals(mode)

    return predict_mean


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
        self.kept: list[Any] = [parts]
        flats = [
            None
            if part.network is None
            else make_flat(part.network._replace(compute_dtype=None), part.parameters, blocks=False)
            for part in parts
        ]
        self.kept += flats
        nets = [0 if flat is None else address(flat.net) for flat in flats]
        widest = max([n_in, n_out, *(n for network in networks for n in network.layout.sizes)])
        unit = round_up(widest * dtype.itemsize, LINE)
        for flat in flats:
            if flat is not None:
                flat.net[0].block_bytes = unit
        places = [np.asarray(part.places, np.int64) for part in parts]
        if alone:
            self.block, model = block_of(single_row, dtype), nets[0]
        else:
            self.block = block_of(mean_row, dtype)
            terms = np.array(
                [(net, address(p), len(p)) for net, p in zip(nets, places, strict=True)],
                MeanTerm.dtype,
            )
            mean = np.zeros(1, MeanOfNets.dtype)
            mean[0] = (
                len(parts), address(terms), n_out, COMPLETIONS.index(completion),
                BUFFERS * unit, (BUFFERS + 1) * unit,
            )  # fmt: skip
            self.kept += [places, terms, mean]
            model = address(mean)
        buffers, derives = BUFFERS if alone else BUFFERS + 2, {}
        if alone:
            known = [name for name, link in LINKS.items() if link == networks[0].link]
            if known and known[0] in DERIVED:
                self.kept.append(block_of(row_gradient, dtype))
                derives = {
                    "gradient": self.kept[-1].address,
                    "link": DERIVED.index(known[0]),
                    # And one of raw outputs.
                    "n_slopes": networks[0].layout.n_layers + 1,
                }
        self.fields = {
            "number_bytes": dtype.itemsize,
            "n_in": n_in,
            "n_out": n_out,
            "block": self.block.address,
            "model": model,
            "out_at": unit,
            "work_at": 2 * unit,
            "n_bytes": (2 + buffers) * unit,
            **derives,
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
