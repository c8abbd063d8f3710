"""Selection of an ensemble:
the candidates whose weighted mean is best on validation rows.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import MLP
from fastmlp.extend import bar_over, warn
from fastmlp.tabular import pool
from fastmlp.tabular.encoding import Encoding
from fastmlp.tabular.outputs import (
    NetOutputs,
    Scorer,
    Task,
    conformal_quantile,
    outputs_of,
    scores_of,
)
from fastmlp.tabular.schema import Values
from fastmlp.tabular.settings import (
    FIRST,
    PackSettings,
    Recipe,
    draw,
    encodings_for,
)
from fastmlp.typing import Array, Callback

# Losses of predictions and row weights, shape (n_rows,), or None; lower is better.
WeightedLoss = Callable[[Array, Array | None], float]
# In 45 tables, 8 nets each, 20 bags had a test loss 0.5 % below one selection, in the
# mean, where no table counted more than 5 %. Weights from a gamma distribution of this
# shape are about as uneven as a draw of a fifth of the rows.
N_BAGS = 20
N_ROUNDS = 8
SHAPE = 0.2
# Least weight of a member, in equal shares; nets of silu take three times the time of
# relu's. Mean test loss of 32 tables (fast, balanced, best): 0.25 for all -.044 -.067
# -.082 %, silu 0.6 -.027 -.059 -.172 %, silu 0.8 +.003 -.056 -.179 %; 0.4 for all +.151
# +.059 -.056 %.
LEAST_SHARES = {"relu": 0.25, "silu": 0.6}


class Selection(NamedTuple):
    """Candidates of an ensemble.

    Attributes
    ----------
    weights : (n_candidates,) array
        Shares of the predictions in the mean; 0 for candidates left out. The sum is 1.
    loss : float, of that mean
    """

    weights: NDArray[np.float64]
    loss: float

    def mean(self, predictions: Sequence[Array]) -> Array:
        """The weighted mean of the candidates' predictions."""
        pairs = zip(self.weights, predictions, strict=True)
        return np.asarray(
            sum(weight * of_candidate for weight, of_candidate in pairs if weight)
        )


def greedy(
    predictions: Sequence[Array] | Array,
    loss: WeightedLoss,
    weight: Array | None = None,
    n_rounds: int = N_ROUNDS,
) -> Selection:
    """The ensemble to which each round has added the candidate that helps most.

    A candidate may be added again, which raises its weight.
    The best round, the first of equal rounds, gives the ensemble.

    Parameters
    ----------
    predictions : sequence of arrays of one shape, or an array of them
        For each candidate, on the same validation rows.
    loss : function of such an array and of row weights, lower is better
    n_rounds : int
        Number of additions.

    Returns
    -------
    Selection

    References
    ----------
    Caruana, Niculescu-Mizil, Crew & Ksikes (2004),
    "Ensemble selection from libraries of models".

    Examples
    --------
    >>> import numpy as np
    >>> y = np.zeros(3)
    >>> candidates = [np.full(3, 1.0), np.full(3, -1.0), np.full(3, 4.0)]
    >>> greedy(candidates, lambda mean, weight: float(np.mean((mean - y) ** 2))).weights
    array([0.5, 0.5, 0. ])
    """
    counts = np.zeros(len(predictions), np.int64)
    total = np.zeros_like(predictions[0], dtype=np.float64)
    best = Selection(counts.astype(np.float64), np.inf)
    for n in range(1, n_rounds + 1):
        losses = np.array(
            [loss((total + candidate) / n, weight) for candidate in predictions]
        )
        if np.isnan(losses).all():
            break
        place = int(np.nanargmin(losses))
        if losses[place] < best.loss:
            chosen = counts.copy()
            chosen[place] += 1
            best = Selection(chosen / n, float(losses[place]))
        counts[place] += 1
        total += predictions[place]
    return best


