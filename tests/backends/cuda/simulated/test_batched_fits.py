"""Many nets in one launch: the bits of each net's separate fit."""

from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, SGD, Adam
from fastmlp.backends.cuda.device.card import Card, card_of
from fastmlp.backends.cuda.training import batched_fits
from fastmlp.backends.cuda.training.batched_fits import train_together
from fastmlp.backends.cuda.training.batched_member import Member
from fastmlp.backends.cuda.training.optimizer_state import Moments
from fastmlp.model import core_of

ROWS = [None, np.array([0, 3, 4, 5, 8, 9]), None, None, None, None]


def nets(device: str = "cuda") -> list[MLP]:
    def made(seed: int, **settings: Any) -> MLP:
        basis = {"activation": "tanh", "dtype": "float64", "seed": seed, "device": device}
        return MLP((3, 4, 1), **{**basis, **settings})

    return [
        made(0, optimizer=SGD(0.1), l2=0.1),
        made(1, optimizer=SGD(0.01), l2=0.5),
        made(2, optimizer=SGD(1e200), l2=0.1),
        made(3, optimizer=Adam(0.1), activation="relu"),
        made(4, optimizer=SGD(0.1), l2=0.1, layer_rates=[0.5, 1]),
        made(5, optimizer=SGD(0.1), l2=0.1, layer_rates=[0, 1]),
    ]


def member(net: MLP, rows: Any) -> Member:
    engine, state = core_of(net)
    slots, generator = Moments(engine.network, 0), state.generator
    assert generator is not None
    weight = np.empty(0)
    return Member(engine.network, net.parameters, slots, net.optimizer, generator, 0, rows, weight)


@pytest.mark.filterwarnings("ignore:fit diverged")
@pytest.mark.parametrize("enough", [1, 1 << 20], ids=["orders of the device", "of the host"])
@pytest.mark.parametrize(("shuffle", "order_numbers"), [(True, 1), (True, 1 << 20), (False, 1)])
def test_each_net_ends_as_by_itself(
    shuffle: bool, order_numbers: int, enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched_fits, "MOST_ORDER_NUMBERS", order_numbers)
    monkeypatch.setattr(batched_fits, "MIN_DEVICE_ORDERS", enough)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)), rng.normal(size=(10, 1))
    together, alone = nets(), nets()
    members = [member(net, rows) for net, rows in zip(together, ROWS, strict=True)]
    how: dict[str, Any] = {"epochs": 3, "batch_size": 4, "shuffle": shuffle}
    outcomes = train_together(card_of(0), members, x, y, **how)
    for net, rows, outcome, its in zip(alone, ROWS, outcomes, members, strict=True):
        chosen = slice(None) if rows is None else rows
        history = net.fit(x[chosen], y[chosen], **how)
        assert outcome.loss == history.loss
        assert outcome.n_steps == net.n_steps
        assert (outcome.diverged_at is None) == (history.status.name == "COMPLETED")
        assert np.array_equal(its.parameters, net.parameters)
        state = core_of(net).state
        slots, generator = state.slots(), state.generator
        assert generator is not None
        # A net that has diverged begins anew, with zeros.
        assert np.array_equal(
            its.moments.flat(), 0 * its.moments.flat() if slots is None else slots
        )
        assert its.generator.bit_generator.state == generator.bit_generator.state


def test_nets_that_the_memory_does_not_hold_at_once_come_after_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 1))
    sizes: list[int] = []
    made = batched_fits.Group.__init__

    def noted(self: Any, card: Any, members: Any, *rest: Any) -> None:
        sizes.append(len(members))
        made(self, card, members, *rest)

    monkeypatch.setattr(batched_fits.Group, "__init__", noted)
    monkeypatch.setattr(batched_fits, "_how_many", lambda *_: 2)
    same = [MLP((3, 4, 1), seed=i, dtype="float64") for i in range(3)]
    train_together(card_of(0), [member(net, None) for net in same], x, y, epochs=1, batch_size=6)
    assert sizes == [2, 1]
    monkeypatch.undo()
    monkeypatch.setattr(Card, "free_bytes", lambda self: 10)
    with pytest.raises(MemoryError, match=r"fit_many: this takes .* of the memory of cuda:0"):
        train_together(card_of(0), [member(same[0], None)], x, y, epochs=1, batch_size=6)
