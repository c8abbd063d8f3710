"""The training of many small nets in the same launches, one block a net.

The nets share X and y on the GPU. Rows in use, optimizer, learning rates, penalties and generator
differ from net to net. Parameters and losses have the bits of a separate fit by one block.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp._process import task_pool
from fastmlp._process.random_state import shuffling_words
from fastmlp.backends.cuda.device.adapter import synchronize
from fastmlp.backends.cuda.device.arrays import host_bytes, packed, to_device
from fastmlp.backends.cuda.device.card import Card
from fastmlp.backends.cuda.kernels.arguments import Samples
from fastmlp.backends.cuda.kernels.launch import MIN_DEVICE_ORDERS, launch_single_block, make_orders
from fastmlp.backends.cuda.plan.design import Design, design_for, rules_of, training_need
from fastmlp.backends.cuda.plan.plan import Need
from fastmlp.backends.cuda.plan.session import Session, bytes_of, require
from fastmlp.backends.cuda.training.optimizer_state import Moments
from fastmlp.backends.protocol import Data, MemberOutcome
from fastmlp.backends.shuffle import orders_of
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.rules.dropout import numbers_of
from fastmlp.rules.groups import groups_of
from fastmlp.rules.optimizers import coefficients_of
from fastmlp.rules.schedules import rates_of

Array = NDArray[Any]
Words = NDArray[np.uint32]
NO_WORDS: Words = np.empty(0, np.uint32)


class Member(NamedTuple):
    """One net of a batched fit, and the rows that it trains on."""

    network: Network
    state: NetState
    moments: Moments
    data: Data


class MemberFit:
    """The progress of one net; `outcome` and the net's state are up to date after each launch.

    Attributes
    ----------
    rows : int64, the rows in use
    batch : rows of a batch
    per_epoch : steps of an epoch
    total : the step at which the fit ends
    unit, end : steps of the window that are done, and all of its steps
    """

    def __init__(self, member: Member, outcome: MemberOutcome, batch_size: int) -> None:
        self.member, self.state, self.outcome = member, member.state, outcome
        data = member.data
        self.rows = np.arange(data.n_rows, dtype=np.int64) if data.rows is None else data.rows
        self.batch = min(batch_size, data.n_rows)
        self.per_epoch = -(-data.n_rows // self.batch)
        self.total = self.unit = self.end = self._first_step = 0
        self._shuffled = False
        # The generator's state before this window's words; state and words of the next window.
        self._random: Any = None
        self._ahead: tuple[Any, Words] | None = None

    @property
    def alive(self) -> bool:
        """True if the net has not diverged."""
        return self.outcome.diverged_at is None

    def begin(self, epochs: int, shuffle: bool) -> None:
        """Begin to train for so many epochs."""
        self._shuffled, first = shuffle and self.batch < len(self.rows), self.state.n_steps
        self.total = first + epochs * self.per_epoch
        self.state.average_over(first, self.total)

    def begin_window(self, n_epochs: int) -> Words:
        """Begin a window; return the random words of its orders, empty for rows in their order."""
        self.unit, self._first_step = 0, self.state.n_steps
        self.end = n_epochs * self.per_epoch if self.alive else 0
        self.draw_ahead(n_epochs)
        (self._random, words), self._ahead = self._ahead or (None, NO_WORDS), None
        return words

    def draw_ahead(self, n_epochs: int) -> None:
        """Draw the words of the next window, unless they are drawn."""
        if self._ahead is None and self.alive and self._shuffled and n_epochs:
            self._ahead = self._generator.bit_generator.state, self._draw(n_epochs)

    def undo_draw(self) -> None:
        """Reset the generator to its state before words that no window has used."""
        if self._ahead is not None:
            self._generator.bit_generator.state, self._ahead = self._ahead[0], None

    @property
    def _generator(self) -> np.random.Generator:
        assert self.state.generator is not None
        return self.state.generator

    def _draw(self, n_epochs: int) -> Words:
        return shuffling_words(self._generator, n_epochs, len(self.rows))

    def order(self, words: Words) -> NDArray[np.int64]:
        """Return the orders of the words, or the rows in their order, shape (n_orders, n_rows)."""
        return self.rows[orders_of(words)] if words.size else self.rows[None]

    def coefficients(self, last: int) -> Array:
        """Return the optimizer's coefficients for steps `unit` to `last`, shape (n_steps, n)."""
        state, network = self.state, self.member.network
        optimizer, first = state.optimizer, state.n_steps
        steps = np.arange(first, self._first_step + last)
        rate = optimizer.learning_rate
        rates = validation.rates(rates_of(rate, steps, self.total), len(steps), rate)
        groups = groups_of(optimizer, network.factors).groups
        table = coefficients_of(optimizer, first + 1, rates, groups, state.averaged_from)
        if network.dropout is None:
            return table
        drawn = numbers_of(network.dropout, state.kept_key(), steps, self.total)
        return np.column_stack([table, drawn])

    def advance(self, reached: int, diverged: bool, losses: Array) -> int:
        """Record a launch; return the number of epochs that it ended.

        `losses` begin with the epoch of `unit`.
        """
        low, high = self.unit // self.per_epoch, reached // self.per_epoch
        self.unit, self.state.n_steps = reached, self._first_step + reached
        self.outcome.loss += losses[: high - low].tolist()
        if diverged:
            # The generator ends as if only the epochs so far had drawn from it.
            self._ahead = None
            if self._random is not None:
                self._generator.bit_generator.state = self._random
                self._draw(high + 1)
            self.outcome.diverged_at = float(losses[high - low])
            self.unit = self.end
        return high - low

    def store(self, session: Session, net: int) -> None:
        """Bring the net's parameters and the optimizer's state up to date."""
        self.state.assign(self.member.moments.store(session, net))
        if not self.alive:
            self.state.restart()