def bagged(
    predictions: Sequence[Array] | Array,
    loss: WeightedLoss,
    n_rows: int,
    generator: np.random.Generator,
    *,
    weight: Array | None = None,
    max_members: int | None = None,
    deadline: float | None = None,
    least: ArrayLike = 0.0,
    core: Sequence[int] = (),
) -> Selection:
    """The mean of many greedy selections, each with other weights of the rows.

    One selection follows the accidents of the validation rows;
    the mean of many does less.

    Parameters
    ----------
    predictions, loss : as in `greedy`
    n_rows : int, number of validation rows
    weight : (n_rows,) array, optional
        Weights of the rows, which the bags' weights multiply.
    max_members : int, optional
        Only this many candidates remain, with the greatest weights.
    deadline : float, optional
        Of `time.perf_counter`: after it only the first selection is begun.
    least : (n_candidates,) array or float, below 1
        Candidates of a smaller weight,
        in equal shares of those with a weight, are left out.
    core : sequence of int
        Indices of candidates that each bag selects from once more, without the others.
        Selections on few or nearly perfect rows are led by noise among many candidates.

    References
    ----------
    Breiman (1996), "Bagging predictors"; Rubin (1981), "The Bayesian bootstrap".
    """
    weights = np.zeros(len(predictions))
    for bag in range(N_BAGS):
        if bag and deadline is not None and time.perf_counter() >= deadline:
            break
        drawn = generator.standard_gamma(SHAPE, n_rows) * (
            1 if weight is None else weight
        )
        weights += greedy(predictions, loss, drawn).weights
        if len(core):
            among = [predictions[i] for i in core]
            weights[core] += greedy(among, loss, drawn).weights
    if max_members is not None:
        weights[np.argsort(-weights, kind="stable")[max_members:]] = 0
    # The equal share of n candidates is 1 / n of the sum.
    n_taken = np.count_nonzero(weights)
    is_small = weights * n_taken < np.multiply(least, weights.sum())
    weights[is_small] = 0
    if not weights.any():
        return Selection(weights, np.inf)
    weights /= weights.sum()
    mean = sum(share * predictions[i] for i, share in enumerate(weights) if share)
    return Selection(weights, loss(np.asarray(mean), weight))


def equal(
    predictions: Sequence[Array] | Array,
    loss: WeightedLoss,
    *,
    weight: Array | None = None,
    max_members: int | None = None,
) -> Selection:
    """The mean of the best single candidates; arguments as for `bagged`."""
    losses = np.array([loss(candidate, weight) for candidate in predictions])
    order = np.argsort(losses, kind="stable")[:max_members]
    order = order[~np.isnan(losses[order])]
    weights = np.zeros(len(predictions))
    if not len(order):
        return Selection(weights, np.inf)
    weights[order] = 1 / len(order)
    return Selection(
        weights, loss(np.mean([predictions[i] for i in order], axis=0), weight)
    )


# Most validation rows that are each scored by a selection on other parts of them.
# `best` on tables of 300 to 800 rows: intervals of 90 % held 89.1 % of new rows, then
# 89.6 %.
FEW_ROWS, N_PARTS = 2000, 5
# Shares of a time limit: kept for the selection, and the least for training.
FOR_SELECTION, FOR_TRAINING = 0.1, 0.1
NO_NUMBERS = np.empty(0)


class Member(NamedTuple):
    """A net of the ensemble.

    Attributes
    ----------
    encoding : int, index of its encoding
    weight : float, of its predictions in the mean
    score : float
        On the validation rows, higher is better: of all folds' nets together.
    epoch : int, the best, counted from 1
    curve : (n_epochs, 2 + n_metrics) array, loss, validation loss and metrics of each epoch
    seconds : float, of its training
    """

    recipe: Recipe
    encoding: int
    net: MLP
    weight: float
    score: float
    epoch: int
    curve: Array = np.empty((0, 2))
    seconds: float = math.nan


class Caller(NamedTuple):
    """The caller of a training: name, start of the time limit, callbacks.

    Attributes
    ----------
    start : float, of `time.perf_counter`: when the time limit began; None: now
    callbacks : sequence of callables, called with a `Report` after each epoch of each net
    progress : bool, True for a bar of all epochs
    """

    who: str = "train_pack"
    start: float | None = None
    callbacks: Sequence[Callback] = ()
    progress: bool = False
    checkpoints: pool.Checkpoints | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - (self.start or 0.0)


