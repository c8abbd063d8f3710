"""Many small nets in one launch, a block for each.

They share X and y on the device. Each net has its own rows of them, optimizer, rates, penalty
strengths and generator, and ends in the bits of its own fit by the same design.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process import task_pool
from fastmlp._process.locks import Guard, publish
from fastmlp._process.random_state import shuffling_words
from fastmlp.backends.cuda import adapter, arrays, design
from fastmlp.backends.cuda.adapter import Card
from fastmlp.backends.cuda.launch import launch_small
from fastmlp.backends.cuda.moments import DeviceMoments
from fastmlp.backends.cuda.orders import ENOUGH, arrange, orders_of, packed
from fastmlp.backends.cuda.plan import (
    COEFFICIENTS,
    DIVERGED,
    LAST,
    LOSSES,
    PARAMETERS,
    REACHED,
    WEIGHTS,
    M,
    Need,
)
from fastmlp.backends.cuda.rules import Rules, rules_of
from fastmlp.backends.cuda.session import Session, bytes_of, require
from fastmlp.backends.protocol import Outcome
from fastmlp.network.spec import Network
from fastmlp.rules.optimizers import Optimizer
from fastmlp.rules.schedules import rates_of

Array = NDArray[Any]
Words = NDArray[np.uint32]
NO_WORDS: Words = np.empty(0, np.uint32)
CALL_SECONDS = 0.05
# The most steps of a launch, for which there is room for coefficients and losses; and of the first.
MOST_STEPS, FIRST_STEPS = 1 << 12, 64
# The most numbers in the orders of a net in one window: a launch of steps of 64 rows.
MOST_ORDER_NUMBERS = 1 << 18


class Member(NamedTuple):
    """One of many nets.

    Attributes
    ----------
    parameters : flat, on the host; written at the end
    generator : NumPy's generator for shuffling
    n_steps : steps done so far
    rows : int64, the rows of X and y to train on, or None for all
    weight : weights of all rows of X, or of length 0 for equal weights
    guard : Guard, held while all parameters are written; None: no other thread reads them
    """

    network: Network
    parameters: Array
    moments: DeviceMoments
    optimizer: Optimizer
    generator: np.random.Generator
    n_steps: int = 0
    rows: NDArray[np.int64] | None = None
    weight: Array = np.empty(0)
    guard: Guard | None = None


def train_together(
    card: Card,
    members: Sequence[Member],
    x: Any,
    y: Any,
    *,
    epochs: int,
    batch_size: int,
    shuffle: bool = True,
    outcomes: Sequence[Outcome] = (),
    told: Callable[[int], object] | None = None,
) -> Sequence[Outcome]:
    """Train nets for `epochs` epochs each: nets with equal layers and rules together, as memory
    allows.

    Parameters
    ----------
    x, y : validated rows, on the host or the device
    outcomes : the members' outcomes to write to; a caller may read them after an exception
    told : called with the number of epochs that a launch has ended, or None

    Returns
    -------
    An outcome for each member, in their order. On KeyboardInterrupt all nets keep their progress,
    and it is raised again.

    Raises
    ------
    MemoryError
        If rows, or a single net, do not fit into the memory of the device.
    """
    forms: dict[Any, list[int]] = {}
    for i, member in enumerate(members):
        its = member.network
        weighted = len(member.weight) > 0
        key = (its.layout.sizes, its.activations, rules_of(its, member.optimizer), weighted)
        forms.setdefault(key, []).append(i)
    outcomes = outcomes or [Outcome(member.n_steps) for member in members]
    with card.current():
        require(card, sum(a.nbytes for a in (x, y) if isinstance(a, np.ndarray)), "fit_many")
        device_x, device_y = arrays.to_device(card, x), arrays.to_device(card, y)
        for places in forms.values():
            chosen = [members[i] for i in places]
            at_once = _how_many(card, chosen[0], len(x), batch_size)
            for start in range(0, len(chosen), at_once):
                part = slice(start, start + at_once)
                theirs = [outcomes[i] for i in places[part]]
                group = Group(card, chosen[part], theirs, device_x, device_y, batch_size)
                group.train(epochs, shuffle=shuffle, told=told)
    return outcomes


def _need(member: Member, rules: Rules, n_rows: int, batch: int, n_threads: int) -> Need:
    return Need(
        batch,
        n_rows,
        n_weights=len(member.weight),
        n_coefficients=rules.n_coefficients,
        n_steps=MOST_STEPS,
        n_epochs=MOST_STEPS + 1,
        n_orders=1,
        train=True,
        block=True,
        n_parts=n_threads if member.network.penalties else 0,
    )


def _how_many(card: Card, member: Member, n_rows: int, batch_size: int) -> int:
    """Return how many nets of this form the memory of the device holds."""
    rules = rules_of(member.network, member.optimizer)
    need = _need(member, rules, n_rows, min(batch_size, n_rows), 256)
    # Bytes of orders, of random words, and of row indices.
    orders = 12 * max(n_rows, MOST_ORDER_NUMBERS) + 8 * n_rows
    each = bytes_of(member.network, need) + orders
    require(card, each, "fit_many")
    return max(1, int(0.9 * card.free_bytes()) // each)


class _Run:
    """The progress of one net of a group.

    Attributes
    ----------
    unit, end : steps done of the window, and its steps
    """

    def __init__(self, member: Member, outcome: Outcome, n_rows: int, batch_size: int) -> None:
        self.member, self.outcome = member, outcome
        rows = member.rows
        self.rows = np.arange(n_rows, dtype=np.int64) if rows is None else rows
        self.batch = min(batch_size, len(self.rows))
        self.per_epoch = -(-len(self.rows) // self.batch)
        self.unit = self.end = self._start = 0
        # The generator's state before this window's words were drawn, and the next window's.
        self._random: Any = None
        self._ahead: tuple[Any, Words] | None = None

    @property
    def alive(self) -> bool:
        """True if it has not diverged."""
        return self.outcome.diverged_at is None

    def begin(self, n_epochs: int, shuffle: bool) -> Words:
        """Begin a window; return the words of its orders, empty for a net that does not shuffle."""
        self.unit, self._start = 0, self.outcome.n_steps
        self.end = n_epochs * self.per_epoch if self.alive else 0
        self._shuffled = shuffle and self.batch < len(self.rows)
        self.look_ahead(n_epochs)
        (self._random, words), self._ahead = self._ahead or (None, NO_WORDS), None
        return words

    def look_ahead(self, n_epochs: int) -> None:
        """Draw the words of the next window, unless they are drawn."""
        if self._ahead is None and self.alive and self._shuffled and n_epochs:
            self._ahead = self.member.generator.bit_generator.state, self._draw(n_epochs)

    def look_back(self) -> None:
        """Undo the draw of words that no window has used."""
        if self._ahead is not None:
            self.member.generator.bit_generator.state, self._ahead = self._ahead[0], None

    def _draw(self, n_epochs: int) -> Words:
        return shuffling_words(self.member.generator, n_epochs, len(self.rows))

    def order(self, words: Words) -> NDArray[np.int64]:
        """Return the orders that the words define, or the order of the data."""
        return self.rows[orders_of(words)] if words.size else self.rows[None]

    def coefficients(self, last: int, total: int) -> Array:
        """Return the optimizer's coefficients of steps `unit` to `last`, shape (n_steps, n)."""
        optimizer, step = self.member.optimizer, self._start + self.unit
        steps = np.arange(step, self._start + last)
        rate = optimizer.learning_rate
        rates = validation.rates(rates_of(rate, steps, total), len(steps), rate)
        return optimizer.coefficients(step + 1, rates)

    def advance(self, reached: int, diverged: bool, losses: Array) -> int:
        """Record a call; `losses` begin with the epoch of `unit`. Return the epochs ended."""
        low, high = self.unit // self.per_epoch, reached // self.per_epoch
        self.unit, self.outcome.n_steps = reached, self._start + reached
        self.outcome.loss += losses[: high - low].tolist()
        if diverged:
            # Restores the generator as if the later epochs had not been planned.
            self._ahead = None
            if self._random is not None:
                self.member.generator.bit_generator.state = self._random
                self._draw(high + 1)
            self.outcome.diverged_at, self.outcome.n_steps = float(losses[high - low]), 0
            self.unit = self.end
        return high - low


