"""Averaged weights: what is looked at is the average, and what is trained goes on. Dropout."""

import copy
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest

from fastmlp import EMA, MLP, SGD, SWA, Adam, AdamW, Cosine, ScheduleFreeAdamW, Status, fit_many
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.model import core_of
from fastmlp.training import loop

X = np.random.default_rng(0).uniform(-1, 1, (51, 3))
Y = np.sin(3 * X[:, 0]) + X[:, 1]
# Their fits may be cut anywhere; those of SWA depend on the fit's length.
ENDLESS: list[Any] = [
    Adam(0.01, average=EMA(0.9)),
    SGD(0.05, momentum=0.9, average=EMA(0.8), clipvalue=0.5),
    ScheduleFreeAdamW(0.01, warmup_steps=7, weight_decay=0.1),
]
KINDS = [*ENDLESS, SGD(0.05, average=SWA(0.5))]
each_endless = pytest.mark.parametrize("optimizer", ENDLESS, ids=repr)
each_kind = pytest.mark.parametrize("optimizer", KINDS, ids=repr)


def make(optimizer: Any, **settings: Any) -> MLP:
    return MLP((3, 8, 1), **{"activation": "tanh", "seed": 0, "optimizer": optimizer, **settings})


def fit(net: MLP, epochs: int = 6, **options: Any) -> Any:
    return net.fit(X, Y, epochs=epochs, batch_size=10, **options)


def bits(net: MLP) -> bytes:
    state = core_of(net).state
    slots = state.slots()
    assert slots is not None
    return net.parameters.tobytes() + slots.tobytes() + bytes([net.n_steps, state.averaged_from])


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
    np.testing.assert_allclose(net.parameters, naive.flatten(*after), rtol=1e-10, atol=1e-12)
    # The training loss is that of the parameters that are trained.
    np.testing.assert_allclose(history.loss, losses, rtol=1e-10)


@each_kind
def test_what_is_trained_is_what_is_trained_without_the_average(optimizer: Any) -> None:
    if isinstance(optimizer, ScheduleFreeAdamW):
        return
    net, plain = make(optimizer), make(replace(optimizer, average=None))
    assert fit(net).loss == fit(plain).loss
    assert net.parameters.tobytes() != plain.parameters.tobytes()
    assert core_of(net).state.trained().tobytes() == plain.parameters.tobytes()


@pytest.mark.parametrize("optimizer", [*ENDLESS, Adam(0.01)], ids=repr)
def test_a_fit_in_parts_is_a_whole_one(optimizer: Any) -> None:
    whole, part = make(optimizer), make(optimizer)
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
        assert report.validation_loss == pytest.approx(np.mean((predicted[:, 0] - Y) ** 2))

    net = make(optimizer)
    fit(net, callbacks=look, validation_data=(X, Y))
    if not isinstance(optimizer.average, SWA):
        for epochs in (1, 4):
            short = make(optimizer)
            fit(short, epochs)
            assert seen[epochs - 1] == short.parameters.tobytes()
    assert seen[-1] == net.parameters.tobytes()


PLAIN = [SGD(0.1, momentum=0.9), AdamW(decay_biases=False)]


@pytest.mark.parametrize("optimizer", [*ENDLESS, *PLAIN], ids=repr)
def test_a_step_taken_apart_is_one_of_fit_for_layers_of_other_rates_too(optimizer: Any) -> None:
    def rated() -> MLP:
        net = make(optimizer, layer_rates=[0.5, {"weights": 1.0, "biases": 2.0}], l2=0.1)
        net.fit(X, Y, epochs=1, batch_size=51)
        net.trainable = [False, True]
        return net

    whole, apart = rated(), rated()
    frozen, before = whole.weights[0].tobytes(), whole.weights[1].tobytes()
    whole.fit(X, Y, epochs=3, batch_size=51)
    for _ in range(3):
        apart.apply_gradient(apart.loss_and_gradient(X, Y)[1])
    assert bits(apart) == bits(whole)
    assert whole.weights[0].tobytes() == frozen
    assert whole.weights[1].tobytes() != before