@dataclass(eq=False, repr=False)
class Pack:
    """A weighted mean of nets' predictions.

    Attributes
    ----------
    outputs : NetOutputs
    encodings : tuple of fitted encodings
    members : tuple of Member
    extra_weights : (n_extra,) array, of the predictions of models outside the pack
    validation_score : float
        Higher is better, and slightly optimistic:
        the rows have chosen epochs and members.
    residuals : (n_rows,) array
        Scores of the validation rows, ascending: errors of numbers, over `sizes` if
        any; for classes one minus the probability of the row's class.
    row_weights : (n_rows,) array, of the rows of `residuals`, 1 in the mean; empty: all alike
    sizes : Pack, optional
        The logarithm of the size of each row's error; None: all are 1.
    validated : array, predictions of the validation rows; empty where they are not kept
    n_trained : int, number of nets the members were chosen from
    row : function of one row, once it is compiled; copies and pickles have None
    asked : dict
        The last coverage and levels that were asked for, with residuals and scores.
    """

    outputs: NetOutputs
    encodings: tuple[Encoding, ...]
    members: tuple[Member, ...]
    _: KW_ONLY
    extra_weights: Array
    validation_score: float
    residuals: Array
    n_trained: int
    row_weights: Array = field(default_factory=lambda: NO_NUMBERS)
    sizes: "Pack | None" = None
    validated: Array = field(default_factory=lambda: NO_NUMBERS, init=False)
    row: Any = field(default=None, init=False)
    asked: dict[str, Any] = field(default_factory=dict, init=False)

    @property
    def task(self) -> Task:
        return self.outputs.task

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weights of the members, shape (n_members,)."""
        return np.array([member.weight for member in self.members])

    def predict(self, values: Values) -> NDArray[np.float64]:
        """The weighted sum of the nets' predictions.

        Numbers have shape (n_rows,), probabilities (n_rows, n_classes).
        """
        return np.concatenate(pool.in_parts(values, self._nets))

    def take_scores(self, scores: Array, weight: Array | None) -> None:
        """Keep the scores of validation rows,
        and their weights if any, in ascending order.
        """
        order = np.argsort(scores, kind="stable")
        self.residuals = scores[order]
        if weight is None:
            self.row_weights = NO_NUMBERS
        else:
            self.row_weights = weight[order] / weight.mean()

    def upper_score(self, level: float) -> float:
        """The score that a new row's score is at most, with this probability."""
        return conformal_quantile(self.residuals, level, self.row_weights)

    def lower_score(self, level: float) -> float:
        """The score that a new row's score is below with at most this probability."""
        return -conformal_quantile(
            -self.residuals[::-1], 1 - level, self.row_weights[::-1]
        )

    def half_width(self, coverage: float) -> float:
        """The half width of intervals that hold this share of the targets,
        in units of `sizes`.
        """
        order = np.argsort(np.abs(self.residuals), kind="stable")
        weights = self.row_weights[order] if len(self.row_weights) else NO_NUMBERS
        return conformal_quantile(np.abs(self.residuals)[order], coverage, weights)

    def each(self, values: Values) -> Iterator[tuple[Member, NDArray[np.float64]]]:
        """Yield each net of the ensemble and its predictions; rows are encoded once."""
        for place, encoding in enumerate(self.encodings):
            members = [member for member in self.members if member.encoding == place]
            if members:
                inputs = pool.inputs_of(encoding, values)
                for member in members:
                    yield member, self.outputs.predictions(member.net.predict(inputs))

    def _nets(self, values: Values) -> NDArray[np.float64]:
        """The nets' part of the predictions."""
        outputs = self.outputs
        n = len(values.numbers)
        shape = (n,) if outputs.task == "regression" else (n, max(outputs.n_outputs, 2))
        total = np.zeros(shape)
        for member, predictions in self.each(values):
            total += member.weight * predictions
        return total


