"""Doors and features: what the core does,
every door that trains passes on, or refuses by name.

A door is a way to train. Each of its nets has the bits that the core, or the door
before it, gives to the same settings; and keeps settings and bits through threads,
copies, pickles and files. Values and numbers are tested where a feature is built: here
a cell is a door and a feature, alone and among others that are drawn.
"""

import pickle
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conditions import count_as_wide
from fitting import Cut, cut_after
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from small_models import reloaded

import fastmlp
from fastmlp import (
    EMA,
    MLP,
    SGD,
    SWA,
    Adam,
    AdamW,
    Cosine,
    Quantile,
    ScheduleFreeAdamW,
    Tweedie,
    fit_many,
)
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.dispatch import Autotuner
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.model import core_of

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"),
    pytest.mark.filterwarnings(
        "ignore:Stochastic Optimizer", "ignore:lbfgs failed to converge"
    ),
]
RNG = np.random.default_rng(0)
N = 45
WIDTH = 18
EPOCHS = 3
X = RNG.normal(size=(N, WIDTH))
WEIGHT = RNG.uniform(0.5, 2, N)
LABELS = (X[:, 0] + X[:, 1] > 0).astype(int)
REAL = np.exp(X[:, 0] * X[:, 1])
NAMES = [f"x{i}" for i in range(WIDTH)]
FRAME = pd.DataFrame(X, columns=NAMES)
FORMS: dict[str, Any] = {
    "rows": X,
    "fortran": np.asfortranarray(X),
    "every other": np.repeat(X, 2, axis=1)[:, ::2],
    "list": X.tolist(),
    "pandas": FRAME,
    "polars": pl.from_pandas(FRAME),
    "arrow": pa.Table.from_pandas(FRAME),
}
# In the words of `MLP`; a loss is one of numbers,
# smoothing and weights of classes of labels.
FEATURES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "activation": {"activation": ["gelu"]},
    "optimizer": {"optimizer": AdamW(Cosine(0.02), weight_decay=0.1)},
    "momentum": {
        "optimizer": SGD(0.05, momentum=0.9, nesterov=True, global_clipnorm=0.3)
    },
    "penalty": {"l2": 0.5},
    "norm": {"norm": "layer"},
    "skip": {"skip": "input"},
    "dropout": {"dropout": [0.5]},
    "input_dropout": {"input_dropout": 0.2},
    "input_noise": {"input_noise": Cosine(0.1)},
    "schedule free": {"optimizer": ScheduleFreeAdamW(0.02, warmup_steps=3)},
    "EMA": {"average": EMA(0.9)},
    "SWA": {"average": SWA(0.5)},
    "bfloat16": {"compute_dtype": "bfloat16"},
    "layers in bfloat16": {"compute_dtype": ["bfloat16", "float32"]},
    "layer_rates": {"layer_rates": [0.5, {"weights": 1.0, "biases": 0.1}]},
    "frozen": {"trainable": [False, True]},
    "batch_size": {"batch_size": 7},
    "sample_weight": {"sample_weight": WEIGHT},
    "class_weight": {"class_weight": {0: 3.0, 1: 0.5}},
    "label_smoothing": {"label_smoothing": 0.2},
    "gamma": {"loss": "gamma"},
    "tweedie": {"loss": Tweedie(1.3)},
    "quantile": {"loss": Quantile(0.9)},
    "quantiles": {"loss": Quantile([0.1, 0.5, 0.9])},
    "gaussian_nll": {"loss": "gaussian_nll"},
}
OF_CLASSES = {"class_weight", "label_smoothing"}
OF_NUMBERS = {"loss"}
# Settings of an estimator under other names than those of `MLP`.
RENAMED = {
    "optimizer": "solver",
    "l2": "alpha",
    "epochs": "max_iter",
    "n_threads": "n_jobs",
    "seed": "random_state",
}
OF_FIT = ("epochs", "batch_size", "shuffle", "sample_weight", "class_weight")
Words = dict[str, Any]


