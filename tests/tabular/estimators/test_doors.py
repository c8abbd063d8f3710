"""Ways to give a table to a model: the bits of the plain call,
and columns that are left out.
"""

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from pairwise import crossed
from sklearn.base import clone
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
    TimeSeriesSplit,
)
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.class_weight import compute_sample_weight
from small_models import FEW, drawn, labels

import fastmlp
from fastmlp import TabularMLPClassifier, TabularMLPRegressor
from fastmlp._process import memory
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import Schema, fit_arguments
from fastmlp.tabular.reports import kept_of

pytestmark = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)
X, Y = drawn()
LABELS = labels()
GROUPS = np.random.default_rng(5).integers(0, 12, 120)
WEIGHT = np.where(np.arange(120) % 7 == 0, 0.0, 1.0 + np.arange(120) % 3)
TABLE = X.assign(sold=LABELS, price=Y, group=GROUPS, weight=WEIGHT)
NAMES = [*X.columns]


def as_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row as dicts,
    from which a third of the missing values is left out as keys.
    """
    rows = [dict(row) for row in frame.to_dict("records")]
    for row in rows[::3]:
        for name in [name for name, value in row.items() if pd.isna(value)]:
            del row[name]
    return rows


def written(frame: pd.DataFrame, path: Path) -> str:
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=50)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, str(path), compression="uncompressed")
    else:
        frame.to_csv(path, index=False)
    return str(path)


def in_files(frame: pd.DataFrame, path: Path) -> list[Path]:
    cuts = (frame[:50], frame[50:])
    return [Path(written(each, path / f"{i}.parquet")) for i, each in enumerate(cuts)]


def query(frame: pd.DataFrame, path: Path) -> Any:
    connection = duckdb.connect()
    connection.register("frame", frame)
    return connection.sql("select * from frame")


KINDS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "pandas": lambda frame, path: frame,
    "polars": lambda frame, path: polars.from_pandas(frame),
    "arrow": lambda frame, path: pyarrow.Table.from_pandas(frame, preserve_index=False),
    "duckdb": query,
    "dicts": lambda frame, path: as_rows(frame),
    "parquet": lambda frame, path: written(frame, path / "a.parquet"),
    "feather": lambda frame, path: Path(written(frame, path / "a.feather")),
    "csv": lambda frame, path: written(frame, path / "a.csv"),
    "csv.gz": lambda frame, path: written(frame, path / "a.csv.gz"),
    "files": in_files,
}


class OfTask(NamedTuple):
    model: Any
    method: str
    folds: Any
    of_groups: Any


OF_NUMBERS = (
    "price",
    Y,
    OfTask(TabularMLPRegressor, "predict", KFold, GroupKFold),
)
OF_CLASSES = (
    "sold",
    LABELS,
    OfTask(
        TabularMLPClassifier, "predict_proba", StratifiedKFold, StratifiedGroupKFold
    ),
)


@pytest.mark.few(12)
@crossed(
    kind=[*KINDS],
    classes=[True, False],
    class_weight=[None, "balanced", {"top": 3.0}],
    rows=[None, "array", "name"],
    divided=["cv", "groups", "named groups", "splitter", "pairs", "X_val"],
    saved=[False, True],
)
def test_every_door_gives_the_bits_of_the_plain_call(
    kind: str,
    classes: bool,
    class_weight: Any,
    rows: Any,
    divided: str,
    saved: bool,
    tmp_path: Path,
) -> None:
    target, y, kinds = OF_NUMBERS
    if classes:
        target, y, kinds = OF_CLASSES
    settings: dict[str, Any] = {**FEW, "max_iter": 3}
    plain: dict[str, Any] = {}
    given: dict[str, Any] = {"target": target}
    frame = TABLE[[*NAMES, target]]
    weight = None
    kept = np.arange(120)
    if rows is not None:
        weight = WEIGHT
        kept = np.flatnonzero(weight)
    if rows == "array":
        given["sample_weight"] = WEIGHT
    elif rows == "name":
        frame = frame.assign(weight=WEIGHT)
        given["sample_weight"] = "weight"
    if classes and class_weight is not None:
        of_class = np.zeros(120)
        of_class[kept] = compute_sample_weight(class_weight, y[kept])
        weight = of_class if weight is None else weight * of_class
        settings["class_weight"] = class_weight
    if "groups" in divided:
        settings["cv"] = 3
        given["groups"] = GROUPS
        pairs = kinds.of_groups(3).split(X.iloc[kept], y[kept], GROUPS[kept])
        plain["cv"] = [(kept[first], kept[second]) for first, second in pairs]
    elif divided == "X_val":
        (tmp_path / "valid").mkdir()
        given["X_val"] = KINDS[kind](frame[::2], tmp_path / "valid")
        plain |= {"X_val": X[::2], "y_val": y[::2]}
        if weight is not None:
            plain["sample_weight_val"] = weight[::2]
        if rows == "array":
            given["sample_weight_val"] = WEIGHT[::2]
        elif rows == "name":
            given["sample_weight_val"] = "weight"
    elif divided == "splitter":
        settings["cv"] = kinds.folds(2, shuffle=True, random_state=1)
    elif divided == "pairs":
        settings["cv"] = list(KFold(3).split(X))
    else:
        settings["cv"] = 2
    if divided == "named groups":
        frame = frame.assign(group=GROUPS)
        given["groups"] = "group"
    model = clone(kinds.model(**settings)).fit(KINDS[kind](frame, tmp_path), **given)
    settings.pop("class_weight", None)
    if "cv" in plain:
        settings["cv"] = plain.pop("cv")
    expected = kinds.model(**settings).fit(X, y, sample_weight=weight, **plain)
    if saved:
        fastmlp.save(model, tmp_path / "m.safetensors")
        model = fastmlp.load(tmp_path / "m.safetensors")
    of_plain = getattr(expected, kinds.method)(X)
    predict = getattr(model, kinds.method)
    np.testing.assert_array_equal(predict(X), of_plain)
    np.testing.assert_array_equal(predict(as_rows(X)), of_plain)
    assert model.training_["target"] == target
    assert model.feature_names_in_.tolist() == NAMES


@cache
def of_dicts() -> TabularMLPRegressor:
    rows = as_rows(TABLE[[*NAMES, "price"]])
    return TabularMLPRegressor(**FEW, cv=2).fit(rows, target="price")


def test_rows_as_dicts_may_lack_keys() -> None:
    model = of_dicts()
    lacking = [{"town": "Chur", "age": 30}]
    whole = [{**dict.fromkeys(NAMES), "town": "Chur", "age": 30}]
    expected = model.predict(pd.DataFrame(whole))
    assert model.predict(lacking) == model.predict(whole) == expected


def test_rows_as_dicts_may_have_other_keys() -> None:
    model = of_dicts()
    other = {"town": "Chur", "age": 30, "unknown": object()}
    assert model.predict([other]) == model.predict([{"town": "Chur", "age": 30}])
    result = model.predict([*as_rows(X), other])
    np.testing.assert_array_equal(result[:120], model.predict(X))


def test_rows_as_dicts_without_a_known_key_are_refused() -> None:
    with pytest.raises(ValueError, match="4 columns are missing"):
        of_dicts().predict([{"Age": 3}])


def test_every_method_takes_rows_as_dicts() -> None:
    model = of_dicts()
    rows: Any = as_rows(X)
    assert model.score(rows, Y) == model.score(X, Y)
    np.testing.assert_array_equal(model.predict_std(rows), model.predict_std(X))
    expected = model.predict_interval(X)
    np.testing.assert_array_equal(model.predict_interval(rows), expected)


def test_rows_as_dicts_follow_the_places_of_an_array() -> None:
    by_place = TabularMLPRegressor(**FEW, cv=2).fit(X[["age"]].to_numpy(), Y)
    assert by_place.predict([{"age": 30.0}]) == by_place.predict([[30.0]])


def test_a_file_that_does_not_fit_into_memory_is_drawn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(TABLE, tmp_path / "a.parquet")
    monkeypatch.setattr(memory, "available", lambda: 16 * 5000)
    words = r"fit: learned from (\d+) of \d+ rows, .*: 5 KB of"
    with pytest.warns(UserWarning, match=words) as told:
        model = TabularMLPClassifier(**FEW, cv=2).fit(path, target="sold")
    n = model.training_["rows"]
    assert f"learned from {n} of {len(TABLE)} rows" in str(told[0].message)


@pytest.mark.parametrize(
    ("word", "array"), [("sample_weight", WEIGHT), ("groups", GROUPS)]
)
def test_arrays_beside_drawn_rows_are_refused(
    word: str, array: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(TABLE, tmp_path / "a.parquet")
    monkeypatch.setattr(memory, "available", lambda: 16 * 5000)
    words = f"fit: rows are drawn, .* name a column .*: {word}"
    with pytest.raises(ValueError, match=words):
        TabularMLPClassifier(**FEW).fit(path, target="sold", **{word: array})


def test_a_file_of_which_no_row_fits_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(TABLE, tmp_path / "a.parquet")
    monkeypatch.setattr(memory, "available", lambda: 16)
    words = "fit: of 16 bytes that are free no row of the table has"
    with pytest.raises(MemoryError, match=words):
        TabularMLPClassifier(**FEW).fit(path, target="sold")


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "dicts", "csv"])
@pytest.mark.parametrize("seed", range(2))
def test_texts_like_numbers_stay_texts_in_files(
    kind: str, seed: int, tmp_path: Path
) -> None:
    """The file to validate on is read as the table is:
    "01234" is not the number 1234.
    """
    codes = np.random.default_rng(seed).choice(["01234", "1234"], (2, 20))
    codes[:, :3] = "x", "01234", "1234"
    frame = pd.DataFrame(
        {"code": codes[0], "kind": pd.Categorical(codes[1]), "y": range(20)}
    )
    (tmp_path / "valid").mkdir()
    path = written(frame[1:], tmp_path / "valid/b.csv")
    arguments = fit_arguments.FitArguments(None, path, None, None, "y", None, (), False)
    table, _, opened = fit_arguments.opened(
        KINDS[kind](frame, tmp_path), None, arguments, "fit", 0
    )
    schema = Schema.learn(table)
    assert schema.categorical_names == ("code", "kind")
    expected = schema.read(table, "fit").codes[1:]
    assert (schema.read(opened.X_val, "fit").codes == expected).all()


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_no_group_is_on_both_sides(classes: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    n = 200
    n_groups = int(generator.integers(3, 40))
    y = generator.integers(0, 3, n) if classes else generator.normal(size=n)
    kept = np.ones(n, np.bool_)
    names = generator.integers(0, n_groups, n).astype(str)
    groups = fit_arguments.groups_of(names, kept, "fit")
    assert groups is not None
    n_groups = len(np.unique(groups))
    rows = fit_arguments.RowsToSplit(y, classes, groups, kept)
    mask = fit_arguments.held_out_groups(groups, 0.2, seed)
    assert not {*groups[mask]} & {*groups[~mask]}
    for cv, default, expected in (
        (None, 5, min(5, n_groups)),
        (3, 3, 3),
        (GroupKFold(3), 5, 3),
    ):
        result = fit_arguments.folds(cv, default, rows, seed, "fit")
        assert result is not None
        assert len(result) == expected
        validated = np.concatenate([second for _, second in result])
        np.testing.assert_array_equal(np.sort(validated), np.arange(n))
        for first, second in result:
            assert not {*groups[first]} & {*groups[second]}
            assert len(first) + len(second) == n
    with pytest.raises(ValueError, match=f"cv=50 folds of {n_groups} groups"):
        fit_arguments.folds(50, 50, rows, seed, "fit")


def test_rows_of_many_are_held_out_by_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmlp.tabular.fit_arguments.ROWS_FOR_FOLDS", 100)
    divided = []

    def taken(part: Any, *rest: Any) -> Any:
        divided.append(len(part.y))
        return kept_of(part, *rest)

    monkeypatch.setattr("fastmlp.tabular.base.kept_of", taken)
    model = TabularMLPRegressor(**FEW).fit(X, Y, groups=GROUPS)
    of_three = itertools.combinations(range(12), 3)
    sizes = [np.isin(GROUPS, some).sum() for some in of_three]
    assert divided[0] == model.training_["validation_rows"]
    assert divided[0] in sizes
    assert model.training_["rows"] == 120 - divided[0]


def test_rows_that_no_fold_validates_on() -> None:
    model = TabularMLPRegressor(**FEW, cv=TimeSeriesSplit(2)).fit(X, Y)
    assert model.training_ == {"rows": 120, "validation_rows": 80}
    assert len(model.pack_.residuals) == 80


def test_further_members_of_rows_that_no_fold_validates_on() -> None:
    trees = DecisionTreeRegressor(max_depth=3, random_state=0)
    model = TabularMLPRegressor(**FEW, cv=TimeSeriesSplit(2), extra_members=[trees])
    model.fit(X, Y)
    assert model.leaderboard_["validation_score"].notna().all()


def test_folds_may_be_masks() -> None:
    mask = np.arange(120) % 2 == 0
    first = TabularMLPRegressor(**FEW, cv=[(mask, ~mask)]).fit(X, Y)
    second = TabularMLPRegressor(**FEW)
    second.fit(X[mask], Y[mask], X_val=X[~mask], y_val=Y[~mask])
    assert len(first.members_) == len(second.members_)
    assert first.training_["validation_rows"] == 60


def test_a_callback_ends_the_fit() -> None:
    epochs: list[int] = []

    def stop(report: Any) -> None:
        epochs.append(report.epoch)
        if report.epoch == 1:
            report.stop()

    model = TabularMLPRegressor(**{**FEW, "max_iter": 500, "n_members": 8}, cv=2)
    model.fit(X, Y, callbacks=[stop])
    # Two nets train at once; all that begin later end with their first epoch.
    assert max(epochs) <= 2
    assert np.isfinite(model.predict(X)).all()


GAPS: list[list[Any]] = [["no", "yes"], [1, 2]]


@pytest.mark.parametrize("classes", GAPS)
def test_a_missing_target_is_one_error_at_every_door(
    classes: list[Any], tmp_path: Path
) -> None:
    frame = pd.DataFrame({"a": [*range(6)], "y": [*classes * 2, None, None]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    tables = {
        "line 6": [str(tmp_path / "t.csv")],
        "row 4": [
            str(tmp_path / "t.parquet"),
            frame,
            polars.from_pandas(frame),
            pyarrow.Table.from_pandas(frame),
            frame.to_dict("records"),
        ],
    }
    for place, doors in tables.items():
        for table in doors:
            message = f"the target 'y' has 2 missing values, the first in {place}; "
            with pytest.raises(ValueError, match=message):
                TabularMLPClassifier(max_iter=1).fit(table, target="y")
            model = TabularMLPClassifier(
                n_members=1, max_iter=1, cv=2, missing_targets="ignore"
            )
            model.fit(table, target="y")
            assert model.training_["rows_of_unknown_target"] == 2


compiled = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
ONE_MEMBER: dict[str, Any] = {"n_members": 1, "max_iter": 2, "cv": 2, "random_state": 0}
N = 60


def table() -> pd.DataFrame:
    """A number and a category; all else is left out."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": rng.normal(size=N),
            "town": rng.choice(["Bern", "Chur"], N),
            "review": [f"good {i}" for i in range(N)],
            "one": 5,
            "none": None,
            "lists": [[i] for i in range(N)],
        }
    )


