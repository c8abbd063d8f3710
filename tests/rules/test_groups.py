"""Parameter groups: which parameters are of which, and their part of a step's coefficients."""

import numpy as np
import pytest

from fastmlp.rules.groups import FROZEN, Factors, ParameterGroup, groups_of
from fastmlp.rules.optimizers import SGD, Adam, AdamW, coefficients_of, n_coefficients_of

RATES = np.geomspace(0.1, 0.01, 5)


def test_layers_that_are_alike_are_one_group() -> None:
    for factors in ([Factors()] * 3, [Factors(0.5, 0.5)] * 3):
        its = groups_of(Adam(), factors)
        assert its.alike
        assert its.groups == (ParameterGroup(factors[0].weights),)
        assert its.places(32) == ((0, 0),) * 3
        assert its.lowest == 0


def test_each_factor_is_a_group_and_frozen_layers_have_none() -> None:
    its = groups_of(SGD(), [Factors(0, 0), Factors(0, 0.5), Factors(1, 0.5)])
    assert its.groups == (ParameterGroup(0.5), ParameterGroup(1.0))
    assert (its.weights, its.biases) == ((FROZEN, FROZEN, 1), (FROZEN, 0, 0))
    assert its.places(8) == ((FROZEN, FROZEN), (FROZEN, 0), (8, 0))
    assert its.lowest == 1
    assert not its.alike
    assert not groups_of(SGD(), [Factors(), Factors(0, 0)]).alike


def test_biases_are_a_group_if_they_alone_do_not_decay() -> None:
    assert groups_of(AdamW(), [Factors()]).alike
    assert groups_of(AdamW(weight_decay=0, decay_biases=False), [Factors()]).alike
    its = groups_of(AdamW(decay_biases=False), [Factors()] * 2)
    assert its.groups == (ParameterGroup(1.0, True), ParameterGroup(1.0, False))
    assert (its.weights, its.biases) == ((0, 0), (1, 1))


def test_one_group_has_the_bits_of_the_optimizer() -> None:
    adam = Adam(clipvalue=0.5)
    expected = np.column_stack([adam.coefficients(7, RATES), np.full(5, 0.5)])
    assert coefficients_of(adam, 7, RATES).tobytes() == expected.tobytes()
    assert n_coefficients_of(adam) == 5


@pytest.mark.parametrize("clipvalue", [None, 0.5])
def test_each_group_has_a_part_of_the_row(clipvalue: float | None) -> None:
    adamw = AdamW(weight_decay=0.2, decay_biases=False, clipvalue=clipvalue)
    groups = groups_of(adamw, [Factors(0.5, 1)])
    table = coefficients_of(adamw, 3, RATES, groups.groups)
    n = n_coefficients_of(adamw)
    ((of_weights, of_biases),) = groups.places(n)
    for first, factor, decay in ((of_weights, 0.5, 0.2), (of_biases, 1, 0.0)):
        plain = AdamW(weight_decay=decay, clipvalue=clipvalue)
        expected = coefficients_of(plain, 3, RATES * factor)
        assert np.array_equal(table[:, first : first + n], expected)
