"""Several calls of fit_many as one."""

import numpy as np
import pytest

from fastmlp import MLP, Status
from fastmlp.many.fit_many import Call, fit_together
from fastmlp.model import core_of
from fastmlp.training import loop


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
    how = {"epochs": 9, "callbacks": (), "time_limit": 1.0, "n_threads": 1}
    ((history,),) = fit_together(None, [call], **how)  # type: ignore[arg-type]
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
