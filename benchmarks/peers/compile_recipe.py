"""PyTorch, compiled by Inductor, with the recipe: all of a step in one graph."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers.run import Unsupported
from benchmarks.peers.torch_compile import MOST_FLOPS, UNROLLED
from benchmarks.peers.torch_eager import Tensor, about
from benchmarks.peers.torch_recipe import TorchRecipe, objective
from benchmarks.workloads import Workload

__all__ = ["VARIANTS", "about", "make"]

VARIANTS = (
    "whole step, C++ wrapper",
    "whole step, masks each epoch, C++ wrapper",
    "eight steps, masks each epoch, C++ wrapper",
)


def make(workload: Workload, variant: str = VARIANTS[0]) -> TorchRecipe:
    if variant.startswith("eight"):
        if workload.flops > MOST_FLOPS:
            raise Unsupported("eight steps in a call are for small nets")
        return EightSteps(workload, variant)
    return WholeStep(workload, variant)


class WholeStep(TorchRecipe):
    """Dropout, gradient, norm, update, average and schedule are one graph."""

    def __init__(self, workload: Workload, variant: str) -> None:
        # One function may be compiled only a few times, whatever the net.
        torch._dynamo.reset()
        options = {"cpp_wrapper": variant.endswith("C++ wrapper")}
        step = whole_step(workload)
        self._compile: Callable[..., Any] = lambda function: torch.compile(
            function, dynamic=False, fullgraph=True, options=options
        )
        self._step = self._compile(step)
        self._steps = self._compile(unrolled(step))
        super().__init__(workload, "gather and masks each epoch" if "masks" in variant else "")
        self.variant = "gather each epoch"

    def reset(self) -> None:
        super().reset()
        self.p = [part.detach() for part in self.p]
        self.m, self.v = ([torch.zeros_like(part) for part in self.p] for _ in range(2))
        # Of shape (1,): compiled code does not write a 0-dimensional float64 argument back.
        self.t = torch.zeros(1, dtype=self.p[0].dtype)
        self.end = torch.zeros(1, dtype=self.p[0].dtype)

    def step(self, x: Tensor, y: Tensor, masks: Tensor | None = None) -> None:
        self.end.fill_(self.total)
        self.done += 1
        with torch.no_grad():
            self._step(self.p, self.m, self.v, self.average, self.t, self.end, x, y, masks)


class EightSteps(WholeStep):
    """Eight steps are one graph, and one call from Python."""

    def epochs(self, n: int) -> None:
        torch.set_num_threads(self.n_threads)
        self.total = self.done + n * self.workload.n_steps
        for _ in range(n):
            order = torch.randperm(self.workload.n_rows)
            self._all(self.x.index_select(0, order), self.y.index_select(0, order))

    def steps(self, n: int) -> None:
        self.total = self.done + n
        rows = slice(0, n * self.workload.batch)
        self._all(self.x[rows], self.y[rows])

    @torch.no_grad()
    def _all(self, x: Tensor, y: Tensor) -> None:
        batches = zip(x.split(self.workload.batch), y.split(self.workload.batch), strict=True)
        steps = [(*batch, mask) for batch, mask in zip(batches, self.masks(), strict=False)]
        self.end.fill_(self.total)
        state = (self.p, self.m, self.v, self.average, self.t, self.end)
        many = len(steps) // UNROLLED * UNROLLED
        for i in range(0, many, UNROLLED):
            self._steps(*state, steps[i : i + UNROLLED])
        self.done += many
        for step in steps[many:]:
            self.step(*step)


def unrolled(step: Callable[..., None]) -> Callable[..., None]:
    def steps(p: Any, m: Any, v: Any, average: Any, t: Tensor, end: Tensor, batches: Any) -> None:
        for x, y, masks in batches:
            step(p, m, v, average, t, end, x, y, masks)

    return steps


def whole_step(load: Workload) -> Callable[..., None]:
    """Return step(p, m, v, average, t, end, x, y, masks), which updates its first five in place."""
    assert load.recipe
    recipe, rate = load.recipe, load.rule.rate
    slopes = torch.func.grad(lambda p, x, y, masks: objective(load, p, x, y, masks))

    def step(
        ps: list[Tensor],
        ms: list[Tensor],
        vs: list[Tensor],
        averages: list[Tensor],
        t: Tensor,
        end: Tensor,
        x: Tensor,
        y: Tensor,
        masks: Tensor | None,
    ) -> None:
        gs = slopes(ps, x, y, masks)
        norm = sum((g * g).sum() for g in gs).sqrt()
        scale = (recipe.norm / norm).clamp(max=1)
        now = rate * 0.5 * (1 + torch.cos(torch.pi * t / end))
        t.add_(1)
        weight = (1 - recipe.average) / (1 - recipe.average**t)
        for p, g, m, v, average in zip(ps, gs, ms, vs, averages, strict=True):
            slope = g * scale
            m.lerp_(slope, 1 - 0.9)
            v.mul_(0.999).addcmul_(slope, slope, value=1 - 0.999)
            corrected = m / (1 - 0.9**t)
            p.sub_(now * corrected / ((v / (1 - 0.999**t)).sqrt() + 1e-8))
            average.add_((p - average) * weight)

    return step
