"""Fortran's module for a C file: gfortran compiles it,
and programs print the bits of C.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from exported import needs_compiler, needs_gcc
from fitting import unconverged

from fastmlp import (
    MLP,
    MLPClassifier,
    TabularMLPClassifier,
    TabularMLPRegressor,
    jacobian,
    to_c,
)

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export-to-fortran.md"

needs_gfortran = pytest.mark.skipif(
    shutil.which("gfortran") is None, reason="needs gfortran"
)
STRICT = ("-std=f2008", "-Wall", "-Wextra", "-Werror", "-fimplicit-none")
# Numbers are printed as the integers of their bits.
PRINT = "print '(i0)', transfer({0}, 0_{1}, size({0}))\n"
INTEGERS = {np.dtype(np.float32): "c_int32_t", np.dtype(np.float64): "c_int64_t"}


def printed(folder: Path, prefix: str, program: str) -> list[str]:
    """The lines of a program that uses the module and the C file of a prefix."""
    text = f"program main\nuse, intrinsic :: iso_c_binding\nuse {prefix}\n"
    text += f"implicit none\n{program}end program\n"
    (folder / "main.f90").write_text(text)
    define = f"-D{prefix.upper()}_IMPLEMENTATION"
    of_c = ["gcc", "-O2", "-march=native", define, "-c", "-x", "c", f"{prefix}.h"]
    subprocess.run([*of_c, "-o", "net.o"], cwd=folder, check=True)
    of_fortran = ["gfortran", *STRICT, f"{prefix}.f90", "main.f90", "net.o"]
    subprocess.run([*of_fortran, "-o", "main", "-lm"], cwd=folder, check=True)
    return subprocess.check_output(["./main"], cwd=folder, text=True).splitlines()


def assigned(name: str, array: Any) -> str:
    """Statements that fill an array by its numbers' bits, in the order of memory."""
    kind = INTEGERS[array.dtype]
    bits = array.view(np.int32 if array.itemsize == 4 else np.int64).ravel().tolist()
    # The least number has no literal: its positive part is one too large.
    numbers = ", &\n".join(f"{number}_{kind}" for number in bits)
    return f"{name} = reshape(transfer([ &\n{numbers}], {name}), shape({name}))\n"


def bits(lines: Sequence[str], array: Any) -> Any:
    kind = np.int32 if array.itemsize == 4 else np.int64
    return np.array(lines, kind).view(array.dtype).reshape(array.shape)


@needs_gcc
@needs_gfortran
@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nets_have_the_bits_of_their_predictions(dtype: Any, tmp_path: Path) -> None:
    net = MLP((3, 17, 2), activation="tanh", dtype=dtype, seed=0)
    to_c(net, tmp_path / "net.h", prefix="net", fortran=tmp_path / "net.f90")
    X = np.random.default_rng(0).normal(size=(70, 3)).astype(dtype)
    program = "real(net_kind) :: x(net_inputs, 70), y(net_outputs, 70)\n"
    program += assigned("x", X) + "call net_predict(x(:, 2), y(:, 1))\n"
    program += PRINT.format("y(:, 1)", INTEGERS[X.dtype])
    program += "call net_predict_rows(70_c_size_t, x, y)\n"
    program += PRINT.format("y", INTEGERS[X.dtype])
    lines = printed(tmp_path, "net", program)
    expected = net.predict(X)
    np.testing.assert_array_equal(bits(lines[:2], expected[1]), expected[1])
    np.testing.assert_array_equal(bits(lines[2:], expected), expected)


@needs_gcc
@needs_gfortran
@needs_compiler
def test_jacobians_have_an_output_in_each_column(tmp_path: Path) -> None:
    net = MLP((2, 2), initializer="zeros", dtype="float64")
    net.weights[0][:] = [[1, 2], [3, 4]]
    place = tmp_path / "net.f90"
    to_c(net, tmp_path / "net.h", prefix="net", gradient=True, fortran=place)
    program = "real(net_kind) :: x(2), y(2), jacobian(2, 2)\n"
    program += "x = 1\ncall net_gradient(x, y, jacobian)\nprint '(4f4.1)', jacobian\n"
    assert printed(tmp_path, "net", program) == [" 1.0 3.0 2.0 4.0"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "Age": rng.integers(18, 90, 200),
            "age": rng.normal(size=200),
            "home town": rng.choice(["Bern", "Zug", "São 'Paulo' \"&\""], 200),
        }
    )


