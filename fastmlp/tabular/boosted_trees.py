"""Trees of scikit-learn's HistGradientBoosting as a member of an ensemble."""

import time
from importlib import import_module
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator

from fastmlp.extend import TreeNodes
from fastmlp.tabular.number_encoders import LearnedArrays, there
from fastmlp.tabular.pool import in_strips
from fastmlp.tabular.schema import Values
from fastmlp.typing import Array

# Levels of a set, a bit each, and the numbers of int32 that hold them.
N_BITS, N_WORDS_OF_SET = 256, 8
TREES_NAME = "boosted trees"
ROUNDS, RATE = 200, 0.05
# A round grows a tree for each of several classes: rounds are then fewer, at a higher
# rate. Trees that are best at this share of their rounds, or before, grow again at half
# the rate.
MOST_TREES = 600
FEWEST_ROUNDS = 40
LARGEST_RATE = 0.2
EARLY = 0.25
# With a time limit: the fewest rounds, and the share of the time for all fits.
FIRST_ROUNDS, SHARE = 10, 0.25
# Columns of more levels are taken as numbers.
MOST_LEVELS = 255
# Position of a threshold between two training values. Multiples of this number stay far
# from whole numbers, and new prices between two others off the threshold.
GOLDEN = 0.6180339887498949


