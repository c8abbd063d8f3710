"""Calls that do not fit a signature: who, the keyword, ours for it, and the known ones."""

import inspect
import pickle
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from fastmlp import (
    MLP,
    Adam,
    Cosine,
    Loss,
    MLPClassifier,
    MLPSearchCV,
)
from fastmlp.validation import keywords
from fastmlp.validation.calls import explained

X, Y = np.ones((6, 3)), np.ones(6)


def test_an_error_of_the_function_itself_is_left_alone() -> None:
    inner = TypeError("of the function")

    @explained
    def failing(x: int, *, n: int = 1) -> None:
        raise inner

    with pytest.raises(TypeError) as caught:
        failing(3)
    assert caught.value is inner

    @explained
    def calling() -> None:
        failing(m=1)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="failing: got an unexpected keyword"):
        calling()


@pytest.mark.parametrize("kind", [MLP, Adam, Cosine, Loss, MLPClassifier, MLPSearchCV])
def test_signatures_stay_as_they_are(kind: Any) -> None:
    parameters = inspect.signature(kind).parameters
    assert len(parameters) >= 3
    assert not {"args", "kwargs", "arguments"} & parameters.keys()
    assert kind.__init__.__qualname__.split(".")[0] in (kind.__name__, "object")


@pytest.mark.parametrize(
    "thing",
    [Adam(0.1, beta_1=0.5), Cosine(0.1), Loss(np.sin, "exp"), MLPClassifier((3,))],
    ids=repr,
)
def test_what_is_made_can_be_copied_and_pickled(thing: Any) -> None:
    for other in (deepcopy(thing), pickle.loads(pickle.dumps(thing))):
        assert repr(other) == repr(thing)
        assert type(other) is type(thing)


def test_advice_is_of_words_in_the_groups() -> None:
    words = {word for group in keywords.GROUPS for word in group.split()}
    tables = [*keywords.ADVICE.values(), keywords.ESTIMATOR, keywords.ESTIMATOR_FIT]
    assert {word for table in tables for word in table} - words <= {"checkpoint"}
