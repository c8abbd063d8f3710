"""What type checkers see: a user's script without errors,
one of mistakes, and no unknown types.
"""

import ast
import importlib.util
import inspect
import json
import operator
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, cluster, jit, plotting, tabular
from fastmlp import typing as of_arguments
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.estimators import sklearn_bases
from fastmlp.estimators.to_core import SOLVERS
from fastmlp.network import resolve, spec
from fastmlp.rules import activations, initializers, losses, optimizers, updates

pytestmark = pytest.mark.skipif(
    INTERPRETED,
    reason="NUMBA_DISABLE_JIT is set: types are the same, and the script is too slow",
)
ROOT = Path(fastmlp.__file__).parent.parent
RIGHT, MISTAKES = (
    ROOT / "tests" / "scripts" / name for name in ("right.py", "mistakes.py")
)
STUB = Path(sklearn_bases.__file__).with_suffix(".pyi")
ALIASED = {*activations.RULES, *activations.ALIASES}
Errors = set[tuple[str, int]]


def needs(checker: str) -> Any:
    missing = importlib.util.find_spec(checker) is None
    return pytest.mark.skipif(
        missing, reason=f"needs {checker}: pip install --group types"
    )


def output_of(checker: str, *arguments: str) -> str:
    """Return what a type checker prints; it ends with 1 where it finds errors.

    pyright looks for packages where the first Python of the PATH does.
    """
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    )
    own = {"PATH": path, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-m", checker, *arguments],
        cwd=ROOT,
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return run.stdout


@cache
def errors_of_mypy() -> Errors:
    options = [
        "--config-file=",
        "--follow-imports=silent",
        "--cache-dir=.mypy_cache/user",
    ]
    printed = output_of("mypy", "--strict", *options, str(RIGHT), str(MISTAKES))
    matches = re.findall(r"(\w+\.py):(\d+): error", printed)
    return {(name, int(line)) for name, line in matches}


@cache
def errors_of_pyright() -> Errors:
    content = json.loads(
        output_of("pyright", "--outputjson", str(RIGHT), str(MISTAKES))
    )
    assert content["summary"]["filesAnalyzed"] == 2
    results = [
        (one["file"], one["range"]["start"]["line"])
        for one in content["generalDiagnostics"]
    ]
    return {(Path(path).name, line + 1) for path, line in results}


each_checker = pytest.mark.parametrize(
    "errors",
    [
        pytest.param(errors_of_mypy, marks=needs("mypy"), id="mypy"),
        pytest.param(errors_of_pyright, marks=needs("pyright"), id="pyright"),
    ],
)


@pytest.mark.slow
@each_checker
def test_checkers_find_no_error_in_a_users_script(errors: Callable[[], Errors]) -> None:
    assert not {line for name, line in errors() if name == RIGHT.name}


@pytest.mark.slow
@each_checker
def test_checkers_find_every_mistake(errors: Callable[[], Errors]) -> None:
    lines = enumerate(MISTAKES.read_text().splitlines(), 1)
    wrong = {number for number, line in lines if "  # " in line}
    assert len(wrong) >= 10
    assert {line for name, line in errors() if name == MISTAKES.name} == wrong


@pytest.mark.slow
def test_the_users_script_runs(tmp_path: Path) -> None:
    completed, *_, version = runpy.run_path(str(RIGHT))["main"](tmp_path)
    assert completed
    assert version == fastmlp.__version__


@pytest.mark.slow
@needs("pyright")
def test_types_are_complete() -> None:
    content = json.loads(
        output_of(
            "pyright", "--outputjson", "--verifytypes", "fastmlp", "--ignoreexternal"
        )
    )
    report = content["typeCompleteness"]
    assert report["completenessScore"] >= 0.95
    public = {one["name"]: one["isTypeKnown"] for one in report["symbols"]}
    unknown = {
        name
        for name in public
        if re.fullmatch(r"fastmlp\.\w+", name) and not public[name]
    }
    assert not unknown


def names_in(kind: Any) -> set[str]:
    if get_origin(kind) is Literal:
        return set(get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        parts = get_args(kind)
    else:
        parts = ()
    return set().union(*map(names_in, parts))


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (activations.ActivationName, activations.RULES),
        (initializers.InitializerName, initializers.INITIALIZERS),
        (losses.LinkName, losses.LINKS),
        (losses.LossName, losses.LOSSES),
        (optimizers.OptimizerName, optimizers.OPTIMIZERS),
        (updates.PenaltyName, updates.PENALTIES),
        (of_arguments.SolverName, SOLVERS),
    ],
    ids=[
        "activations",
        "initializers",
        "links",
        "losses",
        "optimizers",
        "penalties",
        "solvers",
    ],
)
def test_literals_are_the_names_of_the_tables(names: Any, table: Any) -> None:
    assert names_in(names) == set(table)


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [
        (of_arguments.RegressionLoss, "loss"),
        (of_arguments.LearningRate, "learning_rate"),
    ],
)
def test_literals_are_the_names_that_scikit_learn_knows(
    kind: Any, parameter: str
) -> None:
    assert names_in(kind) == MLPRegressor._parameter_constraints[parameter][0].options


