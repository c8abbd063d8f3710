"""The ensemble's nets, trained again on all rows."""

import time
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from small_models import FEW, drawn, labels

from fastmlp import TabularMLPClassifier, TabularMLPRegressor
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import boosted_trees
from fastmlp.tabular.fit_arguments import Divided
from fastmlp.tabular.fitting import NotRefitted, TableFit, refitted_pack
from fastmlp.tabular.pack import Caller
from fastmlp.tabular.pool import TableRows
from fastmlp.training.history import History, Status

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"),
    pytest.mark.filterwarnings("ignore:.*columns left out"),
]

X, Y = drawn()
LABELS = labels()


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosted_trees, "ROUNDS", 6)


@pytest.mark.parametrize(
    ("classes", "divided"),
    [(True, "folds"), (False, "folds"), (True, "held out"), (False, "given")],
)
def test_all_rows_are_trained_on(
    classes: bool, divided: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmlp.tabular.fit_arguments.ROWS_FOR_FOLDS", 100)
    settings: dict[str, Any] = dict(FEW)
    if classes:
        make: Any = TabularMLPClassifier
        y = LABELS
        method = "predict_proba"
    else:
        make = TabularMLPRegressor
        y = Y
        method = "predict"
        settings["monotonic_cst"] = {"age": 1}
    n = len(X)
    more: dict[str, Any] = {}
    if divided == "folds":
        settings["cv"] = 3
    elif divided == "given":
        n = 90
        more = {"X_val": X[n:], "y_val": y[n:]}
    more |= {"X": X[:n], "y": y[:n], "sample_weight": 1.0 + np.arange(n) % 3}
    plain = make(**settings).fit(**more)
    model = clone(make(**settings, refit=True)).fit(**more)
    numbers = sorted({member.recipe.number for member in plain.members_})
    assert sorted(member.recipe.number for member in model.members_) == numbers
    assert model.weights_.sum() == pytest.approx(1)
    assert model.validation_score_ == plain.validation_score_
    assert model.training_["rows"] == 120
    assert not np.array_equal(getattr(model, method)(X), getattr(plain, method)(X))
    assert model.score(X, y) > 0.4
    again = clone(model).set_params(n_jobs=1).fit(**more)
    assert np.array_equal(getattr(again, method)(X), getattr(model, method)(X))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_all_rows_within_a_time_limit(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With time enough the fit is that without a limit, else that without a refit."""
    g = np.random.default_rng(seed)
    make: Any = TabularMLPClassifier
    y = LABELS
    if g.integers(2):
        make = TabularMLPRegressor
        y = Y
    settings: dict[str, Any] = {**FEW, "cv": 2}
    given: dict[str, Any] = {}
    if g.random() < 0.5:
        settings["cv"] = None
        given = {"X_val": X[:40], "y_val": y[:40]}
    settings["trees"] = bool(g.random() < 0.5)
    plain = make(**settings).fit(X, y, **given)
    whole = make(**settings, refit=True).fit(X, y, **given)
    limited = make(**settings, refit=True, time_limit=1e6).fit(X, y, **given)
    assert np.array_equal(limited.predict(X), whole.predict(X))
    assert limited.training_ == whole.training_
    assert len(limited.members_) < len(plain.members_) or given
    with pytest.MonkeyPatch.context() as patch:
        # The time ends between the selection and the refit.
        patch.setattr(Caller, "seconds", property(lambda caller: 1e9))
        late = make(**settings, refit=True, time_limit=1e6)
        words = r"fit: refit=True did not end within time_limit=1e\+06"
        with pytest.warns(match=words):
            late.fit(X, y, **given)
    assert np.array_equal(late.predict(X), plain.predict(X))
    assert late.training_ == plain.training_


def test_a_refit_that_is_cut_short_leaves_the_selection() -> None:
    # A net of many epochs, for which a thousandth of a second does not suffice.
    model = TabularMLPRegressor(**FEW).fit(X, Y, X_val=X, y_val=Y)
    member = model.members_[0]._replace(epoch=1_000_000)
    model.pack_.members = (member,)
    rows = TableRows(model.schema_.read(X), Y)
    settings = model._settings()._replace(time_limit=0.05)
    for seconds_ago in (0.0, 0.05):
        caller = Caller("fit", time.perf_counter() - seconds_ago)
        data = Divided(rows, rows, None)
        fit = TableFit(data, "regression", 0, settings, [], 0, 1, None, caller)
        with pytest.raises(
            NotRefitted, match=r"did not end within time_limit=0\.05: more"
        ):
            refitted_pack(fit, model.pack_, rows)


@pytest.mark.parametrize("time_limit", [None, 1e6])
def test_ctrl_c_in_a_refit(
    time_limit: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(nets: Any, *_: Any, **options: Any) -> list[History]:
        return [History(status=Status.INTERRUPTED) for _ in nets]

    plain = TabularMLPRegressor(**FEW).fit(X, Y, X_val=X[:40], y_val=Y[:40])
    monkeypatch.setattr("fastmlp.tabular.fitting.fit_many", interrupted)
    model = clone(plain).set_params(refit=True, time_limit=time_limit)
    with pytest.warns(UserWarning, match="refit") as caught:
        model.fit(X, Y, X_val=X[:40], y_val=Y[:40])
    messages = [str(warning.message) for warning in caught]
    words = "refit=True was interrupted: the ensemble is that of the selection"
    assert messages == [f"TabularMLPRegressor.fit: {words}"]
    assert np.array_equal(model.predict(X), plain.predict(X))
    assert model.training_ == plain.training_
