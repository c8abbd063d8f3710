"""The pages of docs/decisions: all are in the index, say what they must, and measure again."""

import re
import shlex
from pathlib import Path

import pytest

from benchmarks import compare

FOLDER = Path(__file__).parent.parent / "docs" / "decisions"
PAGES = sorted(path.name for path in FOLDER.glob("0*.md"))
each_page = pytest.mark.parametrize("page", PAGES)


def commands(text: str) -> list[str]:
    return re.findall(r"^    (python .*)$", text, flags=re.MULTILINE)


def test_the_index_lists_every_page() -> None:
    index = (FOLDER / "README.md").read_text()
    assert re.findall(r"\]\((0\d\d-[\w-]+\.md)\) \|", index) == PAGES
    assert [page[:3] for page in PAGES] == [f"{i + 1:03}" for i in range(len(PAGES))]


@each_page
def test_a_page_has_context_decision_and_a_command(page: str) -> None:
    text = (FOLDER / page).read_text()
    assert text.startswith(f"# {page[:3]}. ")
    assert "**Context.**" in text
    assert "**Measure again.**" in text
    assert commands(text)


@each_page
def test_its_commands_are_understood(page: str) -> None:
    for command in commands((FOLDER / page).read_text()):
        words = shlex.split(command)
        if words[1:3] == ["-m", "benchmarks.compare"]:
            options = compare.arguments().parse_args(words[3:])
            assert compare.chosen_workloads(options.workloads)


@each_page
def test_its_links_lead_to_files(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (FOLDER / page).read_text())
    assert all((FOLDER / link).exists() for link in links)
