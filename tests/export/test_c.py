"""C files and their page: no warning, tests of themselves,
and the predictions of the model.
"""

import contextlib
import ctypes
import os
import re
import shlex
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import (
    OF_CLANG,
    built,
    built_of_others,
    failures,
    needs_compiler,
    needs_gcc,
    plain,
    pointer,
    predictions,
    sanitized,
)
from fitting import unconverged
from sklearn.model_selection import PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import MLP, MLPClassifier, MLPRegressor, MLPSearchCV, Quantile, fold, to_c
from fastmlp.cli.main import main
from fastmlp.export.c_source import TOLERANCES
from fastmlp.rules import activations

# Losses with their number of outputs, for each link; None: any output activation.
LOSSES: list[tuple[Any, int]] = [
    ("mse", 2),
    ("binary_cross_entropy", 1),
    ("cross_entropy", 4),
    ("poisson", 2),
    ("gaussian_nll", 4),
    (Quantile([0.1, 0.5, 0.9]), 3),
]
WIDTHS = (1, 3, 8, 17, 33)


def drawn(seed: int, activation: Any, dtype: Any) -> MLP:
    """A net of an activation and a dtype: loss,
    depth, widths and parameters are drawn.
    """
    rng = np.random.default_rng(seed)
    loss, n_outputs = LOSSES[seed % len(LOSSES)]
    hidden = rng.choice(WIDTHS, rng.integers(1, 4)).tolist()
    output = activation if loss == "mse" else None
    net = MLP(
        (int(rng.integers(1, 10)), *hidden, n_outputs),
        activation=activation,
        output_activation=output,
        loss=loss,
        dtype=dtype,
        seed=seed,
    )
    net.parameters[:] = rng.normal(size=net.parameters.size)
    return net


KINDS = [
    (name, dtype) for name in activations.RULES for dtype in ("float32", "float64")
]
NETS = {f"net{i}": drawn(i, *kind) for i, kind in enumerate(KINDS)}
FEW = ["net4", "net11", "net15"]


@needs_gcc
@needs_compiler
@pytest.mark.parametrize(
    ("flags", "names"),
    [
        pytest.param("-std=c99 -O1", FEW, id="c"),
        pytest.param("-x c++ -std=c++17 -O3", NETS, id="c++", marks=pytest.mark.slow),
    ],
)
def test_predictions_have_the_bits_of_the_net(
    names: Any, flags: str, tmp_path: Path
) -> None:
    texts = {name: to_c(NETS[name], prefix=name) for name in names}
    library = built(tmp_path, texts, [*flags.split(), "-march=native"])
    for name in names:
        net = NETS[name]
        dtype = NETS[name].dtype
        rows = (
            np.random.default_rng(1)
            .normal(0, 3, (137, net.layer_sizes[0]))
            .astype(dtype)
        )
        expected = net.predict(rows)
        got = predictions(library, name, rows, net.layer_sizes[-1])
        # What is below the smallest normal number is 0 in fastmlp.
        got[np.abs(got) < np.finfo(dtype).tiny] = 0
        np.testing.assert_array_equal(got, expected, name)
        assert failures(library, name, dtype) == 0


PLANE = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
# Classes, quantiles in order, two classes of one output, means with deviations.
LINKED: dict[str, Any] = {
    "classes": lambda: MLP((3, 5, 4), loss="cross_entropy", seed=0),
    "ordered": lambda: MLP((3, 6, 3), loss=Quantile([0.1, 0.5, 0.9]), seed=0),
    "two": lambda: MLPClassifier(**FIT).fit(PLANE, PLANE[:, 0] > 0),
    "means": lambda: MLP((3, 9, 9, 4), loss="gaussian_nll", dtype="float64", seed=0),
    "linear": lambda: MLP((3, 1), seed=0),
}


