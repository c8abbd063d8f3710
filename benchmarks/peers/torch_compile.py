"""PyTorch, compiled by Inductor: the whole step in one graph, or with the fused optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch._inductor import config

from benchmarks.peers.torch_eager import LOSSES, Tensor, TorchEager, about, forward
from benchmarks.workloads import Workload

__all__ = ["VARIANTS", "about", "make"]

VARIANTS = ("whole step", "whole step, C++ wrapper", "loss and fused optimizer")


def make(workload: Workload, variant: str = VARIANTS[0]) -> TorchEager:
    torch._dynamo.reset()
    config.cpp_wrapper = variant.endswith("C++ wrapper")
    if variant.startswith("whole"):
        return WholeStep(workload, "gather each epoch")
    return CompiledLoss(workload, "gather each epoch")


class CompiledLoss(TorchEager):
    """Forward and backward compiled; the optimizer is PyTorch's fused kernel."""

    def reset(self) -> None:
        super().reset()
        load = self.workload

        def objective(p: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
            return LOSSES[load.loss](forward(load.activation, p, x), y)

        if not hasattr(self, "_compiled"):
            self._compiled = torch.compile(objective, dynamic=False)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return self._compiled(self.p, x, y)

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        p, name = [part.detach() for part in self.p], self.workload.activation
        compiled = torch.compile(lambda x: forward(name, p, x), dynamic=False)
        return {"compiled": torch.inference_mode()(compiled)}


class WholeStep(CompiledLoss):
    """Forward, backward and update are one graph: no autograd, no optimizer object."""

    def reset(self) -> None:
        super().reset()
        self.p = [part.detach() for part in self.p]
        self.m, self.v = ([torch.zeros_like(part) for part in self.p] for _ in range(2))
        # Of shape (1,): compiled code does not write a 0-dimensional float64 argument back.
        self.t = torch.zeros(1, dtype=self.p[0].dtype)
        if not hasattr(self, "_step"):
            self._step = torch.compile(whole_step(self.workload), dynamic=False, fullgraph=True)

    def step(self, x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            self._step(self.p, self.m, self.v, self.t, x, y)

    def gradient(self) -> Any:
        batch = slice(0, self.workload.batch)
        return self._gradient()(self.p, self.x[batch], self.y[batch])

    def _gradient(self) -> Callable[..., Any]:
        if not hasattr(self, "_slopes"):
            slopes = torch.func.grad_and_value(objective_of(self.workload))
            self._slopes = torch.compile(slopes, dynamic=False)
        return self._slopes


def objective_of(workload: Workload) -> Callable[..., Tensor]:
    def objective(p: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        return LOSSES[workload.loss](forward(workload.activation, p, x), y)

    return objective


def whole_step(load: Workload) -> Callable[..., Tensor]:
    """Return step(p, m, v, t, x, y), which updates its first four arguments in place."""
    rule, slopes = load.rule, torch.func.grad_and_value(objective_of(load))

    def sgd(p: Tensor, g: Tensor, m: Tensor) -> None:
        if rule.momentum:
            m.mul_(rule.momentum).add_(g)
            g = g + rule.momentum * m
        p.sub_(rule.rate * g)

    def adam(p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: Tensor) -> None:
        if rule.weight_decay:
            p.mul_(1 - rule.rate * rule.weight_decay)
        m.lerp_(g, 1 - 0.9)
        v.mul_(0.999).addcmul_(g, g, value=1 - 0.999)
        corrected = m / (1 - 0.9**t)
        p.sub_(rule.rate * corrected / ((v / (1 - 0.999**t)).sqrt() + 1e-8))

    def step(
        ps: list[Tensor], ms: list[Tensor], vs: list[Tensor], t: Tensor, x: Tensor, y: Tensor
    ) -> Tensor:
        gs, loss = slopes(ps, x, y)
        t.add_(1)
        for i, (p, g, m, v) in enumerate(zip(ps, gs, ms, vs, strict=True)):
            slope = g + load.l2 / load.batch * p if load.l2 and i % 2 == 0 else g
            if rule.kind == "sgd":
                sgd(p, slope, m)
            else:
                adam(p, slope, m, v, t)
        return loss

    return step
