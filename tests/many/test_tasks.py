"""Tasks of fit_many: every loss, sources in one pass, and several calls as one."""

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loss_cases import CASES, draw_targets, outputs_for

from fastmlp import MLP, Adam, Blocks, Cosine, Status, fit_many
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.many.fit_many import Call, fit_together
from fastmlp.model import core_of
from fastmlp.training import loop

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
    assert losses[-1] < losses[0]
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


rng = np.random.default_rng(0)
N = 1000
X = rng.normal(size=(N, 5))
Y = X[:, 0] * X[:, 1]
SOURCE = Blocks.from_arrays(X, Y, rows=90)


def made(n: int = 3) -> list[MLP]:
    return [MLP((5, 4 * (i + 1), 1), seed=i, optimizer=Adam(Cosine(0.01))) for i in range(n)]


class Counting:
    def __init__(self) -> None:
        self.block_sizes, self.n_read = SOURCE.block_sizes, 0

    def read(self, i: int) -> Any:
        self.n_read += 1
        return SOURCE.read(i)


@pytest.mark.parametrize("buffer_rows", [None, 320])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_nets_end_with_the_bits_of_their_own_fits(buffer_rows: Any, n_threads: int) -> None:
    options: dict[str, Any] = {"buffer_rows": buffer_rows, "validation_data": (X[:80], Y[:80])}
    nets, others, source = made(), made(), Counting()
    histories = fit_many(
        nets, source, epochs=[3, 1, 3], batch_size=16, n_threads=n_threads, **options
    )
    if buffer_rows:
        assert source.n_read == 3 * len(SOURCE.block_sizes)
    for net, other, history, epochs in zip(nets, others, histories, [3, 1, 3], strict=True):
        own = other.fit(SOURCE, epochs=epochs, batch_size=16, **options)
        assert (own.loss, own.validation_loss) == (history.loss, history.validation_loss)
        assert net.parameters.tobytes() == other.parameters.tobytes()
    assert not [one for one in threading.enumerate() if one.name == "fastmlp reader"]


def test_in_one_buffer_as_over_arrays_of_other_batch_sizes_and_columns() -> None:
    pandas = pytest.importorskip("pandas", reason="frames are pandas'")
    pytest.importorskip("pyarrow", reason="it reads frames")
    nets, others = made(), made()
    frame = pandas.DataFrame(X, columns=list("abcde")).assign(y=Y)
    fit_many(nets, frame, target="y", epochs=2, batch_size=[16, 7, 10])
    fit_many(others, X, Y, epochs=2, batch_size=[16, 7, 10])
    for net, other in zip(nets, others, strict=True):
        assert net.parameters.tobytes() == other.parameters.tobytes()


def test_a_fit_that_stops_or_fails_holds_nobody_up() -> None:
    def look(report: Any) -> None:
        if report.net is nets[1] and report.epoch == 0:
            report.stop()
        if report.epoch == 2:
            raise ConnectionError("gone")

    nets, options = made(), dict[str, Any](epochs=4, batch_size=16, buffer_rows=320)
    with pytest.raises(ConnectionError, match="gone"):
        fit_many(nets, SOURCE, callbacks=look, **options)
    assert nets[1].n_steps == 63
    assert min(nets[i].n_steps for i in (0, 2)) >= 2 * 63
    assert not [one for one in threading.enumerate() if one.name == "fastmlp reader"]
    histories = fit_many(nets, SOURCE, **options)
    assert [history.status for history in histories] == [Status.COMPLETED] * 3


def test_what_a_source_raises_arrives() -> None:
    class Fails(Counting):
        def read(self, i: int) -> Any:
            if self.n_read == 20:
                raise ConnectionError("gone")
            return super().read(i)

    with pytest.raises(ConnectionError, match="gone"):
        fit_many(made(), Fails(), epochs=4, batch_size=16, buffer_rows=320)
    assert not [one for one in threading.enumerate() if one.name == "fastmlp reader"]


def test_no_nets_are_no_fits() -> None:
    assert fit_many([], SOURCE) == []


@pytest.mark.parametrize("n_epochs", [0, 2])
def test_the_time_limit_ends_an_epoch(n_epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.linspace(-1, 1, 400)[:, None]
    net = MLP((1, 4, 1), seed=0)
    call = Call([net], X, X**2, 10, np.arange(300), np.arange(300, 400), None)
    looks: list[object] = []

    def time_is_up(request: object) -> bool:
        looks.append(request)
        # Once between epochs, and before each step but the first.
        return len(looks) > 31 * n_epochs + 5

    # Calls of one step.
    monkeypatch.setattr(loop, "CALL_SECONDS", 0.0)
    monkeypatch.setattr("fastmlp.training.request.FitRequest._time_is_up", time_is_up)
    before = net.parameters.copy()
    options = {"epochs": 9, "callbacks": (), "time_limit": 1.0, "n_threads": 1}
    ((history,),) = fit_together(None, [call], **options)  # type: ignore[arg-type]
    assert history.status is Status.OUT_OF_TIME
    assert len(history.loss) == len(history.validation_loss) == n_epochs
    assert history.best_epoch == (n_epochs - 1 if n_epochs else None)
    assert core_of(net).state.n_steps == 30 * n_epochs + 6
    assert (net.parameters != before).any()
    monkeypatch.undo()
    whole = MLP((1, 4, 1), seed=0)
    if n_epochs:
        whole.fit(X[:300], X[:300] ** 2, epochs=n_epochs, batch_size=10)
        assert (net.parameters == whole.parameters).all()
