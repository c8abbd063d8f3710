"""A model inside compiled code of the user's: a record that names its blocks by their addresses.

The heavy part is a block of the library's, from its own cache; what is compiled into the user's
function checks lengths, converts a row and calls the block. A row's numbers, its predictions and
the block's buffers lie on the stack of the user's function, or are allocated where they are large.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numba
import numpy as np
from numba import carray, types
from numba.core.ccallback import CFunc
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload, register_jitable
from numpy.typing import NDArray

from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.row_blocks import FlatNet, make_flat
from fastmlp.backends.cpu.predict.row_gradient import DERIVED, row_gradient
from fastmlp.backends.cpu.predict.small_batch import predict_row_of
from fastmlp.backends.cpu.simd.vector import Scalar
from fastmlp.compiler import (
    INTERPRETED,
    Record,
    block_of,
    call,
    flush_denormals,
    hinted,
    record_at,
    records_at,
    restore_denormals,
    row,
    stack,
)
from fastmlp.compiler.cache import CodeCache
from fastmlp.network.spec import Network
from fastmlp.rules.links import LINKS

Array = NDArray[Any]
# Bytes of buffers on the stack of the user's function; larger ones are allocated.
STACK = 8192
# Buffers of a row: its values before and after each activation, and slopes.
BUFFERS = 3
LINE = 64
COPY = (
    "jit: the handle is a copy, or of another process: fastmlp.jit.compiled(model) makes one; hand "
    "it to compiled functions as an argument"
)
LENGTHS = "jit: x or out has another length than the model's inputs or outputs"
ONE_OUTPUT = "jit.value: the model has several outputs: jit.predict writes them to an array"


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
# For functions that are compiled into the user's: without it an array's references are counted at
# each call, 164 -> 74 ns.
INLINE: dict[str, Any] = {"forceinline": True, "error_model": "numpy"}


@register_jitable(**INLINE)
def _check(handle: Any, n_in: int, n_out: int) -> None:
    h = handle[0]
    if h.me != handle.ctypes.data:
        raise ValueError(COPY)
    if n_in != h.n_in or n_out != h.n_out:
        raise ValueError(LENGTHS)


@register_jitable(**INLINE)
def _write(h: Any, x: Any, out: Any, work: int) -> None:
    """Convert a row, predict it, and convert the predictions."""
    n_in, n_out, results = h.n_in, h.n_out, work + h.out_at
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
    """A tuple of numbers of several types as one of float64."""
    kind = types.UniTuple(types.float64, len(numbers))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[0], numbers, kind)

    return kind(numbers), generate


def _n_dim(who: str, handle: Any, x: Any, out: Any = None) -> int:
    """The dimensions of x, 1 or 2, by its type.

    Raises
    ------
    TypingError
        If an argument is of another type than the function takes.
    """
    if not (isinstance(handle, types.Array) and handle.dtype == HANDLE.dtype):
        raise TypingError(f"{who}: the handle must be an array that jit.compiled has made")
    if isinstance(x, types.BaseTuple):
        n_dim, numbers = 1, list(x.types)
    else:
        n_dim, numbers = getattr(x, "ndim", 0), [getattr(x, "dtype", None)]
    real = (types.Float, types.Integer, types.Boolean)
    if not (n_dim in (1, 2) and all(isinstance(kind, real) for kind in numbers)):
        raise TypingError(f"{who}: x must be an array of one or two dimensions, of real numbers")
    if out is not None and not (
        isinstance(out, types.Array) and isinstance(out.dtype, types.Float) and out.ndim == n_dim
    ):
        raise TypingError(f"{who}: out must be an array of floats, of as many dimensions as x")
    return n_dim


def predict(handle: Any, x: Any, out: Any) -> None:
    """Write the predictions of a row, or of rows, to out; in compiled code and outside of it.

    The bits are those of `MLP.predict`; of an ensemble, or an estimator, those of its `predict`
    or, of a classifier, `predict_proba`. Numbers that are not finite give NaN, and no error.

    Parameters
    ----------
    handle : record array of `compiled`, an argument of the compiled function, not a global of it
    x : (n_in,) or (n_rows, n_in) array of real numbers, of any strides; or a tuple
    out : (n_out,) or (n_rows, n_out) array of floats; it may share memory with x

    Raises
    ------
    ValueError
        If a length is not that of the model, or the handle is a copy or of another process.

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
    rows, results = np.array(x), np.asarray(out)
    if rows.ndim == 2 and results.ndim == 2 and len(rows) == len(results):
        for numbers, result in zip(rows, results, strict=True):
            result[:] = _of_row(handle, numbers, len(result))
    elif rows.ndim == 1 and results.ndim == 1:
        results[:] = _of_row(handle, rows, len(results))
    else:
        raise ValueError(LENGTHS)


