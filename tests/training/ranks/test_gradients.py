"""Ranks sum gradients or average parameters:
the steps of one process, the same bits; real MPI.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranked
from ranked import in_batches, on_ranks, parts_of, rows_of, slots_of

from fastmlp import EMA, MLP, SGD, SWA, Adam, AdamW, ScheduleFreeAdamW, load
from fastmlp.backends.cpu.rank_trainer import places_of
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.optimizers import OPTIMIZERS

too_slow = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: takes minutes"
)
SHARES = (200, 3, 0, 101)
N = sum(SHARES)
BATCH = 32
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 7))
Y = np.column_stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]])
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
WEIGHT = rng.uniform(0, 2, N) * (rng.uniform(size=N) > 0.2)


def made(*sizes: int, **settings: Any) -> MLP:
    return MLP(sizes or (7, 24, 2), **{"seed": 1, "dtype": "float64", **settings})


def fitted(
    net: Any, y: Any = Y, shares: Any = SHARES, weight: Any = None, **options: Any
) -> list[Any]:
    """Train a net on each rank; return the nets,
    which are alike, and their histories.
    """
    rows = [parts_of(each, shares) for each in (X, y)]
    of_ranks: list[Any]
    if weight is None:
        of_ranks = [None] * len(shares)
    else:
        of_ranks = parts_of(weight, shares)

    def fit(communicator: Any) -> Any:
        rank = communicator.Get_rank()
        own = net()
        settings = {
            "batch_size": BATCH,
            "epochs": 3,
            "sample_weight": of_ranks[rank],
            **options,
        }
        return own, own.fit(
            rows[0][rank], rows[1][rank], communicator=communicator, **settings
        )

    result = on_ranks(len(shares), fit)
    assert len({trained.parameters.tobytes() for trained, _ in result}) == 1
    assert len({tuple(history.loss) for _, history in result}) == 1
    return result


def check_equal_to_one(
    net: Any, y: Any = Y, weight: Any = None, batch: int = BATCH
) -> None:
    (first, history), *others = fitted(
        net, y, weight=weight, shuffle=False, batch_size=batch
    )
    assert {other.n_steps for other, _ in others} == {first.n_steps}
    order = in_batches(SHARES, batch)
    one = net()
    options: Any = {"batch_size": batch, "epochs": 3, "shuffle": False}
    if weight is not None:
        options["sample_weight"] = weight[order]
    alone = one.fit(X[order], y[order], **options)
    np.testing.assert_allclose(first.parameters, one.parameters, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(history.loss, alone.loss, rtol=1e-10)
    assert history.learning_rate == alone.learning_rate
    slots, of_one = slots_of(first), slots_of(one)
    np.testing.assert_allclose(slots, of_one, rtol=1e-10, atol=1e-10)


CHOSEN: list[Any] = [
    *OPTIMIZERS,
    SGD(0.05, momentum=0.9, nesterov=True),
    Adam(0.01, clipvalue=0.01),
    Adam(0.01, clipnorm=0.1),
    AdamW(0.01, global_clipnorm=0.1),
    Adam(0.01, average=EMA(0.9)),
    SGD(0.05, average=SWA(start=0.5)),
    ScheduleFreeAdamW(0.01),
]


@pytest.mark.parametrize(
    "settings",
    [
        *({"optimizer": optimizer} for optimizer in CHOSEN),
        {"l2": 0.1},
        {"l1": 0.1, "l2": 0.1, "optimizer": Adam(0.01, global_clipnorm=0.1)},
        {"layer_rates": [0.1, {"weights": 1.0, "biases": 0.0}], "l2": 0.1},
        {"dropout": 0.3},
        {"input_dropout": 0.1, "input_noise": 0.1, "dropout": 0.5},
    ],
    ids=repr,
)
def test_optimizers_penalties_layers_and_what_is_drawn(settings: Any) -> None:
    check_equal_to_one(lambda: made(**settings))


@pytest.mark.slow
@too_slow
def test_weighted_classes() -> None:
    def net() -> MLP:
        return made(7, 24, 3, loss="cross_entropy")

    check_equal_to_one(net, LABELS)
    check_equal_to_one(net, LABELS, WEIGHT)
    check_equal_to_one(net, LABELS, WEIGHT, batch=1)
    check_equal_to_one(net, LABELS, WEIGHT, batch=N)


LARGE = pytest.param((7, 200, 300, 2), marks=too_slow, id="large")


@pytest.mark.parametrize("sizes", [LARGE, (7, 4, 2)], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_large_nets_and_microbatches(sizes: tuple[int, ...], dropout: float) -> None:
    check_equal_to_one(lambda: made(*sizes, dropout=dropout), batch=N)


def test_balanced_classes_are_those_of_all_ranks() -> None:
    def net() -> MLP:
        return made(7, 8, 3, loss="cross_entropy")

    (first, _), *_ = fitted(net, LABELS, shuffle=False, class_weight="balanced")
    weights = N / (3 * np.bincount(LABELS))[LABELS]
    (other, _), *_ = fitted(net, LABELS, shuffle=False, weight=weights)
    np.testing.assert_allclose(first.parameters, other.parameters, rtol=1e-12)


@pytest.mark.parametrize("every", [None, 1, 3, 100])
def test_twice_the_same_bits_and_other_orders_for_other_seeds(
    every: int | None,
) -> None:
    def parameters(seed: int) -> bytes:
        nets = fitted(
            lambda: made(seed=seed, dtype="float32", dropout=0.1), average_every=every
        )
        return bytes(nets[0][0].parameters.tobytes())

    assert parameters(1) == parameters(1) != parameters(2)


@pytest.mark.parametrize("every", [None, 1, 3, 100])
def test_ranks_with_the_same_rows_have_orders_of_their_own(every: int | None) -> None:
    plain, mixed = (
        fitted(made, shares=(152, 152), shuffle=on, average_every=every)[0][0]
        for on in (False, True)
    )
    assert not np.allclose(plain.parameters, mixed.parameters, rtol=1e-6)


def test_a_further_fit_goes_on() -> None:
    def twice(communicator: Any) -> Any:
        rank = communicator.Get_rank()
        net = made(dropout=0.2)
        rows = parts_of(X, SHARES)[rank], parts_of(Y, SHARES)[rank]
        for _ in range(2):
            net.fit(*rows, batch_size=BATCH, epochs=2, communicator=communicator)
        return net.parameters.tobytes()

    (at_once, _), *_ = fitted(lambda: made(dropout=0.2), epochs=4)
    assert on_ranks(4, twice) == [at_once.parameters.tobytes()] * 4


@too_slow
@pytest.mark.parametrize("every", [None, 1])
def test_ranks_with_other_numbers_of_threads_exchange_flat_vectors(
    every: int | None,
) -> None:
    def net(threads: int) -> MLP:
        return made(7, 256, 256, 2, n_threads=threads)

    n_threads = iter((1, 2))
    options: Any = {"shares": (152, 152), "batch_size": 304, "average_every": every}
    mixed = fitted(lambda: net(next(n_threads)), **options)
    alike = fitted(lambda: net(1), **options)
    one = mixed[0][0].parameters
    other = alike[0][0].parameters
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_one_rank_has_the_bits_of_none() -> None:
    ((alone, _),) = fitted(made, shares=(N,))
    net = made()
    net.fit(X, Y, batch_size=BATCH, epochs=3)
    assert alone.parameters.tobytes() == net.parameters.tobytes()


def test_ranks_learn_by_averages() -> None:
    averaged: Any = {"shares": (152, 152), "average_every": 4, "epochs": 30}
    (_, history), *_ = fitted(lambda: made(optimizer=Adam(0.01)), **averaged)
    assert history.loss[-1] < 0.3 * history.loss[0]


@pytest.mark.parametrize("batch", [1, 2, 3, 32, 1000])
@pytest.mark.parametrize(
    "n_rows", [SHARES, (1, 1, 1, 1), (0, 7, 1), (5,), (10**9, 3, 10**9)]
)
def test_shares_follow_the_rows(n_rows: tuple[int, ...], batch: int) -> None:
    batch = max(batch, sum(n_rows) // 10_000)
    places = places_of(n_rows, batch)
    total = sum(n_rows)
    shares = np.diff(places)
    assert places[:, -1].tolist() == list(n_rows)
    assert (shares >= 0).all()
    assert (shares.sum(axis=0)[:-1] == batch).all()
    fair = (
        np.outer(n_rows, np.minimum(np.arange(places.shape[1]) * batch, total)) / total
    )
    assert np.abs(places - fair).max() < len(n_rows)


@pytest.mark.parametrize("weight", [None, WEIGHT + 0.5], ids=["", "weighted"])
@pytest.mark.parametrize("shares", [(152, 152), SHARES])
def test_averages_after_each_step_are_gradients(
    shares: tuple[int, ...], weight: Any
) -> None:
    def net() -> MLP:
        return made(optimizer=SGD(0.1), l2=0.1)

    options: Any = {
        "average_every": 1,
        "shuffle": False,
        "weight": weight,
        "shares": shares,
    }
    (first, history), *_ = fitted(net, **options)
    order = in_batches(shares, BATCH)
    one = net()
    settings: Any = {"batch_size": BATCH, "epochs": 3, "shuffle": False}
    if weight is not None:
        settings["sample_weight"] = weight[order]
    alone = one.fit(X[order], Y[order], **settings)
    np.testing.assert_allclose(first.parameters, one.parameters, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(history.loss, alone.loss, rtol=1e-10)


@pytest.mark.parametrize(
    "optimizer",
    [Adam(0.01), Adam(0.01, average=EMA(0.9)), ScheduleFreeAdamW(0.01)],
    ids=repr,
)
def test_it_is_the_mean_of_fits_of_each_rank(optimizer: Any) -> None:
    shares = (228, 76)
    options = dict[str, Any](epochs=1, shuffle=False)
    nets = fitted(
        lambda: made(optimizer=optimizer), shares=shares, average_every=1000, **options
    )
    of_ranks = []
    rows = (parts_of(X, shares), parts_of(Y, shares), (24, 8))
    for x, y, batch in zip(*rows, strict=True):
        own = made(optimizer=optimizer)
        own.fit(x, y, batch_size=batch, **options)
        of_ranks.append(np.vstack([own.parameters, slots_of(own)]))
    mean = 0.75 * of_ranks[0] + 0.25 * of_ranks[1]
    net = nets[0][0]
    np.testing.assert_allclose(net.parameters, mean[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(slots_of(net), mean[1:], rtol=1e-10, atol=1e-12)


SCRIPT = Path(__file__).with_name("script.py")
MPIEXEC = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which(
    "mpiexec"
)


def on_mpi(test: Any) -> Any:
    """Mark a test that begins processes."""
    for mark in (
        pytest.mark.slow,
        pytest.mark.skipif(
            MPIEXEC is None or find_spec("mpi4py") is None,
            reason="there is no mpiexec, or mpi4py",
        ),
        pytest.mark.skipif(INTERPRETED, reason="messages are the same in plain Python"),
        pytest.mark.timeout(180),
    ):
        test = mark(test)
    return test


# Ranks that wait for one that is gone would take them.
SECONDS = 120


@pytest.fixture(scope="module")
def compiled() -> None:
    """Compile the kernels, which processes then load: four at once,
    beside ranks that spin while they wait, would take a minute.
    """

    def fit(communicator: Any) -> None:
        for every in (None, 3):
            options: Any = {"epochs": 1, "batch_size": 300, "average_every": every}
            ranked.made().fit(
                *rows_of(communicator.Get_rank()), communicator=communicator, **options
            )

    on_ranks(4, fit)


def job(
    fits: str,
    folder: Path,
    n_ranks: int = 4,
    module: tuple[str, ...] = ("-m", "mpi4py"),
) -> dict[str, Any]:
    as_root = ["--oversubscribe", "--allow-run-as-root"]
    ranks = [str(MPIEXEC), *as_root, "-n", str(n_ranks), sys.executable, *module]
    folders = SCRIPT.parents[3], SCRIPT.parents[2]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMP_NUM_THREADS": "1",
    }
    return {
        "args": [*ranks, str(SCRIPT), fits, str(folder)],
        "env": environment,
        "text": True,
    }


def run(*values: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(**job(*values), capture_output=True, timeout=SECONDS)


def parameters_of(fit: str, folder: Path) -> bytes:
    """The parameters of a fit, which are the same on all ranks."""
    first, *others = ((folder / f"{fit} {rank}").read_bytes() for rank in range(4))
    assert others == [first] * 3
    return first


def wait_until(happens: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# A job does several fits, one after the other, and ends with the last: four processes
# start in 5 to 10 s of a core. The fits of a job are trained by other processes than
# those of the next.


@pytest.fixture(scope="module")
def killed(compiled: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the first job, of which a rank is killed in its last fit."""
    folder = tmp_path_factory.mktemp("ranks")
    done = run("plain,average,whole,kill", folder)
    assert (folder / "kills").exists(), done.stderr
    assert done.returncode != 0
    return folder


