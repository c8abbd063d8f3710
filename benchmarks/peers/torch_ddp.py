"""PyTorch: DistributedDataParallel over gloo, one of two processes of one thread each."""

import os
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks import machines
from benchmarks.peers.torch_nets import LOSSES, Net
from benchmarks.workloads import Array, Workload, flat

# Options of DDP. By hand there is one all-reduce of all gradients after the backward pass.
BY_HAND = "one all-reduce by hand"
WAYS: dict[str, dict[str, Any]] = {
    "DDP": {},
    "DDP, gradients in buckets": {"gradient_as_bucket_view": True},
    "DDP, gradients in buckets, static graph": {
        "gradient_as_bucket_view": True,
        "static_graph": True,
    },
    BY_HAND: {},
}
Tensor: TypeAlias = torch.Tensor


class Ranks:
    """The process group: processes meet by a file, with RANK and WORLD_SIZE set."""

    def __init__(self, file: str) -> None:
        torch.set_num_threads(1)
        self.rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        meeting = f"file://{file}"
        dist.init_process_group("gloo", init_method=meeting, rank=self.rank, world_size=size)
        self.barrier, self.close = dist.barrier, dist.destroy_process_group

    def agreed(self, n: int) -> int:
        """The first process's number."""
        number = torch.tensor([n])
        dist.broadcast(number, 0)
        return int(number)

    def runs(self, load: Workload) -> Iterator[tuple[str, Any]]:
        """Yield each way and its run."""
        for way in WAYS:
            yield way, DistributedNet(load, way)


class DistributedNet:
    """A net that two processes train, and this one's rows."""

    def __init__(self, workload: Workload, way: str) -> None:
        self.workload, self.way = workload, way
        x, y = machines.share(workload, dist.get_rank(), dist.get_world_size())
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self.batch = workload.batch // dist.get_world_size()
        self.net = Net(
            workload.activation,
            [
                torch.from_numpy(part.copy())
                for weight, bias in workload.start()
                for part in (weight.T.copy(), bias)
            ],
        )
        self.model: nn.Module = self.net
        if way == BY_HAND:
            self.gradient = torch.zeros(sum(p.numel() for p in self.net.p))
            _view_gradients(self.net, self.gradient)
        else:
            self.model = DistributedDataParallel(self.net, **WAYS[way])
        self.optimizer = torch.optim.Adam(self.net.parameters(), workload.rule.rate, fused=True)

    def batches(self, *, shuffle: bool) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.x, self.y
        if shuffle:
            order = torch.randperm(len(x))
            x, y = x.index_select(0, order), y.index_select(0, order)
        yield from zip(x.split(self.batch), y.split(self.batch), strict=True)

    def epochs(self, n: int, *, shuffle: bool = True) -> None:
        loss = LOSSES[self.workload.loss]
        by_hand = self.way == BY_HAND
        for _ in range(n):
            for x, y in self.batches(shuffle=shuffle):
                self.optimizer.zero_grad(set_to_none=not by_hand)
                loss(self.model(x), y).backward()
                if by_hand:
                    dist.all_reduce(self.gradient)
                    self.gradient /= dist.get_world_size()
                self.optimizer.step()

    @torch.no_grad()
    def loss(self) -> float:
        return float(LOSSES[self.workload.loss](self.net(self.x), self.y))

    def parameters(self) -> Array:
        p = [part.detach().numpy() for part in self.net.p]
        return flat([(w.T, b) for w, b in zip(p[::2], p[1::2], strict=True)])


def _view_gradients(net: Net, gradient: Tensor) -> None:
    """Have all gradients of a net be parts of one vector."""
    parts = gradient.split([p.numel() for p in net.p])
    for p, part in zip(net.p, parts, strict=True):
        p.grad = part.view_as(p)
