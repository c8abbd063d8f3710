"""A network's rules as blocks: which layer takes which form, and which rule is whose address."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conditions import only_compiled
from nets import Net

from fastmlp.backends.cpu.kernels import elementwise, rule_blocks
from fastmlp.backends.cpu.plan.records import BLOCK, LINEAR, RELU
from fastmlp.compiler import block_of
from fastmlp.network.spec import Network
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.losses import LINKS, Tweedie
from fastmlp.rules.optimizers import OPTIMIZERS, SGD, Custom
from fastmlp.rules.updates import N_MOMENTS, PENALTIES

HERE = Path(__file__).parent
FOLDERS = (HERE, HERE.parents[1], HERE.parents[2], HERE.parents[3])
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def network_of(*names: str, dtype: str = "float64", **fields: Any) -> Network:
    net = Net((3, *[5] * len(names)), dtype=dtype).network
    chosen = tuple(ACTIVATIONS[name] for name in names)
    return net._replace(activations=chosen, **fields)


def block_for(name: str, dtype: str = "float64") -> int:
    return block_of(elementwise.activation_loop, dtype, ACTIVATIONS[name]).address


def test_a_hidden_relu_is_fused_and_an_identity_linear() -> None:
    both = rule_blocks.activations(network_of("identity", "relu", "relu", "identity"))
    assert both == ([0] * 4, [LINEAR, RELU, RELU, LINEAR])
    apart = rule_blocks.activations(network_of("relu", "identity"), fused=False)
    assert apart == ([block_for("relu"), 0], [RELU, LINEAR])


@each_dtype
@pytest.mark.parametrize("name", ["silu", "tanh", "gelu"])
def test_blocks_without_slopes_write_values_alone(name: str, dtype: str, rng: Any) -> None:
    loop, rule = elementwise.activation_loop, ACTIVATIONS[name]
    alone, both = block_of(loop, dtype, rule, slopes=False), block_of(loop, dtype, rule)
    addresses, _ = rule_blocks.activations(network_of(name, "relu", dtype=dtype), slopes=False)
    assert addresses[0] == alone.address != both.address
    z = rng.normal(scale=20, size=77).astype(dtype)
    values, expected, slopes = (np.full(77, 7, dtype) for _ in range(3))
    alone(z.ctypes.data, values.ctypes.data, slopes.ctypes.data, 77)
    assert (slopes == 7).all()
    both(z.ctypes.data, expected.ctypes.data, slopes.ctypes.data, 77)
    np.testing.assert_array_equal(values, expected)


def relu(z: Any) -> Any:
    return (z if z > 0 else type(z)(0)), type(z)(1)


def test_a_rule_of_yours_is_never_fused() -> None:
    network = network_of("relu", "identity")._replace(activations=(relu, ACTIVATIONS["identity"]))
    addresses, forms = rule_blocks.activations(network)
    assert forms == [BLOCK, LINEAR]
    assert addresses[0] == block_of(elementwise.activation_loop, "float64", relu).address


ALONE = """
import numpy as np
from fastmlp import MLP
net = MLP((2, 3, 1), activation="tanh", output_activation="sigmoid", seed=0, dtype="float64")
x = np.array([[1.0, -2.0]])
first = net.predict(x)
assert np.array_equal(first, net.predict(np.repeat(x, 9, axis=0))[:1])
w, b = net.weights, net.biases
expected = 1 / (1 + np.exp(-(np.tanh(x @ w[0] + b[0]) @ w[1] + b[1])))
np.testing.assert_allclose(first, expected, rtol=1e-12)
"""


@pytest.mark.slow
@pytest.mark.parametrize("disable", ["0", "1"])
def test_the_first_block_of_a_process_is_called(disable: str, python: Any) -> None:
    python(ALONE, NUMBA_DISABLE_JIT=disable)


def test_without_output_neither_activation_nor_link_is_left() -> None:
    network = network_of("tanh", "sigmoid", link=LINKS["softmax"])
    raw = network.without_output()
    assert raw.activations == (ACTIVATIONS["tanh"], ACTIVATIONS["identity"])
    assert raw.link is LINKS["identity"]
    assert network.link is LINKS["softmax"]


def test_one_block_reads_each_setting_of_a_loss() -> None:
    nets = [network_of("identity", loss=Tweedie(power).loss) for power in (1.2, 1.4, 1.2)]
    first, second, again = map(rule_blocks.loss, nets)
    assert first == again
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_penalties_have_their_blocks_in_order() -> None:
    names = sorted(PENALTIES, reverse=True)
    network = network_of("identity", penalties=tuple((PENALTIES[n], 0.1) for n in names))
    blocks = [block_of(elementwise.penalty_loop, "float64", PENALTIES[n]).address for n in names]
    assert rule_blocks.penalties(network) == blocks


def own_rule(w: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    return w - rate * g, m + g, v + g * g


FORMS: list[Any] = [
    *(kind() for kind in OPTIMIZERS.values()),
    SGD(momentum=0.9),
    SGD(momentum=0.9, nesterov=True),
    Custom(own_rule),
]


@each_dtype
@pytest.mark.parametrize("optimizer", FORMS, ids=lambda o: o.rule.__name__)
def test_an_optimizer_moves_the_state_of_its_rule_and_no_other(
    optimizer: Any, dtype: str, rng: Any
) -> None:
    w, g, m = rng.normal(size=(3, 75)).astype(dtype)
    v = rng.uniform(1, 2, size=75).astype(dtype)
    constants = optimizer.coefficients(3, np.full(1, 0.1))[0].astype(dtype)
    n = N_MOMENTS.get(optimizer.rule, 2)
    # What the rule does not use: a NaN that is read would spoil w, one that is written be gone.
    unused = (m, v)[n:]
    for moment in unused:
        moment[:] = np.nan
    state = [np.nan_to_num(a) for a in (m, v)]
    after = [optimizer.rule(*each, *constants) for each in zip(w, g, *state, strict=True)]
    block = rule_blocks.optimizer(network_of("identity", dtype=dtype), optimizer)
    block(*(a.ctypes.data for a in (w, g, m, v)), 0, 0, constants.ctypes.data, w.size)
    assert np.isnan(unused).all()
    tolerance = {"float32": 3e-6, "float64": 1e-14}[dtype]
    for actual, expected in zip((w, m, v)[: n + 1], np.array(after, dtype).T, strict=False):
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_a_rule_that_moves_state_is_known_to_use_it() -> None:
    for optimizer in FORMS:
        constants = optimizer.coefficients(3, np.full(1, 0.1))[0]
        _, m, v = optimizer.rule(1.0, 2.0, 0.5, 0.25, *constants)
        moved = 2 if v != 0.25 else 1 if m != 0.5 else 0
        assert N_MOMENTS.get(optimizer.rule, 2) == moved


def test_a_penalty_of_ours_and_an_update_with_two_numbers_of_state_are_one_block() -> None:
    l1, l2 = ((PENALTIES[name], 0.1) for name in ("l1", "l2"))
    adam, results = OPTIMIZERS["adam"](), set[int]()
    for penalty in (l1, l2):
        network = network_of("identity", penalties=(penalty,))
        results.add(rule_blocks.penalised_optimizer(network, adam))
        assert rule_blocks.penalised_optimizer(network, SGD(momentum=0.5)) == 0
    assert len(results - {0}) == 2


def test_no_penalty_two_of_them_or_a_users_own_are_not_part_of_the_update() -> None:
    def own(w: Any) -> Any:
        return w * w, w + w

    both = tuple((rule, 0.1) for rule in PENALTIES.values())
    for chosen in ((), both, ((own, 0.1),)):
        network = network_of("identity", penalties=chosen)
        assert rule_blocks.penalised_optimizer(network, OPTIMIZERS["adam"]()) == 0


# A rule in a script has no source, which the translator would read.
PENALISED = """
from test_rule_blocks import network_of
from fastmlp.backends.cpu.kernels import rule_blocks
from fastmlp.compiler import COMPILER
from fastmlp.rules.optimizers import (Adam, Custom)
from fastmlp.rules.updates import PENALTIES as RULES

def own(w, g, m, v, rate):
    return w - rate * g, m, v

network = network_of("identity", penalties=((RULES["l2"], 0.1),))
optimizer = Adam() if COMPILER == "numba" else Custom(own)
print("block" if rule_blocks.penalised_optimizer(network, optimizer) else "no block")
"""


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["", "numba"])
@only_compiled
def test_numba_compiles_a_penalty_in_an_update_before_any_other(
    compiler: str, python: Callable[..., str]
) -> None:
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), *map(str, FOLDERS)])
    assert python(PENALISED, FASTMLP_COMPILER=compiler, PYTHONPATH=path) == "block\n"
