"""A pack: many small nets on encoded columns, of which a greedy selection forms the ensemble."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.cluster.groups import Cluster
from fastmlp.model import MLP
from fastmlp.tabular.encoders.encoding import Encoding
from fastmlp.tabular.pack import conformal
from fastmlp.tabular.pack.folds import folds_of
from fastmlp.tabular.pack.inputs import inputs_of
from fastmlp.tabular.pack.outputs import Outputs, outputs_of
from fastmlp.tabular.pack.pool import Limits, Part, Split, Trained, train, train_together
from fastmlp.tabular.pack.prior import Recipe, draw
from fastmlp.tabular.pack.scoring import Scorer, Task
from fastmlp.tabular.pack.selection import Selection, bagged, equal
from fastmlp.tabular.pack.settings import Settings, encodings_for
from fastmlp.tabular.pack.strips import in_strips
from fastmlp.tabular.schema import Values

Array = NDArray[Any]


class Member(NamedTuple):
    """A net of the ensemble.

    Attributes
    ----------
    recipe : Recipe
    encoding : int, the place of its encoding
    weight : float, of its predictions in the mean
    score : float
        Of the validation rows, higher is better: of all folds' nets together.
    epoch : int, the best, counted from 1
    """

    recipe: Recipe
    encoding: int
    net: MLP
    weight: float
    score: float
    epoch: int


class Pack:
    """A weighted mean of nets' predictions.

    Attributes
    ----------
    task : "binary", "multiclass" or "regression"
    outputs : Outputs
    encodings : tuple of fitted encodings
    members : tuple of Member
    extra_weights : (n_extra,) array, of the predictions of models that are not the pack's
    validation_score : float
        Higher is better. The rows have chosen epochs and members: it flatters a little.
    residuals : (n_rows,) array, of numbers: of the validation rows, absolute, ascending
    n_trained : int, how many nets the members were chosen from
    """

    outputs: Outputs
    encodings: tuple[Encoding, ...]
    members: tuple[Member, ...]
    extra_weights: Array
    validation_score: float
    residuals: Array
    n_trained: int

    def __init__(
        self,
        outputs: Outputs,
        encodings: Sequence[Encoding],
        members: Sequence[Member],
        *,
        extra_weights: Array,
        validation_score: float,
        residuals: Array,
        n_trained: int,
    ) -> None:
        self.outputs, self.encodings, self.members = outputs, tuple(encodings), tuple(members)
        self.extra_weights, self.validation_score = extra_weights, validation_score
        self.residuals, self.n_trained = residuals, n_trained

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.outputs.task

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weights of the members, shape (n_members,)."""
        return np.array([member.weight for member in self.members])

    def predict(self, values: Values, extra: Sequence[Array] = ()) -> NDArray[np.float64]:
        """Return numbers, shape (n_rows,), or probabilities, shape (n_rows, n_classes).

        Parameters
        ----------
        values : Values
        extra : sequence of arrays
            What the further models predict, in the order of `extra_weights`.
        """
        strips = in_strips(len(values.numbers), lambda rows: self._nets(values.part(rows)))
        found = np.concatenate(strips)
        for weight, predictions in zip(self.extra_weights, extra, strict=True):
            if weight:
                found += weight * predictions
        return found

    def half_width(self, coverage: float) -> float:
        """Return the half width of intervals around predictions of numbers that hold this share of
        the targets; see `conformal.half_width`."""
        return conformal.half_width(self.residuals, coverage)

    def each(self, values: Values) -> Iterator[tuple[Member, NDArray[np.float64]]]:
        """Yield each net of the ensemble and its predictions; rows are encoded once."""
        for place, encoding in enumerate(self.encodings):
            members = [member for member in self.members if member.encoding == place]
            if members:
                inputs = inputs_of(encoding, values)
                for member in members:
                    yield member, self.outputs.predictions(member.net.predict(inputs))

    def _nets(self, values: Values) -> NDArray[np.float64]:
        """Return the nets' part of the predictions."""
        outputs, n = self.outputs, len(values.numbers)
        shape = (n,) if outputs.task == "regression" else (n, max(outputs.n_outputs, 2))
        total = np.zeros(shape)
        for member, predictions in self.each(values):
            total += member.weight * predictions
        return total


