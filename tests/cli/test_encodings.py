"""--encoding: CSV files and standard input that are not UTF-8."""

import io
import sys
from pathlib import Path

import pytest

import fastmlp
from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED

FAST = ["--model", "plain", "--hidden", "4", "--epochs", "1", "--quiet", "--force"]
TRAIN = ["train", "DATA", "--target", "größe", *FAST, "--valid"]
TEXT = "a,stadt,größe\n" + "".join(
    f"{i},{('Bern', 'Zürich')[i % 2]},{('groß', 'klein')[i % 3 == 0]}\n" for i in range(60)
)
pytestmark = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows in several encodings, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    for encoding in ("utf-8", "cp1252", "utf-16"):
        Path(f"{encoding}.csv").write_text(TEXT, encoding=encoding)


def run(command: list[str], data: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command on a file, or on standard input with its bytes."""
    content = Path(f"{encoding}.csv").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    path = "-" if data == "-" else f"{encoding}.csv"
    return main([path if one == "DATA" else one for one in command])


@pytest.mark.parametrize("data", ["file", "-"])
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_all_commands_take_it(
    data: str, encoding: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for each in ("utf-8", encoding):
        how = [] if each == "utf-8" else ["--encoding", each]
        valid = [f"{each}.csv"] if data == "file" else ["0"]
        assert run([*TRAIN, *valid, *how], data, each, monkeypatch) == 0
        model = fastmlp.load("model.safetensors")
        assert (model.columns[1].levels, model.target.classes) == (
            ("Bern", "Zürich"),
            ("groß", "klein"),
        )
        capsys.readouterr()
        assert run(["score", "model.safetensors", "DATA", *how], data, each, monkeypatch) == 0
        keep = ["--keep", "stadt", *how]
        assert run(["predict", "model.safetensors", "DATA", *keep], data, each, monkeypatch) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert '"Zürich","' in printed[0]


@pytest.mark.parametrize(
    ("data", "encoding", "told"),
    [
        (
            "file",
            "cp1252",
            r"train: line 1, the header: b'gr\xf6\xdfe' is not utf-8, perhaps cp1252",
        ),
        ("file", "utf-16", "train: the file is not utf-8 but utf-16: "),
        ("-", "cp1252", "train: standard input: "),
        ("-", "utf-16", "is it UTF-16? --encoding utf-16"),
    ],
)
def test_without_it(
    data: str,
    encoding: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run([*TRAIN, "0"], data, encoding, monkeypatch) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "--encoding" in error
    assert not Path("model.safetensors").exists()


@pytest.mark.parametrize("data", ["file", "-"])
def test_a_column_is_not_left_out(
    data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One text of many that is not UTF-8 is an error, of a column that is read."""
    for encoding in ("utf-8", "cp1252"):
        Path(f"{encoding}.csv").write_text(TEXT.replace("größe", "y"), encoding=encoding)
    command = ["train", "DATA", "--target", "y", "--valid", "0", *FAST]
    assert run(command, data, "cp1252", monkeypatch) == 1
    assert "column 'stadt': b'Z\\xfcrich' is not utf-8, perhaps cp1252" in capsys.readouterr().err


def test_an_unknown_encoding_is_a_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["train", "no.csv"], ["predict", "m", "no.csv"], ["score", "m", "no.csv"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--encoding", "cp125x"])
        assert ended.value.code == 2
        assert "there is no encoding 'cp125x'" in capsys.readouterr().err
