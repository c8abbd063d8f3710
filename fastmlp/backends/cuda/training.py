"""The training of nets on the GPU: the kernels of a grid,
their launches, the optimizer's state.

Blocks (i, k) share net k. A step has two phases; between them all blocks wait for each
other. In phase one, each block takes strips of rows through forward pass, loss and
backward pass. In phase two, each block takes tiles of weights through gradient, penalty
and update. Each number is one sum, in the order of its depth, by one thread: the bits
are independent of tiles, blocks, launches and other nets. A launch runs one phase of a
step, or a cooperative launch many steps.
"""

import time
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import task_pool
from fastmlp._process.locks import NetLock
from fastmlp.backends.cuda import device, kernels, rule_blocks
from fastmlp.backends.cuda.device import configure, cuda, device_function, kernel
from fastmlp.backends.cuda.kernels import make_forward_backward, make_gradient_update
from fastmlp.backends.cuda.plan import (
    SIMULATED_THREADS,
    GridShape,
    KernelRules,
    Nets,
    Session,
    bytes_of,
    grid_shape,
    rules_of,
    training_need,
)
from fastmlp.backends.cuda.rule_blocks import Net, Samples
from fastmlp.backends.protocol import Data, Span
from fastmlp.network.spec import Network
from fastmlp.network.state import N_SLOTS
from fastmlp.rules.optimizer_protocol import Optimizer, Rates
from fastmlp.validation import Array

# Most steps of one launch; memory has their coefficients, sums their losses.
MOST_STEPS = 1 << 14
# The most numbers of a net's row orders in a window of epochs
# (`loop.MAX_ORDER_NUMBERS`).
MOST_ORDER_NUMBERS = 1 << 20


class Moments:
    """The state of an optimizer on the GPU,
    which keeps it between fits; zeros at first.

    Attributes
    ----------
    n_slots : 2: m and v. 4: also the trained parameters, and the shown ones, an average
    state : array on the GPU, shape (n_slots * n_parameters,), one slot after the other
    """

    network: Network
    card: device.Card
    n_slots: int
    state: Any

    def __init__(
        self,
        network: Network,
        index: int,
        flat: Array | None = None,
        n_slots: int = N_SLOTS,
    ) -> None:
        device.require(index)
        self.network, self.card, self._lag = network, device.card_of(index), 0.0
        self.n_slots = n_slots if flat is None else len(flat)
        n = network.layout.n_parameters
        zeros = np.zeros(self.n_slots * n, network.dtype)
        host = zeros if flat is None else np.ascontiguousarray(flat)
        with self.card.current():
            self.state = self.card.copied(
                host.reshape(-1).astype(network.dtype, copy=False)
            )

    def begin(self, parameters: Array, lag: float) -> bool:
        self._lag = lag
        host = np.ascontiguousarray(parameters)
        with self.card.current():
            shown = self._slot(3)
            if device.to_host(shown).tobytes() == host.tobytes():
                return False
            shown.copy_to_device(host)
            self._slot(2).copy_to_device(host)
            if lag:
                self._slot(0).copy_to_device(np.zeros_like(host))
        return True

    def load(self, session: Session, parameters: Array | None, net: int = 0) -> None:
        """Copy the state and the trained parameters to a net's memory.

        Without an average, the host's `parameters` are trained;
        None: they are there already.
        """
        n = self.network.layout.n_parameters
        if self.n_slots > N_SLOTS and parameters is not None:
            self.begin(parameters, self._lag)
        session.put("m", self.state[: N_SLOTS * n], net)
        if self.n_slots > N_SLOTS:
            session.put("parameters", self._slot(2), net)
            if not self._lag:
                session.put("average", self._slot(3), net)
        elif parameters is not None:
            session.put("parameters", np.ascontiguousarray(parameters), net)

    def store(self, session: Session, net: int = 0) -> Array:
        """Copy the state from a net's memory;
        return the parameters that the net shows.
        """
        n = self.network.layout.n_parameters
        self.state[: N_SLOTS * n].copy_to_device(session.get("m", N_SLOTS * n, net))
        trained = session.get("parameters", n, net)
        if self.n_slots == N_SLOTS:
            return np.ascontiguousarray(device.to_host(trained))
        self._slot(2).copy_to_device(trained)
        if self._lag:
            m = device.to_host(session.get("m", n, net))
            shown = device.to_host(trained)
            with np.errstate(all="ignore"):
                shown = np.ascontiguousarray(shown - self._lag * m)
        else:
            shown = np.ascontiguousarray(device.to_host(session.get("average", n, net)))
        self._slot(3).copy_to_device(shown)
        return shown

    def flat(self) -> Array:
        """A copy in host memory, in the parameters' order,
        shape (n_slots, n_parameters).
        """
        with self.card.current():
            return device.to_host(self.state).reshape(self.n_slots, -1).copy()

    def _slot(self, i: int) -> Any:
        n = self.network.layout.n_parameters
        return self.state[i * n : (i + 1) * n]

    def __reduce__(self) -> Any:
        return Moments, (self.network, self.card.index, self.flat())


