"""Files of CSV and names of columns: types,
missing targets, encodings, errors that name them.
"""

import copy
import gzip
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pyarrow.parquet as pq
import pytest
import small_models
from small_models import forms_of

from fastmlp import MLP, Blocks, CSVFile, fit_many, predict_arrow, predict_parquet

N = 40
Table = Any


def csv(table: Table, folder: Path, name: str = "a.csv") -> Path:
    table.to_pandas().to_csv(folder / name, index=False)
    return folder / name


def quoted(table: Table, folder: Path) -> Path:
    """CSV in which each value has quotes, those of numbers too."""
    table.to_pandas().to_csv(folder / "a.csv", index=False, quoting=1)
    return folder / "a.csv"


def parquet(table: Table, folder: Path) -> Path:
    table.to_pandas().to_parquet(folder / "a.parquet", row_group_size=7)
    return folder / "a.parquet"


def feather(table: Table, folder: Path) -> Path:
    pyarrow.feather.write_feather(table, folder / "a.feather", chunksize=7)
    return folder / "a.feather"


# By their names: from a table and a folder to a source.
READERS: dict[str, Callable[[Table, Path], Any]] = {
    "csv": csv,
    "csv.gz": lambda table, folder: csv(table, folder, "a.csv.gz"),
    "quoted csv": quoted,
    "parquet": parquet,
    "feather": feather,
    "table": lambda table, folder: table,
    "reader": lambda table, folder: table.to_reader(),
    "data set": lambda table, folder: pyarrow.dataset.dataset(table),
    "pandas": lambda table, folder: table.to_pandas(),
    "pandas, nullable": lambda table, folder: table.to_pandas().convert_dtypes(),
    "polars": lambda table, folder: pl.from_arrow(table),
    "duckdb": lambda table, folder: duckdb.from_arrow(table),
}
GOOD = pa.table({"a": np.linspace(-1, 1, N), "y": np.arange(N) % 2, "z": np.zeros(N)})
# From a source and a target to an error.
DOORS: dict[str, Callable[[Any, Any], Any]] = {
    "MLP": lambda source, target: net(target).fit(source, target=target, epochs=1),
    "MLP, validation": lambda source, target: net(target).fit(
        GOOD.select(["a", *([target] if isinstance(target, str) else target)]),
        target=target,
        epochs=1,
        validation_data=source,
    ),
    "fit_many": lambda source, target: fit_many(
        [net(target)], source, target=target, epochs=1
    ),
    "Blocks": lambda source, target: net(target).fit(
        Blocks.from_parquet(source, target=target), epochs=1
    ),
}
# Values of a target, with None for those that are missing.
KINDS: dict[str, Callable[[np.random.Generator], list[Any]]] = {
    "integers": lambda rng: rng.integers(0, 2, N).tolist(),
    "fractions": lambda rng: rng.normal(size=N).tolist(),
    "truth": lambda rng: rng.choice([True, False], N).tolist(),
}


def net(target: Any) -> MLP:
    return MLP((1, 1 if isinstance(target, str) else len(target)), seed=0)


CASES = [
    (reader, door, kind)
    for reader in READERS
    for door in DOORS
    for kind in KINDS
    if door != "Blocks" or reader == "parquet"
]
drawn = np.random.default_rng(0).permutation(len(CASES))
SOME = [CASES[i] for i in drawn[:60]]


