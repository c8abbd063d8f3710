"""to_c: a model as one C file, without dependencies."""

import os
import re
from typing import Any

import numpy as np

from fastmlp._process import whole_files
from fastmlp.export.models import is_a, parts_of
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

WHO = "to_c"
MOST_PARAMETERS = 1_000_000
DTYPES = {"float32": np.float32, "float64": np.float64}
PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Classes from which on NumPy sums a row in another order.
SUMMED_APART = 8


@explained
def to_c(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    prefix: str = "model",
    tests: int = 10,
    test_data: Any = None,
    dtype: str | None = None,
    gradient: bool = False,
) -> str:
    """One C file that predicts as a model does, without a library, and tests itself.

    The file is C99 and C++17. Its code stands in one of the files that include it, where
    ``PREFIX_IMPLEMENTATION`` is defined before; the others get declarations alone. Weights are
    constants, work is on the stack: it allocates nothing, and any number of threads may call at
    once. With fused multiply-adds, as of ``-march=native``, its numbers are those of the model to
    the bit, else to rounding.

    Of a model of tables a row is of double: numbers as they are, NAN where one is missing, and
    codes of levels, -1 for a missing or unknown one, as `TabularMLPClassifier.codes` has them. The
    file names columns and levels, and ``prefix_code`` looks up the code of a level by its text.

    Parameters
    ----------
    model : MLP, or a fitted estimator, search or model of tables of fastmlp
        A pipeline of scalers is folded before: ``to_c(fold(pipeline))``.
    path : path, optional
        Written whole or not at all. Of ``.c`` the code needs no define.
    prefix : str
        The start of all names in it, as in ``model_predict`` and ``MODEL_INPUTS``.
    tests : int
        The rows, with predictions of the model, that the file tests itself on; 0: none.
    test_data : array_like of shape (n_rows, n_features), or for a model of tables a table, optional
        Rows to test on, of which the first are taken; default: normal numbers, and drawn levels.
    dtype : {"float32", "float64"}, optional
        The precision of the C code; default: the model's.
    gradient : bool
        Add ``prefix_gradient``: the derivatives of all outputs with respect to all inputs.

    Returns
    -------
    str
        The text of the file.

    Raises
    ------
    TypeError
        If it is another model, or an argument has the wrong type.
    ValueError
        If the model is not fitted, has more than a million parameters or one that is not finite, or
        an argument has a wrong value.
    NotImplementedError
        If an activation of your own is more than arithmetic, ``a if c else b`` and functions of
        `fastmlp.rules.elementary`; if a model of tables has members of `extra_members`.
    OSError
        If the file cannot be written; a file that was there is unchanged.

    Examples
    --------
    >>> from fastmlp import MLP, to_c
    >>> text = to_c(MLP((2, 4, 1), seed=0), prefix="net")
    >>> "void net_predict(const float x[NET_INPUTS], float y[NET_OUTPUTS]);" in text
    True
    """
    # They load Numba.
    from fastmlp.export.c_source import CText
    from fastmlp.export.c_tables import CTableText
    from fastmlp.export.c_tests import predictions_of, rows_for, tests_of

    of_table = is_a(model, "TabularMLP", "fastmlp")
    parts: Any = model._table_parts(WHO) if of_table else parts_of(model, WHO)
    if path is not None:
        scalars.path(WHO, "path", path, mode="w")
    _check_prefix(prefix)
    scalars.non_negative_integer(WHO, "tests", tests)
    if not tests and test_data is not None:
        raise ValueError(f"{WHO}: test_data has the rows of the test, which tests=0 leaves out")
    scalars.boolean(WHO, "gradient", gradient)
    if dtype is not None:
        scalars.known(WHO, "dtype", dtype, DTYPES)
    n_parameters = sum(net.parameters.size for net in parts.nets)
    n_parameters += parts.n_constants if of_table else 0
    if n_parameters > MOST_PARAMETERS:
        raise ValueError(
            f"{WHO}: the model has {n_parameters} parameters, and a C file holds at most "
            f"{MOST_PARAMETERS}: fastmlp.to_onnx has no such limit"
        )
    if gradient and of_table:
        raise NotImplementedError(
            f"{WHO}: no gradient of a model of tables, whose levels have none: "
            "fastmlp.shap_values attributes its predictions to its columns"
        )
    if gradient and parts.completion == "sum":
        raise NotImplementedError(f"{WHO}: no gradient of probabilities that are divided by a sum")
    if not all(np.isfinite(net.parameters).all() for net in parts.nets):
        raise ValueError(f"{WHO}: a parameter is not finite")
    kind = np.result_type(np.float32, *(net.dtype for net in parts.nets))
    scalar = kind.type if dtype is None else DTYPES[dtype]
    if of_table:
        source: CText = CTableText(parts, scalar, prefix)
    else:
        source = CText(parts, scalar, prefix, gradient=gradient)
    test = ("", "")
    if tests and of_table:
        rows = parts.drawn(tests) if test_data is None else model.codes(test_data)[:tests]
        if not len(rows):
            raise ValueError(f"{WHO}: test_data has no rows")
        exact = kind == scalar
        test = tests_of(rows, model._of_codes(rows), scalar, np.float64, exact=exact)
        if parts.trees is not None and len(parts.trees.classes) > 1:
            # Their probabilities are of double.
            test = test[0], test[1].replace("$FUSED32", "$FUSED32 && $FUSED64")
    elif tests:
        # Numbers of the lower precision are the same in both.
        least = min(kind.type, scalar, key=np.dtype)
        rows = rows_for(tests, parts.n_features, test_data, least, WHO).astype(kind)
        summed_apart = parts.completion == "sum" and parts.n_outputs >= SUMMED_APART
        exact = kind == scalar and not summed_apart
        test = tests_of(rows, predictions_of(model, rows), scalar, scalar, exact=exact)
    name = f"{prefix}.h" if path is None else os.path.basename(os.fspath(path))
    text = source.text(f"{type(model).__name__}", name, test)
    if path is not None:
        with whole_files.writing(path) as file:
            file.write(text.encode())
    return text


def _check_prefix(prefix: object) -> None:
    if not isinstance(prefix, str) or not PREFIX.fullmatch(prefix):
        raise ValueError(f"{WHO}: prefix must begin a name in C, such as 'model', got {prefix!r}")
