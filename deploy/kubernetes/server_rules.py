"""Rules of an API server or a controller that schemas cannot express.

They concern references between objects, selectors without matches, names, quantities and combinations of fields. They
are those of the server's own validation (pkg/apis/*/validation) that are relevant for these manifests.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Manifest = dict[str, Any]
Placed = tuple[str, Manifest]

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "ScaledJob")
MADE_ELSEWHERE = frozenset({"ConfigMap nats-config", "Secret asi-nats", "Secret asi-mind", "Secret asi-mongo"})
"""Objects that deploy/README.md creates by hand: keys and the broker's users."""
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PORT = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([munkMGTPE]?i?)")
_UNITS = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
          "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}  # fmt: skip
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def broken(manifests: Iterable[Placed]) -> Iterator[str]:
    """One line for each rule that an object breaks: its file, kind, name and the rule."""
    located = list(manifests)
    objects = [manifest for _, manifest in located]
    files: dict[tuple[str, str], str] = {}
    for file, manifest in located:
        where = f"{file}: {manifest['kind']} {manifest['metadata']['name']}"
        key = (manifest["kind"], manifest["metadata"]["name"])
        if key in files:
            yield f"{where}: {files[key]} has an object of this kind and name already"
        files[key] = file
        for problem in _problems(manifest, objects):
            yield f"{where}: {problem}"


def _problems(manifest: Manifest, objects: list[Manifest]) -> Iterator[str]:
    name, kind = manifest["metadata"]["name"], manifest["kind"]
    if not all(_LABEL.fullmatch(part) for part in name.split(".")):
        yield f"the name {name} is not a DNS name"
    if kind in WORKLOADS:
        yield from _workload(manifest, objects)
    elif kind == "Service":
        yield from _service(manifest, objects)
    elif kind == "PodDisruptionBudget":
        if ("minAvailable" in manifest["spec"]) == ("maxUnavailable" in manifest["spec"]):
            yield "must give exactly one of minAvailable and maxUnavailable"
        if not _chosen(manifest["spec"].get("selector", {}), objects):
            yield "its selector matches no pod"
    elif kind == "NetworkPolicy" and not _chosen(manifest["spec"].get("podSelector", {}), objects):
        yield "its podSelector matches no pod"
    elif kind == "ScaledObject":
        target = manifest["spec"]["scaleTargetRef"]
        scaled = next((o for o in objects if _is(o, target.get("kind", "Deployment"), target["name"])), None)
        if scaled is None:
            yield f"scales {target['name']}, which does not exist"
        elif "replicas" in scaled["spec"]:
            yield f"scales {target['name']}, whose replicas each apply would reset"
        if manifest["spec"].get("minReplicaCount", 0) > manifest["spec"].get("maxReplicaCount", 100):
            yield "minReplicaCount is above maxReplicaCount"


