"""The one matrix product: C[r, :] += sum over k of A[r, k] B[k, :].

Every element of C is one chain of fused multiply-adds in the order of k, however the loops are
cut, so its bits depend on the data alone. Forward (A = inputs, B = W), delta (A = errors, B = W
transposed) and gradient (A = inputs by column, B = errors) are all of this form.

A[r, k] lies at ``rows[r] * row_stride + columns[k] * column_stride`` of A's memory: the index
arrays gather shuffled rows without a copy.
"""

from typing import Any

import numpy as np

from fastmlp._compile import fma, leaf, row

FAR = 1 << 40


@leaf
def _four_by_four(c: Any, b: Any, width: Any, s: Any, like: Any) -> None:
    """Rows c to c+3 of C, rows b to b+3 of B, sixteen numbers of A."""
    stride = width * like.itemsize
    c0, c1 = row(c, width, like.dtype), row(c + stride, width, like.dtype)
    c2, c3 = row(c + 2 * stride, width, like.dtype), row(c + 3 * stride, width, like.dtype)
    b0, b1 = row(b, width, like.dtype), row(b + stride, width, like.dtype)
    b2, b3 = row(b + 2 * stride, width, like.dtype), row(b + 3 * stride, width, like.dtype)
    for j in range(width):
        c0[j] = fma(s[3], b3[j], fma(s[2], b2[j], fma(s[1], b1[j], fma(s[0], b0[j], c0[j]))))
        c1[j] = fma(s[7], b3[j], fma(s[6], b2[j], fma(s[5], b1[j], fma(s[4], b0[j], c1[j]))))
        c2[j] = fma(s[11], b3[j], fma(s[10], b2[j], fma(s[9], b1[j], fma(s[8], b0[j], c2[j]))))
        c3[j] = fma(s[15], b3[j], fma(s[14], b2[j], fma(s[13], b1[j], fma(s[12], b0[j], c3[j]))))


@leaf
def _one_by_four(c: Any, b: Any, width: Any, s: Any, like: Any) -> None:
    stride = width * like.itemsize
    c0 = row(c, width, like.dtype)
    b0, b1 = row(b, width, like.dtype), row(b + stride, width, like.dtype)
    b2, b3 = row(b + 2 * stride, width, like.dtype), row(b + 3 * stride, width, like.dtype)
    for j in range(width):
        c0[j] = fma(s[3], b3[j], fma(s[2], b2[j], fma(s[1], b1[j], fma(s[0], b0[j], c0[j]))))


@leaf
def _one_by_one(c: Any, b: Any, width: Any, s: Any, like: Any) -> None:
    c0, b0 = row(c, width, like.dtype), row(b, width, like.dtype)
    for j in range(width):
        c0[j] = fma(s, b0[j], c0[j])


def product(scalar: type[np.floating[Any]]) -> Any:
    """Make the block that adds A B to rows first to last of C.

    `c` and `b` are the addresses of whole matrices with rows of `width` numbers, `a` that of A's
    memory, `rows` and `columns` those of its index arrays, `depth` the length of the sums.
    """

    def add_product(
        c: Any,
        b: Any,
        width: Any,
        a: Any,
        rows: Any,
        row_stride: Any,
        columns: Any,
        column_stride: Any,
        first: Any,
        last: Any,
        depth: Any,
    ) -> None:
        a = row(a, FAR, scalar)
        rows, columns = row(rows, last, np.int64), row(columns, depth, np.int64)
        stride = width * a.itemsize
        whole = depth - depth % 4
        fours = last - (last - first) % 4
        for r in range(first, fours, 4):
            r0, r1 = rows[r] * row_stride, rows[r + 1] * row_stride
            r2, r3 = rows[r + 2] * row_stride, rows[r + 3] * row_stride
            for k in range(0, whole, 4):
                k0, k1 = columns[k] * column_stride, columns[k + 1] * column_stride
                k2, k3 = columns[k + 2] * column_stride, columns[k + 3] * column_stride
                s = (
                    a[r0 + k0], a[r0 + k1], a[r0 + k2], a[r0 + k3],
                    a[r1 + k0], a[r1 + k1], a[r1 + k2], a[r1 + k3],
                    a[r2 + k0], a[r2 + k1], a[r2 + k2], a[r2 + k3],
                    a[r3 + k0], a[r3 + k1], a[r3 + k2], a[r3 + k3],
                )  # fmt: skip
                _four_by_four(c + r * stride, b + k * stride, width, s, a)
            for q in range(4):
                for k in range(whole, depth):
                    number = a[rows[r + q] * row_stride + columns[k] * column_stride]
                    _one_by_one(c + (r + q) * stride, b + k * stride, width, number, a)
        for r in range(fours, last):
            r0 = rows[r] * row_stride
            for k in range(0, whole, 4):
                k0, k1 = columns[k] * column_stride, columns[k + 1] * column_stride
                k2, k3 = columns[k + 2] * column_stride, columns[k + 3] * column_stride
                four = (a[r0 + k0], a[r0 + k1], a[r0 + k2], a[r0 + k3])
                _one_by_four(c + r * stride, b + k * stride, width, four, a)
            for k in range(whole, depth):
                number = a[r0 + columns[k] * column_stride]
                _one_by_one(c + r * stride, b + k * stride, width, number, a)

    return add_product
