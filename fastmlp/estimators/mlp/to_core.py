"""scikit-learn's words in fastmlp's: what an estimator's attributes say, as a network and data."""

from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from fastmlp._process.buffer_pool import FreeList
from fastmlp._process.locks import NetLock
from fastmlp.backends import protocol
from fastmlp.backends.protocol import Data, Engine
from fastmlp.network import resolve
from fastmlp.network.parameter_layout import make_layout
from fastmlp.network.spec import Network
from fastmlp.rules import activations
from fastmlp.rules.links import LINKS
from fastmlp.rules.penalties import l2
from fastmlp.rules.sklearn_losses import SKLEARN_LOSSES
from fastmlp.training.pool import cost_of

Array = NDArray[Any]
ACTIVATIONS = {*activations.RULES, *activations.ALIASES}


def network_of(estimator: Any, sizes: tuple[int, ...], dtype: np.dtype[Any]) -> Network:
    """Return the network that an estimator describes, its loss and its penalty included."""
    hidden = resolve.hidden_activations(estimator.activation, len(sizes) - 2)
    out = activations.ALIASES.get(estimator.out_activation_, estimator.out_activation_)
    loss = estimator.loss
    if loss == "log_loss" and out == "sigmoid":
        loss = "binary_log_loss"
    penalties = ((l2, float(estimator.alpha)),) if estimator.alpha > 0 else ()
    rules = (*hidden, activations.identity)
    return Network(make_layout(sizes), rules, SKLEARN_LOSSES[loss], LINKS[out], penalties, dtype)


def features_of(network: Network) -> Network:
    """Return the network up to its last hidden layer, whose activations it then predicts."""
    layout = make_layout(network.layout.sizes[:-1])
    return network._replace(
        layout=layout, activations=network.activations[:-1], link=LINKS["identity"]
    )


def data_of(engine: Engine[Any, Any], X: Any, y: Array, sample_weight: Array | None) -> Data:
    """Return validated rows, binarized targets and weights as the core takes them."""
    table = y.argmax(axis=1)[:, None] if engine.network.loss.targets == "classes" else y
    data: Data = engine.trusted(X, table, sample_weight)
    return data


def engine_of(
    estimator: Any, network: Network, lock: NetLock | None = None, buffers: FreeList | None = None
) -> Engine[Any, Any]:
    """Return the CPU's engine for a network, with as many threads as the estimator may use."""
    return protocol.engine_on("cpu", network, n_threads_of(estimator.n_jobs), lock, buffers)


def fit_cost(estimator: Any, n_rows: int, n_features: int) -> float:
    """Return about how long a fit takes, in operations, if it goes on to the last epoch.

    What it cannot know from its settings it takes to be 1: they may also be wrong.
    """
    try:
        hidden = np.atleast_1d(np.asarray(estimator.hidden_layer_sizes, int)).tolist()
        batch = 200 if isinstance(estimator.batch_size, str) else int(estimator.batch_size)
        layout = make_layout((n_features, *hidden, 1))
        return cost_of(layout, n_rows, int(estimator.max_iter), min(batch, n_rows))
    except (AttributeError, TypeError, ValueError, ArithmeticError):
        return 1.0


def n_threads_of(n_jobs: int | None) -> int | None:
    """Return at most how many threads to use, or None for all.

    None is all of them, but one inside a worker of joblib, which shares the cores out already.
    """
    if n_jobs is None:
        backend, _ = joblib.parallel.get_active_backend()
        return 1 if backend.nesting_level else None
    return int(joblib.effective_n_jobs(n_jobs))
