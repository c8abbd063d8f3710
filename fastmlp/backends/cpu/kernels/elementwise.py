"""Rules in plain loops over memory, each compiled as a block.

A factory takes the scalar type and a rule; its loop takes addresses and counts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.kernels import Scalar
from fastmlp.backends.cpu.plan.records import Slice
from fastmlp.backends.cpu.simd.pack import moves
from fastmlp.compiler import call, njit
from fastmlp.compiler.curvature import curved
from fastmlp.compiler.memory import (
    coefficients_at,
    records_at,
    row,
    rows,
)
from fastmlp.compiler.target import lanes_of
from fastmlp.network.layer_settings import ZERO
from fastmlp.rules.updates import GRADIENT_RULES, PENALTIES, unchanged

Rule = Callable[..., Any]
Loop = Callable[..., None]


def activation_loop(scalar: Scalar, rule: Rule, slopes: bool = True) -> Loop:
    """Values of n pre-activations and, with `slopes`, their slopes."""

    def loop(z: Any, value: Any, slope: Any, n: Any) -> None:
        z = row(z, n, scalar)
        value = row(value, n, scalar)
        slope = row(slope, n, scalar)
        for i in range(n):
            results = rule(z[i])
            value[i] = results[0]
            slope[i] = results[1]

    def values(z: Any, value: Any, slope: Any, n: Any) -> None:
        z, value = row(z, n, scalar), row(value, n, scalar)
        for i in range(n):
            value[i] = rule(z[i])[0]

    return loop if slopes else values


def curvature_loop(scalar: Scalar, rule: Rule) -> Loop:
    """Values, slopes and second derivatives of n pre-activations, or of a link's raw
    outputs; `z` may be `value`."""
    find = curved(rule, scalar)

    def loop(z: Any, value: Any, slope: Any, curvature: Any, n: Any) -> None:
        z, value = row(z, n, scalar), row(value, n, scalar)
        slope = row(slope, n, scalar)
        curvature = row(curvature, n, scalar)
        for i in range(n):
            value[i], slope[i], curvature[i] = find(z[i])

    return loop


def link_slopes_loop(scalar: Scalar, rule: Rule, apart: int = 1) -> Loop:
    """Slopes and curvatures of a link of one number, of rows of raw outputs in columns.

    Columns come in groups of `apart`. The link takes the last of each group; the others
    are predictions as they are.
    """
    size = np.dtype(scalar).itemsize
    find = curved(rule, scalar)

    def loop(raw: Any, slope: Any, curvature: Any, n_rows: Any, width: Any) -> None:
        for j in range(width):
            skip = j * n_rows * size
            z = row(raw + skip, n_rows, scalar)
            slopes = row(slope + skip, n_rows, scalar)
            curvatures = row(curvature + skip, n_rows, scalar)
            for r in range(n_rows):
                _, bent, more = find(z[r])
                linear = j % apart < apart - 1
                slopes[r] = scalar(1) if linear else bent
                curvatures[r] = scalar(0) if linear else more

    return loop


def link_loop(scalar: Scalar, rule: Rule, by_row: bool) -> Loop:
    """Links' values of rows of raw outputs,
    in columns. `settings` are of `head_links`.
    """

    def by_number(raw: Any, value: Any, settings: Any, n_rows: Any, width: Any) -> None:
        n = n_rows * width
        raw, value = row(raw, n, scalar), row(value, n, scalar)
        for i in range(n):
            value[i] = rule(raw[i])

    def by_rows(raw: Any, value: Any, settings: Any, n_rows: Any, width: Any) -> None:
        rule(rows(raw, width, n_rows, scalar).T, rows(value, width, n_rows, scalar).T)

    return by_rows if by_row else by_number


def settings_reader(
    scalar: Scalar, n: int, by_output: bool = False
) -> Callable[[Any, Any], Any]:
    """Reads a loss's constants: n numbers,
    or a row with one for each of `width` outputs.
    """

    @njit
    def read(address: Any, width: Any) -> Any:
        return coefficients_at(address, n, scalar)

    @njit
    def read_row(address: Any, width: Any) -> Any:
        return (row(address, width, scalar),)

    @njit
    def read_none(address: Any, width: Any) -> Any:
        return ()

    return read_row if by_output else read if n else read_none


def loss_loop(
    scalar: Scalar,
    rule: Rule,
    by_row: bool,
    mean: bool,
    n_constants: int = 0,
    by_output: bool = False,
    weighted: bool = False,
) -> Loop:
    """Losses (float64) and slopes of n_rows rows of outputs and targets.

    Outputs and targets are columns: loops run along rows and vectorise for few outputs
    too. Constants are read at the address `settings`; with `by_output`, one for each
    output. With `weighted` a factor for each target follows the targets. A target of
    factor 0 adds 0, whatever the rule makes of it.
    """
    size = np.dtype(scalar).itemsize
    read = settings_reader(scalar, n_constants, by_output)

    def by_number(
        output: Any,
        target: Any,
        slope: Any,
        loss: Any,
        settings: Any,
        n_rows: Any,
        width: Any,
        n_targets: Any,
    ) -> None:
        """One column after the other: a row's loss is the sum over its columns in their
        order.
        """
        constants = read(settings, width)
        loss = row(loss, n_rows, np.float64)
        share = 1.0 / width if mean else 1.0
        loss[:] = 0.0
        for j in range(width):
            skip = j * n_rows * size
            p = row(output + skip, n_rows, scalar)
            y = row(target + skip, n_rows, scalar)
            slopes = row(slope + skip, n_rows, scalar)
            if weighted:
                factors = row(target + (width + j) * n_rows * size, n_rows, scalar)
                for r in range(n_rows):
                    value, slope_of_value = rule(p[r], y[r], *constants)
                    slopes[r] = slope_of_value * scalar(share)
                    loss[r] += weigh(factors[r], value)
                    slopes[r] = weigh(factors[r], slopes[r])
                continue
            for r in range(n_rows):
                value, slope_of_value = rule(p[r], y[r], *constants)
                loss[r] += value
                slopes[r] = slope_of_value * scalar(share)
        if share != 1.0:
            for r in range(n_rows):
                loss[r] *= share

    def by_rows(
        output: Any,
        target: Any,
        slope: Any,
        loss: Any,
        settings: Any,
        n_rows: Any,
        width: Any,
        n_targets: Any,
    ) -> None:
        constants = read(settings, width)
        rule(
            rows(output, width, n_rows, scalar).T,
            rows(target, n_targets, n_rows, scalar).T,
            rows(slope, width, n_rows, scalar).T,
            row(loss, n_rows, np.float64),
            *constants,
        )

    @njit
    def weigh(factor: Any, number: Any) -> Any:
        return number * factor if factor > scalar(0) else scalar(0)

    def by_target(
        output: Any,
        target: Any,
        slope: Any,
        loss: Any,
        settings: Any,
        n_rows: Any,
        width: Any,
        n_targets: Any,
    ) -> None:
        """A rule of rows takes one target at a time."""
        constants = read(settings, width)
        n = n_targets // 2
        per_target = width // n
        values = row(loss, n_rows, np.float64)
        share = scalar(1.0 / n if mean else 1.0)
        for j in range(n):
            skip = j * per_target * n_rows * size
            rule(
                rows(output + skip, per_target, n_rows, scalar).T,
                rows(target + j * n_rows * size, 1, n_rows, scalar).T,
                rows(slope + skip, per_target, n_rows, scalar).T,
                values,
                *constants,
            )
            factors = row(target + (n + j) * n_rows * size, n_rows, scalar)
            slopes = row(slope + skip, per_target * n_rows, scalar)
            for r in range(n_rows):
                factors[r] *= share
                for i in range(per_target):
                    place = i * n_rows + r
                    slopes[place] = weigh(factors[r], slopes[place])
                # The factors' places receive the targets' losses.
                factors[r] = weigh(factors[r], scalar(values[r]))
        for r in range(n_rows):
            values[r] = 0.0
            for j in range(n):
                values[r] += row(target + (n + j) * n_rows * size, n_rows, scalar)[r]

    if by_row:
        return by_target if weighted else by_rows
    return by_number


def head_links(scalar: Scalar) -> Loop:
    """The links of heads, each on the columns of its outputs;
    `settings` is the address of their `Slice` records.
    """
    size = np.dtype(scalar).itemsize

    def loop(raw: Any, value: Any, settings: Any, n_rows: Any, width: Any) -> None:
        heads = records_at(settings, width, Slice)
        h = 0
        done = 0
        while done < width:
            head = heads[h]
            skip = done * n_rows * size
            call(head.link, (raw + skip, value + skip, 0, n_rows, head.n_outputs))
            done += head.n_outputs
            h += 1

    return loop


def head_losses(scalar: Scalar) -> Loop:
    """The weighted sums of heads' losses, and slopes, as of `loss_loop`;
    `settings` is the address of their `Slice` records.

    The losses of each head follow the sums, n_rows numbers each.
    """
    size = np.dtype(scalar).itemsize

    @njit
    def scale(slope: int, loss: int, factor: int, n_rows: int, width: int) -> None:
        """Multiply rows by factors;
        a factor of 0 makes 0 of what is not finite, too.
        """
        factors = row(factor, n_rows, scalar)
        values = row(loss, n_rows, np.float64)
        for r in range(n_rows):
            known = values[r] * factors[r]
            values[r] = known if factors[r] > scalar(0) else 0.0
        for j in range(width):
            slopes = row(slope + j * n_rows * size, n_rows, scalar)
            for r in range(n_rows):
                scaled = slopes[r] * factors[r]
                slopes[r] = scaled if factors[r] > scalar(0) else scalar(0)

    def loop(
        output: Any,
        target: Any,
        slope: Any,
        loss: Any,
        settings: Any,
        n_rows: Any,
        width: Any,
        n_targets: Any,
    ) -> None:
        """Heads follow each other in the columns of outputs; a target's place and a
        factor's place are fields of the head's record. A head's slopes are scaled by
        its weight after its loss is summed.
        """
        heads = records_at(settings, width, Slice)
        h = 0
        done = 0
        total = row(loss, n_rows, np.float64)
        total[:] = 0.0
        while done < width:
            head = heads[h]
            skip = done * n_rows * size
            column = n_rows * size
            own = loss + (h + 1) * n_rows * 8
            targets = target + head.target * column
            shape = (n_rows, head.n_outputs, head.n_targets)
            call(
                head.loss,
                (output + skip, targets, slope + skip, own, head.loss_settings, *shape),
            )
            if head.factor >= 0:
                factor = target + head.factor * column
                scale(slope + skip, own, factor, n_rows, head.n_outputs)
            values = row(own, n_rows, np.float64)
            weight = head.weight
            for r in range(n_rows):
                total[r] += weight * values[r]
            slopes = row(slope + skip, n_rows * head.n_outputs, scalar)
            for i in range(n_rows * head.n_outputs):
                slopes[i] *= scalar(weight)
            done += head.n_outputs
            h += 1

    return loop


@njit
def _add(values: Any, n: Any, factor: Any, total: Any) -> None:
    all_values = 0.0
    for j in range(n):
        all_values += values[j]
    row(total, 1, np.float64)[0] += factor * all_values


def penalty_loop(scalar: Scalar, rule: Rule) -> Loop:
    """Adds scale * slope to the gradient, and the sum of values to `total`.

    `values` has room for the values of a panel's rows; columns from `width` on are not
    summed. The sum in one chain -> by columns: 80 -> 14 of 1,000 us
    (784-100-100-10@200).
    """
    lanes = lanes_of(scalar)
    sum_rows = moves(scalar, lanes).sum_rows

    def loop(
        w: Any,
        gradient: Any,
        scale: Any,
        total: Any,
        values: Any,
        zeros: Any,
        n_rows: Any,
        width: Any,
    ) -> None:
        n = n_rows * lanes
        w = row(w, n, scalar)
        gradient = row(gradient, n, scalar)
        value = row(values, n, scalar)
        exact = row(scale, 1, np.float64)[0]
        factor = scalar(exact)
        for i in range(n):
            value[i], slope = rule(w[i])
            gradient[i] += factor * slope
        sum_rows(values, zeros, values, n_rows)
        _add(value, width, exact, total)

    return loop


class Stepped(NamedTuple):
    w: int
    g: int
    m: int
    v: int
    average: int
    signs: int
    coefficients: int


class Penalised(NamedTuple):
    """Addresses: a penalty's strength over the rows of the batch, the sum of its values
    (float64), room for the values, and a vector of zeros."""

    scale: int
    total: int
    values: int
    zeros: int


def _gradient_rule(
    scalar: Scalar, name: str, n_coefficients: int
) -> tuple[Rule, Callable[[Any], Any]]:
    """Two functions: the gradient rule of this name ("": without),
    and the reader of its settings, which follow the coefficients of the update rule.
    """
    n = 1 if name else 0
    skip = n_coefficients * np.dtype(scalar).itemsize

    @njit
    def settings_at(coefficients: Any) -> Any:
        return coefficients_at(coefficients + skip, n, scalar)

    return njit(GRADIENT_RULES.get(name, unchanged)), settings_at


def _average(
    scalar: Scalar, gradient_rule: str, n_coefficients: int, averaged: bool
) -> Callable[..., Any]:
    """Moves n averages toward parameters, or does nothing.

    The gain follows the coefficients of the update rule and of the gradient rule.
    """
    skip = (n_coefficients + (1 if gradient_rule else 0)) * np.dtype(scalar).itemsize

    @njit
    def follow(average: Any, w: Any, coefficients: Any, n: Any) -> None:
        if averaged:
            average, w = row(average, n, scalar), row(w, n, scalar)
            gain = row(coefficients + skip, 1, scalar)[0]
            for i in range(n):
                average[i] += gain * (w[i] - average[i])

    return follow


def _bounds(scalar: Scalar, signed: bool) -> Callable[..., Any]:
    """Sets weights of a wrong sign to 0, or does nothing."""
    zero = scalar(0)
    must_be_zero = scalar(ZERO)

    @njit
    def bound(signs: Any, w: Any, n: Any) -> None:
        if signed:
            signs, w = row(signs, n, scalar), row(w, n, scalar)
            for i in range(n):
                kept = zero if signs[i] * w[i] < zero else w[i]
                w[i] = zero if signs[i] == must_be_zero else kept

    return bound


def penalised_update_loop(
    scalar: Scalar,
    rule: Rule,
    n_coefficients: int,
    penalty: str,
    gradient_rule: str = "",
    averaged: bool = False,
    signed: bool = False,
) -> Loop:
    """A penalty and the step of a rule with two numbers of state, in one pass.

    Division and root of the step occupy one unit of the core;
    the penalty's arithmetic uses others. 4.06 -> 3.94 us (13-32-32-1@32 with l2).
    """
    lanes = lanes_of(scalar)
    find = PENALTIES[penalty]
    change, settings_at = _gradient_rule(scalar, gradient_rule, n_coefficients)
    follow = _average(scalar, gradient_rule, n_coefficients, averaged)
    bound = _bounds(scalar, signed)
    sum_rows = moves(scalar, lanes).sum_rows

    def loop(state: Stepped, penalty: Penalised, n_rows: int, width: int) -> None:
        n = n_rows * lanes
        scale = row(penalty.scale, 1, np.float64)[0]
        w, g = row(state.w, n, scalar), row(state.g, n, scalar)
        m, v = row(state.m, n, scalar), row(state.v, n, scalar)
        value = row(penalty.values, n, scalar)
        factor = scalar(scale)
        constants = coefficients_at(state.coefficients, n_coefficients, scalar)
        settings = settings_at(state.coefficients)
        for i in range(n):
            value[i], slope = find(w[i])
            slope = change(g[i] + factor * slope, *settings)
            w[i], m[i], v[i] = rule(w[i], slope, m[i], v[i], *constants)
        bound(state.signs, state.w, n)
        follow(state.average, state.w, state.coefficients, n)
        sum_rows(penalty.values, penalty.zeros, penalty.values, n_rows)
        _add(value, width, scale, penalty.total)

    return loop


def update_loop(
    scalar: Scalar,
    rule: Rule,
    n_coefficients: int,
    n_moments: int,
    gradient_rule: str = "",
    averaged: bool = False,
    signed: bool = False,
) -> Loop:
    """An optimizer step of n parameters, with the state that the rule uses.

    `gradient_rule` names what changes each gradient before the rule takes it. After the
    step, `signed` parameters are kept to their signs, and `averaged` ones averaged.
    Reading and writing m and v without need doubled the time of SGD.
    """
    follow = _average(scalar, gradient_rule, n_coefficients, averaged)
    bound = _bounds(scalar, signed)
    change, settings_at = _gradient_rule(scalar, gradient_rule, n_coefficients)

    def step(
        w: Any,
        g: Any,
        m: Any,
        v: Any,
        average: Any,
        signs: Any,
        coefficients: Any,
        n: Any,
    ) -> None:
        """State that the rule does not use is neither read nor written; m and v are
        then any addresses.
        """
        address = w
        zero = scalar(0)
        w = row(w, n, scalar)
        g = row(g, n, scalar)
        m = row(m, n, scalar)
        v = row(v, n, scalar)
        constants = coefficients_at(coefficients, n_coefficients, scalar)
        settings = settings_at(coefficients)
        for i in range(n):
            first = m[i] if n_moments > 0 else zero
            second = v[i] if n_moments > 1 else zero
            w[i], m_after, v_after = rule(
                w[i], change(g[i], *settings), first, second, *constants
            )
            if n_moments > 0:
                m[i] = m_after
            if n_moments > 1:
                v[i] = v_after
        bound(signs, address, n)
        follow(average, address, coefficients, n)

    return step