def train_pack(
    training: pool.TableRows,
    validation: pool.TableRows | None,
    *,
    task: Task,
    n_classes: int,
    settings: PackSettings,
    seed: int,
    encodings: Mapping[str, Encoding] | None = None,
    n_threads: int | None = None,
    extra: Iterable[Array] = (),
    cluster: Any = None,
    folds: Sequence[pool.Fold] | None = None,
    caller: Caller | None = None,
) -> Pack:
    """Train nets, and return the ensemble of nets that are best together on validation
    rows.

    Without a time limit, bits depend on the seed only, not on threads.
    With a time limit that ends training, a warning gives the number of nets.

    Parameters
    ----------
    validation : TableRows, or None
        None: folds of the rows of training.
    seed : int, of all draws
    encodings : mapping of str to Encoding, optional
        Nets take them as `draw` says. Copies of them learn from the rows.
        None: by `encodings_for`.
    n_threads : int, optional
        As for `fit_many`.
    extra : iterable of arrays, read when the nets are trained
        Predictions of further candidates for the validation rows.
    cluster : Cluster, optional
        Its workers train the nets.
    folds : sequence of Fold, optional
        No row is validated on twice. None:
        `settings.cv` folds with equal shares of classes.
    """
    caller = caller or Caller()
    if caller.start is None:
        start = time.perf_counter()
    else:
        start = caller.start
    outputs = outputs_of(task, training.y, training.weight, n_classes, settings.loss)
    if encodings is None:
        encodings = encodings_for(training.values, n_classes)
    if validation is not None:
        held_out = validation
        parts = [(training, validation)]
        of_rows = [np.arange(len(validation.y))]
    else:
        if folds is None:
            folds = pool.drawn(training.y, settings.cv, seed)
        rows = pool.validated(folds)
        if len(rows) == len(training.y):
            held_out = training
        else:
            held_out = training.take(rows)
        parts = [
            (training.take(first), training.take(second)) for first, second in folds
        ]
        of_rows = [np.searchsorted(rows, second) for _, second in folds]
    n_rows = min(len(first.y) for first, _ in parts)
    names = tuple(encodings)
    recipes = draw(settings.n_members, seed, names, n_rows, n_classes)
    if settings.signs:
        rising: Any = {"scaling": "rising", "max_integers": None}
        encodings = {name: replace(each, **rising) for name, each in encodings.items()}
        # silu, the other activation of recipes, falls below zero.
        recipes = [recipe._replace(activation="relu") for recipe in recipes]
    splits = []
    for k, (first, second) in enumerate(parts):
        copies = {name: replace(encoding) for name, encoding in encodings.items()}
        own = [recipe._replace(seed=recipe.seed + k) for recipe in recipes]
        generator = np.random.default_rng([seed, k])
        of_nets = pool.net_settings(outputs, settings)
        splits.append(pool.Split(own, copies, first, second, of_nets, generator))
    n_nets = settings.n_members * len(splits)
    with bar_over(
        n_nets * settings.epochs, n_nets, caller.who, shown=caller.progress
    ) as bar:
        if caller.callbacks:
            listeners = pool.Listeners(caller.callbacks)
        else:
            listeners = None
        limits = pool.Limits(
            settings.epochs,
            settings.patience,
            settings.patience_share,
            settings.early_stopping,
            _deadline(settings, start, 1 - FOR_SELECTION),
            n_threads,
            alone=len(splits) == 1,
            least=FOR_TRAINING * (settings.time_limit or 0.0) / len(splits),
            listeners=listeners,
            bar=bar,
            checkpoints=caller.checkpoints,
        )
        pools = _pools(splits, limits, cluster)
    fits = [split.encodings for split in splits]
    candidates = _candidates(pools, of_rows, len(held_out.y))
    if settings.time_limit is not None:
        _warn_of_time(candidates, n_nets, settings.time_limit, caller.who)
    scorer = Scorer(task, held_out.y, held_out.weight, settings.score)
    generator = np.random.default_rng([seed, len(splits), 1])
    predictions = [*(candidate.predictions for candidate in candidates), *extra]
    least = [
        LEAST_SHARES[str(candidate.nets[0].recipe.activation)]
        for candidate in candidates
    ]
    least += [LEAST_SHARES["relu"]] * (len(predictions) - len(least))
    core = _core(candidates, len(predictions))
    options = (settings, generator, _deadline(settings, start), least, core)
    selection = _selected(predictions, scorer, *options)
    pack = _pack(outputs, fits, candidates, selection, scorer)
    pack.validated = selection.mean(predictions)
    if len(predictions) > 1 and len(held_out.y) <= FEW_ROWS:
        folds = pool.drawn(held_out.y, N_PARTS, seed)
        pack.validated = _apart(predictions, scorer, selection, folds, options)
    pack.take_scores(scores_of(task, scorer.y, pack.validated), scorer.weight)
    return pack


def _apart(
    predictions: Sequence[Array],
    scorer: Scorer,
    selection: Selection,
    folds: Sequence[pool.Fold],
    options: tuple[Any, ...],
) -> Array:
    """Predictions of the rows of each fold by a selection on the other rows.

    Errors of rows that have chosen the ensemble are smaller than errors of new rows.
    `selection`, of all rows, stands in where other rows have no score;
    `options` are of `_selected`.
    """
    mean = np.empty_like(predictions[0], dtype=np.float64)
    for others, rows in folds:
        own = selection
        with suppress(ValueError):
            some = [of_candidate[others] for of_candidate in predictions]
            own = _selected(some, scorer.of(others), *options)
        mean[rows] = own.mean([of_candidate[rows] for of_candidate in predictions])
    return mean


def _deadline(settings: PackSettings, start: float, share: float = 1.0) -> float | None:
    """The end of a share of the time, of `time.perf_counter`; None without a limit."""
    if settings.time_limit is None:
        return None
    return start + share * settings.time_share * settings.time_limit


