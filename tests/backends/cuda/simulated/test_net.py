"""MLP(device="cuda") in the simulator: the calls and the numbers of a net on the CPU."""

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from nets import generator_of
from runs import net

from fastmlp import (
    EMA,
    MLP,
    SGD,
    SWA,
    Adam,
    Blocks,
    EarlyStopping,
    ReduceLROnPlateau,
    ScheduleFreeAdamW,
    Status,
    fit_many,
)
from fastmlp.backends.cuda.device import Card, is_device_array
from fastmlp.backends.cuda.training import Moments
from fastmlp.data import sources as reading
from fastmlp.model import core_of

N_ROWS = 10


@pytest.fixture
def rows() -> Any:
    rng = np.random.default_rng(0)
    return rng.normal(size=(N_ROWS, 3)), rng.integers(2, size=N_ROWS)


def test_frames_by_name(rows: Any) -> None:
    x, y = rows
    frame = pd.DataFrame(x, columns=[*"abc"])
    nets = [net(), net()]
    nets[0].fit(frame, pd.Series(y), epochs=1, batch_size=4, validation_data=(frame, y))
    nets[1].fit(x, y, epochs=1, batch_size=4)
    assert nets[0].feature_names == ("a", "b", "c")
    mixed = frame[[*"cab"]].assign(d="u")
    assert nets[0].predict(mixed).tobytes() == nets[1].predict(x).tobytes()
    assert nets[0].predict_raw(mixed).tobytes() == nets[1].predict_raw(x).tobytes()


def test_a_fit_with_weights_validation_and_callbacks(rows: Any) -> None:
    x, y = rows
    nets, histories = [net("cpu"), net("cuda:0")], []
    for each in nets:
        reports: list[Any] = []
        result = reports.append
        histories.append(
            each.fit(
                x, y, epochs=2, batch_size=4, sample_weight=np.linspace(0, 2, N_ROWS),
                validation_data=(x[:4], y[:4]), callbacks=result,
            )
        )  # fmt: skip
        assert [report.epoch for report in reports] == [0, 1]
    np.testing.assert_allclose(histories[1].loss, histories[0].loss, rtol=1e-10)
    np.testing.assert_allclose(
        histories[1].validation_loss, histories[0].validation_loss, rtol=1e-10
    )
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-10)
    np.testing.assert_allclose(nets[1].predict(x), nets[0].predict(x), rtol=1e-10)
    np.testing.assert_allclose(nets[1].predict_raw(x), nets[0].predict_raw(x), rtol=1e-10)
    value, slopes = nets[0].loss_and_gradient(x, y)
    told_value, told_slopes = nets[1].loss_and_gradient(x, y)
    assert told_value == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(told_slopes, slopes, rtol=1e-9, atol=1e-12)
    for each in nets:
        each.apply_gradient(slopes)
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-10)


def test_a_step_taken_apart_obeys_layer_rates_and_frozen_layers(rows: Any) -> None:
    nets = [net(device=device, layer_rates=[0.5, {"biases": 0}]) for device in ("cpu", "cuda")]
    for each in nets:
        first = each.biases[1].copy()
        each.trainable[0] = False
        each.apply_gradient(each.loss_and_gradient(*rows)[1])
        each.trainable[0] = True
        each.apply_gradient(each.loss_and_gradient(*rows)[1])
        assert np.array_equal(each.biases[1], first)
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-10)


def test_a_callback_stops_and_its_edits_count(rows: Any) -> None:
    def stop(report: Any) -> None:
        report.net.parameters[:] = 0
        report.stop()

    gpu_net = net()
    assert gpu_net.fit(*rows, epochs=9, callbacks=stop).status is Status.STOPPED
    assert not gpu_net.parameters.any()


