"""scikit-learn's checks of an estimator,
and its own tests of its MLP, run on our classes.
"""

import importlib.util
from types import ModuleType
from typing import Any

import pytest
import sklearn.neural_network
from fitting import needs_compiler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmlp import MLPClassifier, MLPRegressor

pytestmark = [pytest.mark.filterwarnings("default"), needs_compiler]


CONFIGURATIONS: list[dict[str, Any]] = [
    {"max_iter": 100},
    {"solver": "sgd", "max_iter": 100},
    {"solver": "lbfgs", "max_iter": 100},
    {"solver": "adamw", "activation": "gelu", "max_iter": 50},
]


@pytest.mark.few(30)
@parametrize_with_checks(
    [
        kind(**settings)
        for settings in CONFIGURATIONS
        for kind in (MLPClassifier, MLPRegressor)
    ]
)
def test_check(estimator: Any, check: Any) -> None:
    check(estimator)


OURS = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}


def load_suite() -> ModuleType:
    spec: Any = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    spec = importlib.util.spec_from_file_location("suite_of_sklearn", spec.origin)
    suite = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name, ours in OURS.items():
            patch.setattr(sklearn.neural_network, name, ours)
        spec.loader.exec_module(suite)
    return suite


SUITE = load_suite()
globals().update({n: test for n, test in vars(SUITE).items() if n.startswith("test_")})
pytest.mark.slow(SUITE.test_gradient)


def test_the_suite_is_whole_and_tests_ours() -> None:
    assert sum(name.startswith("test_") for name in vars(SUITE)) > 40
    assert SUITE.MLPClassifier is MLPClassifier
    assert SUITE.MLPRegressor is MLPRegressor


@pytest.fixture
def global_random_seed() -> int:
    return 42