@needs_gcc
@needs_compiler
@unconverged
@pytest.mark.parametrize("block", [1, 3, 16, 64])
def test_blocks_of_rows_have_the_bits_of_single_rows(
    block: int, tmp_path: Path
) -> None:
    texts = {name: to_c(make(), prefix=name) for name, make in LINKED.items()}
    blocks = [f"-D{name.upper()}_BLOCK={block}" for name in texts]
    traps = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    library = built(tmp_path, texts, ["-std=c99", "-O1", *traps, *blocks])
    for name, text in texts.items():
        dtype = np.float32 if "const float x" in text else np.float64
        rows = PLANE[: 2 * 64 + 3].astype(dtype)
        n_outputs = int(re.findall(r"_OUTPUTS (\d+)", text)[0])
        # A row of 7 after the last must stay.
        out = np.full((len(rows) + 1, n_outputs), 7, dtype)
        library[f"{name}_predict_rows"](
            ctypes.c_size_t(len(rows)), pointer(rows), pointer(out)
        )
        single = np.full_like(out, 7)
        for row, to in zip(rows, single, strict=False):
            library[f"{name}_predict"](pointer(row), pointer(to))
        np.testing.assert_array_equal(out, single, name)


def test_wide_nets_take_one_row_at_a_time() -> None:
    """The buffers of a block, which are on the stack, take at most 512 KB."""
    narrow, wide = (to_c(MLP((2, n, 1), seed=0), tests=0) for n in (2000, 2100))
    assert "#if 0 || !defined(__GNUC__)\n#define MODEL_BLOCK 1" in narrow
    assert "#if 1 || !defined(__GNUC__)\n#define MODEL_BLOCK 1" in wide


@needs_gcc
@pytest.mark.parametrize("prefixes", [("net", "NET"), ("NET", "net"), ("aB_2", "Ab_2")])
def test_prefixes_that_differ_in_case_alone_are_an_error(
    prefixes: Any, tmp_path: Path
) -> None:
    texts = {p: to_c(MLP((n, 1), seed=0), prefix=p) for n, p in enumerate(prefixes, 2)}
    with pytest.raises(subprocess.CalledProcessError) as caught:
        built(tmp_path, texts, [], capture=True)
    assert f"give to_c another prefix than {prefixes[1]}" in caught.value.stderr


@pytest.mark.slow
@needs_gcc
@needs_compiler
def test_without_fused_multiply_adds(tmp_path: Path) -> None:
    texts = {name: to_c(net, prefix=name) for name, net in NETS.items()}
    library = built(tmp_path, texts, ["-std=c99", "-O2"])
    for name, net in NETS.items():
        assert failures(library, name, net.dtype, TOLERANCES[net.dtype.type]) == 0


@pytest.mark.slow
@needs_gcc
@needs_compiler
def test_a_file_alone_is_a_program_that_sanitizers_pass(tmp_path: Path) -> None:
    texts = {
        name: to_c(NETS[name], prefix=name, gradient=True) for name in [*NETS][::7]
    }
    failed = [f"0 failures of {10 * NETS[name].layer_sizes[-1]}" for name in texts]
    assert sanitized(tmp_path, texts) == [failed[0], *failed]


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")
def test_clang_compiles_the_same_bits_without_a_warning(tmp_path: Path) -> None:
    texts = {name: to_c(net, prefix=name) for name, net in NETS.items()}
    library = built(tmp_path, texts, OF_CLANG, "clang")
    for name, net in NETS.items():
        assert failures(library, name, net.dtype) == 0


