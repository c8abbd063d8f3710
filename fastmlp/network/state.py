"""The state that training changes: parameters, optimizer, counters, random numbers."""

from collections.abc import Callable, Hashable
from copy import deepcopy
from typing import Any, Protocol, TypeVar, final

import numpy as np

from fastmlp._process import random_state
from fastmlp._process.locks import NetLock
from fastmlp.network import layer_settings
from fastmlp.network.spec import Layout, Network, bias_views, weight_views
from fastmlp.rules.dropout import Key
from fastmlp.rules.optimizer_protocol import (
    Optimizer,
    average_start,
    is_averaged,
    lag_of,
)
from fastmlp.validation import Array, frames

# Numbers that an optimizer keeps for each parameter: m and v,
# and with an average the trained parameters, and those that the net has shown last.
N_SLOTS, N_AVERAGED_SLOTS = 2, 4


def n_slots_of(optimizer: Optimizer) -> int:
    return N_AVERAGED_SLOTS if is_averaged(optimizer) else N_SLOTS


class PackedSlots(Protocol):
    """The optimizer's state in one backend's layout,
    which the backend writes to in place.
    """

    def flat(self) -> Array:
        """A copy in the order of the parameters, shape (n_slots, n_parameters)."""
        ...

    def begin(self, parameters: Array, lag: float) -> bool:
        """Prepare to train with an average; `lag` is the optimizer's.

        Flat parameters that differ, in any bit, from those that the net has shown last
        are trained and averaged from now on; the result is True.
        """
        ...


P = TypeVar("P", bound=PackedSlots)


