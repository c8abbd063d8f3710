"""What pickles and copies of an estimator hold."""

from contextlib import suppress
from copy import deepcopy
from typing import Any, Self

# What training leaves behind and predictions do not need.
TRAINING_STATE = (
    "_optimizer",
    "_best_coefs",
    "_best_intercepts",
    "_random_state",
    "_coef_indptr",
    "_intercept_indptr",
)
# What is of this object alone: its vector, its lock, and what a fit that runs has compiled.
OWN = ("_parameters", "_guard", "_held_out", "_objective")


class Copies:
    """An estimator that is pickled and copied, also from within its own fit, as by a scorer."""

    pickle_state: bool

    def _adopt(self) -> None:
        """Put all parameters into one vector, and its views in their place."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        left_out = OWN if self.pickle_state else (*OWN, *TRAINING_STATE)
        return {name: value for name, value in state.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        parent: Any = super()
        parent.__setstate__(state)
        if hasattr(self, "coefs_"):
            # Arrays of the user's own that do not fit together: what computes with them says so.
            with suppress(ValueError):
                self._adopt()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy with the state of the training, which only a pickle is larger for."""
        memo[id(self)] = other = type(self).__new__(type(self))
        state = {name: value for name, value in vars(self).items() if name not in OWN}
        other.__setstate__(deepcopy(state, memo))
        return other
