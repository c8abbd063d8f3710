"""No kernel's result depends on the order of its threads: see races.py."""

from typing import Any

import numpy as np
import pytest
from nets import Net, orders
from races import ORDERS, watched
from runs import N_ROWS, Run, gpu, trained

from fastmlp import EMA, MLP, fit_many
from fastmlp.backends.cuda import device, engine, grid
from fastmlp.backends.cuda.device import configured, cuda, kernel
from fastmlp.backends.cuda.plan import NetProgress, dtype_of
from fastmlp.backends.protocol import Data
from fastmlp.rules.optimizers import SGD, Adam

each_order = pytest.mark.parametrize("order", ORDERS)
PENALTIES = {"l2": 0.1, "l1": 0.1}


def train(net: Net, *, weighted: bool, rate: float = 0.1) -> Run:
    rng = np.random.default_rng(0)
    parameters, data = net.draw(rng, N_ROWS, weighted=weighted)
    optimizer: Any = SGD(rate) if rate > 1 else Adam(rate, average=EMA(0.9))
    # In phases each step has launches of its own: an epoch is as good as two.
    order = orders(rng, 1 + grid.COOPERATIVE, N_ROWS)
    return trained(gpu(net), parameters, Data(*data), optimizer, order)


@pytest.mark.usefixtures("each_launch")
@pytest.mark.parametrize(("loss", "order"), [("mse", "backward"), ("cross_entropy", "random")])
def test_training(loss: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weighted = loss == "mse"
    net = Net(sizes=(3, 5, 4, 3), loss=loss, penalties=PENALTIES)
    expected = train(net, weighted=weighted)
    watched(ORDERS[order](), monkeypatch)
    got = train(net, weighted=weighted)
    for name in ("parameters", "moments", "losses"):
        assert np.array_equal(getattr(got, name), getattr(expected, name)), name


@each_order
@pytest.mark.usefixtures("each_launch")
@pytest.mark.parametrize("rate", [1e200, 1e308], ids=["loss", "parameters"])
def test_divergence(rate: float, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread waits at a barrier for threads that have returned."""
    watched(ORDERS[order](), monkeypatch)
    run = train(Net(output_activation="identity"), weighted=False, rate=rate)
    assert run.diverged
    assert np.isfinite(run.parameters).all()


@each_order
def test_evaluations_and_single_steps(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    net = Net(loss="cross_entropy", sizes=(3, 4, 3), penalties=PENALTIES)
    parameters, data = net.draw(rng, 7, weighted=True)
    monkeypatch.setattr(engine, "CHUNK_NUMBERS", 120)

    def answers() -> Any:
        engine, copied = gpu(net), parameters.copy()
        yield engine.predictor(copied)(data.x)
        yield engine.evaluation(Data(*data))(copied)
        value, slopes = engine.objective(Data(*data))(copied)
        yield value
        yield slopes
        moments = engine.moments()
        engine.update(copied, moments, Adam(0.1), slopes, Adam(0.1).coefficients(1, np.ones(1)))
        yield copied
        yield moments.flat()
        yield device.all_finite(device.MODULE.to_device(data.x))
        yield device.all_finite(device.MODULE.to_device(data.x * np.nan))

    expected = list(answers())
    watched(ORDERS[order](), monkeypatch)
    for got, answer in zip(answers(), expected, strict=True):
        assert np.array_equal(got, answer)


@pytest.mark.usefixtures("each_launch")
@each_order
def test_many_nets(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=6)

    def trained() -> list[MLP]:
        options: dict[str, Any] = {"dtype": "float64", "device": "cuda"}
        options["optimizer"] = Adam(average=EMA(0.9))
        nets = [MLP((3, 4, 1), seed=i, **options) for i in range(3)]
        fit_many(nets, x, y, epochs=2, batch_size=[4, 4, 6])
        return nets

    expected = trained()
    watched(ORDERS[order](), monkeypatch)
    for net, like in zip(trained(), expected, strict=True):
        assert np.array_equal(net.parameters, like.parameters)


def test_a_missing_barrier_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(body: Any, n_blocks: int = 1) -> None:
        made, records = kernel(body), body is of_fields
        numbers = np.zeros(1, dtype_of(NetProgress)) if records else np.zeros((1, 4))
        configured(made, (numbers,), n_blocks, 2)(device.MODULE.to_device(numbers))

    def unordered(x: Any) -> None:
        x[0, cuda.threadIdx.x] = 1.0
        x[0, 2 + cuda.threadIdx.x] = x[0, 1 - cuda.threadIdx.x]

    def ordered(x: Any) -> None:
        x[0, cuda.threadIdx.x] = 1.0
        cuda.syncthreads()
        x[0, 2 + cuda.threadIdx.x] = x[0, 1 - cuda.threadIdx.x]

    def late(x: Any) -> None:
        seen = x[0, 1 - cuda.threadIdx.x]
        x[0, cuda.threadIdx.x] = seen + 1.0

    def of_blocks(x: Any) -> None:
        if cuda.threadIdx.x == 0:
            x[0, 0] = 1.0 + x[0, 0]

    def of_fields(x: Any) -> None:
        progress = x[0]
        progress.batch_mass = 1.0
        progress.reached = 1 + cuda.threadIdx.x

    def gone(x: Any) -> None:
        if cuda.threadIdx.x == 0:
            cuda.syncthreads()

    def apart(x: Any) -> None:
        if cuda.threadIdx.x == 0:
            cuda.syncthreads()
        if cuda.threadIdx.x == 1:
            cuda.syncthreads()

    watched(ORDERS["random"](), monkeypatch)
    launch(ordered)
    for body, n_blocks, words in (
        (unordered, 1, "no barrier behind it|is changed by one thread and read by"),
        (late, 1, "no barrier behind it|is changed by one thread and read by"),
        (of_blocks, 2, "is changed by one block and read by|is changed by block"),
        (of_fields, 1, r"array of \(1,\), .*\.reached is changed by thread \d, no barrier"),
        (gone, 1, "some wait for threads that are gone"),
        (apart, 1, "threads wait at different barriers"),
    ):
        with pytest.raises(AssertionError, match=words):
            launch(body, n_blocks)
