"""Predictions and derivatives in the user's compiled code, and C functions of them.

A model is a record that names its blocks by their addresses. The heavy part is a block
from the library's cache. The code in the user's function checks lengths, converts a row
and calls the block. A row's numbers, predictions and buffers lie on the stack of the
user's function, or are allocated if large.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import numba
import numpy as np
from numba import carray, types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload, register_jitable

from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.jacobian import DERIVED, row_gradient
from fastmlp.backends.cpu.predict.row_blocks import FlatNet, make_flat
from fastmlp.backends.cpu.predict.small_batch import ROW_BUFFERS, row_pass
from fastmlp.backends.cpu.simd.vector import Scalar
from fastmlp.compiler import (
    INTERPRETED,
    block_of,
    by_numba,
    call,
    flush_denormals,
    hinted,
    njit,
    restore_denormals,
)
from fastmlp.compiler.cache import CodeCache
from fastmlp.compiler.memory import Record, record_at, row, stack
from fastmlp.compiler.target import LINE_BYTES, target
from fastmlp.network.spec import Network
from fastmlp.rules.losses import LINKS
from fastmlp.validation import Array


class Handle(Record):
    """A model for compiled code. All models have the same fields, so that a user's
    function is compiled once; a field is never given another meaning, as stored code
    reads it.
    """

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
    predict_row = row_pass(scalar)

    @hinted(control=True)
    def predict_one(net: int, x: int, out: int, work: int) -> None:
        mode = flush_denormals()
        predict_row(record_at(net, FlatNet), x, out, work)
        restore_denormals(mode)

    return predict_one


def completed_row(scalar: Scalar) -> Callable[[int, int, int, int], None]:
    """The block that predicts a row of a `CompletedNet`."""
    predict_row = row_pass(scalar)
    complete = _completion(scalar, derives=False)

    def predict_completed(model: int, x: int, out: int, work: int) -> None:
        mode = flush_denormals()
        whole = record_at(model, CompletedNet)
        predict_row(record_at(whole.net, FlatNet), x, out, work)
        complete(whole, out, 0)
        restore_denormals(mode)

    return predict_completed


def completed_gradient(
    scalar: Scalar,
) -> Callable[[int, int, int, int, int, int], None]:
    """A row of a `CompletedNet` and its derivatives."""
    complete = _completion(scalar, derives=True)

    def derive_completed(
        model: int, kind: int, x: int, out: int, grad: int, work: int
    ) -> None:
        mode = flush_denormals()
        whole = record_at(model, CompletedNet)
        call(whole.derive, (whole.net, kind, x, out, grad, work))
        complete(whole, out, grad)
        restore_denormals(mode)

    return derive_completed


def _completion(scalar: Scalar, *, derives: bool) -> Callable[..., None]:
    """A function that completes a prediction p to 1 - p and p, and its derivatives."""
    one = scalar(1)

    @njit
    def complete(model: CompletedNet, out: int, grad: int) -> None:
        n_in, n = model.n_in, model.n_out
        values = row(out, n, scalar)
        slopes = row(grad, n * n_in, scalar)
        # The net wrote p and its derivatives first.
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
        dtype = parameters.dtype
        n_in = network.layout.sizes[0]
        flat = make_flat(network._replace(compute_dtype=None), parameters, blocks=False)
        is_plain = network.layout.is_plain
        unit = round_up(max(n_out, network.layout.widest) * dtype.itemsize, LINE_BYTES)
        flat.net[0].block_bytes = unit
        self.block, derive = block_of(single_row, dtype), block_of(row_gradient, dtype)
        self.kept: list[Any] = [parameters, flat, derive]
        model = address(flat.net)
        if n_out > network.layout.sizes[-1]:
            whole = np.array([(model, n_in, n_out, derive.address)], CompletedNet.dtype)
            self.block, derive = (
                block_of(completed_row, dtype),
                block_of(completed_gradient, dtype),
            )
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
            "n_bytes": (2 + ROW_BUFFERS + (not is_plain)) * unit,
            "gradient": derive.address if is_plain and not network.link.parts else 0,
            "link": max(
                (DERIVED.index(n) for n, link in LINKS.items() if link == network.link),
                default=0,
            ),
            # And raw outputs.
            "n_slopes": 1 + network.layout.n_layers,
        }

    def __reduce__(self) -> Any:
        """Addresses are valid in this object and process only,
        so a copy or a pickle is None.
        """
        return type(None), ()


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


# Bytes of buffers on the stack of the user's function; larger ones are allocated.
STACK = 8192
COPY = (
    "jit: the handle is a copy, or of another process: fastmlp.jit.compiled(model) "
    "makes one; hand it to compiled functions as an argument"
)
LENGTHS_MESSAGE = "jit: x or out has another length than the model's inputs or outputs"
ONE_OUTPUT = (
    "jit.value: the model has several outputs: jit.predict writes them to an array"
)
# For functions inside the user's:
# without it an array's references are counted at each call, 164 -> 74 ns.
INLINE: dict[str, Any] = {"forceinline": True, "error_model": "numpy"}


@register_jitable(**INLINE)
def _check(handle: Any, n_in: int, n_out: int) -> None:
    h = handle[0]
    if h.me != handle.ctypes.data:
        raise ValueError(COPY)
    if n_in != h.n_in or n_out != h.n_out:
        raise ValueError(LENGTHS_MESSAGE)


@register_jitable(**INLINE)
def _write(h: Any, x: Any, out: Any, work: int) -> None:
    """Convert a row, predict it, and convert the predictions."""
    n_in = h.n_in
    n_out = h.n_out
    results = work + h.out_at
    if h.number_bytes == 4:
        numbers = row(work, n_in, np.float32)
        for i in range(n_in):
            numbers[i] = x[i]
        call(h.block, (h.model, work, results, work + h.work_at))
        singles = row(results, n_out, np.float32)
        for j in range(n_out):
            out[j] = singles[j]
    else:
        wide = row(work, n_in, np.float64)
        for i in range(n_in):
            wide[i] = x[i]
        call(h.block, (h.model, work, results, work + h.work_at))
        doubles = row(results, n_out, np.float64)
        for j in range(n_out):
            out[j] = doubles[j]


@register_jitable(error_model="numpy")
def _write_allocated(h: Any, x: Any, out: Any) -> None:
    buffer = np.empty(h.n_bytes, np.uint8)
    _write(h, x, out, buffer.ctypes.data)


@register_jitable(**INLINE)
def _write_row(h: Any, x: Any, out: Any) -> None:
    if h.n_bytes <= STACK:
        _write(h, x, out, stack(STACK))
    else:
        _write_allocated(h, x, out)


@register_jitable(**INLINE)
def _ends(a: Any) -> tuple[int, int]:
    """The first and the last address of a matrix's numbers."""
    low = high = a.ctypes.data
    for k in range(2):
        skip = (a.shape[k] - 1) * a.strides[k]
        low, high = low + min(skip, 0), high + max(skip, 0)
    return low, high


