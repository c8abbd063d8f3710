"""Every loss, alone and in fit_many, on one thread and on several, cut and copied: one result."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loss_cases import CASES, draw_targets, outputs_for

from fastmlp import MLP, fit_many
from fastmlp.compiler.jit import INTERPRETED

each = pytest.mark.parametrize("name", CASES)
N_ROWS, EPOCHS = 40 if INTERPRETED else 90, 4


def net(name: str, n_threads: int = 1) -> MLP:
    sizes = (4, 9, outputs_for(name, 3))
    return MLP(sizes, loss=CASES[name], seed=0, l2=0.01, n_threads=n_threads)


def rows(name: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_ROWS, 4))
    y = draw_targets(name, rng, N_ROWS, outputs_for(name, 3))
    return X, y.astype(int) if CASES[name].targets == "classes" else y


@each
def test_all_ways_to_train_have_the_same_bits(name: str, tmp_path: Path) -> None:
    X, y = rows(name)
    alone = net(name)
    losses = alone.fit(X, y, epochs=EPOCHS, batch_size=32).loss
    threaded, first, second = net(name, 4), net(name), net(name)
    assert threaded.fit(X, y, epochs=EPOCHS, batch_size=32).loss == losses
    for history in fit_many([first, second], X, y, epochs=EPOCHS, batch_size=32):
        assert history.loss == losses
    cut = net(name)
    cut.fit(X, y, epochs=2, batch_size=32, checkpoint=tmp_path / "run.safetensors")
    cut = pickle.loads(pickle.dumps(copy.deepcopy(cut)))
    cut.save(tmp_path / "net.safetensors", include_training_state=True)
    cut = MLP.load(tmp_path / "net.safetensors")
    cut.fit(X, y, epochs=2, batch_size=32)
    resumed = net(name)
    where = {"checkpoint": tmp_path / "run.safetensors", "resume": True}
    resumed.fit(X, y, epochs=2, batch_size=32, **where)  # type: ignore[arg-type]
    resumed.fit(X, y, epochs=2, batch_size=32)
    for other in (threaded, first, second, cut, resumed):
        assert other.parameters.tobytes() == alone.parameters.tobytes()


@each
def test_it_learns(name: str) -> None:
    X, y = rows(name)
    history = net(name).fit(X, y, epochs=20, batch_size=32)
    assert history.loss[-1] < history.loss[0]


@each
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_raw_outputs_have_finite_losses(name: str, dtype: Any) -> None:
    X, y = rows(name)
    far = 60.0 if CASES[name].link == "exp" else 1e4
    model = MLP((4, outputs_for(name, 3)), loss=CASES[name], dtype=dtype, initializer="zeros")
    for pattern in ([far, -far], [-far, far], [far, far], [-far, -far]):
        model.biases[0][:] = np.resize(pattern, model.layer_sizes[-1])
        value, gradient = model.loss_and_gradient(X, y)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
