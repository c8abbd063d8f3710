"""scikit-learn's checks of the models of tables."""

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmlp import TabularMLPClassifier, TabularMLPRegressor
from fastmlp.compiler.jit import INTERPRETED

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"),
]
FEW: dict[str, Any] = {"n_members": 2, "max_iter": 20, "random_state": 0}
EXPECTED_TO_FAIL = {
    # A row of weight 2 is not two rows: they would be in other batches, and in other folds.
    "check_sample_weight_equivalence_on_dense_data": "batches and folds are of rows",
}


def expected(estimator: Any) -> dict[str, str]:
    return EXPECTED_TO_FAIL


@parametrize_with_checks(
    [TabularMLPClassifier(**FEW, validation_fraction=0.3, cv=2), TabularMLPRegressor(**FEW, cv=2)],
    expected_failed_checks=expected,
)
def test_check(estimator: Any, check: Any) -> None:
    check(estimator)
