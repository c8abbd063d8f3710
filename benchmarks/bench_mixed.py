"""Steps inside `fit` in mixed precision:
products of bfloat16, beside the same nets in float32.
"""

import pytest

from benchmarks.bench_train import Race, in_race
from benchmarks.peers import trainers
from benchmarks.workloads import MIXED

BOTH = [name for peer in trainers("mixed") for name in (peer, f"{peer}-float32")]


@pytest.mark.libraries(*BOTH)
@pytest.mark.parametrize("net", [net.name for net in MIXED])
def test_mixed(race: Race, net: str) -> None:
    in_race(race, net)
