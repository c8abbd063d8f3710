"""Files of ensembles: all members come back, and nothing else does."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ensemble.test_ensembles import CLASSES, LABELS, REAL, TASKS, N, X, ensemble
from fitting import needs_compiler, unconverged
from model_files import reloaded
from sklearn.exceptions import NotFittedError

import fastmlp
from fastmlp import FileError, MLPEnsembleClassifier, MLPEnsembleRegressor
from fastmlp.serialization import safetensors_file

pytestmark = [unconverged, needs_compiler]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ensemble.safetensors"


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize(("kind", "member", "y"), TASKS)
def test_everything_comes_back(kind: Any, member: Any, y: Any, bootstrap: bool, path: Path) -> None:
    model = ensemble(kind, bootstrap=bootstrap, early_stopping=True).fit(X, y)
    other = reloaded(model, path)
    assert type(other) is kind
    assert repr(other) == repr(model)
    assert np.array_equal(other.n_iter_, model.n_iter_)
    assert other.n_features_in_ == 3
    names = ["predict", "predict_std", "score"]
    if kind is MLPEnsembleClassifier:
        names += ["predict_proba", "predictive_entropy"]
        assert other.classes_.dtype == model.classes_.dtype
        assert np.array_equal(other.classes_, model.classes_)
    for name in names:
        report = (X, y) if name == "score" else (X,)
        assert np.array_equal(getattr(other, name)(*report), getattr(model, name)(*report))
    for one, item in zip(model.estimators_, other.estimators_, strict=True):
        assert one.loss_curve_ == item.loss_curve_


def test_members_that_lack_a_label(path: Path) -> None:
    y = np.where(np.arange(N) == 0, "rare", np.where(REAL > 0, "yes", "no"))
    model = ensemble(MLPEnsembleClassifier, bootstrap=True, n_members=6).fit(X, y)
    assert len({len(member.classes_) for member in model.estimators_}) == 2
    other = reloaded(model, path)
    assert np.array_equal(other.predict_proba(X), model.predict_proba(X))


def test_names_of_features_and_threads(path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abc"))
    model = ensemble(MLPEnsembleRegressor).fit(frame, REAL)
    other = reloaded(model, path, n_threads=1)
    assert list(other.feature_names_in_) == list("abc")
    assert other.n_jobs == 1
    assert {member.n_jobs for member in other.estimators_} == {1}
    assert np.array_equal(other.predict(frame), model.predict(frame))


def test_what_is_not_fitted_is_refused(path: Path) -> None:
    with pytest.raises(NotFittedError):
        fastmlp.save(MLPEnsembleRegressor(), path)
    with pytest.raises(TypeError, match="MLPEnsembleRegressor, MLPSearchCV"):
        fastmlp.save(None, path)  # type: ignore[arg-type]
    assert not path.exists()


def lies() -> list[Any]:
    def fewer(header: Any) -> None:
        header["members"].pop()

    def other_kind(header: Any) -> None:
        header["members"][1]["kind"] = "MLPRegressor"

    def another_file(header: Any) -> None:
        header["members"][0]["kind"] = "MLPEnsembleClassifier"

    def features(header: Any) -> None:
        header["n_features"] = 4

    def unknown_label(header: Any) -> None:
        header["labels"]["values"][0] = "a"

    def twice(header: Any) -> None:
        header["labels"]["values"].append("yes")

    def no_members(header: Any) -> None:
        header["parameters"]["n_members"] = 0
        header["members"] = []

    def one_of_several(header: Any) -> None:
        header["members"] = 3

    return [
        fewer, other_kind, another_file, features, unknown_label, twice, no_members, one_of_several
    ]  # fmt: skip


@pytest.mark.parametrize("lie", lies(), ids=lambda lie: lie.__name__)
def test_a_lying_header_is_refused(lie: Any, path: Path) -> None:
    fastmlp.save(ensemble(MLPEnsembleClassifier).fit(X, CLASSES), path)
    content = safetensors_file.read(path)
    lie(content.header)
    safetensors_file.write(path, content)
    with pytest.raises(FileError):
        fastmlp.load(path)


def test_outputs_that_differ_are_refused(path: Path) -> None:
    one, two = (ensemble(MLPEnsembleRegressor).fit(X, y) for y in (REAL, LABELS))
    one.estimators_[1] = two.estimators_[1]
    fastmlp.save(one, path)
    with pytest.raises(FileError, match="different numbers of outputs"):
        fastmlp.load(path)
