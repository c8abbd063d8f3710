"""Translated code does what the function does in Python; Numba compiles the rest."""

import ast
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from conditions import only_compiled
from loss_cases import CASES, options_of, settings_of
from numba.extending import register_jitable

from fastmlp.backends import shuffle
from fastmlp.backends.cpu import team
from fastmlp.backends.cpu.kernels import elementwise, epoch, step
from fastmlp.backends.cpu.kernels.rule_blocks import OCCASIONAL_PHASES, PHASES
from fastmlp.backends.cpu.predict import row_blocks, small_batch
from fastmlp.compiler import block_of, call, hinted, njit
from fastmlp.compiler.blocks import Block, NativeCode
from fastmlp.compiler.by_numba import INLINED
from fastmlp.compiler.jit import NoSource, Unsupported, definition_of
from fastmlp.compiler.memory import (
    Record,
    coefficients_at,
    record_at,
    row,
    rows,
    stack,
)
from fastmlp.rules import activations, elementary, losses, updates
from fastmlp.rules.losses import SKLEARN_LOSSES
from fastmlp.rules.optimizers import OPTIMIZERS
from fastmlp.rules.updates import N_MOMENTS

pytestmark = only_compiled
PAIR = np.dtype((np.record, [("count", np.int64), ("mass", np.float64)]))


def native(function: Any) -> NativeCode:
    return NativeCode(function, None, light=True)


def results(function: Callable[..., None], *arguments: int, n: int = 8) -> list[float]:
    """Return the float64 numbers at the first argument after a call,
    which must equal Python's.
    """
    out, expected = np.zeros(n), np.zeros(n)
    native(function).entry(out.ctypes.data, *arguments)
    function(expected.ctypes.data, *arguments)
    np.testing.assert_array_equal(out, expected)
    return out.tolist()


class Switches(Record):
    size: int
    extra: int


class Others(Record):
    extra: int
    size: int


def reading(zeros: Any) -> Any:
    """A block that copies fields; with hints."""

    def copy(out: int, switches: int, others: int) -> None:
        values = row(out, 4, np.float64)
        mine = record_at(switches, Switches)
        theirs = record_at(others, Others)
        values[0] = mine.size
        values[1] = mine.extra
        values[2] = theirs.size
        values[3] = theirs.extra
        if mine.extra:
            values[:] = 7.0

    return hinted(zeros=zeros)(copy)


def test_hinted_fields_are_zeros_and_branches_on_them_are_left_out() -> None:
    out = np.zeros(4)
    switches = np.full(2, 3, np.int64)
    others = np.full(2, 5, np.int64)
    places = [array.ctypes.data for array in (out, switches, others)]
    native(reading({})).entry(*places)
    assert out.tolist() == [7, 7, 7, 7]
    code = native(reading({Switches: ("extra",)}))
    code.entry(*places)
    assert out.tolist() == [3, 0, 5, 5]
    assert "7.0" not in code.inspect_llvm()


@njit
def fill(out: int, number: float) -> None:
    values = row(out, 3, np.float64)
    for i in range(3):
        values[i] += number * i


@pytest.mark.parametrize("n_calls", [1, 2])
def test_a_block_of_control_has_the_numbers_of_others(n_calls: int) -> None:
    def once(out: int) -> None:
        fill(out, 0.1)

    def twice(out: int) -> None:
        fill(out, 0.1)
        fill(out, 0.2)

    out = np.zeros((2, 3))
    for numbers, control in zip(out, (False, True), strict=True):
        code = native(hinted(control=control)((once, twice)[n_calls - 1]))
        code.entry(numbers.ctypes.data)
    assert out[0].tolist() == out[1].tolist()
    # Of the last, a block of control: what it calls once is inlined.
    assert (" call " in code.inspect_llvm()) == (n_calls == 2)


def test_words_without_sign_are_mixed_as_in_python() -> None:
    factor = np.uint64(0xD2511F53)
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)

    def mix(out: int, bits: int) -> None:
        values = row(out, 4, np.float64)
        pieces = row(bits, 4, np.uint16)
        for i in range(4):
            product = (np.uint64(pieces[i]) & low) * factor
            values[i] = np.float64((product >> half) ^ np.uint64(i) ^ (product & low))
            if pieces[i] >= np.uint16(40000):
                values[i] += 0.5

    numbers = np.array([3, 39999, 40000, 65535], np.uint16)
    result = results(mix, numbers.ctypes.data)
    assert [value % 1 for value in result[:4]] == [0, 0, 0.5, 0.5]


