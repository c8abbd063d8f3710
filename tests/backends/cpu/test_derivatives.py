"""Objectives with derivatives by the inputs:
against the complex step, on threads, in chunks.
"""

from typing import Any

import naive
import numpy as np
import pytest
from nets import Net, split

from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.protocol import Data, Derivatives
from fastmlp.validation import Array

SMOOTH = sorted(naive.SLOPES)


def drawn(net: Net, n_rows: int, *, weighted: bool = True) -> tuple[Array, Data]:
    """Parameters and rows, with derivatives of which a third is unknown."""
    rng = np.random.default_rng(n_rows)
    parameters, data = net.draw(rng, n_rows, weighted=weighted)
    shape = (n_rows, net.sizes[-1], net.sizes[0])
    values = rng.normal(size=shape)
    values[rng.uniform(size=shape) < 0.3] = np.nan
    known = (~np.isnan(values)).sum(axis=(1, 2)).astype(float)
    known = known * data.weight if data.weight.size else known
    weights = rng.uniform(0.2, 2, size=shape[1:])
    numbers = (values.astype(net.dtype), known, weights.astype(net.dtype))
    return parameters, data._replace(derivatives=Derivatives(*numbers))


def engine_of(net: Net, n_threads: int | None = 1) -> Engine:
    network = net.network._replace(derivatives="targets")
    return Engine(network, n_threads)


def expected(net: Net, parameters: Array, data: Data) -> tuple[float, Array]:
    """The objective, and its gradient by the complex step."""
    model: dict[str, Any] = {**net.oracle}
    derivatives = data.derivatives
    assert derivatives is not None
    model["derivatives"] = derivatives.values.astype(float)
    model["derivative_weight"] = derivatives.weights.astype(float)
    if data.weight.size:
        model["sample_weight"] = data.weight.astype(float)
    weights, biases = split(net, parameters)
    rows = data.x.astype(float), data.y.astype(float)
    slopes = naive.complex_step_gradient(weights, biases, *rows, **model)
    value = naive.objective(weights, biases, *rows, **model)
    return float(np.real(value)), naive.flatten(*slopes)


def check(net: Net, n_rows: int, tolerance: float = 1e-12, **options: bool) -> None:
    parameters, data = drawn(net, n_rows, **options)
    value, slopes = engine_of(net).objective(data)(parameters)
    their_value, their_slopes = expected(net, parameters, data)
    assert value == pytest.approx(their_value, rel=tolerance)
    largest = np.abs(their_slopes).max()
    np.testing.assert_allclose(slopes, their_slopes, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("activation", SMOOTH)
def test_gradient_is_that_of_the_complex_step(activation: str) -> None:
    check(Net((3, 9, 7, 1), activation, dtype="float64"), 21)


@pytest.mark.parametrize(
    "sizes", [(3, 2), (3, 12), (2, 17, 20), (20, 3, 2), (5, 3, 8, 3)]
)
def test_layers_of_any_shape(sizes: tuple[int, ...]) -> None:
    check(Net(sizes, "tanh", dtype="float64"), 13)


@pytest.mark.parametrize(
    ("loss", "n_outputs"),
    [
        ("binary_cross_entropy", 2),
        ("poisson", 3),
        ("cross_entropy", 3),
        ("gaussian_nll", 2),
    ],
)
def test_derivatives_are_those_of_predictions_after_the_link(
    loss: str, n_outputs: int
) -> None:
    check(Net((4, 6, n_outputs), "tanh", loss=loss, dtype="float64"), 13)


def test_derivatives_after_the_output_activation() -> None:
    net = Net((4, 6, 2), "tanh", output_activation="sigmoid", dtype="float64")
    check(net, 13)


@pytest.mark.parametrize("n_rows", [1, 8, 64, 65, 300])
def test_blocks_of_rows_of_any_number(n_rows: int) -> None:
    check(Net((2, 5, 1), "tanh", dtype="float64"), n_rows, weighted=False)


def test_in_float32() -> None:
    check(Net((3, 17, 2), "tanh", dtype="float32"), 20, tolerance=2e-6)


def test_chunks_of_rows_have_the_gradient_of_all_rows() -> None:
    net = Net((30, 40, 1), "tanh", dtype="float64")
    parameters, data = drawn(net, 1600, weighted=False)
    known = np.full(1600, 30.0)
    given = data.derivatives
    assert given is not None
    values = np.nan_to_num(given.values)
    data = data._replace(derivatives=given._replace(values=values, known=known))
    objective: Any = engine_of(net).objective(data)
    assert objective.session.rows < 1600
    parts = [data._replace(rows=np.arange(r, r + 400)) for r in range(0, 1600, 400)]
    of_parts = [engine_of(net).objective(part)(parameters) for part in parts]
    value, slopes = objective(parameters)
    assert value == pytest.approx(np.mean([each[0] for each in of_parts]), rel=1e-12)
    mean = np.mean([each[1] for each in of_parts], axis=0)
    np.testing.assert_allclose(slopes, mean, rtol=0, atol=1e-13)


def test_evaluation_is_the_objective_without_penalties() -> None:
    net = Net((3, 9, 2), "softplus", dtype="float64")
    parameters, data = drawn(net, 50)
    evaluation: Any = engine_of(net).evaluation(data)
    assert evaluation(parameters) == pytest.approx(
        expected(net, parameters, data)[0], rel=1e-12
    )
    weights, biases = split(net, parameters)
    slopes = naive.tangent_jacobian(weights, biases, data.x, **net.oracle)
    assert data.derivatives is not None
    assert evaluation.derivative_loss == pytest.approx(
        naive.derivative_loss(slopes, data.derivatives.values, data.weight), rel=1e-12
    )