class Launches:
    """Nets with the same layers and rules, on the same rows,
    which train in the same launches.

    A MemoryError says that the rows or a single net do not fit into the GPU's memory.

    Parameters
    ----------
    networks : as many as fit into the GPU's memory take part, the first ones
    optimizer : of the first; the others' optimizers have its rule and its groups of parameters
    data : of the first; the others' rows in use and weights may differ
    batch : rows of the largest batch
    who : the call that messages name
    """

    def __init__(
        self,
        card: device.Card,
        networks: Sequence[Network],
        optimizer: Optimizer,
        data: Data,
        batch: int,
        who: str,
    ) -> None:
        network = networks[0]
        self.card = card
        self._rules = rules_of(network, optimizer)
        card.require_bytes(device.host_bytes(data), who)
        self.take(data.x, data.y)
        self._shape = grid_shape(network, batch, card, len(networks))
        # A net of another fold may use more rows than the first.
        # Each step may have weights or not.
        sizes = (batch, len(data.x), len(data.x), MOST_STEPS)
        need = training_need(self._shape, network, optimizer, *sizes)
        of_net = bytes_of(network, need) + 8 * max(len(data.x), MOST_ORDER_NUMBERS)
        self.n_nets = min(len(networks), max(1, int(0.9 * card.free_bytes()) // of_net))
        self.session = Session(card, networks[: self.n_nets], need, who=who)
        self._losses = int(self.session.plans["losses"][0])

    def seat(self, net: int) -> "Seat":
        return Seat(self, net)

    def take(self, x: Any, y: Any) -> None:
        with self.card.current():
            self._rows = Samples(
                device.to_device(self.card, x), device.to_device(self.card, y)
            )
        self._orders: dict[int, NDArray[np.int64]] = {}

    def drop(self) -> None:
        self._rows = Samples(None, None)

    def run(self, spans: "Sequence[Span[Trainer]]") -> None:
        """Do the steps of some nets, each step in the launch of all of them."""
        session = self.session
        start = time.perf_counter()
        longest = max(span.last - span.first for span in spans)
        # Nets without a span take no step.
        session.plans["first"] = session.plans["last"]
        with self.card.current():
            self._send_orders(spans)
            for done in range(0, longest, MOST_STEPS):
                task_pool.check()
                n_steps = min(MOST_STEPS, longest - done)
                for span in spans:
                    self._send(span, done, n_steps)
                session.send_plans()
                launch_steps(self._rules, self._shape, session, self._rows, n_steps)
                device.synchronize()
                reached = session.progress()["reached"]
                for span in spans:
                    span.reached = int(reached[span.trainer.net])
                    self._fetch(span)
        for span in spans:
            span.seconds = time.perf_counter() - start

    def _send_orders(self, spans: "Sequence[Span[Trainer]]") -> None:
        """Once per window: the calls of a window pass the same array."""
        changed = []
        for span in spans:
            net = span.trainer.net
            if self._orders.get(net) is not span.order:
                self._orders[net] = span.order
                self.session.set(net, n_orders=len(span.order))
                changed.append(net)
        if changed:
            self.session.send_orders(self._orders, changed)

    def _send(self, span: "Span[Trainer]", done: int, n_steps: int) -> None:
        net = span.trainer.net
        per_epoch = span.trainer.units_per_epoch
        first = min(span.first + done, span.last)
        last = min(first + n_steps, span.last)
        # The losses begin with the epoch of the first step.
        losses = self._losses - first // per_epoch
        self.session.set(net, first=first, last=last, losses=losses)
        rows = span.coefficients[first - span.first : last - span.first]
        dtype = self.session.nets.memory.dtype
        self.session.put(
            "coefficients", np.ascontiguousarray(rows, dtype).reshape(-1), net
        )

    def _fetch(self, span: "Span[Trainer]") -> None:
        net = span.trainer.net
        per_epoch = span.trainer.units_per_epoch
        first, last = (int(self.session.plans[name][net]) for name in ("first", "last"))
        low = first // per_epoch
        high = span.reached // per_epoch + (span.reached < last)
        if first <= span.reached and low < high:
            start = self._losses
            losses = self.session.nets.sums[net, start : start + high - low]
            span.losses[low:high] = losses.copy_to_host()


class Seat(NamedTuple):
    """A net's index in its launches."""

    launches: Launches
    net: int


class Trainer:
    """The training of one net on the GPU, many steps a launch; a unit is a step.

    Parameters
    ----------
    parameters : flat, on the host; `load` reads them, `store` writes them
    seat : in launches of several nets; None: launches of this net alone
    stepping : True: a single batch a time, from a user's loop
    summed : True: steps of the sum of the rows' losses, linear in y, not of their mean

    Attributes
    ----------
    net : index in its launches
    """

    net: int
    derivative_losses: Array = np.empty(0)
    units_per_epoch: int
    unit_flops: int
    head_losses: Array = np.empty((0, 0))

    def __init__(
        self,
        card: device.Card,
        network: Network,
        lock: NetLock,
        parameters: Array,
        moments: Moments,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
        *,
        seat: Seat | None = None,
        stepping: bool = False,
        summed: bool = False,
    ) -> None:
        self._card = card
        self._lock = lock
        self._summed = summed
        self._parameters = parameters
        self._moments = moments
        self._batch = batch = min(batch_size, data.n_rows)
        self.unit_flops = 6 * network.layout.n_weights * batch
        alone = (card, [network], optimizer, self._scaled(data), batch, "MLP.fit")
        self._launches, self.net = seat or Launches(*alone).seat(0)
        self._session = self._launches.session
        self._set(data)
        self.load()

    def _scaled(self, data: Data) -> Data:
        if not self._summed:
            return data
        return data._replace(
            y=device.to_host(data.y) * self._parameters.dtype.type(data.n_rows)
        )

    def _set(self, data: Data) -> None:
        self.units_per_epoch = -(-data.n_rows // self._batch)
        weighted = int(data.weight.size > 0)
        self._session.set(
            self.net, n_rows=data.n_rows, batch=self._batch, weighted=weighted
        )
        if weighted:
            with self._card.current():
                self._session.put(
                    "weights", np.ascontiguousarray(data.weight), self.net
                )

    def take(self, data: Data) -> None:
        self._set(data)
        self._launches.take(*self._scaled(data)[:2])

    def regroup(self, optimizer: Optimizer) -> bool:
        """Return False: other factors of learning rates need another trainer."""
        return False

    def resume(self, moments: Moments, data: Data) -> None:
        self._moments = moments
        self.take(data)
        self.load()

    def pause(self) -> None:
        self._launches.drop()

    def load(self) -> None:
        with self._card.current():
            self._moments.load(self._session, self._parameters, self.net)

    def store(self) -> None:
        with self._card.current():
            values = self._moments.store(self._session, self.net)
        self._lock.publish(values, self._parameters)

    def end(self) -> None:
        """The GPU's memory is freed with this object."""

    @property
    def n_bytes(self) -> int:
        """Bytes on the GPU."""
        return self._session.n_bytes

    def begin(self) -> None:
        with self._card.current():
            self._session.set_progress(self.net, reached=0, diverged=0)

    @property
    def reached(self) -> int:
        return int(self._progress("reached"))

    @property
    def diverged(self) -> bool:
        return bool(self._progress("diverged"))

    def _progress(self, name: str) -> Any:
        with self._card.current():
            return self._session.progress()[name][self.net]

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
        """Do the units first to last of a window of epochs;
        return the unit where it stopped.
        """
        span = Span(self, order, coefficients, losses, first, last)
        self._launches.run([span])
        return span.reached


FORWARD_BACKWARD = 0
GRADIENT_UPDATE = 1
END_PHASE = 2


class Kernels(NamedTuple):
    """The kernels for some rules and shapes.

    Attributes
    ----------
    phase : ``one_phase(x, y, nets, step, phase)``, one phase of each net's step; steps
        are counted from the first of the launch
    run : ``all_steps(x, y, nets, n_steps)``, each net's steps, at most `n_steps`, in
        one cooperative launch; None without an optimizer
    """

    phase: Any
    run: Any


@cache
def make_kernels(rules: KernelRules, shape: GridShape) -> Kernels:
    """Both kernels run one device function: the launch of a phase takes that phase, the
    cooperative one takes the phases of all steps, with a barrier of the grid after
    each.
    """
    forward_backward = make_forward_backward(rules, shape)
    gradient_update = make_gradient_update(rules, shape)
    end = _make_end(rules, shape)
    training = rules.update is not None
    scalar = device.SCALARS[rules.dtype]
    size = shape.staging

    def on_nets(staging: Any, rows: Samples, nets: Nets, step: int, phase: int) -> None:
        for k in range(cuda.blockIdx.y, nets.plans.shape[0], cuda.gridDim.y):
            plan = nets.plans[k]
            progress = nets.progress[k]
            orders = nets.orders[k]
            net = Net(nets.memory[k], nets.sums[k], progress, plan, nets.layers, orders)
            if phase == FORWARD_BACKWARD:
                forward_backward(staging, rows, net, plan.first + step)
            elif phase == GRADIENT_UPDATE:
                gradient_update(staging, net, plan.first + step)
            elif training:
                end(net)

    take_phase = device_function(on_nets)

    def one_phase(x: Any, y: Any, nets: Nets, step: int, phase: int) -> None:
        staging = cuda.shared.array(size, scalar)
        take_phase(staging, Samples(x, y), nets, step, phase)

    def all_steps(x: Any, y: Any, nets: Nets, n_steps: int) -> None:
        staging = cuda.shared.array(size, scalar)
        grid = cuda.cg.this_grid()
        # The two phases of each step in turn, then the end.
        for i in range(2 * n_steps + 1):
            phase = i % 2 if i < 2 * n_steps else END_PHASE
            take_phase(staging, Samples(x, y), nets, i // 2, phase)
            grid.sync()

    return Kernels(kernel(one_phase), kernel(all_steps) if training else None)


def _make_end(rules: KernelRules, shape: GridShape) -> Any:
    """The end of a net's launch:
    a training that has diverged goes back to its epoch.
    """
    n_threads = shape.n_threads
    restore = rule_blocks.restore(rules)

    def end(net: Net) -> None:
        plan, progress = net.plan, net.progress
        first = cuda.blockIdx.x * n_threads + cuda.threadIdx.x
        n_all = cuda.gridDim.x * n_threads
        if progress.diverged != 0:
            restore(net.memory, plan, first, n_all)
        elif first == 0:
            progress.reached = plan.last

    return device_function(end)


# The simulator runs blocks one after the other:
# barriers are the ends of launches there.
COOPERATIVE = not device.SIMULATED


def launch_steps(
    rules: KernelRules, shape: GridShape, session: Session, rows: Samples, n_steps: int
) -> None:
    """Launch the plans' steps, at most `n_steps` for a net."""
    kernels = make_kernels(rules, shape)
    n_threads = shape.n_threads
    arguments = (*rows, session.nets)
    if COOPERATIVE:
        # All blocks must be resident at once. Two on one multiprocessor would share its
        # arithmetic, and reach the barrier later.
        resident = device.max_cooperative_blocks(
            kernels.run, (*arguments, n_steps), n_threads
        )
        blocks = blocks_of(session, min(resident, session.card.n_multiprocessors))
        run = configure(kernels.run, (*arguments, n_steps), blocks, n_threads)
        run(*arguments, n_steps)
        return
    phase = configure(
        kernels.phase, (*arguments, 0, 0), phase_blocks(session), n_threads
    )
    for step in range(n_steps):
        phase(*arguments, step, FORWARD_BACKWARD)
        phase(*arguments, step, GRADIENT_UPDATE)
    phase(*arguments, n_steps, END_PHASE)


def launch_chunk(
    rules: KernelRules,
    shape: GridShape,
    session: Session,
    rows: Samples,
    *,
    losses: bool,
) -> None:
    """The forward pass of a chunk of rows; with `losses`,
    their sum, and the gradient if the plan's mode is TRAIN.
    """
    kernel = make_kernels(rules, shape).phase
    arguments = (*rows, session.nets)
    phase = configure(
        kernel, (*arguments, 0, 0), phase_blocks(session), shape.n_threads
    )
    phase(*arguments, 0, FORWARD_BACKWARD)
    if losses:
        phase(*arguments, 0, GRADIENT_UPDATE)


def launch_update(rules: KernelRules, session: Session) -> None:
    """One optimizer step by the gradient in memory."""
    kernel = kernels.make_apply(
        rules, n_threads := SIMULATED_THREADS if device.SIMULATED else 256
    )
    configure(kernel, (session.nets,), phase_blocks(session), n_threads)(session.nets)


def phase_blocks(session: Session) -> tuple[int, int]:
    """Two for each multiprocessor."""
    return blocks_of(session, 2 * session.card.n_multiprocessors)


def blocks_of(session: Session, most: int) -> tuple[int, int]:
    """How many blocks share a net, and how many nets are worked on at once."""
    n_nets = max(1, min(most, len(session.plans)))
    return max(1, most // n_nets), n_nets
