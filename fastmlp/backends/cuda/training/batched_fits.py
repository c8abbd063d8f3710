"""The training of many small nets in the same launches, one block a net.

The nets share X and y on the GPU. Rows in use, optimizer, learning rates, penalties and generator
differ from net to net. Parameters and losses have the bits of a separate fit by one block.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import task_pool
from fastmlp._process.locks import publish
from fastmlp.backends.cuda.device.adapter import synchronize
from fastmlp.backends.cuda.device.arrays import packed, to_device
from fastmlp.backends.cuda.device.card import Card
from fastmlp.backends.cuda.kernels.arguments import Samples
from fastmlp.backends.cuda.kernels.launch import launch_single_block
from fastmlp.backends.cuda.kernels.shuffling import MIN_DEVICE_ORDERS, make_orders
from fastmlp.backends.cuda.plan.design import Design, design_for
from fastmlp.backends.cuda.plan.plan import Need
from fastmlp.backends.cuda.plan.rules import KernelRules, rules_of
from fastmlp.backends.cuda.plan.session import Session, bytes_of, require
from fastmlp.backends.cuda.training.batched_member import BatchedMember, MemberFit
from fastmlp.backends.protocol import MemberOutcome
from fastmlp.rules.groups import groups_of

Array = NDArray[Any]
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
