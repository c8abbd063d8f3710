"""The form of Python without a GIL, on any Python:
short compiled calls take the net's lock.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conditions import needs_threads
from fitting import unconverged

from fastmlp import MLP, Adam, MLPRegressor, NetGroup
from fastmlp._process import locks

X = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32)
Y = X[:, :1] * X[:, 1:2]
N_STEPS = 60


@pytest.fixture(autouse=True)
def _without_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HAS_GIL", False)


def net_of(*hidden: int) -> Any:
    net = MLP((3, *hidden, 1), optimizer=Adam(0.01), seed=0, n_threads=1)
    net.predict(X)
    net.train_on_batch(X, Y)
    return net


def fitted() -> Any:
    model = MLPRegressor(hidden_layer_sizes=(8,), max_iter=2, n_jobs=1, random_state=0)
    model.fit(X, Y[:, 0])
    model.predict(X)
    return model


def group_of() -> Any:
    group = NetGroup([net_of(8), net_of(5)])
    group.predict(X)
    group.train_on_batch(X, Y)
    return group


def predict_wide(net: Any) -> None:
    for _ in range(3):
        net.predict(X[:3])


# A model, and a call that must wait for the lock of its last net.
CALLS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "rows": (lambda: net_of(8), lambda net: net.predict(X)),
    "one row": (lambda: net_of(8), lambda net: net.predict(X[:1])),
    "rows in tiles": (lambda: net_of(256, 256), predict_wide),
    "a step": (lambda: net_of(8), lambda net: net.train_on_batch(X, Y)),
    "an estimator": (fitted, lambda model: model.predict(X)),
    "a group": (group_of, lambda group: group.predict(X)),
    "a group's step": (group_of, lambda group: group.train_on_batch(X, Y)),
}


@unconverged
@pytest.mark.parametrize("name", CALLS)
def test_a_call_waits_for_who_holds_the_lock_of_the_parameters(name: str) -> None:
    make, call = CALLS[name]
    model = make()
    call(model)
    last = model.nets[-1] if isinstance(model, NetGroup) else model
    lock = last._state.lock
    thread = threading.Thread(target=call, args=(model,), daemon=True)
    with lock.parameters:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(60)
    assert not thread.is_alive()


def states_of(n_steps: int) -> list[Any]:
    """The net's predictions after each number of steps on the one batch."""
    net = net_of(8)
    states = [net.predict(X)]
    for _ in range(n_steps):
        net.train_on_batch(X, Y)
        states.append(net.predict(X))
    return states


def side_by_side(*calls: Callable[[], None]) -> None:
    """Run the calls in a thread each, and raise what one raised."""
    errors: list[BaseException] = []

    def run(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@needs_threads
@pytest.mark.parametrize("with_group", [False, True])
def test_threads_that_predict_and_step_one_net_see_whole_states(
    with_group: bool,
) -> None:
    net = net_of(8)
    group = NetGroup([net, net_of(8)])
    expected = {state.tobytes() for state in states_of(2 * N_STEPS)}
    seen = []

    def step() -> None:
        for _ in range(N_STEPS):
            net.train_on_batch(X, Y)

    def predict() -> None:
        for _ in range(4 * N_STEPS):
            if with_group:
                rows = group.predict(X)[0]
            else:
                rows = net.predict(X)
            seen.append(rows.tobytes())

    side_by_side(step, step, predict, predict)
    assert net._state.n_steps == 1 + 2 * N_STEPS
    assert set(seen) <= expected
    assert net.predict(X).tobytes() == states_of(2 * N_STEPS)[-1].tobytes()
