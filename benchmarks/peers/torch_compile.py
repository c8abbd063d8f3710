"""PyTorch, compiled by Inductor: the whole step in one graph,
or with the fused optimizer; with the recipe all of a step in one graph.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.peers import Unsupported
from benchmarks.peers.torch_nets import Tensor, TorchEager, about, forward, objective
from benchmarks.workloads import Workload

__all__ = ["VARIANTS", "about", "make"]

_PLAIN = (
    "whole step",
    "whole step, C++ wrapper",
    "loss and fused optimizer",
    "eight steps, C++ wrapper",
)
VARIANTS = {
    "plain": _PLAIN,
    "mixed": _PLAIN,
    "recipe": (
        "whole step, C++ wrapper",
        "whole step, masks each epoch, C++ wrapper",
        "eight steps, masks each epoch, C++ wrapper",
    ),
}
UNROLLED = 8
# Above, a call's overhead is small, and code for eight steps takes minutes to compile.
MOST_FLOPS = 2e7


_made: set[tuple[Workload, str]] = set()


def make(workload: Workload, variant: str = "") -> TorchEager:
    variant = variant or VARIANTS[workload.form][0]
    # One function may be compiled only a few times,
    # whatever the net. Variants of one stay.
    if any(other != workload for other, _ in _made) or (workload, variant) in _made:
        torch._dynamo.reset()
        _made.clear()
    _made.add((workload, variant))
    if variant.startswith("eight"):
        if workload.flops > MOST_FLOPS or not workload.shuffle:
            raise Unsupported("eight steps in a call are for small nets")
        return EightSteps(workload, variant)
    if variant.startswith("whole"):
        return WholeStep(workload, variant)
    return CompiledLoss(workload, variant)


def compiled(function: Callable[..., Any], variant: str) -> Callable[..., Any]:
    """A function as one graph, behind a C++ wrapper where the variant has it."""
    options = {"cpp_wrapper": variant.endswith("C++ wrapper")}
    return torch.compile(function, dynamic=False, fullgraph=True, options=options)


class CompiledLoss(TorchEager):
    """Forward and backward compiled; the optimizer is PyTorch's fused kernel."""

    def __init__(self, workload: Workload, variant: str) -> None:
        self._compiled = compiled(partial(objective, workload), variant)
        if "masks" in variant:
            super().__init__(workload, "gather and masks each epoch")
        else:
            super().__init__(workload, "gather each epoch")

    def objective(self, x: Tensor, y: Tensor, masks: Tensor | None = None) -> Tensor:
        return self._compiled(self.p, x, y)

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        p = [part.detach() for part in self.p]
        name = self.workload.activation
        predict = torch.compile(lambda x: forward(name, p, x), dynamic=False)
        return {"compiled": torch.inference_mode()(predict)}


class WholeStep(CompiledLoss):
    """Forward, backward, update and all of the recipe are one graph:
    no autograd, no optimizer object.
    """

    def __init__(self, workload: Workload, variant: str) -> None:
        step = whole_step(workload)

        def steps(state: Any, *parts: Tensor) -> None:
            for i in range(UNROLLED):
                step(state, *(part[i] for part in parts))

        self._step = compiled(step, variant)
        self._steps = compiled(steps, variant)
        slopes = torch.func.grad_and_value(partial(objective, workload))
        self._gradient = torch.compile(slopes, dynamic=False)
        super().__init__(workload, variant)

    def reset(self) -> None:
        super().reset()
        self.p = [part.detach() for part in self.p]
        m = [torch.zeros_like(part) for part in self.p]
        v = [torch.zeros_like(part) for part in self.p]
        # Shape (1,): compiled code does not write a 0-dimensional float64 argument
        # back.
        dtype = self.p[0].dtype
        t = torch.zeros(1, dtype=dtype)
        self.end = torch.zeros(1, dtype=dtype)
        self.state = (self.p, m, v, self.average, t, self.end)

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor, masks: Tensor | None = None) -> None:
        self.end.fill_(self.total)
        self.done += 1
        if masks is None:
            self._step(self.state, x, y)
        else:
            self._step(self.state, x, y, masks)

    def gradient(self) -> Any:
        rows = self.workload.rows(0)
        return self._gradient(self.p, self.x[rows], self.y[rows])


class EightSteps(WholeStep):
    """Eight steps are one graph, and one call from Python."""

    def epochs(self, n: int) -> None:
        torch.set_num_threads(self.n_threads)
        self.total = self.done + n * self.workload.n_steps
        for _ in range(n):
            self._all(self.gathered())

    def steps(self, n: int) -> None:
        self.total = self.done + n
        n_rows = n * self.workload.batch
        self._all([self.x[:n_rows], self.y[:n_rows]])

    @torch.no_grad()
    def _all(self, parts: list[Tensor]) -> None:
        batches = []
        for part in parts:
            batches.append(part.view(-1, self.workload.batch, *part.shape[1:]))
        n_batches = len(batches[0])
        many = n_batches // UNROLLED * UNROLLED
        self.end.fill_(self.total)
        for i in range(0, many, UNROLLED):
            self._steps(self.state, *(part[i : i + UNROLLED] for part in batches))
        self.done += many
        for i in range(many, n_batches):
            self.step(*(part[i] for part in batches))


def whole_step(load: Workload) -> Callable[..., None]:
    """The function step(state, x, y, masks), which updates the state in place."""
    rule = load.rule
    recipe = load.recipe
    slopes = torch.func.grad(partial(objective, load))

    def step(state: Any, x: Tensor, y: Tensor, masks: Tensor | None = None) -> None:
        ps, ms, vs, averages, t, end = state
        gs = slopes(ps, x, y, masks)
        rate = rule.rate
        if recipe:
            norm = sum((g * g).sum() for g in gs).sqrt()
            gs = [g * (recipe.norm / norm).clamp(max=1) for g in gs]
            rate = rate * 0.5 * (1 + torch.cos(torch.pi * t / end))
        t.add_(1)
        for i, (p, g, m, v) in enumerate(zip(ps, gs, ms, vs, strict=True)):
            if load.l2 and i % 2 == 0:
                slope = g + load.l2 / load.batch * p
            else:
                slope = g
            if rule.kind == "sgd":
                if rule.momentum:
                    m.mul_(rule.momentum).add_(slope)
                    slope = slope + rule.momentum * m
                p.sub_(rate * slope)
                continue
            if rule.weight_decay:
                p.mul_(1 - rate * rule.weight_decay)
            m.lerp_(slope, 1 - 0.9)
            v.mul_(0.999).addcmul_(slope, slope, value=1 - 0.999)
            corrected = m / (1 - 0.9**t)
            root = (v / (1 - 0.999**t)).sqrt()
            p.sub_(rate * corrected / (root + 1e-8))
        if recipe:
            weight = (1 - recipe.average) / (1 - recipe.average**t)
            for p, average in zip(ps, averages, strict=True):
                average.add_((p - average) * weight)

    return step
