"""From what a user has at hand to the curves of a fit."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from fastmlp.training.history import History, Report


class Estimator(Protocol):
    """An estimator in scikit-learn's sense: a net, a pipeline, a search or an ensemble."""

    def get_params(self, deep: bool = True) -> Any: ...


Fit: TypeAlias = History | Report | Estimator
Fits: TypeAlias = Fit | Iterable[Fit] | Mapping[Any, Fit]
WANTED = "a History, a Report, a fitted estimator, or a list or dict of them"


class Curves(NamedTuple):
    """A fit's numbers by epoch.

    Attributes
    ----------
    name : str, empty for one fit alone
    scores : of held-out rows, the higher the better; may be empty, as may `validation_loss`
    metric : str, the name of what the scores measure
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


class Best(NamedTuple):
    """The best epoch of some fits, counted from 1, by the curve of the name `field`."""

    fit: Curves
    field: str
    value: float
    epoch: int


def curves_of(given: Fits) -> list[Curves]:
    """Return the curves of each fit.

    Raises
    ------
    TypeError
        If it is not what `WANTED` says.
    ValueError
        If an estimator has no curve, or there is no fit.
    """
    if isinstance(given, Mapping):
        named = [(str(key), f"history[{key!r}]", one) for key, one in given.items()]
    elif (members := getattr(given, "estimators_", None)) is not None:
        named = [(f"member {i}", f"history.estimators_[{i}]", one) for i, one in enumerate(members)]
    elif isinstance(given, Iterable) and not hasattr(given, "get_params"):
        named = [(f"net {i}", f"history[{i}]", one) for i, one in enumerate(given)]
    else:
        return [_curves("", "history", given)]
    if not named:
        raise ValueError(f"plot_history: history is an empty {type(given).__name__}")
    # Scores have an axis of their own, which one fit alone has room for.
    return [_curves(*one)._replace(scores=(), metrics={}) for one in named]


def best_of(fits: Sequence[Curves]) -> Best | None:
    """Return the best epoch by scores, else by validation loss, else by training loss; of a fit
    that has kept an epoch, that one."""
    for field, sign in (("scores", -1), ("validation_loss", 1), ("loss", 1)):
        found = [
            Best(fit, field, value, epoch)
            for fit in fits
            for epoch, value in enumerate(map(float, getattr(fit, field)), 1)
            if np.isfinite(value) and fit.kept in (None, epoch)
        ]
        if found:
            return min(found, key=lambda best: sign * best.value)
    return None


def metric_of(estimator: Any, scoring: Any) -> str:
    """Return the name of what an estimator's `scoring` measures."""
    if isinstance(scoring, str):
        return scoring
    if scoring is not None:
        return str(getattr(scoring, "__name__", "score"))
    tags = getattr(estimator, "__sklearn_tags__", None)
    kind = str(tags().estimator_type) if tags else ""
    return {"classifier": "accuracy", "regressor": "R²"}.get(kind, "score")


def _curves(name: str, where: str, given: Any) -> Curves:
    if isinstance(given, Report):
        given = given.history
    if isinstance(given, History):
        kept = None if given.best_epoch is None else given.best_epoch + 1
        curves = Curves(name, given.loss, given.validation_loss, metrics=given.metrics, kept=kept)
        return curves._replace(learning_rate=given.learning_rate)
    if not hasattr(given, "get_params"):
        hint = ": take what its fit returned" if hasattr(given, "fit") else ""
        raise TypeError(f"plot_history: {where} must be {WANTED}, got {type(given).__name__}{hint}")
    return _of_estimator(name, given)


def _of_estimator(name: str, given: Any) -> Curves:
    """Return the curves of an estimator, of a search's best one, or of a pipeline's last step."""
    given = getattr(given, "best_estimator_", given)
    given = given.steps[-1][1] if hasattr(given, "steps") else given
    loss = getattr(given, "loss_curve_", None)
    if loss is None:
        raise ValueError(
            f"plot_history: this {type(given).__name__} has no loss_curve_: fit it first, with "
            "another solver than 'lbfgs', which has no epochs"
        )
    scoring = getattr(given, "scoring", None)
    # With scoring="loss" they are the validation loss, negative.
    scores = () if scoring == "loss" else getattr(given, "validation_scores_", None) or ()
    validation_loss = getattr(given, "validation_loss_curve_", None) or ()
    return Curves(name, loss, validation_loss, scores, metric_of(given, scoring))
