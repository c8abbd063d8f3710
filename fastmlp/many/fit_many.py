"""fit_many: many nets in one call, one on each core or in each block of a GPU, over shared data."""

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import validation
from fastmlp._process.task_pool import Outcome, Pool, Task, check, share
from fastmlp._process.warnings import warn
from fastmlp.backends import protocol
from fastmlp.backends.protocol import Data, Engine, Order
from fastmlp.many.gpu import Fit, queues_of
from fastmlp.many.tasks import Job
from fastmlp.model import MLP, core_of
from fastmlp.training import loop
from fastmlp.training.history import Callback, History, Report, Status
from fastmlp.training.request import FitRequest, new_bar
from fastmlp.validation import scalars

WHO = "fit_many"
Array = NDArray[Any]


def fit_many(
    nets: Iterable[MLP],
    X: ArrayLike,
    y: ArrayLike,
    *,
    epochs: int | Sequence[int] = 100,
    batch_size: int | Sequence[int] = 32,
    shuffle: bool = True,
    rows: Any = None,
    validation_rows: Any = None,
    sample_weight: Any = None,
    callbacks: Callback | Iterable[Callback] = (),
    progress: bool = False,
    n_threads: int | None = None,
) -> list[History]:
    """Train many nets on X and y at once, one on each core.

    Each net ends in the bits that its own `fit` would give, whatever the number of threads, the
    order of the nets, and the others among them. The costliest begin first; where fewer nets are
    left than threads, those that are left share the threads. X is in memory once, however many
    nets there are, and a net takes room beside its parameters and its optimizer's state, two
    numbers a parameter, only while it trains.

    Nets whose device is a GPU train there, beside those on the CPU. Those that are small enough to
    be one block, as in their own fits, train many in a launch, a block each: with those of the same
    layers, rules, dtype, epochs and batch size, and where neither `validation_rows` nor `callbacks`
    ask for a look at them before the end. The others train one after the other.

    Parameters
    ----------
    nets : sequence of MLP
        Of any sizes, depths, rules, optimizers, penalties, dtypes, devices and seeds; each net
        once.
    X : (n_rows, n_features) array of real numbers
        Not copied if it is C-contiguous and of the nets' dtype; else once for each dtype. On a GPU
        it is copied there for each launch, or each net that trains by itself.
    y : (n_rows,) or (n_rows, n_outputs) array
        What the losses of all nets take.
    epochs, batch_size : int, or a sequence of int, one per net
    shuffle : bool
        Take the rows in a new order each epoch.
    rows : (n,) array of int or bool, or a sequence of one per net, optional
        The rows to train on, of a fold or a bootstrap sample, none of which is copied: indices in
        any order, or a mask of shape (n_rows,). None stands for all rows. A net ends as it would
        with ``fit(X[rows], y[rows], ...)``.
    validation_rows : as `rows`, optional
        The rows to validate on after each epoch; None stands for no validation.
    sample_weight : (n_rows,) array, or a sequence of one or None per net, optional
        How much each row counts, in training and in validation.
    callbacks : callable or sequence of callables
        Each is called with a `Report` after every epoch of every net; `Report.net` says of which,
        and ``report.stop()`` ends that net's fit. Never two at a time, but from several threads.
    progress : bool
        Show a tqdm bar of all epochs.
    n_threads : int, optional
        How many nets to train at once; None: as many as the process may use threads. A net whose
        own `n_threads` is less than its share uses no more than that. Nets on GPUs do not count:
        each GPU has one thread more, which waits for it.

    Returns
    -------
    list of History, one per net
        Ctrl-C ends the call with a warning; nets that had not begun are as they were, with an empty
        history, and all are usable. A net that diverges warns, and does not disturb the others.

    Raises
    ------
    TypeError, ValueError
        Where an argument is not what it must be, or two nets would shuffle by one generator; all
        nets are unchanged then, and nothing has been compiled. The message names the net.
    RuntimeError
        Where a net is being fitted already; all nets are unchanged then.
    MemoryError
        Where a net, or the rows, do not fit into memory. The fits that run then end, as with
        Ctrl-C, before it is raised.
    Exception
        What a callback raises. The fits that run then end, as with Ctrl-C, before it is raised.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, fit_many
    >>> X = np.linspace(-1, 1, 64)[:, None]
    >>> nets = [MLP((1, 8 * n, 1), seed=n) for n in (1, 2, 4)]
    >>> histories = fit_many(nets, X, X**2, epochs=20, batch_size=[8, 16, 32])
    >>> [len(history.loss) for history in histories]
    [20, 20, 20]
    """
    scalars.boolean(WHO, "shuffle", shuffle)
    scalars.boolean(WHO, "progress", progress)
    if n_threads is not None:
        scalars.positive_integer(WHO, "n_threads", n_threads)
    listeners = validation.callbacks(callbacks, WHO)
    each = _nets(nets)
    try:
        jobs = _jobs(each, X, y, epochs, batch_size, rows, validation_rows, sample_weight)
    except KeyboardInterrupt:
        # The first of a process loads Numba there: 0.3 s.
        return _interrupted([None] * len(each))
    if not jobs:
        return []
    if shuffle:
        _check_generators(jobs)
    return _train(jobs, shuffle, _one_at_a_time(listeners), progress, n_threads)


