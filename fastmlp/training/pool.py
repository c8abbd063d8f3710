"""Many fits at once: about how long each takes, and the threads that run them."""

from fastmlp._process.task_pool import Pool, share
from fastmlp.backends import protocol
from fastmlp.network.parameter_layout import Layout

# A fit in operations at full speed: to begin, a step beside its arithmetic, an element of a layer's
# outputs, and a parameter's update. They order the fits of a pool, no more.
FIT_FLOPS, STEP_FLOPS, OUTPUT_FLOPS, UPDATE_FLOPS = 50_000_000, 50_000, 60, 40


def pool_of(n_threads: int | None) -> Pool:
    """Return a pool of so many threads; None: of as many as are free to this thread."""
    return Pool(share() or protocol.thread_limit() if n_threads is None else int(n_threads))


def cost_of(layout: Layout, n_rows: int, epochs: int, batch_size: int) -> float:
    """Return about how long a fit takes, in operations at full speed."""
    steps = epochs * -(-n_rows // batch_size)
    by_row = 6 * layout.n_weights + OUTPUT_FLOPS * sum(layout.sizes[1:])
    by_step = STEP_FLOPS + UPDATE_FLOPS * layout.n_parameters
    return float(FIT_FLOPS + epochs * n_rows * by_row + steps * by_step)
