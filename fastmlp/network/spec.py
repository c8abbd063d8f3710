"""The spec of a net: sizes, layout of the parameters, precision, rules and dtype."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple, NoReturn, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from fastmlp.rules.activations import ActivationName, ActivationRule, identity
from fastmlp.rules.dropout import Dropout, Rate
from fastmlp.rules.initializers import Initializer, InitializerName
from fastmlp.rules.losses import (
    LINKS,
    Head,
    Link,
    LinkName,
    Loss,
    LossName,
    LossSettings,
    are_weighted,
    range_of,
    takes_whole_rows,
)
from fastmlp.rules.optimizer_protocol import Optimizer
from fastmlp.rules.optimizers import OptimizerName
from fastmlp.rules.updates import Factors, PenaltyName, PenaltyRule
from fastmlp.validation import scalars
from fastmlp.validation.gaps import Form
from fastmlp.validation.heads import HeadForms
from fastmlp.validation.messages import suggestion

# Raises the errors of arguments.
OWNER = "MLP"
Vector = NDArray[Any]


class NormOfLayer(NamedTuple):
    """A norm of a layer's units, of each row by itself.

    Attributes
    ----------
    kind : "layer" or "rms", which has no mean and no shifts
    layer : from 0
    after : False: of the layer's sums; True: of the values after its activation
    gains, shifts : offsets into the flat vector of parameters; no shifts: -1
    """

    kind: str
    layer: int
    after: bool
    epsilon: float
    gains: int
    shifts: int


class Written(NamedTuple):
    """A net with norms, residual blocks or a skip as it was written.

    Attributes
    ----------
    sizes : integers and residual blocks, inputs first
    norms : a kind or None for each hidden entry of `sizes`
    layers : for each of them the linear layer that has its activation and its dropout
    skip : "input" if the output layer takes the inputs too, or None
    """

    sizes: tuple[Any, ...]
    norms: tuple[str | None, ...]
    epsilon: float
    layers: tuple[int, ...]
    skip: str | None = None


class Layout(NamedTuple):
    """Sizes of the layers and offsets into the flat vector of parameters.

    The weights of layer i begin at ``weights[i]``, a C-contiguous (n_in, n_out) matrix;
    its biases begin at ``biases[i]``, shape (n_out,). The gains of all norms follow,
    then the shifts.

    Attributes
    ----------
    norms : in the order of the layers; of a layer's two, that of its sums first
    skips : for each layer the layer whose values its sums are added to, or -1; empty: all are -1
    takes_inputs : True: the output layer takes the last hidden layer's outputs, then the inputs
    """

    sizes: tuple[int, ...]
    weights: tuple[int, ...]
    biases: tuple[int, ...]
    n_weights: int
    n_parameters: int
    norms: tuple[NormOfLayer, ...] = ()
    skips: tuple[int, ...] = ()
    takes_inputs: bool = False

    @property
    def n_layers(self) -> int:
        return len(self.sizes) - 1

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each layer."""
        return _shapes(self.sizes, self.takes_inputs)

    @property
    def widest(self) -> int:
        """The most numbers that a layer reads or writes."""
        return max(*self.sizes, self.shapes[-1][0])

    @property
    def is_plain(self) -> bool:
        """True without norms and skips."""
        return not self.norms and not self.skips and not self.takes_inputs

    def norms_of(self, layer: int) -> tuple[NormOfLayer, ...]:
        return tuple(norm for norm in self.norms if norm.layer == layer)


class Views(list[Vector]):
    """A list of views of a flat vector. Setting an item writes to the vector.

    Parameters
    ----------
    name : the list's name in messages
    """

    def __init__(self, views: Iterable[Vector], name: str = "views") -> None:
        super().__init__(views)
        self._name = name

    def __call__(self) -> NoReturn:
        raise TypeError(
            f"{self._name} is a list of arrays, not a method: leave the () out"
        )

    def __setitem__(self, place: Any, numbers: Any) -> None:
        views = self[place]
        several = isinstance(place, slice)
        pairs = zip(views, numbers, strict=True) if several else [(views, numbers)]
        for view, row in pairs:
            try:
                view[...] = row
            except ValueError as error:
                shape = f"{self._name}[{place!r}] has the shape {view.shape}"
                raise ValueError(
                    f"{shape}, got numbers of shape {np.shape(row)}: {error}"
                ) from None

    def __reduce__(self) -> Any:
        """A copy, or a pickle, is a plain list:
        its arrays are not views of the net's vector.
        """
        return list, (list(self),)


