"""The translator: from a subset of Python to LLVM IR, without Numba's frontend.

Kernels work on numbers in registers and in memory, and on records. Numba's frontend
took 3.5 s of a first fit, and gave LLVM four times as much to optimize; the translator
takes 0.2 s.

The subset has assignments, `if`, `while`, `for` over `range` and `prange`, calls of
functions and of `emitted` functions, arithmetic, comparisons, conditional expressions,
fields of records, elements of views and tables, and tuples. A name has one type. A
function that returns a value is inlined in its caller.

All else is refused, with the source's line: a name without a value on some path, a
negative constant index, a `prange` loop that assigns an outer name, returns or breaks.
Indices are not checked.
"""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, NamedTuple, Protocol

from llvmlite import ir

from fastmlp.compiler import jit
from fastmlp.compiler.jit import prange, share_loop
from fastmlp.compiler.native.expressions import Expressions
from fastmlp.compiler.native.operands import (
    ADDRESS_DTYPE,
    ARRAY,
    BOOL,
    FLOAT64,
    INT64,
    WORD,
    MatrixOperand,
    Number,
    RecordOperand,
    View,
    calculate,
    common,
    compare,
    convert,
    declare,
    entry_alloca,
    in_registers,
    is_tuple,
    load_registers,
    movable,
    operand_kind,
    pointer_of,
    registers_of,
    store_registers,
    truth,
)

# With AVX-512, LLVM uses half a register unless this attribute is set.
# llvmlite does not list the attribute, but prints it.
FULL_WIDTH = '"prefer-vector-width"="512"'


def translate(function: FunctionType, symbol: str, triple: str) -> Any:
    """Return a module that exports a function without a result as `symbol`.

    `triple` is LLVM's name of the architecture and system that the code is for.
    Arguments are integers, or NamedTuples of integers, which are passed one by one.
    """
    hints = jit.hints_of(function)
    unit = Unit(hints.zeros, triple)
    if jit.is_entry(function):
        unit.define_entry(function, symbol)
        return unit.module
    words = (Number(ir.Constant(WORD, 0), INT64),) * jit.n_words(function)
    unit.define(function, jit.group_words(function, words), symbol)
    if hints.control:
        unit.inline_once_called()
    return unit.module


class Unit:
    """A module, and the functions defined in it."""

    def __init__(self, zeros: jit.Fields, triple: str) -> None:
        self.module: Any = ir.Module()
        self.module.triple = triple
        self.zeros = {kind.dtype: frozenset(names) for kind, names in zeros.items()}
        self._defined: dict[Any, ir.Function] = {}
        self._n_calls: dict[ir.Function, int] = {}

    def define(
        self, function: FunctionType, arguments: tuple[Any, ...], symbol: str = ""
    ) -> Any:
        """Return the LLVM function for arguments of these kinds."""
        key = function, operand_kind(arguments)
        if key not in self._defined:
            kinds = [register.type for register in registers_of(arguments)]
            name = symbol or f"{function.__name__}.{len(self._defined)}"
            made, builder = self._begin(name, kinds, "" if symbol else "internal")
            self._defined[key] = made
            Body(
                self, builder, function, in_registers(arguments, iter(made.args))
            ).run()
            builder.ret_void()
        made = self._defined[key]
        self._n_calls[made] = self._n_calls.get(made, 0) + 1
        return made

    def define_entry(self, function: FunctionType, symbol: str) -> None:
        """Define a function of integers and arrays, with a result,
        for Python's convention METH_FASTCALL.
        """
        kind = ir.FunctionType(WORD, [WORD, WORD, WORD])
        made = ir.Function(self.module, kind, symbol)
        builder = ir.IRBuilder(made.append_basic_block("entry"))
        objects = pointer_of(builder, made.args[1])
        arguments: list[Any] = []
        for i, is_integer in enumerate(jit.integers_of(function)):
            place = builder.gep(objects, [ir.Constant(WORD, i)], source_etype=WORD)
            value = builder.load(place, typ=WORD)
            if is_integer:
                to_word = declare(
                    builder, "PyLong_AsSsize_t", ir.FunctionType(WORD, [WORD])
                )
                arguments.append(Number(builder.call(to_word, [value]), INT64))
            else:
                arguments.append(RecordOperand(pointer_of(builder, value), ARRAY))
        result = Body(self, builder, function, tuple(arguments)).run()
        if result.dtype == BOOL:
            name = "PyBool_FromLong"
            result = convert(builder, result, INT64)
        else:
            name = "PyFloat_FromDouble"
            result = convert(builder, result, FLOAT64)
        to_object = declare(builder, name, ir.FunctionType(WORD, [result.value.type]))
        builder.ret(builder.call(to_object, [result.value]))

    def inline_once_called(self) -> None:
        for made, n in self._n_calls.items():
            if n == 1 and made.linkage == "internal":
                made.attributes.add("alwaysinline")

    def define_loop(
        self, function: FunctionType, node: ast.For, captured: dict[str, Any]
    ) -> tuple[ir.Function, ir.Function]:
        """Return the body of a `prange` loop as two LLVM functions.

        One takes the `captured` names in registers, the other the address of their
        struct; then both take the first count, the count after the last, and the
        thread's number. A thread alone calls the first: 0.250 -> 0.241 us (2-4-1@4).
        """
        operands = tuple(captured.values())
        kinds = [register.type for register in registers_of(operands)]
        name = f"{function.__name__}.{node.lineno}.{len(self._defined)}"
        direct, builder = self._begin(name, [*kinds, WORD, WORD, WORD])
        self._defined[function, node] = direct
        *registers, first, last, thread = direct.args
        names = in_registers(operands, iter(registers))
        body = Body(self, builder, function, names, list(captured))
        body.run_loop(
            node, Number(first, INT64), Number(last, INT64), Number(thread, INT64)
        )
        builder.ret_void()
        shared, builder = self._begin(f"{name}.shared", [WORD] * 4)
        environment, *counts = shared.args
        builder.call(direct, [*load_registers(builder, environment, operands), *counts])
        builder.ret_void()
        return direct, shared

    def _begin(self, name: str, kinds: list[Any], linkage: str = "internal") -> Any:
        made = ir.Function(self.module, ir.FunctionType(ir.VoidType(), kinds), name)
        set.add(made.attributes, FULL_WIDTH)
        made.linkage = linkage
        return made, ir.IRBuilder(made.append_basic_block("entry"))


