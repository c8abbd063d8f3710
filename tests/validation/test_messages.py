"""Messages of calls that are refused, in the folder `messages`, a file a room;
checks of numbers, words and packages.

A block of a file is a call and its error, where `...` stands for any text. For a new
call write the first line: `pytest tests/validation/test_messages.py --golden` writes
what has changed. `-k training` takes the calls of `messages/training.txt` alone.
"""

import ast
import importlib.util
import inspect
import pydoc
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
import sklearn.compose
import sklearn.decomposition
import sklearn.model_selection
from numba.core import event
from scipy.sparse import csr_matrix
from sklearn.base import is_classifier, is_regressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from small_models import untrained

import fastmlp
import fastmlp.warmup as warmup
from fastmlp import (
    MLP,
    Adam,
    Blocks,
    Cosine,
    Expanded,
    History,
    Loss,
    MLPClassifier,
    MLPSearchCV,
    TabularMLPRegressor,
    cluster,
    jit,
    predict_arrow,
    predict_parquet,
)
from fastmlp.network import resolve
from fastmlp.plotting import plot_history, plot_search
from fastmlp.rules import activations, initializers, losses, optimizers, updates
from fastmlp.validation import messages, scalars
from fastmlp.validation.calls import OF_HISTORIES, OF_NETS, explained

ROOMS = sorted(Path(__file__).with_name("messages").glob("*.txt"))
X = np.ones((6, 3))
Y = np.ones(6)
VALUES = np.array([[7.0, 1.25, 2], [8, 3, 0], [9, -1, 1]])
LABELS = np.array([0, 1, 2] * 2)
TABLE = {"a": [1.0, 2.0], "b": ["u", "v"]}
FRAME = pd.DataFrame(TABLE)


def net(**settings: Any) -> MLP:
    return MLP((3, 4, 1), **settings)


def classifier(n: int = 3, loss: Any = "cross_entropy") -> MLP:
    return MLP((3, 4, n), loss=loss)


def heads(*, named: bool = True, n_outputs: int = 4, **settings: Any) -> MLP:
    """A net with a class and a number."""
    pairs = [("cross_entropy", 3), ("mse", 1)]
    loss: Any = dict(zip(("action", "value"), pairs, strict=True)) if named else pairs
    return MLP((3, 4, n_outputs), **({"loss": loss} | settings))


def spoilt(value: float) -> Any:
    x = X.copy()
    x[4, 2] = value
    return x


def fitted(*steps: Any, **settings: Any) -> Any:
    """A pipeline, or a regressor alone, after two epochs."""
    few = {"hidden_layer_sizes": (2,), "tol": 1e9, "n_iter_no_change": 1, **settings}
    model = fastmlp.MLPRegressor(**few)
    if steps:
        return make_pipeline(*steps, model).fit(VALUES, Y[:3])
    return model


def own_loss(prediction: Any, target: Any) -> Any:
    return prediction - target, prediction


class KerasCallback:
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None: ...

    def on_train_begin(self, logs: Any = None) -> None: ...


class OwnOptimizer:
    learning_rate = 0.1
    rule = staticmethod(updates.sgd)

    def coefficients(self, first_step: int, rates: Any) -> Any:
        return rates[:, None]


NAMES = {
    **{name: getattr(fastmlp, name) for name in dir(fastmlp)},
    **{
        "X": X,
        "Y": Y,
        "VALUES": VALUES,
        "LABELS": LABELS,
        "TABLE": TABLE,
        "FRAME": FRAME,
    },
    **{
        "np": np,
        "pd": pd,
        "pl": pl,
        "pa": pa,
        "fastmlp": fastmlp,
        "csr_matrix": csr_matrix,
    },
    "timedelta": timedelta,
    **{
        "net": net,
        "classifier": classifier,
        "heads": heads,
        "spoilt": spoilt,
        "own_loss": own_loss,
    },
    **{
        "KerasCallback": KerasCallback,
        "Expanded": Expanded,
        "plot_history": plot_history,
    },
    **{
        "make_pipeline": make_pipeline,
        "StandardScaler": StandardScaler,
        "cluster": cluster,
    },
    **{
        "jit": jit,
        "OwnOptimizer": OwnOptimizer,
        "sklearn": sklearn,
        "untrained": untrained,
    },
    **{
        "plot_search": plot_search,
        "fitted": fitted,
        "warmup": warmup,
        "da": da,
        "dd": dd,
    },
}


