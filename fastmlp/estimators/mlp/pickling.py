"""The content of pickles and copies of an estimator."""

from contextlib import suppress
from copy import deepcopy
from typing import Any, Self

from fastmlp._process import random_state
from fastmlp.estimators.mlp import solvers
from fastmlp.network.state import NetState

# Attributes that training leaves, and predictions do not need.
TRAINING_STATE = (
    "_optimizer",
    "_best_coefs",
    "_best_intercepts",
    "_random_state",
    "_coef_indptr",
    "_intercept_indptr",
)
# Attributes that are not copied: the net, buffers, lock, and the objects of a running fit.
OWN = ("_state", "_cache", "_lock", "_held_out", "_objective", "_shared_net")
# The name of the optimizer's state in a pickle.
SLOTS = "_slots_of_optimizer"
# And that of the step after which its average counts.
AVERAGED = "_averaged_from"


class Copies:
    """An estimator that can be pickled and copied, also during its own fit, as scorers may do."""

    pickle_state: bool
    random_state: Any
    _state: NetState
    _random_state: Any

    def _adopt(self) -> None:
        """Copy all parameters to one vector, and replace the arrays by its views."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        left_out = OWN if self.pickle_state else (*OWN, *TRAINING_STATE)
        kept = {name: value for name, value in state.items() if name not in left_out}
        random = kept.get("_random_state")
        # A RandomState that the user passed stays the one that is in the parameter.
        if random is not None and random is not self.random_state:
            kept["_random_state"] = random_state.pickled(random)
        return kept | self._slots() if self.pickle_state else kept

    def _slots(self) -> dict[str, Any]:
        """Return a copy of the optimizer's state under its name; nothing if there is none."""
        state: NetState | None = self.__dict__.get("_state")
        slots = None if state is None else state.slots()
        if slots is None or state is None:
            return {}
        return {SLOTS: slots, AVERAGED: state.averaged_from}

    def __setstate__(self, state: dict[str, Any]) -> None:
        slots, others = state.get(SLOTS), (SLOTS, AVERAGED)
        parent: Any = super()
        parent.__setstate__({name: value for name, value in state.items() if name not in others})
        if "_random_state" in state:
            self._random_state = random_state.unpickled(state["_random_state"])
        if hasattr(self, "coefs_"):
            # A user's own arrays that do not fit together: later calls raise for them.
            with suppress(ValueError):
                self._adopt()
                if slots is not None and slots.shape[1:] == self._state.parameters.shape:
                    self._state.optimizer = solvers.averaged(self)
                    self._state.set_slots(slots)
                    self._state.averaged_from = state.get(AVERAGED, 0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy with the state of training, which a pickle may leave out."""
        memo[id(self)] = other = type(self).__new__(type(self))
        other.__setstate__(deepcopy(self.whole_state(), memo))
        return other

    def whole_state(self) -> dict[str, Any]:
        """Return what `__setstate__` takes, with the state of training, for a copy elsewhere."""
        state = {name: value for name, value in vars(self).items() if name not in OWN}
        return state | self._slots()
