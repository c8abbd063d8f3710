"""fastmlp: `fit` with a communicator, one of the ranks that mpiexec starts.

`python -m mpi4py -m benchmarks.peers.fastmlp_ranks WORKLOAD quick|full`. Rank 0 prints a line of
JSON.
"""

import sys
from typing import Any

from benchmarks import machines
from benchmarks.peers.fastmlp_nets import FastmlpFit
from benchmarks.workloads import Workload

WAY = "fit"


class Ranks(FastmlpFit):
    """A net that the ranks train, and this one's rows."""

    def __init__(self, workload: Workload, comm: Any) -> None:
        super().__init__(workload)
        self.comm = comm
        self.x, self.y = machines.share(workload, comm.Get_rank(), comm.Get_size())

    def epochs(self, n: int, *, shuffle: bool = True) -> None:
        settings: Any = {"batch_size": self.workload.batch, "shuffle": shuffle}
        self.net.fit(self.x, self.y, epochs=n, communicator=self.comm, **settings)


def main() -> None:
    """Train, and print what a step takes."""
    from mpi4py import MPI

    comm, quick = MPI.COMM_WORLD, sys.argv[2] == "quick"
    machines.bind(comm.Get_rank())
    load = machines.of_name(sys.argv[1], quick=quick)
    run = Ranks(load, comm)
    record = machines.trained(run, load, comm.Barrier, comm.bcast, quick)
    if comm.Get_rank() == 0:
        machines.report({WAY: record})


if __name__ == "__main__":
    main()
