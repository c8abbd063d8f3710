"""Training in the simulator: the CPU's numbers,
and no race between threads of a block.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
from loss_cases import CASES, cube, descent, fourth, outputs_for
from nets import PENALTY_SETS, Net, orders
from runs import BATCH, N_ROWS, Run, assert_alike, gpu, launches_of, pair, trained
from simulator import ORDERS, watched

from fastmlp import EMA, MLP, Cosine, fit_many
from fastmlp.backends.cpu.engine import Engine as CPU
from fastmlp.backends.cuda import device, engine, training
from fastmlp.backends.cuda import engine as cuda_predict
from fastmlp.backends.cuda.device import configure, cuda, kernel
from fastmlp.backends.cuda.plan import NetProgress, dtype_of
from fastmlp.backends.protocol import Data
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.losses import LINKS, SKLEARN_LOSSES
from fastmlp.rules.optimizers import (
    OPTIMIZERS,
    SGD,
    Adam,
    AdamW,
    Custom,
    ScheduleFreeAdamW,
)

FORMS: list[Any] = [
    *(kind(0.03) for kind in OPTIMIZERS.values()),
    SGD(0.03, momentum=0.9),
    SGD(0.03, momentum=0.9, nesterov=True),
    SGD(0.03, clipvalue=0.02),
    Adam(0.03, clipvalue=0.02),
    SGD(0.03, clipvalue=0.02, average=EMA(0.8)),
    Adam(0.03, average=EMA(0.8)),
    ScheduleFreeAdamW(0.03, warmup_steps=3, weight_decay=0.1),
]
# Factors of layers' rates; AdamW decays no bias, and its clipped slopes.
OF_RATES = [
    Net((2, 4, 3, 1), penalties={"l2": 0.3}, layer_rates=rates)
    for rates in (
        ((0.1, 0.1), (1, 0.5), (1, 0.5)),
        ((0, 0), (0, 0), (2, 1)),
        ((1, 1), (0, 0.5), (0, 0)),
        ((0, 1), (0, 0), (1, 0)),
    )
]
WITH_GROUPS = AdamW(0.03, weight_decay=0.5, decay_biases=False, clipvalue=0.5)
NARROW = Net((3, 5, 2), loss="cross_entropy", dtype="float32", penalties={"l2": 0.1})
# A net, an optimizer, if rows have weights, and epochs.
TRAININGS: dict[str, tuple[Net, Any, bool, int]] = {
    **{name: (Net(activation=name), None, False, 1) for name in ACTIVATIONS},
    **{
        f"output {name}": (Net((2, 3, 2), output_activation=name), None, False, 1)
        for name in ("sigmoid", "tanh", "softplus")
    },
    **{
        f"loss {name}": (Net((3, 4, outputs_for(name, 3)), loss=name), None, True, 1)
        for name in CASES
    },
    **{
        f"penalties {'+'.join(each) or 'none'}": (Net(penalties=each), None, True, 1)
        for each in PENALTY_SETS
    },
    **{repr(optimizer): (Net((2, 3, 1)), optimizer, False, 2) for optimizer in FORMS},
    **{f"rates {i}": (net, WITH_GROUPS, False, 2) for i, net in enumerate(OF_RATES)},
    **{
        str(n): (Net(n), None, False, 1)
        for n in [(3, 2), (1, 1), (2, 9, 5, 3, 2), (11, 1, 10)]
    },
    "float32": (NARROW, None, False, 1),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_training_is_that_of_the_cpu(name: str) -> None:
    net, optimizer, weighted, epochs = TRAININGS[name]
    on_cpu, on_gpu = pair(net, optimizer, weighted=weighted, epochs=epochs)
    assert_alike(on_cpu, on_gpu, 2e-5 if net.dtype == "float32" else 1e-10)
    if net.layer_rates:
        assert np.array_equal(on_gpu.moments == 0, on_cpu.moments == 0)


def test_one_order_serves_every_epoch() -> None:
    assert_alike(*pair(Net((2, 3, 1)), epochs=2, n_orders=1))


@pytest.mark.parametrize("loss", SKLEARN_LOSSES)
def test_losses_of_scikit_learn(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, loss, SKLEARN_LOSSES[loss])
    assert_alike(*pair(Net(loss=loss, sizes=(3, 4, 3))))


def test_rules_of_the_users_own() -> None:
    class Own(Net):
        @property
        def network(self) -> Any:
            network = super().network
            return network._replace(
                activations=(cube, network.activations[-1]),
                loss=network.loss._replace(rule=fourth),
                penalties=((cube, 0.1),),
                link=LINKS["identity"],
            )

    assert_alike(*pair(Own(), Custom(descent, 0.01)))


def two_epochs(cuts: tuple[int, ...] = ()) -> Run:
    rng = np.random.default_rng(0)
    net = Net(penalties={"l2": 0.1})
    parameters, data = net.draw(rng, N_ROWS)
    order = orders(rng, 2, N_ROWS)
    return trained(gpu(net), parameters, Data(*data), Adam(0.1), order, cuts=cuts)


@cache
def two_epochs_at_once() -> Run:
    return two_epochs()


@pytest.mark.usefixtures("each_launch")
@pytest.mark.parametrize("most_steps", [1, 2, 100])
def test_ends_of_launches_change_no_bit(
    most_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = two_epochs_at_once()
    launches_of(most_steps, monkeypatch)
    cut = two_epochs((1, 3))
    assert np.array_equal(once.parameters, cut.parameters)
    assert np.array_equal(once.moments, cut.moments)
    np.testing.assert_allclose(once.losses, cut.losses, rtol=1e-14)


@pytest.mark.usefixtures("each_launch")
@pytest.mark.parametrize("rate", [1e200, 1e308], ids=["loss", "parameters"])
def test_a_divergence_puts_back_what_the_epoch_began_with(rate: float) -> None:
    rng = np.random.default_rng(0)
    net = Net(sizes=(3, 2), output_activation="identity")
    parameters, data = net.draw(rng, N_ROWS)
    # One step an epoch: the check of the parameters comes before the next loss.
    batch = BATCH if rate < 1e300 else N_ROWS
    data.y[:] *= 100
    order = orders(rng, 3, N_ROWS)
    arguments: tuple[Any, ...] = (SGD(rate), order)
    runs = [
        trained(CPU(net.network, 1), parameters, data, *arguments, batch=batch),
        trained(gpu(net), parameters, Data(*data), *arguments, batch=batch),
    ]
    for run in runs:
        assert run.diverged
        assert not run.moments.any()
        assert np.array_equal(run.parameters, parameters)
    assert runs[0].reached == runs[1].reached


@pytest.mark.parametrize("which", ["first", "last"])
def test_a_batch_of_zero_weights_takes_no_step(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    net = Net()
    parameters, data = net.draw(rng, N_ROWS, weighted=True)
    data.weight[:BATCH] = 0
    if which == "first":
        order = np.arange(N_ROWS)[None]
    else:
        order = np.arange(N_ROWS)[None, ::-1].copy()
    if which == "last":
        launches_of(3, monkeypatch)
        data.weight[BATCH - 1] = 1
    on_cpu = trained(CPU(net.network, 1), parameters, data, Adam(0.1), order, epochs=2)
    on_gpu = trained(gpu(net), parameters, Data(*data), Adam(0.1), order, epochs=2)
    assert_alike(on_cpu, on_gpu)


SIZES = (5, 9, 10, 2)
DRAWN: dict[str, Any] = {
    "dropout": [0.3, Cosine(0.5)],
    "input_dropout": 0.2,
    "input_noise": 0.5,
}


def made(device: str, seed: int = 0, **settings: Any) -> MLP:
    keywords = {
        "optimizer": SGD(0.05, momentum=0.9),
        "dtype": "float64",
        **DRAWN,
        **settings,
    }
    return MLP(SIZES, device=device, seed=seed, **keywords)


def rows_of(rng: np.random.Generator) -> tuple[Any, Any]:
    return rng.normal(size=(N_ROWS, SIZES[0])), rng.normal(size=(N_ROWS, SIZES[-1]))


@pytest.mark.parametrize(
    ("activation", "dtype"), [("relu", "float64"), ("identity", "float32")]
)
def test_a_fit_is_that_of_the_cpu(
    activation: str, dtype: str, rng: np.random.Generator
) -> None:
    X, y = rows_of(rng)
    nets = [
        made(device, activation=activation, dtype=dtype) for device in ("cpu", "cuda")
    ]
    losses = [net.fit(X, y, epochs=2, batch_size=BATCH).loss for net in nets]
    tolerance = 1e-5 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(losses[1], losses[0], rtol=tolerance)
    np.testing.assert_allclose(
        nets[1].parameters, nets[0].parameters, rtol=0, atol=tolerance
    )


def test_nets_of_one_launch_have_masks_of_their_own(rng: np.random.Generator) -> None:
    X, y = rows_of(rng)
    X = X.astype(np.float64)
    nets = [made("cuda", seed) for seed in (1, 2)]
    alone = [made("cpu", seed) for seed in (1, 2)]
    nets.append(made("cuda", 1, dropout=[0.0, 0.6]))
    alone.append(made("cpu", 1, dropout=[0.0, 0.6]))
    fit_many(nets, X, y, epochs=2, batch_size=BATCH)
    for net, other in zip(nets, alone, strict=True):
        other.fit(X, y, epochs=2, batch_size=BATCH)
        np.testing.assert_allclose(net.parameters, other.parameters, rtol=0, atol=1e-10)


def test_nothing_is_dropped_but_in_fit(rng: np.random.Generator) -> None:
    X, y = rows_of(rng)
    net = made("cuda")
    plain = made("cuda", dropout=0.0, input_dropout=0.0, input_noise=0.0)
    assert net.loss_and_gradient(X, y)[0] == plain.loss_and_gradient(X, y)[0]
    assert net.predict(X).tobytes() == plain.predict(X).tobytes()
    for each in (net, plain):
        each.apply_gradient(np.ones(len(each.parameters)))
    assert net.parameters.tobytes() == plain.parameters.tobytes()


@pytest.mark.parametrize(
    "net",
    [
        *(Net(loss=name, sizes=(3, 4, outputs_for(name, 3))) for name in CASES),
        *(Net(output_activation=name) for name in ACTIVATIONS),
    ],
    ids=lambda net: f"{net.loss}-{net.output_activation}",
)
def test_predictions(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, data = net.draw(np.random.default_rng(0), 7)
    # Three rows at a time.
    monkeypatch.setattr(cuda_predict, "GPU_CHUNK_NUMBERS", 120)
    for raw in (False, True):
        expected = np.empty((7, net.sizes[-1]))
        CPU(net.network, 1).predict(parameters, data.x, expected, raw=raw)
        got = gpu(net).predictor(parameters, raw=raw)(data.x)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", CASES)
def test_losses_and_gradients(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights in turn: what multiplies by them is the same for every loss."""
    rng = np.random.default_rng(0)
    sizes = (3, 4, outputs_for(loss, 3))
    net = Net(loss=loss, sizes=sizes, penalties={"l2": 0.3, "l1": 0.1})
    parameters, data = net.draw(rng, 7, weighted=[*CASES].index(loss) % 2 == 0)
    cpu = CPU(net.network, 1)
    value, slopes = cpu.loss_and_gradient(parameters, data)
    monkeypatch.setattr(cuda_predict, "GPU_CHUNK_NUMBERS", 120)
    gpu_value, gradient = gpu(net).objective(Data(*data))(parameters)
    assert gpu_value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-10, atol=1e-12)
    evaluation = gpu(net).evaluation(Data(*data))
    for factor in (1.0, 0.5):
        expected = cpu.loss(parameters * factor, data)
        assert evaluation(parameters * factor) == pytest.approx(expected, rel=1e-12)


