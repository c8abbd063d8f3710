"""Models inside a user's compiled code: ``from fastmlp import jit``."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.backends.cpu.kernels.epoch import PlainStep
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.embedded import (
    HANDLE,
    SIGNATURES,
    Owner,
    Taker,
    c_function,
    gradient,
    handles_of,
    predict,
    value,
)
from fastmlp.backends.cpu.predict.embedded_steps import (
    EmbeddedDerivatives,
    EmbeddedSteps,
    gap_rows,
    train_on_batch,
    train_on_gradient,
    vjp,
    vjp_record,
)
from fastmlp.backends.protocol import Data, Derivatives
from fastmlp.compiler.memory import record_at
from fastmlp.export.models import TableParts, is_of_tables, parts_of
from fastmlp.model import MLP, core_of
from fastmlp.rules.optimizer_protocol import is_averaged
from fastmlp.training.derivatives import weights_of
from fastmlp.training.steps import Kind, Steps
from fastmlp.validation import gaps, scalars
from fastmlp.validation.gaps import MissingTargets

WHO = "jit.compiled"
# Steps within which coefficients of a constant rate must settle; and a far step.
MOST_SETTLING_STEPS, FAR_STEP = 1 << 18, 1 << 40


@contextmanager
def learner(
    net: MLP | Sequence[MLP],
    *,
    batch_size: int,
    n_steps: int | None = None,
    missing_targets: MissingTargets = "raise",
    derivative_weight: float | ArrayLike | None = None,
) -> Iterator[Any]:
    """A context with a handle by which compiled code trains a net, and predicts.

    `train_on_batch`, `train_on_gradient` and `vjp` have the bits of `MLP`'s methods,
    and `predict` sees each step. Meanwhile other fits of the net are refused, and its
    `n_steps` is fixed. At the context's end the net counts all steps, and the handle
    can no longer train.

    Parameters
    ----------
    net : MLP, on the CPU, or a sequence of them
        A sequence has handles of shape (n_nets, 1):
        ``handles[i]`` belongs to ``net[i]``, also in `prange`.
    batch_size : int, rows of every step
    n_steps : int, optional
        Steps whose coefficients are computed ahead; later steps take the last
        coefficients. None: all steps until they settle, after Adam's bias corrections
        or a schedule's end. Dropout needs a number.
    missing_targets : "raise" or "ignore"
        "ignore": NaN in y is a target that is not known, also among labels, which are
        then floats. A batch without a known target takes no step, and its loss is 0.
    derivative_weight : float, (n_features,) or (n_outputs, n_features) array, optional
        Weights of the squares of `derivatives`, as for `MLP.fit`. Needed for steps with
        derivatives, and for `jacobian_gradient`.

    Raises
    ------
    TypeError, ValueError
        If net is not an MLP, or batch_size or n_steps not a positive int; if a step
        needs Python: averages, bfloat16, a GPU, a batch too large for one call; if
        coefficients never settle, and n_steps is None.
    RuntimeError
        If the net is in training.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, jit
    >>> net, X, y = MLP((2, 4, 1), seed=0), np.ones((8, 2)), np.ones(8)
    >>> with jit.learner(net, batch_size=8) as handle:
    ...     losses = [jit.train_on_batch(handle, X, y) for _ in range(3)]
    >>> losses[2] < losses[0]
    True
    """
    several = isinstance(net, Sequence)
    tables = dict[Any, Any]()
    ignores = gaps.checked(missing_targets, "jit.learner")
    settings = Settings(batch_size, n_steps, ignores, derivative_weight)
    with ExitStack() as stack:
        owners = []
        for i, it in enumerate(net if isinstance(net, Sequence) else [net]):
            who = f"jit.learner: nets[{i}]" if several else "jit.learner"
            owners.append(stack.enter_context(_trained(it, settings, tables, who)))
        handles = handles_of(owners)
        try:
            yield handles if several else handles[0]
        finally:
            handles["learner"] = 0


class Settings(NamedTuple):
    """Arguments of `learner`; `ignores_gaps`: NaN in targets is left out."""

    batch_size: int
    n_steps: int | None
    ignores_gaps: bool
    derivative_weight: Any


@contextmanager
def _trained(
    net: MLP, settings: Settings, tables: dict[Any, Any], who: str
) -> Iterator[Owner]:
    """A context that trains a net;
    nets whose steps take the same numbers share their table.
    """
    batch_size, n_steps, ignores, derivative_weight = settings
    if not isinstance(net, MLP):
        raise TypeError(f"{who}: net must be an MLP, got {type(net).__name__}")
    scalars.positive_integer(who, "batch_size", batch_size)
    core = core_of(net)
    state = core.state
    network = core.engine.network
    if net.device != "cpu":
        raise ValueError(f"{who}: the net is on {net.device!r}: net.to('cpu') moves it")
    steps = net._single_steps()
    steps.require_steps(who)
    if is_averaged(state.optimizer):
        raise ValueError(
            f"{who}: {state.optimizer!r} averages parameters, which compiled steps do "
            "not; use net.train_on_batch, or an optimizer without an average, such as "
            "Adam()"
        )
    with state.lock.training(who):
        layout, dtype = state.layout, network.dtype
        key: Any = (state.optimizer, network.factors, state.n_steps, dtype)
        key = id(net) if network.dropout else key
        if key not in tables:
            tables[key] = _coefficients(steps, dtype, state.n_steps, n_steps, who)
        table = tables[key]
        has_labels = network.loss.targets == "classes"
        x = np.zeros((batch_size, layout.sizes[0]), dtype)
        slopes = np.zeros((batch_size, layout.sizes[-1]), dtype)
        if has_labels:
            n_targets = 1
        else:
            n_targets = layout.sizes[-1] // network.loss.per_target
        if network.heads:
            n_targets = len(network.target_ranges())
        y = np.ones((batch_size, n_targets), np.int64 if has_labels else dtype)
        trainers: list[Any] = []
        record = np.zeros(1, EmbeddedSteps.dtype)
        try:
            targets: Any = y.astype(dtype)
            if ignores and network.heads:
                raise ValueError(
                    f"{who}: missing_targets='ignore' does not take heads; use "
                    "net.train_on_batch"
                )
            weighted = ignores and n_targets > 1
            if weighted:
                targets = np.hstack([targets, targets])
            of_gaps = gap_rows(network, y, targets) if ignores else None
            targets_of: dict[Kind, Any] = {
                "weighted" if weighted else "batch": targets,
                "gradient": slopes,
            }
            numbers: dict[Kind, Derivatives] = {}
            if derivative_weight is not None:
                targets_of |= {"derivatives": targets, "jacobian_gradient": slopes}
                numbers = jacobian_buffers(steps, x, derivative_weight, who)
            for kind, targets in targets_of.items():
                data = Data(x, targets, np.empty(0, dtype))
                data = data._replace(derivatives=numbers.get(kind))
                trainers.append(steps.trainer(kind, data))
                trainers[-1].begin()
            if len({it.session.partition.spacing for it in trainers}) > 1:
                raise ValueError(
                    f"{who}: compiled steps do not take derivatives of so large a net; "
                    "use net.train_on_batch"
                )
            quick = [trainer.pause() for trainer in trainers]
            if None in quick:
                is_mixed = network.compute_dtype is not None
                if is_mixed:
                    cause = "bfloat16"
                else:
                    cause = f"batches of {batch_size} rows of this net"
                raise ValueError(
                    f"{who}: compiled steps do not take {cause}; use net.train_on_batch"
                )
            for trainer, step in zip(trainers, quick, strict=True):
                step.point_to(trainer.constants(table), state.n_steps)
                record_at(step.address, PlainStep).publishes = 1
            objective = steps.new_objective("vjp", Data(x, slopes, np.empty(0, dtype)))
            vjp = vjp_record(objective, state.parameters, x, slopes)
            by_jacobian: Any = None
            if numbers:
                own = numbers["jacobian_vjp"]
                data = Data(x, slopes, np.empty(0, dtype), None, own)
                objective = steps.new_objective("jacobian_vjp", data)
                rows = (x, slopes, own.values)
                by_jacobian = vjp_record(objective, state.parameters, *rows)
            of_derivatives = derivative_record(quick, numbers, by_jacobian)
            steps_of_kinds = (step.address for step in quick[:2])
            places = address(x), address(y), address(slopes)
            record[0] = (
                *steps_of_kinds,
                *places,
                has_labels,
                0,
                len(table) - 1,
                address(vjp[0]),
                0 if of_gaps is None else address(of_gaps[0]),
                0 if of_derivatives is None else address(of_derivatives),
            )
            owner = Owner(network, state.parameters, layout.sizes[-1])
            owner.fields["learner"] = address(record)
            owner.kept += [record, x, y, slopes, quick, table, vjp, of_gaps]
            owner.kept += [numbers, by_jacobian, of_derivatives]
            try:
                yield owner
            finally:
                state.n_steps += int(record[0]["n_taken"])
        finally:
            for trainer in trainers:
                trainer.end()


def jacobian_buffers(
    steps: Steps, x: Any, weight: Any, who: str
) -> dict[Kind, Derivatives]:
    """Memory for a batch's derivatives, or a gradient by them, by kinds of steps."""
    kinds: tuple[Kind, ...] = ("derivatives", "jacobian_gradient", "jacobian_vjp")
    networks = [steps.engine(kind, who).network for kind in kinds]
    sizes = networks[0].layout.sizes
    dtype = networks[0].dtype
    values = np.zeros((len(x), sizes[-1], sizes[0]), dtype)
    if isinstance(weight, str):
        raise ValueError(
            f"{who}: derivative_weight must be a number or an array, got {weight!r}: a "
            "learner has no rows yet"
        )
    weights = weights_of(weight, Data(x, x, x), values, networks[0], who)
    known = np.zeros(len(x))
    nothing = np.empty((0, 0), dtype)
    given = Derivatives(values, np.empty(0), nothing)
    return {kinds[0]: Derivatives(values, known, weights)} | dict.fromkeys(
        kinds[1:], given
    )


