"""The models of tables for scikit-learn: TabularMLPClassifier and TabularMLPRegressor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from fastmlp import EarlyStopping
from fastmlp.extend import explained, register
from fastmlp.tabular import conformal, fit_arguments
from fastmlp.tabular.base import TabularMLP
from fastmlp.tabular.outputs import NumberLoss, Objective, Score
from fastmlp.tabular.pack import Pack
from fastmlp.tabular.schema import Schema
from fastmlp.tabular.settings import Ensemble, PackSettings, Preset
from fastmlp.typing import (
    ClassWeight,
    Client,
    ComputeDType,
    Folds,
    Metrics,
    RandomState,
    Scoring,
    Table,
)

if TYPE_CHECKING:
    # Scikit-learn's have no types, and those of the models would be unknown.
    class ClassifierMixin:
        def score(self, X: Table, y: Table, sample_weight: ArrayLike | None = None) -> float: ...

    class RegressorMixin:
        def score(self, X: Table, y: Table, sample_weight: ArrayLike | None = None) -> float: ...
else:
    from sklearn.base import ClassifierMixin, RegressorMixin

Array = NDArray[Any]


class TabularMLPClassifier(ClassifierMixin, TabularMLP):
    """Many small nets on the columns of a table, as they are; probabilities are averaged.

    Frames of pandas and polars, tables of Arrow and arrays are taken with their missing values,
    texts and categories: `Schema` says what becomes of a column, and `Encoding` how a net sees it.
    Nets of different settings train side by side; a greedy selection on rows that are held out
    forms the ensemble, a weighted mean.

    Parameters
    ----------
    preset : {"fast", "balanced", "best"}, default "balanced"
        The number of nets to train, of nets in the ensemble, and of epochs.
    n_members : int, optional
        Number of nets to train, per fold. None: by the preset, 6, 10 or 30; on 100,000 rows or more
        2, 4 or 10.
    max_members : int, optional
        Maximum number of nets in the ensemble. None: by the preset, 4, 6 or 10.
    ensemble : {"greedy", "mean", "best"}, default "greedy"
        How nets are chosen on the rows that are held out: by a greedy selection, with weights; the
        `max_members` that do best each by itself, with equal weights; or the best one alone.
    max_iter : int, optional
        Maximum number of epochs of a net, which stops earlier if its validation loss does not fall.
        None: by the preset, 100, 200 or 400; on 100,000 rows or more 16, 33 or 66.
    time_limit : float, optional
        The seconds of a fit, from its call on: reading, learning columns, encoding and selection
        count. When nine tenths are over, no net is begun, and those that train end, within an
        epoch too. At least one net is trained, for a tenth of the time; what must be done for it is
        done in any case, `extra_members` are fitted to their end, and a warning says how many nets
        there are, if not all. With it results depend on the machine.
    scoring : str or callable, optional
        What the selection maximises, of scikit-learn's. None: minus the log loss.
    metrics : str or callable, or a list or dict of them, optional
        Scores as of `scoring`, or functions of targets and predictions, of each net after each
        epoch: in `learning_curves_`, in reports of callbacks, and for
        ``EarlyStopping(monitor=name)``. Functions get the places of labels in `classes_` and
        probabilities, of two classes the vector of the second one's.
    early_stopping : bool or EarlyStopping, optional
        The rule by which each net ends and keeps its best epoch. True: by `scoring`, if it is
        given, after ten epochs without a better one. Else: by the validation loss, with a patience
        that grows with the epochs until the best one.
    class_weight : dict, "balanced" or None
        Weights of the classes, which multiply the rows' weights, in training and, as for scikit-
        learn's HistGradientBoostingClassifier, in rows that epochs and nets are chosen on.
    categorical_features : "auto", "from_dtype", or names, places or a mask of columns
        Columns that become categories beside texts, booleans and types of categories.
    validation_fraction : float in (0, 1), default 0.2
        The share of the rows that is held out, of each class alike; of `groups`, their share.
    cv : int, splitter of scikit-learn's, or iterable of (train, test), optional
        Number of folds, instead of a held-out set: each net is trained once without each fold.
        None: 5 for fewer than 1,000 rows. No row may be in two folds. Rows outside of all folds,
        as the first ones of a TimeSeriesSplit, are only trained on. A file of the model has a
        number only.
    refit : bool, default False
        After the selection, train the nets of the ensemble once more, on all rows, those to
        validate on too, each for as many epochs as its best one's number; one net then takes the
        place of the nets of all folds, and predictions of folds take a fraction of the time.
        Scores, intervals and curves come from the selection. With `time_limit` a half of it is
        kept for this, with folds three tenths. If that does not suffice, the selected ensemble
        stays, and a warning says so. Nets are trained here, not on a cluster.
    trees : bool, optional
        Let scikit-learn's HistGradientBoosting, at most 200 rounds at a rate of 0.05, be a
        candidate of the selection. Ten rounds without a gain on the rows to validate on end it; it
        has fewer rounds at a higher rate for more than three classes. Categories of up to 255
        levels are taken as such, others as numbers. They grow beside the nets on one thread more,
        with ``n_jobs=1`` before them; with a time limit for a quarter of it at most, in fewer
        rounds. None: with preset "best" alone, and not with another loss than the squared error.
    extra_members : list of estimators, or of pairs of a name and an estimator, optional
        Further candidates of the selection, such as trees. They are given the columns as numbers,
        NaN where a value is missing, first the numeric ones, then categories as places among their
        levels.
    compute_dtype : "bfloat16", optional
        The nets train in mixed precision, as `MLP` does. Their hidden layers have 64 or 128 units:
        fits took 0 to 15 % less time.
    monotonic_cst : array-like of -1, 0 and 1, of shape (n_features,), or dict of str, optional
        The probability of the second of two classes does not fall (1), or does not rise (-1), with
        the column of numbers; by name those that are named. All nets are of relu then.
    random_state : int, RandomState instance or None
    n_jobs : int, optional
        The most threads that train; results do not depend on it.
    verbose : bool or int, default False
        Print what is done.
    client : distributed.Client or "auto", optional
        Train the nets, of all folds at once, in groups on the workers of a Dask cluster, on all of
        their threads; "auto": of the current client. The model is the same as without it;
        `extra_members` are fitted here. Needs the extra `dask`. Clones and copies have the same
        client, pickles and files lack it.
    group_timeout : float, optional
        With `client`, the most seconds that a group of nets may take on a worker.

    Attributes
    ----------
    classes_ : (n_classes,) array of labels
    members_ : tuple of Member
        The nets of the ensemble.
    weights_ : (n_members + n_extra,) array
    validation_score_ : float
    leaderboard_ : frame of pandas, or list of dict where it is missing
        The members, the best first, with weight, score and best epoch.
    feature_importances_ : (n_features,) array
        By shuffling columns of rows that were held out; computed when it is asked for.
    schema_ : Schema
        What the columns are, and which are left out, and why.
    pack_ : Pack
    extra_members_ : list of pairs of a name and a fitted estimator
    training_ : dict
        A report of the fit: the numbers of rows, and the names of y and of `metrics`, if any.
    n_features_in_, feature_names_in_
        As in scikit-learn; the names only of a table that has some.

    Raises
    ------
    sklearn.utils._param_validation.InvalidParameterError
        By `fit`, if a parameter is invalid.

    References
    ----------
    Caruana, Niculescu-Mizil, Crew & Ksikes (2004), "Ensemble selection from libraries of models".
    Gorishniy, Rubachev & Babenko (2022), "On embeddings for numerical features in tabular deep
    learning", arXiv:2203.05556.

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
    classes_: Array

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

        Parameters
        ----------
        X : (n_rows, n_columns) frame of pandas or polars, table of Arrow, array or list
            Columns are found by name, in any order and among others, if there are names. In a list
            of dicts, a row each, a key that is not there is a missing value.

        Raises
        ------
        TypeError, ValueError
            If columns are missing, or do not hold what they held.
        """
        values = self._values(X, "predict")
        labels: Array = self.classes_[self._predicted(values).argmax(axis=1)]
        return labels

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the classes' probabilities, shape (n_rows, n_classes).

        Parameters
        ----------
        X : as for `predict`
        """
        return self._predicted(self._values(X, "predict_proba"))

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the logarithm of `predict_proba`, shape (n_rows, n_classes); -inf for 0.

        Parameters
        ----------
        X : as for `predict`
        """
        with np.errstate(divide="ignore"):
            logarithms: NDArray[np.float64] = np.log(self.predict_proba(X))
        return logarithms

    @explained
    def predict_set(self, X: Any, coverage: float = 0.9) -> NDArray[np.bool_]:
        """Return sets of classes that hold new labels with a wanted probability, as a mask.

        A class is in a row's set if its probability is above a threshold, which this share of the
        rows to validate on reach with their true class (MAPIE's conformity score "lac"). The class
        with the largest probability is always in, so that no set is empty. The same rows have
        chosen epochs and members, so that sets are a little too small. Weights of rows and of
        classes count.

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
        Sadinle, Lei & Wasserman (2019), "Least ambiguous set-valued classifiers with bounded error
        levels".

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

    def _learn_targets(self, y: Any, n_rows: int, who: str) -> tuple[Array, Array | None]:
        classes, places = fit_arguments.classes_in(y, n_rows, who)
        return places, classes

    def _class_weights(
        self, places: Array, classes: Array | None, sample_weight: Any, who: str
    ) -> Array | None:
        if self.class_weight is None or classes is None:
            return None
        return fit_arguments.class_weights(self.class_weight, places, classes, sample_weight, who)

    def _take(
        self, schema: Schema, pack: Pack, members: list[tuple[str, Any]], classes: Array | None
    ) -> None:
        super()._take(schema, pack, members, classes)
        assert classes is not None
        self.classes_ = classes


class TabularMLPRegressor(RegressorMixin, TabularMLP):
    """Many small nets on the columns of a table, as they are; predictions are averaged.

    As `TabularMLPClassifier`, for numbers. They are learned standardised, and predictions stay
    within the range of y in training.

    Parameters
    ----------
    loss : {"squared_error", "absolute_error", "quantile", "poisson", "gamma", "tweedie"}, \
    default "squared_error"
        What nets are trained on, and the selection minimises the mean of without `scoring`; in the
        words of scikit-learn's HistGradientBoostingRegressor. "poisson" and "tweedie" take y of 0
        or more, "gamma" of more than 0: such losses suit skewed targets, of which they predict the
        mean, in proportion. "absolute_error" predicts the median, "quantile" another quantile.
    quantile : float in (0, 1), default 0.5
        The level of ``loss="quantile"``.
    power : float from 1 to 2, default 1.5
        The power of ``loss="tweedie"``, as of `sklearn.linear_model.TweedieRegressor`.
    preset, n_members, max_members, ensemble, max_iter, time_limit, metrics, early_stopping, \
    categorical_features, validation_fraction, cv, refit, trees, extra_members, compute_dtype, \
    monotonic_cst, random_state, n_jobs, verbose, client, group_timeout
        As for `TabularMLPClassifier`; the share that is held out has all parts of the range of y.
    scoring : str or callable, optional
        What the selection maximises, of scikit-learn's. None: minus the root mean squared error, or
        the mean of another `loss`.

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
            Columns are found by name, in any order and among others, if there are names. In a list
            of dicts, a row each, a key that is not there is a missing value.

        Raises
        ------
        TypeError, ValueError
            If columns are missing, or do not hold what they held.
        """
        return self._predicted(self._values(X, "predict"))

    @explained
    def predict_interval(self, X: Any, coverage: float = 0.9) -> NDArray[np.float64]:
        """Return intervals that hold new targets with a wanted probability, shape (n_rows, 2).

        Each row has a separate width: a small pack learns the size of errors on the rows to
        validate on, and a conformal step says how many sizes hold that share of them, as many rows
        below as above. These rows have chosen epochs and members, so that intervals are a little
        too narrow. All have one width with fewer than 100 rows to validate on, or with a
        `time_limit` of which the nets have taken more than a half. If no target in training is
        below 0, no interval is; likewise above 0, and outside 0 to 1. Weights of rows count.

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
        Lei, G'Sell, Rinaldo, Tibshirani & Wasserman (2018), "Distribution-free predictive inference
        for regression", section 5.2.
        """
        values, who = self._values(X, "predict_interval"), "TabularMLPRegressor.predict_interval"
        scores = conformal.ends(self.pack_, coverage, who, self._n_rows)
        return conformal.bands(self.pack_, values, self._predicted(values), scores)

    @explained
    def predict_quantiles(
        self, X: Any, quantiles: Sequence[float] | NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return numbers that new targets are below with wanted probabilities, (n_rows, n).

        Those of a row rise with the probability. They are as the ends of `predict_interval`; the
        quantile 0.5 is the prediction moved by the median error.

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
        values, who = self._values(X, "predict_quantiles"), "TabularMLPRegressor.predict_quantiles"
        scores = conformal.quantiles(self.pack_, quantiles, who, self._n_rows)
        return conformal.bands(self.pack_, values, self._predicted(values), scores)

    @property
    def predict_proba(self) -> NoReturn:
        """Raise AttributeError, with the methods of numbers.

        :meta private:
        """
        numbers = "numbers have predict_quantiles and predict_interval, classes have probabilities"
        raise AttributeError(f"{type(self).__name__} has no predict_proba: {numbers}")

    def _learn_targets(self, y: Any, n_rows: int, who: str) -> tuple[Array, Array | None]:
        return fit_arguments.numbers(y, n_rows, who), None

    def _number_loss(self) -> NumberLoss:
        return NumberLoss(self.loss, self.quantile if self.loss == "quantile" else self.power)

    def _settings(self, n_rows: int = 0) -> PackSettings:
        settings = super()._settings(n_rows)
        # Trees are of the squared error: with other losses candidates where they are asked for.
        trees = settings.trees and (bool(self.trees) or self.loss == "squared_error")
        return settings._replace(loss=self._number_loss(), trees=trees)

    def _own_score(self) -> Score | None:
        return None if self.loss == "squared_error" else self._number_loss().score

    def _check_targets(self, y: Array, who: str, name: str) -> None:
        if (power := self._number_loss().power) is None:
            return
        wrong = y <= 0 if power == 2 else y < 0
        if wrong.any():
            limit, row = "above 0" if power == 2 else "0 or more", int(wrong.argmax())
            got = f"got {y[row]:g} in row {row}"
            raise ValueError(f"{who}: {name} must be {limit} for loss={self.loss!r}, {got}")


register(TabularMLPClassifier, TabularMLPRegressor, archive=f"{__package__}.archive")
