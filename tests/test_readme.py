"""README: its code runs, its commands stand there word for word, its tables name everything."""

import re
from pathlib import Path
from typing import Any

import pytest

import fastmlp
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules import activations, initializers, losses, optimizers, penalties, schedules

ROOT = Path(__file__).parent.parent
SECURITY = (ROOT / "SECURITY.md").read_text()
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [
    '    python3 -m venv .venv && .venv/bin/pip install -e ".[demo]" && .venv/bin/fastmlp demo',
    '    python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest',
]
TABLES = {
    "activations": [*activations.RULES, *activations.ALIASES],
    "losses, any output activation": [n for n, loss in losses.LOSSES.items() if not loss.link],
    "losses that own their link": [n for n, loss in losses.LOSSES.items() if loss.link],
    "optimizers, by name": list(optimizers.OPTIMIZERS),
    "optimizers, with settings": [*(o.__name__ for o in optimizers.OPTIMIZERS.values()), "Custom"],
    "schedules, in place of a rate": list(schedules.SCHEDULES),
    "penalties": list(penalties.RULES),
    "initializers": list(initializers.RULES),
}
needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")


@needs_compiler
def test_code_runs_in_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # it writes files
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), namespace)
    assert len(BLOCKS) >= 5
    assert namespace["probabilities"].shape == (1000, 3)
    assert capsys.readouterr().out.startswith("History(50 epochs")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_stand_word_for_word(command: str) -> None:
    assert README.splitlines().count(command) == 1


@pytest.mark.parametrize("row", TABLES)
def test_tables_name_everything(row: str) -> None:
    (cell,) = re.findall(rf"^\| {re.escape(row)} \| (.*) \|$", README, flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", cell)) == sorted(TABLES[row])


def test_losses_are_named_with_their_links() -> None:
    for name, loss in losses.LOSSES.items():
        assert loss.link is None or f"`{name}` ({loss.link})" in README


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_lead_to_files(page: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text())
    assert all((ROOT / target).exists() for target in targets)


def test_changelog_knows_this_version() -> None:
    assert f"## [{fastmlp.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_security_says_what_is_trusted() -> None:
    rows = re.findall(r"^\| \*\*(.*?)\*\*.*? \| (yes|no) \|", SECURITY, flags=re.MULTILINE)
    assert dict(rows)["Model files and checkpoints"] == "no"
    assert dict(rows)["The disk cache"] == "yes"
    assert "## Reporting" in SECURITY


def test_what_has_not_run_on_a_card_says_so() -> None:
    """Until a run of benchmarks.gpu is kept beside it."""
    measured = (ROOT / "benchmarks" / "gpu.json").exists()
    assert measured != ("This part has not run on a card yet" in README)
