"""The base of both models of tables: a fit, and the rows of tables to predict."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from numbers import Integral, Real
from typing import Any, ClassVar, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.validation import _check_n_features, check_is_fitted

from fastmlp import EarlyStopping, History
from fastmlp.extend import (
    BaseModel,
    Graph,
    TableParts,
    callbacks_of,
    explained,
    messages,
    scalars,
    warn,
)
from fastmlp.tabular import (
    boosted_trees,
    export,
    extras,
    fit_arguments,
    fitting,
    reports,
)
from fastmlp.tabular.fit_arguments import Divided
from fastmlp.tabular.fitting import distilled
from fastmlp.tabular.in_memory import is_rows, table_of
from fastmlp.tabular.outputs import WORDS_OF_LOSSES, Objective, Score, Task, why_not
from fastmlp.tabular.pack import Caller, Member, Pack
from fastmlp.tabular.pool import Checkpoints, TableRows, in_parts
from fastmlp.tabular.reports import KeptRows, importances, kept_of, metrics_of, score_of
from fastmlp.tabular.schema import Schema, Values, reasons
from fastmlp.tabular.settings import (
    LARGE,
    PRESETS,
    Ensemble,
    PackSettings,
    Preset,
    of_large,
)
from fastmlp.typing import (
    Array,
    Callback,
    ComputeDType,
    Folds,
    Metrics,
    MissingTargets,
    RandomState,
    Scoring,
)

EVERY = timedelta(minutes=1)
LARGEST_SEED = np.iinfo(np.int32).max
# Share of a time limit that is kept for the refit. With folds one net replaces five.
FOR_REFIT, FOR_REFIT_OF_FOLDS = 0.55, 0.3
# Errors of these parameters suggest known values, also for other libraries' words.
DTYPE_WORDS = {
    "bfloat16": "bf16 mixed_bfloat16 mixed float16 fp16 half",
    "None means that": "float32 float64 None",
}
ADVISED: dict[str, tuple[Any, ...]] = {
    "preset": (
        PRESETS,
        {"fast": "quick small", "balanced": "default medium", "best": "high"},
    ),
    "compute_dtype": (get_args(ComputeDType), DTYPE_WORDS),
    "loss": (get_args(Objective), WORDS_OF_LOSSES),
}


class TabularMLP(BaseModel):
    """A pack of small nets on the columns of a table."""

    n_members: int | None
    max_members: int | None
    ensemble: Ensemble
    max_iter: int | None
    time_limit: float | None
    scoring: Scoring | None
    metrics: Metrics | None
    early_stopping: EarlyStopping | bool | None
    missing_targets: MissingTargets
    categorical_features: Any
    validation_fraction: float
    cv: Folds | None
    refit: bool
    preset: Preset
    trees: bool | None
    extra_members: Sequence[Any] | None
    compute_dtype: ComputeDType | None
    monotonic_cst: Any
    random_state: RandomState | None
    n_jobs: int | None
    verbose: bool | int
    classes_: Array
    n_features_in_: int
    feature_names_in_: Array
    schema_: Schema
    pack_: Pack
    extra_members_: list[tuple[str, Any]]
    leaderboard_: Any
    training_: dict[str, Any]

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_members": [Interval(Integral, 1, None, closed="left"), None],
        "max_members": [Interval(Integral, 1, None, closed="left"), None],
        "ensemble": [StrOptions({"greedy", "mean", "best"})],
        "max_iter": [Interval(Integral, 1, None, closed="left"), None],
        "time_limit": [Interval(Real, 0, None, closed="neither"), None],
        "scoring": [str, callable, None],
        "metrics": [str, callable, list, tuple, dict, None],
        "early_stopping": [EarlyStopping, "boolean", None],
        "missing_targets": [StrOptions({*get_args(MissingTargets)})],
        "categorical_features": "no_validation",
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "cv": ["cv_object"],
        "refit": ["boolean"],
        "preset": [StrOptions({*PRESETS})],
        "trees": ["boolean", None],
        "extra_members": [list, tuple, None],
        "compute_dtype": [StrOptions({*get_args(ComputeDType)}), None],
        "monotonic_cst": ["array-like", dict, None],
        "random_state": ["random_state"],
        "n_jobs": [
            Interval(Integral, None, -1, closed="right"),
            Interval(Integral, 1, None, closed="left"),
            None,
        ],
        "verbose": ["verbose"],
        **BaseModel.client_constraints,
    }

    def _validate_params(self) -> None:
        try:
            super()._validate_params()
        except InvalidParameterError as error:
            reason = why_not(getattr(self, "loss", ""))
            if reason and str(error).startswith("The 'loss'"):
                error.args = (f"{error} {reason}",)
                raise
            for name, known in ADVISED.items():
                if str(error).startswith(f"The {name!r}"):
                    words = messages.suggestion(getattr(self, name), *known).strip(
                        ",:; "
                    )
                    error.args = (f"{error} {words[:1].upper()}{words[1:]}".rstrip(),)
            raise

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = tags.input_tags.categorical = True
        return tags

    # The parameters of `extra_members` are not checked here.
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
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | timedelta = EVERY,
        resume: bool = False,
    ) -> Self:
        """Learn the columns, train the nets, and select the ensemble.

        Parameters
        ----------
        X : (n_rows, n_columns) frame of pandas or polars, table of Arrow, array or list
            A list has a list or a dict per row; a key that a row lacks is a missing
            value. With `target` also a path, or a list of paths, of Parquet, Arrow or
            CSV, or a query of DuckDB. Files are read into memory; if they do not fit,
            `random_state` draws a sample of rows, with a warning.
        y : (n_rows,) array of labels, or of numbers
        sample_weight : (n_rows,) array, or the name of a column of X, optional
            For training and selection. Rows of weight 0 are left out. Arrays,
            also as `groups`, are errors beside files of which a sample is drawn.
        target : str, optional
            Column of X that is used as y.
        X_val, y_val, sample_weight_val : optional
            Rows to validate on, in the place of held-out rows of X.
            With `target` X_val has the column too.
        groups : (n_rows,) array, or the name of a column of X, optional
            Rows of one group, such as a customer, are on the same side of each split,
            also in the folds of `cv` and of interval sizes. A column named here is not
            an input.
        callbacks : callable, or a sequence of them
            Each is called with a `Report` after every epoch of every net; `Report.net`
            is the net. ``report.stop()`` ends the fit: nets in training end with their
            epoch, others with their first, and form the ensemble. With `client`
            callbacks are pickled, and end one group of nets on a worker.
        progress : bool
            Show a tqdm bar of all epochs; most nets end before their last.
        checkpoint : path, optional
            A folder for the state of each net, one file each, replaced at each
            checkpoint. An integer `random_state` is needed. Trees and `extra_members`
            are fitted again.
        checkpoint_every : int or datetime.timedelta, default one minute
            Epochs, or time, between checkpoints of a net.
        resume : bool
            Go on from existing checkpoints, to the bits of an uninterrupted fit.
            Finished nets are kept. Another table, or other parameters, are an error.

        Returns
        -------
        TabularMLPClassifier or TabularMLPRegressor
            The model itself.

        Raises
        ------
        TypeError, ValueError
            If data or settings are invalid.
        ConnectionError, TimeoutError, RuntimeError
            If a cluster cannot finish; the message says what to do.
        KeyboardInterrupt
            On Ctrl-C before the first net has trained, or in folds; an earlier fit is
            kept. Later, a warning is given instead, and the trained nets form the
            ensemble.
        """
        weights = (sample_weight, X_val, y_val, sample_weight_val)
        others = (
            target,
            groups,
            callbacks,
            progress,
            checkpoint,
            checkpoint_every,
            resume,
        )
        self._fit(X, y, fit_arguments.FitArguments(*weights, *others))
        return self

    def _fit(self, X: Any, y: Any, arguments: fit_arguments.FitArguments) -> None:
        """Read rows, check targets, divide rows, train, select, refit, in this order.

        Attributes change after the last step that can fail.
        """
        who = f"{type(self).__name__}.fit"
        start = time.perf_counter()
        callbacks = callbacks_of(arguments.callbacks, who)
        scalars.boolean(who, "progress", arguments.progress)
        seed = int(check_random_state(self.random_state).randint(LARGEST_SEED))
        X, y, arguments = fit_arguments.opened(
            X, y, arguments, who, seed, ignores_gaps=self.missing_targets == "ignore"
        )
        fit_arguments.check_rows(X, who, training=True)
        table = table_of(X, who)
        schema = Schema.learn(table, self.categorical_features, who)
        if schema.dropped:
            left_out = "; ".join(reasons(schema.dropped))
            warn(f"{who}: columns left out: {left_out}", UserWarning)
        values = schema.read(table, who)
        known = None
        if self.missing_targets == "ignore":
            y, known = fit_arguments.known_targets(y, who)
        else:
            fit_arguments.require_targets(y, arguments.target, who)
        targets, classes = self._learn_targets(y, len(values.codes), who)
        self._warn_of_target(schema, values, targets, classes, who)
        weight = fit_arguments.of_known(arguments.sample_weight, known)
        class_weight = getattr(self, "class_weight", None)
        of_class = fit_arguments.class_weights(
            class_weight, targets, classes, weight, who, known
        )
        table_rows = TableRows(values, targets)
        whole, kept = fit_arguments.weighted(
            table_rows, weight, of_class, who, known=known
        )
        if len(whole.y) < 2:
            raise ValueError(
                f"{who}: n_samples=1 is too few: a fit needs 2 rows or more"
            )
        validation = fit_arguments.to_validate(
            arguments, schema, classes, self, of_class, who
        )
        self._check_targets(np.where(kept, targets, 1), who, "y")
        groups = fit_arguments.groups_of(arguments.groups, kept, who)
        if validation is not None:
            self._check_targets(validation.y, who, "y_val")
            data = Divided(whole, validation, None)
        else:
            rows = fit_arguments.RowsToSplit(whole.y, classes is not None, groups, kept)
            data = fit_arguments.divided(
                whole, rows, self.cv, self.validation_fraction, seed, who
            )
        self._say(f"{who}: {schema!r}, {len(data.training.y)} rows to train on", start)
        checkpoints = self._checkpoints(arguments, data, who)
        caller = Caller(who, start, callbacks, arguments.progress, checkpoints)
        fit = self._table_fit(schema, data, classes, seed, caller)
        ensemble = fitting.selected(fit)
        if self.refit:
            ensemble = fitting.refitted(fit, ensemble)
        self._take(schema, ensemble.pack, ensemble.members, classes)
        self.leaderboard_ = ensemble.leaderboard
        self.training_ = {
            "rows": ensemble.n_rows,
            "validation_rows": len(data.held_out.y),
        }
        if ensemble.decisions:
            self.training_["decision_weights"] = ensemble.decisions
        if known is not None:
            self.training_["rows_of_unknown_target"] = int((~known).sum())
        name = arguments.target or getattr(y, "name", None)
        if isinstance(name, str):
            self.training_["target"] = name
        if fit.settings.metrics:
            self.training_["metrics"] = [*fit.settings.metrics]
        generator = np.random.default_rng([seed, 2])
        self._kept = kept_of(data.held_out, ensemble.scores, ensemble.sizes, generator)
        self._say(f"{who}: {self.summary()}", start)

    def _checkpoints(
        self, arguments: fit_arguments.FitArguments, data: Divided, who: str
    ) -> Checkpoints | None:
        *_, folder, every, resume = arguments
        facts: dict[str, str] = {}
        if folder is not None:
            if (
                not isinstance(self.random_state, int | np.integer)
                or self.client is not None
            ):
                raise ValueError(
                    f"{who}: checkpoint needs an integer random_state, and no client"
                )
            parameters = self.get_params(deep=False)
            names = sorted(
                parameters.keys() - {"n_jobs", "verbose", "client", "group_timeout"}
            )
            # The text of a function has its address in memory.
            facts = {
                name: re.sub(" at 0x[0-9a-f]+", "", repr(parameters[name]))
                for name in names
            }
            facts["table"] = fitting.digest_of(data)
        return fitting.checkpoints_of(folder, every, resume, facts, who)

    def _warn_of_target(
        self,
        schema: Schema,
        values: Values,
        targets: Array,
        classes: Array | None,
        who: str,
    ) -> None:
        y = targets if classes is None else classes[targets]
        labels = None if classes is None else [*map(str, classes.tolist())]
        numbers = zip(schema.numeric_names, values.numbers.T, strict=False)
        same = [
            name
            for name, column in numbers
            if y.dtype.kind in "biuf" and (column == y).all()
        ]
        for name, codes in zip(schema.categorical_names, values.codes.T, strict=True):
            if (
                np.array_equal(codes, targets)
                and [*map(str, schema.levels[name])] == labels
            ):
                same.append(name)
        if same:
            message = f"y is a column of X, {messages.listed([*map(repr, same)])}: leave it out"
            warn(f"{who}: {message}", UserWarning)

    def _table_fit(
        self,
        schema: Schema,
        data: Divided,
        classes: Array | None,
        seed: int,
        caller: Caller,
    ) -> fitting.TableFit:
        """The checked settings of a fit: nets, further estimators, score, stopping."""
        name = type(self).__name__
        values = data.training.values
        signs = fitting.columns_in_order(self.monotonic_cst, schema, classes, name)
        cluster = self._cluster(caller.who)
        task: Task = "regression"
        if classes is not None:
            task = "binary" if len(classes) == 2 else "multiclass"
        n_classes = 0 if classes is None else len(classes)
        settings = self._settings(len(data.training.y))._replace(signs=signs)
        if self.refit:
            share = FOR_REFIT if data.folds is None else FOR_REFIT_OF_FOLDS
            settings = settings._replace(time_share=1 - share)
        members = [*(self.extra_members or ())]
        if settings.trees:
            n_fits = len(data.folds or ()) + 1 + (self.refit and data.folds is None)
            grown = boosted_trees.candidate(
                n_classes, values, seed, self.time_limit, n_fits
            )
            members.append((boosted_trees.TREES_NAME, grown))
        beside = extras.named(members, name, signs, values.codes.shape[1])
        score = self._own_score()
        if self.scoring is not None:
            score = score_of(self.scoring, task, classes, caller.who)
        if isinstance(self.early_stopping, EarlyStopping):
            given = self.early_stopping
        else:
            given = None
        metrics, stopping = metrics_of(self.metrics, given, classes, caller.who)
        if given is None and self.early_stopping and score is not None:
            metrics["scoring"], stopping = score, EarlyStopping("scoring", mode="max")
        settings = settings._replace(
            score=score, metrics=metrics, early_stopping=stopping
        )
        return fitting.TableFit(
            data,
            task,
            n_classes=n_classes,
            settings=settings,
            beside=beside,
            seed=seed,
            n_threads=self._n_threads(),
            cluster=cluster,
            caller=caller,
        )

    def _settings(self, n_rows: int = 0) -> PackSettings:
        """Settings of the preset, replaced by the parameters that are not None."""
        preset = PRESETS[self.preset]
        if n_rows >= LARGE:
            preset = of_large(preset)
        return preset._replace(
            n_members=self.n_members or preset.n_members,
            max_members=self.max_members or preset.max_members,
            ensemble=self.ensemble,
            epochs=self.max_iter or preset.epochs,
            time_limit=self.time_limit,
            compute_dtype=self.compute_dtype,
            trees=preset.trees if self.trees is None else bool(self.trees),
        )

    def _learn_targets(
        self, y: Any, n_rows: int, who: str
    ) -> tuple[Array, Array | None]:
        """Numbers or class indices, and the classes."""
        raise NotImplementedError

    def _check_targets(self, y: Array, who: str, name: str) -> None:
        """Raise ValueError if the loss does not take the targets."""

    def _own_score(self) -> Score | None:
        """The score to maximise without `scoring`; None: the score of the task."""
        return None

    def _take(
        self,
        schema: Schema,
        pack: Pack,
        members: list[tuple[str, Any]],
        classes: Array | None,
    ) -> None:
        self.schema_ = schema
        self.pack_ = pack
        self.extra_members_ = members
        self.n_features_in_ = len(schema.columns)
        vars(self).pop("feature_names_in_", None)
        vars(self).pop("_importances", None)
        if schema.named:
            self.feature_names_in_ = np.array(schema.columns, object)
        if classes is not None:
            self.classes_ = classes

    def _say(self, message: str, start: float) -> None:
        if self.verbose:
            print(f"{time.perf_counter() - start:.1f} s: {message}", flush=True)

    @property
    def _read_names(self) -> tuple[str, ...] | None:
        """Columns to read from a file for predictions; None without names."""
        schema = getattr(self, "schema_", None)
        if schema is not None and schema.named:
            return schema.read_names
        return None

    @property
    def _text_names(self) -> list[str]:
        """Columns read as texts from CSV, whatever they look like."""
        return self.schema_.text_names if hasattr(self, "schema_") else []

    def _values(self, X: Any, method: str) -> Values:
        schema: Schema | None = getattr(self, "schema_", None)
        row = schema.row(X) if schema is not None else None
        if row is not None:
            return row
        check_is_fitted(self)
        who = f"{type(self).__name__}.{method}"
        fit_arguments.check_no_path(X, who)
        fit_arguments.check_rows(X, who)
        if self.schema_.named:
            X = fit_arguments.in_training_order(X, self.schema_.columns)
        elif not is_rows(X):
            _check_n_features(self, X, reset=False)
        return self.schema_.read(X, who)

    def _predicted(self, values: Values) -> Array:
        """Numbers, shape (n_rows,), or probabilities, shape (n_rows, n_classes)."""
        n = self._n_classes
        if not len(values.codes):
            return np.empty((0, n) if n else 0)
        beside = self._beside
        if len(values.codes) == 1 and export.has_row_function(self.pack_, beside):
            row = export.row_predictions(self.pack_, values, beside)
            return row if n else row[0]
        predictions = self.pack_.predict(values)
        for _, model, weight in beside:
            predictions += weight * extras.answers(model, values, n)
        if not n:
            return predictions
        # Sums of float32 probabilities are up to 1e-7 off 1. NumPy's sum of two columns
        # takes five times as long, 1.9 ms for 100,000 rows.
        if n == 2:
            total = predictions[:, :1] + predictions[:, 1:]
        else:
            total = predictions.sum(1)[:, None]
        return predictions / total

    def predict_std(self, X: Any) -> NDArray[np.float64]:
        """Return the members' weighted standard deviation,
        (n_rows,) or (n_rows, n_classes).

        Disagreement of members is measured, not the noise of y:
        see `predict_interval` and `predict_set`.

        Parameters
        ----------
        X : as for `predict`
        """
        values = self._values(X, "predict_std")
        mean = self._predicted(values)
        variance = np.zeros_like(mean)
        if not len(mean):
            return variance
        for weight, predictions in self._each(values):
            variance += weight * (predictions - mean) ** 2
        return np.sqrt(variance)

    def _each(self, values: Values) -> Any:
        """Yield weight and predictions of each member."""
        strips = in_parts(values, lambda part: [*self.pack_.each(part)])
        for pairs in zip(*strips, strict=True):
            weight = pairs[0][0].weight
            yield weight, np.concatenate([predictions for _, predictions in pairs])
        for _, model, weight in self._beside:
            yield weight, extras.answers(model, values, self._n_classes)

    @property
    def _beside(self) -> list[tuple[str, Any, float]]:
        """Name, estimator and weight of each extra member whose weight is not 0."""
        pairs = zip(self.extra_members_, self.pack_.extra_weights.tolist(), strict=True)
        return [(name, model, weight) for (name, model), weight in pairs if weight]

    @property
    def _n_rows(self) -> int:
        """Number of rows that folds validate on, or would; 0 for a distilled net."""
        if "distilled" in self.training_:
            return 0
        n, n_held_out = (
            self.training_.get(key, 0) for key in ("rows", "validation_rows")
        )
        return int(n if self.refit or n == n_held_out else n + n_held_out)

    @property
    def _n_classes(self) -> int:
        return len(getattr(self, "classes_", ()))

    @property
    def members_(self) -> tuple[Member, ...]:
        """The nets of the ensemble, each with its recipe,
        weight, score and best epoch.
        """
        check_is_fitted(self, "pack_")
        return self.pack_.members

    @property
    def weights_(self) -> NDArray[np.float64]:
        """The weights of the members, nets first,
        then `extra_members_`; their sum is 1.
        """
        check_is_fitted(self, "pack_")
        return np.concatenate([self.pack_.weights, self.pack_.extra_weights])

    @property
    def validation_score_(self) -> float:
        """The score of the ensemble on the rows that selected it,
        which is slightly optimistic.

        Higher is better: `scoring`, or minus the log loss,
        the root mean squared error, or the mean of another `loss`.
        """
        check_is_fitted(self, "pack_")
        return self.pack_.validation_score

    @property
    def learning_curves_(self) -> dict[str, History]:
        """Losses and `metrics` by epoch of each net, for `plot_history`.

        Keys are settings of the nets and, with several folds, numbers.
        """
        return reports.curves(self.members_, self.training_.get("metrics", ()))

    @property
    def n_iter_(self) -> NDArray[np.int64]:
        """The best epoch of each net of the ensemble, shape (n_nets,)."""
        return np.array([member.epoch for member in self.members_])

    @property
    def feature_importances_(self) -> NDArray[np.float64]:
        """The decrease of the score when a column is shuffled, shape (n_features,).

        `sklearn.inspection.permutation_importance` with five repeats on at most 2,000
        validation rows, computed on first access. The score is minus the log loss, the
        root mean squared error, or the mean of another `loss`. Columns that are left
        out have 0.

        Raises
        ------
        AttributeError
            If the model is not fitted, or comes from a file, which has no rows.
        """
        check_is_fitted(self, "pack_")
        kept: KeptRows | None = getattr(self, "_kept", None)
        if kept is None:
            raise AttributeError(
                f"{type(self).__name__}: feature_importances_ needs rows to validate "
                "on, which a file does not hold: use "
                "sklearn.inspection.permutation_importance(model, X, y)"
            )
        if not hasattr(self, "_importances"):
            self._importances = importances(self, kept)
        return self._importances

    def _onnx_values(self, graph: Graph, inputs: Sequence[Graph.Input]) -> str:
        return export.predictions(graph, self, inputs)

    def _write_onnx(self, graph: Graph) -> Any:
        check_is_fitted(self)
        return export.write(graph, self)

    @explained
    def codes(self, X: Any) -> NDArray[np.float64]:
        """Return the rows of a table as C files and compiled code take them.

        Columns that are read follow in the order of training. Numbers are unchanged,
        NaN where one is missing. A date has a number for each part. A level has its
        index in ``schema_.levels``, -1 where it is missing or unknown.

        Parameters
        ----------
        X : as for `predict`

        Returns
        -------
        (n_rows, n_numbers) array of float64

        Raises
        ------
        TypeError, ValueError
            If columns are missing, or hold values of another kind.

        Examples
        --------
        >>> from fastmlp import TabularMLPRegressor
        >>> X = [["Bern", 1.5], ["Zug", 2.0]] * 5
        >>> model = TabularMLPRegressor(n_members=1, max_iter=1).fit(X, range(10))
        >>> model.codes([["Zug", 3.0], ["Rome", None]])
        array([[ 1.,  3.],
               [-1., nan]])
        """
        return export.rows_of(self.schema_, self._values(X, "codes"))

    def _of_codes(self, rows: NDArray[np.float64]) -> Array:
        """Predictions of rows of `codes`, few at a time, (n_rows, n_outputs)."""
        values = export.values_of(self.schema_, rows)
        strips = (values.part(slice(k, k + 100)) for k in range(0, len(rows), 100))
        return np.concatenate(
            [self._predicted(each).reshape(len(each.codes), -1) for each in strips]
        )

    def _table_parts(self, who: str) -> TableParts:
        check_is_fitted(self)
        return export.parts_of_table(self, who)

    @explained
    def distilled(
        self,
        X: Any,
        y: Any = None,
        *,
        hidden_layer_sizes: int | Sequence[int] | None = None,
    ) -> Self:
        """Return a fitted model of one net, trained on this one's predictions.

        The net is smaller and faster, and exports to less code. The training rows are X
        and drawn rows, four for each, from 20,000 to 200,000. A drawn row takes each
        column from a row of X or from a row near it. A fifth of X is held out to end
        the training. X may be the rows of `fit`, or more, whose targets need not be
        known.

        Parameters
        ----------
        X : as for `predict`; 2 rows or more
        y : (n_rows,) array, optional
            Targets of X, to compare losses on the held-out fifth. None: losses are
            compared on the validation rows that the model keeps. Intervals and class
            sets then use errors of nets that were not trained on the row.
        hidden_layer_sizes : int or sequence of int, optional
            None: (64, 64), or (128, 128) if its loss is more than 3 % above this
            model's. If the loss is still above, a warning is given.

        Returns
        -------
        TabularMLPClassifier or TabularMLPRegressor
            ``training_["distilled"]`` has `loss`, `ensemble_loss` on the same rows, the
            root mean square `difference` of predictions on held-out rows, and the
            number of `drawn_rows`. Without y both losses are slightly optimistic, as
            the rows have chosen the ensemble.

        Raises
        ------
        TypeError, ValueError
            If columns are missing, a size is not an integer of 1 or more,
            or y is missing for a model from a file, which has no rows.

        References
        ----------
        Bucila, Caruana & Niculescu-Mizil (2006), "Model compression".

        Examples
        --------
        >>> import numpy as np
        >>> from fastmlp import TabularMLPRegressor
        >>> X = np.random.default_rng(0).normal(size=(300, 2))
        >>> model = TabularMLPRegressor(n_members=3, max_iter=5, random_state=0).fit(X, 2 * X[:, 0])
        >>> small = model.distilled(X)
        >>> len(small.members_), sorted(small.training_["distilled"])
        (1, ['difference', 'drawn_rows', 'ensemble_loss', 'loss'])
        """
        model: Self = distilled(self, X, y, hidden_layer_sizes)
        return model

    def summary(self) -> str:
        """Return the ensemble, and the candidates it was selected from, as text."""
        check_is_fitted(self, "pack_")
        return reports.summary(self)

    def _repr_html_(self) -> str:
        if not hasattr(self, "pack_"):
            return reports.html_text("not fitted", strong=repr(self))
        return reports.html(self)