@pytest.fixture(scope="module")
def ended(killed: Path) -> Path:
    """The folder with the second job, which is terminated in its last fit."""
    folder = killed
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert load(folder / "killed").n_steps == 4 * 6
    with subprocess.Popen(**job("resume,again,wait", folder) | quiet) as process:
        try:
            waits = (folder / "waits").exists
            assert wait_until(lambda: waits() or process.poll() is not None, SECONDS)
            assert process.poll() is None
            # Rank 0 would sleep for a minute, and the others wait for it.
            process.terminate()
            assert process.wait(30) != 0
        finally:
            process.kill()
    return folder


@pytest.fixture(scope="module")
def raised(ended: Path) -> "subprocess.CompletedProcess[str]":
    """The third job, which resumes the fit that was terminated,
    and ends with an error.
    """
    assert load(ended / "ended").n_steps == 4 * 6
    return run("go on,raise", ended)


def alone() -> MLP:
    order = in_batches(ranked.SHARES, 300)
    X, y = (
        np.concatenate(parts)[order]
        for parts in zip(*map(rows_of, range(4)), strict=True)
    )
    net = ranked.made()
    net.fit(X, y, epochs=6, batch_size=300, shuffle=False)
    return net


@on_mpi
def test_processes_are_equal_to_one_process(killed: Path) -> None:
    result = np.frombuffer(parameters_of("plain", killed))
    np.testing.assert_allclose(result, alone().parameters, rtol=1e-10, atol=1e-10)


