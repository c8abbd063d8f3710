"""The one matrix product, C = start + A B of panels: which tiles to sweep it with.

Forward (A = inputs, B = W), delta (A = errors, B = W transposed) and gradient (A = inputs by
column, B = errors) are all of this form.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cpu.simd.microkernel import Tile, sweep
from fastmlp.backends.cpu.simd.target import lanes_of, vector_bytes
from fastmlp.compiler import njit

Sweep = Callable[..., None]
# Rows that a call with many of them takes at once; the tiles' rows divide them.
STRIP = 8
# The largest tile, rows by panels: as many sums as there are registers, less those for A and B.
# With 16 registers, 4 x 2 has too few to hide loads behind: 91 GFLOP/s of 110, 4 x 3 runs at 106.
LARGEST = (8, 2) if vector_bytes() == 64 else (4, 3)
FEW = 4
# Whether a panel of which no more than half is used is computed so: where a half vector takes half
# the time.
NARROW = vector_bytes() == 64


def panels_at_once(left: int) -> int:
    """Return how many of the panels that are left the next tile takes: never one without need."""
    return 2 if left == 4 else min(left, LARGEST[1])


next_panels = njit(panels_at_once)


def groups_of_panels(n_panels: int) -> int:
    """Return in how many pieces a team shares a layer's panels: whole tiles, but the last."""
    return (n_panels + LARGEST[1] - 1) // LARGEST[1]


class _Sweeps(NamedTuple):
    """A product's shapes of tiles, by rows and panels; `narrow` where half of the last is used."""

    largest: Sweep
    four_2: Sweep
    eight_1: Sweep
    one_4: Sweep
    one_2: Sweep
    one_1: Sweep
    narrow_1: Sweep
    narrow_2: Sweep


def _sweeps(scalar: type[np.floating[Any]], by_column: bool) -> _Sweeps:
    def tiles(rows: int, vectors: int, **kind: bool) -> Sweep:
        return sweep(Tile(scalar, lanes_of(scalar), rows, vectors, by_column, **kind))

    wide = (tiles(*LARGEST, ahead=True), tiles(FEW, 2), tiles(STRIP, 1, ahead=by_column))
    rows = (tiles(1, 4), tiles(1, 2), tiles(1, 1))
    if not NARROW:
        return _Sweeps(*wide, *rows, narrow_1=wide[2], narrow_2=wide[0])
    return _Sweeps(*wide, *rows, *(tiles(STRIP, n, narrow=True, ahead=by_column) for n in (1, 2)))


def product(scalar: type[np.floating[Any]], by_column: bool) -> Any:
    """Make the block that computes C = start + A B for up to `ROW_BLOCK` rows, any width.

    Its arguments are those of a sweep, with the number of columns before that of rows. C, and the
    operand, must have room for whole panels, and for the rows rounded up to `STRIP`.
    The block compiles in 0.3 to 0.4 s; a shape of few sums, as that of one row and two panels, is
    0.02 of it, a narrow one 0.07.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector, strip, few = lanes * size, STRIP, FEW
    most_narrow = lanes // 2 if NARROW else 0
    largest, four_2, eight_1, one_4, one_2, one_1, narrow_1, narrow_2 = _sweeps(scalar, by_column)
    # Where the largest tile is wider, two panels that are left are the smaller one's.
    two_are_less = LARGEST[1] > 2

    def multiply(
        c: Any, c_panel: Any, start: Any, start_row: Any, start_panel: Any,
        b: Any, b_panel: Any, a: Any, a_panel: Any, depth: Any, epilogue: Any, operand: Any,
        n_columns: Any, n_rows: Any, wanted: Any,
    ) -> None:  # fmt: skip
        # First the rows that fill strips, then the few that are left.
        done, rest = 0, n_rows % strip
        n_panels = (n_columns + lanes - 1) // lanes
        narrow = n_columns - (n_panels - 1) * lanes <= most_narrow
        while done < n_rows:
            n = n_rows - rest if done < n_rows - rest else rest
            right, p = b, 0
            while p < n_panels:
                left = n_panels - p
                at = (c, c_panel, start, start_row, start_panel, right, b_panel, a, a_panel)
                how = (depth, epilogue, operand, n, wanted)
                step = next_panels(left)
                if n == 1 and left >= 4:
                    one_4(*at, *how)
                    step = 4
                elif n == 1 and left >= 2:
                    one_2(*at, *how)
                    step = 2
                elif n == 1:
                    one_1(*at, *how)
                    step = 1
                elif step == 1 and narrow:
                    narrow_1(*at, *how)
                elif step == 1:
                    eight_1(*at, *how)
                elif narrow and left == 2 and n > few:
                    narrow_2(*at, *how)
                elif step == 2 and (two_are_less or n <= few):
                    four_2(*at, *how)
                else:
                    largest(*at, *how)
                p += step
                right += step * b_panel
                c += step * c_panel
                operand += step * c_panel
                start += step * start_panel
            # Back to the first panel, and down by the rows that are done.
            done += n
            c += n * vector - n_panels * c_panel
            operand += n * vector - n_panels * c_panel
            start += n * start_row - n_panels * start_panel
            if by_column:
                a += done // lanes * a_panel + done % lanes * size
            else:
                a += n * vector

    return multiply
