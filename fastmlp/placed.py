"""A net on its device: the CPU, or an NVIDIA GPU."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process.buffer_pool import Idle
from fastmlp._process.warnings import warn
from fastmlp.backends import protocol
from fastmlp.network import resolve
from fastmlp.persistent import Persistent
from fastmlp.rules.optimizers import Optimizer
from fastmlp.validation import scalars

if TYPE_CHECKING:
    from fastmlp.backends.cpu.predict.small_batch import FewRows

Array = NDArray[Any]


class Placed(Persistent):
    """A net that trains and predicts where it is told to.

    Attributes
    ----------
    device : str
        "cpu", "cuda" or "cuda:<number>".
    n_threads : int or None
        How many threads its calls may use on the CPU; None: as many as the process may. May be set.
    """

    device: str
    _n_threads: int | None
    _few_rows: "FewRows | None"
    _idle: Idle

    @property
    def n_threads(self) -> int | None:
        """How many threads its calls may use; None: as many as the process may."""
        return self._n_threads

    @n_threads.setter
    def n_threads(self, given: int | None) -> None:
        if given is not None:
            given = scalars.positive_integer("MLP", "n_threads", given)
        self._n_threads = given

    def to(self, device: str) -> Self:
        """Move the net, and the optimizer's state with it, to another device; return it.

        `parameters` stay where they are, in the memory of the host: a call on a GPU begins with a
        copy of them, and a fit ends with one back.

        Parameters
        ----------
        device : "cpu", "cuda" or "cuda:<number>"

        Raises
        ------
        ValueError
            Where it is no device's name.
        ImportError, RuntimeError
            Where a package, the driver or the device is missing; the net stays where it was.
        RuntimeError
            Where a fit of this net is running.

        Examples
        --------
        >>> from fastmlp import MLP
        >>> MLP((2, 4, 1), seed=0).to("cpu").device
        'cpu'
        """
        who = "MLP.to"
        target = resolve.device(device)
        protocol.require(target, who)
        with self._guard.training(who):
            state = None if self._moments is None else self._moments.flat()
            before, self.device = self.device, target
            try:
                self._moments = None if state is None else self._engine().moments(state)
            except BaseException:
                self.device = before
                raise
            self._few_rows = None
        return self

    def _engine(self) -> Any:
        """Return the backend of the net's device."""
        return protocol.backend_of(
            self.device, self._network, self.n_threads, self._guard, self._idle
        )

    def _trained(self) -> tuple[Array, Any, Optimizer]:
        """Return what a step changes, and by what."""
        if self._moments is None:
            self._moments = self._engine().moments()
        return self._parameters, self._moments, self.optimizer

    def _predict(self, X: Any, out: Any, *, raw: bool, who: str) -> Any:
        if self.device != "cpu":
            return self._finite(
                self._engine().predictions(self._parameters, X, out, raw=raw, who=who), who
            )
        engine = self._engine()
        plain = None if raw else engine.predict_plain(self._parameters, X, out)
        if plain is not None:
            return plain
        layout, dtype = self._network.layout, self._network.dtype
        x = validation.features(X, layout.sizes[0], dtype, who)
        result = validation.out_array(out, (len(x), layout.sizes[-1]), dtype, who)
        if out is not None and np.may_share_memory(x, result):
            # Else predictions would go over rows that are still to be read.
            x = x.copy()
        quick = None if raw else self._few_rows
        if quick is not None and len(x) <= quick.most and quick(x.copy(), result) is not None:
            return result
        few = engine.predict(self._parameters, x, result, raw=raw)
        if not raw:
            self._few_rows = few
        return self._finite(result, who)

    def _finite(self, predictions: Any, who: str) -> Any:
        """Return the predictions; warn where not all are finite, if they lie on the host."""
        if not isinstance(predictions, np.ndarray):
            return predictions
        # A sum takes half of the time of `isfinite`, 0.5 % of a prediction; it may overflow.
        with np.errstate(all="ignore"):
            suspect = not np.isfinite(predictions.sum())
        if suspect and not np.isfinite(predictions).all():
            warn(
                f"{who}: not all predictions are finite {predictions.dtype} numbers: rows far "
                "outside of those trained on, or parameters that are not finite?",
                RuntimeWarning,
            )
        return predictions