def test_an_infinite_loss_leaves_later_evaluations_as_they_were() -> None:
    """An epoch's validation loss may overflow, or a line search may go too far."""
    rng = np.random.default_rng(0)
    net = Net(output_activation="identity")
    parameters, data = net.draw(rng, 7)
    engine = gpu(net)
    evaluation = engine.evaluation(Data(*data))
    objective = engine.objective(Data(*data))
    before = evaluation(parameters), objective(parameters)[0]
    assert np.isinf(evaluation(parameters * 1e200))
    assert np.isinf(objective(parameters * 1e200)[0])
    assert (evaluation(parameters), objective(parameters)[0]) == before


each_order = pytest.mark.parametrize("order", ORDERS)
PENALTIES = {"l2": 0.1, "l1": 0.1}


def train(net: Net, *, weighted: bool, rate: float = 0.1) -> Run:
    rng = np.random.default_rng(0)
    parameters, data = net.draw(rng, N_ROWS, weighted=weighted)
    optimizer: Any = SGD(rate) if rate > 1 else Adam(rate, average=EMA(0.9))
    # In phases each step has launches of its own: an epoch is as good as two.
    order = orders(rng, 1 + training.COOPERATIVE, N_ROWS)
    return trained(gpu(net), parameters, Data(*data), optimizer, order)


