"""One rank's part of a fit on the CPU:
its share of each batch, and the exchange of the ranks.

By gradients, each step sums all ranks' gradients, and all take the same step. By
averages, each rank takes steps alone, and now and then all take the mean of their
parameters and state.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.dispatch import Runner
from fastmlp.backends.cpu.kernels import step as drivers
from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.session import Moments
from fastmlp.backends.cpu.trainer import Trainer
from fastmlp.backends.protocol import Data, RankExchange
from fastmlp.compiler.target import lanes_of
from fastmlp.rules.optimizer_protocol import Optimizer, Rates
from fastmlp.rules.updates import N_MOMENTS
from fastmlp.validation import Array

# Steps after which losses are exchanged, and a divergence is seen.
LOSS_STEPS = 256


class RankTrainer(Trainer):
    """The trainer of one rank; a unit is a step. All ranks run the same units.

    Parameters
    ----------
    batch_size : of all ranks together
    average_every : steps between averages; None: each step sums gradients
    """

    def __init__(
        self,
        engine: Runner,
        parameters: Array,
        moments: Moments,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
        *,
        ranks: RankExchange,
        average_every: int | None = None,
    ) -> None:
        self._ranks = ranks
        self._whole_batch = batch_size
        self._alone = average_every is not None
        self._every = average_every or LOSS_STEPS
        self._n_rows, self._weighted = self._rows_of_all(data)
        rows = int(np.diff(places_of(self._n_rows, batch_size)[ranks.rank]).max())
        driver = drivers.train_alone if self._alone else drivers.exchange
        super().__init__(
            engine, parameters, moments, optimizer, data, max(rows, 1), driver=driver
        )
        session = self.session
        self._n_moments = N_MOMENTS.get(optimizer.rule, 2)
        self._packed = len(session.workspace.parameters)
        layout = (lanes_of(engine.network.dtype.type), self._packed, *moments.spacing)
        layouts = ranks.allgather(np.array([*layout, moments.sparse], np.int64))
        # Panels differ with a machine's vectors and threads;
        # then flat vectors are exchanged.
        self._alike = bool((layouts == layouts[0]).all())
        self._n_parameters = len(parameters)
        self._n = self._packed if self._alike else self._n_parameters
        self._gradient = session.keep_gradient(ranks.size)
        self._sent = np.empty(0, parameters.dtype)
        # Paces of calls are kept by this number:
        # odd for fits with ranks, even for others.
        self.unit_flops += 1
        self.begin()
        self._count()
        # Compile, so that the first timed call measures work alone.
        self._call(-1, -1)

    def _rows_of_all(self, data: Data) -> tuple[list[int], bool]:
        """The rows of each rank, and True if any has weights."""
        counts = self._ranks.allgather(
            np.array([data.n_rows, bool(data.weight.size)], np.int64)
        )
        return counts[:, 0].tolist(), bool(counts[:, 1].any())

    def _count(self) -> None:
        places = places_of(self._n_rows, self._whole_batch)
        rank = self._ranks.rank
        shares = np.diff(places)
        self.units_per_epoch = n = shares.shape[1]
        self._starts = np.ascontiguousarray(places[rank])
        self._positions = shares[:rank].sum(axis=0)
        self._masses = shares.astype(np.float64)
        self._wholes = self._masses.sum(axis=0)
        self._losses = np.zeros(n)
        self._penalties = np.zeros(n)

    def pause(self) -> None:
        """A step takes several calls."""
        super().pause()

    def take(self, data: Data) -> None:
        super().take(data)
        self._n_rows, self._weighted = self._rows_of_all(data)
        self._count()

    def begin(self) -> None:
        self._reached = 0
        self._diverged = False

    @property
    def diverged(self) -> bool:
        """True if the last losses that were exchanged,
        or parameters, are not finite.
        """
        return self._diverged

    @property
    def reached(self) -> int:
        return self._reached

    def step_of(self, unit: int) -> int:
        return unit

    def run(
        self,
        order: NDArray[np.int64],
        coefficients: Rates,
        losses: Array,
        first: int,
        last: int,
    ) -> int:
        """Do steps of one epoch; return the step where it stopped, 0 if it diverged."""
        if first == 0:
            self._begin_epoch(order)
        constants = self.constants(coefficients)
        job = self.session.job
        row = constants.shape[1]
        # Kernels count the steps of an epoch from its first one.
        job["coefficients"] = address(constants) - first * row * constants.itemsize
        job["n_coefficients"] = row
        while first < last:
            stop = min(last, (first // self._every + 1) * self._every)
            self._steps(first, stop)
            if stop % self._every == 0 or stop == self.units_per_epoch:
                losses[0] = self._settle(stop)
                if self.diverged:
                    self._restore()
                    self._reached = 0
                    return 0
            self._reached = first = stop
        return last

    def _begin_epoch(self, order: NDArray[np.int64]) -> None:
        """Back up the parameters for a divergence,
        and sum the weights of each batch's rows.
        """
        session, rank = self.session, self._ranks.rank
        workspace = session.workspace
        moments = session.moments
        workspace.backup[:] = workspace.parameters
        average = None if moments is None else moments.average
        self._average = None if average is None else average.copy()
        if self._weighted:
            self._weigh(order[0])
        self._settled = 0
        self._loss = 0.0
        self._mass = 0.0
        self._losses[:] = self._penalties[:] = 0.0
        self._of_heads = np.zeros(len(self._network.heads))
        self._order = order
        fields = {
            "order": order,
            "starts": self._starts,
            "positions": self._positions,
            "masses": self._masses[rank] if self._alone else self._wholes,
            "wholes": self._wholes,
            "losses": self._losses if self._alone else self._penalties,
            "head_losses": self._of_heads,
        }
        for name, array in fields.items():
            session.job[name] = address(array)
        session.job["n_rows"], session.job["chunk_rows"] = len(order[0]), session.rows

    def _weigh(self, order: NDArray[np.int64]) -> None:
        """The mass of each batch, of this rank's rows and of all."""
        weight = self.session.data.weight
        if weight.size:
            of_order = weight[order].astype(np.float64)
        else:
            of_order = np.ones(len(order))
        sums = np.concatenate([[0.0], np.cumsum(of_order)])[self._starts]
        self._masses = self._ranks.allgather(np.diff(sums))
        self._wholes = self._masses.sum(axis=0)

    def _steps(self, first: int, last: int) -> None:
        if self._alone:
            self._call(first, last)
            return
        before = -1
        for s in range(first, last):
            if self._wholes[s]:
                self._call(before, s)
                self._sum_gradients()
                before = s
        self._call(before, -1)

    def _call(self, first: int, last: int) -> None:
        # A call without rows counts as no work. With a step's work it was sixty times
        # as fast as a step, and the autotuner chose one thread (784-512-512-10@4096).
        if self._alone:
            n_units = last - first
        else:
            n_units = int(last >= 0)
        job = self.do(n_units, first=first, last=last)
        if last >= 0 and not self._alone:
            self._losses[last] = job["loss"]

    def _sum_gradients(self) -> None:
        if self._alike:
            self._ranks.sum(self._gradient)
        else:
            self._exchange([self._gradient[: self._packed]], 1.0)

    def _exchange(self, arrays: list[Array], share: float) -> None:
        """Replace packed vectors by their sums over the ranks,
        each times the rank's share.
        """
        n, session = self._n, self.session
        size = round_up(n * len(arrays), self._ranks.size)
        if len(self._sent) != size:
            self._sent = np.zeros(size, arrays[0].dtype)
        parts = self._sent[: n * len(arrays)].reshape(-1, n)
        for array, part in zip(arrays, parts, strict=True):
            if self._alike:
                part[:] = array
            else:
                session.unpack(array, part)
        if share != 1.0:
            self._sent *= self._sent.dtype.type(share)
        self._ranks.sum(self._sent)
        for array, part in zip(arrays, parts, strict=True):
            if self._alike:
                array[:] = part
            else:
                session.blocks["pack"](
                    address(session.plan.net), address(part), address(array)
                )

    def _settle(self, last: int) -> float:
        """Average, if it is time to, and exchange the losses since the last time;
        return the mean loss of the epoch so far.
        """
        first = self._settled
        self._settled = last
        wholes = self._wholes[first:last]
        if self._alone and wholes.any():
            masses = self._masses[self._ranks.rank, first:last]
            self._average_all(float(masses.sum() / wholes.sum()))
        with np.errstate(all="ignore"):
            of_steps = self._ranks.allgather(self._losses[first:last]).sum(axis=0)
            of_steps += self._penalties[first:last] * wholes * (not self._alone)
            finite = np.isfinite(of_steps)
            if finite.all():
                n = len(finite)
            else:
                n = int(finite.argmin()) + 1
            self._loss += float(of_steps[:n].sum())
            self._mass += float(wholes[:n].sum())
        ends = last == self.units_per_epoch
        if ends and self._of_heads.size:
            sums = self._ranks.allgather(self._of_heads).sum(axis=0)
            self.head_losses = sums[None] / (self._mass or np.nan)
        self._diverged = not finite.all() or (ends and not self._is_finite())
        if self._mass:
            return self._loss / self._mass
        return float("nan")

    def _average_all(self, share: float) -> None:
        session = self.session
        workspace = session.workspace
        moments = session.moments
        n = self._packed
        assert moments is not None
        state = [moments.m, moments.v][: self._n_moments]
        if moments.average is not None and not any(
            moments.average is array for array in state
        ):
            state.append(moments.average)
        with np.errstate(all="ignore"):
            self._exchange(
                [workspace.parameters, *(array[:n] for array in state)], share
            )
        session.blocks["transposes"](address(session.plan.net))

    def _is_finite(self) -> bool:
        session = self.session
        flat = np.empty(self._n_parameters, self._sent.dtype)
        session.unpack(session.workspace.parameters, flat)
        return bool(np.isfinite(flat).all())

    def _restore(self) -> None:
        """Restore the parameters of the epoch's start,
        and clear the optimizer's state.
        """
        session = self.session
        moments = session.moments
        workspace = session.workspace
        assert moments is not None
        workspace.parameters[:] = workspace.backup
        moments.m[:] = moments.v[:] = 0
        if moments.average is not None and self._average is not None:
            moments.average[:] = self._average
        session.blocks["transposes"](address(session.plan.net))


def places_of(n_rows: Sequence[int], batch_size: int) -> NDArray[np.int64]:
    """The first row of each batch in each rank's order,
    int64, shape (n_ranks, n_batches + 1).

    Each batch has a share of each rank's rows, in proportion to how many it has.
    All batches have `batch_size` rows but the last one.

    Examples
    --------
    >>> places_of([4, 0, 2], 3)
    array([[0, 2, 4],
           [0, 0, 0],
           [0, 1, 2]])
    """
    total = sum(n_rows)
    ends = np.arange(-(-total // batch_size) + 1, dtype=np.int64) * batch_size
    # One rank after the other takes its part of the rows that are left.
    # A part grows by 0 or 1 with each row, and so does the rest.
    left = np.minimum(ends, total)
    places = []
    for n in n_rows:
        places.append(left * n // max(total, 1))
        left = left - places[-1]
        total = total - n
    return np.stack(places)
