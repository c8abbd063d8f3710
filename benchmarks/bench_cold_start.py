"""A new process: the import beside Numba's own, and a first short fit with and without a cache."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = {
    "import numba": "import numba",
    "import fastmlp": "import fastmlp",
    "first fit": "import fastmlp; fastmlp.MLP((2, 4, 1)).fit([[0, 1], [1, 0]], [0, 1], epochs=2)",
}


def run(name: str, cache: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    subprocess.run([sys.executable, "-c", SCRIPTS[name]], check=True, env=environment)


@pytest.mark.parametrize("name", SCRIPTS)
def test_new_process_with_a_full_cache(benchmark: Any, name: str, tmp_path: Path) -> None:
    run(name, tmp_path)
    benchmark.group = "cold start, cache full"
    benchmark.pedantic(run, (name, tmp_path), rounds=5)


def test_new_process_with_an_empty_cache(benchmark: Any, tmp_path: Path) -> None:
    benchmark.group = "cold start, cache empty"
    caches = iter(range(100))

    def fresh() -> Any:
        return ("first fit", tmp_path / str(next(caches))), {}

    benchmark.pedantic(run, setup=fresh, rounds=2)
