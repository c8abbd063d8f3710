"""One contestant in its own process: answers requests, a line of JSON each, over its pipes."""

import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import estimators, grid, many
from benchmarks import peak as fma
from benchmarks.peers import load
from benchmarks.peers.run import Unsupported
from benchmarks.workloads import BY_NAME, Workload


class Worker:
    """The contestant's module, and the run and predictors it has made last."""

    def __init__(self, name: str) -> None:
        self.name, self.module = name, load(name)
        self.run: Any = None
        self.predictors: dict[str, Callable[[Any], Any]] = {}
        self.x: Any = None
        self.many: Any = None

    def about(self) -> dict[str, Any]:
        """What the library says it runs on."""
        return {"about": self.module.about()}

    def peak(self, dtype: str, threads: int) -> dict[str, Any]:
        """GFLOP/s of multiply-adds in registers."""
        return {"gflops": fma.peak(dtype, threads)}

    def sgemm(self, size: int) -> dict[str, Any]:
        """GFLOP/s of the library's own product, or nothing."""
        product = getattr(self.module, "sgemm", None)
        return {"gflops": max(product(size) for _ in range(3)) if product else None}

    def prepare(self, workload: str, quick: bool, all_variants: bool) -> dict[str, Any]:
        """Make the run of every variant, keep the fastest."""
        self.run = None
        load_ = BY_NAME[workload].quick() if quick else BY_NAME[workload]
        variants = self.module.VARIANTS if all_variants else self.module.VARIANTS[:1]
        replies = [self._try(load_, variant) for variant in variants]
        # Only the last run is at hand; the fastest is made again, from the library's caches.
        # A variant that computes nonsense is not a way to do the work.
        sound = [reply for reply in replies if np.isfinite(reply["loss"])]
        if not sound:
            raise ArithmeticError("the loss is not finite after one epoch")
        best = min(sound, key=lambda reply: reply["epoch_seconds"])
        if best is not replies[-1]:
            self._try(load_, best["variant"])
        tried = {reply["variant"]: reply["epoch_seconds"] for reply in replies}
        return {**best, "tried": tried}

    def _try(self, workload: Workload, variant: str) -> dict[str, Any]:
        self.run = None
        begin = time.perf_counter()
        self.run = self.module.make(workload, variant)
        self.run.epochs(1)
        first = time.perf_counter() - begin
        self.run.reset()
        times = [self._time(1)]
        loss = self.run.loss()
        while sum(times) < 0.1 and len(times) < 50:
            times.append(self._time(1))
        # Several epochs in one call: fewer entries from Python.
        seconds = min(times)
        n = min(max(1, int(0.1 / seconds)), 1000)
        seconds = min(self._time(n) / n for _ in range(2)) if n > 1 else seconds
        return {
            "variant": variant,
            "first_seconds": first,
            "epoch_seconds": seconds,
            "loss": loss,
        }

    def _time(self, n: int) -> float:
        begin = time.perf_counter()
        self.run.epochs(n)
        return time.perf_counter() - begin

    def turn(self, n: int) -> dict[str, Any]:
        """Train n epochs, timed, after one from the start, to wake pools, caches and memory."""
        self.run.reset()
        self.run.epochs(1)
        return {"seconds": self._time(n)}

    def predictors_of(self, workload: str, n_rows: int) -> dict[str, Any]:
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

    def predict(self, name: str, calls: int) -> dict[str, Any]:
        """Return seconds a call."""
        predict, x = self.predictors[name], self.x
        for _ in range(max(1, calls // 10)):
            predict(x)
        begin = time.perf_counter()
        for _ in range(calls):
            predict(x)
        return {"seconds": (time.perf_counter() - begin) / calls}

    def prepare_many(self, name: str, quick: bool) -> dict[str, Any]:
        """Make many nets and train them once; return the seconds and their mean loss."""
        self.many = many.Trainer(self.name, name, quick)
        begin = time.perf_counter()
        self.many.train("seconds")
        first = time.perf_counter() - begin
        return {"first_seconds": first, "loss": float(np.mean(self.many.nets.losses))}

    def train_many(self, what: str) -> dict[str, Any]:
        """Train them again, timed; or one by its own fit, alone."""
        if what == "alone":
            return {"seconds": self.many.single.alone()}
        begin = time.perf_counter()
        self.many.train(what)
        return {"seconds": time.perf_counter() - begin}

    def search(self, quick: bool) -> dict[str, Any]:
        """Search a grid; return seconds, scores and the best."""
        return grid.search(self.name, quick)

    def fit_estimator(self, **task: Any) -> dict[str, Any]:
        """Fit the library's scikit-learn estimator; return seconds and epochs."""
        return estimators.fit(self.name, **task)

    def predict_estimator(self, **task: Any) -> dict[str, Any]:
        """Predict with the library's scikit-learn estimator; return seconds a call."""
        return estimators.predict(self.name, **task)


def answer(worker: Worker, line: str) -> dict[str, Any]:
    """Do what a request says; errors are answers too."""
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
    """Serve until the pipe closes; what libraries print goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        replies.write(json.dumps(answer(worker, line)) + "\n")


if __name__ == "__main__":
    main()
