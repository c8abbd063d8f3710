"""Any combination of the training recipe: the same bits however a fit is shared, cut or copied."""

import pickle
import tempfile
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from fitting import Cut, cut_after
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastmlp import (
    EMA,
    MLP,
    SGD,
    SWA,
    Adam,
    AdamW,
    Cosine,
    EarlyStopping,
    ReduceLROnPlateau,
    RMSprop,
    ScheduleFreeAdamW,
    fit_many,
)
from fastmlp.compiler.jit import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="hundreds of fits in plain Python")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 5)).astype(np.float32)
Y = (np.sin(X[:, 0]) + X[:, 1] > 0).astype(np.int64)
VALID = (X[:40], Y[:40])


class Recipe(NamedTuple):
    net: dict[str, Any]
    kind: type
    optimizer: dict[str, Any]
    fit: dict[str, Any]
    trainable: list[bool]

    def make(self, n_threads: int = 1) -> MLP:
        net = MLP(
            (5, 12, 7, 2),
            loss="cross_entropy",
            optimizer=self.kind(**self.optimizer),
            seed=3,
            n_threads=n_threads,
            **self.net,
        )
        net.trainable = self.trainable
        return net


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


def given_only(draw: Any, **strategies: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Draw values of keywords, each of which may be left out."""
    drawn = {name: draw(maybe(strategy)) for name, strategy in strategies.items()}
    return {name: value for name, value in drawn.items() if value is not None}


def monitoring(kind: type, **settings: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    monitors = [("validation_loss", None), ("loss", None), ("accuracy", "max"), ("worst", "min")]
    return st.sampled_from(monitors).flatmap(
        lambda monitor: st.builds(
            kind, monitor=st.just(monitor[0]), mode=st.just(monitor[1]), **settings
        )
    )


STOPPING = monitoring(
    EarlyStopping,
    patience=st.integers(0, 4),
    min_delta=st.sampled_from([0.0, 0.01]),
    restore_best_weights=st.booleans(),
    start_from_epoch=st.integers(0, 3),
)
PLATEAU = monitoring(
    ReduceLROnPlateau,
    factor=st.sampled_from([0.1, 0.7]),
    patience=st.integers(0, 3),
    cooldown=st.integers(0, 2),
    min_lr=st.sampled_from([0.0, 0.005]),
)


@st.composite
def recipes(draw: Any) -> Recipe:
    net = given_only(
        draw,
        dropout=st.sampled_from([0.2, [0.5, 0.0], Cosine(0.3)]),
        input_dropout=st.just(0.1),
        input_noise=st.just(0.05),
        layer_rates=st.sampled_from([[1.0, 0.5, 2.0], {"weights": 1.0, "biases": 0.1}]),
        l2=st.just(0.01),
        label_smoothing=st.just(0.1),
    )
    kind = draw(st.sampled_from([SGD, RMSprop, Adam, AdamW, ScheduleFreeAdamW]))
    optimizer: dict[str, Any] = {"learning_rate": 0.01}
    clip = draw(st.sampled_from([None, "clipvalue", "clipnorm", "global_clipnorm"]))
    if clip:
        optimizer[clip] = 0.02
    if kind is not ScheduleFreeAdamW:
        optimizer["learning_rate"] = draw(st.sampled_from([0.01, Cosine(0.03)]))
        optimizer |= given_only(draw, average=st.sampled_from([EMA(0.9), SWA(0.5)]))
    if kind is AdamW:
        optimizer["decay_biases"] = draw(st.booleans())
    if kind is SGD:
        optimizer["momentum"] = draw(st.sampled_from([0.0, 0.9]))
    fit = given_only(
        draw,
        early_stopping=st.one_of(st.just(2), STOPPING),
        callbacks=PLATEAU,
        keep_best=st.just(True),
        metrics=st.just({"accuracy": accuracy, "worst": worst}),
    )
    if any(each.monitor in ("accuracy", "worst") for each in fit.values() if hasattr(each, "mode")):
        fit["metrics"] = {"accuracy": accuracy, "worst": worst}
    if "callbacks" in fit and kind is ScheduleFreeAdamW:
        del fit["callbacks"]
    trainable = draw(st.sampled_from([[True] * 3, [False, True, True], [True, False, True]]))
    batch = draw(st.sampled_from([1, 16, 110]))
    return Recipe(net, kind, optimizer, {**fit, "batch_size": batch}, trainable)


def accuracy(targets: Any, predictions: Any) -> float:
    return float(np.mean(predictions.argmax(axis=1) == targets.ravel()))


def worst(targets: Any, predictions: Any) -> float:
    return float(1 - predictions.max(axis=1).min())


def outcome(net: MLP, history: Any) -> tuple[Any, ...]:
    loss = net.loss_and_gradient(X, Y)[0]
    series = (history.loss, history.validation_loss, history.learning_rate, history.metrics)
    values = (*series, history.best_epoch, history.status)
    return net.parameters.tobytes(), net.n_steps, loss, repr(values)


def trained(recipe: Recipe, net: MLP, epochs: int = 8, **more: Any) -> tuple[Any, ...]:
    history = net.fit(X[40:], Y[40:], epochs=epochs, validation_data=VALID, **recipe.fit | more)
    return outcome(net, history)


def saved(net: MLP) -> MLP:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        net.save(path, include_training_state=True)
        return MLP.load(path, n_threads=1)


COPIES = {"copy": copy, "pickle": lambda net: pickle.loads(pickle.dumps(net)), "file": saved}


def drawn(soak: bool) -> int:
    return 150 if soak else 15


def check(recipe: Recipe, cut: int) -> None:
    expected = trained(recipe, recipe.make())
    for n_threads in (2, 4):
        assert trained(recipe, recipe.make(n_threads)) == expected, f"{n_threads} threads"
    check_many(recipe, expected)
    check_copies(recipe)
    check_resume(recipe, cut, expected)


def check_many(recipe: Recipe, expected: tuple[Any, ...]) -> None:
    nets = [recipe.make(), recipe.make()]
    rows: dict[str, Any] = {"rows": np.arange(40, 150), "validation_rows": np.arange(40)}
    histories = fit_many(nets, X, Y, epochs=8, n_threads=2, **rows, **recipe.fit)
    for net, history in zip(nets, histories, strict=True):
        assert outcome(net, history) == expected, "fit_many"


def check_copies(recipe: Recipe) -> None:
    net = recipe.make()
    trained(recipe, net, epochs=2)
    copies = {name: way(net) for name, way in COPIES.items()}
    expected = trained(recipe, net, epochs=2)
    for name, other in copies.items():
        assert trained(recipe, other, epochs=2) == expected, name


def check_resume(recipe: Recipe, cut: int, expected: tuple[Any, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"
        checkpoint: dict[str, Any] = {"checkpoint": path, "checkpoint_every": 1}
        own = recipe.fit.get("callbacks")
        callbacks = [it for it in (own, cut_after(cut)) if it is not None]
        with suppress(Cut):  # where it has not stopped before
            trained(recipe, recipe.make(), **checkpoint, callbacks=callbacks)
        assert trained(recipe, recipe.make(), **checkpoint, resume=True) == expected, "resumed"


@pytest.mark.slow
def test_bits_are_the_same(soak: bool) -> None:
    @settings(
        max_examples=drawn(soak),
        deadline=None,
        derandomize=not soak,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(recipes(), st.integers(0, 7))
    def draw_and_check(recipe: Recipe, cut: int) -> None:
        check(recipe, cut)

    draw_and_check()
