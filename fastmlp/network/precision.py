"""Mixed precision: which layers' products take operands rounded to bfloat16."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np

from fastmlp.network.own_rules import OWNER
from fastmlp.network.parameter_layout import Layout
from fastmlp.validation import scalars
from fastmlp.validation.suggestions import suggestion

ComputeDType = Literal["bfloat16"]
LayerDType = Literal["bfloat16", "float32"]
OF_LAYER = {"bfloat16": "bf16 mixed_bfloat16 mixed float16 fp16 half", "float32": "None fp32 f4"}
# What a net takes, and what it keeps.
ComputeDTypes = ComputeDType | Sequence[LayerDType]
Computed = ComputeDType | tuple[LayerDType, ...] | None
KNOWN = get_args(ComputeDType)
SYNONYMS = {
    "bfloat16": OF_LAYER["bfloat16"],
    "None means that": "float32 float64 None",
}
# Fewest inputs and outputs of a layer that takes part; its outputs are too many to be held
# transposed. None -> 64 -> 32, us a step: 19.5 -> 19.5 -> 14.9 (48-48-48-10@64, 1 thread),
# 146 -> 145 -> 100 (784-32-10@128); 32 -> 16 gains 2 % (32-256-256-10@256).
WIDE_INPUTS, WIDE_OUTPUTS = 32, 32
# A layer of fewer outputs may be held transposed, and then has no products of pairs.
FEWEST_OUTPUTS = 17


def compute_dtype(
    given: object, sizes: Sequence[int], dtype: np.dtype[Any], who: str = OWNER
) -> Computed:
    """Check a compute dtype: None, or for a net of float32 "bfloat16", or one dtype per layer."""
    if given is None:
        return None
    if isinstance(given, list | tuple):
        return _of_layers(given, sizes, dtype, who)
    if not isinstance(given, str) or given not in KNOWN:
        meant = suggestion(given, KNOWN, SYNONYMS)
        raise ValueError(
            f"{who}: unknown compute_dtype {given!r}{meant} known: bfloat16, one of bfloat16 and "
            "float32 for each layer, or None for dtype"
        )
    _check_dtype(dtype, who)
    return "bfloat16"


def _of_layers(
    given: Sequence[Any], sizes: Sequence[int], dtype: np.dtype[Any], who: str
) -> tuple[LayerDType, ...] | None:
    """Check the dtypes of layers; return None if none is bfloat16."""
    name, n_layers = "compute_dtype", len(sizes) - 1
    if len(given) != n_layers:
        raise ValueError(
            f"{who}: {name} must have one dtype for each of the {n_layers} layers, got {len(given)}"
        )
    for i, each in enumerate(given):
        scalars.known(who, f"{name}[{i}]", each, OF_LAYER, OF_LAYER)
        if each == "bfloat16" and sizes[i + 1] < FEWEST_OUTPUTS:
            raise ValueError(
                f"{who}: {name}[{i}]='bfloat16' needs at least {FEWEST_OUTPUTS} outputs, got "
                f"{sizes[i + 1]}; use 'float32' for that layer"
            )
    if "bfloat16" not in given:
        return None
    _check_dtype(dtype, who)
    return tuple(given)


def _check_dtype(dtype: np.dtype[Any], who: str) -> None:
    if dtype != np.float32:
        raise ValueError(
            f"{who}: compute_dtype='bfloat16' needs dtype='float32', got {dtype.name!r}"
        )


def paired_layers(
    layout: Layout, told: ComputeDTypes | None = "bfloat16", *, sparse: bool = False
) -> tuple[bool, ...]:
    """Return, for each layer, True if its products take bfloat16: those that are told, or are wide.

    It is never a first layer on sparse or expanded rows, which is no product of matrices. With
    None, nothing is rounded, and there is no layer to tell of.
    """
    if told is None:
        return ()
    sizes = pairwise(layout.sizes)
    if told == "bfloat16":
        its = [n_in >= WIDE_INPUTS and n_out >= WIDE_OUTPUTS for n_in, n_out in sizes]
    else:
        its = [each == "bfloat16" for each in told]
    return tuple(each and not (sparse and i == 0) for i, each in enumerate(its))