def words_of(more: Words, *, classifies: bool) -> Words:
    loss = "binary_cross_entropy" if classifies else Quantile(0.5)
    rest: Words = {
        "optimizer": Adam(0.02),
        "l2": 0.0,
        "shuffle": False,
        "batch_size": 10,
    }
    return {"loss": loss, "epochs": EPOCHS, "n_threads": 1, "seed": 0, **rest, **more}


def optimizer_of(words: Words) -> Any:
    average = words.get("average")
    if average is None:
        return words["optimizer"]
    return replace(words["optimizer"], average=average)


def net_of(words: Words) -> MLP:
    loss = words["loss"]
    levels = getattr(loss, "levels", 0)
    n_outputs = 2 if loss == "gaussian_nll" else np.size(levels)
    dtype = "float32" if "compute_dtype" in words else "float64"
    rest = {
        k: v for k, v in words.items() if k not in (*OF_FIT, "average", "trainable")
    }
    settings = {**rest, "optimizer": optimizer_of(words), "dtype": dtype}
    net = MLP((WIDTH, WIDTH, n_outputs), **settings)
    net.trainable = words.get("trainable", True)
    return net


def options_of(words: Words) -> Words:
    return {name: words[name] for name in OF_FIT if name in words}


def estimator_words(words: Words) -> Words:
    result = {RENAMED.get(name, name): value for name, value in words.items()}
    result.pop("sample_weight", None)
    if result["loss"] == "binary_cross_entropy":
        del result["loss"]
    rest = {"tol": 0.0, "pickle_state": True}
    return {"hidden_layer_sizes": (WIDTH,), **rest, **result}


class Door(NamedTuple):
    """A way to train: a fit by words,
    the nets of what it returns, and whether it classifies.
    """

    name: str
    classifies: bool
    who: str
    fit: Callable[..., Any]
    parts: Callable[[Any], list[Any]]

    @property
    def y(self) -> Any:
        return LABELS if self.classifies else REAL

    def words(self, **more: Any) -> Words:
        return words_of(more, classifies=self.classifies)

    def __repr__(self) -> str:
        return f"{self.name} of {'classes' if self.classifies else 'numbers'}"


def fit_net(rows: Any, y: Any, words: Words, **more: Any) -> Any:
    net = net_of(words)
    net.fit(rows, y, **options_of(words), **more)
    return net


def fit_several(rows: Any, y: Any, words: Words, **more: Any) -> Any:
    plain = {**words_of({}, classifies=y is LABELS), "epochs": words["epochs"]}
    nets = [net_of({**plain, "seed": 7}), net_of(words)]
    fit_many(nets, rows, y, **options_of(words), n_threads=words["n_threads"], **more)
    return nets


def fit_estimator_of_net(rows: Any, y: Any, words: Words, **more: Any) -> Any:
    options = options_of(words)
    weight = options.pop("sample_weight", None)
    model = net_of(words).as_estimator(random_state=words["seed"], **options)
    return model.fit(rows, y, sample_weight=weight, **more)


def fit_by(kind: Any, **own: Any) -> Callable[..., Any]:
    def fit(rows: Any, y: Any, words: Words, **more: Any) -> Any:
        model = kind(**estimator_words(words), **own)
        return model.fit(rows, y, sample_weight=words.get("sample_weight"), **more)

    return fit


def fit_search(kind: Any) -> Callable[..., Any]:
    """A search whose candidates have the settings,
    so that they come by `set_params`.
    """

    def fit(
        rows: Any, y: Any, words: Words, search: Any = fastmlp.MLPSearchCV, **more: Any
    ) -> Any:
        grid = {name: [value] for name, value in estimator_words(words).items()}
        n_jobs = grid.pop("n_jobs")[0]
        if "sample_weight" in words:
            more["sample_weight"] = words["sample_weight"]
        return search(kind(), grid, cv=2, n_jobs=n_jobs).fit(rows, y, **more)

    return fit


