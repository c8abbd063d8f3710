"""Single steps inside the user's compiled code: by the block of `one_step`, at its address."""

from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload, register_jitable

from fastmlp.backends.cpu.kernels.one_step import DECLINED, TAKEN, PlainStep
from fastmlp.backends.cpu.predict.embedded import HANDLE
from fastmlp.backends.cpu.predict.embedded_calls import COPY, run
from fastmlp.compiler import call
from fastmlp.compiler.memory import Record, record_at, row

CLOSED = "jit: the handle does not train: `with fastmlp.jit.learner(net, batch_size=64) as handle:`"
BATCH = "jit: X, y or a gradient has another shape than those of a batch of the learner's"
LABELS = "jit.train_on_batch: y must be labels, an array of integers"
DECLINED_ROWS = (
    "jit: a number of X or y is not finite, or a label or target is none that the loss takes"
)


class EmbeddedSteps(Record):
    """The training of a net in compiled code: steps of two kinds, and memory for their rows."""

    batch: int  # address of the `PlainStep` on rows and targets,
    gradient: int  # and on rows and slopes of the raw outputs
    x: int  # addresses of the rows, shape (batch_size, n_in), in the net's dtype,
    y: int  # of their targets in that dtype, or of their labels, int64,
    slopes: int  # and of their slopes
    has_labels: int
    n_taken: int  # steps since the learner was made
    last: int  # the last row of the table of coefficients
    vjp: int  # address of the `EmbeddedVjp`


# Not inlined: a step takes microseconds.
JITTED: dict[str, Any] = {"error_model": "numpy"}


@register_jitable(**JITTED)
def _copy(numbers: Any, place: Any) -> None:
    """Copy a matrix, or a vector as one column."""
    if numbers.ndim == 1:
        for i in range(len(place)):
            place[i] = numbers[i]
    else:
        width = numbers.shape[1]
        for r in range(numbers.shape[0]):
            for k in range(width):
                place[r * width + k] = numbers[r, k]


@register_jitable(**JITTED)
def fill(handle: Any, X: Any, y: Any, by_gradient: bool, integers: bool) -> int:
    """Copy a batch; return the address of its step."""
    h = handle[0]
    if h.me != handle.ctypes.data:
        raise ValueError(COPY)
    if h.learner == 0:
        raise ValueError(CLOSED)
    learner = record_at(h.learner, EmbeddedSteps)
    place, target = learner.batch, learner.y
    labels = learner.has_labels
    if by_gradient:
        place, target, labels = learner.gradient, learner.slopes, 0
    step = record_at(place, PlainStep)
    n, n_targets = step.n_rows, step.n_targets
    if X.shape[0] != n or X.shape[1] != step.n_in or y.shape[0] != n or y.size != n * n_targets:
        raise ValueError(BATCH)
    if labels and not integers:
        raise ValueError(LABELS)
    if h.number_bytes == 4:
        _copy(X, row(learner.x, X.size, np.float32))
    else:
        _copy(X, row(learner.x, X.size, np.float64))
    if labels:
        _copy(y, row(target, y.size, np.int64))
    elif h.number_bytes == 4:
        _copy(y, row(target, y.size, np.float32))
    else:
        _copy(y, row(target, y.size, np.float64))
    step.x, step.y, step.weight = learner.x, target, 0
    step.label_bytes = 8 if labels else 0
    step.step, step.status = step.first_step + min(learner.n_taken, learner.last), DECLINED
    return int(place)


@register_jitable(**JITTED)
def _settle(handle: Any, place: int) -> float:
    """Count the step, if it was taken; return its loss."""
    step, learner = record_at(place, PlainStep), record_at(handle[0].learner, EmbeddedSteps)
    if step.status == DECLINED:
        raise ValueError(DECLINED_ROWS)
    if step.status == TAKEN:
        learner.n_taken += 1
    return float(step.loss)


