"""PyTorch, eager: functional layers, autograd,
a fused optimizer; the recipe; mixed precision.
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import grad_and_value, vmap
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.bench_many import Sweep
from benchmarks.bench_stream import Stream
from benchmarks.peers import Run, load
from benchmarks.workloads import Array, Workload, flat

PRECISION = "float32 matmul precision medium"
VARIANTS = {
    "plain": ("gather each step", "gather each epoch", "gather each epoch, one thread"),
    "mixed": ("autocast, gather each step", "autocast, gather each epoch", PRECISION),
    "recipe": (
        "gather each epoch",
        "gather each epoch, one thread",
        "gather and masks each epoch",
        "gather and masks each epoch, one thread",
    ),
    "stream": (
        "batches by the loader",
        "row groups by the loader",
        "row groups by the loader, one worker process",
    ),
}
# Three steps of a net that a name stands for,
# with a line of oneDNN's for each primitive.
STEPS = (
    "from benchmarks.peers.torch_nets import make; from benchmarks.workloads import "
    "BY_NAME; make(BY_NAME[{!r}].quick(), {!r}).steps(3)"
)
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
    words = ("oneAPI", "MKL-DNN", "CPU capability", "OpenMP")
    facts = [f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"]
    for line in torch.__config__.show().splitlines():
        if any(word in line for word in words) and "=" not in line:
            facts.append(line.strip(" -"))
    return "; ".join(facts)


def sgemm(size: int) -> Callable[[], Any]:
    a = torch.ones(size, size)
    return partial(torch.mm, a, a, out=torch.empty(size, size))


def make(workload: Workload, variant: str = "") -> "TorchEager":
    variant = variant or VARIANTS[workload.form][0]
    if workload.form == "mixed":
        return TorchMixed(workload, variant)
    return TorchEager(workload, variant)


def forward(
    activation: str,
    parameters: Any,
    x: Tensor,
    rate: float = 0.0,
    masks: Tensor | None = None,
) -> Tensor:
    """The last layer's values; parameters are weights (n_out, n_in) and biases in turn.

    With dropout: PyTorch's, or by masks of 0 and 1 / (1 - rate) of all hidden layers.
    """
    act = ACTIVATIONS[activation]
    last = len(parameters) - 2
    first = 0
    for i in range(0, last, 2):
        x = act(F.linear(x, parameters[i], parameters[i + 1]))
        if masks is not None:
            x = x * masks[:, first : first + x.shape[1]]
            first += x.shape[1]
        elif rate:
            x = F.dropout(x, rate)
    return F.linear(x, parameters[last], parameters[last + 1])


def objective(
    load: Workload, parameters: Any, x: Tensor, y: Tensor, masks: Tensor | None = None
) -> Tensor:
    """The loss, by products in the workload's precision."""
    loss_of = LOSSES[load.loss]
    if load.compute_dtype is None:
        rate = load.recipe.dropout if load.recipe else 0.0
        raw = forward(load.activation, parameters, x, rate, masks)
        return loss_of(raw, y)
    with torch.autocast("cpu", dtype=getattr(torch, load.compute_dtype)):
        raw = forward(load.activation, parameters, x)
        return loss_of(raw.float(), y)


