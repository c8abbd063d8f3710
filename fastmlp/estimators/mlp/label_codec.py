"""A classifier's labels as JSON values, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.preprocessing import LabelBinarizer

from fastmlp.serialization.safetensors_file import FileError

Array = NDArray[Any]
# By the kind of a NumPy dtype, the types that the labels have in Python.
TYPES: dict[str, tuple[type, ...]] = {
    "b": (bool,), "i": (int,), "u": (int,), "f": (float,), "U": (str,),
    "O": (str, bool, int, float),
}  # fmt: skip
NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NAMES = {*NUMBERS, "float16", "float32", "float64", "bool", "str", "object"}
# In an array every text has the length of the longest.
MAX_TEXT_BYTES = 16 << 20


def of_labels(classifier: Any) -> dict[str, Any]:
    """Return the JSON form of a fitted classifier's labels.

    Raises
    ------
    ValueError
        If their dtype has no form in a file.
    """
    binarizer = classifier._label_binarizer
    return of_classes(classifier.classes_) | {
        "several": binarizer.y_type_.startswith("multilabel"),
        "sparse": bool(binarizer.sparse_input_),
    }


def of_classes(classes: Array) -> dict[str, Any]:
    """Return the JSON form of labels, shape (n_classes,).

    Raises
    ------
    ValueError
        If their dtype has no form in a file.
    """
    spelled = {
        "dtype": "str" if classes.dtype.kind == "U" else classes.dtype.name,
        "values": classes.tolist(),
    }
    try:
        classes_from(spelled)
    except FileError as error:
        raise ValueError(f"the labels cannot be written to a file: {error}") from error
    return spelled


def classes_from(spelled: Mapping[str, Any]) -> Array:
    """Return the labels, shape (n_classes,)."""
    name, values = spelled["dtype"], spelled["values"]
    if name not in NAMES:
        raise FileError(f"labels of dtype {name!r}; known: {', '.join(sorted(NAMES))}")
    dtype = np.dtype(name)
    types = TYPES[dtype.kind]
    if type(values) is not list or any(type(value) not in types for value in values):
        raise FileError(f"labels of dtype {name} must be a list of {types[0].__name__}")
    if dtype.kind == "U" and 4 * len(values) * max(map(len, values)) > MAX_TEXT_BYTES:
        raise FileError(f"labels of more than {MAX_TEXT_BYTES:,} bytes as an array of text")
    classes = np.array(values, dtype)
    if classes.tolist() != values:
        raise FileError(f"labels that {name} cannot hold")
    return classes


def binarizer_from(spelled: Mapping[str, Any], classes: Array) -> Any:
    """Return the binarizer of these labels, which must be sorted and distinct."""
    several, sparse = spelled["several"], spelled["sparse"]
    if type(several) is not bool or type(sparse) is not bool or sparse > several:
        raise FileError("whether rows have several labels, and sparse ones, must be true or false")
    targets = np.eye(2, len(classes), dtype=int) if several else np.repeat(classes, 2)
    binarizer = LabelBinarizer().fit(csr_array(targets) if sparse else targets)
    if not np.array_equal(binarizer.classes_, classes):
        raise FileError("labels must be sorted, and each there once")
    return binarizer
