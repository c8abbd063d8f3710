"""What the map says of additions: each is made on a copy of the package, and works everywhere."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastmlp
from fastmlp.compiler.jit import INTERPRETED

PACKAGE = Path(fastmlp.__file__).parent
# From a file to what is put before its first line that begins so.
Additions = dict[str, list[tuple[str, str]]]
ACTIVATION: Additions = {
    "rules/activations.py": [
        ('    "softplus",\n]', '    "bent",\n'),
        (
            "RULES: dict",
            '''def bent(z: float) -> Pair:
    """f(z) = z + (sqrt(z^2 + 1) - 1) / 2."""
    one, half = type(z)(1), type(z)(0.5)
    root = sqrt(z * z + one)
    return z + half * (root - one), one + half * z / root


''',
        ),
        (
            "from fastmlp.rules.elementary import softplus",
            "from fastmlp.rules.elementary import sqrt\n",
        ),
    ]
}
LOSS: Additions = {
    "rules/losses.py": [
        ('    "mse",\n', '    "cauchy",\n'),
        ('    "mse": Loss(', '    "cauchy": Loss(cauchy, constants=(1.0,)),\n'),
        (
            "NumberLossName = ",
            '''def cauchy(prediction: float, target: float, scale: float) -> Pair:
    """L = log(1 + (e / c)^2), with e = p - y and a scale c."""
    c = type(prediction)(scale)
    part = (prediction - target) / c
    return log1p(part * part), (part + part) / (c * (type(part)(1) + part * part))


''',
        ),
    ],
    "rules/loss_settings.py": [
        (
            "@explained\n@dataclass(frozen=True)\nclass Quantile",
            '''@dataclass(frozen=True)
class Cauchy(LossSettings):
    """The negative logarithm of a Cauchy density, of a scale."""

    kind = "cauchy"
    scale: float = 1.0


''',
        )
    ],
    "__init__.py": [
        (
            "from fastmlp.rules.optimizers",
            "from fastmlp.rules.loss_settings import Cauchy as Cauchy\n",
        )
    ],
}
START = """
import sys
import warnings
from pathlib import Path
import numpy as np
import fastmlp
from fastmlp import MLP, MLPClassifier, MLPRegressor, load, to_c, to_onnx
from c_programs import failures, built

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
y, folder = X.sum(axis=1), Path(sys.argv[1])
assert Path(fastmlp.__file__).parent.parent == folder
warnings.simplefilter("ignore")

def exported(net):
    import onnxruntime
    session = onnxruntime.InferenceSession(to_onnx(net).SerializeToString())
    np.testing.assert_allclose(session.run(None, {"X": X})[0], net.predict(X), atol=1e-5)
    if sys.argv[2] == "with C":
        library = built(folder, {"net": to_c(net, prefix="net")}, ["-O1"])
        assert failures(library, "net", np.float32, 1e-5) == 0
    net.save(folder / "net")
    assert (load(folder / "net").predict(X) == net.predict(X)).all()
"""
OF_ACTIVATION = """
net = MLP((3, 5, 1), activation="bent", seed=0)
losses = net.fit(X, y, epochs=5, batch_size=8).loss
assert losses[-1] < losses[0]
exported(net)
for kind in (MLPClassifier, MLPRegressor):
    model = kind(hidden_layer_sizes=(5,), activation="bent", solver="sgd", max_iter=3, tol=0)
    assert model.fit(X, y > 0).n_iter_ == 3
"""
OF_LOSS = """
from fastmlp import Cauchy
net = MLP((3, 5, 1), loss=Cauchy(0.5), seed=0)
assert "Cauchy(scale=0.5)" in repr(net)
losses = net.fit(X, y, epochs=5, batch_size=8).loss
assert losses[-1] < losses[0]
exported(net)
assert repr(MLP((3, 1), loss=Cauchy())) == repr(MLP((3, 1), loss="cauchy"))
net.as_estimator(epochs=3).fit(X, y)
"""
ON_A_GPU = """
nets = [MLP((3, 5, 1), {0}, seed=0, device=device) for device in ("cuda", "cpu")]
for net in nets:
    net.fit(X[:16], y[:16], epochs=1, batch_size=8)
np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, atol=1e-5)
"""


def counts(row: str) -> list[int]:
    (found,) = re.findall(
        rf"^\| {row}[^|]*\| ([^|]+) \|", (PACKAGE / "README.md").read_text(), re.M
    )
    return [int(number) for number in re.findall(r"\d+", found)]


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: nothing is compiled")
@pytest.mark.parametrize(
    ("row", "additions", "script", "argument"),
    [
        ("activation", ACTIVATION, OF_ACTIVATION, "activation='bent'"),
        ("loss", LOSS, OF_LOSS, "loss=fastmlp.Cauchy(0.5)"),
    ],
)
def test_an_addition_takes_the_files_of_the_map_and_works_everywhere(
    row: str,
    additions: Additions,
    script: str,
    argument: str,
    tmp_path: Path,
    python: Callable[..., str],
) -> None:
    copied = tmp_path / "fastmlp"
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    for name, edits in additions.items():
        text = (copied / name).read_text()
        for place, added in edits:
            assert place in text
            text = text.replace(place, added + place, 1)
        (copied / name).write_text(text)
    assert counts(row)[-1] == len(additions)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])
    with_c = "with C" if shutil.which("gcc") else ""
    environment: dict[str, Any] = {"PYTHONPATH": path, "timeout": 300}
    python(START + script, tmp_path, with_c, **environment)
    on_gpu = START + ON_A_GPU.format(argument)
    python(on_gpu, tmp_path, "", **environment, NUMBA_ENABLE_CUDASIM="1")