def fit_tables(kind: Any) -> Callable[..., Any]:
    """Of the settings those that a model of tables has;
    any other is its own to refuse.
    """

    def fit(rows: Any, y: Any, words: Words, **more: Any) -> Any:
        defaults = words_of({}, classifies=kind is fastmlp.TabularMLPClassifier)
        rest = {k: v for k, v in words.items() if repr(defaults.get(k)) != repr(v)}
        for name in ("n_threads", "epochs", "seed"):
            rest.pop(name, None)
            rest[RENAMED[name]] = words[name]
        weight = rest.pop("sample_weight", None)
        # With trees the selection may leave out every net.
        model = kind(**rest, n_members=2, cv=2, trees=False)
        return model.fit(rows, y, weight, **more)

    return fit


def doors() -> Iterator[Door]:
    for classifies, word in ((True, "Classifier"), (False, "Regressor")):
        mlp, tabular = (getattr(fastmlp, name + word) for name in ("MLP", "TabularMLP"))
        made: dict[str, tuple[str, Callable[..., Any], Callable[[Any], list[Any]]]] = {
            "MLP": ("MLP", fit_net, lambda net: [net]),
            "fit_many": ("fit_many|MLP", fit_several, list),
            "as_estimator": ("MLP", fit_estimator_of_net, lambda model: [model.net_]),
            "estimator": (mlp.__name__, fit_by(mlp), lambda model: [model]),
            "search": (
                mlp.__name__,
                fit_search(mlp),
                lambda model: [model.best_estimator_],
            ),
            "tables": (
                tabular.__name__,
                fit_tables(tabular),
                lambda model: [member.net for member in model.members_],
            ),
        }
        for name, (who, fit, parts) in made.items():
            yield Door(name, classifies, who, fit, parts)


DOORS = list(doors())
OF_NETS = ("MLP", "fit_many", "as_estimator")
WAYS = ("copy", "pickle", "file")
each_door = pytest.mark.parametrize("door", DOORS, ids=repr)


def keyword_refused(door: Door, feature: str) -> str | None:
    (keyword,) = FEATURES[feature].keys() or [""]
    wrong = keyword in (OF_NUMBERS if door.classifies else OF_CLASSES)
    if (door.name, feature) == ("as_estimator", "frozen"):
        return "each fit draws new weights, also for frozen layers"
    if keyword in ("layer_rates", "trainable", "norm", "skip"):
        wrong = door.name not in OF_NETS
    if door.name == "tables":
        known = ("nothing", "bfloat16", "sample_weight", "class_weight", "gamma")
        wrong = wrong or feature not in known
    if wrong or (door.name, keyword) == ("fit_many", "class_weight"):
        return keyword
    return None


def cells() -> Iterator[Any]:
    for door, (i, feature) in product(DOORS, enumerate(FEATURES)):
        keyword = "".join(FEATURES[feature])
        # A net of a loss of numbers is one of numbers; two doors have each in many/.
        if keyword in OF_NUMBERS and door.name in OF_NETS:
            chosen = repr(door) == "as_estimator of numbers"
        # The costly doors: a feature of both kinds at one of them.
        elif door.name == "search" and keyword not in OF_CLASSES | OF_NUMBERS:
            chosen = door.classifies == (i % 2 == 0)
        else:
            chosen = True
        if chosen:
            yield pytest.param(door, feature, id=f"{door}-{feature}")


@pytest.fixture(autouse=True)
def small_nets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    count_as_wide(16, monkeypatch)
    monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: n_threads > 1)
    monkeypatch.setattr(Autotuner, "wants_team", lambda self: True)


def bits_of(parts: list[Any]) -> list[bytes]:
    return [getattr(part, "net_", part).parameters.tobytes() for part in parts]


