"""Calls that do not fit a signature: who, the keyword, ours for it, and the known ones."""

import importlib.util
import inspect
import pickle
import re
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmlp import (
    MLP,
    SGD,
    Adam,
    Cosine,
    EarlyStopping,
    Loss,
    MLPClassifier,
    MLPSearchCV,
    StepDecay,
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
    words = {word for group in keywords.groups() for word in group}
    tables = [*keywords.ADVICE.values(), keywords.ESTIMATOR, keywords.ESTIMATOR_FIT]
    assert {word for table in tables for word in table} - words <= {"checkpoint"}


def test_a_word_stands_once_for_a_keyword() -> None:
    """In the cells of its row, or in the list; but words of two keywords stand in both."""
    content = keywords.content()
    listed = [(key, word) for key, text in content["also"].items() for word in text.split()]
    assert len(listed) == len({*listed})
    in_cells = {
        (key.split(".")[-1], word)
        for table in content["table"]
        for key, cells in table["words"].items()
        for word in re.findall(r"`(\w+)`", " ".join(cells))
    }
    keys = Counter(word for _, word in {*listed} | in_cells)
    assert {word for _, word in {*listed} & in_cells if keys[word] == 1} == {"T_max"}


@pytest.mark.parametrize(
    ("function", "word", "meant"),
    [
        (MLP.fit, "save_freq", "checkpoint_every"),
        (EarlyStopping, "scoring", "monitor"),
        (StepDecay, "step_size", "every"),
        (SGD, "step_size", "learning_rate"),
        (MLP, "kernel_regularizer", "l2"),
    ],
)
def test_words_of_the_page_and_of_the_list(function: Any, word: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"did you mean {meant!r}"):
        function(**{word: 1})


def test_words_are_read_by_a_message_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", None)
    spec = importlib.util.spec_from_file_location("again", keywords.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(TypeError, match="NoneType"):
        module.groups()
