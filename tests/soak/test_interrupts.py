"""Ctrl-C at any moment of a process's first work, while code is loaded or compiled.

The process goes on, the next fit has the same bits, and no lock is left taken.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numba
import pytest

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="each moment needs a process as new"),
    pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled"),
]

# A moment is the entry of a function: of Numba's, of LLVM's callbacks, of imports, of finalizers.
# Numba is not imported before the fork.
INTERRUPT = """
import faulthandler, os, random, signal, sys, threading, warnings
import numpy as np
from fastmlp import MLP, Custom, Status
from fastmlp._process import signals

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


@pytest.mark.parametrize(
    ("rule", "cache", "few", "many"),
    [("ours", "full", 8, 400), ("own", "full", 0, 100), ("ours", "empty", 0, 25)],
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
