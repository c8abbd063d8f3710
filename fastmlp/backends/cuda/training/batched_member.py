"""One net of a batched fit: the net, its rows and generator, and its progress."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process.locks import NetLock
from fastmlp._process.random_state import shuffling_words
from fastmlp.backends.cuda.training.optimizer_state import Moments
from fastmlp.backends.protocol import MemberOutcome
from fastmlp.backends.shuffle import orders_of
from fastmlp.network.spec import Network
from fastmlp.rules.dropout import Key, numbers_of
from fastmlp.rules.groups import groups_of
from fastmlp.rules.optimizers import Optimizer, coefficients_of
from fastmlp.rules.schedules import rates_of

Array = NDArray[Any]
Words = NDArray[np.uint32]
NO_WORDS: Words = np.empty(0, np.uint32)


class BatchedMember(NamedTuple):
    """One net of a batched fit.

    Attributes
    ----------
    parameters : flat, on the host; written at the end
    generator : of the shuffling
    n_steps : steps done before
    rows : int64, the rows of X and y in use, or None for all
    weight : shape (n_rows,), of all rows of X, or (0,) for rows that count alike
    lock : NetLock, held while all parameters are written; None: no other thread reads them
    averaged_from : the step after which the optimizer's average counts
    key : of dropout and noise, where the network has them
    """

    network: Network
    parameters: Array
    moments: Moments
    optimizer: Optimizer
    generator: np.random.Generator
    n_steps: int = 0
    rows: NDArray[np.int64] | None = None
    weight: Array = np.empty(0)
    lock: NetLock | None = None
    averaged_from: int = 0
    key: Key | None = None


class MemberFit:
    """The progress of one net.

    Attributes
    ----------
    rows : int64, the rows in use
    batch : rows of a batch
    per_epoch : steps of an epoch
    unit, end : steps of the window that are done, and all of its steps
    """

    member: BatchedMember
    outcome: MemberOutcome
    rows: NDArray[np.int64]
    batch: int
    per_epoch: int
    unit: int
    end: int

    def __init__(
        self, member: BatchedMember, outcome: MemberOutcome, n_rows: int, batch_size: int
    ) -> None:
        self.member, self.outcome = member, outcome
        rows = member.rows
        self.rows = np.arange(n_rows, dtype=np.int64) if rows is None else rows
        self.batch = min(batch_size, len(self.rows))
        self.per_epoch = -(-len(self.rows) // self.batch)
        self.unit = self.end = self._start = 0
        # The generator's state before this window's words; state and words of the next window.
        self._random: Any = None
        self._ahead: tuple[Any, Words] | None = None

    @property
    def alive(self) -> bool:
        """True if the net has not diverged."""
        return self.outcome.diverged_at is None

    def begin(self, n_epochs: int, shuffle: bool) -> Words:
        """Begin a window; return the random words of its orders, empty for rows in their order."""
        self.unit, self._start = 0, self.outcome.n_steps
        self.end = n_epochs * self.per_epoch if self.alive else 0
        self._shuffled = shuffle and self.batch < len(self.rows)
        self.draw_ahead(n_epochs)
        (self._random, words), self._ahead = self._ahead or (None, NO_WORDS), None
        return words

    def draw_ahead(self, n_epochs: int) -> None:
        """Draw the words of the next window, unless they are drawn."""
        if self._ahead is None and self.alive and self._shuffled and n_epochs:
            self._ahead = self.member.generator.bit_generator.state, self._draw(n_epochs)

    def undo_draw(self) -> None:
        """Reset the generator to its state before words that no window has used."""
        if self._ahead is not None:
            self.member.generator.bit_generator.state, self._ahead = self._ahead[0], None

    def _draw(self, n_epochs: int) -> Words:
        return shuffling_words(self.member.generator, n_epochs, len(self.rows))

    def order(self, words: Words) -> NDArray[np.int64]:
        """Return the orders of the words, or the rows in their order, shape (n_orders, n_rows)."""
        return self.rows[orders_of(words)] if words.size else self.rows[None]

    def coefficients(self, last: int, total: int) -> Array:
        """Return the optimizer's coefficients for steps `unit` to `last`, shape (n_steps, n)."""
        optimizer, step = self.member.optimizer, self._start + self.unit
        steps = np.arange(step, self._start + last)
        rate = optimizer.learning_rate
        rates = validation.rates(rates_of(rate, steps, total), len(steps), rate)
        groups = groups_of(optimizer, self.member.network.factors).groups
        dropout, key = self.member.network.dropout, self.member.key
        table = coefficients_of(optimizer, step + 1, rates, groups, self.member.averaged_from)
        if dropout is None or key is None:
            return table
        return np.column_stack([table, numbers_of(dropout, key, steps, total)])

    def advance(self, reached: int, diverged: bool, losses: Array) -> int:
        """Record a launch; return the number of epochs that it ended.

        `losses` begin with the epoch of `unit`.
        """
        low, high = self.unit // self.per_epoch, reached // self.per_epoch
        self.unit, self.outcome.n_steps = reached, self._start + reached
        self.outcome.loss += losses[: high - low].tolist()
        if diverged:
            # The generator ends as if only the epochs so far had drawn from it.
            self._ahead = None
            if self._random is not None:
                self.member.generator.bit_generator.state = self._random
                self._draw(high + 1)
            self.outcome.diverged_at, self.outcome.n_steps = float(losses[high - low]), 0
            self.unit = self.end
        return high - low
