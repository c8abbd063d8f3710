"""Imports go down; the map names what exists,
fit is short, constants told, additions few.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import fastmlp
from fastmlp import plotting, tabular
from fastmlp.backends import cpu
from fastmlp.compiler.jit import INTERPRETED

ROOT = Path(fastmlp.__file__).parent
# From the ground up. The rooms of one floor do not know each other; inside a room
# imports are free, but never in a circle. A house within the house has floors of its
# own.
HOUSES: dict[str, list[set[str]]] = {
    "fastmlp": [
        {"_process"},
        {"validation"},
        {"rules"},
        {"network"},
        {"compiler"},
        {"backends"},
        {"serialization"},
        {"data"},
        {"training"},
        {"model"},
        {
            "__init__",
            "typing",
        },  # only re-export what lies below; the doors may come in by them
        {"export", "many"},
        {"estimators", "net_group", "archives"},
        {"extend", "saving"},
        {"cluster", "plotting", "river", "tabular"},
        {"warmup", "info", "report"},
        {"cli"},
        {"__main__"},
    ],
    "fastmlp.backends": [{"protocol", "shuffle"}, {"cpu", "cuda"}, {"__init__"}],
    "fastmlp.backends.cpu": [
        {"tuning", "limits"},
        {"team", "simd"},
        {"worker_pool", "plan"},
        {"kernels"},
        {"session"},
        {"dispatch"},
        {"quick_step", "predict"},
        {"trainer"},
        {"evaluation", "rank_trainer", "side_by_side"},
        {"second_order"},
        {"engine"},
        {"__init__"},
    ],
    "fastmlp.backends.cuda": [
        {"device"},
        {"plan"},
        {"rule_blocks"},
        {"kernels"},
        {"training"},
        {"engine"},
        {"__init__"},
    ],
    "fastmlp.estimators": [
        {"sklearn_bases"},
        {"common"},
        {"to_core"},
        {"net"},
        {"training"},
        {"base"},
        {"mlp", "search", "net_estimators"},
        {"archive"},
        {"__init__"},
    ],
}
# They name types of what stands above them, for type checkers alone:
# what is loaded on first use, and the net that a callback is given.
NAME_TYPES_ABOVE = {"fastmlp.__init__", "fastmlp.saving", "fastmlp.training.history"}
# All others are imported where they are used.
NEEDED = sys.stdlib_module_names | {"numpy", "numba", "llvmlite"}
# A room that is loaded on first use may build on the library that it is the door to.
DOORS = {
    "estimators": {"sklearn", "joblib", "scipy", "threadpoolctl"},
    "tabular": {"sklearn", "scipy"},
    "river": {"river"},
}
# Names that another library prescribes, and its models have.
PRESCRIBED = {"MLPClassifier", "MLPRegressor"}
FILES = {
    ".".join(("fastmlp", *path.relative_to(ROOT).with_suffix("").parts)): path
    for path in sorted(ROOT.rglob("*.py"))
}


@cache
def tree_of(module: str) -> ast.Module:
    """The parsed module: parsed by the tests, not where they are collected; 2 s."""
    return ast.parse(FILES[module].read_text())


def room_of(module: str, house: str = "fastmlp") -> str:
    return module.removeprefix(f"{house}.").split(".")[0]


def floor_of(module: str, house: str = "fastmlp") -> int:
    room = room_of(module, house)
    return next(i for i, rooms in enumerate(HOUSES[house]) if room in rooms)


def houses_of(module: str) -> list[str]:
    return [house for house in HOUSES if module.startswith(f"{house}.")]


def goes_up(module: str, target: str, house: str) -> bool:
    inside = target.startswith(f"{house}.") and room_of(target, house) != room_of(
        module, house
    )
    return inside and floor_of(target, house) >= floor_of(module, house)


def full_name(name: str) -> str:
    """The module's name in FILES: a package is its __init__,
    any other library stays as it is.
    """
    return f"{name}.__init__" if f"{name}.__init__" in FILES else name


def is_for_type_checkers(node: ast.AST) -> bool:
    names = ("TYPE_CHECKING", "_typing.TYPE_CHECKING")
    return isinstance(node, ast.If) and ast.unparse(node.test) in names


def at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not is_for_type_checkers(node):
            yield node
            yield from at_run_time(node)


def imports_in(module: str) -> set[str]:
    tree = tree_of(module)
    if module in NAME_TYPES_ABOVE:
        nodes = at_run_time(tree)
    else:
        nodes = ast.walk(tree)
    return {name for name in imports_by(nodes) if name in FILES}


def imports_by(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (full_name(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                "relative imports hide where they go: write the whole name"
            )
            for alias in node.names:
                below = full_name(f"{node.module}.{alias.name}")
                yield below if below in FILES else full_name(str(node.module))


def libraries_of(tree: ast.AST) -> set[str]:
    return {name.split(".")[0] for name in imports_by(ast.walk(tree))} - {"fastmlp"}


def run_on_import(tree: ast.AST) -> ast.Module:
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


def test_every_room_has_a_floor() -> None:
    """Add what is found to HOUSES."""
    rooms = {
        (house, room_of(module, house))
        for module in FILES
        for house in houses_of(module)
    }
    floors = {
        (house, room)
        for house, floors in HOUSES.items()
        for room in set().union(*floors)
    }
    assert rooms <= floors


def test_imports_point_down() -> None:
    up = {
        (module, target)
        for module in FILES
        for target in imports_in(module)
        for house in houses_of(module)
        if goes_up(module, target, house)
    }
    assert not up


def test_imports_have_no_circle() -> None:
    graph = {module: imports_in(module) - {module} for module in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_a_class_name_stands_once_or_once_on_each_device() -> None:
    places = dict[str, list[str]]()
    for module in FILES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(".".join(module.split(".")[:3]))
    devices = {f"fastmlp.backends.{room}" for room in ("protocol", "cpu", "cuda")}
    for name, rooms in places.items():
        several = len(rooms) > 1 and name not in PRESCRIBED
        assert not several or (len({*rooms}) == len(rooms) and {*rooms} <= devices), (
            name,
            rooms,
        )


def in_rooms(*rooms: str) -> list[str]:
    return [module for module in FILES if room_of(module) in rooms]


def up_to(highest: str) -> list[str]:
    return [module for module in FILES if floor_of(module) <= floor_of(highest)]


def test_low_floors_do_without_numba() -> None:
    low = {*up_to("fastmlp.model")}.difference(in_rooms("compiler", "backends"))
    assert not {
        module
        for module in low
        if libraries_of(tree_of(module)) & {"numba", "llvmlite"}
    }


def test_what_is_below_nets_needs_numpy_alone() -> None:
    needed = {
        name
        for module in up_to("fastmlp.network")
        for name in libraries_of(tree_of(module))
    }
    assert needed - sys.stdlib_module_names <= {"numpy"}


def test_what_is_compiled_lies_in_few_rooms() -> None:
    """The tests of these are those that .ci/run has in plain Python too."""
    high = FILES.keys() - in_rooms("compiler", "backends", "rules")
    compiled = {
        module
        for module in high
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom)
        and "njit" in {name.name for name in node.names}
    }
    assert compiled == {"fastmlp.extend", "fastmlp.tabular.compiled"}


def test_optional_libraries_are_imported_where_they_are_used() -> None:
    early: dict[str, set[str]] = {}
    for module in FILES:
        doors = [
            of
            for door, of in DOORS.items()
            if f"{module}.".startswith(f"fastmlp.{door}.")
        ]
        if result := libraries_of(run_on_import(tree_of(module))).difference(
            NEEDED, *doors
        ):
            early[module] = result
    assert early == {}


@pytest.mark.slow
def test_doors_are_loaded_on_first_use(python: Callable[..., str]) -> None:
    names = {"fastmlp.estimators", *set.union(*DOORS.values())}
    script = (
        f"import sys, fastmlp, fastmlp.tabular; print({names} & sys.modules.keys())"
    )
    assert python(script) == "set()\n"


def test_only_the_programs_print() -> None:
    # scikit-learn's verbose prints, and so does ours.
    may = {*in_rooms("cli", "estimators"), "fastmlp.tabular.base"}
    prints = [
        (module, node.lineno)
        for module in FILES.keys() - may
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert prints == []


def test_doors_are_known_by_protocol() -> None:
    modules = in_rooms("model", "network", "training", "many", "estimators", "archives")
    known = {
        name for module in modules for name in imports_by(ast.walk(tree_of(module)))
    }
    backends = {name for name in known if name.startswith("fastmlp.backends.")}
    assert backends <= {"fastmlp.backends.protocol"}


def test_private_parts_of_a_net_are_known_in_model() -> None:
    modules = in_rooms(
        "many", "archives", "saving", "cli", "plotting", "training", "serialization"
    )
    assert modules
    assert not [
        module for module in modules if PRIVATE.search(FILES[module].read_text())
    ]


# Of an MLP: the parts that fit_many trains are those of `model.core_of`.
PRIVATE = re.compile(
    r"(?<!self)(?<!other)\._(network|state|engine|predictor|n_threads|device)\b"
)


DOORS_TO_THE_CORE = {
    "",
    "extend",
    "info",
    "jit",
    "plotting",
    "report",
    "tabular",
    "typing",
    "warmup",
}


@pytest.mark.parametrize(
    "room", ["tabular", "cluster", "plotting", "report", "river", "cli"]
)
def test_what_stands_on_the_core_takes_public_names_and_those_of_extend(
    room: str,
) -> None:
    taken = {
        (node.module.removeprefix("fastmlp").lstrip("."), name.name)
        for module in in_rooms(room)
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom)
        and str(node.module).split(".")[0] == "fastmlp"
        for name in node.names
        if node.module is not None
        and not f"{node.module}.".startswith(f"fastmlp.{room}.")
    }
    assert not {pair for pair in taken if pair[0] not in DOORS_TO_THE_CORE}
    public = {
        "": {*dir(fastmlp)},
        "plotting": {*plotting.__all__},
        "tabular": {*tabular.__all__},
    }
    assert not {
        (door, name) for door, name in taken if name not in public.get(door, {name})
    }


def names_to_build_on() -> dict[str, str]:
    """From the names of `fastmlp.extend` to where they are defined."""
    return {
        name.asname: f"{node.module}.{name.name}"
        for node in ast.walk(tree_of("fastmlp.extend"))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if name.asname
    }


def modules_to_build_on() -> set[str]:
    origins = names_to_build_on()
    return {name for name, origin in origins.items() if full_name(origin) in FILES}


def test_tables_take_few_names_of_the_core() -> None:
    """An attribute that is taken through a module counts as a name."""
    taken = set[str]()
    modules = modules_to_build_on()
    for module in in_rooms("tabular"):
        local = dict[str, str]()
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.ImportFrom) and node.module == "fastmlp.extend":
                local |= {name.asname or name.name: name.name for name in node.names}
        taken |= {*local.values()} - modules
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = local.get(node.value.id, "")
                if name in modules:
                    taken.add(f"{name}.{node.attr}")
    assert len(taken) <= 45, sorted(taken)


def test_names_to_build_on_are_few() -> None:
    names = names_to_build_on().keys()
    modules = modules_to_build_on()
    assert f"{len(names - modules)} names and {len(modules)} modules" in MAP
    page = (ROOT.parent / "docs/how-to/build-on-the-core.md").read_text()
    assert len(names) <= 25
    assert {*re.findall(r"`(\w+)`", page.split("## The 25 names")[1])} >= names


def test_the_map_has_a_row_for_each_word() -> None:
    (table,) = re.findall(
        r"^\| Word \| Meaning \|\n\|[-|]+\n((?:\|.*\n)+)", MAP, re.MULTILINE
    )
    words = [row.split("|")[1].strip() for row in table.splitlines()]
    assert len(words) == len(set(words))
    assert not [word for word in words if ";" in word or "," in word]


TESTS = Path(__file__).parent / "tabular"
COPY = """
import sys

