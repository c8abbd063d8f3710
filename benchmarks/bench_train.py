"""Steps inside `fit`: of nets, with the recipe of dropout, average,
schedule and clipping, and with one feature of fastmlp's.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import Unsupported, load, trainers
from benchmarks.race import Ways, fastest, timed
from benchmarks.scores import Record
from benchmarks.workloads import BY_NAME, CE, RECIPES, WORKLOADS, Workload, sized

SECONDS = 0.4
FEATURED = ("16-64-64-2@64", "784-512-512-10@128")


class Work:
    """The run of the fastest variant; a turn begins at the start,
    and has an epoch before it.

    Attributes
    ----------
    about : the variant, the seconds of its first epoch, and the loss after one from the start
    units : the steps of an epoch
    """

    def __init__(
        self, worker: Any, quick: bool, workload: str, form: str | None = None
    ) -> None:
        """Make the run; `form` is "float32" for a net in mixed precision without it."""
        self.clock = worker.clock
        begin = time.perf_counter()
        net = sized(BY_NAME[workload], quick)
        if form:
            net = net._replace(compute_dtype=None)
        variants = worker.module.VARIANTS[net.form]
        if quick:
            variants = variants[:1]
        runs: dict[str, Any] = {}
        replies: dict[str, Record] = {}
        for name in variants:
            if runs and time.perf_counter() - begin > worker.trial_seconds:
                break
            try:
                runs[name], replies[name] = _first(worker.module, net, name)
            except Unsupported:
                if name == variants[0]:
                    raise
        # A variant that computes nonsense is not a way to do the work.
        sound = {}
        for name, reply in replies.items():
            if np.isfinite(reply["loss"]):
                sound[name] = runs[name].epochs
        if not sound:
            raise ArithmeticError("the loss is not finite after one epoch")
        best = next(iter(sound))
        if len(sound) > 1:
            best = fastest(sound, self.clock)
        self.run = runs[best]
        self.about = replies[best]
        self.units = net.n_steps

    def turn(self, n: int) -> float:
        """The seconds of n epochs, after one from the start,
        to wake pools, caches and memory.
        """
        self.run.reset()
        self.run.epochs(1)
        seconds, _ = timed(partial(self.run.epochs, n), self.clock)
        return seconds


def _first(module: Any, net: Workload, variant: str) -> tuple[Any, Record]:
    """A run, the seconds of its first epoch, and the loss after one from the start."""

    def made() -> Any:
        run = module.make(net, variant)
        run.epochs(1)
        return run

    first, run = timed(made)
    run.reset()
    run.epochs(1)
    return run, {"way": variant, "first_seconds": first, "loss": run.loss()}


def changes(feature: str | None, rate: float) -> Record:
    """The settings of a net that a feature changes."""
    from fastmlp import EMA, Adam

    settings: dict[str | None, Record] = {
        None: {},
        "EMA": {"optimizer": Adam(rate, average=EMA(0.99))},
        "dropout": {"dropout": 0.2},
        "clipvalue": {"optimizer": Adam(rate, clipvalue=0.01)},
        "global_clipnorm": {"optimizer": Adam(rate, global_clipnorm=1.0)},
        "label_smoothing": {"label_smoothing": 0.1},
        "focal": {"loss": "focal"},
    }
    return settings[feature]


FEATURES = (
    "EMA",
    "dropout",
    "clipvalue",
    "global_clipnorm",
    "label_smoothing",
    "focal",
)


class Featured(Ways):
    """Epochs of a net of classes with one feature, the form, or without."""

    def __init__(
        self, worker: Any, quick: bool, workload: str, form: str | None = None
    ) -> None:
        net = sized(BY_NAME[workload], quick)._replace(loss=CE)
        run = load("fastmlp").make(net)
        model = run.made(**changes(form, net.rule.rate))

        def epochs(n: int) -> None:
            model.fit(run.x, run.y, epochs=n, batch_size=net.batch)

        super().__init__(worker, quick, {"fit": epochs}, units=net.n_steps)


Race = Callable[..., None]


def in_race(race: Race, net: str) -> None:
    """A step inside a fit, of a net in its own form."""
    load = BY_NAME[net]
    race(Work, seconds=SECONDS, flops=load.flops, rows=load.batch, workload=net)


@pytest.mark.libraries(*trainers("plain"))
@pytest.mark.parametrize("net", [net.name for net in WORKLOADS])
def test_train(race: Race, net: str) -> None:
    in_race(race, net)


@pytest.mark.libraries(*trainers("recipe"))
@pytest.mark.parametrize("net", [net.name for net in RECIPES])
def test_train_recipe(race: Race, net: str) -> None:
    in_race(race, net)


@pytest.mark.libraries("fastmlp", *(f"fastmlp-{feature}" for feature in FEATURES))
@pytest.mark.parametrize("net", FEATURED)
def test_train_feature(race: Race, net: str) -> None:
    race(Featured, seconds=SECONDS, workload=net)
