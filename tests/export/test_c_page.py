"""The page on C files: its programs compile, run, and predict as the net."""

import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from c_programs import needs_compiler

from fastmlp.cli.main import main

ROOT = Path(__file__).parents[2]
PAGE, EXAMPLE = ROOT / "docs" / "how-to" / "export-to-c.md", ROOT / "examples" / "browser.py"
# JavaScript that predicts the rows of a file.
NODE = """
const fs = require("fs");
const rows = fs.readFileSync("rows.txt", "utf8").trim().split("\\n");
load(fs.readFileSync("net.wasm")).then((predict) => {
    for (const row of rows) console.log(predict(row.split(" ").map(Number)));
});
"""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(start: str) -> list[tuple[str, str]]:
    """Commands of the page, and what they print."""
    pairs = [block.removeprefix("$ ").partition("\n")[::2] for block in blocks("console")]
    return [(command, printed) for command, printed in pairs if command.startswith(start)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page's code writes."""
    folder = tmp_path_factory.mktemp("page")
    with contextlib.chdir(folder):
        names: dict[str, Any] = {}
        exec(compile("\n".join(blocks("python")), PAGE.name, "exec"), names)
        probability = names["model"].predict_proba(names["row"])[0, 1]
        (folder / "probability.txt").write_text(repr(float(probability)))
    program, table, web = blocks("c")
    (folder / "main.c").write_text(program)
    (folder / "buys.c").write_text(table)
    (folder / "web.c").write_text(web)
    return folder


def output(command: str, folder: Path) -> str:
    return subprocess.check_output(command, shell=True, cwd=folder, text=True)


@needs_compiler
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_programs_predict_as_the_net(folder: Path) -> None:
    (test, printed), (program, _), (table, _) = commands("cc ")
    assert output(test, folder) == printed
    label, probability = output(table, folder).split()
    assert (label == "True") == (float(probability) > 0.5)
    assert float(probability) == float((folder / "probability.txt").read_text())
    numbers = np.array(output(program, folder).split(), np.float32)
    np.testing.assert_allclose(numbers, np.loadtxt(folder / "expected.txt"), 1e-5, 1e-6)


@needs_compiler
@pytest.mark.skipif(shutil.which("wasm-ld") is None, reason="clang for wasm32 is not installed")
@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_browsers_module_predicts_as_the_net(folder: Path) -> None:
    ((build, _),) = commands("clang ")
    output(build, folder)
    (folder / "predict.js").write_text(blocks("javascript")[0] + NODE)
    numbers = np.array(output("node predict.js", folder).split(), float)
    np.testing.assert_allclose(numbers, np.loadtxt(folder / "expected.txt"), 1e-5, 1e-5)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """The page of the example, and what its net says of the point that the page shows first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["browser.py", "--quick"])
        patch.setattr("shutil.which", lambda name: None)
        example = runpy.run_path(str(EXAMPLE))
    page = example["build"](example["net"], tmp_path_factory.mktemp("browser"))
    return page, example["net"].predict([[0.25, -0.5]])[0]


# The elements and events that the page's script asks for.
NO_BROWSER = """
const context = { createImageData: () => ({ data: [] }), putImageData() {} };
const element = { width: 4, getContext: () => context };
const elements = { map: element, point: {}, speed: {} };
globalThis.document = { getElementById: (id) => elements[id] };
setTimeout(() => console.log(elements.point.textContent), 100);
"""
SHOWN = r"\(0\.25, -0\.50\): ([\d., ]+)"


@needs_compiler
@pytest.mark.skipif(shutil.which("wasm-ld") is None, reason="clang for wasm32 is not installed")
@pytest.mark.parametrize("program", ["node", "chromium"])
def test_the_examples_page_predicts_as_the_net(program: str, browser: Any) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    page, expected = browser
    if program == "node":
        (script,) = re.findall(r"<script>(.*)</script>", page.read_text(), flags=re.DOTALL)
        (page.parent / "page.js").write_text(NO_BROWSER + script)
        command = "node page.js"
    else:
        options = f"--no-sandbox --disable-gpu --user-data-dir={page.parent / 'user'}"
        command = f"chromium --headless {options} --dump-dom {page.as_uri()} 2> /dev/null"
    shown = re.search(SHOWN, output(command, page.parent))
    assert shown is not None
    np.testing.assert_allclose(np.array(shown[1].split(", "), float), expected, atol=1e-4)


@needs_compiler
def test_the_command_writes_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    ((command, _),) = commands("fastmlp ")
    assert main(shlex.split(command)[1:]) == 0
    assert os.path.getsize("model.h") > 10_000
