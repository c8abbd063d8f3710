"""PyTorch on a GPU: eager, compiled, and as CUDA graphs of a step and of an epoch.

Many nets are one batched product each, weights stacked:
the fastest form that PyTorch has for them.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeAlias

import torch

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}
Tensor: TypeAlias = torch.Tensor


class CudaNet:
    """Parameters, rows and an optimizer on the device."""

    def __init__(self, load: Any) -> None:
        torch.set_float32_matmul_precision("highest")
        self.load = load
        x, y = load.data()
        self.x = torch.from_numpy(x).cuda()
        self.y = torch.from_numpy(y).cuda()
        lead = []
        if load.n_nets > 1:
            lead = [load.n_nets]
        self.p = []
        for n_in, n_out in pairwise(load.sizes):
            weights = torch.randn(*lead, n_in, n_out, device="cuda") / n_in**0.5
            biases = torch.zeros(*lead, 1, n_out, device="cuda")
            self.p.append(weights.requires_grad_())
            self.p.append(biases.requires_grad_())
        # On the device all of it, so that a graph may hold it.
        self.optimizer = torch.optim.Adam(self.p, lr=1e-3, fused=True, capturable=True)
        self.steps = load.n_rows // load.batch
        self.shuffled = (torch.empty_like(self.x), torch.empty_like(self.y))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        act = ACTIVATIONS[self.load.activation]
        product: Any = torch.addmm
        if self.load.n_nets > 1:
            product = torch.baddbmm
            x = x.expand(self.load.n_nets, *x.shape)
        last = len(self.p) - 2
        for i in range(0, last + 1, 2):
            x = product(self.p[i + 1], x, self.p[i])
            if i < last:
                x = act(x)
        # Each net's mean, added up: so each has the gradient of its own.
        return ((x - y) ** 2).mean(dim=(-2, -1)).sum()

    def step(self, x: Tensor, y: Tensor) -> None:
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def shuffle(self) -> None:
        order = torch.randperm(len(self.x), device="cuda")
        for source, target in zip((self.x, self.y), self.shuffled, strict=True):
            torch.index_select(source, 0, order, out=target)

    def batches(self) -> Any:
        x, y = (part.split(self.load.batch) for part in self.shuffled)
        return zip(x, y, strict=True)

    def epochs(self, epoch: Callable[[], None]) -> Callable[[int], None]:
        def run(n: int) -> None:
            for _ in range(n):
                self.shuffle()
                epoch()
            torch.cuda.synchronize()

        return run

    def all_steps(self) -> None:
        for x, y in self.batches():
            self.step(x, y)

    def eager(self) -> Callable[[int], None]:
        return self.epochs(self.all_steps)

    def compiled(self) -> Callable[[int], None]:
        torch._dynamo.reset()
        step = torch.compile(self.step, mode="reduce-overhead")

        def epoch() -> None:
            for x, y in self.batches():
                torch.compiler.cudagraph_mark_step_begin()
                step(x, y)

        run = self.epochs(epoch)
        run(2)
        return run

    def _captured(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph

    def graph_of_a_step(self) -> Callable[[int], None]:
        self.shuffle()
        x, y = (part[: self.load.batch].clone() for part in self.shuffled)
        graph = self._captured(lambda: self.step(x, y))

        def epoch() -> None:
            for next_x, next_y in self.batches():
                x.copy_(next_x)
                y.copy_(next_y)
                graph.replay()

        return self.epochs(epoch)

    def graph_of_an_epoch(self) -> Callable[[int], None]:
        self.shuffle()
        return self.epochs(self._captured(self.all_steps).replay)


VARIANTS = {
    "eager": CudaNet.eager,
    "reduce-overhead": CudaNet.compiled,
    "graph of a step": CudaNet.graph_of_a_step,
    "graph of an epoch": CudaNet.graph_of_an_epoch,
}


def make(load: Any, variant: str) -> Callable[[int], None]:
    """A function that trains for n epochs."""
    return VARIANTS[variant](CudaNet(load))
