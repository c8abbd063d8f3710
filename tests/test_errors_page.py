"""docs/errors.md: each message that it quotes is raised, here or by a call of messages.txt."""

import copy
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pandas as pd
import pyarrow
import pytest
from dask.dataframe import from_pandas

import fastmlp
from fastmlp import MLP, SGD, MLPClassifier, Report, TabularMLPRegressor
from fastmlp.cli import tables
from fastmlp.compiler import cache
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import Schema

PAGE = (Path(__file__).parent.parent / "docs" / "errors.md").read_text()
MESSAGES = Path(__file__).with_name("validation").joinpath("messages.txt").read_text()
QUOTED = re.findall(r"^### `(.*)`$", PAGE, flags=re.MULTILINE)
X, Y = np.ones((6, 3)), np.ones(6)
LABELS = [0, 1, 2, 0, 1, 2]
DAYS = pd.date_range("2024-01-01", periods=6)


def net(**settings: Any) -> MLP:
    return MLP((3, 4, 1), seed=0, **settings)


def fit(X: Any = X, Y: Any = Y, loss: str = "mse", **settings: Any) -> Any:
    return net(loss=loss).fit(X, Y, epochs=1, **settings)


def fit_classes(labels: Any) -> Any:
    return MLP((3, 4, 3), loss="cross_entropy", seed=0).fit(X, labels)


def classifier(**settings: Any) -> Any:
    return MLPClassifier((2,), max_iter=5, random_state=0, **settings)


def spoilt(value: float) -> Any:
    x = X.copy()
    x[4, 2] = value
    return x


def table(**columns: Any) -> Any:
    return pd.DataFrame(X, columns=[*"abc"]).assign(**columns)


def of_table(X: Any) -> Any:
    return fastmlp.TabularMLPRegressor().fit(X, np.arange(len(X)))


def predict_without_columns() -> None:
    model = MLP((5, 1), seed=0)
    model.feature_names = [*"abcde"]
    model.predict(table())


def fit_csv(rows: list[str], encoding: str = "utf-8") -> None:
    Path("rows.csv").write_text("\n".join(["a,y", *rows, ""]), encoding=encoding)
    MLP((1, 1)).fit("rows.csv", target="y")


def bump(z: Any) -> Any:
    return z, z / z


def lookup(z: Any) -> Any:
    return z, type(z)(len(z.hex()) > 0)


def diverge() -> None:
    MLP((3, 4, 1), optimizer=SGD(0.1), seed=0).fit(np.arange(18).reshape(6, 3), 1e9 * Y)


def step_far() -> None:
    net().train_on_batch(X, 1e30 * Y)


def keep_first_epoch() -> None:
    rare = np.arange(60) % 20 == 0
    classifier(early_stopping=True, n_iter_no_change=5).set_params(max_iter=50).fit(
        np.zeros((60, 3)), rare
    )


def fit_in_a_callback() -> None:
    def again(report: Report) -> None:
        report.net.fit(X, Y)

    fit(callbacks=again)


def predict_far() -> None:
    model = net()
    model.parameters[:] = 1e30
    model.predict(1e30 * X)


def resume_another() -> None:
    net().fit(X, Y, epochs=5, checkpoint="run.safetensors")
    net().fit(X, Y, epochs=7, checkpoint="run.safetensors", resume=True)


def load_text() -> None:
    # The first eight bytes of a safetensors file are the length of its header.
    Path("notes.txt").write_bytes(b"\x08" + bytes(7) + b"no header of a net")
    fastmlp.load("notes.txt")


def learn_table(**columns: Any) -> None:
    tables._task_of(pyarrow.table(columns)["y"], "y", "auto")


def load_without_rule() -> None:
    net(activation=bump).save("bump.safetensors")
    fastmlp.load("bump.safetensors")


def save_without_safetensors() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "safetensors", None)
        patch.setitem(sys.modules, "safetensors.numpy", None)
        net().save("net.safetensors")


def look_for_a_cache() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FASTMLP_CACHE", raising=False)
        patch.setattr(numba.config, "CACHE_DIR", str(Path("cache").absolute()))
        folder, _ = cache.find()
        assert folder is not None
        folder.chmod(0o777)
        cache.folder.__wrapped__()