@pytest.mark.parametrize("optimizer", [SGD(0.05, average=EMA(0.9)), KINDS[-1]], ids=repr)
def test_parameters_written_by_hand_are_trained_and_averaged_anew(optimizer: Any) -> None:
    net = make(optimizer)
    fit(net, shuffle=False)
    net.weights[0][0, 0] = 3.0
    fresh = make(optimizer)
    fresh.parameters[:] = net.parameters
    for each in (net, fresh):
        fit(each, 2, shuffle=False)
    assert net.parameters.tobytes() == fresh.parameters.tobytes()
    assert core_of(net).state.trained().tobytes() == core_of(fresh).state.trained().tobytes()


def test_a_later_fit_goes_on_from_a_best_epoch_that_was_restored() -> None:
    net, best = make(SGD(0.05, average=EMA(0.9))), list[Any]()
    against = {"validation_data": (X, -Y), "keep_best": True}
    history = fit(net, 4, callbacks=lambda r: best.append(r.net.parameters.copy()), **against)
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
    net, seen = make(Leaping(**settings), dtype="float64"), list[bytes]()
    with pytest.warns(RuntimeWarning, match="fit diverged in epoch 3"):
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
    average, slots = nets[1].parameters.copy(), core_of(nets[1]).state.slots()
    nets[1].optimizer = Adam(0.01)
    state = core_of(nets[1]).state
    assert state.trained().tobytes() == average.tobytes()
    assert np.array_equal(state.slots(), slots[:2])  # type: ignore[index, arg-type]


@pytest.mark.skipif(INTERPRETED, reason="plain Python predicts while parameters are written")
def test_predictions_beside_a_fit_are_of_averages() -> None:
    x, known, seen = X[:2], set[bytes](), set[bytes]()
    optimizer, twin = Adam(0.01, average=EMA(0.95)), make(Adam(0.01, average=EMA(0.95)))
    known.add(twin.predict(x).tobytes())
    fit(twin, 200, callbacks=lambda r: known.add(r.net.predict(x).tobytes()))
    net = make(optimizer)
    thread = threading.Thread(target=fit, args=(net, 200), kwargs={"validation_data": (X, Y)})
    thread.start()
    while thread.is_alive():
        seen.add(net.predict(x).tobytes())
    thread.join()
    assert seen <= known


@pytest.mark.parametrize("optimizer", [Adam(0.01, average=EMA(0.99)), ScheduleFreeAdamW(0.01)])
def test_what_is_frozen_stays_as_it_is_seen_and_the_rest_goes_on_from_there(optimizer: Any) -> None:
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

needs_compiler = pytest.mark.skipif(INTERPRETED, reason="dozens of fits in plain Python")


def make_dropped(seed: Any = 0, **settings: Any) -> MLP:
    drawn = {"dropout": [0.2, Cosine(0.5)], "input_dropout": 0.1, "input_noise": 0.1}
    return MLP((3, 8, 6, 1), **{"seed": seed, **drawn, **settings})


@needs_compiler
def test_neither_calls_nor_windows_change_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_dropped()
    expected = fit(net).loss
    monkeypatch.setattr(loop, "CALL_SECONDS", 1e-9)
    other = make_dropped()
    assert fit(other, callbacks=lambda report: None).loss == expected
    assert other.parameters.tobytes() == net.parameters.tobytes()


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
def test_a_net_that_was_loaded_without_a_state_draws_and_keeps_a_key(tmp_path: Path) -> None:
    make_dropped().save(tmp_path / "net")
    net = MLP.load(tmp_path / "net")
    fit(net)
    other = copy.deepcopy(net)
    assert net._state.key is not None
    assert fit(net).loss == fit(other).loss


@needs_compiler
def test_the_loss_of_the_history_is_with_dropout() -> None:
    net = make_dropped(dropout=0.5, optimizer="sgd")
    before = net.loss_and_gradient(X, Y)[0]
    dropped = net.fit(X, Y, epochs=1, batch_size=51).loss[0]
    assert dropped != pytest.approx(before, rel=1e-3)


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
