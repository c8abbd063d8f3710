"""How many rows kernels take at once."""

# Rows come in strips: what a large tile of a product takes, and the unit of a loss's sum.
STRIP_ROWS = 8
# Most rows of one call of a product: sums that are cut wait on the stack. With 64, B came from the
# third-level cache twice as often: 122 -> 100 ms (1024-2048-2048-1000, forward and backward).
ROW_BLOCK = 128