@pytest.mark.parametrize(("reader", "door", "kind"), SOME)
def test_a_missing_target(reader: str, door: str, kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng([len(reader), len(door), len(kind)])
    values = KINDS[kind](rng)
    holes = np.sort(rng.choice(N, int(rng.integers(1, 4)), replace=False))
    for i in holes:
        values[i] = None
    several = door in ("MLP", "MLP, validation", "fit_many") and rng.random() < 0.3
    columns = {"a": np.linspace(-1, 1, N), "y": pa.array(values)}
    names: Any = "y"
    if several:
        columns["z"] = np.zeros(N)
        names = ["z", "y"]
    source = READERS[reader](pa.table(columns), tmp_path)
    # Of blocks of some rows the first that has one is told.
    rows = 7 if reader in ("parquet", "feather") else N
    n = int(np.count_nonzero(holes // rows == holes[0] // rows))
    if "csv" in reader:
        first = f"line {holes[0] + 2}"
    else:
        first = f"row {holes[0]}"
    count = f"{n} missing value{'s' * (n > 1)}"
    message = f"the target 'y' has {count}, the first in {first}; for targets that"
    with pytest.raises(ValueError, match=re.escape(message)):
        DOORS[door](source, names)


@pytest.mark.parametrize("reader", READERS)
def test_missing_targets_of_a_source_are_ignored(reader: str, tmp_path: Path) -> None:
    y = np.random.default_rng(0).normal(size=(N, 2))
    y[::3, 0] = y[1::4, 1] = np.nan
    columns = {"a": np.linspace(-1, 1, N)}
    columns |= {
        name: pa.array(y[:, j], from_pandas=True) for j, name in enumerate("yz")
    }
    source = READERS[reader](pa.table(columns), tmp_path)
    of_source, of_arrays = net(["y", "z"]), net(["y", "z"])
    options: Any = {"epochs": 1, "shuffle": False, "missing_targets": "ignore"}
    of_source.fit(source, target=["y", "z"], **options)
    of_arrays.fit(columns["a"][:, None], y, **options)
    assert np.array_equal(of_source.parameters, of_arrays.parameters)


@pytest.mark.parametrize("kind", ["NaN", "NaT", "NA"])
def test_what_pandas_calls_missing(kind: str) -> None:
    """NaN among fractions, NaT among dates and ``pd.NA`` among texts."""
    missing: Any = {"NaN": float("nan"), "NaT": pd.NaT, "NA": pd.NA}[kind]
    there: Any = {"NaN": 1.5, "NaT": pd.Timestamp("2026-01-01"), "NA": "x"}[kind]
    frame = pd.DataFrame({"a": [0.0, 1.0, 2.0], "y": [there, there, missing]})
    with pytest.raises(
        ValueError, match=r"'y' has 1 missing value, the first in row 2; f"
    ):
        DOORS["MLP"](frame, "y")


def test_a_nan_of_arrow_or_polars_is_a_missing_value() -> None:
    """NaN is not a null there, but it is not a number either."""
    columns = {"a": [0.0, 1.0], "y": [0.5, float("nan")]}
    for source in (pa.table(columns), pl.DataFrame(columns)):
        with pytest.raises(
            ValueError, match=r"'y' has 1 missing value, the first in row 1; for"
        ):
            DOORS["MLP"](source, "y")


@pytest.mark.parametrize("word", ["", '""', "NA", "NaN", "null", "#N/A"])
def test_words_for_missing_values_in_csv_are_pandas(word: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"a,y\n1,0\n2,1\n3,{word}\n")
    assert pd.read_csv(file)["y"].isna().tolist() == [False, False, True]
    message = "'y' has 1 missing value, the first in line 4; for"
    with pytest.raises(ValueError, match=message):
        DOORS["MLP"](file, "y")


def test_later_blocks_and_files(tmp_path: Path) -> None:
    """The row is that of its file, in CSV its line, after batches of others."""
    i = np.arange(150_000)
    whole = pa.table({"a": i % 5, "y": pa.array(np.where(i == 140_001, np.nan, i % 2))})
    pyarrow.csv.write_csv(whole, tmp_path / "b.csv")
    pyarrow.csv.write_csv(whole.slice(0, 100), tmp_path / "a.csv")
    with pytest.raises(
        ValueError, match=r"^rows 131072 to 1.* of .*b.csv: .* first in line 140003;"
    ):
        net("y").fit(tmp_path / "*.csv", target="y", epochs=1)
    pyarrow.feather.write_feather(whole, tmp_path / "b.feather")
    with pytest.raises(
        ValueError, match=r"^batch 2 of .*b.feather: .* first in row 140001;"
    ):
        net("y").fit(tmp_path / "b.feather", target="y", epochs=1, buffer_rows=50_000)
    pq.write_table(whole, tmp_path / "b.parquet", row_group_size=100_000)
    blocks = Blocks.from_parquet(tmp_path / "b.parquet", target="y", rows=30_000)
    with pytest.raises(
        ValueError, match=r"^row group 1 of .*b.parquet: .* first in row 140001;"
    ):
        net("y").fit(blocks, epochs=1, buffer_rows=50_000)
    with pytest.raises(
        ValueError, match=r"^rows 131072 to 149999: .* first in row 140001;"
    ):
        net("y").fit(whole, target="y", epochs=1)


rng = np.random.default_rng(0)
TABLE = pa.table({name: rng.standard_normal(700) for name in "abcy"})
OTHER = TABLE.select(["y", "c", "a", "b"])
X = np.column_stack([TABLE[name] for name in "abc"])
Y = np.asarray(TABLE["y"])


def test_names_are_kept_and_columns_found_by_them(tmp_path: Path) -> None:
    alone = MLP((3, 4, 1), seed=0)
    alone.fit(X, Y, epochs=1)
    middle = alone.parameters.copy()
    alone.fit(X, Y, epochs=1)
    (tmp_path / "other").mkdir()
    for form in (
        "table",
        "reader",
        "pandas",
        "polars",
        "dataset",
        "parquet",
        "feather",
        "csv",
    ):
        net = MLP((3, 4, 1), seed=0)
        other = partial(forms_of(OTHER)[form], tmp_path / "other")
        net.fit(
            forms_of(TABLE)[form](tmp_path),
            target="y",
            epochs=1,
            validation_data=other(),
        )
        assert net.feature_names == ("a", "b", "c"), form
        assert net.parameters.tobytes() == middle.tobytes(), form
        net.fit(other(), target="y", epochs=1)
        assert net.parameters.tobytes() == alone.parameters.tobytes(), form
        assert net.predict(OTHER).tobytes() == alone.predict(X).tobytes(), form


def test_blocks_have_names(tmp_path: Path) -> None:
    paths = small_models.written(TABLE, tmp_path, ".parquet")
    for blocks in (
        Blocks.from_parquet(paths, target="y"),
        Blocks.from_arrow(TABLE, target="y"),
    ):
        net = MLP((3, 1), seed=0)
        net.fit(blocks, epochs=1)
        assert net.feature_names == blocks.feature_names == ("a", "b", "c")
        words = "the source has the columns c, a, b, but the net's feature_names are a, b, c: read"
        with pytest.raises(ValueError, match=f"^MLP.fit: {words}"):
            net.fit(Blocks.from_arrow(OTHER, target="y"), epochs=1)
        with pytest.raises(ValueError, match=f"^MLP.fit: validation_data: {words}"):
            net.fit(
                blocks, epochs=1, validation_data=Blocks.from_arrow(OTHER, target="y")
            )
    assert Blocks.from_arrays(X, Y).feature_names is None


def test_many_nets_over_one_table() -> None:
    nets = [MLP((3, 2, 1), seed=i) for i in range(2)]
    nets[1].feature_names = ["c", "a", "b"]
    fit_many(nets, TABLE, target="y", epochs=1)
    for i, net in enumerate(nets):
        alone = MLP((3, 2, 1), seed=i)
        alone.fit(X[:, [2, 0, 1]], Y, epochs=1)
        assert net.feature_names == ("c", "a", "b")
        assert net.parameters.tobytes() == alone.parameters.tobytes()
    nets[0].feature_names = ["a", "b", "c"]
    words = r"nets\[1\] has the feature_names c, a, b, and nets before it have a, b, c"
    with pytest.raises(ValueError, match=words):
        fit_many(nets, TABLE, target="y", epochs=1)


def test_a_net_with_names_reads_those_columns() -> None:
    net = MLP((2, 1), seed=0)
    net.feature_names = ["c", "a"]
    net.fit(TABLE, target="y", epochs=1)
    other = MLP((2, 1), seed=0)
    other.fit(X[:, [2, 0]], Y, epochs=1)
    assert net.parameters.tobytes() == other.parameters.tobytes()
    with pytest.raises(
        ValueError, match=r"there is no column 'c', did you mean 'C'\? known: 'C',"
    ):
        net.fit(pd.DataFrame({"C": Y, "a": Y, "y": Y}), target="y", epochs=1)


# More than the first megabyte, which decides the types.
N_LONG = 150_000
LATE = N_LONG + 2  # the line, after that of the header


def written(path: Path, last: str, header: str = "id,a,b,y") -> Path:
    rows = "".join(f"{i},{i % 7},{i % 5},{i % 2}\n" for i in range(N_LONG))
    path.write_text(f"{header}\n{rows}{last}\n")
    return path


def net_of_columns() -> MLP:
    made = MLP((2, 3, 1), seed=0)
    made.feature_names = ["a", "b"]
    return made


CALLS: dict[str, Callable[[Path], Any]] = {
    "fit": lambda path: MLP((3, 3, 1), seed=0).fit(path, target="y", epochs=1),
    "predict_arrow": lambda path: predict_arrow(net_of_columns(), path).read_all(),
    "predict_batches": lambda path: list(net_of_columns().predict_batches(path)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("last", "message"),
    [
        (
            "7,1,abc,0",
            f": line {LATE}, column 'b': invalid value 'abc', but its values are numb",
        ),
        (
            '7,1,"1,5",0',
            f": line {LATE}, column 'b': invalid value '1,5', but its values are num",
        ),
        (
            "7,1,5,0,1",
            f": line {LATE}, 5 values for the 4 columns of the header: '7,1,5,0,1'; a",
        ),
        (
            "7,1,5",
            f": line {LATE}, 3 values for the 4 columns of the header: '7,1,5'; is the",
        ),
    ],
)
def test_a_late_non_number_is_named(
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
        (
            "7,1,5,yes",
            f"fit: line {LATE}, column 'y': invalid value 'yes', but its values are num",
        ),
        (
            "7,1,,0",
            r"rows \d+ to 150000 of .*: X has 1 missing value in column 'b'; fill",
        ),
        (
            "7,1,5,NA",
            rf"rows \d+ to 150000 of .*: the target 'y' has 1 missing value, .* line "
            rf"{LATE}",
        ),
        (
            "7,1,inf,0",
            r"block 2: X must be finite as float32, got inf in row \d+, column 'b'",
        ),
    ],
)
def test_a_fit_names_the_place_of_no_number(
    last: str, message: str, tmp_path: Path
) -> None:
    """Nulls and infinite values by batch, in a file of which some columns are read."""
    with pytest.raises(ValueError, match=message):
        net_of_columns().fit(written(tmp_path / "a.csv", last), target="y", epochs=1)


def test_a_row_of_the_first_megabyte_with_a_comma_too_many(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,a,b,y\n1,2,3,4\n1,2,3,4,5\n")
    for call in CALLS.values():
        with pytest.raises(
            ValueError, match=r": line 3, 5 values .* needs quotes: \"1,5\""
        ) as info:
            call(path)
        assert info.value.__notes__ == [f"in {path}"]


def test_late_fractions_of_a_file_train_as_the_numbers_of_arrays(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "a.csv", "0.5,1.5,-2.5,0.25")
    i = np.arange(N_LONG)
    x = np.append(np.column_stack([i % 7, i % 5]), [[1.5, -2.5]], axis=0)
    y = np.append(i % 2, 0.25)
    nets = [net_of_columns(), net_of_columns()]
    options: dict[str, Any] = {"epochs": 1, "batch_size": 1000, "shuffle": False}
    nets[0].fit(x, y, **options)
    nets[1].fit(path, target="y", buffer_rows=50_000, **options)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_a_text_in_a_column_that_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b,y\n1,2,0\n4,?,1\n")
    with pytest.raises(TypeError, match=r"text, such as '\?' in column 'b'; encode it"):
        net_of_columns().fit(path, target="y")


def test_a_text_in_a_column_that_is_not_read_counts_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "no number,0.5,1e-3,0")
    table = pa.table(
        {"a": [*(np.arange(N_LONG) % 7), 0.5], "b": [*(np.arange(N_LONG) % 5), 1e-3]}
    )
    result = predict_arrow(net_of_columns(), path).read_all()["prediction"].to_numpy()
    assert np.array_equal(result, net_of_columns().predict(table)[:, 0])


def test_what_is_kept_stays_what_it_is(tmp_path: Path) -> None:
    ids = [2**53 + 1, 2**53 + 3]
    path = tmp_path / "a.csv"
    path.write_text(
        f"id,a,b,note,day\n{ids[0]},1,2,,2020-01-01\n{ids[1]},3,4,,2020-01-02\n"
    )
    predict_parquet(
        net_of_columns(), path, tmp_path / "out.parquet", keep=["id", "note", "day"]
    )
    result = pq.read_table(tmp_path / "out.parquet")
    assert result["id"].to_pylist() == ids
    kinds = [str(field.type) for field in result.schema]
    assert kinds == ["int64", "string", "date32[day]", "float"]
    # Nothing in the first megabyte, and a text later.
    path = written(tmp_path / "b.csv", "7,1,2,late", "id,a,b,note")
    text = re.sub(r",[01]\n", ",\n", path.read_text())
    path.write_text(text)
    notes = predict_arrow(net_of_columns(), path, keep="note").read_all()["note"]
    assert notes[-1].as_py() == "late"
    path = written(tmp_path / "c.csv", "7,1,2,0.5")
    message = f"line {LATE}, column 'y': invalid value '0.5', but its values are whole numbers"
    with pytest.raises(ValueError, match=re.escape(message)):
        predict_arrow(net_of_columns(), path, keep="y").read_all()


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_separators_are_named(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"a{mark}b{mark}y\n1{mark}2{mark}3\n")
    for call in CALLS.values():
        with pytest.raises(
            ValueError, match=re.escape(f"separated by {mark!r}, and must be by")
        ):
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
@pytest.mark.parametrize(
    "encoding", ["cp1252", "latin-1", "utf-16", "utf-16-le", "utf-8-sig"]
)
def test_a_file_in_another_encoding(end: str, encoding: str, tmp_path: Path) -> None:
    path = written_as(tmp_path / f"a{end}", encoding)
    kept = predict_arrow(
        net_of_two(), CSVFile(path, encoding), keep="größe"
    ).read_all()["größe"]
    assert {*kept.to_pylist()} == {"Bern", "Zürich"}


def test_fits_in_the_bits_of_utf_8(tmp_path: Path) -> None:
    """Files in cp1252, by pattern or by list, give one net and many the bits that
    UTF-8 files give.
    """
    rows = [f"{i % 7},{i % 5},{i % 3}" for i in range(50)]
    paths = [written_as(tmp_path / f"{name}.csv", "cp1252", rows) for name in "ab"]
    others = [written_as(tmp_path / f"{name}.8.csv", "utf-8", rows) for name in "ab"]
    options: dict[str, Any] = {"target": "y", "epochs": 2}
    expected = MLP((2, 3, 1), seed=0)
    expected.fit(others, **options)
    for source in (
        CSVFile(tmp_path / "?.csv", "cp1252"),
        [CSVFile(path, "cp1252") for path in paths],
    ):
        alone = MLP((2, 3, 1), seed=0)
        alone.fit(source, **options)
        of_many = MLP((2, 3, 1), seed=0)
        fit_many([of_many], source, **options)
        for net in (alone, of_many):
            assert net.parameters.tobytes() == expected.parameters.tobytes()
            assert net.feature_names == ("a", "größe")


def test_it_is_a_path() -> None:
    path = CSVFile(Path("a.csv"), encoding="cp1252")
    for one in (path, copy.deepcopy(path), pickle.loads(pickle.dumps(path))):
        assert (one, one.encoding) == ("a.csv", "cp1252")
        assert repr(one) == "CSVFile('a.csv', encoding='cp1252')"


@pytest.mark.parametrize("end", [".csv", ".csv.gz"])
@pytest.mark.parametrize(
    ("encoding", "rows", "header", "message"),
    [
        (
            "cp1252",
            ROWS,
            "a,town,y",
            "line 2, column 'town': the text is not utf-8: give its encoding, such as "
            "fastmlp.CSVFile(path, encoding='cp1252'), or --encoding cp1252 of the "
            "command",
        ),
        (
            "cp1252",
            ROWS,
            "a,größe,y",
            "the text is not utf-8 ('utf-8' codec can't decode byte",
        ),
        (
            "latin-1",
            ["1,\x81,0"],
            "a,town,y",
            "line 2, column 'town': the text is not utf-8: give",
        ),
        (
            "utf-16",
            ROWS,
            "a,town,y",
            "the text is not utf-8, but perhaps utf-16: give its",
        ),
        ("utf-16", ["1", "2"], "größe", "the text is not utf-8 ('utf-8' codec"),
        (
            "utf-32",
            ROWS,
            "a,town,y",
            "the text is not utf-8, but perhaps utf-16: give its",
        ),
        (
            "cp1252",
            ["1,Bern,0"] * N_LONG + ["2,Zürich,1"],
            "a,town,y",
            f"line {N_LONG + 2}, col",
        ),
    ],
)
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
        ("utf-16", "the text is not utf-16 ("),  # the reason is Python's
        (
            "utf-8-sig",
            "the text is not utf-8-sig ('utf-8' codec can't decode byte 0xfc",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(values)):
            predict_arrow(net_of_two(), CSVFile(path, encoding), keep="town").read_all()


def test_an_encoding_of_columns_that_are_not_read_does_not_matter(
    tmp_path: Path,
) -> None:
    path = written_as(tmp_path / "a.csv", "cp1252", header="a,town,y")
    assert predict_arrow(net_of_two(), path).read_all().num_rows == len(ROWS)
