"""Scores of models of tables, importances of columns, leaderboard, summary and HTML."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import get_scorer, get_scorer_names

from fastmlp import EarlyStopping, History
from fastmlp.extend import messages, metrics, scalars
from fastmlp.tabular import outputs
from fastmlp.tabular.decisions import LABEL_SCORES, LabelScore
from fastmlp.tabular.outputs import Score, Scorer, Task
from fastmlp.tabular.pack import Member, Pack
from fastmlp.tabular.pool import TableRows
from fastmlp.tabular.schema import Values, reasons
from fastmlp.typing import Array, Scoring

# The default score of a pack.
DEFAULT_SCORERS = {"regression": "neg_root_mean_squared_error"}
OWN_OF_CLASSES = "neg_log_loss"
# Other libraries' words for scorers, and for metrics of nets.
SCORER_WORDS = {
    **metrics.OF_SCORERS,
    "neg_mean_absolute_error": "mae mean_absolute_error l1",
    "neg_mean_squared_error": "mse mean_squared_error l2",
}


def metrics_of(
    asked: Any, early_stopping: EarlyStopping | None, classes: Array | None, who: str
) -> tuple[dict[str, Score], EarlyStopping | None]:
    """Scores of metrics by name, and early stopping with a mode."""
    scores = dict[str, Score]()
    modes = {"validation_loss": "min", "loss": "min"}
    for name, metric in metrics.named(asked, who):
        if isinstance(metric, str):
            scores[name] = scored(metric, classes, who, "metrics")
            modes[name] = "max"
            continue
        if metric.scorer is None:
            score = _of_function(metric)
            modes[name] = ""
        else:
            score = scored(metric.scorer, classes, who)
            modes[name] = "max"
        scores[name] = _owned(score, f"{who}: metrics[{name!r}]")
    if early_stopping is None:
        return scores, None
    scalars.known(f"{who}: early_stopping", "monitor", early_stopping.monitor, modes)
    mode: Any = early_stopping.mode or modes[early_stopping.monitor]
    if not mode:
        needed = "needs mode='max' if higher is better, else mode='min'"
        raise ValueError(f"{who}: early_stopping: {early_stopping.monitor!r} {needed}")
    return scores, replace(early_stopping, mode=mode)


def _of_function(metric: Any) -> Score:
    """The score of a function of targets, predictions and optionally weights.

    For two classes the predictions are the vector of probabilities of the second.
    """
    function = metric.function
    weighs = metric.weighs

    def score(y: Array, predictions: Array, weight: Array | None) -> float:
        if predictions.shape[1:] == (2,):
            seen = predictions[:, 1]
        else:
            seen = predictions
        return float(function(y, seen, **({"sample_weight": weight} if weighs else {})))

    return score


def _owned(score: Score, owner: str) -> Score:
    """A score whose errors name their owner."""

    def owned(y: Array, predictions: Array, weight: Array | None) -> float:
        try:
            return score(y, predictions, weight)
        except Exception as error:
            raise ValueError(f"{owner} failed: {error}") from error

    return owned


def score_of(
    scoring: Scoring | None, task: Task, classes: Array | None, who: str
) -> Score | None:
    """A score of (y, predictions, weight), higher is better; None: the pack's default.

    `scoring` is a name or function of (estimator, X, y) as in scikit-learn.
    `classes`, shape (n_classes,), are labels; None for numbers.
    """
    if scoring is None or scoring == DEFAULT_SCORERS.get(task, OWN_OF_CLASSES):
        return None
    if classes is not None and scoring in LABEL_SCORES:
        # As in scikit-learn, F1 is that of the label 1; without it, of the second.
        labels = classes.tolist()
        return LabelScore(scoring, labels.index(1) if 1 in labels else 1)
    return scored(scoring, classes, who)


def scored(
    scoring: Scoring, classes: Array | None, who: str, word: str = "scoring"
) -> Score:
    """The score of a name or scorer; errors call the parameter `word`."""
    if isinstance(scoring, str):
        if (quick := QUICK[classes is None].get(scoring)) is not None:
            return quick
        if scoring not in (known := get_scorer_names()):
            meant = messages.suggestion(scoring, known, SCORER_WORDS)
            message = f"{who}: {word}: {scoring!r} is no score{meant}"
            raise ValueError(f"{message} sklearn.metrics.get_scorer_names() has all")
    scorer = get_scorer(scoring)
    weighs = hasattr(scorer, "_score_func")
    predictor = metrics.estimator_of(classes)

    def score(y: Array, predictions: Array, weight: Array | None) -> float:
        if weighs and weight is not None:
            more = {"sample_weight": weight}
        else:
            more = {}
        labels = y if classes is None else classes[y]
        return float(scorer(predictor, predictions, labels, **more))

    if not isinstance(scoring, str):
        return score
    of = "numbers" if classes is None else f"{len(classes)} classes"
    return _owned(score, f"{who}: {word}={scoring!r} of {of}")


def _mean(errors: Callable[[Array, Array], Array], sign: int) -> Score:
    return lambda y, predictions, weight: float(
        sign * np.average(errors(y, predictions), weights=weight)
    )


def _r2(y: Array, predictions: Array, weight: Array | None) -> float:
    center = np.average(y, weights=weight)
    errors, spread = (
        np.average(outputs.squared_errors(y, values), weights=weight)
        for values in (predictions, center)
    )
    return float(1 - errors / (spread or 1.0))


# By whether there are numbers. A selection scores some thousand means:
# 0.02 ms each, and 0.6 ms with scikit-learn's functions.
QUICK: dict[bool, dict[str, Score]] = {
    False: {"accuracy": _mean(outputs.hits, 1)},
    True: {
        "r2": _r2,
        "neg_mean_squared_error": _mean(outputs.squared_errors, -1),
        "neg_mean_absolute_error": _mean(outputs.absolute_errors, -1),
    },
}
# Maximum numbers of rows that a model keeps, and of values in them.
MOST_STORED_ROWS, MOST_NUMBERS = 2000, 1_000_000
N_REPEATS = 5


class KeptRows(NamedTuple):
    """Rows that a model keeps, and a seed for draws from them.

    `scores` and `sizes` have shape (n_rows,), as in `TableEnsemble`.
    """

    part: TableRows
    seed: int = 0
    scores: Array | None = None
    sizes: Array | None = None


def kept_of(
    part: TableRows, scores: Array, sizes: Array, generator: np.random.Generator
) -> KeptRows:
    """Some of the validation rows."""
    n_columns = part.values.numbers.shape[1] + part.values.codes.shape[1]
    most = min(MOST_STORED_ROWS, max(MOST_NUMBERS // n_columns, 10))
    rows = np.arange(len(part.y))
    if len(rows) > most:
        rows = np.sort(generator.choice(len(rows), most, replace=False))
    seed = int(generator.integers(2**31))
    return KeptRows(part.take(rows), seed, scores[rows], sizes[rows])


def importances(model: Any, kept: KeptRows) -> NDArray[np.float64]:
    """Importances of a model's columns, shape (n_features,)."""
    # scikit-learn's trees are loaded with it; a fit does not need them.
    from sklearn.inspection import permutation_importance

    schema, part = model.schema_, kept.part
    scorer = Scorer(model.pack_.task, part.y, part.weight, model._own_score())

    def score(
        rows: "_ModelOfPlaces", X: Array, y: Array, sample_weight: Any = None
    ) -> float:
        return scorer.score_of(rows.predict(X))

    names = schema.read_names
    # A column of row numbers for each column of the table:
    # all parts of a date are shuffled as one.
    X = np.repeat(np.arange(len(part.y))[:, None], len(names), axis=1)
    result = permutation_importance(
        _ModelOfPlaces(model, part.values),
        X,
        part.y,
        scoring=score,
        n_repeats=N_REPEATS,
        random_state=kept.seed,
    )
    # The sum makes 0.0 of -0.0.
    means = result.importances_mean + 0.0
    by_name = dict(zip(names, means.tolist(), strict=True))
    return np.array([by_name.get(name, 0.0) for name in schema.columns])


