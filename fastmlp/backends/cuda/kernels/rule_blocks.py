"""A network's rules as device functions, which are compiled into the kernels.

The functions of `fastmlp.rules.elementary` are libdevice's, in the argument's precision. Their
errors are 1 to 2 units in the last place (CUDA C++ Programming Guide).
"""

import importlib
import math
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

from fastmlp.backends.cuda.device.adapter import MODULE, SIMULATED, device_function, unsigned
from fastmlp.backends.cuda.kernels.arguments import Net, OutputRow
from fastmlp.backends.cuda.plan.design import KernelRules
from fastmlp.backends.cuda.plan.plan import NO_AVERAGE, OWN_AVERAGE, Plan
from fastmlp.rules import elementary
from fastmlp.rules.losses import in_dtype
from fastmlp.rules.updates import GRADIENT_RULES, N_MOMENTS, unchanged

Function = Callable[..., Any]


def logistic(x: Any) -> Any:
    one = type(x)(1)
    e = math.exp(-abs(x))
    return (e if x < 0 else one) / (one + e)


def softplus(x: Any) -> Any:
    zero = type(x)(0)
    return (zero if x < zero else x) + math.log1p(math.exp(-abs(x)))


FORMS: dict[Function, Function] = {
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
    """Register the forms with the CUDA compiler; the simulator runs the functions as they are.

    Numba's own module has no `overload`. It is imported without an installed compiler, where
    `card.require` raises.
    """
    extending = importlib.import_module(f"{MODULE.__name__}.extending")
    if not hasattr(extending, "overload"):
        return
    overload = extending.overload

    def register(function: Function, form: Function) -> None:
        @overload(function, strict=False)
        def choose(x: Any) -> Function:
            return form

    for function, form in FORMS.items():
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
    """Return the device function of a rule.

    Raises
    ------
    TypeError
        If the rule is not a function.
    """
    function = getattr(rule, "py_func", rule)
    # A link may be an elementary function; the body of such a function calls NumPy.
    function = function if SIMULATED else FORMS.get(function, function)
    if not isinstance(function, FunctionType):
        raise TypeError(f"the rule {rule!r} does not compile: it is a {type(rule).__name__}")
    return device_function(function)


def activation(rules: KernelRules) -> Any:
    """Make ``f(code, z) -> (value, derivative)``; the code is an index into `rules.activations`."""
    *others, last = [compiled(rule) for rule in rules.activations]

    def only(code: Any, z: Any) -> Any:
        return last(z)

    chain = device_function(only)
    for code in reversed(range(len(others))):
        chain = _either(code, others[code], chain)
    return chain


def _either(own_code: int, first: Any, rest: Any) -> Any:
    def either(code: Any, z: Any) -> Any:
        if code == own_code:
            return first(z)
        return rest(code, z)

    return device_function(either)


def penalty(rules: KernelRules) -> Any:
    """Make ``f(w, strengths, start, scale) -> (value, derivative)``, the sum over the penalties.

    `strengths` are float64, from index `start` on; so is the value. The derivative is of the dtype.
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
    """Make ``f(memory, at, w, g, m, v) -> (w, m, v)``, the coefficients from ``memory[at]`` on."""
    if rules.update is None:
        return None
    scalar, n_settings = rules.scalar, 1 if rules.gradient_rule else 0
    n_gains = 1 if rules.average == OWN_AVERAGE else 0
    rule, n = compiled(rules.update), rules.n_coefficients - n_settings - n_gains
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
    """Make ``f(memory, average, at, w)``: a parameter's average, at ``memory[average]``, follows
    the parameter; the coefficients are from ``memory[at]`` on."""
    last = rules.n_coefficients - 1

    def toward(memory: Any, average: Any, at: Any, w: Any) -> None:
        before = memory[unsigned(average)]
        memory[unsigned(average)] = before + memory[unsigned(at + last)] * (w - before)

    def nothing(memory: Any, average: Any, at: Any, w: Any) -> None:
        pass

    return device_function(toward if rules.average == OWN_AVERAGE else nothing)


def copy_average(rules: KernelRules) -> Any:
    """Make ``f(memory, target, source, first, n, step)``: a copy of every `step`-th of n numbers of
    an average, from the `first` on; nothing for rules without an average."""

    def copy(memory: Any, target: Any, source: Any, first: Any, n: Any, step: Any) -> None:
        for i in range(first, n, step):
            memory[unsigned(target + i)] = memory[unsigned(source + i)]

    def nothing(memory: Any, target: Any, source: Any, first: Any, n: Any, step: Any) -> None:
        pass

    return device_function(nothing if rules.average == NO_AVERAGE else copy)


def restore(rules: KernelRules) -> Any:
    """Make ``f(memory, plan, first, step)``: the end of a training that has diverged.

    Every `step`-th parameter, from the `first` on, and its average become those before the epoch;
    the optimizer's state becomes 0.
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
    """Make ``f(memory, at)``, which returns n numbers as a tuple."""

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
    """Make ``f(numbers, at, losses, place, y, row, scale)`` for one row of a batch.

    It writes the row's loss to ``losses[place]``, and the loss's derivative by the raw outputs,
    times `scale`, to the row's deltas. `at` is an `OutputRow`, with offsets into `numbers`.
    """
    rule, loss, scalar = compiled(rules.loss.rule), rules.loss, rules.scalar
    settings = in_dtype(loss.constants, scalar)
    mean = loss.over_outputs == "mean"

    def by_number(
        numbers: Any, at: Any, losses: Any, place: Any, y: Any, row: Any, scale: Any
    ) -> None:
        share = 1.0 / at.width if mean else 1.0
        factor, total = scalar(share * scale), 0.0
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
    """Make ``f(y, net, r, row, mass)`` for row r of a batch, which is `row` of the data: it writes
    the loss times the row's weight, and the deltas of the output layer.

    `mass` is the sum of the batch's weights.
    """
    loss = row_loss(rules)

    def of_row(y: Any, net: Net, r: Any, row: Any, mass: Any) -> None:
        sums, plan = net.sums, net.plan
        layer, after = net.layers[plan.n_layers - 1], net.layers[plan.n_layers]
        weight, place = 1.0, plan.row_losses + r
        if plan.weighted != 0:
            weight = float(net.memory[unsigned(plan.weights + row)])
        offset, deltas = r * after.input_stride, r * layer.delta_stride
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
    """Make ``f(numbers, outputs, predictions, row, width)``: the predictions of one row from its
    raw outputs, which begin at ``numbers[outputs]``."""
    rule, by_rows = rules.link
    link = compiled(rule)

    def by_number(numbers: Any, outputs: Any, predictions: Any, row: Any, width: Any) -> None:
        for j in range(width):
            predictions[row, j] = link(numbers[outputs + j])

    def by_row(numbers: Any, outputs: Any, predictions: Any, row: Any, width: Any) -> None:
        link(numbers[None, outputs : outputs + width], predictions[row : row + 1])

    return device_function(by_row if by_rows else by_number)