class TorchEager(Run):
    """Tensors that are leaves of autograd, and their optimizer; with the recipe,
    foreach clipping and average, which then is what is trained.
    """

    def __init__(self, workload: Workload, variant: str) -> None:
        self.workload = workload
        self.variant = variant
        self.recipe = workload.recipe
        # Small nets are faster on one: 4-16-3 takes 236 us a step, and 271 on two.
        self.n_threads = 1 if variant.endswith("one thread") else N_THREADS
        x, y = workload.data()
        self.x = torch.from_numpy(x)
        self.y = torch.from_numpy(y)
        # Inputs that no precision has rounded.
        self.exact = self.x
        self.reset()

    def reset(self) -> None:
        self.p = []
        for weight, bias in self.workload.start():
            self.p.append(torch.tensor(weight.T.copy()))
            self.p.append(torch.tensor(bias))
        self.average = []
        if self.recipe:
            self.average = [part.clone() for part in self.p]
        self.done = 0
        self.total = 0
        for p in self.p:
            p.requires_grad_()
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        load = self.workload
        rule = load.rule
        if rule.kind == "sgd":
            options = {"momentum": rule.momentum, "nesterov": rule.momentum > 0}
            return torch.optim.SGD(self.p, rule.rate, fused=True, **options)
        if rule.kind == "adamw":
            decay = rule.weight_decay
            return torch.optim.AdamW(self.p, rule.rate, weight_decay=decay, fused=True)
        if not load.l2:
            return torch.optim.Adam(self.p, rule.rate, fused=True)
        # The penalty's gradient, without autograd.
        weights = {"params": self.p[::2], "weight_decay": load.l2 / load.batch}
        biases = {"params": self.p[1::2]}
        return torch.optim.Adam([weights, biases], rule.rate, fused=True)

    def objective(self, x: Tensor, y: Tensor, masks: Tensor | None = None) -> Tensor:
        return objective(self.workload, self.p, x, y, masks)

    def step(self, x: Tensor, y: Tensor, masks: Tensor | None = None) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.objective(x, y, masks).backward()
        if self.recipe is None:
            self.optimizer.step()
            return
        torch.nn.utils.clip_grad_norm_(self.p, self.recipe.norm, foreach=True)
        rate = self.recipe.rate(self.workload.rule.rate, self.done, self.total)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.done += 1
        with torch.no_grad():
            # As `swa_utils.get_ema_multi_avg_fn` does;
            # the weight is that of a debiased mean.
            weight = self.recipe.weight(self.done)
            torch._foreach_lerp_(self.average, self.p, weight)

    def gathered(self) -> list[Tensor]:
        """Rows and targets of an epoch in a new order,
        and its masks if the variant has them.
        """
        load = self.workload
        order = torch.randperm(load.n_rows)
        parts = [self.x.index_select(0, order), self.y.index_select(0, order)]
        if "masks" in self.variant and self.recipe and self.recipe.dropout:
            kept = 1 - self.recipe.dropout
            units = sum(load.sizes[1:-1])
            masks = torch.empty(load.n_rows, units, dtype=self.x.dtype)
            parts.append(masks.bernoulli_(kept).mul_(1 / kept))
        return parts

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        load = self.workload
        x = self.x
        y = self.y
        if not load.shuffle:
            yield x, y
        elif "each epoch" in self.variant:
            parts = [part.split(load.batch) for part in self.gathered()]
            yield from zip(*parts, strict=True)
        else:
            for index in torch.randperm(load.n_rows).split(load.batch):
                yield x.index_select(0, index), y.index_select(0, index)

    def epochs(self, n: int) -> None:
        torch.set_num_threads(self.n_threads)
        self.total = self.done + n * self.workload.n_steps
        for _ in range(n):
            for batch in self.batches():
                self.step(*batch)

    def steps(self, n: int) -> None:
        self.total = self.done + n
        for rows in map(self.workload.rows, range(n)):
            self.step(self.x[rows], self.y[rows])

    def gradient(self) -> Any:
        torch.set_num_threads(self.n_threads)
        rows = self.workload.rows(0)
        loss = self.objective(self.x[rows], self.y[rows])
        return loss.detach(), torch.autograd.grad(loss, self.p)

    @torch.no_grad()
    def loss(self) -> float:
        torch.set_float32_matmul_precision("highest")
        plain = self.workload._replace(recipe=None, compute_dtype=None)
        return float(objective(plain, self.average or self.p, self.exact, self.y))

    def parameters(self) -> Array:
        p = [part.detach().numpy() for part in self.average or self.p]
        weights = [part.T for part in p[::2]]
        biases = p[1::2]
        return flat(zip(weights, biases, strict=True))

    def rows(self, x: Array) -> Tensor:
        return torch.from_numpy(x)

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        p = [part.detach() for part in self.p]
        name = self.workload.activation
        inference = torch.inference_mode()
        products = _products(name, p)

        def by_blocks(x: Tensor) -> Tensor:
            return torch.cat([products(block) for block in x.split(1_000)])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = Net(name, [part.clone() for part in p]).eval()
            traced: Any = torch.jit.freeze(torch.jit.trace(module, self.x[:2]))
        return {
            "inference_mode": inference(lambda x: forward(name, p, x)),
            "addmm, in place": inference(products),
            "blocks of 1,000": inference(by_blocks),
            "jit": inference(lambda x: traced(x)),
        }


