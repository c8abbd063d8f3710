"""Labels of classifiers for a score of labels: weights of classes, and the selection."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from fitting import needs_compiler, unconverged
from sklearn.base import clone
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from sklearn.model_selection import GridSearchCV
from small_models import FEW, classifier, decided, drawn, labels, reloaded

import fastmlp
from fastmlp import FileError, TabularMLPClassifier, predict_arrow
from fastmlp.cli.main import main
from fastmlp.serialization import files
from fastmlp.tabular.decisions import STEPS, LabelScore, decision_weights
from fastmlp.tabular.outputs import Scorer

Y = np.array([0, 1, 1, 2, 0, 2, 2, 1, 0, 0, 1, 2])
WEIGHT = np.linspace(0.5, 2, len(Y))


def probabilities(n: int, n_classes: int, seed: int = 0) -> Any:
    """Rows of which the last class is rare."""
    shares = np.linspace(1, 0.1, n_classes)
    return np.random.default_rng(seed).dirichlet(shares * n_classes, n)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_scores_are_those_of_scikit_learn(weight: Any, n_classes: int) -> None:
    y = np.minimum(Y, n_classes - 1)
    p = probabilities(len(y), n_classes)
    found = p.argmax(axis=1)
    own = {"sample_weight": weight}
    expected: dict[Any, float] = {
        "accuracy": accuracy_score(y, found, **own),
        "balanced_accuracy": balanced_accuracy_score(y, found, **own),
        "f1_macro": f1_score(y, found, average="macro", **own),
    }
    expected["f1"] = expected["f1_macro"]
    if n_classes == 2:
        expected["f1"] = f1_score(y, found, **own)
    for name, score in expected.items():
        assert LabelScore(name)(y, p, weight) == pytest.approx(score, rel=1e-12)


def test_f1_is_that_of_the_place() -> None:
    y = np.minimum(Y, 1)
    p = probabilities(len(y), 2)
    expected = f1_score(y, p.argmax(axis=1), pos_label=0)
    assert LabelScore("f1", 0)(y, p, None) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", [None, np.linspace(0.5, 2, 400)])
@pytest.mark.parametrize("name", ["balanced_accuracy", "f1", "f1_macro"])
def test_weights_of_two_classes_are_the_best_of_all_steps(
    name: Any, weight: Any
) -> None:
    p = probabilities(400, 2)
    score = LabelScore(name)
    # Each row stands twice, with its probability of each class.
    y = np.repeat([0, 1], len(p))
    shares = p
    if weight is not None:
        shares = p * weight[:, None]
    twice = shares.T.ravel()

    def expected(second: float) -> float:
        return score(y, np.tile(p * [1, second], (2, 1)), twice)

    best = max(expected(np.exp(step)) for step in STEPS)
    first, second = decision_weights(score, p, weight)
    assert first == 1
    assert expected(second) == pytest.approx(best, rel=1e-12)
    assert best > expected(1) + 0.01


def test_weights_of_several_classes_gain() -> None:
    p = probabilities(2000, 4)
    generator = np.random.default_rng(1)
    y = (p.cumsum(axis=1) < generator.random((len(p), 1))).sum(axis=1)
    score = LabelScore("balanced_accuracy")
    weights = decision_weights(score, p, None)
    assert score(y, p * weights, None) > score(y, p, None) + 0.03


def test_accuracy_has_no_weights() -> None:
    p = probabilities(300, 3)
    assert (decision_weights(LabelScore("accuracy"), p, None) == 1).all()


def test_the_log_loss_breaks_ties() -> None:
    p = probabilities(len(Y), 3)
    labelled = p.argmax(axis=1)
    surer = 0.9 * p + 0.1 * np.eye(3)[labelled]
    scorer = Scorer("multiclass", labelled, None, LabelScore("accuracy"))
    assert scorer.score_of(p) == scorer.score_of(surer) == 1
    assert scorer.loss(surer, None) < scorer.loss(p, None)


@needs_compiler
def test_labels_are_of_weighted_probabilities() -> None:
    model, X, _ = decided()
    weights = model.decision_weights_
    assert weights[0] == 1 < weights[1]
    p = model.predict_proba(X)
    assert (model.predict(X) == (p * weights).argmax(axis=1)).all()
    assert (model.predict(X) != p.argmax(axis=1)).any()
    rows = X.to_dict("records")
    assert [model.predict([row])[0] for row in rows] == model.predict(X).tolist()


@needs_compiler
@unconverged
def test_batches_by_a_search_have_its_labels() -> None:
    model, X, y = decided()
    search = GridSearchCV(clone(model), {"max_iter": [8]}, cv=2).fit(X, y)
    assert (search.best_estimator_.decision_weights_ != 1).any()
    batches = predict_arrow(search, pyarrow.Table.from_pandas(X))
    told = batches.read_all()["prediction"].to_pylist()
    assert told == search.predict(X).tolist()


@needs_compiler
def test_the_score_is_that_of_the_labels() -> None:
    model, X, y = decided()
    expected = balanced_accuracy_score(y, model.predict(X))
    assert model.validation_score_ == pytest.approx(expected, rel=1e-12)


@needs_compiler
def test_weights_go_with_a_pickle() -> None:
    model, X, _ = decided()
    copy = pickle.loads(pickle.dumps(model))
    assert (copy.decision_weights_ == model.decision_weights_).all()
    assert (copy.predict(X) == model.predict(X)).all()


@needs_compiler
def test_weights_go_with_a_file(tmp_path: Path) -> None:
    model, X, _ = decided()
    loaded = reloaded(model, tmp_path / "m")
    assert (loaded.decision_weights_ == model.decision_weights_).all()
    assert (loaded.predict(X) == model.predict(X)).all()


@needs_compiler
def test_weights_are_learned_again_by_a_clone() -> None:
    model, X, y = decided()
    again = clone(model).fit(X, y, X_val=X, y_val=y)
    assert (again.decision_weights_ == model.decision_weights_).all()
    assert (again.predict(X) == model.predict(X)).all()


@needs_compiler
def test_weights_stay_after_a_refit() -> None:
    model, X, y = decided()
    refitted = clone(model).set_params(refit=True)
    refitted.fit(X, y, X_val=X, y_val=y)
    assert (refitted.decision_weights_ == model.decision_weights_).all()


@needs_compiler
def test_another_fit_forgets_weights() -> None:
    model, X, y = decided()
    again = pickle.loads(pickle.dumps(model)).set_params(scoring=None)
    again.fit(X, y, X_val=X, y_val=y)
    assert (again.decision_weights_ == 1).all()
    assert (classifier().decision_weights_ == 1).all()


@needs_compiler
def test_f1_is_that_of_the_label_1() -> None:
    _, X, y = decided()
    model = TabularMLPClassifier(**{**FEW, "n_members": 1}, scoring="f1")
    model.fit(X, 2 - y, X_val=X, y_val=2 - y)
    expected = f1_score(2 - y, model.predict(X), pos_label=1)
    assert model.validation_score_ == pytest.approx(expected, rel=1e-12)


@needs_compiler
def test_f1_of_several_classes_is_the_mean() -> None:
    X, _ = drawn()
    y = labels()
    model = TabularMLPClassifier(**{**FEW, "n_members": 1}, scoring="f1")
    model.fit(X, y, X_val=X, y_val=y)
    expected = f1_score(y, model.predict(X), average="macro")
    assert model.validation_score_ == pytest.approx(expected, rel=1e-12)


@needs_compiler
@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1, 2.0], "x"])
def test_wrong_weights_in_a_file(weights: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    fastmlp.save(decided()[0], path)
    content = files.read(path)
    content.header["training"]["decision_weights"] = weights
    files.write(path, content)
    with pytest.raises(FileError, match="decision_weights must be a number above 0"):
        fastmlp.load(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table and a model of it, which the command has trained for a score of labels."""
    folder = tmp_path_factory.mktemp("commands")
    _, X, y = decided()
    X.assign(y=y).to_csv(folder / "a.csv", index=False)
    train = ["train", "a.csv", "--target", "y", "--preset", "fast", "--epochs", "8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*train, "--scoring", "f1_macro"]) == 0
    return folder


@needs_compiler
def test_the_command_trains_for_a_score_of_labels(folder: Path) -> None:
    model = fastmlp.load(folder / "model.safetensors")
    assert model.scoring == "f1_macro"
    assert (model.decision_weights_ != 1).any()


@needs_compiler
def test_the_command_labels_by_weights(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "model.safetensors")
    _, X, _ = decided()
    assert main(["predict", path, str(folder / "a.csv")]) == 0
    told = [*map(int, capsys.readouterr().out.split()[1:])]
    assert told == fastmlp.load(path).predict(X).tolist()


@needs_compiler
def test_the_command_scores_by_weights(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "model.safetensors")
    _, X, y = decided()
    model = fastmlp.load(path)
    asked = ["--metric", "f1", "--json"]
    assert main(["score", path, str(folder / "a.csv"), *asked]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["f1"] == pytest.approx(f1_score(y, model.predict(X)))