def by_the_core(door: Door, model: Any, words: Words) -> list[Any]:
    """Each net's parameters by the door before: `MLP`,
    the estimator, scikit-learn's search.
    """
    if door.name in OF_NETS:
        return [fit_net(X, door.y, words).parameters]
    if door.name == "search":
        theirs = door.fit(X, door.y, words, search=GridSearchCV)
        for name in ("split0_test_score", "split1_test_score"):
            assert model.cv_results_[name] == theirs.cv_results_[name]
        return [theirs.best_estimator_.net_.parameters]
    # The estimator: its first weights, and its key of masks, in a net.
    still = {"solver": SGD(1e-300), "average": None, "max_iter": 1}
    start = clone(model).set_params(**still).fit(X, door.y)
    net = net_of(words)
    net.parameters[:] = start.net_.parameters
    core_of(net).state.key = model._state.key
    net.fit(X, door.y, **options_of(words))
    return [net.parameters]


def gone_on(part: Any, y: Any) -> bytes:
    if isinstance(part, MLP):
        part.fit(X, y, epochs=1, batch_size=10)
        return part.parameters.tobytes()
    part.partial_fit(X, y)
    return part.net_.parameters.tobytes()


def predictions(model: Any) -> bytes:
    if isinstance(model, list):
        return b"".join(map(predictions, model))
    names = ("predict", "predict_proba", "predict_std")
    return b"".join(
        getattr(model, name)(X).tobytes() for name in names if hasattr(model, name)
    )


def resumed(door: Door, words: Words, path: Path) -> Any:
    with pytest.raises(Cut):
        door.fit(
            X,
            door.y,
            words,
            checkpoint=path,
            checkpoint_every=1,
            callbacks=cut_after(1),
        )
    return door.fit(X, door.y, words, checkpoint=path, resume=True)


def copies_of(
    door: Door, model: Any, ways: Iterable[str], path: Path
) -> Iterator[list[Any]]:
    for way in ways:
        if way == "file" and door.name in OF_NETS:
            nets = [reloaded(part, path, training=True) for part in door.parts(model)]
            assert [*map(repr, nets)] == [*map(repr, door.parts(model))]
            yield nets
            continue
        if way == "copy":
            other = deepcopy(model)
        elif way == "pickle":
            other = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model))))
        else:
            other = reloaded(model, path, training=True)
            assert repr(other) == repr(clone(model)) == repr(model)
        assert predictions(other) == predictions(model)
        yield door.parts(other)


def check(
    door: Door, words: Words, path: Path, ways: Iterable[str] = WAYS, form: str = "rows"
) -> list[bytes]:
    model = door.fit(FORMS[form], door.y, words)
    parts = door.parts(model)
    bits = bits_of(parts)
    assert bits_of(door.parts(door.fit(X, door.y, {**words, "n_threads": 2}))) == bits
    if form in ("pandas", "polars", "arrow") and door.name not in OF_NETS:
        assert model.feature_names_in_.tolist() == NAMES
    others = list(copies_of(door, model, ways, path))
    if door.name in ("MLP", "fit_many", "tables"):
        others.append(
            door.parts(resumed(door, words, path.with_name(f"run of {door.name}")))
        )
        assert bits_of(others[-1]) == bits
    if door.name != "tables":
        expected = by_the_core(door, model, words)
        tolerance = 1e-9 if door.name == "estimator" else 0
        for part, parameters in zip(parts[-len(expected) :], expected, strict=True):
            net = getattr(part, "net_", part)
            assert (net.parameters.dtype, net.optimizer) == (
                parameters.dtype,
                optimizer_of(words),
            )
            np.testing.assert_allclose(
                net.parameters, parameters, rtol=tolerance, atol=tolerance
            )
        further = [gone_on(part, door.y) for part in parts]
        for other in others:
            assert [gone_on(part, door.y) for part in other] == further
    return bits


@cache
def plain_bits(door: Door) -> list[bytes]:
    return bits_of(door.parts(door.fit(X, door.y, door.words())))


@pytest.mark.parametrize(("door", "feature"), list(cells()))
def test_a_feature_at_a_door(door: Door, feature: str, tmp_path: Path) -> None:
    words = door.words(**FEATURES[feature])
    path = tmp_path / "model"
    if keyword := keyword_refused(door, feature):
        with pytest.raises((TypeError, ValueError), match=keyword) as caught:
            door.fit(X, door.y, words)
        assert re.search(door.who, str(caught.value))
        return
    # Of three ways of keeping one; a feature comes to the others at the doors beside.
    way = WAYS[(DOORS.index(door) + [*FEATURES].index(feature)) % 3]
    assert (check(door, words, path, [way]) != plain_bits(door)) == (
        feature != "nothing"
    )


