"""Dropout through everything that a fit survives: the masks depend on key and step alone."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, Cosine, fit_many
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.training import loop

pytestmark = pytest.mark.skipif(INTERPRETED, reason="dozens of fits in plain Python")
X = np.random.default_rng(0).uniform(-1, 1, (51, 3))
Y = np.sin(3 * X[:, 0]) + X[:, 1]


def make(seed: Any = 0, **settings: Any) -> MLP:
    drawn = {"dropout": [0.2, Cosine(0.5)], "input_dropout": 0.1, "input_noise": 0.1}
    return MLP((3, 8, 6, 1), **{"seed": seed, **drawn, **settings})


def fit(net: MLP, epochs: int = 3, **options: Any) -> list[float]:
    return net.fit(X, Y, epochs=epochs, batch_size=10, **options).loss


def saved_and_loaded(net: MLP, folder: Path) -> MLP:
    net.save(folder / "net", include_training_state=True)
    return MLP.load(folder / "net")


OTHERS: dict[str, Callable[[MLP, Path], MLP]] = {
    "copy": lambda net, folder: copy.copy(net),
    "pickle": lambda net, folder: pickle.loads(pickle.dumps(net)),
    "file": saved_and_loaded,
}


@pytest.mark.parametrize("way", OTHERS)
def test_a_net_from_elsewhere_goes_on_with_the_same_masks(way: str, tmp_path: Path) -> None:
    net = make()
    fit(net)
    other = OTHERS[way](net, tmp_path)
    assert fit(net) == fit(other)
    assert net.parameters.tobytes() == other.parameters.tobytes()


@pytest.mark.parametrize("epoch", [1, 4])
def test_a_resumed_fit_has_the_masks_of_one_that_never_ended(epoch: int, tmp_path: Path) -> None:
    def stop(report: Any) -> None:
        if report.epoch == epoch:
            raise LookupError

    whole, broken, resumed = (make() for _ in range(3))
    expected = fit(whole, 6)
    with pytest.raises(LookupError):
        fit(broken, 6, checkpoint=tmp_path / "run", checkpoint_every=1, callbacks=stop)
    assert fit(resumed, 6, checkpoint=tmp_path / "run", resume=True) == expected
    assert resumed.parameters.tobytes() == whole.parameters.tobytes()


@pytest.mark.parametrize("name", ["dropout", "input_dropout", "input_noise"])
def test_a_checkpoint_of_other_rates_is_of_another_fit(name: str, tmp_path: Path) -> None:
    fit(make(), checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match=f"a checkpoint of another fit: its {name} is"):
        fit(make(**{name: 0.0}), checkpoint=tmp_path / "run", resume=True)


def test_neither_calls_nor_windows_change_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make()
    expected = fit(net)
    monkeypatch.setattr(loop, "CALL_SECONDS", 1e-9)
    other = make()
    assert fit(other, callbacks=lambda report: None) == expected
    assert other.parameters.tobytes() == net.parameters.tobytes()


def test_nets_of_a_pack_have_their_own_masks_and_bits() -> None:
    """Two nets with the same weights, but seeds of their own, and no shuffling."""
    nets = [make(seed, initializer="glorot_uniform") for seed in (1, 2, 1)]
    nets[1].parameters[:] = nets[0].parameters
    alone = make(1, initializer="glorot_uniform")
    options: dict[str, Any] = {"epochs": 3, "batch_size": 10, "shuffle": False}
    histories = fit_many(nets, X, Y, n_threads=2, **options)
    assert histories[0].loss == histories[2].loss == alone.fit(X, Y, **options).loss
    assert histories[0].loss != histories[1].loss
    assert alone.parameters.tobytes() == nets[0].parameters.tobytes()


def test_a_net_that_was_loaded_without_a_state_draws_and_keeps_a_key(tmp_path: Path) -> None:
    make().save(tmp_path / "net")
    net = MLP.load(tmp_path / "net")
    fit(net)
    other = copy.deepcopy(net)
    assert net._state.key is not None
    assert fit(net) == fit(other)


def test_the_loss_of_the_history_is_with_dropout() -> None:
    net = make(dropout=0.5, optimizer="sgd")
    before = net.loss_and_gradient(X, Y)[0]
    dropped = net.fit(X, Y, epochs=1, batch_size=51).loss[0]
    assert dropped != pytest.approx(before, rel=1e-3)


def test_schedules_run_over_each_fit_and_their_errors_leave_the_net() -> None:
    seen: list[tuple[int, int]] = []

    def rates(steps: Any, total: int) -> Any:
        seen.extend((int(step), total) for step in steps)
        return np.where(steps < 8, 0.5, 1.5)

    with pytest.raises(ValueError, match=r"rates in \[0, 1\), got 1.5 at step 8"):
        make(dropout=rates)
    net = make(dropout=lambda steps, total: np.where(total == 101, 0.5, rates(steps, total)))
    seen.clear()
    with pytest.raises(ValueError, match=r"got 1\.5 at step 8"):
        fit(net, 2)
    assert (seen[0], seen[-1]) == ((0, 12), (11, 12))
    assert np.isfinite(net.parameters).all()
