"""Predictions of many rows of a net whose parameters stay in cache."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process.locks import publish
from fastmlp.backends.cpu.dispatch.cost_model import Work
from fastmlp.backends.cpu.dispatch.dispatch import Runner
from fastmlp.backends.cpu.evaluation import PREDICT_FLOPS
from fastmlp.backends.cpu.plan.records import Job, address, fields_of
from fastmlp.backends.cpu.plan.workspace import aligned
from fastmlp.backends.cpu.predict.records import make_flat
from fastmlp.backends.cpu.predict.row_blocks import stream, streamed
from fastmlp.compiler import block_of
from fastmlp.network.spec import Network

Array = NDArray[Any]


# Each block of rows reads all parameters: of 784-256-256-10, 1.1 MB, 1,000 rows take 2.7 ms on two
# threads, and 3.3 in panels; of 784-512-512-10, 2.7 MB, as long; of wider nets more.
STREAM_BYTES = 1 << 21


def streams(network: Network) -> bool:
    """Whether blocks of rows find the parameters in a cache near enough."""
    return network.layout.n_parameters * network.dtype.itemsize <= STREAM_BYTES


def place_for(x: object, out: object, network: Network) -> Array | None:
    """Return `out`, or a new array for predictions, where x and out are as plain as a stream needs
    them: no copy to be made, and none of x written over."""
    sizes, dtype = network.layout.sizes, network.dtype
    if type(x) is not np.ndarray or x.dtype != dtype or x.ndim != 2 or x.shape[1] != sizes[0]:
        return None
    if not (x.flags.c_contiguous and x.dtype.isnative):
        return None
    shape = (len(x), sizes[-1])
    if out is None:
        return validation.out_array(None, shape, dtype, "MLP.predict")
    if type(out) is not np.ndarray or out.dtype != dtype or out.shape != shape:
        return None
    flags = out.flags
    fits = flags.c_contiguous and flags.writeable and not np.may_share_memory(x, out)
    return out if fits else None


class Streamed:
    """The predictions of a network for any rows, a copy of its parameters and buffers made once.

    Attributes
    ----------
    size : int, the parameters
    rows : int, about how many the last call had: what a job is known by beside its net
    job, record : of the driver
    """

    def __init__(self, runner: Runner, network: Network) -> None:
        self._runner = runner
        self._row_flops = 2 * network.layout.n_weights
        self._most = max(1, PREDICT_FLOPS // self._row_flops)
        self.rows = 0
        self.size = network.layout.n_parameters
        self._parameters = aligned(self.size, network.dtype)
        self._flat = make_flat(network, self._parameters, members=runner.n_threads)
        self._net = fields_of(self._flat.net)
        self._net["rows"] = block_of(stream, network.dtype).address
        self.record = aligned(1, Job.dtype)
        self.job = fields_of(self.record)
        self.job["net"] = address(self._flat.net)

    def __call__(self, parameters: Array, x: Array, out: Array) -> bool:
        """Write the predictions for x at these parameters to `out`, shape (n_rows, n_outputs).

        Returns whether all numbers of both were finite.
        """
        runner, net, n_rows = self._runner, self._net, len(out)
        with runner.guard.whole:
            publish(parameters, self._parameters)
        self.job["loss"] = 0.0
        self.rows = n_rows.bit_length()
        # Nothing that one of a team wrote is read by another.
        work = Work(self._row_flops * min(n_rows, self._most), 0)
        for first in range(0, n_rows, self._most):
            last = min(first + self._most, n_rows)
            net["x"], net["n_rows"] = address(x, first * x.shape[1]), last - first
            net["out"] = address(out, first * out.shape[1])
            runner.run(streamed, self, work)
        return bool(self.job["loss"] == 0)
