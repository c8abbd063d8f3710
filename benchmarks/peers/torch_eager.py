"""PyTorch, eager: functional layers, autograd, a fused optimizer."""

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

from benchmarks.workloads import Array, Workload, flat

VARIANTS = ("gather each step", "gather each epoch", "gather each epoch, one thread")
N_THREADS = torch.get_num_threads()
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
IN_PLACE = {"relu": torch.relu_, "tanh": torch.tanh_, "sigmoid": torch.sigmoid_}
LOSSES = {
    "mse": F.mse_loss,
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
}
Tensor: TypeAlias = torch.Tensor


def about() -> str:
    wanted = ("oneAPI", "MKL-DNN", "CPU capability", "OpenMP")
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    facts = [line for line in lines if any(word in line for word in wanted) and "=" not in line]
    return f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; {'; '.join(facts)}"


def sgemm(size: int) -> float:
    a, out = torch.ones(size, size), torch.empty(size, size)
    torch.mm(a, a, out=out)
    begin = time.perf_counter()
    torch.mm(a, a, out=out)
    return 2e-9 * size**3 / (time.perf_counter() - begin)


def make(workload: Workload, variant: str = VARIANTS[0]) -> "TorchEager":
    return TorchEager(workload, variant)


def forward(activation: str, parameters: list[Tensor], x: Tensor) -> Tensor:
    """Return the last layer's values; parameters are weights (n_out, n_in) and biases in turn."""
    act, last = ACTIVATIONS[activation], len(parameters) - 2
    for i in range(0, last, 2):
        x = act(F.linear(x, parameters[i], parameters[i + 1]))
    return F.linear(x, parameters[last], parameters[last + 1])


def raw_of(workload: Workload, parameters: list[Tensor], x: Tensor) -> Tensor:
    """Return the last layer's values, of products in the workload's precision."""
    if workload.compute_dtype is None:
        return forward(workload.activation, parameters, x)
    with torch.autocast("cpu", dtype=getattr(torch, workload.compute_dtype)):
        return forward(workload.activation, parameters, x).float()


class TorchEager:
    """Tensors that are leaves of autograd, and their optimizer."""

    def __init__(self, workload: Workload, variant: str) -> None:
        self.workload, self.variant = workload, variant
        # Small nets are faster on one: 4-16-3 takes 236 us a step, and 271 on two.
        self.n_threads = 1 if variant.endswith("one thread") else N_THREADS
        self.x, self.y = (torch.from_numpy(part) for part in workload.data())
        self.reset()

    def reset(self) -> None:
        self.p = [
            torch.from_numpy(part).clone(memory_format=torch.contiguous_format)
            for weight, bias in self.workload.start()
            for part in (weight.T.copy(), bias)
        ]
        for p in self.p:
            p.requires_grad_()
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        load, rule = self.workload, self.workload.rule
        if rule.kind == "sgd":
            options = {"momentum": rule.momentum, "nesterov": rule.momentum > 0}
            return torch.optim.SGD(self.p, rule.rate, fused=True, **options)
        if rule.kind == "adamw":
            decay = rule.weight_decay
            return torch.optim.AdamW(self.p, rule.rate, weight_decay=decay, fused=True)
        groups: list[dict[str, Any]] = [{"params": self.p}]
        if load.l2:  # The penalty's gradient, without autograd.
            weights = {"params": self.p[::2], "weight_decay": load.l2 / load.batch}
            groups = [weights, {"params": self.p[1::2]}]
        return torch.optim.Adam(groups, rule.rate, fused=True)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return LOSSES[self.workload.loss](raw_of(self.workload, self.p, x), y)

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.objective(x, y).backward()
        self.optimizer.step()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        load, x, y = self.workload, self.x, self.y
        if not load.shuffle:
            yield x, y
            return
        order = torch.randperm(load.n_rows)
        if self.variant.startswith("gather each epoch"):
            x, y = x.index_select(0, order), y.index_select(0, order)
            yield from zip(x.split(load.batch), y.split(load.batch), strict=True)
        else:
            for index in order.split(load.batch):
                yield x.index_select(0, index), y.index_select(0, index)

    def epochs(self, n: int) -> None:
        torch.set_num_threads(self.n_threads)
        for _ in range(n):
            for x, y in self.batches():
                self.step(x, y)

    def steps(self, n: int) -> None:
        load = self.workload
        for i in range(n):
            first = i * load.batch if load.shuffle else 0
            rows = slice(first, first + load.batch)
            self.step(self.x[rows], self.y[rows])

    def gradient(self) -> Any:
        batch = slice(0, self.workload.batch)
        return torch.autograd.grad(self.objective(self.x[batch], self.y[batch]), self.p)

    @torch.no_grad()
    def loss(self) -> float:
        raw = forward(self.workload.activation, self.p, self.x)
        return float(LOSSES[self.workload.loss](raw, self.y))

    def parameters(self) -> Array:
        p = [part.detach().numpy() for part in self.p]
        return flat([(w.T, b) for w, b in zip(p[::2], p[1::2], strict=True)])

    def rows(self, x: Array) -> Tensor:
        return torch.from_numpy(x)

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        p, name = [part.detach() for part in self.p], self.workload.activation
        inference, products = torch.inference_mode(), _products(name, p)
        return {
            "inference_mode": inference(lambda x: forward(name, p, x)),
            "addmm, in place": inference(products),
            "blocks of 1,000": inference(
                lambda x: torch.cat([products(b) for b in x.split(1_000)])
            ),
            "jit": self._traced(),
        }

    def _traced(self) -> Callable[[Any], Any]:
        module, inference = _Net(self.workload.activation, self.p).eval(), torch.inference_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.freeze(torch.jit.trace(module, self.x[:2]))
        return inference(lambda x: traced(x))


def _products(activation: str, p: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a forward pass of plain products; activations need no memory of their own."""
    weights, act = [w.T.contiguous() for w in p[::2]], IN_PLACE[activation]
    *hidden, (last, bias) = zip(weights, p[1::2], strict=True)

    def predict(x: Tensor) -> Tensor:
        for w, b in hidden:
            x = act(torch.addmm(b, x, w))
        return torch.addmm(bias, x, last)

    return predict


class _Net(torch.nn.Module):
    def __init__(self, activation: str, parameters: list[Tensor]) -> None:
        super().__init__()
        self.p = torch.nn.ParameterList(part.detach().clone() for part in parameters)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return forward(self.activation, list(self.p), x)
