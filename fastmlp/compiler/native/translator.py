"""The translator: from a subset of Python to LLVM IR, without Numba's frontend.

Kernels work on numbers in registers and in memory, and on records. Numba's frontend took 3.5 s of a
first fit, and gave LLVM four times as much to optimize; the translator takes 0.2 s.

It understands assignments, `if`, `while`, `for` over `range` and `prange`, calls of functions and
of `emitted` functions, arithmetic, comparisons, conditional expressions, fields of records,
elements of views and tables, and tuples. A name has one type. A function that returns a value is
inlined in its caller.

It refuses, with the source's line, everything else: a name that may have no value, a negative
constant index, a `prange` loop that assigns an outer name, returns or breaks. Numba then compiles
the block. Indices are not checked.
"""

import ast
from types import FunctionType
from typing import Any

from llvmlite import ir

from fastmlp.compiler.native.emitters import declared
from fastmlp.compiler.native.operands import (
    ARRAY,
    BOOL,
    FLOAT64,
    INT64,
    WORD,
    Number,
    RecordOperand,
    converted,
    in_registers,
    kind_of,
    loaded,
    registers_of,
)
from fastmlp.compiler.native.statements import Body
from fastmlp.compiler.source import Fields, grouped, hints_of, integers_of, is_entry, n_words

# With AVX-512, LLVM uses half a register unless this attribute is set. llvmlite does not list the
# attribute, but prints it.
FULL_WIDTH = '"prefer-vector-width"="512"'


def translate(function: FunctionType, symbol: str) -> Any:
    """Return a module that exports a function without a result as `symbol`.

    Arguments are integers, or NamedTuples of integers, which are passed one by one.
    """
    hints = hints_of(function)
    unit = Unit(hints.zeros)
    if is_entry(function):
        unit.define_entry(function, symbol)
        return unit.module
    words = (Number(ir.Constant(WORD, 0), INT64),) * n_words(function)
    unit.define(function, grouped(function, words), symbol)
    if hints.control:
        unit.inline_once_called()
    return unit.module


class Unit:
    """A module, and the functions defined in it."""

    def __init__(self, zeros: Fields) -> None:
        self.module: Any = ir.Module()
        self.zeros = {kind.dtype: frozenset(names) for kind, names in zeros.items()}
        self._defined: dict[Any, ir.Function] = {}
        self._n_calls: dict[ir.Function, int] = {}

    def define(self, function: FunctionType, arguments: tuple[Any, ...], symbol: str = "") -> Any:
        """Return the LLVM function for arguments of these kinds."""
        key = function, kind_of(arguments)
        if key not in self._defined:
            kinds = [register.type for register in registers_of(arguments)]
            name = symbol or f"{function.__name__}.{len(self._defined)}"
            made, builder = self._begin(name, kinds, "" if symbol else "internal")
            self._defined[key] = made
            Body(self, builder, function, in_registers(arguments, iter(made.args))).run()
            builder.ret_void()
        made = self._defined[key]
        self._n_calls[made] = self._n_calls.get(made, 0) + 1
        return made

    def define_entry(self, function: FunctionType, symbol: str) -> None:
        """Define a function of integers and arrays, with a result, for Python's convention
        METH_FASTCALL."""
        kind = ir.FunctionType(WORD, [WORD, WORD, WORD])
        made = ir.Function(self.module, kind, symbol)
        builder = ir.IRBuilder(made.append_basic_block("entry"))
        objects = builder.inttoptr(made.args[1], WORD.as_pointer())
        arguments: list[Any] = []
        for i, is_integer in enumerate(integers_of(function)):
            place = builder.gep(objects, [ir.Constant(WORD, i)], source_etype=WORD)
            value = builder.load(place)
            if is_integer:
                to_word = declared(builder, "PyLong_AsSsize_t", ir.FunctionType(WORD, [WORD]))
                arguments.append(Number(builder.call(to_word, [value]), INT64))
            else:
                arguments.append(RecordOperand(value, ARRAY))
        result = Body(self, builder, function, tuple(arguments)).run()
        if result.dtype == BOOL:
            name, result = "PyBool_FromLong", converted(builder, result, INT64)
        else:
            name, result = "PyFloat_FromDouble", converted(builder, result, FLOAT64)
        to_object = declared(builder, name, ir.FunctionType(WORD, [result.value.type]))
        builder.ret(builder.call(to_object, [result.value]))

    def inline_once_called(self) -> None:
        for made, n in self._n_calls.items():
            if n == 1 and made.linkage == "internal":
                made.attributes.add("alwaysinline")

    def define_loop(
        self, function: FunctionType, node: ast.For, captured: dict[str, Any]
    ) -> tuple[ir.Function, ir.Function]:
        """Return the body of a `prange` loop as two LLVM functions.

        One takes the `captured` names in registers, the other the address of their struct; then
        both take the first count, the count after the last, and the thread's number. A thread alone
        calls the first: 0.250 -> 0.241 us (2-4-1@4).
        """
        operands = tuple(captured.values())
        kinds = [register.type for register in registers_of(operands)]
        name = f"{function.__name__}.{node.lineno}.{len(self._defined)}"
        direct, builder = self._begin(name, [*kinds, WORD, WORD, WORD])
        self._defined[function, node] = direct
        *registers, first, last, thread = direct.args
        names = in_registers(operands, iter(registers))
        body = Body(self, builder, function, names, list(captured))
        body.run_loop(node, Number(first, INT64), Number(last, INT64), Number(thread, INT64))
        builder.ret_void()
        shared, builder = self._begin(f"{name}.shared", [WORD] * 4)
        environment, *counts = shared.args
        builder.call(direct, [*loaded(builder, environment, operands), *counts])
        builder.ret_void()
        return direct, shared

    def _begin(self, name: str, kinds: list[Any], linkage: str = "internal") -> Any:
        made = ir.Function(self.module, ir.FunctionType(ir.VoidType(), kinds), name)
        set.add(made.attributes, FULL_WIDTH)
        made.linkage = linkage
        return made, ir.IRBuilder(made.append_basic_block("entry"))
