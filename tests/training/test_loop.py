"""The loop: callbacks, stopping, interruption, divergence, going on."""

import ast
import copy
import os
import pickle
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
import pytest

from fastmlp import MLP, SGD, Adam, Cosine, Report, Status, Warmup, fit_many
from fastmlp.backends.cpu.trainer import Trainer
from fastmlp.rules.optimizers import OPTIMIZERS
from fastmlp.training import loop

X = np.random.default_rng(0).uniform(-1, 1, (50, 3))
Y = np.sin(3 * X[:, 0]) + X[:, 1]


def make_net(**settings: Any) -> MLP:
    return MLP((3, 8, 1), activation="tanh", **{"seed": 0, "optimizer": Adam(0.01), **settings})


def test_epochs_in_one_window_equal_epochs_one_by_one() -> None:
    nets = [make_net() for _ in range(2)]
    whole = nets[0].fit(X, Y, epochs=12, batch_size=16)
    seen: list[float] = []
    single = nets[1].fit(X, Y, epochs=12, batch_size=16, callbacks=lambda r: seen.append(r.loss))
    assert whole.loss == single.loss == seen
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_the_pace_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    nets = [make_net(optimizer="nadam") for _ in range(2)]
    nets[0].fit(X, Y, epochs=9, batch_size=7)
    monkeypatch.setattr(loop, "CALL_SECONDS", 1e-9)
    nets[1].fit(X, Y, epochs=9, batch_size=7)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_an_interrupted_window_counts_the_steps_that_it_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interrupt comes after a call, before the assignment of its result."""
    monkeypatch.setattr(loop, "CALL_SECONDS", 1e-9)
    run = Trainer.run

    def interrupted(trainer: Trainer, *arguments: Any) -> int:
        if run(trainer, *arguments) == 3:
            raise KeyboardInterrupt
        return trainer.reached

    monkeypatch.setattr(Trainer, "run", interrupted)
    net = make_net()
    with pytest.warns(UserWarning, match="fit interrupted in epoch 0"):
        history = net.fit(X, Y, epochs=2, batch_size=10)
    assert history.status is Status.INTERRUPTED
    assert net.n_steps == 3


@pytest.mark.parametrize("n_rows", [4, 5, 6])
def test_rows_are_shuffled_if_they_are_more_than_a_batch(n_rows: int) -> None:
    nets = [make_net(), make_net()]
    for net, shuffle in zip(nets, (True, False), strict=True):
        net.fit(X[:n_rows], Y[:n_rows], epochs=5, batch_size=4, shuffle=shuffle)
    same = nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    assert same == (n_rows == 4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_taken_apart_is_a_step_of_fit(optimizer: str) -> None:
    nets = [make_net(optimizer=optimizer, l2=0.1, l1=0.01) for _ in range(2)]
    nets[0].fit(X, Y, epochs=3, batch_size=50, shuffle=False)
    for _ in range(3):
        _, gradient = nets[1].loss_and_gradient(X, Y)
        nets[1].apply_gradient(gradient)
    assert nets[1].n_steps == 3
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_a_callback_is_told_everything_and_may_stop() -> None:
    reports: list[Report] = []

    def callback(report: Report) -> None:
        reports.append(report)
        if report.epoch == 2:
            report.stop()

    net = make_net()
    history = net.fit(X, Y, epochs=9, validation_data=(X, Y), callbacks=[callback])
    assert [report.epoch for report in reports] == [0, 1, 2]
    assert [report.loss for report in reports] == history.loss
    assert [report.validation_loss for report in reports] == history.validation_loss
    assert all(report.net is net for report in reports)
    assert all(report.learning_rate == 0.01 for report in reports)
    assert history.status is Status.STOPPED


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", [LookupError, StopIteration, GeneratorExit, RuntimeError])
def test_an_error_in_a_callback_is_raised_and_leaves_a_usable_net(kind: Any, many: bool) -> None:
    def callback(report: Report) -> None:
        raise kind("mine")

    net = make_net()
    fit: Any = partial(fit_many, [net]) if many else net.fit
    with pytest.raises(kind, match=r"^mine\b"):
        fit(X, Y, epochs=3, callbacks=callback)
    assert np.isfinite(net.predict(X)).all()
    assert net.n_steps == 2


def test_what_a_callback_wrote_before_it_raised_counts() -> None:
    def callback(report: Report) -> None:
        report.net.parameters.fill(0.5)
        raise LookupError("mine")

    net = make_net()
    with pytest.raises(LookupError, match="mine"):
        net.fit(X, Y, epochs=3, callbacks=callback)
    assert (net.parameters == 0.5).all()


@pytest.mark.parametrize("optimizer", ["adam", "nadam", "rmsprop"])
@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_made_by_a_callback_goes_on_as_the_net_does(optimizer: str, make_copy: Any) -> None:
    copies, steps = [], []

    def callback(report: Report) -> None:
        steps.append(report.net.n_steps)
        if report.epoch == 2:
            copies.append(make_copy(report.net))

    net = make_net(optimizer=optimizer)
    net.fit(X, Y, epochs=5, batch_size=10, callbacks=callback)
    (other,) = copies
    other.fit(X, Y, epochs=2, batch_size=10)
    assert steps == [5, 10, 15, 20, 25]
    assert other.parameters.tobytes() == net.parameters.tobytes()


@pytest.mark.parametrize("after", OPTIMIZERS)
def test_another_optimizer_starts_with_a_state_of_its_own(after: Any) -> None:
    net = make_net(optimizer=SGD(0.01, momentum=0.9))
    net.fit(X, Y, epochs=3)
    fresh = make_net(optimizer=after)
    fresh.parameters[:] = net.parameters
    net.optimizer = after
    assert net.n_steps == 0
    histories = [each.fit(X, Y, epochs=2, shuffle=False) for each in (net, fresh)]
    assert histories[0].loss == histories[1].loss
    assert net.parameters.tobytes() == fresh.parameters.tobytes()


def test_another_rate_goes_on_with_the_optimizers_state() -> None:
    nets = [make_net(optimizer=Adam(rate)) for rate in (0.01, lambda s, n: 0.01 / (1 + s // 15))]
    nets[1].fit(X, Y, epochs=6, batch_size=10)
    nets[0].fit(X, Y, epochs=3, batch_size=10)
    nets[0].optimizer = Adam(0.005)
    assert nets[0].n_steps == 15
    nets[0].fit(X, Y, epochs=3, batch_size=10)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_an_optimizer_is_not_set_while_a_fit_runs() -> None:
    def callback(report: Report) -> None:
        report.net.optimizer = Adam(0.001)

    with pytest.raises(RuntimeError, match=r"MLP.optimizer: a fit of this net is running"):
        make_net().fit(X, Y, epochs=2, callbacks=callback)


def test_validation_loss_is_the_loss_after_the_epoch_without_penalties() -> None:
    net = make_net(l2=5.0, dtype="float64")
    history = net.fit(X, Y, epochs=2, validation_data=(X[:20], Y[:20]))
    expected = np.mean((net.predict(X[:20])[:, 0] - Y[:20]) ** 2)
    assert history.validation_loss[-1] == pytest.approx(expected, rel=1e-12)


def test_validation_rows_may_be_weighted() -> None:
    net = make_net(dtype="float64")
    weight = np.zeros(50)
    weight[7] = 3
    history = net.fit(X, Y, epochs=1, validation_data=(X, Y, weight))
    expected = (net.predict(X[7:8])[0, 0] - Y[7]) ** 2
    assert history.validation_loss == [pytest.approx(expected, rel=1e-12)]


def test_a_schedule_reaches_the_optimizer_and_the_history() -> None:
    schedule = Warmup(Cosine(0.1), n_steps=4)
    history = make_net(optimizer=SGD(schedule)).fit(X, Y, epochs=5, batch_size=25)
    # Two steps an epoch, ten in all; the rate of each epoch's last step.
    expected = schedule(np.array([1, 3, 5, 7, 9]), 10)
    np.testing.assert_allclose(history.learning_rate, expected, rtol=1e-12)


def test_a_diverging_fit_warns_and_keeps_the_last_good_parameters() -> None:
    net = make_net(optimizer=SGD(1e30))
    before = net.parameters.copy()
    words = r"fit diverged in epoch 0 .* smaller learning rate"
    with pytest.warns(RuntimeWarning, match=words) as caught:
        history = net.fit(X, Y, epochs=50, batch_size=10)
    assert caught[0].filename == __file__
    assert history.status is Status.DIVERGED
    assert history.loss == []
    assert net.parameters.tobytes() == before.tobytes()
    assert net.n_steps == 0


def test_a_late_divergence_keeps_the_epochs_before_it() -> None:
    def blow_up(report: Report) -> None:
        if report.epoch == 3:
            report.net.weights[1][:] = 1e30

    net = make_net(optimizer=SGD(1e-3))
    with pytest.warns(RuntimeWarning, match="epoch 4"):
        history = net.fit(X, Y, epochs=9, callbacks=blow_up)
    assert len(history.loss) == 4
    assert np.isfinite(net.parameters).all()


def interrupt_soon(report: Report) -> None:
    if report.epoch == 1:
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_warns_and_leaves_a_usable_net() -> None:
    net = make_net()
    with pytest.warns(UserWarning, match="fit interrupted in epoch 2"):
        history = net.fit(X, Y, epochs=1000, callbacks=interrupt_soon)
    assert history.status is Status.INTERRUPTED
    assert len(history.loss) == 2
    assert net.fit(X, Y, epochs=1).status is Status.COMPLETED


def test_ctrl_c_is_heard_after_the_call_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    run, begun, sent, third = Trainer.run, [0], [0], threading.Event()

    def counted(trainer: Trainer, *arguments: Any) -> int:
        begun[0] += 1
        if begun[0] == 3:
            third.set()
        return run(trainer, *arguments)

    def send() -> None:
        # Compiled code lets other threads run.
        third.wait()
        sent[0] = begun[0]
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "run", counted)
    net, n_rows = MLP((64, 256, 1), seed=0), 20 if numba.config.DISABLE_JIT else 20_000
    x = np.random.default_rng(0).standard_normal((n_rows, 64))
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    with pytest.warns(UserWarning, match="interrupted"):
        net.fit(x, x[:, 0], epochs=10_000, batch_size=n_rows)
    sender.join()
    # A call may begin between the count and the signal.
    assert 3 <= sent[0] <= begun[0] <= sent[0] + 1


@pytest.mark.parametrize("unit", [1e-7, 1e-4, 0.02, 3.0])
def test_a_call_takes_as_many_units_as_its_time(unit: float) -> None:
    """From the first call at the speed of the guess; faster units at most four times as many."""
    flops = int(unit * loop.FIRST_FLOPS_PER_SECOND)
    loop._learnt.cache_clear()
    pace = loop.Pace(flops)
    for speed in (1.0, 1.0, 20.0, 0.1, 0.1):
        before, seconds = pace.units, unit / speed
        pace.measure(pace.units, pace.units * seconds)
        assert pace.units == 1 or pace.units * seconds <= loop.CALL_SECONDS
        assert (pace.units + 1) * seconds > loop.CALL_SECONDS or pace.units == 4 * before
    assert pace.units == max(1, int(loop.CALL_SECONDS / seconds))
    # The next fit of such units begins at the speed measured, or at most 32 times the guess.
    again = loop.Pace(flops).units
    assert again == max(1, int(loop.CALL_SECONDS / seconds))


def test_progress_shows_a_bar_with_the_loss(capfd: pytest.CaptureFixture[str]) -> None:
    make_net().fit(X, Y, epochs=5, progress=True)
    shown = capfd.readouterr().err
    assert "5/5" in shown
    assert "loss=" in shown


def test_nothing_is_shown_or_warned_without_being_asked(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_net().fit(X, Y, epochs=2)
    assert capfd.readouterr() == ("", "")


BYTES_OF_A_ROW = """
import numpy as np
from fastmlp import MLP
from memory_use import peak_of

