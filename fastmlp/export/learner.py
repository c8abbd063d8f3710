"""Training of a net inside compiled code: its steps, their coefficients, and the net's lock."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels.one_step import PlainStep
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.embedded import Owner
from fastmlp.backends.cpu.predict.embedded_steps import EmbeddedSteps
from fastmlp.backends.cpu.predict.embedded_vjp import vjp_record
from fastmlp.backends.protocol import Data
from fastmlp.compiler import record_at
from fastmlp.model import MLP, core_of
from fastmlp.rules.optimizer_protocol import is_averaged
from fastmlp.training.steps import Kind, Steps
from fastmlp.validation import scalars

# Steps after which coefficients of a constant rate must no longer change; and a step far away.
MOST_STEPS, FAR = 1 << 18, 1 << 40


@contextmanager
def learner(net: MLP, *, batch_size: int, n_steps: int | None = None) -> Iterator[Any]:
    """A context with a handle by which compiled code trains a net, and predicts.

    `train_on_batch` and `train_on_gradient` take steps with the bits of `MLP.train_on_batch` and
    `MLP.train_on_gradient`, `vjp` has those of `MLP.vjp`, `predict` sees each step. Meanwhile the
    net is in training, so that others' fits are refused, and `n_steps` of the net stays. When the
    context ends the net has all its steps, and counts them; the handle trains no more. It is a
    context, and no `compiled(training=True)`, as a net in training must be let go.

    Parameters
    ----------
    net : MLP, on the CPU
    batch_size : int, rows of every step
    n_steps : int, optional
        Steps whose coefficients are computed ahead; later steps take those of the last. Without it,
        as many as there are until they no longer change: of a constant rate, until Adam's
        corrections of its bias are over, of a schedule, to its end. Dropout must have a number.

    Raises
    ------
    TypeError, ValueError
        If net is no MLP, or batch_size or n_steps no positive int; if a step needs what is done in
        Python: averages, bfloat16, a GPU, a batch too large for one call; if coefficients do not
        end, and n_steps is not given.
    RuntimeError
        If the net is in training.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, jit
    >>> net, X, y = MLP((2, 4, 1), seed=0), np.ones((8, 2)), np.ones(8)
    >>> with jit.learner(net, batch_size=8) as handle:
    ...     losses = [jit.train_on_batch(handle, X, y) for _ in range(3)]
    >>> losses[2] < losses[0]
    True
    """
    who = "jit.learner"
    if not isinstance(net, MLP):
        raise TypeError(f"{who}: net must be an MLP, got {type(net).__name__}")
    scalars.positive_integer(who, "batch_size", batch_size)
    core = core_of(net)
    state, network = core.state, core.engine.network
    if net.device != "cpu":
        raise ValueError(f"{who}: the net is on {net.device!r}: net.to('cpu') moves it")
    steps = net._single_steps()
    steps.require_steps(who)
    if is_averaged(state.optimizer):
        raise ValueError(
            f"{who}: {state.optimizer!r} averages parameters, which compiled steps do not; use "
            "net.train_on_batch, or an optimizer without an average, such as Adam()"
        )
    with state.lock.training(who):
        layout, dtype = state.layout, network.dtype
        table = _coefficients(steps, dtype, state.n_steps, n_steps, who)
        has_labels = network.loss.targets == "classes"
        x = np.zeros((batch_size, layout.sizes[0]), dtype)
        slopes = np.zeros((batch_size, layout.sizes[-1]), dtype)
        n_targets = 1 if has_labels else layout.sizes[-1] // network.loss.per_target
        y = np.ones((batch_size, n_targets), np.int64 if has_labels else dtype)
        trainers: list[Any] = []
        record = np.zeros(1, EmbeddedSteps.dtype)
        try:
            targets_of: dict[Kind, Any] = {"batch": y.astype(dtype), "gradient": slopes}
            for kind, targets in targets_of.items():
                trainers.append(steps.trainer(kind, Data(x, targets, np.empty(0, dtype))))
                trainers[-1].begin()
            quick = [trainer.pause() for trainer in trainers]
            if None in quick:
                is_mixed = network.compute_dtype is not None
                cause = "bfloat16" if is_mixed else f"batches of {batch_size} rows of this net"
                raise ValueError(
                    f"{who}: compiled steps do not take {cause}; use net.train_on_batch"
                )
            for trainer, step in zip(trainers, quick, strict=True):
                step.point_to(trainer.constants(table), state.n_steps)
                record_at(step.address, PlainStep).publishes = 1
            objective = steps.new_objective("vjp", Data(x, slopes, np.empty(0, dtype)))
            vjp = vjp_record(objective, state.parameters, x, slopes)
            steps_of_kinds = (step.address for step in quick)
            places = address(x), address(y), address(slopes)
            record[0] = (*steps_of_kinds, *places, has_labels, 0, len(table) - 1, address(vjp[0]))
            owner = Owner(network, state.parameters, "none", layout.sizes[-1])
            owner.fields["learner"] = address(record)
            owner.kept += [record, x, y, slopes, quick, table, vjp]
            handle = owner.handle()
            try:
                yield handle
            finally:
                handle["learner"] = 0
                state.n_steps += int(record[0]["n_taken"])
        finally:
            for trainer in trainers:
                trainer.end()


def _coefficients(
    steps: Steps, dtype: np.dtype[Any], first: int, n_steps: int | None, who: str
) -> NDArray[np.floating[Any]]:
    """The table of the coefficients of steps from `first` on, to those that no longer change."""
    if n_steps is not None:
        scalars.positive_integer(who, "n_steps", n_steps)
        return np.ascontiguousarray(steps.coefficients(first, n_steps), dtype)
    last, n = steps.coefficients(first + FAR).astype(dtype), 64
    while n <= MOST_STEPS:
        table = np.ascontiguousarray(steps.coefficients(first, n), dtype)
        if np.array_equal(table[-1:], last):
            changing = np.flatnonzero((table != last).any(axis=1))
            return table[: changing[-1] + 2 if len(changing) else 1].copy()
        n *= 4
    raise ValueError(
        f"{who}: the numbers that a step takes, as its rate or dropout's, do not end: give n_steps"
    )
