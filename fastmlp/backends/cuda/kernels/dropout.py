"""Dropout and noise of one number of a batch, by the words that the CPU draws for it.

Each thread draws the words of its own number's group: 8 units draw the same ones. That is some 100
integer operations a number, beside the two floating-point operations of each of its inputs.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda.device.adapter import device_function
from fastmlp.backends.cuda.kernels.rule_blocks import compiled
from fastmlp.backends.cuda.plan.design import KernelRules
from fastmlp.rules import elementary
from fastmlp.rules.dropout import (
    HIDDEN,
    INPUTS,
    LOW,
    NOISE,
    NORMALS,
    OF_HIDDEN,
    OF_INPUTS,
    OF_NOISE,
    PURPOSES,
    UNITS,
    normals_of,
    philox_of,
)

PIECE, BITS = np.uint64(16), np.uint64(0xFFFF)


class Drawing(NamedTuple):
    """Device functions; the numbers of the step's dropout are from ``memory[at]`` on.

    Attributes
    ----------
    factor : ``f(memory, at, layer, row, unit)``: 0, or the scale of an output that is kept
    disturbed : ``f(memory, at, value, row, unit)``: an input with noise, or dropped
    """

    factor: Any
    disturbed: Any


def make_drawing(rules: KernelRules) -> Drawing:
    """Make the functions for a dtype; they are used in training with dropout or noise alone."""
    scalar, draw = rules.scalar, _make_draw()
    zero, one = scalar(0), scalar(1)
    normal = _make_normal(scalar)

    def decided(memory: Any, at: Any, place: Any, purpose: Any, row: Any, unit: Any) -> Any:
        """Return the factor of a unit, by threshold and scale at ``memory[at + place]``."""
        threshold = memory[at + place]
        if threshold == zero:
            return one
        w0, w1, w2, w3 = draw(memory, at, purpose, row, unit // UNITS)
        j = unit % UNITS
        word = w0
        if j >= 2:
            word = w1
        if j >= 4:
            word = w2
        if j >= 6:
            word = w3
        if j % 2 == 1:
            word = (word & LOW) >> PIECE
        bits = scalar(np.int32(word & BITS))
        return memory[at + place + 1] if bits >= threshold else zero

    decide = device_function(decided)

    def factor(memory: Any, at: Any, layer: Any, row: Any, unit: Any) -> Any:
        return decide(memory, at, HIDDEN + 2 * layer, layer * PURPOSES + OF_HIDDEN, row, unit)

    def disturbed(memory: Any, at: Any, value: Any, row: Any, unit: Any) -> Any:
        deviation = memory[at + NOISE]
        if deviation > zero:
            words = draw(memory, at, OF_NOISE, row, unit // NORMALS)
            value += deviation * normal(words, unit % NORMALS)
        return value * decide(memory, at, INPUTS, OF_INPUTS, row, unit)

    return Drawing(device_function(factor), device_function(disturbed))


def _make_draw() -> Any:
    """Make ``draw(memory, at, purpose, row, group)``, which returns four words."""
    philox = philox_of(device_function)

    def word_at(memory: Any, at: Any) -> Any:
        return np.uint64(memory[at]) | (np.uint64(memory[at + 1]) << PIECE)

    word = device_function(word_at)

    def draw(memory: Any, at: Any, purpose: Any, row: Any, group: Any) -> Any:
        high = np.uint64(purpose) | (np.uint64(memory[at + 6]) << PIECE)
        step, k0, k1 = word(memory, at + 4), word(memory, at), word(memory, at + 2)
        return philox(np.uint64(group), np.uint64(row), high, step, k0, k1)

    return device_function(draw)


def _make_normal(scalar: Any) -> Any:
    """Make ``normal(words, j)``: number j of the four of a group."""

    def fma(a: Any, b: Any, c: Any) -> Any:
        return a * b + c

    log, root = compiled(elementary.log), compiled(elementary.sqrt)
    normals = normals_of(scalar, device_function, device_function(fma), log, root)

    def normal(words: Any, j: Any) -> Any:
        one_word, other, w2, w3 = words
        if j >= 2:
            one_word, other = w2, w3
        first, second = normals(one_word, other)
        return second if j % 2 == 1 else first

    return device_function(normal)