def of_a_row(dtype="float32", loss="mse", l2=0.0, validated=False, weighted=False, **options):
    def peak(n_rows):
        x = np.random.default_rng(0).normal(size=(n_rows, 20)).astype(dtype)
        y = (x[:, :2] > 0).astype(dtype) if loss == "mse" else (x[:, 0] > 0).astype(int)
        more = {"batch_size": 200, **options}
        if validated:
            more["validation_data"] = (x, y)
        if weighted:
            more["sample_weight"] = np.ones(n_rows, dtype)

        def fit():
            MLP((20, 8, 2), loss=loss, l2=l2, dtype=dtype, seed=0).fit(x, y, epochs=1, **more)

        fit()  # compiles
        return peak_of(fit)

    few, many = 30_000, 120_000
    return (peak(many) - peak(few)) / (many - few)

cases = {
    "a batch": {},
    "all rows": {"batch_size": 1 << 20},
    "all rows of a net that is not cut into microbatches": {"batch_size": 1 << 20, "l2": 0.1},
    "in order": {"shuffle": False},
    "float64": {"dtype": "float64"},
    "labels": {"loss": "cross_entropy"},
    "validated": {"validated": True},
    "weighted": {"weighted": True},
}
print({case: of_a_row(**how) for case, how in cases.items()})
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="plain Python takes minutes, and memory")
def test_a_fit_takes_an_order_of_the_rows_beside_them_and_nothing_else_that_grows(
    python: Callable[..., str],
) -> None:
    # In a process of its own, as threads that other tests have left may allocate meanwhile.
    of_a_row: dict[str, float] = ast.literal_eval(python(BYTES_OF_A_ROW))
    # Eight bytes for a row's place in the order, and four for the word it is drawn by; four more
    # for its label as a number of the net's.
    most = {case: 16.5 if case == "labels" else 12.5 for case in of_a_row}
    assert len(of_a_row) == 8
    assert {case: bytes_ for case, bytes_ in of_a_row.items() if bytes_ >= most[case]} == {}
    assert of_a_row["in order"] < 9 < of_a_row["a batch"]


