"""A handle of a model of tables, for compiled code."""

from typing import Any

from fastmlp.backends.cpu.predict.embedded_tables import TableMember, TableOwner, TableScale
from fastmlp.export.table_parts import TableParts
from fastmlp.model import core_of


def table_handle(model: Any, *, raw: bool, freeze: bool, who: str) -> Any:
    """The handle of a fitted model of tables; the options are those of `jit.compiled`.

    Raises
    ------
    ValueError
        If it is not fitted, or `raw`.
    NotImplementedError
        If it has a member that is no net, nor boosted trees, or an encoder that has no compiled
        form.
    """
    parts: TableParts = model._table_parts(who)
    if raw:
        raise ValueError(f"{who}: raw=True is for nets, and a model of tables is a mean of some")
    encodings = parts.known(who, "compiled code")
    members = []
    for member in parts.members:
        core = core_of(member.net)
        parameters = core.state.parameters
        parameters = parameters.copy() if freeze else parameters
        network = core.engine.network
        members.append(TableMember(network, parameters, member.encoding, member.weight))
    task = "regression" if parts.classes is None else "multiclass"
    if parts.classes is not None and all(net.layer_sizes[-1] == 1 for net in parts.nets):
        task = "binary"
    scale = TableScale(parts.scale, parts.center, parts.low, parts.high)
    n_in, n_out = parts.n_features, parts.n_outputs
    return TableOwner(encodings, members, n_in, n_out, task, scale, parts.trees).handle()
