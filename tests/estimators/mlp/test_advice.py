"""What to do, beside scikit-learn's words; warnings of settings that do nothing or too much."""

# Wrong types on purpose.
# mypy: disable-error-code="arg-type"

import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from fitting import needs_compiler, unconverged
from pairs import X
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier as Theirs

from fastmlp import (
    MLP,
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
    TabularMLPClassifier,
)

LABELS, REAL = (X[:, 0] > 0).astype(int), X[:, 0]
FRAME = pd.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"]})
SMALL: dict[str, Any] = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}


@pytest.mark.parametrize("model", [MLPRegressor(), MLP((2, 1)).as_estimator()], ids=repr)
def test_a_wrong_keyword_is_one_of_the_class_that_was_made(model: Any) -> None:
    message = f"^{type(model).__name__}.predict_batches: got an unexpected keyword argument 'batch'"
    with pytest.raises(TypeError, match=message):
        model.predict_batches(X, batch=3)


def test_text_in_a_frame_names_its_column() -> None:
    message = (
        r"^could not convert string to float: 'u': text, such as 'u' in column 'b'; encode it: "
        r"pandas.get_dummies\(X, dtype=float\), or scikit-learn's OneHotEncoder$"
    )
    with pytest.raises(ValueError, match=message):
        MLPClassifier().fit(FRAME, [0, 1])


def test_text_in_an_array_has_the_words_of_scikit_learn_and_a_note() -> None:
    rows = FRAME.to_numpy()
    with pytest.raises(ValueError, match="could not convert") as theirs:
        Theirs().fit(rows, [0, 1])
    with pytest.raises(ValueError, match="could not convert") as ours:
        MLPClassifier().fit(rows, [0, 1])
    assert str(ours.value) == str(theirs.value)
    assert "X holds text, such as 'u' in column 1; encode it" in ours.value.__notes__[0]


@pytest.mark.parametrize("form", [list, lambda y: np.array(y, object), pd.Series, pl.Series])
@pytest.mark.parametrize(
    "model",
    [MLPClassifier(), MLP((6, 1), loss="binary_cross_entropy").as_estimator(),
     TabularMLPClassifier()],
    ids=lambda model: type(model).__name__,
)  # fmt: skip
def test_labels_that_numpy_takes_for_the_same(model: Any, form: Any) -> None:
    """Its texts drop NUL characters at their ends."""
    y = ["a" if i % 2 else "a\0" for i in range(len(X))]
    with pytest.raises(ValueError, match=rf"{type(model).__name__}.fit: y holds 'a\\x00', whose"):
        model.fit(X, form(y))


MASKED = np.ma.masked_greater(X, 1.0)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_masked_entries_are_refused(kind: Any) -> None:
    name, model = kind.__name__, kind(**SMALL)
    y = LABELS if "Classifier" in name else REAL
    with pytest.raises(ValueError, match=f"^{name}: X has masked entries; fill them in, or leave"):
        model.fit(MASKED, y)
    with pytest.raises(ValueError, match=f"^{name}: y has masked entries"):
        model.fit(X, np.ma.array(y, mask=y > 0))


@needs_compiler
@unconverged
def test_masked_entries_are_refused_after_a_fit() -> None:
    # Without a masked entry it is an array as any other.
    model = MLPRegressor(**SMALL).fit(np.ma.array(X), REAL)
    message = "MLPRegressor: X has masked entries"
    for call in (model.predict, model.transform, lambda rows: model.partial_fit(rows, REAL)):
        with pytest.raises(ValueError, match=message):
            call(MASKED)
    with pytest.raises(ValueError, match=message):
        model.fit(X, REAL, X_val=MASKED, y_val=REAL)
    with pytest.raises(ValueError, match="MLPRegressor: sample_weight has masked entries"):
        model.fit(X, REAL, sample_weight=np.ma.masked_greater(np.ones(len(X)), 0))
    search = MLPSearchCV(MLPRegressor(**SMALL), {"alpha": [1e-4, 1e-3]}, cv=2)
    with pytest.raises(ValueError, match=message):
        search.fit(MASKED, REAL)


@needs_compiler
def test_scoring_without_early_stopping_warns() -> None:
    message = "MLPClassifier: scoring='roc_auc' is not used without early_stopping=True"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with pytest.warns(UserWarning, match=message):
            MLPClassifier(**SMALL, scoring="roc_auc").fit(X, LABELS)


@needs_compiler
def test_early_stopping_that_keeps_the_first_epoch_warns() -> None:
    rare = np.zeros(400, int)
    rare[::20] = 1
    rows = np.random.default_rng(3).standard_normal((400, 4))
    model = MLPClassifier((8,), early_stopping=True, random_state=0)
    message = (
        r"MLPClassifier: early stopping kept the parameters of the first epoch: no later one of "
        r'\d+ had a validation score above 0\.95; where a class is rare, scoring="loss" finds'
    )
    with pytest.warns(RuntimeWarning, match=message):
        model.fit(rows, rare)
    scores = model.validation_scores_ or []
    assert scores[0] == max(scores)
    # The same where it is a later one, whose accuracy is the share of the common class.
    message = (
        r"MLPClassifier: early stopping kept epoch 16 of \d+: its validation accuracy, 0\.95, is "
        r"no higher than the share of one class; where a class is rare, scoring=\"loss\" finds"
    )
    with pytest.warns(RuntimeWarning, match=message):
        clone(model).set_params(random_state=4).fit(rows, rare)
    # By the loss there is progress, and nothing to warn of.
    assert model.set_params(scoring="loss", max_iter=500).fit(rows, rare).n_iter_ > 11