def golden_messages(room: Path) -> dict[str, str]:
    """The messages of a room's calls, by the call."""
    messages = {}
    for block in room.read_text(encoding="utf-8").strip().split("\n\n"):
        call, _, message = block.partition("\n")
        messages[call] = message
    return messages


def matches(pattern: str, message: str) -> bool:
    return (
        re.fullmatch(re.escape(pattern).replace(r"\.\.\.", ".*"), message) is not None
    )


def message_of(call: str) -> str:
    try:
        return f"no error: {eval(call, dict(NAMES))!r}"
    except Exception as error:
        return re.sub(r"0x[0-9a-f]+", "...", f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.stem)
def test_the_messages_of_calls(room: Path, request: pytest.FixtureRequest) -> None:
    golden = golden_messages(room)
    with event.install_recorder("numba:compile") as recorder:
        messages = {call: message_of(call) for call in golden}
    assert recorder.buffer == []
    changed = {
        call: text for call, text in messages.items() if not matches(golden[call], text)
    }
    if request.config.getoption("--golden") and changed:
        text = "\n\n".join(
            "\n".join(block).strip() for block in (golden | changed).items()
        )
        room.write_text(text + "\n", encoding="utf-8")
    assert not changed or request.config.getoption("--golden"), changed


def test_a_failed_fit_leaves_the_net_as_it_was() -> None:
    model = net(seed=0)
    before = model.parameters.copy()
    with pytest.raises(ValueError, match="finite"):
        model.fit(spoilt(np.nan), Y)
    assert (model.parameters == before).all()
    assert model.n_steps == 0


ZEROS = np.zeros((4, 2))
ZERO = np.zeros(4)
READ: dict[str, Callable[[Any], Any]] = {
    "fastmlp.load": fastmlp.load,
    "MLP.load": MLP.load,
    "MLP.fit": lambda path: small_net().fit(path, target="y"),
    "TabularMLPRegressor.fit": lambda path: TabularMLPRegressor().fit(path, target="y"),
    "MLP.predict_batches": lambda path: next(small_net().predict_batches(path)),
    "predict_arrow": lambda path: predict_arrow(small_net(), path),
    "predict_parquet": lambda path: predict_parquet(small_net(), path, "out.csv"),
    "Blocks.from_parquet": lambda path: Blocks.from_parquet(path, target="y"),
}
WRITTEN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "MLP.save": (".safetensors", lambda path: small_net().save(path)),
    "fastmlp.save": (".safetensors", lambda path: fastmlp.save(untrained(0)[0], path)),
    "MLP.fit": (
        ".safetensors",
        lambda path: small_net().fit(ZEROS, ZERO, checkpoint=path),
    ),
    "predict_parquet": (".csv", lambda path: predict_parquet(small_net(), ZEROS, path)),
    "to_c": (".h", lambda path: fastmlp.to_c(small_net(), path)),
    "fastmlp.to_onnx": (".onnx", lambda path: fastmlp.to_onnx(small_net(), path)),
}


def small_net() -> MLP:
    return MLP((2, 1), seed=0)


