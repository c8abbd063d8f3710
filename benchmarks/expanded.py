"""A step on expanded rows and on dense ones, one thread: `python -m benchmarks.expanded`."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.race import calls_in_turns
from benchmarks.scores import geometric
from fastmlp import MLP, AdamW
from fastmlp.tabular import Expanded

N_ROWS, EPOCHS, ROUNDS = 8192, 2, 5
BATCH_SIZES = (32, 64, 256)
# Plain numbers, columns of 16 pieces, levels of each category; hidden layers, outputs.
TABLES: list[tuple[int, int, list[int], tuple[int, ...], int]] = [
    (20, 20, [], (128, 128), 1),
    (20, 20, [], (64, 64), 1),
    (12, 12, [], (96, 96), 3),
    (5, 5, [10] * 45, (128, 128), 1),
    (0, 0, [12] * 50, (64, 64), 1),
]


def rows_of(plain: int, n_pieces: int, levels: list[int]) -> Expanded:
    rng = np.random.default_rng(0)
    parts: list[Any] = [rng.normal(size=(N_ROWS, plain)), rng.uniform(0, 16, (N_ROWS, n_pieces))]
    parts += [rng.integers(n, size=(N_ROWS, 1)) for n in levels]
    values = np.hstack(parts).astype(np.float32)
    return Expanded(values, plain=plain, pieces=[16] * n_pieces, levels=levels)


def main() -> None:
    """Print the microseconds of a step in both forms, taken in turns, and their ratio."""
    ratios = []
    for plain, n_pieces, levels, hidden, n_outputs in TABLES:
        rows = rows_of(plain, n_pieces, levels)
        y = np.random.default_rng(1).normal(size=(N_ROWS, n_outputs)).astype(np.float32)
        sizes = (rows.shape[1], *hidden, n_outputs)
        for batch_size in BATCH_SIZES:
            fits, forms = {}, dict[str, Any](dense=rows.toarray(), expanded=rows)
            for form, x in forms.items():
                net = MLP(sizes, optimizer=AdamW(1e-4), seed=0, n_threads=1)
                fits[form] = partial(net.fit, x, y, epochs=EPOCHS, batch_size=batch_size)
            times = calls_in_turns(fits, ROUNDS)
            n_steps = EPOCHS * -(-N_ROWS // batch_size)
            dense, expanded = (1e6 * min(seconds) / n_steps for seconds in times.values())
            ratios.append(dense / expanded)
            name = f"{'-'.join(map(str, sizes))}@{batch_size}"
            print(f"{name:20} {dense:7.1f} -> {expanded:6.1f} us, {ratios[-1]:.2f}", flush=True)
    print(f"geometric mean {geometric(ratios):.2f}")


if __name__ == "__main__":
    main()
