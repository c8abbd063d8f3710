"""Dropout, noise, averages and mixed precision of an estimator in the core's form, and the key of
what is drawn."""

from typing import Any

import numpy as np

from fastmlp._process.random_state import key_of
from fastmlp.estimators.mlp import solvers
from fastmlp.network import spec
from fastmlp.network.layer_settings import dropout_of
from fastmlp.network.spec import Network
from fastmlp.rules.dropout import Dropout, Key

NAMES = ("dropout", "input_dropout", "input_noise")


def names_in_use(estimator: Any) -> list[str]:
    """Return the names of the settings that are not 0."""
    return [name for name in NAMES if _is_used(getattr(estimator, name))]


def _is_used(value: Any) -> bool:
    # A comparison of floats takes 40 ns, the other way 3 us.
    if type(value) is float:
        return value != 0
    return callable(value) or bool(np.any(np.asarray(value, object) != 0))


def dropout_of_estimator(estimator: Any) -> Dropout | None:
    """Return what the training of an estimator drops and adds; None: nothing.

    Raises
    ------
    TypeError, ValueError
        If a setting is not what it must be.
    """
    if not names_in_use(estimator):
        return None
    dropout = estimator.dropout
    each = dropout.tolist() if isinstance(dropout, np.ndarray) else dropout
    n_hidden = len(estimator._hidden_sizes())
    return dropout_of(each, estimator.input_dropout, estimator.input_noise, n_hidden)


def in_training(estimator: Any, network: Network) -> Network:
    """Return an estimator's network with what training does beside it: drops, and rounds.

    Raises
    ------
    ValueError
        If it is to round, and parameters of an earlier fit are float64.
    """
    who, given = type(estimator).__name__, estimator.compute_dtype
    computed = spec.compute_dtype(given, network.layout.sizes, network.dtype, who)
    return network._replace(dropout=dropout_of_estimator(estimator), compute_dtype=computed)


def key_of_fit(estimator: Any) -> Key:
    """Return a key of what one fit draws, from the random state and the rows seen so far.

    Without them each call of `partial_fit` with "sgd", whose steps are not counted, would draw the
    same masks.
    """
    seed = int(estimator._random_state.randint(np.iinfo(np.int32).max))
    return key_of(np.random.SeedSequence([seed, int(estimator.t_)]))


def check(estimator: Any) -> None:
    """Check the settings of an estimator, and that one that uses them works by batches.

    Raises
    ------
    TypeError, ValueError
        If they are not what they must be, or the solver is "lbfgs".
    """
    average, computed = (
        [] if getattr(estimator, name) is None else [name] for name in ("average", "compute_dtype")
    )
    for name in [*names_in_use(estimator), *average, *computed]:
        if isinstance(estimator.solver, str) and estimator.solver == "lbfgs":
            raise ValueError(
                f"{type(estimator).__name__}: {name}={getattr(estimator, name)!r} needs a solver "
                'that works by batches, such as solver="adam"; "lbfgs" uses all rows at once'
            )
    dropout_of_estimator(estimator)
    if average and not isinstance(estimator.solver, str | type):
        solvers.with_average(estimator.solver, estimator)
