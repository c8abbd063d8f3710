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
from fastmlp.backends.protocol import Memo, no_memo
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.rules.optimizers import Optimizer, Rates

Array = NDArray[Any]


# So many packed parameters, 4 MB of float32, are kept for the next prediction.
KEPT = 1 << 20


class Engine(Runner):
    """Prediction, gradient and training of one network on the CPU.

    Parameters
    ----------
    network, n_threads, guard : as for a `Runner`
    buffers : Idle, optional
        Where predictions leave buffers for the next ones.
    """

    queue = None

    def __init__(
        self,
        network: Network,
        n_threads: int | None = None,
        guard: Guard | None = None,
        buffers: Idle | None = None,
    ) -> None:
        super().__init__(network, n_threads, guard)
        self._idle = buffers or Idle()

    def data(self, X: Any, y: Any, sample_weight: Any, who: str, memo: Memo = no_memo) -> Data:
        """Return rows, validated; `memo` keeps what several nets share."""
        sizes, dtype, loss = self.network.layout.sizes, self.network.dtype, self.network.loss
        x = memo(("x", sizes[0], dtype), lambda: validation.features(X, sizes[0], dtype, who))
        table = memo(
            ("y", sizes[-1], dtype, loss.targets),
            lambda: validation.targets(y, len(x), sizes[-1], loss, dtype, who),
        )
        weight = memo(
            ("weight", id(sample_weight), dtype),
            lambda: validation.weights(sample_weight, len(x), dtype, who),
        )
        return Data(x, table, weight)

    def trusted(self, X: Any, y: Array, sample_weight: Array | None) -> Data:
        """Return rows that are validated already, X dense or sparse, converted to the dtype."""
        weight = np.empty(0) if sample_weight is None else sample_weight
        arrays = (np.ascontiguousarray(array, self.network.dtype) for array in (y, weight))
        return Data(self.features(X), *arrays)

    def features(self, X: Any) -> Array | SparseRows:
        """Return validated features as kernels take them; those of a sparse matrix stay sparse."""
        dtype = self.network.dtype
        if not hasattr(X, "tocsr"):
            return np.ascontiguousarray(X, dtype)
        rows = X.tocsr()
        values = rows.data.astype(dtype, copy=False)
        return SparseRows(values, rows.indices, rows.indptr, X.shape[1])

    def predictor(self, parameters: Array, *, raw: bool = False) -> "Predictor":
        """Return the predictor for these live parameters; `raw`: before activation or link."""
        return Predictor(self, parameters, raw=raw)

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

    def slots(self, state: NetState, data: Data | None = None) -> Moments:
        """Return the optimizer's state of a net, packed for training on dense or sparse rows."""
        sparse = data is not None and isinstance(data.x, SparseRows)
        return state.packed(("cpu", sparse), lambda flat: self.moments(flat, sparse=sparse))

    def moments(self, flat: Array | None = None, *, sparse: bool = False) -> Moments:
        """Return this state of an optimizer, or that of one which has taken no step; for training
        on dense or sparse rows."""
        return Moments(self.network, flat, sparse=sparse)

    def update(
        self,
        parameters: Array,
        slots: Moments,
        optimizer: Optimizer,
        gradient: Array,
        coefficients: Rates,
    ) -> None:
        """Apply one optimizer step with this gradient, flat, and coefficients, shape (1, n)."""
        constants = np.ascontiguousarray(coefficients, self.network.dtype)
        panels = Panels(self.network, spacing=slots.spacing)
        block = rule_blocks.optimizer(self.network, optimizer)
        w, g = panels.packed(parameters), panels.packed(gradient)
        block(*map(address, (w, g, slots.m, slots.v, constants)), panels.size)
        with self.guard.whole:
            publish(panels.flat(w), parameters)

    def trainer(
        self,
        parameters: Array,
        slots: Moments,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
        **options: bool,
    ) -> Trainer:
        """Allocate and compile what training on `data` needs; `options` are those of `Trainer`."""
        return Trainer(self, parameters, slots, optimizer, data, batch_size, **options)


class Predictor:
    """Predictions of one net on the CPU, by the fastest way for so many rows.

    Parameters
    ----------
    engine : Engine
    parameters : (n_parameters,) array, live: changes count
    raw : bool
        Predict the outputs before activation or link.
    """

    def __init__(self, engine: Engine, parameters: Array, *, raw: bool = False) -> None:
        self._engine, self._parameters, self._raw = engine, parameters, raw
        self._few: FewRows | None = None

    def __reduce__(self) -> Any:
        """A copy has parameters of its own, and another process other addresses."""
        return type(None), ()

    def __call__(self, X: Any, out: Any = None, who: str = "MLP.predict") -> Array:
        """Return predictions, shape (n_rows, n_outputs), checked."""
        few = self._few
        quick = None if few is None else few(X, out)
        return self._checked(X, out, who) if quick is None else quick

    def quick(self, x: object, out: object = None) -> Array | None:
        """Return predictions of a few plain rows, or None."""
        few = self._few
        return None if few is None else few(x, out)

    @property
    def is_quick(self) -> bool:
        """True if `quick` has a way for a few rows."""
        return self._few is not None

    def write(self, x: Array | SparseRows, out: Array) -> None:
        """Write predictions of validated rows to `out`, and remember the way for a few rows."""
        few = self._engine.predict(self._parameters, x, out, raw=self._raw)
        if few is not None and not self._raw:
            self._few = few

    def _checked(self, X: Any, out: Any, who: str) -> Array:
        engine, network = self._engine, self._engine.network
        plain = None if self._raw else engine.predict_plain(self._parameters, X, out)
        if plain is not None:
            return plain
        x = validation.features(X, network.layout.sizes[0], network.dtype, who)
        result = validation.out_array(out, (len(x), network.layout.sizes[-1]), network.dtype, who)
        if out is not None and np.may_share_memory(x, result):
            # Else predictions would overwrite rows that are still to be read.
            x = x.copy()
        few = self._few
        if few is not None and len(x) <= few.most and few(x.copy(), result) is not None:
            return result
        self.write(x, result)
        return validation.warn_if_not_finite(result, who)
