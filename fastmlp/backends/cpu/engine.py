"""The CPU backend: a network's compiled rules, and the verbs that a model asks for."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process.buffer_pool import Idle
from fastmlp._process.locks import Guard, publish
from fastmlp.backends.cpu.dispatch.dispatch import Runner
from fastmlp.backends.cpu.evaluation import Evaluation, Objective, Prediction
from fastmlp.backends.cpu.kernels import rule_blocks
from fastmlp.backends.cpu.kernels.csr import SparseRows
from fastmlp.backends.cpu.plan.optimizer_state import Moments, Panels
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.predictor import Streamed, place_for, streams
from fastmlp.backends.cpu.predict.small_batch import FewRows, are_few
from fastmlp.backends.cpu.session import Data
from fastmlp.backends.cpu.trainer import Trainer
from fastmlp.backends.protocol import Once, each_time
from fastmlp.network.spec import Network
from fastmlp.rules.optimizers import Optimizer, Rates

Array = NDArray[Any]


# So many packed parameters, 4 MB of float32, are kept for the next prediction.
KEPT = 1 << 20


class Engine(Runner):
    """Forward, gradient and update of one network on the CPU.

    Parameters
    ----------
    network, n_threads, guard : as for a `Runner`
    idle : Idle, optional
        Where predictions leave what the next ones may use.
    """

    def __init__(
        self,
        network: Network,
        n_threads: int | None = None,
        guard: Guard | None = None,
        idle: Idle | None = None,
    ) -> None:
        super().__init__(network, n_threads, guard)
        self._idle = idle or Idle()

    def data(self, X: Any, y: Any, sample_weight: Any, who: str, once: Once = each_time) -> Data:
        """Return rows, validated; `once` keeps what several nets share."""
        sizes, dtype, loss = self.network.layout.sizes, self.network.dtype, self.network.loss
        x = once(("x", sizes[0], dtype), lambda: validation.features(X, sizes[0], dtype, who))
        table = once(
            ("y", sizes[-1], dtype, loss.targets),
            lambda: validation.targets(y, len(x), sizes[-1], loss, dtype, who),
        )
        weight = once(
            ("weight", id(sample_weight), dtype),
            lambda: validation.weights(sample_weight, len(x), dtype, who),
        )
        return Data(x, table, weight)

    def predict(
        self, parameters: Array, x: Array | SparseRows, out: Array, *, raw: bool = False
    ) -> FewRows | None:
        """Write predictions, or with `raw` the outputs before activation or link, to `out`.

        Returns what predicts a few rows again, and sooner, where there are only few.
        """
        network = rule_blocks.without_output(self.network) if raw else self.network
        if are_few(len(x), network.layout) and not isinstance(x, SparseRows):
            few = FewRows(network, parameters, len(x))
            with self.guard.whole:
                few.write(x, out)
            return few
        sparse = x if isinstance(x, SparseRows) else None
        if sparse is None and streams(network):
            self._stream(network, parameters, x, out)
            return None
        key = (network, self.n_threads, sparse is None)
        prediction = self._idle.take(key) or Prediction(self, network, sparse)
        prediction(parameters, x, out)
        if prediction.size <= KEPT:
            self._idle.give(key, prediction)
        return None

    def _stream(self, network: Network, parameters: Array, x: Any, out: Array) -> bool:
        key = (network, self.n_threads)
        streamed = self._idle.take(key) or Streamed(self, network)
        finite = streamed(parameters, x, out)
        self._idle.give(key, streamed)
        return finite

    def predict_plain(self, parameters: Array, x: object, out: object) -> Array | None:
        """Return predictions of many rows, without a check or a copy beforehand; None where this is
        not the way, or a number is not finite: then `out` may have been written."""
        network = self.network
        if not streams(network) or not isinstance(x, np.ndarray) or are_few(len(x), network.layout):
            return None
        result = place_for(x, out, network)
        if result is not None and self._stream(network, parameters, x, result):
            return result
        return None

    def loss(self, parameters: Array, data: Data) -> float:
        """Return the mean loss over the rows of `data`, weighted, without penalties."""
        return self.evaluation(data)(parameters)

    def evaluation(self, data: Data) -> Evaluation:
        """Return the mean loss over the rows of `data`, as a function of the parameters."""
        return Evaluation(self, data)

    def loss_and_gradient(self, parameters: Array, data: Data) -> tuple[float, Array]:
        """Return the objective, penalties included, and its gradient, flat."""
        return self.objective(data)(parameters)

    def objective(self, data: Data) -> Objective:
        """Return the objective on all rows of `data`, as a function of the parameters."""
        return Objective(self, data)

    def moments(self, flat: Array | None = None, *, sparse: bool = False) -> Moments:
        """Return this state of an optimizer, or that of one which has taken no step; for training
        on dense or sparse rows."""
        return Moments(self.network, flat, sparse=sparse)

    def update(
        self,
        parameters: Array,
        moments: Moments,
        optimizer: Optimizer,
        gradient: Array,
        coefficients: Rates,
    ) -> None:
        """Apply one optimizer step with this gradient, flat, and coefficients, shape (1, n)."""
        constants = np.ascontiguousarray(coefficients, self.network.dtype)
        panels = Panels(self.network, spacing=moments.spacing)
        block = rule_blocks.optimizer(self.network, optimizer)
        w, g = panels.packed(parameters), panels.packed(gradient)
        block(*map(address, (w, g, moments.m, moments.v, constants)), panels.size)
        with self.guard.whole:
            publish(panels.flat(w), parameters)

    def trainer(
        self,
        parameters: Array,
        moments: Moments,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
        **options: bool,
    ) -> Trainer:
        """Allocate and compile what training on `data` needs; `options` are those of `Trainer`."""
        return Trainer(self, parameters, moments, optimizer, data, batch_size, **options)
