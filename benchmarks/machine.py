"""The machine of a run, and the versions of libraries."""

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.scores import Record

LIBRARIES = (
    "numba",
    "llvmlite",
    "numpy",
    "scikit-learn",
    "torch",
    "jax",
    "optax",
    "keras",
    "tensorflow-cpu",
    "river",
    "lightgbm",
    "onnxruntime",
    "pyarrow",
    "mpi4py",
)


def describe() -> Record:
    """The machine, its load and the libraries' versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_model(),
        "cores": cores(),
        "caches": caches(),
        "governor": first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "fastmlp": fastmlp_state(),
        "versions": versions(LIBRARIES),
    }


def measured(results: Record, *facts: str, versions: Record | None = None) -> str:
    """The sentence that a page begins with: date, facts of the run,
    the machine, and the versions of the program's libraries, or of all.
    """
    machine = results["machine"]
    if versions is None:
        versions = results.get("versions", machine["versions"])
    said = [
        *facts,
        f"{machine['cores']} cores of {machine['cpu']}",
        f"Python {machine['python']}",
        f"fastmlp {machine['fastmlp']}",
    ]
    sentence = f"Measured on {machine['date']}: {', '.join(said)}"
    if versions:
        listed = ", ".join(f"{name} {number}" for name, number in versions.items())
        sentence += f"; {listed}"
    return f"{sentence}."


@cache
def stamp() -> Record:
    """Version and commit of fastmlp, the date, and the processor."""
    return {
        "fastmlp": fastmlp_state(),
        "date": datetime.date.today().isoformat(),
        "processor": f"{cores()} cores of {cpu_model()}",
    }


def cores() -> int:
    """The number of cores that the process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fastmlp_state() -> str:
    """fastmlp's version, and the commit of a checkout."""
    import fastmlp

    commit = commit_of(Path(__file__).parent.parent)
    if commit:
        return f"{fastmlp.__version__} ({commit})"
    return fastmlp.__version__


def commit_of(folder: Path) -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def versions(names: Iterable[str]) -> dict[str, str]:
    numbers = {name: installed(name) for name in names}
    return {name: number for name, number in numbers.items() if number}


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def first_line(path: str) -> str | None:
    try:
        return Path(path).read_text().splitlines()[0]
    except (OSError, IndexError):
        return None


def cpu_model() -> str:
    """The processor's name, family, model and vector instructions."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    facts: dict[str, str] = {}
    for line in info.read_text().splitlines():
        key, colon, value = line.partition(":")
        if colon:
            # The first processor's are kept.
            facts.setdefault(key.strip(), value.strip())
    if "avx512f" in facts.get("flags", ""):
        vectors = "AVX-512"
    else:
        vectors = "AVX2"
    name = facts.get("model name", platform.processor())
    family = facts.get("cpu family")
    model = facts.get("model")
    return f"{name}, family {family} model {model}, {vectors}"


def memory(field: str = "VmHWM", *, reset: bool = False) -> int:
    """Bytes of this process in memory: VmRSS those of now, VmHWM the most,
    with `reset` from now on; 0 where there is no /proc.
    """
    status = Path("/proc/self/status")
    clear = Path("/proc/self/clear_refs")
    if reset and clear.exists():
        clear.write_text("5")
    if not status.exists():
        return 0
    size = re.search(rf"{field}:\s+(\d+) kB", status.read_text())
    if size is None:
        return 0
    return 1024 * int(size[1])


def caches() -> str:
    """The sizes of the first core's data caches."""
    folders = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")
    sizes = []
    for folder in sorted(folders):
        if first_line(str(folder / "type")) == "Instruction":
            continue
        level = first_line(str(folder / "level"))
        size = first_line(str(folder / "size"))
        sizes.append(f"L{level} {size}")
    return ", ".join(sizes)
