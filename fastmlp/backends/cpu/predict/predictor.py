"""The predictor: the one place that decides how rows are predicted."""

from typing import Any, Literal, NamedTuple

import numpy as np

from fastmlp._process.memory import FreeList, keep
from fastmlp.backends.cpu.dispatch import Runner
from fastmlp.backends.cpu.kernels import epoch, rule_blocks
from fastmlp.backends.cpu.kernels.first_layer import SparseRows
from fastmlp.backends.cpu.plan.plan import Addresses
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.predict.row_blocks import RowBlocks
from fastmlp.backends.cpu.predict.small_batch import (
    SmallBatch,
    TiledRows,
    packed_weights,
)
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.tuning import (
    BLOCK_BYTES,
    GIL_LANE_PRODUCTS,
    GIL_ROW_PRODUCTS,
    GIL_ROWS,
    GIL_TEAM_PRODUCTS,
    KEPT_PARAMETERS,
    LED_WEIGHTS,
    ONE_BY_ONE,
    ONE_TILE,
    ONE_TILE_WEIGHTS,
    PREDICT_FLOPS,
    ROW_BLOCK,
    STAGED_PRODUCTS,
    TILED_WEIGHTS,
)
from fastmlp.backends.protocol import Data, Select, as_given
from fastmlp.compiler import COMPILER
from fastmlp.network.spec import Network, paired_layers
from fastmlp.validation import Array, arrays, expanded
from fastmlp.validation.expanded import Expanded


