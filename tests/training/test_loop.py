"""The loop: callbacks, endings, divergence, going on; averaged weights and dropout."""

import ast
import copy
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import naive
import numba
import numpy as np
import pytest

from fastmlp import (
    EMA,
    MLP,
    SGD,
    SWA,
    Adam,
    AdamW,
    Cosine,
    Report,
    ScheduleFreeAdamW,
    Status,
    Warmup,
    fit_many,
)
from fastmlp.backends.cpu.trainer import Trainer
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.model import core_of
from fastmlp.rules.optimizers import OPTIMIZERS
from fastmlp.training import loop

X = np.random.default_rng(0).uniform(-1, 1, (51, 3))
Y = np.sin(3 * X[:, 0]) + X[:, 1]


def make_net(**settings: Any) -> MLP:
    return MLP(
        (3, 8, 1), activation="tanh", **{"seed": 0, "optimizer": Adam(0.01), **settings}
    )


@pytest.mark.parametrize("dropout", [0.0, Cosine(0.5)])
def test_neither_windows_nor_the_pace_change_a_bit(
    dropout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dropout:
        settings = {"dropout": dropout, "input_noise": 0.1}
    else:
        settings = {}
    nets = [make_net(optimizer="nadam", **settings) for _ in range(3)]
    seen = list[float]()
    options: dict[str, Any] = {"epochs": 12, "batch_size": 7}
    whole = nets[0].fit(X, Y, **options)
    single = nets[1].fit(X, Y, callbacks=lambda r: seen.append(r.loss), **options)
    monkeypatch.setattr(loop, "CALL_SECONDS", 1e-9)
    assert nets[2].fit(X, Y, **options).loss == whole.loss == single.loss == seen
    assert len({net.parameters.tobytes() for net in nets}) == 1


def test_an_interrupted_window_counts_its_steps(
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
    with pytest.warns(UserWarning, match="fit interrupted in epoch 1"):
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
@pytest.mark.parametrize(
    "kind", [LookupError, StopIteration, GeneratorExit, RuntimeError]
)
def test_an_error_in_a_callback_is_raised_and_leaves_a_usable_net(
    kind: Any, many: bool
) -> None:
    def callback(report: Report) -> None:
        raise kind("mine")

    net = make_net()
    fit: Any = partial(fit_many, [net]) if many else net.fit
    with pytest.raises(kind, match=r"^mine\b"):
        fit(X, Y, epochs=3, callbacks=callback)
    assert np.isfinite(net.predict(X)).all()
    assert net.n_steps == 2


def test_what_a_callback_wrote_before_its_error_stays() -> None:
    def callback(report: Report) -> None:
        report.net.parameters.fill(0.5)
        raise LookupError("mine")

    net = make_net()
    with pytest.raises(LookupError, match="mine"):
        net.fit(X, Y, epochs=3, callbacks=callback)
    assert (net.parameters == 0.5).all()


def test_a_history_has_the_rate_of_each_epochs_last_step() -> None:
    schedule = Warmup(Cosine(0.1), n_steps=4)
    history = make_net(optimizer=SGD(schedule)).fit(X, Y, epochs=5, batch_size=26)
    # Each epoch has two steps, ten in all.
    expected = schedule(np.array([1, 3, 5, 7, 9]), 10)
    np.testing.assert_allclose(history.learning_rate, expected, rtol=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "nadam", "rmsprop"])
@pytest.mark.parametrize(
    "make_copy", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))]
)
def test_a_copy_made_by_a_callback_goes_on_as_the_net_does(
    optimizer: str, make_copy: Any
) -> None:
    copies, steps = [], []

    def callback(report: Report) -> None:
        steps.append(report.net.n_steps)
        if report.epoch == 2:
            copies.append(make_copy(report.net))

    net = make_net(optimizer=optimizer)
    net.fit(X, Y, epochs=5, batch_size=10, callbacks=callback)
    (other,) = copies
    other.fit(X, Y, epochs=2, batch_size=10)
    assert steps == [6, 12, 18, 24, 30]
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


