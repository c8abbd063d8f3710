"""TabularMLPRegressor: numbers of the rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, Literal, NoReturn, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from fastmlp.estimators.common import Client, Folds, Metrics, RandomState, Scoring
from fastmlp.estimators.sklearn_bases import RegressorMixin, _fit_context
from fastmlp.network.spec import ComputeDType
from fastmlp.tabular.estimators import fit_arguments
from fastmlp.tabular.estimators.base import TabularMLP
from fastmlp.tabular.pack import PackSettings, Preset, conformal
from fastmlp.tabular.pack.outputs import NumberLoss, Objective, Score
from fastmlp.tabular.pack.settings import Ensemble
from fastmlp.training.history import Callback
from fastmlp.training.stopping import EarlyStopping
from fastmlp.validation.calls import explained

Array = NDArray[Any]


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
        early_stopping: EarlyStopping | None = None,
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

    # The members of `extra_members` are not to be checked.
    @_fit_context(prefer_skip_nested_validation=False)
    @explained
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: ArrayLike | str | None = None,
        *,
        target: str | None = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: ArrayLike | str | None = None,
        groups: ArrayLike | str | None = None,
        callbacks: Callback | Iterable[Callback] = (),
        progress: bool = False,
    ) -> Self:
        """Learn the columns, train the nets, and select the ensemble.

        Parameters
        ----------
        X : (n_rows, n_columns) frame of pandas or polars, table of Arrow, array or list
            Or, with `target`, files or a query; see `TabularMLPClassifier.fit`.
        y : (n_rows,) array of numbers
        sample_weight, target, X_val, y_val, sample_weight_val, groups, callbacks, progress
            As for `TabularMLPClassifier.fit`.

        Returns
        -------
        TabularMLPRegressor
            The model itself.

        Raises
        ------
        TypeError, ValueError
            If data or settings are invalid.
        ConnectionError, TimeoutError, RuntimeError
            If a cluster cannot finish; the message says what to do.
        KeyboardInterrupt
            On Ctrl-C before there is a net, or in folds; what an earlier fit has learned is kept.
            Later a warning tells of it, and the nets that there are form the ensemble.
        """
        weights = (sample_weight, X_val, y_val, sample_weight_val)
        self._fit_table(
            X, y, fit_arguments.FitArguments(*weights, target, groups, callbacks, progress)
        )
        return self

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

    def predict_std(self, X: Any) -> NDArray[np.float64]:
        """Return the members' standard deviation, shape (n_rows,).

        It measures how much the nets disagree, not the noise of y: see `predict_interval`.

        Parameters
        ----------
        X : as for `predict`
        """
        return self._spread(self._values(X, "predict_std"))

    @explained
    def predict_interval(self, X: Any, coverage: float = 0.9) -> NDArray[np.float64]:
        """Return intervals that hold new targets with a wanted probability, shape (n_rows, 2).

        Each row has its own width: a small pack learns the size of errors on the rows to validate
        on, and a conformal step says how many sizes hold that share of them, as many rows below as
        above. These rows have chosen epochs and members, so that intervals are a little too narrow.
        All have one width with fewer than 100 rows to validate on, or with a `time_limit` of which
        the nets have taken more than a half. If no target in training is below 0, no interval is;
        likewise above 0, and outside 0 to 1. Weights of rows count.

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

    def _settings(self) -> PackSettings:
        settings = super()._settings()
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
