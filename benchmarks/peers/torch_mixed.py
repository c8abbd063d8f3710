"""PyTorch in mixed precision: autocast, which keeps a forward pass's rounded weights."""

import os
import subprocess
import sys

import torch

from benchmarks.peers.torch_eager import LOSSES, Tensor, TorchEager, about, forward
from benchmarks.workloads import Workload

__all__ = ["VARIANTS", "about", "make"]

PRECISION = "float32 matmul precision medium"
VARIANTS = ("autocast, gather each step", "autocast, gather each epoch", PRECISION)
# Three steps of a net that a name stands for, with oneDNN telling each primitive.
STEPS = (
    "from benchmarks.peers.torch_mixed import make; from benchmarks.workloads import BY_NAME; "
    "make(BY_NAME[{!r}].quick(), {!r}).steps(3)"
)


def make(workload: Workload, variant: str = VARIANTS[0]) -> "TorchMixed":
    return TorchMixed(workload, variant)


class TorchMixed(TorchEager):
    """Products by autocast, of inputs that are rounded ahead; or float32 products whose operands
    PyTorch may round."""

    def __init__(self, workload: Workload, variant: str) -> None:
        super().__init__(workload, variant.removeprefix("autocast, "))
        self.variant, self.by_leave, self.exact = variant, variant == PRECISION, self.x
        if not self.by_leave:
            self.x = self.x.bfloat16()

    def step(self, x: Tensor, y: Tensor) -> None:
        torch.set_float32_matmul_precision("medium" if self.by_leave else "highest")
        super().step(x, y)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        if self.by_leave:
            return LOSSES[self.workload.loss](forward(self.workload.activation, self.p, x), y)
        return super().objective(x, y)

    @torch.no_grad()
    def loss(self) -> float:
        torch.set_float32_matmul_precision("highest")
        raw = forward(self.workload.activation, self.p, self.exact)
        return float(LOSSES[self.workload.loss](raw, self.y))


def kernels(workload: Workload, variant: str = VARIANTS[0]) -> list[str]:
    """Return what oneDNN says it runs for a workload's products, by ONEDNN_VERBOSE: implementation
    and dtypes, each once."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS.format(workload.name, variant)],
        env={**os.environ, "ONEDNN_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = [line.split(",") for line in done.stdout.splitlines() if ",exec,cpu," in line]
    products = [fields for fields in told if "matmul" in fields or "inner_product" in fields]
    return list(
        dict.fromkeys(f"{fields[5]}, {fields[6]}, {_dtypes(fields)}" for fields in products)
    )


def _dtypes(fields: list[str]) -> str:
    """Return each tensor and its dtype: "src:bf16 wei:bf16 dst:bf16"."""
    tensors = next(field for field in fields if field.startswith("src"))
    return " ".join(":".join(part.replace("_", ":").split(":")[:2]) for part in tensors.split())
