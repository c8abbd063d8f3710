"""What a preset stands for: how many nets, how long they train, and how columns are encoded."""

from typing import Literal, NamedTuple

from fastmlp.tabular.encoders.encoding import Encoding
from fastmlp.tabular.pack import Settings
from fastmlp.tabular.schema import Schema

Preset = Literal["fast", "balanced", "best"]
# With fewer rows than this each net trains once for each of five folds.
FEW_ROWS, N_FOLDS = 1000, 5
# A number has fewer pieces where the pieces of all columns would be more inputs than this.
MOST_PIECES = 8192
# Fewer pieces than this tell a net little that the number does not.
FEWEST_BINS, BINS = 2, 16


class Plan(NamedTuple):
    """The numbers of a preset, which parameters of the same names override."""

    n_members: int
    max_members: int
    max_iter: int


PRESETS: dict[Preset, Plan] = {
    "fast": Plan(4, 4, 100),
    "balanced": Plan(Settings().n_members, Settings().max_members, Settings().epochs),
    "best": Plan(32, 16, 400),
}


def plan_of(preset: Preset, **given: int | None) -> Plan:
    """Return the plan of a preset, but for what is given.

    Examples
    --------
    >>> plan_of("fast", n_members=2, max_iter=None)
    Plan(n_members=2, max_members=4, max_iter=100)
    """
    said = {name: value for name, value in given.items() if value is not None}
    return PRESETS[preset]._replace(**said)


def encodings_of(schema: Schema) -> dict[str, Encoding]:
    """Return the encodings of a table's columns, by their names in recipes."""
    n_numbers = len(schema.numeric_names)
    n_bins = min(BINS, MOST_PIECES // max(n_numbers, 1))
    if n_bins < FEWEST_BINS:
        return {"scaled": Encoding(embedding="none")}
    return {"pieces": Encoding(n_bins=n_bins)}