def pool_of(n_threads: int | None) -> Pool:
    """Return a pool of so many threads; None: of as many as are free to this thread."""
    return Pool(share() or protocol.thread_limit() if n_threads is None else int(n_threads))


def _nets(given: Any) -> list[MLP]:
    if isinstance(given, MLP) or not isinstance(given, Iterable):
        raise TypeError(f"{WHO}: nets must be a sequence of MLP, got {given!r}")
    nets, places = list(given), dict[int, int]()
    for i, net in enumerate(nets):
        if not isinstance(net, MLP):
            raise TypeError(f"{WHO}: nets must be a sequence of MLP, but nets[{i}] is {net!r}")
        if places.setdefault(id(net), i) != i:
            raise ValueError(f"{WHO}: nets[{i}] is the net that nets[{places[id(net)]}] is")
    return nets


def _jobs(
    nets: list[MLP],
    X: Any,
    y: Any,
    epochs: Any,
    batch_size: Any,
    rows: Any,
    validation_rows: Any,
    sample_weight: Any,
) -> list[Job]:
    """Check everything, and return each net's part."""
    n = len(nets)
    each_epochs = _integers(epochs, "epochs", n)
    each_batch_size = _integers(batch_size, "batch_size", n)
    shared = Shared(X, y)
    each_weight = _each(sample_weight, "sample_weight", n)
    # First: what is wrong with X would be told as rows out of range.
    cores = [core_of(net) for net in nets]
    wholes = [shared.data(core.engine, each_weight[i], _who(i)) for i, core in enumerate(cores)]
    each_rows = [_index(given, shared, i, "rows") for i, given in _numbered(rows, "rows", n)]
    held_out = _numbered(validation_rows, "validation_rows", n)
    each_held_out = [_index(given, shared, i, "validation_rows") for i, given in held_out]
    jobs = []
    for i, (net, core, whole) in enumerate(zip(nets, cores, wholes, strict=True)):
        who = _who(i)
        parts = [whole._replace(rows=index) for index in (each_rows[i], each_held_out[i])]
        for part in parts if each_held_out[i] is not None else parts[:1]:
            if part.mass == 0:
                raise ValueError(f"{who}: sample_weight must not be 0 in all of its rows")
        batch = min(each_batch_size[i], parts[0].n_rows)
        validated = None if each_held_out[i] is None else parts[1]
        jobs.append(Job(net, core, parts[0], validated, each_epochs[i], batch))
    return jobs


def _check_generators(jobs: list[Job]) -> None:
    """Refuse nets that draw their orders of rows from one generator: which draws first, and so the
    bits, would depend on the threads."""
    places = dict[int, int]()
    for i, job in enumerate(jobs):
        if job.batch_size < job.data.n_rows:
            first = places.setdefault(id(job.core.state.generator), i)
            if first != i:
                raise ValueError(
                    f"{_who(i)} shuffles by the generator that nets[{first}] does; make each net "
                    "with a seed of its own, as one of generator.spawn(n)"
                )


class Shared:
    """X, y and weights as the nets take them: made once for all nets that take them alike."""

    def __init__(self, X: Any, y: Any) -> None:
        self._x, self._y = X, y
        self._made: dict[Any, Any] = {}
        # What is known by its identity must stay alive.
        self._kept: list[Any] = []

    @property
    def n_rows(self) -> int:
        """The rows of X; 0 where it is no array."""
        return len(self._x) if hasattr(self._x, "__len__") else 0

    def data(self, engine: Engine[Any, Any], weight: Any, who: str) -> Data:
        """Return all rows, where an engine's device wants them."""
        self._kept.append(weight)
        return engine.data(self._x, self._y, weight, who, self.memo)

    def index(self, given: Any, who: str, name: str) -> Order:
        """Return checked indices of rows."""
        self._kept.append(given)
        make = partial(validation.row_index, given, self.n_rows, who, name)
        index: Order = self.memo(("index", id(given)), make)
        return index

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made under this key, or make it."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def _index(given: Any, shared: Shared, i: int, name: str) -> Order | None:
    return None if given is None else shared.index(given, _who(i), name)


def _who(i: int) -> str:
    return f"{WHO}: nets[{i}]"


