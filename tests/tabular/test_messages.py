"""What encoders, `Encoding` and `Schema` say of what is not what they take."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest

import fastmlp.tabular
from fastmlp.tabular import (
    CosineEncoder,
    Encoding,
    MissingMarks,
    NoisyQuantile,
    OneHotLevels,
    PiecewiseLinear,
    RobustSmoothClip,
    Schema,
    TargetStatistics,
)

NAN = float("nan")
FRAME = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1.0, NAN, 2.0]})
CODES = [[0], [1], [0]]
Y = np.array([0.5, 1.5, 2.5])
VALUES = Schema.learn(FRAME).read(FRAME)
rng = np.random.default_rng(0)
wrong: Any = {"frequencies": 3}
CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "a keyword": (
        lambda: CosineEncoder(**wrong),
        "^CosineEncoder: got an unexpected keyword argument 'frequencies', did you mean 'n_freq",
    ),
    "texts as numbers": (
        lambda: RobustSmoothClip().fit(pandas.DataFrame({"a": ["x", "y"]})),
        "^RobustSmoothClip: X must hold numbers: .*'x'; texts go through Schema and OneHotLevels$",
    ),
    "infinite numbers": (
        lambda: MissingMarks().fit(FRAME.replace(1.0, np.inf)),
        "column 'a' is infinite in row 0; make NaN of it, a missing value$",
    ),
    "pieces before fit": (lambda: PiecewiseLinear().pieces(FRAME), "PiecewiseLinear .* not fitted"),
    "no targets of a tree": (
        lambda: PiecewiseLinear(bins="tree").fit(FRAME),
        r"bins='tree' needs y, targets of shape \(3,\)$",
    ),
    "few targets of a tree": (
        lambda: PiecewiseLinear(bins="tree").fit(FRAME, Y[:2]),
        r"needs y, targets of shape \(3,\), got shape \(2,\)$",
    ),
    "codes of floats": (
        lambda: OneHotLevels().fit(FRAME + 0.25),
        r"codes of levels, integers, as of Schema.read or of OrdinalEncoder: got 1.25",
    ),
    "numbers as codes": (
        lambda: OneHotLevels().fit([[10**9], [0]]),
        "codes must be places among levels, at most 16777216, got 1000000000: make such",
    ),
    "targets that are missing": (
        lambda: TargetStatistics().fit(CODES, [1.0, NAN, 2.0]),
        "TargetStatistics: y must be finite, got nan in row 1; leave it out",
    ),
    "classes that are missing": (
        lambda: TargetStatistics(task="classification").fit(CODES, [1.0, NAN, 2.0]),
        "TargetStatistics: y must be finite, got nan in row 1",
    ),
    "targets of texts": (
        lambda: TargetStatistics(task="regression").fit(CODES, ["a", "b", "c"]),
        "TargetStatistics: y must hold numbers, for a regression: .*'a'",
    ),
    "a table for an encoding": (
        lambda: Encoding().fit(FRAME, Y, "regression", rng),
        r"Encoding: values must be Values, as of Schema.learn\(X\).read\(X\), got DataFrame",
    ),
    "a table to transform": (
        lambda: Encoding().fit(VALUES, Y, "regression", 0).transform(FRAME),
        "Encoding: values must be Values",
    ),
    "another task": (
        lambda: Encoding().fit(VALUES, Y, "regresion", rng),  # type: ignore[arg-type]
        "Encoding: unknown task 'regresion', did you mean 'regression'",
    ),
    "fewer targets": (
        lambda: Encoding().fit(VALUES, Y[:2], "regression", rng),
        r"Encoding: y must have shape \(3,\), got \(2,\)",
    ),
    "a column of pandas": (lambda: Schema.learn(FRAME["a"]), "got Series: make a table of one col"),
    "a column of polars": (
        lambda: Schema.learn(polars.Series([1, 2])),
        r"Schema.learn: X must be a frame .*, got Series: make .*, as by X.to_frame\(\)",
    ),
    "a column of Arrow": (
        lambda: Schema.learn(pyarrow.chunked_array([[1, 2]])),
        "X must be a frame of pandas or polars, .*, got ChunkedArray: make a table",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said(case: str) -> None:
    call, words = CASES[case]
    with pytest.raises((TypeError, ValueError, AttributeError), match=words):
        call()


def test_numbers_as_texts_are_told_as_such() -> None:
    ids = [f"{i}.5" for i in range(60)]
    schema = Schema.learn(pandas.DataFrame({"a": ids, "b": range(60)}))
    assert schema.dropped["a"].endswith("free text or ids; all are numbers: make floats of them")
    schema = Schema.learn(pandas.DataFrame({"a": [*ids[1:], "x"], "b": range(60)}))
    assert schema.dropped["a"].endswith("free text or ids")


def test_a_seed_may_stand_for_a_generator() -> None:
    encoding = Encoding(scaling="quantile", embedding="cosine")
    first = encoding.fit(VALUES, Y, "regression", 3).transform(VALUES)
    again = encoding.fit(VALUES, Y, "regression", np.random.default_rng(3)).transform(VALUES)
    assert (first == again).all()


@pytest.mark.parametrize("encoder", [NoisyQuantile, PiecewiseLinear, TargetStatistics])
def test_settings_are_those_of_scikit_learn(encoder: Any) -> None:
    made = encoder(**encoder().get_params())
    assert repr(made) == f"{encoder.__name__}()"
    assert {*dir(fastmlp.tabular)} >= {encoder.__name__, "Schema"}