class Prediction:
    """Predictions for rows, dense, sparse or expanded,
    by packed panels, in the network's `compute_dtype`.

    Parameters
    ----------
    like : some rows, if all rows are to be of their kind, SparseRows or Expanded

    Attributes
    ----------
    size : numbers of the packed parameters and of weights in pairs
        Sparse rows read the first layer unpacked.
    """

    size: int

    def __init__(
        self,
        runner: Runner,
        network: Network,
        like: SparseRows | Expanded | None = None,
    ) -> None:
        activations = rule_blocks.activations(network, slopes=False)
        blocks = Addresses(*activations, link=rule_blocks.link(network))
        nothing = np.empty((0, network.layout.sizes[0]), network.dtype)
        self._no_rows = Data(nothing, np.empty((0, 0), network.dtype), nothing.ravel())
        data = self._no_rows if like is None else self._no_rows._replace(x=like)
        self._runner = runner
        self._session = Session(
            network,
            blocks,
            data,
            rows=runner.n_threads * ROW_BLOCK,
            n_threads=runner.n_threads,
        )
        workspace = self._session.workspace
        self.size = len(workspace.parameters) + len(workspace.copies)
        self._most = max(1, PREDICT_FLOPS // (2 * network.layout.n_weights))

    def __call__(
        self, parameters: Array, x: Array | SparseRows | Expanded, out: Array
    ) -> None:
        """Write the predictions for x at these parameters to `out`,
        shape (n_rows, n_outputs).
        """
        runner = self._runner
        session = self._session
        n_rows = len(out)
        runner.load(session, parameters)
        session.take(self._no_rows._replace(x=x))
        work = runner.work(min(n_rows, self._most), forward=2)
        batch = session.batch
        for first in range(0, n_rows, self._most):
            session.at(slice(first, min(first + self._most, n_rows)))
            batch["index"], batch["out"] = 0, address(out, first * out.shape[1])
            runner.run(epoch.predict, session, work)
        # A free list keeps the buffers, not the rows.
        session.data = self._no_rows


Rows = Array | SparseRows | Expanded
SMALL_WAYS = ("one by one", "in lanes")
BLOCK_PREDICTORS = {"row tiles": TiledRows, "row blocks": RowBlocks}


class Way(NamedTuple):
    """A method by which arrays are predicted.

    Attributes
    ----------
    quick : most rows of a call that holds the GIL; 0: it never does
    """

    method: Literal[
        "one by one", "in lanes", "row tiles", "row blocks", "packed panels"
    ]
    quick: int


def way_for(n_rows: int, network: Network, n_threads: int = 1) -> Way:
    """The method for n_rows rows of an array, where calls have so many threads."""
    layout = network.layout
    if network.compute_dtype:
        return Way("packed panels", 0)
    if not layout.is_plain:
        few = max(1, min(GIL_ROWS, STAGED_PRODUCTS // layout.n_weights))
        return Way("one by one", few) if n_rows <= few else Way("packed panels", 0)
    in_lanes = min(GIL_ROWS, GIL_LANE_PRODUCTS // layout.n_weights)
    if layout.n_weights >= (TILED_WEIGHTS if n_rows > 1 else LED_WEIGHTS):
        most = in_lanes
        if n_threads > 1:
            most = min(GIL_ROWS, GIL_TEAM_PRODUCTS // layout.n_weights)
        return Way("row tiles", max(most, 1))
    if 1 < n_rows <= ONE_TILE and layout.n_weights >= ONE_TILE_WEIGHTS:
        return Way("row tiles", max(min(in_lanes, ONE_TILE), 1))
    if n_rows <= ONE_BY_ONE:
        within = GIL_LANE_PRODUCTS if in_lanes > ONE_BY_ONE else GIL_ROW_PRODUCTS
        return Way("one by one", max(1, min(ONE_BY_ONE, within // layout.n_weights)))
    if n_rows <= in_lanes:
        return Way("in lanes", in_lanes)
    is_large = layout.n_parameters * network.dtype.itemsize > BLOCK_BYTES
    return Way("packed panels" if is_large else "row blocks", 0)


class Predictor:
    """Predicts any rows of a network at its live parameters.

    =============  ============================  ==================================  ==============
    method         rows                          parameters                          threads
    =============  ============================  ==================================  ==============
    one by one     up to 4                       live; calls of up to `Way.quick`    the caller's
                                                 rows hold the GIL
    in lanes       more, by vectors of rows, up  live; the call holds the GIL        the caller's
                   to `GIL_LANE_PRODUCTS`
    row tiles      2 and more, of wide nets;     packed until somebody may have      a team
                   2 to 8, of others, with       written; live for few rows, after
                   AVX2 or AVX-512               a write; few hold the GIL
    row blocks     more, of nets up to 2 MB      live; of long calls copied flat     a team
    packed panels  more, of wider nets; more,    packed in each call                 a team
                   with norms or residual
                   blocks; any, in bfloat16
    sparse rows    sparse                        the same, but for the first layer   a team
    expanded rows  expanded                      packed in each call                 a team
    =============  ============================  ==================================  ==============

    `way_for` decides for arrays. All methods for arrays give the same bits, and a row
    of any kind has the same bits alone and among others. So few rows are rounded to
    bfloat16 too. A copy of the parameters is taken under `lock.parameters`: predictions
    during a fit see one state. Any number of threads may predict at a time: each call
    takes its buffers from a free list. All calls of a net share the packed weights that
    tiles read, which are valid until somebody may have written.

    Parameters
    ----------
    runner : of this lock and number of threads
    network : may be the runner's without its output function, with predictions' compute dtype
    parameters : (n_parameters,) array, live
    idle : the free list of buffers
    select : from an X that is not a plain array, and the caller's name, to the columns to use
    """

    def __init__(
        self,
        runner: Runner,
        network: Network,
        parameters: Array,
        idle: FreeList,
        select: Select = as_given,
    ) -> None:
        self._select = select
        if not any(paired_layers(network.layout, network.compute_dtype)):
            network = network._replace(compute_dtype=None)
        self._runner = runner
        # Numba's threads are not a team that a call can lead.
        self._n_threads = runner.n_threads if COMPILER == "translator" else 1
        self._network = network
        self._idle = idle
        self._parameters = parameters
        self._small: SmallBatch | None = None
        self._ways: dict[int, Way] = {}
        # For this predictor alone, as a small batch has the address of its parameters.
        self._spare = FreeList()

    def __reduce__(self) -> Any:
        """Addresses are valid in this object and process only,
        so a copy or a pickle is None.
        """
        return type(None), ()

    def __call__(self, X: Any, out: Any = None, who: str = "MLP.predict") -> Array:
        """Return `out`, or a new array, shape (n_rows, n_outputs).

        `out` is of the network's dtype and may share memory with X. Invalid X or `out`
        raise a TypeError or ValueError; predictions that are not finite warn.
        """
        small = self._small
        if small is not None:
            predictions = small(X, out)
            if predictions is not None:
                return predictions
        predictions = self._by_plain_blocks(X, out, who)
        return self._checked(X, out, who) if predictions is None else predictions

    def quick(self, X: object, *, alone: bool) -> Array | None:
        """The predictions of a plain array, without checks or copies;
        None for other arrays, and if a number is not finite.

        `alone`: only of a small batch, after another.
        """
        if not alone:
            return self._by_plain_blocks(X, None, "")
        small = self._small
        return None if small is None else small(X, None)

    def flat_net(self) -> SmallBatch | None:
        """New buffers for any number of rows of one thread,
        at the live parameters; None in bfloat16.
        """
        network = self._network
        if network.compute_dtype:
            return None
        lock = self._runner.lock
        method = "in lanes" if network.layout.is_plain else "one by one"
        return SmallBatch(network, self._parameters, 0, method, lock)

    def write(self, x: Rows, out: Array) -> SmallBatch | None:
        """Write the predictions for validated rows to out;
        return the `SmallBatch`, if one is used.

        Parameters
        ----------
        x : (n_rows, n_features) C-contiguous array of the network's dtype, or sparse or expanded
            rows
        out : (n_rows, n_outputs) C-contiguous array of that dtype, no memory shared with x
        """
        if not isinstance(x, np.ndarray):
            self._by_panels(x, out)
            return None
        way = way_for(len(x), self._network, self._n_threads)
        if way.method in SMALL_WAYS or len(x) <= way.quick:
            return self._by_small_batch(x, out, way)
        if way.method in BLOCK_PREDICTORS:
            self._by_blocks(x, out, way)
        else:
            self._by_panels(x, out)
        return None

    def _checked(self, X: Any, out: Any, who: str) -> Array:
        sizes = self._network.layout.sizes
        dtype = self._network.dtype
        x = expanded.rows(self._select(X, who), sizes[0], dtype, who)
        result = arrays.out_array(out, (len(x), sizes[-1]), dtype, who)
        if isinstance(x, Expanded):
            self.write(x, result)
            return arrays.warn_if_not_finite(result, who)
        if out is not None and np.may_share_memory(x, result):
            # Predictions would overwrite rows that are still to be read.
            x = x.copy()
        small = self._small
        if small is None or small(x if x.flags.writeable else x.copy(), result) is None:
            self.write(x, result)
        return arrays.warn_if_not_finite(result, who)

    def _by_small_batch(self, x: Array, out: Array, way: Way) -> SmallBatch:
        """Predict in spare or new buffers:
        another thread may use the buffers of quick calls.
        """
        small = self._spare.take(way) or self._small_batch(way)
        with self._runner.lock.parameters:
            small.write(x, out)
        if len(x) <= way.quick and (self._small is None or self._small.most < len(x)):
            self._small = small
        else:
            self._spare.give(way, small)
        return small

    def _small_batch(self, way: Way) -> SmallBatch:
        network = self._network
        parameters = self._parameters
        packed = None
        if way.method == "row tiles":
            packed = packed_weights(self._runner, network, parameters)
        runner = self._runner
        return SmallBatch(
            network,
            parameters,
            way.quick,
            way.method,
            runner.lock,
            packed,
            runner.n_threads,
        )

    def _by_plain_blocks(self, x: object, out: object, who: str) -> Array | None:
        """Predict by blocks if x and out are plain;
        None if they, or a number, are not.
        """
        network = self._network
        if type(x) is not np.ndarray:
            return None
        # 1.3 us less than to decide again.
        way = self._ways.get(len(x)) or keep(
            self._ways, len(x), way_for(len(x), network, self._n_threads)
        )
        by_blocks = way.method in BLOCK_PREDICTORS and len(x) > way.quick
        result = plain_out(x, out, network, who) if by_blocks else None
        if result is not None and self._by_blocks(x, result, way):
            return result
        return None

    def _by_blocks(self, x: Array, out: Array, way: Way) -> bool:
        kind = BLOCK_PREDICTORS[way.method]
        key = (self._network, self._runner.n_threads, kind)
        blocks = self._idle.take(key) or kind(self._runner, self._network)
        finite: bool = blocks(self._parameters, x, out)
        self._idle.give(key, blocks)
        return finite

    def _by_panels(self, x: Rows, out: Array) -> None:
        like = None if isinstance(x, np.ndarray) else x
        key = (self._network, self._runner.n_threads, kind_of_rows(x))
        prediction = self._idle.take(key) or Prediction(
            self._runner, self._network, like
        )
        prediction(self._parameters, x, out)
        if prediction.size <= KEPT_PARAMETERS:
            self._idle.give(key, prediction)


def kind_of_rows(x: Rows) -> object:
    """Rows of one kind can have the same buffers."""
    return x.kind if isinstance(x, Expanded) else type(x)


def plain_out(
    x: Array, out: object, network: Network, who: str = "MLP.predict"
) -> Array | None:
    """`out`, or a new array; None if x would have to be copied, or out to be checked.

    Plain arrays are C-contiguous,
    of the network's dtype and shape, and share no memory.
    """
    sizes = network.layout.sizes
    dtype = network.dtype
    if x.dtype != dtype or x.ndim != 2 or x.shape[1] != sizes[0]:
        return None
    if not x.flags.c_contiguous:
        return None
    shape = (len(x), sizes[-1])
    if out is None:
        return arrays.out_array(None, shape, dtype, who)
    if type(out) is not np.ndarray or out.dtype != dtype or out.shape != shape:
        return None
    flags = out.flags
    fits = flags.c_contiguous and flags.writeable and not np.may_share_memory(x, out)
    return out if fits else None
