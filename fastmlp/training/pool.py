"""Many fits at once: the estimated cost of each, and the pool that runs them."""

from fastmlp._process.task_pool import Pool, share
from fastmlp.backends import devices
from fastmlp.network.spec import Layout

# Estimates in operations at full speed: the start of a fit, a step beside its arithmetic, an
# element of a layer's outputs, a parameter's update. They only order the fits of a pool.
FIT_FLOPS, STEP_FLOPS, OUTPUT_FLOPS, UPDATE_FLOPS = 50_000_000, 50_000, 60, 40


def pool_of(n_threads: int | None) -> Pool:
    """Return a pool of `n_threads` threads; None: as many as this thread may use."""
    return Pool(n_threads_of(n_threads))


def n_threads_of(n_threads: int | None) -> int:
    """Return the number of threads; None: as many as this thread may use."""
    return share() or devices.thread_limit() if n_threads is None else int(n_threads)


def cost_of(layout: Layout, n_rows: int, epochs: int, batch_size: int) -> float:
    """Return a fit's estimated time, in operations at full speed."""
    steps = epochs * -(-n_rows // batch_size)
    by_row = 6 * layout.n_weights + OUTPUT_FLOPS * sum(layout.sizes[1:])
    by_step = STEP_FLOPS + UPDATE_FLOPS * layout.n_parameters
    return float(FIT_FLOPS + epochs * n_rows * by_row + steps * by_step)
