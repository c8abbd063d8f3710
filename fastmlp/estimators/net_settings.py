"""A net's settings in the words of `MLP`, and the signature of its estimators made of them."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from fastmlp.model import MLP
from fastmlp.network.spec import Network
from fastmlp.rules import activations, losses, penalties
from fastmlp.rules.loss_settings import Smoothed, spelled
from fastmlp.validation import keywords

# Arguments of `MLP.fit` that an estimator's settings have not: data, what belongs to one fit, and
# validation rows, which searches and pipelines would not transform.
OF_ONE_FIT = {
    "self", "X", "y", "sample_weight", "validation_data", "callbacks", "progress", "checkpoint",
    "checkpoint_every", "resume",
}  # fmt: skip


def parameters_of(function: Callable[..., Any], but: set[str]) -> list[inspect.Parameter]:
    """Return the parameters of a method, without those in `but`."""
    told = inspect.signature(function).parameters.values()
    return [one for one in told if one.name not in but]


NET = parameters_of(MLP.__init__, {"self", "seed"})
FIT = parameters_of(MLP.fit, OF_ONE_FIT)
OF_NETS = [one.name for one in NET]
OF_FITS = [one.name for one in FIT]
_SELF, _SEED = "self", "random_state"
SIGNATURE = inspect.Signature(
    [
        inspect.Parameter(_SELF, inspect.Parameter.POSITIONAL_OR_KEYWORD),
        *NET,
        *FIT,
        inspect.Parameter(_SEED, inspect.Parameter.KEYWORD_ONLY, default=None),
    ]
)
KNOWN = [*OF_NETS, *OF_FITS, _SEED]


def check_names(settings: dict[str, Any], who: str) -> None:
    """Check that there are such settings.

    Raises
    ------
    TypeError
        If there is none of a name.
    """
    for name in settings.keys() - set(KNOWN):
        meant = keywords.suggestion_for(name, KNOWN, "MLP")
        raise TypeError(
            f"{who}: got an unexpected keyword argument {name!r}{meant} known: {', '.join(KNOWN)}"
        )


def settings_of(net: MLP, network: Network, initializer: Any) -> dict[str, Any]:
    """Return the arguments with which `MLP` makes a net like this one, but its seed."""
    *hidden, output = [_name(rule, activations.RULES) for rule in network.activations]
    loss = spelled(network.loss)
    smoothed = isinstance(loss, Smoothed)
    strengths: dict[Any, float] = {}
    for rule, strength in network.penalties:
        name = _name(rule, penalties.RULES)
        strengths[name] = strengths.get(name, 0.0) + strength
    of_spec = {
        "activation": _one_for_all(hidden) if hidden else "relu",
        "output_activation": None if network.loss.link or output == "identity" else output,
        "loss": loss.name if smoothed else network.loss if loss is None else loss,
        "label_smoothing": loss.label_smoothing if smoothed else 0.0,
        "l2": strengths.pop("l2", 0.0),
        "l1": strengths.pop("l1", 0.0),
        "penalties": strengths or None,
        "initializer": initializer,
        "layer_rates": _one_for_all(net.layer_rates) if network.layer_rates else None,
        "dtype": network.dtype.name,
        **dict.fromkeys(("dropout", "input_dropout", "input_noise"), 0.0),
        **({} if network.dropout is None else network.dropout.in_use()),
    }
    return {name: of_spec[name] if name in of_spec else getattr(net, name) for name in OF_NETS}


def link_of(loss: Any) -> str | None:
    """Return the link that a loss owns, given as `MLP` takes it."""
    given: Any = losses.LOSSES.get(loss) if isinstance(loss, str) else loss
    return getattr(getattr(given, "loss", given), "link", None)


def _one_for_all(values: Sequence[Any]) -> Any:
    """Return the value of all layers, if it is the same: it fits nets of any depth."""
    first, *others = values
    same = all(one == first for one in others) and not isinstance(first, float)
    return first if same else list(values)


def _name(rule: Any, table: dict[str, Any]) -> Any:
    return next((name for name, known in table.items() if known is rule), rule)
