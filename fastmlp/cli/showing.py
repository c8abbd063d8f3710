"""What the command show prints of a model."""

import json
from typing import Any

from fastmlp.tabular import TableModel
from fastmlp.tabular.fitted import FittedTable
from fastmlp.tabular.schema import reasons

# Levels and classes of a line.
MOST_SHOWN = 8


def show_net(model: TableModel, *, as_json: bool) -> None:
    """Print the columns of a net, what its training said, and its layers."""
    told: dict[str, Any] = {
        "task": model.task,
        "target": model.target._asdict(),
        "columns": [column._asdict() for column in model.columns],
        "layer_sizes": list(model.net.layer_sizes),
        "training": model.training,
    }
    if as_json:
        print(json.dumps(told))
        return
    _show_task(model)
    print(f"columns   {len(model.feature_names)}")
    for column in model.columns:
        kind = f"center {column.center:.6g}, scale {column.scale:.6g}"
        if column.levels is not None:
            kind = f"levels {_listed(column.levels)}"
        part = "" if column.part is None else f"{column.part}, "
        print(f"  {column.name}: {part}{kind}{', and whether missing' * column.indicates}")
    for one in reasons(model.training.get("left_out", {})):
        print(f"left out: {one}")
    _show_training(model.training)
    print(f"\n{model.net.summary()}")


def show_ensemble(model: FittedTable, *, as_json: bool) -> None:
    """Print the columns of an ensemble, what its training said, and its members."""
    its, schema = model.model, model.model.schema_
    if as_json:
        told = {
            "task": model.task,
            "target": model.training.get("target"),
            "classes": None if model.classes_ is None else model.classes_.tolist(),
            "schema": schema.to_json(),
            "members": [[str(one.recipe), one.weight, one.score] for one in its.members_],
            "validation_score": its.validation_score_,
            "training": model.training,
        }
        print(json.dumps(told))
        return
    _show_task(model)
    print(f"columns   {len(schema.read_names)}")
    for name in schema.read_names:
        kind = "numbers"
        if name in schema.levels:
            kind = f"levels {_listed(schema.levels[name])}"
        elif name in schema.dates:
            kind = f"{schema.dates[name].kind}, as {', '.join(schema.dates[name].names)}"
        print(f"  {name}: {kind}")
    _show_training(model.training)
    print(f"\n{its.summary()}")


def _show_task(model: TableModel | FittedTable) -> None:
    known = "target" in model.training or isinstance(model, TableModel)
    print(f"task      {model.task}{f' of {model.target.name!r}' if known else ''}")
    if model.classes_ is not None:
        print(f"classes   {_listed(model.classes_.tolist())}")


def _show_training(told: dict[str, Any]) -> None:
    for name in sorted(told.keys() - {"scores", "target", "left_out"}):
        print(f"{name:<9} {told[name]}")


def _listed(values: Any) -> str:
    shown = ", ".join(map(str, values[:MOST_SHOWN]))
    return shown + (f" and {len(values) - MOST_SHOWN} more" if len(values) > MOST_SHOWN else "")
