"""scikit-learn's checks of the models of tables."""

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmlp import TabularMLPClassifier, TabularMLPRegressor
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import conformal, extras
from fastmlp.tabular.settings import PRESETS

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"),
]
FEW: dict[str, Any] = {"n_members": 2, "max_iter": 6, "random_state": 0}
EXPECTED_TO_FAIL = {
    # A row of weight 2 is not two rows: they would be in other batches, and in other folds. Trees
    # count rows in their leaves and draw them for their bins; scikit-learn excepts its own as well.
    "check_sample_weight_equivalence_on_dense_data": "batches and folds are of rows"
}


def expected(estimator: Any) -> dict[str, str]:
    return EXPECTED_TO_FAIL


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "ROUNDS", 10)
    monkeypatch.setattr(conformal, "SETTINGS", conformal.SETTINGS._replace(epochs=5))
    # A check asks for 1,000 epochs.
    monkeypatch.setitem(PRESETS, "balanced", PRESETS["balanced"]._replace(patience_share=0.0))


@pytest.mark.slow
@pytest.mark.few(30)
@parametrize_with_checks(
    [
        TabularMLPClassifier(**FEW, validation_fraction=0.3, cv=2),
        TabularMLPRegressor(**FEW, cv=2),
        TabularMLPClassifier(**{**FEW, "n_members": 1, "max_iter": 2}, cv=2, trees=True),
        TabularMLPRegressor(**{**FEW, "n_members": 1}, cv=2, trees=True),
    ],
    expected_failed_checks=expected,
)
def test_check(estimator: Any, check: Any) -> None:
    check(estimator)
