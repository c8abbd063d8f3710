"""The CUDA forms of `fastmlp.rules.elementary`: libdevice's functions, in the argument's precision.

Their errors are 1 to 2 units in the last place (CUDA C++ Programming Guide).
"""

import importlib
import math
from collections.abc import Callable
from typing import Any

from fastmlp.backends.cuda.adapter import MODULE, SIMULATED
from fastmlp.rules import elementary

Function = Callable[..., Any]


def logistic(x: Any) -> Any:
    one = type(x)(1)
    e = math.exp(-abs(x))
    return (e if x < 0 else one) / (one + e)


def softplus(x: Any) -> Any:
    zero = type(x)(0)
    return (zero if x < zero else x) + math.log1p(math.exp(-abs(x)))


FORMS: dict[Function, Function] = {
    elementary.exp: lambda x: math.exp(x),
    elementary.expm1: lambda x: math.expm1(x),
    elementary.log: lambda x: math.log(x),
    elementary.log1p: lambda x: math.log1p(x),
    elementary.sqrt: lambda x: math.sqrt(x),
    elementary.tanh: lambda x: math.tanh(x),
    elementary.erf: lambda x: math.erf(x),
    elementary.logistic: logistic,
    elementary.softplus: softplus,
}


def _register() -> None:
    """Register the forms with the CUDA compiler; the simulator runs the functions as they are.

    Numba's own module has no `overload`. It is imported without an installed compiler, where
    `adapter.require` raises.
    """
    extending = importlib.import_module(f"{MODULE.__name__}.extending")
    if not hasattr(extending, "overload"):
        return
    overload = extending.overload

    def register(function: Function, form: Function) -> None:
        @overload(function, strict=False)
        def choose(x: Any) -> Function:
            return form

    for function, form in FORMS.items():
        register(function, form)

    @overload(elementary.exponentials, strict=False)
    def choose_exponentials(raw: Any, out: Any) -> Function:
        return elementary.exponentials

    @overload(elementary.probabilities, strict=False)
    def choose_probabilities(raw: Any, out: Any, rest: Any) -> Function:
        return elementary.probabilities


if not SIMULATED:
    _register()