@pytest.mark.parametrize("who", READ)
def test_missing_files_are_named(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for ending in (".parquet", ".arrow", ".csv"):
        for path in (f"no{ending}", Path(f"no/such{ending}")):
            if who == "Blocks.from_parquet" and ending != ".parquet":
                continue
            with pytest.raises(FileNotFoundError) as caught:
                READ[who](path)
            assert str(caught.value) == f"{who}: there is no file {str(path)!r}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("who", WRITTEN)
def test_a_missing_folder_is_named_by_the_call(who: str, tmp_path: Path) -> None:
    ending, write = WRITTEN[who]
    path = tmp_path / "no" / f"out{ending}"
    with pytest.raises(FileNotFoundError) as caught:
        write(path)
    folder = str(tmp_path / "no")
    assert (
        str(caught.value) == f"{who}: there is no folder {folder!r} for {str(path)!r}"
    )
    assert not list(tmp_path.iterdir())


Check = Callable[[str, str, object], Any]


@pytest.mark.parametrize(
    ("check", "value", "kind"),
    [
        (scalars.positive, 1e-300, float),
        (scalars.positive, 3, float),
        (scalars.positive, np.float32(0.5), float),
        (scalars.non_negative, 0, float),
        (scalars.fraction, np.nextafter(1.0, 0.0), float),
        (scalars.fraction, np.float32(0.5), float),
        (scalars.positive_integer, 1, int),
        (scalars.positive_integer, np.int64(7), int),
        (scalars.boolean, False, bool),
        (scalars.boolean, True, bool),
    ],
)
def test_what_is_good_comes_back_as_pythons(
    check: Check, value: Any, kind: type
) -> None:
    result = check("Adam", "beta_1", value)
    assert (result, type(result)) == (value, kind)


RNG = np.random.default_rng(0)
ROWS_OF_NUMBERS = RNG.normal(size=(60, 3))
CLASSES = RNG.choice(3, size=60, p=[0.7, 0.2, 0.1])
TWO = (CLASSES == 0).astype(int)
WEIGHT = RNG.uniform(0.5, 2, size=60)


def net_of_classes(n: int = 3, loss: Any = "cross_entropy", **settings: Any) -> MLP:
    return MLP((3, 5, n), loss=loss, seed=0, **settings)


def bits(model: MLP, y: Any, **options: Any) -> bytes:
    model.fit(ROWS_OF_NUMBERS, y, epochs=3, batch_size=16, **options)
    return model.parameters.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("given", ["balanced", {0: 0.3, 2: 5}, {1: 2.5}], ids=str)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
@pytest.mark.parametrize("one_hot", [False, True])
def test_a_fit_is_of_sample_weights(
    given: Any, weight: Any, one_hot: bool, dtype: str
) -> None:
    of_rows = compute_sample_weight(given, CLASSES) * (1 if weight is None else weight)
    y = np.eye(3)[CLASSES] if one_hot else CLASSES
    result = bits(
        net_of_classes(dtype=dtype), y, class_weight=given, sample_weight=weight
    )
    assert result == bits(net_of_classes(dtype=dtype), y, sample_weight=of_rows)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "binary_focal"])
@pytest.mark.parametrize("given", ["balanced", {0: 1.0, 1: 4.0}], ids=str)
def test_two_classes_have_one_output(loss: str, given: Any) -> None:
    of_rows = compute_sample_weight(given, TWO)
    for y in (TWO, TWO[:, None], TWO.astype(float)):
        assert bits(net_of_classes(1, loss), y, class_weight=given) == bits(
            net_of_classes(1, loss), TWO, sample_weight=of_rows
        )


