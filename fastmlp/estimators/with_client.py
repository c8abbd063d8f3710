"""An estimator with a client of Dask's: copies share the client, pickles have none."""

import copy
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sklearn.utils._param_validation import Interval

from fastmlp.cluster.groups import Cluster, client_of
from fastmlp.estimators.sklearn_bases import BaseEstimator

if TYPE_CHECKING:
    from distributed import Client as Client
else:
    Client = Any  # So that type hints can be read without it.

# The parameters, which files do not hold.
PARAMETERS = ("client", "group_timeout")


class WithClient(BaseEstimator):
    """Adds the parameters `client` and `group_timeout`.

    A client is a connection of this process: clones and copies have the same one, and pickles have
    none, but the word "auto". A model that was pickled on one machine predicts on another, and a
    task of Dask's that fits an estimator does it on its own threads.
    """

    client: Any
    group_timeout: float | None

    client_constraints: ClassVar[Mapping[str, Any]] = {
        "client": "no_validation",
        "group_timeout": [Interval(Real, 0, None, closed="neither"), None],
    }

    def _keep(self, arguments: Mapping[str, Any]) -> None:
        """Store the arguments of `__init__` under their names."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    def _cluster(self, who: str) -> Cluster | None:
        """Return the workers of the client, checked, or None if there is no client."""
        if self.client is None:
            return None
        return Cluster(client_of(self.client, who), who, self.group_timeout)

    def __sklearn_clone__(self) -> Any:
        bare = copy.copy(self)
        bare.client = None
        cloned = super(WithClient, bare).__sklearn_clone__()
        cloned.client = self.client
        return cloned

    def __copy__(self) -> Self:
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self.client)] = self.client
        memo[id(self)] = other = type(self).__new__(type(self))
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state if self.client in (None, "auto") else {**state, "client": None}
