"""A network's rules as device functions,
compiled into the kernels, and the arguments they take.

Arguments are grouped in tuples, which stay in registers. A field must not be called
`index` or `count`: Numba would take it for the tuple's method.

`fastmlp.rules.elementary` is libdevice's, in the argument's precision,
with errors of 1 to 2 units in the last place (CUDA C++ Programming Guide).
"""

import importlib
import math
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda.device import (
    NUMBA_MODULE,
    SIMULATED,
    device_function,
    unsigned,
)
from fastmlp.backends.cuda.plan import (
    N_PARTIAL_SUMS,
    NO_AVERAGE,
    OWN_AVERAGE,
    KernelRules,
    Layer,
    NetProgress,
    Plan,
)
from fastmlp.rules import dropout, elementary
from fastmlp.rules.losses import in_dtype
from fastmlp.rules.updates import GRADIENT_RULES, N_MOMENTS, unchanged

Function = Callable[..., Any]
PIECE, BITS = np.uint64(16), np.uint64(0xFFFF)


class Samples(NamedTuple):
    """Features `x`, shape (n_rows, n_features),
    and targets `y`, (n_rows, n_targets).
    """

    x: Any
    y: Any


class Net(NamedTuple):
    """One of `Nets`, whose fields are explained there.

    Each kernel makes it anew: no function can return a record.
    """

    memory: Any
    sums: Any
    progress: NetProgress
    plan: Plan
    layers: Sequence[Layer]
    orders: Any


class Batch(NamedTuple):
    """A step's rows.

    Attributes
    ----------
    order : index of the first row's number in the net's orders; -1: the data's order
    mass : the sum of the rows' weights
    coefficients : offset of the step's coefficients in memory
    """

    order: int
    n_rows: int
    mass: float
    coefficients: int


class Strip(NamedTuple):
    """Rows `first` to `first + n_rows - 1` of a batch."""

    first: int
    n_rows: int


class Operand(NamedTuple):
    """A factor of a matrix product.

    Element i at depth d is at ``start + i * stride + d * depth_stride``.
    """

    start: int
    stride: int
    depth_stride: int


class Extent(NamedTuple):
    """Rows and columns of the result, and the sums' length."""

    n_rows: int
    n_columns: int
    depth: int


class Product(NamedTuple):
    """The result of a matrix product.

    Element (r, c) is at ``start + r * stride + c``. Column c's sum begins with the
    number at ``initial + c``, or 0 if `initial` is -1.
    """

    start: int
    stride: int
    initial: int


class OutputRow(NamedTuple):
    """Offsets of one row's outputs, derivatives and deltas, and their number."""

    outputs: int
    derivatives: int
    deltas: int
    width: int


@device_function
def steps_per_epoch(plan: Plan) -> int:
    return (plan.n_rows + plan.batch - 1) // plan.batch


@device_function
def batch_of(plan: Plan, step: int) -> tuple[int, int]:
    """The first row of a step's batch in its epoch, and the number of its rows."""
    start = step % steps_per_epoch(plan) * plan.batch
    return start, min(plan.batch, plan.n_rows - start)


@device_function
def coefficients_at(plan: Plan, step: int) -> int:
    return plan.coefficients + (step - plan.first) * plan.n_coefficients


@device_function
def sum_losses(net: Net, n: int, t: int, n_threads: int) -> None:
    """The partial sums of the losses of a batch's n rows."""
    for s in range(t, N_PARTIAL_SUMS, n_threads):
        part = 0.0
        for r in range(s, n, N_PARTIAL_SUMS):
            part += net.sums[unsigned(net.plan.row_losses + r)]
        net.sums[unsigned(s)] = part


@device_function
def end_batch(net: Net, mass: float) -> float:
    """A batch's loss from partial sums, added to the epoch's; called by one thread."""
    sums = net.sums
    plan = net.plan
    progress = net.progress
    loss = 0.0
    for s in range(N_PARTIAL_SUMS):
        loss += sums[unsigned(s)]
    loss /= mass
    if plan.last_chunk != 0:
        for s in range(plan.n_penalty_sums):
            loss += sums[unsigned(plan.penalty_sums + s)]
    progress.epoch_loss += loss * mass
    progress.epoch_mass += mass
    return loss


def logistic(x: Any) -> Any:
    one = type(x)(1)
    e = math.exp(-abs(x))
    return (e if x < 0 else one) / (one + e)


def softplus(x: Any) -> Any:
    zero = type(x)(0)
    return (zero if x < zero else x) + math.log1p(math.exp(-abs(x)))


