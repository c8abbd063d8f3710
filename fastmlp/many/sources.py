"""Many nets over one source: each buffer goes to all of them before the next is read."""

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastmlp._process import task_pool
from fastmlp.data.arrow import is_table, paths_of
from fastmlp.data.feed import Feed
from fastmlp.data.rows import Rows
from fastmlp.data.sources import has_blocks, is_source
from fastmlp.many.tasks import WHO, Job, each_integer, who
from fastmlp.model import MLP, Core, core_of
from fastmlp.training.options import FitOptions
from fastmlp.training.rows import RawRows, rows_of
from fastmlp.validation import Names, unnamed
from fastmlp.validation.suggestions import listed

# Seconds that a wait lasts at a time.
LOOK_SECONDS = 0.1


def is_over_source(X: Any, y: Any, validation_data: Any, parts: Mapping[str, Any]) -> bool:
    """Return True if X is to be a source; `parts` are arguments that go with arrays.

    Raises
    ------
    TypeError
        If the arguments do not go together.
    """
    unnamed(y, WHO)
    if y is not None and not has_blocks(X):
        if validation_data is not None:
            raise TypeError(f"{WHO}: validation_data is for a source; use validation_rows, indices")
        return False
    if y is None and not is_source(X) and not is_table(X) and paths_of(X) is None:
        raise TypeError(
            f"{WHO}: missing 1 required argument: 'y'; call {WHO}(nets, X, y), or {WHO}(nets, "
            f"source), with a source such as Blocks; got X of type {type(X).__name__}"
        )
    for name, given in parts.items():
        if given is not None:
            advice = "validation_data" if name.startswith("validation") else f"no {name}"
            raise TypeError(f"{WHO}: {name} is for arrays; with a source give {advice}")
    return True


def jobs_over(
    nets: Sequence[MLP],
    rows: tuple[Any, Any],
    validation_data: Any,
    options: FitOptions,
    sizes: tuple[Any, Any],
) -> tuple[list[Job], Feed | None]:
    """Return each net's job over a source, and the feed of its first buffer.

    Parameters
    ----------
    rows : the source, and y, which must be None
    options : FitOptions, but for epochs and batch size
    sizes : epochs and batch size, each one number or one for each net

    Raises
    ------
    TypeError, ValueError, ImportError
        If an argument is not what it must be.
    """
    epochs = each_integer(sizes[0], "epochs", len(nets))
    batches = each_integer(sizes[1], "batch_size", len(nets))
    if not nets:
        return [], None
    cores = [core_of(net) for net in nets]
    forms = []
    for i, core in enumerate(cores):
        network = core.engine.network
        first, last = network.layout.sizes[0], network.layout.sizes[-1]
        forms.append((first, last, network.dtype, network.loss.targets, network.loss.per_target))
        if core.engine.queue is not None:
            raise ValueError(f"{who(i)} is on a GPU: with a source use its own fit")
        if forms[i] != forms[0]:
            raise ValueError(
                f"{who(i)} has other inputs, outputs, targets or another dtype than nets[0]: with "
                "a source make a call for each kind"
            )
    # Whole batches of each net.
    options = replace(options, epochs=max(epochs), batch_size=math.lcm(*batches))
    raw = RawRows(*rows, None, validation_data)
    feed, data, held_out, names = rows_of(cores[0].engine, raw, options, _names_of(cores))
    assert feed is not None
    each = zip(nets, cores, epochs, batches, strict=True)
    jobs = [
        Job(net, core, data, held_out, n_epochs, min(size, data.n_rows), names, i)
        for i, (net, core, n_epochs, size) in enumerate(each)
    ]
    return jobs, feed


def _names_of(cores: Sequence[Core]) -> Names:
    """Return the names of columns that nets know, which must be the same in all that know some."""
    first: Names = None
    for i, core in enumerate(cores):
        its = core.state.feature_names
        if its is not None and first is not None and its != first:
            raise ValueError(
                f"{who(i)} has the feature_names {listed([*its])}, and nets before it have "
                f"{listed([*first])}: with a source make a call for each kind"
            )
        first = first or its
    return first


class SharedFeed:
    """A feed for many fits, each in a thread of its own, that share some cores.

    Parameters
    ----------
    feed : Feed
    n_fits : int, which all take `part`
    n_threads : int, how many of them train at once
    """

    def __init__(self, feed: Feed, n_fits: int, n_threads: int) -> None:
        self._feed, self._cores = feed, threading.Semaphore(n_threads)
        self._changed = threading.Condition()
        self._number = self._waiting = 0
        self._active, self._starts = n_fits, True

    def part(self) -> "Part":
        """Return the feed of one fit."""
        return Part(self, self._feed)

    def close(self) -> None:
        """End the reading."""
        self._feed.close()

    def enter(self) -> None:
        """Begin a fit: wait for a core."""
        with self._changed:
            if self._starts:
                self._feed.start(0)
            self._starts = False
        self._take_core()

    def leave(self) -> None:
        """End a fit that has a core."""
        self._cores.release()
        with self._changed:
            self._active -= 1
            self._changed.notify_all()

    def advance(self) -> None:
        """Wait until all fits are here; the last one reads the next buffer."""
        self._cores.release()
        with self._changed:
            number, self._waiting = self._number, self._waiting + 1
            while self._number == number:
                if self._waiting == self._active:
                    self._waiting = 0
                    self._feed.next()
                    self._number += 1
                    self._changed.notify_all()
                else:
                    self._changed.wait(LOOK_SECONDS)
                    task_pool.check()
        self._take_core()

    def _take_core(self) -> None:
        while not self._cores.acquire(timeout=LOOK_SECONDS):
            task_pool.check()


class Part:
    """What one fit sees of a `SharedFeed`: a `Buffers`."""

    is_whole = False

    def __init__(self, shared: SharedFeed, feed: Feed) -> None:
        self._shared, self._feed, self._has_core = shared, feed, False
        self.n_rows = feed.n_rows

    @property
    def rows(self) -> Rows:
        """The rows of the current buffer."""
        return self._feed.rows

    @property
    def ends(self) -> bool:
        """True if an epoch ends with it."""
        return self._feed.ends

    def start(self, epoch: int) -> None:
        """Begin the fit."""
        self._shared.enter()
        self._has_core = True

    def next(self) -> None:
        """Go on to the next buffer, with all other fits."""
        self._has_core = False
        self._shared.advance()
        self._has_core = True

    def close(self) -> None:
        """End the fit."""
        if self._has_core:
            self._shared.leave()
        self._has_core = False