sys.modules["fastmlp.tabular"] = None  # what it takes of itself fails
import copied
import fastmlp

for name in ("TabularMLPClassifier", "TabularMLPRegressor"):
    setattr(fastmlp, name, getattr(copied, name))
"""


@pytest.mark.slow
def test_a_copy_of_the_models_of_tables_stands_on_the_core_as_well(
    tmp_path: Path,
) -> None:
    """Under another package's name it passes tests of its own,
    of files and of exports too.
    """
    files = [
        "estimators/test_trees.py",
        "estimators/test_refit.py",
        "estimators/test_distilled.py",
        "test_compiled.py",
        "../small_models.py",
    ]
    shutil.copytree(ROOT / "tabular", tmp_path / "copied")
    for path in files:
        shutil.copy(TESTS / path, tmp_path)
    for copy in tmp_path.rglob("*.py"):
        copy.write_text(copy.read_text().replace("fastmlp.tabular", "copied"))
    (tmp_path / "conftest.py").write_text(COPY)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow and not nightly",
        ".",
    ]
    # The core beside this file, not an installed one.
    folders = [tmp_path, TESTS.parent, ROOT.parent]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=paths
    )
    assert ended.returncode == 0, ended.stdout[-3000:]


MAP = (ROOT / "README.md").read_text()
FRAMES = re.findall(r"^\d+\. `([\w.]+)` — ([\w/]+\.py)", MAP, flags=re.MULTILINE)
# Rows of a table name files, and what is in them:
# `rules/losses.py`: the function, and `LOSSES`.
ROWS = [line for line in MAP.splitlines() if line.startswith("|") and ".py`" in line]
PATHS = sorted({path.rstrip("/") for path in re.findall(r"`([\w/]+(?:\.py|/))`", MAP)})
PAIRS = [
    (name, path)
    for row in ROWS
    for path, text in re.findall(r"`([\w/]+\.py)`([^|;]*)", row)
    for name in re.findall(r"`(\w+)`", text)
]


def folders_of_the_tree() -> set[str]:
    (tree,) = re.findall(
        r"^```\nfastmlp/\n(.*?)^```", MAP, flags=re.DOTALL | re.MULTILINE
    )
    results = set[str]()
    above = list[str]()
    for spaces, name in re.findall(r"^( +)(\w+)/ ", tree, flags=re.MULTILINE):
        above = [*above[: len(spaces) // 2 - 1], name]
        results.add("/".join(above))
    return results


def defined_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    results = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            results.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (one for one in node.body if isinstance(one, ast.FunctionDef))
            results |= {f"{node.name}.{method.name}" for method in methods}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            if isinstance(node, ast.Assign):
                targets = node.targets
            else:
                targets = [node.target]
            results |= {one.id for one in targets if isinstance(one, ast.Name)}
    return results


def test_the_map_names_every_folder() -> None:
    folders = {
        path.parent.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")
    } - {"."}
    assert folders_of_the_tree() == folders


def test_the_map_names_twelve_frames_at_most() -> None:
    assert 8 <= len(FRAMES) <= 12
    assert FRAMES[0][0] == "MLP.fit"


def files_of(sentence: str) -> set[str]:
    """The files and folders that a sentence of the map names, as modules."""
    (named,) = re.findall(rf"{sentence} ([^.]*(?:\.py[^.]*)*)\.", MAP)
    paths = re.findall(r"`([\w/]+)(?:\.py)?`", named)
    return {f"fastmlp.{path.strip('/').replace('/', '.')}" for path in paths}


def importers_of(library: str) -> set[str]:
    return {module for module in FILES if library in libraries_of(tree_of(module))}


def test_numba_is_imported_where_the_map_says() -> None:
    assert importers_of("numba") == files_of("Numba is imported by")


def test_llvm_is_imported_where_the_map_says() -> None:
    places = (*files_of("LLVM is imported by"),)
    assert all(module.startswith(places) for module in importers_of("llvmlite"))


@pytest.mark.parametrize("path", PATHS)
def test_what_it_names_exists(path: str) -> None:
    assert (ROOT / path).exists() or (ROOT.parent / path).exists()


@pytest.mark.parametrize(("name", "path"), [*FRAMES, *PAIRS])
def test_names_are_where_it_says(name: str, path: str) -> None:
    assert name in defined_in(path)


WALK = """
import sys
import numpy as np
from fastmlp import MLP

