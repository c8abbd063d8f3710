"""The one matrix product, C = start + A B of panels: which tiles to sweep it with.

Forward (A = inputs, B = W), delta (A = errors, B = W transposed) and gradient (A = inputs by
column, B = errors) are all of this form.
"""

from typing import Any

import numpy as np

from fastmlp.backends.cpu.microkernel import Tile, lanes_of, sweep, vector_bytes

# Rows of the tall tile: 8 with 32 vector registers, 4 with 16.
STRIP = 8 if vector_bytes() == 64 else 4
LOW = 4 if STRIP == 8 else 1


def product(scalar: type[np.floating[Any]], by_column: bool) -> Any:
    """Make the block that computes C = start + A B for up to `ROW_BLOCK` rows, any width.

    Its arguments are those of a sweep, with the number of panels before that of rows. C, and the
    operand, must have room for the rows rounded up to `STRIP`.
    """
    lanes = lanes_of(scalar)
    size = np.dtype(scalar).itemsize
    vector = lanes * size

    def tiles(rows: int, vectors: int) -> Any:
        return sweep(Tile(scalar, lanes, rows, vectors, by_column))

    strip, low, threshold = STRIP, LOW, LOW
    tall_1, tall_2, tall_3 = tiles(strip, 1), tiles(strip, 2), tiles(strip, 3)
    low_1, low_4 = tiles(low, 1), tiles(low, 4)
    one_1, one_4 = tiles(1, 1), tiles(1, 4)

    def multiply(
        c: Any, c_panel: Any, start: Any, start_row: Any, start_panel: Any,
        b: Any, b_panel: Any, a: Any, a_panel: Any, depth: Any, epilogue: Any, operand: Any,
        n_panels: Any, n_rows: Any,
    ) -> None:  # fmt: skip
        # Rows that tall tiles take: all, but for a few last ones.
        tall = n_rows - n_rows % strip if n_rows % strip <= threshold else n_rows
        p = 0
        while p < n_panels and tall > 0:
            left = n_panels - p
            to, first, right = c + p * c_panel, start + p * start_panel, b + p * b_panel
            other = operand + p * c_panel
            if left == 2 or left > 3:
                tall_2(to, c_panel, first, start_row, start_panel, right, b_panel,
                       a, a_panel, depth, epilogue, other, tall)  # fmt: skip
                p += 2
            elif left == 3:
                tall_3(to, c_panel, first, start_row, start_panel, right, b_panel,
                       a, a_panel, depth, epilogue, other, tall)  # fmt: skip
                p += 3
            else:
                tall_1(to, c_panel, first, start_row, start_panel, right, b_panel,
                       a, a_panel, depth, epilogue, other, tall)  # fmt: skip
                p += 1
        rest = n_rows - tall
        if rest <= 0:
            return
        c, operand, start = c + tall * vector, operand + tall * vector, start + tall * start_row
        if by_column:
            a += tall // lanes * a_panel + tall % lanes * size
        else:
            a += tall * vector
        p = 0
        while p < n_panels:
            to, first, right = c + p * c_panel, start + p * start_panel, b + p * b_panel
            other = operand + p * c_panel
            four = n_panels - p >= 4
            if four and rest == 1:
                one_4(to, c_panel, first, start_row, start_panel, right, b_panel,
                      a, a_panel, depth, epilogue, other, rest)  # fmt: skip
            elif rest == 1:
                one_1(to, c_panel, first, start_row, start_panel, right, b_panel,
                      a, a_panel, depth, epilogue, other, rest)  # fmt: skip
            elif four:
                low_4(to, c_panel, first, start_row, start_panel, right, b_panel,
                      a, a_panel, depth, epilogue, other, rest)  # fmt: skip
            else:
                low_1(to, c_panel, first, start_row, start_panel, right, b_panel,
                      a, a_panel, depth, epilogue, other, rest)  # fmt: skip
            p += 4 if four else 1

    return multiply
