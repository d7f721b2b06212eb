"""What is served is what the sources in web/ make, and it needs nothing from elsewhere."""

import hashlib
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "services/web/static"
MAX_BYTES = 900_000


def test_the_bundle_was_built_from_the_sources_as_they_are() -> None:
    """The same sum as in web/build.mjs; `make page` builds it anew."""
    folder = ROOT / "web"
    files = [path for path in (folder / "src").rglob("*") if path.is_file()]
    files += [folder / "package-lock.json", folder / "build.mjs"]
    digest = hashlib.sha256()
    for name in sorted(str(path.relative_to(folder)) for path in files):
        digest.update(name.encode() + b"\0" + (folder / name).read_bytes())

    assert (STATIC / "sources.sha256").read_text().strip() == digest.hexdigest(), "the page is stale: run `make page`"


def test_the_bundle_is_of_moderate_size_and_names_its_licences() -> None:
    """Of all packages whose code is in it; none is copyleft without a choice."""
    licences = (STATIC / "LICENCES.txt").read_text()

    assert sum(file.stat().st_size for file in STATIC.iterdir()) < MAX_BYTES
    for package in ("preact", "uplot", "d3-zoom", "@observablehq/plot", "highlight.js", "markdown-it", "dompurify"):
        assert re.search(rf"^{package} \d", licences, re.MULTILINE)


def test_the_lock_file_pins_every_package_and_names_no_host() -> None:
    """Whoever builds uses his own registry."""
    lock = json.loads((ROOT / "web/package-lock.json").read_text())
    about = json.loads((ROOT / "web/package.json").read_text())

    versions = [*about["dependencies"].values(), *about["devDependencies"].values()]
    assert all(re.fullmatch(r"[\d.]+", version) for version in versions)
    assert all("resolved" not in package for package in lock["packages"].values())
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
