"""fit_many over a source: the bits of own fits, and one pass for all nets."""

import threading
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, Adam, Blocks, Cosine, Status, fit_many

rng = np.random.default_rng(0)
N = 1000
X = rng.normal(size=(N, 5))
Y = X[:, 0] * X[:, 1]
SOURCE = Blocks.from_arrays(X, Y, rows=90)


def made(n: int = 3) -> list[MLP]:
    return [MLP((5, 4 * (i + 1), 1), seed=i, optimizer=Adam(Cosine(0.01))) for i in range(n)]


class Counting:
    """Counts the blocks that are read."""

    def __init__(self) -> None:
        self.block_sizes, self.n_read = SOURCE.block_sizes, 0

    def read(self, i: int) -> Any:
        self.n_read += 1
        return SOURCE.read(i)


@pytest.mark.parametrize("buffer_rows", [None, 320])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_nets_end_with_the_bits_of_their_own_fits(buffer_rows: Any, n_threads: int) -> None:
    how: dict[str, Any] = {"buffer_rows": buffer_rows, "validation_data": (X[:80], Y[:80])}
    nets, others, source = made(), made(), Counting()
    histories = fit_many(nets, source, epochs=[3, 1, 3], batch_size=16, n_threads=n_threads, **how)
    if buffer_rows:
        assert source.n_read == 3 * len(SOURCE.block_sizes)
    for net, other, history, epochs in zip(nets, others, histories, [3, 1, 3], strict=True):
        own = other.fit(SOURCE, epochs=epochs, batch_size=16, **how)
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

    nets, how = made(), dict[str, Any](epochs=4, batch_size=16, buffer_rows=320)
    with pytest.raises(ConnectionError, match="gone"):
        fit_many(nets, SOURCE, callbacks=look, **how)
    assert nets[1].n_steps == 63
    assert min(nets[i].n_steps for i in (0, 2)) >= 2 * 63
    assert not [one for one in threading.enumerate() if one.name == "fastmlp reader"]
    histories = fit_many(nets, SOURCE, **how)
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


@pytest.mark.parametrize(
    ("nets", "given", "settings", "message"),
    [
        (made(), (SOURCE,), {"rows": [1]}, "fit_many: rows is for arrays; .* give no rows"),
        (made(), (SOURCE,), {"validation_rows": [1]}, "is for arrays; .* give validation_data"),
        (made(), (X, Y), {"validation_data": (X, Y)}, "fit_many: validation_data is for a source"),
        (made(), (X,), {}, "fit_many: missing 1 required argument: 'y'; .* got X of type ndarray"),
        (made(), (SOURCE, Y), {}, "fit_many: y comes with the blocks of a source"),
        ([*made(1), MLP((5, 2))], (SOURCE,), {}, r"nets\[1\] has other inputs, outputs, targets"),
        (made(), (SOURCE,), {"buffer_rows": 320, "batch_size": [16, 32, 5]}, "must be 16 times"),
    ],
)  # fmt: skip
def test_what_is_refused(nets: Any, given: Any, settings: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fit_many(nets, *given, epochs=1, **settings)


def test_no_nets_are_no_fits() -> None:
    assert fit_many([], SOURCE) == []
