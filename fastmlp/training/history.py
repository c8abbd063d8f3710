"""The record of a fit: losses by epoch, why it ended,
warnings of its end, and progress bars.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import warn
from fastmlp.network import summary
from fastmlp.validation.calls import OF_HISTORIES, AdvisingType, assignable
from fastmlp.validation.messages import imported

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
    CONVERGED = "no step of the optimizer would lower the loss"
    DIVERGED = "the loss or a parameter was no longer finite"


OF_DERIVATIVES = ("derivative_loss", "validation_derivative_loss")


@dataclass
class History(metaclass=AdvisingType, advice=OF_HISTORIES):
    """Record of a fit.

    Attributes
    ----------
    loss : list of float
        Each epoch's mean objective, with penalties,
        dropout and noise, taken batch by batch while training.
    validation_loss : list of float
        Each epoch's mean loss on the validation data, without penalties,
        after its last step; empty without validation data.
    learning_rate : list of float
        Each epoch's last.
    status : Status
    seconds : float
        Wall time of the fit, compilation included.
    metrics : dict of str to list of float
        Each epoch's metrics of the validation data, by their names.
    best_epoch : int or None
        The best epoch by `EarlyStopping` or `keep_best`, counted from 0,
        as items of the lists are; None without. Sentences and titles count from 1.
    derivative_loss : list of float
        Each epoch's mean square of the residuals of `derivatives`, without
        `derivative_weight`, over known numbers, taken while training; empty without
        derivatives.
    validation_derivative_loss : list of float
        Each epoch's mean square on the validation data, after its last step.
    head_losses, validation_head_losses : dict of str to list of float
        Each epoch's mean loss of each head, without its weight,
        by the heads' names; empty without heads.

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
    derivative_loss: list[float] = field(default_factory=list)
    validation_derivative_loss: list[float] = field(default_factory=list)
    head_losses: dict[str, list[float]] = field(default_factory=dict)
    validation_head_losses: dict[str, list[float]] = field(default_factory=dict)

    @property
    def _series(self) -> dict[str, list[float]]:
        """Losses by their names, in the order of columns."""
        names = ("loss", "validation_loss")
        return {name: getattr(self, name) for name in (*names, *OF_DERIVATIVES)}

    def __repr__(self) -> str:
        if self.loss:
            last = f", loss {self.loss[0]:.4g} to {self.loss[-1]:.4g}"
        else:
            last = ""
        if self.best_epoch is None:
            best = ""
        else:
            best = f", best in epoch {self.best_epoch + 1}"
        ending = f"{self.status.name}, {self.seconds:.3g} s"
        return f"History({len(self.loss)} epochs{last}{best}, {ending})"

    def _repr_html_(self) -> str:
        return history_html(
            self.loss, self.validation_loss, self.seconds, self.status.value
        )

    def to_frame(self) -> "DataFrame":
        """Return the record as a data frame, one row an epoch.

        Returns
        -------
        pandas.DataFrame
            Columns ``epoch`` (from 0), ``loss``, and where present ``validation_loss``,
            ``derivative_loss``, ``validation_derivative_loss``, ``learning_rate``,
            losses of heads and metrics.

        Raises
        ------
        ImportError
            If pandas is missing.

        Examples
        --------
        >>> from fastmlp import History
        >>> History(loss=[0.5, 0.25], validation_loss=[0.75, 0.5]).to_frame()
           epoch  loss  validation_loss
        0      0  0.50             0.75
        1      1  0.25             0.50
        """
        pandas = imported("pandas", "History.to_frame")
        # Ctrl-C during validation leaves one validation loss less: series are aligned.
        columns = {
            "epoch": pandas.Series(range(len(self.loss))),
            "loss": pandas.Series(self.loss, dtype=float),
        }
        others = {**self._series, "learning_rate": self.learning_rate}
        others |= self.of_heads() | self.metrics
        for name, values in others.items():
            if values and name not in columns:
                columns[name] = pandas.Series(values, dtype=float)
        return pandas.DataFrame(columns)

    def of_heads(self) -> dict[str, list[float]]:
        """Return the losses of heads by the names of their series,
        such as ``value_loss``.

        Examples
        --------
        >>> from fastmlp import History
        >>> History(loss=[0.5], head_losses={"value": [0.25]}).of_heads()
        {'value_loss': [0.25]}
        """
        losses = {f"{name}_loss": each for name, each in self.head_losses.items()}
        validated = self.validation_head_losses.items()
        return losses | {f"validation_{name}_loss": each for name, each in validated}


