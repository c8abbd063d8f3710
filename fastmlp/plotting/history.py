"""Pictures of the losses of fits, and their curves."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fastmlp.plotting.axes import (
    INK,
    LOG_SCALE_FACTOR,
    SOFT,
    log_ticks,
    new_axes,
    tidy,
    title,
    whole_ticks,
)
from fastmlp.training.history import History, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Estimator(Protocol):
    """An estimator in scikit-learn's sense: a net, a pipeline or a search."""

    def get_params(self, deep: bool = True) -> Any: ...


Fit: TypeAlias = History | Report | Estimator
Fits: TypeAlias = Fit | Iterable[Fit] | Mapping[Any, Fit]
ACCEPTED = "a History, a Report, a fitted estimator, or a list or dict of them"


class Curves(NamedTuple):
    """A fit's numbers by epoch.

    Attributes
    ----------
    name : str, empty for one fit alone
    scores : of held-out rows, the higher the better; may be empty, as may `validation_loss`
    metric : str, the name of the scores' metric
    metrics : by name, of validation rows
    kept : the epoch whose parameters a fit has kept, counted from 1, or None
    learning_rate : each epoch's last
    """

    name: str
    loss: Sequence[float]
    validation_loss: Sequence[float] = ()
    scores: Sequence[float] = ()
    metric: str = ""
    metrics: Mapping[str, Sequence[float]] = MappingProxyType({})
    kept: int | None = None
    learning_rate: Sequence[float] = ()

    @property
    def on_the_right(self) -> dict[str, Sequence[float]]:
        """The scores and metrics, by name."""
        scores = {self.metric: self.scores} if len(self.scores) else {}
        return {**scores, **self.metrics}


class BestEpoch(NamedTuple):
    """The best epoch of some fits, counted from 1, by the curve of the name `field`."""

    fit: Curves
    field: str
    value: float
    epoch: int


def curves_of(fits: Fits) -> list[Curves]:
    """Return the curves of each fit.

    Raises
    ------
    TypeError
        If it is none of `ACCEPTED`.
    ValueError
        If an estimator has no curve, or there is no fit.
    """
    if isinstance(fits, Mapping):
        named = [(str(key), f"history[{key!r}]", fit) for key, fit in fits.items()]
    elif isinstance(fits, Iterable) and not hasattr(fits, "get_params"):
        named = [(f"net {i}", f"history[{i}]", fit) for i, fit in enumerate(fits)]
    else:
        return [_curves("", "history", fits)]
    if not named:
        raise ValueError(f"plot_history: history is an empty {type(fits).__name__}")
    # Scores have an axis of their own, which one fit alone has room for.
    return [_curves(*fit)._replace(scores=(), metrics={}) for fit in named]


def best_of(fits: Sequence[Curves]) -> BestEpoch | None:
    """Return the best epoch by scores, else by validation loss, else by training loss; of a fit
    that has kept an epoch, that one."""
    for field, sign in (("scores", -1), ("validation_loss", 1), ("loss", 1)):
        candidates = [
            BestEpoch(fit, field, value, epoch)
            for fit in fits
            for epoch, value in enumerate(map(float, getattr(fit, field)), 1)
            if np.isfinite(value) and fit.kept in (None, epoch)
        ]
        if candidates:
            return min(candidates, key=lambda best: sign * best.value)
    return None


def metric_of(estimator: Any, scoring: Any) -> str:
    """The name of the metric of an estimator's `scoring`."""
    if isinstance(scoring, str):
        return scoring
    if scoring is not None:
        return str(getattr(scoring, "__name__", "score"))
    tags = getattr(estimator, "__sklearn_tags__", None)
    kind = str(tags().estimator_type) if tags else ""
    return {"classifier": "accuracy", "regressor": "R²"}.get(kind, "score")


def _curves(name: str, where: str, fit: Any) -> Curves:
    if isinstance(fit, Report):
        fit = fit.history
    if isinstance(fit, History):
        kept = None if fit.best_epoch is None else fit.best_epoch + 1
        curves = Curves(name, fit.loss, fit.validation_loss, metrics=fit.metrics, kept=kept)
        return curves._replace(learning_rate=fit.learning_rate)
    if not hasattr(fit, "get_params"):
        hint = ": take what its fit returned" if hasattr(fit, "fit") else ""
        raise TypeError(f"plot_history: {where} must be {ACCEPTED}, got {type(fit).__name__}{hint}")
    return _of_estimator(name, fit)


