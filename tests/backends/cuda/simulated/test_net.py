"""MLP(device="cuda") and benchmarks.gpu in the simulator:
the calls and numbers of the CPU.
"""

import copy
import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import net

from benchmarks import gpu
from fastmlp import (
    EMA,
    MLP,
    SGD,
    SWA,
    Adam,
    Blocks,
    Cosine,
    ScheduleFreeAdamW,
    Status,
    fit_many,
)
from fastmlp.backends.cuda.device import Card, is_device_array
from fastmlp.backends.cuda.training import Launches, Moments
from fastmlp.data import sources as reading
from fastmlp.model import core_of

N_ROWS = 10


@pytest.fixture
def rows() -> Any:
    rng = np.random.default_rng(0)
    return rng.normal(size=(N_ROWS, 3)), rng.integers(2, size=N_ROWS)


def test_a_fit_with_weights_validation_and_callbacks(rows: Any) -> None:
    x, y = rows
    nets = [net("cpu"), net("cuda:0")]
    histories = []
    for each in nets:
        reports: list[Any] = []
        result = reports.append
        histories.append(
            each.fit(
                x,
                y,
                epochs=2,
                batch_size=4,
                sample_weight=np.linspace(0, 2, N_ROWS),
                validation_data=(x[:4], y[:4]),
                callbacks=result,
            )
        )
        assert [report.epoch for report in reports] == [0, 1]
    np.testing.assert_allclose(histories[1].loss, histories[0].loss, rtol=1e-10)
    np.testing.assert_allclose(
        histories[1].validation_loss, histories[0].validation_loss, rtol=1e-10
    )
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-10)
    np.testing.assert_allclose(nets[1].predict(x), nets[0].predict(x), rtol=1e-10)
    np.testing.assert_allclose(
        nets[1].predict_raw(x), nets[0].predict_raw(x), rtol=1e-10
    )
    value, slopes = nets[0].loss_and_gradient(x, y)
    told_value, told_slopes = nets[1].loss_and_gradient(x, y)
    assert told_value == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(told_slopes, slopes, rtol=1e-9, atol=1e-12)
    for each in nets:
        each.apply_gradient(slopes)
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-10)


def test_a_step_taken_apart_obeys_layer_rates_and_frozen_layers(rows: Any) -> None:
    nets = [
        net(device=device, layer_rates=[0.5, {"biases": 0}])
        for device in ("cpu", "cuda")
    ]
    for each in nets:
        first = each.biases[1].copy()
        each.trainable[0] = False
        each.apply_gradient(each.loss_and_gradient(*rows)[1])
        each.trainable[0] = True
        each.apply_gradient(each.loss_and_gradient(*rows)[1])
        assert np.array_equal(each.biases[1], first)
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-10)


AVERAGED = [
    Adam(0.05, average=EMA(0.8)),
    SGD(0.1, average=SWA(0.5)),
    ScheduleFreeAdamW(0.05, warmup_steps=3),
]


@pytest.mark.parametrize("optimizer", AVERAGED, ids=repr)
def test_averages_are_those_of_the_cpu(optimizer: Any, rows: Any) -> None:
    x, y = rows

    def edit(report: Any) -> None:
        seen.append(report.net.parameters.copy())
        if report.epoch == 1:
            report.net.parameters[0] = 0.25

    nets = [net("cpu", optimizer=optimizer), net("cuda", optimizer=optimizer)]
    paths = []
    for each in nets:
        seen: list[Any] = []
        each.fit(x, y, epochs=3, batch_size=4, callbacks=edit, validation_data=(x, y))
        each.apply_gradient(each.loss_and_gradient(x, y)[1])
        each.fit(x, y, epochs=1, batch_size=4)
        paths.append([*seen, *core_of(each).state.slots()])  # type: ignore[misc]
    np.testing.assert_allclose(paths[1], paths[0], rtol=1e-9, atol=1e-12)
    assert nets[1].parameters.tobytes() == paths[1][-1].tobytes()
    # A state of one device goes on on the other.
    nets[1].to("cpu")
    for each in nets:
        each.fit(x, y, epochs=1, batch_size=4)
    np.testing.assert_allclose(
        nets[1].parameters, nets[0].parameters, rtol=1e-9, atol=1e-12
    )


