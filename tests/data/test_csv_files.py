"""Files of CSV: their types, columns, values and encodings, and errors that name them."""

import copy
import gzip
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from fastmlp import MLP, CSVFile, fit_many, predict_arrow, predict_parquet

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
    ("last", "message"),
    [
        ("7,1,abc,0", f": line {LATE}, column 'b': invalid value 'abc', but its values are numb"),
        ('7,1,"1,5",0', f": line {LATE}, column 'b': invalid value '1,5', but its values are num"),
        ("7,1,5,0,1", f": line {LATE}, 5 values for the 4 columns of the header: '7,1,5,0,1'; a"),
        ("7,1,5", f": line {LATE}, 3 values for the 4 columns of the header: '7,1,5'; is the"),
    ],
)
def test_a_late_value_that_is_no_number_is_named(
    name: str, last: str, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.csv", last)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        CALLS[name](path)
    assert raised.value.__notes__[-1] == f"in {path}"
    assert "header" in message or "convert the file to Parquet" in str(raised.value)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("7,1,5,yes", f"fit: line {LATE}, column 'y': invalid value 'yes', but its values are num"),
        ("7,1,,0", r"rows \d+ to 150000 of .*: X has 1 missing value in column 'b'; fill"),
        (
            "7,1,5,NA",
            rf"rows \d+ to 150000 of .*: the target 'y' has 1 missing value, .* line {LATE}",
        ),
        ("7,1,inf,0", r"block 2: X must be finite as float32, got inf in row \d+, column 'b'"),
    ],
)
def test_a_fit_names_the_place_of_what_is_no_number(
    last: str, message: str, tmp_path: Path
) -> None:
    """Nulls and infinite values by batch, in a file of which some columns are read."""
    with pytest.raises(ValueError, match=message):
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
    """They are the numbers of arrays."""
    path = written(tmp_path / "a.csv", "0.5,1.5,-2.5,0.25")
    i = np.arange(N)
    x = np.append(np.column_stack([i % 7, i % 5]), [[1.5, -2.5]], axis=0)
    y, nets = np.append(i % 2, 0.25), [net(), net()]
    options: dict[str, Any] = {"epochs": 1, "batch_size": 1000, "shuffle": False}
    nets[0].fit(x, y, **options)
    nets[1].fit(path, target="y", buffer_rows=50_000, **options)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_texts_from_the_start_are_no_inputs(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b,y\n1,2,0\n4,?,1\n")
    with pytest.raises(TypeError, match=r"text, such as '\?' in column 'b'; encode it"):
        net().fit(path, target="y")


def test_late_fractions_and_texts_in_columns_that_are_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "no number,0.5,1e-3,0")
    table = pa.table({"a": [*(np.arange(N) % 7), 0.5], "b": [*(np.arange(N) % 5), 1e-3]})
    result = predict_arrow(net(), path).read_all()["prediction"].to_numpy()
    assert np.array_equal(result, net().predict(table)[:, 0])


def test_what_is_kept_stays_what_it_is(tmp_path: Path) -> None:
    ids = [2**53 + 1, 2**53 + 3]
    path = tmp_path / "a.csv"
    path.write_text(f"id,a,b,note,day\n{ids[0]},1,2,,2020-01-01\n{ids[1]},3,4,,2020-01-02\n")
    predict_parquet(net(), path, tmp_path / "out.parquet", keep=["id", "note", "day"])
    result = pq.read_table(tmp_path / "out.parquet")
    assert result["id"].to_pylist() == ids
    kinds = [str(field.type) for field in result.schema]
    assert kinds == ["int64", "string", "date32[day]", "float"]
    # Nothing in the first megabyte, and a text later.
    path = written(tmp_path / "b.csv", "7,1,2,late", "id,a,b,note")
    text = re.sub(r",[01]\n", ",\n", path.read_text())
    path.write_text(text)
    notes = predict_arrow(net(), path, keep="note").read_all()["note"]
    assert notes[-1].as_py() == "late"
    path = written(tmp_path / "c.csv", "7,1,2,0.5")
    message = f"line {LATE}, column 'y': invalid value '0.5', but its values are whole numbers"
    with pytest.raises(ValueError, match=re.escape(message)):
        predict_arrow(net(), path, keep="y").read_all()


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_separators_are_named(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"a{mark}b{mark}y\n1{mark}2{mark}3\n")
    for call in CALLS.values():
        with pytest.raises(ValueError, match=re.escape(f"separated by {mark!r}, and must be by")):
            call(path)


ROWS = [f"{i % 7},{'Bern' if i % 2 else 'Zürich'},{i % 3}" for i in range(50)]


