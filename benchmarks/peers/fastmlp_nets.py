"""fastmlp: `fit`, `fit_many`, a file of Parquet, the price of a feature."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_many import Sweep
from benchmarks.bench_stream import Stream
from benchmarks.peers import Run
from benchmarks.workloads import Array, Workload, flat
from fastmlp import EMA, MLP, SGD, Adam, AdamW, Blocks, Cosine, fit_many

VARIANTS = dict.fromkeys(("plain", "mixed", "recipe"), ("fit",))
VARIANTS["stream"] = ("Blocks.from_parquet",)


def about() -> str:
    import numba

    return f"Numba {numba.__version__}, {numba.config.NUMBA_NUM_THREADS} threads"


def make(workload: Workload, variant: str = "fit") -> "FastmlpFit":
    return FastmlpFit(workload)


def optimizer_of(workload: Workload) -> Any:
    rule = workload.rule
    recipe = workload.recipe
    if rule.kind == "sgd":
        return SGD(rule.rate, rule.momentum, nesterov=rule.momentum > 0)
    if rule.kind == "adamw":
        return AdamW(rule.rate, weight_decay=rule.weight_decay)
    if recipe:
        averaged = EMA(recipe.average)
        return Adam(Cosine(rule.rate), average=averaged, global_clipnorm=recipe.norm)
    return Adam(rule.rate)


def net_of(load: Workload, start: Array, **changes: Any) -> MLP:
    """A new net at the start, with further settings, or others."""
    settings: dict[str, Any] = {
        "activation": load.activation,
        "loss": load.loss,
        "optimizer": optimizer_of(load),
        "l2": load.l2,
        "dtype": load.dtype,
        "seed": 0,
    }
    if load.compute_dtype:
        settings["compute_dtype"] = load.compute_dtype
    if load.recipe:
        settings["dropout"] = load.recipe.dropout
    net = MLP(load.sizes, **{**settings, **changes})
    net.parameters[:] = start
    return net


class FastmlpFit(Run):
    """A net, as a user writes it."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.x, self.y = workload.data()
        self.start = flat(workload.start())
        self.reset()

    def reset(self) -> None:
        self.net = self.made()

    def made(self, **changes: Any) -> MLP:
        return net_of(self.workload, self.start, **changes)

    def epochs(self, n: int) -> None:
        load = self.workload
        self.net.fit(
            self.x, self.y, epochs=n, batch_size=load.batch, shuffle=load.shuffle
        )

    def steps(self, n: int) -> None:
        load = self.workload
        x = self.x[: n * load.batch]
        y = self.y[: n * load.batch]
        # The recipe's schedule asks for the end of a fit.
        if n == 1 and not load.recipe:
            self.net.train_on_batch(x, y)
            return
        epochs = 1 if load.shuffle else n
        self.net.fit(x, y, epochs=epochs, batch_size=load.batch, shuffle=False)

    def gradient(self) -> Any:
        batch = self.workload.rows(0)
        return self.net.loss_and_gradient(self.x[batch], self.y[batch])

    def loss(self) -> float:
        plain = self.workload._replace(l2=0.0, recipe=None, compute_dtype=None)
        twin = net_of(plain, self.net.parameters)
        loss, _ = twin.loss_and_gradient(self.x, self.y)
        return loss

    def parameters(self) -> Array:
        return self.net.parameters.copy()

    def predictors(self) -> dict[str, Callable[[Array], Array]]:
        load = self.workload
        outs: dict[int, Array] = {}

        def into(x: Array) -> Array:
            out = outs.get(len(x))
            if out is None:
                out = np.empty((len(x), load.sizes[-1]), load.dtype)
                outs[len(x)] = out
            return self.net.predict(x, out=out)

        return {"new array": self.net.predict, "out=": into}


class Ranks:
    """The ranks that mpiexec starts, and their nets."""

    def __init__(self, file: str) -> None:
        from mpi4py import MPI

        self.comm = MPI.COMM_WORLD
        self.rank = self.comm.rank
        self.barrier = self.comm.Barrier
        self.agreed = self.comm.bcast

    def runs(self, load: Workload) -> Iterator[tuple[str, Any]]:
        """Yield the one way and its run."""
        yield "fit", RankNet(load, self.comm)

    def close(self) -> None:
        """MPI ends with the process."""


class RankNet(FastmlpFit):
    """A net that the ranks train, and this one's rows."""

    def __init__(self, workload: Workload, comm: Any) -> None:
        from benchmarks import bench_machines as machines

        super().__init__(workload)
        self.comm = comm
        self.x, self.y = machines.share(workload, comm.rank, comm.size)

    def epochs(self, n: int, *, shuffle: bool = True) -> None:
        settings: Any = {"batch_size": self.workload.batch, "shuffle": shuffle}
        self.net.fit(self.x, self.y, epochs=n, communicator=self.comm, **settings)


class Many:
    """Nets, as a user writes them; making them is part of the training."""

    def __init__(self, sweep: Sweep, n_threads: int | None = None) -> None:
        self.sweep = sweep
        self.n_threads = n_threads
        self.x, self.y = sweep.data()
        layers = sweep.starts()
        self.settings = sweep.settings()
        self.starts = []
        for i in range(sweep.n_nets):
            start = [(w[i], b[i]) for w, b in layers]
            self.starts.append(flat(start))
        self.nets: list[MLP] = []

    def net(self, i: int, n_threads: int | None = None) -> MLP:
        rate, l2 = self.settings[i]
        changes: Any = {
            "optimizer": Adam(rate),
            "l2": l2,
            "seed": i,
            "n_threads": n_threads,
        }
        return net_of(self.sweep.workload, self.starts[i], **changes)

    def train(self, epochs: int, *, shuffle: bool = True) -> None:
        self.nets = [self.net(i) for i in range(self.sweep.n_nets)]
        histories = fit_many(
            self.nets,
            self.x,
            self.y,
            epochs=epochs,
            batch_size=self.sweep.workload.batch,
            shuffle=shuffle,
            n_threads=self.n_threads,
        )
        self.losses = np.array([history.loss[-1] for history in histories])

    def parameters(self) -> Array:
        return np.stack([net.parameters for net in self.nets])


class Streamed:
    """A new net for each call; calls return the number of rows."""

    def __init__(self, stream: Stream, path: Path, way: str, contestant: str) -> None:
        self.load = stream.workload
        self.stream = stream
        self.run = FastmlpFit(stream.workload)
        self.source = Blocks.from_parquet(path, target="y")

    def reading(self) -> int:
        n_rows = 0
        for i in range(len(self.source.block_sizes)):
            x, *_ = self.source.read(i)
            n_rows += len(np.asarray(x))
        return n_rows

    def memory(self) -> int:
        self.run.reset()
        self.run.epochs(self.stream.epochs)
        return self.stream.epochs * self.load.n_rows

    def streamed(self) -> int:
        net = self.run.made()
        net.fit(
            self.source,
            epochs=self.stream.epochs,
            batch_size=self.load.batch,
            buffer_rows=self.stream.buffer_rows,
        )
        return self.stream.epochs * self.load.n_rows
