"""State of a net, and checkpoint of a fit, as the content of a file and back."""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import random_state
from fastmlp.network import heads, layer_settings, residual, resolve, spec
from fastmlp.network.layer_settings import dropout_of
from fastmlp.network.residual import Residual
from fastmlp.network.spec import (
    Layout,
    Network,
    bias_views,
    gain_views,
    shift_views,
    weight_views,
)
from fastmlp.network.state import N_AVERAGED_SLOTS, N_SLOTS, NetState
from fastmlp.rules import activations, losses, updates
from fastmlp.rules.dropout import Key
from fastmlp.rules.losses import Head
from fastmlp.rules.optimizer_protocol import Optimizer
from fastmlp.serialization import codec, files
from fastmlp.serialization.files import Content, FileError
from fastmlp.validation import Array, frames, scalars
from fastmlp.validation.frames import Names

KIND = "MLP"
# The check of a penalty takes 0.1 ms: 200,000 took 20 s.
MOST_PENALTIES = 1000
DROPOUT = ("dropout", "input_dropout", "input_noise")
Series = Mapping[str, Sequence[float]]
BEST = "best_parameters"
# Fields of a header that are left out if unused.
OPTIONAL = (
    *("layer_rates", "trainable", "compute_dtype", "monotonic_cst", "feature_names"),
    *(files.NORMS_FIELD, files.HEADS, *DROPOUT),
)


class SavedNet(NamedTuple):
    """Content of a file of a net.

    Attributes
    ----------
    parameters : (n_parameters,) array of the net's dtype
    moments : (n_slots, n_parameters) array, optional
        The optimizer's state. None: zeros, or not kept.
    generator : dict, optional
        The generator's state. None:
        neither the number of steps nor the moments are kept.
    key : two integers of 32 bits, optional
        The key of the random numbers of training.
    averaged_from : int
        The step after which the average counts.
    feature_names : the names of the columns of X, or None
    """

    network: Network
    optimizer: Optimizer
    n_steps: int
    parameters: Array
    moments: Array | None = None
    generator: dict[str, Any] | None = None
    key: Key | None = None
    averaged_from: int = 0
    feature_names: Names = None


def capture(network: Network, state: NetState, *, training: bool) -> SavedNet:
    """A copy of a net's state, with or without the training state."""
    with state.lock.parameters:
        parameters = state.parameters.copy()
    names = state.feature_names
    saved = SavedNet(network, state.optimizer, 0, parameters, feature_names=names)
    if not training or state.generator is None:
        return saved
    return saved._replace(
        n_steps=state.n_steps,
        moments=state.slots(),
        generator=random_state.state_of(state.generator),
        key=state.key,
        averaged_from=state.averaged_from,
    )


def restore(state: NetState, saved: SavedNet) -> None:
    """Take over parameters and, if any, the training state."""
    state.parameters[:] = saved.parameters
    state.n_steps = saved.n_steps
    state.set_slots(saved.moments)
    state.averaged_from = saved.averaged_from
    state.feature_names = saved.feature_names or state.feature_names
    if saved.generator is not None:
        state.generator = random_state.from_state(saved.generator)
        state.key = saved.key


def pack(state: SavedNet) -> Content:
    """The content of a file. Parameters must be finite, and rules must have names."""
    if not np.isfinite(state.parameters).all():
        raise ValueError("MLP.save: a parameter is not finite; no file would load it")
    arrays = layers_of(state.network.layout, state.parameters)
    if state.moments is not None:
        arrays["moments"] = state.moments
    training: dict[str, Any] = {}
    if state.generator is not None:
        training = {"n_steps": state.n_steps, "generator": state.generator}
        if state.averaged_from:
            training["averaged_from"] = state.averaged_from
    if state.key is not None:
        training["key"] = list(state.key)
    return Content(KIND, {**header_of(state), **training}, arrays)


