"""Nets side by side: a step of each, or predictions by each,
in calls shared among threads by nets.

A call takes some 100 us, and holds the GIL. A team serves call after call.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastmlp.backends.cpu import limits, tuning, worker_pool
from fastmlp.backends.cpu.dispatch import LedCalls
from fastmlp.backends.cpu.kernels import Kernel, Scalar
from fastmlp.backends.cpu.kernels.epoch import (
    DECLINED,
    TAKEN,
    PlainStep,
    ranges,
    row_checks,
)
from fastmlp.backends.cpu.plan.records import address, fields_of
from fastmlp.backends.cpu.predict.row_blocks import FlatNet
from fastmlp.compiler import COMPILER, Block, block_of, call, njit, prange
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.compiler.memory import (
    Record,
    record_at,
    records_at,
    stack,
)
from fastmlp.compiler.target import lanes_of


class Entry(Record):
    """A net in a call."""

    record: int  # address of its `PlainStep`, or `FlatNet`
    block: int  # address of its block of `check_rows`, or of `predict_rows`
    number: int  # of its next step
    status: int  # of its last step
    is_lost: int
    loss: float


ENTRY_BYTES = Entry.dtype.itemsize


class GroupJob(Record):
    """The job of `step_nets` and `predict_nets`."""

    team: int
    n_parts: int  # not used: the nets are the parts
    entries: int  # address of the nets' `Entry` records
    first: int  # the nets of this call
    last: int
    n_checked: int  # the first ones whose rows are checked before any net steps
    n_done: (
        int  # nets that have done it, and have finite numbers; -1: rows are not sound
    )
    x: int  # addresses of the first net's rows,
    y: int  # targets or labels, or the place of its predictions,
    weight: int  # and weights, or 0
    x_step: int  # bytes from a net's rows to the next net's; 0: the same rows
    y_step: int
    weight_step: int
    label_bytes: int
    n_rows: int  # to predict


@njit
def _point(job: GroupJob, entry: Entry, i: int) -> PlainStep:
    step = record_at(entry.record, PlainStep)
    step.x = job.x + i * job.x_step
    step.y = job.y + i * job.y_step
    step.weight = job.weight + i * job.weight_step
    step.label_bytes = job.label_bytes
    step.step = entry.number
    step.status = DECLINED
    step.team = 0
    step.n_parts = 1
    return step


def check_rows(scalar: Scalar) -> Kernel:
    """Sets the status of a `PlainStep` to `TAKEN` if a step would take its rows."""
    are_sound, take_weights = row_checks(scalar)
    vector = lanes_of(scalar) * np.dtype(scalar).itemsize

    def check(address: int) -> None:
        step = record_at(address, PlainStep)
        if are_sound(step, 0, step.n_rows, stack(vector)) and take_weights(step):
            step.status = TAKEN

    return check


def step_nets(scalar: Scalar) -> Kernel:
    """Make the driver of a step of each net, where the rows of all are sound.

    The one argument is the address of a `GroupJob`. The caller has checked shapes,
    and holds the GIL, or the parameters' locks, without which nobody reads them.
    """

    @njit(parallel=True)
    def step_each(
        team: int,
        jobs: Sequence[GroupJob],
        entries: Sequence[Entry],
        first: int,
        n: int,
    ) -> None:
        for index in prange(n):
            i = first + int(np.int64(index))
            entry = entries[i]
            step = _point(jobs[0], entry, i)
            publishes = step.publishes
            step.publishes = 1
            call(step.block, (entry.record,))
            step.publishes = publishes
            entry.status = step.status
            entry.loss = step.loss
            entry.is_lost = step.is_lost
            if step.status == TAKEN:
                entry.number += 1

    def take_steps(address: int) -> None:
        jobs = records_at(address, 1, GroupJob)
        job = jobs[0]
        entries = records_at(job.entries, job.last, Entry)
        n_sound = 0
        for i in range(job.n_checked):
            entry = entries[i]
            step = _point(job, entry, i)
            call(entry.block, (entry.record,))
            entry.status = step.status
            n_sound += 1 if step.status == TAKEN else 0
        job.n_done = -1
        if n_sound == job.n_checked:
            step_each(job.team, jobs, entries, job.first, job.last - job.first)
            job.n_done = 0
            for i in range(job.first, job.last):
                entry = entries[i]
                job.n_done += 1 if entry.status == TAKEN and entry.is_lost == 0 else 0

    return take_steps


def predict_rows(scalar: Scalar) -> Kernel:
    """Predicts an `Entry`'s rows; the status is `TAKEN` if all numbers are finite."""
    are_finite = ranges(scalar)[1]
    vector = lanes_of(scalar) * np.dtype(scalar).itemsize

    def predict(address: int) -> None:
        entry = record_at(address, Entry)
        sums = stack(vector)
        net = record_at(entry.record, FlatNet)
        entry.status = DECLINED
        if are_finite(net.x, net.n_rows * net.n_in, sums):
            call(net.small_batch, (entry.record,))
            if are_finite(net.out, net.n_rows * net.n_out, sums):
                entry.status = TAKEN

    return predict


def predict_nets(scalar: Scalar) -> Kernel:
    """Predictions by each net; the one argument is the address of a `GroupJob`."""

    @njit(parallel=True)
    def predict_each(
        team: int,
        jobs: Sequence[GroupJob],
        entries: Sequence[Entry],
        first: int,
        n: int,
    ) -> None:
        for index in prange(n):
            i = first + int(np.int64(index))
            job = jobs[0]
            net = record_at(entries[i].record, FlatNet)
            net.x = job.x + i * job.x_step
            net.out = job.y + i * job.y_step
            net.n_rows = job.n_rows
            call(entries[i].block, (job.entries + i * ENTRY_BYTES,))

    def predict_all(address: int) -> None:
        jobs = records_at(address, 1, GroupJob)
        job = jobs[0]
        entries = records_at(job.entries, job.last, Entry)
        predict_each(job.team, jobs, entries, job.first, job.last - job.first)
        job.n_done = 0
        for i in range(job.first, job.last):
            job.n_done += 1 if entries[i].status == TAKEN else 0

    return predict_all


def holding_the_gil(block: Block, n_words: int) -> Callable[..., None]:
    return ctypes.PYFUNCTYPE(None, *[ctypes.c_int64] * n_words)(block.address)


class DriverCalls:
    """Calls of a driver, one after the other, with its job's record."""

    def __init__(self, factory: Callable[..., Any]) -> None:
        self._record = np.zeros(1, GroupJob.dtype)
        self.job, self._place = fields_of(self._record), address(self._record)
        self._driver = block_of(factory, np.int64)
        self._kind = factory.__name__
        self._alone: Callable[..., None] = self._driver
        self._calls: LedCalls | None = None
        if not INTERPRETED:
            self._alone = holding_the_gil(self._driver, 1)

    def run(self, products: int, limit: int | None) -> None:
        """Run the driver, with these multiply-adds, on up to `limit` threads."""
        is_short = 2 * products < tuning.LEAST_LED
        if limit == 1 or is_short or COMPILER == "numba" or INTERPRETED:
            self._alone(self._place)
            return
        most = limit or limits.thread_limit()
        if self._calls is None or self._calls.n_threads != most:
            self._calls = LedCalls(
                self._kind, most, self.job, pieces=tuning.MOST_PIECES
            )
            self._lead = holding_the_gil(worker_pool.block(worker_pool.lead_call), 4)
        self._calls.run(
            self._driver, self._place, 2 * products, self._alone, self._lead
        )