def test_early_stopping_and_metrics_are_those_of_the_cpu(rows: Any) -> None:
    x, y = rows
    metrics: dict[str, Any] = {"score": "accuracy", "mean": lambda y, p: p[y == 1, 0].mean()}
    histories, nets = [], []
    for device in ("cpu", "cuda"):
        gpu_net = net().to(device)
        history = gpu_net.fit(
            x, y, epochs=6, batch_size=6, validation_split=0.4,
            metrics=metrics, callbacks=[
                EarlyStopping("mean", patience=2, mode="max"),
                ReduceLROnPlateau(0.5, patience=1),
            ],
        )  # fmt: skip
        histories.append(history)
        nets.append(gpu_net)
    assert histories[0].best_epoch == histories[1].best_epoch
    assert histories[0].status is histories[1].status
    assert histories[0].learning_rate == histories[1].learning_rate
    for name, values in histories[0].metrics.items():
        np.testing.assert_allclose(histories[1].metrics[name], values, rtol=1e-8)
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-9)


def test_ctrl_c_leaves_a_usable_net(rows: Any) -> None:
    def interrupt(report: Any) -> None:
        raise KeyboardInterrupt

    gpu_net = net()
    with pytest.warns(UserWarning, match="fit interrupted in epoch 1"):
        history = gpu_net.fit(*rows, epochs=9, batch_size=5, callbacks=interrupt)
    assert history.status is Status.INTERRUPTED
    assert gpu_net.n_steps == 2
    other = net("cpu")
    other.fit(*rows, epochs=1, batch_size=5)
    np.testing.assert_allclose(gpu_net.parameters, other.parameters, rtol=1e-10)


@pytest.mark.filterwarnings("ignore:fit diverged")
def test_a_divergence_is_that_of_the_cpu(rows: Any) -> None:
    nets = [net(device, loss="mse", optimizer="sgd", l2=0.0) for device in ("cpu", "cuda")]
    for each in nets:
        each.parameters[:] = 1e200
        history = each.fit(rows[0], np.eye(2)[rows[1]], epochs=3, batch_size=4)
        assert history.status is Status.DIVERGED
        assert (each.parameters == 1e200).all()
    states = [generator_of(core_of(each).state) for each in nets]
    assert states[0] == states[1]


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

    nets, paths = [net("cpu", optimizer=optimizer), net("cuda", optimizer=optimizer)], []
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
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-9, atol=1e-12)


def note(seen: list[bytes], report: Any) -> None:
    seen.append(report.net.parameters.tobytes())


@pytest.mark.filterwarnings("ignore:fit diverged")
@pytest.mark.parametrize("optimizer", AVERAGED, ids=repr)
def test_a_divergence_leaves_the_average_before_the_epoch(optimizer: Any, rows: Any) -> None:
    class Leaping(type(optimizer)):  # type: ignore[misc]
        """With a rate that is too large from the second epoch on."""

        def coefficients(self, first_step: int, rates: Any, **more: Any) -> Any:
            steps = first_step + np.arange(len(rates))
            return super().coefficients(first_step, np.where(steps > 2, 1e300, rates), **more)

    settings = {name: getattr(optimizer, name) for name in ("learning_rate", "average")}
    nets = [net(device, optimizer=Leaping(**settings), loss="mse") for device in ("cpu", "cuda")]
    for each in nets:
        seen: list[bytes] = []
        look = partial(note, seen)
        targets = np.eye(2)[rows[1]]
        history = each.fit(rows[0], targets, epochs=2, batch_size=5, callbacks=look)
        assert (history.status, each.n_steps, len(seen)) == (Status.DIVERGED, 0, 1)
        assert each.parameters.tobytes() == seen[0]
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-10)


def test_moving_keeps_the_state(rows: Any) -> None:
    there, here = net(), net("cpu")
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


