"""Files of CSV: types beyond the first megabyte, columns that are read, and errors of values."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from fastmlp import MLP, MLPClassifier, predict_arrow, predict_parquet

# More than the first megabyte, which decides the types.
N = 150_000
LATE = N + 2  # the line, after that of the header


def written(path: Path, last: str, header: str = "id,a,b,y") -> Path:
    """Write rows of integers, and a last row."""
    rows = "".join(f"{i},{i % 7},{i % 5},{i % 2}\n" for i in range(N))
    path.write_text(f"{header}\n{rows}{last}\n")
    return path


def net() -> MLP:
    made = MLP((2, 3, 1), seed=0)
    made.feature_names = ["a", "b"]
    return made


CALLS: dict[str, Callable[[Path], Any]] = {
    "fit": lambda path: MLP((3, 3, 1), seed=0).fit(path, target="y", epochs=1),
    "predict_arrow": lambda path: predict_arrow(net(), path).read_all(),
    "predict_batches": lambda path: list(net().predict_batches(path)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("last", "told"),
    [
        ("7,1,abc,0", f": line {LATE}, column 'b': invalid value 'abc', but its values are numb"),
        ('7,1,"1,5",0', f": line {LATE}, column 'b': invalid value '1,5', but its values are num"),
        ("7,1,5,0,1", f": line {LATE}, 5 values for the 4 columns of the header: '7,1,5,0,1'; a"),
        ("7,1,5", f": line {LATE}, 3 values for the 4 columns of the header: '7,1,5'; is the"),
    ],
)
def test_a_late_value_that_is_no_number_is_named(
    name: str, last: str, told: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.csv", last)
    with pytest.raises(ValueError, match=re.escape(told)) as raised:
        CALLS[name](path)
    assert raised.value.__notes__[-1] == f"in {path}"
    assert "header" in told or "convert the file to Parquet" in str(raised.value)


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ("7,1,5,yes", f"fit: line {LATE}, column 'y': invalid value 'yes', but its values are num"),
        ("7,1,,0", "batch 1 of .*: X has 1 missing value in column 'b'; fill"),
        (
            "7,1,5,NA",
            f"batch 1 of .*: the target 'y' has 1 missing value, the first in line {LATE}",
        ),
        ("7,1,inf,0", r"block 1: X must be finite as float32, got inf in row \d+, column 'b'"),
    ],
)
def test_a_fit_names_the_place_of_what_is_no_number(last: str, told: str, tmp_path: Path) -> None:
    """Nulls and infinite values by batch, in a file of which some columns are read."""
    with pytest.raises(ValueError, match=told):
        net().fit(written(tmp_path / "a.csv", last), target="y", epochs=1)


def test_a_row_of_the_first_megabyte_with_a_comma_too_many(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,a,b,y\n1,2,3,4\n1,2,3,4,5\n")
    for call in CALLS.values():
        with pytest.raises(
            ValueError, match=r": line 3, 5 values .* needs quotes: \"1,5\""
        ) as info:
            call(path)
        assert info.value.__notes__ == [f"in {path}"]


def test_late_fractions_of_inputs_and_targets(tmp_path: Path) -> None:
    """They are the numbers of arrays; labels without fractions stay integers."""
    path = written(tmp_path / "a.csv", "0.5,1.5,-2.5,0.25")
    i = np.arange(N)
    x = np.append(np.column_stack([i % 7, i % 5]), [[1.5, -2.5]], axis=0)
    y, nets = np.append(i % 2, 0.25), [net(), net()]
    how: dict[str, Any] = {"epochs": 1, "batch_size": 1000, "shuffle": False}
    nets[0].fit(x, y, **how)
    nets[1].fit(path, target="y", buffer_rows=50_000, **how)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    model = MLPClassifier((4,), max_iter=1, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model.fit(written(path, "7,1,2,1"), target="y")
    assert model.classes_.tolist() == [0, 1]
    assert model.classes_.dtype.kind == "i"


def test_texts_from_the_start_are_no_inputs_but_targets(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b,y\n1,2,yes\n4,?,no\n")
    with pytest.raises(TypeError, match=r"text, such as '\?' in column 'b'; encode it"):
        MLPClassifier().fit(path, target="y")
    path.write_text("a,b,y\n1,2,yes\n4,3,no\n")
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model = MLPClassifier((2,), max_iter=1).fit(path, target="y")
    assert model.classes_.tolist() == ["no", "yes"]


def test_late_fractions_and_texts_in_columns_that_are_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "no number,0.5,1e-3,0")
    table = pa.table({"a": [*(np.arange(N) % 7), 0.5], "b": [*(np.arange(N) % 5), 1e-3]})
    found = predict_arrow(net(), path).read_all()["prediction"].to_numpy()
    assert np.array_equal(found, net().predict(table)[:, 0])


def test_what_is_kept_stays_what_it_is(tmp_path: Path) -> None:
    ids = [2**53 + 1, 2**53 + 3]
    path = tmp_path / "a.csv"
    path.write_text(f"id,a,b,note,day\n{ids[0]},1,2,,2020-01-01\n{ids[1]},3,4,,2020-01-02\n")
    predict_parquet(net(), path, tmp_path / "out.parquet", keep=["id", "note", "day"])
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["id"].to_pylist() == ids
    kinds = [str(field.type) for field in found.schema]
    assert kinds == ["int64", "string", "date32[day]", "float"]
    # Nothing in the first megabyte, and a text later.
    path = written(tmp_path / "b.csv", "7,1,2,late", "id,a,b,note")
    text = re.sub(r",[01]\n", ",\n", path.read_text())
    path.write_text(text)
    notes = predict_arrow(net(), path, keep="note").read_all()["note"]
    assert notes[-1].as_py() == "late"
    path = written(tmp_path / "c.csv", "7,1,2,0.5")
    told = f"line {LATE}, column 'y': invalid value '0.5', but its values are whole numbers"
    with pytest.raises(ValueError, match=re.escape(told)):
        predict_arrow(net(), path, keep="y").read_all()


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_separators_are_named(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"a{mark}b{mark}y\n1{mark}2{mark}3\n")
    for call in CALLS.values():
        with pytest.raises(ValueError, match=re.escape(f"separated by {mark!r}, and must be by")):
            call(path)
