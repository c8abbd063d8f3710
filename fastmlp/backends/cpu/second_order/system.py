"""The Gauss-Newton equations of a net and its rows, as functions of the parameters."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.dispatch import Runner, Work
from fastmlp.backends.cpu.evaluation import Objective
from fastmlp.backends.cpu.kernels import rule_blocks
from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.records import address, fields_of
from fastmlp.backends.cpu.plan.workspace import aligned
from fastmlp.backends.cpu.predict.row_blocks import VECTORS, make_flat
from fastmlp.backends.cpu.second_order.jacobian import JacobianRows, curvature_loop
from fastmlp.backends.cpu.second_order.tiles import BLOCK, System, cholesky, gauss_newton
from fastmlp.backends.cpu.tuning import ALIGNMENT, LARGEST_TILE
from fastmlp.backends.protocol import Data
from fastmlp.compiler import block_of
from fastmlp.compiler.target import lanes_of
from fastmlp.network.layer_settings import trained_parameters
from fastmlp.network.spec import Network

Array = NDArray[Any]
# Bytes of a block of the Jacobian, which stay in a cache, and the least and the most of its rows:
# a multiple of a product's blocks of sums.
JACOBIAN_BYTES, LEAST_ROWS, MOST_ROWS = 1 << 20, 96, 384


class GaussNewton:
    """Objective, Gauss-Newton matrix and damped steps of a net on rows, in float64.

    Parameters
    ----------
    runner : Runner, of a network of float64
    data : dense rows of float64, all of which are taken

    Attributes
    ----------
    trained : (n_parameters,) array of bool
    diagonal : (n_trained,) array, of the last matrix
    """

    def __init__(self, runner: Runner, data: Data) -> None:
        network = runner.network
        self._runner, self._objective = runner, Objective(runner, data)
        self.trained = trained_parameters(network)
        self._n = n = int(self.trained.sum())
        decays = [strength / data.mass for _, strength in network.penalties]
        of_weights = np.arange(network.layout.n_parameters) < network.layout.n_weights
        self._decay = (sum(decays) * of_weights)[self.trained]
        self._parameters = aligned(network.layout.n_parameters, np.float64)
        self._flat = make_flat(
            network._replace(link=network.without_output().link),
            self._parameters, n_threads=runner.n_threads,
        )  # fmt: skip
        zeros = aligned(max(LARGEST_TILE[0], lanes_of(np.float64)), np.float64)
        weight = data.weight if data.weight.size else np.ones(data.n_rows)
        scale = np.sqrt(weight / data.mass)
        self._kept: list[Any] = [data, zeros, scale]
        net = fields_of(self._flat.net)
        net["zeros"], net["x"], net["n_rows"] = address(zeros), address(data.x), data.n_rows
        rows, row_block = self._rows_of(network, data, scale)
        self.record = aligned(1, System.dtype)
        self.job = fields_of(self.record)
        self.kind = (network.layout.sizes, n, data.n_rows.bit_length())
        self._lay_out(rows, row_block, data.n_rows, network.layout.sizes[-1], zeros)
        self._flops = float(data.n_rows) * network.layout.sizes[-1] * n * n
        self._n_blocks_of_rows = -(-data.n_rows // row_block)

    def _rows_of(self, network: Network, data: Data, scale: Array) -> tuple[Array, int]:
        """The record of the rows, and the most rows of a block."""
        sizes, n_out, n_targets = network.layout.sizes, network.layout.sizes[-1], data.y.shape[1]
        lanes = lanes_of(np.float64)
        n_panels, width = -(-(self._n + 1) // lanes), round_up(max(sizes), lanes)
        most = JACOBIAN_BYTES // (8 * n_panels * lanes)
        height = min(max(most, LEAST_ROWS), MOST_ROWS)
        row_block = max(round_up(height // n_out, VECTORS * lanes), VECTORS * lanes)
        loss = network.loss
        options, settings = rule_blocks.loss_options(loss, np.dtype(np.float64))
        assert loss.curvature is not None
        block = block_of(curvature_loop, np.float64, loss.curvature, **options)
        units = {
            "values": sum(sizes) + lanes, "slopes": sum(sizes[1:]), "deltas": 2 * width,
            "targets": n_targets, "roots": n_out * n_out, "columns": n_panels * lanes,
        }  # fmt: skip
        unit, begins, n_bytes = VECTORS * lanes * 8, dict[str, int](), 0
        for name, n_units in units.items():
            begins[name], n_bytes = n_bytes, n_bytes + n_units * unit
        n_bytes = round_up(n_bytes, ALIGNMENT)
        places = self._places(network)
        buffers = aligned(self._runner.n_threads * n_bytes // 8, np.float64)
        panel = row_block * n_out * lanes * 8
        panels = aligned((n_panels + BLOCK // lanes) * panel // 8, np.float64)
        record = aligned(1, JacobianRows.dtype)
        fields = {
            "net": address(self._flat.net), "y": address(data.y), "n_targets": n_targets,
            "scale": address(scale), "curvature": block.address, "settings": settings,
            "places": address(places),
            "buffers": address(buffers), "buffer_bytes": n_bytes, **begins, "width": width,
            "panels": address(panels), "panel": panel, "n_panels": n_panels,
        }  # fmt: skip
        self._kept += [block, places, buffers, panels, record]
        record[0] = tuple(fields.get(name, 0) for name in JacobianRows.dtype.names or ())
        return record, row_block

    def _places(self, network: Network) -> NDArray[np.int64]:
        """The first columns of the layers' weights and of their biases; -1: frozen."""
        layout = network.layout
        before: Array = np.cumsum(self.trained) - self.trained
        starts = np.array([*layout.weights, *layout.biases])
        return np.where(self.trained[starts], before[starts], -1).astype(np.int64)

    def _lay_out(self, rows: Array, row_block: int, n_rows: int, n_out: int, zeros: Array) -> None:
        n, job = self._n, self.job
        n_blocks = -(-(n + 1) // BLOCK)
        n_row_blocks = -(-n // BLOCK)
        tiles = np.array(
            [(i, k) for k in range(n_blocks) for i in range(min(k + 1, n_row_blocks))], np.int64
        )
        triangle = n_blocks * (n_blocks + 1) // 2 * BLOCK**2
        self._gram, self._factor = aligned(triangle, np.float64), aligned(triangle, np.float64)
        more = [aligned(n_blocks * BLOCK**2, np.float64) for _ in range(2)]
        dense = aligned(3 * BLOCK**2, np.float64)
        self._gradient, self._shift, self._step = (aligned(n, np.float64) for _ in range(3))
        product = rule_blocks.phase("gradient_product", np.dtype(np.float64))
        fields = {
            "n": n, "n_blocks": n_blocks, "rows": address(rows), "product": product.address,
            "row_block": row_block, "n_rows": n_rows, "n_outputs": n_out,
            "zeros": address(zeros), "n_tiles": len(tiles), "tiles": address(tiles),
            "gram": address(self._gram), "factor": address(self._factor),
            "strip": address(more[0]), "negated": address(more[1]), "dense": address(dense),
            "gradient": address(self._gradient), "shift": address(self._shift),
            "step": address(self._step),
        }  # fmt: skip
        self._kept += [tiles, more, dense, product]
        for name, value in fields.items():
            job[name] = value
        i = np.arange(n)
        k, p = i // BLOCK, i % BLOCK
        lanes = lanes_of(np.float64)
        within = p // lanes * (k + 1) * BLOCK * lanes + i * lanes + p % lanes
        self._diagonal_places = k * (k + 1) // 2 * BLOCK**2 + within

    def objective(self, parameters: Array) -> tuple[float, Array]:
        """The objective at these parameters, and its gradient, both flat."""
        return self._objective(parameters)

    def linearize(self, parameters: Array) -> None:
        """Compute the matrix at these parameters; `diagonal` is its diagonal."""
        self._parameters[:] = parameters
        work = Work(self._flops, 2 * self._n_blocks_of_rows)
        self._runner.run(gauss_newton, self, work)
        self.diagonal = self._gram[self._diagonal_places] + self._decay

    def step(self, gradient: Array, damping: Array) -> Array | None:
        """Return d with (G + damping) d = -gradient, or None where G + damping is not positive.

        Parameters
        ----------
        gradient : (n_parameters,) array
        damping : (n_trained,) array, added to the diagonal
        """
        np.negative(gradient[self.trained], out=self._gradient)
        np.add(self._decay, damping, out=self._shift)
        work = Work(self._n**3 / 3, 2 * (self._n // BLOCK + 1))
        self._runner.run(cholesky, self, work)
        return None if self.job["failed"] else self._step.copy()

    def matrix(self) -> Array:
        """The matrix J^T H J without penalties, shape (n_trained, n_trained)."""
        n, lanes = self._n, lanes_of(np.float64)
        result, j = np.zeros((n, n)), np.arange(n)
        k, p = j // BLOCK, j % BLOCK
        base = k * (k + 1) // 2 * BLOCK**2 + p // lanes * (k + 1) * BLOCK * lanes + p % lanes
        for i in range(n):
            result[i, i:] = self._gram[base[i:] + i * lanes]
        return result + np.triu(result, 1).T
