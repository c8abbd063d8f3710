"""TabularMLPClassifier and TabularMLPRegressor, models of tables for scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from fastmlp import EarlyStopping
from fastmlp.extend import explained, register
from fastmlp.tabular import conformal, fit_arguments
from fastmlp.tabular.base import TabularMLP
from fastmlp.tabular.outputs import NumberLoss, Objective, Score
from fastmlp.tabular.settings import Ensemble, PackSettings, Preset
from fastmlp.typing import (
    Array,
    ClassWeight,
    Client,
    ComputeDType,
    Folds,
    Metrics,
    MissingTargets,
    RandomState,
    Scoring,
    Table,
)

if TYPE_CHECKING:
    # Scikit-learn's classes lack types, which would make the models' types unknown.
    class ClassifierMixin:
        def score(
            self, X: Table, y: Table, sample_weight: ArrayLike | None = None
        ) -> float: ...

    class RegressorMixin:
        def score(
            self, X: Table, y: Table, sample_weight: ArrayLike | None = None
        ) -> float: ...
else:
    from sklearn.base import ClassifierMixin, RegressorMixin


class TabularMLPClassifier(ClassifierMixin, TabularMLP):
    """Many small nets on the columns of a raw table; probabilities are averaged.

    Frames of pandas and polars, tables of Arrow and arrays may have missing values,
    texts and categories: `Schema` describes columns, and `Encoding` the nets' inputs.
    Nets of different settings train side by side. A greedy selection on held-out rows
    forms the ensemble, a weighted mean.

    Parameters
    ----------
    preset : {"fast", "balanced", "best"}, default "balanced"
        The number of nets to train, of nets in the ensemble, and of epochs.
    n_members : int, optional
        Number of nets to train, per fold. None: by the preset,
        6, 9 or 20; on 100,000 rows or more 2, 3 or 7.
    max_members : int, optional
        Maximum number of nets in the ensemble. None: by the preset, 4, 6 or 10.
    ensemble : {"greedy", "mean", "best"}, default "greedy"
        The selection on held-out rows: greedy, with weights;
        the best `max_members`, with equal weights; or the best net alone.
    max_iter : int, optional
        Maximum number of epochs of a net. None: by the preset, 100,
        200 or 400; on 100,000 rows or more 16, 33 or 66.
    time_limit : float, optional
        Seconds of a fit, including reading, encoding and selection. After nine tenths
        no net is begun, and training nets end, also within an epoch. At least one net
        is trained, for a tenth of the time, and `extra_members` are fitted to their
        end. A warning gives the number of nets, if not all. Results then depend on the
        machine.
    scoring : str or callable, optional
        Scikit-learn's score that the selection maximises. None: minus the log loss.
        With "accuracy", "balanced_accuracy", "f1" and "f1_macro" the log loss breaks
        ties. Of the last three, labels maximise the expected score: `predict`
        multiplies probabilities by `decision_weights_`, found on held-out rows. "f1" of
        three classes or more is "f1_macro". Other scores leave labels as they are.
    metrics : str or callable, or a list or dict of them, optional
        Scores as in `scoring`, or functions of targets and predictions, of each net
        after each epoch: for `learning_curves_`, reports and
        ``EarlyStopping(monitor=name)``. Functions get indices of `classes_` and
        probabilities; for two classes the vector of the second.
    early_stopping : bool or EarlyStopping, optional
        The rule by which each net ends and keeps its best epoch. True: by `scoring`, if
        given, after ten epochs without gain. Else: by the validation loss, with a
        patience that grows with the epochs until the best one.
    missing_targets : "raise" or "ignore"
        "ignore": rows without a target are left out;
        ``training_["rows_of_unknown_target"]`` is their number.
    class_weight : dict, "balanced" or None
        Weights of the classes, which multiply the rows' weights, in training and
        validation, as in scikit-learn's HistGradientBoostingClassifier.
    categorical_features : "auto", "from_dtype", or names, places or a mask of columns
        Columns that become categories beside texts, booleans and categorical types.
    validation_fraction : float in (0, 1), default 0.2
        Share of the rows of each class, or of `groups`, that is held out.
    cv : int, splitter of scikit-learn's, or iterable of (train, test), optional
        Number of folds, instead of a held-out set: each net is trained once without
        each fold. None: 5 for fewer than 1,000 rows. No row may be in two folds. Rows
        outside all folds, such as the first of a TimeSeriesSplit, are only trained on.
        Files hold only a number.
    refit : bool, default False
        After the selection, train the nets of the ensemble again on all rows, each up
        to its best epoch. One net replaces the nets of all folds, which makes
        predictions faster. Scores, intervals and curves come from the selection. About
        half of `time_limit` is kept for this, with folds three tenths; if the time does
        not suffice, the selected ensemble is kept, with a warning. Clusters are not
        used for this.
    trees : bool, optional
        Add scikit-learn's HistGradientBoosting to the candidates: at most 200 rounds at
        rate 0.05, and fewer at a higher rate for more than three classes. Ten rounds
        without gain on the validation rows end it, and the best round is the last.
        Trees of more than three classes whose best round is early grow again at half
        the rate. Categories of more than 255 levels are taken as numbers. Trees grow on
        one thread beside the nets, with ``n_jobs=1`` before them, for at most a quarter
        of the time limit. None: with presets "balanced", of fewer than 100,000 rows,
        and "best", and the default loss.
    extra_members : list of estimators, or of pairs of a name and an estimator, optional
        Further candidates of the selection, such as trees. Inputs are numeric columns,
        NaN where a value is missing, then categories as indices of levels.
    compute_dtype : "bfloat16", optional
        Mixed precision, as in `MLP`.
        Fits took 0 to 15 % less time with hidden layers of 64 or 128 units.
    monotonic_cst : array-like of -1, 0 and 1, of shape (n_features,), or dict of str, optional
        Predictions, or the second of two probabilities, do not fall (1) or do not rise
        (-1) with a numeric column; a dict constrains the named columns. All nets then
        use relu.
    random_state : int, RandomState instance or None
    n_jobs : int, optional
        Maximum number of threads that train; results do not depend on it.
    verbose : bool or int, default False
        Print what is done.
    client : distributed.Client or "auto", optional
        Train the nets of all folds in groups on the workers of a Dask cluster, on all
        threads; "auto": the current client. The model is the same as without a client.
        `extra_members` are fitted here. Clones and copies share the client; pickles and
        files lack it.
    group_timeout : float, optional
        With `client`, the maximum seconds for a group of nets on a worker.

    Attributes
    ----------
    classes_ : (n_classes,) array of labels
    decision_weights_ : (n_classes,) array
        Weights of probabilities in labels; all 1 but by `scoring`.
    members_ : tuple of Member
        The nets of the ensemble.
    weights_ : (n_members + n_extra,) array
    validation_score_ : float
    leaderboard_ : frame of pandas, or list of dict where it is missing
        Members, the best first, with weight, score and best epoch.
    feature_importances_ : (n_features,) array
        By shuffled columns of held-out rows; computed on first access.
    schema_ : Schema
        The columns, and the reason for each that is left out.
    pack_ : Pack
    extra_members_ : list of pairs of a name and a fitted estimator
    training_ : dict
        Numbers of rows, and names of y and `metrics`, if any.
    n_features_in_, feature_names_in_
        As in scikit-learn; the names only for a table with names.

    Raises
    ------
    sklearn.utils._param_validation.InvalidParameterError
        By `fit`, if a parameter is invalid.

    References
    ----------
    Caruana, Niculescu-Mizil, Crew & Ksikes (2004), "Ensemble selection from libraries
    of models". Gorishniy, Rubachev & Babenko (2022), "On embeddings for numerical
    features in tabular deep learning", arXiv:2203.05556.

    Examples
    --------
    >>> import pandas as pd
    >>> from fastmlp import TabularMLPClassifier
    >>> X = pd.DataFrame({"size": range(60), "colour": ["red", "blue", None] * 20})
    >>> y = ["large" if size > 30 else "small" for size in X["size"]]
    >>> model = TabularMLPClassifier(n_members=2, random_state=0).fit(X, y)
    >>> model.predict(X.iloc[[0, 59]])
    array(['small', 'large'], dtype='<U5')
    """

    class_weight: ClassWeight | None

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TabularMLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    @explained
    def __init__(
        self,
        *,
        preset: Preset = "balanced",
        n_members: int | None = None,
        max_members: int | None = None,
        ensemble: Ensemble = "greedy",
        max_iter: int | None = None,
        time_limit: float | None = None,
        scoring: Scoring | None = None,
        metrics: Metrics | None = None,
        early_stopping: EarlyStopping | bool | None = None,
        missing_targets: MissingTargets = "raise",
        class_weight: ClassWeight | None = None,
        categorical_features: Any = "auto",
        validation_fraction: float = 0.2,
        cv: Folds | None = None,
        refit: bool = False,
        trees: bool | None = None,
        extra_members: Sequence[Any] | None = None,
        compute_dtype: ComputeDType | None = None,
        monotonic_cst: ArrayLike | Mapping[str, int] | None = None,
        random_state: RandomState | None = None,
        n_jobs: int | None = None,
        verbose: bool | int = False,
        client: Client | Literal["auto"] | None = None,
        group_timeout: float | None = None,
    ) -> None:
        self._keep(locals())

    def predict(self, X: Any) -> Array:
        """Return the labels of the largest probabilities, shape (n_rows,).

        Probabilities are first multiplied by `decision_weights_`.

        Parameters
        ----------
        X : (n_rows, n_columns) frame of pandas or polars, table of Arrow, array or list
            Columns are found by name, in any order and among others,
            if there are names. A key that a dict of a list lacks is a missing value.

        Raises
        ------
        TypeError, ValueError
            If columns are missing, or hold values of another kind.
        """
        p = self._predicted(self._values(X, "predict"))
        if "decision_weights" in self.training_:
            p = p * self.decision_weights_
        labels: Array = self.classes_[p.argmax(axis=1)]
        return labels

    @property
    def decision_weights_(self) -> NDArray[np.float64]:
        """Weights of the classes' probabilities in labels, shape (n_classes,).

        All are 1, but by `scoring` of balanced accuracy or F1.
        """
        check_is_fitted(self, "pack_")
        ones = [1.0] * len(self.classes_)
        return np.array(self.training_.get("decision_weights", ones))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the classes' probabilities, shape (n_rows, n_classes).

        Parameters
        ----------
        X : as for `predict`
        """
        return self._predicted(self._values(X, "predict_proba"))

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the logarithm of `predict_proba`,
        shape (n_rows, n_classes); -inf for 0.

        Parameters
        ----------
        X : as for `predict`
        """
        with np.errstate(divide="ignore"):
            logarithms: NDArray[np.float64] = np.log(self.predict_proba(X))
        return logarithms

    @explained
    def predict_set(self, X: Any, coverage: float = 0.9) -> NDArray[np.bool_]:
        """Return sets of classes that hold new labels with probability `coverage`, as a
        mask.

        A row's set has the classes whose probability reaches a threshold. This share of
        validation rows reaches the threshold with the true class (MAPIE's score "lac").
        The most probable class is always in the set. Sets are slightly too small, as
        the same rows have chosen epochs and, beyond 2,000 rows, members. Weights of
        rows and classes count.

        Parameters
        ----------
        X : as for `predict`
        coverage : float in (0, 1), default 0.9

        Returns
        -------
        (n_rows, n_classes) array of bool
            Columns are in the order of `classes_`.

        Raises
        ------
        ValueError
            If there were too few rows to validate on for this coverage.

        References
        ----------
        Sadinle, Lei & Wasserman (2019),
        "Least ambiguous set-valued classifiers with bounded error levels".

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import TabularMLPClassifier
        >>> X = np.linspace(-1, 1, 60)[:, None]
        >>> model = TabularMLPClassifier(n_members=2, random_state=0).fit(X, X[:, 0] > 0)
        >>> model.predict_set([[-1.0], [1.0]])
        array([[ True, False],
               [False,  True]])
        """
        p = self._predicted(self._values(X, "predict_set"))
        who = "TabularMLPClassifier.predict_set"
        least = conformal.least_probability(self.pack_, coverage, who, self._n_rows)
        sets: NDArray[np.bool_] = p >= least
        sets[np.arange(len(p)), p.argmax(axis=1)] = True
        return sets

    def _learn_targets(
        self, y: Any, n_rows: int, who: str
    ) -> tuple[Array, Array | None]:
        classes, places = fit_arguments.classes_in(y, n_rows, who)
        return places, classes


class TabularMLPRegressor(RegressorMixin, TabularMLP):
    """Many small nets on the columns of a raw table; predictions are averaged.

    `TabularMLPClassifier` for numbers. Targets are standardised, and predictions stay within the
    range of y in training.

    Parameters
    ----------
    loss : {"squared_error", "absolute_error", "quantile", "poisson", "gamma", "tweedie"}, \
    default "squared_error"
        The loss of nets, and of the selection without `scoring`, in the words of scikit-learn's
        HistGradientBoostingRegressor. "poisson" and "tweedie" take y of 0 or more, "gamma" of more
        than 0: they predict the mean of skewed targets. "absolute_error" predicts the median,
        "quantile" another quantile.
    quantile : float in (0, 1), default 0.5
        The level of ``loss="quantile"``.
    power : float from 1 to 2, default 1.5
        The power of ``loss="tweedie"``, as of `sklearn.linear_model.TweedieRegressor`.
    preset, n_members, max_members, ensemble, max_iter, time_limit, metrics, early_stopping, \
    missing_targets, categorical_features, validation_fraction, cv, refit, trees, extra_members, \
    compute_dtype, monotonic_cst, random_state, n_jobs, verbose, client, group_timeout
        As for `TabularMLPClassifier`; held-out rows cover the range of y.
    scoring : str or callable, optional
        Scikit-learn's score that the selection maximises. None: minus the root mean squared error,
        or the mean of another `loss`.

    Attributes
    ----------
    members_, weights_, validation_score_, leaderboard_, feature_importances_, schema_, pack_, \
    extra_members_, training_, n_features_in_, feature_names_in_
        As of `TabularMLPClassifier`.

    Raises
    ------
    sklearn.utils._param_validation.InvalidParameterError
        By `fit`, if a parameter is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import TabularMLPRegressor
    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> model = TabularMLPRegressor(n_members=2, random_state=0).fit(X, np.sin(3 * X[:, 0]))
    >>> low, high = model.predict_interval([[0.5]], coverage=0.8)[0]
    >>> bool(low < np.sin(1.5) < high)
    True
    """

    loss: Objective
    quantile: float
    power: float

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TabularMLP._parameter_constraints,
        "loss": [StrOptions({*get_args(Objective)})],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
        "power": [Interval(Real, 1, 2, closed="both")],
    }

    @explained
    def __init__(
        self,
        *,
        loss: Objective = "squared_error",
        quantile: float = 0.5,
        power: float = 1.5,
        preset: Preset = "balanced",
        n_members: int | None = None,
        max_members: int | None = None,
        ensemble: Ensemble = "greedy",
        max_iter: int | None = None,
        time_limit: float | None = None,
        scoring: Scoring | None = None,
        metrics: Metrics | None = None,
        early_stopping: EarlyStopping | bool | None = None,
        missing_targets: MissingTargets = "raise",
        categorical_features: Any = "auto",
        validation_fraction: float = 0.2,
        cv: Folds | None = None,
        refit: bool = False,
        trees: bool | None = None,
        extra_members: Sequence[Any] | None = None,
        compute_dtype: ComputeDType | None = None,
        monotonic_cst: ArrayLike | Mapping[str, int] | None = None,
        random_state: RandomState | None = None,
        n_jobs: int | None = None,
        verbose: bool | int = False,
        client: Client | Literal["auto"] | None = None,
        group_timeout: float | None = None,
    ) -> None:
        self._keep(locals())

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return numbers, shape (n_rows,).

        Parameters
        ----------
        X : (n_rows, n_columns) frame of pandas or polars, table of Arrow, array or list
            Columns are found by name, in any order and among others,
            if there are names. A key that a dict of a list lacks is a missing value.

        Raises
        ------
        TypeError, ValueError
            If columns are missing, or hold values of another kind.
        """
        return self._predicted(self._values(X, "predict"))

    @explained
    def predict_interval(self, X: Any, coverage: float = 0.9) -> NDArray[np.float64]:
        """Return intervals that hold new targets with probability `coverage`,
        shape (n_rows, 2).

        Each row has a separate width. A small pack learns the size of errors on the
        validation rows. A conformal step finds the number of sizes that hold this
        share, with equal shares below and above. Intervals are slightly too narrow, as
        the same rows have chosen epochs and, beyond 2,000 rows, members. All have one
        width with fewer than 100 validation rows, or if the nets took more than half of
        `time_limit`. Intervals stay at 0 or more, at 0 or less, or in 0 to 1, if all
        targets in training do. Weights of rows count.

        Parameters
        ----------
        X : as for `predict`
        coverage : float in (0, 1), default 0.9

        Raises
        ------
        ValueError
            If there were too few rows to validate on for this coverage.

        References
        ----------
        Lei, G'Sell, Rinaldo, Tibshirani & Wasserman (2018),
        "Distribution-free predictive inference for regression", section 5.2.
        """
        values = self._values(X, "predict_interval")
        who = "TabularMLPRegressor.predict_interval"
        scores = conformal.ends(self.pack_, coverage, who, self._n_rows)
        return conformal.bands(self.pack_, values, self._predicted(values), scores)

    @explained
    def predict_quantiles(
        self, X: Any, quantiles: Sequence[float] | NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return quantiles of new targets, shape (n_rows, n_quantiles).

        Quantiles of a row rise with the probability, and are computed as the ends of
        `predict_interval`. The quantile 0.5 is the prediction plus the median error.

        Parameters
        ----------
        X : as for `predict`
        quantiles : sequence of floats in (0, 1), such as [0.05, 0.5, 0.95]

        Raises
        ------
        ValueError
            If there were too few rows to validate on for a quantile.

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import TabularMLPRegressor
        >>> X = np.linspace(-1, 1, 200)[:, None]
        >>> model = TabularMLPRegressor(n_members=2, random_state=0).fit(X, np.sin(3 * X[:, 0]))
        >>> model.predict_quantiles(X, [0.1, 0.5, 0.9]).shape
        (200, 3)
        """
        values = self._values(X, "predict_quantiles")
        who = "TabularMLPRegressor.predict_quantiles"
        scores = conformal.quantiles(self.pack_, quantiles, who, self._n_rows)
        return conformal.bands(self.pack_, values, self._predicted(values), scores)

    @property
    def predict_proba(self) -> NoReturn:
        """Raise AttributeError, with the methods of numbers.

        :meta private:
        """
        numbers = "numbers have predict_quantiles and predict_interval, classes have probabilities"
        raise AttributeError(f"{type(self).__name__} has no predict_proba: {numbers}")

    def _learn_targets(
        self, y: Any, n_rows: int, who: str
    ) -> tuple[Array, Array | None]:
        return fit_arguments.numbers(y, n_rows, who), None

    def _number_loss(self) -> NumberLoss:
        return NumberLoss(
            self.loss, self.quantile if self.loss == "quantile" else self.power
        )

    def _settings(self, n_rows: int = 0) -> PackSettings:
        settings = super()._settings(n_rows)
        # Trees minimise the squared error:
        # with other losses they are candidates on request.
        trees = settings.trees and (bool(self.trees) or self.loss == "squared_error")
        return settings._replace(loss=self._number_loss(), trees=trees)

    def _own_score(self) -> Score | None:
        if self.loss == "squared_error":
            return None
        return self._number_loss().score

    def _check_targets(self, y: Array, who: str, name: str) -> None:
        if (power := self._number_loss().power) is None:
            return
        if power == 2:
            wrong = y <= 0
        else:
            wrong = y < 0
        if wrong.any():
            limit = "above 0" if power == 2 else "0 or more"
            row = int(wrong.argmax())
            got = f"got {y[row]:g} in row {row}"
            raise ValueError(
                f"{who}: {name} must be {limit} for loss={self.loss!r}, {got}"
            )


register(TabularMLPClassifier, TabularMLPRegressor, archive=f"{__package__}.archive")