def _shapes(sizes: Sequence[int], takes_inputs: bool) -> list[tuple[int, int]]:
    shapes = list(pairwise(sizes))
    if takes_inputs:
        n_in, n_out = shapes[-1]
        shapes[-1] = (n_in + sizes[0], n_out)
    return shapes


def make_layout(
    sizes: tuple[int, ...],
    norms: Sequence[tuple[str, int, bool]] = (),
    skips: tuple[int, ...] = (),
    epsilon: float = 0.0,
    *,
    takes_inputs: bool = False,
) -> Layout:
    """`norms` are triples: kind, layer, and True for a norm after the activation."""
    shapes = _shapes(sizes, takes_inputs)
    offsets = [0]
    for n_in, n_out in shapes:
        offsets.append(offsets[-1] + n_in * n_out)
    for _, n_out in shapes:
        offsets.append(offsets[-1] + n_out)
    n = len(shapes)
    end = offsets[-1]
    gains, shifts = list[int](), list[int]()
    for _, layer, _ in norms:
        gains.append(end)
        end += sizes[layer + 1]
    for kind, layer, _ in norms:
        shifts.append(end if kind == "layer" else -1)
        end += sizes[layer + 1] if kind == "layer" else 0
    made = [
        NormOfLayer(*norm, epsilon, *places)
        for norm, *places in zip(norms, gains, shifts, strict=True)
    ]
    of_layers = (tuple(offsets[:n]), tuple(offsets[n:-1]))
    return Layout(sizes, *of_layers, offsets[n], end, tuple(made), skips, takes_inputs)


def skip_weights(layout: Layout) -> int:
    """The offset of the output layer's weights of the inputs in the flat parameters."""
    return layout.weights[-1] + layout.sizes[-2] * layout.sizes[-1]


def spread(layout: Layout, weights: Sequence[float], biases: Sequence[float]) -> Vector:
    """One number a layer for its weights, and one for its biases,
    gains and shifts, as numbers of parameters.
    """
    sizes = [n_in * n_out for n_in, n_out in layout.shapes]
    centred = [norm for norm in layout.norms if norm.shifts >= 0]
    layers = [norm.layer for norm in (*layout.norms, *centred)]
    numbers = [*weights, *biases, *(biases[layer] for layer in layers)]
    widths = [*layout.sizes[1:], *(layout.sizes[layer + 1] for layer in layers)]
    return np.repeat(numbers, [*sizes, *widths])


def weight_views(layout: Layout, flat: Vector) -> list[Vector]:
    """Views of `flat`, shape (n_in, n_out) each."""
    return [
        flat[start : start + n_in * n_out].reshape(n_in, n_out)
        for start, (n_in, n_out) in zip(layout.weights, layout.shapes, strict=True)
    ]


def bias_views(layout: Layout, flat: Vector) -> list[Vector]:
    """Views of `flat`, shape (n_out,) each."""
    return [
        flat[start : start + n_out]
        for start, n_out in zip(layout.biases, layout.sizes[1:], strict=True)
    ]


def gain_views(layout: Layout, flat: Vector) -> list[Vector]:
    """Views of `flat`, shape (n_units,), one for each norm."""
    sizes = [layout.sizes[norm.layer + 1] for norm in layout.norms]
    return [
        flat[norm.gains : norm.gains + n]
        for norm, n in zip(layout.norms, sizes, strict=True)
    ]


def shift_views(layout: Layout, flat: Vector) -> list[Vector]:
    """Views of `flat`, shape (n_units,), one for each norm that has shifts."""
    centred = [norm for norm in layout.norms if norm.shifts >= 0]
    return [
        flat[norm.shifts : norm.shifts + layout.sizes[norm.layer + 1]]
        for norm in centred
    ]


ComputeDType = Literal["bfloat16"]
LayerDType = Literal["bfloat16", "float32"]
OF_LAYER = {
    "bfloat16": "bf16 mixed_bfloat16 mixed float16 fp16 half",
    "float32": "None fp32 f4",
}
ComputeDTypes = ComputeDType | Sequence[LayerDType]
Computed = ComputeDType | tuple[LayerDType, ...] | None
COMPUTE_DTYPES = get_args(ComputeDType)
DTYPE_SYNONYMS = {
    "bfloat16": OF_LAYER["bfloat16"],
    "None means that": "float32 float64 None",
}
# Fewest inputs and outputs of a layer that takes part; its outputs are too many to be
# held transposed. None -> 64 -> 32, us a step: 19.5 -> 19.5 -> 14.9 (48-48-48-10@64, 1
# thread), 146 -> 145 -> 100 (784-32-10@128); 32 -> 16 gains 2 % (32-256-256-10@256).
WIDE_INPUTS, WIDE_OUTPUTS = 32, 32
# A layer of fewer outputs may be held transposed, without products of pairs.
FEWEST_OUTPUTS = 17


