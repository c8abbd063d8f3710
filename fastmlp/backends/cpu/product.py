"""The one matrix product, C = start + A B of panels: which tiles to sweep it with.

Forward (A = inputs, B = W), delta (A = errors, B = W transposed) and gradient (A = inputs by
column, B = errors) are all of this form.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.microkernel import Tile, lanes_of, sweep, vector_bytes

# Rows of the tall tile: 8 with 32 vector registers, 4 with 16.
STRIP = 8 if vector_bytes() == 64 else 4
LOW = STRIP // 2


def product(scalar: type[np.floating[Any]], by_column: bool) -> Any:
    """Make the block that computes C = start + A B for up to `ROW_BLOCK` rows, any width.

    Its arguments are those of a sweep, with the number of panels before that of rows. C, and the
    operand, must have room for the rows rounded up to `STRIP`. More shapes of tiles than these
    five compiled twice as long: a third panel at a time gained 5 % on nets of three panels.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size

    def tiles(rows: int, vectors: int) -> Any:
        return sweep(Tile(scalar, lanes, rows, vectors, by_column))

    strip, low = STRIP, LOW
    tall_2, tall_1, low_2 = tiles(strip, 2), tiles(strip, 1), tiles(low, 2)
    one_4, one_1 = tiles(1, 4), tiles(1, 1)

    def multiply(
        c: Any, c_panel: Any, start: Any, start_row: Any, start_panel: Any,
        b: Any, b_panel: Any, a: Any, a_panel: Any, depth: Any, epilogue: Any, operand: Any,
        n_panels: Any, n_rows: Any,
    ) -> None:  # fmt: skip
        # First the rows that fill tall tiles, then the few that are left.
        done, rest = 0, n_rows % strip
        while done < n_rows:
            n = n_rows - rest if done < n_rows - rest else rest
            right, p = b, 0
            while p < n_panels:
                left = n_panels - p
                at = (c, c_panel, start, start_row, start_panel, right, b_panel, a, a_panel)
                how = (depth, epilogue, operand, n)
                if n == 1 and left >= 4:
                    one_4(*at, *how)
                    step = 4
                elif n == 1:
                    one_1(*at, *how)
                    step = 1
                elif left == 1:
                    tall_1(*at, *how)
                    step = 1
                elif n <= low:
                    low_2(*at, *how)
                    step = 2
                else:
                    tall_2(*at, *how)
                    step = 2
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
