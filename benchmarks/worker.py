"""One contestant in its own process: answers requests, a line of JSON each, over its pipes."""

import json
import os
import sys
import time
import traceback
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import peak as fma
from benchmarks.machine import versions
from benchmarks.peers import PEERS, load
from benchmarks.peers.run import Unsupported
from benchmarks.scores import Record


class Worker:
    """The contestant's module, and the work of a part that it has made last.

    Attributes
    ----------
    work : a part's `Work(worker, **request)`; it has `about`, and `turn(**request)`, which is timed
    """

    def __init__(self, name: str) -> None:
        self.name, self.module = name, load(name)
        self.work: Any = None
        self.clock = time.perf_counter

    def about(self) -> Record:
        """The library's description of itself."""
        if hasattr(self.module, "about"):
            return {"about": self.module.about()}
        numbers = versions(PEERS[self.name].needs)
        return {"about": ", ".join(f"{name} {number}" for name, number in numbers.items())}

    def folder(self) -> Record:
        """The folder that fastmlp was imported from."""
        return {"folder": str(Path(import_module("fastmlp").__file__ or "").parents[1])}

    def count_cpu_time(self) -> Record:
        """Time all later turns by the CPU time of this process, which others disturb less."""
        self.clock = time.process_time
        return {}

    def peak(self, dtype: str, threads: int) -> Record:
        """GFLOP/s of multiply-adds in registers."""
        return {"gflops": fma.peak(dtype, threads)}

    def sgemm(self, size: int) -> Record:
        """GFLOP/s of the library's own product, or nothing."""
        product = getattr(self.module, "sgemm", None)
        return {"gflops": max(product(size) for _ in range(3)) if product else None}

    def make(self, part: str, **request: Any) -> Record:
        """Make the work of a part, in the place of the last; the reply describes it."""
        self.work = None
        self.work = import_module(f"benchmarks.{part}").Work(self, **request)
        about: Record = self.work.about
        return about

    def turn(self, **request: Any) -> Record:
        """Take a turn of the work."""
        reply: Record = self.work.turn(**request)
        return reply

    def drop(self) -> Record:
        """Drop the work and its memory."""
        self.work = None
        return {}

    def call(self, function: str, **request: Any) -> Record:
        """Call "module.function" of the benchmarks, which keeps no work."""
        module, _, name = function.partition(".")
        function_ = getattr(import_module(f"benchmarks.{module}"), name)
        reply: Record = function_(self.name, clock=self.clock, **request)
        return reply


def answer(worker: Worker, line: str) -> Record:
    """The reply to a request, or the error that it raised."""
    request = json.loads(line)
    try:
        return getattr(worker, request.pop("verb"))(**request)
    except Unsupported as reason:
        return {"unsupported": str(reason)}
    except Exception as error:
        traceback.print_exc()
        text = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {text[0][:200]}"}


def main() -> None:
    """Answer until the pipe closes; output of libraries goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        replies.write(json.dumps(answer(worker, line)) + "\n")


if __name__ == "__main__":
    main()
