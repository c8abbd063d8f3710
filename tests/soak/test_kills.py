"""SIGKILL, Ctrl-C, cold starts leave whole files;
memory does not grow with fits and files.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest

from fastmlp import Blocks
from fastmlp.compiler.jit import INTERPRETED

SAVE_IN_A_LOOP = """
import os, random, signal, sys, time
import numpy as np
from fastmlp import MLP
path, n_kills = sys.argv[1], int(sys.argv[2])
random.seed(0)
net = MLP((400, 400, 1), initializer="zeros", dtype="float64")
net.save(path)

def save_on(number, told):
    while True:
        number += 1
        net.parameters[:] = number
        net.save(path)
        os.write(told, b".")

last, changed = 0, 0
for i in range(n_kills):
    tells, told = os.pipe()
    process = os.fork()
    if process == 0:
        save_on(last, told)
    if i % 2:
        os.read(tells, 1)  # a file has been replaced, however busy the machine is
    time.sleep(random.uniform(0, 0.03))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(tells), os.close(told)
    parameters = MLP.load(path).parameters
    assert (parameters == parameters[0]).all(), "parts of two files"
    assert parameters[0] >= last, "older than one that was there"
    changed += parameters[0] > last
    last = int(parameters[0])
print(changed)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_file_is_always_whole(
    python: Callable[..., str], soak: bool, tmp_path: Path
) -> None:
    n_kills = 500 if soak else 25
    changed = int(
        python(SAVE_IN_A_LOOP, tmp_path / "net.safetensors", n_kills, timeout=600)
    )
    assert changed >= n_kills // 2


needs_a_new_process = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="each moment needs a process as new"
)
only_compiled_code = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="nothing is compiled"
)

# A moment is the entry of a function: of Numba's, of LLVM's callbacks,
# of imports, of finalizers. Numba is not imported before the fork.
INTERRUPT = """
import faulthandler, os, random, signal, sys, threading, warnings
import numpy as np
from fastmlp import MLP, Status
from fastmlp._process import locks as signals

n_moments = int(sys.argv[1])
random.seed(0)
X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = X[:, 0].copy()

def work():
    net = MLP((3, 5, 1), seed=0)
    history = net.fit(X, Y, epochs=2, batch_size=8)
    few = [net.predict(X[:1]).tobytes() for _ in range(3)]
    bits = net.parameters.tobytes() + b"".join(few) + net.predict(X).tobytes()
    return history.status, bits

def interrupted_at(moment):
    seen = 0
    def trace(frame, event, argument):
        nonlocal seen
        seen += 1
        if seen == moment:
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)
    sys.settrace(trace)
    try:
        heard = work()[0] is Status.INTERRUPTED
    except KeyboardInterrupt:
        heard = True
    finally:
        sys.settrace(None)
    return seen, heard

def forked(task):
    process = os.fork()
    if process == 0:
        warnings.simplefilter("ignore")
        signal.alarm(500)
        code = 99
        try:
            code = task()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def tell(line):
    with open(sys.argv[2], "wb") as file:
        file.write(line)

def told():
    with open(sys.argv[2], "rb") as file:
        return file.read()

def count():
    tell(str(interrupted_at(0)[0]).encode())
    return 0

def answer():
    tell(work()[1])
    return 0

def attempt(moment):
    _, heard = interrupted_at(moment)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    results = [work()[1]]
    thread = threading.Thread(target=lambda: results.append(work()[1]), daemon=True)
    thread.start()
    thread.join(300)
    if results != [expected] * 2:
        return 98
    return 0 if heard else 1

assert "numba" not in sys.modules
assert forked(answer) == 0
expected = told()
assert forked(count) == 0
total, unheard = int(told()), 0
for _ in range(n_moments):
    moment = random.randrange(1, total)
    code = forked(lambda: attempt(moment))
    assert code in (0, 1), (code, moment)
    unheard += code
print(unheard)
"""


@pytest.mark.slow
@needs_a_new_process
@only_compiled_code
def test_ctrl_c_at_any_moment_of_the_first_work(
    python: Callable[..., str], soak: bool, tmp_path: Path
) -> None:
    n_moments = 400 if soak else 5
    unheard = int(python(INTERRUPT, n_moments, tmp_path / "told", timeout=2400))
    # What comes in a finalizer, or in a callback of an import's, Python itself drops.
    assert unheard <= n_moments // 5


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
@pytest.mark.skipif(
    sys.platform != "linux", reason="resident memory is read from /proc"
)
def test_memory_does_not_grow(python: Callable[..., str], soak: bool) -> None:
    assert int(python(FIT_ON, 2_000 if soak else 400, timeout=600)) < 5_000_000


# Rows of a row group: 2.1 MB.
GROUP = 25_000
# Lets the address space grow by so many bytes,
# and tells by how many the memory in use has grown.
LIMIT = """
import resource, sys
from pathlib import Path
from fastmlp import MLP, Blocks, predict_parquet
from fitting import peak_of_process

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


@pytest.fixture(scope="module")
def parquet(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
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
            file.write_table(
                arrow.table([*X, X[0] * X[1]], schema=schema), row_group_size=GROUP
            )
    return path


@pytest.fixture(scope="module")
def n_rows(parquet: Path) -> int:
    return sum(Blocks.from_parquet(parquet, target="y").block_sizes)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
def test_a_fit_takes_its_buffers(
    python: Callable[..., str], parquet: Path, n_rows: int
) -> None:
    steps, grown, learns = python(FIT, parquet, timeout=500).split()
    assert int(steps) == 2 * -(-n_rows // 256)
    # Two buffers of 8.4 MB, and what pyarrow reads:
    # 30 MB; the file has 134 MB and more.
    assert int(grown) < 60e6
    assert learns == "True"


COMMANDS = """
import os, sys
import numpy as np, pyarrow as pa, pyarrow.csv, pyarrow.parquet
from fastmlp import MLP
from fastmlp._process import memory
from fastmlp.cli.main import main
from fitting import peak_of_process

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
    python: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    soak: bool,
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
