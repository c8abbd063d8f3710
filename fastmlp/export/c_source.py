"""The text of a C file that predicts as a model does, with its rules and its tests.

Rules in C have the same operations in the same order, and round as the library does.
"""

import re
import warnings
from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from fastmlp import __version__
from fastmlp.compiler import elementary, fma
from fastmlp.compiler.elementary import COMPILED_FORMS, magic
from fastmlp.compiler.trace import RELATIONS, Comparison, Symbol, Trace, signed
from fastmlp.export import c_template
from fastmlp.export.c_template import MAIN, TESTS
from fastmlp.model import core_of
from fastmlp.network.spec import (
    Layout,
    Network,
    bias_views,
    gain_views,
    name_of,
    shift_views,
    weight_views,
)
from fastmlp.rules import losses
from fastmlp.rules.activations import identity
from fastmlp.rules.elementary import exp
from fastmlp.validation import Array, frames
from fastmlp.validation.messages import count

C_TYPES: dict[Any, str] = {np.float32: "float", np.float64: "double"}
# Errors without fused multiply-adds, or in another precision: relative to 1 + |y|.
TOLERANCES: dict[Any, float] = {np.float32: 1e-5, np.float64: 1e-13}
# Bytes of the stack for each row of a block: 512 KB for 64 rows.
MOST_OF_ROW = 1 << 13
PLACE = re.compile(r"\$(\$|\w+)")


def literal(number: Any) -> str:
    """A NumPy scalar in C: the shortest text that reads back as the same number."""
    bits = 8 * number.itemsize
    suffix = "f" if number.itemsize == 4 else ""
    if not np.isfinite(number):
        return f"$of_bits{bits}(0x{int(number.view(f'u{number.itemsize}')):x}u{'ll' * (bits > 32)})"
    text = f"{number!s}{suffix}"
    return f"({text})" if text.startswith("-") else text


class Code(Trace):
    """The statements of a rule in C."""

    forms = COMPILED_FORMS

    def __init__(self) -> None:
        super().__init__()
        self.own |= {
            elementary.where: self.where,
            elementary.polynomial: self._polynomial,
            fma: partial(self.apply, "fma"),
            elementary.copysign: partial(self.apply, "copysign"),
            elementary.scaled: partial(self.apply, "scaled"),
            elementary.octave: partial(self.apply, "octave"),
            np.sqrt: partial(self.apply, "sqrt"),
        }

    def text(self, number: Any, kind: Any) -> str:
        if not isinstance(number, Symbol):
            return literal(kind(number))
        if number.kind is kind:
            return number.name
        return f"({C_TYPES[kind]}){number.name}"

    def operation(self, name: str, kind: Any, operands: list[str]) -> str:
        if name == "where":
            return "{} ? {} : {}".format(*operands)
        function = f"${name}{8 * np.dtype(kind).itemsize}"
        return signed(name, operands) or f"{function}({', '.join(operands)})"

    def relation(self, name: str, a: str, b: str) -> Comparison:
        return Comparison(f"({a} {RELATIONS[name]} {b})")

    def lines(self, *results: str) -> list[str]:
        return [
            f"const {C_TYPES[kind]} {name} = {text};"
            for kind, text, name in self.needed(*results)
        ]

    def _polynomial(self, x: Any, coefficients: Any) -> Any:
        *others, value = coefficients
        for coefficient in reversed(others):
            value = self.apply("fma", value, x, coefficient)
        return value


def loop_of(rule: Any, scalar: Any, name: str, *, slopes: bool = False) -> str:
    """A C function that replaces n numbers by a rule's values,
    and with `slopes` writes these too.

    The rule is an activation, which returns value and slope, or a link,
    which returns a value. In `name`, `$` stands for the file's prefix.
    """
    code = Code()
    real = C_TYPES[scalar]
    results = code.results(rule, "to_c", code.symbol(scalar, "x"))
    texts = [code.text(result, scalar) for result in results[: 1 + slopes]]
    lines = code.lines(*texts)
    targets = ["z[i]", "slope[i]"]
    body = [
        *lines,
        *(f"{target} = {text};" for target, text in zip(targets, texts, strict=False)),
    ]
    indented = "\n".join(f"        {line}" for line in body)
    more = f", {real} *$RESTRICT slope" * slopes
    return f"""static void {name}({real} *$RESTRICT z{more}, int n)
{{
    for (int i = 0; i < n; ++i) {{
        const {real} x = z[i];
{indented}
    }}
}}
"""


