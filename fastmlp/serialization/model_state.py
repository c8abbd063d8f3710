"""A net as the content of a file, and back: names of rules, and its parameters layer by layer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import random_state
from fastmlp.network import resolve
from fastmlp.network.parameter_layout import Layout, bias_views, make_layout, weight_views
from fastmlp.network.spec import Network
from fastmlp.network.state import N_SLOTS, NetState
from fastmlp.rules import activations, losses, penalties
from fastmlp.rules.optimizers import Optimizer
from fastmlp.serialization import codec
from fastmlp.serialization.safetensors_file import Content, FileError
from fastmlp.validation import scalars

Array = NDArray[Any]
KIND = "MLP"


class State(NamedTuple):
    """All that a net is, at one moment, as a file holds it.

    Attributes
    ----------
    parameters : (n_parameters,) array
    moments : (n_slots, n_parameters) array, the optimizer's state, or None: not kept, or none yet
    generator : dict, the state of the generator by `fastmlp._process.random_state`, or None: no
        state of training is kept, neither number of steps nor moments
    """

    network: Network
    optimizer: Optimizer
    n_steps: int
    parameters: Array
    moments: Array | None = None
    generator: dict[str, Any] | None = None


def capture(network: Network, state: NetState, *, training: bool) -> State:
    """Return a copy of a net's state now, with the state of training or without."""
    with state.lock.whole:
        parameters = state.parameters.copy()
    if not training or state.generator is None:
        return State(network, state.optimizer, 0, parameters)
    random = random_state.state_of(state.generator)
    return State(network, state.optimizer, state.n_steps, parameters, state.slots(), random)


def restore(state: NetState, saved: State) -> None:
    """Take over parameters and, where there is one, the state of training."""
    state.parameters[:] = saved.parameters
    state.n_steps = saved.n_steps
    state.set_slots(saved.moments)
    if saved.generator is not None:
        state.generator = random_state.from_state(saved.generator)


def pack(state: State) -> Content:
    """Return the content of a file.

    Raises
    ------
    ValueError
        Where a parameter is not finite, or a rule of the user's own has no name.
    """
    if not np.isfinite(state.parameters).all():
        raise ValueError("MLP.save: a parameter is not finite; no file would load it")
    arrays = layers_of(state.network.layout, state.parameters)
    if state.moments is not None:
        arrays["moments"] = state.moments
    training = {}
    if state.generator is not None:
        training = {"n_steps": state.n_steps, "generator": state.generator}
    return Content(KIND, {**header_of(state), **training}, arrays)


def header_of(state: State) -> dict[str, Any]:
    """Return what a net is made of, as names: the arguments of `MLP`."""
    network, table = state.network, activations.RULES
    *hidden, output = [codec.of_rule(rule, table) for rule in network.activations]
    return {
        "layer_sizes": list(network.layout.sizes),
        "activation": hidden,
        "output_activation": network.loss.link or output,
        "loss": codec.of_loss(network.loss),
        "optimizer": codec.of_optimizer(state.optimizer),
        "penalties": [
            [codec.of_rule(rule, penalties.RULES), strength] for rule, strength in network.penalties
        ],
        "dtype": network.dtype.name,
    }


def unpack(content: Content, own: Mapping[str, Any]) -> State:
    """Return the net that a file holds, every part of it checked.

    Nothing is allocated but for what the file holds in full length.

    Raises
    ------
    FileError, TypeError, ValueError, LookupError
        Where it is not what it must be.
    """
    if content.kind != KIND:
        raise FileError(
            f"holds a thing of kind {content.kind!r}, not of {KIND!r}; see fastmlp.load"
        )
    header = content.header
    return state_of(content, _network(header, own), codec.optimizer_from(header["optimizer"], own))


def state_of(content: Content, network: Network, optimizer: Optimizer) -> State:
    """Return the state that a file holds, of a net that is made like this."""
    n_steps = content.header.get("n_steps", 0)
    if type(n_steps) is not int or not 0 <= n_steps <= scalars.LARGEST:
        raise FileError(f"n_steps must be an integer of 0 or more, got {n_steps!r}")
    parameters = parameters_of(network, content.arrays)
    moments = moments_of(content.arrays.get("moments"), parameters)
    random = content.header.get("generator")
    if random is not None:
        random_state.from_state(random)
    return State(network, optimizer, n_steps, parameters, moments, random)


def _network(header: Mapping[str, Any], own: Mapping[str, Any]) -> Network:
    def known(spelled: Any) -> Any:
        return codec.rule_from(spelled, activations.RULES, "activation", own)

    sizes = resolve.layer_sizes(header["layer_sizes"])
    hidden = [known(spelled) for spelled in header["activation"]]
    loss = resolve.loss(codec.rule_from(header["loss"], losses.LOSSES, "loss", own))
    spelled = header["output_activation"]
    given = spelled if loss.link else known(spelled)
    output, link = resolve.output_activation(given, str(header["loss"]), loss)
    return Network(
        layout=make_layout(sizes),
        activations=(*resolve.hidden_activations(hidden, len(sizes) - 2), output),
        loss=loss,
        link=link,
        penalties=tuple(_penalty(each, own) for each in header["penalties"]),
        dtype=resolve.dtype(header["dtype"]),
    )


def _penalty(entry: Any, own: Mapping[str, Any]) -> Any:
    spelled, strength = entry
    rule = codec.rule_from(spelled, penalties.RULES, "penalty", own)
    (term,) = resolve.penalty_terms(0, 0, {rule: strength})
    return term


def layers_of(layout: Layout, flat: Array) -> dict[str, Array]:
    """Return views into flat parameters, by the names that they have in a file."""
    weights, biases = weight_views(layout, flat), bias_views(layout, flat)
    return {f"weights.{i}": view for i, view in enumerate(weights)} | {
        f"biases.{i}": view for i, view in enumerate(biases)
    }


def parameters_of(network: Network, arrays: Mapping[str, Array]) -> Array:
    """Put the layers together, once all are there in the sizes that the header claims."""
    layout = network.layout
    held = sum(array.size for array in arrays.values())
    if layout.n_parameters > held:
        raise FileError(f"claims {layout.n_parameters:,} parameters, but holds {held:,} numbers")
    flat = np.empty(layout.n_parameters, network.dtype)
    for name, view in layers_of(layout, flat).items():
        view[:] = checked(arrays[name], name, view)
    return flat


def moments_of(stored: Array | None, parameters: Array) -> Array | None:
    """Return an optimizer's state, shape (n_slots, n_parameters), if any is stored.

    It may overflow where the parameters do not: squares of large gradients.
    """
    if stored is None:
        return None
    like = np.broadcast_to(parameters, (N_SLOTS, parameters.size))
    return _shaped(stored, "moments", like).copy()


def checked(array: Array, name: str, like: Array) -> Array:
    """Return the array, which must be finite numbers, and of this shape and dtype."""
    if not np.isfinite(_shaped(array, name, like)).all():
        raise FileError(f"{name} must be finite {like.dtype} numbers of shape {like.shape}")
    return array


def _shaped(array: Array, name: str, like: Array) -> Array:
    if array.shape != like.shape or array.dtype != like.dtype:
        raise FileError(
            f"{name} must be {like.dtype} numbers of shape {like.shape}, "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array
