"""Wheels with code, where FASTMLP_BUILD_OBJECTS names a machine: x86_64 and aarch64 of Linux, arm64
of macOS, each built on any of them.

"host": code for this processor. A clone that is installed with ``pip install -e .`` then has it.
"""

import os
import platform
import subprocess
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# By machine: the architecture of its code, the platform of the wheel's tag, and the files of code.
MACHINES = {
    "x86_64": ("x86_64", "manylinux_2_17_x86_64", "x86-64-*"),
    "aarch64": ("aarch64", "manylinux_2_17_aarch64", "aarch64*"),
    "arm64": ("aarch64", "macosx_11_0_arm64", "aarch64*"),
}


class CodeInWheel(BuildHookInterface):
    """Compiles all blocks of the library into the wheel, or beside the sources of a clone."""

    def asked(self) -> str:
        asked = os.environ.get("FASTMLP_BUILD_OBJECTS", "0")
        if asked not in ("0", "host", *MACHINES):
            known = ", ".join(("0", "host", *MACHINES))
            raise ValueError(
                f"FASTMLP_BUILD_OBJECTS must be one of {known}, not {asked!r}"
            )
        return asked if self.target_name == "wheel" else "0"

    def dependencies(self) -> list[str]:
        return list(self.metadata.core.dependencies) if self.asked() != "0" else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        asked = self.asked()
        if asked == "0":
            return
        of_host = asked == "host"
        architecture, tag, files = MACHINES[platform.machine() if of_host else asked]
        command = [sys.executable, "-m", "fastmlp.warmup"]
        if not of_host:
            command.append(architecture)
        # What is required is made here.
        settings = os.environ | {"FASTMLP_PREBUILT": ""}
        subprocess.run(command, cwd=self.root, env=settings, check=True)
        build_data["artifacts"].append(f"fastmlp/compiler/{files}.images")
        if version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{tag}"
