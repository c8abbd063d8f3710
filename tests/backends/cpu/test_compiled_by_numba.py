"""Kernels that Numba compiles whole,
its threads in place of a team: the translator's bits.
"""

import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import pytest
from conditions import only_compiled

from fastmlp.backends.cpu import limits
from fastmlp.compiler import COMPILER

pytestmark = only_compiled
Python = Callable[..., str]
# Compiled for half a minute each: what teams share in one dtype,
# single rows in the other, and each of the other forms of a step in one of them.
NETS = [("float32", "teams"), ("float64", "rows")]

# Each line: which net, its dtype, on how many threads, and a digest of what came of it.
DIGESTS = """
import hashlib
import sys
import numpy as np
from nets import Net, orders, train
from fastmlp.backends.cpu import trainer
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.predict.predictor import Prediction
from fastmlp.backends.cpu.kernels.first_layer import SparseRows
from fastmlp.validation.expanded import Expanded
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu import limits, worker_pool
from fastmlp.rules.optimizers import (OPTIMIZERS)

inner, threads, teams, sessions, Session = worker_pool.run, 1, set(), [], trainer.Session


def run(driver, job, wanted, *how, **options):
    done = inner(driver, job, threads, *how, **options)
    teams.add(bool(job["team"]))
    return done


def session(*arguments, **options):
    sessions.append(Session(*arguments, **options))
    return sessions[-1]


worker_pool.run, trainer.Session = run, session
limits.thread_limit = lambda: 2


def say(*what):
    print(*what, flush=True)


def draw(net, n_rows, weighted=False):
    parameters, data = net.draw(np.random.default_rng(0), n_rows, weighted=weighted)
    return np.asarray(parameters * 0.3, net.dtype), data


def fit(name, sizes, dtype, n_rows, batch, optimizer="adam", *, epochs=1, form="dense", **rules):
    net = Net(sizes, dtype=dtype, **rules)
    parameters, data = draw(net, n_rows, weighted=not name.startswith("single"))
    if form == "expanded":
        full = np.clip(data.x[:, :4] + 1, 0, 2).astype(dtype)
        full[:, 2:] = full[:, 2:] > 1
        data = data._replace(x=Expanded(full, plain=1, pieces=[sizes[0] - 5], levels=[2, 2]))
    elif form == "sparse":
        full = data.x
        full[np.random.default_rng(2).random(full.shape) < 0.8] = 0
        rows, columns = np.nonzero(full)
        starts = np.append(0, np.cumsum((full != 0).sum(axis=1)))
        x = SparseRows(full[rows, columns], columns, starts, sizes[0])
        data = data._replace(x=x)
    order = orders(np.random.default_rng(1), epochs, n_rows)
    trainer.TRAININGS.clear()
    done = train(
        net, parameters, data, OPTIMIZERS[optimizer](0.01), order, batch, n_threads=threads
    )
    found = [done.parameters, done.moments, done.losses]
    engine = Engine(net.network, 1)
    engine.n_threads = threads
    value, gradient = engine.loss_and_gradient(parameters, data)
    found += [np.array([value, engine.loss(parameters, data)]), gradient]
    assert all(np.isfinite(one).all() for one in found)
    say(name, dtype, threads, hashlib.sha256(b"".join(a.tobytes() for a in found)).hexdigest())


def predictions(sizes, dtype):
    net = Net(sizes, "relu", dtype=dtype)
    parameters, data = draw(net, 20_000)
    engine = Engine(net.network, 1)
    engine.n_threads = threads
    by_panels = Prediction(engine, net.network)
    for n_rows in (1, 32, 1000, 20_000):
        out, panels = np.empty((2, n_rows, sizes[-1]), dtype)
        engine.predict(parameters, data.x[:n_rows], out)
        by_panels(parameters, data.x[:n_rows], panels)
        assert np.isfinite(out).all() and np.array_equal(out, panels)
        say(f"predict{n_rows}", dtype, threads, hashlib.sha256(out.tobytes()).hexdigest())


def form():
    net, session = sessions[-1].net, sessions[-1]
    return int(net["split_layer"]), bool(net["by_panels"]), session.partition.microbatch_rows > 0


dtype, what = sys.argv[1:]
l2 = {"penalties": {"l2": 0.1, "l1": 0.1}}
pays, split_of = partition.panels_pay, partition.split_layer_of
for threads in (1, 2):
    teams.clear()
    fit("net", (17, 40, 23, 3), dtype, 130, 70, epochs=2, loss="cross_entropy", **l2)
    if what == "teams":
        fit("sparse", (40, 20, 3), dtype, 130, 70, form="sparse")
        predictions((16, 64, 64, 2), dtype)
        partition.split_layer_of = lambda step: 1
        fit("split-k", (64, 64, 10), dtype, 64, 64)
        assert form()[0] == 1
        partition.split_layer_of = lambda step: 2
        fit("split-k-2", (64, 64, 64, 10), dtype, 64, 64)
        assert form()[0] == 2
        partition.split_layer_of = split_of
        partition.panels_pay = lambda *sizes: True
        fit("panels", (784, 512, 512, 10), dtype, 128, 128, activation="relu")
        assert form()[1] == (threads == 2)
        partition.panels_pay = pays
    else:
        fit("expanded", (40, 20, 3), dtype, 130, 70, form="expanded")
        fit("microbatches", (4, 32, 16, 4), dtype, 10_000, 10_000, activation="relu")
        assert form()[2]
        if threads == 2:
            say("ran", *(int(it.outputs.any()) for it in sessions[-1]._replicas._workspaces))
        fit("single", (5, 19, 20), dtype, 40, 1, "sgd", activation="relu")
        fit("single-adam", (5, 19, 20), dtype, 40, 1)
    say("teams", threads, *teams)
"""