def test_an_address_of_the_stack_is_calculated_with_as_a_word_is() -> None:
    @njit
    def chosen(place: int, other: int, takes_other: bool) -> int:
        if takes_other:
            return place + 8
        return other

    def use(out: int) -> None:
        place = stack(64)
        numbers = row(place, 8, np.float64)
        for i in range(8):
            numbers[i] = 1.0 * i
        values = row(out, 8, np.float64)
        last = 56 + place
        values[0] = row(last, 1, np.float64)[0]
        values[1] = row(last - 16, 1, np.float64)[0]
        values[2] = last - place
        values[3] = place % 8
        values[4] = 1.0 if place < last and place else 0.0
        values[5] = row(chosen(place, out, out > 0), 1, np.float64)[0]
        values[6] = row(place if out < 0 else out, 1, np.float64)[0]
        word = out
        for i in range(2):
            word = place + i * 8
        values[7] = row(word, 1, np.float64)[0]

    assert results(use)[:8] == [7, 5, 56, 0, 1, 1, 7, 1]
    assert " add i64 %" not in native(use).inspect_llvm()


@pytest.mark.parametrize("b", [3, -3, 1, -1, 2**40])
@pytest.mark.parametrize("a", [7, -7, 6, 0, 1, -1, -(2**40)])
def test_integers_are_divided_as_in_python(a: int, b: int) -> None:
    def divide(out: Any, a: Any, b: Any) -> None:
        numbers = row(out, 8, np.float64)
        numbers[0] = a // b
        numbers[1] = a % b
        numbers[2] = a / b
        numbers[3] = a // 8
        numbers[4] = a % 8
        numbers[5] = a // 7
        numbers[6] = a % 7

    results(divide, a, b)


def test_a_tuple_of_numbers_has_an_element_at_a_variable_index() -> None:
    shares = (0.25, 0.5, 4.0)

    def pick(out: Any, n: Any) -> None:
        numbers = row(out, 8, np.float64)
        counts = (n, n + 1)
        for i in range(n):
            numbers[i] = shares[i]
        for i in range(2):
            numbers[3 + i] = counts[i]

    assert results(pick, 3)[:5] == [0.25, 0.5, 4.0, 3.0, 4.0]

    def mixed(out: Any, n: Any) -> None:
        row(out, 1, np.float64)[0] = (1, 2.0)[n]

    with pytest.raises(Unsupported, match="an index of a tuple of several dtypes"):
        native(mixed)


class Strided(NamedTuple):
    address: Any
    stride: Any


def test_named_tuples_have_fields_are_made_passed_on_and_returned() -> None:
    @njit
    def next_of(these: Any, n: Any) -> Any:
        return Strided(these.address + n * these.stride, these.stride)

    @njit
    def write(these: Any, value: Any) -> None:
        address, _ = these
        row(address, 1, np.float64)[0] = value + these[1]

    def walk(out: Any, n: Any) -> None:
        these = Strided(out, 16)
        for i in range(n):
            write(these, i)
            if i:
                these = next_of(these, 1)
            else:
                these = Strided(out + 8, these.stride)

    assert results(walk, 3) == [16, 17, 0, 18, 0, 0, 0, 0]


def test_a_function_takes_the_integers_of_named_tuples_one_by_one() -> None:
    def write(first: Strided, n: Any, second: Strided) -> None:
        for i in range(n):
            row(first.address + i * first.stride, 1, np.float64)[0] = i + 1
            row(second.address + i * second.stride, 1, np.float64)[0] = -i

    def through(a: Any, b: Any, code: Any) -> None:
        call(code, (Strided(a, 16), 3, b, 8))

    for ours in (True, False):
        out, other = np.zeros(5), np.zeros(3)
        block = Block(write, None, ours=ours)
        block(out.ctypes.data, 16, 3, other.ctypes.data, 8)
        assert out.tolist() == [1, 0, 2, 0, 3]
        assert other.tolist() == [0, -1, -2]
        out[:] = 0
        Block(through, None, ours=ours)(
            out.ctypes.data, other.ctypes.data, block.address
        )
        assert out.tolist() == [1, 0, 2, 0, 3]


