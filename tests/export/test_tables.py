"""Models of tables in C and in compiled code:
the bits of `predict`, from numbers and codes.
"""

import copy
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from exported import (
    OF_CLANG,
    built,
    digits,
    expected_of,
    failures,
    needs_compiler,
    needs_gcc,
    pointer,
    predict,
    predict_shared,
    predictions,
    sanitized,
)
from sklearn.tree import DecisionTreeClassifier
from small_models import (
    FEW,
    WITH_TREES,
    classifier,
    decided,
    drawn,
    regressor,
    reloaded,
    untrained,
    with_trees,
)

from fastmlp import TabularMLPClassifier, TabularMLPRegressor, jit, save, to_c
from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED

N_SEEDS = 16


@cache
def binary() -> Any:
    """Two classes, which rise with a column,
    of a table in which levels are numbers and texts.
    """
    X, y = drawn(90, 3)
    levels = pd.Categorical(np.arange(90) % 4).rename_categories([0, 1, 2, "@STARTS"])
    frame = X.assign(**{"a b": np.arange(90) % 3 == 0, "A*/b": levels})
    model = TabularMLPClassifier(**FEW, monotonic_cst={"age": 1})
    high = y > np.median(y)
    return model.fit(frame, high, X_val=frame[::3], y_val=high[::3]), frame


@cache
def counts() -> Any:
    X = drawn()[0]
    y = np.exp(drawn()[1] / 2).round()
    return TabularMLPRegressor(**FEW, loss="poisson").fit(
        X, y, X_val=X[::3], y_val=y[::3]
    ), X


MODELS: dict[str, Callable[[], Any]] = {
    "classes": lambda: (classifier(), drawn()[0]),
    "number": lambda: (regressor(), drawn()[0]),
    "rising": binary,
    "decided": lambda: decided()[:2],
    "digits": lambda: digits(10),
    "counts": counts,
}


def cases(seeds: range, folder: Path) -> dict[str, tuple[Any, Any]]:
    """Models from files, and their tables;
    those of seeds are of columns of drawn kinds.
    """
    models = {f"drawn{seed}": untrained(seed) for seed in seeds}
    models |= {name: make() for name, make in MODELS.items()}
    return {
        name: (reloaded(model, folder / "model"), X)
        for name, (model, X) in models.items()
    }


@pytest.mark.slow
@needs_gcc
@needs_compiler
@pytest.mark.parametrize(
    ("flags", "seeds"),
    [("-std=c99 -O1", range(N_SEEDS)), ("-x c++ -std=c++17 -O3", range(3))],
)
def test_c_files_have_the_bits_of_tables(
    flags: str, seeds: range, tmp_path: Path
) -> None:
    models = cases(seeds, tmp_path)
    texts = {
        name: to_c(model, prefix=name, test_data=None if name > "drawn2" else X)
        for name, (model, X) in models.items()
    }
    library = built(tmp_path, texts, [*flags.split(), "-march=native"])
    for name, (model, X) in models.items():
        rows = model.codes(X)
        expected = expected_of(model, X)
        out = predictions(library, name, rows, expected.shape[1])
        np.testing.assert_array_equal(out, expected, name)
        assert failures(library, name, np.float64) == 0
        if hasattr(model, "classes_"):
            places = [library[f"{name}_class"](pointer(row)) for row in rows]
            assert (model.classes_[places] == model.predict(X)).all()


@pytest.mark.slow
@needs_gcc
@needs_compiler
@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        ("-std=c99 -O1", WITH_TREES),
        ("-x c++ -std=c++17 -O1", ["multiclass", "many levels"]),
    ],
)
def test_c_files_have_the_bits_of_boosted_trees(
    flags: str, kinds: Any, tmp_path: Path
) -> None:
    models = {f"trees{i}": with_trees(kind) for i, kind in enumerate(kinds)}
    texts = {name: to_c(model, prefix=name) for name, (model, _) in models.items()}
    library = built(tmp_path, texts, [*flags.split(), "-march=native"])
    for name, (model, X) in models.items():
        new = X[:1].assign(
            town=["Rome"], **({"place": ["nowhere"]} if "place" in X else {})
        )
        rows = pd.concat([X[:300], *[new] * 4])
        codes = model.codes(rows)
        expected = expected_of(model, rows)
        for row, code in zip(codes[-4:], (np.nan, -7, 300, 1e300), strict=True):
            row[row == -1] = code
        out = predictions(library, name, codes, expected.shape[1])
        np.testing.assert_array_equal(out, expected, name)
        assert failures(library, name, np.float64) == 0


