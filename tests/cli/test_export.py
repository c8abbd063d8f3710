"""fastmlp export: the file is that of `to_c`, by the options; wrong ones are refused."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, save, to_c, to_onnx
from fastmlp.cli import EXPORTS
from fastmlp.cli.main import main
from fastmlp.cli.tables import KEYWORDS

NET = MLP((2, 5, 1), activation="tanh", seed=0)
NET.feature_names = ["a", "b"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(NET, "net.safetensors")
    Path("rows.csv").write_text("b,text,a\n" + "".join(f"{i},x,{i / 2}\n" for i in range(20)))


def test_its_options_are_the_keywords(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text, keywords = " ".join(capsys.readouterr().out.split()), set()
    for writer in (to_c, to_onnx):
        for one in inspect.signature(writer).parameters.values():
            if one.kind is one.KEYWORD_ONLY:
                keywords.add(one.name)
                default = f"default: {one.default}" if one.default else "--"
                assert default in text.partition(f" --{one.name.replace('_', '-')} ")[2]
    assert keywords == {*KEYWORDS}


@pytest.mark.parametrize("output", ["model.h", "model.c"])
@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", {}),
        ("--prefix n --tests 0 --dtype float64", {"prefix": "n", "tests": 0, "dtype": "float64"}),
        ("--gradient --tests 3", {"gradient": True, "tests": 3}),
    ],
)  # fmt: skip
def test_the_file_is_that_of_to_c(output: str, options: str, settings: dict[str, Any]) -> None:
    assert main(["export", "net.safetensors", output, *options.split()]) == 0
    written = Path(output).read_text()
    assert written == to_c(NET, output, **settings)


@pytest.mark.parametrize("options", ["", "--dtype float64 --opset 15"])
def test_the_file_is_that_of_to_onnx(options: str) -> None:
    assert main(["export", "net.safetensors", "net.onnx", *options.split()]) == 0
    settings: dict[str, Any] = {"dtype": "float64", "opset": 15} if options else {}
    assert Path("net.onnx").read_bytes() == to_onnx(NET, **settings).SerializeToString()


def test_columns_of_test_rows_come_by_name() -> None:
    command = ["export", "net.safetensors", "model.h", "--tests", "4", "--test-data", "rows.csv"]
    assert main(command) == 0
    rows = np.array([[i / 2, i] for i in range(20)])
    assert Path("model.h").read_text() == to_c(NET, "model.h", tests=4, test_data=rows)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["model.txt"], 2, "error: argument OUT: must end in .h, .c, .onnx, got 'model.txt'"),
        (["old.h"], 1, "export: 'old.h' exists; --force overwrites it"),
        (["net.onnx", "--gradient"], 2, "error: argument --gradient: is not for .onnx files"),
        (["no/model.h"], 1, "export: there is no folder 'no'"),
        (["model.h", "--prefix", "1"], 1, "to_c: prefix must begin a name in C"),
        (["model.h", "--test-data", "no.csv"], 1, "export: there is no file 'no.csv'"),
    ],
)
def test_what_is_refused(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("old.h").write_text("old")
    assert main(["export", "net.safetensors", *arguments]) == code
    assert message in capsys.readouterr().err
    assert Path("old.h").read_text() == "old"
    assert not Path("model.h").exists()
    assert main(["export", "net.safetensors", "old.h", "--force"]) == 0


@pytest.mark.parametrize("words", [["convert"], ["export", "--precision"]])
def test_words_of_other_programs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*words, "net.safetensors", "model.h"])
    assert stopped.value.code == 2
    assert "did you mean" in capsys.readouterr().err


def test_options_of_other_endings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A function without these keywords."""
    monkeypatch.setitem(EXPORTS, ".copy", "save")
    command = ["export", "net.safetensors", "net.copy"]
    assert main([*command, "--test-data", "rows.csv"]) == 2
    assert "argument --test-data: is not for .copy files" in capsys.readouterr().err
    assert main(command) == 0


def test_every_ending_has_a_function() -> None:
    import fastmlp

    assert all(callable(getattr(fastmlp, name)) for name in EXPORTS.values())
