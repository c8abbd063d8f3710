"""Rules as compiled blocks: the same numbers as the rule,
in its precision, compiled once.
"""

import functools
import gc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from conditions import only_compiled
from numba.extending import register_jitable

from fastmlp.backends.cpu.kernels import elementwise
from fastmlp.compiler import block_of, blocks, cache
from fastmlp.compiler.blocks import Block, NativeCode
from fastmlp.compiler.by_numba import INLINED
from fastmlp.compiler.cache import CodeCache
from fastmlp.compiler.jit import Unsupported
from fastmlp.compiler.memory import row
from fastmlp.compiler.native import objects
from fastmlp.compiler.native.translator import translate
from fastmlp.rules import activations, losses
from fastmlp.rules.optimizers import OPTIMIZERS, SGD
from fastmlp.rules.updates import N_MOMENTS

FORMS: list[Any] = [
    *(kind() for kind in OPTIMIZERS.values()),
    SGD(momentum=0.9),
    SGD(momentum=0.9, nesterov=True),
]


def update_factory(optimizer: Any) -> Any:
    options = {
        "n_coefficients": optimizer.coefficients(1, np.ones(1)).shape[1],
        "n_moments": N_MOMENTS.get(optimizer.rule, 2),
    }
    return functools.partial(elementwise.update_loop, **options)


def block_ir(factory: Callable[..., Any], *rule: Any, ours: bool = True) -> str:
    for each in rule:
        register_jitable(**INLINED)(each)
    return str(Block(factory(np.float32, *rule), None, ours=ours)._code.inspect_llvm())


# Losses and penalties are left out: they sum in float64 by design.
NARROW: dict[str, tuple[Any, Any]] = {
    **{
        name: (elementwise.activation_loop, rule)
        for name, rule in activations.RULES.items()
    },
    **{
        f"link {name}": (
            functools.partial(elementwise.link_loop, by_row=link.by_row),
            link.rule,
        )
        for name, link in losses.LINKS.items()
    },
    **{f"update {o.rule.__name__}": (update_factory(o), o.rule) for o in FORMS},
}


@pytest.mark.few(12)
@only_compiled
@pytest.mark.parametrize("name", NARROW)
def test_a_rule_of_float32_is_never_widened(name: str) -> None:
    factory, rule = NARROW[name]
    assert "double" not in block_ir(factory, rule)


@only_compiled
def test_a_widening_would_be_seen() -> None:
    def widened(z: Any) -> Any:
        return np.exp(z * 0.5), z

    rule = numba.extending.register_jitable(widened)
    assert "double" in block_ir(elementwise.activation_loop, rule, ours=False)


def test_the_same_rule_twice_is_the_same_block() -> None:
    relu = activations.RULES["relu"]
    block = block_of(elementwise.activation_loop, "float32", relu)
    assert block_of(elementwise.activation_loop, np.dtype(np.float32), relu) is block
    assert block_of(elementwise.activation_loop, "float64", relu) is not block
    assert (
        block_of(elementwise.activation_loop, "float32", activations.RULES["elu"])
        is not block
    )


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    class Recorder(CodeCache):
        def __init__(self, name: str, level: str) -> None:
            names.append(name)
            super().__init__(name)

    monkeypatch.setattr(blocks, "CodeCache", Recorder)
    monkeypatch.setattr(blocks, "_blocks", {})
    return names


def constant(scalar: Any, number: float) -> Any:
    """A factory of blocks that write a number, which is an option of theirs."""

    def write(address: Any) -> None:
        row(address, 1, scalar)[0] = number

    return write


def scaled(scalar: Any, rule: Any, factor: float) -> Any:
    def write(address: Any) -> None:
        row(address, 1, scalar)[0] = factor * rule(scalar(1))[0]

    return write


