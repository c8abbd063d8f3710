"""Ranks sum gradients or average parameters: the steps of one process, the same bits; real MPI."""

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

too_slow = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: takes minutes")
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
    """Train a net on each rank; return the nets and their histories."""
    rows = [parts_of(each, shares) for each in (X, y)]
    of_ranks = [None] * len(shares) if weight is None else parts_of(weight, shares)

    def fit(communicator: Any) -> Any:
        rank, own = communicator.Get_rank(), net()
        settings = {"batch_size": BATCH, "epochs": 3, "sample_weight": of_ranks[rank], **options}
        return own, own.fit(rows[0][rank], rows[1][rank], communicator=communicator, **settings)

    return on_ranks(len(shares), fit)


def check_equal_to_one(net: Any, y: Any = Y, weight: Any = None, batch: int = BATCH) -> None:
    (first, history), *others = fitted(net, y, weight=weight, shuffle=False, batch_size=batch)
    for other, item in others:
        assert other.parameters.tobytes() == first.parameters.tobytes()
        assert item.loss == history.loss
        assert other.n_steps == first.n_steps
    order, one = in_batches(SHARES, batch), net()
    rows = None if weight is None else weight[order]
    options: Any = {"batch_size": batch, "epochs": 3, "shuffle": False, "sample_weight": rows}
    alone = one.fit(X[order], y[order], **options)
    np.testing.assert_allclose(first.parameters, one.parameters, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(history.loss, alone.loss, rtol=1e-10)
    assert history.learning_rate == alone.learning_rate
    slots, of_one = slots_of(first), slots_of(one)
    np.testing.assert_allclose(slots, of_one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(optimizer: str) -> None:
    check_equal_to_one(lambda: made(optimizer=optimizer))


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.05, momentum=0.9, nesterov=True),
        Adam(0.01, clipvalue=0.01),
        Adam(0.01, clipnorm=0.1),
        AdamW(0.01, global_clipnorm=0.1),
        Adam(0.01, average=EMA(0.9)),
        SGD(0.05, average=SWA(start=0.5)),
        ScheduleFreeAdamW(0.01),
    ],
    ids=repr,
)
def test_clipping_and_averages(optimizer: Any) -> None:
    check_equal_to_one(lambda: made(optimizer=optimizer))


@pytest.mark.parametrize(
    "settings",
    [
        {"l2": 0.1},
        {"l1": 0.1, "l2": 0.1, "optimizer": Adam(0.01, global_clipnorm=0.1)},
        {"layer_rates": [0.1, {"weights": 1.0, "biases": 0.0}], "l2": 0.1},
        {"dropout": 0.3},
        {"input_dropout": 0.1, "input_noise": 0.1, "dropout": 0.5},
    ],
    ids=repr,
)
def test_penalties_layers_and_what_is_drawn(settings: Any) -> None:
    check_equal_to_one(lambda: made(**settings))


@pytest.mark.slow
@too_slow
def test_classes_and_weights() -> None:
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


def test_twice_the_same_bits_and_other_orders_for_other_seeds() -> None:
    def parameters(seed: int) -> list[bytes]:
        nets = fitted(lambda: made(seed=seed, dtype="float32", dropout=0.1))
        return [net.parameters.tobytes() for net, _ in nets]

    once = parameters(1)
    assert once == parameters(1) == [once[0]] * len(SHARES)
    assert once != parameters(2)
    # Ranks with the same rows take them in orders of their own.
    plain, mixed = (fitted(made, shares=(152, 152), shuffle=on)[0][0] for on in (False, True))
    assert not np.allclose(plain.parameters, mixed.parameters, rtol=1e-6)


def test_a_further_fit_goes_on() -> None:
    def twice(communicator: Any) -> Any:
        rank, net = communicator.Get_rank(), made(dropout=0.2)
        rows = parts_of(X, SHARES)[rank], parts_of(Y, SHARES)[rank]
        for _ in range(2):
            net.fit(*rows, batch_size=BATCH, epochs=2, communicator=communicator)
        return net.parameters.tobytes()

    (at_once, _), *_ = fitted(lambda: made(dropout=0.2), epochs=4)
    assert on_ranks(4, twice) == [at_once.parameters.tobytes()] * 4