@needs_gcc
def test_no_call_of_a_library(tmp_path: Path) -> None:
    (tmp_path / "net.h").write_text(to_c(regressor(), prefix="net", tests=0))
    flags = ["-O0", "-ffreestanding", "-fno-math-errno", "-DNET_IMPLEMENTATION"]
    subprocess.run(["gcc", *flags, "-x", "c", "-c", "net.h"], cwd=tmp_path, check=True)
    assert " U " not in subprocess.check_output(["nm", tmp_path / "net.o"], text=True)


@pytest.fixture(scope="module")
def of_tables(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The library of the model of two classes."""
    text = to_c(binary()[0], prefix="net")
    folder = tmp_path_factory.mktemp("tables")
    return built(folder, {"net": text}, ["-O1", "-march=native"])


@pytest.mark.slow
@needs_gcc
@needs_compiler
def test_missing_values_in_c(of_tables: Any) -> None:
    model, X = binary()
    schema = model.schema_
    names = list(X)
    row = np.full(len(names), np.nan)
    new = pd.DataFrame({name: [None] for name in names})
    new = new.astype({"age": float, "income": float})
    rows = [row, np.where(np.isnan(row), -1, row), np.full(len(names), 1e9)]
    expected = expected_of(model, new)[0]
    for each in rows:
        each[[names.index(name) for name in schema.numeric_names]] = np.nan
        out = np.empty(2)
        of_tables["net_predict"](pointer(each), pointer(out))
        np.testing.assert_array_equal(out, expected)


@pytest.mark.slow
@needs_gcc
@needs_compiler
def test_codes_of_levels_in_c(of_tables: Any) -> None:
    model, X = binary()
    schema = model.schema_
    names = list(X)
    library = of_tables
    for name, levels in schema.levels.items():
        for code, level in enumerate(levels):
            assert library["net_code"](names.index(name), str(level).encode()) == code


@pytest.mark.slow
@needs_gcc
@needs_compiler
@pytest.mark.parametrize("place", [0, 99])
def test_a_place_without_levels_has_no_code_in_c(place: int, of_tables: Any) -> None:
    assert of_tables["net_code"](place, b"Bern") == -1


@pytest.mark.slow
@needs_gcc
@needs_compiler
def test_an_unknown_level_has_no_code_in_c(of_tables: Any) -> None:
    _, X = binary()
    assert of_tables["net_code"]([*X].index("town"), b"Rome") == -1


@pytest.mark.slow
@needs_gcc
@needs_compiler
def test_a_file_alone_is_a_program_that_sanitizers_pass(tmp_path: Path) -> None:
    models = {name: make()[0] for name, make in MODELS.items()}
    models |= {
        f"trees_{kind}": with_trees(kind)[0] for kind in ("binary", "multiclass")
    }
    texts = {name: to_c(model, prefix=name) for name, model in models.items()}
    n_outputs = [
        max(len(getattr(model, "classes_", ())), 1) for model in models.values()
    ]
    failed = [f"0 failures of {10 * n}" for n in n_outputs]
    assert sanitized(tmp_path, texts) == [failed[0], *failed]


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")
def test_clang_compiles_the_same_bits_without_a_warning(tmp_path: Path) -> None:
    models = cases(range(N_SEEDS, N_SEEDS + 3), tmp_path) | {
        "trees": with_trees("multiclass")
    }
    texts = {
        name: to_c(model, prefix=name, test_data=X)
        for name, (model, X) in models.items()
    }
    library = built(tmp_path, texts, OF_CLANG, "clang")
    for name in models:
        assert failures(library, name, np.float64) == 0


@pytest.mark.slow
@needs_gcc
@needs_compiler
def test_nets_of_double_numbers(tmp_path: Path) -> None:
    text = to_c(regressor(), prefix="net", dtype="float64")
    library = built(tmp_path, {"net": text}, ["-O1", "-march=native"])
    assert failures(library, "net", np.float64, 1e-5) == 0


@pytest.mark.slow
def test_columns_stand_with_their_levels_in_the_c_file() -> None:
    text = to_c(binary()[0])
    assert "0: age, a number; NAN where it is missing\n" in text
    assert (
        "1: town, a level: 0 Bern, 1 Chur, 2 Genf, 3 Zug; -1 where it is missing"
        in text
    )
    assert (
        "enum { MODEL_X_AGE, MODEL_X_TOWN, MODEL_X_INCOME, MODEL_X_MEMBER, "
        "MODEL_X_A_B, " in text
    )
    assert "MODEL_X_A__B };" in text
    assert "5: A* /b, a level: 0 0, 1 1, 2 2, 3 @STARTS;" in text


@pytest.mark.slow
def test_the_first_of_many_levels_stand_in_the_c_file() -> None:
    frame = pd.DataFrame({"t": [f"text {i}" for i in range(60)] * 10})
    model = TabularMLPRegressor(**FEW).fit(frame, np.arange(600.0) % 60)
    assert "19 text 26 and 40 more;" in to_c(model)


@pytest.mark.slow
def test_the_command_writes_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    X, _ = drawn()
    save(classifier(), "model.safetensors")
    X.assign(other=1).to_csv("rows.csv", index=False)
    assert main(["export", "model.safetensors", "model.h"]) == 0
    assert Path("model.h").read_text() == to_c(classifier(), "model.h")
    command = [
        "export",
        "model.safetensors",
        "model.c",
        "--tests",
        "20",
        "--test-data",
        "rows.csv",
    ]
    assert main(command) == 0
    assert Path("model.c").read_text() == to_c(
        classifier(), "model.c", tests=20, test_data=X
    )
    Path("rows.csv").write_text(",".join(X) + "\n")
    assert main([*command, "--force"]) == 1


def test_codes_are_rows_of_the_columns_that_are_read() -> None:
    frame = pd.DataFrame(
        {
            "town": ["b", "a", None, "b"] * 8,
            "same": 1,
            "day": pd.date_range("2024-01-30", periods=32),
            "size": [1.5, np.nan, 2.0, 3.0] * 8,
        }
    )
    with pytest.warns(UserWarning, match="left out"):
        model = TabularMLPRegressor(**FEW, cv=2).fit(frame, np.arange(32.0))
    codes = model.codes(frame[["size", "day", "town"]])
    parts = model.schema_.dates["day"].names
    assert parts == ("month", "day", "weekday", "days")
    np.testing.assert_array_equal(codes[:, 0], [1, 0, -1, 1] * 8)
    np.testing.assert_array_equal(codes[:, -1], frame["size"])
    np.testing.assert_array_equal(
        codes[:3, 1:5], [[1, 30, 1, 0], [1, 31, 2, 1], [2, 1, 3, 2]]
    )
    names = ("town", *(f"day ({part})" for part in parts), "size")
    assert model._table_parts("to_c").feature_names == names
    assert "1: day (month), a number;" in to_c(model)


def with_another_member() -> Any:
    from sklearn.tree import DecisionTreeRegressor

    X = np.random.default_rng(0).normal(size=(60, 2))
    model = TabularMLPRegressor(
        **FEW,
        extra_members=[("tree", DecisionTreeRegressor())],
        ensemble="mean",
        max_members=9,
    )
    return model.fit(X, 2 * X[:, 0])


@pytest.mark.parametrize(
    ("make", "options", "kind", "words"),
    [
        (TabularMLPRegressor, {}, ValueError, "is not fitted"),
        (
            regressor,
            {"gradient": True},
            NotImplementedError,
            "levels of a model of tables have no",
        ),
        (
            with_another_member,
            {},
            NotImplementedError,
            "to_c: the ensemble holds 'tree' with wei",
        ),
        (regressor, {"test_data": drawn()[0][:0]}, ValueError, "test_data has no rows"),
        (regressor, {"test_data": [[1.0]]}, ValueError, "must have 4 columns"),
    ],
)
def test_what_is_refused(make: Any, options: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        to_c(make(), **options)


compiled_alone = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: no code"
)
SEEDS = range(3 if INTERPRETED else 20)


@pytest.mark.slow
@pytest.mark.few(4)
@pytest.mark.parametrize("function", [predict, jit.predict])
@pytest.mark.parametrize("seed", SEEDS)
def test_bits_of_drawn_models(
    seed: int, function: Callable[..., None], tmp_path: Any
) -> None:
    model, X = untrained(seed)
    model = reloaded(model, tmp_path / "model")
    expected = expected_of(model, X)
    out = np.empty_like(expected)
    function(jit.compiled(model), model.codes(X), out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: (regressor(), drawn()[0]),
        lambda: (classifier(), drawn()[0]),
        lambda: digits(17),
    ],
)
def test_bits_are_those_of_packs(make: Callable[[], Any]) -> None:
    model, X = make()
    rows = model.codes(X)
    expected = expected_of(model, X)
    for function in (predict, predict_shared):
        out = np.empty_like(expected)
        function(jit.compiled(model, freeze=True), rows, out)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.slow
@pytest.mark.few(3)
@compiled_alone
@pytest.mark.parametrize("kind", WITH_TREES)
def test_bits_of_boosted_trees(kind: str) -> None:
    model, X = with_trees(kind)
    rows = model.codes(X[:300])
    expected = expected_of(model, X[:300])
    for function in (predict, predict_shared):
        out = np.empty_like(expected)
        function(jit.compiled(model), rows, out)
        np.testing.assert_array_equal(out, expected)
    new = X[:1].assign(
        town=["Rome"], **({"place": ["nowhere"]} if "place" in X else {})
    )
    (row,), expected = model.codes(new), expected_of(model, new)
    for code in (np.nan, -7, 260 if kind != "many levels" else 300, 1e300):
        out = np.empty(expected.shape[1])
        predict(jit.compiled(model), np.where(row == -1, code, row), out)
        np.testing.assert_array_equal(out, expected[0])


@pytest.mark.slow
def test_missing_values_in_compiled_code() -> None:
    model = regressor()
    X = drawn()[0][:1]
    handle = jit.compiled(model)
    out = np.empty(1)
    new = X.assign(age=[np.nan], town=["Rome"], income=[np.inf], member=[None])
    new["income"] = np.nan
    for code in (-1, np.nan, -7, 99, 1e300):
        predict(handle, (np.nan, code, np.nan, code), out)
        assert out[0] == model.predict(new)[0]


@compiled_alone
def test_a_c_function_predicts_rows_of_a_table() -> None:
    model = regressor()
    X = drawn()[0]
    rows = model.codes(X)
    out = np.empty(1)
    handle = jit.compiled(model)
    jit.function().ctypes(handle.ctypes.data, rows[3].ctypes.data, out.ctypes.data)
    assert out[0] == model.predict(X.iloc[3:4])[0]


def test_parameters_of_tables_are_live_or_frozen() -> None:
    model = copy.deepcopy(regressor())
    row = model.codes(drawn()[0])[0]
    before = np.empty(1)
    after = np.empty(1)
    live = jit.compiled(model)
    frozen = jit.compiled(model, freeze=True)
    jit.predict(live, row, before)
    for member in model.members_:
        member.net.parameters[:] *= 0.5
    jit.predict(live, row, after)
    assert after != before
    assert after[0] == model.predict(drawn()[0][:1])[0]
    jit.predict(frozen, row, after)
    assert after == before


@pytest.mark.slow
def test_tables_that_compiled_code_refuses() -> None:
    handle = jit.compiled(regressor())
    row = np.zeros(4)
    with pytest.raises(ValueError, match=r"jit.gradient: the model has no deriv"):
        jit.gradient(handle, row, np.empty(1), np.empty(4))
    with pytest.raises(
        ValueError, match="raw=True is for nets, and a model of tables is a mean"
    ):
        jit.compiled(regressor(), raw=True)
    X = np.random.default_rng(0).normal(size=(60, 2))
    beside = [("tree", DecisionTreeClassifier())]
    model = TabularMLPClassifier(
        **FEW, extra_members=beside, ensemble="mean", max_members=9
    )
    model.fit(X, X[:, 0] > 0)
    with pytest.raises(
        NotImplementedError, match=r"jit.compiled: the ensemble holds 'tree' with"
    ):
        jit.compiled(model)
