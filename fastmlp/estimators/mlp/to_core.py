"""From an estimator's attributes and arrays to the core's network, data and engine."""

from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from fastmlp._process.buffer_pool import FreeList
from fastmlp._process.locks import NetLock
from fastmlp.backends import devices
from fastmlp.backends.protocol import Data, Engine
from fastmlp.network import resolve
from fastmlp.network.spec import Network, make_layout
from fastmlp.rules import activations
from fastmlp.rules.links import LINKS
from fastmlp.rules.penalties import l2
from fastmlp.training.pool import cost_of

Array = NDArray[Any]
ACTIVATIONS = {*activations.RULES, *activations.ALIASES}


def network_of(estimator: Any, sizes: tuple[int, ...], dtype: np.dtype[Any]) -> Network:
    """Return an estimator's network, with its loss and its penalty."""
    hidden = resolve.hidden_activations(estimator.activation, len(sizes) - 2)
    out = activations.ALIASES.get(estimator.out_activation_, estimator.out_activation_)
    penalties = ((l2, float(estimator.alpha)),) if estimator.alpha > 0 else ()
    rules = (*hidden, activations.identity)
    return Network(make_layout(sizes), rules, estimator._loss(), LINKS[out], penalties, dtype)


def features_of(network: Network) -> Network:
    """Return the network that predicts the activations of the last hidden layer."""
    layout = make_layout(network.layout.sizes[:-1])
    return network._replace(
        layout=layout, activations=network.activations[:-1], link=LINKS["identity"]
    )


def data_of(engine: Engine[Any], X: Any, y: Array, sample_weight: Array | None) -> Data:
    """Return validated rows, binarized targets and weights in the core's form."""
    table = y.argmax(axis=1)[:, None] if engine.network.loss.targets == "classes" else y
    data: Data = engine.trusted(X, table, sample_weight)
    return data


def engine_of(
    estimator: Any, network: Network, lock: NetLock | None = None, buffers: FreeList | None = None
) -> Engine[Any]:
    """Return the CPU's engine for a network, with as many threads as the estimator may use."""
    return devices.engine_on("cpu", network, n_threads_of(estimator.n_jobs), lock, buffers)


def fit_cost(estimator: Any, n_rows: int, n_features: int) -> float:
    """Return the estimated operations of a fit of all epochs; 1 if the settings are not valid."""
    try:
        hidden = np.atleast_1d(np.asarray(estimator.hidden_layer_sizes, int)).tolist()
        batch = 200 if isinstance(estimator.batch_size, str) else int(estimator.batch_size)
        layout = make_layout((n_features, *hidden, 1))
        return cost_of(layout, n_rows, int(estimator.max_iter), min(batch, n_rows))
    except (AttributeError, TypeError, ValueError, ArithmeticError):
        return 1.0


def n_threads_of(n_jobs: int | None) -> int | None:
    """Return the most threads to use, or None for all.

    n_jobs None means all threads, but one inside a worker of joblib, which divides the cores.
    """
    if n_jobs is None:
        backend, _ = joblib.parallel.get_active_backend()
        return 1 if backend.nesting_level else None
    return int(joblib.effective_n_jobs(n_jobs))
