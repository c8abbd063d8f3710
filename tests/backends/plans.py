"""Plans for the tests of tables: any layout, as hypothesis draws it, for any vector width."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from fastmlp.backends.cpu.plan.packing import CLOSE, Spacing, holds_transposed
from fastmlp.backends.cpu.plan.partition import Partition
from fastmlp.backends.cpu.plan.plan import Addresses, Plan, make_plan
from fastmlp.backends.cpu.plan.workspace import Workspace, make_workspace
from fastmlp.network.spec import Layout, make_layout

# Layers of few outputs, which may be transposed, as often as others.
layouts = st.lists(st.integers(1, 300) | st.integers(1, 6), min_size=2, max_size=5).map(
    lambda sizes: make_layout(tuple(sizes))
)
widths = st.sampled_from([2, 4, 8, 16])
for_every_layout = settings(derandomize=True, deadline=None, max_examples=50)
split_layers = st.integers(0, 2)
spacings = st.sampled_from([CLOSE, Spacing(8, 0), Spacing(16, 1), Spacing(16, 2)])
SIZE = 8  # bytes of a number


def plan_of(
    layout: Layout,
    lanes: int,
    rows: int = 5,
    *,
    train: bool = True,
    n_threads: int = 1,
    split_layer: int = 0,
    by_panels: bool = False,
    spacing: Spacing = CLOSE,
) -> tuple[Plan, Workspace]:
    buffers = make_workspace(layout, rows, 1, np.float64, lanes, train=train, spacing=spacing)
    forms = [i % 3 for i in range(layout.n_layers)]
    blocks = Addresses(range(layout.n_layers), forms, penalties=(7, 8))
    split_layer = min(split_layer, layout.n_layers)
    n_in, n_out = layout.sizes[max(split_layer, 1) - 1 :][:2]
    if split_layer and holds_transposed(n_in, n_out, lanes):
        split_layer = 0
    partition = Partition(rows, 0, n_threads, by_panels, split_layer)
    return make_plan(layout, buffers, blocks, (0.1, 0.2), 1, partition), buffers
