"""Questions about rows: predictions, losses, gradients; each is a function of the parameters.

Rows are processed in chunks, so that the memory for activations does not grow with them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.locks import Guard
from fastmlp.backends.cuda import adapter, arrays, design
from fastmlp.backends.cuda.adapter import Card
from fastmlp.backends.cuda.arrays import Rows
from fastmlp.backends.cuda.launch import launch_chunk
from fastmlp.backends.cuda.plan import (
    BATCH_MASS,
    EPOCH_LOSS,
    EVALUATE,
    GRADIENT,
    PARAMETERS,
    PREDICT,
    TRAIN,
    WEIGHTS,
    Need,
)
from fastmlp.backends.cuda.rules import rules_of
from fastmlp.backends.cuda.session import Session, require
from fastmlp.network.spec import Network

Array = NDArray[Any]
# Activations of a chunk: 64 MB in float32.
CHUNK_NUMBERS = 1 << 24
# The number of parts in which the values of penalties are summed, for any number of blocks.
N_PARTS = 1 << 13


class Question:
    """Rows on the device, with the memory and kernels to pass them through the net."""

    def __init__(
        self, card: Card, network: Network, guard: Guard, data: Rows, mode: int, who: str
    ) -> None:
        data = data.gathered()
        self._card, self._guard, self._mode, self.mass = card, guard, mode, data.mass
        self._rules, self.n_rows = rules_of(network), len(data.x)
        width = 4 * sum(network.layout.sizes)
        self._chunk = max(1, min(self.n_rows, CHUNK_NUMBERS // width))
        self._form = design.form_for(network, self._chunk, card)
        shape = self._form.weights
        need = Need(
            self._chunk,
            self._chunk,
            n_weights=len(data.weight),
            n_parts=N_PARTS if network.penalties and mode == TRAIN else 0,
            tile=(shape.tile_rows, shape.tile_columns),
        )
        require(card, sum(a.nbytes for a in (data.x, data.y) if isinstance(a, np.ndarray)), who)
        self._session = Session(card, [network], need, shared=False, who=who)
        self._session.set(MODE=mode)
        with card.current():
            self._x, self._y = arrays.to_device(card, data.x), arrays.to_device(card, data.y)
            if data.weight.size:
                self._session.put(WEIGHTS, np.ascontiguousarray(data.weight))

    def ask(self, parameters: Array) -> None:
        """Pass all rows through the net with these parameters."""
        session = self._session
        with self._guard.whole:
            values = parameters.copy()
        session.put(PARAMETERS, values)
        session.set_sum(EPOCH_LOSS, 0.0)
        session.set_sum(BATCH_MASS, self.mass if self._mode == TRAIN else 1.0)
        for first in range(0, self.n_rows, self._chunk):
            n = min(self._chunk, self.n_rows - first)
            ends = first + n == self.n_rows
            session.set(N_ROWS=n, BATCH=n, FIRST_ROW=first, MORE=first > 0, ENDS=ends)
            session.send_heads()
            train = self._mode != PREDICT
            launch_chunk(self._rules, self._form, session, self._x, self._y, train=train)
        adapter.synchronize()


class Prediction:
    """The predictions for some rows."""

    def __init__(self, card: Card, network: Network, guard: Guard, x: Any, out: Any) -> None:
        weight = np.empty(0, network.dtype)
        self._card, self._out = card, out
        with card.current():
            on_host = isinstance(out, np.ndarray) and not hasattr(out, "copy_to_host")
            device = card.empty(out.shape, out.dtype) if on_host else out
        self._device = device
        self._question = Question(
            card, network, guard, Rows(x, device, weight), PREDICT, "MLP.predict"
        )

    def __call__(self, parameters: Array) -> Any:
        """Write the predictions at these parameters to `out`, and return it."""
        with self._card.current():
            self._question.ask(parameters)
            if self._device is not self._out:
                self._device.copy_to_host(self._out)
        return self._out


class Evaluation:
    """The mean loss over some rows, weighted, without penalties."""

    def __init__(self, card: Card, network: Network, guard: Guard, data: Rows) -> None:
        self._plain = network._replace(penalties=())
        self._card, self._guard, self._data = card, guard, data
        self._question = Question(card, self._plain, guard, data, EVALUATE, "MLP.fit")

    def __call__(self, parameters: Array, out: Array | None = None) -> float:
        """Return the loss at these parameters; write predictions to `out`, if there is one."""
        if out is not None:
            x = self._data.gathered().x
            Prediction(self._card, self._plain, self._guard, x, out)(parameters)
        with self._card.current():
            self._question.ask(parameters)
            return self._question._session.sum_at(EPOCH_LOSS) / self._question.mass


class Objective:
    """The objective on all rows of some data, penalties included, and its gradient."""

    def __init__(self, card: Card, network: Network, guard: Guard, data: Rows) -> None:
        self._card = card
        self._question = Question(card, network, guard, data, TRAIN, "MLP.loss_and_gradient")

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        """Return the objective and its gradient, flat, at these parameters."""
        with self._card.current():
            self._question.ask(parameters)
            session = self._question._session
            value = session.sum_at(EPOCH_LOSS) / self._question.mass
            return value, arrays.to_host(session.get(GRADIENT, len(parameters))).copy()
