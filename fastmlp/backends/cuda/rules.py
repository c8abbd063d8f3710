"""A network's rules as device functions: compiled into the kernels, not called by address.

A kernel is made for the rules in use, and cached by them: see `Rules`.
"""

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda.adapter import SIMULATED, device_function
from fastmlp.backends.cuda.elementary import FORMS
from fastmlp.network.spec import Network
from fastmlp.rules.links import Link
from fastmlp.rules.losses import Loss
from fastmlp.rules.optimizers import Optimizer
from fastmlp.rules.updates import N_MOMENTS

Function = Callable[..., Any]


class Rules(NamedTuple):
    """The rules that a kernel is made for, which are the key of compiled kernels.

    Attributes
    ----------
    activations : a net's distinct activations, in the order of their codes
    update : the optimizer's rule, or None for a kernel that only asks
    """

    dtype: str
    activations: tuple[Function, ...]
    loss: Loss
    link: Link
    penalties: tuple[Function, ...]
    update: Function | None = None
    n_coefficients: int = 0


def rules_of(network: Network, optimizer: Optimizer | None = None) -> Rules:
    """Return the rules of a network, with the update rule of an optimizer, if any."""
    update, n = None, 0
    if optimizer is not None:
        update = optimizer.rule
        n = optimizer.coefficients(1, np.ones(1)).shape[1]
    return Rules(
        network.dtype.name,
        tuple(dict.fromkeys(network.activations)),
        network.loss,
        network.link,
        tuple(rule for rule, _ in network.penalties),
        update,
        n,
    )


@cache
def compiled(rule: Function) -> Any:
    """Return the device function of a rule.

    Raises
    ------
    TypeError
        If it is no function.
    """
    function = getattr(rule, "py_func", rule)
    # A link may be an elementary function, whose own body calls NumPy.
    function = function if SIMULATED else FORMS.get(function, function)
    if not isinstance(function, FunctionType):
        raise TypeError(f"the rule {rule!r} does not compile: it is a {type(rule).__name__}")
    return device_function(function)


def activation(rules: Rules) -> Any:
    """Make ``f(code, z) -> (value, slope)``; the code is an index into `Rules.activations`."""
    *others, last = [compiled(rule) for rule in rules.activations]

    def only(code: Any, z: Any) -> Any:
        return last(z)

    chain = device_function(only)
    for code in reversed(range(len(others))):
        chain = _either(code, others[code], chain)
    return chain


def _either(its: int, first: Any, rest: Any) -> Any:
    def either(code: Any, z: Any) -> Any:
        if code == its:
            return first(z)
        return rest(code, z)

    return device_function(either)


def penalty(rules: Rules, scalar: Any) -> Any:
    """Make ``f(w, strengths, start, scale) -> (value, slope)``, the sum over the penalties.

    `strengths` are float64, from `start` on, and so is the value; the slope is of the scalar.
    """

    def nothing(w: Any, strengths: Any, start: Any, scale: Any) -> Any:
        return 0.0, scalar(0)

    chain = device_function(nothing)
    for place in reversed(range(len(rules.penalties))):
        chain = _and(place, compiled(rules.penalties[place]), chain, scalar)
    return chain


def _and(place: int, first: Any, rest: Any, scalar: Any) -> Any:
    def both(w: Any, strengths: Any, start: Any, scale: Any) -> Any:
        value, slope = first(w)
        others, other_slopes = rest(w, strengths, start, scale)
        exact = strengths[start + place] * scale
        return value * exact + others, scalar(exact) * slope + other_slopes

    return device_function(both)


def update(rules: Rules, scalar: Any) -> Any:
    """Make ``f(memory, w, g, m, v, at) -> (w, m, v)``, with the step's coefficients at ``at``."""
    if rules.update is None:
        return None
    rule, take = compiled(rules.update), _taker(rules.n_coefficients)
    n_moments = N_MOMENTS.get(rules.update, 2)

    def step(memory: Any, at: Any, w: Any, g: Any, m: Any, v: Any) -> Any:
        zero = scalar(0)
        # What the rule does not use is not read: the compiler drops it.
        m = m if n_moments > 0 else zero
        v = v if n_moments > 1 else zero
        return rule(w, g, m, v, *take(memory, at))

    return device_function(step)


def _taker(n: int) -> Any:
    """Make ``f(memory, at) -> tuple`` of n numbers."""

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


def row_loss(rules: Rules, scalar: Any) -> Any:
    """Make ``f(outputs, o, slopes, s, delta, d, values, r, y, row, width, scale)``.

    It writes a row's loss to ``values[r]``, and its derivatives with respect to the raw outputs,
    times `scale`, to `delta` from `d` on. Outputs and their slopes begin at `o` and `s`.
    """
    rule, its = compiled(rules.loss.rule), rules.loss
    mean = its.over_outputs == "mean"

    def by_number(
        outputs: Any, o: Any, slopes: Any, s: Any, delta: Any, d: Any,
        values: Any, r: Any, y: Any, row: Any, width: Any, scale: Any,
    ) -> None:  # fmt: skip
        share = 1.0 / width if mean else 1.0
        factor, total = scalar(share * scale), 0.0
        for j in range(width):
            value, slope = rule(outputs[o + j], y[row, j])
            total += value
            delta[d + j] = slope * factor * slopes[s + j]
        values[r] = total * share

    def by_row(
        outputs: Any, o: Any, slopes: Any, s: Any, delta: Any, d: Any,
        values: Any, r: Any, y: Any, row: Any, width: Any, scale: Any,
    ) -> None:  # fmt: skip
        # The rule takes several rows: pass it one.
        rule(
            outputs[None, o : o + width],
            y[row : row + 1],
            delta[None, d : d + width],
            values[r : r + 1],
        )
        factor = scalar(scale)
        for j in range(width):
            delta[d + j] = delta[d + j] * factor * slopes[s + j]

    return device_function(by_row if its.by_row else by_number)


def row_link(rules: Rules) -> Any:
    """Make ``f(outputs, o, out, row, width)``, which writes the predictions of one row."""
    rule, by_rows = rules.link
    link = compiled(rule)

    def by_number(outputs: Any, o: Any, out: Any, row: Any, width: Any) -> None:
        for j in range(width):
            out[row, j] = link(outputs[o + j])

    def by_row(outputs: Any, o: Any, out: Any, row: Any, width: Any) -> None:
        link(outputs[None, o : o + width], out[row : row + 1])

    return device_function(by_row if by_rows else by_number)
