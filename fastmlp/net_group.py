"""NetGroup: nets side by side in the user's loop, all stepped by one call."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import compress, repeat
from typing import Any, Literal, SupportsIndex, overload

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike, NDArray

from fastmlp._process import locks
from fastmlp.backends.cpu import side_by_side
from fastmlp.backends.cpu.kernels.epoch import DECLINED, NOT_FINITE
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.quick_step import convert_array, products_of
from fastmlp.backends.cpu.side_by_side import DriverCalls, Entry
from fastmlp.backends.cpu.tuning import STAGED_PRODUCTS
from fastmlp.compiler import block_of
from fastmlp.many.jobs import nets_of
from fastmlp.model import MLP
from fastmlp.network.state import NetState
from fastmlp.training.derivatives import (
    DerivativeWeight,
    Given,
    is_default,
    is_one,
)
from fastmlp.training.derivatives import of_nets as derivatives_of_nets
from fastmlp.training.steps import Kept, Kind, Steps
from fastmlp.validation import Array, arrays, gaps, scalars
from fastmlp.validation.calls import assignable, explained
from fastmlp.validation.gaps import MissingTargets
from fastmlp.validation.heads import ByHead, Columns, HeadForms, WeightsByHead
from fastmlp.validation.messages import count

WHO = "NetGroup"
LABEL_DTYPES = (np.dtype(np.int64), np.dtype(np.int32))
# Maximum multiply-adds of a call, which holds the GIL: 0.5 ms of one thread.
MOST_PRODUCTS_OF_CALL = 1 << 24


class GroupCalls:
    """Entries of nets in compiled calls of one kind.

    Attributes
    ----------
    form : shapes, dtypes and contiguity of the last call's arrays and rows
    is_plain : True if arrays of this form are taken as they are
    dtypes, each : of X, y and weights: kinds of numbers, and True for an axis of nets
    by_net : `each` of the arrays from which `rows` are taken
    change : value of `locks.change` when the entries were taken
    n_tabled : steps whose coefficients are known since then
    """

    def __init__(self, factory: Any, states: Sequence[NetState]) -> None:
        self.entries = np.zeros(len(states), Entry.dtype)
        n = len(states)
        self._driver_calls = DriverCalls(factory)
        self._states = states
        self.job = self._driver_calls.job
        self.job["entries"] = address(self.entries)
        self.columns = {name: self.entries[name] for name in Entry.dtype.names or ()}
        self.form: Any = None
        self.is_plain = False
        self.dtypes: Any = ()
        self.each: list[bool] = []
        self.by_net: list[bool] | None = None
        self.n_checked = self.n_rows = self.n_tabled = 0
        self.change: object = None
        self.members: list[tuple[Steps, Kept] | None] = [None] * n
        self.products, self.buffers = [0] * n, list[Any]()

    def set_entry(
        self, i: int, record: int, factory: Any, dtype: Any, products: int
    ) -> None:
        """Set record, block of the dtype, and multiply-adds of net i."""
        self.columns["record"][i] = record
        self.columns["block"][i] = block_of(factory, dtype).address
        self.products[i] = products

    def run(self, n_checked: int, n_threads: int | None, n_rows: int = 1) -> int:
        """Run the calls of all nets; return the number done, or -1 for invalid rows."""
        job = self.job
        n_nets = len(self._states)
        products = sum(self.products) * n_rows
        if products <= MOST_PRODUCTS_OF_CALL:
            job["first"] = 0
            job["last"] = n_nets
            job["n_checked"] = n_checked
            self._driver_calls.run(products, n_threads)
            return int(job["n_done"])
        n_done = 0
        most = max(1, MOST_PRODUCTS_OF_CALL * n_nets // products)
        for first in range(0, n_nets, most):
            if first:
                time.sleep(0)  # Others may want the GIL.
            job["first"] = first
            job["last"] = min(first + most, n_nets)
            job["n_checked"] = 0 if first else n_checked
            self._driver_calls.run(products * most // n_nets, n_threads)
            if job["n_done"] < 0:
                return -1
            n_done += job["n_done"]
        return n_done

    def settle(self) -> None:
        """Count the steps that were taken,
        while the locks are held; again changes no count.
        """
        for state, number in zip(
            self._states, self.columns["number"].tolist(), strict=True
        ):
            state.n_steps = number
            state.lock.n_published += 1


def _acquire(all_locks: list[Any], flags: list[bool]) -> None:
    """Acquire all locks, unless another thread holds one.

    Flags are written in one step, so that an interrupt leaves all known.
    """
    while True:
        flags.extend(map(type(all_locks[0]).acquire, all_locks, repeat(False)))
        if all(flags):
            return
        held = all_locks[flags.index(False)]
        _release(all_locks, flags)
        with held:
            pass


def _release(all_locks: list[Any], flags: list[bool]) -> None:
    """Release the acquired locks in one step; a second time changes nothing."""
    try:
        any(map(type(all_locks[0]).release, compress(all_locks, flags)))
        flags.clear()
    except RuntimeError:
        # An interrupt came after the release: flags alone are left.
        flags.clear()


def _plain(value: Any, dtype: np.dtype[Any]) -> Any:
    """Real numbers as a C-contiguous array of this dtype;
    other values are returned unchanged.
    """
    if type(value) is not ndarray or (value.dtype == dtype and value.flags.carray):
        return value
    made = convert_array(value, dtype)
    return value if made is None else made


@assignable(also="the settings of each net")
class NetGroup:
    """Nets side by side in your loop: one call takes a step of each.

    Each net ends with the bits of `MLP.train_on_batch`, for any number of threads.
    Between calls each net may be saved, fitted or stepped alone, and be in several
    groups. ``group[i]`` is net i, ``group[1:3]`` a group of nets 1 and 2, and a loop
    over a group has its nets.

    Parameters
    ----------
    nets : sequence of MLP
        Each net once, with equal numbers of inputs and outputs;
        hidden layers, rules, optimizers, dtypes and seeds may differ.
    n_threads : int, optional
        Number of nets to step at once; None: all threads of the process.

    Attributes
    ----------
    nets : tuple of MLP

    Raises
    ------
    TypeError, ValueError
        If nets are not such a sequence, or n_threads is not a positive int.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, Adam, NetGroup
    >>> rng = np.random.default_rng(0)
    >>> group = NetGroup([MLP((2, 16, 1), optimizer=Adam(0.01), seed=i) for i in range(5)])
    >>> for step in range(300):
    ...     X = rng.uniform(-1, 1, (32, 2)).astype(np.float32)
    ...     losses = group.train_on_batch(X, X[:, :1] * X[:, 1:])
    >>> losses.shape, bool(losses.max() < 0.02)
    ((5,), True)
    >>> group.predict(X).std(axis=0).shape
    (32, 1)
    """

    nets: tuple[MLP, ...] = ()

    @explained
    def __init__(self, nets: Iterable[MLP], *, n_threads: int | None = None) -> None:
        # Nets must agree in inputs and outputs; other differences cost speed alone.
        vars(self)["nets"] = tuple(nets_of(nets, WHO))
        if not self.nets:
            raise ValueError(f"{WHO}: nets has no net")
        if n_threads is not None:
            scalars.positive_integer(WHO, "n_threads", n_threads)
        networks = [net._network for net in self.nets]
        ends = [it.layout.sizes[:: it.layout.n_layers] for it in networks]
        for i, pair in enumerate(ends):
            if pair != ends[0]:
                raise ValueError(
                    f"{WHO}: nets must have as many inputs and outputs as nets[0], "
                    f"{ends[0]}, but nets[{i}] has {pair}"
                )
        self._n_threads = n_threads
        (self._n_in, self._n_out) = ends[0]
        forms = {
            (it.dtype, it.loss.targets == "classes", it.loss.per_target)
            for it in networks
        }
        self._alike = len(forms) == 1
        self._of_one_kind = len({it.loss.targets for it in networks}) == 1
        form = (networks[0].dtype, *max(forms)[1:])
        self._dtype, self._has_labels, per_target = form
        self._width = 1 if self._has_labels else self._n_out // per_target
        self._has_heads = any(it.heads for it in networks)
        self._columns: dict[Kind, Columns] = {}
        every = {it.targets for it in networks}
        joint = every.pop() if len(every) == 1 else None
        if isinstance(joint, HeadForms):
            targets = Columns(joint, self._dtype, slopes=False)
            slopes = Columns(joint, self._dtype, slopes=True)
            self._columns = {"batch": targets, "gradient": slopes}
            self._width = targets.width
        self._states, self._lock = [net._state for net in self.nets], threading.RLock()
        self._calls: dict[str, GroupCalls] = {}
        self._process: object = None

    def __reduce__(self) -> Any:
        """Copied and pickled as nets:
        addresses are valid in this object and process only.
        """
        return partial(NetGroup, n_threads=self._n_threads), (self.nets,)

    def __len__(self) -> int:
        return len(self.nets)

    def __iter__(self) -> Iterator[MLP]:
        return iter(self.nets)

    @overload
    def __getitem__(self, index: SupportsIndex) -> MLP: ...
    @overload
    def __getitem__(self, index: slice) -> NetGroup: ...
    def __getitem__(self, index: SupportsIndex | slice) -> MLP | NetGroup:
        """The net at an index, or a group of the nets of a slice."""
        if isinstance(index, slice):
            return NetGroup(self.nets[index], n_threads=self._n_threads)
        if not isinstance(index, SupportsIndex):
            raise TypeError(f"{WHO}: an index must be an int or a slice, got {index!r}")
        try:
            return self.nets[index]
        except IndexError:
            known = f"the group has {count(len(self), 'net')}"
            text = f"{WHO}: there is no net {operator.index(index)}: {known}"
            raise IndexError(text) from None

    @explained
    def train_on_batch(
        self,
        X: ArrayLike,
        y: ByHead,
        sample_weight: ArrayLike | WeightsByHead | None = None,
        rows: ArrayLike | Sequence[ArrayLike] | None = None,
        *,
        missing_targets: MissingTargets = "raise",
        derivatives: ArrayLike | None = None,
        derivative_weight: DerivativeWeight = 1.0,
    ) -> NDArray[np.float64]:
        """Take one optimizer step of each net, with the bits of `MLP.train_on_batch`.

        Parameters
        ----------
        X : (n_rows, n_features) array for all nets, or (n_nets, n_rows, n_features)
            C-contiguous arrays of the nets' dtype are not copied.
            Nets of other dtypes or kinds of targets take steps by separate calls.
        y : (n_rows,) or (n_rows, n_outputs) array for all nets, or with a leading axis of nets
            Nets with heads take a tuple or a dict of such arrays.
        sample_weight : (n_rows,), (n_nets, n_rows) or (n_nets, n_rows, n_targets) array, optional
            Weights of targets have an axis of nets.
        rows : (n_nets, n) array of int, or a sequence of indices or masks, one per net, optional
            Rows of X, y and weights for each net, such as a bootstrap sample.
            Nets with other numbers of rows take steps by separate calls.
        missing_targets : "raise" or "ignore"
            As for `MLP.train_on_batch`.
            Nets take steps by separate calls where targets of a row weigh apart.
        derivatives, derivative_weight
            As for `MLP.train_on_batch`, `derivatives` perhaps with a leading axis of
            nets; not with `rows`. Nets take steps by separate calls.

        Returns
        -------
        (n_nets,) array of float64
            Objectives before the step. A net whose loss is not finite is unchanged,
            with a RuntimeWarning the first time.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `MLP.train_on_batch`, with the net's number. If X,
            y or weights are invalid, all nets are unchanged.
        """
        is_plain = missing_targets == "raise" and derivatives is None
        if is_plain and is_one(derivative_weight):
            return self._stepped("batch", X, y, sample_weight, rows)
        who = f"{WHO}.train_on_batch"
        ignores = gaps.checked(missing_targets, who)
        if derivatives is None and is_default(derivative_weight):
            return self._stepped("batch", X, y, sample_weight, rows, ignores)
        if rows is not None:
            raise ValueError(f"{who}: derivatives are not taken by rows: use X[rows]")
        given = Given(derivatives, derivative_weight)
        arguments = (X, y, sample_weight)
        return self._with_derivatives(arguments, given, ignores, who)

    def _with_derivatives(
        self, arguments: Any, given: Given, ignores: bool, who: str
    ) -> NDArray[np.float64]:
        """Take the steps one by one, after a check of all rows."""
        n_nets = len(self.nets)
        each = [*self._each("batch", arguments, who), True]
        arguments = (*arguments, given.of_nets(n_nets, self._n_out, who))
        losses = np.empty(n_nets)
        self._one_by_one("batch", arguments, each, losses, range(n_nets), who, ignores)
        return losses

    @explained
    def train_on_gradient(
        self,
        X: ArrayLike,
        output_gradient: ByHead | None,
        *,
        jacobian_gradient: ArrayLike | None = None,
    ) -> None:
        """Take one optimizer step of each net,
        with the bits of `MLP.train_on_gradient`.

        Parameters
        ----------
        X : (n_rows, n_features) array for all nets, or (n_nets, n_rows, n_features)
        output_gradient : (n_nets, n_rows, n_outputs) array, or (n_rows, n_outputs) for all nets
            Gradient of an objective by the raw outputs of each net.
        jacobian_gradient : array as of `MLP.train_on_gradient`, optional
            Gradient by the raw Jacobian, perhaps with a leading axis of nets.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `train_on_batch`.
        """
        if jacobian_gradient is not None:
            who = f"{WHO}.train_on_gradient"
            for steps, data, name in self._given(
                "jacobian_gradient", X, output_gradient, jacobian_gradient, who
            ):
                steps._step("jacobian_gradient", data, name)
            return
        self._stepped("gradient", X, output_gradient, None, None)

    def _given(
        self, kind: Kind, X: Any, slopes: Any, of_jacobian: Any, who: str
    ) -> list[tuple[Steps, Any, str]]:
        """Each net's steps, rows with gradients by outputs and Jacobian, and name."""
        of_X, of_slopes, _ = self._each("gradient", (X, slopes, None), who)
        n_nets = len(self.nets)
        name = "jacobian_gradient"
        each = derivatives_of_nets(of_jacobian, n_nets, self._n_out, name, who)
        result = []
        for i, net in enumerate(self.nets):
            steps = net._single_steps()
            own = f"{who}: nets[{i}]"
            steps.require_steps(own)
            rows = (X[i] if of_X else X, slopes[i] if of_slopes else slopes)
            result.append((steps, steps._given(kind, *rows, own, each[i]), own))
        return result

    @overload
    def vjp(
        self,
        X: ArrayLike,
        output_gradient: ByHead | None,
        inputs: Literal[True] = True,
        parameters: Literal[True] = True,
        *,
        jacobian_gradient: ArrayLike | None = None,
    ) -> tuple[list[Array], Array]: ...
    @overload
    def vjp(
        self,
        X: ArrayLike,
        output_gradient: ByHead | None,
        inputs: Literal[False],
        *,
        jacobian_gradient: ArrayLike | None = None,
    ) -> list[Array]: ...
    @overload
    def vjp(
        self,
        X: ArrayLike,
        output_gradient: ByHead | None,
        *,
        parameters: Literal[False],
        jacobian_gradient: ArrayLike | None = None,
    ) -> Array: ...
    @explained
    def vjp(
        self,
        X: ArrayLike,
        output_gradient: ByHead | None,
        inputs: bool = True,
        parameters: bool = True,
        *,
        jacobian_gradient: ArrayLike | None = None,
    ) -> Any:
        """Return gradients by parameters and inputs of each net,
        with the bits of `MLP.vjp`.

        Nets are differentiated one after the other, each by its own threads.

        Parameters
        ----------
        X : (n_rows, n_features) array for all nets, or (n_nets, n_rows, n_features)
        output_gradient : (n_nets, n_rows, n_outputs) array, or (n_rows, n_outputs) for all nets
            Gradient of an objective by the raw outputs of each net.
        inputs : bool, default True
            Also return the gradients by X.
        parameters : bool, default True
            False: return the gradients by X alone.
        jacobian_gradient : array as of `MLP.vjp`, optional
            Gradient by the raw Jacobian, perhaps with a leading axis of nets.

        Returns
        -------
        gradients : list of n_nets (n_parameters,) arrays, summed over the rows, with `parameters`
        input_gradients : (n_nets, n_rows, n_features) array, with `inputs`

        Raises
        ------
        TypeError, ValueError
            The errors of `MLP.vjp`, with the net's number.

        Examples
        --------
        >>> from fastmlp import MLP, NetGroup
        >>> group = NetGroup([MLP((2, 1), seed=i) for i in range(3)])
        >>> gradients, by_X = group.vjp([[1.0, 2.0], [5.0, 6.0]], [[1.0], [10.0]])
        >>> gradients[0], by_X.shape
        (array([51., 62., 11.], dtype=float32), (3, 2, 2))
        """
        who = f"{WHO}.vjp"
        scalars.boolean(who, "inputs", inputs)
        if not scalars.boolean(who, "parameters", parameters) and not inputs:
            raise ValueError(
                f"{who}: inputs=False and parameters=False leave nothing to return"
            )
        _, columns = self._of_heads("gradient", X, output_gradient)
        x: Any = X
        slopes: Any = output_gradient if columns is None else columns
        of_X, of_gradient, _ = self._each("gradient", (X, slopes, None), who)
        n_nets = len(self.nets)
        name = "jacobian_gradient"
        more = derivatives_of_nets(jacobian_gradient, n_nets, self._n_out, name, who)
        results = [
            net._single_steps().vjp(
                x[i] if of_X else x,
                slopes[i] if of_gradient else slopes,
                inputs,
                parameters,
                f"{who}: nets[{i}]",
                more[i],
            )
            for i, net in enumerate(self.nets)
        ]
        if not parameters:
            return np.stack(results)
        if not inputs:
            return results
        gradients, by_inputs = zip(*results, strict=True)
        return list(gradients), np.stack(by_inputs)

    @explained
    def predict(self, X: ArrayLike, out: Array | None = None) -> Array:
        """Return the predictions of each net, with the bits of `MLP.predict`.

        Parameters
        ----------
        X : (n_rows, n_features) array for all nets, or (n_nets, n_rows, n_features)
        out : (n_nets, n_rows, n_outputs) array of the nets' dtype, optional

        Returns
        -------
        (n_nets, n_rows, n_outputs) array
            `out`, or a new array. Mean and deviation of the nets are ``.mean(axis=0)``
            and ``.std(axis=0)``.

        Raises
        ------
        TypeError, ValueError
            If X or `out` has a wrong type, shape or value.
        """
        return self._predicted(X, out, "predict")

    @explained
    def predict_raw(self, X: ArrayLike, out: Array | None = None) -> Array:
        """Return the raw outputs of each net, before output activations or links.

        Parameters, results and errors as for `predict`.
        """
        return self._predicted(X, out, "predict_raw")

    def _stepped(
        self,
        kind: Kind,
        X: Any,
        y: Any,
        weight: Any,
        rows: Any,
        ignores: bool = False,
    ) -> Array:
        who = f"{WHO}.train_on_{kind}"
        looked, columns = self._of_heads(kind, X, y)
        y = y if columns is None else columns
        arguments = (X, y, weight)
        # An object that is not an array equals no other:
        # its form is looked at each time.
        form = [
            (it.shape, it.dtype, it.flags.carray)
            if type(it) is ndarray
            else None
            if it is None
            else object()
            for it in (X, looked, weight, rows)
        ]
        losses: Any = None
        left: Any = range(len(self.nets))
        with self._lock:
            calls = self._calls.get(kind)
            if calls is None:
                calls = self._calls[kind] = GroupCalls(
                    side_by_side.step_nets, self._states
                )
            ready = form == calls.form
            if not ready:
                calls.form = calls.by_net = None
            if rows is not None:
                if isinstance(y, tuple | Mapping) and self._has_heads:
                    raise TypeError(
                        f"{who}: with rows, X and the targets of each head must be "
                        "arrays, labels of integers; or call each net's train_on_batch"
                    )
                arguments = self._rows(calls, arguments, rows, who)
            if not ready:
                taken = [it is not None for it in arguments]
                if rows is None:
                    calls.each = self._each(kind, arguments, who)
                else:
                    calls.each = taken
                if self._takes_labels(kind):
                    own = getattr(arguments[1], "dtype", None)
                else:
                    own = None
                calls.dtypes = (
                    self._dtype,
                    own if own in LABEL_DTYPES else self._dtype,
                    self._dtype,
                )
            plain = arguments
            if not (ready and calls.is_plain):
                plain = tuple(map(_plain, arguments, calls.dtypes))
            if not ready and y is looked and self._fits(kind, calls, plain):
                ready = True
                calls.is_plain = all(map(operator.is_, plain, arguments))
                # Masks of one form may have other numbers of rows.
                calls.form = form if rows is None or calls.by_net else None
            each = calls.each
            if ready and (n_done := self._step_by_one_call(kind, calls, plain)) >= 0:
                losses = calls.columns["loss"].copy()
                if n_done == len(losses):
                    return losses
                left = self._looked_at(calls, losses, who)
        losses = np.empty(len(self.nets)) if losses is None else losses
        if columns is not None and kind == "batch":
            split = self._columns[kind].split
            (x, y, weight) = arguments
            y = [split(y[i] if each[1] else y) for i in range(len(self.nets))]
            arguments = (x, y, weight)
            each = [each[0], True, each[2]]
        self._one_by_one(kind, arguments, each, losses, left, who, ignores)
        return losses

    def _of_heads(self, kind: Kind, X: Any, y: Any) -> tuple[Any, Array | None]:
        """Arrays that a call may take for y,
        and the columns that an entry a head became.

        The first is an object that no call takes where heads' targets need other
        checks.
        """
        columns = self._columns.get(kind)
        if columns is None:
            refused = self._has_heads and kind == "batch"
            return (object() if refused else y), None
        if type(y) is ndarray and kind == "gradient":
            return y, None
        made = None
        if type(X) is ndarray and X.ndim > 1:
            n = X.shape[-2]
            n_nets = len(self.nets)
            made = columns(y, (n,))
            if made is None:
                made = columns(y, (n_nets, n))
        if made is None:
            return object(), None
        return made, None if made is y else made

    def _takes_labels(self, kind: Kind) -> bool:
        return self._has_labels and kind == "batch"

    def _each(self, kind: Kind, arguments: Any, who: str) -> list[bool]:
        """True for X, y and weights with a leading axis of nets."""
        n_nets = len(self.nets)
        X = arguments[0]
        n = X.shape[-2] if type(X) is ndarray and X.ndim > 1 else -1
        # Two axes of y are nets and rows only if they cannot be rows and targets.
        of_y = getattr(arguments[1], "shape", ()) == (n_nets, n) != (n, self._width)
        n_axes = (2, 2 - (of_y and kind == "batch"), 1)
        each = [
            type(it) is ndarray and it.ndim > n
            for it, n in zip(arguments, n_axes, strict=True)
        ]
        second = "y" if kind == "batch" else "output_gradient"
        names = "X", second, "sample_weight"
        for name, it, by_net in zip(names, arguments, each, strict=True):
            if by_net and len(it) != n_nets:
                raise ValueError(
                    f"{who}: {name} of shape {it.shape} has a leading axis, which must be "
                    f"{n_nets}, one for each net"
                )
        return each

    def _rows(self, calls: GroupCalls, arguments: Any, rows: Any, who: str) -> Any:
        """The arguments at each net's rows;
        `calls.by_net` is known of arrays of this form.
        """
        n_nets = len(self.nets)
        each: Any = calls.by_net
        if each is None:
            arguments = [None if it is None else np.asarray(it) for it in arguments]
            each = self._each("batch", arguments, who)
            n = (arguments[0].shape[each[0] :] or (0,))[0]
            for name, it, by_net in zip(
                ("X", "y", "sample_weight"), arguments, each, strict=True
            ):
                if it is not None and it.shape[by_net:][:1] != (n,):
                    raise ValueError(
                        f"{who}: {name} must have {n} rows, as X, got {it.shape}"
                    )
            if not isinstance(rows, (Sequence, ndarray)) or len(rows) != n_nets:
                raise ValueError(
                    f"{who}: rows must be indices or masks for each of {n_nets} nets"
                )
        index: Any = rows
        n = arguments[0].shape[each[0]]
        plain = (
            type(rows) is ndarray
            and rows.ndim == 2
            and rows.dtype.kind in "iu"
            and rows.size
        )
        # A negative number becomes a huge one.
        if plain and rows.astype(np.uint64, copy=False).max() < n:
            calls.by_net = each
        else:
            where = f"{who}: nets[{{}}]".format
            index = [
                arrays.row_index(it, n, where(i), "rows") for i, it in enumerate(rows)
            ]
            if len({len(k) for k in index}) == 1:
                index = np.stack(index)
        if type(index) is ndarray:
            # One gather of all nets, 2 us (seven nets, 32 rows each);
            # kernels gather rows, too, but checks and labels want them together.
            nets = np.arange(n_nets)[:, None]
            return [
                it
                if it is None
                else it[nets, index]
                if by_net
                else it.take(index, axis=0)
                for it, by_net in zip(arguments, each, strict=True)
            ]
        return [
            it
            if it is None
            else [(it[i] if by_net else it)[k] for i, k in enumerate(index)]
            for it, by_net in zip(arguments, each, strict=True)
        ]

    def _fits(self, kind: Kind, calls: GroupCalls, plain: Any) -> bool:
        """True if these arrays can belong to one call."""
        # Arrays of these dtypes are contiguous: others are copied.
        if not self._alike or any(
            it is not None and (type(it) is not ndarray or it.dtype != dtype)
            for it, dtype in zip(plain, calls.dtypes, strict=True)
        ):
            return False
        shapes: Any = (
            it if it is None else it.shape[e:]
            for it, e in zip(plain, calls.each, strict=True)
        )
        x, y, weight = shapes
        n = x[:1]
        labels = self._takes_labels(kind)
        targets = (*n, self._width if kind == "batch" else self._n_out)
        fits = len(x) == 2 and x[1] == self._n_in and x[0] > 0 and weight in (None, n)
        fits = fits and (not labels or plain[1].dtype in LABEL_DTYPES)
        fits = fits and (
            y == targets or (y == n and targets[1:] == (1,) and kind == "batch")
        )
        if not fits:
            return False
        for name, it, by_net in zip(
            ("x", "y", "weight"), plain, calls.each, strict=True
        ):
            calls.job[f"{name}_step"] = it.strides[0] if by_net else 0
        calls.job["label_bytes"] = plain[1].itemsize if labels else 0
        # A net's step checks its rows, too: rows that are the same for all nets are
        # taken by each, or by not one.
        differ = True in calls.each or not self._of_one_kind
        calls.n_checked = len(self.nets) if differ else 0
        if calls.n_rows != x[0]:
            calls.n_rows = x[0]
            calls.change = None
        return True

    def _step_by_one_call(self, kind: Kind, calls: GroupCalls, plain: Any) -> int:
        """Take the steps by one call; return the number of nets done, or -1.

        The locks of all nets are held meanwhile. Entries serve until a net changes
        otherwise or the known coefficients are used up. What Ctrl-C cuts at the end is
        done again.
        """
        job = calls.job
        x, y, weight = plain
        job["x"], job["y"] = address(x), address(y)
        job["weight"] = 0 if weight is None else address(weight)
        flags: list[bool] = []
        try:
            _acquire(self._own_locks(), flags)
            entries_hold = calls.change is locks.change[0] and calls.n_tabled > 0
            if not (entries_hold or self._fill_entries(kind, calls)):
                return -1
            calls.change = None
            calls.n_tabled -= 1
            try:
                n_done = calls.run(calls.n_checked, self._n_threads)
            finally:
                try:
                    calls.settle()
                except KeyboardInterrupt:
                    calls.settle()
                    raise
            calls.change = locks.change[0] = object()
            return n_done
        finally:
            try:
                _release(self._locks, flags)
            except KeyboardInterrupt:
                _release(self._locks, flags)
                raise

    def _own_locks(self) -> list[Any]:
        """The locks of the nets' parameters, in this process."""
        if self._process is not locks._process[0]:
            self._process = locks._process[0]
            self._locks = [state.lock.parameters for state in self._states]
        return self._locks

    def _fill_entries(self, kind: Kind, calls: GroupCalls) -> bool:
        """Ensure that all nets can take the next step by the call;
        the locks are held.
        """
        numbers, n_tabled = [], []
        for i, (net, state) in enumerate(zip(self.nets, self._states, strict=True)):
            steps = net._single_steps()
            n = calls.n_rows
            known, kept = calls.members[i] or (None, None)
            if (
                known is not steps
                or kept is None
                or kept.quick is None
                or kept.quick.n_rows != n
            ):
                products = products_of(state.layout, n)
                kept = None
                if net._device == "cpu" and products <= MOST_PRODUCTS_OF_CALL:
                    kept = steps.ready(kind, (n, self._n_in))
                if kept is None or kept.quick.take_rows(n) is None:
                    return False
                check = side_by_side.check_rows
                calls.set_entry(i, kept.quick.address, check, self._dtype, products)
                calls.members[i] = steps, kept
            if state.lock.owner is not None or not steps.set_up(kept, 0):
                return False
            numbers.append(state.n_steps)
            n_tabled.append(steps.n_tabled)
        calls.columns["number"][:] = numbers
        calls.n_tabled = min(n_tabled)
        return True

    def _looked_at(self, calls: GroupCalls, losses: Array, who: str) -> Any:
        """Warn of nets whose numbers are not finite;
        return the nets that were declined.
        """
        status = calls.columns["status"]
        lost = calls.columns["is_lost"] != 0
        for i in np.flatnonzero(lost | (status == NOT_FINITE)):
            steps = self.nets[i]._single_steps()
            steps._warn(losses[i], f"{who}: nets[{i}]", taken=bool(lost[i]))
        return np.flatnonzero(status == DECLINED)

    def _one_by_one(
        self,
        kind: Kind,
        arguments: Any,
        each: list[bool],
        losses: Array,
        places: Any,
        who: str,
        ignores: bool,
    ) -> None:
        """Take the steps of nets that no call takes yet,
        or ever, after a check of all rows.
        """
        checked = []
        for i in places:
            steps = self.nets[i]._single_steps()
            name = f"{who}: nets[{i}]"
            own = (
                it[i] if by_net else it
                for it, by_net in zip(arguments, each, strict=True)
            )
            x, y, weight, *given = own
            rows = steps.checked(kind, x, y, weight, name, ignores, *given)
            checked.append((i, steps, rows, name))
        for i, steps, (data, names), name in checked:
            if kind == "gradient":
                losses[i] = steps.take(kind, data, name)
            else:
                losses[i] = steps.on_checked(data, name)
            self._states[i].feature_names = names

    def _predicted(self, X: Any, out: Any, name: str) -> Array:
        """All nets' predictions, (n_nets, n_rows, n_outputs), in one call if it pays.

        Nets that differ, are large or on a GPU predict one after the other.
        """
        who = f"{WHO}.{name}"
        each = self._each("gradient", (X, None, None), who)[0]
        x = _plain(X, self._dtype)
        n = x.shape[-2] if type(x) is ndarray and x.ndim == 2 + each else 0
        whole = (len(self.nets), n, self._n_out)
        products = 0
        for net in self.nets:
            layout = net._state.layout
            own = n * layout.n_weights
            few = layout.is_plain or own <= STAGED_PRODUCTS
            products += (
                own if few and net._device == "cpu" else MOST_PRODUCTS_OF_CALL + 1
            )
        if (
            0 < products <= MOST_PRODUCTS_OF_CALL
            and x.shape[-1] == self._n_in
            and self._alike
        ):
            result = arrays.out_array(out, whole, self._dtype, who)
            if not np.may_share_memory(x, result) and self._predict(
                name, x, result, each
            ):
                return result
        parts = []
        for i, net in enumerate(self.nets):
            try:
                parts.append(getattr(net, name)(X[i] if each else X))
            except Exception as error:
                error.add_note(f"in nets[{i}] of the {WHO}")
                raise
        whole = (len(parts), *parts[0].shape)
        return np.stack(
            parts, out=arrays.out_array(out, whole, np.result_type(*parts), who)
        )

    def _predict(self, name: str, x: Array, out: Array, each: bool) -> bool:
        """Write the predictions by one call; return False if a number is not finite."""
        with self._lock:
            if locks.HAS_GIL:
                return self._predict_alone(name, x, out, each)
            flags: list[bool] = []
            try:
                _acquire(self._own_locks(), flags)
                return self._predict_alone(name, x, out, each)
            finally:
                _release(self._locks, flags)

    def _predict_alone(self, name: str, x: Array, out: Array, each: bool) -> bool:
        """Predict all nets in one call by flat parameters; False if one is left out."""
        calls = self._calls.get(name)
        if calls is None:
            calls = self._calls[name] = GroupCalls(
                side_by_side.predict_nets, self._states
            )
            for i, net in enumerate(self.nets):
                predictor: Any = net._new_predictor(raw=name == "predict_raw")
                small = predictor.flat_net()
                n_weights = net._state.layout.n_weights
                calls.set_entry(
                    i,
                    small.address,
                    side_by_side.predict_rows,
                    self._dtype,
                    n_weights,
                )
                calls.buffers.append(small)
        job = calls.job
        job["x"] = address(x)
        job["x_step"] = x.strides[0] if each else 0
        job["y"] = address(out)
        job["y_step"] = out.strides[0]
        job["n_rows"] = out.shape[1]
        return calls.run(0, self._n_threads, out.shape[1]) == len(out)