def _in_python(handle: Any, X: Any, y: Any, *, by_gradient: bool) -> float:
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim != 2 or y.ndim not in (1, 2):
        raise ValueError(BATCH)
    with np.errstate(over="ignore"):
        place = fill(handle, X, y, by_gradient, y.dtype.kind in "iu")
    run(record_at(place, PlainStep).block, (place,))
    return float(_settle(handle, place))


def train_on_batch(handle: Any, X: Any, y: Any) -> float:
    """Take a step on a batch, in compiled code and outside of it; return its loss.

    Parameters and bits are as for `MLP.train_on_batch`. A step whose loss is not finite is not
    taken, and its loss returned.

    Parameters
    ----------
    handle : record array of `learner`, an argument of the compiled function
    X : (batch_size, n_in) array of real numbers
    y : (batch_size,) or (batch_size, n_targets) array of real numbers; labels are integers

    Raises
    ------
    ValueError
        If a shape differs from the learner's batches, a number is not finite, the loss does not
        take a label or target, or the learner is closed.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from fastmlp import MLP, jit
    >>> @njit
    ... def learn(handle, n):
    ...     X, y = np.empty((8, 2)), np.empty(8)
    ...     for _ in range(n):
    ...         X[:] = np.random.random((8, 2))
    ...         y[:] = X[:, 0] * X[:, 1]
    ...         loss = jit.train_on_batch(handle, X, y)
    ...     return loss
    >>> net = MLP((2, 16, 1), seed=0)
    >>> with jit.learner(net, batch_size=8) as handle:
    ...     learn(handle, 1000) < 0.01
    True
    """
    return _in_python(handle, X, y, by_gradient=False)


def train_on_gradient(handle: Any, X: Any, output_gradient: Any) -> None:
    """Take a step with the gradient of your objective by the raw outputs.

    Parameters
    ----------
    handle : record array of `learner`
    X : (batch_size, n_in) array of real numbers
    output_gradient : (batch_size, n_outputs) array of real numbers

    Raises
    ------
    ValueError
        As `train_on_batch` does.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, jit
    >>> net, X = MLP((2, 4, 1), seed=0), np.ones((8, 2))
    >>> with jit.learner(net, batch_size=8) as handle:
    ...     jit.train_on_gradient(handle, X, 2 / 8 * (net.predict_raw(X) - 1.0))
    """
    _in_python(handle, X, output_gradient, by_gradient=True)


def require_types(who: str, handle: Any, X: Any, y: Any) -> bool:
    """True for integers as y; other types raise a TypingError."""
    real = (types.Float, types.Integer, types.Boolean)
    arrays = [isinstance(a, types.Array) and isinstance(a.dtype, real) for a in (X, y)]
    if not (isinstance(handle, types.Array) and handle.dtype == HANDLE.dtype):
        raise TypingError(f"{who}: the handle must be an array that jit.learner has made")
    if not all(arrays) or X.ndim != 2 or y.ndim not in (1, 2):
        raise TypingError(f"{who}: X and y must be arrays of real numbers")
    return isinstance(y.dtype, types.Integer)


@overload(train_on_batch, jit_options=JITTED)
def _train_on_batch(handle: Any, X: Any, y: Any) -> Any:
    integers = require_types("jit.train_on_batch", handle, X, y)

    def train(handle: Any, X: Any, y: Any) -> float:
        place = fill(handle, X, y, False, integers)
        call(record_at(place, PlainStep).block, (place,))
        return _settle(handle, place)

    return train


@overload(train_on_gradient, jit_options=JITTED)
def _train_on_gradient(handle: Any, X: Any, output_gradient: Any) -> Any:
    require_types("jit.train_on_gradient", handle, X, output_gradient)

    def train(handle: Any, X: Any, output_gradient: Any) -> None:
        place = fill(handle, X, output_gradient, True, False)
        call(record_at(place, PlainStep).block, (place,))
        _settle(handle, place)

    return train
