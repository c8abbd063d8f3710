"""Compiling ahead: all of the library's blocks, into the disk cache or for a wheel.

``python -m fastmlp.warmup`` writes a wheel's code for this processor's level,
with the name of an architecture for all its levels.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np

from fastmlp.backends import shuffle
from fastmlp.backends.cpu import dispatch, second_order, side_by_side, team, worker_pool
from fastmlp.backends.cpu.evaluation import curvature_loop
from fastmlp.backends.cpu.kernels import epoch, step
from fastmlp.backends.cpu.kernels.elementwise import link_loop
from fastmlp.backends.cpu.kernels.rule_blocks import (
    every_loss,
    every_pair_block,
    every_phase,
    every_rule,
    loss_options,
)
from fastmlp.backends.cpu.predict import (
    embedded,
    embedded_steps,
    embedded_tables,
    jacobian,
    row_blocks,
    row_stages,
    small_batch,
    trees,
)
from fastmlp.compiler import INTERPRETED, Key, block_of, cache
from fastmlp.compiler.cache import CODE_SUFFIX, library, pack, shipped
from fastmlp.compiler.target import BFMMLA, SHIPPED_NAMES, Host, level, target
from fastmlp.network import resolve, spec
from fastmlp.network.spec import ComputeDType
from fastmlp.rules.losses import takes_whole_rows
from fastmlp.tabular import compiled as tables
from fastmlp.validation import scalars

# Factories of blocks of a net's dtype, beside factories of phases and rules.
_OF_NETS = (
    epoch.evaluate, epoch.predict, step.objective, epoch.take_quick_step, step.exchange,
    step.train_alone, side_by_side.check_rows, side_by_side.predict_rows, embedded.single_row,
    embedded.completed_row, embedded.completed_gradient, embedded_steps.plain_vjp,
    jacobian.row_gradient, jacobian.deltas_to_inputs, jacobian.jacobian_in_lanes,
    embedded_steps.fill_gaps, row_stages.row_stages,
    jacobian.add_skip,
    row_blocks.predict_blocks, row_blocks.rows_in_lanes, row_blocks.rows_in_tiles,
    small_batch.pack_net, small_batch.predict_small, small_batch.row_by_row,
    small_batch.small_batch,
)  # fmt: skip
# Factories of blocks of int64: shuffled orders, teams of threads, groups of nets.
_OF_INTEGERS = (
    shuffle.shuffle, shuffle.shuffle_again, team.enter, team.lead, team.share_iterations,
    worker_pool.launch, worker_pool.serve, side_by_side.predict_nets, side_by_side.step_nets,
    worker_pool.lead_call,
)  # fmt: skip
# Factories of blocks of float64: calibration, second order, trees, models of tables.
_OF_FLOAT64 = (
    dispatch.calibrate, second_order.cholesky, second_order.gauss_newton,
    second_order.derived_gauss_newton, trees.tree_sums, embedded_tables.row_entry,
    *tables.FACTORIES,
)  # fmt: skip


def warmup(
    dtypes: Sequence[str] = ("float32", "float64"),
    compute_dtype: ComputeDType | None = None,
    report: Callable[[str], Any] | None = None,
) -> float:
    """Compile every kernel and rule, for later programs to load from the cache.

    Code in the cache is loaded in a fraction of a second. User-defined rules are not
    cached.

    Parameters
    ----------
    dtypes : sequence of str, default ("float32", "float64")
        Dtypes to compile for.
    compute_dtype : "bfloat16", optional
        Compile for mixed precision too, with "float32" among `dtypes`.
    report : callable, optional
        Called with a line of text before each part, such as `print`.

    Returns
    -------
    float
        The duration in seconds.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.
    KeyboardInterrupt
        On Ctrl-C. Compiled code stays in the cache.

    Examples
    --------
    >>> from fastmlp.warmup import warmup
    >>> seconds = warmup(dtypes=["float32"])  # doctest: +SKIP
    """
    # A str is a sequence too, and some of its letters name dtypes.
    if isinstance(dtypes, str) or not isinstance(dtypes, Iterable):
        raise TypeError(f"warmup: dtypes must be a sequence of dtypes, got {dtypes!r}")
    kinds = [resolve.dtype(dtype).name for dtype in dtypes]
    if compute_dtype is not None:
        scalars.known(
            "warmup",
            "compute_dtype",
            compute_dtype,
            spec.COMPUTE_DTYPES,
            spec.DTYPE_SYNONYMS,
        )
        if "float32" not in kinds:
            needed = (
                f"warmup: compute_dtype={compute_dtype!r} needs 'float32' among dtypes"
            )
            raise ValueError(f"{needed}, got {kinds}")
    say = report or (lambda line: None)
    start = time.perf_counter()
    for part, keys in every_block(kinds, paired=compute_dtype is not None).items():
        say(part)
        _compile(keys)
    if not INTERPRETED:
        from fastmlp.backends.cpu.predict.embedded import SIGNATURES, c_function

        say("nets inside compiled code")
        for kind in (*kinds, *SIGNATURES):
            c_function(kind)
    return time.perf_counter() - start


def fill_cache(*, shared: bool = False, **settings: Any) -> tuple[float, str]:
    """Compile by `warmup`; return the seconds, and the folder of the cache.

    With `shared` other users can read the cache.
    OSError is raised without a folder, or if some code could not be kept.
    """
    if (folder := cache.folder()) is None:
        reason = cache.find()[1]
        raise OSError(
            f"warmup has no cache folder to keep code in; the cache is {reason}"
        )
    if shared:
        cache.let_all_read()
    cache.failures.clear()
    seconds = warmup(**settings)
    if cache.failures:
        raise OSError(f"warmup could not keep all code: {cache.failures[-1]}")
    return seconds, str(folder)


def _compile(keys: Iterable[Key]) -> None:
    for factory, dtype, rule, options in keys:
        block_of(factory, dtype, rule, **options)


def every_block(dtypes: Iterable[str], *, paired: bool = True) -> dict[str, list[Key]]:
    """Arguments of `block_of` for all that the library compiles,
    for nets of these dtypes.
    """
    wide = np.dtype(np.float64)
    blocks = dict[str, list[Key]]()
    blocks["teams, orders and groups"] = [
        (f, np.dtype(np.int64), None, {}) for f in _OF_INTEGERS
    ]
    for name in dtypes:
        dtype = np.dtype(name)
        kernels = (
            *every_phase(dtype),
            *((factory, dtype, None, {}) for factory in _OF_NETS),
        )
        blocks[f"{name}: kernels"] = list(kernels)
        blocks[f"{name}: rules"] = list(every_rule(dtype))
    blocks["second order, links and tables"] = [
        *((factory, wide, None, {}) for factory in _OF_FLOAT64),
        *(key for key in every_rule(wide) if key[0] is link_loop),
        *_every_curvature(wide),
        (embedded_tables.table_row, np.dtype(np.float32), None, {}),
    ]  # fmt: skip
    if paired:
        blocks["products of bfloat16"] = list(every_pair_block())
    return blocks


def _every_curvature(dtype: np.dtype[Any]) -> Iterator[Key]:
    for loss in every_loss():
        if loss.curvature:
            options = loss_options(loss, dtype)[0]
            yield curvature_loop, dtype, loss.curvature, options
            if not takes_whole_rows(loss):
                weighted = {**options, "weighted": True}
                yield curvature_loop, dtype, loss.curvature, weighted


def build(levels: Iterable[Host]) -> None:
    """Write a wheel's code for levels of processors, unless it exists.

    Compiled code is not run: levels may differ from this processor's.
    """
    code = "from fastmlp.warmup import compile_part; compile_part({}, {})"
    n = min(os.cpu_count() or 1, 4)
    for host in levels:
        with tempfile.TemporaryDirectory() as folder:
            settings = {
                "FASTMLP_TARGET": " ".join(host), "NUMBA_CACHE_DIR": folder,
                "FASTMLP_PREBUILT": "0", "FASTMLP_CACHE": "",
            }  # fmt: skip
            name = SHIPPED_NAMES[host]
            if not shipped(name):
                commands = ([sys.executable, "-c", code.format(i, n)] for i in range(n))
                running = [
                    Popen(command, env=os.environ | settings) for command in commands
                ]
                codes = [process.wait() for process in running]
                if any(codes):
                    raise OSError(f"the code for {name} could not be compiled")
                pack(Path(folder).rglob("*" + CODE_SUFFIX), library(name))


def compile_part(first: int, step: int) -> None:
    """Compile one of `step` parts of all blocks: every `step`-th from `first` on.

    The level of bfmmla differs from the one below in blocks of pairs alone.
    """
    every = [
        key
        for keys in every_block(("float32", "float64")).values()
        for key in keys
        if target() != BFMMLA or "pairs" in key[3]
    ]
    _compile(every[first::step])


def levels_of(machine: str) -> list[Host]:
    """The levels of an architecture; without its name this processor's."""
    here = level()
    if machine:
        return [each for each in SHIPPED_NAMES if each.machine == machine]
    if here:
        return [here]
    return []


if __name__ == "__main__":
    build(levels_of(*sys.argv[1:]) if sys.argv[1:] else levels_of(""))
