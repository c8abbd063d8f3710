"""Columns that models of tables leave out, of one name, and targets that are dates."""

import datetime
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import fastmlp
from fastmlp import MLP, TabularMLPClassifier, TabularMLPRegressor
from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED

compiled = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
FEW: dict[str, Any] = {"n_members": 1, "max_iter": 2, "cv": 2, "random_state": 0}
N = 60


def table() -> pd.DataFrame:
    """A number and a category; all else is left out."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": rng.normal(size=N),
            "town": rng.choice(["Bern", "Chur"], N),
            "review": [f"good {i}" for i in range(N)],
            "one": 5,
            "none": None,
            "lists": [[i] for i in range(N)],
        }
    )


REASONS = {
    "review": "has 60 texts in 60 rows, free text or ids",
    "one": "has one value only",
    "none": "is empty",
    "lists": "holds list, neither numbers, dates nor texts",
}


@compiled
@pytest.mark.parametrize("kind", [TabularMLPClassifier, TabularMLPRegressor])
def test_columns_that_are_left_out_are_warned_of_once(kind: Any) -> None:
    frame = table()
    y = frame["x"] > 0 if kind is TabularMLPClassifier else 2 * frame["x"]
    sentence = "; ".join(f"{name!r} {why}" for name, why in REASONS.items())
    with pytest.warns(UserWarning, match="left out") as warned:
        model = kind(**FEW).fit(frame, y)
    message = f"{kind.__name__}.fit: columns left out: {sentence}"
    assert [str(one.message) for one in warned] == [message]
    assert warned[0].filename == __file__
    assert model.schema_.dropped == REASONS
    summary = model.summary().splitlines()
    assert [f"left out: {name!r} {why}" for name, why in REASONS.items()] == summary[-5:-1]
    assert summary[-1].endswith("1 number, 1 category, 4 left out")
    assert "&#x27;one&#x27; has one value only" in model._repr_html_()
    # Without them there is nothing to say, and the model is the same.
    same = kind(**FEW).fit(frame[["x", "town"]], y)
    np.testing.assert_array_equal(same.predict(frame), model.predict(frame))


@compiled
def test_the_command_notes_each_column_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    when = pd.Timestamp("2024-02-28 12:00") + pd.to_timedelta(np.arange(N), "h")
    table().assign(y=np.arange(N) % 2, when=when).to_parquet("a.parquet")
    command = ["train", "a.parquet", "--target", "y", "--preset", "fast", "--epochs", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().err
    assert printed.count("warning: train: columns left out: ") == printed.count("warning") == 1
    assert all(printed.count(f"{name!r} ") == 1 for name in REASONS)
    assert main(["show", "model.safetensors"]) == 0
    shown = capsys.readouterr().out
    for name in REASONS:
        assert f"left out: {name!r} " in shown
    assert "columns   3\n" in shown
    assert "when: dates, as " in shown
    assert main(["show", "model.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"]["dropped"].keys() == REASONS.keys()
    assert main(["score", "model.safetensors", "a.parquet"]) == 0
    capsys.readouterr()
    pd.read_parquet("a.parquet").to_csv("a.csv", index=False)
    for data in ("a.parquet", "a.csv"):
        assert main(["predict", "model.safetensors", data, "--output", "p.csv", "--force"]) == 0
        expected = fastmlp.load("model.safetensors").predict(pd.read_parquet("a.parquet"))
        assert pd.read_csv("p.csv")["prediction"].tolist() == expected.tolist()


@pytest.mark.parametrize(
    "days",
    [
        pd.Series(pd.date_range("2024-01-01", periods=N)),
        pd.Series(pd.date_range("2024-01-01", periods=N, tz="Europe/Zurich")),
        np.arange(N).astype("M8[D]"),
        np.arange(N).astype("m8[s]"),
        [datetime.date(2024, 1, 1) + datetime.timedelta(i) for i in range(N)],
    ],
)
def test_targets_that_are_dates_are_refused(days: Any) -> None:
    message = "TabularMLPRegressor.fit: y must hold real numbers, got .*(dates|time spans|days)"
    with pytest.raises(TypeError, match=message):
        TabularMLPRegressor(**FEW).fit(table()[["x", "town"]], days)


@compiled
def test_columns_of_one_name() -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(N, 3)), columns=["a", "b", "a"])
    y, words = frame["b"], r"fit: X has several columns of the name 'a' \(2 times\)"
    with pytest.raises(ValueError, match=f"TabularMLPRegressor.{words}"):
        TabularMLPRegressor(**FEW).fit(frame, y)
    net = MLP((3, 1), seed=0)
    with pytest.warns(UserWarning, match=f"MLP.{words}; .* known by place: rename") as warned:
        net.fit(frame, y, epochs=1)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.predict(frame)
        MLP((3, 1), seed=0).fit(frame.to_numpy(), y, epochs=1)


OTHERS: dict[str, Any] = {
    "texts": (["a", "b"], "text, such as 'a' in column 'c'"),
    "texts and nulls": (["a", None], "text, such as 'a' in column 'c'"),
    "places": (pa.array(["a", "b"]).dictionary_encode(), "text, such as 'a' in column 'c'"),
    "dates": ([datetime.date(2024, 1, 1)] * 2, r"date32\[day\]: dates in column 'c'"),
    "timestamps": (pa.array([5, None], pa.timestamp("us", "UTC")), "dates in column 'c'"),
    "times": ([datetime.time(5)] * 2, "times of day in column 'c'"),
    "durations": ([datetime.timedelta(5)] * 2, "time spans in column 'c'"),
    "missing": ([1.0, None], "1 missing value in column 'c'"),
    "nulls": (pa.nulls(2), "2 missing values in column 'c'"),
    "lists": ([[1.0], [2.0]], r"list<.*> *: an ndarray in column 'c'"),
    "structs": ([{"a": 1}] * 2, "struct<.*: a dict in column 'c'"),
    "bytes": ([b"a", b"b"], "binary: text, such as b'a' in column 'c'"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_nets_of_numbers_refuse_all_else_by_name(kind: str) -> None:
    values, words = OTHERS[kind]
    X = pa.table({"x": [1.0, 2.0], "c": values, "y": [0.0, 1.0]})
    message = f"{words}.*; or take TabularMLPClassifier or TabularMLPRegressor, which read texts"
    with pytest.raises((TypeError, ValueError), match=f"rows 0 to 1: X .*{message}"):
        MLP((2, 1), seed=0).fit(X, target="y")
