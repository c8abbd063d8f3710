"""PyTorch: DistributedDataParallel over gloo,
one of two processes of one thread each.
"""

import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks import bench_machines as machines
from benchmarks.peers.torch_nets import LOSSES, Net, Tensor, TorchEager
from benchmarks.workloads import Workload

# Options of DDP. By hand there is one all-reduce of all gradients after the backward
# pass.
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


class Ranks:
    """The process group: processes meet by a file, with RANK and WORLD_SIZE set."""

    def __init__(self, file: str) -> None:
        torch.set_num_threads(1)
        self.rank = int(os.environ["RANK"])
        size = int(os.environ["WORLD_SIZE"])
        meeting = f"file://{file}"
        dist.init_process_group(
            "gloo", init_method=meeting, rank=self.rank, world_size=size
        )
        self.barrier = dist.barrier
        self.close = dist.destroy_process_group

    def agreed(self, n: int) -> int:
        """The first process's number."""
        number = torch.tensor([n])
        dist.broadcast(number, 0)
        return int(number)

    def runs(self, load: Workload) -> Iterator[tuple[str, Any]]:
        """Yield each way and its run."""
        for way in WAYS:
            yield way, DistributedNet(load, way)


class DistributedNet(TorchEager):
    """A net that two processes train, and this one's rows."""

    def __init__(self, workload: Workload, way: str) -> None:
        self.way = way
        n = dist.get_world_size()
        load = workload._replace(n_rows=workload.n_rows // n, batch=workload.batch // n)
        super().__init__(load, "gather each epoch, one thread")
        x, y = machines.share(workload, dist.get_rank(), n)
        self.x = torch.from_numpy(x)
        self.y = torch.from_numpy(y)
        self.exact = self.x

    def reset(self) -> None:
        super().reset()
        net = Net(self.workload.activation, [part.detach() for part in self.p])
        self.p = [*net.p]
        self.optimizer = self._optimizer()
        self.model = net
        if self.way == BY_HAND:
            self.sums = torch.zeros(sum(p.numel() for p in self.p))
            _view_gradients(net, self.sums)
        else:
            self.model = DistributedDataParallel(net, **WAYS[self.way])

    def objective(self, x: Tensor, y: Tensor, masks: Tensor | None = None) -> Tensor:
        return LOSSES[self.workload.loss](self.model(x), y)

    def step(self, x: Tensor, y: Tensor, masks: Tensor | None = None) -> None:
        if self.way != BY_HAND:
            super().step(x, y)
            return
        self.optimizer.zero_grad(set_to_none=False)
        self.objective(x, y).backward()
        dist.all_reduce(self.sums)
        self.sums /= dist.get_world_size()
        self.optimizer.step()

    def epochs(self, n: int, *, shuffle: bool = True) -> None:
        if shuffle:
            super().epochs(n)
            return
        for _ in range(n):
            self.steps(self.workload.n_steps)


def _view_gradients(net: Net, gradient: Tensor) -> None:
    """Have all gradients of a net be parts of one vector."""
    parts = gradient.split([p.numel() for p in net.p])
    for p, part in zip(net.p, parts, strict=True):
        p.grad = part.view_as(p)
