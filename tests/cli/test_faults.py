"""A full disk, Ctrl-C and kill while files are written: a sentence, a code, no half file."""

import contextlib
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

N = 200_000
BEFORE = b"what was there before"
pytestmark = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
each_end = pytest.mark.parametrize("end", [".parquet", ".csv", ".arrow"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("trained"), np.random.default_rng(0)
    table = pd.DataFrame({"id": np.arange(N), "a": rng.normal(size=N), "b": rng.normal(size=N)})
    table["y"] = (table["a"] * table["b"] > 0).astype(int)
    table.to_parquet(folder / "rows.parquet", row_group_size=20_000)
    table[:2000].to_parquet(folder / "few.parquet")
    fit = "--epochs 1 --ignore id --target y"
    model = ["--output", str(folder / "model.safetensors")]
    assert main(["train", str(folder / "few.parquet"), *fit.split(), *model]) == 0
    return folder


def predict(trained: Path, output: Path, *more: str) -> list[str]:
    files = [str(trained / "model.safetensors"), str(trained / "rows.parquet")]
    return ["predict", *files, "--keep", "id", "--output", str(output), "--force", *more]


@contextlib.contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Let no file grow larger, as on a full disk."""
    resource: Any = pytest.importorskip("resource", reason="this system has no such limit")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@each_end
@pytest.mark.parametrize("is_there", [True, False])
def test_predictions_beyond_the_room_that_is_left(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], end: str, is_there: bool
) -> None:
    output = tmp_path / f"out{end}"
    if is_there:
        output.write_bytes(BEFORE)
    with files_of_at_most(100_000):
        assert main(predict(trained, output)) == 1
    assert capsys.readouterr().err == f"fastmlp: [Errno 27] File too large: '{output}'\n"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [BEFORE] * is_there


@pytest.mark.slow
def test_a_model_beyond_the_room_that_is_left(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.safetensors"
    output.write_bytes(BEFORE)
    fit = "--target y --epochs 1 --force"
    command = ["train", str(trained / "few.parquet"), *fit.split(), "--output", str(output)]
    with files_of_at_most(5_000):
        assert main(command) == 1
    assert capsys.readouterr().err.endswith(f"fastmlp: [Errno 27] File too large: '{output}'\n")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [BEFORE]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no such file")
def test_standard_output_on_a_full_disk(trained: Path) -> None:
    command = [sys.executable, "-m", "fastmlp", *predict(trained, Path("out.csv"))]
    place = command.index("--output")
    del command[place : place + 2]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "fastmlp: [Errno 28] No space left on device\n")


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
    predict_proba, calls = TabularMLPClassifier.predict_proba, []

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
            fastmlp.predict_parquet(model, trained / "rows.parquet", output, batch_rows=1000)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [BEFORE]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")
@pytest.mark.parametrize(
    ("number", "message"), [(signal.SIGTERM, "fastmlp: ended by SIGTERM\n"), (signal.SIGKILL, "")]
)
def test_a_signal_to_the_process(
    trained: Path, tmp_path: Path, number: signal.Signals, message: str
) -> None:
    output = tmp_path / "out.parquet"
    output.write_bytes(BEFORE)
    # Batches so small take ten seconds and more.
    command = [sys.executable, "-m", "fastmlp", *predict(trained, output, "--batch-rows", "10")]
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