class BoostedTrees(LearnedArrays, BaseEstimator):
    """Trees of scikit-learn's HistGradientBoosting, with equal bits for training rows.

    With validation rows the trees end at their best round. The trees of many unequal
    classes diverge at a high rate: they grow again at half of it while that has a
    better score.

    Thresholds lie between training values, so that rounded rows take the same ways.
    Probabilities come from the nets' links in float64, with the same bits on every
    machine.

    Parameters
    ----------
    classes : bool, True for probabilities
    n_categories : int
        Number of last columns that hold indices of levels.
    monotonic_cst : (n_features,) sequence of -1, 0 and 1, optional
    seconds : float, optional
        Time after which no round is begun; results depend on the machine.
    random_state : int, of the rows that histograms of a large table are made of
    rounds, rate : int, float, optional
        Maximum rounds, and the rate of the first growth. A fit sets them to the rounds
        and rate that were kept, which clones take over.

    Attributes
    ----------
    classes_ : (n_classes,) array of int64, empty for numbers
    roots, features, numbers, children, places, sets : as in `TreeNodes`
        The first tree of each output is a leaf: the prediction without the others.
    """

    classes_: Array
    roots: Array
    features: Array
    numbers: Array
    children: Array
    places: Array
    sets: Array

    ARRAYS: ClassVar[Any] = {
        "classes_": (np.int64, ("n_classes",)),
        "roots": (np.int32, ("n_trees",)),
        "features": (np.int32, ("n_nodes",)),
        "numbers": (np.float64, ("n_nodes",)),
        "children": (np.int32, ("n_nodes", "n_ways")),
        "places": (np.int32, ("n_nodes",)),
        "sets": (np.int32, ("n_words",)),
    }

    def __init__(
        self,
        *,
        classes: bool = False,
        n_categories: int = 0,
        monotonic_cst: Any = None,
        seconds: float | None = None,
        random_state: int | None = None,
        rounds: int | None = None,
        rate: float | None = None,
    ) -> None:
        self.classes = classes
        self.n_categories = n_categories
        self.monotonic_cst = monotonic_cst
        self.seconds = seconds
        self.random_state = random_state
        self.rounds = rounds
        self.rate = rate

    def fit(
        self, X: Array, y: Array, sample_weight: Array | None = None, **validation: Any
    ) -> Self:
        """Grow the trees, on one thread, until validation rows gain no more.

        Parameters
        ----------
        X : (n_rows, n_features) array of float64, NaN where a value is missing
        y : (n_rows,) array of numbers, or of class indices
        validation : X_val, y_val and sample_weight_val of scikit-learn's fit
        """
        start = time.perf_counter()
        n_classes = len(np.unique(y)) if self.classes else 1
        rounds = min(ROUNDS, max(MOST_TREES // n_classes, FEWEST_ROUNDS))
        most = self.rounds or rounds
        rate = self.rate or min(RATE * ROUNDS / rounds, LARGEST_RATE)
        rows: dict[str, Any] = {"X": X, "y": y, "sample_weight": sample_weight}
        rows |= validation
        kept = self._grown(rows, most, rate, start)
        while validation and _best_round(kept) <= EARLY * most and rate > RATE:
            rate = max(rate / 2, RATE)
            if self.seconds is not None and time.perf_counter() - start > self.seconds:
                break
            again = self._grown(rows, most, rate, start)
            if not again.validation_score_.max() > kept.validation_score_.max():
                break
            kept = again
        self.rounds = _best_round(kept)
        self.rate = kept.learning_rate
        del kept._predictors[self.rounds :]
        arrays = arrays_of(kept)
        _move_thresholds(arrays, X)
        return self.restore(arrays, X.shape[1])

    def _grown(self, rows: dict[str, Any], most: int, rate: float, start: float) -> Any:
        """A model of scikit-learn's after at most `most` rounds, on one thread.

        With `seconds` it has a few rounds,
        and as many more as the time since `start` allows.
        """
        X = rows["X"]
        n = most
        if self.seconds is not None:
            n = min(FIRST_ROUNDS, most)
        kind = "HistGradientBoosting" + ("Classifier" if self.classes else "Regressor")
        levels = np.arange(X.shape[1]) >= X.shape[1] - self.n_categories
        # The import takes half a second, and predictions do not need it.
        model = getattr(import_module("sklearn.ensemble"), kind)(
            learning_rate=rate,
            max_iter=n,
            warm_start=self.seconds is not None,
            early_stopping="X_val" in rows,
            categorical_features=levels & ~(X >= MOST_LEVELS).any(axis=0),
            monotonic_cst=self.monotonic_cst,
            random_state=self.random_state,
        )
        with import_module("threadpoolctl").threadpool_limits(1, user_api="openmp"):
            begin = time.perf_counter()
            model.fit(**rows)
            while self.seconds is not None and (n := model.max_iter) < most:
                # At the pace of the rounds so far. A resumed fit makes its bins again,
                # which few rounds do not pay for.
                left = self.seconds - (begin - start)
                more = n * (left / (time.perf_counter() - begin) - 1)
                if more < n / 2 or model.n_iter_ < n:
                    break
                model.set_params(max_iter=min(most, n + int(more) + 1))
                model.fit(**rows)
        return model

    def predict(self, X: Array) -> Array:
        """Numbers, shape (n_rows,)."""
        return self.predict_raw(X)[:, 0]

    def predict_proba(self, X: Array) -> Array:
        """Probabilities of `classes_`, shape (n_rows, n_classes)."""
        return self.nodes.probabilities(self.predict_raw(X))

    def predict_raw(self, X: Array) -> Array:
        """Sums of the trees, shape (n_rows, n_outputs): numbers, log odds or logits."""
        if X.shape[1:] != (self.n_features_in_,):
            raise ValueError(
                f"X must have {self.n_features_in_} columns, got {X.shape}"
            )
        out = np.zeros((len(X), self.n_outputs), order="F")
        in_strips(len(X), lambda rows: self.nodes.sums(X[rows], out[rows]), X.shape[1])
        return out

    @property
    def n_outputs(self) -> int:
        """Number of sums: one for each class, if there are more than two."""
        return self.nodes.n_outputs

    @property
    def nodes(self) -> TreeNodes:
        if len(self.classes_):
            classes = self.classes_
        else:
            classes = np.zeros(1, np.int64)
        own = (getattr(self, name) for name in TreeNodes._fields[:6])
        return TreeNodes(*own)._replace(classes=classes)

    def _check_arrays(self) -> None:
        inner = self.features >= 0
        own = np.flatnonzero(inner)[:, None]
        n_nodes = len(self.features)
        n_sets = len(self.sets) // N_WORDS_OF_SET
        if len(self.roots) % self.n_outputs:
            raise ValueError(
                f"{len(self.roots)} trees for {len(self.classes_)} classes"
            )
        if self.children.shape[1] != 3 or (self.features >= self.n_features_in_).any():
            raise ValueError(
                "nodes of trees must have 3 children, and features that there are"
            )
        # A row goes forward at each node, and so reaches a leaf.
        children = self.children[inner]
        if (children <= own).any() or (children >= n_nodes).any():
            raise ValueError("children of a node must be behind it")
        if ((self.roots < 0) | (self.roots >= n_nodes)).any():
            raise ValueError("roots beyond the nodes")
        if (self.places >= n_sets).any() or len(self.sets) % N_WORDS_OF_SET:
            raise ValueError("places beyond the sets of levels")
        if not np.isfinite(self.numbers).all():
            raise ValueError("trees must have finite numbers")


def _best_round(model: Any) -> int:
    """The round with the best validation score,
    at least 1; without such rows the last.
    """
    if not model.do_early_stopping_:
        return int(model.n_iter_)
    return max(int(np.argmax(model.validation_score_)), 1)


def _move_thresholds(arrays: dict[str, Array], X: Array) -> None:
    """Move thresholds between training values,
    also as float32 where the values differ there.
    """
    features = arrays["features"]
    numbers = arrays["numbers"]
    for j in range(X.shape[1]):
        nodes = np.flatnonzero((features == j) & (arrays["places"] < 0))
        values = np.append(np.unique(there(X[:, j])), np.finfo(float).max)
        after = np.searchsorted(values[1:-1], numbers[nodes], side="right") + 1
        low, high = values[after - 1], values[after]
        with np.errstate(over="ignore"):
            narrow = low.astype(np.float32)
            more = high.astype(np.float32)
        differ = narrow < more
        low = np.where(differ, np.maximum(low, narrow), low)
        high = np.where(differ, np.minimum(high, more), high)
        middle = low * (1 - GOLDEN) + high * GOLDEN
        numbers[nodes] = np.where((low < middle) & (middle < high), middle, low)


def candidate(
    n_classes: int, values: Values, seed: int, time_limit: float | None, n_fits: int
) -> BoostedTrees:
    """Trees for a table, not yet grown; `n_fits` share the time limit."""
    return BoostedTrees(
        classes=n_classes > 0,
        n_categories=values.codes.shape[1],
        seconds=None if time_limit is None else SHARE * time_limit / n_fits,
        random_state=seed,
    )


def arrays_of(model: Any) -> dict[str, Array]:
    """The arrays of `BoostedTrees` from a fitted HistGradientBoosting.

    Categories are indices of levels, fewer than 256;
    their sets hold unknown levels where missing values go left.
    """
    order = np.arange(model.n_features_in_)
    categories = []
    if model.is_categorical_ is not None:
        # scikit-learn has categories first, numbered by their order in training.
        order = np.argsort(~model.is_categorical_, kind="stable")
        encoder = model._preprocessor.named_transformers_["encoder"]
        categories = [
            known[~np.isnan(known)].astype(int) for known in encoder.categories_
        ]
    baseline = model._baseline_prediction.ravel()
    n_nodes = len(baseline)
    leaves = [
        np.full(n_nodes, -1),
        baseline,
        np.zeros((n_nodes, 3)),
        np.full(n_nodes, -1),
    ]
    parts = [leaves]
    roots = [*range(n_nodes)]
    sets = list[Array]()
    for tree in (tree for of_round in model._predictors for tree in of_round):
        nodes = tree.nodes
        inner = tree.nodes["is_leaf"] == 0
        children = np.stack([nodes[way] for way in ("left", "right", "right")], axis=1)
        to_left = nodes["missing_go_to_left"] > 0
        children[to_left, 2] = children[to_left, 0]
        # Only missing values go right at such a node.
        all_left = np.isinf(nodes["num_threshold"])
        children[all_left, 1] = children[all_left, 0]
        thresholds = np.where(all_left, 0.0, nodes["num_threshold"])
        places = np.full(len(nodes), -1, np.int32)
        for node in np.flatnonzero(inner & (nodes["is_categorical"] > 0)):
            places[node] = len(sets)
            known = categories[nodes["feature_idx"][node]]
            of_tree = tree.raw_left_cat_bitsets[nodes["bitset_idx"][node]]
            bits = np.unpackbits(
                of_tree.astype("<u4").view(np.uint8), bitorder="little"
            )
            left = np.full(N_BITS, to_left[node])
            left[known] = bits[: len(known)]
            sets.append(
                np.packbits(left, bitorder="little").view("<i4").astype(np.int32)
            )
        parts.append(
            [
                np.where(inner, order[np.where(inner, nodes["feature_idx"], 0)], -1),
                np.where(inner, thresholds, nodes["value"]),
                np.where(inner[:, None], children + n_nodes, 0),
                places,
            ]
        )
        roots.append(n_nodes)
        n_nodes += len(nodes)
    features, numbers, children, places = map(np.concatenate, zip(*parts, strict=True))
    return {
        "classes_": np.asarray(getattr(model, "classes_", ()), np.int64),
        "roots": np.array(roots, np.int32),
        "features": features.astype(np.int32),
        "numbers": numbers.astype(np.float64),
        "children": children.astype(np.int32),
        "places": places.astype(np.int32),
        "sets": np.concatenate([*sets, np.empty(0, np.int32)]),
    }
