"""Messages about packages that are not installed: one sentence, and a command that works."""

import re
import tomllib
from pathlib import Path

import pytest

from fastmlp.validation import packages

ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("fastmlp", "docs") for path in (ROOT / folder).rglob("*.[mp][dy]")]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
KNOWN = {re.split(r"[<>=;\[ ]", one)[0] for extra in EXTRAS.values() for one in extra}
IN_CODE = re.compile(r"\bneeds\(.*, \"([\w-]+)\"\)")
NEEDED = {
    name for path in FILES if path.suffix == ".py" for name in IN_CODE.findall(path.read_text())
}


def test_nothing_installs_fastmlp_by_its_name() -> None:
    """It is not on PyPI: whoever takes the name would answer."""
    pages = [*FILES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    by_name = re.compile(r"pip install ['\"]?fastmlp\b")
    assert not [path for path in pages if by_name.search(path.read_text())]


def test_no_message_has_a_command_of_its_own() -> None:
    own = re.compile(r"[\"'].*needs [\w-]+: pip install")
    files = [path for path in FILES if path.is_relative_to(ROOT / "fastmlp")]
    assert [path.name for path in files if own.search(path.read_text())] == ["packages.py"]


@pytest.mark.parametrize("package", sorted(NEEDED | packages.ARGUMENTS.keys()))
def test_the_package_is_one_of_an_extra(package: str) -> None:
    assert package in KNOWN
    message = packages.needs("MLP.fit", package)
    assert message.startswith(f"MLP.fit needs {package}: pip install ")
    for argument in re.findall(r"[\w-]+(?=\[|\s|$)", packages.install(package)[12:]):
        assert argument in KNOWN


def test_many_messages_are_checked() -> None:
    assert {"scikit-learn", "pyarrow", "safetensors", "tqdm", "mpi4py", "distributed"} <= NEEDED
