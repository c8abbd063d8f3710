"""html_report: scores, pictures and columns of a model as one HTML file:
the extra `report`.
"""

from __future__ import annotations

import io
import os
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterable
from copy import copy
from functools import partial
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastmlp import MLP, History, __version__
from fastmlp.extend import explained, messages, scalars
from fastmlp.plotting import plot_history, plot_search
from fastmlp.typing import Array

if TYPE_CHECKING:
    from pandas import DataFrame

WHO = "html_report"
# Modules, and packages that have them.
NEEDED = {"sklearn": "scikit-learn", "matplotlib": "", "pandas": "", "jinja2": ""}
TEMPLATE = Path(__file__).with_name("report.html")
# Functions of sklearn.metrics by score, and the predictions that they take.
MEASURES_OF_CLASSES = {
    "accuracy": ("accuracy_score", "labels"),
    "balanced_accuracy": ("balanced_accuracy_score", "labels"),
    "f1": ("f1_score", "labels"),
    "auc": ("roc_auc_score", "ranks"),
    "average_precision": ("average_precision_score", "ranks"),
    "log_loss": ("log_loss", "probabilities"),
}
MEASURES_OF_NUMBERS = {
    "r2": "r2_score",
    "rmse": "root_mean_squared_error",
    "mae": "mean_absolute_error",
}
# Rows of a report at most, and resamples of them for intervals.
MOST_REPORTED_ROWS, N_RESAMPLES = 20_000, 200
# Rows that are shuffled for importances, and cells of their table, at most.
MOST_SHUFFLED, MOST_CELLS = 1000, 100_000
# Repeats for importances of a narrow table, and of one of more columns.
N_REPEATS = 5
FEW_REPEATS = 2
WIDE_PAGE = 100
MOST_SHOWN_CLASSES = 12
MOST_CURVES = 6
MOST_OUTPUTS = 3
MOST_POINTS = 1000
MOST_BARS = 20
N_TENTHS = 10
N_WORST = 10
N_COLUMNS_OF_WORST = 8
# Characters of a cell, and of a name in a picture; levels in a cell.
LONGEST_CELL = 80
LONGEST_NAME = 16
# Characters of names below a picture that stand upright.
LONGEST_UPRIGHT = 3
MOST_SHOWN_LEVELS = 6
# Probabilities of intervals; columns of pandas' descriptions.
COVERAGES = (0.5, 0.8, 0.9, 0.95)
ABOUT = ["unique", "top", "mean", "min", "max"]
# Texts stay texts, in the reader's fonts; files of equal models and rows are equal.
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "fastmlp", "font.size": 10}
Draw = Callable[..., object]


class HTMLReport(str):
    """A report as the text of an HTML file, which a notebook displays."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<HTMLReport: {len(self):,} characters, which path= writes to a file>"

    def _repr_html_(self) -> str:
        style = "width: 100%; height: 48rem; border: 1px solid #ccc"
        return f'<iframe srcdoc="{escape(self)}" style="{style}"></iframe>'


class Reported(NamedTuple):
    """A model, and its predictions of rows whose targets are known.

    Attributes
    ----------
    predicts : function of a frame like `X`, whose result is like `predictions`
    X : (n_rows, n_columns) frame
    y : (n_rows,) indices of classes, or (n_rows, n_outputs) numbers
    predictions : (n_rows, n_classes) probabilities, or (n_rows, n_outputs) numbers
    classes : (n_classes,) labels; None for numbers
    """

    model: Any
    predicts: Callable[[Any], Array]
    X: DataFrame
    y: Array
    predictions: Array
    classes: Array | None

    @property
    def weights(self) -> Array | float:
        """Weights of the classes' probabilities in labels."""
        model = getattr(self.model, "best_estimator_", self.model)
        weights: Array | float = getattr(model, "decision_weights_", 1.0)
        return weights

    @property
    def labels(self) -> Array:
        """Indices of the classes that are predicted, shape (n_rows,)."""
        labels: Array = (self.predictions * self.weights).argmax(axis=1)
        return labels


