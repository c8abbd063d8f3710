"""Many small nets at once: a block each, all in one launch.

They share X and y on the device; each has its own rows of them, optimizer, rates, strengths of
penalties and generator, and ends in the bits of its own fit by the same design.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import validation
from fastmlp.backends.cuda import arrays, choice
from fastmlp.backends.cuda.adapter import Card
from fastmlp.backends.cuda.launch import launch_small
from fastmlp.backends.cuda.moments import DeviceMoments
from fastmlp.backends.cuda.plan import (
    COEFFICIENTS,
    DIVERGED,
    LOSSES,
    PARAMETERS,
    REACHED,
    WEIGHTS,
    M,
    Need,
)
from fastmlp.backends.cuda.rules import Rules, rules_of
from fastmlp.backends.cuda.session import Session, bytes_of, require
from fastmlp.backends.cuda.trainer import orders_of
from fastmlp.network import Network
from fastmlp.optimizers import Optimizer
from fastmlp.schedules import rates_of

Array = NDArray[Any]
CALL_SECONDS = 0.05
# Of one launch, of each net: their coefficients and losses have room for so many.
MOST_STEPS = 1 << 12
MOST_ORDER_NUMBERS = 1 << 20


class Member(NamedTuple):
    """One of many nets.

    Attributes
    ----------
    parameters : flat, on the host; brought up to date at the end
    generator : of its shuffling
    n_steps : done so far
    rows : int64, which rows of X and y it is trained on, or None for all
    weight : of all rows of X, or of length 0 for rows that count alike
    """

    network: Network
    parameters: Array
    moments: DeviceMoments
    optimizer: Optimizer
    generator: np.random.Generator
    n_steps: int = 0
    rows: NDArray[np.int64] | None = None
    weight: Array = np.empty(0)


@dataclass
class Outcome:
    """What became of one of many nets.

    Attributes
    ----------
    loss : each epoch's mean objective, that of the epoch in which it diverged left out
    diverged_at : the loss of that epoch, or None
    n_steps : done in all; 0 for one that diverged, whose state starts anew
    """

    n_steps: int
    loss: list[float] = field(default_factory=list)
    diverged_at: float | None = None


def train_together(
    card: Card,
    members: Sequence[Member],
    x: Any,
    y: Any,
    *,
    epochs: int,
    batch_size: int,
    shuffle: bool = True,
) -> list[Outcome]:
    """Train nets for so many epochs each, those of one form at once, as many as memory holds.

    Parameters
    ----------
    x, y : validated rows, on the host or the device

    Returns
    -------
    An outcome for each member, in their order. On KeyboardInterrupt all keep what they learnt, and
    it is raised again.

    Raises
    ------
    MemoryError
        Where rows, or a single net, do not fit into the memory of the device.
    """
    forms: dict[Any, list[int]] = {}
    for i, member in enumerate(members):
        its = member.network
        key = (its.layout.sizes, its.activations, rules_of(its, member.optimizer))
        forms.setdefault(key, []).append(i)
    outcomes = [Outcome(member.n_steps) for member in members]
    with card.current():
        require(card, sum(a.nbytes for a in (x, y) if isinstance(a, np.ndarray)), "fit_many")
        device_x, device_y = arrays.to_device(card, x), arrays.to_device(card, y)
        for places in forms.values():
            chosen = [members[i] for i in places]
            at_once = _how_many(card, chosen[0], len(x), batch_size)
            for start in range(0, len(chosen), at_once):
                part = slice(start, start + at_once)
                told = [outcomes[i] for i in places[part]]
                group = Group(card, chosen[part], told, device_x, device_y, batch_size)
                group.train(epochs, shuffle=shuffle)
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
    order = 8 * max(n_rows, MOST_ORDER_NUMBERS)
    each = bytes_of(member.network, need) + order
    require(card, each, "fit_many")
    return max(1, int(0.9 * card.free_bytes()) // each)


class _Run:
    """One net of a group: where it stands.

    Attributes
    ----------
    unit, end : steps done of the window, and to do
    """

    def __init__(self, member: Member, outcome: Outcome, n_rows: int, batch_size: int) -> None:
        self.member, self.outcome = member, outcome
        rows = member.rows
        self.rows = np.arange(n_rows, dtype=np.int64) if rows is None else rows
        self.batch = min(batch_size, len(self.rows))
        self.per_epoch = -(-len(self.rows) // self.batch)
        self.unit = self.end = self._start = 0
        self._random: Any = None

    @property
    def alive(self) -> bool:
        """Whether it has not diverged."""
        return self.outcome.diverged_at is None

    def begin(self, n_epochs: int, shuffle: bool) -> NDArray[np.int64]:
        """Begin a window, and return its orders of rows."""
        self.unit, self._start = 0, self.outcome.n_steps
        self.end = n_epochs * self.per_epoch if self.alive else 0
        self._random = self.member.generator.bit_generator.state
        self._shuffled = shuffle and self.batch < len(self.rows) and self.alive
        return self._draw(n_epochs)

    def _draw(self, n_epochs: int) -> NDArray[np.int64]:
        if not self._shuffled:
            return self.rows[None]
        n = len(self.rows)
        pairs = self.member.generator.integers(
            1 << 64, size=(n_epochs, -(-n // 2)), dtype=np.uint64
        )
        return self.rows[orders_of(pairs.view(np.uint32)[:, :n])]

    def coefficients(self, last: int, total: int) -> Array:
        """Return the optimizer's of the steps from `unit` to `last`, shape (n_steps, n)."""
        optimizer, step = self.member.optimizer, self._start + self.unit
        steps = np.arange(step, self._start + last)
        rate = optimizer.learning_rate
        rates = validation.rates(rates_of(rate, steps, total), len(steps), rate)
        return optimizer.coefficients(step + 1, rates)

    def advance(self, reached: int, diverged: bool, losses: Array) -> None:
        """Take note of a call; `losses` begin with the epoch of `unit`."""
        low, high = self.unit // self.per_epoch, reached // self.per_epoch
        self.outcome.loss += losses[: high - low].tolist()
        self.unit, self.outcome.n_steps = reached, self._start + reached
        if diverged:
            # As if the epochs that were planned after this one had not been.
            self.member.generator.bit_generator.state = self._random
            self._draw(high + 1)
            self.outcome.diverged_at, self.outcome.n_steps = float(losses[high - low]), 0
            self.unit = self.end


