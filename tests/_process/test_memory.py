"""Sizes are looked at before memory is asked for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastmlp import MLP
from fastmlp._process import memory
from fastmlp.backends.cpu.plan import workspace
from fastmlp.network.spec import make_layout

HUGE = [(10**6, 10**6, 1), (2**31, 2**31), (2**62, 2), (2**40, 1, 2**40), (1, 2**61)]


@pytest.mark.parametrize("sizes", HUGE, ids=str)
def test_a_net_that_cannot_be_names_its_sizes(sizes: tuple[int, ...]) -> None:
    with pytest.raises(MemoryError, match=r"MLP: layer_sizes=\(.*parameters needs .* available"):
        MLP(sizes)


def test_a_size_beyond_integers_is_named() -> None:
    with pytest.raises(ValueError, match=r"layer_sizes\[0\] must be at most 2\*\*62"):
        MLP((2**63, 1))


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 1 MB."""
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "available", lambda: 1_000_000)


@pytest.mark.usefixtures("little")
def test_data_predictions_and_workspaces_are_looked_at() -> None:
    net = MLP((2, 100, 1), seed=0)
    x = np.zeros((200_000, 2))
    with pytest.raises(
        MemoryError, match=r"MLP.predict: X as float32, shape \(200000, 2\), needs 1"
    ):
        net.predict(x)
    with pytest.raises(MemoryError, match=r"MLP.fit: X as float32"):
        net.fit(x, x[:, 0])
    wide = MLP((2, 100), seed=0)
    with pytest.raises(MemoryError, match=r"predictions of shape \(9000, 100\) needs 3.6 MB"):
        wide.predict(np.zeros((9000, 2), np.float32))
    with pytest.raises(
        MemoryError, match=r"a workspace of .* rows needs .* MB, and 1 MB are avail"
    ):
        workspace.make_workspace(make_layout((2, 100, 1)), 9000, 1, "float32", 16, train=True)
    several = MLP((2, 3000, 1), seed=0)
    with pytest.raises(MemoryError, match="MLP: a workspace of"):
        several.fit(np.zeros((500, 2), np.float32), np.zeros(500), batch_size=500, epochs=1)
    # And what fits goes on.
    assert net.fit(x[:10], x[:10, 0], epochs=1).loss


LIMITED = """
import resource
from fastmlp import MLP
space = 4 << 30
resource.setrlimit(resource.RLIMIT_AS, (space, space))
try:
    MLP((20_000, 20_000, 1))
except MemoryError as error:
    print(error)
print(MLP((20, 20, 1), seed=0).fit([[0.0] * 20], [1.0], epochs=1).status.name)
"""


def test_a_limit_of_the_address_space_counts(python: Callable[..., str]) -> None:
    pytest.importorskip("resource")
    told, status = python(LIMITED).splitlines()
    assert told.startswith("MLP: layer_sizes=(20000, 20000, 1): making 400,040,001 parameters")
    assert status == "COMPLETED"


def test_what_a_control_group_has_left_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\nfile 300000\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available() == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    most = memory.available()
    assert most is None or most > 1_000_000


def test_where_nothing_tells_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_machine", "_control_group", "_address_space"):
        monkeypatch.setattr(memory, name, lambda: None)
    memory.require(1 << 60, "test", "everything")
    monkeypatch.setattr(memory, "_machine", lambda: 1)
    with pytest.raises(MemoryError, match=r"test: everything needs 1.15 EB, and 1 bytes are avail"):
        memory.require(1 << 60, "test", "everything")
