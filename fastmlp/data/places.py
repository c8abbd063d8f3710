"""Where rows are, as errors call them, and targets that are missing there."""

from typing import Any, Self

from fastmlp.validation.suggestions import count


class Place(str):
    """What errors call some rows of a file or a table, such as "batch 1 of a.csv".

    Attributes
    ----------
    first : the number of the first row, from 0; in CSV its line, from 1
    unit : "row" or "line"
    of : " of a.csv", or "" for rows in memory
    """

    first: int
    unit: str
    of: str

    def __new__(cls, text: str, first: int = 0, of: str = "") -> Self:
        made = super().__new__(cls, text)
        made.first, made.unit, made.of = first, "row", of
        return made

    @classmethod
    def in_csv(cls, text: str, first: int, of: str) -> Self:
        """Return the place of rows of CSV, whose line 1 is the header."""
        made = cls(text, first + 2, of)
        made.unit = "line"
        return made

    def by(self, who: str) -> Self:
        """Return the same place, with who reads before it."""
        made = type(self)(f"{who}: {self}", self.first, self.of)
        made.unit = self.unit
        return made

    def row(self, i: int) -> str:
        """Return what errors call the row i of them."""
        return f"{self.unit} {self.first + i}"


def missing_in(column: Any) -> tuple[int, int]:
    """Return how many values of an Arrow column are missing, NaN too, and the first one's place."""
    import pyarrow.compute as compute

    missing = compute.is_null(column, nan_is_null=True)
    return int(compute.sum(missing).as_py() or 0), int(compute.index(missing, True).as_py())


def lacking(name: str, n: int, first: str) -> str:
    """Return a sentence of so many missing targets, and what to do; `first` is the first one's."""
    told = f"{count(n, 'missing value')}, the first in {first}"
    return f"the target {name!r} has {told}; fill them in, or leave their rows out"


def require_target(column: Any, name: str, where: str) -> None:
    """Check that no target in an Arrow column is missing.

    Raises
    ------
    ValueError
        If one is; the message has how many, and the row, or the line, of the first.
    """
    n, first = missing_in(column)
    if n:
        place = where if isinstance(where, Place) else Place(where)
        raise ValueError(f"{where}: {lacking(name, n, place.row(first))}")