@pytest.mark.usefixtures("each_launch")
@pytest.mark.parametrize(
    ("loss", "order"), [("mse", "backward"), ("cross_entropy", "random")]
)
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
def test_evaluations_and_single_steps(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    net = Net(loss="cross_entropy", sizes=(3, 4, 3), penalties=PENALTIES)
    parameters, data = net.draw(rng, 7, weighted=True)
    monkeypatch.setattr(engine, "GPU_CHUNK_NUMBERS", 120)

    def answers() -> Any:
        engine = gpu(net)
        copied = parameters.copy()
        yield engine.predictor(copied)(data.x)
        yield engine.evaluation(Data(*data))(copied)
        value, slopes = engine.objective(Data(*data))(copied)
        yield value
        yield slopes
        moments = engine.moments()
        engine.update(
            copied, moments, Adam(0.1), slopes, Adam(0.1).coefficients(1, np.ones(1))
        )
        yield copied
        yield moments.flat()
        yield device.all_finite(device.NUMBA_MODULE.to_device(data.x))
        yield device.all_finite(device.NUMBA_MODULE.to_device(data.x * np.nan))

    expected = list(answers())
    watched(ORDERS[order](), monkeypatch)
    for got, answer in zip(answers(), expected, strict=True):
        assert np.array_equal(got, answer)


@pytest.mark.usefixtures("each_launch")
@each_order
def test_many_nets(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3))
    y = rng.normal(size=6)

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
        made = kernel(body)
        records = body is of_fields
        if records:
            numbers = np.zeros(1, dtype_of(NetProgress))
        else:
            numbers = np.zeros((1, 4))
        configure(made, (numbers,), n_blocks, 2)(device.NUMBA_MODULE.to_device(numbers))

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
        (
            of_fields,
            1,
            r"array of \(1,\), .*\.reached is changed by thread \d, no barrier",
        ),
        (gone, 1, "some wait for threads that are gone"),
        (apart, 1, "threads wait at different barriers"),
    ):
        with pytest.raises(AssertionError, match=words):
            launch(body, n_blocks)
