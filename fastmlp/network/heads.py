"""The heads of a net, from the argument `loss` of `MLP`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastmlp.network import resolve
from fastmlp.network.spec import OWNER, Network
from fastmlp.rules import losses
from fastmlp.rules.losses import Head, Loss
from fastmlp.validation import Array, scalars
from fastmlp.validation.messages import count

HEADS_FORM = "[('cross_entropy', 6), ('mse', 1)], or a dict of such pairs by name"
# Series of a history, whose names heads' do not repeat.
RESERVED = ("epoch", "loss", "validation_loss", "learning_rate")
# Settings that a net with heads does not take, and their replacements.
INSTEAD_WITH_HEADS = {
    "label_smoothing": "a loss of yours for that head",
    "output_activation": "losses whose links the heads have",
    "class_weight": "sample_weight by head",
    "metrics": "functions of predict_heads in callbacks",
    "monotonic_cst": "a net for each target",
}


def is_spelled(setting: object) -> bool:
    """True for the losses of heads, not for one loss."""
    if isinstance(setting, Loss | str):
        return False
    return isinstance(setting, Mapping | Sequence)


def refuse(argument: str, who: str = OWNER) -> ValueError:
    return ValueError(
        f"{who}: heads do not take {argument}; use {INSTEAD_WITH_HEADS[argument]}"
    )


def check_settings(output_activation: object, label_smoothing: object) -> None:
    if output_activation is not None:
        raise refuse("output_activation")
    if scalars.fraction(OWNER, "label_smoothing", label_smoothing) != 0:
        raise refuse("label_smoothing")


def with_heads(
    named: resolve.NamedNetwork, setting: Any, weights: object
) -> resolve.NamedNetwork:
    """The network of the joint loss, with the heads that a user spelled."""
    network = named.network
    heads = of_setting(setting, weights, network.layout.sizes[-1])
    link = losses.joint_link(heads)
    has_names = isinstance(setting, Mapping)
    network = network._replace(heads=heads, named=has_names, link=link)
    outputs = ", ".join(head.loss.link or "identity" for head in heads)
    return resolve.NamedNetwork(network, spelled(network), outputs)


def of_setting(setting: Any, weights: object, n_outputs: int) -> tuple[Head, ...]:
    """Checked heads, whose outputs add up to the net's."""
    named = isinstance(setting, Mapping)
    if named:
        names = [*setting]
    else:
        names = [f"head_{i}" for i in range(len(setting))]
    if not names:
        raise ValueError(f"{OWNER}: loss has no head; give {HEADS_FORM}")
    _check_names(names)
    if named:
        pairs = [*setting.values()]
    else:
        pairs = [*setting]
    factors = _weights(weights, names, named=named)
    heads = []
    for name, pair, factor in zip(names, pairs, factors, strict=True):
        heads.append(_head(name, pair, factor))
    total = sum(head.n_outputs for head in heads)
    if total != n_outputs:
        slices = " + ".join(str(head.n_outputs) for head in heads)
        whole = f" = {total}" if len(heads) > 1 else ""
        raise ValueError(
            f"{OWNER}: the heads have {slices}{whole} outputs, but layer_sizes ends "
            f"with {n_outputs}"
        )
    return tuple(heads)


def _check_names(names: Sequence[Any]) -> None:
    taken = set(RESERVED)
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"{OWNER}: the name of a head must be a str, got {name!r}")
        own = {f"{name}_loss", f"validation_{name}_loss"}
        if own & taken:
            raise ValueError(
                f"{OWNER}: the name {name!r} of a head gives a name of the history "
                f"twice: {min(own & taken)!r}; take another"
            )
        taken |= own


def _head(name: str, pair: Any, weight: float) -> Head:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise TypeError(
            f"{OWNER}: loss must be {HEADS_FORM}; got {pair!r} for head {name!r}, not "
            "a loss and its number of outputs"
        )
    setting, n = pair
    n_outputs = scalars.positive_integer(OWNER, f"outputs of head {name!r}", n)
    function = resolve.loss(setting)
    resolve.check_outputs(setting, function, (n_outputs,), f"head {name!r}")
    return Head(function, n_outputs, name, weight)


def _weights(setting: Any, names: Sequence[str], *, named: bool) -> list[float]:
    """One weight a head, 1 by default."""
    if setting is None:
        return [1.0] * len(names)
    word = "loss_weights"
    if named and isinstance(setting, Mapping):
        for name in setting:
            scalars.known(OWNER, f"head of {word}", name, names)
        numbers = [setting.get(name, 1.0) for name in names]
    elif isinstance(setting, Sequence) and not isinstance(setting, str):
        numbers = [*setting]
    else:
        form = "dict by the heads' names" if named else "sequence"
        raise TypeError(f"{OWNER}: {word} must be a {form}, got {setting!r}")
    if len(numbers) != len(names):
        raise ValueError(
            f"{OWNER}: {word} must have one number for each of "
            f"{count(len(names), 'head')}, got {len(numbers)}"
        )
    return [
        float(scalars.non_negative(OWNER, f"{word}[{name!r}]", number))
        for name, number in zip(names, numbers, strict=True)
    ]


def spelled(network: Network) -> Any:
    """The argument `loss` of `MLP`, as a repr shows it."""
    pairs = [(_spelled(head.loss), head.n_outputs) for head in network.heads]
    if network.named:
        return dict(zip(network.head_names, pairs, strict=True))
    return pairs


def _spelled(loss: Loss) -> Any:
    known = losses.spelled(loss)
    return loss.rule.__name__ if known is None else known


def slices(network: Network, outputs: Array) -> Any:
    """Views of the columns of each head: a tuple, or a dict if heads have names."""
    ends = np.cumsum([head.n_outputs for head in network.heads])[:-1]
    parts = tuple(np.split(outputs, ends, axis=1))
    if network.named:
        return dict(zip(network.head_names, parts, strict=True))
    return parts


def arguments(network: Network) -> dict[str, Any]:
    """Arguments of `MLP` for the loss of a net, which may have heads."""
    if not network.heads:
        return {"loss": network.loss}
    pairs = [(head.loss, head.n_outputs) for head in network.heads]
    weights = [head.weight for head in network.heads]
    if not network.named:
        return {"loss": pairs, "loss_weights": weights}
    loss = dict(zip(network.head_names, pairs, strict=True))
    return {"loss": loss, "loss_weights": weights}
