"""Where a run was made."""

import datetime
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    "numba",
    "llvmlite",
    "numpy",
    "scikit-learn",
    "torch",
    "jax",
    "keras",
    "onnxruntime",
    "pyarrow",
    "mpi4py",
)


def describe() -> dict[str, Any]:
    """Return the machine, its load and the libraries' versions."""
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


def told(results: dict[str, Any]) -> str:
    """Return a sentence of the machine and the versions of results."""
    m = results["machine"]
    libraries = ", ".join(f"{name} {its}" for name, its in results["versions"].items())
    return f"On {m['cores']} cores of {m['cpu']}, Python {m['python']}; {libraries}; {m['date']}."


def cores() -> int:
    """Return how many cores the process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fastmlp_state() -> str:
    """Return the version, and the commit where there is one."""
    import fastmlp

    commit = commit_of(Path(__file__).parent.parent)
    return f"{fastmlp.__version__} ({commit})" if commit else fastmlp.__version__


def commit_of(folder: Path) -> str | None:
    """Return the commit that a folder has checked out, or None."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the distributions that are installed."""
    return {name: found for name in names if (found := installed(name))}


def installed(name: str) -> str | None:
    """Return the version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def first_line(path: str) -> str | None:
    """Return a file's first line, or None."""
    try:
        return Path(path).read_text().splitlines()[0]
    except (OSError, IndexError):
        return None


def cpu_model() -> str:
    """Return the processor's name; its family and model where the name says little."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    pairs = [line.split(":", 1) for line in info.read_text().splitlines() if ":" in line]
    facts = {key.strip(): value.strip() for key, value in reversed(pairs)}
    vectors = "AVX-512" if "avx512f" in facts.get("flags", "") else "AVX2"
    name = facts.get("model name", platform.processor())
    return f"{name}, family {facts.get('cpu family')} model {facts.get('model')}, {vectors}"


def caches() -> str:
    """Return the sizes of the first core's data caches."""
    folders = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    facts = [[first_line(str(f / part)) for part in ("level", "type", "size")] for f in folders]
    return ", ".join(f"L{level} {size}" for level, kind, size in facts if kind != "Instruction")
