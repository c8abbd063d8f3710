"""The compiled blocks of a net's rules and of the phases."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import product as product_of
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.kernels import (
    dropout,
    elementwise,
    epoch,
    first_layer,
    stages,
    step,
)
from fastmlp.backends.cpu.kernels.derivatives import derivative_pass
from fastmlp.backends.cpu.kernels.epoch import train
from fastmlp.backends.cpu.kernels.forward_backward import forward_backward, row_backward
from fastmlp.backends.cpu.kernels.gradient_update import scaled, squares, update
from fastmlp.backends.cpu.kernels.memory_traffic import (
    pair_rows,
    pair_tiles,
    pair_weights,
)
from fastmlp.backends.cpu.kernels.step import microbatches
from fastmlp.backends.cpu.plan.packing import pack, transposes, unpack
from fastmlp.backends.cpu.plan.records import (
    BLOCK,
    BY_NUMBER,
    LINEAR,
    LINKLESS,
    RELU,
    RELU_DROPPED,
    SOFTMAX,
    Slice,
    address,
)
from fastmlp.backends.cpu.simd.gemm import packed_product, product
from fastmlp.compiler import Block, Key, block_of
from fastmlp.compiler.curvature import JUMPING
from fastmlp.compiler.target import pair_products
from fastmlp.network.spec import Layout, Network
from fastmlp.rules import losses
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.activations import identity, relu
from fastmlp.rules.dropout import is_used
from fastmlp.rules.elementary import exp, logistic
from fastmlp.rules.optimizer_protocol import (
    EMA,
    Optimizer,
    average_of,
    gradient_rule_of,
)
from fastmlp.rules.optimizers import OPTIMIZERS, SGD, ScheduleFreeAdamW
from fastmlp.rules.updates import N_MOMENTS, PENALTIES


def trained_activations(
    network: Network, dropped: Sequence[int] = ()
) -> tuple[list[int], list[int]]:
    """The blocks and forms of `activations`, or, for steps with derivatives by the
    inputs, of `curved_activations`.
    """
    if network.derivatives:
        return curved_activations(network)
    return activations(network, dropped=dropped)


def activations(
    network: Network,
    *,
    dropped: Sequence[int] = (),
    slopes: bool = True,
) -> tuple[list[int], list[int]]:
    """Addresses of the activations' blocks, and the form of each layer.

    A hidden relu needs no block: it is an epilogue. The output layer is linear: its
    activation is computed with its loss. Slopes of a `dropped` layer are written, for
    the backward pass, unless it is dropped before a norm. Without `slopes` blocks write
    values alone, for predictions.
    """
    # An absent option does not change the key of the cache.
    options = {} if slopes else {"slopes": False}
    addresses, forms = [], []
    last = len(network.activations) - 1
    for i, rule in enumerate(network.activations):
        form = (
            LINEAR if rule is identity or i == last else RELU if rule is relu else BLOCK
        )
        if dropped and dropped[i] and not drops_before_norm(network.layout, i):
            form = RELU_DROPPED if form == RELU else BLOCK
        needed = form == BLOCK or (form == LINEAR and rule is not identity)
        loop = elementwise.activation_loop
        addresses.append(
            block_of(loop, network.dtype, rule, **options).address if needed else 0
        )
        forms.append(form)
    return addresses, forms


def blocks_of_rules(loop: Any, rules: Iterable[Any], dtype: Any) -> list[int]:
    """Addresses of the rules' blocks of a loop, such as of values,
    slopes and curvatures; 0 for the identity.
    """
    return [
        0 if rule is identity else block_of(loop, dtype, rule).address for rule in rules
    ]


def curved_activations(network: Network) -> tuple[list[int], list[int]]:
    """Addresses of the hidden layers' blocks of values, slopes and curvatures, and of
    the output layer's activation; all forms are linear: the derivative pass calls the
    blocks.
    """
    rules = network.activations
    dtype = network.dtype
    addresses = [
        *blocks_of_rules(elementwise.curvature_loop, rules[:-1], dtype),
        *blocks_of_rules(elementwise.activation_loop, rules[-1:], dtype),
    ]
    return addresses, [LINEAR] * len(rules)


def link_slopes(network: Network) -> tuple[int, int]:
    """How predictions depend on raw outputs, and the address of the block for it."""
    link = network.link
    output = network.activations[-1]
    if link == losses.LINKS["softmax"]:
        return SOFTMAX, link_block(link, network.dtype).address
    options = {}
    rule = output if link == losses.LINKS["identity"] else link.rule
    if link == losses.LINKS["mean_std"]:
        options = {"apart": 2}
        rule = losses.deviation
    elif rule is identity:
        return LINKLESS, 0
    loop = elementwise.link_slopes_loop
    return BY_NUMBER, block_of(loop, network.dtype, rule, **options).address


def drops_before_norm(layout: Layout, layer: int) -> bool:
    return any(not norm.after for norm in layout.norms_of(layer))


def link(network: Network, *, needed: bool = True) -> tuple[int, int]:
    """The block, 0 for the identity unless `needed`,
    and the address of the records of heads.
    """
    if network.link.parts:
        block = block_of(elementwise.head_links, network.dtype)
        return block.address, address(_link_table(network.link.parts, network.dtype))
    if not needed and network.link == losses.LINKS["identity"]:
        return 0, 0
    return link_block(network.link, network.dtype).address, 0


def link_block(link: losses.Link, dtype: Any) -> Block:
    return block_of(elementwise.link_loop, dtype, link.rule, by_row=link.by_row)


def apply_link(link: str | losses.Parts, raw: NDArray[Any]) -> NDArray[Any]:
    """A link's values, or the links' of heads, for raw outputs of shape (n_rows,
    n_outputs), in their dtype.
    """
    if not isinstance(link, str):
        heads = [
            apply_link(name, raw[:, first : first + n])
            for name, first, n in losses.link_slices(link)
        ]
        return np.concatenate(heads, axis=1)
    raw, out = np.asfortranarray(raw), np.empty(raw.shape, raw.dtype, "F")
    link_block(losses.LINKS[link], raw.dtype)(
        raw.ctypes.data, out.ctypes.data, 0, *raw.shape
    )
    return out


def loss(network: Network, width: int) -> tuple[int, int]:
    """The block of the loss, and the address of its constants,
    for targets of this width; of heads, the address of their records.
    """
    if network.heads:
        weighted = network.has_factors(width)
        table = _loss_table(network.heads, network.dtype, weighted)
        return block_of(elementwise.head_losses, network.dtype).address, address(table)
    weighted = losses.are_weighted(network.loss, network.layout.sizes[-1], width)
    return _loss_block(network.loss, network.dtype, weighted=weighted)


def _loss_block(
    loss: losses.Loss, dtype: np.dtype[Any], *, weighted: bool
) -> tuple[int, int]:
    options, settings = loss_options(loss, dtype)
    if weighted:
        options["weighted"] = True
    block = block_of(elementwise.loss_loop, dtype, loss.rule, **options)
    return block.address, settings


@cache
def _loss_table(
    heads: tuple[losses.Head, ...], dtype: np.dtype[Any], weighted: bool
) -> NDArray[Any]:
    """A `Slice` record of each head, kept as long as the process,
    as blocks are. `weighted`: factors follow the targets of each head.
    """
    rows = []
    target = 0
    for head in heads:
        n = head.n_targets
        whole = losses.takes_whole_rows(head.loss)
        block, settings = _loss_block(head.loss, dtype, weighted=weighted and not whole)
        n_columns = n if whole or not weighted else 2 * n
        factor = target + n if whole and weighted else -1
        slices = (head.n_outputs, target, n_columns, factor)
        rows.append((*slices, block, settings, 0, head.weight))
        target += n_columns + (factor >= 0)
    return np.array(rows, Slice.dtype)


@cache
def _link_table(parts: losses.Parts, dtype: np.dtype[Any]) -> NDArray[Any]:
    rows = []
    for name, n in parts:
        block = link_block(losses.LINKS[name], dtype).address
        rows.append((n, 0, 0, -1, 0, 0, block, 1.0))
    return np.array(rows, Slice.dtype)


def loss_options(loss: losses.Loss, dtype: np.dtype[Any]) -> tuple[dict[str, Any], int]:
    """Options of `loss_loop` beside the rule,
    and the address of the loss's constants: one block serves all of them.
    """
    options: dict[str, Any] = {
        "by_row": loss.by_row,
        "mean": loss.over_outputs == "mean",
    }
    if not loss.constants:
        return options, 0
    by_output = isinstance(loss.constants[0], tuple)
    form = {"by_output": True} if by_output else {"n_constants": len(loss.constants)}
    return options | form, address(_constants(loss.constants, dtype))


@cache
def _constants(constants: losses.Constants, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Kept as long as the process, as blocks are."""
    return np.hstack(constants).astype(dtype)