def header_of(state: SavedNet) -> dict[str, Any]:
    """Spec and optimizer of a net as JSON, by the names of `MLP`'s arguments.

    Optional settings that are None are left out.
    """
    network = state.network
    rules = activations.RULES
    names = state.feature_names
    *inner, output = [codec.of_rule(rule, rules) for rule in network.activations]
    hidden = residual.of_entries(network, inner)
    if network.heads:
        loss = [codec.of_loss(head.loss) for head in network.heads]
    else:
        loss = codec.of_loss(network.loss)
    written = network.written
    computed = network.compute_dtype
    optional = {
        "compute_dtype": list(computed) if isinstance(computed, tuple) else computed,
        "monotonic_cst": list(network.signs) or None,
        **layer_settings.in_use(network),
        **_dropout(network),
        files.NORMS_FIELD: written and _structure(written),
        files.HEADS: _heads(network),
        "feature_names": names and list(names),
    }
    return {
        "layer_sizes": [_of_size(size) for size in network.layer_sizes],
        "activation": hidden,
        "output_activation": network.loss.link or output,
        "loss": loss,
        "optimizer": codec.of_optimizer(state.optimizer),
        "penalties": [
            [codec.of_rule(rule, updates.PENALTIES), strength]
            for rule, strength in network.penalties
        ],
        "dtype": network.dtype.name,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _structure(written: spec.Written) -> dict[str, Any]:
    structure = {"kinds": list(written.norms), "epsilon": written.epsilon}
    return structure | ({"skip": written.skip} if written.skip else {})


def _of_size(size: Any) -> Any:
    if isinstance(size, Residual):
        return [size.width, size.inner]
    return size


def _heads(network: Network) -> dict[str, Any] | None:
    """Heads but their losses; None without heads."""
    if not network.heads:
        return None
    return {
        "names": list(network.head_names) if network.named else None,
        "outputs": [head.n_outputs for head in network.heads],
        "weights": [head.weight for head in network.heads],
    }


def _heads_from(
    header: Mapping[str, Any], n_outputs: int, own: Mapping[str, Any]
) -> tuple[Head, ...]:
    """The heads of a header, with the checks of `MLP`; () without."""
    stored = header.get(files.HEADS)
    if stored is None:
        return ()
    spelled = header["loss"]
    outputs = stored["outputs"]
    names = stored["names"]
    if not isinstance(spelled, list) or len(spelled) > n_outputs:
        raise FileError(f"claims heads for {n_outputs:,} outputs, and has other losses")
    each = [codec.loss_from(loss, own) for loss in spelled]
    pairs: Any = list(zip(each, outputs, strict=True))
    if names is not None:
        pairs = dict(zip(names, pairs, strict=True))
    return heads.of_setting(pairs, [*stored["weights"]], n_outputs)


def _dropout(network: Network) -> dict[str, Any]:
    dropout = residual.written_dropout(network)
    if dropout is None:
        return {}
    hidden, *inputs = dropout
    rates = [codec.of_setting(rate) for rate in (*hidden, *inputs)]
    return dict(zip(DROPOUT, (rates[:-2], *rates[-2:]), strict=True))


def _dropout_from(
    header: Mapping[str, Any], n_hidden: int, own: Mapping[str, Any]
) -> Any:
    hidden, *inputs = (header.get(name, 0) for name in DROPOUT)
    if isinstance(hidden, list):
        spelled = hidden
    else:
        spelled = [hidden] * n_hidden
    rates = [codec.rate_from(rate, own) for rate in (*spelled, *inputs)]
    return dropout_of(rates[:-2], rates[-2], rates[-1], n_hidden)


def unpack(content: Content, own: Mapping[str, Any]) -> SavedNet:
    """The checked net of a file's content.

    Memory is allocated only for arrays that the file holds in full.
    """
    if content.kind != KIND:
        raise FileError(
            f"holds an object of kind {content.kind!r}, not {KIND!r}: load it by "
            f"fastmlp.load"
        )
    header = content.header
    claimed = content.header["layer_sizes"]
    _check_layers(claimed, content)
    sizes = residual.written_sizes(
        [Residual(*size) if isinstance(size, list) else size for size in claimed]
    )
    network = _network(header, sizes, own)
    return state_of(content, network, codec.optimizer_from(header["optimizer"], own))


def sizes_of(content: Content) -> tuple[int, ...]:
    """Layer sizes of a file's content, if it has arrays for all layers.

    A layer takes a few bytes of a header, but hundreds of memory.
    """
    sizes = content.header["layer_sizes"]
    _check_layers(sizes, content)
    return resolve.layer_sizes(sizes)


def _check_layers(sizes: Sequence[Any], content: Content) -> None:
    held = len(content.arrays)
    if 2 * (len(sizes) - 1) > held:
        raise FileError(f"claims {len(sizes) - 1:,} layers, but holds {held:,} arrays")


def state_of(content: Content, network: Network, optimizer: Optimizer) -> SavedNet:
    """State of a file's content, for a net of this spec."""
    header, arrays = content.header, content.arrays
    parameters = read_parameters(network, arrays)
    generator = header.get("generator")
    names = header.get("feature_names")
    if generator is not None:
        random_state.from_state(generator)
    return SavedNet(
        network,
        optimizer,
        codec.count(header.get("n_steps", 0), "n_steps"),
        parameters,
        moments=moments_of(arrays.get("moments"), parameters),
        generator=generator,
        key=_key(header.get("key")),
        averaged_from=codec.count(header.get("averaged_from", 0), "averaged_from"),
        feature_names=frames.names_given(
            names, network.layout.sizes[0], "feature_names"
        ),
    )


def _key(stored: Any) -> Key | None:
    if stored is None:
        return None
    first, second = stored
    if not all(type(word) is int and 0 <= word < 1 << 32 for word in stored):
        raise FileError(f"key must be two integers of 32 bits, got {stored!r}")
    return first, second


def _network(
    header: Mapping[str, Any], sizes: residual.Sizes, own: Mapping[str, Any]
) -> Network:
    """The network of a file's header, by the checks of `MLP`'s arguments."""

    def known(spelled: Any) -> Any:
        return codec.rule_from(spelled, activations.RULES, "activation", own)

    if (n := len(header["penalties"])) > MOST_PENALTIES:
        raise FileError(
            f"claims {n:,} penalties, and a file may have {MOST_PENALTIES:,}"
        )
    hidden = [known(spelled) for spelled in header["activation"]]
    n_outputs: Any = sizes[-1]
    slices = _heads_from(header, n_outputs, own)
    if slices:
        loss = losses.JOINT
    else:
        loss = resolve.loss(codec.loss_from(header["loss"], own))
    spelled = header["output_activation"]
    activation = spelled if loss.link else known(spelled)
    output, link = resolve.output_activation(activation, str(header["loss"]), loss)
    dtype = resolve.dtype(header["dtype"])
    n_hidden = len(sizes) - 2
    norms = header.get(
        files.NORMS_FIELD, {"kinds": None, "epsilon": residual.NORM_EPSILON}
    )
    structure = residual.structure_of(
        sizes,
        resolve.hidden_activations(hidden, n_hidden),
        residual.norms_of(norms["kinds"], n_hidden),
        scalars.positive("file", "epsilon", norms["epsilon"]),
        residual.skip_of(norms.get("skip"), n_hidden),
    )
    layout = structure.layout
    n_layers = layout.n_layers
    network = Network(
        layout=layout,
        activations=(*structure.hidden, output),
        loss=loss,
        link=losses.joint_link(slices) if slices else link,
        heads=slices,
        named=bool(slices) and header[files.HEADS]["names"] is not None,
        penalties=tuple(_penalty(each, own) for each in header["penalties"]),
        dtype=dtype,
        layer_rates=layer_settings.layer_rates(header.get("layer_rates"), n_layers),
        trainable=layer_settings.trainable(header.get("trainable", True), n_layers),
        compute_dtype=spec.compute_dtype(
            header.get("compute_dtype"), layout.sizes, dtype
        ),
        written=structure.written,
    )
    dropout = _dropout_from(header, n_hidden, own)
    if dropout is not None:
        hidden_rates = residual.of_linear(network, dropout.hidden)
        network = network._replace(dropout=dropout._replace(hidden=hidden_rates))
    return network._replace(
        signs=layer_settings.signs_of(header.get("monotonic_cst"), network)
    )


def _penalty(entry: Any, own: Mapping[str, Any]) -> Any:
    spelled, strength = entry
    rule = codec.rule_from(spelled, updates.PENALTIES, "penalty", own)
    (term,) = resolve.penalty_terms(0, 0, {rule: strength})
    return term


def layers_of(layout: Layout, flat: Array) -> dict[str, Array]:
    """Views of the flat parameters, by their names in a file."""
    weights = weight_views(layout, flat)
    biases = bias_views(layout, flat)
    named = {"weights": weights, "biases": biases}
    named |= {"gains": gain_views(layout, flat), "shifts": shift_views(layout, flat)}
    return {
        f"{name}.{i}": view
        for name, views in named.items()
        for i, view in enumerate(views)
    }


def read_parameters(network: Network, arrays: Mapping[str, Array]) -> Array:
    """Flat parameters from the arrays of the layers,
    whose sizes must match the header.
    """
    layout = network.layout
    held = sum(array.size for array in arrays.values())
    if layout.n_parameters > held:
        raise FileError(
            f"claims {layout.n_parameters:,} parameters, but holds {held:,} numbers"
        )
    flat = np.empty(layout.n_parameters, network.dtype)
    for name, view in layers_of(layout, flat).items():
        view[:] = checked(arrays[name], name, view)
    return flat


def moments_of(stored: Array | None, parameters: Array) -> Array | None:
    """The optimizer's state, shape (n_slots, n_parameters), or None.

    Infinities are valid: squares of large gradients overflow.
    """
    if stored is None:
        return None
    if len(stored) == N_AVERAGED_SLOTS:
        n_slots = N_AVERAGED_SLOTS
    else:
        n_slots = N_SLOTS
    like = np.broadcast_to(parameters, (n_slots, parameters.size))
    return _shaped(stored, "moments", like).copy()


def checked(array: Array, name: str, like: Array) -> Array:
    """Return the array, if it is finite and has the shape and dtype of `like`."""
    if not np.isfinite(_shaped(array, name, like)).all():
        raise FileError(
            f"{name} must be finite {like.dtype} numbers of shape {like.shape}"
        )
    return array


def _shaped(array: Array, name: str, like: Array) -> Array:
    if array.shape != like.shape or array.dtype != like.dtype:
        raise FileError(
            f"{name} must be {like.dtype} numbers of shape {like.shape}, "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array


class SavedFit(NamedTuple):
    """Content of a checkpoint.

    Attributes
    ----------
    state : the state of the net
    facts : settings and progress of the fit, by name
    series : one number an epoch, by name
    best : (n_parameters,) array of the best epoch, or None
    """

    state: SavedNet
    facts: Mapping[str, Any]
    series: Series
    best: NDArray[Any] | None = None


class CheckpointFile:
    """Checkpoints of one fit, each written over the last."""

    path: Path

    def __init__(
        self, path: str | os.PathLike[str], network: Network, state: NetState
    ) -> None:
        self.path = Path(path)
        self._network = network
        self._state = state

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the net's heads."""
        return self._network.head_names

    def capture(self) -> SavedNet:
        return capture(self._network, self._state, training=True)

    def restore(self, state: SavedNet) -> None:
        restore(self._state, state)

    def write(self, saved: SavedFit) -> None:
        kind, header, arrays = pack(saved.state)
        series = {
            name: np.array(numbers, np.float64)
            for name, numbers in saved.series.items()
        }
        if saved.best is None:
            best = {}
        else:
            best = {BEST: saved.best}
        content = Content(
            kind, {**header, "fit": saved.facts}, {**arrays, **series, **best}
        )
        files.write(self.path, content)

    def read(self, fit: Mapping[str, Any], names: Sequence[str]) -> SavedFit | None:
        """The checkpoint, or None without a file.

        The checkpoint must share the settings `fit`; `names` are names of the series.
        """
        if not self.path.exists():
            return None
        content = files.read(self.path)
        state_now = self.capture()
        with self.refusing():
            if "fit" not in content.header:
                raise FileError("a model file, not a checkpoint; MLP.load reads it")
            settings = {
                **content.header,
                **{name: content.header["fit"][name] for name in fit},
            }
        expected = {**dict.fromkeys(OPTIONAL), **header_of(state_now), **fit}
        for name, value in expected.items():
            if settings.get(name) != value:
                raise ValueError(
                    f"MLP.fit: {self.path} is a checkpoint of another fit: its {name} is "
                    f"{settings.get(name)!r}, here it is {value!r}; resume=False "
                    "starts over, and a fit of MLP.load(path) goes on with other rows"
                )
        with self.refusing():
            state = state_of(content, state_now.network, state_now.optimizer)
            first = content.header["fit"]["first_step"]
            series = _series(content, names)
            if (
                state.generator is None
                or type(first) is not int
                or not 0 <= first <= state.n_steps
            ):
                raise FileError("the state of the fit is not whole")
            best = content.arrays.get(BEST)
            if best is not None:
                best = checked(best, BEST, state.parameters).copy()
        return SavedFit(state, content.header["fit"], series, best)

    def refusing(self) -> AbstractContextManager[None]:
        return files.refusing(self.path)


def _series(content: Content, names: Sequence[str]) -> Series:
    arrays: dict[str, NDArray[Any]] = {name: content.arrays[name] for name in names}
    if any(
        numbers.ndim != 1 or numbers.dtype != np.float64 for numbers in arrays.values()
    ):
        raise FileError("losses and learning rates must be float64 vectors")
    return {name: numbers.tolist() for name, numbers in arrays.items()}
