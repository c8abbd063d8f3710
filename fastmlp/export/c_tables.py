"""The text of a C file that predicts as a model of tables does: rows of numbers and codes."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastmlp.backends.cpu.predict.trees import TableTrees
from fastmlp.export import c_template
from fastmlp.export.c_rules import Code, literal, loop_of
from fastmlp.export.c_source import CText, function_of, texts_of
from fastmlp.export.c_tests import numbers, replaced
from fastmlp.export.table_parts import TableParts
from fastmlp.network.summary import name_of
from fastmlp.rules.columns import LevelStep, NumberStep
from fastmlp.rules.elementary import exp, logistic

# Levels that a comment names, and that are looked up by their texts, which are so long at most.
SHOWN, LOOKED_UP, LONGEST = 20, 5000, 500


class CTableText(CText):
    """The parts of the text of a C file of a model of tables.

    Its rows and predictions are float64, as of the library; encoders and nets compute as there.
    """

    libraries = "-lm "

    def __init__(self, parts: TableParts, scalar: Any, prefix: str) -> None:
        super().__init__(parts, scalar, prefix, gradient=False)
        self.number = np.float64
        self.widths: list[int] = []
        for i, steps in enumerate(parts.steps):
            self._add_encoding(i, steps)
        self.widest = max((net.layer_sizes[-1] for net in parts.nets), default=1)
        self.stack += (max(self.widths, default=1) + self.widest) * self.size
        if parts.trees is not None:
            self._add_trees(parts.trees)
        texts = [str(level) for levels in parts.levels for level in levels]
        self.looks_up = 0 < len(texts) <= LOOKED_UP and max(map(len, texts)) <= LONGEST
        if self.looks_up:
            starts = np.cumsum([0, *map(len, parts.levels)]).tolist()
            # The texts last: they may have the name of a place.
            filled = {"@STARTS": ", ".join(map(str, starts)), "@NAMES": texts_of(texts)}
            self.nets.append(replaced(c_template.CODE, filled))

    def _add_encoding(self, i: int, steps: Iterable[NumberStep | LevelStep]) -> None:
        """Add the constants of an encoding, and the function that makes a net's inputs."""
        lines, first = list[str](), 0
        for k, step in enumerate(steps):
            columns = self._array(f"c{i}_{k}", "int", step.columns)
            if isinstance(step, NumberStep):
                constants = ""
                if step.constants.size:
                    name = self._array(f"k{i}_{k}", "double", step.constants)
                    constants = f", {name}"
                n = step.n_inputs
                lines.append(f"{self._rule(step)}(x, {columns}{constants}, z + {first}, {n});")
            else:
                n, self.rules["$levels"] = step.n_inputs, c_template.LEVELS
                arrays = (
                    self._array(f"s{i}_{k}", "int", step.starts),
                    self._array(f"i{i}_{k}", "int", step.inputs),
                    self._array(f"v{i}_{k}", "$real", step.constants.astype(self.scalar)),
                )
                lines += [
                    f"for (int j = 0; j < {n}; ++j) z[{first} + j] = 0;",
                    f"$levels(x, {columns}, {len(step.columns)}, {', '.join(arrays)}, "
                    f"{step.constants.shape[1]}, z + {first});",
                ]
            first += n
        self.widths.append(first)
        self.nets.append(function_of(f"static void $inputs{i}(const $number *x, $real *z)", lines))

    def _add_trees(self, trees: TableTrees) -> None:
        """Add the nodes of boosted trees, and the functions that predict by them."""
        n, kinds = trees.n_outputs, {"sets": "uint32_t", "numbers": "double"}
        # An array must not be empty.
        sets = np.append(trees.nodes.sets, 0).astype(np.int32).view(np.uint32)
        nodes = trees.nodes._replace(sets=sets)
        for name, array in {**nodes._asdict(), "n_levels": trees.n_levels}.items():
            self._array(f"tree_{name}", kinds.get(name, "int"), array)
        filled = {"@OUTPUTS": str(n), "@TREES": str(len(nodes.roots))}
        self.nets.append(replaced(c_template.TREES, filled))
        self.stack += n * 8
        self.beside = ", and boosted trees"
        if n > 1:
            self.rules["$tree_exp"] = loop_of(exp, np.float64, "$tree_exp")
            named = {"$softmax": "$tree_link", "$rule_exp": "$tree_exp", "$real": "double"}
            self.rules["$tree_link"] = replaced(c_template.LINKS["softmax"], named)
        elif len(trees.classes) > 1:
            self.rules["$tree_link"] = loop_of(logistic, np.float64, "$tree_link")

    def _array(self, name: str, kind: str, array: Any) -> str:
        """Add a constant array; return its name in the text."""
        if array.dtype.kind in "iu":
            texts = list(map(str, array.ravel().tolist()))
            lines = [", ".join(texts[i : i + 16]) for i in range(0, len(texts), 16)]
            shown = "".join(f"\n    {line}," for line in lines) + "\n"
        else:
            shown = numbers(array)
        self.nets.append(f"static const {kind} ${name}[] = {{{shown}}};\n")
        return f"${name}"

    def _rule(self, step: NumberStep) -> str:
        """The name of the function of a rule of numbers, which is added if it is not there."""
        name, n = f"$column_{name_of(step.rule)}", step.constants.shape[1]
        code = Code()
        names = ["x", *(f"k[{j}]" for j in range(n))]
        result = code.call(step.rule, *(code.symbol(np.float64, word) for word in names))
        text = code.text(result, self.scalar)
        body = "\n".join(f"        {line}" for line in code.lines(text))
        constants, next_ = (", const double *k", f", k += {n}") if n else ("", "")
        self.rules[name] = f"""
static void {name}(const double *row, const int *column{constants},
                   $real *z, int n)
{{
    for (int i = 0; i < n; ++i{next_}) {{
        const double x = row[column[i]];
{body}
        z[i] = {text};
    }}
}}
"""
        return name

    def predict(self, *, gradient: bool) -> str:
        """The function that predicts: the weighted mean of the nets and the trees."""
        parts, encoding, n = self.parts, None, self.widest
        lines = ["for (int j = 0; j < $OUTPUTS; ++j) y[j] = 0;"]
        if parts.members:
            lines.insert(0, f"$real z[{max(self.widths)}], p[{n}];")
        for i, member in enumerate(parts.members):
            if member.encoding != encoding:
                encoding = member.encoding
                lines.append(f"$inputs{encoding}(x, z);")
            weight = literal(np.float64(member.weight))
            lines += [f"$net{i}(z, p);", f"$add(p, {weight}, y);"]
        if parts.classes is None:
            scale, center, low, high = (
                literal(np.float64(number))
                for number in (parts.scale, parts.center, parts.low, parts.high)
            )
            added = [
                f"const double v = (double)p[0] * {scale} + {center};",
                f"y[0] += weight * (v < {low} ? {low} : v > {high} ? {high} : v);",
            ]
        elif n == 1:
            added = ["y[0] += weight * (1 - (double)p[0]);", "y[1] += weight * (double)p[0];"]
        else:
            added = ["for (int j = 0; j < $OUTPUTS; ++j) y[j] += weight * (double)p[j];"]
        if parts.trees is not None:
            lines += self._weighted_trees(parts.trees)
        whole = ""
        if parts.classes is not None:
            whole = c_template.SUM
            lines += [
                "const double total = $sum(y, $OUTPUTS);",
                "for (int j = 0; j < $OUTPUTS; ++j) y[j] /= total;",
            ]
        add = function_of("static void $add(const $real *p, double weight, double *y)", added)
        return (
            (add if parts.members else "")
            + whole
            + function_of("void $predict(const $number x[$INPUTS], $number y[$OUTPUTS])", lines)
        )

    def _weighted_trees(self, trees: TableTrees) -> list[str]:
        """The statements that add the predictions of boosted trees."""
        weight, n = literal(np.float64(trees.weight)), trees.n_outputs
        lines, terms = [f"double t[{n}];", "$trees(x, t);"], [f"t[{j}]" for j in range(n)]
        if len(trees.classes) > 1:
            lines.append(f"$tree_link(t, {n});")
            terms = terms if n > 1 else ["(1 - t[0])", "t[0]"]
        pairs = zip(trees.classes.tolist(), terms, strict=True)
        return lines + [f"y[{place}] += {weight} * {term};" for place, term in pairs]

    def declared(self) -> list[str]:
        """The declarations that not every model has: places of columns, and codes of levels."""
        names: list[str] = []
        for name in self.parts.feature_names:
            word = "$X_" + re.sub(r"\W", "_", name, flags=re.ASCII).upper()
            while word in names:
                word += "_"
            names.append(word)
        more = ["/* The places of the columns in a row. */", f"enum {{ {', '.join(names)} }};"]
        if self.looks_up:
            more += [
                "/* The code of a level in a column, by its text; -1: unknown. */",
                "int $code(int column, const char *level);",
            ]
        return [*more, *super().declared()]

    def inputs(self) -> tuple[str, ...]:
        """The names of the numbers of a row, with their levels."""
        return tuple(map(_described, self.parts.feature_names, self.parts.levels))


def _described(name: str, levels: tuple[Any, ...]) -> str:
    if not levels:
        return f"{name}, a number; NAN where it is missing"
    shown = ", ".join(f"{code} {level}" for code, level in enumerate(levels[:SHOWN]))
    more = f" and {len(levels) - SHOWN} more" if len(levels) > SHOWN else ""
    return f"{name}, a level: {shown}{more}; -1 where it is missing or unknown"
