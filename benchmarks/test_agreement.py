"""All contestants do the same work:
ten steps from the same start end in the same place.
"""

from itertools import product
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_predict
from benchmarks.conftest import run_of
from benchmarks.peers import PEERS, trainers
from benchmarks.workloads import BY_NAME, WORKLOADS, Rule, Workload, flat, sized
from fastmlp import jit

LIMIT = 5e7
# Both dtypes are tried: nets that are there in float64, too, once.
ALL = [w for w in WORKLOADS if w.flops < LIMIT]
NAMES = {w.name for w in WORKLOADS}
SMALL = [w for w in ALL if not w.name.endswith("-f64")]
SMALL += [w for w in ALL if w.name.removesuffix("-f64") not in NAMES]
# Compiling takes some 20 s each: one workload of every rule and loss.
COMPILED = ["8-32-32-1@32", "784-100-100-10@200", "28-300x5-1@100", "100-512x3-1@256"]
TRAINERS = trainers("plain")
PEERS_WITH_VARIANTS = [name for name in TRAINERS if name not in ("fastmlp", "numpy")]
VARIANTS = [("numpy", 0), *product(PEERS_WITH_VARIANTS, range(4))]


def after_ten_steps(name: str, workload: Workload, variant: int) -> Any:
    run = run_of(name, workload, variant)
    run.steps(10)
    return run.parameters()


def differences(name: str, variant: int, workload: Workload, dtype: str) -> Any:
    """Sizes of the differences of all parameters between a contestant and fastmlp."""
    short = sized(workload, not workload.shuffle)
    n_rows = short.batch
    if short.shuffle:
        n_rows = 10 * short.batch
    short = short._replace(n_rows=n_rows, dtype=dtype)
    theirs = after_ten_steps(name, short, variant)
    return np.abs(theirs - after_ten_steps("fastmlp", short, 0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("workload", SMALL, ids=lambda w: w.name)
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_ten_steps(name: str, variant: int, workload: Workload, dtype: str) -> None:
    if name == "compile" and workload.name not in COMPILED:
        pytest.skip("takes long to compile")
    error = differences(name, variant, workload, dtype)
    most = np.quantile(error, 0.99)
    title = f"{PEERS[name].title}, {workload.name}, {dtype}"
    print(f"{title}: {error.max():.1e}, 99 % {most:.1e}")
    # In float32 Adam makes whole steps, of either sign,
    # of a gradient that is rounding noise.
    assert most < 3e-4
    if dtype == "float64":
        # scikit-learn has its epsilon at another place.
        limit = 2e-3 if name == "sklearn" else 1e-9
        assert error.max() < limit


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n_epochs", [1, 2])
@pytest.mark.parametrize("variant", range(4))
@pytest.mark.parametrize("name", TRAINERS)
def test_an_epoch_takes_each_row_once(name: str, variant: int, n_epochs: int) -> None:
    """At a small rate the order hardly counts:
    what is timed ends where ordered steps do.
    """
    rate = 1e-4
    start = flat(ORDERLY.start())
    theirs = trained(name, ORDERLY, variant, rate, n_epochs) - start
    ours = trained("fastmlp", ORDERLY, 0, rate, n_epochs, ordered=True) - start
    largest = np.abs(ours).max()
    assert largest > 1e-5
    # A row left out, or taken twice, is 1 part in 88;
    # the order's share is of the rate's size.
    assert np.abs(theirs - ours).max() < 2e-3 * largest
    shuffled = trained(name, ORDERLY, variant, 0.5, 1)
    ordered = trained(name, ORDERLY, variant, 0.5, 1, ordered=True)
    assert np.abs(shuffled - ordered).max() > 1e-4


# Eleven steps: eight in a call of torch.compile's, and three.
ORDERLY = Workload((3, 8, 2), 8, 88, "tanh", dtype="float64", rule=Rule("sgd", 0.01))


def trained(
    name: str,
    workload: Workload,
    variant: int,
    rate: float,
    n: int,
    *,
    ordered: bool = False,
) -> Any:
    """The parameters after n epochs: as they are timed, or step by step."""
    workload = workload._replace(rule=workload.rule._replace(rate=rate))
    run = run_of(name, workload, variant)
    if ordered:
        for _ in range(n):
            run.steps(workload.n_steps)
    else:
        run.epochs(n)
    return run.parameters()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n_rows", [1, 7, 2050])
@pytest.mark.parametrize(
    "name", ["fastmlp", "sklearn", "torch", "compile", "jax", "onnx"]
)
def test_all_ways_predict_the_same(name: str, n_rows: int) -> None:
    """Blocks of 1,000 rows have a rest of 50."""
    load = BY_NAME["16-64-64-2@64"].quick()
    x, _ = load.data()
    x = np.resize(x, (n_rows, load.sizes[0]))
    by_numpy, *_ = run_of("numpy", load).predictors().values()
    expected = by_numpy(x)
    run = run_of(name, load)
    for predict in run.predictors().values():
        predicted = predict(run.rows(x))
        np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-5)


def test_compiled_code_predicts_the_same() -> None:
    run = run_of("fastmlp", BY_NAME["16-64-64-2@64"].quick())
    x = run.x[:7]
    out = np.empty((7, 2), x.dtype)
    bench_predict.loop()(jit.compiled(run.net), x, out, 1)
    np.testing.assert_array_equal(out, run.net.predict(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["numpy", "torch", "compile", "jax"])
def test_all_gradients_are_the_same(name: str) -> None:
    load = BY_NAME["8-32-32-1@32"].quick()
    our_loss, our_gradient = run_of("fastmlp", load).gradient()
    theirs = run_of(name, load).gradient()
    if name == "numpy":
        np.testing.assert_allclose(theirs, our_gradient, rtol=1e-3, atol=1e-6)
        return
    if name == "compile":
        parts, loss = theirs
    else:
        loss, parts = theirs
    assert float(loss) == pytest.approx(our_loss, rel=1e-4)
    if name == "jax":
        parts = [part for pair in parts for part in pair]
    total = sum(float((np.asarray(part) ** 2).sum()) for part in parts)
    assert total == pytest.approx(float((our_gradient**2).sum()), rel=1e-3)