@register_jitable(**INLINE)
def _overlap(x: Any, out: Any) -> bool:
    x_low, x_high = _ends(x)
    low, high = _ends(out)
    return bool(x_low < high + out.itemsize and low < x_high + x.itemsize)


@intrinsic
def _floats(typing_context: Any, numbers: Any) -> Any:
    """Numbers of several types as a tuple of float64."""
    kind = types.UniTuple(types.float64, len(numbers))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[0], numbers, kind)

    return kind(numbers), generate


def _n_dim(who: str, handle: Any, x: Any, out: Any = None) -> int:
    """The dimensions of x, 1 or 2, by its type; another type raises a TypingError."""
    if not (isinstance(handle, types.Array) and handle.dtype == HANDLE.dtype):
        raise TypingError(
            f"{who}: the handle must be an array that jit.compiled has made"
        )
    if isinstance(x, types.BaseTuple):
        n_dim = 1
        numbers = list(x.types)
    else:
        n_dim = getattr(x, "ndim", 0)
        numbers = [getattr(x, "dtype", None)]
    real = (types.Float, types.Integer, types.Boolean)
    if not (n_dim in (1, 2) and all(isinstance(kind, real) for kind in numbers)):
        raise TypingError(
            f"{who}: x must be an array of one or two dimensions, of real numbers"
        )
    if out is not None and not (
        isinstance(out, types.Array)
        and isinstance(out.dtype, types.Float)
        and out.ndim == n_dim
    ):
        raise TypingError(
            f"{who}: out must be an array of floats, of as many dimensions as x"
        )
    return n_dim


