"""train, predict, score and show: what they print and write,
their errors and exit codes.
"""

import io
import json
import re
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from sklearn.metrics import roc_auc_score

import fastmlp
from fastmlp import MLP
from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED

FAST = ["--epochs", "1"]
pytestmark = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)


@pytest.fixture
def frame(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    monkeypatch.chdir(tmp_path)
    n = 400
    table = pd.DataFrame(
        {
            "id": [f"row {i}" for i in range(n)],
            "age": rng.integers(18, 90, n),
            "income": rng.lognormal(10, 1, n),
            "town": rng.choice(["Bern", "Basel", "Chur"], n),
            "owner": rng.choice([True, False], n),
        }
    )
    table["buys"] = np.where(
        (table["age"] > 50) ^ (table["town"] == "Bern"), "yes", "no"
    )
    table["price"] = table["age"] * 2.0 + table["income"] / 1e4
    return table


def code_of(arguments: list[str]) -> Any:
    """The exit code of a command, which argparse raises."""
    try:
        return main(arguments)
    except SystemExit as stopped:
        return stopped.code


def test_every_kind_of_file_gives_the_same_predictions(
    frame: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frame.to_csv("a.csv", index=False)
    assert main(["train", "a.csv", "--target", "buys", *FAST]) == 0
    output = capsys.readouterr()
    assert re.fullmatch(r"accuracy +0\.\d+\nlog_loss +0\.\d+\n", output.out)
    assert "task: classification of 'buys', 2 classes\n" in output.err
    assert "warning: train: columns left out: 'id' has 3" in output.err
    mixed = frame[frame.columns[::-1]].assign(more="x")
    table = pyarrow.Table.from_pandas(mixed, preserve_index=False)
    pyarrow.feather.write_feather(table, "b.arrow", compression="uncompressed")
    mixed.iloc[:250].to_parquet("c1.parquet", row_group_size=100)
    mixed.iloc[250:].to_parquet("c2.parquet")
    mixed.to_csv("d.csv.gz", index=False)
    printed = []
    for data in ("a.csv", "b.arrow", "c1.parquet c2.parquet", "c?.parquet", "d.csv.gz"):
        assert (
            main(["predict", "model.safetensors", *data.split(), "--keep", "age"]) == 0
        )
        printed.append(capsys.readouterr().out)
    text = io.TextIOWrapper(io.BytesIO(Path("a.csv").read_bytes()))
    monkeypatch.setattr(sys, "stdin", text)
    assert main(["predict", "model.safetensors", "-", "--keep", "age"]) == 0
    printed.append(capsys.readouterr().out)
    assert {*printed} == {printed[0]}
    lines = printed[0].splitlines()
    assert lines[0] == '"age","prediction"'
    assert [int(line.split(",")[0]) for line in lines[1:]] == frame["age"].tolist()


def test_a_npz_file(
    rng: np.random.Generator, frame: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    X = rng.normal(size=(200, 3))
    np.savez("a.npz", X=X, y=(X[:, 0] > 0).astype(int))
    np.savez("b.npz", X=X)
    assert main(["train", "a.npz", "--valid", "0", *FAST]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert (
        "task: classification of 'y', 2 classes (guessed; else --task regression)"
        in printed.err
    )
    command = [
        "predict",
        "model.safetensors",
        "b.npz",
        "--probabilities",
        "--output",
        "p.csv",
    ]
    assert main(command) == 0
    assert list(pd.read_csv("p.csv")) == [
        "probability_0",
        "probability_1",
        "prediction",
    ]
    assert main(["score", "model.safetensors", "a.npz", "--metric", "auc,acc"]) == 1
    assert "did you mean 'accuracy'?" in capsys.readouterr().err
    assert (
        main(["score", "model.safetensors", "a.npz", "--metric", "auc", "--json"]) == 0
    )
    model = fastmlp.load("model.safetensors")
    table = pd.DataFrame(X, columns=["x0", "x1", "x2"])
    expected = roc_auc_score(X[:, 0] > 0, model.predict_proba(table)[:, 1])
    assert json.loads(capsys.readouterr().out) == {"auc": expected}


WEIGHTED = ["train", "a.parquet", "--weight", "w", "--loss", "poisson", *FAST]


def test_features_are_chosen_with_weights_beside_them(frame: Any) -> None:
    frame["code"] = frame["age"] // 30
    frame["w"] = 1.0
    frame.to_parquet("a.parquet")
    columns = ["--target", "price", "--categorical", "code", "--features", "code,town"]
    assert main([*WEIGHTED, *columns]) == 0
    model = fastmlp.load("model.safetensors")
    assert model.schema_.levels == {
        "code": (0, 1, 2),
        "town": ("Basel", "Bern", "Chur"),
    }
    assert model.loss == "poisson"


def test_a_loss_needs_a_regression(
    frame: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    frame.assign(w=1.0).to_parquet("a.parquet")
    assert main([*WEIGHTED, "--target", "buys"]) == 2
    assert "argument --loss: needs a regression" in capsys.readouterr().err


def test_show_describes_the_columns(
    frame: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    days = pd.date_range("2024-02-28", periods=400)
    frame.assign(when=days).to_parquet("a.parquet")
    assert main(["train", "a.parquet", "--target", "buys", "--force", *FAST]) == 0
    capsys.readouterr()
    assert main(["show", "model.safetensors"]) == 0
    printed = capsys.readouterr().out
    assert (
        "task      classification of 'buys'\nclasses   no, yes\ncolumns   6\n"
        in printed
    )
    assert "when: dates, as " in printed
    assert "  town: levels Basel, Bern, Chur\n" in printed
    assert "\nleft out: 'id' has 3" in printed
    assert main(["show", "model.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"]["levels"]["owner"] == [
        False,
        True,
    ]


ESCAPES = ["\x1b[31m", "\x9b2J", "\a", "\r", "a\nb", "\u202e", "\x7f"]


@pytest.mark.parametrize("seed", range(3))
def test_control_characters_of_a_file_do_not_reach_the_terminal(
    seed: int, frame: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(seed)
    names = {
        name: f"{name}{rng.choice(ESCAPES)}"
        for name in ("id", "town", "buys", "income")
    }
    frame = frame.rename(columns=names)
    frame[names["town"]] += rng.choice(ESCAPES)
    frame[names["buys"]] += rng.choice(ESCAPES)
    frame.to_parquet("a.parquet")
    assert main(["train", "a.parquet", "--target", names["buys"], *FAST]) == 0
    assert main(["show", "model.safetensors"]) == 0
    assert main(["score", "model.safetensors", "a.parquet"]) == 0
    frame.drop(columns=names["income"]).to_parquet("b.parquet")
    for verb in ("predict", "score"):
        assert main([verb, "model.safetensors", "b.parquet"]) == 1
    assert main(["train", "a.parquet", "--target", "buys", "--force"]) == 1
    printed = "".join(capsys.readouterr())
    assert all(
        name.encode("unicode_escape").decode() in printed for name in names.values()
    )
    assert all(each.isprintable() for each in printed.split("\n"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "a.csv"], 2, "required: --target"),
        (["train", "--target", "y"], 2, "required: DATA"),
        (
            ["train", "a.csv", "--target", "y", "--output", "m.txt"],
            2,
            "must end in .safetensors",
        ),
        (
            ["train", "a.csv", "--target", "y", "--hidden", "8"],
            2,
            "there is no option --hidden",
        ),
        (
            ["train", "a.csv", "--target", "y", "--quality", "best"],
            2,
            "did you mean '--preset'?",
        ),
        (
            ["train", "a.csv", "--target", "y", "--preset", "bst"],
            2,
            "did you mean 'best'? known: f",
        ),
        (
            ["train", "a.csv", "--target", "y", "--seed", "4294967296"],
            2,
            "must be at most 42949672",
        ),
        (
            ["train", "a.csv", "--target", "y", "--ignore", "a,y"],
            2,
            "--ignore: 'y' is the target",
        ),
        (
            ["train", "a.csv", "--target", "y", "--valid", "2"],
            2,
            "a fraction in [0, 1)",
        ),
        (
            ["train", "a.csv", "--target", "y", "--loss", "bce"],
            2,
            "got 'bce'; known: squared_er",
        ),
        (
            ["train", "a.csv", "--target", "t", "--loss", "poisson"],
            2,
            "--loss: needs a regression",
        ),
        (["train", "no.csv", "--target", "y"], 1, "there is no file 'no.csv'"),
        (["train", "a.txt", "--target", "y"], 1, "files must be .parquet"),
        (
            ["train", "a.csv", "--target", "y", "--time-limit", "0"],
            2,
            "must be a number above 0",
        ),
        (["train", "a.csv", "--target", "z"], 1, "there is no column 'z'"),
        (
            ["train", "semi.csv", "--target", "y"],
            1,
            "separated by ';', and must be by commas",
        ),
        (["train", "comma.csv", "--target", "y"], 1, "numbers with a decimal comma"),
        (["train", "head.csv", "--target", "y"], 1, "there are no rows"),
        (["train", "empty.csv", "--target", "y"], 1, "Empty CSV file"),
        (["train", "a.csv", "--target", "lacks"], 1, "'lacks' has 1 missing value"),
        (["train", "a.csv", "--target", "one"], 1, "'one' has one value, 5"),
        (
            ["train", "a.csv", "--target", "t", "--task", "regression"],
            1,
            "needs numbers",
        ),
        (
            ["train", "a.csv", "--target", "y", "--features", "one"],
            1,
            "no column is left",
        ),
        (
            ["train", "twice.csv", "--target", "y"],
            1,
            "X has 2 columns of the name 'a' (in tw",
        ),
        (
            ["train", "a.csv", "--target", "y", "--features", "y"],
            2,
            "--features: 'y' is the target",
        ),
        (
            ["train", "a.csv", "--target", "y", "--valid", "0.01"],
            1,
            "--valid takes a file, or 0",
        ),
        (["train", "cut.parquet", "--target", "y"], 1, "(in cut.parquet)"),
        (
            ["train", "a.csv", "--target", "y", "--timeout", "1"],
            2,
            "did you mean '--time-limit'?",
        ),
        (
            ["train", "a.csv", "--target", "y", "--time_limit=1"],
            2,
            "did you mean '--time-limit'?",
        ),
        (
            ["train", "a.csv", "-t", "y"],
            2,
            "there is no option -t, did you mean '--target'?",
        ),
        (
            ["train", "--data", "a.csv", "--target", "y"],
            2,
            "give its value without an option;",
        ),
        (
            ["train", "a.csv", "--target", "y", "--ignore", "a", "t"],
            2,
            "separated by commas",
        ),
        (
            ["train", "a.csv", "--target", "y", "--valid", "20%"],
            2,
            "a fraction in [0, 1) such as",
        ),
        (
            ["train", "a.csv", "--target", "y", "--loss", "poison"],
            2,
            "did you mean 'poisson'?",
        ),
        (
            ["train", "a.csv", "--target", "y", "--task", "x"],
            2,
            "known: auto, classification, re",
        ),
        (
            ["train", "a.csv", "--target", "y", "--output", "no/m.safetensors"],
            1,
            "folder 'no'",
        ),
        (
            ["trian", "a.csv"],
            2,
            "invalid choice: 'trian', did you mean 'train'? known: train, pre",
        ),
        (
            ["predict", "a.csv", "net.safetensors"],
            2,
            "MODEL comes before DATA, got 'a.csv'",
        ),
        (
            ["predict", "net.safetensors", "a.csv", "--proba"],
            1,
            "holds a MLP, not a model",
        ),
        (
            ["predict", "net.safetensors"],
            2,
            "required: DATA; see fastmlp predict --help",
        ),
        (
            ["predict", "net.safetensors", "a.csv", "--batch-rows", "0"],
            2,
            "an integer of 1 or",
        ),
        (
            ["predict", "net.safetensors", "a.csv", "--output", "a.txt"],
            2,
            "must end in .parquet,",
        ),
        (
            ["score", "net.safetensors", "a.csv", "--scoring", "auc"],
            2,
            "did you mean '--metric'?",
        ),
        (["info", "--all"], 2, "there is no option --all; see fastmlp info --help"),
        (["demo", "--epochs", "0"], 2, "must be an integer of 1 or more, got '0'"),
        (["demo", "--epochs", "two"], 2, "must be an integer of 1 or more, got 'two'"),
        (["demo", "--seed", "-1"], 2, "argument --seed"),
        (["demo", "--seed", "4294967296"], 2, "at most 4294967295, got '4294967296'"),
        (
            ["demo", "--output", "demo.txt"],
            2,
            "must end in .png, .pdf, .svg, got 'demo.txt'",
        ),
        (["demo", "--output", "no/such/demo.png"], 2, "there is no folder 'no/such'"),
        (
            ["warmup", "--compute-dtype", "bfloat"],
            2,
            "'bfloat', did you mean 'bfloat16'?",
        ),
        (
            ["warmup", "--mixed-precision"],
            2,
            "no option --mixed-precision, did you mean",
        ),
        (
            ["train", "no.csv", "--encoding", "cp125x"],
            2,
            "there is no encoding 'cp125x'",
        ),
        (
            ["predict", "m", "no.csv", "--encoding", "cp125x"],
            2,
            "there is no encoding 'cp125x'",
        ),
        (
            ["score", "m", "no.csv", "--encoding", "cp125x"],
            2,
            "there is no encoding 'cp125x'",
        ),
        (["convert", "net.safetensors", "model.h"], 2, "did you mean"),
        (["export", "net.safetensors", "n.h", "--precision"], 2, "did you mean"),
        (
            ["export", "net.safetensors", "n.txt"],
            2,
            "OUT: must end in .h, .c, .onnx, got 'n.txt'",
        ),
        (
            ["export", "net.safetensors", "n.onnx", "--gradient"],
            2,
            "is not for .onnx files",
        ),
        (
            ["export", "net.safetensors", "old.h"],
            1,
            "export: 'old.h' exists; --force overwrites",
        ),
        (
            ["export", "net.safetensors", "no/model.h"],
            1,
            "export: there is no folder 'no'",
        ),
        (
            ["export", "net.safetensors", "n.h", "--prefix", "1"],
            1,
            "prefix must begin a name",
        ),
        (
            ["export", "net.safetensors", "n.h", "--test-data", "no.csv"],
            1,
            "there is no file 'no.",
        ),
        (
            ["predict", "no.safetensors", "a.csv"],
            1,
            "there is no file 'no.safetensors'",
        ),
        (["predict", "a.csv", "a.csv"], 1, "not a safetensors file"),
        (
            ["predict", "net.safetensors", "a.csv"],
            1,
            "holds a MLP, not a model of fastmlp train",
        ),
    ],
)
def test_an_error_is_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text(
        "a,one,t,lacks,y\n1,5,u,1,0.5\n2,5,v,,1.5\n3,5,w,2,2.5\n4,5,u,3,1.5\n"
    )
    Path("head.csv").write_text("a,y\n")
    Path("semi.csv").write_text("a;y\n1;2\n")
    Path("comma.csv").write_text("a,y\n" + '"1,5",1\n"2,5",0\n' * 20)
    Path("twice.csv").write_text("a,a,y\n1,1,2\n")
    Path("cut.parquet").write_bytes(b"PAR1 and no more")
    Path("empty.csv").write_text("")
    for name in ("a.txt", "old.h"):
        Path(name).write_text("a,y\n")
    MLP((2, 1)).save("net.safetensors")
    before = sorted(Path().iterdir())
    assert code_of(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert sorted(Path().iterdir()) == before


def test_missing_columns_are_listed(
    frame: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    frame.to_parquet("a.parquet")
    assert main(["train", "a.parquet", "--target", "buys", *FAST]) == 0
    frame.rename(columns={"income": "Income"}).drop(columns="town").to_csv(
        "b.csv", index=False
    )
    capsys.readouterr()
    assert main(["predict", "model.safetensors", "b.csv", "--output", "p.csv"]) == 1
    printed = capsys.readouterr().err
    missing = "predict: X lacks 2 of the 5 known columns: 'income' (did you mean 'Income'?), 'town'"
    assert missing in printed
    assert "(in b.csv)" in printed
    frame.assign(age="old").to_csv("c.csv", index=False)
    assert main(["predict", "model.safetensors", "c.csv", "--output", "p.csv"]) == 1
    printed = (
        "the column 'age' must hold numbers, got string (in rows 0 to 399 of c.csv)"
    )
    assert f"predict: {printed}" in capsys.readouterr().err
    assert main(["predict", "model.safetensors", "c.csv", "--keep", "Town"]) == 1
    assert (
        "there is no column 'Town', did you mean 'town'? known: 'id'"
        in capsys.readouterr().err
    )
    assert main(["score", "model.safetensors", "c.csv"]) == 1
    assert f"score: {printed}" in capsys.readouterr().err
    frame.assign(buys="perhaps").to_csv("c.csv", index=False)
    assert main(["score", "model.safetensors", "c.csv"]) == 1
    assert (
        "has the class 'perhaps', which training did not have"
        in capsys.readouterr().err
    )
    frame.assign(buys=frame["buys"].mask(frame.index == 7)).to_csv("c.csv", index=False)
    for command in (
        ["score", "model.safetensors", "c.csv"],
        ["train", "c.csv", "--target", "buys"],
        ["train", "a.parquet", "--target", "buys", "--valid", "c.csv"],
    ):
        assert main([*command, "--force"] if command[0] == "train" else command) == 1
        place = "row 7" if command[0] == "score" else "line 9"
        message = f"the target 'buys' has 1 missing value, the first in {place};"
        assert message in capsys.readouterr().err
    frame.drop(columns="buys").to_csv("c.csv", index=False)
    assert main(["score", "model.safetensors", "c.csv"]) == 1
    assert "score: there is no column 'buys'" in capsys.readouterr().err
    assert not Path("p.csv").exists()


def test_outputs_that_exist_need_force(
    frame: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    frame.to_parquet("a.parquet")
    train = ["train", "a.parquet", "--target", "buys", *FAST]
    assert main(train) == 0
    before = Path("model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(train) == 1
    assert (
        "'model.safetensors' exists; --force overwrites it" in capsys.readouterr().err
    )
    assert Path("model.safetensors").read_bytes() == before
    assert main([*train, "--force"]) == 0
    predict = ["predict", "model.safetensors", "a.parquet", "--output", "p.arrow"]
    assert [main(predict), main(predict), main([*predict, "--force"])] == [0, 1, 0]
    assert pyarrow.ipc.open_file("p.arrow").read_all().num_rows == len(frame)


@pytest.mark.parametrize(
    ("name", "message"), [("SIGINT", "interrupted"), ("SIGTERM", "ended by SIGTERM")]
)
def test_a_signal_in_the_fit_writes_nothing(
    frame: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    message: str,
) -> None:
    number = signal.Signals[name]

    def interrupt(*_: Any) -> None:
        signal.raise_signal(number)

    frame.to_parquet("a.parquet")
    before = signal.getsignal(number)
    fit = ["train", "a.parquet", "--target", "buys", *FAST]
    with monkeypatch.context() as patched:
        patched.setattr("fastmlp.tabular.fitting.selected", interrupt)
        assert main(fit) == 128 + number
        assert capsys.readouterr().err.endswith(f"fastmlp: {message}\n")
        assert [path.name for path in Path().iterdir()] == ["a.parquet"]
        assert signal.getsignal(number) == before


@pytest.mark.slow
def test_help_imports_nothing_heavy(python: Callable[..., str]) -> None:
    script = """
import sys
from fastmlp.cli.main import main
helped = [[verb, "--help"] for verb in ("train", "predict", "score", "show", "export")]
for arguments in (*helped, ["train", "--lr", "1"]):
    try:
        main(arguments)
    except SystemExit:
        pass
heavy = {"numba", "llvmlite", "pyarrow", "sklearn", "matplotlib", "scipy", "tqdm"}
print(heavy & set(sys.modules))
"""
    printed = python(script)
    assert all(
        each in printed
        for each in ("--target NAME", "--batch-rows N", "--metric A,B", "MODEL")
    )
    assert printed.endswith("set()\n")


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_do_not_fit_into_memory(
    seed: int,
    frame: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A sample is drawn by the seed: rows of the file,
    about as many of each part of it.
    """
    monkeypatch.setattr("fastmlp.data.arrow.ROWS", 64)
    ending = [".csv", ".parquet", ".arrow", ".csv.gz"][seed]
    path = f"a{ending}"
    table = frame[["age", "income", "buys"]].assign(row=np.arange(400))
    write: Any = {".arrow": table.to_feather, ".parquet": table.to_parquet}
    write.get(ending, partial(table.to_csv, index=False))(path)
    rng = np.random.default_rng(seed)
    most = int(rng.integers(1500, 6000))
    monkeypatch.setattr("fastmlp._process.memory.available", lambda: 16 * most)
    fits: list[Any] = []
    fit = fastmlp.TabularMLPClassifier.fit

    def noted(self: Any, X: Any, *more: Any, **options: Any) -> Any:
        fits.append(
            pyarrow.concat_tables([X, options["X_val"]]).to_pandas().sort_values("row")
        )
        return fit(self, X, *more, **options)

    monkeypatch.setattr(fastmlp.TabularMLPClassifier, "fit", noted)
    command = ["train", path, "--target", "buys", "--seed", str(seed), "--force", *FAST]
    assert [main(command), main(command)] == [0, 0]
    first, second = (each.reset_index(drop=True) for each in fits)
    pd.testing.assert_frame_equal(first, second)
    printed = capsys.readouterr().err
    n, n_rows = len(first), len(table)
    line = f"warning: train: learned from {n} of {n_rows} rows, drawn by the seed: "
    assert printed.count(line) == 2
    whole = table.loc[first["row"]].reset_index(drop=True)
    assert np.array_equal(
        first[["age", "income", "row"]], whole[["age", "income", "row"]]
    )
    share = n / n_rows
    assert 0.3 * most < pyarrow.Table.from_pandas(first).nbytes <= most
    assert (first["row"] < n_rows / 2).sum() / n == pytest.approx(0.5, abs=0.25)
    assert main([*command, "--seed", str(seed + 1)]) == 0
    assert {*fits[-1]["row"]} != {*first["row"]}
    # The file that validates is drawn, too;
    # and a sample of one seed is a part of a larger one.
    capsys.readouterr()
    assert main([*command, "--valid", path]) == 0
    assert (
        f"train: --valid: validated on {n} of {n_rows} rows" in capsys.readouterr().err
    )
    monkeypatch.setattr("fastmlp._process.memory.available", lambda: 16 * most * 4)
    assert main(command) == 0
    assert {*first["row"]} < {*fits[-1]["row"]}
    assert share < 1