# Which threads run the parts of a loop, in this process and in a child that it forks.
THREADS = """
import os
import warnings
import numpy as np
from fastmlp.backends.cpu.plan.records import Job
from fastmlp.backends.cpu import limits, worker_pool
from fastmlp.compiler import block_of, njit, prange, thread_number
from fastmlp.compiler.memory import record_at, row

warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads
limits.thread_limit = lambda: 2


@njit
def write(place, number):
    row(place, 1, np.int64)[0] = number


@njit(parallel=True)
def number_parts(team, seen, n):
    for i in prange(n):
        # By a function: Numba drops what a loop writes to a view that it makes itself.
        write(seen + np.int64(i) * 8, thread_number() + 1)


def numbering(scalar):
    def number(address):
        job = record_at(address, Job)
        number_parts(job.team, job.order, job.n_rows)

    return number


def seen(n):
    job, numbers = np.zeros(1, Job.dtype), np.zeros(64, np.int64)
    job["order"], job["n_rows"] = numbers.ctypes.data, len(numbers)
    worker_pool.run(block_of(numbering, np.int64), job, n)
    team, n_parts = int(job["team"][0]), int(job["n_parts"][0])
    return team, n_parts, sorted({int(one) for one in numbers})


def say():
    print(limits.threading_layer(), seen(1), seen(2), sep="; ", flush=True)


say()
if hasattr(os, "fork"):
    process = os.fork()
    if process == 0:
        say()
        os._exit(0)
    assert os.waitpid(process, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.few(1)
@pytest.mark.skipif(
    COMPILER != "numba" or bool(numba.config.BOUNDSCHECK),
    reason="it compiles for a minute: the gate runs it with FASTMLP_COMPILER=numba",
)
# Numba compiles all kernels anew: 140 to 190 s for both nets.
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("dtype", "what"), NETS)
def test_kernels_have_the_bits_of_the_translator(
    dtype: str, what: str, python: Python
) -> None:
    def lines_by(compiler: str) -> list[list[str]]:
        options = {"FASTMLP_COMPILER": compiler, "NUMBA_NUM_THREADS": "2"}
        text = python(DIGESTS, dtype, what, timeout=1500, **options)
        return [line.split() for line in text.splitlines()]

    with ThreadPoolExecutor(2) as pool:
        of_numba, of_translator = pool.map(lines_by, ["numba", "translator"])
    bits: dict[str, set[str]] = {}
    layer = limits.threading_layer()
    for lines, safe in ((of_numba, layer != "workqueue"), (of_translator, True)):
        for name, _, _, digest in (line for line in lines if len(line[-1]) == 64):
            bits.setdefault(name, set()).add(digest)
        assert ["teams", "1", "False"] in lines
        assert ["teams", "2", str(safe)] in lines
    # Each thread has taken microbatches through its own buffers.
    # Elsewhere one may take all.
    if layer == "omp" and what == "rows":
        assert ["ran", "1", "1"] in of_numba
    assert len(bits) == {"teams": 5 + 4, "rows": 5}[what]
    assert {name: len(result) for name, result in bits.items() if len(result) > 1} == {}


def present(layer: str) -> bool:
    return importlib.util.find_spec(f"numba.np.ufunc.{limits.POOLS[layer]}") is not None


ON = "(1, 2, [1, 2])"
OFF = "(0, 1, [1])"


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_parts_run_on_numbas_threads_where_that_is_safe(
    layer: str, python: Python
) -> None:
    if not present(layer):
        pytest.skip("this Numba has no such layer")
    options = {"NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": layer}
    printed = python(THREADS, FASTMLP_COMPILER="numba", **options).splitlines()
    alone = f"{layer}; {OFF}; {OFF}"
    shared = f"{layer}; {OFF}; {ON}"
    # In a child GNU OpenMP would end the process, and workqueue where two threads meet.
    assert printed == [shared if layer == "omp" else alone] + [alone] * hasattr(
        os, "fork"
    )