def predict(handle: Any, x: Any, out: Any) -> None:
    """Write the predictions of a row, or of rows,
    to out; in compiled code and outside of it.

    The bits equal `MLP.predict`, or an estimator's `predict` or, for a classifier,
    `predict_proba`. Numbers that are not finite give NaN, and no error.

    Parameters
    ----------
    handle : record array of `compiled`, an argument of the compiled function, not a global of it
    x : (n_in,) or (n_rows, n_in) array of real numbers, of any strides; or a tuple
    out : (n_out,) or (n_rows, n_out) array of floats; it may share memory with x

    Raises
    ------
    TypeError, ValueError
        If out is not an array of floats, a length differs from the model's,
        or the handle is a copy or of another process.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import njit
    >>> from fastmlp import MLP, jit
    >>> @njit
    ... def steps(policy, state, n):
    ...     action = np.empty(1)
    ...     for _ in range(n):
    ...         jit.predict(policy, state, action)
    ...         state += 0.01 * action[0]
    >>> net, state = MLP((2, 8, 1), seed=0), np.zeros(2)
    >>> steps(jit.compiled(net), state, 10)
    """
    require_floats("jit.predict", out)
    rows = np.array(x)
    if rows.ndim == 2 and out.ndim == 2 and len(rows) == len(out):
        for numbers, result in zip(rows, out, strict=True):
            result[:] = _of_row(handle, numbers, len(result))
    elif rows.ndim == 1 and out.ndim == 1:
        out[:] = _of_row(handle, rows, len(out))
    else:
        raise ValueError(LENGTHS_MESSAGE)


def value(handle: Any, x: Any) -> float:
    """The prediction of a row, of a model with one output;
    nothing is allocated in compiled code.

    Parameters
    ----------
    handle : record array of `compiled`
    x : (n_in,) array of real numbers, or a tuple

    Raises
    ------
    ValueError
        If the model has several outputs, x another length, or the handle is a copy.

    Examples
    --------
    >>> from fastmlp import MLP, jit
    >>> jit.value(jit.compiled(MLP((2, 8, 1), initializer="zeros")), (0.5, -1.0))
    0.0
    """
    if handle[0].n_out != 1:
        raise ValueError(ONE_OUTPUT)
    return float(_of_row(handle, np.array(x), 1)[0])


def _of_row(handle: Any, x: Array, n_out: int) -> Array:
    """Outside of compiled code."""
    if x.ndim != 1:
        raise ValueError(LENGTHS_MESSAGE)
    _check(handle, len(x), n_out)
    h = handle[0]
    dtype = np.dtype(f"f{h.number_bytes}")
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, dtype)
    out = np.empty(n_out, dtype)
    work = np.empty(h.n_bytes, np.uint8)
    run(h.block, (int(h.model), address(x), address(out), address(work)))
    return out


def require_floats(who: str, *arrays: Any) -> None:
    """Raise a TypeError unless results are written to arrays of floats."""
    for array in arrays:
        if not (isinstance(array, np.ndarray) and array.dtype.kind == "f"):
            raise TypeError(
                f"{who}: results are written to arrays of floats, got {array!r}"
            )


