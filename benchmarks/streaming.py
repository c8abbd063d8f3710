"""A contestant's turns at a file of Parquet, in its own process."""

import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import stream


class Turns:
    """The fastest of a contestant's ways to train on a file.

    Attributes
    ----------
    way : its name
    tried : seconds of all ways
    grown : bytes by which the process has grown at most when it first trained in that way
    """

    def __init__(self, contestant: str, name: str, path: str, quick: bool) -> None:
        module = import_module(f"benchmarks.peers.{stream.MODULES[contestant]}")
        load, self.tried = stream.of_name(name, quick), dict[str, float]()
        grown = {}
        for way in module.WAYS:
            self._run = module.streamed(load, Path(path), way, contestant)
            before = _memory(reset=True)
            self._run.streamed()
            grown[way] = _memory() - before
            begin = time.perf_counter()
            if len(module.WAYS) > 1:
                self._run.streamed()
            self.tried[way] = time.perf_counter() - begin
        self.way = min(self.tried, key=lambda way: self.tried[way])
        self.grown = grown[self.way]
        if self.way != module.WAYS[-1]:
            self._run = module.streamed(load, Path(path), self.way, contestant)
            self._run.streamed()

    def take(self, what: str) -> dict[str, Any]:
        """Return nanoseconds a row."""
        begin = time.perf_counter()
        n = getattr(self._run, what)()
        seconds = time.perf_counter() - begin
        return {"ns": 1e9 * seconds / n}


def _memory(*, reset: bool = False) -> int:
    """Return the most bytes that the process has had in memory; `reset`: from now on."""
    if not Path("/proc/self/clear_refs").exists():
        return 0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
