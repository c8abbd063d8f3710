"""Attributes of other libraries' models: absent, and their errors say what does their work."""

import copy
import pickle
import pydoc

import numpy as np
import pytest
import sklearn
from sklearn.base import is_classifier, is_regressor

from fastmlp import MLP, History
from fastmlp.validation.attributes import OF_HISTORIES, OF_NETS

NET = MLP((3, 4, 1), seed=0)
LACKING = {
    "predict_proba": "predict returns probabilities",
    "predict_log_proba": r"np.log\(net.predict\(X\)\)",
    "decision_function": "predict_raw",
    "score": "MLPClassifier and MLPRegressor have score",
    "evaluate": r"net.loss_and_gradient\(X, y\)\[0\] is the loss",
    "compile": r"MLP\(layer_sizes, loss=..., optimizer=...\)",
    "partial_fit": r"net.fit\(X, y, epochs=1\)",
    "get_params": "scikit-learn's estimators",
    "coefs_": "use weights",
    "state_dict": "use parameters, or save and load",
    "history": r"history = net.fit\(X, y\)",
    "forward": "use predict",
    "__call__": r"use predict: net.predict\(X\)",
    "add": r"MLP\(\(n_inputs, 32, n_outputs\)\)",
    "jacobian": "by inputs, take differences of predict",
    "eval": "predict is without",
    "cuda": r"net.to\('cuda'\)",
    "count_params": r"len\(net.parameters\)",
    "named_parameters": "weights and biases",
    "learning_rate": r"net.optimizer = Adam\(0.01\)",
}


@pytest.mark.parametrize("name", LACKING)
def test_an_attribute_elsewhere_names_ours(name: str) -> None:
    told = f"^'MLP' object has no attribute {name!r}; .*{LACKING[name]}"
    with pytest.raises(AttributeError, match=told):
        getattr(NET, name)
    with pytest.raises(AttributeError, match=f"^type object 'MLP' has no attribute {name!r}; "):
        getattr(MLP, name)


def test_a_call_names_predict() -> None:
    with pytest.raises(AttributeError, match=r"'__call__'; use predict: net.predict\(X\)$"):
        NET(np.ones((2, 3)))  # type: ignore[operator]


def test_a_history_is_no_net() -> None:
    with pytest.raises(
        AttributeError, match=r"fit returns a History, not the net: net.fit\(X, y\)"
    ):
        History().predict  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match=r"the lists are attributes: history.loss"):
        History().history  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(("kind", "table"), [(MLP, OF_NETS), (History, OF_HISTORIES)])
def test_they_are_not_there(kind: type, table: dict[str, str]) -> None:
    thing = NET if kind is MLP else History()
    names = [name for words in table.values() for name in words.split()]
    assert len(names) == len(set(names))
    assert not [name for name in names if hasattr(thing, name) or hasattr(kind, name)]
    assert not {*names} & {*dir(thing), *dir(kind)}
    assert "Elsewhere" not in pydoc.render_doc(kind)
    assert {"loss"} <= {*dir(History())}
    assert {"fit", "predict", "weights", "_state"} <= {*dir(NET)}


def test_other_names_have_the_error_of_python() -> None:
    with pytest.raises(AttributeError, match=r"^'MLP' object has no attribute 'fitt'$"):
        NET.fitt  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8),
    reason="scikit-learn before 1.8 goes on with a guess, and warns",
)
def test_scikit_learn_sees_no_estimator() -> None:
    for check in (is_classifier, is_regressor):
        with pytest.raises(AttributeError, match="has no attribute '__sklearn_tags__'"):
            check(NET)


def test_a_name_of_them_may_be_set() -> None:
    net = copy.deepcopy(NET)
    net.history = net.fit(np.ones((2, 3)), [1, 2], epochs=1)  # type: ignore[attr-defined]
    assert len(pickle.loads(pickle.dumps(net)).history.loss) == 1