def train_pack(
    training: Part,
    validation: Part | None,
    *,
    task: Task,
    n_classes: int,
    settings: Settings,
    seed: int,
    encodings: Mapping[str, Encoding] | None = None,
    n_threads: int | None = None,
    extra: Sequence[Array] = (),
    cluster: Cluster | None = None,
) -> Pack:
    """Train nets, and return the ensemble of those that do best together on validation rows.

    Without a time limit, the same seed gives the same bits for any number of threads.

    Parameters
    ----------
    training : Part
    validation : Part, or None
        None: folds of the rows of training, by `settings.cv`.
    seed : int, of all that is drawn
    encodings : mapping of str to Encoding, optional
        Nets have them in turn. They are copied, and the copies learn from the rows. None: those of
        `encodings_for`.
    n_threads : int, optional
        As of `fit_many`.
    extra : sequence of arrays
        Predictions of further models for the validation rows: candidates as the nets are.
    cluster : Cluster, optional
        Its workers train the nets.
    """
    start, limit = time.perf_counter(), settings.time_limit
    deadline = None if limit is None else start + limit
    limits = Limits(settings.epochs, settings.patience, deadline, n_threads)
    outputs = outputs_of(task, training.y, training.weight, n_classes)
    if encodings is None:
        encodings = encodings_for(training.values.numbers.shape[1])
    recipes = draw(settings.n_members, seed, tuple(encodings))
    parts, of_rows = _splits(training, validation, settings.cv, seed)
    splits = []
    for k, (first, second) in enumerate(parts):
        its = {name: replace(one) for name, one in encodings.items()}
        own = [recipe._replace(seed=recipe.seed + k) for recipe in recipes]
        generator = np.random.default_rng([seed, k])
        how = (outputs, generator, settings.compute_dtype)
        splits.append(Split(own, its, first, second, *how))
    pools = _pools(splits, limits._replace(alone=len(splits) == 1), cluster)
    fits = [split.encodings for split in splits]
    held_out = training if validation is None else validation
    candidates = _candidates(pools, of_rows, len(held_out.y))
    scorer = Scorer(task, held_out.y, held_out.weight, settings.score)
    generator = np.random.default_rng([seed, len(splits), 1])
    return _pack(outputs, fits, candidates, extra, scorer, held_out.y, settings, generator)


def _pools(splits: Sequence[Split], limits: Limits, cluster: Cluster | None) -> list[list[Trained]]:
    """Return the nets of each split, which share the time that there is."""
    if cluster is not None and limits.deadline is None:
        return train_together(splits, limits, cluster)
    n = len(splits)
    return [train(split, limits.shared(n - k), cluster) for k, split in enumerate(splits)]


class Candidate(NamedTuple):
    """The nets of one recipe, one for each fold, and their predictions of all validation rows."""

    nets: tuple[Trained, ...]
    predictions: NDArray[np.float64]


def _splits(
    training: Part, validation: Part | None, n_folds: int, seed: int
) -> tuple[list[tuple[Part, Part]], list[Array]]:
    """Return rows to train on and to validate on, and the places of the latter."""
    if validation is not None:
        return [(training, validation)], [np.arange(len(validation.y))]
    n = min(n_folds, len(training.y))
    folds = folds_of(training.y, n, np.random.default_rng([seed, n]))
    places = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(n)]
    parts = [(training.take(first), training.take(second)) for first, second in places]
    return parts, [second for _, second in places]


def _candidates(
    pools: Sequence[Sequence[Trained]], of_rows: Sequence[Array], n: int
) -> list[Candidate]:
    """Return the recipes of which there is a net for each fold."""
    found = []
    by_number = [{net.recipe.number: net for net in pool} for pool in pools]
    for number in sorted(set.intersection(*(set(each) for each in by_number))):
        nets = tuple(each[number] for each in by_number)
        predictions = np.empty((n, *nets[0].predictions.shape[1:]))
        for net, rows in zip(nets, of_rows, strict=True):
            predictions[rows] = net.predictions
        found.append(Candidate(nets, predictions))
    return found


def _pack(
    outputs: Outputs,
    fits: Sequence[Mapping[str, Encoding]],
    candidates: Sequence[Candidate],
    extra: Sequence[Array],
    scorer: Scorer,
    y: Array,
    settings: Settings,
    generator: np.random.Generator,
) -> Pack:
    """Select the ensemble."""
    predictions = [*(candidate.predictions for candidate in candidates), *extra]
    if not predictions:
        raise ValueError("no net could be trained: all have diverged")
    seen = [scorer.seen(one) for one in predictions]
    weights, loss = _selected(seen, scorer, settings, generator)
    if not weights.any():
        raise ValueError("the score of the validation rows is no number, whatever is predicted")
    used = dict[tuple[int, str], int]()
    members = []
    for weight, candidate in zip(weights, candidates, strict=False):
        for k, trained in enumerate(candidate.nets if weight else ()):
            place = used.setdefault((k, trained.recipe.encoding), len(used))
            score = scorer.score_of(candidate.predictions)
            share = float(weight) / len(fits)
            members.append(
                Member(trained.recipe, place, trained.net, share, score, trained.best_epoch)
            )
    mean = sum(weight * one for weight, one in zip(weights, predictions, strict=True) if weight)
    residuals = np.empty(0)
    if outputs.task == "regression":
        residuals = conformal.sorted_residuals(y, np.asarray(mean))
    return Pack(
        outputs,
        [fits[k][name] for k, name in used],
        members,
        extra_weights=weights[len(candidates) :],
        validation_score=-loss,
        residuals=residuals,
        n_trained=len(candidates) * len(fits),
    )


def _selected(
    predictions: Sequence[Array], scorer: Scorer, settings: Settings, generator: np.random.Generator
) -> Selection:
    """Return the weights of the candidates, by the settings."""
    most, weight, loss = settings.max_members, scorer.weight, scorer.loss
    if settings.ensemble == "greedy":
        n = len(predictions[0])
        return bagged(predictions, loss, n, generator, weight=weight, max_members=most)
    most = 1 if settings.ensemble == "best" else most
    return equal(predictions, loss, weight=weight, max_members=most)
