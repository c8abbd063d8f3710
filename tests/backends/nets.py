"""Nets, rows, runs, plans and batches for the tests of a backend,
and the same for the oracle.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import naive
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from loss_cases import CASES, draw_targets
from numpy.typing import NDArray

from fastmlp.backends.cpu import dispatch, tuning
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.plan.packing import CLOSE, Spacing, holds_transposed
from fastmlp.backends.cpu.plan.partition import Partition
from fastmlp.backends.cpu.plan.plan import (
    Addresses,
    Plan,
    Workspace,
    make_plan,
    make_workspace,
)
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.trainer import TRAININGS
from fastmlp.backends.protocol import Data
from fastmlp.network.spec import Layout, Network, bias_views, make_layout, weight_views
from fastmlp.network.state import NetState, n_slots_of
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.losses import LINKS, LOSSES
from fastmlp.rules.optimizer_protocol import (
    Optimizer,
    coefficients_of,
    is_averaged,
    lag_of,
)
from fastmlp.rules.updates import PENALTIES, Factors, groups_of

Array = NDArray[Any]
# None, each one alone, and all together.
PENALTY_SETS: list[dict[str, float]] = [
    {},
    *({name: 0.3} for name in PENALTIES),
    dict.fromkeys(PENALTIES, 0.2),
]


class Net(NamedTuple):
    """A network by names: `activation` is that of every hidden layer."""

    sizes: tuple[int, ...] = (3, 5, 2)
    activation: str = "tanh"
    loss: str = "mse"
    output_activation: str = "identity"
    penalties: Mapping[str, float] = MappingProxyType({})
    dtype: str = "float64"
    layer_rates: tuple[tuple[float, float], ...] = ()

    @property
    def network(self) -> Network:
        loss = CASES[self.loss]
        outer = "identity" if loss.link else self.output_activation
        names = [self.activation] * (len(self.sizes) - 2) + [outer]
        return Network(
            make_layout(self.sizes),
            tuple(ACTIVATIONS[name] for name in names),
            loss,
            LINKS[loss.link or "identity"],
            tuple(
                (PENALTIES[name], strength) for name, strength in self.penalties.items()
            ),
            np.dtype(self.dtype),
            tuple(Factors(*each) for each in self.layer_rates),
        )

    @property
    def oracle(self) -> dict[str, Any]:
        return {
            "activations": [self.activation] * (len(self.sizes) - 2),
            "loss": self.loss,
            "output_activation": self.output_activation,
            **self.penalties,
        }

    def draw(
        self, rng: np.random.Generator, n_rows: int, *, weighted: bool = False
    ) -> Any:
        layout = make_layout(self.sizes)
        parameters = rng.normal(scale=0.7, size=layout.n_parameters)
        x = rng.normal(size=(n_rows, self.sizes[0]))
        weight = rng.uniform(0.1, 3, size=n_rows if weighted else 0)
        y = draw_targets(self.loss, rng, n_rows, self.sizes[-1])
        as_is = [
            np.ascontiguousarray(a, self.dtype) for a in (parameters, x, y, weight)
        ]
        _, x, y, weight = as_is
        return as_is[0], Data(x, y, weight)


def network_of(
    sizes: tuple[int, ...], activation: str, output: str, link: str, dtype: str
) -> Network:
    """A network by the names of its rules; without penalties."""
    names = [activation] * (len(sizes) - 2) + [output]
    rules = tuple(ACTIVATIONS[name] for name in names)
    return Network(
        make_layout(sizes), rules, LOSSES["mse"], LINKS[link], (), np.dtype(dtype)
    )


def split(net: Net, parameters: Array) -> tuple[list[Array], list[Array]]:
    layout = make_layout(net.sizes)
    flat = parameters.astype(np.float64)
    return weight_views(layout, flat), bias_views(layout, flat)


def generator_of(state: NetState) -> Any:
    assert state.generator is not None
    return state.generator.bit_generator.state


def oracle_gradient(net: Net, parameters: Array, data: Data) -> tuple[float, Array]:
    if data.weight.size:
        weight = data.weight.astype(np.float64)
    else:
        weight = None
    assert isinstance(data.x, np.ndarray)
    x = data.x.astype(np.float64)
    y = data.y.astype(np.float64)
    w, b = split(net, parameters)
    value, *slopes = naive.gradient(w, b, x, y, sample_weight=weight, **net.oracle)
    return value, naive.flatten(*slopes)


def distance(a: Array, b: Array) -> float:
    """The distance of a from b, relative to the norm of b."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def orders(rng: np.random.Generator, n_epochs: int, n_rows: int) -> NDArray[np.int64]:
    return np.array([rng.permutation(n_rows) for _ in range(n_epochs)], np.int64)


class Run(NamedTuple):
    parameters: Array
    moments: Array
    losses: Array
    diverged: bool
    stopped: int


def train(
    net: Net,
    parameters: Array,
    data: Data,
    optimizer: Optimizer,
    order: NDArray[np.int64],
    batch_size: int,
    *,
    rates: Array | None = None,
    cuts: tuple[int, ...] = (),
    n_threads: int = 1,
) -> Run:
    """Train for an epoch for each row of `order`,
    in calls that end at `cuts` and at the end.
    """
    parameters = parameters.copy()
    engine = Engine(net.network, 1)
    moments = engine.moments(n_slots=n_slots_of(optimizer))
    if is_averaged(optimizer):
        moments.begin(parameters, lag_of(optimizer))
    engine.n_threads = n_threads
    trainer = engine.trainer(parameters, moments, optimizer, data, batch_size)
    n_units = trainer.units_per_epoch * len(order)
    n_steps = trainer.step_of(n_units)
    if rates is None:
        rates = np.full(n_steps, optimizer.learning_rate)
    groups = groups_of(optimizer, net.network.factors).groups
    coefficients = coefficients_of(optimizer, 1, rates, groups)
    losses = np.zeros(len(order))
    stopped = 0
    ends = [0, *cuts, n_units]
    for first, last in pairwise(ends):
        if stopped == first and last > first:
            chosen = coefficients[
                trainer.step_of(first) : trainer.step_of(last - 1) + 1
            ]
            stopped = trainer.run(order, chosen, losses, first, last)
    trainer.store()
    return Run(parameters, moments.flat(), losses, trainer.diverged, stopped)


