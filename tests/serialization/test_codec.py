"""Spelling: what a later version knows more of is filled in."""

import pytest

from fastmlp import Adam, Cosine, Custom, Warmup
from fastmlp.rules.optimizers import OPTIMIZERS
from fastmlp.serialization import codec


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"schedulefreeadamw"}))
def test_an_optimizer_of_an_earlier_version_is_completed(name: str) -> None:
    optimizer = OPTIMIZERS[name](Warmup(Cosine(0.1)))
    now = codec.of_optimizer(optimizer)
    schedule = {"name": "Warmup", "schedule": {"name": "Cosine", "learning_rate": 0.1}}
    assert codec.completed({"name": name, "learning_rate": schedule}) == now
    assert codec.completed(now) == now


def test_what_was_set_stays() -> None:
    spelled = {"name": "adam", "learning_rate": 0.1, "beta_1": 0.5}
    completed = codec.completed(spelled)
    assert completed == codec.of_optimizer(Adam(0.1, beta_1=0.5))
    assert list(completed)[:3] == [*spelled]


@pytest.mark.parametrize("spelled", [None, 1, "x", [], {"own": "descent"}, {"name": "zeus"}])
def test_what_is_not_the_librarys_is_left_as_it_is(spelled: object) -> None:
    assert codec.completed(spelled) == spelled


def test_a_rule_of_ones_own_with_settings_is_left_as_it_is() -> None:
    def descent(w: float, g: float, m: float, v: float, rate: float) -> tuple[float, float, float]:
        return w - rate * g, m, v

    spelled = codec.of_optimizer(Custom(descent))
    assert codec.completed(spelled) == spelled