@on_mpi
def test_processes_end_with_a_killed_rank(killed: Path) -> None:
    assert not list(killed.glob("kill [0-9]"))


@on_mpi
def test_processes_have_the_same_bits_twice(ended: Path) -> None:
    assert parameters_of("average", ended) == parameters_of("again", ended)


@on_mpi
def test_processes_that_resume_have_the_bits_of_the_whole_fit(ended: Path) -> None:
    assert parameters_of("resume", ended) == parameters_of("whole", ended)


@on_mpi
def test_a_terminated_job_leaves_no_rank(ended: Path) -> None:
    pids = [int((ended / f"pid{rank} of wait").read_text()) for rank in range(4)]
    # mpiexec may end before them.
    assert wait_until(lambda: not any(map(lives, pids)), 30)
    assert not list(ended.glob("wait [0-9]"))


@on_mpi
def test_a_terminated_fit_resumes_to_the_same_bits(
    ended: Path, raised: "subprocess.CompletedProcess[str]"
) -> None:
    assert parameters_of("go on", ended) == parameters_of("whole", ended), raised.stderr


@on_mpi
def test_an_error_in_a_callback_ends_the_job(
    ended: Path, raised: "subprocess.CompletedProcess[str]", tmp_path: Path
) -> None:
    without_a_module = run("raise", tmp_path, 2, ())
    for n_ranks, done in ((4, raised), (2, without_a_module)):
        assert done.returncode != 0
        assert f"MLP.fit on rank 0 of {n_ranks} ends all ranks" in done.stderr
        assert "ValueError: of a callback" in done.stderr
    assert not [*ended.glob("raise [0-9]"), *tmp_path.glob("raise [0-9]")]


def test_ranks_may_have_gaps_or_lack_them() -> None:
    y = np.where(rng.random(Y.shape) < 0.3, np.nan, Y)
    y[200:203] = Y[200:203]  # the second rank knows all targets
    parts = [parts_of(each, SHARES) for each in (X, y)]
    options: Any = {"missing_targets": "ignore", "epochs": 2, "batch_size": BATCH}
    options |= {"shuffle": False, "metrics": "mae"}

    def fit(communicator: Any) -> Any:
        own = [part[communicator.Get_rank()] for part in parts]
        net = made()
        history = net.fit(
            *own, communicator=communicator, validation_data=tuple(own), **options
        )
        return net, history

    trained, history = on_ranks(len(SHARES), fit)[0]
    order = in_batches(SHARES, BATCH)
    alone = made()
    expected = alone.fit(X[order], y[order], validation_data=(X, y), **options)
    np.testing.assert_allclose(trained.parameters, alone.parameters, rtol=1e-12)
    np.testing.assert_allclose(history.metrics["mae"], expected.metrics["mae"])
