"""Names of columns: of Arrow tables and files, in a net that is trained on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest

from fastmlp import MLP, Blocks, fit_many

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
