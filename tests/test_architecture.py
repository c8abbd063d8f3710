"""Imports go down: every module has a floor, and nothing on it knows what stands above."""

import ast
import sys
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fastmlp

ROOT = Path(fastmlp.__file__).parent
# From the ground up. A folder is one room: inside it imports are free, but never in a circle.
FLOORS = [
    {"elementary", "checks", "guard", "generators", "idle", "memory", "notices", "once", "signals"},
    {"activations", "links", "losses", "penalties", "updates"},
    {"conventions", "pool"},
    {"optimizers"},
    {"layout", "initializers", "schedules"},
    {"packing"},
    {"workspace", "network", "validation"},
    {"description", "spelling"},
    {"_compile"},
    {"backends"},
    {"devices"},
    {"history", "files"},
    {"archive"},
    {"checkpoint"},
    {"training"},
    {"persistent"},
    {"placed"},
    {"trainable"},
    {"model"},
    {"jobs"},
    {"cards"},
    {"many"},
    {"__init__"},  # only re-exports what lies below; the doors may come in by it
    {"plotting", "info", "warmup", "estimators"},
    {"ensembles", "search"},
    {"demo", "store"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MEMORY, MODEL = FLOOR_OF["workspace"], FLOOR_OF["model"]
OPTIONAL = {
    "sklearn",
    "joblib",
    "threadpoolctl",
    "skl2onnx",
    "matplotlib",
    "safetensors",
    "scipy",
    "tqdm",
}
# A room that is loaded on first use may build on the library that it is the door to.
DOORS = {
    "estimators": {"sklearn", "joblib", "scipy", "threadpoolctl"},
    "ensembles": {"sklearn", "scipy"},
    "search": {"sklearn", "joblib"},
}
FILES = {
    ".".join(("fastmlp", *path.relative_to(ROOT).with_suffix("").parts)): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
each_module = pytest.mark.parametrize("module", FILES)


def room_of(module: str) -> str:
    return module.split(".")[1]


def floor_of(module: str) -> int:
    return FLOOR_OF[room_of(module)]


def full_name(name: str) -> str:
    """The module's name in FILES: a package is its __init__, any other library stays as it is."""
    return f"{name}.__init__" if f"{name}.__init__" in FILES else name


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported in it, at the top or in a function."""
    for node in ast.walk(tree):
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
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or checking:
            continue
        imports = isinstance(node, ast.Import | ast.ImportFrom)
        body += [node] if imports else run_on_import(node).body
    return ast.Module(body=body, type_ignores=[])


@each_module
def test_every_module_has_a_floor(module: str) -> None:
    where = f"give {room_of(module)!r} a floor: add it to FLOORS in {Path(__file__).name}"
    assert room_of(module) in FLOOR_OF, where


@each_module
def test_imports_point_down(module: str) -> None:
    targets = {name for name in imports_of(TREES[module]) if name in FILES}
    others = {name for name in targets if room_of(name) != room_of(module)}
    up = sorted(name for name in others if floor_of(name) >= floor_of(module))
    assert not up, f"{module} is on floor {floor_of(module)} and must not import {up}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {m: {n for n in imports_of(tree) if n in FILES and n != m} for m, tree in TREES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@each_module
def test_only_the_compiler_the_backends_and_the_doors_know_numba(module: str) -> None:
    room = room_of(module)
    if room not in ("_compile", "backends") and FLOOR_OF[room] <= MODEL:
        assert not libraries_of(TREES[module]) & {"numba", "llvmlite"}


@each_module
def test_the_lower_floors_need_numpy_and_the_standard_library_alone(module: str) -> None:
    if floor_of(module) <= MEMORY:
        assert libraries_of(TREES[module]) - sys.stdlib_module_names <= {"numpy"}


@each_module
def test_optional_libraries_are_imported_where_they_are_used(module: str) -> None:
    optional = OPTIONAL - DOORS.get(room_of(module), set())
    assert not libraries_of(run_on_import(TREES[module])) & optional


def test_doors_are_loaded_on_first_use(python: Callable[..., str]) -> None:
    for room, libraries in DOORS.items():
        for name in (f"fastmlp.{room}", *libraries):
            assert python(f"import sys, fastmlp; print({name!r} in sys.modules)") == "False\n"


@each_module
def test_only_the_programs_print(module: str) -> None:
    calls = [n.func for n in ast.walk(TREES[module]) if isinstance(n, ast.Call)]
    prints = [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"]
    # scikit-learn's verbose prints, and so does ours.
    rooms = ("cli", "demo", "estimators")
    assert room_of(module) in rooms or not prints, f"print in lines {prints}"
