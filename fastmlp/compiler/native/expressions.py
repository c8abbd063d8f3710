"""Expressions of translated code, by the names of their nodes."""

import ast
import builtins
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir

from fastmlp.compiler import jit, memory
from fastmlp.compiler.elementary import COMPILED_FORMS
from fastmlp.compiler.jit import Unsupported
from fastmlp.compiler.native.operands import (
    ADDRESS_DTYPE,
    ARRAY,
    BOOL,
    BYTE,
    INT64,
    LLVM_TYPES,
    WORD,
    MatrixOperand,
    Number,
    RecordOperand,
    View,
    calculate,
    choose,
    common,
    compare,
    convert,
    in_registers,
    is_constant,
    is_pointer,
    is_tuple,
    movable,
    negate,
    number_of,
    operand_kind,
    registers_of,
    truth,
    tuple_like,
    word_of,
)


def of_float(builder: Any, name: str, operand: Any) -> Number:
    """The square root ("sqrt") or the absolute value ("fabs")."""
    number = number_of(operand)
    if number.dtype.kind != "f":
        raise Unsupported(f"{name} of an integer")
    kind = number.value.type
    function = builder.module.declare_intrinsic(f"llvm.{name}", [kind])
    return Number(builder.call(function, [number.value]), number.dtype)


def as_number(builder: Any, kind: Any, operand: Any) -> Any:
    if is_constant(operand):
        return kind(operand)
    dtype = np.dtype(kind)
    if dtype == BOOL:
        return truth(builder, operand)
    return convert(builder, operand, dtype)


def emitted_code(builder: Any, form: jit.Emitted, arguments: tuple[Any, ...]) -> Any:
    """Add the instructions of an emitted function's call; return its result."""
    if form.constant:
        if not all(type(argument) is int for argument in arguments):
            raise Unsupported("an argument that must be known when compiling")
        operands, values = arguments, arguments
    else:
        operands = movable(arguments)
        values = _values_of(operands)
    if form.alike:
        kinds = {getattr(operand, "dtype", BOOL).kind for operand in operands}
        if kinds != {"f"}:
            raise Unsupported("arguments of an emitted function")
    value = form.generate(builder, *values)
    if form.result is None:
        return None
    if is_pointer(value):
        return Number(value, ADDRESS_DTYPE)
    if type(form.result) is int:
        dtype = operands[form.result].dtype
    else:
        dtype = form.result
    return Number(value, dtype)


def _values_of(operands: tuple[Any, ...]) -> Any:
    values = (
        _values_of(one) if is_tuple(one) else number_of(one).value for one in operands
    )
    return tuple_like(operands, values)


