"""Measured constants: one file, a comment each, a command per section, and none unused."""

import ast
import re
from pathlib import Path

import pytest

from fastmlp.backends import cpu

ROOT = Path(cpu.__file__).parent
SOURCE = (ROOT / "tuning.py").read_text()
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
def test_every_constant_has_a_comment_and_is_used(name: str) -> None:
    assert LINES[constants()[name] - 2].startswith("#")
    users = [path for path in ROOT.rglob("*.py") if path.name != "tuning.py"]
    assert any(re.search(rf"\b{name}\b", path.read_text()) for path in users)


def test_every_section_says_how_to_measure_it_again() -> None:
    sections = [i for i, line in enumerate(LINES) if re.match(r"# --- \w.* -+$", line)]
    assert sections
    for i in sections:
        assert LINES[i + 1].startswith("# python -m benchmarks.")


def test_nothing_of_the_package_is_imported() -> None:
    imports = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.ImportFrom)]
    allowed = {"fastmlp.compiler.target"}
    assert {node.module for node in imports} <= allowed
