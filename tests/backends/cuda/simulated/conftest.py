"""Settings for Numba's simulator of CUDA."""

from numba.cuda.simulator import kernel, kernelapi
from simulator import Block, Shared

kernel.BlockManager = Block
kernelapi.FakeCUDAShared = Shared