def written_as(
    path: Path, encoding: str, rows: list[str] = ROWS, header: str = "a,größe,y"
) -> Path:
    text = "\n".join([header, *rows, ""]).encode(encoding)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def net_of_two() -> MLP:
    made = MLP((2, 1), seed=0)
    made.feature_names = ["a", "y"]
    return made


@pytest.mark.parametrize("end", [".csv", ".csv.gz"])
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-16-le", "utf-8-sig"])
def test_a_file_in_another_encoding(end: str, encoding: str, tmp_path: Path) -> None:
    path = written_as(tmp_path / f"a{end}", encoding)
    kept = predict_arrow(net_of_two(), CSVFile(path, encoding), keep="größe").read_all()["größe"]
    assert {*kept.to_pylist()} == {"Bern", "Zürich"}


def test_fits_in_the_bits_of_utf_8(tmp_path: Path) -> None:
    """Of patterns, lists of files and many nets too."""
    rows = [f"{i % 7},{i % 5},{i % 3}" for i in range(50)]
    paths = [written_as(tmp_path / f"{name}.csv", "cp1252", rows) for name in "ab"]
    others = [written_as(tmp_path / f"{name}.8.csv", "utf-8", rows) for name in "ab"]
    options: dict[str, Any] = {"target": "y", "epochs": 2}
    expected = MLP((2, 3, 1), seed=0)
    expected.fit(others, **options)
    for source in (CSVFile(tmp_path / "?.csv", "cp1252"), [CSVFile(p, "cp1252") for p in paths]):
        nets = [MLP((2, 3, 1), seed=0) for _ in range(2)]
        nets[0].fit(source, **options)
        fit_many(nets[1:], source, **options)
        for one in nets:
            assert one.parameters.tobytes() == expected.parameters.tobytes()
            assert one.feature_names == ("a", "größe")


def test_it_is_a_path() -> None:
    path = CSVFile(Path("a.csv"), encoding="cp1252")
    for one in (path, copy.deepcopy(path), pickle.loads(pickle.dumps(path))):
        assert (one, one.encoding) == ("a.csv", "cp1252")
        assert repr(one) == "CSVFile('a.csv', encoding='cp1252')"


@pytest.mark.parametrize("end", [".csv", ".csv.gz"])
@pytest.mark.parametrize(
    ("encoding", "rows", "header", "message"),
    [
        ("cp1252", ROWS, "a,town,y",
         "line 2, column 'town': the text is not utf-8: give its encoding, such as "
         "fastmlp.CSVFile(path, encoding='cp1252'), or --encoding cp1252 of the command"),
        ("cp1252", ROWS, "a,größe,y", "the text is not utf-8 ('utf-8' codec can't decode byte"),
        ("latin-1", ["1,\x81,0"], "a,town,y", "line 2, column 'town': the text is not utf-8: give"),
        ("utf-16", ROWS, "a,town,y", "the text is not utf-8, but perhaps utf-16: give its"),
        ("utf-16", ["1", "2"], "größe", "the text is not utf-8 ('utf-8' codec"),
        ("utf-32", ROWS, "a,town,y", "the text is not utf-8, but perhaps utf-16: give its"),
        ("cp1252", ["1,Bern,0"] * N + ["2,Zürich,1"], "a,town,y", f"line {N + 2}, column 'town'"),
    ],
)  # fmt: skip
def test_text_that_is_not_utf_8(
    encoding: str, rows: list[str], header: str, message: str, end: str, tmp_path: Path
) -> None:
    path = written_as(tmp_path / f"a{end}", encoding, rows, header)
    target = header.split(",")[:2][-1]
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        predict_arrow(net_of_two(), path, keep=target).read_all()
    assert f"in {path}" in raised.value.__notes__


def test_a_wrong_encoding_is_named(tmp_path: Path) -> None:
    path = written_as(tmp_path / "a.csv", "cp1252", header="a,town,y")
    for encoding, values in (
        ("ascii", "the text is not ascii ('ascii' codec can't decode byte 0xfc"),
        ("utf-16", "the text is not utf-16 (UTF-16 stream does not start with BOM): give its"),
        ("utf-8-sig", "the text is not utf-8-sig ('utf-8' codec can't decode byte 0xfc"),
    ):
        with pytest.raises(ValueError, match=re.escape(values)):
            predict_arrow(net_of_two(), CSVFile(path, encoding), keep="town").read_all()


def test_columns_that_are_not_read_may_hold_anything(tmp_path: Path) -> None:
    path = written_as(tmp_path / "a.csv", "cp1252", header="a,town,y")
    assert predict_arrow(net_of_two(), path).read_all().num_rows == len(ROWS)
