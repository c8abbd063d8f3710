"""Encoding: the encoders that turn the rows of a table into a net's inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np

from fastmlp import Expanded
from fastmlp.extend import scalars
from fastmlp.tabular.level_encoders import OneHotLevels, TargetStatistics
from fastmlp.tabular.number_encoders import (
    CodeEncoder,
    Encoder,
    IntegerLevels,
    MissingMarks,
    PiecewiseLinear,
    RisingSmoothClip,
    RobustSmoothClip,
)
from fastmlp.tabular.schema import Task, Values
from fastmlp.typing import Array

Scaling = Literal["robust", "rising"]
Embedding = Literal["none", "piecewise"]
Random = np.random.Generator | int
N_SEEDS = 2**31
# Most pieces of a column of `Expanded`.
MOST_BINS = 128


class EncodingPart(NamedTuple):
    """An encoder and the indices of its columns."""

    encoder: Encoder
    columns: Array

    def of(self, values: Values) -> Array:
        """Return the columns of a table's rows; for all columns not a copy."""
        is_of_codes = isinstance(self.encoder, CodeEncoder)
        table: Array = values.codes if is_of_codes else values.numbers
        if len(self.columns) == table.shape[1]:
            return table
        return table[:, self.columns]


@dataclass
class Encoding:
    """The encoders that turn the rows of a table into a net's inputs.

    The inputs are, in order: scaled numbers; marks of missing numbers, for columns that
    had some in training; target statistics of categories with many levels; categories
    of one or two levels; pieces of numbers; levels of integers; levels of other
    categories. `expanded` returns a short form, on which nets train faster.

    Parameters
    ----------
    scaling : "robust" or "rising"
        Numbers are scaled by `RobustSmoothClip` or `RisingSmoothClip`.
    embedding : "none" or "piecewise"
        Beside the scaled numbers: `PiecewiseLinear` of the numbers as they are.
    n_bins : of `PiecewiseLinear`; at most 128 pieces
    max_levels, min_rows : of `OneHotLevels`
    target_levels : int or None
        Categories with more levels get `TargetStatistics` too; None: no category does.
    max_integers : int or None
        Columns of numbers are levels too, if all are integers,
        and no more than this are distinct. None: no column is.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import Encoding, Schema
    >>> rows = [[1.0, "a"], [2.0, "b"], [np.nan, "c"], [4.0, "a"]]
    >>> values = Schema.learn(rows).read(rows)
    >>> encoding = Encoding(embedding="none", min_rows=1)
    >>> encoding = encoding.fit(values, [0, 1, 0, 1], "classification", np.random.default_rng(0))
    >>> encoding.transform(values).round(2)
    array([[-0.65,  0.  ,  1.  ,  0.  ,  0.  ],
           [ 0.  ,  0.  ,  0.  ,  1.  ,  0.  ],
           [ 0.  ,  1.  ,  0.  ,  0.  ,  1.  ],
           [ 1.22,  0.  ,  1.  ,  0.  ,  0.  ]], dtype=float32)
    >>> encoding.expanded(values).values.round(2)
    array([[-0.65,  0.  ,  0.  ],
           [ 0.  ,  0.  ,  1.  ],
           [ 0.  ,  1.  ,  2.  ],
           [ 1.22,  0.  ,  0.  ]], dtype=float32)
    """

    scaling: Scaling = "robust"
    embedding: Embedding = "piecewise"
    n_bins: int = 16
    max_levels: int = 100
    min_rows: int = 5
    target_levels: int | None = 8
    max_integers: int | None = None
    parts: dict[str, EncodingPart] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        scalars.known("Encoding", "scaling", self.scaling, get_args(Scaling))
        scalars.known("Encoding", "embedding", self.embedding, get_args(Embedding))
        if scalars.positive_integer("Encoding", "n_bins", self.n_bins) > MOST_BINS:
            raise ValueError(
                f"Encoding: n_bins must be at most {MOST_BINS}, got {self.n_bins}"
            )

    def fit(self, values: Values, y: Any, task: Task, rng: Random) -> Self:
        """Learn from training rows.

        Parameters
        ----------
        values : Values
        y : (n_rows,) array
            Numbers, or class indices.
        task : "classification" or "regression"
        rng : Generator or int
            Draws the folds of target statistics.

        Raises
        ------
        TypeError, ValueError
            If a setting is invalid.
        """
        self._learned(values, y, task, rng)
        return self

    def fit_expanded(self, values: Values, y: Any, task: Task, rng: Random) -> Expanded:
        """Learn as `fit` does, and return the inputs to train on in short form:
        target statistics are out of folds.
        """
        return self._expanded(values, self._learned(values, y, task, rng))

    def _learned(self, values: Values, y: Any, task: Task, rng: Random) -> Array | None:
        """Learn as `fit` does; return target statistics out of folds, if any."""
        _check(values)
        scalars.known("Encoding", "task", task, get_args(Task))
        # The third of three draws keeps the folds of target statistics.
        seed = int(np.random.default_rng(rng).integers(N_SEEDS, size=3)[2])
        y = np.asarray(y, np.float64 if task == "regression" else None)
        if y.shape != (n := len(values.numbers),):
            raise ValueError(f"Encoding: y must have shape {(n,)}, got {y.shape}")
        self.parts, columns_of = {}, self._columns(values)
        statistics: Array | None = None
        # A net needs an input: where all columns are levels,
        # the most frequent level is one.
        min_rows = self.min_rows
        if columns_of.keys() <= {"pairs", "levels"}:
            most = max(
                (np.bincount(column + 1).max() for column in values.codes.T), default=1
            )
            min_rows = min(min_rows, int(most))
        for name, columns in columns_of.items():
            part = EncodingPart(self._encoder(name, seed, task, min_rows), columns)
            if isinstance(part.encoder, TargetStatistics):
                statistics = part.encoder.learn_out_of_folds(part.of(values), y)
            else:
                part.encoder.learn(part.of(values), y)
            self.parts[name] = part
        return statistics

    def transform(self, values: Values) -> Array:
        """Return the net's inputs, shape (n_rows, n_inputs), float32.

        Raises
        ------
        TypeError, ValueError
            If `values` is not `Values`, or nothing was learned.
        """
        return self._written(values, None, short=False)

    def expanded(self, values: Values) -> Expanded:
        """Return the net's inputs in short form:
        one number for the pieces or levels of a column.

        Raises
        ------
        TypeError, ValueError
            If `values` is not `Values`, or nothing was learned.
        """
        return self._expanded(values, None)

    def _expanded(self, values: Values, statistics: Array | None) -> Expanded:
        inputs = self._written(values, statistics, short=True)
        parts = self._inputs()
        numbers = sum(
            part.encoder.n_outputs for name, part in parts.items() if name not in SHORT
        )
        pieces, *levels = (parts[n].encoder.spans if n in parts else () for n in SHORT)
        return Expanded.trusted(inputs, (numbers, pieces, sum(levels, ())))

    def _written(
        self, values: Values, statistics: Array | None, *, short: bool
    ) -> Array:
        """Write the parts side by side: float32, shape (n_rows, n_inputs).

        With `short`, pieces and levels are positions, as `Expanded` rows have them.
        """
        _check(values)
        parts = self._inputs()
        widths = {
            name: len(part.encoder.spans)
            if short and name in SHORT
            else part.encoder.n_outputs
            for name, part in parts.items()
        }
        inputs = np.empty((len(values.numbers), sum(widths.values())), np.float32)
        first = 0
        for name, part in parts.items():
            end = first + widths[name]
            out = inputs[:, first:end]
            first = end
            if name == "statistics" and statistics is not None:
                out[:] = statistics
            else:
                is_short = short and name in SHORT
                write = part.encoder.write_short if is_short else part.encoder.write
                write(part.of(values), out)
        return inputs

    def _inputs(self) -> dict[str, EncodingPart]:
        if not self.parts:
            raise ValueError("Encoding: nothing has been learned; call fit")
        return self.parts

    def signs(self, of_numbers: Sequence[int]) -> list[int]:
        """Return the constraints of the net's inputs,
        from constraints of columns of numbers.
        """
        signs: list[int] = []
        for name, (encoder, columns) in self._inputs().items():
            if name in NUMERIC:
                constraints = [of_numbers[j] for j in columns]
            else:
                constraints = []
            if name == "scaled":
                signs += constraints
            elif name == "pieces":
                signs += np.repeat(constraints, encoder.n_pieces_).tolist()
            else:
                signs += [0] * encoder.n_outputs
        return signs

    @property
    def n_inputs(self) -> int:
        """The net's number of inputs."""
        return sum(part.encoder.n_outputs for part in self._inputs().values())

    @property
    def origins(self) -> list[int]:
        """The column behind each input: its index k among the numbers of `Values`,
        or -1 - k among the codes.
        """
        places = []
        for name, (encoder, columns) in self._inputs().items():
            # Names of inputs begin with the column's name.
            labels = encoder._names([str(column) for column in columns])
            own = [int(label.split("_")[0]) for label in labels]
            places += own if name in NUMERIC else [-1 - column for column in own]
        return places

    def _columns(self, values: Values) -> dict[str, Array]:
        """Column indices of each part; a part without columns is left out."""
        numbers = np.arange(values.numbers.shape[1])
        codes = np.arange(values.codes.shape[1])
        few = np.inf if self.target_levels is None else self.target_levels
        n_levels = values.codes.max(axis=0, initial=-1) + 1
        n_met = np.array(
            [
                np.count_nonzero(np.bincount(column[column >= 0]))
                for column in values.codes.T
            ]
        )
        columns_of = {
            "scaled": numbers,
            "missing": numbers,
            "statistics": codes[n_levels > few],
            "pairs": codes[n_met <= 2],
            "pieces": numbers if self.embedding == "piecewise" else numbers[:0],
            "integers": numbers[:0] if self.max_integers is None else numbers,
            "levels": codes[n_met > 2],
        }
        return {name: columns for name, columns in columns_of.items() if len(columns)}

    def _encoder(
        self, name: str, seed: int | None, task: Task, min_rows: int
    ) -> Encoder:
        if name == "scaled":
            if self.scaling == "rising":
                return RisingSmoothClip()
            return RobustSmoothClip()
        if name == "missing":
            return MissingMarks()
        if name == "pieces":
            return PiecewiseLinear(self.n_bins)
        if name == "integers":
            return IntegerLevels(self.max_integers or 1)
        if name in ("pairs", "levels"):
            return OneHotLevels(self.max_levels, min_rows)
        return TargetStatistics(task=task, random_state=seed)

    @property
    def arrays(self) -> dict[str, Array]:
        """Learned arrays of float32, float64 or int64, by name, for a file."""
        arrays: dict[str, Array] = {}
        for name, (encoder, columns) in self.parts.items():
            arrays[f"{name}.columns"] = columns
            arrays |= {f"{name}.{key}": array for key, array in encoder.arrays.items()}
        return arrays

    def to_json(self) -> dict[str, Any]:
        """Return the settings as values of JSON,
        which with `arrays` restore the encoding.
        """
        settings = asdict(self)
        del settings["parts"]
        return settings

    @classmethod
    def from_state(
        cls, settings: Mapping[str, Any], arrays: Mapping[str, Array]
    ) -> Self:
        """Return the encoding of `to_json` and `arrays`,
        checked, which may come from a file.

        Column indices are compared with a table by the caller.

        Raises
        ------
        TypeError, ValueError, LookupError
            If the content does not fit an encoding.
        """
        encoding = cls(**settings)
        for name in PART_NAMES:
            if (columns := arrays.get(f"{name}.columns")) is None:
                continue
            known = columns.ndim == 1 and columns.dtype.kind == "i" and columns.size
            if not known or columns.min() < 0:
                raise ValueError(f"columns of {name} must be places")
            encoder = encoding._encoder(name, None, "regression", encoding.min_rows)
            learned = {key: arrays[f"{name}.{key}"] for key in encoder.ARRAYS}
            if not all(np.isfinite(array).all() for array in learned.values()):
                raise ValueError(f"numbers of {name} must be finite")
            if name == "levels" and (learned["values_"] != 1).any():
                raise ValueError("levels must be one-hot; those of -1 and 1 are pairs")
            encoding.parts[name] = EncodingPart(
                encoder.restore(learned, len(columns)), columns
            )
        encoding._inputs()
        return encoding


def _check(values: Any) -> None:
    if not isinstance(values, Values):
        expected = f"as of Schema.learn(X).read(X), got {type(values).__name__}"
        raise TypeError(f"Encoding: values must be Values, {expected}")


NUMERIC = ("scaled", "missing", "pieces", "integers")
PART_NAMES = (
    "scaled",
    "missing",
    "statistics",
    "pairs",
    "pieces",
    "integers",
    "levels",
)
# Encoders that turn a number into several inputs come last.
SHORT = ("pieces", "integers", "levels")