def test_integers_are_calculated_and_divided_by_zero_to_zero() -> None:
    def divide(out: Any, a: Any, b: Any) -> None:
        numbers = row(out, 2, np.float64)
        numbers[0] = a // b
        numbers[1] = a % b

    out = np.ones(2)
    native(divide).entry(out.ctypes.data, 5, 0)
    assert out.tolist() == [0.0, 0.0]

    def calculate(out: Any, a: Any, b: Any) -> None:
        numbers = row(out, 8, np.float64)
        numbers[0] = a + b
        numbers[1] = a - b
        numbers[2] = -a * b
        numbers[3] = a << 3
        numbers[4] = a >> 1
        numbers[5] = a & b
        numbers[6] = a | b
        numbers[7] = min(a, b, 4) - max(a, b)

    results(calculate, 13, 6)
    results(calculate, -13, 6)


@pytest.mark.parametrize("a", [-1, 0, 1, 2])
def test_truth_and_relations(a: int) -> None:
    known = a > 0

    def decide(out: Any, a: Any) -> None:
        numbers = row(out, 8, np.float64)
        if a and a > 0:
            numbers[0] = 1
        elif not known:
            numbers[0] = 2
        else:
            numbers[0] = 4
        numbers[1] = 1 if a == 1 or not a else 2
        numbers[2] = 1.5 if a != 2 else a
        numbers[3] = 1 if a <= 0 or a >= 2 else 0
        if a < 0:
            numbers[4] = 1
        elif a:
            numbers[4] = 2
        else:
            numbers[4] = 3
        first, second = (a, 1.0) if a > 0 else (2, a)
        numbers[5] = first
        numbers[6] = second
        numbers[7] = 2 if a > 0 else 0.5

    results(decide, a)


def test_only_the_way_that_is_taken_is_gone() -> None:
    """Nothing lies at address 0."""

    def look(out: Any, address: Any) -> None:
        numbers = row(out, 2, np.float64)
        numbers[0] = row(address, 1, np.float64)[0] if address else 3.0
        if address and row(address, 1, np.float64)[0] > 0:
            numbers[1] = 1.0

    assert results(look, 0, n=2) == [3.0, 0.0]


def test_loops_end_where_python_ends_them() -> None:
    def count(out: Any, n: Any) -> None:
        numbers = row(out, 8, np.float64)
        for i in range(n):
            if i == 2:
                continue
            if i == 5:
                break
            numbers[0] += i
        for i in range(2, n, 3):
            numbers[1] += i
        for i in range(n, 0, -2):
            numbers[2] += i
            i = 100
        k = 0
        while True:
            k += 1
            if k > n:
                break
        numbers[3] = k
        while k > 0:
            k -= 2
        numbers[4] = k
        for i in range(0):
            numbers[5] = 1 + i

    for n in (0, 1, 7):
        results(count, n)


def added(a: Any, b: Any) -> Any:
    if b == 0:
        return a, b
    total = a + b
    return total, -b


def note(numbers: Any, pair: Any, like: Any) -> None:
    if pair.count == 0:
        return
    row(numbers, 8, like.dtype)[1] = pair.mass / pair.count
    pair.mass = pair.count


def test_leaves_return_numbers_or_write_to_records() -> None:
    def work(out: Any, a: Any) -> None:
        pair = row(out + 48, 1, PAIR)[0]
        like = row(out, 0, np.float64)
        pair.count = a
        pair.mass = 5.0
        total, minus = added(a, 2)
        rest = added(minus, 0)
        note(out, pair, like)
        row(out, 8, np.float64)[0] = total * 100 + rest[0]
        row(out + like.itemsize * 2, 3, like.dtype)[:] = 7

    results(work, 3)
    results(work, 0)


def test_float32_stays_narrow_until_it_meets_a_wider_number() -> None:
    def widen(out: Any) -> None:
        narrow = row(out + 32, 8, np.float32)
        wide = row(out, 4, np.float64)
        narrow[0] = 0.1
        narrow[1] = narrow[0] * narrow[0]
        wide[0] = narrow[0] * narrow[0]
        wide[1] = narrow[0] * np.float64(0.1)
        wide[2] = np.float64(narrow[0]) + np.float32(0.3)
        narrow[2] = wide[1]
        wide[3] = type(narrow[0])(1) / narrow[0]

    results(widen)


def test_a_literal_is_a_wide_number_as_numba_has_it() -> None:
    def scale(out: Any) -> None:
        row(out, 1, np.float64)[0] = row(out + 8, 1, np.float32)[0] * 0.1

    out, narrow = np.zeros(2), np.float32(0.3)
    out[1:].view(np.float32)[0] = narrow
    native(scale).entry(out.ctypes.data)
    assert out[0] == float(narrow) * 0.1