CALL_SECONDS = 0.05
# The steps of one launch, at most, and of the first; memory has their coefficients, sums their
# losses.
MOST_STEPS, FIRST_STEPS = 1 << 12, 64
# The row numbers of a net's window of epochs: as many as 4,096 steps of 64 rows use.
MOST_ORDER_NUMBERS = 1 << 18


def train_together(
    card: Card,
    members: Sequence[Member],
    outcomes: Sequence[MemberOutcome],
    *,
    epochs: int,
    batch_size: int,
    shuffle: bool,
    on_epochs: Callable[[int], object] | None,
) -> None:
    """Train each net for so many epochs: nets with the same layers and rules at once, as many as
    fit into memory; all nets are up to date also if an exception ends the call.

    Parameters
    ----------
    members : with the same x and y
    outcomes : of the members, written to
    on_epochs : called with the number of epochs that a launch has ended, or None

    Raises
    ------
    MemoryError
        If the rows or a single net do not fit into the GPU's memory.
    """
    groups: dict[Any, list[int]] = {}
    for i, (network, state, _, data) in enumerate(members):
        rules, weighted = rules_of(network, state.optimizer), len(data.weight) > 0
        parameters = groups_of(state.optimizer, network.factors)
        key = (network.layout.sizes, network.activations, rules, weighted, parameters)
        groups.setdefault(key, []).append(i)
    data = members[0].data
    with card.current():
        require(card, host_bytes(data), "fit_many")
        rows = Samples(to_device(card, data.x), to_device(card, data.y))
        for numbers in groups.values():
            at_once = _most_at_once(card, members[numbers[0]], batch_size)
            for start in range(0, len(numbers), at_once):
                part = numbers[start : start + at_once]
                fits = [MemberFit(members[i], outcomes[i], batch_size) for i in part]
                Group(card, fits, rows).train(epochs, shuffle=shuffle, on_epochs=on_epochs)


def _design_of(card: Card, member: Member, batch: int) -> tuple[Design, Need]:
    """Return the design of such nets, and the need of one of them."""
    network, state, _, data = member
    design = design_for(network, batch, card, "single_block")
    n_rows, n_weights = len(data.x), len(data.weight)
    fixed = (network, state.optimizer, batch)
    return design, training_need(design, *fixed, n_rows, n_weights, MOST_STEPS)


