"""From Python to LLVM IR without Numba, for code that only counts, moves and calls.

The kernels work on numbers in registers and in memory, and on records. Numba's compiler took 3.5 s
of a first fit for them and left LLVM four times as much to clean up; here it takes 0.2 s.

What it understands: assignments, `if`, `while`, `for` over `range` and `prange`, calls of functions
and of `emitted` ones, arithmetic, comparisons, conditional expressions, fields of records, elements
of views and tables, tuples. A name has one type. A function that returns something becomes part of
its caller; any other stays a function.

What it refuses, with the line of the source: whatever else; a name that may not have a value where
it is used; an index that is known to be negative; a `prange` loop that assigns a name of outside,
returns or breaks. Numba then compiles the block. Not checked: an index that turns out negative.
"""

import ast
from types import FunctionType
from typing import Any

from llvmlite import ir

from fastmlp.compiler.operands import (
    INT64,
    WORD,
    Number,
    in_registers,
    kind_of,
    loaded,
    registers_of,
)
from fastmlp.compiler.source import grouped, n_words
from fastmlp.compiler.statements import Body

# On processors with AVX-512, LLVM keeps to half a register unless it is told; where vectors are
# shorter this changes nothing. llvmlite lists no such attribute, but prints it.
FULL_WIDTH = '"prefer-vector-width"="512"'


def translate(function: FunctionType, symbol: str) -> ir.Module:
    """Return a module that exports a function of integers, or of NamedTuples of them, returning
    nothing, as this symbol; the integers of a NamedTuple are passed one by one.

    Raises
    ------
    Unsupported
        Where the function, or one that it calls, is written in more than this knows.
    """
    unit = Unit()
    words = (Number(ir.Constant(WORD, 0), INT64),) * n_words(function)
    unit.define(function, grouped(function, words), symbol)
    return unit.module


class Unit:
    """A module, and the functions that are defined in it."""

    def __init__(self) -> None:
        self.module = ir.Module()
        self._defined: dict[Any, ir.Function] = {}

    def define(
        self, function: FunctionType, arguments: tuple[Any, ...], symbol: str = ""
    ) -> ir.Function:
        """Return a function, which returns nothing, for arguments of such kinds."""
        key = function, kind_of(arguments)
        if key not in self._defined:
            registers = registers_of(arguments)
            kind = ir.FunctionType(ir.VoidType(), [register.type for register in registers])
            name = symbol or f"{function.__name__}.{len(self._defined)}"
            self._defined[key] = made = ir.Function(self.module, kind, name)
            set.add(made.attributes, FULL_WIDTH)
            made.linkage = "" if symbol else "internal"
            builder = ir.IRBuilder(made.append_basic_block("entry"))
            Body(self, builder, function, in_registers(arguments, iter(made.args))).run()
            builder.ret_void()
        return self._defined[key]

    def define_loop(self, function: FunctionType, node: ast.For, captured: dict[str, Any]) -> Any:
        """Return the body of a `prange` loop as a function of the address of the names that it
        reads, the first count, the last, and the number of the thread."""
        kind = ir.FunctionType(ir.VoidType(), [WORD] * 4)
        name = f"{function.__name__}.{node.lineno}.{len(self._defined)}"
        made = ir.Function(self.module, kind, name)
        self._defined[function, node] = made
        set.add(made.attributes, FULL_WIDTH)
        made.linkage = "internal"
        builder = ir.IRBuilder(made.append_basic_block("entry"))
        environment, first, last, thread = made.args
        registers = loaded(builder, environment, list(captured.values()))
        operands = in_registers(tuple(captured.values()), iter(registers))
        body = Body(self, builder, function, operands, list(captured))
        body.run_loop(node, Number(first, INT64), Number(last, INT64), Number(thread, INT64))
        builder.ret_void()
        return made