@too_slow
def test_ranks_with_other_numbers_of_threads_exchange_flat_vectors() -> None:
    def net(threads: int) -> MLP:
        return made(7, 256, 256, 2, n_threads=threads)

    n_threads = iter((1, 2))
    nets = fitted(lambda: net(next(n_threads)), shares=(152, 152), batch_size=152, shuffle=False)
    assert nets[0][0].parameters.tobytes() == nets[1][0].parameters.tobytes()
    alike = fitted(lambda: net(1), shares=(152, 152), batch_size=152, shuffle=False)
    np.testing.assert_allclose(nets[0][0].parameters, alike[0][0].parameters, rtol=1e-9, atol=1e-12)


def test_ranks_learn_together_and_one_has_the_bits_of_none() -> None:
    ((alone, _),) = fitted(made, shares=(N,))
    net = made()
    net.fit(X, Y, batch_size=BATCH, epochs=3)
    assert alone.parameters.tobytes() == net.parameters.tobytes()
    (_, history), *_ = fitted_averaged(lambda: made_averaged(Adam(0.01)), (80, 80), 4, epochs=30)
    assert history.loss[-1] < 0.3 * history.loss[0]


@pytest.mark.parametrize("batch", [1, 2, 3, 32, 1000])
@pytest.mark.parametrize("n_rows", [SHARES, (1, 1, 1, 1), (0, 7, 1), (5,), (10**9, 3, 10**9)])
def test_shares_follow_the_rows(n_rows: tuple[int, ...], batch: int) -> None:
    batch = max(batch, sum(n_rows) // 10_000)
    places, total = places_of(n_rows, batch), sum(n_rows)
    shares = np.diff(places)
    assert places[:, -1].tolist() == list(n_rows)
    assert (shares >= 0).all()
    assert (shares.sum(axis=0)[:-1] == batch).all()
    fair = np.outer(n_rows, np.minimum(np.arange(places.shape[1]) * batch, total)) / total
    assert np.abs(places - fair).max() < len(n_rows)


N_AVERAGED = 160
rng = np.random.default_rng(0)
AVERAGED_X = rng.normal(size=(N_AVERAGED, 5))
AVERAGED_Y = np.sin(AVERAGED_X[:, :1]) * AVERAGED_X[:, 1:2]
AVERAGED_WEIGHT = rng.uniform(0.5, 2, N_AVERAGED)


def made_averaged(optimizer: Any, **settings: Any) -> MLP:
    return MLP((5, 16, 1), optimizer=optimizer, seed=1, dtype="float64", **settings)


def fitted_averaged(
    net: Any, shares: Any, every: int, *, weighted: bool = False, **options: Any
) -> list[Any]:
    rows, weights = (
        [parts_of(each, shares) for each in (AVERAGED_X, AVERAGED_Y)],
        parts_of(AVERAGED_WEIGHT, shares),
    )

    def fit(communicator: Any) -> Any:
        rank, own = communicator.Get_rank(), net()
        settings: dict[str, Any] = {
            "batch_size": 16,
            "epochs": 2,
            "average_every": every,
            **options,
        }
        settings["sample_weight"] = weights[rank] if weighted else None
        return own, own.fit(rows[0][rank], rows[1][rank], communicator=communicator, **settings)

    result = on_ranks(len(shares), fit)
    bits = {net.parameters.tobytes() for net, _ in result}
    assert len(bits) == 1
    assert {tuple(history.loss) for _, history in result} == {tuple(result[0][1].loss)}
    return result


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shares", [(80, 80), (100, 3, 0, 57)])
def test_averages_after_each_step_are_gradients(shares: tuple[int, ...], weighted: bool) -> None:
    def net() -> MLP:
        return made_averaged(SGD(0.1), l2=0.1)

    (first, history), *_ = fitted_averaged(net, shares, 1, weighted=weighted, shuffle=False)
    order, one = in_batches(shares, 16), net()
    rows: Any = {"sample_weight": AVERAGED_WEIGHT[order] if weighted else None}
    alone = one.fit(
        AVERAGED_X[order], AVERAGED_Y[order], batch_size=16, epochs=2, shuffle=False, **rows
    )
    np.testing.assert_allclose(first.parameters, one.parameters, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(history.loss, alone.loss, rtol=1e-10)


@pytest.mark.parametrize(
    "optimizer", [Adam(0.01), Adam(0.01, average=EMA(0.9)), ScheduleFreeAdamW(0.01)], ids=repr
)
def test_it_is_the_mean_of_fits_of_each_rank(optimizer: Any) -> None:
    shares = (120, 40)
    (net, _), _ = fitted_averaged(
        lambda: made_averaged(optimizer), shares, 1000, epochs=1, shuffle=False
    )
    of_ranks = []
    for rows, targets, batch in zip(
        parts_of(AVERAGED_X, shares), parts_of(AVERAGED_Y, shares), (12, 4), strict=True
    ):
        own = made_averaged(optimizer)
        own.fit(rows, targets, batch_size=batch, epochs=1, shuffle=False)
        of_ranks.append(np.vstack([own.parameters, slots_of(own)]))
    mean = 0.75 * of_ranks[0] + 0.25 * of_ranks[1]
    np.testing.assert_allclose(net.parameters, mean[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(slots_of(net), mean[1:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("every", [1, 3, 100])
def test_twice_the_same_bits(every: int) -> None:
    once, again = (
        fitted_averaged(lambda: made_averaged("adam", dropout=0.2), (100, 3, 0, 57), every)[0][0]
        for _ in range(2)
    )
    assert once.parameters.tobytes() == again.parameters.tobytes()


@pytest.mark.skipif(INTERPRETED, reason="nets whose layers a team shares take minutes")
def test_ranks_with_other_panels_exchange_flat_vectors() -> None:
    def net(n_threads: int) -> MLP:
        return MLP((5, 256, 256, 1), seed=1, dtype="float64", n_threads=n_threads)

    n_threads = iter((1, 2))
    (mixed, _), _ = fitted_averaged(lambda: net(next(n_threads)), (80, 80), 1, batch_size=160)
    (alike, _), _ = fitted_averaged(lambda: net(1), (80, 80), 1, batch_size=160)
    np.testing.assert_allclose(mixed.parameters, alike.parameters, rtol=1e-9, atol=1e-12)


SCRIPT = Path(__file__).with_name("script.py")
MPIEXEC = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")


def on_mpi(test: Any) -> Any:
    """Mark a test that begins processes."""
    for mark in (
        pytest.mark.slow,
        pytest.mark.skipif(
            MPIEXEC is None or find_spec("mpi4py") is None, reason="there is no mpiexec, or mpi4py"
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
    """Compile the kernels, which processes then load: four at once, beside ranks that spin while
    they wait, would take a minute."""

    def fit(communicator: Any) -> None:
        for every in (None, 3):
            options: Any = {"epochs": 1, "batch_size": 300, "average_every": every}
            ranked.made().fit(
                *rows_of(communicator.Get_rank()), communicator=communicator, **options
            )

    on_ranks(4, fit)


def job(
    fits: str, folder: Path, n_ranks: int = 4, module: tuple[str, ...] = ("-m", "mpi4py")
) -> dict[str, Any]:
    as_root = ["--oversubscribe", "--allow-run-as-root"]
    ranks = [str(MPIEXEC), *as_root, "-n", str(n_ranks), sys.executable, *module]
    folders = SCRIPT.parents[3], SCRIPT.parents[2]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMP_NUM_THREADS": "1",
    }
    return {"args": [*ranks, str(SCRIPT), fits, str(folder)], "env": environment, "text": True}


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


# A job does several fits, one after the other, and ends with the last: four processes start in 5 to
# 10 s of a core. The fits of a job are trained by other processes than those of the next.


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
    folder, quiet = killed, {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
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
    """The third job, which resumes the fit that was terminated, and ends with an error."""
    assert load(ended / "ended").n_steps == 4 * 6
    return run("go on,raise", ended)


def alone() -> MLP:
    order = in_batches(ranked.SHARES, 300)
    X, y = (np.concatenate(parts)[order] for parts in zip(*map(rows_of, range(4)), strict=True))
    net = ranked.made()
    net.fit(X, y, epochs=6, batch_size=300, shuffle=False)
    return net


@on_mpi
def test_processes_are_equal_to_one_process_and_end_with_a_killed_rank(killed: Path) -> None:
    result = np.frombuffer(parameters_of("plain", killed))
    np.testing.assert_allclose(result, alone().parameters, rtol=1e-10, atol=1e-10)
    assert not list(killed.glob("kill [0-9]"))


@on_mpi
def test_processes_have_the_same_bits_twice_and_resumed(ended: Path) -> None:
    assert parameters_of("average", ended) == parameters_of("again", ended)
    assert parameters_of("resume", ended) == parameters_of("whole", ended)


@on_mpi
def test_a_terminated_job_leaves_no_rank_and_a_resumed_fit_has_its_bits(
    ended: Path, raised: "subprocess.CompletedProcess[str]"
) -> None:
    pids = [int((ended / f"pid{rank} of wait").read_text()) for rank in range(4)]
    # mpiexec may end before them.
    assert wait_until(lambda: not any(map(lives, pids)), 30)
    assert not list(ended.glob("wait [0-9]"))
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
