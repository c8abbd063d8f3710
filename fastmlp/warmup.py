"""Compiling ahead: every kernel and every rule into the disk cache."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from fastmlp._process import warnings
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.kernels.rule_blocks import compile_others, compile_paired, link_block
from fastmlp.backends.cpu.predict.embedded import completed_gradient, completed_row
from fastmlp.backends.cpu.predict.embedded_calls import SIGNATURES, c_function
from fastmlp.backends.cpu.predict.embedded_tables import table_row
from fastmlp.backends.cpu.predict.predictor import Prediction
from fastmlp.backends.cpu.threads import worker_pool
from fastmlp.backends.cpu.tuning import (
    BLOCK_BYTES,
    GIL_LANE_PRODUCTS,
    GIL_ROWS,
    ONE_BY_ONE,
)
from fastmlp.backends.shuffle import shuffle_again
from fastmlp.compiler import INTERPRETED, block_of, cache
from fastmlp.export import jit
from fastmlp.export.derivatives import jacobian
from fastmlp.model import MLP, core_of
from fastmlp.network import resolve, spec
from fastmlp.network.spec import ComputeDType
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.links import LINKS
from fastmlp.rules.losses import LOSSES, SKLEARN_LOSSES
from fastmlp.rules.optimizer_protocol import Optimizer
from fastmlp.rules.optimizers import OPTIMIZERS, SGD
from fastmlp.rules.updates import PENALTIES
from fastmlp.training.history import Status
from fastmlp.validation import scalars

WIDTH = 2


def warmup(
    dtypes: Sequence[str] = ("float32", "float64"),
    compute_dtype: ComputeDType | None = None,
    report: Callable[[str], Any] | None = None,
) -> float:
    """Compile every kernel and every rule, so that later programs load them from the code cache.

    Code that is in the cache is loaded, in a fraction of a second. User-defined rules are not
    cached. Each process compiles them.

    Parameters
    ----------
    dtypes : sequence of str, default ("float32", "float64")
        The dtypes to compile for.
    compute_dtype : "bfloat16", optional
        Compile for mixed precision too. It needs "float32" among `dtypes`.
    report : callable, optional
        Called with a line of text before each part, for example `print`.

    Returns
    -------
    float
        The seconds that it took.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value. Nothing has been compiled then.
    KeyboardInterrupt
        On Ctrl-C. Compiled code stays in the cache.

    Examples
    --------
    >>> from fastmlp.warmup import warmup
    >>> seconds = warmup(dtypes=["float32"])  # doctest: +SKIP
    """
    # The letters of a single str name dtypes too.
    if isinstance(dtypes, str) or not isinstance(dtypes, Iterable):
        raise TypeError(f"warmup: dtypes must be a sequence of dtypes, got {dtypes!r}")
    kinds = [resolve.dtype(dtype).name for dtype in dtypes]
    if compute_dtype is not None:
        scalars.known("warmup", "compute_dtype", compute_dtype, spec.KNOWN, spec.SYNONYMS)
        if "float32" not in kinds:
            needed = f"warmup: compute_dtype={compute_dtype!r} needs 'float32' among dtypes"
            raise ValueError(f"{needed}, got {kinds}")
    say = report or (lambda line: None)
    start = time.perf_counter()
    block_of(shuffle_again, np.int64)
    for dtype in kinds:
        for part, nets in _parts(dtype):
            say(f"{dtype}: {part}")
            for net in nets:
                _exercise(net)
        say(f"{dtype}: blocks for wide nets, large batches and sparse rows")
        _exercise_wide(dtype)
        say(f"{dtype}: nets inside compiled code, derivatives")
        _embed(dtype)
        compile_others(np.dtype(dtype))
    if compute_dtype is not None:
        say(f"float32: products of {compute_dtype}")
        compile_paired(np.dtype(np.float32))
    if not INTERPRETED:
        say("parallel kernels")
        worker_pool.compile_all()
        dispatch.calibration_driver()
    return time.perf_counter() - start


def fill_cache(*, shared: bool = False, **settings: Any) -> tuple[float, str]:
    """Compile by `warmup`; return the seconds, and the folder of the cache that keeps the code.

    Parameters
    ----------
    shared : bool, default False
        Let other users read the cache.
    settings : of `warmup`

    Raises
    ------
    OSError
        If there is no folder, or not all code could be kept.
    """
    if (folder := cache.folder()) is None:
        reason = cache.find()[1]
        raise OSError(f"warmup has no cache folder to keep code in; the cache is {reason}")
    if shared:
        cache.share()
    cache.failures.clear()
    seconds = warmup(**settings)
    if cache.failures:
        raise OSError(f"warmup could not keep all code: {cache.failures[-1]}")
    return seconds, str(folder)


def _parts(dtype: str) -> list[tuple[str, list[MLP]]]:
    every = [WIDTH] * (len(ACTIVATIONS) + 2)
    penalties = dict.fromkeys(PENALTIES, 1e-4)
    losses = [*LOSSES.values(), *SKLEARN_LOSSES.values()]
    of_losses = [_net(dtype, (WIDTH, WIDTH, WIDTH * loss.per_target), loss=loss) for loss in losses]
    return [
        ("kernels", [_net(dtype)]),
        ("activations", [_net(dtype, every, activation=list(ACTIVATIONS))]),
        ("losses and links", of_losses),
        ("penalties", [_net(dtype, penalties=penalties)]),
        ("optimizers", [_net(dtype, optimizer=each) for each in _optimizers()]),
        ("optimizers with a penalty", [_net(dtype, **pair) for pair in _penalised()]),
    ]


def _net(dtype: str, sizes: Sequence[int] = (WIDTH, WIDTH, WIDTH), **settings: Any) -> MLP:
    return MLP(sizes, dtype=np.dtype(dtype), seed=0, n_threads=1, **settings)


def _exercise_wide(dtype: str) -> None:
    """Predict with a wide net, and take a step too long to hold the GIL."""
    width = 1 + BLOCK_BYTES // (WIDTH * np.dtype(dtype).itemsize)
    sizes, rules = [WIDTH, width, *[WIDTH] * len(ACTIVATIONS), 1], ["relu", *ACTIVATIONS]
    net = _net(dtype, sizes, activation=rules, initializer="zeros")
    x, engine = np.ones((ONE_BY_ONE + 1, WIDTH), dtype), cast(Any, core_of(net).engine)
    net.predict(x)
    # Sparse and expanded rows go by panels.
    Prediction(engine, engine.network)(net.parameters, x, np.empty((len(x), 1), dtype))
    n_rows, n = ONE_BY_ONE + 1, 256
    net = _net(dtype, (n, 1 + GIL_LANE_PRODUCTS // (n * n_rows), 1), initializer="zeros")
    for _ in range(2):
        net.train_on_batch(np.ones((n_rows, n), dtype), np.ones((n_rows, 1), dtype))


def _embed(dtype: str) -> None:
    net = _net(dtype, optimizer=SGD())
    for batch_size in (1, WIDTH):
        # The deltas of one row have a block.
        with jit.learner(net, batch_size=batch_size):
            pass
    jacobian(net, np.eye(WIDTH))
    for block in (completed_row, completed_gradient):
        block_of(block, np.dtype(dtype))
    for link in LINKS.values():
        link_block(link, np.dtype(np.float64))  # means of estimators' predictions
    block_of(table_row, np.dtype(np.float32))
    if not INTERPRETED:
        for kind in (dtype, *SIGNATURES):
            c_function(kind)


def _optimizers() -> Iterator[Optimizer]:
    for kind in OPTIMIZERS.values():
        yield kind()
    yield SGD(momentum=0.9)
    yield SGD(momentum=0.9, nesterov=True)


def _penalised() -> Iterator[dict[str, Any]]:
    for kind in OPTIMIZERS.values():
        for name in PENALTIES:
            yield {"optimizer": kind(), "penalties": {name: 1e-4}}


def _exercise(net: MLP) -> None:
    """Call each compiled entry point once, with targets that every loss takes."""
    X, y = np.eye(WIDTH), (np.eye(WIDTH) + 1) / (WIDTH + 1)
    with warnings.collected():  # and dropped with the net
        # A batch of all rows would not be shuffled.
        history = net.fit(X, y, epochs=1, batch_size=WIDTH - 1, validation_data=(X, y))
    if history.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    net.predict(np.repeat(X, GIL_ROWS, axis=0))
    # One row has another path, and a faster one from the second call on.
    for _ in range(2):
        net.predict(X[:1])
    _, gradient = net.loss_and_gradient(X, y)
    net.apply_gradient(gradient)
    x, table = X.astype(net.dtype), y.astype(net.dtype)
    for _ in range(2):
        # The second step is one compiled call.
        net.train_on_batch(x, table)
        net.train_on_gradient(x, np.zeros((WIDTH, net.layer_sizes[-1]), net.dtype))
