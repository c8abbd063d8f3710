"""Hostile model files: each is a net or a FileError, soon, and in little memory."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_files import write_all, write_bombs

from fastmlp.compiler.jit import INTERPRETED

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.safetensors"))
FULL = 160_000

LOAD_ALL = """
import resource, signal, sys, time, warnings
from pathlib import Path
import numpy as np
import fastmlp
from fastmlp import MLP, FileError
from hostile_files import CHECKPOINT, resumed
from hostile_files import mutated
from fitting import peak_of_process
path, n, stride, n_bombs = Path(sys.argv[1]), *map(int, sys.argv[2:5])
files = [Path(each) for each in sys.argv[5:]]
corpus, bombs = files[n_bombs:], files[:n_bombs]
warnings.simplefilter("ignore")
raws = [each.read_bytes() for each in corpus]

def nets_of(model):
    for name in ("net", "estimators_", "members_", "best_estimator_"):
        if hasattr(model, name):
            inner = getattr(model, name)
            each = inner if isinstance(inner, list | tuple) else [inner]
            return [net for one in each for net in nets_of(one)]
    return [] if hasattr(model, "cv_results_") else [model]  # a search without a best estimator

def weights_of(net):
    return [*net.weights, *net.biases] if isinstance(net, MLP) else net.coefs_ + net.intercepts_

def used(model):
    \"\"\"Predict, as far as a model has few inputs.\"\"\"
    if hasattr(model, "schema_"):
        schema = model.schema_
        model.learning_curves_, model.weights_, model.summary()
        rows = [[schema.levels[each][0] if each in schema.levels
                 else None if each in schema.dates else 1.0
                 for each in schema.columns], [None] * len(schema.columns)]
        if not any(isinstance(each, bool) for each in rows[0]):
            model.predict(rows)
    elif nets := nets_of(model):
        net = nets[0]
        n_inputs = len(weights_of(net)[0])
        if n_inputs < 100:
            model.predict(np.ones((1, n_inputs)))
    repr(model)

def opened(path, checkpoint):
    if not checkpoint:
        return fastmlp.load(path)
    try:
        return resumed(path)
    except ValueError as error:
        if "of another fit" not in str(error):
            raise
        raise FileError(str(error)) from error

for each in corpus:
    used(fastmlp.load(each))
path.write_bytes((corpus[-1]).read_bytes())
used(opened(path, True))

before = peak_of_process()
pages = int(Path("/proc/self/statm").read_text().split()[0])
space = pages * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (space, space))
models = refused = 0
slowest = 0.0

def drill(raw, name, checkpoint=False):
    global models, refused, slowest
    path.write_bytes(raw)
    signal.setitimer(signal.ITIMER_PROF, 20)  # of the processor's time: others may pause this
    start = time.process_time()
    try:
        model = opened(path, checkpoint)
    except FileError as error:
        refused += 1
        assert not isinstance(error.__cause__, MemoryError), name
    else:
        models += 1
        weights = [w for net in nets_of(model) for w in weights_of(net)]
        assert all(np.isfinite(w).all() for w in weights)
        assert checkpoint or sum(w.size for w in weights) < len(raw)
        used(model)
    slowest = max(slowest, time.process_time() - start)

for file, raw in zip(corpus, raws):
    for size in range(0, min(len(raw), 10_000), stride):
        drill(raw[:size], f"{file.name} of {size} bytes")
    for number in range(n // len(raws)):
        name = f"{file.name} {number}"
        try:
            drill(mutated(raw, number), name, file.name == CHECKPOINT and number % 8 > 3)
        except Exception as error:
            raise AssertionError(name) from error
growth, slowest_mutant = peak_of_process() - before, slowest
for file in bombs:
    drill(file.read_bytes(), file.name)
print(models, refused, growth, slowest_mutant, peak_of_process() - before, slowest)
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
@pytest.mark.parametrize("n", [1_000, pytest.param(20_000, marks=pytest.mark.nightly)])
def test_mutated_files_load_or_fail(
    n: int, python: Callable[..., str], soak: bool, tmp_path: Path
) -> None:
    kinds = write_all(tmp_path)
    bombs = write_bombs(tmp_path)
    n = FULL if soak else n
    arguments = (
        tmp_path / "model",
        n,
        1 if soak else 600,
        len(bombs),
        *bombs,
        *GOLDEN,
        *kinds,
    )
    printed = python(LOAD_ALL, *arguments, timeout=3600)
    models, refused, growth, slowest, growth_of_bombs, slowest_bomb = map(
        float, printed.split()
    )
    n = n // len(GOLDEN + kinds) * len(GOLDEN + kinds)
    assert models + refused > n
    assert models > n // 100
    assert refused > n // 3
    # 82 MB for 20,000 mutants.
    assert growth < (64e6 if n <= 2_000 else 160e6)
    assert slowest < 10
    # Headers of up to 4 MB take up to forty times as much.
    assert growth_of_bombs < 160e6
    assert slowest_bomb < 10
