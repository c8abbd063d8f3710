"""SIGKILL, Ctrl-C, cold starts leave whole files; memory does not grow with fits and files."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from fastmlp import MLP, Blocks
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

FIT_AND_BE_KILLED = """
import os, random, shutil, signal, sys, time
import numpy as np
from datetime import timedelta
from fastmlp import EMA, MLP, Adam, Blocks, Cosine
path, n_kills = sys.argv[1], int(sys.argv[2])
random.seed(0)
rng = np.random.default_rng(0)
X = rng.normal(size=(4000, 8)).astype(np.float32)
y = np.sin(X[:, 0])
validation = {"validation_split": 0.1}
in_buffers = {"validation_data": (X[:400], y[:400]), "buffer_rows": 1000}
SOURCES = [((X, y), validation), ((Blocks.from_arrays(X, y, rows=250),), in_buffers)]

def fit(rows, held_out, **options):
    optimizer = Adam(Cosine(0.01), average=EMA(0.9), global_clipnorm=0.5)
    rates = {"weights": 1.0, "biases": 0.5}
    net = MLP((8, 16, 1), optimizer=optimizer, layer_rates=rates, dropout=0.2, input_noise=0.1,
              l2=0.1, seed=0, n_threads=1)
    options = {**held_out, "metrics": {"mae": "mae"}, "early_stopping": 50, **options}
    history = net.fit(*rows, epochs=40, batch_size=16, **options)
    numbers = (history.loss, history.learning_rate, history.metrics, history.best_epoch)
    return net.parameters.tobytes() + repr(numbers).encode()

for source in SOURCES:
    expected = fit(*source)
    start = time.perf_counter()
    fit(*source, checkpoint=path, checkpoint_every=1)
    seconds = time.perf_counter() - start
    os.remove(path)
    kills = resumed = 0
    while kills < n_kills or resumed < n_kills // 2:
        process = os.fork()
        if process == 0:
            every = random.choice([1, 3, timedelta(0), timedelta(seconds=seconds / 20)])
            bits = fit(*source, checkpoint=path, checkpoint_every=every, resume=True)
            os._exit(bits != expected)
        random.random()  # what the child has drawn
        time.sleep(random.uniform(0, seconds / 3))
        os.kill(process, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert code in (0, -signal.SIGKILL), code
        kills += code != 0
        if os.path.exists(path):
            shutil.copy(path, path + ".copy")
            resumed += MLP.load(path).n_steps > 0
            assert fit(*source, checkpoint=path + ".copy", resume=True) == expected, "other bits"
        if code == 0:
            os.remove(path)
    if os.path.exists(path):
        os.remove(path)
    print(kills, resumed)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_file_is_always_whole(python: Callable[..., str], soak: bool, tmp_path: Path) -> None:
    n_kills = 500 if soak else 25
    changed = int(python(SAVE_IN_A_LOOP, tmp_path / "net.safetensors", n_kills, timeout=600))
    assert changed >= n_kills // 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.skipif(INTERPRETED, reason="hundreds of fits in plain Python")
def test_resumes_end_in_its_bits(python: Callable[..., str], soak: bool, tmp_path: Path) -> None:
    """Of arrays, and of a source in buffers."""
    n_kills = 50 if soak else 4
    printed = python(FIT_AND_BE_KILLED, tmp_path / "run.safetensors", n_kills, timeout=1200)
    of_sources = [tuple(map(int, line.split())) for line in printed.splitlines()]
    assert len(of_sources) == 2
    assert all(n >= n_kills and resumed >= n_kills // 2 for n, resumed in of_sources)


needs_a_new_process = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="each moment needs a process as new"
)
only_compiled_code = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="nothing is compiled"
)