def derivative_record(
    quick: list[Any], numbers: dict[Kind, Derivatives], vjp: Any
) -> NDArray[Any] | None:
    if not numbers:
        return None
    record = np.zeros(1, EmbeddedDerivatives.dtype)
    own = numbers["derivatives"]
    places = address(own.values), address(own.known)
    steps = (step.address for step in quick[2:])
    record[0] = (*steps, address(vjp[0]), *places, own.values.shape[1])
    return record


def _coefficients(
    steps: Steps, dtype: np.dtype[Any], first: int, n_steps: int | None, who: str
) -> NDArray[np.floating[Any]]:
    """The table of the coefficients of steps from `first` on,
    until they no longer change.
    """
    if n_steps is not None:
        scalars.positive_integer(who, "n_steps", n_steps)
        return np.ascontiguousarray(steps.coefficients(first, n_steps), dtype)
    last = steps.coefficients(first + FAR_STEP).astype(dtype)
    n = 64
    while n <= MOST_SETTLING_STEPS:
        if np.array_equal(steps.coefficients(first + n - 1).astype(dtype), last):
            table = np.ascontiguousarray(steps.coefficients(first, n), dtype)
            changing = np.flatnonzero(table != last) // table.shape[1]
            return table[: changing[-1] + 2 if len(changing) else 1].copy()
        n += n // 2
    raise ValueError(
        f"{who}: the numbers that a step takes, as its rate or dropout's, do not end: "
        f"give n_steps"
    )


