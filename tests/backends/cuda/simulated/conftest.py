"""Settings for Numba's simulator of CUDA."""

from numba.cuda.simulator import kernel, kernelapi
from shared_memory import Shared
from turns import Block

kernel.BlockManager = Block
kernelapi.FakeCUDAShared = Shared
