"""Pictures of fits and searches with matplotlib: the extra `plot`."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastmlp import History, Report
from fastmlp.extend import messages

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_history", "plot_search"]


class Estimator(Protocol):
    def get_params(self, deep: bool = True) -> Any: ...


Fit: TypeAlias = History | Report | Estimator
Fits: TypeAlias = Fit | Iterable[Fit] | Mapping[Any, Fit]
HISTORIES_ACCEPTED = (
    "a History, a Report, a fitted estimator, or a list or dict of them"
)
# Ratio of largest to smallest value above which an axis is logarithmic.
LOG_SCALE_FACTOR = 20
# Colours of matplotlib's cycle. More fits get no legend.
MOST_NAMED = 10
TRAINING = "training, mean during each epoch"
VALIDATION = "validation, at each epoch's end"
# Position of a second axis on the right, in widths of the axes.
BESIDE_SCORES = 1.13
INK = "#333333"
SOFT = "#999999"
FAINT = "#d9d9d9"
WRONG = "#c62828"
# Numbers with more distinct values get a colour bar, or groups.
MOST_COLOURS, N_GROUPS = 6, 4
TITLE_WIDTH = 70


def plot_history(
    history: Fits,
    ax: "Axes | None" = None,
    *,
    label: str = "training",
    learning_rate: bool = False,
    **line: Any,
) -> "Axes":
    """Plot the loss of each epoch, and the validation loss if any.

    The title names the epoch that early stopping kept, else the best epoch, with a
    circle on the curve. The training loss is the mean during an epoch; the validation
    loss, at its end, may be lower.

    The loss axis is logarithmic for positive curves over a factor of 20.
    A second call with the same `ax` adds curves.

    Parameters
    ----------
    history : History, Report, fitted estimator, or list or dict of them
        The result of `MLP.fit` or `fit_many`, or a callback's report. Keys of a dict
        are names in the legend. Metrics of a single fit, or `validation_scores_` of an
        estimator, are drawn on the right. A pipeline stands for the last step, a search
        for `best_estimator_`. More than ten fits get no legend.
    ax : matplotlib Axes, optional
        By default on a new figure.
    label : str, default "training"
        Name of one fit in the legend.
    learning_rate : bool, default False
        Draw each epoch's last learning rate in grey,
        with an axis on the right; for one fit of an `MLP`.
    **line
        Arguments of matplotlib's `Axes.plot` for all curves: color, linewidth, ...

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    TypeError
        If `history` has another type.
    ValueError
        If an estimator has no `loss_curve_`,
        the list or dict is empty, or rates are missing.

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
    fits = _histories(history)
    alone = fits.get("")
    if learning_rate and not (alone and alone.learning_rate):
        raise ValueError(
            "plot_history: learning_rate=True needs the History of one fit of an MLP, "
            f"got {type(history).__name__}: leave it out"
        )
    if alone and label != "training":
        fits = {label: alone}
    ax = _new_axes() if ax is None else ax
    ax.set_title(
        _best_text(fits) if not ax.get_lines() else "", loc="left", fontsize="medium"
    )
    right = []
    for name, fit in fits.items():
        color = _draw_losses(ax, name, fit, len(fits) <= MOST_NAMED, line)
        if alone and fit.metrics:
            right.append(
                _right(ax, fit.metrics, color, f"validation {', '.join(fit.metrics)}")
            )
    if alone and learning_rate:
        place = BESIDE_SCORES if right else 1.0
        rates = {"learning rate": alone.learning_rate}
        right.append(_right(ax, rates, SOFT, "learning rate", place))
        right[-1].set_ylim(bottom=0)
    values = np.concatenate(
        [np.asarray(each.get_ydata(), float) for each in ax.get_lines()]
    )
    ax.set_yscale("log" if _spans_decades(values) else "linear")
    ax.set(xlabel="epoch", ylabel="loss")
    ax.locator_params(axis="x", integer=True)
    # The uppermost axes have the legend, which curves would cross on axes below.
    shown = [each for part in (ax, *right) for each in part.get_lines()]
    shown = [each for each in shown if not str(each.get_label()).startswith("_")]
    _tidy(ax, right[-1] if right else ax, shown)
    return ax


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def plot_search(
    search: Any,
    ax: "Axes | None" = None,
    *,
    parameter: str | None = None,
    color: str | None = None,
) -> "Axes":
    """Plot the mean score of each candidate on the held-out folds,
    and its standard deviation.

    Candidates are placed at their values of one parameter; the axis is logarithmic for
    positive values over a factor of 20. Colours show a second parameter. The chosen
    candidate is marked, with its parameters in the title. Under halving, or with a
    function as `refit`, others may have a higher score.

    Parameters
    ----------
    search : fitted MLPSearchCV, or any other of scikit-learn's searches
        Of several metrics, the metric of `refit` is drawn.
    ax : matplotlib Axes, optional
        By default on a new figure.
    parameter : str, optional
        A searched parameter. By default,
        its values explain most of the scores' variance.
    color : str, optional
        Another parameter. By default, it explains most after the first.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If the search is not fitted, did not search a parameter,
        or has several metrics and does not name one as `refit`.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from types import SimpleNamespace
    >>> results = {"mean_test_score": [0.8, 0.9], "std_test_score": [0.1, 0.05],
    ...            "params": [{"alpha": 0.1}, {"alpha": 1.0}]}
    >>> ax = plot_search(SimpleNamespace(cv_results_=results))
    >>> ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")
    ('alpha', 'score', 'best: score 0.9 with alpha=1')
    """
    params, mean, spread, metric = _candidates(search)
    parameter, color = _chosen(params, mean, parameter, color)
    ax = _new_axes() if ax is None else ax
    has = np.array([i for i, each in enumerate(params) if parameter in each])
    places = np.full(len(params), np.nan)
    places[has] = _places(ax, [params[i][parameter] for i in has])
    folds = getattr(search, "n_splits_", "the")
    bars: dict[str, Any] = {
        "fmt": "o",
        "markersize": 4,
        "capsize": 2,
        "color": INK,
        "ecolor": SOFT,
    }
    label = f"mean and standard deviation of {folds} folds"
    ax.errorbar(places[has], mean[has], spread[has], label=label, **bars)
    if color is not None:
        _colour(ax, params, places, mean, color)
    best = int(getattr(search, "best_index_", np.argsort(-mean, kind="stable")[0]))
    ring: dict[str, Any] = {
        "markersize": 11,
        "markerfacecolor": "none",
        "markeredgewidth": 2,
    }
    ax.plot(places[[best]], mean[[best]], "o", color=WRONG, label="best", **ring)
    ax.set(xlabel=parameter, ylabel=metric)
    settings = ", ".join(f"{key}={_text(value)}" for key, value in params[best].items())
    text = f"best: {metric} {mean[best]:.4g} with {settings}"
    ax.set_title("\n".join(wrap(text, TITLE_WIDTH)), loc="left", fontsize="medium")
    _tidy(ax, ax, ax.get_legend_handles_labels()[0])
    return ax


