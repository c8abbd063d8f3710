"""A net's repr and its summary, as text and as HTML for notebooks."""

from collections.abc import Collection, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from fastmlp._process.memory import readable
from fastmlp.network import residual
from fastmlp.network.layer_settings import all_shown, trained_parameters
from fastmlp.network.residual import NORM_EPSILON
from fastmlp.network.spec import Network, name_of, paired_layers, spread
from fastmlp.rules.dropout import is_used
from fastmlp.rules.optimizer_protocol import Optimizer
from fastmlp.rules.optimizers import LevenbergMarquardt, matrix_bytes
from fastmlp.rules.updates import Factors

TABLE_HEADER = ("layer", "inputs", "outputs", "activation", "parameters")
LEFT_COLUMNS = (0, 3, 5, 6)


class SummaryTable(str):
    """Text of several lines, which a notebook and a prompt show without ``print``."""

    __slots__ = ()
    __repr__ = str.__str__


class Description(NamedTuple):
    """The parts of a net that its repr, its summary and a notebook show.

    Attributes
    ----------
    output : name of the output layer's activation or link
    """

    network: Network
    optimizer: Optimizer
    loss: Any
    output: str
    n_steps: int
    device: str

    def short(self) -> str:
        """One line, as the call that makes the net."""
        network = self.network
        hidden = residual.of_entries(self.network, self._hidden())
        activation = f"activation={_shown(hidden)!r}, " if hidden else ""
        activation += self._norms()
        penalty = "".join(f", {name_of(rule)}={s:g}" for rule, s in network.penalties)
        if network.layer_rates:
            rates = f", layer_rates={all_shown(network)}"
        else:
            rates = ""
        rates += "".join(f", {name}={rate!r}" for name, rate in self._dropout().items())
        if network.compute_dtype:
            computed = f", compute_dtype={network.compute_dtype!r}"
        else:
            computed = ""
        computed += f", monotonic_cst={network.signs!r}" if network.signs else ""
        return (
            f"MLP({network.layer_sizes}, {activation}{self._loss()}, "
            f"optimizer={_brief(self.optimizer)}{penalty}{rates}, "
            f"dtype={network.dtype.name!r}{computed})"
        )

    def _norms(self) -> str:
        written = self.network.written
        if written is None:
            return ""
        if written.epsilon != NORM_EPSILON:
            epsilon = f"norm_epsilon={written.epsilon:g}, "
        else:
            epsilon = ""
        norms = f"norm={_shown(written.norms)!r}, {epsilon}"
        skip = f"skip={written.skip!r}, " if written.skip else ""
        return (norms if self.network.layout.norms else "") + skip

    def table(self) -> SummaryTable:
        return SummaryTable(
            "\n".join([*_align(self._rows()), f"{self._size()}; {self._settings()}"])
        )

    def html(self) -> str:
        head = html_text(f"{self._size()}, on {self.device}", strong="MLP")
        layers = html_table(self._rows(), LEFT_COLUMNS)
        return f"<div>{head}{layers}{html_text(self._settings())}</div>"

    def _size(self) -> str:
        layout = self.network.layout
        pairs = self.network.factors
        frozen = spread(
            layout, *zip(*[(w == 0, b == 0) for w, b in pairs], strict=True)
        ).sum()
        which = f", {frozen:,} of them frozen" if frozen else ""
        return f"{layout.n_parameters:,} parameters{which}, {self.network.dtype}"

    def _rows(self) -> list[tuple[str, ...]]:
        layout = self.network.layout
        names = self._stages()
        factors = self.network.factors
        varies = self.network.layer_rates or self.network.trainable
        products = self._products()
        more = (("learning rate",) if varies else ()) + (
            ("products in",) if products else ()
        )
        rows: list[tuple[str, ...]] = [(*TABLE_HEADER, *more)]
        for i, (n_in, n_out) in enumerate(layout.shapes):
            kind = "hidden" if i < layout.n_layers - 1 else "output"
            norms = len(layout.norms_of(i)) + sum(
                norm.shifts >= 0 for norm in layout.norms_of(i)
            )
            n_parameters = (n_in + 1 + norms) * n_out
            row = (kind, f"{n_in:,}", f"{n_out:,}", names[i], f"{n_parameters:,}")
            cells = ((_rate(factors[i]),) if varies else ()) + products[i : i + 1]
            rows.append((*row, *cells))
        return rows

    def _stages(self) -> list[str]:
        """For each layer its activation; with norms and skips what comes before and
        after it, in this order, such as "norm, relu".
        """
        layout = self.network.layout
        names = [*self._hidden(), self.output]
        dropout = self.network.dropout
        for i, name in enumerate(names if not layout.is_plain else ()):
            norms = {norm.after: f"{norm.kind} norm" for norm in layout.norms_of(i)}
            drops = dropout is not None and is_used((*dropout.hidden, 0.0)[i])
            source = layout.skips[i] if layout.skips else -1
            is_wide = layout.takes_inputs and i == layout.n_layers - 1
            has_more = norms or source >= 0 or is_wide
            stages = [
                "of the inputs too" if is_wide else "",
                "dropout" if drops and False in norms else "",
                f"+ layer {source + 1}" if source >= 0 else "",
                norms.get(False, ""),
                name if name != "identity" or not has_more else "",
                "dropout" if drops and False not in norms else "",
                norms.get(True, ""),
            ]
            names[i] = ", ".join(stage for stage in stages if stage)
        return names

    def _products(self) -> tuple[str, ...]:
        """The dtype of each layer's products in training; empty if it is the net's."""
        paired = paired_layers(self.network.layout, self.network.compute_dtype)
        return tuple("bfloat16" if is_paired else "float32" for is_paired in paired)

    def _settings(self) -> str:
        penalty = "".join(
            f"; {name_of(rule)} {s:g}" for rule, s in self.network.penalties
        )
        penalty += "".join(f"; {name} {rate}" for name, rate in self._dropout().items())
        optimizer = _brief(self.optimizer) + self._matrix()
        loss = f"loss {self.loss}"
        if weights := self._weights():
            loss += f", loss_weights {weights}"
        return f"{loss}{penalty}; {optimizer}; {self.n_steps:,} steps done"

    def _loss(self) -> str:
        """The loss as an argument,
        with the output activation or the weights of heads.
        """
        if not self.network.heads:
            return f"output_activation={self.output!r}, loss={self.loss!r}"
        weights = self._weights()
        return f"loss={self.loss!r}" + (f", loss_weights={weights}" if weights else "")

    def _weights(self) -> list[float]:
        """Weights of the heads' losses; empty if all are 1."""
        weights = [head.weight for head in self.network.heads]
        return weights if set(weights) - {1.0} else []

    def _matrix(self) -> str:
        if not isinstance(self.optimizer, LevenbergMarquardt):
            return ""
        n = int(trained_parameters(self.network).sum())
        return f", {readable(matrix_bytes(n))} for its matrix"

    def _dropout(self) -> dict[str, Any]:
        dropout = residual.written_dropout(self.network)
        if dropout is None:
            return {}
        return dropout.in_use()

    def _hidden(self) -> list[str]:
        return [name_of(rule) for rule in self.network.activations[:-1]]