def penalties(network: Network) -> list[int]:
    chosen = [rule for rule, _ in network.penalties]
    return [
        block_of(elementwise.penalty_loop, network.dtype, rule).address
        for rule in chosen
    ]


def optimizer(network: Network, optimizer: Optimizer) -> Block:
    options = {"n_moments": N_MOMENTS.get(optimizer.rule, 2)} | _options(
        network.signs, optimizer
    )
    return block_of(elementwise.update_loop, network.dtype, optimizer.rule, **options)


def penalised_optimizer(network: Network, optimizer: Optimizer) -> int:
    """The address of the block that adds a penalty's slope and takes the optimizer's
    step; 0 unless there is one penalty, of `PENALTIES`, and an update with two numbers
    of state.
    """
    rules = [rule for rule, _ in network.penalties]
    names = [name for name, rule in PENALTIES.items() if [rule] == rules]
    if not names or N_MOMENTS.get(optimizer.rule, 2) < 2:
        return 0
    options = {"penalty": names[0]} | _options(network.signs, optimizer)
    loop = elementwise.penalised_update_loop
    return block_of(loop, network.dtype, optimizer.rule, **options).address


def drawing(network: Network) -> dict[str, Any]:
    rates = network.dropout
    if rates is None:
        return {}
    numbers = [i + 1 if is_used(rate) else 0 for i, rate in enumerate(rates.hidden)]
    drop = block_of(dropout.dropout, network.dtype).address if any(numbers) else 0
    disturbs = is_used(rates.inputs) or is_used(rates.noise)
    disturb = block_of(dropout.input_noise, network.dtype).address if disturbs else 0
    before_norm = any(
        number and drops_before_norm(network.layout, i)
        for i, number in enumerate(numbers)
    )
    drop_alone = 0
    if before_norm:
        drop_alone = block_of(dropout.dropout_alone, network.dtype).address
    numbers.append(0)
    return {
        "drop": drop,
        "disturb": disturb,
        "dropped": tuple(numbers),
        "drop_alone": drop_alone,
    }