def compiled_object(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Compile a net's file alone, by these flags."""
    (folder / "net.h").write_text(to_c(NETS["net9"], prefix="net", tests=0))
    command = ["gcc", "-O0", "-DNET_IMPLEMENTATION", *flags]
    command += ["-x", "c", "-c", "net.h", "-o", "net.o"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@needs_gcc
def test_a_file_has_neither_state_nor_calls_of_a_library(tmp_path: Path) -> None:
    assert compiled_object(tmp_path).returncode == 0
    symbols = subprocess.check_output(["nm", tmp_path / "net.o"], text=True)
    assert {line.split()[-2] for line in symbols.splitlines()} <= {*"tTrR"}


@needs_gcc
def test_a_file_refuses_fast_math(tmp_path: Path) -> None:
    done = compiled_object(tmp_path, "-Ofast")
    assert "compile it without -ffast-math" in done.stderr


@needs_gcc
def test_a_file_refuses_the_long_numbers_of_the_x87(tmp_path: Path) -> None:
    wide = ["-U__FLT_EVAL_METHOD__", "-D__FLT_EVAL_METHOD__=2"]
    done = compiled_object(tmp_path, *wide)
    assert "compile it with -msse2" in done.stderr


rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
FIT: dict[str, Any] = {
    "hidden_layer_sizes": (5,),
    "max_iter": 3,
    "random_state": 0,
    "tol": 0,
}
THREE = np.array(["a*/", 'b"?\\\n', "größe $real"])[np.digitize(X[:, 0], [-0.5, 0.5])]
SEARCH: dict[str, Any] = {
    "param_grid": {"alpha": [0.1, 1.0]},
    "cv": PredefinedSplit(np.arange(60) % 2),
}
MODELS: dict[str, Any] = {
    "number": lambda: MLPRegressor(**FIT).fit(X, X[:, 0]),
    "numbers": lambda: MLPRegressor(**FIT).fit(X.astype("f"), X[:, :2]),
    "search": lambda: MLPSearchCV(MLPRegressor(**FIT), **SEARCH).fit(X, X[:, :2]),
    "two": lambda: MLPClassifier(**FIT).fit(X.astype("f"), X[:, 0] > 0),
    "three": lambda: MLPClassifier(**FIT).fit(X, THREE),
    "lone": lambda: MLPClassifier(**FIT).fit(X, np.zeros(60, int)),
    "labels": lambda: MLPClassifier(**FIT).fit(X, (X[:, :2] > 0).astype(int)),
    "folded": lambda: fold(
        make_pipeline(StandardScaler(), MLPRegressor(**FIT)).fit(X, X[:, 0])
    ),
}


@pytest.mark.slow
@needs_gcc
@needs_compiler
@unconverged
def test_every_model(tmp_path: Path) -> None:
    models = {name: make() for name, make in MODELS.items()}
    texts = {
        name: to_c(model, prefix=name, test_data=X) for name, model in models.items()
    }
    library = built(tmp_path, texts, ["-std=c99", "-O1", "-march=native"])
    for name, model in models.items():
        classes = getattr(model, "classes_", None)
        dtype = np.float32 if "const float x" in texts[name] else np.float64
        rows = X.astype(dtype)
        if classes is None:
            expected = model.predict(rows)
        else:
            expected = model.predict_proba(rows)
        expected = expected.reshape(len(rows), -1)
        np.testing.assert_array_equal(
            predictions(library, name, rows, expected.shape[1]),
            expected.astype(dtype),
            name,
        )
        assert failures(library, name, dtype) == 0
        if classes is not None and name != "labels":
            places = [library[f"{name}_class"](pointer(row)) for row in rows]
            assert (classes[places] == model.predict(rows)).all()
            strings = (ctypes.c_char_p * len(classes)).in_dll(
                library, f"{name}_class_names"
            )
            assert [(text or b"").decode() for text in strings] == [
                str(label) for label in classes
            ]
    assert "_class(" not in texts["labels"]


@pytest.mark.slow
@needs_gcc
@needs_compiler
@pytest.mark.filterwarnings("ignore:MLP. the slope of the activation")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_of_ones_own(dtype: Any, tmp_path: Path) -> None:
    net = MLP((2, 9, 9, 1), activation=[plain, built_of_others], dtype=dtype, seed=0)
    library = built(
        tmp_path, {"net": to_c(net, prefix="net")}, ["-O1", "-march=native"]
    )
    assert failures(library, "net", net.dtype) == 0


@pytest.mark.slow
@needs_gcc
@needs_compiler
@unconverged
def test_gradients_are_those_of_differences(tmp_path: Path) -> None:
    names = ["linear", *(f"net{2 * i + 1}" for i in range(len(LOSSES)))]
    models: dict[str, Any] = {name: NETS.get(name) for name in names}
    models["linear"] = MLP((3, 2), output_activation="tanh", dtype="float64", seed=0)
    models["number"] = MODELS["number"]()
    models["two"] = MLPClassifier(**FIT).fit(X, X[:, 0] > 0)
    for i, (loss, n) in enumerate(LOSSES):
        models[f"link{i}"] = net = MLP(
            (3, 7, n), activation="tanh", loss=loss, dtype="float64", seed=i
        )
        net.parameters[:] = np.random.default_rng(i).normal(size=net.parameters.size)
    texts = {
        name: to_c(model, prefix=name, gradient=True) for name, model in models.items()
    }
    library = built(tmp_path, texts, ["-std=c99", "-O1"])
    for name, model in models.items():
        predict = getattr(model, "predict_proba", model.predict)
        n = model.layer_sizes[0] if isinstance(model, MLP) else 3
        rows = np.random.default_rng(2).normal(size=(5, n))
        step = 1e-6 * np.eye(n)
        for row in rows:
            up, down = (predict(row + sign * step).reshape(n, -1) for sign in (1, -1))
            y = np.empty(up.shape[1])
            jacobian = np.empty(up.shape[::-1])
            library[f"{name}_gradient"](pointer(row), pointer(y), pointer(jacobian))
            np.testing.assert_allclose(y, predict(row[None]).ravel(), 1e-12, 1e-12)
            scale = 1 + np.abs(jacobian).max()
            np.testing.assert_allclose(
                jacobian, (up - down).T / 2e-6, 0, 1e-6 * scale, err_msg=name
            )


def test_the_same_net_gives_the_same_bytes(tmp_path: Path) -> None:
    net = MLP((2, 3, 1), seed=0)
    path = tmp_path / "net.c"
    assert to_c(net, path) == path.read_text() == to_c(net, str(path))


def test_names_of_features_stand_in_comments() -> None:
    net = MLP((2, 3, 1), seed=0)
    net.feature_names = ["a*/b", "c\nd"]
    assert "inputs:\n       0: a* /b\n       1: c\\nd\n" in to_c(net)


def test_a_file_that_ends_in_c_has_the_implementation(tmp_path: Path) -> None:
    text = to_c(MLP((2, 3, 1), seed=0), tmp_path / "net.c")
    assert "#define MODEL_IMPLEMENTATION\n" in text


def test_a_file_may_be_without_tests() -> None:
    net = MLP((2, 3, 1), seed=0)
    assert "_TEST" not in to_c(net, tests=0).replace("MODEL_TEST_MAIN", "")


def test_a_failed_write_keeps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.h"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        to_c(MLP((2, 3, 1), seed=0), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@needs_gcc
@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "other"), [("float32", "float64"), ("float64", "float32")]
)
def test_another_precision(dtype: Any, other: Any, tmp_path: Path) -> None:
    net = MLP((2, 9, 1), activation="tanh", dtype=dtype, seed=0)
    text = to_c(net, prefix="net", dtype=other, test_data=[[0.1, 0.2]] * 3)
    library = built(tmp_path, {"net": text}, ["-O1"])
    assert failures(library, "net", np.dtype(other), 1e-5) == 0


