"""The command, info and warmup: what they print and leave,
exit codes, and the page's sessions.
"""

import contextlib
import doctest
import io
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import numba
import numpy as np
import pytest

import fastmlp
from fastmlp.backends.cpu import limits
from fastmlp.backends.cpu.kernels.rule_blocks import PAIRED
from fastmlp.cli.main import ending, main, run_demo
from fastmlp.compiler import cache, target
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.compiler.target import PairProducts
from fastmlp.info import format_info, info
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.losses import LINKS, LOSSES
from fastmlp.rules.optimizers import OPTIMIZERS
from fastmlp.rules.updates import PENALTIES

PNG = b"\x89PNG\r\n\x1a\n"
needs_compiler = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)


def test_version_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"fastmlp {fastmlp.__version__}\n"


def test_info_prints_the_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert capsys.readouterr().out == format_info() + "\n"


def test_info_as_json_is_the_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == info()


def test_without_a_command_the_help_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert main([]) == 0
    assert capsys.readouterr() == (printed, "")
    for command in ("demo", "info", "warmup"):
        assert command in printed


@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")
def test_a_signal_that_is_ignored_stays_so() -> None:
    """As SIGHUP is below nohup, so that a long training outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# It prints the help, and imports neither Numba nor pyarrow.
ALONE = ["-m", "fastmlp"]


@pytest.mark.slow
def test_module_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, *ALONE], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("usage: fastmlp ")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pipes of another kind")
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_gone_ends_the_command_in_silence(buffered: bool) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, *([] if buffered else ["-u"]), *ALONE]
    result = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.slow
@needs_compiler
def test_demo_saves_its_picture(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    assert main(["demo", "--epochs", "2", "--seed", "3", "--output", str(path)]) == 0
    printed = capsys.readouterr().out
    assert path.read_bytes().startswith(PNG)
    assert f"Picture: {path}\n" in printed
    assert "2 epochs, seed 3" in printed
    assert re.search(r"fastmlp +\d+\.\d %", printed)
    assert re.search(r"scikit-learn +\d+\.\d %", printed)


@pytest.mark.slow
@needs_compiler
def test_demo_reads_the_digits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_demo(tmp_path / "picture.png", seed=0) >= 0.97


@pytest.mark.parametrize(
    ("module", "package"), [("sklearn", "scikit-learn"), ("matplotlib",) * 2]
)
def test_missing_extra_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
    package: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"fastmlp: the demo needs {package}: pip install {package}\n"


def test_the_extra_of_the_demo_is_enough_for_the_readme() -> None:
    """Its first command installs `demo`; its code saves a net."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())[
        "project"
    ]
    (demo,) = project["optional-dependencies"]["demo"]
    assert {"plot", "safetensors", "sklearn"} <= set(re.split(r"[],[]", demo))


def test_options_of_warmup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []

    def compile_all(report: Any, **settings: Any) -> float:
        done.append(settings)
        return 1.25

    monkeypatch.setattr(cache, "let_all_read", lambda: done.append("share"))
    monkeypatch.setattr("fastmlp.warmup.warmup", compile_all)
    monkeypatch.setattr(cache, "folder", lambda: Path("/somewhere"))
    assert main(["warmup", "--shared"]) == 0
    assert capsys.readouterr().out == "1.2 s, kept in /somewhere\n"
    assert main(["warmup", "--compute-dtype", "bfloat16", "--dtype", "float32"]) == 0
    more = {"compute_dtype": "bfloat16", "dtypes": ["float32"]}
    assert done == ["share", {"compute_dtype": None}, more]


