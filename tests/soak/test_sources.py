"""A file of Parquet larger than the memory that a fit takes: 4 million rows, with --soak 40."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fastmlp.compiler.jit import INTERPRETED

FIT = """
import resource, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from fastmlp import MLP, Blocks

path, n_groups, group = sys.argv[1], int(sys.argv[2]), 100_000
rng = np.random.default_rng(0)
names = [f"x{j}" for j in range(20)]
schema = pa.schema([(name, pa.float32()) for name in [*names, "y"]])
with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
    for _ in range(n_groups):
        X = rng.standard_normal((20, group), np.float32)
        file.write_table(pa.table([*X, X[0] * X[1]], schema=schema), row_group_size=group)

source = Blocks.from_parquet(path, target="y")
MLP((20, 4, 1), seed=0).fit(*source.read(0), epochs=1, batch_size=256)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
net = MLP((20, 16, 1), seed=0)
history = net.fit(source, epochs=2, batch_size=256, buffer_rows=500_000)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(net.n_steps, grown * 1024, history.loss[1] < history.loss[0])
"""


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
def test_a_fit_takes_the_memory_of_its_buffers(
    python: Callable[..., str], tmp_path: Path, soak: bool
) -> None:
    pytest.importorskip("resource", reason="this system does not tell the memory of a process")
    pytest.importorskip("pyarrow", reason="it writes the file")
    n_groups, path = 400 if soak else 40, tmp_path / "rows.parquet"
    steps, grown, learns = python(FIT, path, n_groups, timeout=500).split()
    assert int(steps) == 2 * -(-n_groups * 100_000 // 256)
    # Two buffers of 42 MB, and what pyarrow reads: 8.4 MB a row group.
    assert int(grown) < 250e6
    assert learns == "True"
