"""The disk cache: never old code, never a failure, never half a file."""

import compileall
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from conditions import DAMAGES, EVALUATE, IMPORTED, RIGHT, only_compiled

from fastmlp.compiler import cache
from fastmlp.compiler.blocks import Block
from fastmlp.compiler.memory import row
from fastmlp.compiler.native.objects import TRANSLATED

pytestmark = only_compiled


@pytest.fixture(autouse=True)
def without_the_code_of_a_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMLP_PREBUILT", "0")


def double(address: int) -> None:
    numbers = row(address, 1, np.float64)
    numbers[0] = numbers[0] + numbers[0]


def twice(number: float, name: str = "test.double") -> tuple[float, int]:
    """The double of a number, by a block that knows of the disk alone,
    and how much it compiled.
    """
    before = len(TRANSLATED)
    numbers = np.array([number])
    Block(double, cache.CodeCache(name))(numbers.ctypes.data)
    return float(numbers[0]), len(TRANSLATED) - before


def files_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def is_whole(path: Path) -> bool:
    content = path.read_bytes()
    digest = content[: cache.CODE_DIGEST_BYTES]
    payload = content[cache.CODE_DIGEST_BYTES :]
    return bool(payload) and hashlib.sha256(payload).digest() == digest


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def home(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, python: Callable[..., str]
) -> dict[str, str]:
    """The setting of a cache that another process has filled:
    a copy of one that serves all.
    """
    source = tmp_path_factory.getbasetemp() / "filled"
    if not source.exists():
        assert python(EVALUATE, NUMBA_CACHE_DIR=str(source)).split() == [
            *RIGHT.split(),
            "True",
        ]
    shutil.copytree(source, tmp_path / "cache")
    return {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    shutil.copytree(
        cache.PACKAGE, source / "fastmlp", ignore=shutil.ignore_patterns("__pycache__")
    )
    return source / "fastmlp"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_code_is_stored_whole_in_a_file_of_its_name(store: Path) -> None:
    assert twice(4.0) == (8.0, 1)
    before = files_in(store)
    assert len(before) == 1
    assert all(is_whole(Path(path)) for path in before)
    assert twice(4.0) == (8.0, 0)
    assert files_in(store) == before
    twice(4.0)
    twice(4.0, "test.other")
    assert len(files_in(store)) == 2


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_written_anew(damage: str, store: Path) -> None:
    twice(4.0)
    (path,) = store.iterdir()
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert twice(4.0) == (8.0, 1)
    assert is_whole(path)
    assert twice(4.0) == (8.0, 0)


def test_a_folder_in_the_place_of_a_file_is_no_failure(store: Path) -> None:
    twice(4.0)
    (path,) = store.iterdir()
    path.unlink()
    path.mkdir()
    assert twice(4.0)[0] == 8.0
    assert list(store.iterdir()) == [path]


def test_a_folder_removed_meanwhile_is_no_failure(store: Path) -> None:
    store.rmdir()
    assert twice(4.0)[0] == 8.0


def fail_with(error: BaseException) -> Any:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(("module", "name"), [(os, "replace"), (tempfile, "mkstemp")])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()]
)
def test_a_write_that_fails_or_is_interrupted_leaves_none(
    error: BaseException,
    module: Any,
    name: str,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail_with(error))
        if isinstance(error, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                twice(4.0)
        else:
            assert twice(4.0)[0] == 8.0
    assert list(store.iterdir()) == []
    assert twice(4.0) == (8.0, 1)
    assert len(files_in(store)) == 1


def test_a_disk_that_fills_up_leaves_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_full(descriptor: int, mode: str) -> Any:
        os.close(descriptor)
        return open("/dev/full", mode, buffering=0)

    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", open_full)
        assert twice(4.0)[0] == 8.0
    assert list(store.iterdir()) == []


@pytest.fixture
def no_folder_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cache is to be in a folder that is empty."""
    monkeypatch.delenv("FASTMLP_CACHE", raising=False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    cache.folder.cache_clear()
    yield
    monkeypatch.undo()
    cache.folder.cache_clear()


@pytest.mark.usefixtures("no_folder_yet")
def test_a_folder_is_made_where_numbas_is(tmp_path: Path) -> None:
    folder = cache.folder()
    assert folder == tmp_path / "fastmlp" / cache.fingerprint()
    assert folder is not None
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("no_folder_yet")
def test_fastmlp_cache_0_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTMLP_CACHE", "0")
    assert cache.folder() is None
    assert twice(4.0)[0] == 8.0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_folder_yet")
@pytest.mark.parametrize("below", ["file", "/proc/nonexistent", "/dev/null", "no home"])
def test_an_impossible_folder(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / below / "cache"))
    if below == "no home":  # else a relative one would be a folder here
        monkeypatch.setattr(numba.config, "CACHE_DIR", "")
        for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            monkeypatch.setenv(name, "relative")
    assert cache.folder() is None
    assert twice(4.0)[0] == 8.0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("where", ["rules.py", "backends/cpu/kernels/new/rules.py"])
def test_the_fingerprint_covers_a_module_that_is_new(where: str, package: Path) -> None:
    before = cache.fingerprint(package)
    (package / where).parent.mkdir(exist_ok=True)
    (package / where).write_text("STRIP_ROWS = 8\n")
    assert cache.fingerprint(package) != before


def test_the_fingerprint_knows_where_a_module_lies(package: Path) -> None:
    before = cache.fingerprint(package)
    (package / "rules" / "activations.py").rename(
        package / "backends" / "activations.py"
    )
    assert cache.fingerprint(package) != before


def test_the_fingerprint_is_that_of_the_content_alone(package: Path) -> None:
    os.utime(package / "rules" / "activations.py", (0, 0))
    assert cache.fingerprint(package) == cache.fingerprint()


@pytest.mark.parametrize("name", ["BOUNDSCHECK", "OPT", "DEBUGINFO_DEFAULT"])
def test_the_fingerprint_knows_the_options(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cache.fingerprint()
    monkeypatch.setattr(numba.config, name, 2)
    assert cache.fingerprint() != before


@pytest.mark.slow
def test_changed_code_is_compiled_anew_and_unchanged_code_is_not(
    home: dict[str, str], package: Path, python: Callable[..., str]
) -> None:
    home["PYTHONPATH"] = str(package.parent)
    before = files_in(Path(home["NUMBA_CACHE_DIR"]))
    assert len(before) == 3  # two blocks, and what LLVM knows of the host
    assert python(EVALUATE, **home).split() == [*RIGHT.split(), "False"]
    assert files_in(Path(home["NUMBA_CACHE_DIR"])) == before
    # A rule; then a function that a rule calls, the rule's own file unchanged.
    edit(
        package / "rules" / "activations.py",
        "return (zero if z < zero else z), (",
        "return z - z, (",
    )
    assert python(EVALUATE, **home).split() == ["0.0", "0.0", "0.5", "True"]
    forms = package / "compiler" / "elementary.py"
    edit(forms, "return where(x < zero, e, one) / (one + e)", "return e + e")
    assert python(EVALUATE, **home).split() == ["0.0", "0.0", "2.0", "True"]
    assert python(EVALUATE, **home).split() == ["0.0", "0.0", "2.0", "False"]


@pytest.mark.slow
def test_processes_at_once_do_not_disturb(
    tmp_path: Path, python: Callable[..., str]
) -> None:
    with ThreadPoolExecutor(3) as pool:
        runs = [
            pool.submit(python, EVALUATE, NUMBA_CACHE_DIR=str(tmp_path))
            for _ in range(3)
        ]
    assert {" ".join(run.result().split()[:3]) for run in runs} == {RIGHT}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert all(is_whole(path) for path in files)
    assert python(EVALUATE, NUMBA_CACHE_DIR=str(tmp_path)).split()[3] == "False"


# Of another name, or of the same name and other features.
MACHINES = [
    {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+sse2"},
    {"NUMBA_CPU_NAME": "nocona", "NUMBA_CPU_FEATURES": "+sse2"},
]


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason="names and features are those of x86",
)
def test_code_for_one_machine_is_not_loaded_for_another(
    tmp_path: Path, home: dict[str, str], python: Callable[..., str]
) -> None:
    for i, machine in enumerate(MACHINES, 2):
        assert python(EVALUATE, **home, **machine).split() == [*RIGHT.split(), "True"]
        assert len(files_in(tmp_path)) == 2 * i + 1
    assert python(EVALUATE, **home, **MACHINES[0]).split() == [*RIGHT.split(), "False"]


def shut(folder: Path) -> str:
    """A program that may read below `folder`, and write nothing, for any user."""
    return f"""
import os, sys, tempfile
def refuse(*_, **__):
    raise OSError(30, "Read-only file system")
tempfile.TemporaryFile = tempfile.mkstemp = refuse
{EVALUATE}
from fastmlp.compiler import cache
print(str(cache.folder()).startswith({str(folder)!r}))
"""


@pytest.mark.slow
def test_a_filled_folder_that_may_not_be_written_is_read(
    tmp_path: Path, home: dict[str, str], python: Callable[..., str]
) -> None:
    empty = {"NUMBA_CACHE_DIR": str(tmp_path / "empty")}
    assert python(shut(tmp_path), **empty).split() == [*RIGHT.split(), "True", "False"]
    before = files_in(tmp_path)
    assert python(shut(tmp_path), **home).split() == [*RIGHT.split(), "False", "True"]
    assert files_in(tmp_path) == before


AS_NOBODY = f"""
import os, sys, warnings
import fastmlp.backends.cpu.kernels.elementwise, fastmlp.rules.activations, fastmlp.info
from fastmlp.compiler import cache
cache.fingerprint = lambda it=cache.fingerprint(): it  # of sources that nobody may read
sources = cache.sources()
cache.sources = lambda: sources
import llvmlite.binding, fastmlp.compiler.native.objects  # of files that nobody may read
llvmlite.binding.get_host_cpu_name()
cache.folder.cache_clear()
os.setgroups([]), os.setgid(65534), os.setuid(65534)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    exec({EVALUATE!r})
    again = cache.folder()
print(fastmlp.info.cache_state())
print(*(one.category.__name__ for one in caught), *(one.message for one in caught))
"""
only_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root may become another user",
)


@pytest.fixture
def opened() -> Iterator[Path]:
    """A folder that every user may enter; pytest closes those above its own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        if any(not path.stat().st_mode & 1 for path in Path(name).parents):
            pytest.skip("a folder above is closed")
        yield Path(name)


@pytest.mark.slow
@only_root
def test_another_user_reads_it(
    opened: Path, home: dict[str, str], python: Callable[..., str]
) -> None:
    shutil.copytree(home["NUMBA_CACHE_DIR"], opened / "cache")
    home = {"NUMBA_CACHE_DIR": str(opened / "cache")}
    before = files_in(opened)
    numbers, state, warned = python(AS_NOBODY, **home).splitlines()
    assert numbers.split() == [*RIGHT.split(), "True"]
    (folder,) = (opened / "cache" / "fastmlp").iterdir()
    why = f"not used: {folder} cannot be read; its owner can run fastmlp warmup --shared, or set "
    assert state == f"{why}NUMBA_CACHE_DIR to another folder"
    assert (
        warned
        == f"RuntimeWarning code cache {state}; until then each process compiles anew"
    )
    python(
        "import os; os.umask(0o077)\nfrom fastmlp.compiler import cache; cache.let_all_read()",
        **home,
    )
    assert python(AS_NOBODY, **home).splitlines() == [f"{RIGHT} False", str(folder), ""]
    assert files_in(opened) == before


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such modes")
@pytest.mark.parametrize(
    ("folder", "file"), [(0o755, 0o644), (0o750, 0o640), (0o700, 0o600)]
)
def test_others_read_what_a_shared_folder_has(
    folder: int, file: int, store: Path
) -> None:
    store.chmod(folder)
    twice(4.0)
    assert [path.stat().st_mode & 0o777 for path in store.iterdir()] == [file]


@only_root
@pytest.mark.parametrize(
    ("mode", "owner", "words"),
    [
        (0o775, 0, "can be written by others"),
        (0o755, 4321, r"belongs to another user \(4321\)"),
    ],
)
@pytest.mark.parametrize("above", [False, True], ids=["version", "fastmlp"])
@pytest.mark.usefixtures("no_folder_yet")
def test_a_folder_that_another_user_can_write_to_is_not_used(
    above: bool, mode: int, owner: int, words: str
) -> None:
    folder = cache.folder()
    assert folder is not None
    assert [each.stat().st_mode & 0o777 for each in (folder, folder.parent)] == [
        0o700,
        0o700,
    ]
    changed = folder.parent if above else folder
    changed.chmod(mode)
    os.chown(changed, owner, 0)
    cache.folder.cache_clear()
    with pytest.warns(
        RuntimeWarning, match=f"not used: {changed} {words}, who could run code"
    ):
        assert cache.folder() is None
    assert cache.folder() is None


@pytest.mark.usefixtures("no_folder_yet")
def test_shared_code_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    with pytest.raises(OSError, match="--shared needs NUMBA_CACHE_DIR"):
        cache.let_all_read()
    cache.folder.cache_clear()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "shut" / "cache"))
    (tmp_path / "shut").mkdir(mode=0o700)
    with pytest.raises(OSError, match=r"others cannot enter .*: run chmod a\+x .*shut"):
        cache.let_all_read()


