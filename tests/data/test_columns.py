"""Missing targets, of all readers and at all doors; names of columns in a net trained on them."""

import re
from collections.abc import Callable
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

from fastmlp import MLP, Blocks, fit_many

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
    "fit_many": lambda source, target: fit_many([net(target)], source, target=target, epochs=1),
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
        columns["z"], names = np.zeros(N), ["z", "y"]
    source = READERS[reader](pa.table(columns), tmp_path)
    # Of blocks of some rows the first that has one is told.
    rows = 7 if reader in ("parquet", "feather") else N
    n = int(np.count_nonzero(holes // rows == holes[0] // rows))
    first = f"line {holes[0] + 2}" if "csv" in reader else f"row {holes[0]}"
    message = (
        f"the target 'y' has {n} missing value{'s' * (n > 1)}, the first in {first}; fill them"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        DOORS[door](source, names)


@pytest.mark.parametrize("kind", ["NaN", "NaT", "NA"])
def test_what_pandas_calls_missing(kind: str) -> None:
    """NaN among fractions, NaT among dates and ``pd.NA`` among texts."""
    missing: Any = {"NaN": float("nan"), "NaT": pd.NaT, "NA": pd.NA}[kind]
    there: Any = {"NaN": 1.5, "NaT": pd.Timestamp("2026-01-01"), "NA": "x"}[kind]
    frame = pd.DataFrame({"a": [0.0, 1.0, 2.0], "y": [there, there, missing]})
    with pytest.raises(ValueError, match=r"'y' has 1 missing value, the first in row 2; fill"):
        DOORS["MLP"](frame, "y")


def test_nan_of_arrow_and_of_polars_is_missing() -> None:
    """Not a null, but no number either."""
    columns = {"a": [0.0, 1.0], "y": [0.5, float("nan")]}
    for source in (pa.table(columns), pl.DataFrame(columns)):
        with pytest.raises(ValueError, match=r"'y' has 1 missing value, the first in row 1; fill"):
            DOORS["MLP"](source, "y")


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
    with pytest.raises(ValueError, match=r"^batch 2 of .*b.feather: .* first in row 140001;"):
        net("y").fit(tmp_path / "b.feather", target="y", epochs=1, buffer_rows=50_000)
    pq.write_table(whole, tmp_path / "b.parquet", row_group_size=100_000)
    blocks = Blocks.from_parquet(tmp_path / "b.parquet", target="y", rows=30_000)
    with pytest.raises(ValueError, match=r"^row group 1 of .*b.parquet: .* first in row 140001;"):
        net("y").fit(blocks, epochs=1, buffer_rows=50_000)
    with pytest.raises(ValueError, match=r"^rows 131072 to 149999: .* first in row 140001;"):
        net("y").fit(whole, target="y", epochs=1)


def test_words_for_missing_values_in_csv(tmp_path: Path) -> None:
    """They are those of numbers, as of pandas' reader."""
    for word in ("", '""', "NA", "NaN", "null", "#N/A"):
        (tmp_path / "a.csv").write_text(f"a,y\n1,0\n2,1\n3,{word}\n")
        assert pd.read_csv(tmp_path / "a.csv")["y"].isna().tolist() == [False, False, True]
        with pytest.raises(ValueError, match="'y' has 1 missing value, the first in line 4; fill"):
            DOORS["MLP"](tmp_path / "a.csv", "y")


rng = np.random.default_rng(0)
TABLE = pa.table({name: rng.standard_normal(120) for name in "abcy"})
OTHER = TABLE.select(["y", "c", "a", "b"])
X, Y = np.column_stack([TABLE[name] for name in "abc"]), np.asarray(TABLE["y"])


def files(folder: Path, table: Any) -> dict[str, Any]:
    """Return what a fit takes with a target, in several forms."""
    pyarrow.parquet.write_table(table, folder / "rows.parquet", row_group_size=50)
    pyarrow.feather.write_feather(table, folder / "rows.arrow", compression="uncompressed")
    pyarrow.csv.write_csv(table, folder / "rows.csv")
    return {
        "arrow": table,
        "pandas": table.to_pandas(),
        "polars": pl.from_arrow(table),
        "a data set": pyarrow.dataset.dataset(table),
        "parquet": folder / "rows.parquet",
        "an Arrow file": folder / "rows.arrow",
        "csv": folder / "rows.csv",
    }


def test_names_are_kept_and_columns_found_by_them(tmp_path: Path) -> None:
    alone = MLP((3, 4, 1), seed=0)
    alone.fit(X, Y, epochs=1)
    middle = alone.parameters.copy()
    alone.fit(X, Y, epochs=1)
    (tmp_path / "other").mkdir()
    forms, others = files(tmp_path, TABLE), files(tmp_path / "other", OTHER)
    for form in forms:
        net = MLP((3, 4, 1), seed=0)
        net.fit(forms[form], target="y", epochs=1, validation_data=others[form])
        assert net.feature_names == ("a", "b", "c"), form
        assert net.parameters.tobytes() == middle.tobytes(), form
        net.fit(others[form], target="y", epochs=1)
        assert net.parameters.tobytes() == alone.parameters.tobytes(), form
        assert net.predict(OTHER).tobytes() == alone.predict(X).tobytes(), form


def test_blocks_have_names(tmp_path: Path) -> None:
    path = files(tmp_path, TABLE)["parquet"]
    for blocks in (Blocks.from_parquet(path, target="y"), Blocks.from_arrow(TABLE, target="y")):
        net = MLP((3, 1), seed=0)
        net.fit(blocks, epochs=1)
        assert net.feature_names == blocks.feature_names == ("a", "b", "c")
        words = "the source has the columns c, a, b, but the net's feature_names are a, b, c: read"
        with pytest.raises(ValueError, match=f"^MLP.fit: {words}"):
            net.fit(Blocks.from_arrow(OTHER, target="y"), epochs=1)
        with pytest.raises(ValueError, match=f"^MLP.fit: validation_data: {words}"):
            net.fit(blocks, epochs=1, validation_data=Blocks.from_arrow(OTHER, target="y"))
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
    with pytest.raises(ValueError, match=r"there is no column 'c', did you mean 'C'\? known: 'C',"):
        net.fit(pd.DataFrame({"C": Y, "a": Y, "y": Y}), target="y", epochs=1)