@pytest.mark.slow
def test_importing_compiles_nothing_and_no_fit_of_arrays_brings_anything_heavy(
    python: Callable[..., str],
) -> None:
    script = """
import sys
import numpy as np
before = {*sys.modules}
import fastmlp
assert "fastmlp.backends.cpu" not in sys.modules
net = fastmlp.MLP((2, 1))
net.fit([[1, 2]], np.ones(1), epochs=1)
net.predict(np.ones((3, 2)))
new = {name.split(".")[0] for name in {*sys.modules} - before}
print(sorted({"sklearn", "scipy", "matplotlib", "tqdm", "pandas", "polars", "pyarrow"} & new))
"""
    assert python(script) == "[]\n"


def test_between_fit_and_the_trainer_are_few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    run, stacks = Trainer.run, list[list[str]]()

    def spy(self: Trainer, *arguments: Any) -> int:
        stacks.append([frame.name for frame in traceback.extract_stack()[:-1]])
        return run(self, *arguments)

    monkeypatch.setattr(Trainer, "run", spy)
    make_net().fit(X, Y, epochs=1)
    stack = stacks[-1]
    # Outermost first: this test, MLP.fit, and what is between it and the trainer.
    assert len(stack) - stack.index("test_between_fit_and_the_trainer_are_few_frames") - 2 <= 3