def _options(signs: Any, optimizer: Optimizer) -> dict[str, Any]:
    n = optimizer.coefficients(1, np.ones(1)).shape[1]
    options = {"n_coefficients": n, "gradient_rule": gradient_rule_of(optimizer)}
    used = {"averaged": average_of(optimizer) is not None, "signed": bool(signs)}
    # An absent name does not change the key of the cache.
    return options | {name: True for name, is_used in used.items() if is_used}


FORWARD_BLOCKS = ("product", "pack", "forward_backward")
# Phases with a plain form, for nets without `FEATURES`.
WITH_PLAIN_FORM = ("forward_backward", "update")
PHASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "product": (product, {"by_column": False}),
    "gradient_product": (product, {"by_column": True}),
    "pack": (pack, {}),
    "unpack": (unpack, {}),
    "transposes": (transposes, {}),
    "forward_backward": (forward_backward, {}),
    "update": (update, {}),
}
# Blocks of mixed precision beside the phases; each takes how the host multiplies pairs.
FORWARD_PAIRED = ("pair_product", "pair_rows", "pair_weights")
TRAIN_PAIRED = ("pair_product", "pair_rows", "pair_tiles", "pair_gradient_product")
PAIRED: dict[str, tuple[Any, dict[str, Any]]] = {
    "pair_product": (product, {"by_column": False}),
    "pair_rows": (pair_rows, {}),
    "pair_weights": (pair_weights, {}),
    "pair_tiles": (pair_tiles, {}),
    "pair_gradient_product": (product, {"by_column": True}),
}
# Blocks that only some nets and rows need: compiled on first use.
OCCASIONAL_PHASES = (
    microbatches,
    step.split_k,
    step.split_k_backward,
    step.forward_backward_by_panels,
    row_backward,
    packed_product,
    train,
    derivative_pass,
    epoch.batch_step,
    epoch.quick_step,
    stages.stages_forward,
    stages.stages_backward,
    dropout.dropout_alone,
    first_layer.sparse_forward,
    first_layer.sparse_columns,
    first_layer.sparse_gradient,
    first_layer.expanded_forward,
    first_layer.expanded_columns,
    first_layer.expanded_gradient,
    squares,
    scaled,
    dropout.dropout,
    dropout.input_noise,
    elementwise.head_losses,
    elementwise.head_links,
)