@final
class NetState:
    """The state of one net; `MLP`,
    `fit_many` and the estimators train it by the same loop.

    A further kind of training state is one more slot of each parameter. Copy, pickle,
    files and backends take all slots along: as one array of shape (n_slots,
    n_parameters), or packed by the backend that trained last. A copy made while another
    thread trains has no slots and no steps.

    Parameters
    ----------
    parameters : (n_parameters,) array, C-contiguous; not copied
    generator : source of initial weights and of orders of rows, optional
    key : two integers of 32 bits, optional
        Key of the random numbers of training, such as dropout's masks.

    Attributes
    ----------
    weights, biases : views of `parameters`, shape (n_in, n_out) and (n_out,) each
    feature_names : names of the columns of X, or None: columns are known by their position
    averaged_from : step after which the optimizer's average counts
    lock : held while parameters are read or written as a whole, and by the one thread that trains
    """

    __slots__ = (
        "_form",
        "_packed",
        "_slots",
        "averaged_from",
        "biases",
        "feature_names",
        "generator",
        "key",
        "layout",
        "lock",
        "n_steps",
        "optimizer",
        "parameters",
        "weights",
    )

    feature_names: frames.Names
    layout: Layout
    optimizer: Optimizer
    generator: np.random.Generator | None
    key: Key | None
    n_steps: int
    averaged_from: int
    lock: NetLock
    parameters: Array
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    def __init__(
        self,
        layout: Layout,
        parameters: Array,
        optimizer: Optimizer,
        generator: np.random.Generator | None = None,
        key: Key | None = None,
    ) -> None:
        self.layout = layout
        self.optimizer = optimizer
        self.generator = generator
        self.key = key
        self.feature_names = None
        self.n_steps, self.averaged_from, self.lock = 0, 0, NetLock(parameters)
        self._slots: Array | None = None
        self._packed: PackedSlots | None = None
        self._form: Hashable = None
        self.parameters = parameters
        self.weights = tuple(weight_views(layout, parameters))
        self.biases = tuple(bias_views(layout, parameters))

    def assign(self, parameters: Array) -> None:
        """Copy these parameters, all at once for threads that predict."""
        values = np.ascontiguousarray(parameters, self.parameters.dtype)
        self.lock.publish(values, self.parameters)

    def bound(self, network: Network) -> None:
        """Set weights to 0 whose signs break the network's constraints."""
        if network.signs:
            self.assign(
                layer_settings.bounded(
                    self.parameters, layer_settings.codes_of(network)
                )
            )

    def select(self, X: Any, who: str) -> Any:
        """The columns of X by the net's names, in its order; an array as it is."""
        return frames.selected(X, self.feature_names, who)

    def slots(self) -> Array | None:
        """A copy of the optimizer's state,
        shape (n_slots, n_parameters); None: zeros.
        """
        if self._packed is not None:
            flat = self._packed.flat()
        elif self._slots is not None:
            flat = self._slots.copy()
        else:
            return None
        # A new optimizer may keep more slots, or fewer.
        more = n_slots_of(self.optimizer) - len(flat)
        if more > 0:
            return np.pad(flat, ((0, more), (0, 0)))
        return flat[: len(flat) + more]

    def set_slots(self, slots: Array | None) -> None:
        """Replace the optimizer's state; None stands for zeros."""
        if slots is None:
            self._slots = None
            self.averaged_from = 0
        else:
            self._slots = np.ascontiguousarray(slots, self.parameters.dtype)
        self._packed = None
        self._form = None

    def unpack(self) -> None:
        """Drop a backend's packed form:
        the optimizer's state is one flat array again.
        """
        if self._packed is not None:
            self.set_slots(self.slots())

    def packed(self, form: Hashable, pack: Callable[[Array | None], P]) -> P:
        """The optimizer's state as a backend packs it; training writes to it in place.

        Parameters
        ----------
        form : hashable, names the layout; another form is packed anew
        pack : from the flat state, shape (n_slots, n_parameters), or None for zeros
        """
        form = (form, n_slots_of(self.optimizer))
        if self._packed is None or self._form != form:
            self._packed = pack(self.slots())
            self._form = form
            self._slots = None
        self.begin_average()
        packed: Any = self._packed
        return packed

    def kept_key(self) -> Key:
        """A state without a key gets one from fresh entropy, and keeps it."""
        if self.key is None:
            self.key = random_state.key_of(np.random.SeedSequence())
        return self.key

    def begin_average(self) -> None:
        """Begin an average anew where the parameters were written by hand,
        or never averaged.
        """
        if self._packed is None or not is_averaged(self.optimizer):
            return
        if self._packed.begin(self.parameters, lag_of(self.optimizer)):
            self.averaged_from = max(self.averaged_from, self.n_steps)

    def train_shown(self) -> None:
        """Train the parameters that the net shows, and average them anew."""
        slots = self.slots() if is_averaged(self.optimizer) else None
        if slots is None:
            return
        slots[N_SLOTS:] = self.parameters
        if lag_of(self.optimizer):
            slots[0] = 0
        self.set_slots(slots)
        self.averaged_from = self.n_steps

    def trained(self) -> Array:
        """Flat parameters that a fit would go on from: the net's or,
        where it shows an average, those that were averaged.
        """
        if not is_averaged(self.optimizer) or self.lock.is_trained_elsewhere:
            return self.parameters
        slots = self.slots()
        if slots is None or slots[3].tobytes() != self.parameters.tobytes():
            return self.parameters
        trained: Array = slots[2]
        return trained

    def average_over(self, first: int, last: int) -> None:
        """Set when the average counts,
        at the beginning of a fit from step `first` to `last`.
        """
        if self.n_steps == first:
            now = average_start(self.optimizer, first, last, self.averaged_from)
            self.averaged_from = now

    def restart(self) -> None:
        """Go back to step 0 with slots of zeros; the parameters stay."""
        self.n_steps = 0
        self.set_slots(None)

    def __getstate__(self) -> dict[str, Any]:
        # Copied under the lock: pickle writes the arrays later,
        # when a fit may have begun.
        with self.lock.parameters:
            changing = self.lock.is_trained_elsewhere
            return {
                "layout": self.layout,
                "parameters": self.parameters.copy(),
                "optimizer": self.optimizer,
                "generator": self.generator and random_state.pickled(self.generator),
                "n_steps": 0 if changing else self.n_steps,
                "averaged_from": 0 if changing else self.averaged_from,
                "slots": None if changing else self.slots(),
                "key": self.key,
                "feature_names": self.feature_names,
            }

    def __setstate__(self, content: dict[str, Any]) -> None:
        parameters = content["parameters"]
        # joblib maps large arrays into its workers read-only.
        if not parameters.flags.writeable:
            parameters = parameters.copy()
        optimizer = content["optimizer"]
        generator = random_state.unpickled(content["generator"])
        NetState.__init__(
            self, content["layout"], parameters, optimizer, generator, content["key"]
        )
        self.n_steps = content["n_steps"]
        self.set_slots(content["slots"])
        self.averaged_from = content["averaged_from"]
        self.feature_names = content["feature_names"]

    def adopt(self, content: dict[str, Any]) -> None:
        """Take over the changes of a trained copy, from its `__getstate__`."""
        self.assign(content["parameters"])
        self.n_steps = content["n_steps"]
        self.set_slots(content["slots"])
        self.averaged_from = content["averaged_from"]
        self.key = content["key"]
        self.feature_names = content["feature_names"]
        generator = random_state.unpickled(content["generator"])
        if self.generator is not None and generator is not None:
            # Not replaced: it may be the user's.
            self.generator.bit_generator.state = generator.bit_generator.state

    def __copy__(self) -> "NetState":
        """A deep copy: two states with common arrays would both be trained."""
        return deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "NetState":
        memo[id(self)] = other = NetState.__new__(NetState)
        content = self.__getstate__()
        for name in ("optimizer", "generator"):
            content[name] = deepcopy(getattr(self, name), memo)
        other.__setstate__(content)
        return other
