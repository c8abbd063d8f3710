"""One contestant in its own process: answers requests, a line of JSON each, over its pipes."""

import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import estimators, grid, many
from benchmarks import peak as fma
from benchmarks.peers import load
from benchmarks.peers.run import Unsupported
from benchmarks.scores import Record
from benchmarks.stream import Turns
from benchmarks.workloads import BY_NAME, Workload

TURNS = 3


class Worker:
    """The contestant's module, and the run and predictors it has made last."""

    def __init__(self, name: str) -> None:
        self.name, self.module = name, load(name)
        self.run: Any = None
        self.predictors: dict[str, Callable[[Any], Any]] = {}
        self.x: Any = None
        self.many: Any = None
        self.pair: Any = None
        self.turns: Turns | None = None
        self.clock = time.perf_counter

    def about(self) -> Record:
        """The library's description of itself."""
        return {"about": self.module.about()}

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

    def prepare(
        self, workload: str, quick: bool, all_variants: bool, variant: str | None = None
    ) -> Record:
        """Make the run of every variant, or of one, and keep the fastest, in turns of all."""
        self.run = None
        load_ = BY_NAME[workload].quick() if quick else BY_NAME[workload]
        variants = [variant] if variant else self.module.VARIANTS[load_.form]
        runs, replies = {}, {}
        for name in variants if all_variants else variants[:1]:
            try:
                runs[name], replies[name] = _first(self.module, load_, name)
            except Unsupported:
                if name == variants[0]:
                    raise
        # A variant that computes nonsense is not a way to do the work.
        sound = [name for name, reply in replies.items() if np.isfinite(reply["loss"])]
        if not sound:
            raise ArithmeticError("the loss is not finite after one epoch")
        # In turns, as a machine may have slower seconds.
        n_turns = TURNS if len(sound) > 1 else 1
        turns = [[_epoch_seconds(runs[name]) for name in sound] for _ in range(n_turns)]
        tried = dict(zip(sound, np.median(turns, axis=0).tolist(), strict=True))
        best = min(tried, key=lambda name: tried[name])
        self.run = runs[best]
        return {**replies[best], "epoch_seconds": tried[best], "tried": tried}

    def turn(self, n: int) -> Record:
        """Train n epochs, timed, after one from the start, to wake pools, caches and memory."""
        self.run.reset()
        self.run.epochs(1)
        begin = self.clock()
        self.run.epochs(n)
        return {"seconds": self.clock() - begin}

    def predictors_of(self, workload: str, n_rows: int) -> Record:
        """Make the ways to predict so many rows; return their names."""
        load_ = BY_NAME[workload].quick()
        self.run = run = self.module.make(load_)
        if hasattr(run, "net") and hasattr(run.net, "partial_fit"):
            run.epochs(1)
        self.x = run.rows(np.resize(load_.data()[0], (n_rows, load_.sizes[0])))
        self.predictors = run.predictors()
        for predict in self.predictors.values():
            predict(self.x)
        return {"names": list(self.predictors)}

    def predict(self, name: str, calls: int) -> Record:
        """The seconds of a call."""
        predict, x = self.predictors[name], self.x
        for _ in range(max(1, calls // 10)):
            predict(x)
        begin = self.clock()
        for _ in range(calls):
            predict(x)
        return {"seconds": (self.clock() - begin) / calls}

    def prepare_many(self, name: str, quick: bool) -> Record:
        """Make many nets in each way, keep the fastest; return its seconds and their mean loss."""
        replies = [self._try_many(name, quick, way) for way in many.ways(self.name)]
        best = min(replies, key=lambda reply: reply["again_seconds"])
        if best is not replies[-1]:
            self._try_many(name, quick, best["way"])
        return best

    def _try_many(self, name: str, quick: bool, way: str | None) -> Record:
        self.many = many.Trainer(self.name, name, quick, way)
        n = 2 if len(many.ways(self.name)) > 1 else 1
        times = [self.train_many("seconds")["seconds"] for _ in range(n)]
        loss = float(np.mean(self.many.nets.losses))
        return {"way": way, "first_seconds": times[0], "again_seconds": times[-1], "loss": loss}

    def train_many(self, what: str) -> Record:
        """Train them again, timed; or one by its own fit, alone."""
        if what == "alone":
            return {"seconds": self.many.single.alone()}
        begin = self.clock()
        self.many.train(what)
        return {"seconds": self.clock() - begin}

    def prepare_price(self, name: str, quick: bool) -> Record:
        """Make the two fits of which one is with a feature."""
        self.pair = import_module("benchmarks.peers.fastmlp_price").Pair(name, quick)
        return {"epochs": self.pair.epochs}

    def price(self, featured: list[bool]) -> Record:
        """The seconds of a turn of both."""
        return self.pair.turn(self.clock, featured)

    def prepare_stream(self, name: str, path: str, quick: bool) -> Record:
        """Make the fastest way to train on a file of Parquet."""
        self.run = self.turns = None
        self.turns = Turns(self.name, name, path, quick)
        return {"way": self.turns.way, "tried": self.turns.tried, "grown": self.turns.grown}

    def stream(self, what: str) -> Record:
        """Read the file, train on its rows from memory, or as they are read."""
        assert self.turns is not None
        return self.turns.take(what)

    def end_stream(self) -> Record:
        """Drop the rows in memory."""
        self.turns = None
        return {}

    def search(self, quick: bool) -> Record:
        """Search a grid; return seconds, scores and the best."""
        return grid.search(self.name, quick)

    def fit_estimator(self, **task: Any) -> Record:
        """Fit the library's scikit-learn estimator; return seconds and epochs."""
        return estimators.fit(self.name, **task, clock=self.clock)

    def predict_estimator(self, **task: Any) -> Record:
        """Predict with the library's scikit-learn estimator; return seconds a call."""
        return estimators.predict(self.name, **task, clock=self.clock)


def _first(module: Any, workload: Workload, variant: str) -> tuple[Any, Record]:
    """A run, the seconds of its first epoch, and the loss after one from the start."""
    begin = time.perf_counter()
    run = module.make(workload, variant)
    run.epochs(1)
    first = time.perf_counter() - begin
    run.reset()
    run.epochs(1)
    return run, {"variant": variant, "first_seconds": first, "loss": run.loss()}


def _epoch_seconds(run: Any) -> float:
    """The seconds of an epoch, of several in one call: fewer entries from Python."""
    run.reset()
    n = min(max(1, int(0.1 / _seconds(run, 1))), 1000)
    return _seconds(run, n) / n


def _seconds(run: Any, n: int) -> float:
    begin = time.perf_counter()
    run.epochs(n)
    return time.perf_counter() - begin


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
