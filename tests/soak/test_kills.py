"""SIGKILL at random moments: files stay whole, and fits end in the same bits."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmlp.compiler.jit import INTERPRETED

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

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
path, n_kills, rows_of = sys.argv[1], int(sys.argv[2]), sys.argv[3]
random.seed(0)
rng = np.random.default_rng(0)
X = rng.normal(size=(4000, 8)).astype(np.float32)
y = np.sin(X[:, 0])
# Of a source, in buffers, and of arrays.
rows, held_rows = (X, y), {"validation_split": 0.1}
if rows_of == "blocks":
    rows, held_rows = (Blocks.from_arrays(X, y, rows=250),), {"validation_data": (X[:400], y[:400])}
    held_rows["buffer_rows"] = 1000

def fit(**options):
    optimizer = Adam(Cosine(0.01), average=EMA(0.9), global_clipnorm=0.5)
    rates = {"weights": 1.0, "biases": 0.5}
    its = {"optimizer": optimizer, "layer_rates": rates, "dropout": 0.2, "input_noise": 0.1}
    net = MLP((8, 16, 1), l2=0.1, seed=0, n_threads=1, **its)
    held = {**held_rows, "metrics": {"mae": "mae"}, "early_stopping": 50}
    history = net.fit(*rows, epochs=60, batch_size=16, **held, **options)
    told = (history.loss, history.learning_rate, history.metrics, history.best_epoch)
    return net.parameters.tobytes() + repr(told).encode()

expected = fit()
start = time.perf_counter()
fit(checkpoint=path, checkpoint_every=1)
seconds = time.perf_counter() - start
os.remove(path)
kills = resumed = 0
while kills < n_kills or resumed < n_kills // 2:
    process = os.fork()
    if process == 0:
        every = random.choice([1, 3, timedelta(0), timedelta(seconds=seconds / 20)])
        os._exit(fit(checkpoint=path, checkpoint_every=every, resume=True) != expected)
    random.random()  # what the child has drawn
    time.sleep(random.uniform(0, seconds / 3))
    os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    kills += code != 0
    if os.path.exists(path):
        shutil.copy(path, path + ".copy")
        resumed += MLP.load(path).n_steps > 0
        assert fit(checkpoint=path + ".copy", resume=True) == expected, "other bits"
    if code == 0:
        os.remove(path)
print(kills, resumed)
"""


def test_a_file_is_always_whole(python: Callable[..., str], soak: bool, tmp_path: Path) -> None:
    n_kills = 500 if soak else 25
    changed = int(python(SAVE_IN_A_LOOP, tmp_path / "net.safetensors", n_kills, timeout=600))
    assert changed >= n_kills // 2


@pytest.mark.skipif(INTERPRETED, reason="hundreds of fits in plain Python")
@pytest.mark.parametrize("rows", ["arrays", "blocks"])
def test_every_resume_ends_in_the_same_bits(
    python: Callable[..., str], soak: bool, tmp_path: Path, rows: str
) -> None:
    n_kills = 50 if soak else 4
    told = python(FIT_AND_BE_KILLED, tmp_path / "run.safetensors", n_kills, rows, timeout=600)
    kills, resumed = map(int, told.split())
    assert kills >= n_kills
    assert resumed >= n_kills // 2
