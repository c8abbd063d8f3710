"""Both phases of one batch by the blocks' own arguments: the gradient, and the strips' losses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from nets import Net

from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.session import Session

Array = Any


class Scene(NamedTuple):
    """A session of one batch, and the parameters it is at."""

    session: Session
    parameters: Array
    n_rows: int

    @property
    def net(self) -> int:
        """The address of the record."""
        return address(self.session.plan.net)

    @property
    def n_layers(self) -> int:
        """The number of layers."""
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
        packed, flat = session.keep_gradient(), np.empty_like(self.parameters)
        more, ends, apply = 0, 1, 0
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
    monkeypatch.setattr(partition, "SHARED_FLOPS", 0)
    monkeypatch.setattr(partition, "split_layer_of", lambda step: split_layer)
    monkeypatch.setattr(partition, "panels_pay", lambda *sizes: by_panels)
    parameters, data = net.draw(np.random.default_rng(1), n_rows)
    engine = Engine(net.network, 1)
    engine.n_threads = 2
    return Scene(engine.objective(data)._session, parameters, n_rows)
