"""Targets with gaps: tables of several targets,
survival in discrete time, and ordered classes.

    python -m benchmarks.gaps                      # all tables, to the terminal
    python -m benchmarks.gaps survival --pages     # one, to its page

Survival has a Cox model beside it, if lifelines is installed.
"""

import argparse
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.output import DOCS, Table, between_markers
from fastmlp import MLP, Adam

Array = NDArray[Any]
LIBRARIES = ("numpy", "lifelines")
N_SEEDS = 10
PATIENCE = 20
IGNORE: Any = {"missing_targets": "ignore"}


def fitted(net: MLP, X: Array, y: Array, **options: Any) -> MLP:
    """Train on three quarters of the rows; the others end the fit."""
    n = len(X) * 3 // 4
    net.fit(
        X[:n],
        y[:n],
        epochs=400,
        batch_size=32,
        early_stopping=PATIENCE,
        validation_data=(X[n:], y[n:]),
        **options,
    )
    return net


def standard(train: Array, *others: Array) -> list[Array]:
    mean = train.mean(axis=0)
    deviation = train.std(axis=0)
    return [(each - mean) / deviation for each in (train, *others)]


# Several targets, each known in some rows.
N_TARGETS = 8
N_INPUTS = 10
SHARES = (0.1, 0.3, 0.6)


def assays(
    rng: np.random.Generator, n: int
) -> tuple[Callable[[Array], Array], Array, Array]:
    """Targets that are mixtures of three smooth functions, with noise."""
    V = rng.normal(size=(N_INPUTS, 3)) / 2
    mixture = rng.normal(size=(3, N_TARGETS))

    def true(X: Array) -> Array:
        return np.tanh(X @ V) @ mixture

    X = rng.normal(size=(n, N_INPUTS))
    noise = 0.2 * rng.normal(size=(n, N_TARGETS))
    return true, X, true(X) + noise


def of_one_target(rng: np.random.Generator, X: Array, y: Array, test: Array) -> Array:
    """Predictions of a net for each target, by the rows in which it is known."""
    predicted = []
    for j in range(N_TARGETS):
        rows = np.flatnonzero(~np.isnan(y[:, j]))
        net = MLP((N_INPUTS, 64, 64, 1), optimizer=Adam(3e-3), seed=j)
        fitted(net, X[rows], y[rows, j])
        predicted.append(net.predict(test)[:, 0])
    return np.stack(predicted, axis=1)


def of_targets(seed: int, share: float) -> dict[str, float]:
    """Errors over the targets' variance on 2,000 rows, by way."""
    rng = np.random.default_rng(seed)
    true, X, whole = assays(rng, 600)
    test = rng.normal(size=(2000, N_INPUTS))
    truth = true(test)
    y = np.where(rng.random(whole.shape) < share, whole, np.nan)

    def of_one_net(y: Array, **options: Any) -> Array:
        net = MLP((N_INPUTS, 64, 64, N_TARGETS), optimizer=Adam(3e-3), seed=seed)
        return fitted(net, X, y, **options).predict(test)

    filled = np.where(np.isnan(y), np.nanmean(y, axis=0), y)
    predictions = {
        'one net, `missing_targets="ignore"`': of_one_net(y, **IGNORE),
        "a net for each target": of_one_target(rng, X, y, test),
        "one net, means in the gaps": of_one_net(filled),
        "one net, all targets known": of_one_net(whole),
    }
    variance = truth.var(axis=0)
    errors = {}
    for name, predicted in predictions.items():
        squares = ((predicted - truth) ** 2).mean(axis=0)
        errors[name] = float((squares / variance).mean())
    return errors


def median_rows(columns: list[list[dict[str, float]]]) -> Iterator[list[str]]:
    """Yield a row of cells for each way: its median over seeds in each column.

    Parameters
    ----------
    columns : for each column, by seed, the figures of the ways
    """
    for way in columns[0][0]:
        cells = [way]
        for column in columns:
            median = np.median([figures[way] for figures in column])
            cells.append(f"{median:.3f}")
        yield cells


def targets(n_seeds: int) -> Iterator[str]:
    columns = []
    for share in SHARES:
        columns.append([of_targets(seed, share) for seed in range(n_seeds)])
    titles = ["600 rows, 8 targets", *(f">{share:.0%} known" for share in SHARES)]
    yield from Table(titles, median_rows(columns)).markdown()


# Survival in discrete time.
N_INTERVALS = 20