def test_validation_rows_have_no_class_weights() -> None:
    model = net_of_classes()
    given = {0: 100.0}
    rows = ROWS_OF_NUMBERS, CLASSES
    history = model.fit(*rows, epochs=1, class_weight=given, validation_data=rows)
    assert history.validation_loss[-1] == pytest.approx(
        model.loss_and_gradient(ROWS_OF_NUMBERS, CLASSES)[0], rel=1e-6
    )
    model = net_of_classes()
    given = {0: 100.0}
    options: dict[str, Any] = {
        "epochs": 1,
        "sample_weight": WEIGHT,
        "validation_split": 0.25,
    }
    history = model.fit(ROWS_OF_NUMBERS, CLASSES, class_weight=given, **options)
    held_out = model.loss_and_gradient(ROWS_OF_NUMBERS[45:], CLASSES[45:], WEIGHT[45:])[
        0
    ]
    assert history.validation_loss[-1] == pytest.approx(held_out, rel=1e-6)
    of_rows = compute_sample_weight(given, CLASSES) * WEIGHT
    apart = net_of_classes()
    apart.fit(ROWS_OF_NUMBERS[:45], CLASSES[:45], epochs=1, sample_weight=of_rows[:45])
    assert apart.parameters.tobytes() == model.parameters.tobytes()


NUMBERS = np.array([[7.0, 1.25, 2], [8, 3, 0], [9, -1, 1]])
ROWS = Expanded(NUMBERS, plain=1, pieces=[3], levels=[3])


def test_expanded_rows_hold_the_numbers_without_a_copy() -> None:
    assert ROWS.values is NUMBERS
    assert ROWS.astype(np.dtype("float64")) is ROWS


def test_expanded_rows_have_a_dtype() -> None:
    assert ROWS.astype(np.dtype("float32")).dtype == np.float32
    assert Expanded([[1]], pieces=[2]).dtype == np.float64


def test_expanded_rows_have_the_shape_of_all_inputs() -> None:
    assert len(ROWS) == 3
    assert ROWS.shape == (3, 7)
    assert ROWS.starts == (1, 4, 7)


def test_expanded_rows_are_chosen_by_index() -> None:
    assert np.array_equal(ROWS[1:].toarray(), ROWS.toarray()[1:])
    assert ROWS[[0]].kind == ROWS.kind == (1, (3,), (3,))


def test_expanded_rows_print_their_parts() -> None:
    assert repr(ROWS) == "Expanded(3 rows: 1 plain, 1 of pieces, 1 of levels; 7 inputs)"