def _new_axes() -> "Axes":
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(messages.needs("plotting", "matplotlib")) from error
    ax: Axes = pyplot.subplots(layout="constrained")[1]
    return ax


def _tidy(ax: "Axes", uppermost: "Axes", handles: Sequence[Any]) -> None:
    ax.grid(color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if handles:
        uppermost.legend(
            handles=handles, facecolor=ax.get_facecolor(), edgecolor="none"
        )


def _spans_decades(values: NDArray[np.float64]) -> bool:
    values = values[np.isfinite(values)]
    return bool(
        values.size
        and values.min() > 0
        and values.max() > LOG_SCALE_FACTOR * values.min()
    )


def _histories(fits: Any) -> dict[str, History]:
    """Fits by name; a single fit has the name ""."""
    if isinstance(fits, Mapping):
        named = [(str(key), f"history[{key!r}]", fit) for key, fit in fits.items()]
    elif isinstance(fits, Iterable) and not hasattr(fits, "get_params"):
        named = [(f"net {i}", f"history[{i}]", fit) for i, fit in enumerate(fits)]
    else:
        named = [("", "history", fits)]
    if not named:
        raise ValueError(f"plot_history: history is an empty {type(fits).__name__}")
    return {name: _history(where, fit) for name, where, fit in named}


def _history(where: str, fit: Any) -> History:
    """A History, also for an estimator, a search or a pipeline."""
    fit = fit.history if isinstance(fit, Report) else fit
    if isinstance(fit, History):
        return fit
    if not hasattr(fit, "get_params"):
        hint = ": take what its fit returned" if hasattr(fit, "fit") else ""
        raise TypeError(
            f"plot_history: {where} must be {HISTORIES_ACCEPTED}, got {type(fit).__name__}{hint}"
        )
    fit = getattr(fit, "best_estimator_", fit)
    fit = fit.steps[-1][1] if hasattr(fit, "steps") else fit
    loss = getattr(fit, "loss_curve_", None)
    if loss is None:
        raise ValueError(
            f"plot_history: this {type(fit).__name__} has no loss_curve_: fit it "
            "first, with another solver than 'lbfgs', which has no epochs"
        )
    # scikit-learn's estimators have neither scoring nor a curve of validation losses.
    scoring = getattr(fit, "scoring", None)
    # Scores of scoring="loss" are the negative validation loss.
    if scoring == "loss":
        scores = None
    else:
        scores = getattr(fit, "validation_scores_", None)
    if scores:
        metrics = {_metric(fit, scoring): scores}
    else:
        metrics = {}
    return History(
        loss, getattr(fit, "validation_loss_curve_", None) or [], metrics=metrics
    )


def _metric(estimator: Any, scoring: Any) -> str:
    if scoring is not None:
        return str(getattr(scoring, "__name__", scoring))
    tags = getattr(estimator, "__sklearn_tags__", None)
    kind = str(tags().estimator_type) if tags else ""
    return {"classifier": "accuracy", "regressor": "R²"}.get(kind, "score")


def _draw_losses(
    ax: "Axes", name: str, fit: History, is_named: bool, line: Mapping[str, Any]
) -> Any:
    # A curve of a single epoch needs a marker to be visible.
    style = {"linewidth": 1.8, "marker": "o" if len(fit.loss) == 1 else None, **line}
    if name:
        names = (name, f"{name}, validation")
    else:
        names = (TRAINING, VALIDATION)
    names = names if is_named else ("_", "_")
    (curve,) = ax.plot(_epochs(fit.loss), fit.loss, label=names[0], **style)
    style |= {"color": curve.get_color(), "linestyle": "--"}
    if fit.validation_loss:
        ax.plot(
            _epochs(fit.validation_loss), fit.validation_loss, label=names[1], **style
        )
    values = fit.validation_loss or fit.loss
    if fit.best_epoch is not None and fit.best_epoch < len(values):
        ring: dict[str, Any] = {
            "markerfacecolor": "none",
            "color": INK,
            "markersize": 9,
        }
        ax.plot(
            [fit.best_epoch + 1], [values[fit.best_epoch]], "o", label="_kept", **ring
        )
    return curve.get_color()


def _right(
    ax: "Axes",
    curves: Mapping[str, Sequence[float]],
    color: Any,
    text: str,
    place: float = 1.0,
) -> "Axes":
    """Draw curves on new axes, whose numbers stand on the right."""
    right = ax.twinx()
    for i, (name, values) in enumerate(curves.items()):
        style = "-" if text == name else (":", "-.")[i % 2]
        right.plot(_epochs(values), values, style, color=color, label=f"{name} (right)")
    right.set_ylabel(text, color=color)
    right.spines["right"].set_position(("axes", place))
    right.spines["top"].set_visible(False)
    return right


def _epochs(values: Sequence[float]) -> NDArray[np.int64]:
    return np.arange(1, len(values) + 1)


def _best_text(fits: Mapping[str, History]) -> str:
    for field, kind in (
        ("validation_loss", "validation loss"),
        ("loss", "training loss"),
    ):
        finite = [
            (value, epoch, name, len(getattr(fit, field)))
            for name, fit in fits.items()
            for epoch, value in enumerate(getattr(fit, field))
            if np.isfinite(value) and fit.best_epoch in (None, epoch)
        ]
        if finite:
            value, epoch, name, n = min(finite)
            who = "best" if fits[name].best_epoch is None else "kept"
            who = f"{who}: {name}," if len(fits) > 1 else who
            return f"{who} {kind} {value:.4g} in epoch {epoch + 1} of {n}"
    return ""


def _candidates(search: Any) -> tuple[list[dict[str, Any]], Any, Any, str]:
    results = getattr(search, "cv_results_", None)
    refit = getattr(search, "refit", None)
    if results is None:
        raise ValueError("plot_search: search must be fitted")
    metric = "score" if "mean_test_score" in results else str(refit)
    if f"mean_test_{metric}" not in results:
        raise ValueError(
            "plot_search: search has several metrics: set its refit to the name of one "
            "of them"
        )
    mean, spread = (
        np.asarray(results[f"{each}_test_{metric}"], float) for each in ("mean", "std")
    )
    if metric == "score":
        metric = _metric(
            getattr(search, "estimator", None), getattr(search, "scoring", None)
        )
    return results["params"], mean, spread, metric


def _chosen(
    params: Sequence[dict[str, Any]],
    mean: Any,
    parameter: str | None,
    color: str | None,
) -> tuple[str, str | None]:
    known = sorted({name for each in params for name in each})
    for chosen in (parameter, color):
        if chosen is not None and chosen not in known:
            raise ValueError(
                f"plot_search: no parameter {chosen!r} was searched; there are "
                f"{', '.join(known)}"
            )
    if not known:
        raise ValueError(
            "plot_search: search has no parameters: its only candidate is {}"
        )
    several = [
        name for name in known if len({_text(each.get(name)) for each in params}) > 1
    ]
    ranked = sorted(several, key=lambda name: -_influence(params, mean, name)) or known
    parameter = parameter or next((name for name in ranked if name != color), ranked[0])
    return parameter, color or next(
        (name for name in several if name != parameter), None
    )


def _influence(params: Sequence[dict[str, Any]], mean: Any, name: str) -> float:
    """The adjusted share of variance, so that many values are not an advantage."""
    values = [each.get(name) for each in params]
    groups = np.unique([_text(value) for value in values], return_inverse=True)[1]
    if groups.max() >= N_GROUPS and _are_numbers(values):
        edges = np.quantile(
            np.asarray(values, float), np.linspace(0, 1, N_GROUPS + 1)[1:-1]
        )
        groups = np.digitize(np.asarray(values, float), edges)
    groups = groups[np.isfinite(mean)]
    mean = mean[np.isfinite(mean)]
    n = len(mean)
    once = np.unique(groups)
    if n <= len(once) or not mean.var():
        return -np.inf
    within = sum(
        mean[groups == group].var() * (groups == group).sum() for group in once
    )
    return float(1 - (within / (n - len(once))) / (mean.var() * n / (n - 1)))


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(
        isinstance(value, Real) and not isinstance(value, bool) for value in values
    )


def _text(value: Any) -> str:
    if _are_numbers([value]):
        return f"{float(value):.4g}"
    return str(getattr(value, "__name__", value))


def _places(ax: "Axes", values: list[Any]) -> NDArray[Any]:
    if _are_numbers(values):
        numbers = np.asarray(values, float)
        ax.set_xscale("log" if _spans_decades(numbers) else "linear")
        return numbers
    known = list(dict.fromkeys(map(_text, values)))
    ax.set_xticks(range(len(known)), known)
    return np.array([known.index(_text(value)) for value in values])


def _colour(
    ax: "Axes", params: Sequence[dict[str, Any]], places: Any, mean: Any, name: str
) -> None:
    from matplotlib import colormaps

    has = np.array([i for i, each in enumerate(params) if name in each])
    values = [params[i][name] for i in has]
    known = list(dict.fromkeys(map(_text, values)))
    if len(known) > MOST_COLOURS and _are_numbers(values):
        numbers = np.asarray(values, float)
        scale = "log" if _spans_decades(numbers) else "linear"
        points = ax.scatter(places[has], mean[has], 30, numbers, norm=scale, zorder=3)
        ax.figure.colorbar(points, ax=ax, label=name)
        return
    for i, text in enumerate(known):
        of_text = has[[_text(value) == text for value in values]]
        # viridis ends in a light green and a yellow that are hard to see on white.
        color = colormaps["viridis"](0.7 * i / max(len(known) - 1, 1))
        ax.scatter(
            places[of_text],
            mean[of_text],
            30,
            [color],
            label=f"{name}={text}",
            zorder=3,
        )
