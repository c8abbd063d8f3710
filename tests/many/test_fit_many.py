"""fit_many: the bits of each net's own fit,
whatever runs beside it; losses, sources, Ctrl-C.
"""

import copy
import gc
import pickle
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import peak_of, state_of
from loss_cases import CASES, draw_targets, outputs_for

from fastmlp import MLP, SGD, Adam, AdamW, Blocks, Cosine, Report, Status, fit_many
from fastmlp._process import task_pool
from fastmlp._process.memory import MOST_BUFFERS
from fastmlp.backends.cpu import dispatch, limits, trainer, tuning, worker_pool
from fastmlp.backends.cpu.dispatch import Autotuner
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.protocol import n_threads_of
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.many import training
from fastmlp.many.fit_many import Call, fit_together
from fastmlp.model import core_of
from fastmlp.training import loop
from fastmlp.training.loop import cost_of

N = 24 if INTERPRETED else 60
X = np.random.default_rng(0).uniform(-1, 1, (N, 3))
Y = np.sin(3 * X[:, 0]) + X[:, 1]
WEIGHT = np.random.default_rng(1).uniform(0, 2, N)
ROWS = np.random.default_rng(2).integers(0, N, N - 7)
HELD_OUT = np.arange(0, N, 3)


def mixed() -> list[MLP]:
    return [
        MLP((3, 8, 1), activation="tanh", seed=0, optimizer=Adam(0.01)),
        MLP(
            (3, 17, 5, 1),
            activation=["gelu", "relu"],
            seed=1,
            optimizer=SGD(0.1, momentum=0.9),
        ),
        MLP((3, 1), seed=2, optimizer="rmsprop", l2=0.3),
        MLP((3, 4, 1), seed=3, optimizer=AdamW(Cosine(0.02)), l1=0.1, dtype="float64"),
        MLP((3, 8, 1), loss="huber", seed=4, n_threads=1),
    ]


EPOCHS = [3, 2, 4, 3, 5]
BATCHES = [7, 16, 1000, N, 5]


def alone(net: MLP, i: int, x: Any = X, y: Any = Y, **options: Any) -> Any:
    return net.fit(x, y, epochs=EPOCHS[i], batch_size=BATCHES[i], **options)


def bits(nets: list[MLP]) -> list[bytes]:
    return [net.parameters.tobytes() for net in nets]


@pytest.mark.parametrize("n_threads", [1, 2, 3, None])
def test_every_net_ends_as_by_its_own_fit(n_threads: int | None) -> None:
    """In whichever order, and among whichever others."""
    own = mixed()
    together = mixed()
    order = (
        np.random.default_rng(n_threads or 0)
        .permutation(len(own))[: n_threads or 5]
        .tolist()
    )
    nets, epochs, sizes = ([of[i] for i in order] for of in (together, EPOCHS, BATCHES))
    histories = fit_many(
        nets, X, Y, epochs=epochs, batch_size=sizes, n_threads=n_threads
    )
    for i, history in zip(order, histories, strict=True):
        net = own[i]
        expected = alone(net, i)
        assert (history.loss, history.learning_rate) == (
            expected.loss,
            expected.learning_rate,
        )
        assert history.status is Status.COMPLETED
        assert history.seconds > 0
        assert state_of(together[i]) == state_of(net)
        assert together[i].n_threads == net.n_threads