def test_expanded_rows_become_an_array_by_a_copy() -> None:
    assert np.array_equal(np.asarray(ROWS), ROWS.toarray())
    assert np.asarray(ROWS, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy=False cannot be had"):
        ROWS.__array__(copy=False)


# Wrong types on purpose.
# mypy: disable-error-code="assignment"


TABLES: dict[str, tuple[Any, Any]] = {
    "activation": (activations.RULES, activations.ACTIVATION_SYNONYMS),
    "loss": (losses.LOSSES, losses.LOSS_SYNONYMS),
    "optimizer": (optimizers.OPTIMIZERS, optimizers.OPTIMIZER_SYNONYMS),
    "penalty": (updates.PENALTIES, updates.PENALTY_SYNONYMS),
    "initializer": (initializers.INITIALIZERS, initializers.INITIALIZER_SYNONYMS),
    "device": (("cpu", "cuda"), resolve.DEVICES),
}


def little_net(**settings: Any) -> MLP:
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
        little_net(initializer=word, activation=word)
    assert "did you mean" not in str(caught.value)


def test_nets_of_files_are_given_the_loss_itself() -> None:
    """`MLP` refuses its name."""
    assert MLP((3, 4, 1), loss=losses.LOSSES["cross_entropy"]).layer_sizes == (3, 4, 1)


# Wrong types on purpose.
# mypy: disable-error-code="arg-type"


ONES = np.ones((6, 3))


def test_the_advice_for_text_works() -> None:
    rows = pd.get_dummies(FRAME, dtype=float)
    assert MLP((3, 1)).predict(rows).shape == (2, 1)
    assert MLP((3, 1)).predict(pl.DataFrame(TABLE).to_dummies("b")).shape == (2, 1)
    codes = OneHotEncoder(sparse_output=False).fit_transform(FRAME[["b"]])
    assert MLP((2, 1)).predict(codes).shape == (2, 1)


def test_columns_have_names() -> None:
    assert [messages.column_name(FRAME, j) for j in range(2)] == ["'a'", "'b'"]
    assert messages.column_name(pa.table(TABLE), 1) == "'b'"
    assert messages.column_name(ONES, 1) == "1"


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


ROOT = Path(__file__).parents[2]
FILES = [
    path
    for folder in ("fastmlp", "docs")
    for path in (ROOT / folder).rglob("*.[mp][dy]")
]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
KNOWN = {re.split(r"[<>=;\[ ]", one)[0] for extra in EXTRAS.values() for one in extra}


def packages_in(text: str) -> Iterator[str]:
    """The packages that calls of `needs` and `imported` name."""
    for call in ast.walk(ast.parse(text)):
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        if name.removeprefix("messages.") in ("needs", "imported"):
            assert isinstance(call, ast.Call)
            is_named = name.endswith("needs") or len(call.args) == 3
            package = call.args[-1] if is_named else call.args[0]
            if isinstance(package, ast.Constant):
                yield str(package.value)


NEEDED = {
    name
    for path in FILES
    if path.suffix == ".py"
    for name in packages_in(path.read_text())
}


def test_messages_have_no_command_of_their_own() -> None:
    """It is not on PyPI: whoever takes the name would answer."""
    pages = [*FILES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    by_name = re.compile(r"pip install ['\"]?fastmlp\b")
    assert not [path for path in pages if by_name.search(path.read_text())]
    own = re.compile(r"[\"'].*needs [\w-]+: pip install")
    files = [path for path in FILES if path.is_relative_to(ROOT / "fastmlp")]
    assert [path.name for path in files if own.search(path.read_text())] == [
        "messages.py"
    ]
    assert {
        "scikit-learn",
        "pyarrow",
        "safetensors",
        "tqdm",
        "mpi4py",
        "distributed",
    } <= NEEDED


@pytest.mark.parametrize("package", sorted(NEEDED | messages.ARGUMENTS.keys()))
def test_the_package_is_one_of_an_extra(package: str) -> None:
    assert package in KNOWN
    message = messages.needs("MLP.fit", package)
    assert message.startswith(f"MLP.fit needs {package}: pip install ")
    for argument in re.findall(r"[\w-]+(?=\[|\s|$)", messages.install(package)[12:]):
        assert argument in KNOWN


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
    assert kind.__init__.__qualname__.split(".")[0] in {
        base.__name__ for base in kind.__mro__
    }


def test_advice_is_of_words_in_the_groups() -> None:
    words = {word for group in messages.groups() for word in group}
    titles = [it for it in messages.content()["advice"] if "attributes" not in it]
    advised = {word for title in titles for word in messages.advice(title)}
    others = {"checkpoint", "resume", "communicator", "penalties"}
    # Words of libraries of trees have no meaning of their own here.
    others |= messages.advice("TabularMLPClassifier and TabularMLPRegressor").keys()
    others |= messages.advice("tables.fit").keys()
    assert advised - words <= others | {"feature_names"}


@pytest.mark.parametrize("make", [little_net, little_net().as_estimator])
def test_an_argument_of_fit_is_told_where_it_belongs(make: Any) -> None:
    names = [*inspect.signature(MLP.fit).parameters][3:]
    assert "checkpoint_every" in names
    for name in {*names} - {
        *inspect.signature(type(little_net().as_estimator())).parameters
    }:
        with pytest.raises(
            TypeError, match=f"'{name}': it is an argument of fit: net.fit"
        ):
            make(**{name: 1})


def test_a_word_stands_once_for_a_keyword() -> None:
    """In the cells of its row, or in the list;
    but words of two keywords stand in both.
    """
    content = messages.content()
    listed = [
        (key, word) for key, text in content["also"].items() for word in text.split()
    ]
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