def _shown(values: Sequence[Any]) -> Any:
    """The value of all layers, if equal."""
    if len({*values}) == 1:
        return values[0]
    return list(values)


def _rate(factors: Factors) -> str:
    weights, biases = (f"x {factor:g}" if factor else "frozen" for factor in factors)
    if weights == biases:
        return weights
    return f"{weights}, biases {biases}"


def _align(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i in LEFT_COLUMNS else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _brief(optimizer: object) -> str:
    """The optimizer with its learning rate and the settings that are not the
    default.
    """
    if not is_dataclass(optimizer):
        return repr(optimizer)
    shown_fields = []
    for field in fields(optimizer):
        value = getattr(optimizer, field.name)
        if field.name == "learning_rate" or value != field.default:
            if field.name == "rule":
                shown = name_of(value)
            else:
                shown = repr(value)
            shown_fields.append(f"{field.name}={shown}")
    return f"{type(optimizer).__name__}({', '.join(shown_fields)})"


CELL_STYLE = "padding:0.1em 0.8em;text-align:{}"
LINE_STYLE = "border-bottom:1px solid currentColor;"


def html_table(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """The first row is the header; the columns `left` are left-aligned."""
    lines = "".join(
        f"<tr>{_cells(row, i == 0, left)}</tr>" for i, row in enumerate(rows)
    )
    return f'<table style="border-collapse:collapse;margin:0.3em 0">{lines}</table>'


def html_text(shown: str, *, strong: str = "") -> str:
    bold = f"<strong>{_escaped(strong)}</strong> " if strong else ""
    return f"<div>{bold}{_escaped(shown)}</div>"


def _cells(row: Sequence[str], is_header: bool, left: Collection[int]) -> str:
    tag, line = ("th", LINE_STYLE) if is_header else ("td", "")
    styles = [
        line + CELL_STYLE.format("left" if i in left else "right")
        for i in range(len(row))
    ]
    return "".join(
        f'<{tag} style="{style}">{_escaped(cell)}</{tag}>'
        for style, cell in zip(styles, row, strict=True)
    )


def _escaped(shown: str) -> str:
    from html import escape

    return escape(shown)