def _products(activation: str, p: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """A forward pass of plain products, with activations in place."""
    weights = [w.T.contiguous() for w in p[::2]]
    act = IN_PLACE[activation]
    *hidden, (last, bias) = zip(weights, p[1::2], strict=True)

    def predict(x: Tensor) -> Tensor:
        for w, b in hidden:
            x = act(torch.addmm(b, x, w))
        return torch.addmm(bias, x, last)

    return predict


class Net(torch.nn.Module):
    """The layers, as a module."""

    def __init__(self, activation: str, parameters: list[Tensor]) -> None:
        super().__init__()
        self.p = torch.nn.ParameterList(parameters)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return forward(self.activation, list(self.p), x)


class TorchMixed(TorchEager):
    """In mixed precision: products by autocast, which keeps a forward pass's rounded
    weights, of inputs that are rounded ahead; or float32 products whose operands
    PyTorch may round.
    """

    def __init__(self, workload: Workload, variant: str) -> None:
        self.by_leave = variant == PRECISION
        super().__init__(workload, variant)
        if not self.by_leave:
            self.x = self.x.bfloat16()

    def step(self, x: Tensor, y: Tensor, masks: Tensor | None = None) -> None:
        precision = "medium" if self.by_leave else "highest"
        torch.set_float32_matmul_precision(precision)
        super().step(x, y)

    def objective(self, x: Tensor, y: Tensor, masks: Tensor | None = None) -> Tensor:
        load = self.workload
        if self.by_leave:
            load = load._replace(compute_dtype=None)
        return objective(load, self.p, x, y)


def kernels(workload: Workload, variant: str) -> list[str]:
    """The kernels that oneDNN runs for a workload's products:
    implementation and dtypes.
    """
    done = subprocess.run(
        [sys.executable, "-c", STEPS.format(workload.name, variant)],
        env={**os.environ, "ONEDNN_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    # A dict keeps each once, in the order of their first calls.
    names: dict[str, None] = {}
    for line in done.stdout.splitlines():
        if ",exec,cpu," not in line:
            continue
        fields = line.split(",")
        if "matmul" in fields or "inner_product" in fields:
            names[f"{fields[5]}, {fields[6]}, {_dtypes(fields)}"] = None
    return list(names)


def _dtypes(fields: list[str]) -> str:
    """Each tensor and its dtype: "src:bf16 wei:bf16 dst:bf16"."""
    tensors = next(field for field in fields if field.startswith("src"))
    words = []
    for part in tensors.split():
        name, dtype, *_ = part.replace("_", ":").split(":")
        words.append(f"{name}:{dtype}")
    return " ".join(words)


class Many:
    """Stacked parameters; a step gathers a batch for each net.

    Adam works by element, and so on the stacks as on each net.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.x, self.y = (torch.from_numpy(part) for part in sweep.data())
        self.generator = torch.Generator().manual_seed(0)
        self.slopes = vmap(grad_and_value(partial(objective, sweep.workload)))
        self.p: list[Tensor] = []

    def train(self, epochs: int, *, shuffle: bool = True) -> None:
        load = self.sweep.workload
        n = self.sweep.n_nets
        layers = [(w.transpose(0, 2, 1).copy(), b) for w, b in self.sweep.starts()]
        self.p = [torch.from_numpy(part) for layer in layers for part in layer]
        adam = torch.optim.Adam(self.p, lr=load.rule.rate, fused=True)
        with torch.no_grad():
            for _ in range(epochs):
                orders = torch.arange(load.n_rows).expand(n, -1)
                if shuffle:
                    keys = torch.rand(n, load.n_rows, generator=self.generator)
                    orders = keys.argsort(1)
                losses = torch.zeros(n)
                for index in orders.split(load.batch, 1):
                    slopes, loss = self.slopes(self.p, self.x[index], self.y[index])
                    for p, slope in zip(self.p, slopes, strict=True):
                        p.grad = slope
                    adam.step()
                    losses += loss
        self.losses = losses.numpy() / load.n_steps

    def parameters(self) -> Array:
        weights = [part.transpose(1, 2) for part in self.p[::2]]
        biases = self.p[1::2]
        by_net = [part.reshape(len(part), -1).numpy() for part in weights + biases]
        return np.concatenate(by_net, axis=1)


# Rows that a call takes at most: an eager step takes 0.1 ms and more.
MOST_ROWS = 256_000
Pair = tuple[torch.Tensor, torch.Tensor]


def batches_of(x: torch.Tensor, y: torch.Tensor, batch: int) -> Iterator[Pair]:
    """Yield whole batches of mixed rows; a compiled step takes no other."""
    order = torch.randperm(len(x))
    x = x.index_select(0, order)
    y = y.index_select(0, order)
    n = len(x) // batch * batch
    yield from zip(x[:n].split(batch), y[:n].split(batch), strict=True)


class RowGroups(IterableDataset[Pair]):
    """The row groups of a file in random order, whole or in batches."""

    def __init__(self, path: Path, batch: int | None) -> None:
        self.path = path
        self.batch = batch

    def __iter__(self) -> Iterator[Pair]:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self.path) as file:
            for group in np.random.default_rng().permutation(file.num_row_groups):
                table = file.read_row_group(int(group))
                columns = [torch.from_numpy(c.to_numpy()) for c in table.columns]
                x = torch.stack(columns[:-1], 1)
                y = columns[-1][:, None]
                if self.batch is None:
                    yield x, y
                else:
                    yield from batches_of(x, y, self.batch)


class Streamed:
    """A net, and a loader for each call; calls return the number of rows."""

    def __init__(self, stream: Stream, path: Path, way: str, contestant: str) -> None:
        self.load = stream.workload
        self.groups = way.startswith("row groups")
        module = load(contestant)
        variant = {"torch": "gather each epoch", "compile": "whole step"}
        in_memory = self.load._replace(n_rows=min(self.load.n_rows, MOST_ROWS))
        self.run: Any = module.make(in_memory, variant[contestant])
        batch = None if self.groups else self.load.batch
        rows = RowGroups(path, batch)
        workers = {}
        if way.endswith("process"):
            workers = {"num_workers": 1, "prefetch_factor": 2}
        self.loader: Any = DataLoader(rows, batch_size=None, **workers)

    def batches(self) -> Iterator[Pair]:
        """Yield the batches of a call, of `MOST_ROWS` rows at most."""
        n_batches = -(-MOST_ROWS // self.load.batch)
        yield from islice(self._all_batches(), n_batches)

    def _all_batches(self) -> Iterator[Pair]:
        for x, y in self.loader:
            if self.groups:
                yield from batches_of(x, y, self.load.batch)
            else:
                yield x, y

    def reading(self) -> int:
        return sum(len(x) for x, _ in self.batches())

    def memory(self) -> int:
        self.run.reset()
        self.run.epochs(1)
        return int(self.run.workload.n_rows)

    def streamed(self) -> int:
        self.run.reset()
        n = 0
        for x, y in self.batches():
            self.run.step(x, y)
            n += len(x)
        return n