def clipped(z: Any) -> Any:
    if z < 0:
        return 0.0, 0.0
    return z, 1.0


def square(z: float) -> tuple[float, float]:
    return z * z, 2 * z


# By the words that the page quotes, where no call of messages.txt raises them as the page says.
CAUSES: dict[str, Callable[[], Any]] = {
    "columns left out: 'review' has 2000 texts in 2000 rows, free text or ids": lambda: of_table(
        pd.DataFrame({"a": range(2000), "review": [f"good {i}" for i in range(2000)]})
    ),
    "the column 'when' must hold dates": lambda: Schema.learn(table(when=DAYS)).read(table(when=5)),
    "X lacks 2 of the 5 known columns": predict_without_columns,
    "as an id or free text has: name another column to predict": lambda: learn_table(
        a=[*range(30)], y=[f"text {i}" for i in range(30)]
    ),
    "Input X contains NaN": lambda: classifier().fit(spoilt(np.nan), LABELS),
    "could not convert string to float": lambda: classifier().fit([["a"], ["b"]], [0, 1]),
    "is expecting 3 features as input": lambda: (
        classifier(tol=1e9, n_iter_no_change=1).fit(X, LABELS).predict(X[:, :2])
    ),
    "is not the derivative of its value": lambda: net(loss=lambda p, y: ((p - y) ** 2, p - y)),
    "does not compile": lambda: net(activation=lookup).predict(X),
    "fit diverged in epoch": diverge,
    "the loss is inf, no step was taken": step_far,
    "Maximum iterations (5) reached and the optimization hasn't converged yet.": lambda: (
        classifier().fit(X, LABELS)
    ),
    "early stopping kept the parameters of the first epoch": keep_first_epoch,
    "nets were trained within time_limit=0.001": lambda: TabularMLPRegressor(time_limit=1e-3).fit(
        np.eye(6), np.arange(6.0)
    ),
    "a fit of this net is running": fit_in_a_callback,
    "not all predictions are finite": predict_far,
    "is a checkpoint of another fit: its epochs is 5, here it is 7; resume=False starts over": (
        resume_another
    ),
    "not a safetensors file": load_text,
    "is a custom rule, and no file holds code": load_without_rule,
    "a model file needs safetensors: pip install safetensors": save_without_safetensors,
    "code cache not used": look_for_a_cache,
    "the target 'y' has 3 missing values, the first in line 9": lambda: fit_csv(
        [*["1,no", "2,yes", "3,no"] * 2, "7,yes", *["8,"] * 3]
    ),
    "columns of the model: 'area', 'town'": lambda: Schema.learn(
        pd.DataFrame({"area": [1, 2.5], "town": ["a", "b"]})
    ).read(table()),
    "line 2, column 'a': the text is not utf-8": lambda: fit_csv(["Zürich,1"], "cp1252"),
    "got DataFrame of Dask": lambda: fit(from_pandas(table(), npartitions=1), None, target="a"),
    "is more than arithmetic": lambda: fastmlp.to_c(net(activation=clipped)),
}


def test_each_quoted_message_is_of_a_call_or_has_a_cause_here() -> None:
    """A cause may be of another argument than the call of messages.txt with these words."""
    assert {words for words in QUOTED if words not in MESSAGES} <= CAUSES.keys() <= {*QUOTED}
    assert len(QUOTED) >= 60


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: nothing is compiled")
@pytest.mark.parametrize("words", CAUSES)
def test_a_quoted_message_is_raised(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings are errors here, so that both are raised."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Exception, Warning)) as caught:
        CAUSES[words]()
    assert words in str(caught.value)


def test_what_the_page_advises_works() -> None:
    model = copy.deepcopy(net())
    model.fit(X.reshape(len(X), -1), Y, epochs=1)
    model.predict(X[0].reshape(1, -1))
    model.predict(np.asarray([["1", "2", "3"]], float))
    classes, labels = np.unique(["b", "a", "c"] * 2, return_inverse=True)
    assert list(classes) == ["a", "b", "c"]
    fit_classes(labels)
