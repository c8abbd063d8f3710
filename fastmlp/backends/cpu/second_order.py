"""The Gauss-Newton equations of a net and its rows:
their matrix by tiles, and its Cholesky factor.

Both are upper triangles of block columns of `BLOCK_SIZE` parameters: block column K has
the rows of the blocks 0 to K, in panels. So half of the tiles are computed and stored.
Both have one more column: the negative gradient, which the factorization solves on its
way. Each number is a chain of multiply-adds in one order: bits do not depend on the
threads.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.dispatch import Runner, Work
from fastmlp.backends.cpu.evaluation import (
    JacobianRows,
    Objective,
    curvature_loop,
    jacobian_rows,
)
from fastmlp.backends.cpu.kernels import elementwise, rule_blocks
from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.plan.plan import aligned
from fastmlp.backends.cpu.plan.records import address, fields_of
from fastmlp.backends.cpu.predict.row_blocks import VECTORS, Scalar, make_flat
from fastmlp.backends.cpu.simd.gemm import Shape
from fastmlp.backends.cpu.simd.microkernel import STORE, Epilogue, Operands, Start
from fastmlp.backends.cpu.simd.vector import Panels
from fastmlp.backends.cpu.tuning import ALIGNMENT, LARGEST_TILE
from fastmlp.backends.protocol import Data
from fastmlp.compiler import block_of, call, njit, prange
from fastmlp.compiler.memory import Record, record_at, records_at, row
from fastmlp.compiler.target import lanes_of
from fastmlp.network.layer_settings import trained_parameters
from fastmlp.network.spec import Network
from fastmlp.rules.losses import are_weighted
from fastmlp.validation import Array

# Bytes of a block of the Jacobian, which stay in a cache,
# and its least and most rows: a multiple of a product's blocks of sums.
JACOBIAN_BYTES = 1 << 20
LEAST_BLOCK_ROWS = 96
MOST_BLOCK_ROWS = 384


class GaussNewton:
    """Objective, Gauss-Newton matrix and damped steps of a net on rows, in float64.

    Parameters
    ----------
    runner : of a network of float64
    data : dense rows of float64, all of which are taken

    Attributes
    ----------
    trained : (n_parameters,) array of bool
    diagonal : (n_trained,) array, of the last matrix
    """

    def __init__(self, runner: Runner, data: Data) -> None:
        """Records and buffers are made once; `linearize` and `step` set parameters and
        run the drivers.
        """
        network = runner.network
        self._runner = runner
        self._objective = Objective(runner, data)
        self.trained = trained_parameters(network)
        n = int(self.trained.sum())
        self._n = n
        decays = [strength / data.mass for _, strength in network.penalties]
        of_weights = np.arange(network.layout.n_parameters) < network.layout.n_weights
        self._decay = (sum(decays) * of_weights)[self.trained]
        self._parameters = aligned(network.layout.n_parameters, np.float64)
        self._flat = make_flat(
            network._replace(link=network.without_output().link),
            self._parameters,
            n_threads=runner.n_threads,
        )
        zeros = aligned(max(LARGEST_TILE[0], lanes_of(np.float64)), np.float64)
        weight = data.weight if data.weight.size else np.ones(data.n_rows)
        scale = np.sqrt(weight / data.mass)
        self._kept: list[Any] = [data, zeros, scale]
        net = fields_of(self._flat.net)
        net["zeros"] = address(zeros)
        net["x"] = address(data.x)
        net["n_rows"] = data.n_rows
        rows, row_block = self._rows_of(network, data, scale)
        self.record = aligned(1, System.dtype)
        self.job = fields_of(self.record)
        self.kind = (network.layout.sizes, n, data.n_rows.bit_length())
        n_sets = rows["n_sets"][0]
        self._lay_out(rows, row_block, data.n_rows, n_sets, zeros)
        self._compute: Any = derived_gauss_newton if data.derivatives else gauss_newton
        self._flops = float(data.n_rows) * n_sets * n * n
        self._n_blocks_of_rows = -(-data.n_rows // row_block)

    def _rows_of(self, network: Network, data: Data, scale: Array) -> tuple[Array, int]:
        """The record of the rows, and the most rows of a block.

        A block has about `JACOBIAN_BYTES` of the Jacobian, which has n_sets rows for each
        row of data. The parts of a thread's buffer lie at `begins`, one after the other.
        """
        sizes = network.layout.sizes
        n_out = sizes[-1]
        n_targets = data.y.shape[1]
        lanes = lanes_of(np.float64)
        n_panels = -(-(self._n + 1) // lanes)
        width = round_up(max(sizes), lanes)
        most = JACOBIAN_BYTES // (8 * n_panels * lanes)
        height = min(max(most, LEAST_BLOCK_ROWS), MOST_BLOCK_ROWS)
        derived = data.derivatives is not None
        n_sets = n_out * (1 + sizes[0]) if derived else n_out
        row_block = max(round_up(height // n_sets, VECTORS * lanes), VECTORS * lanes)
        loss = network.loss
        options, settings = rule_blocks.loss_options(loss, np.dtype(np.float64))
        assert loss.curvature is not None
        if are_weighted(loss, n_out, n_targets):
            options["weighted"] = True
        block = block_of(curvature_loop, np.float64, loss.curvature, **options)
        units = {
            "values": sum(sizes) + lanes,
            "slopes": sum(sizes[1:]),
            "deltas": 2 * width,
            "targets": n_targets,
            "roots": n_out * n_out,
            "columns": n_panels * lanes,
        }
        if derived:
            units |= {
                "curvatures": sum(sizes[1:]),
                "sums": sum(sizes[1:]),
                "tangents": sum(sizes) + lanes,
                "seconds": 2 * width,
            }
        unit = VECTORS * lanes * 8
        begins = dict[str, int]()
        n_bytes = 0
        for name, n_units in units.items():
            begins[name] = n_bytes
            n_bytes += n_units * unit
        n_bytes = round_up(n_bytes, ALIGNMENT)
        places = self._places(network)
        buffers = aligned(self._runner.n_threads * n_bytes // 8, np.float64)
        panel = row_block * n_sets * lanes * 8
        panels = aligned((n_panels + BLOCK_SIZE // lanes) * panel // 8, np.float64)
        record = aligned(1, JacobianRows.dtype)
        fields = {
            "net": address(self._flat.net),
            "y": address(data.y),
            "n_targets": n_targets,
            "scale": address(scale),
            "curvature": block.address,
            "settings": settings,
            "places": address(places),
            "buffers": address(buffers),
            "buffer_bytes": n_bytes,
            **begins,
            "width": width,
            "panels": address(panels),
            "panel": panel,
            "n_panels": n_panels,
            "n_sets": n_sets,
            **self._derived_fields(network, data),
        }
        self._kept += [block, places, buffers, panels, record]
        record[0] = tuple(
            fields.get(name, 0) for name in JacobianRows.dtype.names or ()
        )
        return record, row_block

    def _derived_fields(self, network: Network, data: Data) -> dict[str, int]:
        """Fields that rows of the derivatives by the inputs read, beside the fields for
        rows of values.

        The mean of squares of w (J - G)^2 has the curvature 2 w / known;
        unknown numbers have rows of 0.
        """
        if data.derivatives is None:
            return {}
        values, known, weights = data.derivatives
        of_rows = data.weight if data.weight.size else np.ones(data.n_rows)
        squares = 2 * weights * of_rows[:, None, None] / known.sum()
        factors = np.sqrt(np.where(np.isnan(values), 0.0, squares))
        rules = rule_blocks.blocks_of_rules(
            elementwise.curvature_loop, network.activations, network.dtype
        )
        curves = np.array(rules, np.int64)
        layers = self._flat.layers.copy()
        zeros = np.zeros(max(network.layout.sizes))
        layers["biases"] = address(zeros) - address(self._parameters)
        unbiased = self._flat.net.copy()
        fields_of(unbiased)["layers"] = address(layers)
        self._kept += [factors, curves, layers, zeros, unbiased]
        return {
            "curves": address(curves),
            "unbiased": address(unbiased),
            "factors": address(factors),
        }

    def _places(self, network: Network) -> NDArray[np.int64]:
        """First columns of the layers' weights and of their biases; -1: frozen."""
        layout = network.layout
        before: Array = np.cumsum(self.trained) - self.trained
        starts = np.array([*layout.weights, *layout.biases])
        return np.where(self.trained[starts], before[starts], -1).astype(np.int64)

    def _lay_out(
        self, rows: Array, row_block: int, n_rows: int, n_sets: int, zeros: Array
    ) -> None:
        """Allocate the two triangles of tiles and the buffers of a factorization, and
        point the job's record to them. The gradient has a column of tiles, but no row.
        """
        n, job = self._n, self.job
        n_blocks = -(-(n + 1) // BLOCK_SIZE)
        n_row_blocks = -(-n // BLOCK_SIZE)
        tiles = np.array(
            [(i, k) for k in range(n_blocks) for i in range(min(k + 1, n_row_blocks))],
            np.int64,
        )
        triangle = n_blocks * (n_blocks + 1) // 2 * BLOCK_SIZE**2
        self._gram, self._factor = (
            aligned(triangle, np.float64),
            aligned(triangle, np.float64),
        )
        more = [aligned(n_blocks * BLOCK_SIZE**2, np.float64) for _ in range(2)]
        dense = aligned(3 * BLOCK_SIZE**2, np.float64)
        self._gradient, self._shift, self._step = (
            aligned(n, np.float64) for _ in range(3)
        )
        product = rule_blocks.phase("gradient_product", np.dtype(np.float64))
        fields = {
            "n": n,
            "n_blocks": n_blocks,
            "rows": address(rows),
            "product": product.address,
            "row_block": row_block,
            "n_rows": n_rows,
            "n_sets": n_sets,
            "zeros": address(zeros),
            "n_tiles": len(tiles),
            "tiles": address(tiles),
            "gram": address(self._gram),
            "factor": address(self._factor),
            "strip": address(more[0]),
            "negated": address(more[1]),
            "dense": address(dense),
            "gradient": address(self._gradient),
            "shift": address(self._shift),
            "step": address(self._step),
        }
        self._kept += [tiles, more, dense, product]
        for name, value in fields.items():
            job[name] = value
        i = np.arange(n)
        k = i // BLOCK_SIZE
        p = i % BLOCK_SIZE
        lanes = lanes_of(np.float64)
        within = p // lanes * (k + 1) * BLOCK_SIZE * lanes + i * lanes + p % lanes
        self._diagonal_places = k * (k + 1) // 2 * BLOCK_SIZE**2 + within

    def objective(self, parameters: Array) -> tuple[float, Array]:
        return self._objective(parameters)

    @property
    def derivative_loss(self) -> float:
        """The mean square of the last objective's residuals of derivatives; NaN without
        derivatives.
        """
        return self._objective.derivative_loss

    def linearize(self, parameters: Array) -> None:
        self._parameters[:] = parameters
        work = Work(self._flops, 2 * self._n_blocks_of_rows)
        self._runner.run(self._compute, self, work)
        self.diagonal = self._gram[self._diagonal_places] + self._decay

    def step(self, gradient: Array, damping: Array) -> Array | None:
        """The solution d of (G + damping) d = -gradient, shape (n_trained,); None where
        G + damping is not positive definite.

        Parameters
        ----------
        gradient : (n_parameters,) array
        damping : (n_trained,) array, added to the diagonal
        """
        np.negative(gradient[self.trained], out=self._gradient)
        np.add(self._decay, damping, out=self._shift)
        work = Work(self._n**3 / 3, 2 * (self._n // BLOCK_SIZE + 1))
        self._runner.run(cholesky, self, work)
        return None if self.job["failed"] else self._step.copy()

    def matrix(self) -> Array:
        """J^T H J without penalties, shape (n_trained, n_trained)."""
        n = self._n
        lanes = lanes_of(np.float64)
        result = np.zeros((n, n))
        j = np.arange(n)
        k = j // BLOCK_SIZE
        p = j % BLOCK_SIZE
        base = (
            k * (k + 1) // 2 * BLOCK_SIZE**2
            + p // lanes * (k + 1) * BLOCK_SIZE * lanes
            + p % lanes
        )
        for i in range(n):
            result[i, i:] = self._gram[base[i:] + i * lanes]
        return result + np.triu(result, 1).T


# Columns of a block: whole strips,
# and whole tiles of two or three panels of 4 or 8 numbers.
BLOCK_SIZE = 48


class System(Record):
    """The normal equations of a step, and the job of their drivers."""

    team: int  # address of the team's record; 0: the calling thread alone
    n_parts: int  # the number of parts of a loop over rows
    n: int  # of the parameters
    n_blocks: int  # block columns of the parameters and the gradient
    rows: int  # address of a `JacobianRows` record
    product: int  # address of the matrix product by column
    row_block: int  # most rows of a block of the Jacobian
    n_rows: int
    n_sets: int  # rows of the Jacobian for each row of X
    zeros: int  # address of a vector of zeros
    n_tiles: int
    tiles: int  # address of the tiles, (row block, block column) each
    gram: int  # address of the matrix's first block column
    factor: int  # and of its factor's
    strip: int  # address of a row of tiles
    negated: int  # address of the panels of a block column, times -1
    # address of three blocks by rows: a tile of the diagonal, its inverse, in panels
    dense: int
    gradient: int  # addresses of n numbers: the negative gradient,
    shift: int  # what is added to the diagonal,
    step: int  # and the solution
    failed: int  # 1: a pivot was not positive


def gauss_newton(scalar: Scalar) -> Callable[[int], None]:
    """J^T H J, tile by tile, from blocks of rows of the Jacobian."""
    return _gauss_newton(scalar, derived=False)


def derived_gauss_newton(scalar: Scalar) -> Callable[[int], None]:
    """J^T H J, with rows of the derivatives by the inputs below the rows of values."""
    return _gauss_newton(scalar, derived=True)


def _gauss_newton(scalar: Scalar, *, derived: bool) -> Callable[[int], None]:
    """A block of rows of the Jacobian is written, then its products are added to all
    tiles: the block stays in a cache meanwhile.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    write_rows = jacobian_rows(scalar, derived=derived)

    @njit(parallel=True)
    def add_products(team: int, of: Sequence[System], depth: int, more: int) -> None:
        """Add the products of the Jacobian's columns to all tiles."""
        for index in prange(of[0].n_tiles):
            own = of[0]
            rows = record_at(own.rows, JacobianRows)
            tile = row(own.tiles, 2 * own.n_tiles, np.int64)
            i = tile[2 * index]
            k = tile[2 * index + 1]
            stride = (k + 1) * BLOCK_SIZE * vector
            c = (
                own.gram
                + k * (k + 1) // 2 * BLOCK_SIZE * BLOCK_SIZE * size
                + i * BLOCK_SIZE * vector
            )
            start = Start(own.zeros, 0, 0)
            if more:
                start = Start(c, vector, stride)
            a = rows.panels + i * (BLOCK_SIZE // lanes) * rows.panel
            b = rows.panels + k * (BLOCK_SIZE // lanes) * rows.panel
            factors = Operands(b, rows.panel, a, rows.panel, depth)
            n_columns = min(BLOCK_SIZE, own.n + 1 - k * BLOCK_SIZE)
            shape = Shape(n_columns, min(BLOCK_SIZE, own.n - i * BLOCK_SIZE))
            to = Panels(c, stride)
            call(own.product, (to, start, factors, Epilogue(STORE, 0), shape, 0))

    def compute(address: int) -> None:
        job = record_at(address, System)
        rows = record_at(job.rows, JacobianRows)
        for block in range((job.n_rows + job.row_block - 1) // job.row_block):
            first = block * job.row_block
            rows.first = first
            rows.last = min(first + job.row_block, job.n_rows)
            write_rows(job.team, records_at(job.rows, 1, JacobianRows), job.n_parts)
            depth = (rows.last - first) * job.n_sets
            add_products(job.team, records_at(address, 1, System), depth, first)

    return compute


def _row_of_tiles(scalar: Scalar) -> tuple[Callable[..., Any], ...]:
    """Functions that copy numbers, that subtract the products of the rows above from a
    row of tiles, and that scale it by its diagonal tile.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    panels_of_block = BLOCK_SIZE // lanes
    tile_bytes = BLOCK_SIZE * BLOCK_SIZE * size

    @njit
    def copy(source: Any, target: Any, n: Any, factor: Any) -> None:
        numbers = row(source, n, scalar)
        copies = row(target, n, scalar)
        for i in range(n):
            copies[i] = numbers[i] * factor

    @njit(parallel=True)
    def subtract_products(team: int, of: Sequence[System], k: int) -> None:
        """Write the tiles of row k,
        less the products of the rows above, to the strip.
        """
        for index in prange(of[0].n_blocks - k):
            own = of[0]
            j = k + int(np.int64(index))
            place = j * (j + 1) // 2 * tile_bytes
            stride = (j + 1) * BLOCK_SIZE * vector
            start = own.gram + place + k * BLOCK_SIZE * vector
            c = own.strip + j * tile_bytes
            if k == 0:
                for p in range(panels_of_block):
                    copy(
                        start + p * stride,
                        c + p * BLOCK_SIZE * vector,
                        BLOCK_SIZE * lanes,
                        scalar(1),
                    )
            else:
                to = Panels(c, BLOCK_SIZE * vector)
                tile = Start(start, vector, stride)
                b = own.factor + place
                depth = k * BLOCK_SIZE
                factors = Operands(b, stride, own.negated, depth * vector, depth)
                n_columns = min(BLOCK_SIZE, own.n + 1 - j * BLOCK_SIZE)
                shape = Shape(n_columns, min(BLOCK_SIZE, own.n - k * BLOCK_SIZE))
                call(own.product, (to, tile, factors, Epilogue(STORE, 0), shape, 0))

    @njit(parallel=True)
    def scale_row(team: int, of: Sequence[System], k: int) -> None:
        """The factor's tiles of row k, right of the diagonal."""
        for index in prange(of[0].n_blocks - k - 1):
            own = of[0]
            j = k + 1 + int(np.int64(index))
            place = j * (j + 1) // 2 * tile_bytes
            stride = (j + 1) * BLOCK_SIZE * vector
            to = Panels(own.factor + place + k * BLOCK_SIZE * vector, stride)
            start = Start(own.zeros, 0, 0)
            tile = own.strip + j * tile_bytes
            inverse = own.dense + 2 * tile_bytes
            down = BLOCK_SIZE * vector
            factors = Operands(tile, down, inverse, down, BLOCK_SIZE)
            shape = Shape(min(BLOCK_SIZE, own.n + 1 - j * BLOCK_SIZE), BLOCK_SIZE)
            call(own.product, (to, start, factors, Epilogue(STORE, 0), shape, 0))

    return copy, subtract_products, scale_row


def _tile(scalar: Scalar) -> tuple[Callable[..., Any], ...]:
    """Functions that factor and invert a tile by rows, and copy it to panels."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    panels_of_block = BLOCK_SIZE // lanes

    @njit
    def factor_tile(dense: int, n: int, width: int) -> int:
        """Factor n rows of `width` columns in place;
        return 1 if a pivot is not positive.
        """
        for i in range(n):
            pivots = row(dense + i * BLOCK_SIZE * size, width, scalar)
            if not (pivots[i] > scalar(0)):
                return 1
            scale = scalar(1) / np.sqrt(pivots[i])
            for j in range(i, width):
                pivots[j] *= scale
            for r in range(i + 1, n):
                numbers = row(dense + r * BLOCK_SIZE * size, width, scalar)
                factor = pivots[r]
                for j in range(r, width):
                    numbers[j] -= factor * pivots[j]
        return 0

    @njit
    def invert_tile(dense: int, inverse: int, n: int) -> None:
        """The inverse of an upper triangle, by rows."""
        for i in range(n):
            numbers = row(inverse + i * BLOCK_SIZE * size, n, scalar)
            for j in range(n):
                numbers[j] = scalar(1) if i == j else scalar(0)
            for t in range(i, n):
                pivots = row(dense + t * BLOCK_SIZE * size, n, scalar)
                numbers[t] /= pivots[t]
                factor = numbers[t]
                for j in range(t + 1, n):
                    numbers[j] -= factor * pivots[j]

    @njit
    def into_panels(dense: int, panels: int, stride: int) -> None:
        for r in range(BLOCK_SIZE):
            for p in range(panels_of_block):
                numbers = row(panels + p * stride + r * vector, lanes, scalar)
                source = row(dense + (r * BLOCK_SIZE + p * lanes) * size, lanes, scalar)
                for i in range(lanes):
                    numbers[i] = source[i]

    return factor_tile, invert_tile, into_panels


def _diagonal(scalar: Scalar) -> Callable[[System, int], int]:
    """Make the function that factors a tile of the diagonal, shifted, and inverts its
    factor for the rest of the row.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    tile_bytes = BLOCK_SIZE * BLOCK_SIZE * size
    factor_tile, invert_tile, into_panels = _tile(scalar)

    @njit
    def diagonal(job: System, k: int) -> int:
        """Factor the tile of the diagonal; return 1 if that fails."""
        dense = job.dense
        strip = job.strip + k * tile_bytes
        n = min(BLOCK_SIZE, job.n - k * BLOCK_SIZE)
        width = min(BLOCK_SIZE, job.n + 1 - k * BLOCK_SIZE)
        shift = row(job.shift, job.n, scalar)
        for r in range(n):
            numbers = row(dense + r * BLOCK_SIZE * size, BLOCK_SIZE, scalar)
            for j in range(width):
                place = strip + j // lanes * BLOCK_SIZE * vector + r * vector
                numbers[j] = row(place, lanes, scalar)[j % lanes]
            numbers[r] += shift[k * BLOCK_SIZE + r]
        if factor_tile(dense, n, width):
            return 1
        invert_tile(dense, dense + tile_bytes, n)
        into_panels(dense + tile_bytes, dense + 2 * tile_bytes, BLOCK_SIZE * vector)
        place = job.factor + k * (k + 1) // 2 * tile_bytes + k * BLOCK_SIZE * vector
        into_panels(dense, place, (k + 1) * BLOCK_SIZE * vector)
        return 0

    return diagonal


def _last_column(scalar: Scalar) -> tuple[Callable[..., Any], ...]:
    """Functions that write the matrix's last column, and solve by the factor's."""
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    tile_bytes = BLOCK_SIZE * BLOCK_SIZE * size

    @njit
    def element(first: int, i: int, j: int) -> int:
        """The address of row i of column j."""
        k = j // BLOCK_SIZE
        p = j % BLOCK_SIZE
        stride = (k + 1) * BLOCK_SIZE * vector
        within = p // lanes * stride + i * vector + p % lanes * size
        return first + k * (k + 1) // 2 * tile_bytes + within

    @njit
    def write_gradient(job: System) -> None:
        gradient = row(job.gradient, job.n, scalar)
        for i in range(job.n):
            row(element(job.gram, i, job.n), 1, scalar)[0] = gradient[i]

    @njit
    def substitute(job: System) -> None:
        """Solve U step = y, the factor's last column."""
        step = row(job.step, job.n, scalar)
        for i in range(job.n):
            step[i] = row(element(job.factor, i, job.n), 1, scalar)[0]
        for j in range(job.n - 1, -1, -1):
            column = row(element(job.factor, 0, j), (j + 1) * lanes, scalar)
            step[j] /= column[j * lanes]
            number = step[j]
            for i in range(j):
                step[i] -= column[i * lanes] * number

    return write_gradient, substitute


def cholesky(scalar: Scalar) -> Callable[[int], None]:
    """Factors the shifted matrix, G + shift = U^T U, and solves for the step.

    Row k of the tiles is the matrix's less the products of the rows above,
    times the inverse of its diagonal tile's factor, transposed.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size
    panels_of_block = BLOCK_SIZE // lanes
    tile_bytes = BLOCK_SIZE * BLOCK_SIZE * size
    copy, subtract_products, scale_row = _row_of_tiles(scalar)
    diagonal = _diagonal(scalar)
    write_gradient, substitute = _last_column(scalar)

    def solve(address: int) -> None:
        """Row by row of tiles; once a pivot is not positive, `failed` is set and the
        rest is left out.
        """
        job = record_at(address, System)
        of = records_at(address, 1, System)
        write_gradient(job)
        job.failed = 0
        for k in range((job.n + BLOCK_SIZE - 1) // BLOCK_SIZE):
            if job.failed == 0:
                source = job.factor + k * (k + 1) // 2 * tile_bytes
                for p in range(panels_of_block):
                    height = k * BLOCK_SIZE
                    panel = source + p * (height + BLOCK_SIZE) * vector
                    copy(
                        panel,
                        job.negated + p * height * vector,
                        height * lanes,
                        scalar(-1),
                    )
                subtract_products(job.team, of, k)
                job.failed = diagonal(job, k)
                if job.failed == 0:
                    scale_row(job.team, of, k)
        if job.failed == 0:
            substitute(job)

    return solve
