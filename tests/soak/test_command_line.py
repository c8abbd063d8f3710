"""CSV larger than the memory that the commands take: 0.2 million rows, with --soak 30, 4 GB."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmlp.compiler.jit import INTERPRETED

COMMANDS = """
import os, sys
import numpy as np, pyarrow as pa, pyarrow.csv, pyarrow.parquet
from fastmlp import MLP
from fastmlp.cli.main import main
from peak_memory import peak_of_process

n_parts, part = int(sys.argv[1]), 100_000
rng = np.random.default_rng(0)
with open("rows.csv", "wb") as file:
    for k in range(n_parts):
        X = rng.standard_normal((10, part), np.float32)
        columns = {f"x{j}": X[j] for j in range(10)}
        columns["town"] = rng.choice(["Bern", "Chur"], part)
        columns["id"] = [f"row {k * part + i}" for i in range(part)]
        columns["y"] = (X[0] * X[1] > 0).astype(int)
        how = pyarrow.csv.WriteOptions(include_header=not k)
        pyarrow.csv.write_csv(pa.table(columns), file, how)
MLP((2, 1), seed=0).fit(np.zeros((64, 2)), np.zeros(64), epochs=1)
before = peak_of_process()
fit = "--epochs 2 --hidden 16 --batch-size 256 --buffer-rows 50000 --valid 0.01 --quiet --json"
fit += " --model plain"
codes = [
    main(["train", "rows.csv", "--target", "y", *fit.split()]),
    main("predict model.safetensors rows.csv --keep id --output out.parquet".split()),
]
grown = peak_of_process() - before
rows = pyarrow.parquet.ParquetFile("out.parquet").metadata.num_rows
print(*codes, rows, grown, os.path.getsize("rows.csv"))
"""


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
def test_a_csv_larger_than_memory_is_trained_on_and_predicted(
    python: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soak: bool
) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("there is no /proc")
    monkeypatch.chdir(tmp_path)
    n_parts = 300 if soak else 2
    scores, told = python(COMMANDS, n_parts, timeout=1500).splitlines()
    *done, grown, size = map(int, told.split())
    assert done == [0, 0, n_parts * 100_000]
    assert "accuracy" in scores
    assert grown < 200e6
    assert size > 1e9 or not soak