def oracle_run(
    net: Net,
    parameters: Array,
    data: Data,
    optimizer: Any,
    order: Array,
    batch_size: int,
    rates: Array | None = None,
) -> tuple[Array, Array]:
    assert isinstance(data.x, np.ndarray)
    settings = asdict(optimizer)
    losses, *after = naive.train(
        *split(net, parameters),
        data.x,
        data.y,
        [
            np.split(rows, np.arange(batch_size, len(rows), batch_size))
            for rows in order
        ],
        optimizer=optimizer.rule.__name__.removeprefix("sgd_"),
        settings=settings if rates is None else {**settings, "learning_rate": rates},
        sample_weight=data.weight if data.weight.size else None,
        factors=net.layer_rates or None,
        **net.oracle,
    )
    return np.array(losses), naive.flatten(*after)


FORMS = ("rows", "chunks", "microbatches", "panels", "split 1", "split 2", "single row")


def take_form(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have steps of a form, shared among threads however small the work:
    chunks and microbatches of 8 rows, a layer shared by panels, or cut in two.
    """
    split_layer = int(form[-1]) if form.startswith("split") else 0
    monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: n_threads > 1)
    monkeypatch.setattr(tuning, "SHARED_FLOPS", 0)
    monkeypatch.setattr(partition, "split_layer_of", lambda step: split_layer)
    monkeypatch.setattr(partition, "panels_pay", lambda *sizes: form == "panels")
    if form == "microbatches":
        monkeypatch.setattr(partition, "microbatch_rows", lambda layout, n_rows: 8)
    if form == "chunks":
        monkeypatch.setattr(
            partition, "chunk_rows", lambda layout, n, **_: max(1, min(8, n))
        )
    TRAININGS.clear()


class Scene(NamedTuple):
    """A session of one batch, and the parameters it is at."""

    session: Session
    parameters: Any
    n_rows: int

    @property
    def net(self) -> int:
        return address(self.session.plan.net)

    @property
    def n_layers(self) -> int:
        return len(self.session.plan.layers)

    def gradient(self, phase_one: Callable[[], None], split: int = 0) -> bytes:
        """The bits of the gradient and of the losses, after such a phase one."""
        session, n = self.session, self.n_rows
        session.load(self.parameters)
        session.at(slice(0, n))
        session.batch["scale"] = 1 / n
        for name in ("outputs", "deltas", "inputs"):
            getattr(session.workspace, name).fill(np.nan)
        session.plan.strip_losses.fill(np.nan)
        phase_one()
        packed = session.keep_gradient()
        flat = np.empty_like(self.parameters)
        more = 0
        ends = 1
        apply = 0
        session.blocks["update"](0, self.net, 1, n, more, ends, apply, split)
        session.unpack(packed, flat)
        losses = session.plan.strip_losses[: -(-n // 8)]
        assert np.isfinite(flat).all()
        assert np.isfinite(losses).all()
        return bytes(flat.tobytes() + losses.tobytes())


def scene(
    monkeypatch: pytest.MonkeyPatch,
    net: Net,
    n_rows: int,
    *,
    split_layer: int = 0,
    by_panels: bool = False,
) -> Scene:
    """A session for a team of two, however small the work."""
    monkeypatch.setattr(tuning, "SHARED_FLOPS", 0)
    monkeypatch.setattr(partition, "split_layer_of", lambda step: split_layer)
    monkeypatch.setattr(partition, "panels_pay", lambda *sizes: by_panels)
    parameters, data = net.draw(np.random.default_rng(1), n_rows)
    engine = Engine(net.network, 1)
    engine.n_threads = 2
    return Scene(engine.objective(data).session, parameters, n_rows)


# Layers of few outputs, which may be transposed, as often as others.
layouts = st.lists(st.integers(1, 300) | st.integers(1, 6), min_size=2, max_size=5).map(
    lambda sizes: make_layout(tuple(sizes))
)
widths = st.sampled_from([2, 4, 8, 16])
for_every_layout = settings(derandomize=True, deadline=None, max_examples=50)
split_layers = st.integers(0, 2)
spacings = st.sampled_from([CLOSE, Spacing(8, 0), Spacing(16, 1), Spacing(16, 2)])
SIZE = 8  # bytes of a number


def plan_of(
    layout: Layout,
    lanes: int,
    rows: int = 5,
    *,
    train: bool = True,
    n_threads: int = 1,
    split_layer: int = 0,
    by_panels: bool = False,
    spacing: Spacing = CLOSE,
) -> tuple[Plan, Workspace]:
    buffers = make_workspace(
        layout, rows, 1, np.float64, lanes, train=train, spacing=spacing
    )
    forms = [i % 3 for i in range(layout.n_layers)]
    blocks = Addresses(range(layout.n_layers), forms, penalties=(7, 8))
    split_layer = min(split_layer, layout.n_layers)
    n_in, n_out = layout.sizes[max(split_layer, 1) - 1 :][:2]
    if split_layer and holds_transposed(n_in, n_out, lanes):
        split_layer = 0
    partition = Partition(rows, 0, n_threads, by_panels, split_layer)
    return make_plan(layout, buffers, blocks, (0.1, 0.2), 1, partition), buffers
