"""Advice on settings and data that scikit-learn refuses."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError

from fastmlp import validation
from fastmlp.estimators.common import warn
from fastmlp.estimators.mlp.fitting.to_core import (
    ACTIVATIONS,
    OF_REGRESSORS,
    SOLVERS,
    stops_by_score,
)
from fastmlp.network import spec
from fastmlp.rules import activations, optimizers
from fastmlp.rules.losses import SYNONYMS
from fastmlp.rules.schedules import SCHEDULES
from fastmlp.validation import hints
from fastmlp.validation.suggestions import Synonyms, suggestion

SCHEDULE_NAMES = ("adaptive", "constant", "invscaling")
LOSSES = {"squared_error": "mean_squared_error l2", **dict.fromkeys(OF_REGRESSORS, "")}
LOSSES |= {name: words for name, words in SYNONYMS.items() if name in OF_REGRESSORS}
# Of parameters with names as values: the known ones, and words of other libraries.
WORDS: dict[str, tuple[Iterable[str], Synonyms]] = {
    "activation": (ACTIVATIONS, activations.SYNONYMS),
    "solver": (SOLVERS, optimizers.SYNONYMS),
    "compute_dtype": (spec.KNOWN, spec.SYNONYMS),
    "learning_rate": (SCHEDULE_NAMES, {}),
    "loss": (LOSSES, LOSSES),
}
# With less patience the first epoch may be the best by chance.
PATIENT = 5
# The share of one class from which on the accuracy is a poor guide.
COMMON = 0.8
NO_NUMBER = "could not convert string to float"


def check_parameters(estimator: Any, check: Callable[[], None]) -> None:
    """Run scikit-learn's check of an estimator's parameters."""
    try:
        check()
    except InvalidParameterError as error:
        match = re.match(r"The '(\w+)' parameter", str(error))
        name = match[1] if match else ""
        advice = _advice(name, getattr(estimator, name, None), estimator)
        if advice:
            error.args = (f"{error} {advice}",)
        raise


@contextmanager
def checking(estimator: Any, X: Any, **others: Any) -> Iterator[None]:
    """Check that no entries of data are masked; add a hint to an error about text in X.

    Where columns have no names scikit-learn's words stay as they are, and a note is added.

    Raises
    ------
    ValueError
        If an entry is masked.
    """
    for name, array in {"X": X, **others}.items():
        validation.unmasked(array, type(estimator).__name__, name)
    try:
        yield
    except ValueError as error:
        if str(error).startswith(NO_NUMBER):
            hint = hints.of_kind(X, np.asarray(X), "X")
            if hasattr(X, "columns"):
                error.args = (f"{error}{hint}",)
            else:
                error.add_note(f"X holds {hint.lstrip(': ')}")
        raise


def warn_of_kept_epoch(estimator: Any, common: float) -> None:
    """Warn if early stopping has ended a fit, and has kept an epoch that learnt little.

    That is the first epoch, or one whose accuracy is that of the common class. `common` is the
    share of this class in the rows held out, 0 where there are no classes. It is a RuntimeWarning:
    scikit-learn's tests take any UserWarning of such a fit as an error.
    """
    scores, patience = estimator.validation_scores_, estimator.n_iter_no_change
    if patience < PATIENT or len(scores) <= patience or not scores[0] < 1.0:
        return
    best, n = max(scores), len(scores)
    of_accuracy = estimator.scoring is None and common >= COMMON and best <= common
    if scores[0] >= best:
        kept = "the parameters of the first epoch"
        why = f"no later one of {n} had a validation score above {scores[0]:.4g}"
    elif of_accuracy:
        kept = f"epoch {int(np.argmax(scores)) + 1} of {n}"
        why = f"its validation accuracy, {best:.4g}, is no higher than the share of one class"
    else:
        return
    if of_accuracy:
        other = '; where a class is rare, scoring="loss" finds better epochs'
    else:
        other = "" if estimator.scoring == "loss" else '; scoring="loss" looks at the loss instead'
    warn(
        f"{type(estimator).__name__}: early stopping kept {kept}: {why}{other}",
        RuntimeWarning,
    )


def warn_of_idle_scoring(estimator: Any) -> None:
    """Warn if `scoring` is set, and nothing is scored."""
    if estimator.scoring is not None and not stops_by_score(estimator):
        warn(
            f"{type(estimator).__name__}: scoring={estimator.scoring!r} is not used without "
            "early_stopping=True",
            UserWarning,
        )


def _advice(name: str, value: Any, estimator: Any) -> str:
    """The suggestion of another value for a parameter, as a sentence, or ""."""
    kind, first = type(estimator).__name__, estimator.hidden_layer_sizes
    match name:
        case "activation" if isinstance(value, int):
            return f"Did you mean {kind}(hidden_layer_sizes=({first!r}, {value!r}))?"
        case "solver" if type(value) in SCHEDULES.values():
            return f"Did you mean Adam({value!r})?"
        case "average" if isinstance(value, int | float):
            return "Did you mean EMA(0.99)?"
        case "early_stopping" if isinstance(value, int):
            return f"Did you mean EarlyStopping(patience={value!r})?"
        case "learning_rate" if isinstance(value, float):
            return f"Did you mean learning_rate_init={value!r}?"
        case "loss" if not isinstance(value, str):
            return f"Did you mean {kind}(hidden_layer_sizes={value!r})?"
    words = suggestion(value, *WORDS[name]).strip(",:; ") if name in WORDS else ""
    return words[:1].upper() + words[1:]
