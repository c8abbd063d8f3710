"""Fits on MPI's ranks: ``mpiexec -n 4 python -m mpi4py script.py fit,... folder``."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mpi4py import MPI
from ranked import made, rows_of

from fastmlp import Report

# The fits with a checkpoint: two that are ended in their fifth epoch,
# and two that resume those.
CHECKPOINTS = {"kill": "killed", "resume": "killed", "wait": "ended", "go on": "ended"}


def train(fit: str, folder: Path) -> None:
    """Train, and write this rank's parameters; or fail as asked for."""
    comm = MPI.COMM_WORLD
    rank = comm.Get_rank()

    def act(report: Report) -> None:
        if fit == "raise" and report.epoch == 2:
            raise ValueError("of a callback")
        if fit == "kill" and report.epoch == 4:
            os.kill(int((folder / "pid2 of kill").read_text()), signal.SIGKILL)
        if fit in ("kill", "wait") and report.epoch == 4:
            (folder / f"{fit}s").touch()
            # Else rank 0 might write the epoch's checkpoint before it is ended.
            time.sleep(60)

    (folder / f"pid{rank} of {fit}").write_text(str(os.getpid()))
    comm.Barrier()
    options: dict[str, Any] = {"epochs": 6, "batch_size": 300, "callbacks": act}
    if fit in CHECKPOINTS:
        kept = {"checkpoint": folder / CHECKPOINTS[fit], "checkpoint_every": 1}
        options = {**options, **kept, "resume": fit in ("resume", "go on")}
    if fit in ("average", "again"):
        options["average_every"] = 3
    else:
        options["average_every"] = None
    options["shuffle"] = fit != "plain"
    net = made()
    net.fit(*rows_of(rank), communicator=comm, **options)
    net.parameters.tofile(folder / f"{fit} {rank}")


if __name__ == "__main__":
    for fit in sys.argv[1].split(","):
        train(fit, Path(sys.argv[2]))
