"""Mixed precision: which layers' products take operands rounded to bfloat16."""

from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np

from fastmlp.network.own_rules import OWNER
from fastmlp.network.parameter_layout import Layout
from fastmlp.validation.suggestions import suggestion

ComputeDType = Literal["bfloat16"]
KNOWN = get_args(ComputeDType)
SYNONYMS = {
    "bfloat16": "bf16 mixed_bfloat16 mixed float16 fp16 half",
    "None means that": "float32 float64 None",
}
# Fewest inputs and outputs of a layer that takes part; its outputs are too many to be held
# transposed. None -> 64 -> 32, us a step: 19.5 -> 19.5 -> 14.9 (48-48-48-10@64, 1 thread),
# 146 -> 145 -> 100 (784-32-10@128); 32 -> 16 gains 2 % (32-256-256-10@256).
WIDE_INPUTS, WIDE_OUTPUTS = 32, 32


def compute_dtype(given: object, dtype: np.dtype[Any], who: str = OWNER) -> ComputeDType | None:
    """Check a compute dtype: None, or "bfloat16" for a net of float32."""
    if given is None:
        return None
    if not isinstance(given, str) or given not in KNOWN:
        meant = suggestion(given, KNOWN, SYNONYMS)
        raise ValueError(
            f"{who}: unknown compute_dtype {given!r}{meant} known: bfloat16, or None for dtype"
        )
    if dtype != np.float32:
        raise ValueError(
            f"{who}: compute_dtype='bfloat16' needs dtype='float32', got {dtype.name!r}"
        )
    return "bfloat16"


def paired_layers(layout: Layout, *, sparse: bool = False) -> tuple[bool, ...]:
    """Return, for each layer, True if its products take bfloat16; not a first layer on sparse or
    expanded rows, which is no product of matrices."""
    wide = (n_in >= WIDE_INPUTS and n_out >= WIDE_OUTPUTS for n_in, n_out in pairwise(layout.sizes))
    return tuple(its and not (sparse and i == 0) for i, its in enumerate(wide))