__all__ = [
    "HANDLE",
    "compiled",
    "function",
    "gradient",
    "learner",
    "predict",
    "scipy_callable",
    "train_on_batch",
    "train_on_gradient",
    "value",
    "vjp",
]


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def compiled(model: Any, *, raw: bool = False, freeze: bool = False) -> Any:
    """A handle of a model, by which compiled code predicts.

    Pass handles to compiled functions as arguments: cached code freezes a global, whose
    address is invalid in the next process. Copies and pickles hold addresses of another
    array, and are refused with a ValueError. Send workers the model: each makes a
    handle.

    Parameters
    ----------
    model : MLP, or a fitted estimator, search or model of tables of fastmlp, or a list of them
        Rows of a model of tables are as from `TabularMLPClassifier.codes`.
    raw : bool
        Predict outputs before the link.
    freeze : bool
        Predict by a copy of the parameters. Otherwise predictions see each step, also
        during a fit. A further fit of an estimator makes new parameters, which the
        handle does not see.

    Returns
    -------
    record array of shape (1,), of the Numba type `HANDLE`;
    for a list, shape (n_models, 1)
        All models share the type, so a function is compiled once.
        Handles keep parameters alive.

    Raises
    ------
    TypeError, ValueError
        If the model has another class or is not fitted;
        for `raw`, if it is a model of tables.
    NotImplementedError
        If a model of tables has members of `extra_members`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, jit
    >>> net, out = MLP((2, 8, 3), loss="cross_entropy", seed=0), np.empty(3)
    >>> jit.predict(jit.compiled(net), (0.5, -1.0), out)
    >>> float(out.sum().round(6))
    1.0
    """
    if isinstance(model, (list, tuple)):
        return handles_of(
            [
                _owner(it, raw, freeze, f"{WHO}: models[{i}]")
                for i, it in enumerate(model)
            ]
        )
    return handles_of([_owner(model, raw, freeze, WHO)])[0]


