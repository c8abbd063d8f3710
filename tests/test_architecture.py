"""Imports go down: every room has a floor, and nothing on it knows what stands above."""

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fastmlp

ROOT = Path(fastmlp.__file__).parent
# From the ground up. The rooms of one floor do not know each other; inside a room imports are free,
# but never in a circle. A house within the house has floors of its own.
HOUSES: dict[str, list[set[str]]] = {
    "fastmlp": [
        {"_process"},
        {"validation"},
        {"rules"},
        {"network"},
        {"compiler"},
        {"backends"},
        {"data"},
        {"training", "serialization"},
        {"model"},
        {"__init__"},  # only re-exports what lies below; the doors may come in by it
        {"cluster"},
        {"many", "estimators", "plotting", "saving", "scaling"},
        {"tabular"},
        {"cli"},
        {"__main__"},
    ],
    "fastmlp.backends": [{"protocol", "shuffle"}, {"cpu", "cuda"}, {"__init__"}],
    "fastmlp.backends.cpu": [
        {"tuning"},
        {"threads", "simd"},
        {"plan"},
        {"kernels"},
        {"session"},
        {"dispatch"},
        {"evaluation", "trainer"},
        {"predict"},
        {"engine"},
        {"__init__"},
    ],
    "fastmlp.estimators": [
        {"arguments", "warnings"},
        {"sklearn_bases", "in_batches"},
        {"mlp"},
        {"ensemble", "search", "net_settings"},
        {"net_estimators"},
        {"__init__"},
    ],
}
# They name types of what stands above them, for type checkers alone: what is loaded on first use,
# the net that a callback is given, and the estimators that can be saved.
NAME_TYPES_ABOVE = {"fastmlp.__init__", "fastmlp.training.history", "fastmlp.serialization.saving"}
# A file of a room that stands on a floor of its own: it also saves what is built on nets.
ANNEXES = {"fastmlp.serialization.saving": "saving"}
OPTIONAL = {
    "dask",
    "distributed",
    "sklearn",
    "joblib",
    "threadpoolctl",
    "skl2onnx",
    "matplotlib",
    "pandas",
    "pyarrow",
    "safetensors",
    "scipy",
    "tqdm",
}
# A room that is loaded on first use may build on the library that it is the door to.
DOORS = {
    "estimators": {"sklearn", "joblib", "scipy", "threadpoolctl"},
    "tabular.encoders": {"sklearn", "scipy"},
    "tabular.estimators": {"sklearn"},
}
FILES = {
    ".".join(("fastmlp", *path.relative_to(ROOT).with_suffix("").parts)): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
each_module = pytest.mark.parametrize("module", FILES)


def room_of(module: str, house: str = "fastmlp") -> str:
    if module in ANNEXES:
        return ANNEXES[module]
    return module.removeprefix(f"{house}.").split(".")[0]


def floor_of(module: str, house: str = "fastmlp") -> int:
    room = room_of(module, house)
    return next(i for i, rooms in enumerate(HOUSES[house]) if room in rooms)


def houses_of(module: str) -> list[str]:
    return [house for house in HOUSES if module.startswith(f"{house}.")]


def goes_up(module: str, target: str, house: str) -> bool:
    """Whether an import inside a house leads to another room that is not below."""
    inside = target.startswith(f"{house}.") and room_of(target, house) != room_of(module, house)
    return inside and floor_of(target, house) >= floor_of(module, house)


def full_name(name: str) -> str:
    """The module's name in FILES: a package is its __init__, any other library stays as it is."""
    return f"{name}.__init__" if f"{name}.__init__" in FILES else name


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node outside `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not is_for_type_checkers(node):
            yield node
            yield from at_run_time(node)


def imports_in(module: str) -> set[str]:
    """Every module of fastmlp's that a module imports, or names a type of."""
    tree = TREES[module]
    nodes = at_run_time(tree) if module in NAME_TYPES_ABOVE else ast.walk(tree)
    return {name for name in imports_by(nodes) if name in FILES}


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported in it, at the top or in a function."""
    return imports_by(ast.walk(tree))


def imports_by(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (full_name(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they go: write the whole name"
            for alias in node.names:
                below = full_name(f"{node.module}.{alias.name}")
                yield below if below in FILES else full_name(str(node.module))


def libraries_of(tree: ast.AST) -> set[str]:
    return {name.split(".")[0] for name in imports_of(tree)} - {"fastmlp"}


def run_on_import(tree: ast.AST) -> ast.Module:
    """The statements outside functions and outside `if TYPE_CHECKING`."""
    body: list[ast.stmt] = []
    for node in ast.iter_child_nodes(tree):
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if function or is_for_type_checkers(node):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            body.append(node)
        else:
            body += run_on_import(node).body
    return ast.Module(body=body, type_ignores=[])


@each_module
def test_every_module_has_a_floor(module: str) -> None:
    for house in houses_of(module):
        room, floors = room_of(module, house), HOUSES[house]
        where = f"give {room!r} a floor in {house}: add it to HOUSES in {Path(__file__).name}"
        assert any(room in rooms for rooms in floors), where


@each_module
def test_imports_point_down(module: str) -> None:
    targets = imports_in(module)
    for house in houses_of(module):
        floor = floor_of(module, house)
        up = {name for name in targets if goes_up(module, name, house)}
        assert not up, f"{module} is on floor {floor} of {house} and must not import {sorted(up)}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: imports_in(module) - {module} for module in TREES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@each_module
def test_only_the_compiler_the_backends_and_the_doors_know_numba(module: str) -> None:
    low = floor_of(module) <= floor_of("fastmlp.model")
    if low and room_of(module) not in ("compiler", "backends"):
        assert not libraries_of(TREES[module]) & {"numba", "llvmlite"}


@each_module
def test_the_lower_floors_need_numpy_and_the_standard_library_alone(module: str) -> None:
    if floor_of(module) <= floor_of("fastmlp.network"):
        assert libraries_of(TREES[module]) - sys.stdlib_module_names <= {"numpy"}


@each_module
def test_optional_libraries_are_imported_where_they_are_used(module: str) -> None:
    doors = [of for door, of in DOORS.items() if module.startswith(f"fastmlp.{door}.")]
    optional = OPTIONAL.difference(*doors)
    assert not libraries_of(run_on_import(TREES[module])) & optional


def test_doors_are_loaded_on_first_use(python: Callable[..., str]) -> None:
    for room, libraries in DOORS.items():
        for name in (f"fastmlp.{room}", *libraries):
            imported = "fastmlp, fastmlp.tabular" if "." in room else "fastmlp"
            assert python(f"import sys, {imported}; print({name!r} in sys.modules)") == "False\n"


@each_module
def test_only_the_programs_print(module: str) -> None:
    calls = [n.func for n in ast.walk(TREES[module]) if isinstance(n, ast.Call)]
    prints = [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"]
    # scikit-learn's verbose prints, and so does ours.
    rooms = ("cli", "estimators")
    may = room_of(module) in rooms or module == "fastmlp.tabular.estimators.reports"
    assert may or not prints, f"print in lines {prints}"


@each_module
def test_the_estimators_know_no_backend_but_by_its_protocol(module: str) -> None:
    backends = {name for name in imports_of(TREES[module]) if name.startswith("fastmlp.backends.")}
    if room_of(module) in ("model", "network", "training", "many", "estimators", "saving"):
        assert backends <= {"fastmlp.backends.protocol"}


# Of an MLP: the parts that fit_many trains are those of `model.core_of`.
PRIVATE = re.compile(r"(?<!self)(?<!other)\._(network|state|engine|predictor|n_threads|device)\b")


@each_module
def test_private_parts_of_a_net_are_read_in_model_alone(module: str) -> None:
    if room_of(module) in ("many", "saving", "cli", "plotting", "training", "serialization"):
        assert not PRIVATE.search(FILES[module].read_text())
