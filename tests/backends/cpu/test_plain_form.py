"""The plain form of the phases: where it runs, and that it has the bits of the general one."""

from typing import Any

import numpy as np
import pytest

from fastmlp import EMA, MLP, SGD, Adam
from fastmlp.backends.cpu import session
from fastmlp.backends.cpu.plan.records import FEATURES, BlockAddresses, Layer, Net, Watch
from fastmlp.backends.cpu.trainers.trainer import TRAININGS
from fastmlp.compiler import COMPILER

SIZES = (12, 20, 3)
# Settings of a net that use a feature.
USES: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.2},
    "noise": {"input_noise": 0.1},
    "clipping by norm": {"optimizer": Adam(global_clipnorm=0.1)},
    "an average": {"optimizer": Adam(average=EMA(0.9))},
    "pairs": {"compute_dtype": ["bfloat16", "float32"], "dtype": "float32"},
}


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each session of training is plain, when its fit ends."""
    ended: list[bool] = []
    rest = session.Session.rest

    def noted(ending: session.Session) -> None:
        ended.append(ending.plain)
        plan = ending.plan
        tables = (plan.net, Net), (plan.layers, Layer), (plan.blocks, BlockAddresses)
        assert not (ending.plain and any(Watch(*table).sees() for table in tables))
        rest(ending)

    monkeypatch.setattr(session.Session, "rest", noted)
    return ended


def fitted(settings: dict[str, Any], fit: dict[str, Any]) -> bytes:
    X = np.random.default_rng(3).standard_normal((90, SIZES[0]))
    net = MLP(SIZES, **{"seed": 1, "n_threads": 1, **settings})
    net.fit(X, np.tanh(X[:, : SIZES[-1]]), **{"epochs": 2, "batch_size": 32, **fit})
    return bytes(net.parameters.tobytes() + net.predict(X).tobytes())


@pytest.mark.parametrize("seed", range(12))
def test_it_has_the_bits_of_the_general_form(
    seed: int, forms: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    settings = {
        "activation": str(rng.choice(["relu", "tanh", "identity"])),
        "optimizer": [Adam(), SGD(0.01), SGD(0.01, momentum=0.9)][rng.integers(3)],
        "dtype": str(rng.choice(["float32", "float64"])),
        "l2": float(rng.choice([0, 0.01])),
        "n_threads": int(rng.integers(1, 3)),
    }
    fit = {"batch_size": int(rng.choice([1, 5, 8, 33, 90]))}
    plain = fitted(settings, fit)
    # A kept session looks again only where something has changed.
    monkeypatch.setattr(TRAININGS, "take", lambda key: None)
    monkeypatch.setattr(Watch, "sees", lambda self: True)
    assert fitted(settings, fit) == plain
    assert forms == [COMPILER == "translator", False]


@pytest.mark.parametrize("name", USES)
def test_a_feature_in_use_takes_the_general_form(name: str, forms: list[bool]) -> None:
    fitted(USES[name], {})
    assert forms == [False]


def test_a_kept_session_changes_its_form_with_its_rows(
    forms: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"optimizer": Adam()}
    first = fitted(settings, {})
    monkeypatch.setattr(session, "prefetches_rows_of", lambda x, rows: True)
    assert fitted(settings, {}) == first
    fitted({"optimizer": Adam(global_clipnorm=0.1)}, {})
    monkeypatch.undo()
    assert fitted(settings, {}) == first
    assert forms[:3] == [COMPILER == "translator", False, False]


@pytest.mark.parametrize("kind", FEATURES)
def test_each_field_counts(kind: Any) -> None:
    table = np.zeros(3, kind.dtype)
    for name in set(kind.dtype.names) - set(FEATURES[kind]):
        table[name] = 1
    watch = Watch(table, kind)
    assert not watch.sees()
    for name in FEATURES[kind]:
        table[name][-1] = 1
        assert watch.sees()
        table[name][-1] = 0
