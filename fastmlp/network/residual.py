"""Norms, residual blocks and skips as users write them,
and the linear layers that these are.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Literal, NamedTuple, get_args

from fastmlp.network.spec import OWNER, Layout, Network, Written, make_layout
from fastmlp.rules.activations import ActivationRule, identity
from fastmlp.rules.dropout import Dropout, Rate
from fastmlp.validation import scalars
from fastmlp.validation.calls import settings
from fastmlp.validation.messages import count

NormName = Literal["layer", "rms"]
NORMS = get_args(NormName)
OF_ROWS = (
    "batches are not normalised, as rows must not depend on each other: use 'layer'"
)
NORM_SYNONYMS = {
    "layer": "layernorm layernormalization ln",
    "rms": "rmsnorm rmsnormalization",
    OF_ROWS: "batch batchnorm batchnorm1d batchnormalization bn",
}
OF_BLOCKS = "a skip past two layers is a block: MLP((3, Residual(64), 1))"
SKIP_SYNONYMS = {
    "input": "inputs x True wide",
    OF_BLOCKS: "residual block all dense resnet",
}
NORM_EPSILON = 1e-5
SkipName = Literal["input"]
SKIPS = get_args(SkipName)


@settings
class Residual:
    """A residual block: ``h + W2 activation(W1 norm(h) + b1) + b2``.

    It stands for two linear layers. Without `norm` in `MLP` it has no norm; with one, a
    further norm follows the last of several blocks. A block that follows the inputs, or
    a layer of another width, gets a linear layer of its width before it, without
    activation.

    Parameters
    ----------
    width : int of 1 or more
        Units of the block's inputs and outputs.
    inner : int of 1 or more, optional
        Units between its two linear layers. None: four times the width.

    Raises
    ------
    TypeError, ValueError
        If a number is not an integer of 1 or more.

    Examples
    --------
    >>> from fastmlp import MLP, Residual
    >>> net = MLP((23, Residual(64), Residual(64), 1), norm="layer")
    >>> [weights.shape for weights in net.weights]
    [(23, 64), (64, 256), (256, 64), (64, 256), (256, 64), (64, 1)]
    """

    width: int
    inner: int | None = None

    def __post_init__(self) -> None:
        width = scalars.positive_integer("Residual", "width", self.width)
        inner = 4 * width if self.inner is None else self.inner
        object.__setattr__(self, "width", width)
        inner = scalars.positive_integer("Residual", "inner", inner)
        object.__setattr__(self, "inner", inner)


Sizes = tuple[int | Residual, ...]


def written_sizes(sizes: object) -> Sizes:
    """Two or more integers of 1 or more, inputs first; residual blocks between them."""
    if isinstance(sizes, str | bytes | Set | Mapping) or not isinstance(
        sizes, Iterable
    ):
        raise TypeError(
            f"{OWNER}: layer_sizes must be a sequence of integers, inputs first, got "
            f"{sizes!r}; such as (3, 16, 1)"
        )
    numbers = tuple(sizes)
    if len(numbers) < 2:
        raise ValueError(
            f"{OWNER}: layer_sizes needs at least the inputs and the outputs, got "
            f"{numbers!r}"
        )
    for place, end in ((0, "inputs"), (len(numbers) - 1, "outputs")):
        if isinstance(numbers[place], Residual):
            raise ValueError(
                f"{OWNER}: layer_sizes[{place}] must be the number of {end}, got "
                f"{numbers[place]!r}; a residual block stands between layers"
            )
    return tuple(
        size
        if isinstance(size, Residual)
        else scalars.positive_integer(OWNER, f"layer_sizes[{i}]", size)
        for i, size in enumerate(numbers)
    )


def norms_of(setting: Any, n_hidden: int) -> tuple[NormName | None, ...]:
    """The norm of each written hidden layer or block."""
    if setting is None or isinstance(setting, str):
        norm = _norm("norm", setting)
        if norm is not None and not n_hidden:
            raise ValueError(
                f"{OWNER}: norm={norm!r} is of hidden layers, but layer_sizes has none"
            )
        return (norm,) * n_hidden
    if not isinstance(setting, Sequence):
        raise TypeError(
            f"{OWNER}: norm must be 'layer', 'rms' or None, or one of them for each "
            f"hidden layer, got {setting!r}"
        )
    if len(setting) != n_hidden:
        raise ValueError(
            f"{OWNER}: norm names {count(len(setting), 'layer')}, but layer_sizes has "
            f"{n_hidden} hidden"
        )
    return tuple(_norm(f"norm[{i}]", norm) for i, norm in enumerate(setting))


def skip_of(setting: Any, n_hidden: int) -> SkipName | None:
    if setting is None:
        return None
    scalars.known(OWNER, "skip", setting, SKIPS, SKIP_SYNONYMS)
    if not n_hidden:
        raise ValueError(
            f"{OWNER}: skip={setting!r} needs a hidden layer to skip, but layer_sizes "
            f"has none"
        )
    known: SkipName = setting
    return known


def _norm(name: str, norm: Any) -> NormName | None:
    if norm is not None:
        scalars.known(OWNER, name, norm, NORMS, NORM_SYNONYMS)
    known: NormName | None = norm
    return known


class _Layers:
    """The linear layers so far: sizes, activations, norms and skips."""

    def __init__(self, n_inputs: int) -> None:
        self.sizes, self.rules = [n_inputs], list[ActivationRule]()
        self.norms, self.skips = list[tuple[str, int, bool]](), list[int]()
        self.of_entries = list[int]()

    @property
    def last(self) -> int:
        return len(self.skips) - 1

    def add(self, size: int, rule: ActivationRule, skip: int = -1) -> None:
        self.sizes.append(size)
        self.rules.append(rule)
        self.skips.append(skip)

    def normalise(self, norm: str | None, *, after: bool) -> None:
        if norm is not None:
            self.norms.append((norm, self.last, after))

    def add_block(
        self, block: Residual, rule: ActivationRule, norm: str | None
    ) -> None:
        if not self.skips or self.sizes[-1] != block.width:
            self.add(block.width, identity)
        source = self.last
        self.normalise(norm, after=True)
        assert block.inner is not None
        self.add(block.inner, rule)
        self.of_entries.append(self.last)
        self.add(block.width, identity, source)


class Structure(NamedTuple):
    """The linear layers of a written net.

    Attributes
    ----------
    hidden : the activations of the hidden ones
    written : None for a net without norms, residual blocks and a skip
    """

    layout: Layout
    hidden: tuple[ActivationRule, ...]
    written: Written | None


def structure_of(
    sizes: Sizes,
    rules: Sequence[ActivationRule],
    norms: Sequence[NormName | None],
    epsilon: float = NORM_EPSILON,
    skip: SkipName | None = None,
) -> Structure:
    """`rules` and `norms` have one entry for each written hidden layer or block."""
    layers = None
    n_inputs = sizes[0]
    assert isinstance(n_inputs, int)
    layers = _Layers(n_inputs)
    for i, (size, rule, norm) in enumerate(zip(sizes[1:-1], rules, norms, strict=True)):
        if not isinstance(size, Residual):
            layers.add(size, rule)
            layers.of_entries.append(layers.last)
            layers.normalise(norm, after=False)
            continue
        layers.add_block(size, rule, norm)
        after = sizes[i + 2]
        if not isinstance(after, Residual) or after.width != size.width:
            layers.normalise(norm, after=True)
    n_outputs = sizes[-1]
    assert isinstance(n_outputs, int)
    layers.sizes.append(n_outputs)
    layers.skips.append(-1)
    hidden = tuple(layers.rules)
    linear = tuple(layers.sizes)
    if not layers.norms and max(layers.skips) < 0 and skip is None:
        return Structure(make_layout(linear), hidden, None)
    written = Written(sizes, tuple(norms), epsilon, tuple(layers.of_entries), skip)
    if max(layers.skips) >= 0:
        skips = tuple(layers.skips)
    else:
        skips = ()
    structure = (linear, layers.norms, skips, epsilon)
    layout = make_layout(*structure, takes_inputs=skip is not None)
    return Structure(layout, hidden, written)


def of_linear(network: Network, rates: Sequence[Rate]) -> tuple[Rate, ...]:
    """Rates of dropout for each hidden linear layer,
    from one for each written entry.
    """
    if network.written is None:
        return tuple(rates)
    every: list[Rate] = [0.0] * (network.layout.n_layers - 1)
    for place, rate in zip(network.written.layers, rates, strict=True):
        every[place] = rate
    return tuple(every)


def of_entries(network: Network, hidden: Sequence[Any]) -> list[Any]:
    """The items of the hidden linear layers that were written, one for each entry."""
    if network.written is None:
        return list(hidden)
    return [hidden[place] for place in network.written.layers]


def written_dropout(network: Network) -> Dropout | None:
    """Dropout with one rate for each written hidden entry."""
    dropout = network.dropout
    if dropout is None:
        return None
    return dropout._replace(hidden=tuple(of_entries(network, dropout.hidden)))


def require_plain(network: Network, who: str, instead: str) -> None:
    """Refuse norms, residual blocks and skips; `instead` says what to use."""
    if not network.layout.is_plain:
        raise ValueError(
            f"{who} needs a net without norms, residual blocks and skip: {instead}"
        )
