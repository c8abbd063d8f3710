"""Contestants for the suite; FASTMLP_BENCH_QUICK=1 leaves out large nets and most rows."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import PEERS, Unsupported, load, missing
from benchmarks.predictions import PREDICTED
from benchmarks.race import Race, Worker
from benchmarks.scores import Record
from benchmarks.workloads import Workload

# Collecting doctests would import libraries that need not be there.
collect_ignore_glob = ["peers/*_*.py"]
QUICK = os.environ.get("FASTMLP_BENCH_QUICK") == "1"


def run_of(name: str, workload: Workload, variant: int = 0) -> Any:
    """A contestant's run in one of its variants; the test is skipped where there is none."""
    if reason := missing(name):
        pytest.skip(reason)
    module = load(name)
    variants = module.VARIANTS[workload.form]
    if variant >= len(variants):
        pytest.skip("no such variant")
    return supported(module.make, workload, variants[variant])


def supported(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call; the test is skipped where the library has no such option."""
    try:
        return call(*arguments)
    except Unsupported as reason:
        pytest.skip(str(reason))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with the markers of sections."""
    path = tmp_path / "page.md"
    marks = [
        f"<!-- {name}:{end} -->\n" for name in SECTIONS for end in ("begin", "end")
    ]
    path.write_text("before\n" + "".join(marks) + "after\n")
    return path


def page_of(main: Callable[..., Record], words: list[str], page: Path) -> str:
    """The page after a program's run; its results, which are kept, write the same again."""
    file = page.with_name("results.json")
    main([*words, "--json", str(file), "--pages"], page)
    text = page.read_text()
    assert text.startswith("before\n")
    main(["--from-json", "--json", str(file), "--pages"], page)
    assert page.read_text() == text
    return text


SECTIONS = ("benchmarks", "once", "intervals", "times")
MACHINE: Record = {
    "date": "2026-01-01",
    "cpu": "A CPU",
    "cores": 2,
    "caches": "L1 32K",
    "governor": None,
    "load": 0.0,
    "python": "3.11",
    "fastmlp": "0.1.0",
    "versions": {"numpy": "2.0"},
}


class Ours(Worker):
    """fastmlp as a contestant in this process."""

    title, n_threads = "fastmlp", 2

    def __init__(self) -> None:
        super().__init__("fastmlp")

    def ask(self, verb: str, **options: Any) -> Record:
        reply: Record = getattr(self, verb)(**options)
        return reply

    def close(self) -> None:
        """No process ends."""


def short_race(*contestants: Any, names: list[str] | None = None) -> Race:
    """Two turns of little, in silence."""
    return Race([*contestants], names, 2, 0, True, lambda _: None)


def record(name: str, workload: str, seconds: list[float]) -> Record:
    """A record of a contestant's training."""
    return {
        "contestant": name,
        "workload": workload,
        "threads": 2,
        "variant": "first",
        "first_seconds": 1.0,
        "epoch_seconds": 0.1,
        "loss": 0.5,
        "step_seconds": seconds,
    }


@pytest.fixture
def results() -> Record:
    """Two workloads, one of them lost to JAX; scikit-learn lacks an option."""
    fast, slow = "8-32-32-1@32", "784-128-10@128"
    absent = {**record("sklearn", slow, []), "unsupported": "has no such rule"}
    prediction = {
        "threads": 2,
        "n_rows": 1,
        "net": PREDICTED,
        "seconds": [1e-6, 2e-6, 3e-6],
    }
    return {
        "machine": dict(MACHINE),
        "peers": dict.fromkeys(PEERS, "about it"),
        "skipped": {"onnx": "not installed: onnx"},
        "peaks": [
            {
                "contestant": "fastmlp",
                "threads": 2,
                "what": "fma float32",
                "gflops": 200.0,
            },
            {"contestant": "numpy", "threads": 2, "what": "sgemm", "gflops": 190.0},
        ],
        "training": [
            record("fastmlp", fast, [1e-5, 2e-5, 3e-5]),
            record("jax", fast, [4e-5, 8e-5, 12e-5]),
            record("torch", fast, [40e-5, 80e-5, 120e-5]),
            record("fastmlp", slow, [4e-4, 4e-4, 4e-4]),
            record("jax", slow, [1e-4, 1e-4, 1e-4]),
            absent,
        ],
        "predictions": [
            {**prediction, "contestant": "fastmlp", "way": "out="},
            {**prediction, "contestant": "jax", "way": "jit"},
        ],
        "cold_starts": [
            {
                "contestant": "fastmlp",
                "empty": [[5.0, 6.0, 200.0]],
                "again": [[0.6, 0.7, 100.0]],
            },
            {"contestant": "jax", "error": "ended with 1", "empty": [], "again": []},
        ],
        "idle_cpu": 0.0,
        "seconds": 1.0,
    }