def test_a_name_may_change_its_type_where_every_way_passes() -> None:
    def shadow(out: Any, n: Any) -> None:
        out = row(out, 4, np.float64)
        n = n * 0.5
        out[0] = n
        total = 0.0
        for i in range(3):
            total += i
        out[1] = total

    results(shadow, 3, n=4)


def test_tables_and_coefficients() -> None:
    def turn(out: Any) -> None:
        table = rows(out, 2, 4, np.float64).T
        n, width = table.shape
        a, b = coefficients_at(out, 2, np.float64)
        for i in range(n):
            for j in range(width):
                table[i, j] = 10 * i + j + a + b

    assert results(turn) == [0.0, 10.0, 20.0, 30.0, 1.0, 11.0, 21.0, 31.0]


def test_what_is_not_known_is_an_error_and_compiled_by_numba_if_asked() -> None:
    def a_power(out: Any) -> None:
        row(out, 1, np.float64)[0] = 2.0 ** row(out, 1, np.float64)[0]

    with pytest.raises(
        RuntimeError, match=r"does not compile .*a_power: .*Pow.*COMPILER=numba"
    ):
        Block(a_power, None)
    out = np.full(2, 3.0)
    Block(a_power, None, ours=False)(out.ctypes.data)
    assert out.tolist() == [8.0, 3.0]


def test_without_a_source_numba_compiles() -> None:
    names: dict[str, Any] = {"row": row, "np": np}
    exec("def doubled(out):\n    row(out, 1, np.float64)[0] *= 2.0", names)
    with pytest.raises(NoSource):
        native(names["doubled"])
    out = np.full(2, 3.0)
    Block(names["doubled"], None)(out.ctypes.data)
    assert out.tolist() == [6.0, 3.0]


def test_a_rule_of_yours_may_count_from_the_end() -> None:
    def last(outputs: Any, targets: Any, slopes: Any, values: Any) -> None:
        for r in range(outputs.shape[0]):
            end = r - r - 1
            values[r] = outputs[r, end]
            slopes[r, end] = 1

    outputs = np.array([[1.0, 2.0], [3.0, 4.0]])  # in columns
    slopes = np.zeros((2, 2))
    values = np.zeros(2)
    block = block_of(elementwise.loss_loop, np.float64, last, by_row=True, mean=False)
    block(*(one.ctypes.data for one in (outputs, outputs, slopes, values)), 0, 2, 2, 2)
    assert values.tolist() == [3.0, 4.0]
    assert slopes.tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_functions_without_source_and_below_decorators() -> None:
    names: dict[str, Any] = {}
    exec("def hidden(out):\n    pass", names)
    with pytest.raises(Unsupported, match="source"):
        native(names["hidden"])
    assert definition_of(decorated).name == "decorated"  # type: ignore[arg-type]


@njit
def decorated(x: Any) -> Any:
    return x


def own_blocks() -> dict[str, Callable[[Any], Any]]:
    table: dict[str, Any] = {}
    for name, (factory, options) in PHASES.items():
        table[name] = lambda scalar, make=factory, way=options: make(scalar, **way)
    table.update({factory.__name__: factory for factory in OCCASIONAL_PHASES})
    for module, names in (
        (epoch, ("train", "evaluate", "predict")),
        (step, ("objective",)),
        (team, ("share_iterations", "enter", "lead")),
        (shuffle, ("shuffle", "shuffle_again")),
        (row_blocks, ("rows_in_lanes", "predict_blocks")),
        (small_batch, ("row_by_row", "small_batch")),
    ):
        table.update({name: getattr(module, name) for name in names})
    table.update({factory.__name__: factory for factory in OCCASIONAL_PHASES})
    for name in ("averaged", "signed"):
        form: Any = {"averaged": name == "averaged", "signed": name == "signed"}
        table[f"penalised, {name}"] = partial(
            elementwise.penalised_update_loop,
            rule=updates.adam,
            n_coefficients=4,
            penalty="l2",
            **form,
        )
    return table


@pytest.mark.few(20)
@pytest.mark.parametrize("scalar", [np.float32, np.float64])
@pytest.mark.parametrize("name", own_blocks())
def test_every_block_of_the_library_is_translated(name: str, scalar: Any) -> None:
    """Numba would take five times as long, or more."""
    assert native(own_blocks()[name](scalar)).address


N_NUMBERS = 1000
# Beside losses of the same names.
OF_SKLEARN = {f"scikit-learn's {name}": loss for name, loss in SKLEARN_LOSSES.items()}


