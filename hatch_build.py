"""Wheels with code: where FASTMLP_BUILD_OBJECTS is 1, on Linux with x86-64, AVX2 and no AVX-512."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILE = "fastmlp/compiler/shipped.images"


class CodeInWheel(BuildHookInterface):
    """Compiles what `fastmlp warmup` compiles into the wheel."""

    def builds(self) -> bool:
        return self.target_name == "wheel" and os.environ.get("FASTMLP_BUILD_OBJECTS") == "1"

    def dependencies(self) -> list[str]:
        return list(self.metadata.core.dependencies) if self.builds() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.builds() and version != "editable":
            command = [sys.executable, "-m", "fastmlp.compiler.native.build"]
            subprocess.run(command, cwd=self.root, check=True)
            build_data["artifacts"].append(FILE)
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-manylinux_2_17_x86_64"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        # A clone compiles for its own processor.
        Path(self.root, FILE).unlink(missing_ok=True)