def note(seen: list[bytes], report: Any) -> None:
    seen.append(report.net.parameters.tobytes())


@pytest.mark.filterwarnings("ignore:fit diverged")
@pytest.mark.filterwarnings("ignore:rows of y are one-hot")
@pytest.mark.parametrize("optimizer", AVERAGED, ids=repr)
def test_a_divergence_leaves_the_average_before_the_epoch(
    optimizer: Any, rows: Any
) -> None:
    class Leaping(type(optimizer)):  # type: ignore[misc]
        """With a rate that is too large from the second epoch on."""

        def coefficients(self, first_step: int, rates: Any, **more: Any) -> Any:
            steps = first_step + np.arange(len(rates))
            return super().coefficients(
                first_step, np.where(steps > 2, 1e300, rates), **more
            )

    settings = {name: getattr(optimizer, name) for name in ("learning_rate", "average")}
    nets = [
        net(device, optimizer=Leaping(**settings), loss="mse")
        for device in ("cpu", "cuda")
    ]
    for each in nets:
        seen: list[bytes] = []
        look = partial(note, seen)
        targets = np.eye(2)[rows[1]]
        history = each.fit(rows[0], targets, epochs=2, batch_size=5, callbacks=look)
        assert (history.status, each.n_steps, len(seen)) == (Status.DIVERGED, 0, 1)
        assert each.parameters.tobytes() == seen[0]
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-10)


def test_moving_keeps_the_state(rows: Any) -> None:
    there = net()
    here = net("cpu")
    for each in (there, here):
        each.fit(*rows, epochs=1, batch_size=4)
    core = core_of(there)
    assert isinstance(core.engine.slots(core.state), Moments)
    assert there.to("cpu") is there
    assert there.device == "cpu"
    here.to("cuda")
    for each in (there, here):
        each.fit(*rows, epochs=1, batch_size=4)
    np.testing.assert_allclose(there.parameters, here.parameters, rtol=1e-10)
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        there.to("tpu")


def test_files_copies_and_pickles_keep_the_state(rows: Any, path: Path) -> None:
    gpu_net = net()
    gpu_net.fit(*rows, epochs=1, batch_size=4)
    gpu_net.save(path, include_training_state=True)
    loaded = [MLP.load(path), MLP.load(path, device="cuda")]
    assert [each.device for each in loaded] == ["cpu", "cuda"]
    others = [*loaded, copy.deepcopy(gpu_net), pickle.loads(pickle.dumps(gpu_net))]
    gpu_net.fit(*rows, epochs=1, batch_size=4)
    for each in others:
        each.fit(*rows, epochs=1, batch_size=4)
        np.testing.assert_allclose(each.parameters, gpu_net.parameters, rtol=1e-10)


class OnTheDevice:
    """Another library's array on the GPU; in the simulator, that is host memory."""

    def __init__(self, array: Any) -> None:
        self.array = array
        interface = array.__array_interface__
        names = ("shape", "typestr", "data", "version", "strides")
        self.__cuda_array_interface__ = {name: interface[name] for name in names}


# No array to a type checker.
Elsewhere: Any = OnTheDevice


def test_arrays_of_the_device_are_taken_without_a_copy(rows: Any) -> None:
    x, y = rows
    gpu_net = net()
    other = net("cpu")
    targets = np.eye(2)[y]
    data = core_of(gpu_net).engine.data(Elsewhere(x), Elsewhere(targets), None, "test")
    assert np.shares_memory(data.x, x)
    assert np.shares_memory(data.y, targets)
    gpu_net.fit(Elsewhere(x), Elsewhere(y), epochs=1, batch_size=4)
    other.fit(x, y, epochs=1, batch_size=4)
    np.testing.assert_allclose(gpu_net.parameters, other.parameters, rtol=1e-10)
    out = np.empty((N_ROWS, 2))
    there = Elsewhere(out)
    assert gpu_net.predict(Elsewhere(x), out=there) is there
    np.testing.assert_allclose(out, other.predict(x), rtol=1e-10)
    assert is_device_array(x) is False


