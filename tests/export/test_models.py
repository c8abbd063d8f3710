"""The parts of a model predict what the model predicts."""

from typing import Any

import numpy as np
import pytest
from fitting import unconverged
from small_models import CASES, MODELS, TARGETS, X
from small_tables import regressor

from fastmlp import MLP
from fastmlp.export.models import ModelParts, parts_of


def by_parts(parts: ModelParts, rows: Any) -> Any:
    values = parts.net.predict(rows)
    if parts.completion == "complement":
        values = np.hstack([1 - values, values])
    elif parts.completion == "sum":
        values = values / values.sum(axis=1, keepdims=True)
    return values


@unconverged
@pytest.mark.parametrize(("name", "target"), CASES)
def test_parts_predict_as_the_model(name: str, target: str) -> None:
    model = MODELS[name](target).fit(X, TARGETS[target])
    parts = parts_of(model, "export")
    expected = model.predict_proba(X) if hasattr(model, "classes_") else model.predict(X)
    np.testing.assert_array_equal(by_parts(parts, X), expected.reshape(len(X), -1))
    assert (parts.n_features, parts.n_outputs) == (3, expected.size // len(X))
    same = np.array_equal(parts.net.predict(X), expected.reshape(len(X), -1))
    assert (parts.completion == "none") == same


def test_parts_of_a_net() -> None:
    net = MLP((3, 4, 2), seed=0)
    net.feature_names = [*"abc"]
    parts = parts_of(net, "export")
    assert parts.net is net
    assert parts.feature_names == ("a", "b", "c")
    assert parts.completion == "none"


def test_a_model_of_tables_has_no_parts() -> None:
    with pytest.raises(TypeError, match=r"to_c: a Tabular\w+ is a model of tables, .* take"):
        parts_of(regressor(), "to_c")