def _workload(manifest: Manifest, objects: list[Manifest]) -> Iterator[str]:
    template, spec = _template(manifest), manifest["spec"]
    labels = template.get("metadata", {}).get("labels", {})
    if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
        if not _matches(spec["selector"], labels):
            yield "its selector does not match the labels of its pods"
        if template["spec"].get("restartPolicy", "Always") != "Always":
            yield "its pods must have the restartPolicy Always"
    elif template["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
        yield "its pods must have the restartPolicy Never or OnFailure"
    if manifest["kind"] == "StatefulSet":
        governing = next((o for o in objects if _is(o, "Service", spec.get("serviceName", ""))), None)
        if governing is None or governing["spec"].get("clusterIP") != "None":
            yield f"its serviceName {spec.get('serviceName')} is not a headless Service"
    yield from _pod(template["spec"], spec.get("volumeClaimTemplates", []), objects)


def _pod(pod: Manifest, claims: list[Manifest], objects: list[Manifest]) -> Iterator[str]:
    volumes = [volume["name"] for volume in pod.get("volumes", [])]
    offered = {*volumes, *(claim["metadata"]["name"] for claim in claims)}
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    yield from _twice("volume", volumes)
    yield from _twice("container", [container["name"] for container in containers])
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") and security.get("runAsUser") == 0:
        yield "runAsNonRoot contradicts runAsUser 0"
    for kind, name in _references(pod, containers):
        if f"{kind} {name}" not in MADE_ELSEWHERE and not any(_is(o, kind, name) for o in objects):
            yield f"refers to {kind} {name}, which is neither among the manifests nor created by hand"
    for container in containers:
        yield from _container(container, offered)


def _container(container: Manifest, offered: set[str]) -> Iterator[str]:
    name = container["name"]
    mounts = container.get("volumeMounts", [])
    for mount in mounts:
        if mount["name"] not in offered:
            yield f"container {name} mounts the volume {mount['name']}, which does not exist"
    yield from _twice(f"mount path of container {name}", [mount["mountPath"] for mount in mounts])
    ports = container.get("ports", [])
    names = [port["name"] for port in ports if "name" in port]
    yield from _twice(f"port of container {name}", names)
    for port in names:
        if len(port) > 15 or not _PORT.fullmatch(port):
            yield f"container {name}: {port} is not a port name (at most 15 of a-z, 0-9 and -)"
    for probe in _PROBES:
        for way in ("httpGet", "tcpSocket"):
            port = container.get(probe, {}).get(way, {}).get("port")
            if isinstance(port, str) and port not in names:
                yield f"container {name}: its {probe} uses the port {port}, which it does not declare"
    for variable in container.get("env", []):
        if not _VARIABLE.fullmatch(variable["name"]):
            yield f"container {name}: {variable['name']} is not a variable name"
        if "value" in variable and "valueFrom" in variable:
            yield f"container {name}: {variable['name']} has both a value and a source"
    yield from _resources(name, container.get("resources", {}))


def _resources(name: str, resources: Manifest) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for resource in {**requests, **limits}:
        request, limit = _amount(requests.get(resource)), _amount(limits.get(resource))
        if (resource in requests and request is None) or (resource in limits and limit is None):
            yield f"container {name}: an amount of {resource} is not a quantity"
        elif request is not None and limit is not None and request > limit:
            yield f"container {name} requests more {resource} than its limit"
        if "/" in resource and requests.get(resource, limits.get(resource)) != limits.get(resource):
            yield f"container {name}: the limit of {resource} must equal its request"


def _service(manifest: Manifest, objects: list[Manifest]) -> Iterator[str]:
    selector, ports = manifest["spec"].get("selector"), manifest["spec"].get("ports", [])
    yield from _twice("port", [port["name"] for port in ports if "name" in port])
    if len(ports) > 1 and any("name" not in port for port in ports):
        yield "each of several ports needs a name"
    if not selector:
        return
    pods = _chosen({"matchLabels": selector}, objects)
    if not pods:
        yield "its selector matches no pod"
    for port in ports:
        target = port.get("targetPort", port["port"])
        for pod in pods:
            opened = [p for container in pod["spec"]["containers"] for p in container.get("ports", [])]
            if not any(target in (p["containerPort"], p.get("name")) for p in opened):
                yield f"targets the port {target}, which no container of its pods opens"


def _references(pod: Manifest, containers: list[Manifest]) -> Iterator[tuple[str, str]]:
    """Kind and name of everything that must exist before a pod starts."""
    for volume in pod.get("volumes", []):
        for field, kind, key in (
            ("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName"),
            ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
        ):  # fmt: skip
            if field in volume and not volume[field].get("optional"):
                yield kind, volume[field][key]
    for container in containers:
        sources = [*container.get("envFrom", []), *(v.get("valueFrom", {}) for v in container.get("env", []))]
        for source in sources:
            for field, kind in (
                ("configMapRef", "ConfigMap"), ("configMapKeyRef", "ConfigMap"),
                ("secretRef", "Secret"), ("secretKeyRef", "Secret"),
            ):  # fmt: skip
                if field in source and not source[field].get("optional"):
                    yield kind, source[field]["name"]


def _template(manifest: Manifest) -> Manifest:
    template: Manifest = manifest["spec"].get("jobTargetRef", manifest["spec"])["template"]
    return template


def _chosen(selector: Mapping[str, Any], objects: list[Manifest]) -> list[Manifest]:
    """Templates of the pods that a selector matches."""
    templates = [_template(manifest) for manifest in objects if manifest["kind"] in WORKLOADS]
    return [t for t in templates if _matches(selector, t.get("metadata", {}).get("labels", {}))]


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        value, values = labels.get(rule["key"]), rule.get("values", [])
        holds = {
            "In": value in values, "NotIn": value not in values, "Exists": value is not None,
            "DoesNotExist": value is None,
        }  # fmt: skip
        if not holds[rule["operator"]]:
            return False
    return True


def _is(manifest: Manifest, kind: str, name: str) -> bool:
    return bool(manifest["kind"] == kind and manifest["metadata"]["name"] == name)


def _twice(what: str, names: list[str]) -> Iterator[str]:
    yield from (f"the {what} {name} occurs twice" for name in sorted({n for n in names if names.count(n) > 1}))


def _amount(text: object) -> float | None:
    match = _QUANTITY.fullmatch(str(text))
    return float(match[1]) * _UNITS[match[2]] if match and match[2] in _UNITS else None