def _owner(model: Any, raw: bool, freeze: bool, who: str) -> Any:
    if is_of_tables(model):
        of_table: TableParts = model._table_parts(who)
        if raw:
            raise ValueError(
                f"{who}: raw=True is for nets, and a model of tables is a mean of some"
            )
        return of_table.owner(freeze=freeze)
    parts = parts_of(model, who)
    core = core_of(parts.net)
    network = core.engine.network
    parameters = core.state.parameters
    parameters = parameters.copy() if freeze else parameters
    if raw:
        return Owner(network.without_output(), parameters, network.layout.sizes[-1])
    return Owner(network, parameters, parts.n_outputs)


def function(dtype: Literal["float32", "float64"] = "float64") -> Any:
    """A C function that predicts a row: ``void f(void *handle, const T *x, T *out)``.

    The function serves all models: the first argument is ``handle.ctypes.data``.
    Any thread may call it while the handle is alive.

    Parameters
    ----------
    dtype : "float32" or "float64", of x and out

    Returns
    -------
    Numba's CFunc
        ``address`` is for C, C++, Rust and Cython, ``ctypes`` for Python.

    Raises
    ------
    ValueError
        For another dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, jit
    >>> handle = jit.compiled(MLP((2, 8, 1), initializer="zeros"))
    >>> x, out = np.ones(2), np.ones(1)
    >>> jit.function().ctypes(handle.ctypes.data, x.ctypes.data, out.ctypes.data)
    >>> float(out[0])
    0.0
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(
            f"jit.function: dtype must be 'float32' or 'float64', got {dtype!r}"
        )
    return c_function(str(dtype))


def scipy_callable(handle: Any, kind: Taker = "quad") -> Any:
    """A model of one output as SciPy's LowLevelCallable,
    which SciPy calls without Python.

    Parameters
    ----------
    handle : record array of `compiled`; the callable keeps it alive
    kind : "quad", for `scipy.integrate.quad` and `nquad`, or "generic_filter", of `scipy.ndimage`
        The number of variables, or of the footprint's elements,
        must equal the model's inputs: else quad gets NaN, and generic_filter raises.

    Raises
    ------
    ValueError
        If the model has several outputs, the handle is a copy, or the kind is unknown.

    Examples
    --------
    >>> from scipy.integrate import quad
    >>> from fastmlp import MLP, jit
    >>> net = MLP((1, 8, 1), initializer="zeros")
    >>> quad(jit.scipy_callable(jit.compiled(net)), 0, 1)[0]
    0.0
    """
    from scipy import LowLevelCallable

    if kind not in SIGNATURES:
        raise ValueError(
            f"jit.scipy_callable: kind must be one of {[*SIGNATURES]}, got {kind!r}"
        )
    value(handle, np.zeros(handle[0].n_in))
    data: Any = ctypes.c_void_p(handle.ctypes.data)
    data.handle = handle
    return LowLevelCallable(c_function(kind).ctypes, data, signature=SIGNATURES[kind])