CUDA_FORMS: dict[Function, Function] = {
    elementary.exp: lambda x: math.exp(x),
    elementary.expm1: lambda x: math.expm1(x),
    elementary.log: lambda x: math.log(x),
    elementary.log1p: lambda x: math.log1p(x),
    elementary.sqrt: lambda x: math.sqrt(x),
    elementary.tanh: lambda x: math.tanh(x),
    elementary.erf: lambda x: math.erf(x),
    elementary.logistic: logistic,
    elementary.softplus: softplus,
}


def _register() -> None:
    """Numba's module has no `overload`, and is imported without an installed compiler,
    where `device.require` raises; the simulator runs the functions as they are.
    """
    extending = importlib.import_module(f"{NUMBA_MODULE.__name__}.extending")
    if not hasattr(extending, "overload"):
        return
    overload = extending.overload

    def register(function: Function, form: Function) -> None:
        @overload(function, strict=False)
        def choose(x: Any) -> Function:
            return form

    for function, form in CUDA_FORMS.items():
        register(function, form)

    @overload(elementary.exponentials, strict=False)
    def choose_exponentials(raw: Any, out: Any) -> Function:
        return elementary.exponentials

    @overload(elementary.probabilities, strict=False)
    def choose_probabilities(raw: Any, out: Any, rest: Any) -> Function:
        return elementary.probabilities


if not SIMULATED:
    _register()


@cache
def compiled(rule: Function) -> Any:
    """The device function of a rule; a TypeError if it is not a function."""
    function = getattr(rule, "py_func", rule)
    # A link may be an elementary function, whose body calls NumPy.
    function = function if SIMULATED else CUDA_FORMS.get(function, function)
    if not isinstance(function, FunctionType):
        raise TypeError(
            f"the rule {rule!r} does not compile: it is a {type(rule).__name__}"
        )
    return device_function(function)


def activation(rules: KernelRules) -> Any:
    """``f(code, z) -> (value, derivative)``;
    the code is an index into `rules.activations`.
    """
    *others, last = [compiled(rule) for rule in rules.activations]

    def only(code: Any, z: Any) -> Any:
        results = last(z)
        return results[0], results[1]

    chain = device_function(only)
    for code in reversed(range(len(others))):
        chain = _either(code, others[code], chain)
    return chain


def _either(own_code: int, first: Any, rest: Any) -> Any:
    def either(code: Any, z: Any) -> Any:
        if code == own_code:
            results = first(z)
            return results[0], results[1]
        return rest(code, z)

    return device_function(either)


def penalty(rules: KernelRules) -> Any:
    """``f(w, strengths, start, scale) ->
    (value, derivative)``, the sum over the penalties.

    `strengths` are float64, from index `start` on;
    so is the value. The derivative is of the dtype.
    """
    scalar = rules.scalar

    def nothing(w: Any, strengths: Any, start: Any, scale: Any) -> Any:
        return 0.0, scalar(0)

    chain = device_function(nothing)
    for place in reversed(range(len(rules.penalties))):
        chain = _and(place, compiled(rules.penalties[place]), chain, scalar)
    return chain


def _and(place: int, first: Any, rest: Any, scalar: Any) -> Any:
    def both(w: Any, strengths: Any, start: Any, scale: Any) -> Any:
        value, derivative = first(w)
        values, derivatives = rest(w, strengths, start, scale)
        strength = strengths[start + place] * scale
        return value * strength + values, scalar(strength) * derivative + derivatives

    return device_function(both)


def update(rules: KernelRules) -> Any:
    """``f(memory, at, w, g, m, v) -> (w, m, v)``,
    the coefficients from ``memory[at]`` on.
    """
    if rules.update is None:
        return None
    scalar = rules.scalar
    n_settings = 1 if rules.gradient_rule else 0
    n_gains = 1 if rules.average == OWN_AVERAGE else 0
    rule = compiled(rules.update)
    n = rules.n_coefficients - n_settings - n_gains
    change = compiled(GRADIENT_RULES.get(rules.gradient_rule, unchanged))
    take, take_setting = _taker(n), _taker(n_settings)
    n_moments = N_MOMENTS.get(rules.update, 2)

    def step(memory: Any, at: Any, w: Any, g: Any, m: Any, v: Any) -> Any:
        zero = scalar(0)
        # The compiler removes the loads of state that the rule does not use.
        m = m if n_moments > 0 else zero
        v = v if n_moments > 1 else zero
        g = change(g, *take_setting(memory, at + n))
        return rule(w, g, m, v, *take(memory, at))

    return device_function(step)


