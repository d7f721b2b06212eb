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
    ("file", "right", "wrong", "message"),
    [
        ("base/judge.yaml", "replicas:", "replikas:", "replikas"),
        ("base/keda.yaml", "lagThreshold", "lagTreshold", "lagTreshold"),
        ("overlays/gpu/explore.yaml", "strategy: gradual", "strategy: slow", "slow"),
        ("overlays/gpu/explore.yaml", "restartPolicy", "restartPolice", "restartPolice"),
        ("base/engineer.yaml", "selector: {app: engineer}", "selector: {app: engine}", "its selector matches no pod"),
        (
            "base/engineer.yaml",
            "matchLabels: {app: engineer}",
            "matchLabels: {app: engine}",
            "does not match the labels",
        ),
        ("base/engineer.yaml", "{name: data, mountPath", "{name: dada, mountPath", "mounts the volume dada"),
        ("base/engineer.yaml", "claimName: data", "claimName: date", "refers to PersistentVolumeClaim date"),
        ("base/engineer.yaml", "tcpSocket: {port: grpc}", "tcpSocket: {port: gprc}", "uses the port gprc"),
        ("base/engineer.yaml", "limits: {memory: 6Gi}", "limits: {memory: 1Gi}", "requests more memory than its limit"),
        ("base/nats.yaml", "serviceName: nats", "serviceName: gnats", "serviceName gnats is not a headless Service"),
        ("base/keda.yaml", "    name: engineer\n", "    name: engineers\n", "scales engineers, which does not exist"),
    ],
)
def test_manifests_that_a_server_would_refuse_are_reported(
    file: str, right: str, wrong: str, message: str, tmp_path: Path
) -> None:
    """A field that Kubernetes would drop silently; a reference or combination that only a server checks."""
    copy = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    text = (copy / file).read_text()
    assert right in text
    (copy / file).write_text(text.replace(right, wrong))
    done = validated(copy)

    assert done.returncode == 1
    assert done.stderr.startswith(file)
    assert message in done.stderr
