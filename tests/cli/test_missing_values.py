"""Missing values in files and in standard input: of targets an error, of texts a missing level."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fastmlp
from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular.pack import settings

N = 60
FAST = ["--model", "plain", "--hidden", "4", "--epochs", "1", "--quiet", "--force"]
pytestmark = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")


def written(frame: Any, reader: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what the command reads of a frame: a file, or "-", which is standard input."""
    if reader == "-":
        text = frame.to_csv(index=False).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        return "-"
    path = f"rows{reader}"
    if reader == ".npz":
        np.savez(path, **{name: frame[name].to_numpy() for name in ("a", "numbers")})
    elif reader == ".parquet":
        frame.to_parquet(path)
    elif reader == ".arrow":
        frame.to_feather(path, compression="uncompressed")
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.fixture
def frame(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Rows without holes, of which rows.csv has a copy, and a model of each of two targets."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    texts, numbers = rng.choice(["no", "yes"], N), rng.normal(size=N)
    table = pd.DataFrame({"a": rng.normal(size=N), "texts": texts, "numbers": numbers})
    table.to_csv("whole.csv", index=False)
    return table


@pytest.mark.parametrize("target", ["texts", "numbers"])
@pytest.mark.parametrize("reader", [".csv", ".csv.gz", ".parquet", ".arrow", ".npz", "-"])
def test_a_missing_target_is_an_error_at_each_door(
    frame: Any,
    reader: str,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if (reader, target) == (".npz", "texts"):
        return  # its texts are never missing
    train = ["--target", target, "--features", "a", *FAST]
    assert main(["train", "whole.csv", *train]) == 0
    frame.loc[[7, 30], target] = None
    train = [*train, "--output", "other.safetensors"]
    tabular = ["--target", target, "--features", "a", "--output", "other.safetensors"]
    place = "line 9" if "csv" in reader else "row 7"
    told = f"the target {target!r} has 2 missing values, the first in {place}[ ;].*fill them in, or"
    capsys.readouterr()
    for command in (
        ["train", "DATA", *train],
        ["train", "DATA", *tabular],
        ["train", "whole.csv", "--valid", "DATA", *train],
        ["train", "whole.csv", "--valid", "DATA", *tabular],
        ["score", "model.safetensors", "DATA"],
    ):
        path = written(frame, reader, monkeypatch)
        assert main([path if one == "DATA" else one for one in command]) == 1
        assert re.search(told, capsys.readouterr().err), command
    assert not Path("other.safetensors").exists()


@pytest.mark.parametrize("kind", ["plain", "tabular"])
def test_missing_texts_are_missing_levels_as_of_frames(
    kind: str, frame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of CSV, of standard input, and of the frame that pandas reads of it."""
    few = settings.PRESETS["balanced"]._replace(n_members=2, epochs=1)
    monkeypatch.setitem(settings.PRESETS, "balanced", few)
    rng = np.random.default_rng(1)
    words = rng.choice(["Bern", "Chur", "", '""', "NA"], N)
    rows = [f"{a},{word},{y}" for a, word, y in zip(frame["a"], words, frame["texts"], strict=True)]
    text = "\n".join(["a,town,y", *rows]) + "\n"
    Path("rows.csv").write_text(text)
    pd.read_csv("rows.csv").to_parquet("rows.parquet")
    found = []
    for data in ("rows.csv", "-", "rows.parquet"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        how = FAST if kind == "plain" else ["--epochs", "1", "--force"]
        assert main(["train", data, "--target", "y", "--valid", "0", *how]) == 0
        model = fastmlp.load("model.safetensors")
        levels: Any = model.columns[1].levels if kind == "plain" else model.schema_.levels["town"]
        assert levels == ("Bern", "Chur")
        for rows_of in ("rows.csv", "rows.parquet"):
            answer = fastmlp.predict_arrow(model, rows_of).read_all()
            found.append(answer["probability_yes"])
        assert found[-1] == found[-2]
    assert found[0] == found[2] == found[4]


@pytest.mark.parametrize("data", ["rows.csv", "-"])
def test_what_is_kept_is_passed_on_as_it_is(
    data: str, frame: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NA may be Namibia; each column is kept once."""
    assert main(["train", "whole.csv", "--target", "numbers", *FAST]) == 0
    text = 'a,texts,land\n1.5,NA,NA\n2.5,yes,""\n3.5,no,CH\n'
    Path("rows.csv").write_text(text)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    capsys.readouterr()
    assert main(["predict", "model.safetensors", data, "--keep", "land,texts,land"]) == 0
    lines = capsys.readouterr().out.splitlines()
    kept = ['"land","texts"', '"NA","NA"', '"","yes"', '"CH","no"']
    assert [line.rsplit(",", 1)[0] for line in lines] == kept


def test_columns_to_keep_that_cannot_be(frame: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "whole.csv", "--target", "numbers", *FAST]) == 0
    predict = ["predict", "model.safetensors", "rows.csv", "--keep"]
    Path("rows.csv").write_text("a,texts,b,b,prediction\n1,no,2,3,4\n")
    capsys.readouterr()
    assert main([*predict, "b"]) == 1
    assert "predict: there are several columns of the name 'b'" in capsys.readouterr().err
    assert main([*predict, "prediction"]) == 1
    told = "the columns prediction are among those to keep, and are of predictions too: rename them"
    assert told in capsys.readouterr().err
