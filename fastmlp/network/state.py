"""What training changes: parameters, the optimizer and its state, counters, random numbers."""

from collections.abc import Callable, Hashable
from copy import deepcopy
from typing import Any, Protocol, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import random_state
from fastmlp._process.locks import NetLock, publish
from fastmlp.network.parameter_layout import Layout, bias_views, weight_views
from fastmlp.rules.dropout import Key
from fastmlp.rules.optimizers import Optimizer

Array = NDArray[Any]
# The numbers that an update rule keeps for each parameter: m and v.
N_SLOTS = 2


class PackedSlots(Protocol):
    """The optimizer's state in the layout of one backend, which writes to it in place."""

    def flat(self) -> Array:
        """Return a copy in the order of the parameters, shape (n_slots, n_parameters)."""
        ...


P = TypeVar("P", bound=PackedSlots)


@final
class NetState:
    """The state of one net; `MLP`, `fit_many` and the estimators train it by the same loop.

    A further kind of training state is one more slot of each parameter. Copy, pickle, files and
    backends take all slots along: as one array of shape (n_slots, n_parameters), or packed by the
    backend that trained last. A copy made while another thread trains has no slots and no steps.

    Parameters
    ----------
    layout : Layout
    parameters : (n_parameters,) array, C-contiguous; not copied
    optimizer : Optimizer
    generator : numpy.random.Generator, optional
        Of the initial weights and the orders of the rows. None: the orders come from elsewhere.
    key : two integers of 32 bits, optional
        Of what training draws, as dropout's masks.

    Attributes
    ----------
    weights, biases : views of `parameters`, shape (n_in, n_out) and (n_out,) each
    n_steps : int
        Optimizer steps done so far.
    lock : NetLock
        Held while parameters are read or written as a whole, and by the one thread that trains.
    """

    __slots__ = (
        "_form", "_packed", "_slots", "biases", "generator", "key", "layout", "lock", "n_steps",
        "optimizer", "parameters", "weights",
    )  # fmt: skip

    layout: Layout
    optimizer: Optimizer
    generator: np.random.Generator | None
    key: Key | None
    n_steps: int
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
        self.layout, self.optimizer, self.generator = layout, optimizer, generator
        self.key = key
        self.n_steps, self.lock = 0, NetLock()
        self._slots: Array | None = None
        self._packed: PackedSlots | None = None
        self._form: Hashable = None
        self._hold(parameters)

    def _hold(self, parameters: Array) -> None:
        self.parameters = parameters
        self.weights = tuple(weight_views(self.layout, parameters))
        self.biases = tuple(bias_views(self.layout, parameters))

    def assign(self, parameters: Array) -> None:
        """Copy these parameters, all at once for threads that predict."""
        with self.lock.parameters:
            publish(np.ascontiguousarray(parameters, self.parameters.dtype), self.parameters)

    def slots(self) -> Array | None:
        """Return a copy of the optimizer's state, shape (n_slots, n_parameters).

        None stands for zeros: no step has been taken.
        """
        if self._packed is not None:
            return self._packed.flat()
        return None if self._slots is None else self._slots.copy()

    def set_slots(self, slots: Array | None) -> None:
        """Replace the optimizer's state; None stands for zeros."""
        dtype = self.parameters.dtype
        self._slots = None if slots is None else np.ascontiguousarray(slots, dtype)
        self._packed, self._form = None, None

    def unpack(self) -> None:
        """Drop what a backend has packed: the optimizer's state is one flat array again."""
        self.set_slots(self.slots())

    def packed(self, form: Hashable, pack: Callable[[Array | None], P]) -> P:
        """Return the optimizer's state as a backend packs it; training writes to it in place.

        Parameters
        ----------
        form : hashable
            Names the layout. The state is packed anew where it is packed in another form.
        pack : callable
            From the flat state, shape (n_slots, n_parameters), or None for zeros.
        """
        if self._packed is None or self._form != form:
            flat = self._slots if self._packed is None else self._packed.flat()
            self._packed, self._form = pack(flat), form
            self._slots = None
        found: Any = self._packed
        return found

    def kept_key(self) -> Key:
        """Return the key; a state without one gets one from fresh entropy, and keeps it."""
        if self.key is None:
            self.key = random_state.key_of(np.random.SeedSequence())
        return self.key

    def restart(self) -> None:
        """Go back to step 0 with an optimizer's state of zeros; the parameters stay."""
        self.n_steps = 0
        self.set_slots(None)

    def __getstate__(self) -> dict[str, Any]:
        # Copied under the lock: pickle writes the arrays later, when a fit may have begun.
        with self.lock.parameters:
            changing = self.lock.is_trained_elsewhere
            return {
                "layout": self.layout,
                "parameters": self.parameters.copy(),
                "optimizer": self.optimizer,
                "generator": self.generator and random_state.pickled(self.generator),
                "n_steps": 0 if changing else self.n_steps,
                "slots": None if changing else self.slots(),
                "key": self.key,
            }

    def __setstate__(self, content: dict[str, Any]) -> None:
        parameters = content["parameters"]
        # joblib maps large arrays into its workers read-only.
        if not parameters.flags.writeable:
            parameters = parameters.copy()
        optimizer, generator = content["optimizer"], random_state.unpickled(content["generator"])
        key = content.get("key")
        NetState.__init__(self, content["layout"], parameters, optimizer, generator, key)
        self.n_steps = content["n_steps"]
        self.set_slots(content["slots"])

    def __copy__(self) -> "NetState":
        """Return a deep copy: two states with arrays in common would both be trained."""
        return deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "NetState":
        memo[id(self)] = other = NetState.__new__(NetState)
        content = self.__getstate__()
        for name in ("optimizer", "generator"):
            content[name] = deepcopy(getattr(self, name), memo)
        other.__setstate__(content)
        return other