class _ModelOfPlaces:
    """A model as an estimator of row numbers, one for each column."""

    def __init__(self, model: Any, values: Values) -> None:
        self.model = model
        self.values = values
        self._numbers, self._codes = model.schema_.places

    def fit(self, X: Any, y: Any = None) -> "_ModelOfPlaces":
        return self

    def predict(self, X: Array) -> Array:
        numbers = np.take_along_axis(self.values.numbers, X[:, self._numbers], axis=0)
        codes = np.take_along_axis(self.values.codes, X[:, self._codes], axis=0)
        predictions: Array = self.model._predicted(Values(numbers, codes))
        return predictions


LEADERBOARD_COLUMNS = (
    "member",
    "weight",
    "validation_score",
    "n_epochs",
    "fit_seconds",
)
Row = tuple[str, float, float, float, float]


def leaderboard(pack: Pack, beside: Sequence[tuple[str, float, float]] = ()) -> Any:
    """Members, the best first: a frame of pandas, or without pandas a list of dicts.

    `beside` has name, score and seconds of each estimator beside the pack.
    """
    by_recipe: dict[int, list[Any]] = {}
    for member in pack.members:
        by_recipe.setdefault(member.recipe.number, []).append(member)
    rows: list[Row] = []
    for same in by_recipe.values():
        first = same[0]
        weight = sum(member.weight for member in same)
        epoch = float(np.mean([member.epoch for member in same]))
        of_nets = sum(member.seconds for member in same)
        rows.append((str(first.recipe), weight, first.score, epoch, of_nets))
    weights = pack.extra_weights.tolist()
    for weight, (name, score, of_fits) in zip(weights, beside, strict=True):
        rows.append((name, weight, score, float("nan"), of_fits))
    rows.sort(key=lambda row: -row[2])
    return framed([dict(zip(LEADERBOARD_COLUMNS, row, strict=True)) for row in rows])


