"""PyTorch, eager, with the recipe: foreach clipping and average, a fused optimizer."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.peers.torch_eager import ACTIVATIONS, LOSSES, Tensor, TorchEager, about
from benchmarks.workloads import Array, Recipe, Workload, flat

__all__ = ["VARIANTS", "about", "make"]

VARIANTS = (
    "gather each epoch",
    "gather each epoch, one thread",
    "gather and masks each epoch",
    "gather and masks each epoch, one thread",
)


def make(workload: Workload, variant: str = VARIANTS[0]) -> "TorchRecipe":
    return TorchRecipe(workload, variant)


def objective(load: Workload, parameters: list[Tensor], x: Tensor, y: Tensor, masks: Any) -> Tensor:
    """Return the loss with dropout: of PyTorch's, or by a mask of 0 and 1 / (1 - rate)."""
    assert load.recipe
    act, last, rate, first = (
        ACTIVATIONS[load.activation],
        len(parameters) - 2,
        load.recipe.dropout,
        0,
    )
    for i in range(0, last, 2):
        x = act(F.linear(x, parameters[i], parameters[i + 1]))
        if masks is not None:
            x = x * masks[:, first : first + x.shape[1]]
            first += x.shape[1]
        elif rate:
            x = F.dropout(x, rate)
    return LOSSES[load.loss](F.linear(x, parameters[last], parameters[last + 1]), y)


class TorchRecipe(TorchEager):
    """Its parameters are the average, as those of the others are."""

    def __init__(self, workload: Workload, variant: str) -> None:
        assert workload.recipe
        self.recipe: Recipe = workload.recipe
        self.masked = "masks" in variant and self.recipe.dropout > 0
        super().__init__(workload, variant.replace("gather and masks", "gather"))

    def reset(self) -> None:
        super().reset()
        self.average = [part.detach().clone() for part in self.p]
        self.done = self.total = 0

    def masks(self) -> Iterator[Tensor | None]:
        """Yield the masks of each step of an epoch, of all hidden layers beside each other."""
        load = self.workload
        if not self.masked:
            yield from (None for _ in range(load.n_steps))
            return
        kept = 1 - self.recipe.dropout
        drawn = torch.empty(load.n_rows, sum(load.sizes[1:-1]), dtype=self.x.dtype)
        yield from drawn.bernoulli_(kept).mul_(1 / kept).split(load.batch)

    def epochs(self, n: int) -> None:
        torch.set_num_threads(self.n_threads)
        self.total = self.done + n * self.workload.n_steps
        for _ in range(n):
            for (x, y), masks in zip(self.batches(), self.masks(), strict=True):
                self.step(x, y, masks)

    def steps(self, n: int) -> None:
        self.total = self.done + n
        batch = self.workload.batch
        for i, masks in zip(range(n), self.masks(), strict=False):
            rows = slice(i * batch, (i + 1) * batch)
            self.step(self.x[rows], self.y[rows], masks)

    def step(self, x: Tensor, y: Tensor, masks: Tensor | None = None) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        objective(self.workload, self.p, x, y, masks).backward()
        torch.nn.utils.clip_grad_norm_(self.p, self.recipe.norm, foreach=True)
        rate = self.recipe.rate(self.workload.rule.rate, self.done, self.total)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.done += 1
        with torch.no_grad():
            # What `swa_utils.get_ema_multi_avg_fn` calls; the weight is that of a debiased mean.
            torch._foreach_lerp_(self.average, self.p, self.recipe.weight(self.done))

    @torch.no_grad()
    def loss(self) -> float:
        load = self.workload._replace(recipe=self.recipe._replace(dropout=0))
        return float(objective(load, self.average, self.x, self.y, None))

    def parameters(self) -> Array:
        p = [part.numpy() for part in self.average]
        return flat([(w.T, b) for w, b in zip(p[::2], p[1::2], strict=True)])
