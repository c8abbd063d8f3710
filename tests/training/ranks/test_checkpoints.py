"""Checkpoints of fits on several ranks: a resumed fit ends in the bits of an undisturbed one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranked import on_ranks, outcomes, parts_of, slots_of

from fastmlp import EMA, MLP, Adam, EarlyStopping, load
from fastmlp.compiler.jit import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="dozens of fits in plain Python")

SHARES = (60, 3, 0, 37)
rng = np.random.default_rng(0)
X = rng.normal(size=(100, 5))
Y = np.sin(X[:, :1]) * X[:, 1:2]


class Killed(Exception):
    """Ends a fit as a kill does."""


def kill(report: Any) -> None:
    if report.epoch == 3:
        raise Killed


def fit_on(communicator: Any, shares: Any = SHARES, rows: Any = X, **how: Any) -> Any:
    rank = communicator.Get_rank()
    net = MLP((5, 16, 1), optimizer=Adam(0.01, average=EMA(0.9)), dropout=0.2, seed=1)
    its: dict[str, Any] = {"epochs": 8, "batch_size": 16, "communicator": communicator, **how}
    history = net.fit(parts_of(rows, shares)[rank], parts_of(Y, shares)[rank], **its)
    return net.parameters.tobytes(), history, slots_of(net).tobytes()


@pytest.mark.parametrize("every", [None, 3])
@pytest.mark.parametrize("stopping", [None, EarlyStopping(patience=20, monitor="loss")])
def test_a_fit_resumes_to_the_bits_of_one_that_was_not_killed(
    tmp_path: Path, every: int | None, stopping: EarlyStopping | None
) -> None:
    how: Any = {"average_every": every, "early_stopping": stopping}
    whole = on_ranks(4, lambda comm: fit_on(comm, **how))
    # Rank 0 writes it; the others need not see it.
    folders = [tmp_path / str(rank) for rank in range(4)]
    folders[0].mkdir()

    def kept(communicator: Any, **more: Any) -> Any:
        file = folders[communicator.Get_rank()] / "fit.safetensors"
        return fit_on(communicator, checkpoint=file, checkpoint_every=2, **how, **more)

    killed = outcomes(4, lambda comm: kept(comm, callbacks=kill))
    assert [type(each) for each in killed] == [Killed] + [RuntimeError] * 3
    resumed = on_ranks(4, lambda comm: kept(comm, resume=True))
    for (parameters, history, slots), (expected, its, state) in zip(resumed, whole, strict=True):
        assert parameters == expected
        assert slots == state
        assert history.loss == its.loss
        assert history.best_epoch == its.best_epoch
    assert load(folders[0] / "fit.safetensors").n_steps > 0


def test_a_checkpoint_of_other_ranks_or_rows_is_refused(tmp_path: Path) -> None:
    def fit(shares: Any, **how: Any) -> list[Any]:
        its: Any = {"checkpoint": tmp_path / "fit.safetensors", "epochs": 2, **how}
        return outcomes(len(shares), lambda comm: fit_on(comm, shares, **its))

    fit(SHARES)
    for shares, how, message in (
        ((60, 40), {}, "its data is"),
        (SHARES, {"average_every": 2}, "its average_every is None, here it is 2"),
        (SHARES, {"rows": X + 1}, "its data is"),
        ((100,), {}, "its data is"),
    ):
        first, *others = fit(shares, resume=True, **how)
        assert message in str(first)
        for other in others:
            assert str(other).startswith("MLP.fit: rank 0 has raised ValueError")


def test_a_file_that_cannot_be_written_raises_on_all_ranks(tmp_path: Path) -> None:
    found = outcomes(4, lambda comm: fit_on(comm, checkpoint=tmp_path / "none" / "fit.safetensors"))
    assert isinstance(found[0], OSError)
    assert [type(each) for each in found[1:]] == [RuntimeError] * 3
