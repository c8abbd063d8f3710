"""Checks of rules of the user's own, which are called uncompiled."""

from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any

import numpy as np

from fastmlp.rules import activations, losses, penalties
from fastmlp.validation.suggestions import same_word

OWNER = "MLP"
NAMES: Mapping[str, Iterable[str]] = {
    "activation": activations.RULES,
    "loss": losses.LOSSES,
    "penalty": penalties.RULES,
}


def own_rule(kind: str, form: str, rule: Any, n_arguments: int, n_results: int) -> Any:
    """Check a user's rule by calling it uncompiled."""
    check_function(kind, form, rule)
    try:
        result = getattr(rule, "py_func", rule)(*[np.float64(0.5)] * n_arguments)
    except Exception as error:
        raise TypeError(
            f"{OWNER}: {kind} must be a function {form}; calling it failed: {error}"
        ) from error
    if not isinstance(result, tuple) or len(result) != n_results or not all(map(_scalar, result)):
        raise TypeError(f"{OWNER}: {kind} must be a function {form}, but it returned {result!r}")
    return rule


def check_function(kind: str, form: str, rule: Any) -> None:
    if not isinstance(rule, FunctionType) and not hasattr(rule, "py_func"):
        # A function of NumPy, a class or a layer of another library may have a name of ours.
        word = str(getattr(rule, "__name__", type(rule).__name__))
        meant = same_word(word, NAMES.get(kind, ()))
        hint = f", did you mean {meant!r}?" if meant else ""
        raise TypeError(f"{OWNER}: {kind} must be a name or a function {form}, got {rule!r}{hint}")


def _scalar(value: object) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub"  # type: ignore[arg-type]
