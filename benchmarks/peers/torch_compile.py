"""PyTorch, compiled by Inductor: the whole step in one graph, or with the fused optimizer."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers.run import Unsupported
from benchmarks.peers.torch_eager import LOSSES, Tensor, TorchEager, about, forward, raw_of
from benchmarks.workloads import Workload

__all__ = ["VARIANTS", "about", "make"]

VARIANTS = (
    "whole step",
    "whole step, C++ wrapper",
    "loss and fused optimizer",
    "eight steps, C++ wrapper",
)
UNROLLED = 8
# Above, a call's overhead is small, and code for eight steps takes minutes to compile.
MOST_FLOPS = 2e7


_made: set[tuple[Workload, str]] = set()


def make(workload: Workload, variant: str = VARIANTS[0]) -> TorchEager:
    # One function may be compiled only a few times, whatever the net. Variants of one stay.
    if any(other != workload for other, _ in _made) or (workload, variant) in _made:
        torch._dynamo.reset()
        _made.clear()
    _made.add((workload, variant))
    if variant.startswith("eight"):
        if workload.flops > MOST_FLOPS or not workload.shuffle:
            raise Unsupported("eight steps in a call are for small nets")
        return EightSteps(workload, variant)
    return (WholeStep if variant.startswith("whole") else CompiledLoss)(workload, variant)


class CompiledLoss(TorchEager):
    """Forward and backward compiled; the optimizer is PyTorch's fused kernel."""

    def __init__(self, workload: Workload, variant: str) -> None:
        self.options = {"cpp_wrapper": variant.endswith("C++ wrapper")}
        super().__init__(workload, "gather each epoch")

    def reset(self) -> None:
        super().reset()
        if not hasattr(self, "_compiled"):
            objective = objective_of(self.workload)
            self._compiled = torch.compile(objective, dynamic=False, options=self.options)

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
            self._step = self._whole(whole_step(self.workload))

    def _whole(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False, fullgraph=True, options=self.options)

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


class EightSteps(WholeStep):
    """Eight steps are one graph, and one call from Python."""

    def reset(self) -> None:
        super().reset()
        if not hasattr(self, "_steps"):
            step = whole_step(self.workload)

            def steps(p: Any, m: Any, v: Any, t: Tensor, x: Tensor, y: Tensor) -> None:
                for i in range(UNROLLED):
                    step(p, m, v, t, x[i], y[i])

            self._steps = self._whole(steps)

    def epochs(self, n: int) -> None:
        for _ in range(n):
            order = torch.randperm(self.workload.n_rows)
            self._all(self.x.index_select(0, order), self.y.index_select(0, order))

    def steps(self, n: int) -> None:
        rows = slice(0, n * self.workload.batch)
        self._all(self.x[rows], self.y[rows])

    @torch.no_grad()
    def _all(self, x: Tensor, y: Tensor) -> None:
        xs, ys = (part.view(-1, self.workload.batch, *part.shape[1:]) for part in (x, y))
        many = len(xs) // UNROLLED * UNROLLED
        for i in range(0, many, UNROLLED):
            chunk = slice(i, i + UNROLLED)
            self._steps(self.p, self.m, self.v, self.t, xs[chunk], ys[chunk])
        for i in range(many, len(xs)):
            self.step(xs[i], ys[i])


def objective_of(workload: Workload) -> Callable[..., Tensor]:
    def objective(p: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        return LOSSES[workload.loss](raw_of(workload, p, x), y)

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