def value(handle: Any, x: Any) -> float:
    """The prediction of a row, of a model with one output; nothing is allocated in compiled code.

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
    """The predictions of a row, by its block, outside of compiled code."""
    _check(handle, len(x), n_out)
    h = handle[0]
    dtype = np.dtype(f"f{h.number_bytes}")
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, dtype)
    out, work = np.empty(n_out, dtype), np.empty(h.n_bytes, np.uint8)
    run(h.block, (int(h.model), address(x), address(out), address(work)))
    return out


def run(block: Any, words: tuple[int, ...]) -> None:
    """Call a block from Python by its address."""
    if INTERPRETED:
        call(int(block), words)
    else:
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(words))(int(block))(*words)


@overload(predict, jit_options=INLINE)
def _predict(handle: Any, x: Any, out: Any) -> Any:
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
            raise ValueError(LENGTHS)
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
        out = row(stack(LINE), 1, np.float64)
        _write_row(handle[0], x, out)
        return out[0]

    def of_tuple(handle: Any, x: Any) -> float:
        return value(handle, _floats(x))

    if _n_dim("jit.value", handle, x) == 2:
        raise TypingError("jit.value: x must be one row")
    return of_tuple if isinstance(x, types.Tuple) else of_row


NO_GRADIENT = (
    "jit.gradient: the model has none: it is the mean of several nets, a classifier of two "
    "columns, or sorts its outputs; raw=True of jit.compiled gives the raw outputs of one net"
)


@register_jitable(error_model="numpy")
def _derive(handle: Any, x: Any, out: Any, grad: Any, derived: Any) -> None:
    """Derive a row in allocated buffers; `derived` calls the block."""
    _check(handle, len(x), len(out))
    h = handle[0]
    if h.gradient == 0:
        raise ValueError(NO_GRADIENT)
    n_in, n_out, unit = h.n_in, h.n_out, h.out_at
    if grad.size != n_in * n_out or grad.shape[grad.ndim - 1] != n_in:
        raise ValueError(LENGTHS)
    buffer = np.empty((4 + h.n_slopes) * unit + n_in * n_out * h.number_bytes, np.uint8)
    work = buffer.ctypes.data
    block, results = work + 2 * unit, work + unit
    slopes = block + (2 + h.n_slopes) * unit
    words = (h.model, h.link, work, results, slopes, block)
    if h.number_bytes == 4:
        singles = row(work, n_in, np.float32)
        for i in range(n_in):
            singles[i] = x[i]
        derived(h.gradient, words)
        _hand_out(row(results, n_out, np.float32), row(slopes, grad.size, np.float32), out, grad)
    else:
        doubles = row(work, n_in, np.float64)
        for i in range(n_in):
            doubles[i] = x[i]
        derived(h.gradient, words)
        _hand_out(row(results, n_out, np.float64), row(slopes, grad.size, np.float64), out, grad)


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

    Predictions have the bits of `predict`; derivatives are exact but for rounding. Of
    relu at 0 the derivative is 0.

    Parameters
    ----------
    handle : record array of `compiled`, of one net
    x : (n_in,) array of real numbers
    out : (n_out,) array of floats
    grad : (n_out, n_in) array of floats, or (n_in,) for one output

    Raises
    ------
    ValueError
        If a length is not that of the model, the handle is a copy, or the model is the mean of
        several nets, a classifier of two columns, or sorts its outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, jit
    >>> net, out, grad = MLP((2, 1), seed=0), np.empty(1), np.empty(2)
    >>> jit.gradient(jit.compiled(net), np.ones(2), out, grad)
    >>> bool((grad == net.weights[0][:, 0]).all())
    True
    """
    with np.errstate(over="ignore"):
        _derive(handle, np.array(x), out, grad, run)


@overload(gradient, jit_options={"error_model": "numpy"})
def _gradient(handle: Any, x: Any, out: Any, grad: Any) -> Any:
    if _n_dim("jit.gradient", handle, x, out) == 2 or isinstance(x, types.BaseTuple):
        raise TypingError("jit.gradient: x must be an array of one dimension")

    def derive(handle: Any, x: Any, out: Any, grad: Any) -> None:
        _derive(handle, x, out, grad, _called)

    return derive


# C functions by which others call a model: their types, and what SciPy calls them.
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
    numbers, place = types.CPointer(types.float64), types.voidptr
    function: Any
    if kind == "quad":
        function, signature = _quad, types.float64(types.intc, numbers, place)
    elif kind == "generic_filter":
        function, signature = _generic_filter, types.intc(numbers, types.intp, numbers, place)
    else:
        function, signature = _row(np.dtype(kind)), types.void(place, place, place)
    kinds = signature.args, signature.return_type
    code: Any = CFunc(function, kinds, {}, {"error_model": "numpy"})
    code._cache = CodeCache(f"cpu.jit_{kind}")
    code.compile()
    return code
