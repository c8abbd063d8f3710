"""to_c: a model as one C file, without dependencies;
models of tables take numbers and codes.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastmlp.backends.cpu.predict.trees import TreeNodes
from fastmlp.export import c_source, c_template
from fastmlp.export import fortran as fortran_module
from fastmlp.export.models import TableParts, is_of_tables, parts_of
from fastmlp.model import core_of
from fastmlp.network.residual import require_plain
from fastmlp.network.spec import name_of
from fastmlp.rules.columns import LevelStep, NumberStep
from fastmlp.rules.elementary import exp, logistic
from fastmlp.serialization import files
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained

# Levels that a comment names, and that are looked up by text, of at most this length.
SHOWN = 20
LOOKED_UP = 5000
LONGEST_LINE = 500
WHO = "to_c"
MOST_PARAMETERS = 1_000_000
C_DTYPES = {"float32": np.float32, "float64": np.float64}
PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class CTableText(c_source.CText):
    """Parts of a C file of a model of tables.

    Rows and predictions are float64, as in the library.
    """

    libraries = "-lm "

    def __init__(self, parts: TableParts, scalar: Any, prefix: str) -> None:
        super().__init__(parts, scalar, prefix, gradient=False)
        self.number = np.float64
        self.widths: list[int] = []
        for i, steps in enumerate(parts.steps):
            self._add_encoding(i, steps)
        self.widest = max((net.layer_sizes[-1] for net in parts.nets), default=1)
        widths = (max(self.widths, default=1) + self.widest) * self.size
        self.stack += widths
        self.stack_of_row += widths
        if parts.trees is not None:
            self._add_trees(parts.trees)
        texts = [str(level) for levels in parts.levels for level in levels]
        self.looks_up = (
            0 < len(texts) <= LOOKED_UP and max(map(len, texts)) <= LONGEST_LINE
        )
        if self.looks_up:
            starts = np.cumsum([0, *map(len, parts.levels)]).tolist()
            # The texts come last: they may have the name of an entry.
            filled = {
                "@STARTS": ", ".join(map(str, starts)),
                "@NAMES": c_source.texts_of(texts),
            }
            self.nets.append(c_source.replaced(c_template.CODE, filled))

    def _add_encoding(self, i: int, steps: Iterable[NumberStep | LevelStep]) -> None:
        """Add a C function that writes the inputs of one encoding, step by step.

        Each step writes its inputs from z + first on.
        """
        lines = list[str]()
        first = 0
        for k, step in enumerate(steps):
            columns = self._array(f"c{i}_{k}", "int", step.columns)
            if isinstance(step, NumberStep):
                constants = ""
                if step.constants.size:
                    name = self._array(f"k{i}_{k}", "double", step.constants)
                    constants = f", {name}"
                n = step.n_inputs
                lines.append(
                    f"{self._rule(step)}(x, {columns}{constants}, z + {first}, {n});"
                )
            else:
                n = step.n_inputs
                self.rules["$levels"] = c_template.LEVELS
                arrays = (
                    self._array(f"s{i}_{k}", "int", step.starts),
                    self._array(f"i{i}_{k}", "int", step.inputs),
                    self._array(
                        f"v{i}_{k}", "$real", step.constants.astype(self.scalar)
                    ),
                )
                lines += [
                    f"for (int j = 0; j < {n}; ++j) z[{first} + j] = 0;",
                    f"$levels(x, {columns}, {len(step.columns)}, {', '.join(arrays)}, "
                    f"{step.constants.shape[1]}, z + {first});",
                ]
            first += n
        self.widths.append(first)
        self.nets.append(
            c_source.function_of(
                f"static void $inputs{i}(const $number *x, $real *z)", lines
            )
        )

    def _add_trees(self, trees: TreeNodes) -> None:
        n = trees.n_outputs
        kinds = {"sets": "uint32_t", "numbers": "double"}
        # An array must not be empty.
        sets = np.append(trees.sets, 0).astype(np.int32).view(np.uint32)
        for name, array in {
            **trees.arrays,
            "sets": sets,
            "n_levels": trees.n_levels,
        }.items():
            self._array(f"tree_{name}", kinds.get(name, "int"), array)
        filled = {"@OUTPUTS": str(n), "@TREES": str(len(trees.roots))}
        self.nets.append(c_source.replaced(c_template.TREES, filled))
        self.stack += n * 8
        self.beside = ", and boosted trees"
        if n > 1:
            self.rules["$tree_exp"] = c_source.loop_of(exp, np.float64, "$tree_exp")
            named = {
                "$softmax": "$tree_link",
                "$rule_exp": "$tree_exp",
                "$real": "double",
            }
            self.rules["$tree_link"] = c_source.replaced(
                c_template.LINKS["softmax"], named
            )
        elif len(trees.classes) > 1:
            self.rules["$tree_link"] = c_source.loop_of(
                logistic, np.float64, "$tree_link"
            )

    def _array(self, name: str, kind: str, array: Any) -> str:
        if array.dtype.kind in "iu":
            texts = list(map(str, array.ravel().tolist()))
            lines = [", ".join(texts[i : i + 16]) for i in range(0, len(texts), 16)]
            shown = "".join(f"\n    {line}," for line in lines) + "\n"
        else:
            shown = c_source.numbers(array)
        self.nets.append(f"static const {kind} ${name}[] = {{{shown}}};\n")
        return f"${name}"

    def _rule(self, step: NumberStep) -> str:
        """The name of the C function of a rule of columns, which is added to the file.

        The function has one row of constants for each column.
        """
        name = f"$column_{name_of(step.function)}"
        n = step.constants.shape[1]
        code = c_source.Code()
        names = ["x", *(f"k[{j}]" for j in range(n))]
        result = code.call(
            step.function, *(code.symbol(np.float64, word) for word in names)
        )
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
        """The function that predicts: the weighted mean of nets and trees."""
        parts = self.parts
        encoding = None
        n = self.widest
        lines = ["for (int j = 0; j < $OUTPUTS; ++j) y[j] = 0;"]
        if parts.members:
            lines.insert(0, f"$real z[{max(self.widths)}], p[{n}];")
        for i, (_, place, share) in enumerate(parts.members):
            if place != encoding:
                encoding = place
                lines.append(f"$inputs{encoding}(x, z);")
            weight = c_source.literal(np.float64(share))
            lines += [f"$net{i}(z, p);", f"$add(p, {weight}, y);"]
        if parts.classes is None:
            scale, center, low, high = (
                c_source.literal(np.float64(number))
                for number in (parts.scale, parts.center, parts.low, parts.high)
            )
            added = [
                f"const double v = (double)p[0] * {scale} + {center};",
                f"y[0] += weight * (v < {low} ? {low} : v > {high} ? {high} : v);",
            ]
        elif n == 1:
            added = [
                "y[0] += weight * (1 - (double)p[0]);",
                "y[1] += weight * (double)p[0];",
            ]
        else:
            added = [
                "for (int j = 0; j < $OUTPUTS; ++j) y[j] += weight * (double)p[j];"
            ]
        end = self._end()
        if end:
            lines.append("$end(x, y);")
        add = "static void $add(const $real *p, double weight, double *y)"
        texts = [
            c_source.function_of(add, added) if parts.members else "",
            "" if parts.classes is None else c_template.SUM,
            c_source.function_of("static void $end(const double *x, double *y)", end)
            if end
            else "",
            c_source.function_of(
                "void $predict(const $number x[$INPUTS], $number y[$OUTPUTS])", lines
            ),
        ]
        return "".join(texts)

    def _end(self) -> list[str]:
        """The statements after the members: trees,
        and the sum of probabilities, if any.
        """
        trees = self.parts.trees
        of_classes = self.parts.classes is not None
        if trees is None:
            lines = []
        else:
            lines = self._weighted_trees(trees)
        if of_classes:
            lines += [
                "const double total = $sum(y, $OUTPUTS);",
                "for (int j = 0; j < $OUTPUTS; ++j) y[j] /= total;",
            ]
            lines += ["(void)x;"] * (trees is None)
        return lines

    def class_of_row(self) -> str:
        decisions = self.parts.decisions
        lines = ""
        if decisions is not None and (decisions != 1).any():
            # The largest weighted output is the row's class.
            products = [
                f"y[{j}] *= {c_source.literal(weight)};"
                for j, weight in enumerate(decisions)
                if weight != 1
            ]
            lines = "".join(f"\n    {line}" for line in products)
        return c_source.replaced(c_template.CLASS, {"@WEIGHTED": lines})

    def predict_block(self) -> str:
        """The function that predicts a block of rows, member by member."""
        parts = self.parts
        encoding = None
        n = self.widest
        each = "for (int r = 0; r < $BLOCK; ++r)"
        lines = ["for (int j = 0; j < $BLOCK * $OUTPUTS; ++j) y[j] = 0;"]
        if parts.members:
            width = max(*self.widths, n)
            lines += [
                f"$real row[{width}];",
                f"$ALIGNED $real z[{max(self.widths)} * $BLOCK], p[{n} * $BLOCK];",
            ]
        for i, (net, place, share) in enumerate(parts.members):
            if place != encoding:
                encoding = place
                lines += [
                    f"{each} {{",
                    f"    $inputs{place}(x + r * $INPUTS, row);",
                    f"    for (int k = 0; k < {self.widths[place]}; ++k) {{",
                    "        z[k * $BLOCK + r] = row[k];",
                    "    }",
                    "}",
                ]
            weight = c_source.literal(np.float64(share))
            lines += [
                f"$net{i}_block(z, p);",
                f"{each} {{",
                f"    for (int j = 0; j < {net.layer_sizes[-1]}; ++j) {{",
                "        row[j] = p[j * $BLOCK + r];",
                "    }",
                f"    $add(row, {weight}, y + r * $OUTPUTS);",
                "}",
            ]
        if self._end():
            lines.append(f"{each} $end(x + r * $INPUTS, y + r * $OUTPUTS);")
        head = "static void $predict_block(const $number *x, $number *y)"
        return c_source.function_of(head, lines)

    def _weighted_trees(self, trees: TreeNodes) -> list[str]:
        weight = c_source.literal(np.float64(trees.weight))
        n = trees.n_outputs
        lines = [f"double t[{n}];", "$trees(x, t);"]
        terms = [f"t[{j}]" for j in range(n)]
        if len(trees.classes) > 1:
            lines.append(f"$tree_link(t, {n}{', 1' * (n > 1)});")
            terms = terms if n > 1 else ["(1 - t[0])", "t[0]"]
        pairs = zip(trees.classes.tolist(), terms, strict=True)
        return lines + [f"y[{place}] += {weight} * {term};" for place, term in pairs]

    def declared(self) -> list[str]:
        names: list[str] = []
        for name in self.parts.feature_names:
            word = "$X_" + re.sub(r"\W", "_", name, flags=re.ASCII).upper()
            while word in names:
                word += "_"
            names.append(word)
        more = [
            "/* The places of the columns in a row. */",
            f"enum {{ {', '.join(names)} }};",
        ]
        if self.looks_up:
            more += [
                "/* The code of a level in a column, by its text; -1: unknown. */",
                "int $code(int column, const char *level);",
            ]
        return [*more, *super().declared()]

    def inputs(self) -> tuple[str, ...]:
        return tuple(map(_described, self.parts.feature_names, self.parts.levels))


def _described(name: str, levels: tuple[Any, ...]) -> str:
    if not levels:
        return f"{name}, a number; NAN where it is missing"
    shown = ", ".join(f"{code} {level}" for code, level in enumerate(levels[:SHOWN]))
    if len(levels) > SHOWN:
        more = f" and {len(levels) - SHOWN} more"
    else:
        more = ""
    return f"{name}, a level: {shown}{more}; -1 where it is missing or unknown"


@explained
def to_c(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    prefix: str = "model",
    tests: int = 10,
    test_data: Any = None,
    dtype: str | None = None,
    gradient: bool = False,
    fortran: str | os.PathLike[str] | None = None,
) -> str:
    """One self-contained C file that predicts as a model does, and tests itself.

    The file is C99 and C++17. One including file first defines
    ``PREFIX_IMPLEMENTATION``; others get declarations only. Weights are constants and
    work is on the stack, without allocation: any number of threads may call at once.
    With fused multiply-adds, as with ``-march=native``, numbers equal the model's to
    the bit, else to rounding.

    A row of a model of tables is double, as from `TabularMLPClassifier.codes`. Missing
    numbers are NAN, and missing or unknown levels -1. The file names columns and
    levels, and ``prefix_code`` looks up a level's code by text.

    Parameters
    ----------
    model : MLP, or a fitted estimator, search or model of tables of fastmlp
        A pipeline of scalers is folded before: ``to_c(fold(pipeline))``.
    path : path, optional
        Written whole or not at all. A file ``.c`` needs no define.
    prefix : str
        The start of all names, as in ``model_predict`` and ``MODEL_INPUTS``.
    tests : int
        Number of rows, with the model's predictions, for the self-test; 0: no tests.
    test_data : array_like of shape (n_rows, n_features), or for a model of tables a table, optional
        Rows for the self-test, the first are taken;
        None: normal numbers, and drawn levels.
    dtype : {"float32", "float64"}, optional
        The precision of the C code; default: the model's.
    gradient : bool
        Add ``prefix_gradient``: the derivatives of all outputs with respect to all
        inputs.
    fortran : path, optional
        A module for Fortran 2008, written after the C file, which it calls:
        interfaces, kinds and the places of columns. `path` is needed then.

    Returns
    -------
    str
        The text of the file.

    Raises
    ------
    TypeError
        If it is another model, or an argument has the wrong type.
    ValueError
        If the model is not fitted, has more than a million parameters or one that is
        not finite, or an argument has a wrong value.
    NotImplementedError
        If your activation uses more than arithmetic, ``a if c else b`` and functions of
        `fastmlp.rules.elementary`, or a model of tables has members of `extra_members`.
    OSError
        If the file cannot be written; an old file is unchanged.

    Examples
    --------
    >>> from fastmlp import MLP, to_c
    >>> text = to_c(MLP((2, 4, 1), seed=0), prefix="net")
    >>> "void net_predict(const float x[NET_INPUTS], float y[NET_OUTPUTS]);" in text
    True
    """
    of_table = is_of_tables(model)
    parts: Any = model._table_parts(WHO) if of_table else parts_of(model, WHO)
    if path is not None:
        scalars.path(WHO, "path", path, mode="w")
    _check_prefix(prefix)
    if fortran is not None:
        _check_fortran(fortran, path, prefix)
    scalars.non_negative_integer(WHO, "tests", tests)
    if not tests and test_data is not None:
        raise ValueError(
            f"{WHO}: test_data has the rows of the test, which tests=0 leaves out"
        )
    scalars.boolean(WHO, "gradient", gradient)
    networks = [core_of(net).engine.network for net in parts.nets]
    for network in networks if gradient else ():
        require_plain(network, f"{WHO}: gradient=True", "fastmlp.jacobian takes it")
    if dtype is not None:
        scalars.known(WHO, "dtype", dtype, C_DTYPES)
    n_parameters = sum(net.parameters.size for net in parts.nets)
    n_parameters += parts.n_constants if of_table else 0
    if n_parameters > MOST_PARAMETERS:
        raise ValueError(
            f"{WHO}: the model has {n_parameters} parameters, and a C file holds at "
            f"most {MOST_PARAMETERS}: fastmlp.to_onnx has no such limit"
        )
    if gradient and of_table:
        raise NotImplementedError(
            f"{WHO}: gradient=True is for nets; levels of a model of tables have no "
            "slopes: fastmlp.shap_values attributes its predictions to its columns"
        )
    if not all(np.isfinite(net.parameters).all() for net in parts.nets):
        raise ValueError(f"{WHO}: a parameter is not finite")
    kind = np.result_type(np.float32, *(net.dtype for net in parts.nets))
    scalar = kind.type if dtype is None else C_DTYPES[dtype]
    if of_table:
        source: c_source.CText = CTableText(parts, scalar, prefix)
    else:
        source = c_source.CText(parts, scalar, prefix, gradient=gradient)
    test = ("", "")
    if tests and of_table:
        if test_data is None:
            rows = parts.drawn(tests)
        else:
            rows = model.codes(test_data)[:tests]
        if not len(rows):
            raise ValueError(f"{WHO}: test_data has no rows")
        exact = kind == scalar
        test = c_source.tests_of(
            rows, model._of_codes(rows), scalar, np.float64, exact=exact, in_order=True
        )
        if parts.trees is not None and len(parts.trees.classes) > 1:
            # Probabilities of trees are of double.
            test = test[0], test[1].replace("$FUSED32", "$FUSED32 && $FUSED64")
    elif tests:
        # Numbers of the lower precision are the same in both.
        least = min(kind.type, scalar, key=np.dtype)
        rows = c_source.rows_for(tests, parts.n_features, test_data, least, WHO).astype(
            kind
        )
        forms = {
            "exact": kind == scalar,
            "in_order": not any(network.layout.norms for network in networks),
        }
        predictions = c_source.predictions_of(model, rows)
        test = c_source.tests_of(rows, predictions, scalar, scalar, **forms)
    if path is None:
        name = f"{prefix}.h"
    else:
        name = os.path.basename(os.fspath(path))
    text = source.text(f"{type(model).__name__}", name, test)
    if path is not None:
        with files.writing(path) as file:
            file.write(text.encode())
    if fortran is not None:
        place = os.path.basename(os.fspath(fortran))
        module = fortran_module.module_of(source, name, place)
        with files.writing(fortran) as file:
            file.write(module.encode())
    return text


def _check_prefix(prefix: object) -> None:
    if not isinstance(prefix, str) or not PREFIX.fullmatch(prefix):
        raise ValueError(
            f"{WHO}: prefix must begin a name in C, such as 'model', got {prefix!r}"
        )


def _check_fortran(fortran: Any, path: Any, prefix: str) -> None:
    scalars.path(WHO, "fortran", fortran, mode="w")
    if path is None:
        raise ValueError(
            f"{WHO}: fortran= needs path=, the C file that the module of Fortran calls"
        )
    if os.path.abspath(fortran) == os.path.abspath(path):
        raise ValueError(f"{WHO}: path and fortran are one file, {path}")
    longest = fortran_module.LONGEST_PREFIX
    if len(prefix) > longest:
        raise ValueError(
            f"{WHO}: with fortran=, prefix has at most {longest} characters, got "
            f"{len(prefix)}"
        )