@pytest.mark.few(12)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@each_door
@pytest.mark.parametrize("seed", range(2))
def test_drawn_features_at_a_door(door: Door, seed: int, tmp_path: Path) -> None:
    draw = random.Random(f"{door} {seed}")
    known = [feature for feature in FEATURES if keyword_refused(door, feature) is None]
    words = door.words()
    for feature in draw.sample(known, min(6, len(known))):
        words |= FEATURES[feature]
    if isinstance(words["optimizer"], ScheduleFreeAdamW):
        words.pop("average", None)
    if "compute_dtype" in words:
        for name in ("norm", "skip"):
            words.pop(name, None)
    check(door, words, tmp_path / "model", form=draw.choice([*FORMS]))


@each_door
def test_another_seed_at_a_door(door: Door) -> None:
    bits = bits_of(door.parts(door.fit(X, door.y, door.words(seed=1))))
    assert bits != plain_bits(door)


# --- what looks at a fit ---


@each_door
def test_callbacks_at_a_door(door: Door) -> None:
    reports: list[Any] = []
    model = door.fit(X, door.y, door.words(), callbacks=reports.append)
    assert bits_of(door.parts(model)) == plain_bits(door)
    epochs = dict[int, list[int]]()
    for report in reports:
        epochs.setdefault(id(report.net), []).append(report.epoch)
    # Of a search those of two folds too,
    # and of tables the nets that are not in the ensemble.
    n_nets = {"fit_many": 2, "search": 3, "tables": 4}.get(door.name, 1)
    assert [*epochs.values()] == [[*range(EPOCHS)]] * n_nets
    # Nets of tables are written anew without units that are 0 in all rows.
    if door.name != "tables":
        assert {id(part) for part in door.parts(model) if isinstance(part, MLP)} <= {
            *epochs
        }

    def stop(report: Any) -> None:
        report.stop()

    short = door.fit(X, door.y, door.words(), callbacks=[stop])
    if door.name != "tables":
        expected = door.fit(X, door.y, door.words(epochs=1))
        assert bits_of(door.parts(short)) == bits_of(door.parts(expected))

    # A search tells of fits that fail by an error of its own, which quotes theirs.
    searches = door.name == "search"
    with pytest.raises(
        ValueError if searches else Cut, match="fitting.Cut" if searches else None
    ):
        door.fit(X, door.y, door.words(), callbacks=cut_after(0))
    message = (
        rf"({door.who}|Net\w+)(.fit)?: callbacks must be functions of one argument"
    )
    with pytest.raises(ValueError if searches else TypeError, match=message):
        door.fit(X, door.y, door.words(), callbacks=3)


@each_door
def test_a_bar_at_a_door(
    door: Door, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = door.fit(X, door.y, door.words(), progress=True)
    assert bits_of(door.parts(model)) == plain_bits(door)
    printed = capfd.readouterr().err
    totals = {"search": 2, "fit_many": 2 * EPOCHS, "tables": 4 * EPOCHS}
    total = totals.get(door.name, EPOCHS)
    assert f"{total}/{total}" in printed
    assert {*re.findall(r"\d+/(\d+) ", printed)} == {str(total)}
    n_nets = {"fit_many": 2, "tables": 4}.get(door.name)
    assert n_nets is None or f"{n_nets} of {n_nets} nets" in printed
    if door.name == "search":
        who = "MLPSearchCV"
    else:
        who = rf"({door.who}|MLP|Net\w+)"
    message = rf"{who}(.fit)?: progress"
    with pytest.raises(TypeError, match=f"{message} must be True or False"):
        door.fit(X, door.y, door.words(), progress=1)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=f"{message}=True needs tqdm: pip"):
        door.fit(X, door.y, door.words(), progress=True)
