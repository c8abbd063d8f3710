"""fold: nets and pipelines of scalers that become one net of unscaled columns."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import skl2onnx
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

import fastmlp
from fastmlp import (
    MLP,
    MLPClassifier,
    MLPEnsembleRegressor,
    MLPRegressor,
    Standardizer,
    TabularMLPClassifier,
    TabularMLPRegressor,
    fold,
)

rng = np.random.default_rng(0)
N = 200
X = rng.normal([50, -3, 0, 1000], [20, 0.1, 1e-3, 300], (N, 4))
Y = X[:, 0] / 10 + X[:, 3] / 100
LABELS = np.where(np.median(Y) < Y, "high", "low")
FRAME = pd.DataFrame(X, columns=[*"abcd"])
SMALL: dict[str, Any] = {"hidden_layer_sizes": (8, 4), "random_state": 0, "max_iter": 5}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SCALERS: list[Any] = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    MinMaxScaler((-1, 2)),
    MaxAbsScaler(),
    RobustScaler(),
    RobustScaler(with_centering=False),
    RobustScaler(with_scaling=False),
    Standardizer(),
    Standardizer(robust=True),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
def test_a_net(scaler: Any, dtype: Any, tmp_path: Path) -> None:
    fitted = copy.deepcopy(scaler).fit(FRAME)
    net = MLP((4, 8, 1), activation="tanh", dtype=dtype, seed=0)
    net.fit(fitted.transform(FRAME), Y, epochs=2)
    before = net.parameters.copy()
    whole = fold(net, fitted)
    expected = net.predict(fitted.transform(FRAME))
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    np.testing.assert_allclose(whole.predict(X), expected, rtol=tolerance, atol=tolerance)
    assert net.parameters.tobytes() == before.tobytes()
    assert whole.feature_names == (*"abcd",)
    assert whole.predict(FRAME[[*"dcba"]]).tobytes() == whole.predict(X).tobytes()
    assert (whole.n_steps, net.n_steps) == (0, 14)
    whole.save(tmp_path / "net")
    assert MLP.load(tmp_path / "net").predict(FRAME).tobytes() == whole.predict(X).tobytes()


def test_a_pipeline() -> None:
    nested = make_pipeline(RobustScaler(), MaxAbsScaler())
    steps = [("first", StandardScaler()), ("none", "passthrough"), ("nested", nested), ("no", None)]
    model = Pipeline([*steps, ("net", MLPClassifier(**SMALL))]).fit(FRAME, LABELS)
    whole = fold(model)
    assert type(whole) is MLPClassifier
    expected = model.predict_proba(FRAME)
    np.testing.assert_allclose(whole.predict_proba(FRAME), expected, rtol=1e-10)
    assert (whole.predict(FRAME) == model.predict(FRAME)).all()
    assert [*whole.feature_names_in_] == [*"abcd"]
    whole.partial_fit(FRAME, LABELS)


def test_what_stands_in_a_file_and_in_onnx(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), MLPRegressor(**SMALL)).fit(X, Y)
    whole, path = fold(model), tmp_path / "model"
    fastmlp.save(whole, path, include_training_state=True)
    expected = model.predict(X)
    np.testing.assert_allclose(fastmlp.load(path).predict(X), expected, rtol=1e-10)
    graph = skl2onnx.to_onnx(whole, X[:1])
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (found,) = session.run(None, {"X": X})
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-10)


@pytest.mark.parametrize("transformer", [StandardScaler(), MinMaxScaler(), MaxAbsScaler(), None])
def test_scaled_targets(transformer: Any) -> None:
    inner = make_pipeline(StandardScaler(), MLPRegressor(**SMALL))
    for targets in (Y, np.column_stack([Y, 100 * X[:, 1], -Y])):
        model = TransformedTargetRegressor(inner, transformer=transformer).fit(X, targets)
        whole = fold(model)
        np.testing.assert_allclose(whole.predict(X), model.predict(X), rtol=1e-9, atol=1e-9)
    alone = TransformedTargetRegressor(MLPRegressor(**SMALL), transformer=StandardScaler())
    alone.fit(X, Y)
    np.testing.assert_allclose(fold(alone).predict(X), alone.predict(X), rtol=1e-9)


def test_ensembles_and_nets_as_estimators() -> None:
    ensemble = MLPEnsembleRegressor(n_members=2, **SMALL)
    net = MLP((4, 6, 1), dtype="float64").as_estimator(epochs=2, random_state=0)
    for last in (ensemble, net):
        model = make_pipeline(StandardScaler(), last).fit(FRAME, Y)
        expected = model.predict(FRAME)
        np.testing.assert_allclose(fold(model).predict(FRAME), expected, rtol=1e-9)
        np.testing.assert_allclose(model.predict(FRAME), expected, rtol=0)


def test_a_column_whose_spread_is_lost() -> None:
    x = np.column_stack([rng.normal(1e9, 1, 50), rng.normal(0, 1, 50)])
    scaler = Standardizer().fit(x)
    words = r"fold: rounding of column 0 to float32 changes its scaled values by up to \d"
    with pytest.warns(RuntimeWarning, match=words):
        fold(MLP((2, 1), seed=0), scaler)
    fold(MLP((2, 1), seed=0, dtype="float64"), scaler)


def fitted(*steps: Any) -> Any:
    return make_pipeline(*steps).fit(X, Y)


NET = MLPRegressor(**SMALL)
CASES: dict[str, tuple[Any, str]] = {
    "another step": (
        lambda: fold(fitted(StandardScaler(), PCA(4), NET)),
        r"pca is a PCA, which cannot be folded; what can be: Standardizer, StandardScaler, ",
    ),
    "a step within": (
        lambda: fold(fitted(make_pipeline(PCA(4)), NET)),
        r"pipeline\['pca'\] is a PCA, which cannot be folded",
    ),
    "clips": (
        lambda: fold(fitted(MinMaxScaler(clip=True), NET)),
        r"minmaxscaler clips, which cannot be folded: use MinMaxScaler\(clip=False\)$",
    ),
    "not fitted": (lambda: fold(MLP((4, 1)), StandardScaler()), "fold: scaler is not fitted$"),
    "not learned": (lambda: fold(MLP((4, 1)), Standardizer()), "nothing has been learned"),
    "no scaler": (lambda: fold(MLP((4, 1))), r"scaler is missing: fold\(model, scaler\), or fold"),
    "another model": (
        lambda: fold(fitted(StandardScaler(), PCA(2))),
        r"model must be an MLP, a fitted estimator of fastmlp, or a scikit-learn pipe.*PCA\(",
    ),
    "an estimator that is not fitted": (
        lambda: fold(MLPRegressor(), StandardScaler().fit(X)),
        r"model must be an MLP, a fitted estimator .*, got MLPRegressor\(\)$",
    ),
    "a search": (
        lambda: fold(GridSearchCV(NET, {"alpha": [0.1]}, cv=2).fit(X, Y), StandardScaler().fit(X)),
        "; fold its best_estimator_$",
    ),
    "a model of tables": (
        lambda: fold(TabularMLPRegressor()),
        "a TabularMLPRegressor scales the columns itself.*: predict takes columns as they are, al",
    ),
    "a model of tables after a scaler": (
        lambda: fold(Pipeline([("scaler", StandardScaler()), ("net", TabularMLPClassifier())])),
        "a TabularMLPClassifier scales the columns itself, and draws outliers in by a curve",
    ),
    "other columns": (
        lambda: fold(MLP((3, 1)), Standardizer().fit(X)),
        "fold: scaler scales 4 columns, but the net has 3 inputs$",
    ),
    "functions of targets": (
        lambda: fold(TransformedTargetRegressor(NET, func=np.log, inverse_func=np.exp).fit(X, Y)),
        "targets of the TransformedTargetRegressor are changed by func, which cannot be folded$",
    ),
    "targets that are not fitted": (
        lambda: fold(TransformedTargetRegressor(NET)),
        "the TransformedTargetRegressor is not fitted$",
    ),
    "an output that is no identity": (
        lambda: fold(
            TransformedTargetRegressor(
                MLPRegressor(loss="poisson", **SMALL), transformer=MinMaxScaler()
            ).fit(X, Y)
        ),
        "scaled targets need an output activation of identity, got 'exp'$",
    ),
    "overflow": (
        lambda: fold(MLP((1, 1), seed=0), Standardizer().fit([[0.0], [1e-100]])),
        "a scale is so small that weights are not finite float32$",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:invalid value encountered in log:RuntimeWarning")
def test_what_cannot_be_folded(case: str) -> None:
    call, words = CASES[case]
    with pytest.raises((TypeError, ValueError), match=words):
        call()
