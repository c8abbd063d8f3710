"""A fitted model of tables as steps of rows, of which ONNX, C and compiled code are made."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.predict.trees import TableTrees
from fastmlp.export.models import Step, TableNet, TableParts
from fastmlp.rules import columns as rules
from fastmlp.rules.columns import LevelStep, NumberStep
from fastmlp.tabular.encoders import (
    Encoding,
    MissingMarks,
    OneHotLevels,
    PiecewiseLinear,
    RisingSmoothClip,
    RobustSmoothClip,
    TargetStatistics,
)
from fastmlp.tabular.encoders.base import Encoder
from fastmlp.tabular.estimators.trees import BoostedTrees
from fastmlp.tabular.schema import Schema, Values

Array = NDArray[Any]


def steps_of(encoding: Encoding) -> tuple[Step, ...]:
    """The steps of an encoding that makes inputs, in the order of these."""
    parts = encoding.parts.values()
    return tuple(STEPS[type(one)](one, columns) for one, columns in parts if one.n_outputs)


def _scaled(encoder: RobustSmoothClip, columns: Array) -> Step:
    rule = rules.rising if isinstance(encoder, RisingSmoothClip) else rules.clipped
    return NumberStep(rule, columns, np.stack([encoder.center_, encoder.factor_], axis=1))


def _marked(encoder: MissingMarks, columns: Array) -> Step:
    return NumberStep(rules.missing, columns[encoder.columns_], np.empty((encoder.n_outputs, 0)))


def _pieces(encoder: PiecewiseLinear, columns: Array) -> Step:
    n = encoder.n_pieces_
    constants = [np.repeat(encoder.medians_, n), *encoder.table]
    return NumberStep(rules.share_below, np.repeat(columns, n), np.stack(constants, axis=1))


def _one_hot(encoder: OneHotLevels, columns: Array) -> Step:
    values = encoder.values_[:, None]
    return LevelStep(columns, encoder.starts_, encoder.columns_, values, encoder.n_outputs)


def _statistics(encoder: TargetStatistics, columns: Array) -> Step:
    starts, table = encoder.starts_, encoder.table_
    firsts = np.repeat(np.arange(len(columns)) * table.shape[1], np.diff(starts))
    return LevelStep(columns, starts, firsts, table, encoder.n_outputs)


STEPS: dict[type[Encoder], Callable[[Any, Array], Step]] = {
    MissingMarks: _marked,
    OneHotLevels: _one_hot,
    PiecewiseLinear: _pieces,
    RisingSmoothClip: _scaled,
    RobustSmoothClip: _scaled,
    TargetStatistics: _statistics,
}


def check_members(model: Any, who: str) -> None:
    """Raise NotImplementedError if the ensemble has a model that is no net, nor boosted trees."""
    others = zip(model.extra_members_, model.pack_.extra_weights, strict=True)
    used = [
        f"{name!r} with weight {weight:.2g}"
        for (name, member), weight in others
        if weight and not isinstance(member, BoostedTrees)
    ]
    if used:
        raise NotImplementedError(
            f"{who}: the ensemble holds {', '.join(used)}, and only nets are converted, and the "
            "trees of trees=True: fit without extra_members"
        )


def parts_of_table(model: Any, who: str) -> TableParts:
    """A fitted model of tables as what becomes of a row.

    Raises
    ------
    NotImplementedError
        If the ensemble has a model that is no net, nor boosted trees.
    """
    check_members(model, who)
    pack, schema = model.pack_, model.schema_
    places = row_of(schema)
    names = [*schema.numeric_names]
    for name, parts in schema.dates.items():
        names += [f"{name} ({part})" for part in parts.names]
    names += schema.categorical_names
    levels = [()] * len(schema.number_names) + [schema.levels[n] for n in schema.categorical_names]
    classes = getattr(model, "classes_", None)
    outputs, (numbers, codes) = pack.outputs, _places(schema)
    return TableParts(
        tuple(names[k] for k in places),
        tuple(levels[k] for k in places),
        numbers,
        codes,
        tuple(map(steps_of, pack.encodings)),
        tuple(
            TableNet(member.net, place, member.weight)
            for place in range(len(pack.encodings))
            for member in pack.members
            if member.encoding == place
        ),
        1 if classes is None else len(classes),
        classes,
        outputs.scale,
        outputs.center,
        outputs.low,
        outputs.high,
        _trees(model),
    )


def _trees(model: Any) -> TableTrees | None:
    """The boosted trees of the ensemble, on the numbers of a row."""
    pairs = zip(model.extra_members_, model.pack_.extra_weights, strict=True)
    used = [(trees, float(weight)) for (_, trees), weight in pairs if weight]
    if not used:
        return None
    ((trees, weight),), schema = used, model.schema_
    nodes, classes = trees.nodes, trees.classes_
    if len(classes) == 1:  # a leaf alone: the probability is 1
        nodes = nodes._replace(roots=nodes.roots[:1], numbers=np.ones(len(nodes.numbers)))
    numbers, codes = _places(schema)
    places = np.concatenate([numbers, codes])
    features = np.where(nodes.features < 0, -1, places[nodes.features])
    n_levels = np.zeros(len(places), np.int64)
    n_levels[codes] = [len(schema.levels[name]) for name in schema.categorical_names]
    classes = classes if len(classes) else np.zeros(1, np.int64)
    return TableTrees(nodes._replace(features=features), classes, n_levels, weight)


def row_of(schema: Schema) -> NDArray[np.intp]:
    """The places among numbers, and codes behind them, of the numbers of a row: the order of the
    table's columns."""
    names = [*schema.number_names, *schema.categorical_names]
    place = {name: j for j, name in enumerate(schema.columns)}
    return np.argsort([place[name] for name in names], kind="stable")


def rows_of(schema: Schema, values: Values) -> NDArray[np.float64]:
    """The rows of a table as compiled code and C files take them."""
    columns = np.concatenate([values.numbers, values.codes], axis=1)
    # By an index the columns would lie one after the other in memory.
    rows: NDArray[np.float64] = np.take(columns, row_of(schema), axis=1)
    return rows


def values_of(schema: Schema, rows: Array) -> Values:
    """The rows of `rows_of`, taken apart again."""
    numbers, codes = _places(schema)
    return Values(rows[:, numbers], rows[:, codes].astype(np.int32))


def _places(schema: Schema) -> list[NDArray[np.intp]]:
    """The places of the numbers and of the codes in a row."""
    return np.split(np.argsort(row_of(schema)), [len(schema.number_names)])
