"""Marks of tests that need threads, a team or compiled kernels; and wide layers for them."""

import pytest

from fastmlp.backends.cpu.threads import limits
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.network import spec

needs_threads = pytest.mark.skipif(
    limits.thread_limit() < 2, reason="on one CPU every launch is serial"
)
only_compiled = pytest.mark.skipif(INTERPRETED, reason="uncompiled kernels are Python")
needs_a_team = pytest.mark.skipif(INTERPRETED, reason="uncompiled no team gathers")


def count_as_wide(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers of so many inputs and outputs take part in mixed precision."""
    monkeypatch.setattr(spec, "WIDE_INPUTS", width)
    monkeypatch.setattr(spec, "WIDE_OUTPUTS", width)
