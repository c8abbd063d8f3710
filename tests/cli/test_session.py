"""The console sessions of docs/how-to/command-line.md run, and print what the page shows."""

import contextlib
import doctest
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "command-line.md"
pytestmark = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)


def printed(command: str) -> str:
    """What a command prints to both streams."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        program, *arguments = shlex.split(command)
        assert (program, main(arguments)) == ("fastmlp", 0)
    stream.seek(0)
    return stream.read()


def test_the_page_shows_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(compile(blocks("python")[0], PAGE.name, "exec"), namespace)
    commands = [one for block in blocks("console") for one in re.split(r"^\$ ", block, flags=re.M)]
    commands = [one for one in commands if one]
    assert len(commands) >= 5
    for one in commands:
        command, _, expected = one.partition("\n")
        found = printed(command)
        same = doctest.OutputChecker().check_output(expected, found, doctest.ELLIPSIS)
        assert same, f"{command}\n{found}"
