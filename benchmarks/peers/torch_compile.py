"""PyTorch, compiled by Inductor: the whole step in one graph, or with the fused optimizer; with the
recipe all of a step in one graph."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers import Unsupported
from benchmarks.peers.torch_nets import (
    LOSSES,
    Tensor,
    TorchEager,
    TorchRecipe,
    about,
    forward,
    raw_of,
    recipe_objective,
)
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
    # One function may be compiled only a few times, whatever the net. Variants of one stay.
    if any(other != workload for other, _ in _made) or (workload, variant) in _made:
        torch._dynamo.reset()
        _made.clear()
    _made.add((workload, variant))
    if variant.startswith("eight"):
        if workload.flops > MOST_FLOPS or not workload.shuffle:
            raise Unsupported("eight steps in a call are for small nets")
        return (EightRecipeSteps if workload.recipe else EightSteps)(workload, variant)
    if workload.recipe:
        return RecipeStep(workload, variant)
    return (WholeStep if variant.startswith("whole") else CompiledLoss)(workload, variant)


def compiled(function: Callable[..., Any], variant: str) -> Callable[..., Any]:
    """A function as one graph, behind a C++ wrapper where the variant has it."""
    options = {"cpp_wrapper": variant.endswith("C++ wrapper")}
    return torch.compile(function, dynamic=False, fullgraph=True, options=options)


class CompiledLoss(TorchEager):
    """Forward and backward compiled; the optimizer is PyTorch's fused kernel."""

    def __init__(self, workload: Workload, variant: str) -> None:
        self.compiling = variant
        super().__init__(workload, "gather each epoch")

    def reset(self) -> None:
        super().reset()
        if not hasattr(self, "_compiled"):
            self._compiled = compiled(objective_of(self.workload), self.compiling)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return self._compiled(self.p, x, y)

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        p, name = [part.detach() for part in self.p], self.workload.activation
        predict = torch.compile(lambda x: forward(name, p, x), dynamic=False)
        return {"compiled": torch.inference_mode()(predict)}


class WholeStep(CompiledLoss):
    """Forward, backward and update are one graph: no autograd, no optimizer object."""

    def reset(self) -> None:
        super().reset()
        self.p = [part.detach() for part in self.p]
        self.m, self.v = ([torch.zeros_like(part) for part in self.p] for _ in range(2))
        # Of shape (1,): compiled code does not write a 0-dimensional float64 argument back.
        self.t = torch.zeros(1, dtype=self.p[0].dtype)
        if not hasattr(self, "_step"):
            self._step = compiled(whole_step(self.workload), self.compiling)

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

            self._steps = compiled(steps, self.compiling)

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
    """The function step(p, m, v, t, x, y), which updates the first four arguments in place."""
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


class RecipeStep(TorchRecipe):
    """Dropout, gradient, norm, update, average and schedule are one graph."""

    def __init__(self, workload: Workload, variant: str) -> None:
        step = recipe_step(workload)
        self._step, self._steps = (compiled(f, variant) for f in (step, unrolled(step)))
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


class EightRecipeSteps(RecipeStep):
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


def recipe_step(load: Workload) -> Callable[..., None]:
    """The function step(p, m, v, average, t, end, x, y, masks), which updates the first five."""
    assert load.recipe
    recipe, rate = load.recipe, load.rule.rate
    slopes = torch.func.grad(lambda p, x, y, masks: recipe_objective(load, p, x, y, masks))

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