def test_arrays_of_the_device_are_checked(rows: Any) -> None:
    x, y = rows
    gpu_net = net()
    with pytest.raises(
        TypeError, match=r"X on a device .* must be float64, got float32"
    ):
        gpu_net.predict(Elsewhere(x.astype(np.float32)))
    with pytest.raises(ValueError, match=r"X on a device .* must be C-contiguous"):
        gpu_net.predict(Elsewhere(x[:, ::-1]))
    with pytest.raises(ValueError, match="X has 2 features, but the net has 3 inputs"):
        gpu_net.predict(Elsewhere(np.ascontiguousarray(x[:, :2])))
    locked = Elsewhere(np.empty((N_ROWS, 2)))
    locked.__cuda_array_interface__["data"] = (locked.array.ctypes.data, True)
    with pytest.raises(ValueError, match=r"MLP\.predict: out must be writeable"):
        gpu_net.predict(x, out=locked)
    with pytest.raises(
        ValueError, match=r"out must have shape \(10, 2\), got \(9, 2\)"
    ):
        gpu_net.predict(x, out=Elsewhere(np.empty((9, 2))))
    with pytest.raises(ValueError, match="X must be finite"):
        gpu_net.fit(Elsewhere(x * np.nan), y)


def test_too_little_memory_names_the_sizes(
    rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Card, "free_bytes", lambda self: 1000)
    words = (
        r"MLP.fit: this takes .* of the memory of cuda:0, where 1 KB are free; use a"
    )
    with pytest.raises(MemoryError, match=words):
        net().fit(*rows)


@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm"])
def test_clipping_by_norm_is_refused(name: str, rows: Any) -> None:
    clip: dict[str, Any] = {name: 1.0}
    gpu_net = net(optimizer=Adam(0.05, **clip))
    before = gpu_net.parameters.copy()
    (x, y) = rows
    words = r'device="cuda" does not clip .* norm .*: use clipvalue, or device="cpu"'
    for train in (
        lambda: gpu_net.fit(x, y, epochs=1),
        lambda: gpu_net.apply_gradient(np.ones_like(before)),
        lambda: fit_many([gpu_net, net()], x, y, epochs=1, batch_size=4),
    ):
        with pytest.raises(ValueError, match=words):
            train()
    assert (gpu_net.n_steps, gpu_net.parameters.tobytes()) == (0, before.tobytes())
    gpu_net.predict(x), gpu_net.loss_and_gradient(x, y)
    assert gpu_net.to("cpu").fit(x, y, epochs=1).loss


def test_mixed_precision_is_refused(rows: Any) -> None:
    gpu_net = net(dtype="float32", compute_dtype="bfloat16")
    (x, y) = rows
    words = (
        r'device="cuda" does not train in mixed precision .*: use compute_dtype=None'
    )
    with pytest.raises(ValueError, match=words):
        gpu_net.fit(x, y, epochs=1)
    gpu_net.predict(x)
    words = (
        r'device="cuda" does not predict in mixed precision .*: use compute_dtype=None'
    )
    for predict in (gpu_net.predict, gpu_net.predict_raw):
        with pytest.raises(ValueError, match=words):
            predict(x, compute_dtype="bfloat16")


def test_a_source_in_several_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LEAST_BATCHES", 2)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(22, 3))
    y = rng.integers(2, size=22)
    weight = rng.uniform(size=22)
    source = Blocks.from_arrays(x, y, weight, rows=5)
    nets = [net("cpu"), net()]
    losses = [
        each.fit(source, epochs=2, batch_size=3, buffer_rows=8).loss for each in nets
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-10)
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-10)


STEP_ROWS = 6


