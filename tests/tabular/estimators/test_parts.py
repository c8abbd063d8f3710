"""Parts of the models of tables: rows held out, targets, scores, further members."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import get_scorer
from sklearn.tree import DecisionTreeClassifier

from fastmlp.tabular.estimators import extras, fit_arguments
from fastmlp.tabular.estimators.scoring import QUICK, score_of
from fastmlp.tabular.estimators.splits import held_out
from fastmlp.tabular.pack import TableRows
from fastmlp.tabular.pack.rows import drawn
from fastmlp.tabular.schema import Values


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.9])
def test_rows_held_out_have_all_classes_alike(fraction: float, rng: np.random.Generator) -> None:
    y = rng.choice(4, 1000, p=[0.6, 0.3, 0.09, 0.01])
    y[0] = 4
    mask = held_out(y, fraction, rng, classes=True)
    assert abs(mask.mean() - fraction) < 0.002
    shares = np.bincount(y[mask], minlength=5) - fraction * np.bincount(y)
    assert (abs(shares) < 2).all()
    assert not mask[0]


def test_rows_held_out_have_all_parts_of_a_range(rng: np.random.Generator) -> None:
    y = rng.lognormal(size=500)
    mask = held_out(y, 0.2, rng, classes=False)
    # Of five rows that follow each other one is held out.
    ordered = mask[np.argsort(y, kind="stable")]
    assert {int(some.sum()) for some in ordered.reshape(-1, 5)} == {1}
    assert (mask != held_out(y, 0.2, rng, classes=False)).any()


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_few_rows_leave_some_on_both_sides(
    n: int, fraction: float, rng: np.random.Generator
) -> None:
    mask = held_out(np.arange(n) % 2, fraction, rng, classes=True)
    assert 0 < mask.sum() < n


LABELS: list[tuple[Any, list[Any]]] = [
    (["b", "a", "b"], ["a", "b"]),
    (pd.Series([True, False, True]), [False, True]),
    (pd.Series(["x", "y", "x"], dtype="category"), ["x", "y"]),
    (np.array([3, 1, 3], np.int8), [1, 3]),
    (np.array([0.0, 1.0, 0.0]), [0, 1]),
]


@pytest.mark.parametrize(("y", "classes"), LABELS)
def test_labels_and_their_places(y: Any, classes: list[Any]) -> None:
    result, places = fit_arguments.classes_in(y, 3, "fit")
    assert result.tolist() == classes
    assert (result[places] == np.asarray(y)).all()
    assert (fit_arguments.places_of(y, result, 3, "fit") == places).all()


@pytest.mark.parametrize("y", [["a", None, "b"], pd.Series([1, pd.NA, 2]), [1.0, np.nan, 0.0]])
def test_missing_targets_have_their_row(y: Any) -> None:
    with pytest.raises(ValueError, match="contains NaN: 1 missing value, the first in row 1"):
        fit_arguments.classes_in(y, 3, "fit")


def test_labels_of_several_types() -> None:
    with pytest.raises(TypeError, match=r"fit: labels of y must be of one type"):
        fit_arguments.classes_in(np.array(["a", 1, "a"], object), 3, "fit")


def test_weights_have_a_mean_of_one_where_there_is_weight() -> None:
    result = fit_arguments.weights([0, 2, 6], 3, "fit")
    assert result is not None
    assert result.tolist() == [0, 0.5, 1.5]
    assert fit_arguments.weights(None, 3, "fit") is None
    with pytest.raises(ValueError, match="Negative values"):
        fit_arguments.weights([1, -1, 1], 3, "fit")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", QUICK[True])
def test_quick_scores_of_numbers(name: str, weighted: bool, rng: np.random.Generator) -> None:
    y, predictions = rng.normal(size=(2, 50))
    weight = rng.random(50) if weighted else None
    result = score_of(name, "regression", None, "fit")
    assert result is not None
    plain: Any = get_scorer(name)
    more = {} if weight is None else {"sample_weight": weight}
    expected = plain._sign * plain._score_func(y, predictions, **more)
    assert result(y, predictions, weight) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["accuracy", "roc_auc_ovr", "f1_macro", "neg_brier_score"])
def test_scores_of_classes_are_those_of_scikit_learn(name: str, rng: np.random.Generator) -> None:
    classes = np.array(["a", "b", "c"])
    y = rng.integers(0, 3, 60)
    p = rng.dirichlet(np.ones(3), 60)
    result = score_of(name, "multiclass", classes, "fit")
    assert result is not None

    class Known(DummyClassifier):
        def predict_proba(self, X: Any) -> Any:
            return p

        def predict(self, X: Any) -> Any:
            return classes[p.argmax(axis=1)]

    known = Known().fit(np.zeros((60, 1)), classes[y])
    expected = get_scorer(name)(known, np.zeros((60, 1)), classes[y])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert result(y, p, None) == pytest.approx(expected)


def test_a_function_is_a_score() -> None:
    def most(estimator: Any, X: Any, y: Any) -> float:
        return float((estimator.predict(X) == y).sum())

    result = score_of(most, "binary", np.array(["no", "yes"]), "fit")
    assert result is not None
    assert result(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]), np.ones(2)) == 1.0
    assert score_of("neg_log_loss", "binary", np.array([0, 1]), "fit") is None


def test_further_members_see_a_matrix_and_may_lack_classes() -> None:
    values = Values(np.array([[1.0], [np.nan], [3.0]]), np.array([[0], [-1], [2]], np.int32))
    np.testing.assert_array_equal(extras.matrix(values), [[1, 0], [np.nan, np.nan], [3, 2]])
    part = TableRows(values, np.array([0, 2, 2]), np.array([1.0, 2.0, 1.0]))
    # With other seeds the trees of scikit-learn 1.7 do not split these rows.
    tree = [("tree", DecisionTreeClassifier(random_state=2))]
    (result,) = extras.fitted(tree, part, part, n_classes=3)
    np.testing.assert_array_equal(result.predictions, np.eye(3)[part.y])
    of_rows = drawn(part.y, 3, 0)
    (folds,) = extras.fitted(tree, part, None, n_classes=3, folds=of_rows)
    assert folds.predictions.shape == (3, 3)
    np.testing.assert_allclose(folds.predictions.sum(axis=1), 1)
    with pytest.raises(ValueError, match="names that differ"):
        extras.named([*tree, *tree], "fit")
