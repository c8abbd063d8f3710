"""Pages with another library beside fastmlp:
both sides run, where the library is installed.
"""

import os
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docs.tools import outputs

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    "from/keras.md",
    "from/pytorch.md",
    "from/boosted-trees.md",
    "from/emlearn.md",
    "how-to/norms.md",
    "how-to/optuna.md",
    "how-to/residual-nets.md",
    "how-to/serving.md",
]
# Keras computes with it.
os.environ.setdefault("KERAS_BACKEND", "torch")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PAGES)
def test_sides_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page's first library must be there;
    a block of another is left out where it is not.
    """
    monkeypatch.chdir(tmp_path)
    theirs = outputs.blocks(DOCS / page, ("py",))
    for name in sorted(outputs.imported(theirs[0]["code"])):
        pytest.importorskip(name, reason="the page's library is not installed")
    namespace: dict[str, Any] = {"__name__": "page"}
    outputs.run(DOCS / page, namespace, peers=True)
    if page == "how-to/serving.md":
        ask_the_service(namespace["app"])


def ask_the_service(app: Any) -> None:
    client = pytest.importorskip("fastapi.testclient", reason="needs httpx2").TestClient
    with client(app) as service:
        rows = [{"size": 40, "shop": "B"}, {"size": 40}]
        (first, second) = service.post("/prices", json=rows).json()
        assert first > second
        answer = service.post("/prices", json=[{"size": "large"}])
        assert (answer.status_code, "size" in answer.text) == (400, True)


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-loop.md"
# What PyTorch's blocks call the nets.
PEERS = {"net": "model", "actor": "policy", "critic": "value"}


def in_float64(block: str) -> str:
    return re.sub(r"seed=(\w+)", r'seed=\1, dtype="float64"', block).replace(
        "float32", "float64"
    )


def copy_weights(net: Any, peer: Any) -> None:
    torch = import_module("torch")
    with torch.no_grad():
        for i, layer in enumerate(list(peer)[::2]):
            layer.weight.copy_(torch.from_numpy(net.weights[i].T.copy()))
            layer.bias.copy_(torch.from_numpy(net.biases[i].copy()))


def parameters_of(peer: Any) -> Any:
    layers = list(peer)[::2]
    parts = [layer.weight.T for layer in layers] + [layer.bias for layer in layers]
    return np.concatenate([part.detach().numpy().ravel() for part in parts])


@pytest.fixture
def in_double() -> Iterator[Any]:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_double")
def test_the_loops_of_the_page_are_pytorchs() -> None:
    """Blocks of ours and of PyTorch's that follow each other, from the same weights."""
    namespace: dict[str, Any] = {}
    blocks = re.findall(
        r"^```(python|py)\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.M
    )
    n_loops = 0
    for (before, ours), (language, block) in pairwise(blocks):
        if language == "python":
            continue
        if before == "py":  # takes over PyTorch's weights
            namespace["net"].parameters[:] = 0
            exec(block, namespace)
        else:
            parts = [
                re.split(r"^(?=for rows)", each, flags=re.M) for each in (ours, block)
            ]
            for start, _ in parts:
                exec(in_float64(start), namespace)
            for net, peer in PEERS.items():
                if f"{peer} = " in block:
                    copy_weights(namespace[net], namespace[peer])
            for _, loop in parts:
                exec(in_float64(loop), namespace)
            n_loops += 1
        for net, peer in PEERS.items():
            if peer in namespace:
                expected = parameters_of(namespace[peer])
                np.testing.assert_allclose(
                    namespace[net].parameters, expected, rtol=1e-8, atol=1e-9
                )
    assert n_loops == 3


def test_the_cart_is_gymnasiums() -> None:
    gymnasium = pytest.importorskip(
        "gymnasium", reason="compares with gymnasium's environment"
    )
    theirs = gymnasium.make("CartPole-v1", max_episode_steps=50)
    ours = import_module("examples.environments.cartpole").CartPole(
        max_episode_steps=50
    )
    rng = np.random.default_rng(0)
    ends = []
    for episode in range(40):
        seed = episode if episode % 2 == 0 else None
        np.testing.assert_array_equal(ours.reset(seed)[0], theirs.reset(seed=seed)[0])
        stands = True
        while stands:
            # Some stand until the limit: pushed the way that the pole falls.
            if episode % 3:
                action = int(ours.state[2] + ours.state[3] > 0)
            else:
                action = int(rng.integers(2))
            state, *others = ours.step(action)
            expected, *expected_others = theirs.step(action)
            np.testing.assert_allclose(state, expected, rtol=1e-5, atol=1e-7)
            assert others == expected_others
            stands = not (others[1] or others[2])
        ends.append(others[1:3])
    assert [True, False] in ends
    assert [False, True] in ends
