"""Words of other libraries, misspelt names, absent attributes and packages: errors that help."""

import copy
import importlib.util
import inspect
import pickle
import pydoc
import re
import tomllib
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
from sklearn.base import is_classifier, is_regressor
from sklearn.preprocessing import OneHotEncoder

from fastmlp import MLP, Adam, Cosine, History, Loss, MLPClassifier, MLPSearchCV
from fastmlp.network import resolve
from fastmlp.rules import activations, losses, optimizers, updates
from fastmlp.validation import messages
from fastmlp.validation.calls import OF_HISTORIES, OF_NETS, explained

# Wrong types on purpose.
# mypy: disable-error-code="assignment"


TABLES: dict[str, tuple[Any, Any]] = {
    "activation": (activations.RULES, activations.SYNONYMS),
    "loss": (losses.LOSSES, losses.SYNONYMS),
    "optimizer": (optimizers.OPTIMIZERS, optimizers.SYNONYMS),
    "penalty": (updates.PENALTIES, updates.PENALTY_SYNONYMS),
    "initializer": (updates.INITIALIZERS, updates.INITIALIZER_SYNONYMS),
    "device": (("cpu", "cuda"), resolve.DEVICES),
}


def net(**settings: Any) -> MLP:
    return MLP((3, 4, 2), **settings)


@pytest.mark.parametrize("keyword", TABLES)
def test_synonyms_are_no_names_and_stand_for_names_or_sentences(keyword: str) -> None:
    names, synonyms = TABLES[keyword]
    for answer, words in synonyms.items():
        assert answer in names or " " in answer
        assert not set(words.split()) & set(names)


@pytest.mark.parametrize("word", ["", "?", "frobnicate", 3, None, ("relu",)])
def test_other_words_list_the_known_ones_alone(word: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        net(initializer=word, activation=word)
    assert "did you mean" not in str(caught.value)


def test_files_of_cross_entropy_of_one_output_load() -> None:
    """`MLP`, which refuses its name, is given the loss itself then."""
    assert MLP((3, 4, 1), loss=losses.LOSSES["cross_entropy"]).layer_sizes == (3, 4, 1)


# Wrong types on purpose.
# mypy: disable-error-code="arg-type"


X, Y = np.ones((6, 3)), np.ones(6)
TABLE = {"a": [1.0, 2.0], "b": ["u", "v"]}
FRAME = pd.DataFrame(TABLE)


def test_the_advice_for_text_works() -> None:
    rows = pd.get_dummies(FRAME, dtype=float)
    assert MLP((3, 1)).predict(rows).shape == (2, 1)
    assert MLP((3, 1)).predict(pl.DataFrame(TABLE).to_dummies("b")).shape == (2, 1)
    codes = OneHotEncoder(sparse_output=False).fit_transform(FRAME[["b"]])
    assert MLP((2, 1)).predict(codes).shape == (2, 1)


def test_columns_have_their_names() -> None:
    assert [messages.column_name(FRAME, j) for j in range(2)] == ["'a'", "'b'"]
    assert messages.column_name(pa.table(TABLE), 1) == "'b'"
    assert messages.column_name(X, 1) == "1"


NET = MLP((3, 4, 1), seed=0)


@pytest.mark.parametrize(("kind", "table"), [(MLP, OF_NETS), (History, OF_HISTORIES)])
def test_they_are_not_there(kind: type, table: dict[str, str]) -> None:
    thing = NET if kind is MLP else History()
    names = [name for words in table.values() for name in words.split()]
    assert len(names) == len(set(names))
    assert not [name for name in names if hasattr(thing, name) or hasattr(kind, name)]
    assert not {*names} & {*dir(thing), *dir(kind)}
    assert "LackingAttribute" not in pydoc.render_doc(kind)
    assert {"loss"} <= {*dir(History())}
    assert {"fit", "predict", "weights", "_state"} <= {*dir(NET)}


@pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8),
    reason="scikit-learn before 1.8 goes on with a guess, and warns",
)
def test_scikit_learn_sees_no_estimator() -> None:
    for check in (is_classifier, is_regressor):
        with pytest.raises(AttributeError, match="has no attribute '__sklearn_tags__'"):
            check(NET)


def test_a_name_of_them_may_be_set() -> None:
    net = copy.deepcopy(NET)
    net.history = net.fit(np.ones((2, 3)), [1, 2], epochs=1)  # type: ignore[attr-defined]
    assert len(pickle.loads(pickle.dumps(net)).history.loss) == 1


ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("fastmlp", "docs") for path in (ROOT / folder).rglob("*.[mp][dy]")]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
KNOWN = {re.split(r"[<>=;\[ ]", one)[0] for extra in EXTRAS.values() for one in extra}
IN_CODE = re.compile(r"\bneeds\(.*, \"([\w-]+)\"\)")
NEEDED = {
    name for path in FILES if path.suffix == ".py" for name in IN_CODE.findall(path.read_text())
}


def test_nothing_installs_fastmlp_by_its_name() -> None:
    """It is not on PyPI: whoever takes the name would answer."""
    pages = [*FILES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    by_name = re.compile(r"pip install ['\"]?fastmlp\b")
    assert not [path for path in pages if by_name.search(path.read_text())]


def test_no_message_has_a_command_of_its_own() -> None:
    own = re.compile(r"[\"'].*needs [\w-]+: pip install")
    files = [path for path in FILES if path.is_relative_to(ROOT / "fastmlp")]
    assert [path.name for path in files if own.search(path.read_text())] == ["messages.py"]


@pytest.mark.parametrize("package", sorted(NEEDED | messages.ARGUMENTS.keys()))
def test_the_package_is_one_of_an_extra(package: str) -> None:
    assert package in KNOWN
    message = messages.needs("MLP.fit", package)
    assert message.startswith(f"MLP.fit needs {package}: pip install ")
    for argument in re.findall(r"[\w-]+(?=\[|\s|$)", messages.install(package)[12:]):
        assert argument in KNOWN


def test_many_messages_are_checked() -> None:
    assert {"scikit-learn", "pyarrow", "safetensors", "tqdm", "mpi4py", "distributed"} <= NEEDED


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
    assert kind.__init__.__qualname__.split(".")[0] in {base.__name__ for base in kind.__mro__}


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
    words = {word for group in messages.groups() for word in group}
    tables = map(messages.advice, messages.content()["advice"])
    others = {"checkpoint", "resume", "communicator"}
    assert {word for table in tables for word in table} - words <= others


@pytest.mark.parametrize("make", [net, net().as_estimator])
def test_an_argument_of_fit_is_told_where_it_belongs(make: Any) -> None:
    names = [*inspect.signature(MLP.fit).parameters][3:]
    assert "checkpoint_every" in names
    for name in {*names} - {*inspect.signature(type(net().as_estimator())).parameters}:
        with pytest.raises(TypeError, match=f"'{name}': it is an argument of fit: net.fit"):
            make(**{name: 1})


def test_a_word_stands_once_for_a_keyword() -> None:
    """In the cells of its row, or in the list; but words of two keywords stand in both."""
    content = messages.content()
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


def test_words_are_read_by_a_message_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", None)
    spec = importlib.util.spec_from_file_location("again", messages.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(TypeError, match="NoneType"):
        module.groups()