def curves(members: Sequence[Member], metrics: Sequence[str]) -> dict[str, History]:
    """Losses and metrics of each net, by recipe and,
    with several folds, a number from 1.
    """
    recipes = [str(member.recipe) for member in members]
    histories = {}
    for i, (name, member) in enumerate(zip(recipes, members, strict=True)):
        n = recipes[: i + 1].count(name)
        losses, validation_losses, *others = member.curve.T.tolist()
        histories[name if recipes.count(name) == 1 else f"{name}, {n}"] = History(
            losses,
            validation_losses,
            seconds=member.seconds,
            metrics=dict(zip(metrics, others, strict=False)),
            best_epoch=member.epoch - 1,
        )
    return histories


def framed(rows: list[dict[str, Any]]) -> Any:
    """Rows as a frame of pandas, or without pandas as they are."""
    try:
        import pandas as pd
    except ImportError:
        return rows
    return pd.DataFrame(rows, columns=list(LEADERBOARD_COLUMNS))


def rows_of(board: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        board if isinstance(board, list) else board.to_dict("records")
    )
    return rows


class EnsembleText(str):
    """Text of several lines, which a notebook and a prompt show without ``print``."""

    __slots__ = ()
    __repr__ = str.__str__


def summary(model: Any) -> EnsembleText:
    cells = _cells(model)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *numbers in cells:
        row = [name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])]
        lines.append("  ".join(row).rstrip())
    left_out = [f"left out: {reason}" for reason in reasons(model.schema_.dropped)]
    return EnsembleText("\n".join([*lines, *left_out, _last(model)]))


def html(model: Any) -> str:
    left_out = [f"left out: {reason}" for reason in reasons(model.schema_.dropped)]
    shown = html_text("; ".join([_last(model), *left_out]), strong=type(model).__name__)
    rows = (
        "".join(f"<td>{escape(cell)}</td>" for cell in row) for row in _cells(model)
    )
    return f"{shown}<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def html_text(shown: str, *, strong: str) -> str:
    """A line of text, after the word `strong` in bold type."""
    return f"<div><strong>{escape(strong)}</strong> {escape(shown)}</div>"


def _cells(model: Any) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = [("member", "weight", "score", "epochs")]
    for row in rows_of(model.leaderboard_):
        name, weight, score, epoch, _ = (row[column] for column in LEADERBOARD_COLUMNS)
        epoch_text = "" if epoch != epoch else f"{epoch:.0f}"
        cells.append((name, f"{weight:.3f}", f"{score:.4g}", epoch_text))
    return cells


def _last(model: Any) -> str:
    schema, pack = model.schema_, model.pack_
    numbers = len(schema.numeric_names)
    categories = len(schema.categorical_names)
    more = f", {len(out)} left out" if (out := schema.dropped) else ""
    if categories == 1:
        of_levels = "1 category"
    else:
        of_levels = f"{categories} categories"
    columns = f"{messages.count(numbers, 'number')}, {of_levels}{schema.moments}{more}"
    nets = f"{messages.count(len(pack.members), 'net')} of {pack.n_trained}"
    nets += f", trained in {model.compute_dtype}" if model.compute_dtype else ""
    if (distilled := model.training_.get("distilled")) is not None:
        nets += f", distilled: loss {distilled['loss']:.4g}, ensemble's"
        nets += f" {distilled['ensemble_loss']:.4g}"
    return f"{nets}; validation score {pack.validation_score:.4g}; {columns}"