def test_rows_without_finite_predictions_are_left_out() -> None:
    net = MLP((1, 2), loss="poisson", seed=0)
    net.parameters[:] = [1, 1, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "i < 2; ++i" in to_c(net, test_data=[[1], [1000], [2]])
        with pytest.raises(
            ValueError, match="to_c: no prediction of the test rows is finite"
        ):
            to_c(net, test_data=[[1000]])


broken = MLP((2, 3, 1), seed=0)
broken.parameters[0] = np.nan
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export-to-c.md"


def blocks(kind: str) -> list[str]:
    return re.findall(
        rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE
    )


def commands(start: str) -> list[tuple[str, str]]:
    pairs = [
        block.removeprefix("$ ").partition("\n")[::2] for block in blocks("console")
    ]
    return [
        (command, printed) for command, printed in pairs if command.startswith(start)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    with contextlib.chdir(folder):
        names: dict[str, Any] = {}
        exec(compile("\n".join(blocks("python")), PAGE.name, "exec"), names)
        probability = names["model"].predict_proba(names["row"])[0, 1]
        (folder / "probability.txt").write_text(repr(float(probability)))
    program, table, web = blocks("c")
    (folder / "main.c").write_text(program)
    (folder / "buys.c").write_text(table)
    (folder / "web.c").write_text(web)
    return folder


def output(command: str, folder: Path) -> str:
    return subprocess.check_output(command, shell=True, cwd=folder, text=True)


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_programs_predict_as_the_net(folder: Path) -> None:
    (test, printed), (program, _), (table, _) = commands("cc ")
    assert output(test, folder) == printed
    label, probability = output(table, folder).split()
    assert (label == "True") == (float(probability) > 0.5)
    assert float(probability) == float((folder / "probability.txt").read_text())
    numbers = np.array(output(program, folder).split(), np.float32)
    np.testing.assert_allclose(numbers, np.loadtxt(folder / "expected.txt"), 1e-5, 1e-6)


@needs_compiler
def test_the_command_writes_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    ((command, _),) = commands("fastmlp ")
    assert main(shlex.split(command)[1:]) == 0
    assert os.path.getsize("model.h") > 10_000
