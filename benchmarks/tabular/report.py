"""Ranks, wins, differences and times of a run, and the page's tables in Markdown."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.page import row
from benchmarks.report import digits
from benchmarks.scores import counted
from benchmarks.tabular.models import FASTMLP, LINEAR
from benchmarks.workloads import Array

BESIDE = "LightGBM"
# As far behind the linear model as the best is ahead of it: more does not count.
WORST = -1.0


class Grid(NamedTuple):
    """Losses and seconds of all models on all tables, nan where a model has none.

    Attributes
    ----------
    losses, seconds : (tables, models); losses are means of turns, seconds medians
    """

    tables: list[str]
    models: list[str]
    losses: Array
    seconds: Array

    def only(self, tables: list[str]) -> "Grid":
        """Return the rows of some tables."""
        rows = [self.tables.index(name) for name in tables]
        return self._replace(tables=tables, losses=self.losses[rows], seconds=self.seconds[rows])

    def of(self, model: str) -> Array:
        """Return a model's losses by table."""
        return self.losses[:, self.models.index(model)]


def grid(results: dict[str, Any]) -> Grid:
    """Return a run's losses and seconds; models and tables in the order of its records."""
    records = [r for r in results["records"] if "error" not in r]
    tables = [name for name in results["tables"] if any(r["table"] == name for r in records)]
    models = list(dict.fromkeys(r["model"] for r in records))
    shape = len(tables), len(models)
    losses, seconds = np.full(shape, np.nan), np.full(shape, np.nan)
    for i, table in enumerate(tables):
        for j, model in enumerate(models):
            found = [r for r in records if (r["table"], r["model"]) == (table, model)]
            if found:
                losses[i, j] = np.mean([r["score"] for r in found])
                seconds[i, j] = np.median([r["seconds"] for r in found])
    return Grid(tables, models, losses, seconds)


def ranks(losses: Array) -> Array:
    """Return ranks by table, 1 for the least loss; ties share theirs, and a model without is last.

    Parameters
    ----------
    losses : (tables, models)
    """
    filled = np.where(np.isnan(losses), np.inf, losses)
    below = (filled[:, None, :] < filled[:, :, None]).sum(axis=2)
    same = (filled[:, None, :] == filled[:, :, None]).sum(axis=2)
    return 1 + below + 0.5 * (same - 1)


def above(losses: Array, beside: Array) -> Array:
    """Return by how many per cent losses are above others, below 0 where they are less."""
    return 100 * (losses / beside - 1)


def normalised(losses: Array, linear: Array) -> Array:
    """Return 0 for the linear model's loss and 1 for the table's least, not below `WORST`.

    A table on which the linear model is the best has no such scale: nan.
    """
    span = linear - np.nanmin(losses, axis=1)
    span = np.where(span > 0, span, np.nan)[:, None]
    scaled = np.maximum((linear[:, None] - losses) / span, WORST)
    return np.where(np.isnan(losses) & ~np.isnan(span), WORST, scaled)


def geometric(seconds: Array) -> Array:
    """Return the models' geometric means over tables."""
    return np.exp(np.nanmean(np.log(seconds), axis=0))


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The page's tables: those kept aside first, then those that the recipe was made on."""
    everything = grid(results)
    yield from _intro(results)
    for aside in (True, False):
        names = [n for n in everything.tables if results["tables"][n]["aside"] == aside]
        if not names:
            continue
        part = everything.only(names)
        yield f"\n## {_title(aside, len(names))}\n"
        yield from _summary(part)
        yield from _losses_told(part)
        yield from _scores(results, part)
    yield from _refused(results)


def _title(aside: bool, count: int) -> str:
    if aside:
        return f"{count} tables that were kept aside"
    return f"{count} tables that the recipe was made on"