def numbers(array: Array) -> str:
    texts = [
        literal(number).strip("()") if number == number else "(double)NAN"
        for number in array.ravel()
    ]
    lines = [", ".join(texts[i : i + 8]) for i in range(0, len(texts), 8)]
    return "".join(f"\n    {line}," for line in lines) + "\n"


def rows_for(n: int, n_features: int, data: Any, dtype: Any, who: str) -> Array:
    """The first n rows of an array or a table; without data, rows of normal numbers."""
    if data is None:
        return np.random.default_rng(0).standard_normal((n, n_features)).astype(dtype)
    if frames.is_frame(data):
        whole = frames.numbers(data, np.dtype(dtype), who, "test_data")
    else:
        whole = data
    rows: Array = np.asarray(whole, dtype)[:n]
    if rows.ndim != 2 or rows.shape[1] != n_features or len(rows) == 0:
        raise ValueError(
            f"{who}: test_data must have shape (n_rows, {n_features}), got "
            f"{np.shape(data)}"
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"{who}: test_data must be finite")
    return rows


def predictions_of(model: Any, rows: Array) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows without names of columns
        if hasattr(model, "classes_"):
            predict = model.predict_proba
        else:
            predict = model.predict
        # Twice, as NumPy sums the members' mean of a single row in another order.
        predictions: Array = predict(np.repeat(rows, 2, axis=0)).reshape(
            2 * len(rows), -1
        )[::2]
    return predictions


def tests_of(
    rows: Array,
    predictions: Array,
    scalar: Any,
    number: Any,
    *,
    exact: bool,
    in_order: bool,
) -> tuple[str, str]:
    """The self-test with its rows and predictions, and the program that runs it.

    `scalar` is the type of the nets' numbers, `number` the type of rows and
    predictions. `exact` means equal bits with fused multiply-adds, if sums are
    `in_order`; sums of norms are not. Rows whose predictions are not finite are left
    out.
    """
    finite = np.isfinite(predictions).all(axis=1)
    if not finite.any():
        raise ValueError(
            "to_c: no prediction of the test rows is finite: give test_data, or tests=0"
        )
    rows = rows[finite]
    predictions = predictions[finite]
    loose = literal(number(TOLERANCES[scalar if exact else np.float32]))
    filled = {
        "@X": numbers(rows.astype(number)),
        "@Y": numbers(predictions.astype(number)),
        "@N": str(len(rows)),
        "@TOLERANCE": f"$FUSED{8 * scalar().itemsize} ? 0 : {loose}"
        if exact and in_order
        else loose,
        "@TINY": literal(number(np.finfo(scalar).tiny)),
    }
    test = replaced(TESTS, filled)
    if np.isnan(rows).any():
        test = test.replace("static const", "#include <math.h>\nstatic const", 1)
    return test, replaced(MAIN, filled)


def replaced(template: str, filled: dict[str, str]) -> str:
    for place, text in filled.items():
        template = template.replace(place, text)
    return template