class Group:
    """Nets of one form, on the device, in lockstep; each stops where it diverges."""

    def __init__(
        self,
        card: Card,
        members: Sequence[Member],
        outcomes: Sequence[Outcome],
        x: Any,
        y: Any,
        batch_size: int,
    ) -> None:
        first, n_rows = members[0], len(x)
        self._x, self._y = x, y
        self._runs = [
            _Run(m, o, n_rows, batch_size) for m, o in zip(members, outcomes, strict=True)
        ]
        self._rules = rules_of(first.network, first.optimizer)
        batch = max(run.batch for run in self._runs)
        self.design = choice.design_for(first.network, batch, card, "small")
        form = self.design.small
        need = _need(first, self._rules, n_rows, batch, form.threads)
        networks = [member.network for member in members]
        self._session = session = Session(card, networks, need, shared=form.shared, who="fit_many")
        self._losses = int(session.plans[0, LOSSES])
        self._pace = 64
        for i, run in enumerate(self._runs):
            member = run.member
            session.set(i, N_ROWS=len(run.rows), BATCH=run.batch)
            session.put(PARAMETERS, np.ascontiguousarray(member.parameters), i)
            session.put(M, member.moments.state, i)
            if len(member.weight):
                session.put(WEIGHTS, np.ascontiguousarray(member.weight), i)

    def train(self, epochs: int, *, shuffle: bool) -> None:
        """Train for so many epochs, and bring parameters and state up to date."""
        window = max(1, MOST_ORDER_NUMBERS // max(len(run.rows) for run in self._runs))
        totals = [run.outcome.n_steps + epochs * run.per_epoch for run in self._runs]
        try:
            for done in range(0, epochs, window):
                orders = [run.begin(min(window, epochs - done), shuffle) for run in self._runs]
                for i, order in enumerate(orders):
                    self._session.set(i, N_ORDERS=len(order))
                    self._session.set_sum(REACHED, 0.0, i)
                self._session.send_orders(orders)
                while any(run.unit < run.end for run in self._runs):
                    self._call(totals)
        finally:
            self._store()

    def _call(self, totals: Sequence[int]) -> None:
        """Do so many steps of every net as take about `CALL_SECONDS`."""
        session, start = self._session, time.perf_counter()
        for i, (run, total) in enumerate(zip(self._runs, totals, strict=True)):
            last = min(run.unit + self._pace, run.end)
            losses = self._losses - run.unit // run.per_epoch
            session.set(i, FIRST=run.unit, LAST=last, LOSSES=losses)
            if last > run.unit:
                constants = run.coefficients(last, total).reshape(-1)
                session.put(COEFFICIENTS, constants.astype(session.memory.dtype), i)
        session.send_heads()
        launch_small(self.design, self._rules, session, self._x, self._y)
        sums = session.sums.copy_to_host()
        for run, told in zip(self._runs, sums, strict=True):
            if run.unit < run.end:
                run.advance(int(told[REACHED]), bool(told[DIVERGED]), told[self._losses :])
        ideal = self._pace * CALL_SECONDS / max(time.perf_counter() - start, 1e-9)
        self._pace = max(1, min(MOST_STEPS, int(min(ideal, 4 * self._pace))))

    def _store(self) -> None:
        for i, run in enumerate(self._runs):
            parameters = run.member.parameters
            n = len(parameters)
            parameters[:] = arrays.to_host(self._session.get(PARAMETERS, n, i))
            run.member.moments.state.copy_to_device(self._session.get(M, 2 * n, i))
