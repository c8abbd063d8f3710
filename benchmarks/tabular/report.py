"""Ranks, wins, differences and times of a run, and the page's tables in Markdown."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks import machine
from benchmarks.output import Table
from benchmarks.scores import Record, bold_if, counted, digits, ranks_of
from benchmarks.tabular.models import FASTMLP, LINEAR
from benchmarks.workloads import Array

BESIDE = "LightGBM"
# As far behind the linear model as the best is ahead of it: more does not count.
WORST = -1.0


class Losses(NamedTuple):
    """Losses and seconds of all models on all tables, nan where a model has none.

    Attributes
    ----------
    losses, seconds : (tables, models); losses are means of turns, seconds medians
    """

    tables: list[str]
    models: list[str]
    losses: Array
    seconds: Array

    def only(self, tables: list[str]) -> "Losses":
        """The rows of some tables."""
        rows = [self.tables.index(name) for name in tables]
        return self._replace(tables=tables, losses=self.losses[rows], seconds=self.seconds[rows])

    def of(self, model: str) -> Array:
        """A model's losses by table."""
        return self.losses[:, self.models.index(model)]


def grid(results: Record) -> Losses:
    """A run's losses and seconds; models and tables in the order of its records."""
    records = [r for r in results["records"] if "error" not in r]
    tables = [name for name in results["tables"] if any(r["table"] == name for r in records)]
    models = list(dict.fromkeys(r["model"] for r in records))
    shape = len(tables), len(models)
    losses, seconds = np.full(shape, np.nan), np.full(shape, np.nan)
    for i, table in enumerate(tables):
        for j, model in enumerate(models):
            fits = [r for r in records if (r["table"], r["model"]) == (table, model)]
            if fits:
                losses[i, j] = np.mean([r["score"] for r in fits])
                seconds[i, j] = np.median([r["seconds"] for r in fits])
    return Losses(tables, models, losses, seconds)


def above(losses: Array, beside: Array) -> Array:
    """The per cent by which losses are above others, below 0 where they are less."""
    return 100 * (losses / beside - 1)


def normalised(losses: Array, linear: Array) -> Array:
    """Losses on a scale of 0 for the linear model's and 1 for the table's least, not below `WORST`.

    A table on which the linear model is the best has no such scale: nan.
    """
    span = linear - np.nanmin(losses, axis=1)
    span = np.where(span > 0, span, np.nan)[:, None]
    scaled = np.maximum((linear[:, None] - losses) / span, WORST)
    return np.where(np.isnan(losses) & ~np.isnan(span), WORST, scaled)


def geometric(seconds: Array) -> Array:
    """The models' geometric means over tables."""
    return np.exp(np.nanmean(np.log(seconds), axis=0))


def lines(results: Record) -> Iterator[str]:
    """The page's tables: those kept aside first, then those that the recipe was made on."""
    everything, records = grid(results), results["records"]
    turns = len({r["turn"] for r in records})
    yield machine.measured(
        results["machine"],
        f"{len(records)} fits, {turns} of each model and table in turns",
        f"{counted(results['threads'])} each",
        versions=results["versions"],
    )
    for aside in (True, False):
        names = [n for n in everything.tables if results["tables"][n]["aside"] == aside]
        if names:
            part = everything.only(names)
            were = "were kept aside" if aside else "the recipe was made on"
            yield f"\n## {len(names)} tables that {were}\n"
            yield from _summary(part)
            yield from _behind(part)
            yield from _scores(results, part)
    refused = {(r["model"], r["table"]): r["error"] for r in records if "error" in r}
    if refused:
        yield "\nNo result:\n"
        yield from (f"- {model} on {table}: {error}" for (model, table), error in refused.items())


def _summary(part: Losses) -> Iterator[str]:
    """A row a model, the best mean rank first."""
    ranks = ranks_of(part.losses)
    scaled = np.full(len(part.models), np.nan)
    if LINEAR in part.models:
        scaled = np.nanmean(normalised(part.losses, part.of(LINEAR)), axis=0)
    wins, times = (ranks < 2).sum(axis=0), geometric(part.seconds)
    rows = []
    for j in np.argsort(ranks.mean(axis=0), kind="stable"):
        cells = ["-"] * 3
        if BESIDE in part.models and part.models[j] != BESIDE:
            change = above(part.losses[:, j], part.of(BESIDE))
            change = change[~np.isnan(change)]
            # Of ratios: a table whose losses are near 0 has some of many times another's.
            mean = 100 * (np.exp(np.log1p(change / 100).mean()) - 1)
            cells = [f"{mean:+.1f} %", f"{np.median(change):+.1f} %"]
            cells.append(f"{(change < 0).sum()} of {len(change)}")
        name = bold_if(part.models[j], part.models[j] == FASTMLP)
        mean_rank = f"{ranks.mean(axis=0)[j]:.2f}"
        rows.append((name, mean_rank, wins[j], f"{scaled[j]:.2f}", *cells, digits(times[j])))
    titles = ["model", ">mean rank", ">best on", ">normalised"]
    titles += [f">loss above {BESIDE}'s, geometric mean", ">median", ">less on", ">seconds"]
    yield from Table(titles, rows).markdown()


def _behind(part: Losses) -> Iterator[str]:
    """The tables on which fastmlp is behind another model, and by how much."""
    if FASTMLP not in part.models:
        return
    yield "\nWhere fastmlp's loss is above another's, in per cent:\n"
    for model in (m for m in part.models if m != FASTMLP):
        change = zip(above(part.of(FASTMLP), part.of(model)), part.tables, strict=True)
        behind = sorted((-per_cent, name) for per_cent, name in change if per_cent > 0)
        listed = ", ".join(f"{name} {-per_cent:.1f}" for per_cent, name in behind)
        yield f"- **{model}**, {len(behind)} of {len(part.tables)}: {listed or 'none'}"


def _scores(results: Record, part: Losses) -> Iterator[str]:
    yield "\nLog loss of classes, RMSE of numbers; the least is bold:\n"
    models = [f">{model}" for model in part.models]
    rows = []
    for name, losses in zip(part.tables, part.losses, strict=True):
        facts, least = results["tables"][name], np.nanmin(losses)
        cells = ["-" if np.isnan(x) else bold_if(f"{x:.4g}", x == least) for x in losses]
        rows.append((name, f"{facts['rows']:,}", facts["columns"], facts["task"], *cells))
    yield from Table(("table", ">rows", ">columns", "task", *models), rows).markdown()
    yield "\nSeconds to encode, train and predict the rows to test on, medians of turns:\n"
    times = [
        (name, *("-" if np.isnan(s) else digits(s) for s in seconds))
        for name, seconds in zip(part.tables, part.seconds, strict=True)
    ]
    times.append(("geometric mean", *(digits(s) for s in geometric(part.seconds))))
    yield from Table(("table", *models), times).markdown()
