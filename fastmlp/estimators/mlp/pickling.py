"""The content of pickles and copies of an estimator."""

from contextlib import suppress
from copy import deepcopy
from typing import Any, Self

from fastmlp.network.state import NetState

# Left behind by training, and not needed by predictions.
TRAINING_STATE = (
    "_optimizer",
    "_best_coefs",
    "_best_intercepts",
    "_random_state",
    "_coef_indptr",
    "_intercept_indptr",
)
# Of this object alone: its net, buffers, lock, and what a fit that runs has compiled.
OWN = ("_state", "_cache", "_lock", "_held_out", "_objective")
# The name of the optimizer's state in a pickle.
SLOTS = "_slots_of_optimizer"


class Copies:
    """An estimator that is pickled and copied, also from within its own fit, as by a scorer."""

    pickle_state: bool
    _state: NetState

    def _adopt(self) -> None:
        """Put all parameters into one vector, and its views in their place."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        left_out = OWN if self.pickle_state else (*OWN, *TRAINING_STATE)
        kept = {name: value for name, value in state.items() if name not in left_out}
        return kept | self._slots() if self.pickle_state else kept

    def _slots(self) -> dict[str, Any]:
        """Return a copy of the optimizer's state under its name, where there is one."""
        state: NetState | None = self.__dict__.get("_state")
        slots = None if state is None else state.slots()
        return {} if slots is None else {SLOTS: slots}

    def __setstate__(self, state: dict[str, Any]) -> None:
        slots = state.get(SLOTS)
        parent: Any = super()
        parent.__setstate__({name: value for name, value in state.items() if name != SLOTS})
        if hasattr(self, "coefs_"):
            # Arrays of the user's own that do not fit together: what computes with them says so.
            with suppress(ValueError):
                self._adopt()
                if slots is not None and slots.shape[1:] == self._state.parameters.shape:
                    self._state.set_slots(slots)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy with the state of training, which a pickle leaves out to be smaller."""
        memo[id(self)] = other = type(self).__new__(type(self))
        state = {name: value for name, value in vars(self).items() if name not in OWN}
        other.__setstate__(deepcopy(state, memo) | self._slots())
        return other
