"""Many nets in one launch, alone and by fit_many:
the bits of each net's separate fit.
"""

import copy
import warnings
from typing import Any

import numpy as np
import pytest
from fitting import state_of
from pairwise import crossed
from runs import launches_of

from fastmlp import (
    EMA,
    MLP,
    SGD,
    SWA,
    Adam,
    Cosine,
    ScheduleFreeAdamW,
    Status,
    fit_many,
)
from fastmlp._process.task_pool import Stopped
from fastmlp.backends.cuda import training as cuda_trainer
from fastmlp.backends.cuda.device import Card
from fastmlp.backends.cuda.engine import Engine as GPU
from fastmlp.backends.cuda.training import launch_steps
from fastmlp.model import core_of
from fastmlp.training import loop, request

N_ROWS = 10
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N_ROWS, 3))
Y = RNG.normal(size=N_ROWS)
WEIGHT = RNG.uniform(0, 2, N_ROWS)
FOLD = np.array([0, 3, 4, 5, 8, 9])
MASK = np.arange(N_ROWS) % 3 > 0
ROWS = [None, FOLD, MASK, None, FOLD, FOLD, None]


def net(seed: int, **settings: Any) -> MLP:
    basis = {"activation": "tanh", "dtype": "float64", "seed": seed, "device": "cuda"}
    return MLP((3, 4, 1), **{**basis, **settings})


def nets() -> list[MLP]:
    return [
        net(0, optimizer=SGD(Cosine(0.1)), l2=0.1),
        net(1, optimizer=SGD(0.01), l2=0.5, device="cuda:0"),
        net(2, optimizer=Adam(0.1), device="cpu"),
        net(3, optimizer=SGD(1e200), l2=0.1),
        net(4, optimizer=Adam(0.1), activation="relu", dtype="float32"),
        net(5, optimizer=SGD(0.1), l2=0.1, layer_rates=[0.5, 1]),
        net(6, optimizer=SGD(0.1), l2=0.1, layer_rates=[0, 1]),
    ]


def alone(member: MLP, rows: Any, weight: Any = None, **options: Any) -> Any:
    chosen = slice(None) if rows is None else rows
    weights = None if weight is None else weight[chosen]
    return member.fit(X[chosen], Y[chosen], sample_weight=weights, **options)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    made = GPU.launches

    def noted(self: Any, members: Any, batch_size: int) -> Any:
        launches = made(self, members, batch_size)
        sizes.append(launches.n_nets)
        return launches

    monkeypatch.setattr(GPU, "launches", noted)
    return sizes


@pytest.mark.filterwarnings("ignore:fit diverged")
@crossed(
    weight=[None, WEIGHT, [WEIGHT, None, None, WEIGHT, *[None] * 3]],
    batch_size=[4, N_ROWS],
    shuffle=[True, False],
    order_numbers=[1, 1 << 20],
)
def test_each_net_ends_as_by_its_own_fit(
    weight: Any,
    batch_size: int,
    shuffle: bool,
    order_numbers: int,
    groups: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request, "MAX_ORDER_NUMBERS", order_numbers)
    together, own = nets(), nets()
    options: dict[str, Any] = {
        "epochs": 2,
        "batch_size": batch_size,
        "shuffle": shuffle,
    }
    with pytest.warns(
        RuntimeWarning, match=r"^fit_many: nets\[3\]: fit diverged in epoch \d"
    ):
        histories = fit_many(together, X, Y, rows=ROWS, sample_weight=weight, **options)
    # Nets of one optimizer: with weights, and without;
    # with rates of layers, each alone.
    assert sorted(groups) == [1, 1, 1, *([1, 2] if isinstance(weight, list) else [3])]
    if isinstance(weight, list):
        weights = weight
    else:
        weights = [weight] * len(own)
    for i, member in enumerate(own):
        expected = alone(member, ROWS[i], weights[i], **options)
        got = histories[i]
        assert (got.loss, got.learning_rate) == (expected.loss, expected.learning_rate)
        assert got.status is expected.status
        assert got.seconds > 0
        assert state_of(together[i]) == state_of(member)
    assert [i for i, h in enumerate(histories) if h.status is Status.DIVERGED] == [3]


def test_averages_are_those_of_each_nets_own_fit(groups: list[int]) -> None:
    averaged = [Adam(0.1, average=EMA(0.8)), Adam(0.1, average=SWA(0.5))]
    optimizers: Any = [*averaged, Adam(0.1), ScheduleFreeAdamW(0.1, warmup_steps=3)]
    together, own = ([net(0, optimizer=each) for each in optimizers] for _ in range(2))
    together[0].parameters[0] = own[0].parameters[0] = 0.25
    for epochs in (2, 1):
        fit_many(together, X, Y, epochs=epochs, batch_size=4)
        for member in own:
            member.fit(X, Y, epochs=epochs, batch_size=4)
    # Both averages are of one kernel.
    assert sorted(groups) == [1, 1, 1, 1, 2, 2]
    assert [state_of(member) for member in together] == [
        state_of(member) for member in own
    ]


