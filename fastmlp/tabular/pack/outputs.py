"""Between a task's targets and the outputs of nets: losses, first biases, scales of numbers."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.network.spec import LossLike
from fastmlp.tabular.pack.scoring import Task

Array = NDArray[Any]
LOSSES: dict[Task, LossLike] = {
    "binary": "binary_cross_entropy",
    "multiclass": "cross_entropy",
    "regression": "mse",
}


class Outputs(NamedTuple):
    """The outputs of all nets of a pack.

    Numbers are learned as ``(y - center) / scale``, and predictions stay within those that were
    seen in training.

    Attributes
    ----------
    n_outputs : of each net: one for two classes
    bias : (n_outputs,) of the last layer before training: log odds, log shares, or 0
    low, high : the range of predictions of numbers
    """

    task: Task
    n_outputs: int
    bias: tuple[float, ...]
    center: float = 0.0
    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0

    @property
    def loss(self) -> LossLike:
        """The loss that nets are trained on."""
        return LOSSES[self.task]

    def targets(self, y: Array) -> Array:
        """Return what nets are trained on, of numbers or places of classes, shape (n_rows,)."""
        return (y - self.center) / self.scale if self.task == "regression" else y

    def predictions(self, outputs: Array) -> NDArray[np.float64]:
        """Return numbers, shape (n_rows,), or probabilities, shape (n_rows, n_classes), of what a
        net predicts, shape (n_rows, n_outputs)."""
        found = outputs.astype(np.float64)
        if self.task == "regression":
            return np.clip(found[:, 0] * self.scale + self.center, self.low, self.high)
        return np.concatenate([1 - found, found], axis=1) if self.task == "binary" else found


def outputs_of(task: Task, y: Array, weight: Array | None, n_classes: int) -> Outputs:
    """Return the outputs for targets in training, shape (n_rows,): numbers or places of classes.

    A class without a row there has the share of half a row.
    """
    if task == "regression":
        center = float(np.average(y, weights=weight))
        scale = float(np.sqrt(np.average((y - center) ** 2, weights=weight))) or 1.0
        return Outputs(task, 1, (0.0,), center, scale, float(y.min()), float(y.max()))
    mass = np.bincount(y, weights=weight, minlength=n_classes).astype(np.float64)
    shares = np.maximum(mass, 0.5 * mass.sum() / len(y))
    logs = np.log(shares / shares.sum())
    if task == "binary":
        return Outputs(task, 1, (float(logs[1] - logs[0]),))
    return Outputs(task, n_classes, tuple(logs.tolist()))