def written_by(block: Block) -> float:
    number = np.zeros(1)
    block(number.ctypes.data)
    return float(number[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda number: block_of(constant, "float64", number=number),
        lambda number: block_of(
            scaled, "float64", activations.RULES["relu"], factor=number
        ),
    ],
    ids=["kernel", "rule"],
)
def test_blocks_of_other_options_share_no_code_in_memory_nor_on_disk(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    monkeypatch.setattr(blocks, "is_ours", lambda function: True)
    for _ in range(2):  # compiled, then from the disk
        monkeypatch.setattr(blocks, "_blocks", {})
        made = {number: make(number) for number in (1.5, 2.5, 1.5)}
        assert len({block.address for block in made.values()}) == 2
        assert {number: written_by(block) for number, block in made.items()} == {
            1.5: 1.5,
            2.5: 2.5,
        }
        assert make(1.5) is made[1.5]
    assert len(list(tmp_path.iterdir())) == (0 if numba.config.DISABLE_JIT else 2)


@only_compiled
def test_a_rule_of_the_library_is_stored(stored: list[str]) -> None:
    block_of(elementwise.activation_loop, "float64", activations.RULES["relu"])
    assert len(stored) == 1
    assert "fastmlp.rules.activations.relu" in stored[0]


def triple(z: Any) -> Any:
    return 3 * z, z + type(z)(1)


@functools.wraps(activations.relu)
def dressed(z: Any) -> Any:
    return z - type(z)(100), z


@pytest.mark.parametrize(
    ("factory", "rule", "options"),
    [
        (elementwise.activation_loop, [triple], {}),
        (elementwise.activation_loop, [dressed], {}),
        (constant, [], {"number": 2}),
        (scaled, [activations.RULES["relu"]], {"factor": 2}),
    ],
    ids=["rule", "rule dressed as one of the library", "kernel", "loop"],
)
def test_what_is_yours_is_not_stored(
    factory: Any, rule: list[Any], options: dict[str, Any], stored: list[str]
) -> None:
    block_of(factory, "float64", *rule, **options)
    assert stored == []


def no_rule(z: Any) -> Any:
    return z.undefined, z


def one_number(z: Any) -> Any:
    return z


def two_arguments(z: Any, slope: Any) -> Any:
    return slope * z, slope


def reads_a_file(z: Any) -> Any:
    with open("numbers") as file:
        return float(file.read()), z


class Thing:
    """A rule that is an object, which Numba does not compile."""

    def __call__(self, z: Any) -> Any:
        return z, z


@only_compiled
@pytest.mark.parametrize(
    "rule", [no_rule, one_number, two_arguments, reads_a_file], ids=lambda r: r.__name__
)
def test_words_of_a_rule_that_does_not_compile(rule: Any) -> None:
    with pytest.raises(
        TypeError, match=f"^the rule '{rule.__name__}' does not compile; it must"
    ):
        block_of(elementwise.activation_loop, "float64", rule)


@only_compiled
@pytest.mark.parametrize(
    "rule",
    [functools.partial(two_arguments, slope=2.0), Thing(), np.frexp],
    ids=["partial", "object", "ufunc"],
)
def test_words_of_a_rule_that_is_no_function(rule: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^the rule .* does not compile; it must be a function"
    ):
        block_of(elementwise.activation_loop, "float64", rule)


@only_compiled
def test_a_rule_that_does_not_compile_fails_again_with_the_same_words() -> None:
    for _ in range(2):
        with pytest.raises(TypeError, match=r"^the rule 'no_rule' does not compile"):
            block_of(elementwise.activation_loop, "float32", no_rule)


@pytest.fixture
def collector() -> Iterator[None]:
    yield
    gc.enable()


def seen(monkeypatch: pytest.MonkeyPatch, then: Callable[..., Any]) -> list[bool]:
    """Whether the collector is on at each translation,
    in place of which `then` is called.
    """
    states: list[bool] = []

    def translate(function: Any, symbol: str, triple: str) -> Any:
        states.append(gc.isenabled())
        return then(function, symbol, triple)

    monkeypatch.setattr(objects, "translate", translate)
    return states


def does_nothing(address: int) -> None:
    pass


@only_compiled
@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_off_meanwhile(
    on: bool, monkeypatch: pytest.MonkeyPatch, collector: None
) -> None:
    states = seen(monkeypatch, translate)
    (gc.enable if on else gc.disable)()
    NativeCode(does_nothing, None, light=True)  # type: ignore[arg-type]
    assert states == [False]
    assert gc.isenabled() == on


@only_compiled
def test_the_collector_is_on_again_after_errors_and_compilations_within_others(
    monkeypatch: pytest.MonkeyPatch, collector: None
) -> None:
    def refused(function: Any, symbol: str, triple: str) -> Any:
        raise Unsupported("no")

    def nested(function: Any, symbol: str, triple: str) -> Any:
        seen(monkeypatch, refused)
        with pytest.raises(Unsupported):
            NativeCode(function, None, light=True)
        assert not gc.isenabled()
        raise Unsupported("within")

    seen(monkeypatch, nested)
    with pytest.raises(Unsupported):
        NativeCode(does_nothing, None, light=True)  # type: ignore[arg-type]
    assert gc.isenabled()


@only_compiled
def test_the_collector_is_on_again_after_threads_that_compile(collector: None) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: NativeCode(does_nothing, None, light=True), range(6)))  # type: ignore[arg-type]
    assert gc.isenabled()


FORK_WHILE_LOCKED = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads
from fastmlp.compiler import blocks, block_of
from fastmlp.rules.activations import RULES
from fastmlp.backends.cpu.kernels.elementwise import activation_loop
from numba.core.compiler_lock import global_compiler_lock
from threading import Event, Thread

held, done = Event(), Event()
blocks.FORK_PATIENCE = 0.1

def hold():
    with blocks._lock, global_compiler_lock:
        held.set()
        done.wait()

thread = Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    block_of(activation_loop, "float32", RULES["relu"])
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_lock_held_while_forking_does_not_stop_the_child(
    python: Callable[..., str],
) -> None:
    assert python(FORK_WHILE_LOCKED).strip() == "0"
