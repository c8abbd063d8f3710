"""The training of many small nets in the same launches, one block a net.

The nets share X and y on the GPU. Rows in use, optimizer, learning rates, penalties and generator
differ from net to net. Parameters and losses have the bits of a separate fit by one block.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process import task_pool
from fastmlp._process.locks import NetLock, publish
from fastmlp._process.random_state import shuffling_words
from fastmlp.backends.cuda.device.adapter import synchronize
from fastmlp.backends.cuda.device.arrays import packed, to_device
from fastmlp.backends.cuda.device.card import Card
from fastmlp.backends.cuda.kernels.arguments import Samples
from fastmlp.backends.cuda.kernels.launch import MIN_DEVICE_ORDERS, launch_single_block, make_orders
from fastmlp.backends.cuda.plan.design import Design, KernelRules, design_for, rules_of
from fastmlp.backends.cuda.plan.plan import Need
from fastmlp.backends.cuda.plan.session import Session, bytes_of, require
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


CALL_SECONDS = 0.05
# The steps of one launch, at most, and of the first; memory has their coefficients, sums their
# losses.
MOST_STEPS, FIRST_STEPS = 1 << 12, 64
# The row numbers of a net's window of epochs: as many as 4,096 steps of 64 rows use.
MOST_ORDER_NUMBERS = 1 << 18


def train_together(
    card: Card,
    members: Sequence[BatchedMember],
    x: Any,
    y: Any,
    *,
    epochs: int,
    batch_size: int,
    shuffle: bool = True,
    outcomes: Sequence[MemberOutcome] = (),
    on_epochs: Callable[[int], object] | None = None,
) -> Sequence[MemberOutcome]:
    """Train each net for so many epochs: nets with the same layers and rules at once, as many as
    fit into memory.

    Parameters
    ----------
    x, y : validated rows, on the host or the GPU
    outcomes : of the members, written to also if an exception ends the call
    on_epochs : called with the number of epochs that a launch has ended, or None

    Returns
    -------
    An outcome for each member, in their order. A KeyboardInterrupt is raised again after all nets
    are up to date.

    Raises
    ------
    MemoryError
        If the rows or a single net do not fit into the GPU's memory.
    """
    groups: dict[Any, list[int]] = {}
    for i, member in enumerate(members):
        network = member.network
        rules, weighted = rules_of(network, member.optimizer), len(member.weight) > 0
        parameters = groups_of(member.optimizer, network.factors)
        key = (network.layout.sizes, network.activations, rules, weighted, parameters)
        groups.setdefault(key, []).append(i)
    outcomes = outcomes or [MemberOutcome(member.n_steps) for member in members]
    with card.current():
        require(card, sum(a.nbytes for a in (x, y) if isinstance(a, np.ndarray)), "fit_many")
        rows = Samples(to_device(card, x), to_device(card, y))
        for numbers in groups.values():
            at_once = _most_at_once(card, members[numbers[0]], len(x), batch_size)
            for start in range(0, len(numbers), at_once):
                part = numbers[start : start + at_once]
                chosen, results = [members[i] for i in part], [outcomes[i] for i in part]
                group = Group(card, chosen, results, rows, batch_size)
                group.train(epochs, shuffle=shuffle, on_epochs=on_epochs)
    return outcomes


def _need(
    member: BatchedMember, rules: KernelRules, n_rows: int, batch: int, n_threads: int
) -> Need:
    need = Need(
        batch,
        n_rows,
        n_weights=len(member.weight),
        n_steps=MOST_STEPS,
        n_epochs=MOST_STEPS + 1,
        n_orders=1,
        train=True,
        average=rules.average,
        block=True,
        n_penalty_sums=n_threads if member.network.penalties else 0,
        n_drawn=member.network.dropout.n_numbers if member.network.dropout else 0,
    )
    groups = groups_of(member.optimizer, member.network.factors)
    return need.of_groups(groups, rules.n_coefficients)


def _most_at_once(card: Card, member: BatchedMember, n_rows: int, batch_size: int) -> int:
    """Return the number of such nets that fit into the GPU's memory."""
    rules = rules_of(member.network, member.optimizer)
    need = _need(member, rules, n_rows, min(batch_size, n_rows), 256)
    # Orders (8 bytes), their random words (4 bytes), and the rows in use.
    orders = 12 * max(n_rows, MOST_ORDER_NUMBERS) + 8 * n_rows
    n_bytes = bytes_of(member.network, need) + orders
    require(card, n_bytes, "fit_many")
    return max(1, int(0.9 * card.free_bytes()) // n_bytes)


def _hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


class Group:
    """Nets with the same layers and rules that train in lockstep; a net stops if it diverges."""

    design: Design

    def __init__(
        self,
        card: Card,
        members: Sequence[BatchedMember],
        outcomes: Sequence[MemberOutcome],
        rows: Samples,
        batch_size: int,
    ) -> None:
        self._begun = time.perf_counter()
        self._rows, n_rows = rows, len(rows.x)
        self._device_rows: Any = None
        self._fits = fits = [
            MemberFit(member, outcome, n_rows, batch_size)
            for member, outcome in zip(members, outcomes, strict=True)
        ]
        first, batch = members[0], max(fit.batch for fit in fits)
        self._rules = rules_of(first.network, first.optimizer)
        self.design = design_for(first.network, batch, card, "single_block")
        block = self.design.block
        need = _need(first, self._rules, n_rows, batch, block.n_threads)
        networks = [member.network for member in members]
        self._session = session = Session(card, networks, need, shared=block.shared, who="fit_many")
        self._losses = int(session.plans["losses"][0])
        self._steps = min(FIRST_STEPS, MOST_STEPS)
        session.put_all("parameters", np.stack([member.parameters for member in members]))
        if len(first.weight):
            session.put_all("weights", np.stack([member.weight for member in members]))
        for i, fit in enumerate(fits):
            session.set(i, n_rows=len(fit.rows), batch=fit.batch)
            fit.member.moments.load(session, None, i)

    def train(
        self, epochs: int, *, shuffle: bool, on_epochs: Callable[[int], object] | None
    ) -> None:
        """Train for so many epochs; at the end, parameters and states are up to date."""
        window = max(1, MOST_ORDER_NUMBERS // max(len(fit.rows) for fit in self._fits))
        totals = [fit.outcome.n_steps + epochs * fit.per_epoch for fit in self._fits]
        try:
            for done in range(0, epochs, window):
                n_epochs = min(window, epochs - done)
                self._begin(n_epochs, shuffle)
                while self._going:
                    task_pool.check()
                    self._launch(totals, min(window, epochs - done - n_epochs))
                    n_ended = self._advance()
                    if on_epochs is not None:
                        on_epochs(n_ended)
        finally:
            if self._going:
                # An interrupt may have come after a launch, before `_advance`.
                self._advance()
            for fit in self._fits:
                fit.undo_draw()
            self._store()

    @property
    def _going(self) -> bool:
        return any(fit.unit < fit.end for fit in self._fits)

    def _begin(self, n_epochs: int, shuffle: bool) -> None:
        """Begin a window of epochs."""
        session, fits = self._session, self._fits
        session.set_progress(reached=0)
        words = [fit.begin(n_epochs, shuffle) for fit in fits]
        n_orders = [n_epochs if drawn.size else 1 for drawn in words]
        for i, drawn in enumerate(words):
            session.set(i, n_orders=n_orders[i], shuffled=drawn.size > 0)
        if sum(n_orders) < MIN_DEVICE_ORDERS:
            session.send_orders([fit.order(drawn) for fit, drawn in zip(fits, words, strict=True)])
            return
        if self._device_rows is None:
            rows = packed([fit.rows for fit in fits], np.int64)
            self._device_rows = session.card.copied(rows)
        session.reserve_orders(
            max(n * len(fit.rows) for n, fit in zip(n_orders, fits, strict=True))
        )
        session.send_plans()
        make_orders(session.card, words, self._device_rows, session.nets, max(n_orders))

    def _launch(self, totals: Sequence[int], upcoming: int) -> None:
        """Do as many steps of each net as take about `CALL_SECONDS`; meanwhile, draw the random
        words of the next window, of `upcoming` epochs."""
        session, start = self._session, time.perf_counter()
        for i, fit in enumerate(self._fits):
            last = min(fit.unit + self._steps, fit.end)
            losses = self._losses - fit.unit // fit.per_epoch
            session.set(i, first=fit.unit, last=last, losses=losses)
        constants = packed(self._coefficients(totals), session.nets.memory.dtype)
        session.put_all("coefficients", constants)
        session.send_plans()
        launch_single_block(self.design.block, self._rules, session, self._rows)
        for fit in self._fits:
            fit.draw_ahead(upcoming)
        synchronize()
        ideal = self._steps * CALL_SECONDS / max(time.perf_counter() - start, 1e-9)
        self._steps = max(1, min(MOST_STEPS, int(min(ideal, 4 * self._steps))))

    def _coefficients(self, totals: Sequence[int]) -> list[Array]:
        """Return the coefficients of a launch for each net, computed once for nets that share
        them."""
        computed: dict[Any, Array] = {}
        tables = []
        for i, (fit, total) in enumerate(zip(self._fits, totals, strict=True)):
            last = int(self._session.plans["last"][i])
            member, done = fit.member, (fit.outcome.n_steps, last - fit.unit, total)
            drawn = (member.network.dropout, member.key)
            key: Any = (member.optimizer, *done, member.averaged_from, *drawn)
            # A user's own schedule may have no hash.
            key = key if _hashable(key) else i
            if key not in computed:
                computed[key] = fit.coefficients(last, total) if last > fit.unit else np.empty(0)
            tables.append(computed[key])
        return tables

    def _advance(self) -> int:
        """Record the progress of all nets; return the number of epochs that have ended."""
        n_ended = 0
        sums = self._session.nets.sums.copy_to_host()[:, self._losses :]
        for fit, progress, losses in zip(self._fits, self._session.progress(), sums, strict=True):
            if fit.unit < fit.end:
                n_ended += fit.advance(int(progress.reached), bool(progress.diverged), losses)
        return n_ended

    def _store(self) -> None:
        for i, fit in enumerate(self._fits):
            member = fit.member
            values = member.moments.store(self._session, i)
            with member.lock.parameters if member.lock else nullcontext():
                publish(values, member.parameters)
            fit.outcome.seconds = time.perf_counter() - self._begun
