"""Settings of a pack and of its nets: presets,
encodings, and recipes that are drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count, islice
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from fastmlp import EarlyStopping
from fastmlp.tabular.encoding import Encoding
from fastmlp.tabular.number_encoders import level_edges, there
from fastmlp.tabular.outputs import SQUARED, NumberLoss, Score
from fastmlp.tabular.schema import Values
from fastmlp.typing import Activation, ComputeDType

Preset = Literal["fast", "balanced", "best"]
# Bagged greedy selection, equal weights of the best candidates, or the best alone.
Ensemble = Literal["greedy", "mean", "best"]
# Pieces of a column, and more pieces for every other net with at most this many
# columns. In 12 tables more pieces were better on half and worse on half, by 1 to 7 %:
# the selection chooses. More pieces suit nets with an L1 penalty.
BINS = 16
FINE_BINS = 48
FEW_COLUMNS = 10
# Maximum pieces of all columns together,
# and the fewest of a column: fewer tell a net little.
MOST_PIECES, FEWEST_BINS = 8192, 2


class PackSettings(NamedTuple):
    """The settings of a pack's training.

    Attributes
    ----------
    n_members : int
        Number of nets to train, per fold.
    max_members : int
        Maximum number of nets in the ensemble.
    ensemble : "greedy", "mean" or "best"
    compute_dtype : "bfloat16" for mixed precision, or None
    trees : bool
        Boosted trees are a candidate beside the nets.
    signs : constraints of the columns of numbers, 1, -1 or 0 each; empty without constraints
    epochs : int, the maximum of each net
    patience, patience_share : int, float
        Epochs that a net goes on without gain:
        `patience` plus this share of the epochs until its best.
    score : function of (y, predictions, weight), optional
        The score that the selection maximises; None: minus the log-loss or the RMSE.
    loss : of numbers
    metrics : scores of (y, predictions, weight), higher is better, measured after each epoch
    early_stopping : EarlyStopping, optional
        In place of `patience`.
    time_limit : float, optional
        Seconds after which no net is begun,
        and training nets end, also within an epoch.
    time_share : float
        Share of the time limit for nets and selection; the rest is for a refit.
    cv : int
        Number of folds without validation rows:
        each net is trained once without each fold.
    """

    n_members: int = 9
    max_members: int = 6
    epochs: int = 200
    patience: int = 4
    patience_share: float = 0.3
    score: Score | None = None
    time_limit: float | None = None
    time_share: float = 1.0
    cv: int = 5
    ensemble: Ensemble = "greedy"
    compute_dtype: ComputeDType | None = None
    signs: tuple[int, ...] = ()
    trees: bool = False
    loss: NumberLoss = SQUARED
    metrics: Mapping[str, Score] = MappingProxyType({})
    early_stopping: EarlyStopping | None = None


PRESETS: dict[Preset, PackSettings] = {
    "fast": PackSettings(n_members=6, max_members=4, epochs=100),
    "balanced": PackSettings(trees=True),
    "best": PackSettings(n_members=20, max_members=10, epochs=400, trees=True),
}


# Large tables have this many rows to train on, or more. Batches are the power of two
# nearest to a multiple of the root of the rows: an epoch takes 0.76 to 1.0 of the time.
# Weight decay and L1 penalty count by steps; with more than `FULL_STEPS` an epoch they
# would outweigh the rows, and are divided. Validation loss of one net after at most 14
# epochs, made-up tables of 200,000 rows:
#   64x64 silu, batch 256, 512, 1024: steps .5144 .5144 .5145, levels .5503 .5504 .5513,
#     smooth .5164 .5178 .5166, sparse .5126 .5175 .5167, heavy tails 1.156 1.163 1.171
#   L1, batch 256, and 512 with 0.2 of it: levels .5698 .5474, heavy tails 1.214 1.185
#   decay and dropout, the same: steps .5203 .5146
# The mean of a silu net and one with L1 has 0.1 to 1.7 % less than the better one on
# six tables; a third net gained 0.03 % on the one table that had it.
LARGE = 100_000
BATCH_BY_ROOT, FULL_STEPS = 1.1, 100


def of_large(settings: PackSettings) -> PackSettings:
    """Settings for large tables: fewer nets, which end sooner.

    Trees are left to the preset "best": of 130,000 rows of 20 numbers they take 0.4
    times as long as the nets of "balanced".
    """
    return settings._replace(
        n_members=-(-settings.n_members // 3),
        trees=settings is PRESETS["best"],
        epochs=settings.epochs // 6,
        patience=2,
        patience_share=0.1,
    )


# Integers may be levels: every other net takes them so, too. Test losses of balanced
# changed by -0.6 to -29 % on five made-up tables of codes, two of which were kept
# aside, by 0.0 % on one of numbers in order, and by -0.2 % on average on 18 tables of
# the suite. Up to 100 integers: +5 % on one of temperatures, as three seeds had it.
MOST_INTEGERS = 64
# Target statistics have an input for each class. With many, nets overfit: every other
# net has none, for 1 to 3 % less loss on three made-up tables of 20 and 24 classes, and
# +0.1 % on one of 19.
MANY_CLASSES = 10
# Inputs of plain nets: scaled columns without pieces.
SCALED = "scaled"
# Least columns of numbers beside which a net is plain. On made-up tables of 16 to 40
# smooth numbers the test loss fell by 21 to 43 %, in 52 tables by 0.05 % in the median;
# with few columns plain nets train long: +18 % processor time on ten tables.
MANY_NUMBERS = 10


def encodings_for(values: Values, n_classes: int = 0) -> dict[str, Encoding]:
    """Encodings of a pack's nets by their names in leaderboards, from training rows.

    Nets take them in turn, but for `SCALED` beside others, which plain nets have.
    """
    n = values.numbers.shape[1]
    name = "piecewise linear"
    first = Encoding(n_bins=max(1, min(BINS, MOST_PIECES // max(n, 1))))
    if first.n_bins < FEWEST_BINS:
        return {SCALED: Encoding(embedding="none")}
    encodings = {name: first}
    second = replace(first)
    if 0 < n <= FEW_COLUMNS:
        second.n_bins = FINE_BINS
        name = f"{name} in {FINE_BINS} bins"
    few = n * MOST_INTEGERS <= MOST_PIECES and len(values.codes) < LARGE
    if few and any(len(level_edges(there(x), MOST_INTEGERS)) for x in values.numbers.T):
        second.max_integers = MOST_INTEGERS
        name = f"{name}, integers as levels"
    n_levels = values.codes.max(axis=0, initial=-1) + 1
    if n_classes >= MANY_CLASSES and (n_levels > (first.target_levels or 0)).any():
        second.target_levels = None
        name = f"{name}, no target statistics"
    encodings[name] = second
    if n >= MANY_NUMBERS and len(values.codes) < LARGE:
        encodings[SCALED] = Encoding(embedding="none")
    return encodings


class Recipe(NamedTuple):
    """Settings of one net.

    Attributes
    ----------
    number : int, its index among all kinds in all turns
    encoding : str, the name of the inputs' encoding
    hidden : tuple of int, the sizes of the hidden layers; () is a linear model
    weight_decay : float, for weights only
    dropout : float, of hidden layers
    l1 : float, the strength of the penalty of a batch: columns without a signal lose their weights
    seed : int, of weights, orders and dropout
    """

    number: int
    encoding: str
    hidden: tuple[int, ...]
    activation: Activation
    learning_rate: float
    weight_decay: float
    dropout: float
    l1: float
    seed: int

    def __str__(self) -> str:
        layers = "x".join(map(str, self.hidden))
        strengths = (("dropout", self.dropout), ("L1", self.l1))
        return ", ".join(
            (
                f"{layers} {self.activation}" if self.hidden else "linear model",
                self.encoding,
                *(f"{name} {strength:.2g}" for name, strength in strengths if strength),
            )
        )


class Kind(NamedTuple):
    """A kind of net: ranges to draw from,
    for rate and decay evenly in the logarithm.

    Nets of a plain kind have columns without pieces.
    """

    hidden: tuple[int, ...]
    activation: Activation
    rates: tuple[float, float] = (1.5e-3, 3e-3)
    decays: tuple[float, float] = (0.003, 0.03)
    dropouts: tuple[float, float] = (0.0, 0.0)
    penalties: tuple[float, float] = (0.0, 0.0)
    plain: bool = False


# Nets take the kinds in turn. The first six are in every pack: each does best on some
# tables, small nets with an L1 penalty on most. In 14 tables, layers of 64 were as good
# as layers of 128 (median of the test loss -0.04 %) in 0.57 of the time; in every
# second turn layers are twice as wide. Turns after the first have the kinds of `AGAIN`
# alone: the others had a tenth of the weights on 15 made-up tables of 1,200 to 10,000
# rows. Strong L1 penalties are not in `FIRST`, the first turn: beside trees they
# lowered the test loss of 47 tables by 0.02 %, for a fifth of the nets' time. 20 nets
# in place of 30, with half the patience, took 0.60 of the CPU time of "best", at a test
# loss 0.07 % higher.
L1, NOISY, CALM = (0.02, 0.06), (0.1, 1.0), (0.05, 0.2)
NET_KINDS = (
    Kind((64, 64), "silu", decays=NOISY, dropouts=(0.15, 0.35)),
    Kind((64, 64), "relu", (3e-3, 5e-3), penalties=L1),
    Kind((64, 64), "relu", (2e-3, 4e-3)),
    Kind((), "relu", (3e-3, 6e-3)),
    Kind((64, 64), "relu", decays=NOISY, dropouts=(0.05, 0.15)),
    Kind((64,), "relu", decays=NOISY),
    Kind((64, 64, 64), "silu"),
    Kind((64, 64), "relu", (3e-3, 5e-3), penalties=(0.06, 0.15)),
    Kind((64, 64), "silu"),
    Kind((64, 64), "relu"),
)
PLAIN = Kind((64, 64), "silu", decays=CALM, dropouts=(0.05, 0.15), plain=True)
# Kinds beside many numbers: a plain net in place of the deepest.
PLAIN_KINDS = (*NET_KINDS[:5], PLAIN, NET_KINDS[5], *NET_KINDS[7:])
FIRST = (0, 1, 2, 3, 4, 5, 6, 8, 9)
AGAIN = (0, 1, 2, 4, 7)
# Kinds in their order for large tables.
LARGE_KINDS = tuple(NET_KINDS[i] for i in (8, 1, 6, 2, 0, 7, 9, 4, 5, 3))
# Layers of nets with strong decay are twice as wide in the first turn where each of
# many classes has this many rows, or more.
ROWS_A_CLASS = 100


def draw(
    n: int, seed: int, encodings: Sequence[str], n_rows: int = 0, n_classes: int = 0
) -> list[Recipe]:
    """Settings of n nets. A net's settings do not depend on n.

    Parameters
    ----------
    n_rows : int, number of training rows: large tables have another order of kinds
    encodings : sequence of str
        Names of encodings, which nets take in turn, but for `SCALED` of plain nets.
    n_classes : int, 0 for numbers

    Examples
    --------
    >>> draw(2, 0, ["steps"]) == draw(9, 0, ["steps"])[:2]
    True
    """
    recipes = []
    in_turn = [name for name in encodings if name != SCALED] or encodings
    wide = n_classes >= MANY_CLASSES and n_rows >= ROWS_A_CLASS * n_classes
    kinds: tuple[Kind, ...] = NET_KINDS
    if n_rows >= LARGE:
        kinds = LARGE_KINDS
    elif len(in_turn) < len(encodings):
        kinds = PLAIN_KINDS
    later = (number for number in count(len(kinds)) if number % len(kinds) in AGAIN)
    for number in islice(chain(FIRST, later), n):
        generator = np.random.default_rng([seed, number])
        turn, place = divmod(number, len(kinds))
        kind = kinds[place]
        encoding = in_turn[number % len(in_turn)]
        if kind.plain:
            encoding = SCALED
        is_twice = turn % 2 == 1 or (wide and kind.decays in (NOISY, CALM))
        hidden = tuple(n_units << is_twice for n_units in kind.hidden)
        rate, decay = (
            float(np.exp(generator.uniform(*np.log(span))))
            for span in (kind.rates, kind.decays)
        )
        dropout, l1 = (
            float(generator.uniform(*span)) for span in (kind.dropouts, kind.penalties)
        )
        own = (rate, decay, dropout, l1, int(generator.integers(1 << 31)))
        recipes.append(Recipe(number, encoding, hidden, kind.activation, *own))
    return recipes