def test_warmup_without_a_cache_folder_is_refused_before_it_compiles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "fastmlp.warmup.warmup", lambda report, **_: report("part") or 1.25
    )
    monkeypatch.setattr("fastmlp.compiler.cache.folder", lambda: None)
    monkeypatch.setenv("FASTMLP_CACHE", "0")
    assert main(["warmup"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "fastmlp: warmup has no cache folder to keep code in; the cache is off "
        "(FASTMLP_CACHE=0)\n"
    )


def test_warmup_that_could_not_keep_all_code_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cache, "failures", [])

    def store(report: Any, compute_dtype: Any) -> float:
        cache._write_whole(tmp_path / "no" / "folder" / "file.code", b"code")
        return 1.25

    monkeypatch.setattr("fastmlp.warmup.warmup", store)
    monkeypatch.setattr("fastmlp.compiler.cache.folder", lambda: tmp_path)
    assert main(["warmup"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastmlp: warmup could not keep all code: [Errno 2] No")


def interrupt(*_: Any) -> None:
    signal.raise_signal(signal.SIGINT)


@needs_compiler
@pytest.mark.parametrize(
    "moment",
    [
        "fastmlp.estimators.training.Epochs.end_window",
        "sklearn.neural_network.MLPClassifier._update_no_improvement_count",
    ],
)
def test_ctrl_c_in_a_fit_ends_the_demo(
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(moment, interrupt)
    path = tmp_path / "picture.png"
    assert main(["demo", "--output", str(path)]) == 130
    assert capsys.readouterr().err == "fastmlp: interrupted\n"
    assert not path.exists()


def test_warmup_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fastmlp.warmup.block_of", interrupt)
    assert main(["warmup"]) == 130
    assert capsys.readouterr() == (
        "teams, orders and groups\n",
        "fastmlp: interrupted\n",
    )


def test_versions() -> None:
    report = info()
    assert report["fastmlp"] == fastmlp.__version__
    assert report["Python"].startswith(platform.python_version())
    assert report["numba"] == numba.__version__
    assert report["numpy"] == np.__version__


def test_a_layer_that_is_not_used_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmlp.info.COMPILER", "numba")
    monkeypatch.setattr(limits, "threading_layer", lambda: "workqueue")
    assert info()["threading layer"].startswith("workqueue (not used: workers")


@pytest.mark.parametrize("kind", get_args(PairProducts))
def test_how_pairs_are_multiplied(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmlp.info.pair_products", lambda: kind)
    words = {
        "tiles": "AMX",
        "matrices": "bfmmla",
        "lanes": "AVX512-BF16",
        "widened": "float32",
    }
    assert words[kind] in info()["bfloat16"]


def test_whether_a_gpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastmlp.backends.cuda import device

    monkeypatch.setattr("fastmlp.info.CUDA_PACKAGES", ("no_such_package",))
    assert info()["GPU"].startswith("none: no package; pip install ")
    monkeypatch.setattr("fastmlp.info.CUDA_PACKAGES", ("numba",))
    monkeypatch.setattr(device, "count", lambda who: 2)
    assert info()["GPU"] == "2 seen by the driver"

    def fail(who: str) -> int:
        raise RuntimeError(f"{who}: the driver is not there")

    monkeypatch.setattr(device, "count", fail)
    assert info()["GPU"] == "none: the driver is not there"


@pytest.mark.parametrize(
    ("version", "words"),
    [("0.30.4", "numba-cuda 0.30.4"), ("0.31.0", "numba-cuda 0.31.0 (tested: 0.30)")],
)
def test_a_release_of_numba_cuda_that_is_not_tested_is_named(
    version: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmlp.info.OPTIONAL_PACKAGES", ("numba-cuda",))
    monkeypatch.setattr("fastmlp.info.metadata.version", lambda package: version)
    assert info()["optional packages"] == words


@pytest.mark.parametrize(
    ("interpreted", "compiler", "expected"),
    [
        (False, "translator", "translator"),
        (False, "numba", "numba (FASTMLP_COMPILER=numba)"),
        (True, "translator", "none (NUMBA_DISABLE_JIT=1)"),
    ],
)
def test_the_compiler_at_work(
    monkeypatch: pytest.MonkeyPatch, interpreted: bool, compiler: str, expected: str
) -> None:
    monkeypatch.setattr("fastmlp.info.INTERPRETED", interpreted)
    monkeypatch.setattr("fastmlp.info.COMPILER", compiler)
    assert info()["compiler"].startswith(expected)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("FASTMLP_CACHE", raising=False)
    monkeypatch.setattr("fastmlp.info.cache.shipped", lambda level: None)
    assert Path(info()["cache"]).is_relative_to(tmp_path)
    monkeypatch.setattr("fastmlp.info.COMPILER", "translator")
    monkeypatch.setattr("fastmlp.info.INTERPRETED", False)
    assert info()["compiler"].endswith("compiled on first use")
    for name in "ab":
        Path(info()["cache"], f"{name}.code").touch()
    assert info()["compiler"].endswith("the cache has code")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/dev/null")
    assert info()["cache"].startswith("none: no folder can be written")
    monkeypatch.setenv("FASTMLP_CACHE", "0")
    assert info()["cache"] == "off (FASTMLP_CACHE=0)"


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ("+avx2,+fma,-avx512f,+rdseed", "avx2 fma"),
        ("-avx2", "none"),
        ("", "unknown to LLVM"),
    ],
)
def test_vector_features(
    features: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = target.Host("abacus", features)
    monkeypatch.setattr(target, "host", lambda: host)
    monkeypatch.setattr(target, "level_of", lambda leaves: None)
    target._target.cache_clear()
    assert info()["vector features"] == words
    target._target.cache_clear()


def test_the_processor_is_the_one_that_numba_compiles_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = target.host().name
    monkeypatch.setattr(numba.config, "CPU_NAME", "generic")
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "")
    assert info()["CPU"] == f"generic (NUMBA_CPU_NAME; the host is {host})"
    assert info()["vector features"] == "none"
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+avx2,-avx512f,+fma,+rdseed")
    assert info()["vector features"] == "avx2 fma"


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "command-line.md"


def blocks(kind: str) -> list[str]:
    return re.findall(
        rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE
    )


def printed(command: str) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        program, *arguments = shlex.split(command)
        assert (program, main(arguments)) == ("fastmlp", 0)
    stream.seek(0)
    return stream.read()


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
def test_the_page_shows_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(compile(blocks("python")[0], PAGE.name, "exec"), namespace)
    commands = [
        one
        for block in blocks("console")
        for one in re.split(r"^\$ ", block, flags=re.M)
    ]
    commands = [one for one in commands if one]
    assert len(commands) >= 5
    for one in commands:
        command, _, expected = one.partition("\n")
        result = printed(command)
        same = doctest.OutputChecker().check_output(expected, result, doctest.ELLIPSIS)
        assert same, f"{command}\n{result}"


N_RULES = (
    len(ACTIVATIONS) + len(LINKS) + len(LOSSES) + len(PENALTIES) + len(OPTIMIZERS) + 2
)
WARM = """
from fastmlp.warmup import warmup
warmup(dtypes=["float32"], report=print, compute_dtype=%r)
import sys
assert "sklearn" not in sys.modules
"""
# Every activation, loss, penalty and optimizer,
# without the warm-up's own helpers. The large net gathers a team.
USE = """
import numpy as np
from fastmlp import MLP, SGD
from fastmlp.rules.activations import RULES
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu import limits
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.optimizers import (OPTIMIZERS)
for width, n_rows in ((3, 5), (64, 200)):
    wide = width > 3 and limits.thread_limit() > 1
    dispatch.pays = lambda work, n_threads: wide
    X, hot = np.ones((n_rows, width)), np.eye(width)[np.arange(n_rows) % width]
    settings = [dict(activation=name) for name in RULES]
    settings += [dict(loss=name, l1=0.1, l2=0.1) for name in LOSSES]
    settings += [dict(optimizer=name) for name in OPTIMIZERS]
    settings += [dict(optimizer=name, l2=0.1) for name in OPTIMIZERS]
    settings += [dict(optimizer=name, l1=0.1) for name in OPTIMIZERS]
    settings += [dict(optimizer=SGD(0.01, momentum=0.5, nesterov=n)) for n in (False, True)]
    for chosen in settings:
        loss = LOSSES[chosen.get("loss", "mse")]
        net = MLP((width, 7, width * loss.per_target), seed=0, **chosen)
        y = hot + (loss.targets == "positive")
        net.fit(X, y, epochs=1, batch_size=200, validation_data=(X, y))
        net.fit(X, y, epochs=1, batch_size=n_rows - 1)  # in an order of its own
        net.predict(X), net.predict_raw(X)
        net.predict(X[:1]), net.predict(X[:1])
        net.predict(np.ones((2000, width)))
        net.apply_gradient(net.loss_and_gradient(X, y)[1])
MLP((2, 1 << 18, 3, 1), seed=0, activation=["gelu", "tanh"]).predict(np.ones((50, 2)))
net = MLP((64, 256, 64), seed=0, n_threads=1)
for _ in range(2):
    net.train_on_batch(np.ones((32, 64), np.float32), np.ones((32, 64), np.float32))
dispatch.measure(limits.thread_limit())
from fastmlp import MLPClassifier, gradient, jacobian, jit
from fastmlp.backends.cpu.predict.embedded import c_function
net = MLP((3, 7, 1), optimizer="sgd", seed=0, activation="tanh")
X, y, row = np.ones((5, 3)), np.ones((5, 1)), np.empty(3)
two = MLPClassifier((7,), max_iter=2, tol=0, random_state=0)
for model, n in ((net, 1), (two.fit(X.astype(np.float32), [0, 1, 0, 1, 1]), 2)):
    jit.predict(jit.compiled(model), X, np.empty((5, n)))
    jit.gradient(jit.compiled(model), X[0], np.empty(n), np.empty((n, 3)))
    jacobian(model, X.astype(np.float32)), gradient(net, X, y=y)
for n in (1, 5):
    with jit.learner(net, batch_size=n) as handle:
        jit.train_on_batch(handle, X[:n], y[:n]), jit.train_on_gradient(handle, X[:n], y[:n])
        jit.vjp(handle, X[:n], y[:n], np.empty(net.parameters.size), X[:n].copy())
jit.function("float32"), c_function("quad"), c_function("generic_filter")
from fastmlp.warmup import warmup
assert warmup(dtypes=["float32"]) > 0
"""
# Steps on one thread and of a team, by rows and otherwise;
# predictions of many rows and of one.
MIXED = """
import numpy as np
from fastmlp import MLP
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu import limits
dispatch.pays = lambda work, n_threads: limits.thread_limit() > 1
for sizes in ((40, 64, 64, 2), (400, 512, 512, 2)):
    X = np.ones((300, sizes[0]), np.float32)
    for batch in (20, 300):
        net = MLP(sizes, seed=0, compute_dtype="bfloat16", activation="tanh")
        net.fit(X, X[:, :2], epochs=2, batch_size=batch, validation_data=(X, X[:, :2]))
        for rows in (X, X[:1]):
            net.predict(rows, compute_dtype="bfloat16")
"""


def run(script: str, cache: Path) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "NUMBA_OPT": "0"}
    environment["FASTMLP_PREBUILT"] = "0"
    environment.pop("FASTMLP_CACHE", None)
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


@pytest.mark.slow
@needs_compiler
def test_all_code_is_in_the_cache_afterwards(tmp_path: Path) -> None:
    printed = run(WARM % None, tmp_path)
    assert printed.splitlines()[1:3] == ["float32: kernels", "float32: rules"]
    assert "bfloat16" not in printed
    stored = set(tmp_path.rglob("*.code"))
    assert len(stored) > N_RULES
    assert run(USE, tmp_path) == "", "warmup() prints nothing by itself"
    assert set(tmp_path.rglob("*.code")) == stored
    # The further code is added to what is there.
    assert "products of bfloat16" in run(WARM % "bfloat16", tmp_path).splitlines()
    more = set(tmp_path.rglob("*.code"))
    assert len(more) == len(stored) + len(PAIRED)
    run(MIXED, tmp_path)
    assert set(tmp_path.rglob("*.code")) == more


def test_info_without_llvm_says_what_mixed_precision_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def of_host() -> str:
        raise ModuleNotFoundError("No module named 'llvmlite'")

    monkeypatch.setattr("fastmlp.info.pair_products", of_host)
    assert info()["bfloat16"] == "compiled by LLVM: needs llvmlite"
