"""fastmlp/README.md, the map: what it names exists, every folder has its line, and fit is short."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import fastmlp

ROOT = Path(fastmlp.__file__).parent
MAP = (ROOT / "README.md").read_text()
FRAMES = re.findall(r"^\d+\. `([\w.]+)` — ([\w/]+\.py)", MAP, flags=re.MULTILINE)
# Rows of a table name files, and what is in them: `rules/losses.py`: the function, and `LOSSES`.
ROWS = [line for line in MAP.splitlines() if line.startswith("|") and ".py`" in line]
PATHS = sorted({path.rstrip("/") for path in re.findall(r"`([\w/]+(?:\.py|/))`", MAP)})
PAIRS = [
    (name, path)
    for row in ROWS
    for path, text in re.findall(r"`([\w/]+\.py)`([^|;]*)", row)
    for name in re.findall(r"`(\w+)`", text)
]


def folders_of_the_tree() -> set[str]:
    (tree,) = re.findall(r"^```\nfastmlp/\n(.*?)^```", MAP, flags=re.DOTALL | re.MULTILINE)
    found, above = set[str](), list[str]()
    for spaces, name in re.findall(r"^( +)(\w+)/ ", tree, flags=re.MULTILINE):
        above = [*above[: len(spaces) // 2 - 1], name]
        found.add("/".join(above))
    return found


def defined_in(path: str) -> set[str]:
    """Return the names that a file defines or imports at any depth, methods by Class.method."""
    tree = ast.parse((ROOT / path).read_text())
    found = {alias.asname or alias.name for node in ast.walk(tree)
             if isinstance(node, ast.ImportFrom) for alias in node.names}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (one for one in node.body if isinstance(one, ast.FunctionDef))
            found |= {f"{node.name}.{method.name}" for method in methods}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {one.id for one in targets if isinstance(one, ast.Name)}
    return found


def test_it_is_one_page() -> None:
    assert len(MAP.splitlines()) <= 120


def test_every_folder_has_its_line() -> None:
    folders = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")} - {"."}
    assert folders_of_the_tree() == folders


def test_fit_takes_twelve_frames_at_most() -> None:
    assert 8 <= len(FRAMES) <= 12
    assert FRAMES[0][0] == "MLP.fit"


@pytest.mark.parametrize("path", PATHS)
def test_what_it_names_exists(path: str) -> None:
    assert (ROOT / path).exists() or (ROOT.parent / path).exists()


@pytest.mark.parametrize(("name", "path"), [*FRAMES, *PAIRS])
def test_names_are_where_it_says(name: str, path: str) -> None:
    assert name in defined_in(path)


def test_words_are_told_once() -> None:
    (table,) = re.findall(r"^\| word \| meaning \|\n\|[-|]+\n((?:\|.*\n)+)", MAP, re.MULTILINE)
    words = [row.split("|")[1].strip() for row in table.splitlines()]
    assert len(words) == len(set(words))
    assert 30 <= len(words) <= 45


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


def test_fit_goes_the_way_that_it_tells(python: Callable[..., str]) -> None:
    """Uncompiled, all frames are Python's."""
    taken = [line.split() for line in reversed(python(WALK, NUMBA_DISABLE_JIT="1").splitlines())]
    frames = iter(taken)
    for name, path in FRAMES:
        last = name.split(".")[-1]
        found = any(one.split(".")[-1] == last and where.endswith(path) for one, where in frames)
        assert found, (name, path, taken)