def follow(rules: KernelRules) -> Any:
    """``f(memory, average, at, w)``: the average at ``memory[average]`` follows the
    parameter; the coefficients are from ``memory[at]`` on.
    """
    last = rules.n_coefficients - 1

    def toward(memory: Any, average: Any, at: Any, w: Any) -> None:
        before = memory[unsigned(average)]
        memory[unsigned(average)] = before + memory[unsigned(at + last)] * (w - before)

    def nothing(memory: Any, average: Any, at: Any, w: Any) -> None:
        pass

    return device_function(toward if rules.average == OWN_AVERAGE else nothing)


def copy_average(rules: KernelRules) -> Any:
    """``f(memory, target, source, first, n, step)``: a copy of every `step`-th of n
    numbers of an average, from the `first` on; nothing for rules without an average.
    """

    def copy(
        memory: Any, target: Any, source: Any, first: Any, n: Any, step: Any
    ) -> None:
        for i in range(first, n, step):
            memory[unsigned(target + i)] = memory[unsigned(source + i)]

    def nothing(
        memory: Any, target: Any, source: Any, first: Any, n: Any, step: Any
    ) -> None:
        pass

    return device_function(nothing if rules.average == NO_AVERAGE else copy)


def restore(rules: KernelRules) -> Any:
    """``f(memory, plan, first, step)``: the end of a training that has diverged.

    Every `step`-th parameter, from the `first` on,
    and its average become those before the epoch; the optimizer's state becomes 0.
    """
    copy = copy_average(rules)

    def back(memory: Any, plan: Plan, first: int, step: int) -> None:
        for i in range(first, plan.n_parameters, step):
            memory[unsigned(plan.parameters + i)] = memory[unsigned(plan.backup + i)]
            memory[unsigned(plan.m + i)] = 0
            memory[unsigned(plan.v + i)] = 0
        copy(memory, plan.average, plan.average_backup, first, plan.n_parameters, step)

    return device_function(back)


def _taker(n: int) -> Any:
    """``f(memory, at)``, which returns n numbers as a tuple."""

    def nothing(memory: Any, at: Any) -> Any:
        return ()

    chain = device_function(nothing)
    for _ in range(n):
        chain = _one_more(chain)
    return chain


def _one_more(rest: Any) -> Any:
    def take(memory: Any, at: Any) -> Any:
        return (memory[at], *rest(memory, at + 1))

    return device_function(take)


def row_loss(rules: KernelRules) -> Any:
    """``f(numbers, at, losses, place, y, row, scale)`` for one row of a batch.

    The function writes the row's loss to ``losses[place]``, and the loss's derivative
    by the raw outputs, times `scale`, to the row's deltas. `at` is an `OutputRow`, with
    offsets into `numbers`.
    """
    rule = compiled(rules.loss.rule)
    loss = rules.loss
    scalar = rules.scalar
    settings = in_dtype(loss.constants, scalar)
    mean = loss.over_outputs == "mean"

    def by_number(
        numbers: Any, at: Any, losses: Any, place: Any, y: Any, row: Any, scale: Any
    ) -> None:
        share = 1.0 / at.width if mean else 1.0
        factor = scalar(share * scale)
        total = 0.0
        for j in range(at.width):
            value, derivative = rule(numbers[at.outputs + j], y[row, j], *settings)
            total += value
            numbers[at.deltas + j] = derivative * factor * numbers[at.derivatives + j]
        losses[place] = total * share

    def by_row(
        numbers: Any, at: Any, losses: Any, place: Any, y: Any, row: Any, scale: Any
    ) -> None:
        # The rule takes matrices: here of one row.
        rule(
            numbers[None, at.outputs : at.outputs + at.width],
            y[row : row + 1],
            numbers[None, at.deltas : at.deltas + at.width],
            losses[place : place + 1],
            *settings,
        )
        factor = scalar(scale)
        for j in range(at.width):
            delta = numbers[at.deltas + j] * factor * numbers[at.derivatives + j]
            numbers[at.deltas + j] = delta

    return device_function(by_row if loss.by_row else by_number)


def output_loss(rules: KernelRules) -> Any:
    """``f(y, net, r, row, mass)`` for row r of a batch, which is `row` of the data:
    it writes the loss times the row's weight, and the deltas of the output layer.

    `mass` is the sum of the batch's weights.
    """
    loss = row_loss(rules)

    def of_row(y: Any, net: Net, r: Any, row: Any, mass: Any) -> None:
        sums, plan = net.sums, net.plan
        layer = net.layers[plan.n_layers - 1]
        after = net.layers[plan.n_layers]
        weight = 1.0
        place = plan.row_losses + r
        if plan.weighted != 0:
            weight = float(net.memory[unsigned(plan.weights + row)])
        offset = r * after.input_stride
        deltas = r * layer.delta_stride
        at = OutputRow(
            after.inputs + offset,
            after.derivatives + offset,
            layer.deltas + deltas,
            plan.n_outputs,
        )
        loss(net.memory, at, sums, place, y, row, weight / mass)
        sums[unsigned(place)] *= weight

    return device_function(of_row)


