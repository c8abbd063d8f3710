"""Builds the code that a wheel brings: ``python -m fastmlp.compiler.native.build``."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fastmlp.compiler.cache import SHIPPED, SUFFIX, pack
from fastmlp.compiler.target import LEVEL


def build(out: Path = SHIPPED) -> int:
    """Compile for `LEVEL` what `fastmlp warmup` compiles, and write it; return how many blocks.

    The processor runs the code, so it must be of the level too.
    """
    out.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "NUMBA_CPU_NAME": LEVEL.name,
            "NUMBA_CPU_FEATURES": LEVEL.features,
            "NUMBA_CACHE_DIR": folder,
        }
        command = [sys.executable, "-m", "fastmlp", "warmup"]
        subprocess.run(command, env=os.environ | settings, check=True, stdout=subprocess.DEVNULL)
        return pack(Path(folder).rglob("*" + SUFFIX), out)


if __name__ == "__main__":
    sys.stdout.write(f"{build()} blocks in {SHIPPED}\n")
