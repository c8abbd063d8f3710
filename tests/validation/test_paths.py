"""Files and folders that are not there: the error names the call and the path."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tables import untrained

import fastmlp
from fastmlp import MLP, Blocks, TabularMLPRegressor, predict_arrow, predict_parquet

X, Y = np.zeros((4, 2)), np.zeros(4)
READ: dict[str, Callable[[Any], Any]] = {
    "fastmlp.load": fastmlp.load,
    "MLP.load": MLP.load,
    "MLP.fit": lambda path: net().fit(path, target="y"),
    "TabularMLPRegressor.fit": lambda path: TabularMLPRegressor().fit(path, target="y"),
    "MLP.predict_batches": lambda path: next(net().predict_batches(path)),
    "predict_arrow": lambda path: predict_arrow(net(), path),
    "predict_parquet": lambda path: predict_parquet(net(), path, "out.csv"),
    "Blocks.from_parquet": lambda path: Blocks.from_parquet(path, target="y"),
}
WRITTEN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "MLP.save": (".safetensors", lambda path: net().save(path)),
    "fastmlp.save": (".safetensors", lambda path: fastmlp.save(untrained(0)[0], path)),
    "MLP.fit": (".safetensors", lambda path: net().fit(X, Y, checkpoint=path)),
    "predict_parquet": (".csv", lambda path: predict_parquet(net(), X, path)),
    "to_c": (".h", lambda path: fastmlp.to_c(net(), path)),
    "fastmlp.to_onnx": (".onnx", lambda path: fastmlp.to_onnx(net(), path)),
}


def net() -> MLP:
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
