"""The engine of the CUDA backend: prediction, evaluation, gradients and training of a network."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process.locks import Guard, publish
from fastmlp.backends.cuda import adapter, arrays, design
from fastmlp.backends.cuda.arrays import Rows
from fastmlp.backends.cuda.moments import DeviceMoments
from fastmlp.backends.cuda.plan import COEFFICIENTS, GRADIENT, PARAMETERS, M, Need
from fastmlp.backends.cuda.questions import Evaluation, Objective, Prediction
from fastmlp.backends.cuda.rules import rules_of
from fastmlp.backends.cuda.session import Session
from fastmlp.backends.cuda.trainer import Trainer
from fastmlp.backends.protocol import Once, each_time
from fastmlp.network.spec import Network
from fastmlp.rules.activations import identity
from fastmlp.rules.links import LINKS
from fastmlp.rules.optimizers import Optimizer, Rates

Array = NDArray[Any]


class Engine:
    """Forward, gradient and update of one network on an NVIDIA GPU.

    Parameters
    ----------
    network : Network
    index : int, the number of the device
    guard : Guard, held while the parameters are read, or written, as a whole

    Raises
    ------
    ImportError, RuntimeError
        If there is no package, no driver or no such device.
    """

    def __init__(self, network: Network, index: int, guard: Guard | None = None) -> None:
        adapter.require(index)
        self.network, self.guard = network, guard or Guard()
        self.card = adapter.card_of(index)

    def data(self, X: Any, y: Any, sample_weight: Any, who: str, once: Once = each_time) -> Rows:
        """Return rows, validated, where they lie; `once` keeps what several nets share."""
        sizes, dtype, loss = self.network.layout.sizes, self.network.dtype, self.network.loss
        where = self.card.index
        with self.card.current():
            x = once(
                ("x", sizes[0], dtype, where), lambda: arrays.features(X, sizes[0], dtype, who)
            )
            table = once(
                ("y", sizes[-1], dtype, loss.targets, where),
                lambda: arrays.targets(y, len(x), sizes[-1], loss, dtype, who),
            )
            weight = once(
                ("weight", id(sample_weight), dtype, where),
                lambda: arrays.weights(sample_weight, len(x), dtype, who),
            )
        return Rows(x, table, weight)

    def predictions(
        self, parameters: Array, X: Any, out: Any, *, raw: bool = False, who: str = "MLP.predict"
    ) -> Any:
        """Return predictions, or with `raw` the outputs before activation or link: on the device
        if X, or `out`, lies there."""
        layout, dtype = self.network.layout, self.network.dtype
        with self.card.current():
            x = arrays.features(X, layout.sizes[0], dtype, who)
            shape = (len(x), layout.sizes[-1])
            if adapter.is_device_array(out):
                result = arrays.out_array(out, shape, dtype, who)
            elif out is None and adapter.is_device_array(X):
                result = self.card.empty(shape, dtype)
            else:
                result = validation.out_array(out, shape, dtype, who)
            Prediction(self.card, self._shown(raw), self.guard, x, result)(parameters)
        return result if out is None else out

    def _shown(self, raw: bool) -> Network:
        network = self.network
        if not raw:
            return network
        activations = (*network.activations[:-1], identity)
        return network._replace(activations=activations, link=LINKS["identity"])

    def evaluation(self, data: Rows) -> Evaluation:
        """Return the mean loss over the rows of `data`, as a function of the parameters."""
        return Evaluation(self.card, self.network, self.guard, data)

    def objective(self, data: Rows) -> Objective:
        """Return the objective on all rows of `data`, as a function of the parameters."""
        return Objective(self.card, self.network, self.guard, data)

    def loss_and_gradient(self, parameters: Array, data: Rows) -> tuple[float, Array]:
        """Return the objective, penalties included, and its gradient, flat."""
        return self.objective(data)(parameters)

    def moments(self, flat: Array | None = None) -> DeviceMoments:
        """Return an optimizer's state with these moments, or with zeros."""
        return DeviceMoments(self.network, self.card.index, flat)

    def update(
        self,
        parameters: Array,
        moments: DeviceMoments,
        optimizer: Optimizer,
        gradient: Array,
        coefficients: Rates,
    ) -> None:
        """Apply one optimizer step with this gradient, flat, and coefficients, shape (1, n)."""
        rules, n = rules_of(self.network, optimizer), len(parameters)
        need = Need(1, 1, n_coefficients=rules.n_coefficients, n_steps=1, train=True)
        n_threads = design.SIMULATED_THREADS if adapter.SIMULATED else 256
        kernel = design.apply_kernel(rules, n_threads)
        with self.card.current():
            session = Session(
                self.card, [self.network], need, shared=False, who="MLP.apply_gradient"
            )
            session.put(PARAMETERS, np.ascontiguousarray(parameters))
            session.put(GRADIENT, np.ascontiguousarray(gradient))
            session.put(M, moments.state)
            session.put(COEFFICIENTS, np.ascontiguousarray(coefficients[0], parameters.dtype))
            n_blocks = 2 * self.card.n_multiprocessors
            arguments = (session.memory[0], session.device_plans[0])
            adapter.configured(kernel, arguments, n_blocks, n_threads)(*arguments)
            adapter.synchronize()
            values = np.ascontiguousarray(arrays.to_host(session.get(PARAMETERS, n)))
            moments.state.copy_to_device(session.get(M, 2 * n))
        with self.guard.whole:
            publish(values, parameters)

    def trainer(
        self,
        parameters: Array,
        moments: DeviceMoments,
        optimizer: Optimizer,
        data: Rows,
        batch_size: int,
        *,
        kind: str | None = None,
    ) -> Trainer:
        """Allocate and compile what training on `data` needs."""
        return Trainer(
            self.card, self.network, self.guard, parameters, moments, optimizer, data, batch_size,
            kind=kind,
        )  # fmt: skip