def _integers(given: Any, name: str, n: int) -> list[int]:
    """Return one integer per net, from one for all or from a sequence."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        return [scalars.positive_integer(WHO, name, given)] * n
    numbers = list(given)
    _as_many(numbers, name, n)
    return [scalars.positive_integer(WHO, f"{name}[{i}]", k) for i, k in enumerate(numbers)]


def _numbered(given: Any, name: str, n: int) -> Iterable[tuple[int, Any]]:
    return enumerate(_each(given, name, n))


def _each(given: Any, name: str, n: int) -> list[Any]:
    """Return one array or None per net, from one for all or from a sequence of them."""
    if not isinstance(given, Sequence) and not (isinstance(given, np.ndarray) and given.ndim):
        return [given] * n
    if len(given) == 0 or (np.ndim(given[0]) == 0 and given[0] is not None):
        return [given] * n
    parts = list(given)
    _as_many(parts, name, n)
    return parts


def _as_many(given: Sequence[Any], name: str, n: int) -> None:
    if len(given) != n:
        raise ValueError(f"{WHO}: there are {n} nets, but {name} has {len(given)} entries")


def _one_at_a_time(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks, of which never two run at once."""
    lock = threading.Lock()

    def locked(callback: Callback, report: Report) -> None:
        with lock:
            callback(report)

    return [partial(locked, callback) for callback in callbacks]


def _train(
    jobs: list[Job],
    shuffle: bool,
    callbacks: Sequence[Callback],
    progress: bool,
    n_threads: int | None,
) -> list[History]:
    """Train all nets; each is locked against another fit meanwhile."""
    pool = pool_of(n_threads)
    with ExitStack() as stack:
        for i, job in enumerate(jobs):
            stack.enter_context(job.core.state.lock.training(_who(i)))
        bar = stack.enter_context(_bar(jobs, progress))
        fits = [_fit(job, shuffle, callbacks, bar) for job in jobs]
        how = {"shuffle": shuffle, "watched": bool(callbacks), "bar": bar}
        outcomes = _outcomes(pool, jobs, fits, how)
    for i, outcome in enumerate(outcomes):
        for message, category in outcome.warnings if outcome else ():
            warn(f"{_who(i)}: {message}", category)
    if pool.interrupted:
        return _interrupted(outcomes)
    return _histories(outcomes)


def _histories(outcomes: Sequence[Outcome | None]) -> list[History]:
    return [out.result if out else History(status=Status.INTERRUPTED) for out in outcomes]


def _interrupted(outcomes: Sequence[Outcome | None]) -> list[History]:
    """Return the histories of what Ctrl-C ended, and warn."""
    histories = _histories(outcomes)
    done = sum(history.status is not Status.INTERRUPTED for history in histories)
    begun = sum(outcome is not None for outcome in outcomes)
    warn(
        f"{WHO} interrupted: {done} of {len(histories)} nets are done, {begun - done} keep what "
        "they have learnt so far, and the others are as they were",
        UserWarning,
    )
    return histories


def _outcomes(
    pool: Pool, jobs: list[Job], fits: list[Fit], how: dict[str, Any]
) -> list[Outcome | None]:
    """Do the fits, those on the CPU in the pool, those on each GPU beside it."""
    on_cpu = [i for i, job in enumerate(jobs) if job.core.engine.queue is None]
    queues = queues_of(jobs, fits, **how)
    tasks = [Task(jobs[i].cost, fits[i], f"nets {i}") for i in on_cpu]
    ended = pool.run([*tasks, *(queue.task for queue in queues)])
    found = dict(zip(on_cpu, ended, strict=False))
    for queue in queues:
        found |= queue.outcomes
    return [found.get(i) for i in range(len(jobs))]


def _fit(job: Job, shuffle: bool, callbacks: Sequence[Callback], bar: "Bar | None") -> Fit:
    """Return a function that trains a net as its own fit does."""

    def fit() -> History:
        check()
        request = FitRequest(
            job.data,
            job.epochs,
            job.batch_size,
            shuffle=shuffle,
            held_out=job.held_out,
            callbacks=callbacks,
            progress=False if bar is None else bar,
            net=job.net,
        )
        loop.fit(*job.core, request)
        history = request.history
        if bar is not None:
            bar.net_ends(job.epochs - len(history.loss))
        return history

    return fit


class Bar:
    """One bar for all nets: what a loop asks of its own."""

    def __init__(self, bar: Any, n_nets: int) -> None:
        self._bar, self._n_nets, self._n_done = bar, n_nets, 0
        self._lock = threading.Lock()
        self._tell()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, n_epochs: int) -> None:
        """Count epochs that are done."""
        with self._lock:
            self._bar.update(n_epochs)

    def net_ends(self, n_epochs: int) -> None:
        """Count a net that is done, so many epochs before its time."""
        with self._lock:
            self._n_done += 1
            self._tell()
            self._bar.update(n_epochs)

    def set_postfix(self, **numbers: Any) -> None:
        """Losses of different nets are not to be compared."""

    def _tell(self) -> None:
        self._bar.set_postfix_str(f"{self._n_done} of {self._n_nets} nets", refresh=False)


def _bar(jobs: list[Job], progress: bool) -> AbstractContextManager[Any]:
    """Return a bar over the epochs of all nets, or nothing, to be used in a with statement."""
    if not progress:
        return nullcontext()
    return Bar(new_bar(sum(job.epochs for job in jobs), 0, WHO), len(jobs))
