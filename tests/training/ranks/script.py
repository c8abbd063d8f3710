"""Fits on MPI's ranks: ``mpiexec -n 4 python -m mpi4py script.py what,... folder``."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mpi4py import MPI
from ranked import made, rows_of

from fastmlp import Report


def train(what: str, folder: Path) -> None:
    """Train, and write this rank's parameters; or fail as asked for."""
    comm = MPI.COMM_WORLD
    rank = comm.Get_rank()

    def act(report: Report) -> None:
        if what == "raise" and report.epoch == 2:
            raise ValueError("of a callback")
        if what == "kill" and report.epoch == 4:
            os.kill(int((folder / "pid2").read_text()), signal.SIGKILL)
        if what in ("kill", "wait") and report.epoch == 4:
            (folder / "waits").touch()
            # Else rank 0 might write the epoch's checkpoint before it is ended.
            time.sleep(60)

    (folder / f"pid{rank}").write_text(str(os.getpid()))
    comm.Barrier()
    options: dict[str, Any] = {"epochs": 6, "batch_size": 300, "callbacks": act}
    if what in ("kill", "wait", "resume"):
        kept = {"checkpoint": folder / "fit.safetensors", "checkpoint_every": 1}
        options = {**options, **kept, "resume": what == "resume"}
    options["average_every"] = 3 if what in ("average", "again") else None
    options["shuffle"] = what != "plain"
    net = made()
    net.fit(*rows_of(rank), communicator=comm, **options)
    net.parameters.tofile(folder / f"{what}{rank}")


if __name__ == "__main__":
    for what in sys.argv[1].split(","):
        train(what, Path(sys.argv[2]))
