"""What is deployed agrees with what the code does: names of streams, consumers, ports, settings and metrics."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from services.chassis import metrics
from services.chassis.bus.access import ADMINISTRATOR, seed_variable
from services.chassis.bus.topology import EVENTS, topology
from services.chassis.settings import SERVICES, ServiceSettings, load
from services.engineer.settings import EngineerSettings
from services.llm import minds
from services.store import app
from services.store.app import StoreSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
Manifest = dict[str, Any]


def with_paths() -> Iterator[tuple[Path, Manifest]]:
    """Every Kubernetes object and its file, kustomizations left out."""
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            for manifest in yaml.safe_load_all(path.read_text()):
                yield path, manifest


def of_kind(*kinds: str) -> list[Manifest]:
    """All objects of these kinds."""
    return [manifest for _, manifest in with_paths() if manifest["kind"] in kinds]


def _name(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _renders() -> bool:
    """Whether there is a kubectl that says which kustomize it holds: older ones do not take a folder as a resource."""
    command = ["kubectl", "version", "--client", "--output=json"]
    return bool(shutil.which("kubectl")) and b"kustomizeVersion" in subprocess.run(command, capture_output=True).stdout


def pod_of(manifest: Manifest) -> Manifest:
    """The pod that a workload makes."""
    spec = manifest["spec"].get("jobTargetRef", manifest["spec"])
    pod: Manifest = spec["template"]["spec"]
    return pod


def compose() -> Manifest:
    """The compose file."""
    content: Manifest = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


WORKLOADS = of_kind("Deployment", "StatefulSet", "Job", "ScaledJob")
SERVICE_PODS = of_kind("Deployment", "ScaledJob")


@pytest.mark.parametrize("path", sorted(KUBERNETES.rglob("kustomization.yaml")), ids=lambda path: path.parent.name)
def test_a_kustomization_names_all_files_beside_it_and_only_what_exists(path: Path) -> None:
    """A manifest that nobody lists would never be applied."""
    listed = set(yaml.safe_load(path.read_text())["resources"])
    beside = {file.name for file in path.parent.glob("*.yaml")} - {path.name}

    assert all((path.parent / name).exists() for name in listed)
    assert beside <= listed


@pytest.mark.skipif(not _renders(), reason="no kubectl of 1.24 or newer: see https://kubernetes.io/docs/tasks/tools/")
@pytest.mark.parametrize("overlay", ["base", "overlays/gpu"])
def test_rendered_manifests_equal_the_files_in_the_namespace(overlay: str) -> None:
    """So whatever holds for the files here holds for what `kubectl apply -k` sends."""
    command = ["kubectl", "kustomize", str(KUBERNETES / overlay)]
    rendered = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, check=True).stdout))
    paths = {KUBERNETES / "base", KUBERNETES / overlay}
    manifests = [manifest for path, manifest in with_paths() if path.parent in paths]
    for manifest in manifests:
        manifest["metadata"]["namespace"] = "asi-arch"

    assert sorted(rendered, key=_name) == sorted(manifests, key=_name)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda manifest: manifest["metadata"]["name"])
def test_every_container_runs_without_root_and_on_a_read_only_file_system(workload: Manifest) -> None:
    """Least rights for everything."""
    pod = pod_of(workload)

    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"]["drop"] == ["ALL"]


def test_scaling_follows_consumers_that_the_code_creates() -> None:
    """A trigger on a name that does not exist would never scale anything."""
    durables = {spec.durable for spec in topology()[1] if spec.stream == EVENTS}
    triggers = [
        trigger for manifest in of_kind("ScaledObject", "ScaledJob") for trigger in manifest["spec"]["triggers"]
    ]

    assert triggers
    for trigger in triggers:
        assert trigger["type"] == "nats-jetstream"
        assert trigger["metadata"]["stream"] == EVENTS
        assert trigger["metadata"]["consumer"] in durables
        assert trigger["metadata"]["lagThreshold"] == ("16" if trigger["metadata"]["consumer"] == "researcher" else "1")


def test_engineers_that_check_proposals_start_before_there_are_any() -> None:
    """Scaled to zero they would wait for candidates, and the researcher for a check."""
    (scaled,) = of_kind("ScaledObject")

    assert scaled["spec"]["scaleTargetRef"]["name"] == "engineer"
    assert {trigger["metadata"]["consumer"] for trigger in scaled["spec"]["triggers"]} == {
        "engineer-tiny",
        "researcher",
    }


def test_idle_engineers_cost_nothing_and_jobs_change_gradually() -> None:
    """Scale to zero; a rollout leaves long trainings alone."""
    assert all(manifest["spec"]["minReplicaCount"] == 0 for manifest in of_kind("ScaledObject", "ScaledJob"))
    for job in of_kind("ScaledJob"):
        assert job["spec"]["rollout"]["strategy"] == "gradual"
        assert job["spec"]["scalingStrategy"]["strategy"] == "default"


@pytest.mark.parametrize("workload", SERVICE_PODS, ids=lambda manifest: manifest["metadata"]["name"])
def test_a_pod_lives_longer_than_its_drain(workload: Manifest) -> None:
    """Killed in the middle of a checkpoint, work would be lost: the service adds 15 seconds of its own."""
    pod = pod_of(workload)
    shared = of_kind("ConfigMap")
    common = next(manifest["data"] for manifest in shared if manifest["metadata"]["name"] == "asi-settings")
    own = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    grace = float(own.get("ASI_GRACE_SECONDS") or common["ASI_GRACE_SECONDS"])

    assert pod["terminationGracePeriodSeconds"] > grace + 15


@pytest.mark.parametrize("name", SERVICES)
def test_compose_and_kubernetes_use_the_same_ports(name: str) -> None:
    """Addresses are written in three places: listen, service, and what the neighbours are told."""
    listen = compose()["services"][name]["environment"]["ASI_LISTEN"]
    port = int(listen.rpartition(":")[2])
    service = next(manifest for manifest in of_kind("Service") if manifest["metadata"]["name"] == name)
    pod = pod_of(next(manifest for manifest in of_kind("Deployment") if manifest["metadata"]["name"] == name))
    container = pod["containers"][0]

    assert {entry["name"]: entry["port"] for entry in service["spec"]["ports"]}["grpc"] == port
    assert {entry["name"]: entry["containerPort"] for entry in container["ports"]}["grpc"] == port
    assert container["startupProbe"]["grpc"]["port"] == container["readinessProbe"]["grpc"]["port"] == port
    assert {"name": "ASI_LISTEN", "value": listen} in container["env"]


def test_addresses_of_services_are_the_same_in_both() -> None:
    """A missing edit would separate the services."""
    environment = compose()["x-environment"]
    common = next(
        manifest["data"] for manifest in of_kind("ConfigMap") if manifest["metadata"]["name"] == "asi-settings"
    )
    addresses = {name: value for name, value in environment.items() if name.endswith("_ADDRESS")}

    assert addresses == {name: value for name, value in common.items() if name.endswith("_ADDRESS")}
    assert len(addresses) == 4


@pytest.mark.parametrize("name", SERVICES)
def test_services_take_every_variable_that_compose_gives_them(name: str) -> None:
    """A setting with a wrong name keeps a service from starting; each is its own user, none may create streams."""
    environment = {
        key: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value)
        for key, value in compose()["services"][name]["environment"].items()
    }
    kinds: dict[str, type[ServiceSettings]] = {"store": StoreSettings, "engineer": EngineerSettings}
    settings = load(kinds.get(name, ServiceSettings), name, environment)

    assert settings.listen == environment["ASI_LISTEN"]
    assert settings.create_streams is False
    assert f"${{{seed_variable(name)}:?" in compose()["services"][name]["environment"]["ASI_NATS_NKEY_SEED"]


@pytest.mark.parametrize("name", SERVICES)
def test_the_overlay_for_tls_gives_every_service_certificates_of_its_own(name: str, tmp_path: Path) -> None:
    """One service left out would speak plaintext, or to nobody."""
    overlay = yaml.safe_load((DEPLOY / "compose.tls.yaml").read_text())["services"][name]
    settings = load(StoreSettings if name == "store" else ServiceSettings, name, overlay["environment"])

    assert overlay["volumes"] == [f"${{CERTIFICATES:-./certificates}}/{name}:/certificates:ro"]
    assert settings.nats_ca == settings.grpc_ca == Path("/certificates/ca.crt")
    assert settings.grpc_cert == Path("/certificates/tls.crt")
    if isinstance(settings, StoreSettings):
        assert "tls=true" in settings.archive


def test_compose_services_are_read_only_and_start_again() -> None:
    """What the README promises of them."""
    for name in SERVICES:
        service = compose()["services"][name]
        assert service["read_only"]
        assert service["restart"] == "unless-stopped"


def test_no_file_holds_a_secret() -> None:
    """Seeds come from a generated file or a Secret that is not here."""
    assert not of_kind("Secret")
    for path in DEPLOY.rglob("*.yaml"):
        assert not re.search(r"nats://\S+@|\bSU[A-Z2-7]{56}\b", path.read_text())


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda manifest: manifest["metadata"]["name"])
def test_a_pod_sees_the_nats_user_of_its_own_service_only(workload: Manifest) -> None:
    """With another's seed its rights would be another's too."""
    container = pod_of(workload)["containers"][0]
    secrets = [entry["valueFrom"]["secretKeyRef"] for entry in container.get("env", []) if "valueFrom" in entry]
    user = ADMINISTRATOR if workload["metadata"]["name"] == "setup" else container["name"]
    shared = [source for source in container.get("envFrom", []) if "secretRef" in source]

    assert all(source["secretRef"]["name"] == "asi-mind" for source in shared)
    if workload in SERVICE_PODS or user == ADMINISTRATOR:
        assert secrets == [{"name": "asi-nats", "key": seed_variable(user)}]
    else:
        assert not secrets


def test_dashboard_and_alerts_use_metrics_that_exist() -> None:
    """A renamed metric would leave a panel empty and an alert silent."""
    assert all((metrics.FACTS, app.QUEUE, minds.TOKENS))  # importing these modules registers the metrics
    suffixes = ("", "_total", "_bucket", "_count", "_sum")
    known = {family.name + suffix for family in REGISTRY.collect() for suffix in suffixes}
    dashboard = (DEPLOY / "grafana.json").read_text()
    used = set(re.findall(r"asi_[a-z_]+", dashboard + (DEPLOY / "alerts.yaml").read_text()))

    assert json.loads(dashboard)["panels"]
    assert used
    assert used <= known
