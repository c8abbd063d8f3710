"""Constraints of the columns of a table: predictions that rise or fall with them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.network import monotone
from fastmlp.tabular.schema import Schema
from fastmlp.validation.suggestions import count


def columns_in_order(
    setting: Any, schema: Schema, classes: NDArray[Any] | None, who: str
) -> tuple[int, ...]:
    """The constraints of the columns of numbers, in their order; empty if there are none.

    Raises
    ------
    ValueError
        If they are not -1, 0 and 1, name other columns, or columns that are no numbers, or there
        are more than two classes.
    """
    if setting is None:
        return ()
    names = schema.columns
    if isinstance(setting, Mapping):
        setting = monotone.by_column(setting, names, who)
    signs = np.asarray(setting)
    if signs.shape != (len(names),) or not np.isin(signs, (-1, 0, 1)).all():
        raise ValueError(
            f"{who}: monotonic_cst must be -1 (falls), 0 (free) or 1 (rises) for each of the "
            f"{count(len(names), 'column')}, got {setting!r}"
        )
    if not signs.any():
        return ()
    if classes is not None and len(classes) > 2:
        raise ValueError(f"{who}: monotonic_cst is for two classes, got {len(classes)}")
    chosen = dict(zip(names, signs.astype(int).tolist(), strict=True))
    others: dict[str, Any] = {"dates or times": schema.dates, "levels": schema.levels}
    for name, sign in chosen.items():
        for kind, columns in others.items():
            if sign and name in columns:
                raise ValueError(
                    f"{who}: monotonic_cst is for columns of numbers, and {name!r} holds {kind}: "
                    "put numbers in the place of what has an order"
                )
    return tuple(chosen.get(name, 0) for name in schema.number_names)
