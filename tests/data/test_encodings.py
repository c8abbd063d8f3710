"""Encodings of CSV files: what is not UTF-8 is named, and `CSVFile` reads it at each door."""

import copy
import gzip
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastmlp import MLP, CSVFile, MLPClassifier, fit_many, predict_arrow

N = 150_000
ROWS = [f"{i % 7},{'Bern' if i % 2 else 'Zürich'},{i % 3}" for i in range(50)]


def written(path: Path, encoding: str, rows: list[str] = ROWS, header: str = "a,größe,y") -> Path:
    text = "\n".join([header, *rows, ""]).encode(encoding)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


# From a path to what is read.
DOORS: dict[str, Callable[[Any], Any]] = {
    "MLPClassifier": lambda path: classified(path).classes_.tolist(),
    "MLPClassifier, validation": lambda path: classified(
        CSVFile(Path(path).with_name("good.csv")), early_stopping=True, X_val=path
    ).classes_.tolist(),
    "predict_arrow": lambda path: sorted(
        {*predict_arrow(net(), path, keep="größe").read_all()["größe"].to_pylist()}
    ),
}


def net() -> MLP:
    made = MLP((2, 1), seed=0)
    made.feature_names = ["a", "y"]
    return made


def classified(path: Any, early_stopping: bool = False, **more: Any) -> Any:
    model = MLPClassifier((4,), max_iter=1, early_stopping=early_stopping, tol=1e9)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        return model.fit(path, target="größe", **more)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("end", [".csv", ".csv.gz"])
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-16-le", "utf-8-sig"])
def test_a_file_in_another_encoding(door: str, end: str, encoding: str, tmp_path: Path) -> None:
    written(tmp_path / "good.csv", "utf-8")
    path = written(tmp_path / f"a{end}", encoding)
    assert DOORS[door](CSVFile(path, encoding)) == ["Bern", "Zürich"]


def test_fits_in_the_bits_of_utf_8(tmp_path: Path) -> None:
    """Of patterns, lists of files and many nets too."""
    rows = [f"{i % 7},{i % 5},{i % 3}" for i in range(50)]
    paths = [written(tmp_path / f"{name}.csv", "cp1252", rows) for name in "ab"]
    others = [written(tmp_path / f"{name}.8.csv", "utf-8", rows) for name in "ab"]
    how: dict[str, Any] = {"target": "y", "epochs": 2}
    expected = MLP((2, 3, 1), seed=0)
    expected.fit(others, **how)
    for source in (CSVFile(tmp_path / "?.csv", "cp1252"), [CSVFile(p, "cp1252") for p in paths]):
        nets = [MLP((2, 3, 1), seed=0) for _ in range(2)]
        nets[0].fit(source, **how)
        fit_many(nets[1:], source, **how)
        for one in nets:
            assert one.parameters.tobytes() == expected.parameters.tobytes()
            assert one.feature_names == ("a", "größe")


def test_it_is_a_path() -> None:
    path = CSVFile(Path("a.csv"), encoding="cp1252")
    for one in (path, copy.deepcopy(path), pickle.loads(pickle.dumps(path))):
        assert (one, one.encoding) == ("a.csv", "cp1252")
        assert repr(one) == "CSVFile('a.csv', encoding='cp1252')"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("a.csv", "cp125x"),
            "there is no encoding 'cp125x'; some that are known: cp1252, latin-1",
        ),
        (("a.csv", "base64"), "there is no encoding 'base64'"),
        (("a.csv", "a\0b"), "there is no encoding"),
        (("a.csv", 1252), "encoding must be a name, such as 'cp1252', got 1252"),
        (("a.parquet", "cp1252"), r"path must end in \.csv or \.csv\.gz, got 'a\.parquet'"),
        ((5, "cp1252"), "path must be a path"),
    ],
)
def test_what_is_refused(arguments: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^CSVFile: .*{told}"):
        CSVFile(*arguments)


@pytest.mark.parametrize("end", [".csv", ".csv.gz"])
@pytest.mark.parametrize(
    ("encoding", "rows", "header", "told"),
    [
        ("cp1252", ROWS, "a,town,y",
         r"line 2, column 'town': b'Z\xfcrich' is not utf-8, perhaps cp1252 ('Zürich'): pass "
         "fastmlp.CSVFile(path, encoding='cp1252'), or --encoding cp1252 of the command"),
        ("cp1252", ROWS, "a,größe,y", r"line 1, the header: b'gr\xf6\xdfe' is not utf-8, perhaps"),
        ("latin-1", ["1,\x81,0"], "a,town,y", r"b'\x81' is not utf-8, perhaps latin-1 ('\x81')"),
        ("cp1251", ["1,Москва,0"], "a,town,y", "is not utf-8: give its encoding: fastmlp.CSV"),
        ("utf-16", ROWS, "a,town,y", "the file is not utf-8 but utf-16: pass fastmlp.CSVFile("),
        ("utf-32", ROWS, "a,town,y", "the file is not utf-8 but utf-32: pass fastmlp.CSVFile("),
        ("cp1252", ["1,Bern,0"] * N + ["2,Zürich,1"], "a,town,y", f"line {N + 2}, column 'town'"),
    ],
)  # fmt: skip
def test_text_that_is_not_utf_8(
    encoding: str, rows: list[str], header: str, told: str, end: str, tmp_path: Path
) -> None:
    path = written(tmp_path / f"a{end}", encoding, rows, header)
    target = header.split(",")[1]
    calls: list[Callable[[], Any]] = [
        lambda: MLPClassifier((4,), max_iter=1).fit(path, target=target),
        lambda: predict_arrow(net(), path, keep=target).read_all(),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=re.escape(told)) as raised:
            call()
        assert f"in {path}" in raised.value.__notes__


def test_a_wrong_encoding_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "cp1252", header="a,town,y")
    for encoding, told in (
        ("ascii", r"line 2, column 'town': b'Z\xfcrich' is not ascii, perhaps cp1252 ("),
        ("utf-16", "the text is not utf-16: give its encoding"),
        ("utf-8-sig", r"line 2, column 'town': b'Z\xfcrich' is not utf-8-sig, perhaps cp1252"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            MLPClassifier((4,), max_iter=1).fit(CSVFile(path, encoding), target="town")


def test_columns_that_are_not_read_may_hold_anything(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "cp1252", header="a,town,y")
    assert predict_arrow(net(), path).read_all().num_rows == len(ROWS)