@pytest.mark.slow
def test_zips_have_no_folder(
    tmp_path: Path, package: Path, python: Callable[..., str]
) -> None:
    # Its hash would be the same whatever is in it:
    # the code of one version would serve the next.
    home = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    home["PYTHONPATH"] = shutil.make_archive(
        str(tmp_path / "fastmlp"), "zip", package.parent
    )
    where = "from fastmlp.info import info; print(info()['cache'])"
    numbers, state = python(f"{EVALUATE}\n{where}", **home).splitlines()
    assert numbers.split() == [*RIGHT.split(), "True"]
    assert not (tmp_path / "cache").exists()
    assert state.startswith("none: fastmlp's files lie in no folder")


def test_the_fingerprint_knows_bytecode_that_has_no_source(package: Path) -> None:
    package /= "rules"
    compileall.compile_dir(package, quiet=1, legacy=True, workers=1)
    for path in package.rglob("*.py"):
        path.unlink()
    before = cache.fingerprint(package)
    path = package / "activations.pyc"
    path.write_bytes(path.read_bytes() + b"\0")
    assert cache.fingerprint(package) != before


# Each in a process of its own, with a table or a model in its folder.
STORED = {
    "import": "import fastmlp",
    "fit": "net.fit(X, y, epochs=2, batch_size=8)",
    "fit by two threads": "wide.fit(X, y, epochs=2, batch_size=16)",
    "predict": "net.predict(X), net.predict(X[:1])",
    "steps": "[net.train_on_batch(X, y) for _ in range(3)]",
    "losses with a setting": """
for loss in (fastmlp.Quantile(0.3), fastmlp.Quantile(0.7)):
    fastmlp.MLP((3, 4, 1), loss=loss, seed=0).fit(X, y, epochs=1)""",
    "MLPClassifier": "fastmlp.MLPClassifier(max_iter=2).fit(X, y > 0).predict(X)",
    "TabularMLPClassifier": """
fastmlp.TabularMLPClassifier(max_iter=2, n_members=2, random_state=0, n_jobs=1).fit(X, y > 0)""",
    "load": "fastmlp.load('net.safetensors').predict(X)",
    "command": """
from fastmlp.cli.main import main
assert main(["predict", "model.safetensors", "rows.csv", "--output", "out.csv", "--force"]) == 0""",
}
USE = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
import fastmlp
X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
y = X[:, 0] + X[:, 1]
net = fastmlp.MLP((3, 8, 1), seed=0)
wide = fastmlp.MLP((3, 300, 300, 1), seed=0, n_threads=2)
"""
PREPARE = f"""{USE}
net.save("net.safetensors")
rows = np.column_stack([X, y])
np.savetxt("rows.csv", rows, delimiter=",", header="a,b,c,y", comments="")
from fastmlp.cli.main import main
assert main(["train", "rows.csv", "--target", "y", "--epochs", "2", "--preset", "fast"]) == 0
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.mark.slow
@pytest.mark.parametrize("use", STORED)
def test_nothing_of_a_compiler_is_imported_where_code_is_stored(
    use: str,
    prepared: Path,
    python: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(prepared)
    if use in ("load", "command") and not (prepared / "net.safetensors").exists():
        python(PREPARE)
    script = f"{USE}{STORED[use]}{IMPORTED}"
    python(script)  # stores what is missing
    assert python(script).splitlines()[-1] == ""


BY_LLVM = f"""
import sys
import fastmlp.compiler.cache as images
images.LOADS = images.LOADS and sys.argv[1] == "image"
{USE}
net.fit(X, y, epochs=2, batch_size=8)
net.train_on_batch(X, y), net.train_on_batch(X, y)
print(net.predict(X).tobytes().hex(), net.predict(X[:1]), net.parameters.tobytes().hex())
"""


@pytest.mark.slow
def test_elsewhere_llvm_loads_the_same_bits(
    tmp_path: Path, python: Callable[..., str]
) -> None:
    home = {"NUMBA_CACHE_DIR": str(tmp_path)}
    by_llvm = [
        python(BY_LLVM, "object", **home) for _ in range(2)
    ]  # compiled, then stored
    assert [*by_llvm, python(BY_LLVM, "image")] == [by_llvm[0]] * 3