@pytest.mark.skipif(INTERPRETED, reason="uncompiled, no team gathers")
@pytest.mark.parametrize("n_threads", [2, 3])
def test_nets_that_share_threads_end_as_alone(
    n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[int] = []
    calls_of_last: list[int] = []
    run = worker_pool.run

    def watched(driver: Any, job: Any, wanted: int, *more: Any) -> bool:
        gathered.append(wanted)
        if job["batch_size"] == BATCHES[last]:
            calls_of_last.append(wanted)
            wait_for_the_others()
        return run(driver, job, wanted, *more)

    def wait_for_the_others() -> None:
        end = time.monotonic() + 20
        # Not in its first calls, which are made in turns with the others.
        while (
            len(calls_of_last) > 2
            and task_pool.threads_of_task() != n_threads
            and time.monotonic() < end
        ):
            time.sleep(0.001)

    own = mixed()
    together = mixed()
    # One waits until the others have ended; each of its epochs is a call.
    last = 1
    epochs = [3, 6, 4, 3, 5]
    options: dict[str, Any] = {"callbacks": lambda report: None}
    for i, net in enumerate(own):
        net.fit(X, Y, epochs=epochs[i], batch_size=BATCHES[i], **options)
    monkeypatch.setattr(limits, "thread_limit", lambda: 4)
    monkeypatch.setattr(dispatch, "pays", lambda work, n: n > 1)
    monkeypatch.setattr(Autotuner, "wants_team", lambda self: True)
    monkeypatch.setattr(worker_pool, "run", watched)
    options |= {"epochs": epochs, "batch_size": BATCHES, "n_threads": n_threads}
    fit_many(together, X, Y, **options)
    assert n_threads in gathered
    assert [state_of(net) for net in together] == [state_of(net) for net in own]


@pytest.mark.parametrize("most", [0, 1 << 60])
def test_short_and_threadless_fits_are_the_callers(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[threading.Thread] = []

    def refuse(thread: threading.Thread) -> None:
        tried.append(thread)
        raise RuntimeError("can't start new thread")

    singles = mixed()
    together = mixed()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(training, "SHORT_FLOPS", most)
    for i, net in enumerate(singles):
        alone(net, i)
    fit_many(together, X, Y, epochs=EPOCHS, batch_size=BATCHES, n_threads=2)
    assert bits(together) == bits(singles)
    assert any(thread.name == task_pool.WORKER for thread in tried) == (most == 0)


@pytest.mark.parametrize(("shuffle", "chunk"), [(True, None), (False, None), (True, 8)])
def test_rows_train_as_copies_of_them_would(
    shuffle: bool, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk:
        monkeypatch.setattr(tuning, "CHUNK_NUMBERS", 1)
        monkeypatch.setattr(tuning, "MIN_CHUNK_ROWS", chunk)
    own = mixed()
    together = mixed()
    options: dict[str, Any] = {
        "epochs": EPOCHS,
        "batch_size": BATCHES,
        "shuffle": shuffle,
    }
    chosen: Any = {"rows": ROWS, "validation_rows": HELD_OUT, "sample_weight": WEIGHT}
    histories = fit_many(together, X, Y, **options, **chosen)
    copied = {
        "sample_weight": WEIGHT[ROWS],
        "validation_data": (X[HELD_OUT], Y[HELD_OUT], WEIGHT[HELD_OUT]),
    }
    for i, net in enumerate(own):
        expected = alone(net, i, X[ROWS], Y[ROWS], shuffle=shuffle, **copied)
        assert histories[i].loss == expected.loss
        assert histories[i].validation_loss == expected.validation_loss
    assert [state_of(net) for net in together] == [state_of(net) for net in own]


def test_rows_validation_and_weights_of_each_net() -> None:
    mask = np.arange(N) % 2 == 0
    rows: list[Any] = [None, ROWS, mask]
    held_out: list[Any] = [HELD_OUT, None, range(5)]
    weights: list[Any] = [None, WEIGHT, WEIGHT]
    own, together = mixed()[:3], mixed()[:3]
    histories = fit_many(
        together,
        X,
        Y,
        epochs=2,
        rows=rows,
        validation_rows=held_out,
        sample_weight=weights,
    )
    for net, r, v, w, history in zip(
        own, rows, held_out, weights, histories, strict=True
    ):
        if r is None:
            chosen = slice(None)
        else:
            chosen = r
        options = dict[str, Any]()
        validation: list[Any] = []
        n_validated = 0
        if v is not None:
            index = list(v)
            validation = [X[index], Y[index]]
            n_validated = 2
        if w is not None:
            options["sample_weight"] = w[chosen]
        if v is not None and w is not None:
            validation.append(w[index])
        if validation:
            options["validation_data"] = tuple(validation)
        expected = net.fit(X[chosen], Y[chosen], epochs=2, **options)
        assert history.validation_loss == expected.validation_loss
        assert len(history.validation_loss) == n_validated
    assert bits(together) == bits(own)


def test_no_nets_is_no_work() -> None:
    assert fit_many([], X, Y) == fit_many([], SOURCE) == []
    assert len(fit_many(iter(mixed()[:2]), X, Y, epochs=1)) == 2


@pytest.mark.slow
def test_the_costly_begin_first() -> None:
    layouts = [core_of(net).state.layout for net in mixed()]
    assert cost_of(layouts[1], 100, 10, 32) > cost_of(layouts[2], 100, 10, 32)
    assert cost_of(layouts[1], 100, 20, 32) > cost_of(layouts[1], 100, 10, 32)
    assert cost_of(layouts[1], 100, 10, 8) > cost_of(layouts[1], 100, 10, 32)
    order: list[int] = []
    tasks = [
        task_pool.Task(cost, partial(order.append, i))
        for i, cost in enumerate([1, 3, 2, 3])
    ]
    task_pool.Pool(1).run(tasks)
    assert order == [1, 3, 2, 0]
    nets = mixed()
    begun = dict[int, None]()
    options: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCHES, "n_threads": 1}
    fit_many(
        nets, X, Y, callbacks=lambda r: begun.setdefault(nets.index(r.net)), **options
    )
    costs = [
        cost_of(core_of(net).state.layout, N, epochs, min(batch, N))
        for net, epochs, batch in zip(nets, EPOCHS, BATCHES, strict=True)
    ]
    assert list(begun) == sorted(range(len(nets)), key=lambda i: -costs[i])


def test_callbacks_stop_each_net_by_itself_and_never_meet() -> None:
    inside = threading.Lock()
    met = list[Report]()
    nets = mixed()

    def watch(report: Report) -> None:
        if not inside.acquire(blocking=False):
            met.append(report)
        time.sleep(0.001)
        assert report.history.loss[-1] == report.loss
        if report.epoch == nets.index(report.net):
            report.stop()
        inside.release()

    histories = fit_many(nets, X, Y, epochs=4, callbacks=watch, n_threads=3)
    assert not met
    assert [len(history.loss) for history in histories] == [1, 2, 3, 4, 4]
    statuses = [history.status for history in histories]
    assert statuses == [Status.STOPPED] * 4 + [Status.COMPLETED]


def test_a_copy_that_a_callback_makes_goes_on_as_its_net_does() -> None:
    nets = mixed()
    copies = dict[int, MLP]()

    def keep(report: Report) -> None:
        if report.epoch == 1:
            copies[nets.index(report.net)] = copy.deepcopy(report.net)

    fit_many(nets, X, Y, epochs=4, callbacks=keep, n_threads=2)
    together = [copies[i] for i in range(len(nets))]
    fit_many(together, X, Y, epochs=2, n_threads=2)
    assert bits(together) == bits(nets)


def test_an_error_in_a_callback_ends_the_call_and_names_the_net() -> None:
    nets = mixed()

    def fail(report: Report) -> None:
        if report.net is nets[3]:
            raise LookupError("of the user's")

    with pytest.raises(LookupError, match="of the user's") as caught:
        fit_many(nets, X, Y, epochs=3, callbacks=fail)
    assert caught.value.__notes__ == ["in nets 3"]
    for net in nets:
        assert np.isfinite(net.predict(X)).all()
    fit_many(nets, X, Y, epochs=1)


def test_a_warning_of_several_nets_comes_once() -> None:
    nets = [MLP((3, 4, 1), seed=k) for k in range(3)]
    with pytest.warns(UserWarning, match="y has mean") as caught:
        fit_many(nets, X, 1e12 * Y, epochs=1)
    (warning,) = caught
    assert str(warning.message).startswith("fit_many: nets[0] and 2 others: y has")


def test_a_net_diverges_without_disturbing_the_others() -> None:
    nets = mixed()
    own = mixed()
    for group in (nets, own):
        group.insert(2, MLP((3, 8, 1), seed=9, optimizer=SGD(1e30)))
    with pytest.warns(RuntimeWarning, match=r"nets\[2\]: fit diverged") as caught:
        histories = fit_many(nets, X, Y, epochs=3)
    assert [warning.filename for warning in caught] == [__file__]
    assert [i for i, h in enumerate(histories) if h.status is Status.DIVERGED] == [2]
    with pytest.warns(RuntimeWarning, match="^fit diverged"):
        expected = [net.fit(X, Y, epochs=3) for net in own]
    assert bits(nets) == bits(own)
    assert [h.loss for h in histories] == [h.loss for h in expected]


@pytest.mark.parametrize(
    "wrong",
    [{"rows": [None, [0, N]]}, {"sample_weight": np.arange(N), "rows": [None, [0, 0]]}],
)
def test_what_is_wrong_for_a_later_net_leaves_the_first_as_it_was(
    wrong: dict[str, Any],
) -> None:
    nets = mixed()[:2]
    before = bits(nets)
    with pytest.raises(ValueError, match=r"nets\[1\]"):
        fit_many(nets, X, Y, epochs=1, **wrong)
    assert bits(nets) == before


def test_nets_that_shuffle_by_one_generator_are_refused() -> None:
    random = np.random.default_rng(0)
    seeds: list[Any] = [1, random, *random.spawn(2), random]
    nets = [MLP((3, 4, 1), seed=seed) for seed in seeds]
    before = bits(nets)
    with pytest.raises(
        ValueError, match=r"nets\[4\] shuffles by the generator that nets\[1\]"
    ):
        fit_many(nets, X, Y, epochs=1, batch_size=7)
    assert bits(nets) == before
    fit_many(nets, X, Y, epochs=1, batch_size=7, shuffle=False)
    fit_many(nets, X, Y, epochs=1, batch_size=[7, N, 7, 7, 7])
    fit_many(nets[:4], X, Y, epochs=1, batch_size=7)


def test_a_net_in_a_fit_is_refused_and_no_other_begins() -> None:
    nets = mixed()
    before = bits(nets[:4])
    with (
        core_of(nets[4]).state.lock.training("a test"),
        pytest.raises(RuntimeError, match=r"nets\[4\]: a fit"),
    ):
        fit_many(nets, X, Y, epochs=1)
    assert bits(nets[:4]) == before
    fit_many(nets, X, Y, epochs=1)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="plain Python allocates views as it goes")
def test_rows_and_x_are_not_copied() -> None:
    # Large beside what other tests' threads allocate meanwhile, 0.2 MB of Dask's.
    data = np.zeros((400_000, 3), np.float32)
    y = np.zeros(len(data), np.float32)
    rows = np.arange(0, len(data), 4000)
    nets = [MLP((3, 4, 1), seed=i) for i in range(12)]
    fit_many(nets, data, y, epochs=1, batch_size=50, rows=rows)
    options: dict[str, Any] = {"rows": rows, "validation_rows": rows}
    peak = peak_of(lambda: fit_many(nets, data, y, epochs=1, batch_size=50, **options))
    assert peak < 0.8 * data.nbytes, (
        f"{peak} bytes at most, where X takes {data.nbytes}"
    )


def test_buffers_serve_nets_in_turn_and_few_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive: list[Any] = []
    most: list[int] = []

    class Watched(Session):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            alive.append(weakref.ref(self))
            most.append(sum(each() is not None for each in alive))

    monkeypatch.setattr(trainer, "Session", Watched)
    trainer.TRAININGS.clear()
    gc.disable()
    try:
        fit_many(
            [MLP((3, 4, 1), seed=i) for i in range(10)], X, Y, epochs=1, n_threads=1
        )
        assert len(alive) == 1
        nets = [MLP((3, n, 1), seed=0) for n in range(5, 3 * MOST_BUFFERS)]
        fit_many(nets, X, Y, epochs=1, n_threads=1)
    finally:
        gc.enable()
    assert len(alive) == 1 + len(nets)
    assert max(most) <= MOST_BUFFERS + 2
    trainer.TRAININGS.clear()
    assert not any(each() is not None for each in alive)


def alike() -> list[MLP]:
    optimizers: list[Any] = [
        Adam(0.01),
        SGD(1e30),
        "rmsprop",
        SGD(0.1),
        Adam(Cosine(0.02)),
    ]
    return [
        MLP((3, 9, 2), seed=i, optimizer=o, l2=0.1 * i)
        for i, o in enumerate(optimizers, 1)
    ]


@pytest.mark.filterwarnings("ignore:.*fit diverged")
@pytest.mark.parametrize("batch_size", [7, N])
def test_alike_nets_train_in_one_buffer(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets, own = alike(), alike()
    made: list[Session] = []
    y = np.stack([Y, -Y], axis=1)

    def counted(*arguments: Any, **options: Any) -> Session:
        made.append(Session(*arguments, **options))
        return made[-1]

    trainer.TRAININGS.clear()
    monkeypatch.setattr(trainer, "Session", counted)
    options: dict[str, Any] = {"epochs": 3, "batch_size": batch_size}
    histories = fit_many(nets, X, y, rows=ROWS, n_threads=1, **options)
    assert len(made) == 1
    expected = [net.fit(X[ROWS], y[ROWS], **options) for net in own]
    assert bits(nets) == bits(own)
    assert [h.loss for h in histories] == [h.loss for h in expected]
    assert Status.DIVERGED in [h.status for h in histories]


def test_a_callback_may_fit_a_net_that_is_alike() -> None:
    inner = [MLP((3, 8, 1), seed=i) for i in (1, 2, 3)]
    outer = MLP((3, 8, 1), seed=0)
    expected = copy.deepcopy(outer)

    def train_another(report: Report) -> None:
        inner[report.epoch].fit(X, Y, epochs=2, batch_size=7)

    options: dict[str, Any] = {"epochs": 3, "batch_size": 7}
    fit_many([outer], X, Y, callbacks=train_another, **options)
    expected.fit(X, Y, callbacks=lambda report: None, **options)
    assert bits([outer]) == bits([expected])
    own = [MLP((3, 8, 1), seed=i) for i in (1, 2, 3)]
    for net in own:
        net.fit(X, Y, epochs=2, batch_size=7)
    assert bits(inner) == bits(own)


def test_the_last_net_takes_the_threads_that_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(limits, "thread_limit", lambda: 4)
    monkeypatch.setattr(dispatch, "pays", lambda work, n: bool(asked.append(n)))  # type: ignore[func-returns-value]
    for of_net, of_call, expected in (
        (None, None, {4}),
        (2, None, {2}),
        (None, 1, set[int]()),
    ):
        asked.clear()
        fit_many([MLP((3, 4, 1), n_threads=of_net)], X, Y, epochs=1, n_threads=of_call)
        assert set(asked) == expected


@pytest.mark.slow
def test_a_task_keeps_its_share_while_others_wait() -> None:
    shares: list[int | None] = []
    crew = task_pool.Pool(2)
    crew.run(
        [
            task_pool.Task(1, lambda: shares.append(task_pool.threads_of_task()))
            for _ in range(8)
        ]
    )
    assert set(shares[:6]) == {1}
    assert task_pool.threads_of_task() is None


@pytest.mark.slow
def test_a_call_in_a_task_takes_the_threads_of_the_task() -> None:
    taken = list[int]()
    tasks = [
        task_pool.Task(1, lambda: taken.append(n_threads_of(None))) for _ in range(8)
    ]
    task_pool.Pool(2).run(tasks)
    assert set(taken[:6]) == {1}
    assert n_threads_of(3) == 3
    assert n_threads_of(None) == limits.thread_limit()


FORKED = """
import sys, warnings, numpy as np
from fastmlp import MLP, fit_many
warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads
X = np.random.default_rng(0).normal(size=(60, 3)); y = X[:, 0] * X[:, 1]
def trained(**options):
    nets = [MLP((3, 4 + i, 1), seed=i) for i in range(6)]
    fit_many(nets, X, y, epochs=3, **options)
    return b"".join(net.parameters.tobytes() for net in nets)
expected = trained(n_threads=1)
assert trained() == trained(n_threads=4) == expected
if hasattr(__import__("os"), "fork"):
    import os
    child = os.fork()
    if child == 0:
        os._exit(trained() != expected)
    assert os.waitpid(child, 0)[1] == 0
assert trained() == expected
"""


@pytest.mark.slow
def test_threads_and_a_fork(python: Callable[..., str]) -> None:
    python(FORKED, NUMBA_NUM_THREADS="2")


INTERRUPTED = """
import signal, sys, threading, time, warnings
import numpy as np
from fastmlp import MLP, Status, fit_many
how = sys.argv[1]
n_begun = 1 if "alone" in how else 2
X = np.random.default_rng(0).normal(size=(200, 4)); y = X[:, 0]
nets = [MLP((4, 8, 1), seed=i) for i in range(6)]
before = [net.parameters.copy() for net in nets]
fit_many([MLP((4, 8, 1), seed=9)], X, y, epochs=1)
class Ended(BaseException):
    pass
def handle(*_):
    raise Ended
if how == "SIGINT alone":
    start = threading.Thread.start
    def refuse(thread):
        if thread.name == "fastmlp worker":
            raise RuntimeError("can't start new thread")
        start(thread)
    threading.Thread.start = refuse
if how == "SIGTERM":
    signal.signal(signal.SIGTERM, handle)
begun, sent = set(), []
def send(report):
    begun.add(id(report.net))
    if report.epoch >= 2 and len(begun) == n_begun and not sent:
        sent.append(time.monotonic())
        threading.Timer(0.2, kill).start()
def kill():
    import os
    sent[0] = time.monotonic()
    os.kill(os.getpid(), getattr(signal, how.split()[0]))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        histories = fit_many(nets, X, y, epochs=10**6, callbacks=send, n_threads=2)
        assert how != "SIGTERM"
    except Ended:
        assert how == "SIGTERM"
        histories = None
assert time.monotonic() - sent[0] < float(sys.argv[2])
if histories is not None:
    assert [h.status for h in histories] == [Status.INTERRUPTED] * 6
    assert sum(len(h.loss) > 0 for h in histories) == n_begun
    (warning,) = caught
    told = f"fit_many interrupted: 0 of 6 nets are done, {n_begun} keep"
    assert str(warning.message).startswith(told)
for net, old in zip(nets, before):
    assert (id(net) in begun) != np.array_equal(net.parameters, old)
    assert np.isfinite(net.predict(X)).all()
fit_many(nets, X, y, epochs=1)
print(len(begun))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")
@pytest.mark.parametrize("way", ["SIGINT", "SIGINT alone", "SIGTERM"])
def test_signals_end_the_call_and_leave_nets_usable(
    way: str, python: Callable[..., str]
) -> None:
    limit = 20  # it would take hours
    assert python(INTERRUPTED, way, limit) == ("1\n" if "alone" in way else "2\n")


each = pytest.mark.parametrize("name", CASES)
N_ROWS = 40 if INTERPRETED else 90
FEW_EPOCHS = 4


def net(name: str, n_threads: int = 1) -> MLP:
    sizes = (4, 9, outputs_for(name, 3))
    return MLP(sizes, loss=CASES[name], seed=0, l2=0.01, n_threads=n_threads)


def rows(name: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_ROWS, 4))
    y = draw_targets(name, rng, N_ROWS, outputs_for(name, 3))
    return X, y.astype(int) if CASES[name].targets == "classes" else y


@each
def test_all_ways_to_train_have_the_same_bits(name: str, tmp_path: Path) -> None:
    X, y = rows(name)
    alone = net(name)
    losses = alone.fit(X, y, epochs=FEW_EPOCHS, batch_size=32).loss
    assert losses[-1] < losses[0]
    threaded = net(name, 4)
    first = net(name)
    second = net(name)
    assert threaded.fit(X, y, epochs=FEW_EPOCHS, batch_size=32).loss == losses
    for history in fit_many([first, second], X, y, epochs=FEW_EPOCHS, batch_size=32):
        assert history.loss == losses
    cut = net(name)
    cut.fit(X, y, epochs=2, batch_size=32, checkpoint=tmp_path / "run.safetensors")
    cut = pickle.loads(pickle.dumps(copy.deepcopy(cut)))
    cut.save(tmp_path / "net.safetensors", include_training_state=True)
    cut = MLP.load(tmp_path / "net.safetensors")
    cut.fit(X, y, epochs=2, batch_size=32)
    resumed = net(name)
    where = {"checkpoint": tmp_path / "run.safetensors", "resume": True}
    resumed.fit(X, y, epochs=2, batch_size=32, **where)  # type: ignore[arg-type]
    resumed.fit(X, y, epochs=2, batch_size=32)
    for other in (threaded, first, second, cut, resumed):
        assert other.parameters.tobytes() == alone.parameters.tobytes()


rng = np.random.default_rng(0)
N_TASK_ROWS = 1000
X_SOURCE = rng.normal(size=(N_TASK_ROWS, 5))
Y_SOURCE = X_SOURCE[:, 0] * X_SOURCE[:, 1]
SOURCE = Blocks.from_arrays(X_SOURCE, Y_SOURCE, rows=90)


def made(n: int = 3) -> list[MLP]:
    return [
        MLP((5, 4 * (i + 1), 1), seed=i, optimizer=Adam(Cosine(0.01))) for i in range(n)
    ]


class Counting:
    def __init__(self) -> None:
        self.block_sizes = SOURCE.block_sizes
        self.n_read = 0

    def read(self, i: int) -> Any:
        self.n_read += 1
        return SOURCE.read(i)


@pytest.mark.parametrize("buffer_rows", [None, 320])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_nets_end_with_the_bits_of_their_own_fits(
    buffer_rows: Any, n_threads: int
) -> None:
    options: dict[str, Any] = {
        "buffer_rows": buffer_rows,
        "validation_data": (X_SOURCE[:80], Y_SOURCE[:80]),
    }
    nets = made()
    others = made()
    source = Counting()
    histories = fit_many(
        nets, source, epochs=[3, 1, 3], batch_size=16, n_threads=n_threads, **options
    )
    if buffer_rows:
        assert source.n_read == 3 * len(SOURCE.block_sizes)
    for net, other, history, epochs in zip(
        nets, others, histories, [3, 1, 3], strict=True
    ):
        own = other.fit(SOURCE, epochs=epochs, batch_size=16, **options)
        assert (own.loss, own.validation_loss) == (
            history.loss,
            history.validation_loss,
        )
        assert net.parameters.tobytes() == other.parameters.tobytes()
    assert not [one for one in threading.enumerate() if one.name == "fastmlp reader"]


def test_in_one_buffer_as_over_arrays_of_other_batch_sizes_and_columns() -> None:
    pandas = pytest.importorskip("pandas", reason="frames are pandas'")
    pytest.importorskip("pyarrow", reason="it reads frames")
    nets = made()
    others = made()
    options = dict[str, Any](epochs=2, batch_size=[16, 7, 10])
    frame = pandas.DataFrame(X_SOURCE, columns=list("abcde")).assign(y=Y_SOURCE)
    fit_many(nets, frame, target="y", **options)
    fit_many(others, X_SOURCE, Y_SOURCE, **options)
    assert bits(nets) == bits(others)


def test_a_fit_that_stops_or_fails_holds_nobody_up() -> None:
    def look(report: Any) -> None:
        if report.net is nets[1] and report.epoch == 0:
            report.stop()
        if report.epoch == 2:
            raise ConnectionError("gone")

    nets = made()
    options = dict[str, Any](epochs=4, batch_size=16, buffer_rows=320)
    with pytest.raises(ConnectionError, match="gone"):
        fit_many(nets, SOURCE, callbacks=look, **options)
    assert nets[1].n_steps == 63
    assert min(nets[i].n_steps for i in (0, 2)) >= 2 * 63
    assert not [one for one in threading.enumerate() if one.name == "fastmlp reader"]
    histories = fit_many(nets, SOURCE, **options)
    assert [history.status for history in histories] == [Status.COMPLETED] * 3


def test_what_a_source_raises_arrives() -> None:
    class Fails(Counting):
        def read(self, i: int) -> Any:
            if self.n_read == 20:
                raise ConnectionError("gone")
            return super().read(i)

    with pytest.raises(ConnectionError, match="gone"):
        fit_many(made(), Fails(), epochs=4, batch_size=16, buffer_rows=320)
    assert not [one for one in threading.enumerate() if one.name == "fastmlp reader"]


@pytest.mark.parametrize("n_epochs", [0, 2])
def test_the_time_limit_ends_an_epoch(
    n_epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.linspace(-1, 1, 400)[:, None]
    net = MLP((1, 4, 1), seed=0)
    call = Call([net], X, X**2, 10, np.arange(300), np.arange(300, 400), None)
    looks: list[object] = []

    def time_is_up(request: object) -> bool:
        looks.append(request)
        # Once between epochs, and before each step but the first.
        return len(looks) > 31 * n_epochs + 5

    # Calls of one step.
    monkeypatch.setattr(loop, "CALL_SECONDS", 0.0)
    monkeypatch.setattr("fastmlp.training.request.FitRequest._time_is_up", time_is_up)
    before = net.parameters.copy()
    options = {"epochs": 9, "callbacks": (), "time_limit": 1.0, "n_threads": 1}
    ((history,),) = fit_together(None, [call], **options)  # type: ignore[arg-type]
    assert history.status is Status.OUT_OF_TIME
    assert len(history.loss) == len(history.validation_loss) == n_epochs
    assert history.best_epoch == (n_epochs - 1 if n_epochs else None)
    assert core_of(net).state.n_steps == 30 * n_epochs + 6
    assert (net.parameters != before).any()
    monkeypatch.undo()
    whole = MLP((1, 4, 1), seed=0)
    if n_epochs:
        whole.fit(X[:300], X[:300] ** 2, epochs=n_epochs, batch_size=10)
        assert (net.parameters == whole.parameters).all()
