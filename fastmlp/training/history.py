"""The record of a fit: losses by epoch, and why it ended."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from fastmlp.validation.attributes import OF_HISTORIES, Advising
from fastmlp.validation.packages import needs

if TYPE_CHECKING:
    from pandas import DataFrame

    from fastmlp.model import MLP


class Status(Enum):
    """Why a fit ended; the value is a sentence.

    Examples
    --------
    >>> from fastmlp import Status
    >>> Status.DIVERGED.value
    'the loss or a parameter was no longer finite'
    """

    COMPLETED = "all epochs are done"
    STOPPED = "a callback asked to stop"
    STOPPED_EARLY = "the monitored value got no better"
    OUT_OF_TIME = "the time limit was reached"
    INTERRUPTED = "the user interrupted the fit"
    DIVERGED = "the loss or a parameter was no longer finite"


@dataclass
class History(metaclass=Advising, advice=OF_HISTORIES):
    """Record of a fit.

    Attributes
    ----------
    loss : list of float
        Each epoch's mean objective, penalties included, taken batch by batch while training: with
        dropout and noise, if the net has them.
    validation_loss : list of float
        Each epoch's mean loss on the validation data, without penalties, after its last step;
        empty without validation data.
    learning_rate : list of float
        Each epoch's last.
    status : Status
    seconds : float
        Wall time of the fit, compilation included.
    metrics : dict of str to list of float
        Each epoch's metrics of the validation data, by their names.
    best_epoch : int or None
        The best epoch by `EarlyStopping` or `keep_best`, counted from 0; None without.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> history = MLP((1, 8, 1), seed=0).fit(X, X**2, epochs=3)
    >>> len(history.loss), history.status.name
    (3, 'COMPLETED')
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    status: Status = Status.COMPLETED
    seconds: float = 0.0
    metrics: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int | None = None

    def __repr__(self) -> str:
        last = f", loss {self.loss[0]:.4g} to {self.loss[-1]:.4g}" if self.loss else ""
        best = "" if self.best_epoch is None else f", best_epoch {self.best_epoch}"
        how = f"{self.status.name}, {self.seconds:.3g} s"
        return f"History({len(self.loss)} epochs{last}{best}, {how})"

    def _repr_html_(self) -> str:
        from fastmlp.training.history_html import history_html

        return history_html(self.loss, self.validation_loss, self.seconds, self.status.value)

    def to_frame(self) -> "DataFrame":
        """Return the record as a data frame, one row an epoch.

        Returns
        -------
        pandas.DataFrame
            Columns ``epoch``, counted from 1, ``loss``, and ``validation_loss``,
            ``learning_rate`` and metrics where the history has them.

        Raises
        ------
        ImportError
            If pandas is missing.

        Examples
        --------
        >>> from fastmlp import History
        >>> History(loss=[0.5, 0.25], validation_loss=[0.75, 0.5]).to_frame()
           epoch  loss  validation_loss
        0      1  0.50             0.75
        1      2  0.25             0.50
        """
        try:
            from pandas import DataFrame, Series
        except ImportError as error:
            raise ImportError(needs("History.to_frame", "pandas")) from error
        # Ctrl-C while a fit validates leaves one validation loss less: series are aligned.
        columns = {
            "epoch": Series(range(1, len(self.loss) + 1)),
            "loss": Series(self.loss, dtype=float),
        }
        others = {"validation_loss": self.validation_loss, "learning_rate": self.learning_rate}
        for name, values in {**others, **self.metrics}.items():
            if values:
                columns[name] = Series(values, dtype=float)
        return DataFrame(columns)


@dataclass
class Report:
    """The argument of a callback, after each epoch.

    Attributes
    ----------
    epoch : int
        Counted from 0 in each fit.
    loss : float
        The epoch's mean objective, as in `History`.
    validation_loss : float or None
        None without validation data.
    learning_rate : float
        Of the epoch's last step.
    net : MLP
        The net as it is now; its parameters may be read and written.
    history : History
        The fit so far, this epoch included; to be read.
    metrics : dict of str to float
        The epoch's metrics, by their names.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> def third(report):
    ...     if report.epoch == 2:
    ...         report.stop()
    >>> MLP((1, 8, 1), seed=0).fit(X, X**2, epochs=100, callbacks=third).status.name
    'STOPPED'
    """

    epoch: int
    loss: float
    validation_loss: float | None
    learning_rate: float
    net: "MLP"
    history: History = field(default_factory=History)
    stopping: bool = False
    metrics: dict[str, float] = field(default_factory=dict)

    def stop(self) -> None:
        """End the fit after this epoch, with `Status.STOPPED`."""
        self.stopping = True


Callback = Callable[[Report], Any]