def compute_dtype(
    setting: object, sizes: Sequence[int], dtype: np.dtype[Any], who: str = OWNER
) -> Computed:
    """None, or for a net of float32 "bfloat16", or one dtype per layer."""
    if setting is None:
        return None
    if isinstance(setting, list | tuple):
        return _of_layers(setting, sizes, dtype, who)
    if not isinstance(setting, str) or setting not in COMPUTE_DTYPES:
        meant = suggestion(setting, COMPUTE_DTYPES, DTYPE_SYNONYMS)
        raise ValueError(
            f"{who}: unknown compute_dtype {setting!r}{meant} known: bfloat16, one of "
            "bfloat16 and float32 for each layer, or None for dtype"
        )
    _check_dtype(dtype, who)
    return "bfloat16"


def _of_layers(
    setting: Sequence[Any], sizes: Sequence[int], dtype: np.dtype[Any], who: str
) -> tuple[LayerDType, ...] | None:
    """None without a bfloat16."""
    name = "compute_dtype"
    n_layers = len(sizes) - 1
    if len(setting) != n_layers:
        raise ValueError(
            f"{who}: {name} must have one dtype for each of the {n_layers} layers, got "
            f"{len(setting)}"
        )
    for i, layer_dtype in enumerate(setting):
        scalars.known(who, f"{name}[{i}]", layer_dtype, OF_LAYER, OF_LAYER)
        if layer_dtype == "bfloat16" and sizes[i + 1] < FEWEST_OUTPUTS:
            raise ValueError(
                f"{who}: {name}[{i}]='bfloat16' needs at least {FEWEST_OUTPUTS} "
                f"outputs, got {sizes[i + 1]}; use 'float32' for that layer"
            )
    if "bfloat16" not in setting:
        return None
    _check_dtype(dtype, who)
    return tuple(setting)


def _check_dtype(dtype: np.dtype[Any], who: str) -> None:
    if dtype != np.float32:
        raise ValueError(
            f"{who}: compute_dtype='bfloat16' needs dtype='float32', got {dtype.name!r}"
        )


def paired_layers(
    layout: Layout, chosen: ComputeDTypes | None = "bfloat16", *, sparse: bool = False
) -> tuple[bool, ...]:
    """For each layer True if its products take bfloat16: the chosen ones, or wide ones.

    A first layer on sparse or expanded rows, which is not a product of matrices,
    is never chosen. With None, the tuple is empty.
    """
    if chosen is None:
        return ()
    sizes = pairwise(layout.sizes)
    if chosen == "bfloat16":
        paired = [
            n_in >= WIDE_INPUTS and n_out >= WIDE_OUTPUTS for n_in, n_out in sizes
        ]
    else:
        paired = [layer == "bfloat16" for layer in chosen]
    return tuple(layer and not (sparse and i == 0) for i, layer in enumerate(paired))


OfOneNumber = Callable[[Any], tuple[Any, Any]]
Activation = ActivationName | Literal["logistic"] | OfOneNumber
OutputActivation = Activation | LinkName
LossObject = Loss | LossSettings | Callable[[Any, Any], tuple[Any, Any]]
OneLoss = LossName | LossObject
# The losses of heads, each with its number of outputs.
Heads = Sequence[tuple[OneLoss, int]] | Mapping[str, tuple[OneLoss, int]]
LossLike = OneLoss | Heads
LossWeights = Sequence[float] | Mapping[str, float]
Update = Callable[[Any, Any, Any, Any, Any], tuple[Any, Any, Any]]
OptimizerLike = OptimizerName | Optimizer | Update
Penalties = Mapping[PenaltyName | OfOneNumber, float]
DropoutLike = Rate | Sequence[Rate]
InitializerLike = InitializerName | Initializer
DTypeName = Literal["float32", "float64"]
# Type checkers do not know NumPy 1.26's np.float64 as a float.
DType = DTypeName | type[float | np.float32 | np.float64] | np.dtype[np.floating[Any]]
Seed = int | np.integer[Any] | np.random.SeedSequence | np.random.Generator