def rules_with_arguments() -> dict[str, Any]:
    """Rules of the library in their loops: the rule,
    the loop of it, and what the loop works on.

    Matrices have five columns of 200 rows; class labels are numbers from 0 to 4.
    """
    table: dict[str, Any] = {}
    for name, rule in activations.RULES.items():
        table[name] = rule, elementwise.activation_loop, (), "rww", (N_NUMBERS,)
    for name, link in losses.LINKS.items():
        table[f"link {name}"] = (
            link.rule,
            elementwise.link_loop,
            (link.by_row,),
            "rw",
            (0, 200, 5),
        )
    for name, loss in (CASES | OF_SKLEARN).items():
        numbered = {"by_row": False, "mean": False, "n_constants": 0} | options_of(loss)
        options = tuple(numbered.values())
        kind = loss.targets == "classes"
        n = {"sorted": 3, "mean_std": 4}.get(loss.link or "", 5)
        numbers = [settings_of(loss, each) for each in (np.float32, np.float64)]
        shape = (numbers, 200, n, 1 if kind else n // loss.per_target)
        table[f"loss {name}"] = (
            loss.rule,
            elementwise.loss_loop,
            options,
            "rcwl" if kind else "ruwl",
            shape,
        )
    for name, optimizer in OPTIMIZERS.items():
        n = optimizer().coefficients(1, np.ones(1)).shape[1]
        rule = optimizer().rule
        moments = (n, N_MOMENTS.get(rule, 2))
        table[f"optimizer {name}"] = (
            rule,
            elementwise.update_loop,
            moments,
            "rrrurcu",
            (N_NUMBERS,),
        )
    for name, options in {
        "averaged": (4, 2, "clipvalue", True),
        "signed": (4, 2, "", False, True),
    }.items():
        loop = elementwise.update_loop
        table[f"optimizer {name}"] = (
            updates.adam,
            loop,
            options,
            "rrrurcu",
            (N_NUMBERS,),
        )
    return table


def numbers_for(kind: str, scalar: Any) -> Any:
    rng = np.random.default_rng(0)
    if kind == "r":
        odd = [0, -0.0, np.nan, np.inf, -np.inf, 1e-40, 3e38, -3e38]
        return np.concatenate(
            [odd, rng.normal(scale=4, size=N_NUMBERS - len(odd))]
        ).astype(scalar)
    if kind == "u":
        return rng.uniform(size=N_NUMBERS).astype(scalar)
    if kind == "c":
        return rng.integers(5, size=N_NUMBERS).astype(scalar)
    return np.zeros(N_NUMBERS, np.float64 if kind == "l" else scalar)


@pytest.mark.slow
@pytest.mark.few(4)
@pytest.mark.parametrize(("i", "name"), [*enumerate(rules_with_arguments())])
def test_rules_have_the_bits_that_numba_gives_them(i: int, name: str) -> None:
    """In both dtypes ours, in one of them, in turn,
    Numba's: it takes 0.3 s for a loop.
    """
    rule, factory, options, kinds, shape = rules_with_arguments()[name]
    register_jitable(**INLINED)(rule)
    results = []
    scalar, other = (np.float32, np.float64)[:: 1 if i % 2 else -1]
    assert native(factory(other, rule, *options)).address
    for ours in (True, False):
        block = Block(factory(scalar, rule, *options), None, ours=ours)
        assert isinstance(block._code, NativeCode) == ours
        arrays = [numbers_for(kind, scalar) for kind in kinds]
        words = (
            each[scalar == np.float64] if isinstance(each, list) else each
            for each in shape
        )
        block(*(array.ctypes.data for array in arrays), *words)
        results.append(arrays)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
        numbers = ~np.isnan(one)
        np.testing.assert_array_equal(
            np.signbit(one[numbers]), np.signbit(other[numbers])
        )


def test_code_shows_its_intermediate_representation() -> None:
    code = Block(elementwise.activation_loop(np.float32, elementary_pair), None)._code
    assert isinstance(code, NativeCode)
    assert "define void" in code.inspect_llvm()


def test_functions_of_a_file_differ_in_name_or_first_line() -> None:
    """The translator finds a function's tree by both."""
    tree = ast.parse(inspect.getsource(epoch))
    names = [
        (one.name, one.lineno)
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef)
    ]
    assert len(names) == len(set(names))


def elementary_pair(z: float) -> tuple[float, float]:
    return elementary.exp(z), z
