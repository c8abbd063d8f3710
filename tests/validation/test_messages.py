"""The messages of calls that are refused, in messages.txt, and that none costs a compilation.

A block of messages.txt is a call and its error, where `...` stands for any text. For a new call
write the first line: `pytest tests/validation/test_messages.py --golden` writes what has changed.
"""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numba import config
from numba.core import event
from scipy.sparse import csr_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_models import untrained

import fastmlp
from fastmlp import (
    MLP,
    Blocks,
    Expanded,
    TabularMLPRegressor,
    cluster,
    jit,
    predict_arrow,
    predict_parquet,
)
from fastmlp.plotting import plot_history
from fastmlp.rules.activations import RULES
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.optimizers import OPTIMIZERS
from fastmlp.rules.updates import INITIALIZERS

GOLDEN = Path(__file__).with_name("messages.txt")
X, Y, VALUES = np.ones((6, 3)), np.ones(6), np.array([[7.0, 1.25, 2], [8, 3, 0], [9, -1, 1]])
LABELS = np.array([0, 1, 2] * 2)
TABLE = {"a": [1.0, 2.0], "b": ["u", "v"]}
FRAME = pd.DataFrame(TABLE)


def net(**settings: Any) -> MLP:
    return MLP((3, 4, 1), **settings)


def classifier(n: int = 3, loss: Any = "cross_entropy") -> MLP:
    return MLP((3, 4, n), loss=loss)


def spoilt(value: float) -> Any:
    x = X.copy()
    x[4, 2] = value
    return x


def own_loss(prediction: Any, target: Any) -> Any:
    return prediction - target, prediction


class KerasCallback:
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None: ...

    def on_train_begin(self, logs: Any = None) -> None: ...


NAMES = {
    **{name: getattr(fastmlp, name) for name in dir(fastmlp)},
    **{"X": X, "Y": Y, "VALUES": VALUES, "LABELS": LABELS, "TABLE": TABLE, "FRAME": FRAME},
    **{"np": np, "pd": pd, "pl": pl, "pa": pa, "fastmlp": fastmlp, "csr_matrix": csr_matrix},
    "timedelta": timedelta,
    **{"net": net, "classifier": classifier, "spoilt": spoilt, "own_loss": own_loss},
    **{"KerasCallback": KerasCallback, "Expanded": Expanded, "plot_history": plot_history},
    **{"make_pipeline": make_pipeline, "StandardScaler": StandardScaler, "cluster": cluster},
    "jit": jit,
}


def blocks() -> dict[str, str]:
    texts = GOLDEN.read_text(encoding="utf-8").strip().split("\n\n")
    return {call: message for call, _, message in (text.partition("\n") for text in texts)}


def matches(pattern: str, message: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\.\.\.", ".*"), message) is not None


# All calls are made, though a run may take few cases of a test: a case is every twelfth call.
N_CASES = 12


def message_of(call: str) -> str:
    try:
        return f"no error: {eval(call, dict(NAMES))!r}"
    except Exception as error:
        return re.sub(r"0x[0-9a-f]+", "...", f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("first", range(N_CASES))
def test_the_messages_of_calls(first: int, request: pytest.FixtureRequest) -> None:
    golden = blocks()
    with event.install_recorder("numba:compile") as recorder:
        messages = {call: message_of(call) for call in [*golden][first::N_CASES]}
    assert recorder.buffer == []
    changed = {call: text for call, text in messages.items() if not matches(golden[call], text)}
    if request.config.getoption("--golden") and changed:
        text = "\n\n".join("\n".join(block).strip() for block in (golden | changed).items())
        GOLDEN.write_text(text + "\n", encoding="utf-8")
    assert not changed or request.config.getoption("--golden"), changed


@pytest.mark.parametrize(
    ("keyword", "table"),
    [
        ("activation", RULES),
        ("loss", LOSSES),
        ("optimizer", OPTIMIZERS),
        ("initializer", INITIALIZERS),
    ],
)
def test_an_unknown_name_lists_every_known_one(keyword: str, table: Any) -> None:
    with pytest.raises(ValueError, match=f"unknown {keyword}") as caught:
        net(**{keyword: "nonsense"})
    assert str(caught.value).endswith(f"known: {', '.join(sorted(table))}")


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled")
def test_a_rule_that_does_not_compile_is_named() -> None:
    def lookup(z: Any) -> Any:
        return z, type(z)(len(z.hex()) > 0)

    with pytest.raises(TypeError, match=r"the rule '.*lookup' does not compile"):
        net(activation=lookup).predict(X)


def test_a_failed_fit_leaves_the_net_as_it_was() -> None:
    model = net(seed=0)
    before = model.parameters.copy()
    with pytest.raises(ValueError, match="finite"):
        model.fit(spoilt(np.nan), Y)
    assert (model.parameters == before).all()
    assert model.n_steps == 0


ZEROS, ZERO = np.zeros((4, 2)), np.zeros(4)
READ: dict[str, Callable[[Any], Any]] = {
    "fastmlp.load": fastmlp.load,
    "MLP.load": MLP.load,
    "MLP.fit": lambda path: small_net().fit(path, target="y"),
    "TabularMLPRegressor.fit": lambda path: TabularMLPRegressor().fit(path, target="y"),
    "MLP.predict_batches": lambda path: next(small_net().predict_batches(path)),
    "predict_arrow": lambda path: predict_arrow(small_net(), path),
    "predict_parquet": lambda path: predict_parquet(small_net(), path, "out.csv"),
    "Blocks.from_parquet": lambda path: Blocks.from_parquet(path, target="y"),
}
WRITTEN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "MLP.save": (".safetensors", lambda path: small_net().save(path)),
    "fastmlp.save": (".safetensors", lambda path: fastmlp.save(untrained(0)[0], path)),
    "MLP.fit": (".safetensors", lambda path: small_net().fit(ZEROS, ZERO, checkpoint=path)),
    "predict_parquet": (".csv", lambda path: predict_parquet(small_net(), ZEROS, path)),
    "to_c": (".h", lambda path: fastmlp.to_c(small_net(), path)),
    "fastmlp.to_onnx": (".onnx", lambda path: fastmlp.to_onnx(small_net(), path)),
}


def small_net() -> MLP:
    return MLP((2, 1), seed=0)


@pytest.mark.parametrize("who", READ)
def test_a_missing_file_is_named_by_the_call(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for ending in (".parquet", ".arrow", ".csv"):
        for path in (f"no{ending}", Path(f"no/such{ending}")):
            if who == "Blocks.from_parquet" and ending != ".parquet":
                continue
            with pytest.raises(FileNotFoundError) as caught:
                READ[who](path)
            assert str(caught.value) == f"{who}: there is no file {str(path)!r}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("who", WRITTEN)
def test_a_missing_folder_is_named_by_the_call(who: str, tmp_path: Path) -> None:
    ending, write = WRITTEN[who]
    path = tmp_path / "no" / f"out{ending}"
    with pytest.raises(FileNotFoundError) as caught:
        write(path)
    folder = str(tmp_path / "no")
    assert str(caught.value) == f"{who}: there is no folder {folder!r} for {str(path)!r}"
    assert not list(tmp_path.iterdir())