class CText:
    """Parts of a C file, in order; a subclass has other rows, and another `predict`.

    Attributes
    ----------
    number : the type of a row's numbers and of predictions
    rules : functions of rules and links in the file, by name
    stack : bytes of numbers that a prediction has on the stack
    stack_of_row : such bytes for each row of a block
    """

    libraries = beside = ""

    def __init__(self, parts: Any, scalar: Any, prefix: str, *, gradient: bool) -> None:
        self.parts = parts
        self.scalar = scalar
        self.prefix = prefix
        self.gradient = gradient
        self.number: Any = scalar
        self.size = np.dtype(scalar).itemsize
        self.stack = 0
        self.stack_of_row = 0
        self.names: dict[Any, str] = {}
        self.rules: dict[str, str] = {}
        self.nets: list[str] = []
        for i, net in enumerate(parts.nets):
            self._add_net(i, core_of(net).engine.network, net.parameters)

    def named(self, text: str) -> str:
        """A text with the file's names for `$name`; `$$` is `$`."""

        def name(match: re.Match[str]) -> str:
            word = match[1]
            if word in ("$", "real", "number"):
                return {"$": "$", "real": C_TYPES[self.scalar]}.get(
                    word, C_TYPES[self.number]
                )
            return f"{self.prefix.upper() if word.isupper() else self.prefix}_{word}"

        return PLACE.sub(name, text)

    def rule(self, rule: Any, *, slopes: bool = False) -> str:
        """The name of a rule's function, which is added if missing."""
        key = rule, slopes
        if key not in self.names:
            word = re.sub(r"\W", "_", name_of(rule), flags=re.ASCII)
            name = f"$rule_{word}" + "_slopes" * slopes
            self.names[key] = name = name + f"_{len(self.names)}" * (name in self.rules)
            self.rules[name] = loop_of(rule, self.scalar, name, slopes=slopes)
        return self.names[key]

    def link(self, name: str) -> str:
        """The name of a link's function, which is added if missing."""
        if not losses.LINKS[name].by_row:
            return self.rule(losses.LINKS[name].rule)
        if name != "sorted":
            self.rule(exp if name == "softmax" else losses.deviation)
        self.rules[f"${name}"] = c_template.LINKS[name]
        return f"${name}"

    def _add_net(self, i: int, network: Network, parameters: NDArray[Any]) -> None:
        layout = network.layout
        flat = parameters.astype(self.scalar)
        sizes = layout.sizes
        last = layout.n_layers - 1
        for kind, views in (
            ("w", weight_views(layout, flat)),
            ("b", bias_views(layout, flat)),
            ("g", gain_views(layout, flat)),
            ("h", shift_views(layout, flat)),
        ):
            for k, array in enumerate(views):
                self.nets.append(
                    f"static const $real ${kind}{i}_{k}[] = {{{numbers(array)}}};\n"
                )
        widest = _widest(layout)
        buffers = ["z0", "z1"][:last]
        hidden = (len(buffers) + bool(layout.skips)) * widest
        self.stack = max(self.stack, hidden * self.size)
        of_row = (sizes[0] + hidden + sizes[-1]) * self.size
        self.stack_of_row = max(self.stack_of_row, of_row)
        slopes = [
            *(f"$real {name}[{widest}];" for name in buffers),
            *(f"$real s{k}[{n}];" for k, n in enumerate(sizes[1:])),
            f"$real d[{sizes[-1]}];",
        ]
        source = "x"
        for k, (n_in, n_out) in enumerate(pairwise(sizes)):
            target = "y" if k == last else buffers[k % 2]
            rule = network.activations[k]
            layer = (
                f"$layer($w{i}_{k}, $b{i}_{k}, {source}, {target}, {n_in}, {n_out});"
            )
            if self.gradient:
                slopes += [
                    layer,
                    f"{self.rule(rule, slopes=True)}({target}, s{k}, {n_out});",
                ]
            source = target
        linked = self._linked(network, "1")
        arguments = "(const $real *x, $real *y)"
        one, block = (self._passes(i, network, rows) for rows in ("1", "$BLOCK"))
        self.nets += [
            function_of(f"static void $net{i}{arguments}", one),
            of_block(function_of(f"static void $net{i}_block{arguments}", block)),
        ]
        if not self.gradient:
            return
        slopes += self._backward(i, sizes)
        # Slightly above the least deviation, which has no slope.
        floor = np.exp(self.scalar(losses.LEAST_LOG_VARIANCE) / 2)
        floor *= self.scalar(1.00001)
        filled = {"@HALF": literal(self.scalar(0.5)), "@FLOOR": literal(floor)}
        for link, first, n in slices_of(network):
            text = replaced(c_template.LINK_SLOPES[link], filled)
            self.rules[f"${link}_slopes"] = text
            y, jacobian = ("y", "jacobian")
            if first:
                y = f"y + {first}"
                jacobian = f"jacobian + {first * sizes[0]}"
            shape = f"{n}, {sizes[0]}"
            # Slopes of sorted outputs come before the link.
            place = 0 if link == "sorted" else len(linked)
            linked.insert(place, f"${link}_slopes({y}, {jacobian}, {shape});")
        head = (
            f"static void $net{i}_gradient(const $real *x, $real *y, $real *jacobian)"
        )
        self.nets.append(function_of(head, slopes + linked))

    def _passes(self, i: int, network: Network, rows: str) -> list[str]:
        """The statements of net i: layers, activations and link of a row or a block.

        `rows` is 1 or $BLOCK. In a block each number has a place for every row, as in
        z[n][rows].
        """
        layout = network.layout
        last = network.layout.n_layers - 1
        call, times = ("$layer", "") if rows == "1" else ("$layer_block", f" * {rows}")
        buffers = ["z0", "z1"][:last]
        widest = _widest(layout)
        if layout.skips:
            kept = ["kept"]
        else:
            kept = []
        lines = [f"$ALIGNED $real {it}[{widest}{times}];" for it in buffers + kept]
        source = "x"
        for k, (n_in, n_out) in enumerate(layout.shapes):
            target = "y" if k == last else buffers[k % 2]
            rule = network.activations[k]
            arrays = f"$w{i}_{k}, $b{i}_{k}, {source}, {target}"
            lines.append(f"{call}({arrays}, {n_in}, {n_out});")
            each = f"for (int j = 0; j < {n_out}{times}; ++j)"
            if layout.skips and layout.skips[k] >= 0:
                lines.append(f"{each} {target}[j] += kept[j];")
            lines += self._norms(i, layout, (k, False), target, rows)
            if rule is not identity:
                lines.append(f"{self.rule(rule)}({target}, {n_out}{times});")
            if k in layout.skips:
                lines.append(f"{each} kept[j] = {target}[j];")
            lines += self._norms(i, layout, (k, True), target, rows)
            if layout.takes_inputs and k == last - 1:
                place = f"{target}[{n_out}{times} + j]"
                of_inputs = f"for (int j = 0; j < {layout.sizes[0]}{times}; ++j)"
                lines.append(f"{of_inputs} {place} = x[j];")
            source = target
        return lines + self._linked(network, rows)

    def _norms(
        self, i: int, layout: Layout, where: tuple[int, bool], target: str, rows: str
    ) -> list[str]:
        """The statement of net i's norm in a layer,
        before or after its activation, if any.
        """
        lines = []
        n_shifts = 0
        for m, norm in enumerate(layout.norms):
            centred = norm.shifts >= 0
            if (norm.layer, norm.after) == where:
                filled = {"@B": str(8 * self.size)}
                self.rules["$norm"] = replaced(c_template.NORM, filled)
                shift = f"$h{i}_{n_shifts}" if centred else "0"
                numbers = f"{layout.sizes[norm.layer + 1]}, {literal(self.scalar(norm.epsilon))}"
                lines.append(f"$norm({target}, $g{i}_{m}, {shift}, {numbers}, {rows});")
            n_shifts += centred
        return lines

    def _linked(self, network: Network, rows: str) -> list[str]:
        """The statements that turn the raw outputs y into predictions."""
        lines = []
        for name, first, n in slices_of(network):
            y = f"y + {first} * {rows}" if first else "y"
            if losses.LINKS[name].by_row:
                n_rows = f", {rows}"
            else:
                n_rows = f" * {rows}"
            lines.append(f"{self.link(name)}({y}, {n}{n_rows});")
        return lines

    def _backward(self, i: int, sizes: tuple[int, ...]) -> list[str]:
        last = len(sizes) - 2
        n = sizes[-1]
        source = "d"
        self.rules["$back"] = c_template.BACK
        lines = [f"for (int j = 0; j < {n}; ++j) d[j] = j == o ? s{last}[j] : 0;"]
        for k in reversed(range(last + 1)):
            target, slopes = (
                (f"z{(k - 1) % 2}", f"s{k - 1}")
                if k
                else (f"jacobian + o * {sizes[0]}", "0")
            )
            shape = f"{sizes[k]}, {sizes[k + 1]}"
            lines.append(f"$back($w{i}_{k}, {source}, {slopes}, {target}, {shape});")
            source = target
        return [
            f"for (int o = 0; o < {n}; ++o) {{",
            *(f"    {line}" for line in lines),
            "}",
        ]

    def predict(self, *, gradient: bool) -> str:
        """The function that predicts, or that writes derivatives too."""
        head = "void $predict(const $real x[$INPUTS], $real y[$OUTPUTS])"
        of = ""
        more = ""
        if gradient:
            head = "void $gradient(const $real *x, $real *y, $real *jacobian)"
            of, more = "_gradient", ", jacobian"
        lines = [f"$net0{of}(x, y{more});"]
        if self.parts.complements:
            lines = [
                f"$net0{of}(x, y + 1{more and more + ' + $INPUTS'});",
                "y[0] = 1 - y[1];",
            ]
            if gradient:
                lines.append(
                    "for (int k = 0; k < $INPUTS; ++k) jacobian[k] = -jacobian[$INPUTS "
                    "+ k];"
                )
        return function_of(head, lines)

    def predict_block(self) -> str:
        """The function that predicts a block of rows."""
        parts = self.parts
        size = core_of(self.parts.net).state.layout.sizes[-1]
        first = int(parts.complements)
        lines = [
            f"$ALIGNED $real block[$INPUTS * $BLOCK], p[{size} * $BLOCK];",
            "$to_block(x, block, $INPUTS);",
            "$net0_block(block, p);",
            f"$to_rows(p, y + {first}, {size}, $OUTPUTS);",
        ]
        if parts.complements:
            line = "for (int r = 0; r < $BLOCK; ++r) y[2 * r] = 1 - y[2 * r + 1];"
            lines.append(line)
        return function_of(
            "static void $predict_block(const $real *x, $real *y)", lines
        )

    def helpers(self, code: str) -> str:
        """Functions of numbers' bits that the code calls."""
        include = "\n#ifndef __GNUC__\n#include <math.h>\n#endif\n"
        if "$sqrt" in code:
            texts = [include]
        else:
            texts = []
        for scalar in C_TYPES:
            bits = 8 * np.dtype(scalar).itemsize
            if scalar is not self.scalar and not re.search(rf"\$\w+{bits}\(", code):
                continue
            word = np.dtype(f"u{bits // 8}")
            end = "u" if bits == 32 else "ull"
            one, root = (int(scalar(x).view(word)) for x in (1.0, np.sqrt(0.5)))
            filled = {
                "@B": str(bits),
                "@T": C_TYPES[scalar],
                "@F": "f" * (bits == 32),
                "@PLACES": str(np.finfo(scalar).nmant),
                "@REST": f"0x{2 ** (bits - 1) - 1:x}{end}",
                "@SHIFT": f"{one - root}{end}",
                "@MAGIC": f"0x{int(magic(scalar).view(word)):x}{end}",
                "@ARM": "1" if bits == 32 else "(__ARM_FP & 8)",
            }
            texts.append(replaced(c_template.OF_BITS, filled))
        return "".join(texts)

    def text(self, kind: str, file: str, test: tuple[str, str]) -> str:
        """The whole file.

        `kind` is the model's class.
        `test` has the tests and the program that runs them, if any.
        """
        parts = self.parts
        more = self.declared()
        if test[0]:
            more.append(
                "int $self_test($number tolerance); /* failures; with $TEST defined */"
            )
        filled = {
            "@IN": str(parts.n_features),
            "@OUT": str(parts.n_outputs),
            "@STACK": str(self.stack),
            "@MOST": str(256 // self.size),
            "@FLOAT": str(int(self.size == 4)),
            "@EACH": str(self.stack_of_row),
            "@WIDE": str(int(self.stack_of_row > MOST_OF_ROW)),
            # Prefixes that differ in case only have equal macros.
            "@ID": f"0x{crc32(self.prefix.encode()):x}",
            "@PREFIX": self.prefix,
            "@MORE": "\n".join(more),
        }
        predict = self.predict(gradient=False)
        if self.gradient:
            predict += self.predict(gradient=True)
        code = "".join(self.rules.values())
        pieces = [
            self._comment(kind, file),
            "#ifndef $IMPLEMENTATION\n#define $IMPLEMENTATION\n#endif\n"
            * file.endswith(".c"),
            replaced(c_template.DECLARATIONS, filled),
            self.helpers(code),
            replaced(
                c_template.LAYER + c_template.LAYER_BLOCK, {"@B": str(8 * self.size)}
            ),
            code + "\n",
            *self.nets,
            predict,
            of_block(self.predict_block()),
            c_template.ROWS,
        ]
        if parts.classes is not None:
            names = f"const char *const $class_names[$CLASSES] = {{{texts_of(parts.classes)}}};\n"
            pieces += [self.class_of_row(), "\n" + names]
        return self.named("".join([*pieces, test[0], c_template.END, test[1]]))

    def class_of_row(self) -> str:
        """The function that returns the place of a row's class."""
        return replaced(c_template.CLASS, {"@WEIGHTED": ""})

    def declared(self) -> list[str]:
        """Declarations that not every model has."""
        more = []
        if self.parts.classes is not None:
            more += [
                f"#define $CLASSES {len(self.parts.classes)}",
                "/* The place of the predicted class in $class_names. */",
                "int $class(const $number x[$INPUTS]);",
                "extern const char *const $class_names[$CLASSES];",
            ]
        if self.gradient:
            more += [
                "/* y as $predict, and derivatives: jacobian[$OUTPUTS][$INPUTS], row "
                "by row. */",
                "void $gradient(const $real *x, $real *y, $real *jacobian);",
            ]
        return more

    def inputs(self) -> tuple[str, ...]:
        return self.parts.feature_names

    def _comment(self, kind: str, file: str) -> str:
        """The comment at the file's head: nets, use, inputs and outputs by name."""
        parts = self.parts
        file = _plain(file)
        nets = [core_of(net).engine.network for net in parts.nets]
        shapes = {
            f"{'-'.join(map(str, net.layout.sizes))}, activations "
            f"{', '.join(map(name_of, net.activations))}"
            for net in nets
        }
        lines = [
            f"{kind} of fastmlp {__version__}: "
            f"{count(len(parts.nets), 'net')}{self.beside}",
            *(f"    layers {shape}" for shape in sorted(shapes)),
            "",
            f'In one C or C++ file: #define $IMPLEMENTATION and #include "{file}"; in '
            f"others the",
            "include alone. To test it:",
            f"    cc -O3 -march=native -D$TEST_MAIN -x c {file} {self.libraries}&& "
            f"./a.out",
        ]
        for title, names in (("inputs", self.inputs()), ("outputs", parts.classes)):
            if names is not None and len(names):
                lines += [
                    "",
                    f"{title}:",
                    *(f"    {i}: {_plain(n)}" for i, n in enumerate(names)),
                ]
        return "/* " + "\n   ".join(lines) + "\n*/\n"


def slices_of(network: Network) -> list[tuple[str, int, int]]:
    """The name, first output and number of outputs of each link but the identity."""
    parts = network.link.parts
    if not parts:
        parts = ((losses.link_name(network.link), network.layout.sizes[-1]),)
    return [part for part in losses.link_slices(parts) if part[0] != "identity"]


def _widest(layout: Layout) -> int:
    """The most numbers of a hidden layer,
    with the inputs that the output layer takes.
    """
    return max((*layout.sizes[1:-1], *(n for n, _ in layout.shapes[1:])), default=0)


def texts_of(names: Iterable[object]) -> str:
    shown = "".join(f"\n    {_quoted(str(name))}," for name in names)
    return shown.replace("$", "$$") + "\n"


def function_of(head: str, lines: list[str]) -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return f"\n{head}\n{{\n{body}\n}}\n"


def of_block(text: str) -> str:
    """Code that is compiled where rows come in blocks."""
    return f"\n#if $BLOCK > 1{text}#endif\n"


def _plain(name: object) -> str:
    """A name in a comment: on one line, without an end of the comment."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))
    return (
        re.sub(r"(?<=/)\*|(?<=\*)/", r" \g<0>", text)
        .replace("$", "$$")
        .replace("??", "? ?")
    )


def _quoted(text: str) -> str:
    letters = (
        chr(c) if 32 <= c < 127 and chr(c) not in '"\\?' else f"\\{c:03o}"
        for c in text.encode(errors="backslashreplace")
    )
    return f'"{"".join(letters)}"'
