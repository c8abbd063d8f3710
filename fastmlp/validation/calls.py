"""Calls that do not fit a function's signature: the message suggests the right one."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from fastmlp.validation.suggestions import count

F = TypeVar("F", bound=Callable[..., Any])
# Functions whose names stand alone elsewhere.
SHOWN_AS = {"load": "fastmlp.load", "save": "fastmlp.save"}
# Classes that nobody makes: methods are shown as of the class of their object.
BASES = ("TabularMLP", "BatchPredictions")


def explained(target: F) -> F:
    """Make a function, or a class's constructor, explain calls that do not fit its signature.

    Its TypeError names the function as the user knows it, the keyword, the one that is meant, and
    the known ones. The signature stays as it is; a call that fits costs 0.1 us more.

    Examples
    --------
    >>> @explained
    ... def fit(X, *, epochs=100):
    ...     pass
    >>> fit([], steps=3)
    Traceback (most recent call last):
    TypeError: fit: got an unexpected keyword argument 'steps'; known: X, epochs
    """
    if not isinstance(target, type):
        return _explaining(target)
    name = "__init__" if "__init__" in vars(target) else "__new__"
    setattr(target, name, _explaining(getattr(target, name)))
    return target


def misfit(function: Any, n: int) -> str:
    """The end of a message if a function does not take `n` arguments by place, else "".

    Examples
    --------
    >>> misfit(lambda epoch, logs: None, 1), misfit(print, 1)
    (', which takes (epoch, logs)', '')
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*[None] * n)
    except TypeError:
        return f", which takes {signature}"
    return ""


def _explaining(function: Any) -> Any:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            # An error of the function itself has a frame of it.
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise
            raise TypeError(_explanation(function, args, kwargs) or str(error)) from None

    return call


def _explanation(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The message for a call that does not fit the signature; None if it fits."""
    owner, _, name = function.__qualname__.rpartition(".")
    method = bool(owner) and not owner.endswith("<locals>")
    who = owner if name in ("__init__", "__new__") else function.__qualname__.split("<locals>.")[-1]
    if owner in BASES and args:
        who = f"{type(args[0]).__name__}.{name}"
    who = SHOWN_AS.get(who, who)
    parameters = list(inspect.signature(function).parameters.values())[method:]
    known = {p.name: p for p in parameters}
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    values = args[method:]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for keyword in kwargs:
        if keyword not in known and not takes_any:
            from fastmlp.validation import keywords

            meant = keywords.suggestion_for(keyword, known, who)
            wrong = f"{who}: got an unexpected keyword argument {keyword!r}"
            return f"{wrong}{meant} known: {', '.join(known)}"
    if len(values) > len(positional):
        return f"{who}: {_too_many(who, values, positional, known)}"
    for keyword in positional[: len(values)]:
        if keyword in kwargs:
            return f"{who}: {keyword} is given twice, by its place and by its name"
    needed = [name for name in positional if known[name].default is inspect.Parameter.empty]
    missing = [name for name in needed[len(values) :] if name not in kwargs]
    if missing:
        lacks = f"{count(len(missing), 'required argument')}: {', '.join(map(repr, missing))}"
        return f"{who}: missing {lacks}; call {who}({', '.join(needed)})"
    return None


def _too_many(
    who: str, values: tuple[Any, ...], positional: list[str], known: Mapping[str, Any]
) -> str:
    sizes = next((name for name in positional if name.endswith("layer_sizes")), None)
    if sizes and all(isinstance(value, int) for value in values):
        call = repr(values) if sizes == positional[0] else f"{sizes}={values!r}"
        return f"{sizes} must be one sequence, got {len(values)} numbers: {who}({call})"
    taken = f"{count(len(positional), 'positional argument')} ({', '.join(positional)})"
    others = ", ".join(f"{name}=..." for name in known if name not in positional)
    advice = f"; name the others: {others}" if others else ""
    return f"takes {taken}, but {len(values)} were given{advice}"
