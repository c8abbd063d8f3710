"""Mistakes of those who come from other libraries, beside the calls of `messages`."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastmlp
from fastmlp import MLP, FileError, MLPClassifier
from fastmlp.validation import messages


@pytest.mark.parametrize("name", ["Sequential", "Dense", "ModelCheckpoint", "optim"])
def test_an_import_by_name_has_advice(name: str) -> None:
    with pytest.raises(ImportError) as caught:
        exec(f"from fastmlp import {name}", {})
    assert str(caught.value).endswith(messages.names()[name])
    assert not hasattr(fastmlp, name)


def test_submodules_and_other_names_are_imported_as_ever() -> None:
    exec("from fastmlp import cluster, report, tabular", {})
    with pytest.raises(ImportError, match="cannot import name 'frobnicate'"):
        exec("from fastmlp import frobnicate", {})


def test_names_of_others_are_not_names_here() -> None:
    assert not messages.names().keys() & {*dir(fastmlp)}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x80\x04N.", "a pickle, which fastmlp does not run"),
        (b"\x89HDF\r\n\x1a\n", "a file of HDF5, such as one of Keras"),
        (b"", "not a safetensors file, or one that was cut short"),
    ],
)
def test_a_file_of_another_format_is_named(
    content: bytes, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    for load in (fastmlp.load, MLP.load):
        with pytest.raises(FileError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: {kind}")


def test_a_zip_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", b"...")
    with pytest.raises(FileError, match="a zip archive, such as a file of PyTorch"):
        fastmlp.load(path)


def test_a_refused_name_leaves_no_file(tmp_path: Path) -> None:
    for name in ("m.keras", "m.H5", "m.pt", "m.pickle", "m.onnx"):
        with pytest.raises(ValueError, match=r"name it 'm\.safetensors'"):
            MLP((2, 1), seed=0).save(tmp_path / name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastmlp.Adam(MLP((30, 30, 1)).parameters),  # type: ignore[arg-type]
        lambda: fastmlp.SGD(momentum=np.zeros(999)),  # type: ignore[arg-type]
        lambda: MLPClassifier().fit(np.ones((999, 2)), np.linspace(0, 1, 999)),
    ],
)
def test_arrays_are_not_printed(call: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert len(str(caught.value)) < 250
