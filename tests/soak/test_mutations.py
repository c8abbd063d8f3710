"""Hostile model files: each is a net or a FileError, soon, and in little memory."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import fastmlp
from fastmlp import MLP, FileError
from fastmlp.tabular import TableModel

CORPUS = sorted((Path(__file__).parents[1] / "golden").glob("*.safetensors"))
FULL = 160_000

LOAD_ALL = """
import resource, signal, sys, time, warnings
import numpy as np
import fastmlp
from fastmlp import MLP, FileError
from fastmlp.tabular import TableModel
from mutations import mutated
from peak_memory import peak_of_process
path, n, stride, *corpus = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
warnings.simplefilter("ignore")
raws = [open(each, "rb").read() for each in corpus]
def weights_of(model):
    if isinstance(model, TableModel):
        return weights_of(model.net)
    if isinstance(model, MLP):
        return [*model.weights, *model.biases]
    if hasattr(model, "members_"):
        return [each for member in model.members_ for each in weights_of(member.net)]
    return [*model.coefs_, *model.intercepts_]

def predicted(model, n):
    if isinstance(model, TableModel):
        model = model.net
    if hasattr(model, "members_"):
        n = model.n_features_in_
    return model.predict(np.ones((1, n)))

for each in corpus:
    model = fastmlp.load(each)
    predicted(model, len(weights_of(model)[0]))

before = peak_of_process()
pages = int(open("/proc/self/statm").read().split()[0])
space = pages * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (space, space))
nets = refused = 0
slowest = 0.0
for i in range(n):
    raw = mutated(raws[i % len(raws)], i // len(raws) * stride)
    with open(path, "wb") as file:
        file.write(raw)
    signal.setitimer(signal.ITIMER_PROF, 20)  # of the processor's time: others may pause this
    start = time.process_time()
    try:
        net = fastmlp.load(path)
    except FileError:
        refused += 1
    else:
        nets += 1
        weights = weights_of(net)
        assert all(np.isfinite(w).all() for w in weights)
        assert sum(w.size for w in weights) < len(raw)
        if len(weights[0]) < 100 and nets % 20 == 0:
            predicted(net, len(weights[0]))
            repr(net)
    slowest = max(slowest, time.process_time() - start)
growth = peak_of_process() - before
print(nets, refused, growth, round(slowest, 3))
"""


def test_every_mutated_file_is_a_net_or_an_error(
    python: Callable[..., str], soak: bool, tmp_path: Path
) -> None:
    n = FULL if soak else 4_000
    told = python(LOAD_ALL, tmp_path / "net.safetensors", n, FULL // n, *CORPUS, timeout=600)
    nets, refused, growth, slowest = map(float, told.split())
    assert nets + refused == n
    assert nets > n // 1000
    assert refused > n // 2
    assert growth < 64e6
    assert slowest < 10


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_what_hypothesis_makes_of_a_file(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from(CORPUS)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.integers(0, len(raw)))
        last = first + data.draw(st.integers(0, 16))
        raw[first:last] = data.draw(st.binary(max_size=16))
    with tempfile.NamedTemporaryFile() as file:
        file.write(raw)
        file.flush()
        try:
            net = fastmlp.load(file.name)
        except FileError:
            return
    net = net.net if isinstance(net, TableModel) else net
    nets = [member.net for member in getattr(net, "members_", ())] or [net]
    parameters = [
        part
        for each in nets
        for part in ([each.parameters] if isinstance(each, MLP) else each.coefs_ + each.intercepts_)
    ]
    assert all(np.isfinite(each).all() for each in parameters)