class Functions(Protocol):
    zeros: dict[Any, frozenset[str]]

    def define(
        self, function: FunctionType, arguments: tuple[Any, ...], symbol: str = ""
    ) -> Any: ...

    def define_loop(
        self, function: FunctionType, node: ast.For, captured: dict[str, Any]
    ) -> tuple[Any, Any]:
        """The body of a `prange` loop as two functions,
        for one thread and for a team.
        """
        ...


class Slot(NamedTuple):
    """A name's operand, and its stack slots, which LLVM turns into registers."""

    operand: Any
    places: list[Any]


class Loop(NamedTuple):
    """The basic blocks that `continue` and `break` branch to."""

    again: Any
    after: Any


def _holds(kept: Any, operand: Any) -> bool:
    """Return True if the name, or the result, of `kept` may have the operand: a number
    in the name's dtype, if it is the common one, or the word of an address of the
    stack.
    """
    if operand_kind(kept) == operand_kind(operand):
        return True
    if not (isinstance(kept, Number) and isinstance(operand, Number)):
        return False
    is_word = kept.dtype == INT64 and operand.dtype == ADDRESS_DTYPE
    return is_word or common(kept, operand) == kept.dtype


class Body(Expressions):
    """Emits the statements of a function at a builder's position."""

    def __init__(
        self,
        unit: Functions,
        builder: Any,
        function: FunctionType,
        arguments: tuple[Any, ...],
        names: list[str] | None = None,
    ) -> None:
        super().__init__(builder, jit.names_of(function), unit.zeros)
        self._unit = unit
        self._function = function
        self._definition = jit.definition_of(function)
        if names is None:
            names = [argument.arg for argument in self._definition.args.args]
        if len(names) != len(arguments):
            raise jit.Unsupported(f"arguments of {function.__name__}")
        # Depth of branches and loops; above 0 a name keeps its type.
        self._depth = 0
        # Names with a value here on every path.
        self._known: set[str] = set()
        self._loops: list[Loop] = []
        self._result: Slot | None = None
        self._exit = builder.append_basic_block("exit")
        for name, argument in zip(names, arguments, strict=True):
            self.bind(name, argument)

    def run(self) -> Any:
        """Emit the body; leave the builder after it,
        and return the function's result.
        """
        self.each(self._definition.body)
        self._go_to(self._exit)
        self.builder.position_at_end(self._exit)
        return None if self._result is None else self._kept(self._result)

    def run_loop(
        self, node: ast.For, first: Number, last: Number, thread: Number
    ) -> None:
        """Emit a loop over a thread's part of a `prange`."""
        self.thread = thread
        self._count(node, first, last, 1)
        self._go_to(self._exit)
        self.builder.position_at_end(self._exit)

    def each(self, statements: list[ast.stmt]) -> None:
        """Emit statements, up to a `return`, `break` or `continue`."""
        for statement in statements:
            if self.builder.block.is_terminated:
                return
            emit = getattr(self, f"_{type(statement).__name__}", None)
            try:
                if emit is None:
                    raise jit.Unsupported(ast.dump(statement))
                emit(statement)
            except jit.Unsupported as error:
                raise error.at(
                    self._function.__code__.co_filename, statement.lineno
                ) from None

    def load(self, name: str) -> Any:
        if name not in self._known:
            raise jit.Unsupported(f"{name!r} may have no value here")
        return self._kept(self.names[name])

    def _kept(self, slot: Slot) -> Any:
        registers = [self.builder.load(place) for place in slot.places]
        return in_registers(slot.operand, iter(registers))

    def _slot(self, operand: Any) -> Slot:
        places = [
            entry_alloca(self.builder, part.type) for part in registers_of(operand)
        ]
        return Slot(operand, places)

    def _keep(self, slot: Slot, operand: Any) -> None:
        if isinstance(operand, Number):
            operand = convert(self.builder, operand, slot.operand.dtype)
        for register, place in zip(registers_of(operand), slot.places, strict=True):
            self.builder.store(register, place)

    def bind(self, name: str, operand: Any) -> None:
        operand = movable(operand)
        slot = self.names.get(name)
        self._known.add(name)
        if slot is None or not _holds(slot.operand, operand):
            if slot is not None and self._depth:
                raise jit.Unsupported(f"another type of {name}")
            self.names[name] = slot = self._slot(operand)
        self._keep(slot, operand)

    def assign(self, target: ast.expr, operand: Any) -> None:
        if isinstance(target, ast.Name):
            self.bind(target.id, operand)
        elif isinstance(target, ast.Tuple):
            if not is_tuple(operand):
                raise jit.Unsupported(ast.dump(target))
            for target_item, part in zip(target.elts, operand, strict=True):
                self.assign(target_item, part)
        elif isinstance(target, ast.Attribute):
            record = self.value(target.value)
            if not isinstance(record, RecordOperand):
                raise jit.Unsupported(ast.dump(target))
            dtype = record.dtype.fields[target.attr][0]  # type: ignore[index]
            self.builder.store(
                self._stored(operand, dtype), self.field(record, target.attr)
            )
        elif isinstance(target, ast.Subscript):
            self._assign_elements(target, operand)
        else:
            raise jit.Unsupported(ast.dump(target))

    def _stored(self, operand: Any, dtype: Any) -> Any:
        return convert(self.builder, movable(operand), dtype).value

    def _assign_elements(self, target: ast.Subscript, operand: Any) -> None:
        view = self.value(target.value)
        if isinstance(view, MatrixOperand):
            place = self.cell(view, self.value(target.slice))
            self.builder.store(self._stored(operand, view.dtype), place)
            return
        if not isinstance(view, View) or view.dtype.fields:
            raise jit.Unsupported(ast.dump(target))
        value = self._stored(operand, view.dtype)
        if not isinstance(target.slice, ast.Slice):
            self.builder.store(value, self.element(view, self.value(target.slice)))
            return
        if any((target.slice.lower, target.slice.upper, target.slice.step)):
            raise jit.Unsupported(ast.dump(target))
        with self._counted(0, Number(view.n, INT64), 1) as i:
            self.builder.store(value, self.element(view, i))

    def call_function(self, function: FunctionType, arguments: tuple[Any, ...]) -> Any:
        arguments = movable(arguments)
        returns = (
            n
            for n in ast.walk(jit.definition_of(function))
            if isinstance(n, ast.Return)
        )
        if any(node.value is not None for node in returns):
            return Body(self._unit, self.builder, function, arguments).run()
        self.builder.call(
            self._unit.define(function, arguments), registers_of(arguments)
        )
        return None

    def _Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self.value(node.value)

    def _Pass(self, node: ast.Pass) -> None:
        pass

    def _Assign(self, node: ast.Assign) -> None:
        operand = self.value(node.value)
        for target in node.targets:
            self.assign(target, operand)

    def _AugAssign(self, node: ast.AugAssign) -> None:
        old = self.value(node.target)
        new = self.value(node.value)
        self.assign(
            node.target, calculate(self.builder, type(node.op).__name__, old, new)
        )

    def _Return(self, node: ast.Return) -> None:
        if node.value is not None:
            operand = movable(self.value(node.value))
            if self._result is None:
                self._result = self._slot(operand)
            if not _holds(self._result.operand, operand):
                raise jit.Unsupported("results of several kinds")
            self._keep(self._result, operand)
        self.builder.branch(self._exit)

    def _If(self, node: ast.If) -> None:
        """A test that is known leaves one branch out. After the statement a name is
        known if both branches that go on give it a value.
        """
        test = self.test(node.test)
        if isinstance(test, bool):
            self.each(node.body if test else node.orelse)
            return
        builder = self.builder
        then, otherwise = (
            builder.append_basic_block(name) for name in ("then", "otherwise")
        )
        after = builder.append_basic_block("after")
        builder.cbranch(test, then, otherwise)
        before = self._known
        ends = []
        for block, statements in ((then, node.body), (otherwise, node.orelse)):
            builder.position_at_end(block)
            self._known = set(before)
            self._inside(statements)
            if not builder.block.is_terminated:
                ends.append(self._known)
            self._go_to(after)
        self._known = set.intersection(*ends) if ends else before
        builder.position_at_end(after)

    def _inside(self, statements: list[ast.stmt]) -> None:
        self._depth += 1
        self.each(statements)
        self._depth -= 1

    def _go_to(self, block: Any) -> None:
        if not self.builder.block.is_terminated:
            self.builder.branch(block)

    def _While(self, node: ast.While) -> None:
        builder = self.builder
        head, body, after = (
            builder.append_basic_block(n) for n in ("head", "body", "after")
        )
        builder.branch(head)
        builder.position_at_end(head)
        test = self.test(node.test)
        if isinstance(test, bool):
            builder.branch(body if test else after)
        else:
            builder.cbranch(test, body, after)
        builder.position_at_end(body)
        self._repeat(node, Loop(head, after))
        self._go_to(head)
        builder.position_at_end(after)

    def _repeat(self, node: ast.For | ast.While, loop: Loop) -> None:
        if node.orelse:
            raise jit.Unsupported("a loop with an else")
        # The body may never run, or stop at a `break`:
        # names that it assigns may have no value after.
        before = set(self._known)
        self._loops.append(loop)
        self._inside(node.body)
        self._loops.pop()
        self._known = before

    def _Break(self, node: ast.Break) -> None:
        self.builder.branch(self._loops[-1].after)

    def _Continue(self, node: ast.Continue) -> None:
        self.builder.branch(self._loops[-1].again)

    def _For(self, node: ast.For) -> None:
        call = node.iter
        if not isinstance(call, ast.Call):
            raise jit.Unsupported(ast.dump(call))
        iterates = self.value(call.func)
        if iterates is prange:
            self._share(node, call)
            return
        if iterates is not range:
            raise jit.Unsupported(ast.dump(call))
        limits = self.all_of(call.args)
        first, last, step = (0, *limits, 1) if len(limits) == 1 else (*limits, 1)[:3]
        if not (isinstance(step, int) and step):
            raise jit.Unsupported("a step that is not known")
        self._count(node, first, last, step)

    def _count(self, node: ast.For, first: Any, last: Any, step: int) -> None:
        before = set(self._known)
        with self._counted(first, last, step) as i:
            self.bind(node.target.id, i)  # type: ignore[attr-defined]
            self._repeat(node, Loop(self._next, self._after))
        self._known = before

    def _share(self, node: ast.For, call: ast.Call) -> None:
        """Share a `prange` loop among the team at the address `team`."""
        arguments = call.args
        if len(arguments) != 1 or "team" not in self._known:
            raise jit.Unsupported(
                "prange takes one number, in a kernel with an argument `team`"
            )
        jit.check_shared(node, self._known)
        read = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        captured = {name: self.load(name) for name in sorted(self._known & read)}
        operands = tuple(captured.values())
        team = self.load("team")
        zero = ir.Constant(WORD, 0)
        direct, shared = self._unit.define_loop(self._function, node, captured)
        n = convert(self.builder, self.value(arguments[0]), INT64)
        with self.builder.if_else(truth(self.builder, team).value) as (together, alone):
            with together:
                block = Number(self.builder.ptrtoint(shared, WORD), INT64)
                environment = Number(
                    store_registers(self.builder, operands), ADDRESS_DTYPE
                )
                self.call_function(share_loop(), (team, block, n, environment))
            with alone:
                self.builder.call(
                    direct, [*registers_of(operands), zero, n.value, zero]
                )

    @contextmanager
    def _counted(self, first: Any, last: Any, step: int) -> Iterator[Number]:
        """A loop from first to last, exclusive,
        around the code of the context; yield i.
        """
        builder = self.builder
        last = convert(self.builder, last, INT64)
        blocks = [
            builder.append_basic_block(name)
            for name in ("head", "body", "next", "after")
        ]
        head, body, following, after = blocks
        count = entry_alloca(builder, WORD)
        builder.store(convert(builder, first, INT64).value, count)
        builder.branch(head)
        builder.position_at_end(head)
        i = Number(builder.load(count), INT64)
        goes_on = compare(builder, "Lt" if step > 0 else "Gt", i, last)
        builder.cbranch(goes_on.value, body, after)
        builder.position_at_end(body)
        self._next = following
        self._after = after
        yield i
        self._go_to(following)
        builder.position_at_end(following)
        more = builder.add(i.value, ir.Constant(WORD, step), flags=("nsw",))
        builder.store(more, count)
        builder.branch(head)
        builder.position_at_end(after)