def _warn_of_time(
    candidates: Sequence["Candidate"], n: int, limit: float, who: str
) -> None:
    """Warn if the time sufficed for some nets only, or for no net to its end."""
    trained = [net for candidate in candidates for net in candidate.nets]
    n_cut = sum(net.cut for net in trained)
    if len(trained) < n or n_cut == n:
        cut = f", {n_cut} of them cut short" if n_cut else ""
        verb = "was" if len(trained) == 1 else "were"
        message = f"{len(trained)} of {n} nets {verb} trained within time_limit={limit:g}{cut}"
        warn(f"{who}: {message}", UserWarning)


def _pools(
    splits: Sequence[pool.Split], limits: pool.Limits, cluster: Any
) -> list[list[pool.Trained]]:
    """Nets of each split, which share the remaining time."""
    if cluster is not None and limits.deadline is None:
        return pool.train_together(splits, limits, cluster)
    n = len(splits)
    pools = []
    for k, split in enumerate(splits):
        own = limits.shared(n - k)
        kept = own.checkpoints and own.checkpoints.within(f"fold{k}")
        pools.append(pool.train(split, own._replace(checkpoints=kept), cluster))
    return pools


class Candidate(NamedTuple):
    """The nets of one recipe, one for each fold,
    and their predictions of all validation rows.
    """

    nets: tuple[pool.Trained, ...]
    predictions: NDArray[np.float64]


def _candidates(
    pools: Sequence[Sequence[pool.Trained]], of_rows: Sequence[Array], n: int
) -> list[Candidate]:
    """Recipes with a net for each fold."""
    candidates = []
    by_number = [{net.recipe.number: net for net in nets} for nets in pools]
    for number in sorted(set.intersection(*(set(of_pool) for of_pool in by_number))):
        nets = tuple(of_pool[number] for of_pool in by_number)
        predictions = np.empty((n, *nets[0].predictions.shape[1:]))
        for net, rows in zip(nets, of_rows, strict=True):
            predictions[rows] = net.predictions
        candidates.append(Candidate(nets, predictions))
    return candidates


def _pack(
    outputs: NetOutputs,
    fits: Sequence[Mapping[str, Encoding]],
    candidates: Sequence[Candidate],
    selection: Selection,
    scorer: Scorer,
) -> Pack:
    """The ensemble of a selection, without scores of its rows.

    `fits` are the encodings of each split, by name.
    """
    weights = selection.weights
    places = dict[tuple[int, str], int]()
    members = []
    for weight, candidate in zip(weights, candidates, strict=False):
        for k, trained in enumerate(candidate.nets if weight else ()):
            place = places.setdefault((k, trained.recipe.encoding), len(places))
            score = scorer.score_of(candidate.predictions)
            share = float(weight) / len(fits)
            own = (trained.best_epoch, trained.curve, trained.seconds)
            members.append(
                Member(trained.recipe, place, trained.net, share, score, *own)
            )
    return Pack(
        outputs,
        tuple(fits[k][name] for k, name in places),
        tuple(members),
        extra_weights=weights[len(candidates) :],
        validation_score=-selection.loss,
        residuals=NO_NUMBERS,
        n_trained=len(candidates) * len(fits),
    )


def _core(candidates: Sequence[Candidate], n: int) -> list[int]:
    """Indices of the candidates that "balanced" has, if there are n with more nets."""
    turn = [
        i
        for i, candidate in enumerate(candidates)
        if candidate.nets[0].recipe.number in FIRST
    ]
    if len(turn) == len(candidates):
        return []
    return [*turn, *range(len(candidates), n)]


def _selected(
    predictions: Sequence[Array],
    scorer: Scorer,
    settings: PackSettings,
    generator: np.random.Generator,
    deadline: float | None,
    least: Sequence[float],
    core: Sequence[int] = (),
) -> Selection:
    """Weights of the candidates, by the settings."""
    if not predictions:
        raise ValueError("no net could be trained: all have diverged")
    seen = [scorer.seen(of_candidate) for of_candidate in predictions]
    most = settings.max_members
    weight = scorer.weight
    loss = scorer.loss
    # A single candidate needs no choice, which takes a second for a million rows.
    if settings.ensemble == "greedy" and len(seen) > 1:
        options: dict[str, Any] = {
            "max_members": most,
            "deadline": deadline,
            "least": least,
            "core": core,
        }
        selection = bagged(
            seen, loss, len(seen[0]), generator, weight=weight, **options
        )
    else:
        most = 1 if settings.ensemble == "best" else most
        selection = equal(seen, loss, weight=weight, max_members=most)
    if not selection.weights.any():
        raise ValueError(
            "the score of the validation rows is no number, whatever is predicted"
        )
    return selection
