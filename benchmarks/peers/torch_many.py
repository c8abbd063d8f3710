"""PyTorch: `vmap` of the gradient over stacked parameters, and one fused Adam for all."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional

from benchmarks.many import Nets, Sweep
from benchmarks.workloads import Array


class Many(Nets):
    """Stacked parameters; a step gathers a batch for each net.

    Adam works by element, and so on the stacks as on each net.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        sizes = sweep.workload.sizes
        x, y = sweep.data()
        self.x = torch.from_numpy(x)
        self.y = torch.from_numpy(y)
        layers: list[Any] = []
        for a, b in pairwise(sizes):
            layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
        self.module = torch.nn.Sequential(*layers[:-1])
        self.generator = torch.Generator().manual_seed(0)
        self.slopes = vmap(grad_and_value(self._objective), in_dims=(0, 0, 0))
        self.p: dict[str, Any] = {}

    def _objective(self, p: Any, x: Any, y: Any) -> Any:
        raw = functional_call(self.module, p, (x,))
        if self.sweep.workload.loss == "cross_entropy":
            return functional.cross_entropy(raw, y)
        return functional.mse_loss(raw, y)

    def _start(self) -> dict[str, Any]:
        p = {}
        for i, (w, b) in enumerate(self.sweep.starts()):
            p[f"{2 * i}.weight"] = torch.from_numpy(w).transpose(1, 2).contiguous()
            p[f"{2 * i}.bias"] = torch.from_numpy(b.copy())
        return p

    def train(self, epochs: int, *, shuffle: bool = True) -> None:
        load, n = self.sweep.workload, self.sweep.n_nets
        self.p = self._start()
        adam = torch.optim.Adam(self.p.values(), lr=load.rule.rate, fused=True)
        with torch.no_grad():
            for _ in range(epochs):
                orders = torch.arange(load.n_rows).expand(n, -1)
                if shuffle:
                    keys = torch.rand(n, load.n_rows, generator=self.generator)
                    orders = keys.argsort(1)
                losses = torch.zeros(n)
                for index in orders.split(load.batch, 1):
                    slopes, loss = self.slopes(self.p, self.x[index], self.y[index])
                    for name, parameter in self.p.items():
                        parameter.grad = slopes[name]
                    adam.step()
                    losses += loss
        self.losses = losses.numpy() / load.n_steps

    def parameters(self) -> Array:
        names = [f"{2 * i}" for i in range(len(self.p) // 2)]
        parts = [self.p[f"{k}.weight"].transpose(1, 2) for k in names]
        parts += [self.p[f"{k}.bias"] for k in names]
        return np.concatenate([p.reshape(len(p), -1).numpy() for p in parts], 1)