def row_link(rules: KernelRules) -> Any:
    """``f(numbers, outputs, predictions, row, width)``:
    one row's predictions from its raw outputs, which begin at ``numbers[outputs]``.
    """
    rule, by_rows, _ = rules.link
    link = compiled(rule)

    def by_number(
        numbers: Any, outputs: Any, predictions: Any, row: Any, width: Any
    ) -> None:
        for j in range(width):
            predictions[row, j] = link(numbers[outputs + j])

    def by_row(
        numbers: Any, outputs: Any, predictions: Any, row: Any, width: Any
    ) -> None:
        link(numbers[None, outputs : outputs + width], predictions[row : row + 1])

    return device_function(by_row if by_rows else by_number)


class Drawing(NamedTuple):
    """Device functions; the step's numbers are from ``memory[at]`` on.

    Attributes
    ----------
    factor : ``f(memory, at, layer, row, unit)``: 0, or the scale of an output that is kept
    disturbed : ``f(memory, at, value, row, unit)``: an input with noise, or dropped
    """

    factor: Any
    disturbed: Any


def make_drawing(rules: KernelRules) -> Drawing:
    """Used in training with dropout or noise alone."""
    scalar = rules.scalar
    draw = _make_draw()
    zero, one = scalar(0), scalar(1)
    normal = _make_normal(scalar)

    def decided(
        memory: Any, at: Any, place: Any, purpose: Any, row: Any, unit: Any
    ) -> Any:
        """The factor of a unit, by threshold and scale at ``memory[at + place]``."""
        threshold = memory[at + place]
        if threshold == zero:
            return one
        w0, w1, w2, w3 = draw(memory, at, purpose, row, unit // dropout.UNITS)
        j = unit % dropout.UNITS
        word = w0
        if j >= 2:
            word = w1
        if j >= 4:
            word = w2
        if j >= 6:
            word = w3
        if j % 2 == 1:
            word = (word & dropout.LOW) >> PIECE
        bits = scalar(np.int32(word & BITS))
        return memory[at + place + 1] if bits >= threshold else zero

    decide = device_function(decided)

    def factor(memory: Any, at: Any, layer: Any, row: Any, unit: Any) -> Any:
        return decide(
            memory,
            at,
            dropout.HIDDEN + 2 * layer,
            layer * dropout.PURPOSES + dropout.OF_HIDDEN,
            row,
            unit,
        )

    def disturbed(memory: Any, at: Any, value: Any, row: Any, unit: Any) -> Any:
        deviation = memory[at + dropout.NOISE]
        if deviation > zero:
            words = draw(memory, at, dropout.OF_NOISE, row, unit // dropout.NORMALS)
            value += deviation * normal(words, unit % dropout.NORMALS)
        return value * decide(memory, at, dropout.INPUTS, dropout.OF_INPUTS, row, unit)

    return Drawing(device_function(factor), device_function(disturbed))


def _make_draw() -> Any:
    """``draw(memory, at, purpose, row, group)``, which returns four words."""
    philox = dropout.philox_of(device_function)

    def word_at(memory: Any, at: Any) -> Any:
        return np.uint64(memory[at]) | (np.uint64(memory[at + 1]) << PIECE)

    word = device_function(word_at)

    def draw(memory: Any, at: Any, purpose: Any, row: Any, group: Any) -> Any:
        high = np.uint64(purpose) | (np.uint64(memory[at + 6]) << PIECE)
        step = word(memory, at + 4)
        k0 = word(memory, at)
        k1 = word(memory, at + 2)
        return philox(np.uint64(group), np.uint64(row), high, step, k0, k1)

    return device_function(draw)


def _make_normal(scalar: Any) -> Any:
    """``normal(words, j)``: number j, 0 to 3, of those that four random words give.

    Words 0 and 1 give numbers 0 and 1, words 2 and 3 the others.
    """

    def fma(a: Any, b: Any, c: Any) -> Any:
        return a * b + c

    log = compiled(elementary.log)
    root = compiled(elementary.sqrt)
    normals = dropout.normals_of(
        scalar, device_function, device_function(fma), log, root
    )

    def normal(words: Any, j: Any) -> Any:
        w0, w1, w2, w3 = words
        if j >= 2:
            w0, w1 = w2, w3
        first, second = normals(w0, w1)
        return second if j % 2 == 1 else first

    return device_function(normal)