def _hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


class Group:
    """Nets with equal layers and rules, trained in lockstep; a net stops when it diverges."""

    def __init__(
        self,
        card: Card,
        members: Sequence[Member],
        outcomes: Sequence[Outcome],
        x: Any,
        y: Any,
        batch_size: int,
    ) -> None:
        self._begun = time.perf_counter()
        first, n_rows = members[0], len(x)
        self._x, self._y = x, y
        self._runs = [
            _Run(m, o, n_rows, batch_size) for m, o in zip(members, outcomes, strict=True)
        ]
        self._rules = rules_of(first.network, first.optimizer)
        batch = max(run.batch for run in self._runs)
        self.design = design.design_for(first.network, batch, card, "small")
        form = self.design.small
        need = _need(first, self._rules, n_rows, batch, form.threads)
        networks = [member.network for member in members]
        self._session = session = Session(card, networks, need, shared=form.shared, who="fit_many")
        self._losses = int(session.plans[0, LOSSES])
        self._pace = min(FIRST_STEPS, MOST_STEPS)
        session.put_all(PARAMETERS, np.stack([member.parameters for member in members]))
        if len(first.weight):
            session.put_all(WEIGHTS, np.stack([member.weight for member in members]))
        for i, run in enumerate(self._runs):
            session.set(i, N_ROWS=len(run.rows), BATCH=run.batch)
            session.put(M, run.member.moments.state, i)
        self._device_rows: Any = None

    def train(self, epochs: int, *, shuffle: bool, told: Callable[[int], object] | None) -> None:
        """Train for so many epochs, and bring parameters and state up to date."""
        window = max(1, MOST_ORDER_NUMBERS // max(len(run.rows) for run in self._runs))
        totals = [run.outcome.n_steps + epochs * run.per_epoch for run in self._runs]
        try:
            for done in range(0, epochs, window):
                n_epochs = min(window, epochs - done)
                self._begin(n_epochs, shuffle)
                while self._going:
                    task_pool.check()
                    self._call(totals, min(window, epochs - done - n_epochs))
                    n_ended = self._advance()
                    if told is not None:
                        told(n_ended)
        finally:
            if self._going:
                # An interrupt may have come between a launch and its bookkeeping.
                self._advance()
            for run in self._runs:
                run.look_back()
            self._store()

    @property
    def _going(self) -> bool:
        return any(run.unit < run.end for run in self._runs)

    def _begin(self, n_epochs: int, shuffle: bool) -> None:
        """Begin a window of epochs."""
        session, runs = self._session, self._runs
        session.set_sums(REACHED, 0.0)
        words = [run.begin(n_epochs, shuffle) for run in runs]
        n_orders = [n_epochs if its.size else 1 for its in words]
        for i, its in enumerate(words):
            session.set(i, N_ORDERS=n_orders[i], SHUFFLED=its.size > 0)
        if sum(n_orders) < ENOUGH:
            session.send_orders([run.order(its) for run, its in zip(runs, words, strict=True)])
            return
        if self._device_rows is None:
            rows = packed([run.rows for run in runs], np.int64)
            self._device_rows = session.card.copied(rows)
        longest = max(n * len(run.rows) for n, run in zip(n_orders, runs, strict=True))
        session.reserve_orders(longest)
        session.send_heads()
        arrange(session.card, words, self._device_rows, session.device_plans, max(n_orders))

    def _call(self, totals: Sequence[int], upcoming: int) -> None:
        """Run steps of every net for about `CALL_SECONDS`; meanwhile, draw the random words of the
        next window's orders."""
        session, start = self._session, time.perf_counter()
        for i, run in enumerate(self._runs):
            last = min(run.unit + self._pace, run.end)
            losses = self._losses - run.unit // run.per_epoch
            session.set(i, FIRST=run.unit, LAST=last, LOSSES=losses)
        constants = packed(self._coefficients(totals), session.memory.dtype)
        session.put_all(COEFFICIENTS, constants)
        session.send_heads()
        launch_small(self.design, self._rules, session, self._x, self._y)
        for run in self._runs:
            run.look_ahead(upcoming)
        adapter.synchronize()
        ideal = self._pace * CALL_SECONDS / max(time.perf_counter() - start, 1e-9)
        self._pace = max(1, min(MOST_STEPS, int(min(ideal, 4 * self._pace))))

    def _coefficients(self, totals: Sequence[int]) -> list[Array]:
        """Return each net's coefficients of a call, computed once for nets that share them."""
        made: dict[Any, Array] = {}
        found = []
        for i, (run, total) in enumerate(zip(self._runs, totals, strict=True)):
            last = int(self._session.plans[i, LAST])
            key: Any = (run.member.optimizer, run.outcome.n_steps, last - run.unit, total)
            # A schedule of the user's own may have no hash.
            key = key if _hashable(key) else i
            if key not in made:
                made[key] = run.coefficients(last, total) if last > run.unit else np.empty(0)
            found.append(made[key])
        return found

    def _advance(self) -> int:
        """Record the device's results; return the number of epochs that have ended."""
        n_ended = 0
        for run, sums in zip(self._runs, self._session.sums.copy_to_host(), strict=True):
            if run.unit < run.end:
                reached, diverged = int(sums[REACHED]), bool(sums[DIVERGED])
                n_ended += run.advance(reached, diverged, sums[self._losses :])
        return n_ended

    def _store(self) -> None:
        for i, run in enumerate(self._runs):
            member, n = run.member, len(run.member.parameters)
            values = np.ascontiguousarray(arrays.to_host(self._session.get(PARAMETERS, n, i)))
            member.moments.state.copy_to_device(self._session.get(M, 2 * n, i))
            with member.guard.whole if member.guard else nullcontext():
                publish(values, member.parameters)
            run.outcome.seconds = time.perf_counter() - self._begun
