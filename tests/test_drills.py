"""A call that names no test leaves out the drills, and most cases of a test; --all takes all, and
limits what is no drill."""

import os
import pkgutil
import re
import runpy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
BURNING = """
import time
import pytest
def burn():
    end = time.process_time() + 0.6
    while time.process_time() < end: pass
@pytest.mark.parametrize("i", range(20))
def test_quick(i): pass
@pytest.mark.parametrize("i", range(4))
def test_drill(i): i or burn()
@pytest.mark.parametrize("page", range(5))
def test_code_runs_in_order_and_gives_what_stands_under_it(page): pass
def test_slow(): burn()
done = []
def test_first_use():
    done or burn()
    done.append(1)
"""


def test_every_drill_is_a_test() -> None:
    texts = [path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")]
    tests = {name for text in texts for name in re.findall(r"^ *def (test_\w+)\(", text, re.M)}
    drills = (TESTS / "drills.txt").read_text(encoding="utf-8").splitlines()
    assert drills == sorted(set(drills))
    # Examples of docstrings.
    assert all(map(pkgutil.resolve_name, (name for name in drills if name.startswith("fastmlp."))))
    # scikit-learn's own tests are defined there.
    others = ("test_checks.py", "fastmlp.")
    own = [drill for drill in drills if not any(other in drill for other in others)]
    assert {drill.rpartition("::")[2].partition("[")[0] for drill in own} <= tests


@pytest.mark.parametrize(
    ("arguments", "summary"),
    [
        ([], "17 passed in"),
        (["--all"], "37 passed, 1 error in"),
        (["tests/test_some.py"], "31 passed in"),
        (["--cases", "3", "tests/test_some.py"], "11 passed, 20 deselected in"),
        (["--cases", "3", "--draw", "any", "tests/test_some.py"], "11 passed, 20 deselected in"),
        (["--all", "--cases", "3"], "17 passed, 1 error in"),
        (["-m", "drill"], "4 passed in"),
    ],
)
def test_which_tests_a_call_takes(arguments: list[str], summary: str, tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    conftest = (TESTS / "conftest.py").read_text(encoding="utf-8")
    assert "LIMIT = 300" in conftest
    # 50 to 110 ms: some ticks of 10 ms, by which the system counts a process's time.
    (tests / "conftest.py").write_text(conftest.replace("LIMIT = 300", "LIMIT = 10"))
    (tests / "drills.txt").write_text("test_drill\n")
    # Two processes, of which one collects backwards, must find them in one order.
    (tests / "below").mkdir()
    for name in ("below/test_one", "below/test_two", "test_other"):
        (tests / f"{name}.py").write_text("def test_b(): pass\ndef test_a(): pass\n")
    (tests / "test_some.py").write_text(BURNING)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\nmarkers = drill: slow\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    # The options that this run was given are none of the inner one's.
    environment = {name: os.environ[name] for name in os.environ if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert summary in done.stdout.splitlines()[-1], done.stdout
    assert ("add 'test_slow' to tests/drills.txt" in done.stdout) == ("--all" in arguments)
    assert "test_first_use" not in done.stdout
    assert ("most 4, and no drill" in done.stdout) == (arguments == [])


class _Case:
    """The parts of a test that the choice looks at."""

    def __init__(self, name: str, marker: object = None) -> None:
        self.name = self.nodeid = name
        self._marker = marker

    def get_closest_marker(self, name: str) -> object:
        return self._marker


def test_cases_are_drawn_by_a_text_and_of_a_drill_a_third() -> None:
    few = runpy.run_path(str(TESTS / "conftest.py"))["_few"]
    cases = [_Case(f"test_some[{i}]") for i in range(50)]
    drawn = [few(cases, 5, text) for text in ("a", "b", "a")]
    assert [len(some) for some in drawn] == [5, 5, 5]
    assert drawn[0] == drawn[2] != drawn[1]
    assert all(cases.index(one) < cases.index(two) for one, two in pairwise(drawn[0]))
    drills = [_Case(case.name, "drill") for case in cases]
    assert [len(few(drills, n, "a")) for n in (1, 3, 4, 12, 99)] == [1, 1, 2, 4, 33]
