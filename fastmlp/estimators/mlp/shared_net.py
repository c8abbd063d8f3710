"""The `MLP` that shares the parameters of a fitted estimator."""

from numbers import Integral
from typing import Any, NamedTuple, final

import numpy as np

from fastmlp.estimators.mlp import solvers
from fastmlp.estimators.mlp.to_core import n_threads_of
from fastmlp.model import MLP, net_on
from fastmlp.network.state import NetState
from fastmlp.rules.loss_settings import Quantile, Tweedie


class Spelled(NamedTuple):
    """An estimator's loss in the words of `MLP`.

    Attributes
    ----------
    loss : name, or loss with settings
    share : what the estimator's objective is multiplied by: means over outputs are sums there
    """

    loss: Any
    share: float = 1.0


@final
class SharedNet(NamedTuple):
    """A net that shares an estimator's parameters, with the settings that it is valid for."""

    net: MLP
    state: NetState
    settings: tuple[Any, ...]


def net_around(estimator: Any, state: NetState) -> MLP:
    """Return a net with the parameters of a state, which is an estimator's; made once for it."""
    settings = (
        estimator.activation,
        estimator.out_activation_,
        estimator.alpha,
        estimator.solver,
        estimator.n_jobs,
        estimator.dropout,
        estimator.input_dropout,
        estimator.input_noise,
        estimator.average,
        estimator.compute_dtype,
    )
    made: SharedNet | None = estimator.__dict__.get("_shared_net")
    if made is not None and made.state is state:
        same = (a is b for a, b in zip(settings, made.settings, strict=True))
        if all(same):
            return made.net
    loss, share = spelled(estimator, state.layout.sizes[-1])
    seed = estimator.random_state
    net = net_on(
        state,
        activation=estimator.activation,
        loss=loss,
        label_smoothing=getattr(estimator, "label_smoothing", 0.0),
        optimizer=solvers.for_net(estimator),
        l2=share * float(estimator.alpha),
        dropout=estimator.dropout,
        input_dropout=estimator.input_dropout,
        input_noise=estimator.input_noise,
        compute_dtype=estimator.compute_dtype if state.parameters.dtype == np.float32 else None,
        seed=int(seed) if isinstance(seed, Integral) else None,
        n_threads=n_threads_of(estimator.n_jobs),
    )
    estimator._shared_net = SharedNet(net, state, settings)
    return net


def spelled(estimator: Any, n_outputs: int) -> Spelled:
    """Return an estimator's loss as `MLP` is given it, for a net of so many outputs."""
    match estimator.out_activation_:
        case "softmax":
            return Spelled("cross_entropy")
        case "logistic":
            return Spelled("binary_cross_entropy", 1 / n_outputs)
    match estimator.loss:
        case "squared_error":
            # The gradient there is that of half the sum over outputs.
            return Spelled("mse", 2 / n_outputs)
        case "poisson":
            return Spelled("poisson", 1 / n_outputs)
        case "quantile":
            return Spelled(Quantile(estimator.quantile))
        case "tweedie":
            return Spelled(Tweedie(estimator.power))
    return Spelled(estimator.loss)