@pytest.fixture
def step_rows() -> Any:
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(STEP_ROWS, 3)),
        rng.integers(2, size=STEP_ROWS),
        rng.uniform(1, 2, STEP_ROWS),
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": Adam(Cosine(0.05, n_steps=3), average=EMA(0.5))},
        {"optimizer": SGD(0.1, momentum=0.9), "dropout": 0.3},
    ],
    ids=["plain", "average", "dropout"],
)
def test_a_step_is_a_fit_of_one_batch(step_rows: Any, settings: Any) -> None:
    x, y, weight = step_rows
    nets = [net(**settings), net(**settings)]
    other = net("cpu", **settings)
    for n, weights in (
        (STEP_ROWS, None),
        (3, weight),
        (STEP_ROWS, None),
        (STEP_ROWS, weight),
    ):
        part: Any = (x[:n], y[:n], None if weights is None else weights[:n])
        history = nets[0].fit(*part[:2], sample_weight=part[2], epochs=1, batch_size=n)
        loss = nets[1].train_on_batch(*part)
        assert loss == history.loss[0]
        assert nets[1].parameters.tobytes() == nets[0].parameters.tobytes()
        assert loss == pytest.approx(other.train_on_batch(*part), rel=1e-10)
        np.testing.assert_allclose(nets[1].parameters, other.parameters, rtol=1e-9)
        assert nets[1].n_steps == nets[0].n_steps
        nets[1].parameters[0] = nets[0].parameters[0] = other.parameters[0] = 0.1


def test_a_step_from_a_gradient_and_a_product_with_the_jacobian(step_rows: Any) -> None:
    x = step_rows[0]
    given = np.random.default_rng(1).normal(size=(STEP_ROWS, 2))
    nets = [net(), net("cpu")]
    for each in nets:
        each.train_on_gradient(x, given)
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-9)
    for sizes in [(3, 4, 2), (3, 2)]:
        shaped = [
            MLP(sizes, dtype="float64", seed=0, device=each) for each in ("cuda", "cpu")
        ]
        products = [each.vjp(x, given) for each in shaped]
        for ours, theirs in zip(*products, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_a_loss_that_is_not_finite_takes_no_step(step_rows: Any) -> None:
    x = step_rows[0]
    each = net(loss="mse")
    y = np.ones((STEP_ROWS, 2))
    each.train_on_batch(x, y)
    other = copy.deepcopy(each)
    with pytest.warns(RuntimeWarning, match="no step was taken"):
        assert not np.isfinite(each.train_on_batch(x, y * 1e200))
    assert each.n_steps == 1
    assert each.parameters.tobytes() == other.parameters.tobytes()
    each.train_on_batch(x, y)
    other.train_on_batch(x, y)
    assert each.parameters.tobytes() == other.parameters.tobytes()


LOAD = gpu.Load((2, 2, 1), 1, "tanh")


def test_parity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PARITY_STEPS", 1)
    report = gpu.parity([LOAD])
    held = [(row["dtype"], row["held"]) for row in report]
    assert held == [("float32", True), ("float64", True)]
    assert all(json.dumps(row) for row in report)


@pytest.mark.parametrize("n_nets", [1, 2])
def test_a_contestant_trains_its_nets_in_one_launch(
    n_nets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Any] = []
    run = Launches.run

    def kept(launches: Launches, spans: Any) -> None:
        run(launches, spans)
        launched.append([span.losses[0] > 0 for span in spans])

    monkeypatch.setattr(Launches, "run", kept)
    gpu.contestants(LOAD._replace(n_nets=n_nets))["fastmlp"]()(1)
    assert launched == [[True] * n_nets]


def test_gaps_leave_out_rows_and_not_single_targets() -> None:
    y = np.where(np.arange(16) % 3 == 0, np.nan, 1.0)
    x = np.random.default_rng(0).normal(size=(16, 3))
    options: Any = {"missing_targets": "ignore", "epochs": 2, "batch_size": 4}
    nets = [
        MLP((3, 4, 1), device=device, seed=0, dtype="float64")
        for device in ("cuda", "cpu")
    ]
    for each in nets:
        each.fit(x, y, shuffle=False, **options)
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-13)
    with pytest.raises(ValueError, match="does not weigh the targets of a row apart"):
        MLP((3, 4, 2), device="cuda").fit(x, np.column_stack([y, y**0]), **options)
