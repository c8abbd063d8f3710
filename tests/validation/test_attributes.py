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


@pytest.mark.parametrize(("kind", "table"), [(MLP, OF_NETS), (History, OF_HISTORIES)])
def test_they_are_not_there(kind: type, table: dict[str, str]) -> None:
    thing = NET if kind is MLP else History()
    names = [name for words in table.values() for name in words.split()]
    assert len(names) == len(set(names))
    assert not [name for name in names if hasattr(thing, name) or hasattr(kind, name)]
    assert not {*names} & {*dir(thing), *dir(kind)}
    assert "LackingAttribute" not in pydoc.render_doc(kind)
    assert {"loss"} <= {*dir(History())}
    assert {"fit", "predict", "weights", "_state"} <= {*dir(NET)}


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
