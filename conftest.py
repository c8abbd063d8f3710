"""The examples of fastmlp.river are skipped where river is missing."""

from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest


class WithoutRiver(pytest.File):
    def collect(self) -> Iterator[pytest.Item]:
        pytest.skip("river is not installed", allow_module_level=True)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    found = yield
    if file_path.parts[-2:] != ("fastmlp", "river.py") or find_spec("river"):
        return found
    return [WithoutRiver.from_parent(parent, path=file_path)]
