"""Reports of a model of tables: leaderboard, summary and HTML."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmlp.network import summary as pieces
from fastmlp.network.summary import SummaryTable
from fastmlp.tabular.pack import Member, Pack
from fastmlp.tabular.schema import reasons
from fastmlp.training.history import History
from fastmlp.validation.suggestions import count

COLUMNS = ("member", "weight", "validation_score", "best_epoch", "fit_seconds")
Row = tuple[str, float, float, float, float]


def leaderboard(pack: Pack, beside: Sequence[tuple[str, float, float]] = ()) -> Any:
    """Return the members, the best first: a frame of pandas, or without it a list of dicts.

    Parameters
    ----------
    beside : the name, the score and the seconds of each estimator beside the pack
    """
    by_recipe: dict[int, list[Any]] = {}
    for member in pack.members:
        by_recipe.setdefault(member.recipe.number, []).append(member)
    rows: list[Row] = []
    for same in by_recipe.values():
        first, weight = same[0], sum(member.weight for member in same)
        epoch = float(np.mean([member.epoch for member in same]))
        of_nets = sum(member.seconds for member in same)
        rows.append((str(first.recipe), weight, first.score, epoch, of_nets))
    weights = pack.extra_weights.tolist()
    for weight, (name, score, of_fits) in zip(weights, beside, strict=True):
        rows.append((name, weight, score, float("nan"), of_fits))
    rows.sort(key=lambda row: -row[2])
    return framed([dict(zip(COLUMNS, row, strict=True)) for row in rows])


def curves(members: Sequence[Member], metrics: Sequence[str]) -> dict[str, History]:
    """The losses and metrics of each net, by its recipe and, of several folds, their numbers from
    1."""
    recipes = [str(member.recipe) for member in members]
    histories = {}
    for i, (name, member) in enumerate(zip(recipes, members, strict=True)):
        n = recipes[: i + 1].count(name)
        losses, validation_losses, *others = member.curve.T.tolist()
        histories[name if recipes.count(name) == 1 else f"{name}, {n}"] = History(
            losses,
            validation_losses,
            seconds=member.seconds,
            metrics=dict(zip(metrics, others, strict=False)),
            best_epoch=member.epoch - 1,
        )
    return histories


def framed(rows: list[dict[str, Any]]) -> Any:
    """Return rows as a frame of pandas, or without it as they are."""
    try:
        import pandas as pd
    except ImportError:
        return rows
    return pd.DataFrame(rows, columns=list(COLUMNS))


def rows_of(board: Any) -> list[dict[str, Any]]:
    """Return the rows of a leaderboard."""
    rows: list[dict[str, Any]] = board if isinstance(board, list) else board.to_dict("records")
    return rows


def summary(model: Any) -> SummaryTable:
    """Return the ensemble and what it was selected from, as text."""
    cells = _cells(model)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    left_out = [f"left out: {reason}" for reason in reasons(model.schema_.dropped)]
    return SummaryTable("\n".join([*lines, *left_out, _last(model)]))


def html(model: Any) -> str:
    """Return the same as HTML."""
    left_out = [f"left out: {reason}" for reason in reasons(model.schema_.dropped)]
    last = "; ".join([_last(model), *left_out])
    return pieces.html_text(last, strong=type(model).__name__) + pieces.html_table(_cells(model))


def say(message: str) -> None:
    """Print what is done."""
    print(message, flush=True)


def unfitted(model: Any) -> str:
    """Return a model that is not fitted as HTML."""
    return pieces.html_text("not fitted", strong=repr(model))


def _cells(model: Any) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = [("member", "weight", "score", "epoch")]
    for row in rows_of(model.leaderboard_):
        name, weight, score, epoch, _ = (row[column] for column in COLUMNS)
        epoch_text = "" if epoch != epoch else f"{epoch:.0f}"
        cells.append((name, f"{weight:.3f}", f"{score:.4g}", epoch_text))
    return cells


def _last(model: Any) -> str:
    schema, pack = model.schema_, model.pack_
    numbers, categories = len(schema.numeric_names), len(schema.categorical_names)
    more = f", {len(out)} left out" if (out := schema.dropped) else ""
    of_levels = "1 category" if categories == 1 else f"{categories} categories"
    columns = f"{count(numbers, 'number')}, {of_levels}{schema.moments}{more}"
    nets = f"{count(len(pack.members), 'net')} of {pack.n_trained}"
    nets += f", trained in {model.compute_dtype}" if model.compute_dtype else ""
    if (distilled := model.training_.get("distilled")) is not None:
        nets += f", distilled: loss {distilled['loss']:.4g}, ensemble's"
        nets += f" {distilled['ensemble_loss']:.4g}"
    return f"{nets}; validation score {pack.validation_score:.4g}; {columns}"