def run(block: Any, words: tuple[int, ...]) -> None:
    """Call a block from Python by its address."""
    if INTERPRETED:
        call(int(block), words)
    else:
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(words))(int(block))(*words)


@overload(predict, jit_options=INLINE)
def _predict(handle: Any, x: Any, out: Any) -> Any:
    """Choose `jit.predict`'s body by the types of its arguments: a row, a tuple of
    floats, or a matrix. Rows that share memory with `out` are copied first.
    """

    def of_row(handle: Any, x: Any, out: Any) -> None:
        _check(handle, len(x), len(out))
        _write_row(handle[0], x, out)

    def of_tuple(handle: Any, x: Any, out: Any) -> None:
        numbers = _floats(x)
        _check(handle, len(numbers), len(out))
        _write_row(handle[0], numbers, out)

    def of_rows(handle: Any, x: Any, out: Any) -> None:
        _check(handle, x.shape[1], out.shape[1])
        if len(x) != len(out):
            raise ValueError(LENGTHS_MESSAGE)
        rows = x.copy() if _overlap(x, out) else x
        for r in range(len(out)):
            _write_row(handle[0], rows[r], out[r])

    if _n_dim("jit.predict", handle, x, out) == 2:
        return of_rows
    return of_tuple if isinstance(x, types.Tuple) else of_row


@overload(value, jit_options=INLINE)
def _value(handle: Any, x: Any) -> Any:
    def of_row(handle: Any, x: Any) -> float:
        if handle[0].n_out != 1:
            raise ValueError(ONE_OUTPUT)
        _check(handle, len(x), 1)
        out = row(stack(LINE_BYTES), 1, np.float64)
        _write_row(handle[0], x, out)
        return out[0]

    def of_tuple(handle: Any, x: Any) -> float:
        return value(handle, _floats(x))

    if _n_dim("jit.value", handle, x) == 2:
        raise TypingError("jit.value: x must be one row")
    return of_tuple if isinstance(x, types.Tuple) else of_row


NO_GRADIENT = "jit.gradient: the model has no derivatives by its inputs here; "
NO_GRADIENT += "fastmlp.jacobian derives nets, with heads, norms and skips too"


@register_jitable(error_model="numpy")
def _derive(handle: Any, x: Any, out: Any, grad: Any, derived: Any) -> None:
    """Derive a row in allocated buffers; `derived` calls the block."""
    _check(handle, len(x), len(out))
    h = handle[0]
    if h.gradient == 0:
        raise ValueError(NO_GRADIENT)
    n_in = h.n_in
    n_out = h.n_out
    unit = h.out_at
    if grad.size != n_in * n_out or grad.shape[grad.ndim - 1] != n_in:
        raise ValueError(LENGTHS_MESSAGE)
    buffer = np.empty((4 + h.n_slopes) * unit + n_in * n_out * h.number_bytes, np.uint8)
    work = buffer.ctypes.data
    block = work + 2 * unit
    results = work + unit
    slopes = block + (2 + h.n_slopes) * unit
    words = (h.model, h.link, work, results, slopes, block)
    if h.number_bytes == 4:
        singles = row(work, n_in, np.float32)
        for i in range(n_in):
            singles[i] = x[i]
        derived(h.gradient, words)
        _hand_out(
            row(results, n_out, np.float32),
            row(slopes, grad.size, np.float32),
            out,
            grad,
        )
    else:
        doubles = row(work, n_in, np.float64)
        for i in range(n_in):
            doubles[i] = x[i]
        derived(h.gradient, words)
        _hand_out(
            row(results, n_out, np.float64),
            row(slopes, grad.size, np.float64),
            out,
            grad,
        )