@needs_gcc
@needs_gfortran
@needs_compiler
def test_a_program_names_columns_levels_and_classes(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    y = np.where(table["home town"] == "Zug", 'buys "it" & goes', "no")
    model = TabularMLPClassifier(n_members=2, max_iter=3, random_state=0)
    model.fit(table, y)
    place = tmp_path / "buys.f90"
    to_c(model, tmp_path / "buys.h", prefix="buys", fortran=place)
    program = (
        "real(buys_kind) :: x(buys_inputs), y(buys_outputs)\n"
        "x(buys_x_age) = 40\nx(buys_x_age_2) = 0.5d0\n"
        'x(buys_x_home_town) = buys_code(buys_x_home_town, "Zug")\n'
        "call buys_predict(x, y)\n"
        + PRINT.format("y", "c_int64_t")
        + "print '(a)', trim(buys_class_names(buys_class(x)))\n"
        'print *, buys_code(buys_x_home_town, "Rome")\n'
    )
    *numbers, name, unknown = printed(tmp_path, "buys", program)
    row = pd.DataFrame({"Age": [40], "age": [0.5], "home town": ["Zug"]})
    expected = model.predict_proba(row)[0]
    np.testing.assert_array_equal(bits(numbers, expected), expected)
    assert name == model.predict(row)[0]
    assert unknown.strip() == "-1"


@needs_gcc
@needs_gfortran
@needs_compiler
def test_regressors_of_tables_have_no_classes(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    model = TabularMLPRegressor(n_members=1, max_iter=2, random_state=0)
    model.fit(table, np.sin(table["age"]))
    place = tmp_path / "age.f90"
    to_c(model, tmp_path / "age.h", prefix="age", fortran=place)
    program = "real(age_kind) :: x(age_inputs, 2), y(age_outputs, 2)\n"
    program += assigned("x", model.codes(table[:2]))
    program += "call age_predict_rows(2_c_size_t, x, y)\n"
    program += PRINT.format("y", "c_int64_t")
    expected = model.predict(table[:2])
    lines = printed(tmp_path, "age", program)
    np.testing.assert_array_equal(bits(lines, expected), expected)


@needs_gcc
@needs_gfortran
@needs_compiler
@unconverged
def test_long_names_stay_within_the_limits_of_fortran(tmp_path: Path) -> None:
    X = pd.DataFrame(np.eye(3), columns=["a" * 200, "a" * 200 + "b", "ä" * 70])
    model = MLPClassifier((2,), max_iter=1, random_state=0)
    model.fit(X, ["é" * 200, "$b", "c\nd"])
    prefix = "p" * 31
    place = tmp_path / f"{prefix}.f90"
    to_c(model, tmp_path / f"{prefix}.h", prefix=prefix, fortran=place)
    assert (
        printed(tmp_path, prefix, f"print *, {prefix}_class_names(1)\n")[0].strip()
        == "$b"
    )


@pytest.mark.slow
@needs_gcc
@needs_gfortran
@needs_compiler
def test_the_page_prints_what_the_net_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, program = (
        re.findall(
            rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE
        )
        for kind in ("python", "fortran")
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile("\n".join(code), PAGE.name, "exec"), names)
    (tmp_path / "main.f90").write_text(program[0])
    for command in re.findall(r"^\$ (.*)$", PAGE.read_text(), re.MULTILINE):
        output = subprocess.check_output(command, shell=True, text=True)
    predicted, by_depth, by_salinity = map(float, output.split())
    row = np.array([[0.25, 0.5]], np.float32)
    assert abs(predicted - names["net"].predict(row)[0, 0]) < 1e-4
    expected = jacobian(names["net"], row)[0, 0]
    np.testing.assert_allclose([by_depth, by_salinity], expected, atol=1e-4)


def test_a_module_needs_a_c_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fortran= needs path="):
        to_c(MLP((1, 1)), fortran=tmp_path / "net.f90")


def test_both_files_in_one_place_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "net.h"
    with pytest.raises(ValueError, match="are one file"):
        to_c(MLP((1, 1)), place, fortran=place)
    assert not place.exists()


def test_long_prefixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 31 characters, got 32"):
        to_c(MLP((1, 1)), tmp_path / "n.h", prefix="p" * 32, fortran=tmp_path / "n.f90")
