"""Where training holds each layer's parameters, in rows of `lanes` numbers.

The packed parameters hold, layer after layer, the panels of W with the biases as one row more: a
panel has n_in + 1 rows. Training turns a layer of few outputs, whose panels would be padding: it
holds the panels of W transposed, n_out rows each, and the biases after them.
"""

from itertools import pairwise
from typing import NamedTuple

from fastmlp.backends.cpu.tuning import FEW_OUTPUTS, FEW_OUTPUTS_EIGHTHS
from fastmlp.network.parameter_layout import Layout


class Spacing(NamedTuple):
    """Room between what different threads write.

    Attributes
    ----------
    rows : int
        Empty rows after each panel.
    split_layer : int
        The layer, counted from 1, that has as many more in front of the second half of its inputs;
        0: none.
    """

    rows: int = 0
    split_layer: int = 0


# Where one thread writes all.
CLOSE = Spacing()


class Packed(NamedTuple):
    """One layer's parameters, in rows of `lanes` numbers.

    Attributes
    ----------
    turned : bool, whether they are the panels of W transposed
    rows, panels : int, of the matrix that is held
    panel : int, rows from one panel to the next
    biases : int, the row where the biases begin
    middle, gap : int, rows of a panel from `middle` on lie `gap` further down
    size : int, rows in all
    copy_panel, copy_size : int, rows of a panel of the other form, in whole squares, and in all; 0
        where there is none
    """

    turned: bool
    rows: int
    panels: int
    panel: int
    biases: int
    middle: int
    gap: int
    size: int
    copy_panel: int
    copy_size: int

    def place(self, panel: int, row: int) -> int:
        """Return where a row of a panel lies."""
        return panel * self.panel + row + (self.gap if row >= self.middle else 0)


def round_up(n: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is at least n."""
    return -(-n // unit) * unit


def few_outputs(lanes: int) -> int:
    """Return up to how many outputs are few: so many that they leave most of a vector empty."""
    return min(lanes, max(FEW_OUTPUTS, FEW_OUTPUTS_EIGHTHS * lanes // 8))


def is_turned(n_in: int, n_out: int, lanes: int) -> bool:
    """Return True if training holds a layer's weights transposed."""
    return n_out <= few_outputs(lanes) and n_in > n_out


def has_copy(i: int, n_layers: int, rows: int, *, turned: bool) -> bool:
    """Return True if training on chunks of so many rows holds the weights of layer i in both forms.

    A first layer has no deltas below it; a last one that is turned goes forward in its own form;
    and one row's deltas go back in it: copies take a quarter of a step (32-64-32-1@1).
    """
    return i < n_layers - 1 if turned else i > 0 and rows > 1


def middle_of(n_in: int, lanes: int) -> int:
    """Return where the second half of a layer's inputs begins: in front of a whole panel."""
    return -(-n_in // lanes) // 2 * lanes


def packed_layers(
    layout: Layout,
    lanes: int,
    rows: int,
    *,
    train: bool,
    sparse: bool = False,
    spacing: Spacing = CLOSE,
) -> tuple[Packed, ...]:
    """Return where each layer's parameters lie, for chunks of so many rows.

    Where rows' features are `sparse`, the first layer is not turned; and where nothing trains it,
    its weights are read where they are, and only its biases are held.
    """
    layers = []
    for i, (n_in, n_out) in enumerate(pairwise(layout.sizes)):
        first_sparse = sparse and i == 0
        turned = train and is_turned(n_in, n_out, lanes) and not first_sparse
        copied = train and has_copy(i, layout.n_layers, rows, turned=turned)
        n_held = 0 if first_sparse and not train else n_in
        gap = spacing.rows if i + 1 == spacing.split_layer else 0
        shape = (n_held, n_out, lanes, spacing.rows, gap)
        layers.append(_packed(*shape, turned=turned, copied=copied))
    return tuple(layers)


def _packed(
    n_in: int, n_out: int, lanes: int, apart: int, gap: int, *, turned: bool, copied: bool
) -> Packed:
    in_panels, out_panels = round_up(n_in, lanes) // lanes, round_up(n_out, lanes) // lanes
    if turned:
        # No room inside it: its few weights are read by everybody.
        rows, panels, panel, other_panels = n_out, in_panels, n_out, out_panels
        biases = panels * panel
        size = biases + 1 + apart
    else:
        rows, panels, other_panels = n_in, out_panels, in_panels
        biases = n_in + gap
        panel = biases + 1 + apart
        size = panels * panel
    copy_panel = panels * lanes + (0 if turned else apart) if copied else 0
    middle = middle_of(n_in, lanes) if gap else 0
    copy_size = other_panels * copy_panel
    return Packed(turned, rows, panels, panel, biases, middle, gap, size, copy_panel, copy_size)


def numbers_packed(layers: tuple[Packed, ...], lanes: int) -> int:
    """Return how many numbers all packed parameters have, and the room after them that a
    transposition of the last block may read."""
    return sum(layer.size for layer in layers) * lanes + lanes * lanes
