"""Attributes that nothing would read are refused when they are assigned."""

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest

import fastmlp
from fastmlp import (
    EMA,
    LBFGS,
    MLP,
    SGD,
    SWA,
    Adagrad,
    Adam,
    AdamW,
    BinaryFocal,
    Blocks,
    Constant,
    Cosine,
    CSVFile,
    Custom,
    EarlyStopping,
    Expanded,
    Exponential,
    Focal,
    InverseScaling,
    LevenbergMarquardt,
    Loss,
    Nadam,
    NetGroup,
    OneCycle,
    Orthogonal,
    Quantile,
    ReduceLROnPlateau,
    Report,
    Residual,
    RMSprop,
    ScheduleFreeAdamW,
    Standardizer,
    StepDecay,
    Tweedie,
    Warmup,
)

X = np.ones((6, 3))
Y = np.ones(6)
ACTING = {"optimizer", "trainable", "layer_rates", "n_threads"}


def net(**settings: Any) -> MLP:
    return MLP((3, 4, 1), seed=0, **settings)


def squared(prediction: Any, target: Any) -> Any:
    error = prediction - target
    return error * error, error + error


def descent(w: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    return w - rate * g, m, v


SETTINGS: dict[Any, Callable[[], Any]] = {
    **{
        kind: kind
        for kind in (
            *(SGD, Adam, AdamW, Nadam, RMSprop, Adagrad, ScheduleFreeAdamW, LBFGS),
            *(LevenbergMarquardt, EMA, SWA, Quantile, Tweedie, Focal, BinaryFocal),
            *(EarlyStopping, ReduceLROnPlateau, Orthogonal),
        )
    },
    **{
        kind: partial(kind, 0.1)
        for kind in (
            *(Constant, StepDecay, Exponential, InverseScaling, Cosine, OneCycle),
            Warmup,
        )
    },
    Custom: lambda: Custom(descent),
    Residual: lambda: Residual(4),
    Loss: lambda: Loss(squared),
}
OTHERS: dict[Any, Callable[[], Any]] = {
    MLP: net,
    NetGroup: lambda: NetGroup([net()]),
    Standardizer: lambda: Standardizer().fit(X),
    Report: lambda: Report(0, 1.0, None, 0.1, net()),
    Blocks: lambda: Blocks.from_arrays(X, Y),
    CSVFile: lambda: CSVFile("rows.csv"),
    Expanded: lambda: Expanded(X, plain=3),
}
MAKE = SETTINGS | OTHERS


def test_every_public_class_is_here_but_estimators_and_records() -> None:
    public = {
        each
        for name in fastmlp.__all__
        if inspect.isclass(each := getattr(fastmlp, name))
    }
    free = {
        each
        for each in public
        if hasattr(each, "get_params") or issubclass(each, (Enum, Exception))
    }
    assert public - free - {fastmlp.History} == MAKE.keys()


@pytest.mark.parametrize("kind", MAKE, ids=lambda kind: kind.__name__)
def test_a_name_that_the_class_lacks_is_refused(kind: type) -> None:
    thing = MAKE[kind]()
    with pytest.raises(AttributeError, match=f"^{kind.__name__}: attribute 'frobs'"):
        thing.frobs = 1
    assert not hasattr(thing, "frobs")


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_settings_name_their_remedy(kind: type) -> None:
    thing = SETTINGS[kind]()
    if kind is Loss:
        first = "rule"
    else:
        first = dataclasses.fields(thing)[0].name
    before = repr(thing)
    with pytest.raises(AttributeError, match=rf"is fixed; .*replace\(.*{first}=\.\.\."):
        setattr(thing, first, getattr(thing, first))
    assert repr(thing) == before


@pytest.mark.parametrize("kind", MAKE, ids=lambda kind: kind.__name__)
def test_copies_and_pickles(kind: type) -> None:
    thing = MAKE[kind]()
    for made in (copy.copy(thing), copy.deepcopy(thing)):
        assert repr(made).split(" at ")[0] == repr(thing).split(" at ")[0]
    if kind is not Blocks:
        assert type(pickle.loads(pickle.dumps(thing))) is kind


KEYWORDS = {
    word: function
    for function in (MLP, MLP.fit)
    for word in inspect.signature(function).parameters
    if word not in ("self", "X", "y", *ACTING)
}


@pytest.mark.parametrize("word", KEYWORDS)
def test_a_keyword_as_an_attribute_of_a_net_is_told_its_place(word: str) -> None:
    model = net()
    with pytest.raises(AttributeError) as caught:
        setattr(model, word, getattr(model, word, 10.0))
    wrong, _, later = str(caught.value).rpartition("; optimizer, ")
    assert wrong.count(": ") >= 2, "there is no advice"
    assert later.endswith("may change later")


def test_attributes_that_act() -> None:
    """Each changes a fit, or which columns are read,
    but threads, which leave the bits.
    """
    bits = set()
    for name, value in (
        ("n_threads", 1),
        ("optimizer", SGD(0.1)),
        ("trainable", [False, True]),
        ("layer_rates", [1.0, 0.5]),
    ):
        model = net()
        setattr(model, name, value)
        model.fit(X, Y, epochs=1)
        bits.add(model.parameters.tobytes())
    assert len(bits) == 4
    model = net()
    scaler = Standardizer().fit(X)
    model.feature_names = scaler.feature_names = ("a", "b", "c")
    for read in (model.predict, scaler.transform):
        with pytest.raises(ValueError, match="'c'"):
            read(pd.DataFrame({"a": [1.0], "b": [2.0]}))


def test_a_refused_attribute_changes_no_bit() -> None:
    models = net(), net()
    for name, value in (("loss", "mae"), ("l2", 10.0), ("dropout", 0.9)):
        with pytest.raises(AttributeError, match=f"'{name}' would have"):
            setattr(models[0], name, value)
    for model in models:
        model.fit(X, Y, epochs=2)
    assert models[0].parameters.tobytes() == models[1].parameters.tobytes()


def test_a_function_may_stand_in_a_methods_place() -> None:
    model = net()
    with mock.patch.object(model, "predict", return_value=7):
        assert model.predict(X) == 7
    assert model.predict(X).shape == (6, 1)
    with pytest.raises(AttributeError, match="'predict' is fixed"):
        model.predict = 7  # type: ignore[assignment, method-assign]


class Counting(MLP):  # type: ignore[misc]
    """A net with attributes of its own."""

    def __init__(self, sizes: Any, *, title: str, **settings: Any) -> None:
        self.title = title
        super().__init__(sizes, **settings)
        self.n_calls = 0

    def predict(self, X: Any) -> Any:  # type: ignore[override]
        self.n_calls += 1
        return super().predict(X)


class Patient(EarlyStopping):
    """Settings with an attribute of their own."""

    def __init__(self, note: str) -> None:
        super().__init__(patience=3)
        self.note = note


def test_subclasses_have_names_of_their_own() -> None:
    model = Counting((3, 4, 1), title="a", seed=0)
    model.fit(X, Y, epochs=1)
    model.predict(X)
    again = pickle.loads(pickle.dumps(model))
    assert (again.title, again.n_calls) == ("a", 1)
    assert "learning_rate" not in dir(model)
    with pytest.raises(AttributeError, match="Counting: attribute 'device' is fixed"):
        model.device = "cuda"  # type: ignore[misc]
    assert Patient("b").note == "b"
    with pytest.raises(AttributeError, match="Patient: attribute 'patience' is fixed"):
        Patient("b").patience = 4  # type: ignore[misc]
