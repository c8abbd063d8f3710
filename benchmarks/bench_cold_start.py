"""A new process: the import beside Numba's own, and a first short fit with and without a cache."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import cold_start


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the first test fills."""
    return tmp_path_factory.mktemp("cache")


def test_new_process_with_an_empty_cache(benchmark: Any, cache: Path) -> None:
    benchmark.group = "cold start, cache empty"
    command = cold_start.fit_of("fastmlp")
    benchmark.pedantic(cold_start.launch, (command, cache), rounds=1)


@pytest.mark.parametrize("name", ["import numba", "import fastmlp", "fit"])
def test_new_process_with_a_full_cache(benchmark: Any, name: str, cache: Path) -> None:
    command = cold_start.fit_of("fastmlp") if name == "fit" else name
    benchmark.group = "cold start, cache full"
    benchmark.pedantic(cold_start.launch, (command, cache), rounds=3, warmup_rounds=1)
