"""Steps after parameters were written, around steps that were declined:
to the bit those of a new net with these parameters and this optimizer's state.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import in_threads, state_of
from small_models import reloaded

from fastmlp import EMA, MLP, SGD, Adam, NetGroup, jit
from fastmlp.backends.cpu import dispatch, quick_step
from fastmlp.backends.cpu.dispatch import Autotuner
from fastmlp.backends.cpu.trainer import Trainer
from fastmlp.validation import Array

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*no step was taken"),
    pytest.mark.filterwarnings("ignore:.*not finite after this step"),
    pytest.mark.filterwarnings("ignore:.*fit diverged"),
]
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 8, 4)).astype(np.float32)
Y = np.ascontiguousarray(Y[:, :1])
# The outputs of rows as huge overflow,
# where weights are as large as `trained` begins with.
HUGE = np.float32(1e36)

Take = Callable[[MLP, Array, Array], Any]


def take_by_the_loop(net: MLP, x: Array, y: Array) -> float:
    steps = net._single_steps()
    data, _ = steps.checked("batch", x, y, None, "loop")
    return steps._step("batch", data, "loop")


def take_in_group(net: MLP, x: Array, y: Array) -> float:
    return float(NetGroup([net]).train_on_batch(x, y)[0])


def take_compiled(net: MLP, x: Array, y: Array) -> float:
    with jit.learner(net, batch_size=len(x)) as handle:
        return jit.train_on_batch(handle, x, y)


def take_compiled_gradient(net: MLP, x: Array, y: Array) -> None:
    with jit.learner(net, batch_size=len(x)) as handle:
        jit.train_on_gradient(handle, x, y)


def fit(net: MLP, x: Array, y: Array) -> Any:
    return net.fit(x, y, epochs=2, batch_size=4, shuffle=False).loss


STEPS: dict[str, Take] = {
    "train_on_batch": MLP.train_on_batch,
    "train_on_gradient": MLP.train_on_gradient,
    "NetGroup": take_in_group,
    "jit.learner": take_compiled,
    "jit.learner by a gradient": take_compiled_gradient,
}
NEXT: dict[str, Take] = {**STEPS, "loop": take_by_the_loop, "fit": fit}


def take_each_way(net: MLP, x: Array, y: Array) -> None:
    """Without the loop, whose steps pack the parameters anew."""
    for take in STEPS.values():
        take(net, x, y)


class Written:
    """What a user writes around a step that is declined."""

    def __init__(self, net: MLP, decline: Take) -> None:
        self.net = net
        self.before = net.parameters.copy()
        self._decline = decline

    def decline(self) -> None:
        n_steps = self.net.n_steps
        self._decline(self.net, X * HUGE, Y)
        assert self.net.n_steps == n_steps

    def nothing(self) -> None:
        self.decline()

    def same_bytes(self) -> None:
        self.net.parameters[:] += 1
        self.decline()
        self.net.parameters[:] = self.before

    def kept_from_declined(self) -> None:
        self.net.parameters[:] += 1
        self.decline()

    def others(self) -> None:
        self.net.parameters[:] += 1
        self.decline()
        self.net.parameters[:] += 1

    def after_declined(self) -> None:
        self.decline()
        self.net.parameters[:] += 1

    def same_bytes_after_two(self) -> None:
        for _ in range(2):
            self.net.parameters[:] += 1
            self.decline()
        self.net.parameters[:] = self.before

    def nan(self) -> None:
        self.decline()
        self.net.parameters[:] = np.nan

    def nan_and_back(self) -> None:
        self.net.parameters[:] = np.nan
        self.decline()
        self.net.parameters[:] = self.before

    def part_of_view(self) -> None:
        weights = self.net.weights[0]
        weights[1:3] += 1
        self.decline()
        weights[1:3] = self.before[: weights.size].reshape(weights.shape)[1:3]

    def one_bias_of_two(self) -> None:
        biases = self.net.biases[0]
        biases[:2] += 1
        self.decline()
        biases[0] -= 1

    def other_thread(self) -> None:
        def write(numbers: Any) -> None:
            def work(_: int) -> None:
                self.net.parameters[:] = numbers

            in_threads(work, 1)

        write(self.before + 1)
        self.decline()
        write(self.before)

    def from_file(self, folder: Path) -> None:
        file = folder / "net"
        loaded = reloaded(self.net, file)
        self.net.parameters[:] += 1
        self.decline()
        self.net.parameters[:] = loaded.parameters


WRITTEN = [name for name in vars(Written) if name[0] != "_" and name != "decline"]


def trained(optimizer: Any = None, n_steps: int = 3) -> MLP:
    net = MLP(
        (4, 8, 1), seed=0, initializer="he_uniform", optimizer=optimizer or Adam(0.01)
    )
    net.parameters[:] *= 50
    for _ in range(n_steps):
        net.train_on_batch(X, Y)
    return net


def write(name: str, net: MLP, decline: Take, folder: Path) -> None:
    action = getattr(Written(net, decline), name)
    if name == "from_file":
        action(folder)
    else:
        action()


def require_steps_of_new_net(net: MLP, take: Take, n_steps: int = 2) -> None:
    """Take steps, to the bit those of a new net with these parameters and slots."""
    new = copy.deepcopy(net)
    for _ in range(n_steps):
        np.testing.assert_array_equal(take(net, X, Y), take(new, X, Y))
        assert state_of(net) == state_of(new)


@pytest.mark.parametrize("take", NEXT)
@pytest.mark.parametrize("written", WRITTEN)
def test_next_step_is_of_shown_parameters(
    written: str, take: str, tmp_path: Path
) -> None:
    net = trained()
    # The last step is of the buffers that take the next one.
    take_each_way(net, X, Y)
    NEXT[take](net, X, Y)
    write(written, net, take_each_way, tmp_path)
    require_steps_of_new_net(net, NEXT[take])


@pytest.mark.parametrize("by_gradient", [False, True])
@pytest.mark.parametrize("written", WRITTEN)
def test_learner_steps_from_what_was_written_in_its_context(
    written: str, by_gradient: bool, tmp_path: Path
) -> None:
    net, new = trained(), trained()
    take: Any = jit.train_on_gradient if by_gradient else jit.train_on_batch
    other: Any = MLP.train_on_gradient if by_gradient else MLP.train_on_batch
    with jit.learner(net, batch_size=len(X)) as handle:

        def decline(_: MLP, x: Array, y: Array) -> None:
            take(handle, x, y)

        write(written, net, decline, tmp_path)
        new.parameters[:] = net.parameters
        for _ in range(2):
            np.testing.assert_array_equal(take(handle, X, Y), other(new, X, Y))
            assert net.parameters.tobytes() == new.parameters.tobytes()


@pytest.mark.parametrize("written", WRITTEN)
def test_group_of_one_object_steps_from_what_was_written(
    written: str, tmp_path: Path
) -> None:
    net = trained()
    other = MLP((4, 3, 1), seed=1)
    group = NetGroup([net, other])
    group.train_on_batch(X, Y)

    def take(it: MLP, x: Array, y: Array) -> Any:
        of = group if it is net else NetGroup([it, MLP((4, 3, 1), seed=1)])
        return of.train_on_batch(x, y)[0]

    write(written, net, take, tmp_path)
    require_steps_of_new_net(net, take)


@pytest.mark.parametrize("is_on_team", [False, True])
@pytest.mark.parametrize("written", WRITTEN)
def test_next_long_step_is_of_shown_parameters(
    written: str, is_on_team: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick_step, "GIL_LANE_PRODUCTS", 0)
    monkeypatch.setattr(quick_step, "ALONE_FLOPS", -1 if is_on_team else 1e12)
    if is_on_team:
        monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: n_threads > 1)
        monkeypatch.setattr(Autotuner, "wants_team", lambda self: True)
    net = trained()
    write(written, net, MLP.train_on_batch, tmp_path)
    require_steps_of_new_net(net, MLP.train_on_batch)


@pytest.mark.parametrize("take", ["train_on_batch", "NetGroup"])
@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize(
    "optimizer",
    [SGD(0.01, momentum=0.9), Adam(0.01, average=EMA(0.8)), Adam(0.01, clipnorm=1.0)],
    ids=str,
)
def test_optimizers_step_from_shown_parameters(
    optimizer: Any, written: str, take: str, tmp_path: Path
) -> None:
    net = trained(optimizer)
    write(written, net, MLP.train_on_batch, tmp_path)
    require_steps_of_new_net(net, NEXT[take])


@pytest.mark.parametrize("take", NEXT)
def test_loaded_net_steps_from_its_file(take: str, tmp_path: Path) -> None:
    net = trained()
    net.parameters[:] += 1
    net.train_on_batch(X * HUGE, Y)
    loaded = reloaded(net, tmp_path / "net", training=True)
    np.testing.assert_array_equal(NEXT[take](net, X, Y), NEXT[take](loaded, X, Y))
    assert state_of(net) == state_of(loaded)


@pytest.mark.parametrize("take", ["train_on_batch", "NetGroup"])
def test_averaged_parameters_go_on_where_another_way_has_left_them(take: str) -> None:
    """A step of other buffers may change the trained parameters,
    and no bit of their average.
    """
    x = np.ones((8, 1), np.float32)
    y = np.full((8, 1), 2, np.float32)
    net = MLP((1, 1), seed=0, optimizer=SGD(1.0, average=EMA(0.999)))
    net.parameters[:] = 1
    for _ in range(60):
        net.train_on_batch(x, y)
    for _ in range(2):
        net.train_on_gradient(x, y * 0)
    net.train_on_batch(x, y)
    shown = net.parameters.copy()
    net.train_on_gradient(x, np.full_like(y, 3e-8))
    assert net.parameters.tobytes() == shown.tobytes()
    new = copy.deepcopy(net)
    if take == "NetGroup":
        groups = NetGroup([net]), NetGroup([new])
        assert groups[0].train_on_batch(x, y) == groups[1].train_on_batch(x, y)
    else:
        assert net.train_on_batch(x, y) == new.train_on_batch(x, y)
    assert state_of(net) == state_of(new)


def test_step_whose_end_is_interrupted_leaves_shown_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = trained()

    def interrupted(_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "store", interrupted)
        with pytest.raises(KeyboardInterrupt):
            take_by_the_loop(net, X, Y)
    require_steps_of_new_net(net, MLP.train_on_batch)


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("scale", [1e19, 1e30], ids=["lost", "declined"])
def test_rows_that_do_not_match_raise_after_numbers_that_are_not_finite(
    scale: float, is_long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick_step, "GIL_LANE_PRODUCTS", 0 if is_long else 1e9)
    net = MLP((4, 20, 1), seed=0, optimizer=SGD(0.1))
    net.train_on_batch(X, Y)
    net.train_on_batch(np.full_like(X, scale), Y)
    with pytest.raises(ValueError, match="X has 8 rows, but y has 5"):
        net.train_on_batch(X, Y[:5])
    with pytest.raises(ValueError, match="output_gradient"):
        net.train_on_gradient(X, Y[:5])