@assignable(also="the settings of its net")
@dataclass(frozen=True)
class Report:
    """The argument of a callback, after each epoch.

    Attributes
    ----------
    epoch : int
        Counted from 0 in each fit; sentences and titles count from 1.
    loss : float
        The epoch's mean objective, as in `History`.
    validation_loss : float or None
        None without validation data.
    learning_rate : float
        The rate of the epoch's last step.
    net : MLP
        The net; its parameters may be read and written.
    history : History
        The fit so far, this epoch included; read-only.
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
        vars(self)["stopping"] = True


Callback = Callable[[Report], Any]


def series_of(history: History) -> dict[str, list[float]]:
    """The series that monitors look at and bars show, by name."""
    return {**history._series, **history.of_heads(), **history.metrics}


def last_report(history: History, net: Any) -> Report:
    losses = history.validation_loss
    return Report(
        epoch=len(history.loss) - 1,
        loss=history.loss[-1],
        validation_loss=losses[-1] if losses else None,
        learning_rate=history.learning_rate[-1],
        net=net,
        history=history,
        metrics={name: values[-1] for name, values in history.metrics.items()},
    )


def interrupted(history: History, *, restores: bool = False) -> History:
    """`restores`: the best epoch is restored."""
    history.status = Status.INTERRUPTED
    if restores:
        state = _best_kept(history)
    else:
        state = "keeps what it has learnt"
    epoch = len(history.loss) + 1
    warn(f"fit interrupted in epoch {epoch}; the net {state}", UserWarning)
    return history


def _best_kept(history: History) -> str:
    return f"has the parameters of epoch {(history.best_epoch or 0) + 1}, the best"


def record(
    history: History,
    losses: NDArray[np.float64],
    rates: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    first_step: int,
    steps_per_epoch: int,
) -> None:
    stop = first_step + steps_per_epoch * len(losses)
    last_steps = np.arange(
        first_step + steps_per_epoch - 1, stop, max(steps_per_epoch, 1)
    )
    history.loss += losses.tolist()
    history.learning_rate += rates(last_steps).tolist()


def record_divergence(history: History, loss: float, *, restores: bool = False) -> None:
    """`restores`: the best epoch is restored."""
    history.status = Status.DIVERGED
    before = "keeps its parameters from before that epoch"
    kept = _best_kept(history) if restores else before
    epoch = len(history.loss) + 1
    warn(
        f"fit diverged in epoch {epoch} (loss {loss:.3g}): the net {kept}; "
        "try a smaller learning rate, or standardise X",
        RuntimeWarning,
    )


CURVE_HEADER = ("loss", "first", "best", "in epoch", "last")
WIDTH = 320
HEIGHT = 64
MARGIN = 3


def history_html(
    loss: Sequence[float], validation_loss: Sequence[float], seconds: float, status: str
) -> str:
    """Epochs are counted from 1."""
    curves = {
        "training": np.asarray(loss, float),
        "validation": np.asarray(validation_loss, float),
    }
    rows = [
        CURVE_HEADER,
        *(_row(name, curve) for name, curve in curves.items() if curve.size),
    ]
    n = f"{len(loss):,} epoch{'' if len(loss) == 1 else 's'} in {seconds:.3g} s; {status}"
    parts = [summary.html_text(n, strong="History")]
    if len(rows) > 1:
        parts.append(summary.html_table(rows))
    if len(loss) > 1:
        parts.append(_line(list(curves.values())))
    return f"<div>{''.join(parts)}</div>"


def _row(name: str, curve: NDArray[Any]) -> tuple[str, ...]:
    finite = np.where(np.isfinite(curve), curve, np.inf)
    best = int(finite.argmin())
    return (
        name,
        f"{curve[0]:.4g}",
        f"{curve[best]:.4g}",
        f"{best + 1:,}",
        f"{curve[-1]:.4g}",
    )


def _line(curves: list[NDArray[Any]]) -> str:
    """A logarithmic axis where all losses are positive; validation is dashed."""
    finite = np.concatenate(curves)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return ""
    is_log = finite.min() > 0
    low, high = (np.log(finite) if is_log else finite)[
        [finite.argmin(), finite.argmax()]
    ]
    lines = ""
    for curve, dash in zip(curves, ("", ' stroke-dasharray="4 3"'), strict=True):
        # At most WIDTH points.
        epochs = np.unique(np.linspace(0, max(len(curve) - 1, 0), WIDTH).astype(int))[
            : len(curve)
        ]
        epochs = epochs[np.isfinite(curve[epochs])]
        if is_log:
            values = np.log(curve[epochs])
        else:
            values = curve[epochs]
        x = MARGIN + (WIDTH - 2 * MARGIN) * epochs / (len(curves[0]) - 1)
        y = MARGIN + (HEIGHT - 2 * MARGIN) * (high - values) / ((high - low) or 1)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(x, y, strict=True))
        lines += f'<polyline points="{path}"{dash}/>' if path else ""
    name = f"loss by epoch{', logarithmic' if is_log else ''}: solid for training, dashed for "
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" fill="none" '
        f'stroke="currentColor" '
        f'stroke-width="1.5"><title>{name}validation</title>{lines}</svg>'
    )


def new_bar(total: int, done: int, who: str, unit: str = "epoch") -> Any:
    room = imported("tqdm.auto", f"{who}: progress=True", "tqdm")
    return room.tqdm(total=total, initial=done, unit=unit)


def shown(history: History) -> dict[str, str]:
    series = series_of(history)
    return {name: f"{values[-1]:.4g}" for name, values in series.items() if values}


class Bar:
    """One bar over the epochs of many nets; each fit uses it as if it were alone."""

    def __init__(self, bar: Any, n_nets: int) -> None:
        self._bar = bar
        self._n_nets = n_nets
        self._n_done = 0
        self._lock = threading.Lock()
        self._show_nets()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, n_epochs: int) -> None:
        with self._lock:
            self._bar.update(n_epochs)

    def net_ends(self, n_epochs: int) -> None:
        """`n_epochs`: the epochs before its last."""
        with self._lock:
            self._n_done += 1
            self._show_nets()
            self._bar.update(n_epochs)

    def set_postfix(self, numbers: Any = None, **others: Any) -> None:
        """Show nothing: losses of different nets cannot be compared."""

    def _show_nets(self) -> None:
        self._bar.set_postfix_str(
            f"{self._n_done} of {self._n_nets} nets", refresh=False
        )


def bar_over(
    n_epochs: int, n_nets: int, who: str, *, shown: bool
) -> AbstractContextManager[Any]:
    if shown:
        return Bar(new_bar(n_epochs, 0, who), n_nets)
    return nullcontext()
