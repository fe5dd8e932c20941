"""Packages are named in several places and in the code: all agree."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from clsearch import __version__
from clsearch.cli.doctor import DISTRIBUTION

ROOT = Path(__file__).parents[1]

NOT_IMPORTED = {
    "cmaes": "Optuna's sampler of that name computes with it",
    "tabulate": "pandas writes Markdown tables with it",
}
"""Dependencies that no module imports, and what needs them."""


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def declared(project) -> dict[str, Requirement]:
    return by_name(project["dependencies"])


def by_name(lines: list[str]) -> dict[str, Requirement]:
    return {found.name.lower(): found for found in map(Requirement, lines)}


def imported_modules(package: Path) -> set[str]:
    """Top-level names of all modules that a package imports, inside functions, too."""
    names: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(str(node.module).partition(".")[0])
    return names


@pytest.mark.slow  # reads the file lists of all installed packages
def test_every_imported_package_is_declared_and_every_declared_one_is_needed(declared) -> None:
    modules = imported_modules(ROOT / "clsearch") - sys.stdlib_module_names - {"clsearch"}
    found = packages_distributions()
    providers = {module: {name.lower().replace("_", "-") for name in found[module]} for module in modules}
    assert {module for module, names in providers.items() if not names & declared.keys()} == set()
    assert declared.keys() - set().union(*providers.values()) == NOT_IMPORTED.keys()


def test_each_dependency_has_one_lower_bound_and_no_upper_one(declared) -> None:
    for requirement in declared.values():
        assert [clause.operator for clause in requirement.specifier] == [">="]


def test_the_lowest_versions_are_tested(declared) -> None:
    text = (ROOT / "requirements" / "lowest.txt").read_text(encoding="utf-8")
    direct, _ = text.split("\n\n")  # then those that the direct ones ask for
    pinned = {name: Version(version) for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)$", direct, re.MULTILINE)}
    assert pinned == {name: Version(str(r.specifier).removeprefix(">=")) for name, r in declared.items()}


def test_the_runtime_environment_has_the_projects_packages_and_what_ray_tune_needs(declared) -> None:
    lines = (ROOT / "runtime-env.yaml").read_text(encoding="utf-8").splitlines()
    listed = by_name([line.removeprefix("  - ") for line in lines if line.startswith("  - ")])
    own = declared.keys() - {"ray"}
    assert {name: str(listed[name].specifier) for name in own} == {name: str(declared[name].specifier) for name in own}
    asked = map(Requirement, requires("ray") or [])
    of_tune = {r.name.lower() for r in asked if r.marker is not None and r.marker.evaluate({"extra": "tune"})}
    assert listed.keys() == own | of_tune


def test_the_distribution_and_its_version_are_called_the_same_everywhere(project) -> None:
    assert project["name"] == DISTRIBUTION
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    base = Version(__version__).base_version
    assert f"\n## [{base}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_workflow_tests_the_python_versions_that_the_metadata_names(project) -> None:
    named = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    tested = re.findall(r'python: "(.+)"', (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert tested == named
    assert project["requires-python"] == f">={named[0]}"
