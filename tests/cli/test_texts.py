"""Files that are not UTF-8 or lack values; a full disk,
Ctrl-C and kill while files are written.
"""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fastmlp
from fastmlp import TabularMLPClassifier
from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED

pytestmark = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)

FAST = ["--epochs", "1", "--force"]
TRAIN = ["train", "DATA", "--target", "größe", *FAST, "--valid"]
TEXT = "a,stadt,größe\n" + "".join(
    f"{i},{('Bern', 'Zürich')[i % 2]},{('groß', 'klein')[i % 3 == 0]}\n"
    for i in range(60)
)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for encoding in ("utf-8", "cp1252", "utf-16"):
        Path(f"{encoding}.csv").write_text(TEXT, encoding=encoding)


def run(
    command: list[str], data: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> int:
    content = Path(f"{encoding}.csv").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    path = "-" if data == "-" else f"{encoding}.csv"
    return main([path if one == "DATA" else one for one in command])


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("data", ["file", "-"])
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_all_commands_take_it(
    data: str,
    encoding: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = []
    for each in ("utf-8", encoding):
        if each == "utf-8":
            arguments = []
        else:
            arguments = ["--encoding", each]
        if data == "file":
            valid = [f"{each}.csv"]
        else:
            valid = ["0"]
        assert run([*TRAIN, *valid, *arguments], data, each, monkeypatch) == 0
        model = fastmlp.load("model.safetensors")
        assert model.schema_.levels == {"stadt": ("Bern", "Zürich")}
        assert model.classes_.tolist() == ["groß", "klein"]
        capsys.readouterr()
        assert (
            run(
                ["score", "model.safetensors", "DATA", *arguments],
                data,
                each,
                monkeypatch,
            )
            == 0
        )
        keep = ["--keep", "stadt", *arguments]
        assert (
            run(
                ["predict", "model.safetensors", "DATA", *keep], data, each, monkeypatch
            )
            == 0
        )
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert '"Zürich","' in printed[0]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("data", ["file", "-"])
def test_a_column_is_not_left_out(
    data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One text of many that is not UTF-8 is an error, of a column that is read."""
    for encoding in ("utf-8", "cp1252"):
        Path(f"{encoding}.csv").write_text(
            TEXT.replace("größe", "y"), encoding=encoding
        )
    command = ["train", "DATA", "--target", "y", "--valid", "0", *FAST]
    assert run(command, data, "cp1252", monkeypatch) == 1
    assert (
        "column 'stadt': the text is not utf-8: give its encoding"
        in capsys.readouterr().err
    )


N = 60


@pytest.fixture
def frame(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Rows without holes, of which rows.csv has a copy,
    and a model of each of two targets.
    """
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    texts = rng.choice(["no", "yes"], N)
    numbers = rng.normal(size=N)
    table = pd.DataFrame({"a": rng.normal(size=N), "texts": texts, "numbers": numbers})
    table.to_csv("whole.csv", index=False)
    return table


@pytest.mark.slow
def test_missing_texts_are_missing_levels(
    frame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of CSV, of standard input, and of the frame that pandas reads of it."""
    rng = np.random.default_rng(1)
    words = rng.choice(["Bern", "Chur", "", '""', "NA"], N)
    rows = [
        f"{a},{word},{y}"
        for a, word, y in zip(frame["a"], words, frame["texts"], strict=True)
    ]
    text = "\n".join(["a,town,y", *rows]) + "\n"
    Path("rows.csv").write_text(text)
    pd.read_csv("rows.csv").to_parquet("rows.parquet")
    results = []
    for data in ("rows.csv", "-", "rows.parquet"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert main(["train", data, "--target", "y", *FAST]) == 0
        model = fastmlp.load("model.safetensors")
        assert model.schema_.levels["town"] == ("Bern", "Chur")
        for rows_of in ("rows.csv", "rows.parquet"):
            answer = fastmlp.predict_arrow(model, rows_of).read_all()
            results.append(answer["probability_yes"])
        assert results[-1] == results[-2]
    assert results[0] == results[2] == results[4]


@pytest.mark.parametrize("data", ["rows.csv", "-"])
def test_what_is_kept_is_passed_on_as_it_is(
    data: str,
    frame: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """NA may be Namibia; each column is kept once."""
    assert main(["train", "whole.csv", "--target", "numbers", *FAST]) == 0
    text = 'a,texts,land\n1.5,NA,NA\n2.5,yes,""\n3.5,no,CH\n'
    Path("rows.csv").write_text(text)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    capsys.readouterr()
    assert (
        main(["predict", "model.safetensors", data, "--keep", "land,texts,land"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    kept = ['"land","texts"', '"NA","NA"', '"","yes"', '"CH","no"']
    assert [line.rsplit(",", 1)[0] for line in lines] == kept


N_WRITTEN = 200_000
BEFORE = b"what was there before"
each_end = pytest.mark.parametrize("end", [".parquet", ".csv", ".arrow"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "id": np.arange(N_WRITTEN),
            "a": rng.normal(size=N_WRITTEN),
            "b": rng.normal(size=N_WRITTEN),
        }
    )
    table["y"] = (table["a"] * table["b"] > 0).astype(int)
    table.to_parquet(folder / "rows.parquet", row_group_size=20_000)
    table[:2000].to_parquet(folder / "few.parquet")
    fit = "--epochs 1 --ignore id --target y"
    model = ["--output", str(folder / "model.safetensors")]
    assert main(["train", str(folder / "few.parquet"), *fit.split(), *model]) == 0
    return folder


def predict(trained: Path, output: Path, *more: str) -> list[str]:
    files = [str(trained / "model.safetensors"), str(trained / "rows.parquet")]
    return [
        "predict",
        *files,
        "--keep",
        "id",
        "--output",
        str(output),
        "--force",
        *more,
    ]


@contextlib.contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Let no file grow larger, as on a full disk."""
    resource: Any = pytest.importorskip(
        "resource", reason="this system has no such limit"
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@each_end
@pytest.mark.parametrize("is_there", [True, False])
def test_predictions_beyond_the_room_that_is_left(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    end: str,
    is_there: bool,
) -> None:
    output = tmp_path / f"out{end}"
    if is_there:
        output.write_bytes(BEFORE)
    with files_of_at_most(100_000):
        assert main(predict(trained, output)) == 1
    assert (
        capsys.readouterr().err == f"fastmlp: [Errno 27] File too large: '{output}'\n"
    )
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [BEFORE] * is_there


@pytest.mark.slow
@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="this system has no such file"
)
def test_standard_output_on_a_full_disk(trained: Path) -> None:
    command = [sys.executable, "-m", "fastmlp", *predict(trained, Path("out.csv"))]
    place = command.index("--output")
    del command[place : place + 2]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        "fastmlp: [Errno 28] No space left on device\n",
    )


SIGNALS = [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM")]


@each_end
@pytest.mark.parametrize(("number", "words"), SIGNALS)
def test_a_signal_between_two_batches(
    number: signal.Signals,
    words: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: str,
) -> None:
    predict_proba = TabularMLPClassifier.predict_proba
    calls = []

    def signalled(self: Any, table: Any) -> Any:
        calls.append(table)
        if len(calls) == 4:
            signal.raise_signal(number)
        return predict_proba(self, table)

    monkeypatch.setattr(TabularMLPClassifier, "predict_proba", signalled)
    output = tmp_path / f"out{end}"
    output.write_bytes(BEFORE)
    assert main(predict(trained, output, "--batch-rows", "1000")) == 128 + number
    assert capsys.readouterr().err == f"fastmlp: {words}\n"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [BEFORE]
    if number == signal.SIGINT:
        model = fastmlp.load(trained / "model.safetensors")
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            fastmlp.predict_parquet(
                model, trained / "rows.parquet", output, batch_rows=1000
            )
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [BEFORE]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")
@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGTERM, "fastmlp: ended by SIGTERM\n"), (signal.SIGKILL, "")],
)
def test_its_signal(
    trained: Path, tmp_path: Path, number: signal.Signals, message: str
) -> None:
    output = tmp_path / "out.parquet"
    output.write_bytes(BEFORE)
    # Batches so small take ten seconds and more.
    command = [
        sys.executable,
        "-m",
        "fastmlp",
        *predict(trained, output, "--batch-rows", "10"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not any(path.suffix == ".tmp" for path in tmp_path.iterdir()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.communicate(timeout=100)[1] == message
    killed = number == signal.SIGKILL
    assert process.returncode == (-number if killed else 128 + number)
    assert output.read_bytes() == BEFORE
    left = [path for path in tmp_path.iterdir() if path != output]
    assert len(left) == killed
    if killed:
        # The next run removes it, once it is an hour old.
        os.utime(left[0], (0, 0))
        fastmlp.save(fastmlp.load(trained / "model.safetensors"), output)
        assert list(tmp_path.iterdir()) == [output]
