"""Warnings: the line that they point at, the module that filters see, and threads that collect."""

import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from fastmlp._process.warnings import collected, raised, warn

SKLEARN = "sklearn.neural_network"
Call = Callable[[], None]


def called_from(modules: str, call: Call) -> Call:
    """Return a call that goes through functions of these modules, the last one innermost."""
    for module in reversed(modules.split()):
        names: dict[str, Any] = {"__name__": module, "inner": call}
        exec("def call():\n    inner()", names)
        call = names["call"]
    return call


def file_of_warning(call: Call) -> str:
    """Return the file of the one warning; on another line of this one, the line is wrong."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (warning,) = caught
    line = file_of_warning.__code__.co_firstlineno + 4
    return f"line {warning.lineno}" if warning.lineno not in (1, 2, line) else warning.filename


@pytest.mark.parametrize("module", [None, SKLEARN])
@pytest.mark.parametrize(
    "modules",
    [
        "fastmlp.model",
        "fastmlp.estimators.mlp fastmlp.training.loop",
        "sklearn.pipeline sklearn.base fastmlp.model",
        "fastmlp.estimators sklearn.model_selection joblib.parallel sklearn.base fastmlp.model",
    ],
)
def test_it_points_at_the_users_line(modules: str, module: str | None) -> None:
    call = called_from(modules, partial(warn, "beware", UserWarning, module))
    assert file_of_warning(call) == __file__


def test_a_thread_without_a_line_of_the_users_points_at_the_caller() -> None:
    call = called_from("joblib.parallel fastmlp.model", partial(warn, "beware", UserWarning))

    def in_a_thread() -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    assert file_of_warning(in_a_thread) == "<string>"


@pytest.mark.parametrize(("module", "seen"), [(None, __name__), (SKLEARN, SKLEARN)])
def test_filters_see_the_module(module: str | None, seen: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module=seen)
        warn("beware", UserWarning, module)
        warnings.filterwarnings("error", module="another")
        warn("beware", UserWarning, module)
        warnings.filterwarnings("error", module=seen)
        with pytest.raises(UserWarning, match="beware"):
            warn("beware", UserWarning, module)


def test_a_line_warns_once_by_default() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            warn("from this line", UserWarning, SKLEARN)
        warn("from this line", UserWarning, SKLEARN)
    assert len(caught) == 2


def test_filters_by_module_count_where_a_thread_raises_what_it_collects() -> None:
    with warnings.catch_warnings(), collected() as found, raised():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="sklearn")
        warn("beware", UserWarning, SKLEARN)
        with pytest.raises(UserWarning, match="beware"):
            warn("beware", UserWarning)
        warnings.filterwarnings("error", module="sklearn")
        with pytest.raises(UserWarning, match="beware"):
            warn("beware", UserWarning, SKLEARN)
    assert found == [("beware", UserWarning)]