def _of_estimator(name: str, estimator: Any) -> Curves:
    """Return the curves of an estimator, of a search's best one, or of a pipeline's last step."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    estimator = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    loss = getattr(estimator, "loss_curve_", None)
    if loss is None:
        raise ValueError(
            f"plot_history: this {type(estimator).__name__} has no loss_curve_: fit it first, with "
            "another solver than 'lbfgs', which has no epochs"
        )
    scoring = getattr(estimator, "scoring", None)
    # With scoring="loss" they are the validation loss, negative.
    scores = () if scoring == "loss" else getattr(estimator, "validation_scores_", None) or ()
    validation_loss = getattr(estimator, "validation_loss_curve_", None) or ()
    return Curves(name, loss, validation_loss, scores, metric_of(estimator, scoring))


TRAINING, VALIDATION = "training, mean during each epoch", "validation, at each epoch's end"
DASHED, SCORES, RATES = "--", "validation scores", "learning rates"
# Where the axis of rates lies, in widths of the axes, where scores have the right edge.
BESIDE_SCORES = 1.13
# As many colours as matplotlib's cycle has.
MOST_COLOURS = 10
_drawn: "WeakKeyDictionary[Axes, list[Curves]]" = WeakKeyDictionary()


def plot_history(
    history: Fits,
    ax: "Axes | None" = None,
    *,
    label: str = "training",
    learning_rate: bool = False,
    **line: Any,
) -> "Axes":
    """Plot the loss of each epoch, and the validation loss if there is one.

    The title names the epoch that early stopping has kept, which has a circle on its curve, or else
    the best one: by the validation scores of an estimator, else by the validation loss, else by the
    training loss. The training loss is the mean during an epoch, while the net learns, and the
    validation loss that at the epoch's end, so that it may be the lower one.

    The loss axis is logarithmic if its curves are positive and span more than a factor of 20. A
    second call with the same `ax` adds curves to compare.

    Parameters
    ----------
    history : History, Report, fitted estimator, or list or dict of them
        The result of `MLP.fit` or `fit_many`, or a callback's report; the keys of a dict are names
        in the legend. Metrics are drawn on the right, of one fit. Of an estimator, `loss_curve_` is
        drawn, and on the right `validation_scores_`; of a pipeline those of its last step, of a
        search those of `best_estimator_`. Of more than ten fits the best one is drawn in colour.
    ax : matplotlib Axes, optional
        Where to draw; by default, on a new figure.
    label : str, default "training"
        The name of one fit in the legend.
    learning_rate : bool, default False
        Draw each epoch's last learning rate too, thin and grey, with an axis on the right. Of one
        fit of an `MLP`; others keep no rates.
    **line
        Arguments for matplotlib's `Axes.plot`, for all curves: color, linewidth, ...

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    TypeError
        If `history` is none of these.
    ValueError
        If an estimator has no `loss_curve_`, the list or dict is empty, or there are no rates to
        draw.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from fastmlp import History
    >>> ax = plot_history(History(loss=[2.0, 0.3, 0.04]))
    >>> ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()
    ('epoch', 'loss', 'log')
    >>> ax.get_title(loc="left")
    'best training loss 0.04 in epoch 3 of 3'
    >>> ax = plot_history({"small": History(loss=[2.0, 1.0]), "large": History(loss=[2.0, 0.5])})
    >>> ax.get_title(loc="left")
    'best: large, training loss 0.5 in epoch 2 of 2'
    """
    fits = curves_of(history)
    if learning_rate and not (len(fits) == 1 and fits[0].learning_rate):
        raise ValueError(
            "plot_history: learning_rate=True needs the History of one fit of an MLP, "
            f"got {type(history).__name__}: leave it out"
        )
    if len(fits) == 1 and not fits[0].name and label != "training":
        fits = [fits[0]._replace(name=label)]
    ax = new_axes() if ax is None else ax
    _drawn[ax] = [*(_drawn.get(ax, []) if ax.get_lines() else []), *fits]
    if len(fits) > MOST_COLOURS:
        fits = _draw_others(ax, fits, line)
    for fit in fits:
        color = _draw(ax, fit, line)
        if fit.on_the_right:
            _draw_scores(_right_of(ax) or ax.twinx(), fit, color)
    _dress(ax, _drawn[ax])
    _mark_kept(ax, _drawn[ax])
    if learning_rate:
        _draw_rates(ax, fits[0].learning_rate)
    return ax


def _mark_kept(ax: "Axes", drawn: list[Curves]) -> None:
    """Draw a circle on a curve of losses at the epoch that a fit has kept."""
    for fit in drawn:
        values = fit.validation_loss or fit.loss
        if fit.kept is not None and fit.kept <= len(values):
            style: dict[str, Any] = {"markerfacecolor": "none", "color": INK, "markersize": 9}
            ax.plot([fit.kept], [values[fit.kept - 1]], "o", label="_kept", **style)


def _draw_rates(ax: "Axes", rates: Sequence[float]) -> None:
    right = ax.twinx()
    right.set_label(RATES)
    right.plot(_epochs(rates), rates, color=SOFT, linewidth=0.9)
    right.set_ylim(bottom=0)
    right.set_ylabel("learning rate", color=SOFT)
    right.tick_params(colors=SOFT, which="both")
    right.spines["top"].set_visible(False)
    if _right_of(ax) is not None:
        right.spines["right"].set_position(("axes", BESIDE_SCORES))


def _draw_others(ax: "Axes", fits: list[Curves], line: dict[str, Any]) -> list[Curves]:
    """Draw all but the best fit in grey, by the curve that says which is best; return that one."""
    best = best_of(fits)
    if best is None:
        return fits
    others = [fit for fit in fits if fit is not best.fit]
    style = {"color": SOFT, "linewidth": 0.8, "alpha": 0.6, **line}
    for i, fit in enumerate(others):
        curve = getattr(fit, best.field)
        # matplotlib leaves labels that begin with _ out of the legend.
        ax.plot(_epochs(curve), curve, label="_other" if i else f"{len(others)} others", **style)
    return [best.fit]


def _draw(ax: "Axes", fit: Curves, line: dict[str, Any]) -> Any:
    """Draw the losses of a fit, and return the colour."""
    # A curve of a single epoch needs a marker to be visible.
    dot = {"marker": "o"} if len(fit.loss) == 1 else {}
    line = {"linewidth": 1.8, **dot, **line}
    (curve,) = ax.plot(_epochs(fit.loss), fit.loss, label=fit.name or TRAINING, **line)
    if len(fit.validation_loss):
        style = {**line, "color": curve.get_color(), "linestyle": DASHED}
        style |= {"markerfacecolor": "none"} if dot else {}
        name = f"{fit.name}, validation" if fit.name else VALIDATION
        ax.plot(_epochs(fit.validation_loss), fit.validation_loss, label=name, **style)
    return curve.get_color()


def _draw_scores(right: "Axes", fit: Curves, color: Any) -> None:
    right.set_label(SCORES)
    curves = fit.on_the_right
    for (metric, values), style in zip(curves.items(), cycle((":", "-.")), strict=False):
        name = f"{fit.name}, validation {metric}" if fit.name else f"validation {metric}"
        right.plot(_epochs(values), values, style, color=color, label=f"{name} (right)")
    right.set_ylabel(f"validation {', '.join(curves)}")
    right.spines["top"].set_visible(False)


def _right_of(ax: "Axes") -> "Axes | None":
    """Return the axes of validation scores that lie over these, if there are some."""
    # Subplots may share their x, too.
    place = ax.get_position().bounds
    over = (axes for axes in ax.figure.axes if axes.get_position().bounds == place)
    return next((axes for axes in over if axes.get_label() == SCORES), None)


def _epochs(values: Sequence[float]) -> NDArray[np.int64]:
    return np.arange(1, len(values) + 1)


def _dress(ax: "Axes", drawn: list[Curves]) -> None:
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss")
    if _calls_for_log(ax):
        ax.set_yscale("log")
        log_ticks(ax.yaxis, *ax.get_ylim())
    else:
        ax.set_yscale("linear")
    whole_ticks(ax)
    title(ax, _best_epoch_text(drawn))
    _name_curves(ax)


def _best_epoch_text(drawn: list[Curves]) -> str:
    """Return a sentence on the best epoch of all fits on the axes."""
    best = best_of(drawn)
    if best is None:
        return ""
    fit, n = best.fit, len(getattr(best.fit, best.field))
    who = f"best: {fit.name or 'training'}," if len(drawn) > 1 else "best"
    kinds = {"loss": "training loss", "validation_loss": "validation loss"}
    kind = kinds.get(best.field, f"validation {fit.metric}")
    if fit.kept is not None:
        who = who.replace("best", "kept")
    return f"{who} {kind} {best.value:.4g} in epoch {best.epoch} of {n}"


def _name_curves(ax: "Axes") -> None:
    """Draw a legend: an entry for each of several fits, and for solid and dashed lines."""
    lines = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    dashed = [line for line in lines if str(line.get_label()).endswith(", validation")]
    lines = [line for line in lines if line not in dashed]
    options: dict[str, Any] = {}
    if dashed:
        options["title"] = f"solid: {TRAINING}\ndashed: {VALIDATION}"
    elif all(line.get_label() not in (TRAINING, VALIDATION) for line in lines):
        options["title"] = TRAINING
    right = _right_of(ax)
    if right is not None:
        # The axes on the right lie above: their curves would cross a legend of those below.
        ax.legend_ = None
        lines += right.get_lines()
        options["loc"] = "center right"
    tidy(ax, right, handles=lines, **options)


def _calls_for_log(ax: "Axes") -> bool:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.get_lines()])
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() > LOG_SCALE_FACTOR * values.min())