@explained
def html_report(
    model: Any,
    X: Any,
    y: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    history: History | None = None,
) -> HTMLReport:
    """Report how well a model predicts rows,
    which columns matter, and how it was trained.

    The report has scores with intervals beside a baseline, pictures of errors,
    calibration, importances of columns, curves of training, candidates, columns, and
    the worst rows. The file opens without a network. Needs the extra `report`.

    Parameters
    ----------
    model : MLP, fitted estimator, pipeline, search, or model of a table
        A classifier needs `predict_proba`.
    X : (n_rows, n_columns) array, list, frame of pandas or polars, or table of Arrow
        Rows that the model was not trained on.
        From more than 20,000 rows, 20,000 are drawn.
    y : (n_rows,) or (n_rows, n_outputs) array, or the name of a column of X
        Labels or numbers. Rows with missing targets are left out,
        and counted in the report.
    path : path, optional
        The file to write, such as "report.html". It is replaced if it exists.
    history : History, optional
        The result of `MLP.fit`, which a net does not keep, for the curves of training.

    Returns
    -------
    HTMLReport
        The file's text, a str, which a notebook displays.

    Raises
    ------
    ImportError
        If scikit-learn, matplotlib, pandas or jinja2 is missing.
    TypeError, ValueError
        If the model does not predict, no target is known, a label is not one of the
        model's classes, rows have several labels, or predictions do not have the shape
        of y.
    NotFittedError
        If the estimator is not fitted.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, html_report
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> net = MLP((1, 8, 1), seed=0)
    >>> history = net.fit(X, X**2, epochs=3)
    >>> report = html_report(net, X, X**2, history=history)
    >>> report.startswith("<!doctype html>"), "mae" in report
    (True, True)
    """
    lacks = [one or module for module, one in NEEDED.items() if not find_spec(module)]
    if lacks:
        raise ImportError(
            f"{WHO} needs {messages.listed(lacks)}: pip install {' '.join(lacks)}"
        )
    _check_model(model)
    if path is not None:
        scalars.path(WHO, "path", path, mode="w")
    from jinja2 import Template

    with warnings.catch_warnings():
        # Scores of one class are undefined, and fonts lack glyphs.
        warnings.simplefilter("ignore")
        reported, n_rows = _reported(model, X, y)
        importances = _importances(reported)
        tables = _tables(reported, importances)
        pictures = _pictures(reported, importances, history)
        text = Template(TEMPLATE.read_text("utf-8"), autoescape=True).render(
            model=model,
            kind=type(model).__name__,
            n_rows=n_rows,
            classes=_names(reported.classes),
            tables={name: _html(table) for name, table in tables.items()},
            pictures={name: _drawn(draw) for name, draw in pictures.items()},
            version=__version__,
        )
    # A name may hold half of a surrogate pair.
    report = HTMLReport(text.encode("utf-8", "replace").decode("utf-8"))
    if path is not None:
        temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(report, "utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return report


def _check_model(model: Any) -> None:
    """Refuse what does not predict: a list of nets, a file's name, the rows, a class."""
    from sklearn.utils.validation import check_is_fitted

    got = messages.a_kind(model)
    if isinstance(model, type):
        got = f"the class {model.__name__}"
    if isinstance(model, type) or not hasattr(model, "predict"):
        raise TypeError(
            f"{WHO}: model must be one net or one fitted estimator, got {got}; call "
            "html_report(model, X, y), for a file html_report(fastmlp.load(path), X, y)"
        )
    if not isinstance(model, MLP):
        check_is_fitted(model)


def _reported(model: Any, X: Any, y: Any) -> tuple[Reported, dict[str, int]]:
    """Predictions of the rows with known targets, and numbers of rows by their use."""
    import pandas as pd

    frame, plain = _frame(X, model)
    if isinstance(y, str):
        scalars.known(WHO, "column", y, frame)
        y = frame.pop(y)
    targets = pd.DataFrame(y)
    if len(targets) != len(frame):
        n = f"{len(frame)} and {len(targets)}"
        raise ValueError(f"{WHO}: X and y must have the same number of rows, got {n}")
    rows = np.flatnonzero(targets.notna().all(axis=1))
    if not len(rows):
        raise ValueError(f"{WHO}: y has missing values only, in {len(frame)} rows")
    n_rows = {"known": len(rows), "unknown": len(frame) - len(rows)}
    if len(rows) > MOST_REPORTED_ROWS:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_REPORTED_ROWS])
    frame = frame.iloc[rows]
    targets = targets.iloc[rows]
    n_rows["used"] = len(rows)
    classes = _classes_of(model)
    if classes is not None and len(classes) < 2:
        raise ValueError(f"{WHO}: the model knows one class only, {classes.tolist()}")
    predicts = partial(_predicted, model, classes, plain)
    predictions = predicts(frame)
    if classes is not None:
        known = _codes(targets, classes)
    else:
        try:
            known = targets.to_numpy(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{WHO}: y must hold numbers: {error}") from error
        if known.shape != predictions.shape:
            shapes = f"{predictions.shape} and {known.shape}"
            raise ValueError(f"{WHO}: predictions and y must be alike, got {shapes}")
    return Reported(model, predicts, frame, known, predictions, classes), n_rows


def _frame(X: Any, model: Any) -> tuple[DataFrame, bool]:
    """A copy of X as a frame, and True if the model takes arrays."""
    import pandas as pd

    X = X.to_pandas() if hasattr(X, "to_pandas") else X
    frame = pd.DataFrame(X)
    if isinstance(X, pd.DataFrame) or "int" not in str(frame.columns.dtype):
        return frame.copy(), False
    names = getattr(model, "feature_names", None)
    return frame.set_axis(names or [f"x{j}" for j in frame], axis=1), True


def _classes_of(model: Any) -> Array | None:
    """The classes whose probabilities a model predicts; None for numbers."""
    from sklearn.base import is_classifier

    if not isinstance(model, MLP):
        return np.asarray(model.classes_) if is_classifier(model) else None
    net = copy(model)
    # A net with frozen layers does not have an estimator.
    net.trainable = True
    try:
        labelled = is_classifier(net.as_estimator())
    except ValueError as error:
        raise ValueError(f"{WHO}: the net has no report: {error}") from error
    if labelled:
        return np.arange(max(model.layer_sizes[-1], 2))
    return None


def _predicted(model: Any, classes: Array | None, plain: bool, X: DataFrame) -> Array:
    """Predictions as in `Reported`; `plain`: the model takes arrays."""
    method = model.predict
    if classes is not None and not isinstance(model, MLP):
        method = model.predict_proba
    values = np.asarray(method(X.to_numpy() if plain else X), np.float64)
    values = values.reshape(len(X), -1)
    if classes is None:
        return values
    if values.shape[1] == 1:
        values = np.hstack([1 - values, values])
    sums = values.sum(axis=1, keepdims=True)
    if not np.allclose(sums, 1, atol=0.01):
        raise ValueError(f"{WHO}: rows have several labels: report on each by itself")
    return values / sums


def _codes(targets: DataFrame, classes: Array) -> Array:
    """Indices of classes, shape (n_rows,), of labels or of one-hot rows."""
    import pandas as pd

    if targets.shape[1] > 1:
        return targets.to_numpy().argmax(axis=1)
    labels = targets.iloc[:, 0].astype(object)
    # As objects True, 1 and 1.0 are equal.
    codes: Array = pd.Index(classes, dtype=object).get_indexer(labels)
    if (codes < 0).any():
        unknown = labels.iloc[int(codes.argmin())]
        known = messages.listed([*map(repr, classes.tolist())], MOST_SHOWN_CLASSES)
        raise ValueError(
            f"{WHO}: y has the class {unknown!r}, which training did not have; known: "
            f"{known}"
        )
    return codes


def scores_of(
    y: Array,
    predictions: Array,
    names: Iterable[str],
    weights: Array | float = 1.0,
) -> dict[str, float]:
    """Scores by scikit-learn's metrics.

    F1, AUC and average precision are of the second of two classes;
    of more, the mean over the classes that y has.

    Parameters
    ----------
    y, predictions : as in `Reported`
    names : keys of `OF_CLASSES` or `OF_NUMBERS`
    weights : (n_classes,) array, of the classes' probabilities in labels
    """
    from sklearn import metrics

    if y.ndim == 2:
        functions = {
            name: getattr(metrics, MEASURES_OF_NUMBERS[name]) for name in names
        }
        return {name: float(of(y, predictions)) for name, of in functions.items()}
    n_classes = predictions.shape[1]
    there = np.unique(y)
    inputs = {
        "labels": (y, (predictions * weights).argmax(axis=1)),
        "probabilities": (y, predictions),
        "ranks": (y[:, None] == there, predictions[:, there]),
    }
    if n_classes == 2:
        inputs["ranks"] = (y, predictions[:, 1])
    options: dict[str, dict[str, Any]] = {
        "log_loss": {"labels": np.arange(n_classes)},
        "f1": {"average": "binary" if n_classes == 2 else "macro"},
    }
    scores = {}
    for name in names:
        function, kind = MEASURES_OF_CLASSES[name]
        score = getattr(metrics, function)(*inputs[kind], **options.get(name, {}))
        scores[name] = float(score)
    return scores


def _importances(reported: Reported) -> DataFrame:
    """Columns by falling importance: the rise of the log loss,
    or of the squared error's root.
    """
    import pandas as pd
    from sklearn.inspection import permutation_importance

    n_rows, n_columns = reported.X.shape
    most = max(min(MOST_SHUFFLED, MOST_CELLS // n_columns), 1)
    rows = np.random.default_rng(0).permutation(n_rows)[:most]
    name = "rmse" if reported.classes is None else "log_loss"

    def score(_: Any, X: Any, y: Array) -> float:
        return -scores_of(y, reported.predicts(X), [name])[name]

    result = permutation_importance(
        reported.model,
        reported.X.iloc[rows],
        reported.y[rows],
        scoring=score,
        n_repeats=N_REPEATS if n_columns < WIDE_PAGE else FEW_REPEATS,
        random_state=0,
    )
    table = pd.DataFrame(
        # The sum makes 0.0 of -0.0.
        {"importance": result.importances_mean + 0.0, "spread": result.importances_std},
        index=reported.X.columns,
    )
    return table.sort_values("importance", ascending=False, kind="stable")


def _tables(reported: Reported, importances: DataFrame) -> dict[str, DataFrame]:
    """Tables by name; candidates where there are any."""
    import pandas as pd

    model = reported.model
    tables = {
        "scores": _scores(reported),
        "columns": _columns(reported, importances),
        "worst rows": _worst(reported, [*importances.index[:N_COLUMNS_OF_WORST]]),
    }
    if hasattr(model, "leaderboard_"):
        tables["candidates"] = pd.DataFrame(model.leaderboard_).set_index("member")
    if hasattr(model, "cv_results_"):
        results = pd.DataFrame(model.cv_results_).sort_values("rank_test_score")
        wanted = ["params", "mean_test_score", "std_test_score", "mean_fit_time"]
        tables["candidates"] = results[wanted].set_index("params")
    if hasattr(model, "predict_interval"):
        tables["intervals"] = _coverages(reported)
    return tables


def _coverages(reported: Reported) -> DataFrame:
    """The share of targets inside of intervals,
    by the probability that was asked for.
    """
    import pandas as pd

    table = pd.DataFrame(columns=["targets inside", "mean width"])
    for coverage in COVERAGES:
        try:
            low, high = reported.model.predict_interval(reported.X, coverage).T
        except ValueError:
            # The model has too few validation rows.
            continue
        y = reported.y[:, 0]
        inside = np.mean((low <= y) & (y <= high))
        table.loc[f"{coverage:.0%}"] = [f"{inside:.1%}", np.mean(high - low)]
    return table


def _scores(reported: Reported) -> DataFrame:
    """Scores with bootstrap intervals, beside a baseline."""
    import pandas as pd
    from sklearn.dummy import DummyClassifier, DummyRegressor

    y = reported.y
    predictions = reported.predictions
    nothing = np.zeros((len(y), 1))
    baseline = np.zeros_like(predictions)
    if reported.classes is None:
        names = [*MEASURES_OF_NUMBERS]
        baseline += DummyRegressor().fit(nothing, y).predict(nothing).reshape(y.shape)
    else:
        names = [*MEASURES_OF_CLASSES]
        dummy = DummyClassifier().fit(nothing, y)
        baseline[:, dummy.classes_] = dummy.predict_proba(nothing)
    draws = np.random.default_rng(0).integers(len(y), size=(N_RESAMPLES, len(y)))
    resampled = pd.DataFrame(
        [
            scores_of(y[rows], predictions[rows], names, reported.weights)
            for rows in draws
        ]
    )
    columns = {
        "model": scores_of(y, predictions, names, reported.weights),
        "2.5 %": resampled.quantile(0.025),
        "97.5 %": resampled.quantile(0.975),
        "baseline": scores_of(y, baseline, names),
    }
    return pd.DataFrame(columns, index=names)


def _columns(reported: Reported, importances: DataFrame) -> DataFrame:
    """A row for each column: importance, type,
    missing values, values; by the schema, if any.
    """
    X = reported.X
    about = X.describe(include="all").T.reindex(columns=ABOUT)
    about = about.dropna(axis=1, how="all")
    about.insert(0, "missing", X.isna().sum())
    about.insert(0, "type", X.dtypes)
    table = importances.join(about)
    schema = getattr(reported.model, "schema_", None)
    if schema is None:
        return table
    table = table.reindex([*table.index, *(schema.dropped.keys() - {*table.index})])
    read_as = dict.fromkeys(schema.numeric_names, "a number")
    for name, levels in schema.levels.items():
        known = messages.listed([*map(str, levels)], MOST_SHOWN_LEVELS)
        read_as[name] = f"one of {len(levels)} levels: {known}"
    for name, parts in schema.dates.items():
        read_as[name] = f"{parts.kind}, as {', '.join(parts.names)}"
    read_as |= {name: f"left out: {why}" for name, why in schema.dropped.items()}
    table.insert(2, "read as", [read_as.get(str(name), "") for name in table.index])
    return table


def _worst(reported: Reported, names: list[Any]) -> DataFrame:
    """The rows of the largest losses: target,
    prediction, the columns that matter most.
    """
    y = reported.y
    predictions = reported.predictions
    classes = reported.classes
    if classes is None:
        losses = np.abs(y - predictions).mean(axis=1)
    else:
        losses = -predictions[np.arange(len(y)), y]
    worst = np.argsort(-losses, kind="stable")[:N_WORST]
    table = reported.X[names].iloc[worst]
    if classes is None:
        for j in range(y.shape[1]):
            of = f" of output {j}" if y.shape[1] > 1 else ""
            table.insert(2 * j, f"target{of}", y[worst, j])
            table.insert(2 * j + 1, f"prediction{of}", predictions[worst, j])
        return table
    table.insert(0, "target", classes[y[worst]])
    table.insert(1, "prediction", classes[reported.labels[worst]])
    table.insert(2, "probability of the target", -losses[worst])
    return table


def _names(classes: Array | None) -> list[str]:
    return [] if classes is None else [str(one) for one in classes.tolist()]


def _html(table: DataFrame) -> str:
    """A table as escaped HTML."""
    import pandas as pd

    # Missing values of Arrow's types would be written as <NA>.
    table = table.astype(object).mask(table.isna(), "")
    with pd.option_context("display.max_colwidth", LONGEST_CELL):
        number = "{:.4g}".format
        return table.to_html(border=0, index_names=False, float_format=number)


def _pictures(
    reported: Reported, importances: DataFrame, history: History | None
) -> dict[str, Draw]:
    """Functions that draw on axes, by name."""
    model = reported.model
    shown = importances[:MOST_BARS]
    if reported.classes is None:
        pictures = _of_numbers(reported)
    else:
        pictures = _of_classes(reported)

    def bars(ax: Any) -> None:
        ax.barh(np.arange(len(shown)), shown["importance"], xerr=shown["spread"])
        ax.set_yticks(np.arange(len(shown)), [*map(_short, shown.index)])
        ax.invert_yaxis()
        ax.set_xlabel("importance, and standard deviation")

    pictures["importances"] = bars
    if hasattr(model, "cv_results_"):
        pictures["search"] = partial(plot_search, model)
    last = getattr(model, "best_estimator_", model)
    last = last.steps[-1][1] if hasattr(last, "steps") else last
    nets = [*getattr(last, "learning_curves_", {}).values()]
    fits = history or nets or getattr(last, "history_", None)
    if fits or hasattr(last, "loss_curve_"):
        pictures["training"] = partial(_curves, fits or last)
    return pictures


def _curves(fits: Any, ax: Any) -> None:
    plot_history(fits, ax)
    if len(ax.get_lines()) > 2 and ax.get_legend() is not None:
        # Names of several nets would hide the curves.
        ax.get_legend().remove()


def _of_numbers(reported: Reported) -> dict[str, Draw]:
    """Predictions, residuals and calibration of each output."""
    from sklearn.metrics import PredictionErrorDisplay

    def errors(kind: str, j: int, ax: Any) -> None:
        y = reported.y[:, j]
        predictions = reported.predictions[:, j]
        display = PredictionErrorDisplay.from_predictions
        options = {"s": 8, "alpha": 0.5}
        display(
            y,
            predictions,
            kind=kind,
            subsample=MOST_POINTS,
            random_state=0,
            ax=ax,
            scatter_kwargs=options,
        )

    def calibration(j: int, ax: Any) -> None:
        y = reported.y[:, j]
        predictions = reported.predictions[:, j]
        order = np.argsort(predictions)
        tenths = np.array_split(order, min(N_TENTHS, len(order)))
        x = [predictions[rows].mean() for rows in tenths]
        ax.axline((x[0], x[0]), slope=1, color="#999999", linestyle="--")
        ax.plot(x, [y[rows].mean() for rows in tenths], "o-")
        ax.set(xlabel="mean prediction of a tenth of the rows", ylabel="mean target")

    pictures = dict[str, Draw]()
    for j in range(min(reported.y.shape[1], MOST_OUTPUTS)):
        of = f" of output {j}" if reported.y.shape[1] > 1 else ""
        pictures[f"predictions{of}"] = partial(errors, "actual_vs_predicted", j)
        pictures[f"residuals{of}"] = partial(errors, "residual_vs_predicted", j)
        pictures[f"calibration{of}"] = partial(calibration, j)
    return pictures


def _of_classes(reported: Reported) -> dict[str, Draw]:
    """Confusion matrix, ROC and precision-recall curves, calibration."""
    from sklearn import metrics
    from sklearn.calibration import CalibrationDisplay

    y = reported.y
    predictions = reported.predictions
    labels = reported.labels
    n_classes = predictions.shape[1]
    names = [*map(_short, np.asarray(reported.classes))]
    counts = np.bincount(y, minlength=n_classes)
    frequent = np.argsort(-counts, kind="stable")
    shown = np.sort(frequent[:MOST_SHOWN_CLASSES])
    ticks = [names[k] for k in shown] + ["others"] * (n_classes > len(shown))
    place = np.full(n_classes, len(shown))
    place[shown] = np.arange(len(shown))

    def confusion(ax: Any) -> None:
        longest = max(map(len, ticks))
        rotation = "vertical" if longest > LONGEST_UPRIGHT else "horizontal"
        options = {"labels": np.arange(len(ticks)), "display_labels": ticks, "ax": ax}
        options |= {"cmap": "Blues", "colorbar": False, "xticks_rotation": rotation}
        display = metrics.ConfusionMatrixDisplay.from_predictions
        display(place[y], place[labels], **options)

    def curves(display: Any, ax: Any) -> None:
        for k in curved:
            display.from_predictions(y == k, predictions[:, k], name=names[k], ax=ax)

    def calibration(ax: Any) -> None:
        options = {"n_bins": N_TENTHS, "strategy": "quantile", "pos_label": True}
        right = y == labels
        probability = predictions.max(axis=1)
        if n_classes == 2:
            right = y == 1
            probability = predictions[:, 1]
        display = CalibrationDisplay.from_predictions
        display(right, probability, ax=ax, name=kind, **options)

    curved = [int(k) for k in frequent if 0 < counts[k] < len(y)][:MOST_CURVES]
    curved = [1] if n_classes == 2 and curved else curved
    kind = names[1] if n_classes == 2 else "predicted class"
    pictures: dict[str, Draw] = {
        "confusion matrix": confusion,
        "calibration": calibration,
    }
    if curved:
        pictures["ROC curves"] = partial(curves, metrics.RocCurveDisplay)
        pictures["precision-recall curves"] = partial(
            curves, metrics.PrecisionRecallDisplay
        )
    return pictures


def _drawn(draw: Draw) -> str:
    """The address of a picture that holds the picture itself."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(5, 3.75), layout="constrained")
        ax = figure.subplots()
        draw(ax=ax)
        # Curves of scikit-learn's name the label 1 or True.
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_label_text(axis.get_label_text().split(" (Positive")[0])
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{b64encode(file.getvalue()).decode()}"


def _short(name: object) -> str:
    """A name in a picture: without controls,
    which break SVG, and without mathematics.
    """
    text = "".join(one if one.isprintable() else "?" for one in str(name))
    if len(text) > LONGEST_NAME:
        text = f"{text[: LONGEST_NAME - 3]}..."
    return text.replace("$", r"\$")
