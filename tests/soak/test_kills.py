"""SIGKILL, Ctrl-C and cold starts at any moment: files stay whole, fits end in the same bits."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest

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
def test_every_resume_ends_in_the_same_bits(
    python: Callable[..., str], soak: bool, tmp_path: Path
) -> None:
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
