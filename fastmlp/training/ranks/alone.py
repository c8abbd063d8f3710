"""A fit of one process: nothing to exchange, nothing to agree on."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp._process.random_state import shuffling_words
from fastmlp.backends.protocol import Data, Engine
from fastmlp.data.feed import Feed
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.training.loop import ByBuffers, Request
from fastmlp.training.metrics import Metrics, OnePass, Validation
from fastmlp.training.options import FitOptions
from fastmlp.training.rows import FitRows, RawRows, by_buffers, split_rows_of
from fastmlp.validation import frames

T = TypeVar("T")
NOTHING = nullcontext()


class Alone:
    """A fit without other ranks; `Together` has the same methods for several."""

    def ending_together(self) -> AbstractContextManager[None]:
        """A context in which an error of one rank ends all."""
        return NOTHING

    def agreeing(self) -> AbstractContextManager[None]:
        """A context in which an error of one rank is raised on all."""
        return NOTHING

    def agree_on(self, options: FitOptions, network: Network, state: NetState) -> None:
        """Check that all ranks begin the same fit."""

    def rows(
        self,
        engine_of: Callable[[], Engine[Any]],
        raw: RawRows,
        options: FitOptions,
        names: frames.Names,
    ) -> tuple[Engine[Any], FitRows]:
        """The engine, and this rank's rows of a fit, checked.

        Raises
        ------
        TypeError, ValueError, ImportError
            If the rows are not valid for the net or the options.
        """
        engine = engine_of()
        rows = split_rows_of(engine, raw, options, names)
        options.check_rows(engine.network, rows.held_out, options.who)
        return engine, rows

    def options(self, options: FitOptions, state: NetState) -> FitOptions:
        """The options of this rank: rank 0 alone has a clock, a bar and callbacks."""
        return options

    def buffered(
        self, request: Request, feed: Feed | None, engine: Engine[Any], state: NetState
    ) -> ByBuffers | None:
        """The way of a fit over all buffers of a feed; None if all rows are in memory.

        Raises
        ------
        ValueError
            If a schedule needs the number of steps, and it is not known.
        """
        return by_buffers(request, feed, engine, state)

    def n_rows(self, n: int) -> int:
        """The number of rows of all ranks, of which this one has n."""
        return n

    def trainer_options(self, average_every: int | None) -> Mapping[str, Any]:
        """Options of `Engine.trainer`."""
        return {}

    def checkpoint_settings(self, average_every: int | None) -> Mapping[str, Any]:
        """Fields of a checkpoint's `FitSettings`."""
        return {}

    def draw(self, generator: np.random.Generator, n_orders: int, n: int) -> NDArray[np.uint32]:
        """The random words of orders of this rank's n rows, shape (n_orders, n)."""
        return shuffling_words(generator, n_orders, n)

    def new_validation(self, engine: Engine[Any], held_out: Data, metrics: Metrics) -> Validation:
        """The validation of all ranks' rows."""
        return OnePass(engine, held_out, metrics)

    def of_first(self, flag: bool) -> bool:
        """The flag of rank 0."""
        return flag

    def warning(self) -> AbstractContextManager[Any]:
        """A context in which rank 0 alone warns."""
        return NOTHING

    def joined(self, digests: dict[str, str]) -> dict[str, str]:
        """Digests of all ranks' rows, from those of this one."""
        return digests

    def resumed(self, resume: Callable[[], T], state: NetState) -> T:
        """The result of a function that rank 0 calls; all take the state that it leaves there."""
        return resume()

    def interrupted(self, error: BaseException) -> None:
        """Raise Ctrl-C again on several ranks: it ends all."""


ALONE = Alone()