class Expressions:
    """Emits expressions at a builder's position.

    Parameters
    ----------
    outside : names of the module and the closure
    zeros : names of the fields that are 0, by the dtype of their records
    """

    builder: Any
    outside: dict[str, Any]

    def __init__(
        self, builder: Any, outside: dict[str, Any], zeros: dict[Any, frozenset[str]]
    ) -> None:
        self.builder = builder
        self.outside = outside
        self.zeros = zeros
        self.names: dict[str, Any] = {}
        self.thread: Any = 0

    def load(self, name: str) -> Any:
        raise NotImplementedError

    def call_function(self, function: FunctionType, arguments: tuple[Any, ...]) -> Any:
        raise NotImplementedError

    def value(self, node: ast.expr) -> Any:
        evaluate = getattr(self, f"_{type(node).__name__}", None)
        if evaluate is None:
            raise Unsupported(ast.dump(node))
        return evaluate(node)

    def test(self, node: ast.expr) -> Any:
        """The truth of an expression:
        a bool if known when translating, or a register.
        """
        operand = self.value(node)
        if is_constant(operand):
            return bool(operand)
        return truth(self.builder, operand).value

    def _Constant(self, node: ast.Constant) -> Any:
        return node.value

    def _Name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            return self.load(node.id)
        if node.id in self.outside:
            return self.outside[node.id]
        if not hasattr(builtins, node.id):
            raise Unsupported(f"{node.id!r} may have no value here")
        return getattr(builtins, node.id)

    def _Tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return self.all_of(node.elts)

    def all_of(self, nodes: Sequence[ast.expr]) -> tuple[Any, ...]:
        """Operands of several expressions; starred ones are unpacked."""
        results: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                results.extend(self.value(node.value))
            else:
                results.append(self.value(node))
        return tuple(results)

    def _BinOp(self, node: ast.BinOp) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        return calculate(self.builder, type(node.op).__name__, left, right)

    def _UnaryOp(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.USub):
            return negate(self.builder, self.value(node.operand))
        if not isinstance(node.op, ast.Not):
            raise Unsupported(ast.dump(node))
        test = self.test(node.operand)
        if isinstance(test, bool):
            return not test
        return Number(self.builder.not_(test), BOOL)

    def _Compare(self, node: ast.Compare) -> Any:
        if len(node.ops) > 1:
            raise Unsupported(ast.dump(node))
        left = self.value(node.left)
        right = self.value(node.comparators[0])
        return compare(self.builder, type(node.ops[0]).__name__, left, right)

    def _BoolOp(self, node: ast.BoolOp) -> Any:
        """A truth, not one of the operands as in Python."""
        decides = isinstance(node.op, ast.Or)
        first, *rest = node.values
        test = self.test(first)
        if not rest:
            return test if isinstance(test, bool) else Number(test, BOOL)
        others = ast.copy_location(ast.BoolOp(node.op, rest), node)
        if isinstance(test, bool):
            return test if test == decides else self.value(others)
        return self.either(
            test,
            (lambda: decides) if decides else (lambda: self.value(others)),
            (lambda: self.value(others)) if decides else (lambda: decides),
        )

    def _IfExp(self, node: ast.IfExp) -> Any:
        test = self.test(node.test)
        if isinstance(test, bool):
            return self.value(node.body if test else node.orelse)
        return self.either(
            test, lambda: self.value(node.body), lambda: self.value(node.orelse)
        )

    def either(
        self, test: Any, then: Callable[[], Any], otherwise: Callable[[], Any]
    ) -> Any:
        """The result of one of two branches; only that branch is run."""
        builder = self.builder
        ends = []
        results = []
        after = builder.append_basic_block("after")
        blocks = [builder.append_basic_block(name) for name in ("then", "otherwise")]
        builder.cbranch(test, *blocks)
        for block, way in zip(blocks, (then, otherwise), strict=True):
            builder.position_at_end(block)
            results.append(movable(way()))
            ends.append(builder.block)
        kinds = self.meeting(*results)
        for i, end in enumerate(ends):
            builder.position_at_end(end)
            results[i] = self.met(results[i], kinds)
            ends[i] = builder.block
            builder.branch(after)
        builder.position_at_end(after)
        registers = []
        for pair in zip(*map(registers_of, results), strict=True):
            phi = builder.phi(pair[0].type)
            for register, end in zip(pair, ends, strict=True):
                phi.add_incoming(register, end)
            registers.append(phi)
        return in_registers(results[0], iter(registers))

    def meeting(self, a: Any, b: Any) -> Any:
        if isinstance(a, Number) and isinstance(b, Number):
            return BOOL if a.dtype == b.dtype == BOOL else common(a, b)
        if is_tuple(a) and type(a) is type(b) and len(a) == len(b):
            return tuple(self.meeting(*pair) for pair in zip(a, b, strict=True))
        if operand_kind(a) != operand_kind(b):
            raise Unsupported("either of two kinds")
        return None

    def met(self, operand: Any, dtypes: Any) -> Any:
        if isinstance(operand, Number):
            return convert(self.builder, operand, dtypes)
        if is_tuple(operand):
            pairs = zip(operand, dtypes, strict=True)
            return tuple_like(operand, (self.met(*pair) for pair in pairs))
        return operand

    def _Attribute(self, node: ast.Attribute) -> Any:
        owner = self.value(node.value)
        if isinstance(owner, RecordOperand) and owner.dtype is ARRAY:
            return self.of_array(owner, node.attr)
        if isinstance(owner, RecordOperand):
            if node.attr in self.zeros.get(owner.dtype, ()):
                return 0
            dtype = owner.dtype.fields[node.attr][0]  # type: ignore[index]
            return self.loaded(self.field(owner, node.attr), dtype)
        if isinstance(owner, View) and node.attr in ("dtype", "itemsize"):
            return owner.dtype if node.attr == "dtype" else owner.dtype.itemsize
        if isinstance(owner, MatrixOperand):
            return self.of_table(owner, node.attr)
        if not (is_constant(owner) or node.attr in getattr(owner, "_fields", ())):
            raise Unsupported(ast.dump(node))
        return getattr(owner, node.attr)

    def of_table(self, table: MatrixOperand, name: str) -> Any:
        """Return a table's transpose, its dtype or its shape."""
        if name == "T":
            return table._replace(transposed=not table.transposed)
        if name == "dtype":
            return table.dtype
        if name != "shape":
            raise Unsupported(f"{name} of a table")
        shape = Number(table.n, INT64), Number(table.width, INT64)
        return shape[::-1] if table.transposed else shape

    def of_array(self, array: RecordOperand, name: str) -> Any:
        """The shape, the size or the address of a matrix of Python's."""
        if name == "ctypes":
            return array
        if name not in ("data", "shape", "size"):
            raise Unsupported(f"{name} of an array")
        of_data = name == "data"
        word = self.loaded(self.field(array, "data" if of_data else "shape"), INT64)
        if of_data:
            return word
        shape = self.view(word, 2, INT64)
        n, width = (self.loaded(self.element(shape, i), INT64) for i in range(2))
        if name == "shape":
            return (n, width)
        return calculate(self.builder, "Mult", n, width)

    def field(self, record: RecordOperand, name: str) -> Any:
        offset = record.dtype.fields[name][1]  # type: ignore[index]
        return self.pointer(record.address, ir.Constant(WORD, offset), BYTE)

    def loaded(self, place: Any, dtype: np.dtype[Any]) -> Number:
        return Number(self.builder.load(place, typ=LLVM_TYPES[dtype]), dtype)

    def _Subscript(self, node: ast.Subscript) -> Any:
        owner = self.value(node.value)
        index = self.value(node.slice)
        if isinstance(owner, View):
            place = self.element(owner, index)
            if owner.dtype.fields:
                return RecordOperand(place, owner.dtype)
            return self.loaded(place, owner.dtype)
        if isinstance(owner, MatrixOperand):
            return self.loaded(self.cell(owner, index), owner.dtype)
        if isinstance(index, int) and (is_tuple(owner) or is_constant(owner)):
            return owner[index]
        if is_tuple(owner) and isinstance(index, Number):
            return self.one_of(owner, index)
        raise Unsupported(ast.dump(node))

    def one_of(self, numbers: tuple[Any, ...], index: Number) -> Number:
        """The number at an index of a tuple of numbers of one dtype;
        beyond it, the last.
        """
        *others, number = (number_of(item) for item in numbers)
        if any(item.dtype != number.dtype for item in others):
            raise Unsupported("an index of a tuple of several dtypes")
        for i in reversed(range(len(others))):
            here = compare(self.builder, "Eq", index, i).value
            value = self.builder.select(here, others[i].value, number.value)
            number = Number(value, number.dtype)
        return number

    def element(self, view: View, index: Any) -> Any:
        builder = self.builder
        i = self.index(index)
        if view.dtype.fields:
            down = builder.mul(i, ir.Constant(WORD, view.dtype.itemsize))
            return self.pointer(view.address, down, BYTE)
        return self.pointer(view.address, i, LLVM_TYPES[view.dtype])

    def index(self, operand: Any) -> Any:
        """An index as a 64-bit integer; only a negative constant can be refused."""
        number = number_of(operand)
        if number.dtype.kind == "f" or (is_constant(operand) and operand < 0):
            raise Unsupported("an index that is no integer")
        return convert(self.builder, number, INT64).value

    def pointer(self, base: Any, i: Any, kind: Any) -> Any:
        return self.builder.gep(base, [i], inbounds=True, source_etype=kind)

    def cell(self, table: MatrixOperand, places: Any) -> Any:
        if type(places) is not tuple or len(places) != 2:
            raise Unsupported("a table's row")
        r, j = (
            self.index(place)
            for place in (places[::-1] if table.transposed else places)
        )
        i = self.builder.add(self.builder.mul(r, table.width), j)
        return self.pointer(table.address, i, LLVM_TYPES[table.dtype])

    def _Call(self, node: ast.Call) -> Any:
        """Functions with a meaning here come first, then types, emitted functions, and
        last Python functions, which are translated in turn.
        """
        function = self.value(node.func)
        arguments = self.all_of(node.args)
        if node.keywords:
            raise Unsupported(ast.dump(node))
        if function is memory.row:
            return self.view(*arguments)
        if function is memory.records_at:
            return self.view(arguments[0], arguments[1], arguments[2].dtype)
        if function is memory.record_at:
            place = convert(self.builder, arguments[0], ADDRESS_DTYPE).value
            return RecordOperand(place, arguments[1].dtype)
        if function is jit.thread_number:
            return self.thread
        if function is memory.rows:
            address, n, width, dtype = arguments
            view = self.view(address, n, dtype)
            columns = convert(self.builder, width, INT64).value
            return MatrixOperand(view.address, view.n, columns, view.dtype)
        if function is memory.coefficients_at:
            return self.coefficients(*arguments)
        if function is jit.call:
            return self.call_block(*arguments)
        if function in (min, max):
            name = "Lt" if function is min else "Gt"
            return choose(self.builder, name, list(arguments))
        if function is np.sqrt:
            return of_float(self.builder, "sqrt", *arguments)
        if function is abs:
            return of_float(self.builder, "fabs", *arguments)
        if function in COMPILED_FORMS:
            function = COMPILED_FORMS[function](number_of(arguments[0]).dtype.type)
        if function is type:
            return number_of(arguments[0]).dtype.type
        if hasattr(function, "_fields"):
            return function(*arguments)
        if function in (int, float) or isinstance(function, type):
            return as_number(self.builder, function, *arguments)
        if function in jit.EMITTED:
            return emitted_code(self.builder, jit.EMITTED[function], arguments)
        called = getattr(function, "py_func", function)
        if not isinstance(called, FunctionType):
            raise Unsupported(ast.dump(node))
        return self.call_function(called, arguments)

    def call_block(self, address: Any, arguments: Any) -> None:
        registers = [
            word_of(self.builder, register)
            for register in registers_of(movable(arguments))
        ]
        kind = ir.FunctionType(ir.VoidType(), [register.type for register in registers])
        place = convert(self.builder, address, INT64).value
        self.builder.call(self.builder.inttoptr(place, kind.as_pointer()), registers)

    def view(self, address: Any, n: Any, dtype: Any) -> View:
        begin = convert(self.builder, address, ADDRESS_DTYPE).value
        count = convert(self.builder, n, INT64).value
        return View(begin, count, np.dtype(dtype))

    def coefficients(self, address: Any, n: Any, dtype: Any) -> tuple[Any, ...]:
        if not isinstance(n, int):
            raise Unsupported("coefficients of unknown number")
        view = self.view(address, n, dtype)
        return tuple(self.loaded(self.element(view, i), view.dtype) for i in range(n))