# Rules of links of numbers, whose curvatures training on derivatives takes.
CURVED_LINKS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (logistic, {}),
    (exp, {}),
    (losses.deviation, {"apart": 2}),
)


def every_phase(dtype: np.dtype[Any]) -> Iterator[Key]:
    """Arguments of `block_of` for the phases and the blocks beside them,
    in all their forms.
    """
    for factory, options in (
        *PHASES.values(),
        *((factory, {}) for factory in OCCASIONAL_PHASES),
    ):
        yield factory, dtype, None, options
    for factory in (forward_backward, update, train):
        yield factory, dtype, None, {"plain": True}
    yield update, dtype, None, {"by_norm": True}


def every_pair_block() -> Iterator[Key]:
    """Arguments of `block_of` for the blocks of mixed precision."""
    for factory, options in PAIRED.values():
        yield factory, np.dtype(np.float32), None, options | {"pairs": pair_products()}


def every_loss() -> Iterator[losses.Loss]:
    """The library's losses, one for all values of settings."""
    yield from (
        *losses.LOSSES.values(),
        *losses.SKLEARN_LOSSES.values(),
        losses.OUTPUT_GRADIENT,
    )
    yield losses.Quantile((0.1, 0.9)).loss
    for name in losses.SMOOTHED:
        smoothed = losses.Smoothed(name, 0.1).loss
        yield from (smoothed, smoothed._replace(over_outputs="sum"))


def every_optimizer() -> Iterator[Optimizer]:
    """The library's optimizers, with and without clipping by value and an average."""
    heavy: list[Any] = [
        partial(SGD, momentum=0.9, nesterov=nesterov) for nesterov in (False, True)
    ]
    for kind, clip, average in product_of(
        [*OPTIMIZERS.values(), *heavy], (None, 1.0), (None, EMA())
    ):
        if average is None or kind is not ScheduleFreeAdamW:  # it averages by itself
            yield kind(clipvalue=clip, average=average)


def every_rule(dtype: np.dtype[Any]) -> Iterator[Key]:
    """Arguments of `block_of` for the library's rules, with all options of a net."""
    for rule in ACTIVATIONS.values():
        for options in ({}, {"slopes": False}):
            yield elementwise.activation_loop, dtype, rule, options
    smooth = ACTIVATIONS.keys() - {"identity", *JUMPING}
    for name in sorted(smooth):
        yield elementwise.curvature_loop, dtype, ACTIVATIONS[name], {}
        yield elementwise.link_slopes_loop, dtype, ACTIVATIONS[name], {}
    for curved, options in CURVED_LINKS:
        yield elementwise.link_slopes_loop, dtype, curved, options
    for link in losses.LINKS.values():
        yield elementwise.link_loop, dtype, link.rule, {"by_row": link.by_row}
    for loss in every_loss():
        options = loss_options(loss, dtype)[0]
        yield elementwise.loss_loop, dtype, loss.rule, options
        if not losses.takes_whole_rows(loss) and "by_output" not in options:
            yield elementwise.loss_loop, dtype, loss.rule, options | {"weighted": True}
    for penalty in PENALTIES.values():
        yield elementwise.penalty_loop, dtype, penalty, {}
    for chosen, signs in product_of(every_optimizer(), (False, True)):
        n_moments = N_MOMENTS.get(chosen.rule, 2)
        options = _options(signs, chosen)
        yield (
            elementwise.update_loop,
            dtype,
            chosen.rule,
            {"n_moments": n_moments} | options,
        )
        for name in PENALTIES if n_moments == 2 else ():
            penalised = elementwise.penalised_update_loop
            yield penalised, dtype, chosen.rule, {"penalty": name} | options


def names_of(*, train: bool, paired: bool) -> list[str]:
    """`paired`: products take pairs."""
    further = TRAIN_PAIRED if train else FORWARD_PAIRED
    return [*(PHASES if train else FORWARD_BLOCKS), *(further if paired else ())]


@cache
def phase(
    name: str, dtype: np.dtype[Any], *, by_norm: bool = False, plain: bool = False
) -> Block:
    """`by_norm`: the update that clips by norm;
    `plain`: for nets without `FEATURES`.
    """
    factory, options = (PAIRED if name in PAIRED else PHASES)[name]
    if by_norm:
        options = {**options, "by_norm": True}
    if plain:
        options = {**options, "plain": True}
    if name in PAIRED:
        options = {**options, "pairs": pair_products()}
    return block_of(factory, dtype, **options)