def _intro(results: dict[str, Any]) -> Iterator[str]:
    m, versions = results["machine"], ", ".join(f"{n} {v}" for n, v in results["versions"].items())
    turns = len({r["turn"] for r in results["records"]})
    yield (
        f"Measured on {m['date']}: {len(results['records'])} fits, {turns} of each model "
        f"and table in turns, {counted(results['threads'])} each, on {m['cores']} cores of "
        f"{m['cpu']}, Python {m['python']}, fastmlp {m['fastmlp']}; {versions}."
    )


def _summary(part: Grid) -> Iterator[str]:
    """A row a model, the best mean rank first."""
    mean_ranks = ranks(part.losses).mean(axis=0)
    wins = (ranks(part.losses) < 2).sum(axis=0)
    scaled = (
        np.nanmean(normalised(part.losses, part.of(LINEAR)), axis=0)
        if LINEAR in part.models
        else np.full(len(part.models), np.nan)
    )
    times = geometric(part.seconds)
    yield (
        f"| model | mean rank | best on | normalised | loss above {BESIDE}'s, geometric mean "
        "| median | less on | seconds |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for j in np.argsort(mean_ranks, kind="stable"):
        cells = ["-"] * 3
        if BESIDE in part.models and part.models[j] != BESIDE:
            change = above(part.losses[:, j], part.of(BESIDE))
            change = change[~np.isnan(change)]
            # Of ratios: a table whose losses are near 0 has some of many times another's.
            mean = 100 * (np.exp(np.log1p(change / 100).mean()) - 1)
            cells = [f"{mean:+.1f} %", f"{np.median(change):+.1f} %"]
            cells.append(f"{(change < 0).sum()} of {len(change)}")
        yield row(
            _bold(part.models[j], part.models[j] == FASTMLP),
            f"{mean_ranks[j]:.2f}",
            wins[j],
            f"{scaled[j]:.2f}",
            *cells,
            digits(times[j]),
        )


def _losses_told(part: Grid) -> Iterator[str]:
    """On which tables fastmlp is behind whom, and by how much."""
    if FASTMLP not in part.models:
        return
    yield "\nWhere fastmlp's loss is above another's, in per cent:\n"
    for model in part.models:
        if model == FASTMLP:
            continue
        change = above(part.of(FASTMLP), part.of(model))
        behind = [
            f"{name} {change[i]:.1f}"
            for i, name in sorted(enumerate(part.tables), key=lambda pair: -change[pair[0]])
            if change[i] > 0
        ]
        yield f"- **{model}**, {len(behind)} of {len(part.tables)}: {', '.join(behind) or 'none'}"


def _scores(results: dict[str, Any], part: Grid) -> Iterator[str]:
    yield "\nLog loss of classes, RMSE of numbers; the least is bold:\n"
    yield row("table", "rows", "columns", "task", *part.models)
    yield f"|---|--:|--:|---|{'--:|' * len(part.models)}"
    for name, losses in zip(part.tables, part.losses, strict=True):
        facts, least = results["tables"][name], np.nanmin(losses)
        cells = ["-" if np.isnan(loss) else _bold(f"{loss:.4g}", loss == least) for loss in losses]
        yield row(name, f"{facts['rows']:,}", facts["columns"], facts["task"], *cells)
    yield "\nSeconds to encode, train and predict the rows to test on, medians of turns:\n"
    yield row("table", *part.models)
    yield f"|---|{'--:|' * len(part.models)}"
    for name, seconds in zip(part.tables, part.seconds, strict=True):
        yield row(name, *("-" if np.isnan(s) else digits(s) for s in seconds))
    yield row("geometric mean", *(digits(s) for s in geometric(part.seconds)))


def _refused(results: dict[str, Any]) -> Iterator[str]:
    refused = {(r["model"], r["table"]): r["error"] for r in results["records"] if "error" in r}
    if refused:
        yield "\nNo result:\n"
    for (model, table), error in refused.items():
        yield f"- {model} on {table}: {error}"


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text