REASONS = {
    "review": "has 60 texts in 60 rows, free text or ids",
    "one": "has one value only",
    "none": "is empty",
    "lists": "holds list, neither numbers, dates nor texts",
}


@compiled
@pytest.mark.parametrize("kind", [TabularMLPClassifier, TabularMLPRegressor])
def test_columns_that_are_left_out_are_warned_of_once(kind: Any) -> None:
    frame = table()
    if kind is TabularMLPClassifier:
        y = frame["x"] > 0
    else:
        y = 2 * frame["x"]
    reasons = [f"{name!r} {why}" for name, why in REASONS.items()]
    with pytest.warns(UserWarning, match="left out") as warned:
        model = kind(**ONE_MEMBER).fit(frame, y)
    message = f"{kind.__name__}.fit: columns left out: {'; '.join(reasons)}"
    assert [str(one.message) for one in warned] == [message]
    assert warned[0].filename == __file__
    assert model.schema_.dropped == REASONS
    summary = model.summary().splitlines()
    assert summary[-5:-1] == [f"left out: {reason}" for reason in reasons]
    assert summary[-1].endswith("1 number, 1 category, 4 left out")
    assert "&#x27;one&#x27; has one value only" in model._repr_html_()
    # Without them there is nothing to say, and the model is the same.
    same = kind(**ONE_MEMBER).fit(frame[["x", "town"]], y)
    np.testing.assert_array_equal(same.predict(frame), model.predict(frame))


@pytest.mark.parametrize("kind", [TabularMLPClassifier, TabularMLPRegressor])
def test_rows_without_a_target_are_left_out(kind: Any) -> None:
    unknown = np.arange(len(X)) % 5 == 0
    y: Any = LABELS if kind is TabularMLPClassifier else Y
    gaps = np.array(y, object)
    gaps[unknown] = None
    known = np.flatnonzero(~unknown)
    settings: Any = {"n_members": 2, "max_iter": 2, "random_state": 0}
    if kind is TabularMLPClassifier:
        settings["class_weight"] = "balanced"
    plain = kind(**settings)
    plain.fit(X.iloc[known], np.asarray(y)[known], WEIGHT[known])
    model = kind(missing_targets="ignore", **settings)
    model.fit(X, gaps, WEIGHT)
    assert model.training_.pop("rows_of_unknown_target") == unknown.sum()
    assert model.training_ == plain.training_
    result = model.pack_.predict(model._values(X, "predict"))
    expected = plain.pack_.predict(plain._values(X, "predict"))
    assert np.array_equal(result, expected)
