"""Wheels with code, on Linux with x86-64, where FASTMLP_BUILD_OBJECTS names what they are to have.

1: code for all levels of processors; "host": for this processor's. A clone that is installed with
``pip install -e .`` then has it too.
"""

import os
import subprocess
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CodeInWheel(BuildHookInterface):
    """Compiles all blocks of the library into the wheel, or beside the sources of a clone."""

    def builds(self) -> bool:
        asked = os.environ.get("FASTMLP_BUILD_OBJECTS", "0")
        return self.target_name == "wheel" and asked != "0"

    def dependencies(self) -> list[str]:
        return list(self.metadata.core.dependencies) if self.builds() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.builds():
            command = [
                sys.executable,
                "-m",
                "fastmlp.warmup",
                os.environ["FASTMLP_BUILD_OBJECTS"],
            ]
            settings = os.environ | {
                "FASTMLP_PREBUILT": ""
            }  # what is required is made here
            subprocess.run(command, cwd=self.root, env=settings, check=True)
            build_data["artifacts"].append("fastmlp/compiler/*.images")
            if version != "editable":
                build_data["pure_python"] = False
                build_data["tag"] = "py3-none-manylinux_2_17_x86_64"
