"""scikit-learn's own tests of its MLP, from the installed package, run on our two classes."""

import importlib.util
from types import ModuleType
from typing import Any

import pytest
import sklearn.neural_network
from fitting import needs_compiler

from fastmlp import MLPClassifier, MLPRegressor

OURS = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}
pytestmark = [pytest.mark.filterwarnings("default"), needs_compiler]


def load_suite() -> ModuleType:
    """Import the tests under another name, with our classes in the place of scikit-learn's."""
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


def test_the_suite_is_whole_and_tests_ours() -> None:
    assert sum(name.startswith("test_") for name in vars(SUITE)) > 40
    assert SUITE.MLPClassifier is MLPClassifier
    assert SUITE.MLPRegressor is MLPRegressor


@pytest.fixture
def global_random_seed() -> int:
    """The seed that scikit-learn's own configuration gives by default."""
    return 42
