"""The translator: from a subset of Python to LLVM IR, without Numba's frontend.

Kernels work on numbers in registers and in memory, and on records. Numba's frontend took 3.5 s of a
first fit for them, and gave LLVM four times as much to optimize; the translator takes 0.2 s.

It understands assignments, `if`, `while`, `for` over `range` and `prange`, calls of functions and
of `emitted` functions, arithmetic, comparisons, conditional expressions, fields of records,
elements of views and tables, and tuples. A name has one type. A function that returns a value is
inlined in its caller; any other function stays a function.

It refuses, with the line of the source, everything else: a name that may have no value where it is
used, an index that is a negative constant, a `prange` loop that assigns a name of outside, returns
or breaks. Numba then compiles the block. It does not check that an index is in range.
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

# With AVX-512, LLVM uses half a register unless this attribute is set; with shorter vectors it
# changes nothing. llvmlite does not list the attribute, but prints it.
FULL_WIDTH = '"prefer-vector-width"="512"'


def translate(function: FunctionType, symbol: str) -> ir.Module:
    """Return a module that exports a function without a result as `symbol`.

    Its arguments are integers, or NamedTuples of integers, which are passed one by one.

    Raises
    ------
    Unsupported
        If the function, or a function that it calls, is not in the subset.
    """
    unit = Unit()
    words = (Number(ir.Constant(WORD, 0), INT64),) * n_words(function)
    unit.define(function, grouped(function, words), symbol)
    return unit.module


class Unit:
    """A module, and the functions defined in it."""

    def __init__(self) -> None:
        self.module = ir.Module()
        self._defined: dict[Any, ir.Function] = {}

    def define(
        self, function: FunctionType, arguments: tuple[Any, ...], symbol: str = ""
    ) -> ir.Function:
        """Return the LLVM function of a function without a result, for arguments of these kinds."""
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
        """Return the body of a `prange` loop as an LLVM function of four integers.

        They are the address of the struct of `captured` names, the first count, the count after the
        last, and the number of the thread.
        """
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
