"""What a pass over a table learns of its columns."""

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow
import pytest

from fastmlp.tabular.plain.columns import Column, Target
from fastmlp.tabular.plain.learning import MOST_LEVELS, ColumnSettings, LearnedColumns, learn
from fastmlp.tabular.schema.batches import TrainingBatches, everything


def learned(
    columns: dict[str, Any], notes: list[str] | None = None, task: Any = None, **wanted: Any
) -> LearnedColumns:
    """What is learned of a table, of two batches, with the target t."""
    table = pyarrow.table(columns)
    half = pyarrow.concat_tables([table.slice(0, len(table) // 2), table.slice(len(table) // 2)])
    names = tuple(name for name in columns if name != "t")
    told = ColumnSettings(
        "t", task, names, wanted.get("chosen", False), wanted.get("categorical", ())
    )
    batches = TrainingBatches(half, "train", names, ["t"])
    return learn(batches, told, everything, (notes or []).append, "train")


def test_every_type_of_arrow() -> None:
    found = learned(
        {
            "float": [1.0, 3.0, 1.0, 3.0],
            "int8": pyarrow.array([0, 2, 2, 0], "int8"),
            "half": pyarrow.array(np.array([0, 2, 2, 0], "f2")),
            "bool": [True, False, None, False],
            "decimal": pyarrow.array([Decimal("1.5"), Decimal(3)] * 2),
            "text": ["u", "v", "u", None],
            "large": pyarrow.array(["u", "v", "u", None], "large_string"),
            "empty": pyarrow.array(["u", "v", "u", ""], "large_string"),
            "dictionary": pyarrow.array(["v", "u", "u", "v"]).dictionary_encode(),
            "places": pyarrow.array([7, 8, 8, 7]).dictionary_encode(),
            "code": [3, 1, 1, None],
            "t": [0, 1, 0, 1],
        },
        categorical=("code",),
    )
    moments = {column.name: (column.center, column.scale) for column in found.columns}
    assert moments["float"] == (2.0, 1.0)
    assert moments["int8"] == moments["half"] == (1.0, 1.0)
    assert moments["decimal"] == (2.25, 0.75)
    kinds = {column.name: (column.levels, column.indicates) for column in found.columns}
    assert kinds["bool"] == (None, True)
    assert kinds["text"] == kinds["large"] == kinds["dictionary"] == (("u", "v"), False)
    assert kinds["empty"] == (("", "u", "v"), False)
    assert kinds["places"] == (("7", "8"), False)
    assert kinds["code"] == (("1", "3"), False)
    assert found.sizes == {0: 2, 1: 2}
    assert found.n_rows == 4


def test_columns_that_are_left_out() -> None:
    notes: list[str] = [""]
    n = 60
    found = learned(
        {
            "id": [f"row {i}" for i in range(n)],
            "one": [5] * n,
            "word": ["x"] * n,
            "none": pyarrow.nulls(n),
            "day": [datetime.date(2020, 1, 1)] * n,
            "list": [[1]] * n,
            "bytes": [b"a"] * n,
            "blank": pyarrow.nulls(n, "string"),
            "comma": ["1,5", "2,5"] * (n // 2),
            "some": [None, 1.0] * (n // 2),
            "t": [0, 1] * (n // 2),
        },
        notes,
    )
    assert found.columns == (Column("some", None, 1.0, 1.0, True),)
    told = " ".join(notes)
    assert "'id' is left out: it has 60 texts in 60 rows, free text or ids" in told
    for name in ("one", "word", "day"):
        assert f"{name!r} is left out: it has one value only" in told
    for name in ("none", "blank"):
        assert f"{name!r} is left out: it is empty" in told
    others = "neither numbers, dates nor texts"
    assert f"'bytes' is left out: it holds binary, {others} in UTF-8" in told
    assert f"'list' is left out: it holds list<item: int64>, {others}" in told
    assert "'comma' is left out: it holds numbers with a decimal comma" in told
    assert found.schema.dropped["list"] == f"holds list<item: int64>, {others}"
    assert {*found.schema.dropped} == {
        "id",
        "one",
        "word",
        "none",
        "day",
        "list",
        "bytes",
        "blank",
        "comma",
    }
    for wanted in ({"chosen": True}, {"categorical": ("list",)}):
        with pytest.raises(TypeError, match=f"train: the column 'list' holds list<.*, {others}"):
            learned({"list": [[1]], "t": [1]}, **wanted)


def test_the_most_frequent_levels_are_kept() -> None:
    notes: list[str] = [""]
    words = [f"w{i:03}" for i in range(MOST_LEVELS + 20)]
    many = words * 2 + words[20:] * 2
    found = learned({"a": many, "t": [0, 1] * (len(many) // 2)}, notes)
    assert found.columns[0].levels == tuple(words[20:])
    assert notes[-1].endswith("100 levels are kept; the 20 rarest are taken as unknown")


@pytest.mark.parametrize(
    ("values", "task", "expected"),
    [
        (["b", "a", "b", "c"], None, Target("t", ("a", "b", "c"))),
        ([True, False, True, False], None, Target("t", (False, True))),
        ([5, 3, 5, 3], None, Target("t", (3, 5))),
        ([5, 3, 5, 3], "regression", Target("t", None, 4.0, 1.0)),
        ([0.5, 1.5, 0.5, 1.5], None, Target("t", None, 1.0, 0.5)),
        ([0.5, 1.5, 0.5, 1.5], "classification", Target("t", (0.5, 1.5))),
        (list(range(40)), None, Target("t", None, 19.5, float(np.std(np.arange(40))))),
    ],
)
def test_the_task_is_guessed_by_the_target(values: Any, task: Any, expected: Target) -> None:
    notes: list[str] = [""]
    found = learned({"a": [0.0, 1.0] * (len(values) // 2), "t": values}, notes, task).target
    assert (found.name, found.classes) == (expected.name, expected.classes)
    assert (found.center, found.scale) == pytest.approx((expected.center, expected.scale))
    assert ("task:" in " ".join(notes)) == (task is None)


@pytest.mark.parametrize(
    ("values", "task", "told"),
    [
        (
            [1.0, None, float("nan"), 2.0],
            None,
            "has 2 missing values, the first in row 1; .* (4 rows in all)",
        ),
        ([1, 1, 1, 1], None, "has one value, 1"),
        (["a", "b", "a", "b"], "regression", "a regression needs numbers"),
        ([1.0, float("inf"), 1.0, 2.0], None, "'t' is infinite in row 1"),
        ([datetime.date(2020, 1, day) for day in (1, 2, 3, 4)], None, "holds date32"),
    ],
)
def test_targets_that_are_none(values: Any, task: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told.replace("(", r"\(").replace(")", r"\)")):
        learned({"a": [0.0, 1.0, 2.0, 3.0], "t": values}, None, task)
