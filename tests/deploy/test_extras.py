"""Every part starts with what its own extra installs: an image holds no more."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PARTS = ["researcher", "engineer", "judge", "analyst", "store", "console"]
IMPORT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

absent = set(sys.argv[2].split(","))
sys.meta_path.insert(0, Absent())
__import__(sys.argv[1])
"""


def installed_by(requirement: Requirement, installed: set[tuple[str, str]]) -> None:
    """Add a distribution with all it needs, by name and extra."""
    for extra in ("", *requirement.extras):
        if (key := (canonicalize_name(requirement.name), extra)) in installed:
            continue
        installed.add(key)
        try:
            needed = [Requirement(line) for line in requires(requirement.name) or ()]
        except PackageNotFoundError:
            continue
        for dependency in needed:
            if dependency.marker is None or dependency.marker.evaluate({"extra": extra}):
                installed_by(dependency, installed)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_can_be_imported_with_its_own_extra_alone(part: str) -> None:
    """As in its image: what other parts need is not there."""
    installed: set[tuple[str, str]] = set()
    installed_by(Requirement(f"asi-arch[{part}]"), installed)
    there = {name for name, _ in installed}
    absent = [
        module
        for module, owners in packages_distributions().items()
        if module.isidentifier() and not any(canonicalize_name(owner) in there for owner in owners)
    ]
    module = "services.console.cli" if part == "console" else f"services.{part}.app"
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, module, ",".join(absent)], capture_output=True, text=True, check=False
    )

    assert "pytest" in absent
    assert done.returncode == 0, done.stderr[-2000:]
