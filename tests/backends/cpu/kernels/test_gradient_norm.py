"""Clipping by norm: every form of a step clips alike, padding does not count, and nothing hides."""

from typing import Any

import numpy as np
import pytest
from nets import FORMS, PENALTY_SETS, Net, Run, distance, orders, take_form, train
from panelled import INTERPRETED
from scipy.sparse import csr_matrix

from fastmlp import MLP, SGD, Adam, Status
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.plan import plan
from fastmlp.backends.protocol import Data
from fastmlp.rules.optimizer_protocol import Optimizer, coefficients_of

CLIPS: list[Any] = [{"clipnorm": 0.3}, {"global_clipnorm": 0.3}]
each_clip = pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: next(iter(clip)))
SIZES, BATCH = ((17, 18, 10, 3), 19) if INTERPRETED else ((17, 80, 20, 5), 35)
N_ROWS = 2 * BATCH
RATE = 0.05


def by_hand(
    net: Net, parameters: Any, data: Data, batches: list[Any], name: str, limit: float
) -> Any:
    """Steps of SGD with gradients of the engine, clipped by the formulas, and norms."""
    parameters, layout = parameters.astype(np.float64), net.network.layout
    engine = Engine(net.network, 1)
    starts = [*layout.weights, *layout.biases]
    seen: list[float] = []
    assert isinstance(data.x, np.ndarray)
    for rows in batches:
        part = Data(data.x[rows], data.y[rows], data.weight[rows])
        slopes = engine.loss_and_gradient(parameters, part)[1].astype(np.float64)
        variables = np.split(slopes, starts[1:]) if name == "clipnorm" else [slopes]
        norms = [float(np.linalg.norm(variable)) for variable in variables]
        seen += norms
        pairs = zip(variables, norms, strict=True)
        parameters -= RATE * np.concatenate(
            [variable * min(1, limit / norm) for variable, norm in pairs]
        )
    return parameters, seen


@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("form", [*FORMS, "non-temporal"])
def test_every_form_of_a_step_clips_as_the_formulas_do_on_any_threads(
    form: str, name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(SIZES, penalties=PENALTY_SETS[-1])
    parameters, data = net.draw(rng, N_ROWS, weighted=True)
    order = orders(rng, 1 if INTERPRETED else 2, N_ROWS)
    batch_size = 1 if form == "single row" else BATCH
    batches = [
        rows for epoch in order for rows in np.split(epoch, range(batch_size, N_ROWS, batch_size))
    ]
    free, norms = by_hand(net, parameters, data, batches, name, np.inf)
    limit = float(np.median(norms))
    expected, norms = by_hand(net, parameters, data, batches, name, limit)
    assert min(norms) < limit < max(norms)
    assert distance(free, expected) > 1e-3
    take_form(form, monkeypatch)
    if form == "non-temporal":
        monkeypatch.setattr(plan, "NON_TEMPORAL_BYTES", 0)
    clip: dict[str, Any] = {name: limit}
    runs: list[Run] = []
    # Uncompiled no team gathers.
    for n_threads in (1, 2) if INTERPRETED else (1, 2, 4):
        arguments = (net, parameters, data, SGD(RATE, **clip), order, batch_size)
        runs.append(train(*arguments, n_threads=n_threads))
        assert runs[-1].parameters.tobytes() == runs[0].parameters.tobytes()
        assert runs[-1].losses.tobytes() == runs[0].losses.tobytes()
    assert distance(runs[0].parameters, expected) <= 1e-12


@each_clip
def test_sparse_rows_are_clipped_as_dense_ones(clip: Any, rng: np.random.Generator) -> None:
    net = Net(SIZES, penalties={"l2": 0.3})
    parameters, dense = net.draw(rng, 70)
    dense.x[rng.uniform(size=dense.x.shape) < 0.8] = 0
    engine, order, ends = Engine(net.network, 1), orders(rng, 2, 70), []
    optimizer: Optimizer = Adam(RATE, **clip)
    for data in (dense, dense._replace(x=engine.features(csr_matrix(dense.x)))):
        here, sparse = parameters.copy(), data is not dense
        trainer = engine.trainer(here, engine.moments(sparse=sparse), optimizer, data, 35)
        coefficients = coefficients_of(optimizer, 1, np.full(4, RATE))
        trainer.run(order, coefficients, np.zeros(2), 0, trainer.units_per_epoch * 2)
        trainer.store()
        ends.append(here)
    assert distance(ends[1], ends[0]) <= 1e-12


def spoiled(z: Any) -> Any:
    """Of zero, which padding has, NaN."""
    return z * (z / z), type(z)(1)


@each_clip
def test_padding_does_not_count(clip: Any) -> None:
    X = np.random.default_rng(0).uniform(1, 2, (20, 3))
    nets = [
        MLP((3, 5, 2), activation=rule, optimizer=SGD(RATE, **clip), dtype="float64", seed=0)
        for rule in (spoiled, "identity")
    ]
    for net in nets:
        assert net.fit(X, X[:, :2], epochs=3).status is Status.COMPLETED
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-10)


@each_clip
@pytest.mark.filterwarnings("ignore:fit diverged")
def test_a_norm_that_is_not_finite_is_a_divergence(clip: Any) -> None:
    """Loss, gradient and the parameters of a plain step are finite, the sum of squares is not."""
    X, y = np.full((4, 2), 1e200), np.ones(4)
    for optimizer, status in ((SGD(RATE), "COMPLETED"), (SGD(RATE, **clip), "DIVERGED")):
        net = MLP((2, 1), loss="mae", optimizer=optimizer, dtype="float64", seed=0)
        before = net.parameters.tobytes()
        assert net.fit(X, y, epochs=1, batch_size=4).status is Status[status]
        assert (net.parameters.tobytes() == before) is (status == "DIVERGED")


@each_clip
def test_squares_that_float32_cannot_hold_are_summed(clip: Any) -> None:
    net = MLP((2, 1), loss="mae", optimizer=SGD(RATE, **clip), seed=0)
    before = net.parameters.copy()
    net.fit(np.full((4, 2), 1e30, "f4"), np.ones(4, "f4"), epochs=1, batch_size=4)
    limit = next(iter(clip.values()))
    change = np.linalg.norm(net.weights[0].ravel() - before[:2])
    assert change == pytest.approx(RATE * limit, rel=1e-4)


@each_clip
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_a_step_of_ones_own_is_clipped_as_in_a_fit(frozen: bool, clip: Any) -> None:
    X = np.random.default_rng(0).normal(size=(30, 3))
    nets = [
        MLP((3, 5, 2), optimizer=Adam(RATE, **clip), l2=0.5, dtype="float64", seed=0)
        for _ in range(2)
    ]
    for net in nets:
        net.trainable[0] = not frozen
    for _ in range(5):
        nets[0].fit(X, X[:, :2], epochs=1, batch_size=30, shuffle=False)
        nets[1].apply_gradient(nets[1].loss_and_gradient(X, X[:, :2])[1])
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-12)