def weibull(
    rng: np.random.Generator, n: int, kind: str
) -> tuple[Array, Array, Array, Array]:
    """Inputs, times, 1 for events and 0 for censored rows,
    and the logarithm of the risk.
    """
    X = rng.uniform(-1, 1, (n, 6))
    risk = 1.5 * X[:, 0] - X[:, 1]
    if kind == "curved":
        risk = 2 * np.sin(3 * X[:, 0]) + 3 * X[:, 1] * X[:, 2]
    shape = 1.5
    hazard = -np.log(rng.random(n)) / np.exp(risk)
    times = hazard ** (1 / shape)
    censored = rng.exponential(np.quantile(times, 0.75), n)
    events = (times <= censored).astype(int)
    return X, np.minimum(times, censored), events, risk


def intervals(times: Array, events: Array, ends: Array) -> Array:
    """For each row 0 up to the last interval survived,
    1 at an event, NaN from then on.
    """
    at = np.searchsorted(ends, times)
    survived = np.arange(N_INTERVALS) < at[:, None]
    y = np.where(survived, 0.0, np.nan)
    rows = np.flatnonzero((events == 1) & (at < N_INTERVALS))
    y[rows, at[rows]] = 1.0
    return y


def concordance(times: Array, events: Array, risk: Array) -> float:
    """Harrell's: of pairs whose order is known,
    those in which the riskier dies first.
    """
    sooner = times[:, None] < times[None, :]
    known = sooner & (events[:, None] == 1)
    higher = risk[:, None] > risk[None, :]
    same = risk[:, None] == risk[None, :]
    points = higher + 0.5 * same
    return float((points * known).sum() / known.sum())


def of_survival(seed: int, kind: str) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    X, times, events, _ = weibull(rng, 1000, kind)
    test, test_times, test_events, true_risk = weibull(rng, 1000, kind)
    shares = np.linspace(0, 1, N_INTERVALS + 1)
    ends = np.quantile(times[events == 1], shares[1:])
    y = intervals(times, events, ends)
    net = MLP((6, 32, 32, N_INTERVALS), loss="binary_cross_entropy", seed=seed)
    ending = fitted(net, X, y, **IGNORE).predict(test)
    survival = np.cumprod(1 - ending, axis=1)
    risks = {"net, 20 intervals": -survival.sum(axis=1)}
    cox = cox_risk(X, times, events, test)
    if cox is not None:
        risks["Cox (lifelines)"] = cox
    risks["the true risk"] = true_risk
    figures = {}
    for name, risk in risks.items():
        figures[name] = concordance(test_times, test_events, risk)
    return figures


def cox_risk(X: Array, times: Array, events: Array, test: Array) -> Array | None:
    """The risk by a Cox model, None without lifelines."""
    try:
        fitter: Any = import_module("lifelines").CoxPHFitter
    except ImportError:
        return None
    import pandas as pd

    names = [f"x{j}" for j in range(X.shape[1])]
    frame = pd.DataFrame(X, columns=names).assign(time=times, event=events)
    model = fitter().fit(frame, "time", "event")
    tested = pd.DataFrame(test, columns=names)
    risk: Array = model.predict_log_partial_hazard(tested).to_numpy()
    return risk


def survival(n_seeds: int) -> Iterator[str]:
    kinds = {"linear": "linear risk", "curved": "curved risk, with a product"}
    columns = []
    for kind in kinds:
        columns.append([of_survival(seed, kind) for seed in range(n_seeds)])
    titles = ["concordance", *(f">{title}" for title in kinds.values())]
    yield from Table(titles, median_rows(columns)).markdown()


# Ordered classes.
N_CLASSES = 5


def steps_of(labels: Array, n: int = N_CLASSES) -> Array:
    """Is the class above 0, above 1 if above 0, ...: [1, 1, 0, nan] is class 2 of 5."""
    above = np.arange(n - 1)
    y = (labels[:, None] > above).astype(float)
    return np.where(above <= labels[:, None], y, np.nan)


def latent(rng: np.random.Generator) -> tuple[Array, Array]:
    """Classes by the quantiles of a curved function with noise."""
    X = rng.normal(size=(1400, 6))
    score = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.5 * X[:, 3]
    score += 0.4 * rng.normal(size=len(X))
    return X, np.digitize(score, np.quantile(score, [0.1, 0.3, 0.7, 0.9]))


def diabetes(rng: np.random.Generator) -> tuple[Array, Array]:
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True)
    order = rng.permutation(len(X))
    classes = np.digitize(y, np.quantile(y, [0.2, 0.4, 0.6, 0.8]))
    return X[order], classes[order]