def look(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_name == "multiply" and code.co_filename.endswith("gemm.py"):
        sys.setprofile(None)
        while frame is not None:
            name, path = frame.f_code.co_qualname, frame.f_code.co_filename
            if "fastmlp" in path:
                print(name.replace("<locals>.", ""), path.split("fastmlp/", 1)[1])
            frame = frame.f_back

net, x = MLP((3, 4, 2), seed=0, n_threads=1), np.ones((8, 3), np.float32)
net.fit(x, x[:, :2], epochs=1)
sys.setprofile(look)
net.fit(x, x[:, :2], epochs=1)
"""


@pytest.mark.slow
def test_fit_goes_the_way_that_it_tells(python: Callable[..., str]) -> None:
    """Uncompiled, all frames are Python's."""
    taken = [
        line.split()
        for line in reversed(python(WALK, NUMBA_DISABLE_JIT="1").splitlines())
    ]
    frames = iter(taken)
    for name, path in FRAMES:
        last = name.split(".")[-1]
        result = any(
            one.split(".")[-1] == last and where.endswith(path) for one, where in frames
        )
        assert result, (name, path, taken)


CPU = Path(cpu.__file__).parent
SOURCE = (CPU / "tuning.py").read_text()
LINES = SOURCE.splitlines()


def constants() -> dict[str, int]:
    """The line on which each constant is set."""
    names: dict[str, int] = {}
    for node in ast.parse(SOURCE).body:
        if isinstance(node, ast.Assign):
            for one in ast.walk(node.targets[0]):
                if isinstance(one, ast.Name):
                    names[one.id] = node.lineno
    return names


@pytest.mark.parametrize("name", constants())
def test_every_constant_has_a_comment(name: str) -> None:
    assert LINES[constants()[name] - 2].startswith("#")


@pytest.mark.parametrize("name", constants())
def test_every_constant_is_used(name: str) -> None:
    users = [path for path in CPU.rglob("*.py") if path.name != "tuning.py"]
    assert any(re.search(rf"\b{name}\b", path.read_text()) for path in users)


def test_every_section_says_how_to_measure_it_again() -> None:
    sections = [i for i, line in enumerate(LINES) if re.match(r"# --- \w.* -+$", line)]
    assert sections
    for i in sections:
        assert LINES[i + 1].startswith("# python -m pytest benchmarks")


def test_what_is_tuned_knows_its_processor_alone() -> None:
    assert imports_in("fastmlp.backends.cpu.tuning") <= {"fastmlp.compiler.target"}


PACKAGE = Path(fastmlp.__file__).parent
# From a file to what is put before its first line that begins so.
Additions = dict[str, list[tuple[str, str]]]
ACTIVATION: Additions = {
    "rules/activations.py": [
        ('    "softplus",\n]', '    "bent",\n'),
        (
            "RULES: dict",
            '''def bent(z: float) -> Pair:
    """f(z) = z + (sqrt(z^2 + 1) - 1) / 2."""
    one, half = type(z)(1), type(z)(0.5)
    root = sqrt(z * z + one)
    return z + half * (root - one), one + half * z / root


''',
        ),
        (
            "from fastmlp.rules.elementary import softplus",
            "from fastmlp.rules.elementary import sqrt\n",
        ),
    ]
}
LOSS: Additions = {
    "rules/losses.py": [
        ('    "mse",\n', '    "cauchy",\n'),
        ('    "mse": Loss(', '    "cauchy": Loss(cauchy, constants=(1.0,)),\n'),
        (
            "NumberLossName = ",
            '''def cauchy(prediction: float, target: float, scale: float) -> Pair:
    """L = log(1 + (e / c)^2), with e = p - y and a scale c."""
    c = type(prediction)(scale)
    part = (prediction - target) / c
    return log1p(part * part), (part + part) / (c * (type(part)(1) + part * part))


''',
        ),
        (
            "@settings\nclass Quantile",
            '''@settings
class Cauchy(LossSettings):
    """The negative logarithm of a Cauchy density, of a scale."""

    kind = "cauchy"
    scale: float = 1.0


''',
        ),
    ],
    "__init__.py": [
        (
            "from fastmlp.rules.optimizers",
            "from fastmlp.rules.losses import Cauchy as Cauchy\n",
        )
    ],
}
START = """
import sys
import warnings
from pathlib import Path
import numpy as np
import fastmlp
from fastmlp import MLP, MLPClassifier, MLPRegressor, load, to_c, to_onnx
from exported import failures, built

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
y, folder = X.sum(axis=1), Path(sys.argv[1])
assert Path(fastmlp.__file__).parent.parent == folder
warnings.simplefilter("ignore")

def exported(net):
    import onnxruntime
    session = onnxruntime.InferenceSession(to_onnx(net).SerializeToString())
    np.testing.assert_allclose(session.run(None, {"X": X})[0], net.predict(X), atol=1e-5)
    if sys.argv[2] == "with C":
        library = built(folder, {"net": to_c(net, prefix="net")}, ["-O1"])
        assert failures(library, "net", np.float32, 1e-5) == 0
    net.save(folder / "net")
    assert (load(folder / "net").predict(X) == net.predict(X)).all()
"""
OF_ACTIVATION = """
net = MLP((3, 5, 1), activation="bent", seed=0)
losses = net.fit(X, y, epochs=5, batch_size=8).loss
assert losses[-1] < losses[0]
exported(net)
for kind in (MLPClassifier, MLPRegressor):
    model = kind(hidden_layer_sizes=(5,), activation="bent", solver="sgd", max_iter=3, tol=0)
    assert model.fit(X, y > 0).n_iter_ == 3
"""
OF_LOSS = """
from fastmlp import Cauchy
net = MLP((3, 5, 1), loss=Cauchy(0.5), seed=0)
assert "Cauchy(scale=0.5)" in repr(net)
losses = net.fit(X, y, epochs=5, batch_size=8).loss
assert losses[-1] < losses[0]
exported(net)
assert repr(MLP((3, 1), loss=Cauchy())) == repr(MLP((3, 1), loss="cauchy"))
net.as_estimator(epochs=3).fit(X, y)
"""
ON_A_GPU = """
nets = [MLP((3, 5, 1), {0}, seed=0, device=device) for device in ("cuda", "cpu")]
for net in nets:
    net.fit(X[:16], y[:16], epochs=1, batch_size=8)
np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, atol=1e-5)
"""


def counts(row: str) -> list[int]:
    (found,) = re.findall(
        rf"^\| {row}[^|]*\| ([^|]+) \|", (PACKAGE / "README.md").read_text(), re.M
    )
    return [int(number) for number in re.findall(r"\d+", found)]


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: nothing is compiled")
@pytest.mark.parametrize(
    ("row", "additions", "script", "argument"),
    [
        ("activation", ACTIVATION, OF_ACTIVATION, "activation='bent'"),
        ("loss", LOSS, OF_LOSS, "loss=fastmlp.Cauchy(0.5)"),
    ],
)
def test_an_addition_takes_the_files_of_the_map_and_works_everywhere(
    row: str,
    additions: Additions,
    script: str,
    argument: str,
    tmp_path: Path,
    python: Callable[..., str],
) -> None:
    copied = tmp_path / "fastmlp"
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    for name, edits in additions.items():
        text = (copied / name).read_text()
        for place, added in edits:
            assert place in text
            text = text.replace(place, added + place, 1)
        (copied / name).write_text(text)
    assert counts(row)[-1] == len(additions)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])
    with_c = "with C" if shutil.which("gcc") else ""
    environment: dict[str, Any] = {"PYTHONPATH": path, "timeout": 300}
    python(START + script, tmp_path, with_c, **environment)
    on_gpu = START + ON_A_GPU.format(argument)
    python(on_gpu, tmp_path, "", **environment, NUMBA_ENABLE_CUDASIM="1")
