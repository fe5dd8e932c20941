"""What is said twice of the packages says the same."""

import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def by_name(lines: list[str]) -> dict[str, str]:
    return {found.name.lower(): str(found.specifier) for found in map(Requirement, lines)}


def test_the_runtime_environment_has_the_projects_packages_and_what_ray_tune_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "runtime-env.yaml").read_text(encoding="utf-8").splitlines()
    listed = by_name([line.removeprefix("  - ") for line in lines if line.startswith("  - ")])
    own = by_name(project["dependencies"])
    assert own.pop("ray")
    of_tune = [r for r in map(Requirement, requires("ray") or []) if r.marker and r.marker.evaluate({"extra": "tune"})]
    others = {r.name.lower(): str(r.specifier) for r in of_tune if r.name.lower() not in own}
    assert listed == own | others