class Classes(NamedTuple):
    """Rows of ordered classes;
    of a share of those to train on only "at least" is known.
    """

    make: Callable[[np.random.Generator], tuple[Array, Array]]
    n: int
    share: float = 0.0


SETS = {
    "simulated, 400 rows": Classes(latent, 400),
    "of 60 % at least": Classes(latent, 400, 0.6),
    "diabetes, 300 rows": Classes(diabetes, 300),
}


def at_least(rng: np.random.Generator, y: Array, share: float) -> tuple[Array, Array]:
    """Targets of which some rows are known up to a step, and the mask of whole rows."""
    cut = rng.random(len(y)) < share
    n_above = (y == 1).sum(axis=1)
    n_known = rng.integers(0, n_above + 1)
    later = np.arange(y.shape[1]) >= n_known[:, None]
    return np.where(cut[:, None] & later, np.nan, y), ~cut


def chances_of(steps: Array) -> Array:
    """Probabilities of classes from those of the steps, (n_rows, n_classes)."""
    # The first class is reached for sure, and there is none above the last.
    reached = np.column_stack([np.ones(len(steps)), steps])
    at_least = np.cumprod(reached, axis=1)
    above = np.column_stack([at_least[:, 1:], np.zeros(len(steps))])
    return at_least - above


def of_classes(seed: int, name: str) -> dict[str, tuple[float, float]]:
    """The mean distance to the class, and the log loss or NaN, by way."""
    make, n, share = SETS[name]
    rng = np.random.default_rng(seed)
    X, labels = make(rng)
    X, test = standard(X[:n], X[n:])
    truth = labels[n:]
    labels = labels[:n]
    y, whole = at_least(rng, steps_of(labels), share)

    def predicted(n_out: int, loss: Any, X: Array, y: Array, **options: Any) -> Array:
        net = MLP((X.shape[1], 32, 32, n_out), loss=loss, dropout=0.1, seed=seed)
        return fitted(net, X, y, **options).predict(test)

    known = X[whole]
    known_labels = labels[whole]
    steps = predicted(N_CLASSES - 1, "binary_cross_entropy", X, y, **IGNORE)
    chances = {
        "steps with gaps": chances_of(steps),
        "`cross_entropy`": predicted(N_CLASSES, "cross_entropy", known, known_labels),
    }
    number = predicted(1, "mse", known, known_labels.astype(float))[:, 0]
    results = {}
    for way, p in chances.items():
        # The median class has the least mean distance.
        median = (np.cumsum(p, axis=1) < 0.5).sum(axis=1)
        distance = float(abs(median - truth).mean())
        true = p[np.arange(len(p)), truth]
        loss = -np.log(np.maximum(true, 1e-9)).mean()
        results[way] = (distance, float(loss))
    rounded = np.clip(np.rint(number), 0, N_CLASSES - 1)
    distance = float(abs(rounded - truth).mean())
    results["`mse` of the number, rounded"] = (distance, np.nan)
    return results


def ordered(n_seeds: int) -> Iterator[str]:
    made = {name: [of_classes(s, name) for s in range(n_seeds)] for name in SETS}
    rows = []
    for way in made["diabetes, 300 rows"][0]:
        cells = [way]
        for by_seed in made.values():
            medians = np.median([figures[way] for figures in by_seed], axis=0)
            # A number has no log loss.
            cells += ["" if np.isnan(median) else f"{median:.2f}" for median in medians]
        rows.append(cells)
    titles = [f">{name}: {of}" for name in SETS for of in ("distance", "log loss")]
    yield from Table(["five classes", *titles], rows).markdown()


TABLES: dict[str, tuple[Callable[[int], Iterator[str]], str]] = {
    "targets": (targets, "how-to/targets-with-gaps.md"),
    "survival": (survival, "how-to/survival.md"),
    "ordered": (ordered, "how-to/ordered-classes.md"),
}


def main(words: list[str] | None = None, pages: Path = DOCS) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gaps")
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], default=[])
    parser.add_argument("--seeds", type=int, default=N_SEEDS)
    parser.add_argument("--pages", action="store_true", help="write the pages")
    options = parser.parse_args(words)
    for name in options.tables or TABLES:
        write, page = TABLES[name]
        facts = {"machine": machine.describe()}
        libraries = machine.versions(LIBRARIES)
        seeds = f"medians of {options.seeds} seeds"
        measured = machine.measured(facts, seeds, versions=libraries)
        text = "\n".join([measured, "", *write(options.seeds)])
        print(text)
        if options.pages:
            between_markers(pages / page, text)


if __name__ == "__main__":
    main()
