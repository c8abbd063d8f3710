"""How much a pack does: its presets, and the encodings of its nets."""

from typing import Literal, NamedTuple

from fastmlp.network.spec import ComputeDType
from fastmlp.tabular.encoders.encoding import Encoding
from fastmlp.tabular.pack.scoring import Score

Preset = Literal["fast", "balanced", "best"]
# A bagged greedy selection, equal weights of those that do best by themselves, the best alone.
Ensemble = Literal["greedy", "mean", "best"]
# Pieces of a column, and those of every other net where there are at most so many columns. In 12
# tables finer pieces were better on one half and worse on the other, by 1 to 7 %: the selection
# knows. They suit nets with an L1 penalty.
BINS, FINE_BINS, FEW_COLUMNS = 16, 48, 10
# Fewer where those of all columns would be more than this; fewer than two tell a net little.
MOST_PIECES, FEWEST_BINS = 8192, 2


class Settings(NamedTuple):
    """How a pack is trained.

    Attributes
    ----------
    n_members : int
        The nets that are trained; of each fold so many.
    max_members : int
        The most that the ensemble has.
    ensemble : "greedy", "mean" or "best"
    compute_dtype : "bfloat16" for nets that train in mixed precision, or None
    epochs : int, the most of each net
    patience : int
        How many epochs a net goes on without getting better, beside 0.3 of those until its best.
    score : function of (y, predictions, weight), optional
        What the selection maximises; None: minus the log-loss or the RMSE.
    time_limit : float, optional
        Seconds after which no net is begun, and those that train end, within an epoch too. With
        it, which nets there are depends on the machine.
    cv : int
        Without validation rows or folds: train each net so many times, each time without another
        fold of the rows, and validate on that. The ensemble has all of them.
    """

    n_members: int = 10
    max_members: int = 6
    epochs: int = 200
    patience: int = 4
    score: Score | None = None
    time_limit: float | None = None
    cv: int = 5
    ensemble: Ensemble = "greedy"
    compute_dtype: ComputeDType | None = None


PRESETS: dict[Preset, Settings] = {
    "fast": Settings(n_members=6, max_members=4, epochs=100),
    "balanced": Settings(),
    "best": Settings(n_members=30, max_members=10, epochs=400, patience=8),
}


def encodings_for(n_numeric: int) -> dict[str, Encoding]:
    """Return the encodings of a pack's nets, for a table with so many columns of numbers."""
    n_bins = min(BINS, MOST_PIECES // max(n_numeric, 1))
    if n_bins < FEWEST_BINS:
        return {"scaled": Encoding(embedding="none")}
    found = {"pieces": Encoding(n_bins=n_bins)}
    if 0 < n_numeric <= FEW_COLUMNS:
        found["fine pieces"] = Encoding(n_bins=FINE_BINS)
    return found