def test_files_copies_and_pickles_keep_the_state(rows: Any, tmp_path: Path) -> None:
    gpu_net = net()
    gpu_net.fit(*rows, epochs=1, batch_size=4)
    path = tmp_path / "net.safetensors"
    gpu_net.save(path, include_training_state=True)
    loaded = [MLP.load(path), MLP.load(path, device="cuda")]
    assert [each.device for each in loaded] == ["cpu", "cuda"]
    others = [*loaded, copy.deepcopy(gpu_net), pickle.loads(pickle.dumps(gpu_net))]
    gpu_net.fit(*rows, epochs=1, batch_size=4)
    for each in others:
        each.fit(*rows, epochs=1, batch_size=4)
        np.testing.assert_allclose(each.parameters, gpu_net.parameters, rtol=1e-10)


def test_a_fit_goes_on_from_a_checkpoint_in_the_same_bits(rows: Any, tmp_path: Path) -> None:
    def interrupt(report: Any) -> None:
        if report.epoch == 1:
            raise KeyboardInterrupt

    arguments: dict[str, Any] = {"epochs": 3, "batch_size": 4, "checkpoint_every": 1}
    path = tmp_path / "run.safetensors"
    with pytest.warns(UserWarning, match="interrupted"):
        net().fit(*rows, checkpoint=path, callbacks=interrupt, **arguments)
    resumed, whole = net(), net()
    resumed.fit(*rows, checkpoint=path, resume=True, **arguments)
    whole.fit(*rows, **{**arguments, "checkpoint": tmp_path / "other.safetensors"})
    assert np.array_equal(resumed.parameters, whole.parameters)


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
    gpu_net, other = net(), net("cpu")
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
    with pytest.raises(TypeError, match=r"X on a device .* must be float64, got float32"):
        gpu_net.predict(Elsewhere(x.astype(np.float32)))
    with pytest.raises(ValueError, match=r"X on a device .* must be C-contiguous"):
        gpu_net.predict(Elsewhere(x[:, ::-1]))
    with pytest.raises(ValueError, match="X has 2 features, but the net has 3 inputs"):
        gpu_net.predict(Elsewhere(np.ascontiguousarray(x[:, :2])))
    locked = Elsewhere(np.empty((N_ROWS, 2)))
    locked.__cuda_array_interface__["data"] = (locked.array.ctypes.data, True)
    with pytest.raises(ValueError, match=r"MLP\.predict: out must be writeable"):
        gpu_net.predict(x, out=locked)
    with pytest.raises(ValueError, match=r"out must have shape \(10, 2\), got \(9, 2\)"):
        gpu_net.predict(x, out=Elsewhere(np.empty((9, 2))))
    with pytest.raises(ValueError, match="X must be finite"):
        gpu_net.fit(Elsewhere(x * np.nan), y)


def test_too_little_memory_is_an_error_with_the_sizes(
    rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Card, "free_bytes", lambda self: 1000)
    words = r"MLP.fit: this takes .* of the memory of cuda:0, where 1 KB are free; use a"
    with pytest.raises(MemoryError, match=words):
        net().fit(*rows)


@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm"])
def test_clipping_by_norm_is_refused(name: str, rows: Any) -> None:
    clip: dict[str, Any] = {name: 1.0}
    gpu_net = net(optimizer=Adam(0.05, **clip))
    before, (x, y) = gpu_net.parameters.copy(), rows
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
    gpu_net, (x, y) = net(dtype="float32", compute_dtype="bfloat16"), rows
    words = r'device="cuda" does not train in mixed precision .*: use compute_dtype=None'
    with pytest.raises(ValueError, match=words):
        gpu_net.fit(x, y, epochs=1)
    gpu_net.predict(x)
    words = r'device="cuda" does not predict in mixed precision .*: use compute_dtype=None'
    for predict in (gpu_net.predict, gpu_net.predict_raw):
        with pytest.raises(ValueError, match=words):
            predict(x, compute_dtype="bfloat16")


def test_a_source_in_several_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LEAST_BATCHES", 2)
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(22, 3)), rng.integers(2, size=22), rng.uniform(size=22)
    source, nets = Blocks.from_arrays(x, y, weight, rows=5), [net("cpu"), net()]
    losses = [each.fit(source, epochs=2, batch_size=3, buffer_rows=8).loss for each in nets]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-10)
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-10)