class Rates(TypedDict, total=False):
    """Factors of a layer's learning rate; a missing name has the factor 1."""

    weights: float
    biases: float


LayerRates = Sequence[float | Rates] | Rates


class Network(NamedTuple):
    """The spec of a multi-layer perceptron, from which backends make plans.

    Attributes
    ----------
    activations : one rule per layer, the output layer's last
    link : from raw outputs to predictions; the identity without a link of the loss
    penalties : pairs of a rule and its strength
    layer_rates : factors of each layer's learning rate; empty: all are 1
    trainable : False for a frozen layer; empty: all are trained
    dropout : rates of dropout and noise in training, or None
    compute_dtype : "bfloat16" if training rounds the operands of wide layers' products, or of the
        named layers; or None
    signs : of each input 1 if predictions rise with it, -1 if they fall, else 0; empty: all are 0
    derivatives : "targets" if steps train the Jacobian too, "gradient" if they take the gradient
        by it; or None
    written : a net with norms, residual blocks or a skip as it was written, or None
    heads : slices of the outputs; `loss` is then `JOINT`. Empty: `loss` takes all outputs
    named : True if the heads' names are the user's
    """

    layout: Layout
    activations: tuple[ActivationRule, ...]
    loss: Loss
    link: Link
    penalties: tuple[tuple[PenaltyRule, float], ...]
    dtype: np.dtype[Any]
    layer_rates: tuple[Factors, ...] = ()
    trainable: tuple[bool, ...] = ()
    dropout: Dropout | None = None
    compute_dtype: Computed = None
    signs: tuple[int, ...] = ()
    derivatives: Literal["targets", "gradient"] | None = None
    written: Written | None = None
    heads: tuple[Head, ...] = ()
    named: bool = False

    @property
    def layer_sizes(self) -> tuple[Any, ...]:
        """The sizes as the user wrote them: integers, and residual blocks."""
        if self.written is None:
            return self.layout.sizes
        return self.written.sizes

    @property
    def passes(self) -> int:
        """Passes of a step's rows: one of values,
        and with derivatives one for each output.
        """
        return 1 + self.layout.sizes[-1] if self.derivatives else 1

    @property
    def factors(self) -> tuple[Factors, ...]:
        """Factors of each layer's learning rate; 0 for frozen weights or biases."""
        return _factors(self.layer_rates, self.trainable, self.layout.n_layers)

    @property
    def targets(self) -> Form | HeadForms:
        """The targets that the loss takes, or the loss of each head."""
        if not self.heads:
            return _form_of(self.loss, self.layout.sizes[-1])
        forms = [_form_of(head.loss, head.n_outputs) for head in self.heads]
        names = [head.name for head in self.heads]
        return HeadForms(tuple(names), tuple(forms), self.named)

    def has_factors(self, width: int) -> bool:
        """True if rows of targets of this width have factors beside them."""
        if self.heads:
            return width > sum([head.n_targets for head in self.heads])
        return are_weighted(self.loss, self.layout.sizes[-1], width)

    def target_ranges(self) -> NDArray[np.float64]:
        """The least and the most target of each column of heads' targets,
        and 1 for labels, shape (n_targets, 3); without heads (0, 3).
        """
        rows = []
        for head in self.heads:
            accepted = head.loss.targets
            least, most = range_of(accepted, self.dtype)
            is_label = accepted == "classes"
            if is_label:
                most = head.n_outputs - 1.0
            rows += [(least, most, is_label)] * head.n_targets
        return np.array(rows, np.float64).reshape(-1, 3)

    @property
    def head_names(self) -> tuple[str, ...]:
        return tuple([head.name for head in self.heads])

    def without_output(self) -> "Network":
        activations = (*self.activations[:-1], identity)
        return self.without_link()._replace(activations=activations)

    def without_link(self) -> "Network":
        return self._replace(link=LINKS["identity"])


def _form_of(loss: Loss, n_outputs: int) -> Form:
    return Form(n_outputs, loss.targets, loss.per_target, takes_whole_rows(loss))


@lru_cache(maxsize=256)
def _factors(
    layer_rates: tuple[Factors, ...], trainable: tuple[bool, ...], n: int
) -> tuple[Factors, ...]:
    pairs = zip(layer_rates or (Factors(),) * n, trainable or (True,) * n, strict=True)
    return tuple(factors if trains else Factors(0.0, 0.0) for factors, trains in pairs)


def name_of(rule: Any) -> str:
    if isinstance(rule, str):
        return rule
    return str(getattr(rule, "__name__", rule))