# A moment is the entry of a function: of Numba's, of LLVM's callbacks, of imports, of finalizers.
# Numba is not imported before the fork.
INTERRUPT = """
import faulthandler, os, random, signal, sys, threading, warnings
import numpy as np
from fastmlp import MLP, Custom, Status
from fastmlp._process import locks as signals

n_moments, own_rule, seed = int(sys.argv[1]), sys.argv[2] == "own", int(sys.argv[3])
random.seed(seed)
X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = X[:, 0].copy()

def descend(w, g, m, v, rate):
    return w - rate * g, m, v

def work():
    net = MLP((3, 5, 1), seed=0, **({"optimizer": Custom(descend)} if own_rule else {}))
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
    with open(sys.argv[4], "wb") as file:
        file.write(line)

def told():
    with open(sys.argv[4], "rb") as file:
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

def empty():
    for folder, _, names in os.walk(os.environ["NUMBA_CACHE_DIR"]):
        for name in names:
            os.remove(os.path.join(folder, name))

assert "numba" not in sys.modules
assert forked(answer) == 0
expected = told()
if sys.argv[5] == "empty":
    empty()
assert forked(count) == 0
total, unheard = int(told()), 0
for _ in range(n_moments):
    moment = random.randrange(1, total)
    if sys.argv[5] == "empty":
        empty()
    code = forked(lambda: attempt(moment))
    assert code in (0, 1), (code, moment)
    unheard += code
print(unheard)
"""


@pytest.mark.slow
@needs_a_new_process
@only_compiled_code
@pytest.mark.parametrize(
    ("rule", "cache", "few", "many"),
    [("ours", "full", 5, 400), ("own", "full", 0, 100), ("ours", "empty", 0, 25)],
    ids=["code that is loaded", "a rule of a user's", "code that is compiled"],
)
def test_ctrl_c_at_any_moment_of_the_first_work(
    rule: str,
    cache: str,
    few: int,
    many: int,
    python: Callable[..., str],
    soak: bool,
    tmp_path: Path,
) -> None:
    n_moments = many if soak else few
    if not n_moments:
        pytest.skip("minutes: --soak")
    home = {"NUMBA_CACHE_DIR": str(tmp_path)} if cache == "empty" else {}
    words = (n_moments, rule, 0, tmp_path / "told", cache)
    unheard = int(python(INTERRUPT, *words, timeout=2400, **home))
    # What comes in a finalizer, or in a callback of an import's, Python itself drops.
    assert unheard <= n_moments // 5


# A folder is looked for by the environment of the first look, which each home has for itself.
HOMES = """
import os, sys
from numba import config
config.CACHE_DIR = ""
from fastmlp.compiler import cache
path = os.path.join(os.getcwd(), "no", "home")
homes = [
    {"HOME": "/proc", "XDG_CACHE_HOME": "/proc/1"},  # read-only
    {"HOME": path},  # not there
    {"HOME": sys.executable},  # a file
    {"HOME": "", "XDG_CACHE_HOME": ""},  # relative
]
for home in homes:
    os.environ.pop("XDG_CACHE_HOME", None)
    os.environ |= home
    print(cache.find()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
def test_a_home_of_any_kind_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(python(HOMES, FASTMLP_CACHE="1").splitlines()) == 4
    assert not (tmp_path / "~").exists()


NO_HOME = """
import os, sys
os.setgroups([])
os.setuid(54321)  # nobody's: no entry, hence no home
from fastmlp.compiler import cache
print(cache.folder())
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
def test_a_user_without_a_home_has_no_folder(tmp_path: Path, python: Any) -> None:
    if os.name != "posix" or os.getuid() != 0:
        pytest.skip("only root may become another user")
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    tmp_path.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", NO_HOME], env=variables, cwd=tmp_path, capture_output=True, text=True
    )
    if "Permission" in done.stderr or "No module named" in done.stderr:
        pytest.skip("another user may not read this installation")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "None"
    assert list(tmp_path.iterdir()) == []


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
def test_a_fit_takes_its_buffers(python: Callable[..., str], parquet: Path, n_rows: int) -> None:
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
