"""README: one page, whose commands stand there word for word; and the files beside it.

Its code and links are tested with the pages of docs, in test_docs.py.
"""

import re
from pathlib import Path

import pytest

import fastmlp

ROOT = Path(__file__).parent.parent
SECURITY = (ROOT / "SECURITY.md").read_text()
README = (ROOT / "README.md").read_text()
COMMANDS = [
    '    python3 -m venv .venv && .venv/bin/pip install -e ".[demo]" && .venv/bin/fastmlp demo',
    '    python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest',
]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_stand_word_for_word(command: str) -> None:
    assert README.splitlines().count(command) == 1


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
