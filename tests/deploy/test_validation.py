"""The schema check that `make check` runs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"


def validated(folder: Path) -> subprocess.CompletedProcess[str]:
    """What it says about a folder's manifests."""
    command = [sys.executable, str(folder / "validate.py")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("file", "right", "wrong", "said"),
    [
        ("base/judge.yaml", "replicas:", "replikas:", "replikas"),
        ("base/keda.yaml", "lagThreshold", "lagTreshold", "lagTreshold"),
        ("overlays/gpu/explore.yaml", "strategy: gradual", "strategy: slow", "slow"),
        ("overlays/gpu/explore.yaml", "restartPolicy", "restartPolice", "restartPolice"),
    ],
)
def test_a_field_that_nobody_knows_is_named(file: str, right: str, wrong: str, said: str, tmp_path: Path) -> None:
    """Kubernetes would drop it without a word."""
    copy = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    text = (copy / file).read_text()
    assert right in text
    (copy / file).write_text(text.replace(right, wrong))
    done = validated(copy)

    assert done.returncode == 1
    assert done.stderr.startswith(file)
    assert said in done.stderr