def test_literals_of_arguments_have_the_names_of_all_their_tables() -> None:
    assert names_in(spec.Activation) == ALIASED
    assert names_in(spec.OutputActivation) == ALIASED | losses.LINKS.keys()
    assert names_in(spec.OptimizerLike) == optimizers.OPTIMIZERS.keys()
    assert names_in(spec.LossLike) == losses.LOSSES.keys()
    assert [resolve.dtype(name).name for name in get_args(spec.DTypeName)] == [
        "float32",
        "float64",
    ]


def methods_in_the_stub() -> list[tuple[str, str, list[str]]]:
    results = []
    body = ast.parse(STUB.read_text()).body
    for kind in (each for each in body if isinstance(each, ast.ClassDef)):
        for one in kind.body:
            if isinstance(one, ast.FunctionDef):
                any_number = one.args.vararg or one.args.kwarg
                given = [each.arg for each in (*one.args.args, *one.args.kwonlyargs)]
                results.append((kind.name, one.name, [] if any_number else given))
    return results


@pytest.mark.parametrize(("kind", "method", "parameters"), methods_in_the_stub())
def test_the_stub_says_what_scikit_learn_has(
    kind: str, method: str, parameters: list[str]
) -> None:
    bases = {"BaseEstimator": MLPClassifier, "SklearnMLP": sklearn_bases.MLPClassifier}
    real = getattr(bases.get(kind, getattr(sklearn_bases, kind)), method)
    if parameters and not isinstance(real, property):
        known = [name for name in inspect.signature(real).parameters if name != "self"]
        assert [name for name in parameters if name not in ("self", "cls")] == known


@pytest.mark.slow
def test_a_listing_loads_no_scikit_learn_a_star_its_estimators(
    python: Callable[..., str],
) -> None:
    script = "import sys, fastmlp\ndir(fastmlp)\nprint('sklearn' in sys.modules)\n"
    script += "from fastmlp import *\nprint(TabularMLPClassifier.__name__, MLPSearchCV.__name__)"
    assert python(script) == "False\nTabularMLPClassifier MLPSearchCV\n"
    without = "import sys\nsys.modules['sklearn'] = None\nfrom importlib import util\n"
    without += (
        "util.find_spec = lambda name, package=None: None\nfrom fastmlp import *\n"
    )
    assert (
        python(f"{without}print(MLP.__name__, 'MLPClassifier' in globals())")
        == "MLP False\n"
    )


def test_a_listing_shows_what_counts() -> None:
    shown = {name for name in dir(fastmlp) if not name.startswith("__")}
    # A star loads no Numba, as jit does.
    assert shown == {*fastmlp.__all__, *fastmlp._OF_SKLEARN, "jit"}
    assert {"__version__", "__all__", "__doc__"} < set(dir(fastmlp))
    # Of editors that read the file.
    assert (
        not {"Any", "TYPE_CHECKING", "find_spec", "import_module"}
        & vars(fastmlp).keys()
    )


@pytest.mark.parametrize(
    "module", [cluster, jit, plotting, tabular], ids=lambda one: one.__name__
)
def test_a_listing_of_a_module_shows_public_names(module: Any) -> None:
    assert {name for name in dir(module) if not name.startswith("__")} == {
        *module.__all__
    }
    assert {"__all__", "__doc__", "__name__"} < {*dir(module)}


@pytest.mark.parametrize(
    "name", [name for name in dir(fastmlp) if not name.startswith("__")]
)
def test_properties_have_types_that_prompts_can_show(name: str) -> None:
    """jedi 0.20 raises where a property has a Literal,
    and IPython then completes nothing.
    """
    for kind in getattr(getattr(fastmlp, name), "__mro__", [])[:-1]:
        for known, one in vars(kind).items():
            if isinstance(one, property) and kind.__module__.startswith("fastmlp"):
                assert "Literal" not in str(get_type_hints(one.fget).get("return")), (
                    known
                )


@pytest.mark.parametrize("name", ["MLP", "MLPClassifier", "MLPSearchCV", "fit_many"])
def test_help_shows_the_names_of_types_alone(
    name: str,
) -> None:
    shown = operator.attrgetter(name)(fastmlp)
    assert "Literal['identity'" not in str(inspect.signature(shown))
    function = shown if inspect.isfunction(shown) else shown.__init__
    assert get_type_hints(function)["return"] is not None