def test_validation_and_callbacks_are_those_of_each_nets_own_fit(
    groups: list[int],
) -> None:
    together = nets()[:3]
    own = nets()[:3]
    seen = []

    def stop(momenta: Any) -> None:
        seen.append(together.index(momenta.net))
        if momenta.net is together[1]:
            momenta.stop()

    held_out = [None, FOLD, FOLD]
    split: dict[str, Any] = {
        "rows": ROWS[:3],
        "validation_rows": held_out,
        "sample_weight": WEIGHT,
    }
    histories = fit_many(
        together, X, Y, epochs=2, batch_size=4, callbacks=stop, **split
    )
    assert groups == [2]
    assert sorted(seen) == [0, 0, 1, 2, 2]
    for i, member in enumerate(own):
        result = None if i == 0 else (X[FOLD], Y[FOLD], WEIGHT[FOLD])
        epochs = 1 if i == 1 else 2
        expected = alone(
            member, ROWS[i], WEIGHT, epochs=epochs, batch_size=4, validation_data=result
        )
        assert histories[i].validation_loss == expected.validation_loss
        assert state_of(together[i]) == state_of(member)
    assert [h.status.name for h in histories] == ["COMPLETED", "STOPPED", "COMPLETED"]


def test_nets_may_have_epochs_and_batches(
    groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CALL_SECONDS", 1e9)
    run = cuda_trainer.Launches.run
    calls = list[int]()

    def noted(self: Any, spans: Any) -> None:
        calls.append(len(spans))
        run(self, spans)

    monkeypatch.setattr(cuda_trainer.Launches, "run", noted)
    together, own = (
        [net(0), net(1), MLP((3, 9, 1), seed=2, device="cuda")] for _ in range(2)
    )
    fit_many(together, X, Y, epochs=[1, 3, 1], batch_size=[4, 5, 4], rows=FOLD)
    # Both nets of a kind are in one launch, the third in another.
    assert (groups, calls) == ([2, 1], [2, 1])
    for member, epochs, batch in zip(own, [1, 3, 1], [4, 5, 4], strict=True):
        alone(member, FOLD, epochs=epochs, batch_size=batch)
    assert [state_of(member) for member in together] == [
        state_of(member) for member in own
    ]


def test_ctrl_c_ends_launches_and_leaves_nets_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launches_of(2, monkeypatch)
    monkeypatch.setattr(loop, "CALL_SECONDS", 1e9)
    monkeypatch.setattr(request, "MAX_ORDER_NUMBERS", 1)
    launched = launch_steps
    n_launches = list[Any]()

    def launch(*arguments: Any) -> None:
        launched(*arguments)
        n_launches.append(1)
        if len(n_launches) == 3:
            raise Stopped

    monkeypatch.setattr(cuda_trainer, "launch_steps", launch)
    averaged = net(2, optimizer=Adam(0.1, average=SWA(0.5)))
    together = [net(0), net(1), averaged]
    before = copy.deepcopy(together)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        histories = fit_many(together, X, Y, epochs=9, batch_size=4)
    # Epochs of three steps, a window each; launches of two steps.
    assert [member.n_steps for member in together] == [5, 5, 0]
    assert [len(history.loss) for history in histories] == [1, 1, 0]
    assert all(history.status is Status.INTERRUPTED for history in histories)
    assert np.array_equal(averaged.parameters, before[2].parameters)
    assert core_of(averaged).state.averaged_from == 0
    monkeypatch.undo()
    for member, old in zip(together[:2], before, strict=False):
        old.fit(X, Y, epochs=1, batch_size=4)
        assert not np.array_equal(member.parameters, old.parameters)
    fit_many(together, X, Y, epochs=1, batch_size=4)
    assert [member.n_steps for member in together] == [8, 8, 3]


def test_an_error_names_the_net_and_the_device() -> None:
    def fail(momenta: Any) -> None:
        raise LookupError("of the user's")

    with pytest.raises(LookupError, match="of the user's") as caught:
        fit_many([net(0)], X, Y, epochs=1, callbacks=fail)
    assert caught.value.__notes__ == ["in nets 0", "in nets on cuda:0"]


def test_nets_that_the_memory_does_not_hold_at_once_come_after_each_other(
    groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    same = [net(i) for i in range(3)]
    with monkeypatch.context() as patch:
        # Two nets take 17 MB for orders of their rows.
        patch.setattr(Card, "free_bytes", lambda self: 25 << 20)
        fit_many(same, X, Y, epochs=1)
    assert groups == [2, 1]
    monkeypatch.setattr(Card, "free_bytes", lambda self: 10)
    with pytest.raises(
        MemoryError, match=r"fit_many: this takes .* of the memory of cuda:0"
    ):
        fit_many(same[:1], X, Y, epochs=1)