@register_jitable(error_model="numpy")
def _hand_out(values: Any, slopes: Any, out: Any, grad: Any) -> None:
    for j in range(len(values)):
        out[j] = values[j]
    if grad.ndim == 1:
        for k in range(len(grad)):
            grad[k] = slopes[k]
    else:
        for j in range(grad.shape[0]):
            for k in range(grad.shape[1]):
                grad[j, k] = slopes[j * grad.shape[1] + k]


@register_jitable(**INLINE)
def _called(block: int, words: Any) -> None:
    call(block, words)


def gradient(handle: Any, x: Any, out: Any, grad: Any) -> None:
    """Write the predictions of a row, and their derivatives by its numbers.

    Predictions have the bits of `predict`; derivatives equal `fastmlp.jacobian` but for
    rounding. The derivative of relu at 0 is 0.

    Parameters
    ----------
    handle : record array of `compiled`
    x : (n_in,) array of real numbers
    out : (n_out,) array of floats
    grad : (n_out, n_in) array of floats, or (n_in,) for one output

    Raises
    ------
    TypeError, ValueError
        If out or grad is not an array of floats, a length differs from the model's,
        the handle is a copy, or the model has no derivatives.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, jit
    >>> net, out, grad = MLP((2, 1), seed=0), np.empty(1), np.empty(2)
    >>> jit.gradient(jit.compiled(net), np.ones(2), out, grad)
    >>> bool((grad == net.weights[0][:, 0]).all())
    True
    """
    require_floats("jit.gradient", out, grad)
    x = np.array(x)
    if x.ndim != 1 or out.ndim != 1:
        raise ValueError(LENGTHS_MESSAGE)
    with np.errstate(over="ignore"):
        _derive(handle, x, out, grad, run)


@overload(gradient, jit_options={"error_model": "numpy"})
def _gradient(handle: Any, x: Any, out: Any, grad: Any) -> Any:
    if _n_dim("jit.gradient", handle, x, out) == 2 or isinstance(x, types.BaseTuple):
        raise TypingError("jit.gradient: x must be an array of one dimension")

    def derive(handle: Any, x: Any, out: Any, grad: Any) -> None:
        _derive(handle, x, out, grad, _called)

    return derive


# C functions by which others call a model: their types, and SciPy's names for them.
Taker = Literal["quad", "generic_filter"]
SIGNATURES: dict[Taker, str] = {
    "quad": "double (int, double *, void *)",
    "generic_filter": "int (double *, npy_intp, double *, void *)",
}
_KIND = Handle.dtype


def _quad(n: int, x: Any, handle: Any) -> float:
    model = carray(handle, 1, _KIND)
    if n != model[0].n_in or model[0].n_out != 1:
        return np.nan
    return value(model, carray(x, n))


def _generic_filter(x: Any, n: int, out: Any, handle: Any) -> int:
    model = carray(handle, 1, _KIND)
    if n != model[0].n_in or model[0].n_out != 1:
        return 0
    out[0] = value(model, carray(x, n))
    return 1


def _row(dtype: Any) -> Any:
    def predict_row(handle: Any, x: Any, out: Any) -> None:
        model = carray(handle, 1, _KIND)
        n_in, n_out = model[0].n_in, model[0].n_out
        predict(model, carray(x, n_in, dtype), carray(out, n_out, dtype))

    return predict_row


@cache
def c_function(kind: str) -> Any:
    """Numba's C function of a kind: "quad", "generic_filter", or a dtype's name."""
    numbers = types.CPointer(types.float64)
    place = types.voidptr
    function: Any
    if kind == "quad":
        function = _quad
        signature = types.float64(types.intc, numbers, place)
    elif kind == "generic_filter":
        function = _generic_filter
        signature = types.intc(numbers, types.intp, numbers, place)
    else:
        function = _row(np.dtype(kind))
        signature = types.void(place, place, place)
    kinds = signature.args, signature.return_type
    return by_numba.c_function(function, kinds, CodeCache(f"cpu.jit_{kind}:{target()}"))
