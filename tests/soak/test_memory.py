"""Many fits, and files larger than the memory that they are given: it does not grow."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastmlp import MLP, Blocks
from fastmlp.compiler.jit import INTERPRETED

FIT_ON = """
import gc, os, sys
import numpy as np
from fastmlp import MLP
n_fits = int(sys.argv[1])
rng = np.random.default_rng(0)
X = rng.normal(size=(64, 16)).astype(np.float32)
y = rng.normal(size=64)

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def fit(i):
    net = MLP((16, 32, 1), optimizer=["adam", "sgd"][i % 2], seed=i)
    net.fit(X, y, epochs=3, batch_size=16, validation_data=(X, y), callbacks=lambda report: None)
    net.predict(X)
    net.predict(X[:1])
    net.loss_and_gradient(X, y)

for i in range(100):
    fit(i)
before = resident()
for i in range(n_fits - 100):
    fit(i)
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="hundreds of fits in plain Python")
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_does_not_grow(python: Callable[..., str], soak: bool) -> None:
    assert int(python(FIT_ON, 2_000 if soak else 400, timeout=600)) < 5_000_000


# Rows of a row group: 2.1 MB.
GROUP = 25_000
# Lets the address space grow by so many bytes, and tells by how many the memory in use has grown.
LIMIT = """
import resource, sys
from pathlib import Path
from fastmlp import MLP, Blocks, predict_parquet
from memory_use import peak_of_process

def bounded(most):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + most,) * 2)
    return peak_of_process()

source = Blocks.from_parquet(sys.argv[1], target="y")
"""
FIT = f"""{LIMIT}
MLP((20, 4, 1), seed=0).fit(*source.read(0), epochs=1, batch_size=256)
before = bounded(500_000_000)
net = MLP((20, 16, 1), seed=0)
history = net.fit(source, epochs=2, batch_size=256, buffer_rows=100_000)
grown = peak_of_process() - before
print(net.n_steps, grown, history.loss[1] < history.loss[0])
"""
PREDICT = f"""{LIMIT}
net = MLP((20, 16, 1), seed=0)
net.predict(source.read(0)[0])
before = bounded(500_000_000)
n = predict_parquet(net, sys.argv[1], sys.argv[2], keep="y")
print(n, peak_of_process() - before)
"""


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    if not sys.platform.startswith("linux"):
        pytest.skip("there is no /proc")
    arrow = pytest.importorskip("pyarrow", reason="it writes the file")
    from pyarrow.parquet import ParquetWriter

    path = tmp_path_factory.mktemp("sources") / "rows.parquet"
    rng = np.random.default_rng(0)
    schema = arrow.schema(
        [(name, arrow.float32()) for name in [*(f"x{j}" for j in range(20)), "y"]]
    )
    with ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for _ in range(1600 if request.config.getoption("--soak") else 64):
            X = rng.standard_normal((20, GROUP), np.float32)
            file.write_table(arrow.table([*X, X[0] * X[1]], schema=schema), row_group_size=GROUP)
    return path


@pytest.fixture(scope="module")
def n_rows(parquet: Path) -> int:
    return sum(Blocks.from_parquet(parquet, target="y").block_sizes)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
def test_a_fit_takes_the_memory_of_its_buffers(
    python: Callable[..., str], parquet: Path, n_rows: int
) -> None:
    steps, grown, learns = python(FIT, parquet, timeout=500).split()
    assert int(steps) == 2 * -(-n_rows // 256)
    # Two buffers of 8.4 MB, and what pyarrow reads: 30 MB; the file has 134 MB and more.
    assert int(grown) < 60e6
    assert learns == "True"


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
def test_predictions_of_a_file_take_the_memory_of_a_batch(
    python: Callable[..., str], parquet: Path, n_rows: int, tmp_path: Path
) -> None:
    import pyarrow.parquet

    path = tmp_path / "predictions.parquet"
    n, grown = python(PREDICT, parquet, path, timeout=500).split()
    assert int(n) == n_rows
    assert int(grown) < 100e6  # 57
    # Its last rows, beside those that are predicted in memory.
    X, y, *_ = Blocks.from_parquet(parquet, target="y").read(n_rows // GROUP - 1)
    with pyarrow.parquet.ParquetFile(path) as file:
        last = file.read_row_group(file.num_row_groups - 1)
    n_last = min(last.num_rows, GROUP)
    last, tail = last.slice(last.num_rows - n_last), slice(GROUP - n_last, GROUP)
    assert last["y"].to_numpy().tobytes() == np.asarray(y)[tail].tobytes()
    expected = MLP((20, 16, 1), seed=0).predict(X).reshape(-1)[tail]
    np.testing.assert_allclose(last["prediction"].to_numpy(), expected, rtol=1e-5, atol=1e-6)


COMMANDS = """
import os, sys
import numpy as np, pyarrow as pa, pyarrow.csv, pyarrow.parquet
from fastmlp import MLP
from fastmlp._process import memory
from fastmlp.cli.main import main
from memory_use import peak_of_process

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
# As if 80 MB were free: of the columns 5 MB fit.
memory.available = lambda: 80_000_000
codes = [
    main("train rows.csv --target y --preset fast --epochs 1 --json".split()),
    main("predict model.safetensors rows.csv --keep id --output out.parquet".split()),
]
grown = peak_of_process() - before
rows = pyarrow.parquet.ParquetFile("out.parquet").metadata.num_rows
print(*codes, rows, grown, os.path.getsize("rows.csv"))
"""


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
def test_a_csv_larger_than_memory_is_trained_on_and_predicted(
    python: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soak: bool
) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("there is no /proc")
    monkeypatch.chdir(tmp_path)
    n_parts = 300 if soak else 1
    scores, printed = python(COMMANDS, n_parts, timeout=1500).splitlines()
    *done, grown, size = map(int, printed.split())
    assert done == [0, 0, n_parts * 100_000]
    assert "accuracy" in scores
    assert grown < 250e6  # of 13 MB of CSV 164, of 527 MB 204
    assert size > 1e9 or not soak
