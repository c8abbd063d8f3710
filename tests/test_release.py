"""A release: one version and one date in all files, extras, and workflows that publish."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import fastmlp

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SECTIONS = re.findall(
    r"^## \[(\d+)\.(\d+)\.(\d+)\] - (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE
)


def test_the_changelog_begins_with_this_version() -> None:
    (*newest, date), *_ = SECTIONS
    assert ".".join(newest) == fastmlp.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert f'\nversion: {fastmlp.__version__}\ndate-released: "{date}"\n' in citation
    page = (ROOT / "docs" / "project" / "cite.md").read_text()
    assert f"version = {{{fastmlp.__version__}}},\n  year = {{{date[:4]}}}," in page


def test_the_changelog_has_the_newest_first() -> None:
    versions = [tuple(map(int, section[:3])) for section in SECTIONS]
    dates = [section[3] for section in SECTIONS]
    assert versions == sorted(set(versions), reverse=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates)
    assert dates == sorted(dates, reverse=True)


def test_extras_install_what_they_name() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for needed in extras.values():
        for own in re.findall(r"fastmlp\[([\w,]+)\]", " ".join(needed)):
            assert set(own.split(",")) <= set(extras)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_pins_its_actions_and_may_only_read(path: Path) -> None:
    text = path.read_text()
    for action in re.findall(r"uses: (?!\./)(.*)", text):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action)
    assert "\npermissions:\n  contents: read\n" in text
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")
    jobs = text.split("\njobs:\n")[1]
    called = len(re.findall(r"^    uses: ", jobs, flags=re.MULTILINE))
    assert (
        jobs.count("timeout-minutes: ") == len(re.findall(r"^  \w+:$", jobs, flags=re.M)) - called
    )


def test_only_the_job_that_publishes_has_an_identity() -> None:
    for path in WORKFLOWS:
        for job in re.split(r"\n(?=  \w+:\n)", path.read_text()):
            if "id-token: write" in job:
                assert "environment:" in job
                assert "actions/checkout@" not in job
                assert "run: python" not in job