def _most_at_once(card: Card, member: Member, batch_size: int) -> int:
    """Return the number of such nets that fit into the GPU's memory."""
    n_rows = len(member.data.x)
    _, need = _design_of(card, member, min(batch_size, n_rows))
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

    def __init__(self, card: Card, fits: Sequence[MemberFit], rows: Samples) -> None:
        self._begun = time.perf_counter()
        self._rows, self._fits, self._device_rows = rows, fits, None
        first = fits[0].member
        self._rules = rules_of(first.network, first.state.optimizer)
        self.design, need = _design_of(card, first, max(fit.batch for fit in fits))
        networks, shared = [fit.member.network for fit in fits], self.design.block.shared
        self._session = session = Session(card, networks, need, shared=shared, who="fit_many")
        self._losses = int(session.plans["losses"][0])
        self._steps = min(FIRST_STEPS, MOST_STEPS)
        session.put_all("parameters", np.stack([fit.state.parameters for fit in fits]))
        if len(first.data.weight):
            session.put_all("weights", np.stack([fit.member.data.weight for fit in fits]))
        for i, fit in enumerate(fits):
            session.set(i, n_rows=len(fit.rows), batch=fit.batch)
            fit.member.moments.load(session, None, i)

    def train(
        self, epochs: int, *, shuffle: bool, on_epochs: Callable[[int], object] | None
    ) -> None:
        """Train for so many epochs; at the end, parameters and states are up to date."""
        window = max(1, MOST_ORDER_NUMBERS // max(len(fit.rows) for fit in self._fits))
        for fit in self._fits:
            fit.begin(epochs, shuffle)
        try:
            for done in range(0, epochs, window):
                n_epochs = min(window, epochs - done)
                self._begin_window(n_epochs)
                while self._going:
                    task_pool.check()
                    self._launch(min(window, epochs - done - n_epochs))
                    n_ended = self._advance()
                    if on_epochs is not None:
                        on_epochs(n_ended)
        finally:
            if self._going:
                # An interrupt may have come after a launch, before `_advance`.
                self._advance()
            for i, fit in enumerate(self._fits):
                fit.undo_draw()
                fit.store(self._session, i)
                fit.outcome.seconds = time.perf_counter() - self._begun

    @property
    def _going(self) -> bool:
        return any(fit.unit < fit.end for fit in self._fits)

    def _begin_window(self, n_epochs: int) -> None:
        """Begin a window of epochs."""
        session, fits = self._session, self._fits
        session.set_progress(reached=0)
        words = [fit.begin_window(n_epochs) for fit in fits]
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

    def _launch(self, upcoming: int) -> None:
        """Do as many steps of each net as take about `CALL_SECONDS`; meanwhile, draw the random
        words of the next window, of `upcoming` epochs."""
        session, start = self._session, time.perf_counter()
        for i, fit in enumerate(self._fits):
            last = min(fit.unit + self._steps, fit.end)
            losses = self._losses - fit.unit // fit.per_epoch
            session.set(i, first=fit.unit, last=last, losses=losses)
        constants = packed(self._coefficients(), session.nets.memory.dtype)
        session.put_all("coefficients", constants)
        session.send_plans()
        launch_single_block(self.design.block, self._rules, session, self._rows)
        for fit in self._fits:
            fit.draw_ahead(upcoming)
        synchronize()
        ideal = self._steps * CALL_SECONDS / max(time.perf_counter() - start, 1e-9)
        self._steps = max(1, min(MOST_STEPS, int(min(ideal, 4 * self._steps))))

    def _coefficients(self) -> list[Array]:
        """Return the coefficients of a launch for each net, computed once for nets that share
        them."""
        computed: dict[Any, Array] = {}
        tables = []
        for i, fit in enumerate(self._fits):
            state, dropout = fit.state, fit.member.network.dropout
            last = int(self._session.plans["last"][i])
            steps = (state.n_steps, last - fit.unit, fit.total, state.averaged_from)
            key: Any = (state.optimizer, *steps, dropout and (dropout, state.kept_key()))
            # A user's own schedule may have no hash.
            key = key if _hashable(key) else i
            if key not in computed:
                computed[key] = fit.coefficients(last) if last > fit.unit else np.empty(0)
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