def test_an_optimizer_may_be_set_between_fits() -> None:
    nets = [
        make_net(optimizer=Adam(rate))
        for rate in (0.01, lambda s, n: 0.01 / (1 + s // 18))
    ]
    nets[1].fit(X, Y, epochs=6, batch_size=10)
    nets[0].fit(X, Y, epochs=3, batch_size=10)
    nets[0].optimizer = Adam(0.005)
    assert nets[0].n_steps == 18
    nets[0].fit(X, Y, epochs=3, batch_size=10)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()

    def callback(report: Report) -> None:
        report.net.optimizer = Adam(0.001)

    with pytest.raises(
        RuntimeError, match=r"MLP.optimizer: a fit of this net is running"
    ):
        make_net().fit(X, Y, epochs=2, callbacks=callback)


def test_validation_losses_are_without_penalties() -> None:
    net = make_net(l2=5.0, dtype="float64")
    history = net.fit(X, Y, epochs=2, validation_data=(X[:20], Y[:20]))
    expected = np.mean((net.predict(X[:20])[:, 0] - Y[:20]) ** 2)
    assert history.validation_loss[-1] == pytest.approx(expected, rel=1e-12)


def test_validation_losses_are_weighted() -> None:
    net = make_net(dtype="float64")
    weight = np.zeros(51)
    weight[7] = 3
    history = net.fit(X, Y, epochs=1, validation_data=(X, Y, weight))
    expected = (net.predict(X[7:8])[0, 0] - Y[7]) ** 2
    assert history.validation_loss == [pytest.approx(expected, rel=1e-12)]


def test_ctrl_c_is_heard_after_the_call_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Trainer.run
    begun = [0]
    sent = [0]
    third = threading.Event()

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
    net = MLP((64, 256, 1), seed=0)
    n_rows = 20 if numba.config.DISABLE_JIT else 20_000
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
    """From the first call at the speed of the guess;
    faster units at most four times as many.
    """
    flops = int(unit * loop.FIRST_FLOPS_PER_SECOND)
    loop._learnt.cache_clear()
    pace = loop.Pace(flops)
    for speed in (1.0, 1.0, 20.0, 0.1, 0.1):
        before = pace.units
        seconds = unit / speed
        pace.measure(pace.units, pace.units * seconds)
        assert pace.units == 1 or pace.units * seconds <= loop.CALL_SECONDS
        assert (
            pace.units + 1
        ) * seconds > loop.CALL_SECONDS or pace.units == 4 * before
    assert pace.units == max(1, int(loop.CALL_SECONDS / seconds))
    # The next fit of such units begins at the speed measured,
    # or at most 32 times the guess.
    again = loop.Pace(flops).units
    assert again == max(1, int(loop.CALL_SECONDS / seconds))


@pytest.mark.filterwarnings("error")
def test_without_progress_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    make_net().fit(X, Y, epochs=2)
    assert capfd.readouterr() == ("", "")


BYTES_OF_A_ROW = """
import numpy as np
from fastmlp import MLP
from fitting import peak_of

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
@pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="plain Python takes minutes, and memory"
)
def test_a_fit_takes_an_order_of_the_rows_beside_them_and_nothing_else_that_grows(
    python: Callable[..., str],
) -> None:
    # In a process of its own, as threads that other tests have left may allocate
    # meanwhile.
    of_a_row: dict[str, float] = ast.literal_eval(python(BYTES_OF_A_ROW))
    # Eight bytes for a row's place in the order, and four for the word it is drawn by;
    # four more for its label as a number of the net's.
    most = {case: 16.5 if case == "labels" else 12.5 for case in of_a_row}
    assert len(of_a_row) == 8
    assert {
        case: bytes_ for case, bytes_ in of_a_row.items() if bytes_ >= most[case]
    } == {}
    assert of_a_row["in order"] < 9 < of_a_row["a batch"]


@pytest.mark.slow
def test_importing_compiles_nothing_fits_bring_nothing_heavy(
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


def test_between_fit_and_the_trainer_are_few_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Trainer.run
    stacks = list[list[str]]()

    def spy(self: Trainer, *arguments: Any) -> int:
        stacks.append([frame.name for frame in traceback.extract_stack()[:-1]])
        return run(self, *arguments)

    monkeypatch.setattr(Trainer, "run", spy)
    make_net().fit(X, Y, epochs=1)
    stack = stacks[-1]
    # Outermost first: this test, MLP.fit, and what is between it and the trainer.
    assert (
        len(stack) - stack.index("test_between_fit_and_the_trainer_are_few_frames") - 2
        <= 3
    )


# Their fits may be cut anywhere; those of SWA depend on the fit's length.
ENDLESS: list[Any] = [
    Adam(0.01, average=EMA(0.9)),
    SGD(0.05, momentum=0.9, average=EMA(0.8), clipvalue=0.5),
    ScheduleFreeAdamW(0.01, warmup_steps=7, weight_decay=0.1),
]
KINDS = [*ENDLESS, SGD(0.05, average=SWA(0.5))]
each_kind = pytest.mark.parametrize("optimizer", KINDS, ids=repr)


def make(optimizer: Any, **settings: Any) -> MLP:
    return MLP(
        (3, 8, 1),
        **{"activation": "tanh", "seed": 0, "optimizer": optimizer, **settings},
    )


def fit(net: MLP, epochs: int = 6, **options: Any) -> Any:
    return net.fit(X, Y, epochs=epochs, batch_size=10, **options)


def bits(net: MLP) -> bytes:
    state = core_of(net).state
    slots = state.slots()
    kept = b"" if slots is None else slots.tobytes()
    return net.parameters.tobytes() + kept + bytes([net.n_steps, state.averaged_from])


@each_kind
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_a_fit_ends_in_the_average_of_its_steps(optimizer: Any, l2: float) -> None:
    net = make(optimizer, l2=l2, dtype="float64")
    before = [w.copy() for w in net.weights], [b.copy() for b in net.biases]
    history = fit(net, shuffle=False)
    losses, *after = naive.train(
        *before,
        X,
        Y[:, None],
        [np.split(np.arange(51), range(10, 51, 10))] * 6,
        optimizer=optimizer.rule.__name__.replace("sgd_", ""),
        settings=asdict(optimizer),
        activations=["tanh"],
        l2=l2,
    )
    np.testing.assert_allclose(
        net.parameters, naive.flatten(*after), rtol=1e-10, atol=1e-12
    )
    # The training loss is that of the parameters that are trained.
    np.testing.assert_allclose(history.loss, losses, rtol=1e-10)


@each_kind
def test_what_is_trained_is_what_is_trained_without_the_average(optimizer: Any) -> None:
    if isinstance(optimizer, ScheduleFreeAdamW):
        return
    net = make(optimizer)
    plain = make(replace(optimizer, average=None))
    assert fit(net).loss == fit(plain).loss
    assert net.parameters.tobytes() != plain.parameters.tobytes()
    assert core_of(net).state.trained().tobytes() == plain.parameters.tobytes()


@pytest.mark.parametrize("optimizer", [*ENDLESS, Adam(0.01)], ids=repr)
def test_a_fit_in_parts_is_a_whole_one(optimizer: Any) -> None:
    whole = make(optimizer)
    part = make(optimizer)
    fit(whole, 6)
    for epochs in (1, 2, 3):
        fit(part, epochs)
    assert part.n_steps == whole.n_steps == 36
    assert bits(part) == bits(whole)


@each_kind
def test_whatever_looks_sees_the_average(optimizer: Any) -> None:
    seen: list[bytes] = []

    def look(report: Any) -> None:
        seen.append(report.net.parameters.tobytes())
        predicted = report.net.predict(X)
        assert report.validation_loss == pytest.approx(
            np.mean((predicted[:, 0] - Y) ** 2)
        )

    net = make(optimizer)
    fit(net, callbacks=look, validation_data=(X, Y))
    if not isinstance(optimizer.average, SWA):
        for epochs in (1, 4):
            short = make(optimizer)
            fit(short, epochs)
            assert seen[epochs - 1] == short.parameters.tobytes()
    assert seen[-1] == net.parameters.tobytes()


PLAIN = [SGD(0.1, momentum=0.9), AdamW(decay_biases=False)]


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, *ENDLESS, *PLAIN], ids=repr)
def test_a_step_taken_apart_is_one_of_fit_for_layers_of_other_rates_too(
    optimizer: Any,
) -> None:
    def rated() -> MLP:
        rates = [0.5, {"weights": 1.0, "biases": 2.0}]
        net = make(optimizer, layer_rates=rates, l2=0.1, l1=0.01)
        net.fit(X, Y, epochs=1, batch_size=51)
        net.trainable = [False, True]
        return net

    whole, apart = rated(), rated()
    frozen = whole.weights[0].tobytes()
    before = whole.weights[1].tobytes()
    whole.fit(X, Y, epochs=3, batch_size=51)
    for _ in range(3):
        apart.apply_gradient(apart.loss_and_gradient(X, Y)[1])
    assert bits(apart) == bits(whole)
    assert whole.weights[0].tobytes() == frozen
    assert whole.weights[1].tobytes() != before


@pytest.mark.parametrize(
    "optimizer", [SGD(0.05, average=EMA(0.9)), KINDS[-1]], ids=repr
)
def test_parameters_written_by_hand_are_trained_and_averaged_anew(
    optimizer: Any,
) -> None:
    net = make(optimizer)
    fit(net, shuffle=False)
    net.weights[0][0, 0] = 3.0
    fresh = make(optimizer)
    fresh.parameters[:] = net.parameters
    for each in (net, fresh):
        fit(each, 2, shuffle=False)
    assert net.parameters.tobytes() == fresh.parameters.tobytes()
    assert (
        core_of(net).state.trained().tobytes()
        == core_of(fresh).state.trained().tobytes()
    )


def test_a_later_fit_goes_on_from_a_best_epoch_that_was_restored() -> None:
    net = make(SGD(0.05, average=EMA(0.9)))
    best = list[Any]()
    against = {"validation_data": (X, -Y), "keep_best": True}
    history = fit(
        net, 4, callbacks=lambda r: best.append(r.net.parameters.copy()), **against
    )
    assert history.best_epoch == 0
    assert net.parameters.tobytes() == best[0].tobytes()
    fresh = make(SGD(0.05, average=EMA(0.9)))
    fresh.parameters[:] = best[0]
    for each in (net, fresh):
        fit(each, 2, shuffle=False)
    assert net.parameters.tobytes() == fresh.parameters.tobytes()


@each_kind
def test_a_divergence_leaves_what_was_seen_before_the_epoch(optimizer: Any) -> None:
    class Leaping(type(optimizer)):  # type: ignore[misc]
        """With a rate that is too large from step 18 on, the fourth epoch."""

        def coefficients(self, first_step: int, rates: Any, **more: Any) -> Any:
            steps = first_step + np.arange(len(rates))
            rates = np.where(steps > 21, 1e300, rates)
            return super().coefficients(first_step, rates, **more)

    names = [name for name in asdict(optimizer) if name != "average"]
    settings = {name: getattr(optimizer, name) for name in names}
    if optimizer.average is not None:
        settings["average"] = optimizer.average
    net = make(Leaping(**settings), dtype="float64")
    seen = list[bytes]()
    with pytest.warns(RuntimeWarning, match="fit diverged in epoch 4"):
        history = fit(net, callbacks=lambda r: seen.append(r.net.parameters.tobytes()))
    assert (history.status, net.n_steps, len(seen)) == (Status.DIVERGED, 0, 3)
    assert net.parameters.tobytes() == seen[-1]
    # A later fit begins there, as a new net would.
    net.optimizer = optimizer
    fresh = make(optimizer, dtype="float64")
    fresh.parameters[:] = net.parameters
    for each in (net, fresh):
        fit(each, 2, shuffle=False)
    assert bits(net) == bits(fresh)


def test_an_optimizer_of_the_same_rule_keeps_its_state() -> None:
    nets = [make(Adam(0.01)) for _ in range(2)]
    for net in nets:
        fit(net)
    nets[1].optimizer = Adam(0.01, average=EMA(0.9))
    histories = [fit(net, 2) for net in nets]
    assert histories[0].loss == histories[1].loss
    assert nets[1].n_steps == 48
    # Without the average again, it goes on from what is seen, with m and v.
    average = nets[1].parameters.copy()
    slots = core_of(nets[1]).state.slots()
    nets[1].optimizer = Adam(0.01)
    state = core_of(nets[1]).state
    assert state.trained().tobytes() == average.tobytes()
    assert np.array_equal(state.slots(), slots[:2])  # type: ignore[index, arg-type]


@pytest.mark.skipif(
    INTERPRETED, reason="plain Python predicts while parameters are written"
)
def test_predictions_beside_a_fit_are_of_averages() -> None:
    x = X[:2]
    known = set[bytes]()
    seen = set[bytes]()
    optimizer = Adam(0.01, average=EMA(0.95))
    twin = make(Adam(0.01, average=EMA(0.95)))
    known.add(twin.predict(x).tobytes())
    fit(twin, 200, callbacks=lambda r: known.add(r.net.predict(x).tobytes()))
    net = make(optimizer)
    thread = threading.Thread(
        target=fit, args=(net, 200), kwargs={"validation_data": (X, Y)}
    )
    thread.start()
    while thread.is_alive():
        seen.add(net.predict(x).tobytes())
    thread.join()
    assert seen <= known


@pytest.mark.parametrize(
    "optimizer", [Adam(0.01, average=EMA(0.99)), ScheduleFreeAdamW(0.01)]
)
def test_what_is_frozen_stays_as_it_is_seen_and_the_rest_goes_on_from_there(
    optimizer: Any,
) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(64, 2)).astype(np.float32)
    nets = [MLP((2, 6, 1), optimizer=optimizer, seed=0) for _ in range(2)]
    for net in nets:
        net.fit(X, X[:, 0], epochs=3)
    seen = nets[0].parameters.copy()
    nets[0].trainable = [False, True]
    nets[1].trainable = [False, True]
    nets[1].parameters[:] = seen
    assert np.array_equal(nets[0].parameters, seen)
    for net in nets:
        net.fit(X, X[:, 0], epochs=2)
        assert np.array_equal(net.weights[0].ravel(), seen[:12])
        assert not np.array_equal(net.weights[1].ravel(), seen[12:18])
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


# --- dropout: the masks depend on key and step alone ---

needs_compiler = pytest.mark.skipif(
    INTERPRETED, reason="dozens of fits in plain Python"
)


def make_dropped(seed: Any = 0, **settings: Any) -> MLP:
    drawn = {"dropout": [0.2, Cosine(0.5)], "input_dropout": 0.1, "input_noise": 0.1}
    return MLP((3, 8, 6, 1), **{"seed": seed, **drawn, **settings})


@needs_compiler
def test_nets_of_a_pack_have_their_own_masks_and_bits() -> None:
    """Two nets with the same weights, but seeds of their own, and no shuffling."""
    nets = [make_dropped(seed, initializer="glorot_uniform") for seed in (1, 2, 1)]
    nets[1].parameters[:] = nets[0].parameters
    alone = make_dropped(1, initializer="glorot_uniform")
    options: dict[str, Any] = {"epochs": 3, "batch_size": 10, "shuffle": False}
    histories = fit_many(nets, X, Y, n_threads=2, **options)
    assert histories[0].loss == histories[2].loss == alone.fit(X, Y, **options).loss
    assert histories[0].loss != histories[1].loss
    assert alone.parameters.tobytes() == nets[0].parameters.tobytes()


@needs_compiler
def test_a_net_of_a_file_draws_a_key_that_copies_keep(tmp_path: Path) -> None:
    make_dropped().save(tmp_path / "net")
    net = MLP.load(tmp_path / "net")
    fit(net)
    other = copy.deepcopy(net)
    assert net._state.key is not None
    assert fit(net).loss == fit(other).loss


@needs_compiler
def test_schedules_run_over_each_fit_and_their_errors_leave_the_net() -> None:
    seen: list[tuple[int, int]] = []

    def rates(steps: Any, total: int) -> Any:
        seen.extend((int(step), total) for step in steps)
        return np.where(steps < 8, 0.5, 1.5)

    with pytest.raises(ValueError, match=r"rates in \[0, 1\), got 1.5 at step 8"):
        make_dropped(dropout=rates)
    net = make_dropped(
        dropout=lambda steps, total: np.where(total == 101, 0.5, rates(steps, total))
    )
    seen.clear()
    with pytest.raises(ValueError, match=r"got 1\.5 at step 8"):
        fit(net, 2)
    assert (seen[0], seen[-1]) == ((0, 12), (11, 12))
    assert np.isfinite(net.parameters).all()
