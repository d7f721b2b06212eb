"""Validate every manifest against Kubernetes' own schemas, KEDA's objects against `keda.schema.json`, and all against
the rules that schemas cannot express (`server_rules.py`).

    python deploy/kubernetes/validate.py [--version 1.30]

Unknown fields are errors, since Kubernetes would drop them. Exits with status 1 and one line per error.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import server_rules
import yaml

HERE = Path(__file__).parent
Manifest = dict[str, Any]


def manifests() -> Iterator[tuple[Path, Manifest]]:
    """Every object with its file, except kustomizations, which the tests compare with the files."""
    for path in sorted(HERE.rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from ((path, manifest) for manifest in yaml.safe_load_all(path.read_text()))


def as_kubernetes_sees(manifest: Manifest) -> list[Manifest]:
    """The objects that Kubernetes' own schemas describe: of a ScaledJob, the Job that it makes."""
    if not manifest["apiVersion"].startswith("keda.sh/"):
        return [manifest]
    job = manifest["spec"].get("jobTargetRef")
    return [{"apiVersion": "batch/v1", "kind": "Job", "metadata": manifest["metadata"], "spec": job}] if job else []


def error_in(manifest: Manifest, version: str, keda: Manifest) -> str | None:
    """The error in words; None if there is none."""
    try:
        if manifest["apiVersion"].startswith("keda.sh/"):
            jsonschema.validate(manifest, keda)
        for document in as_kubernetes_sees(manifest):
            kubernetes_validate.validate(document, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return f"{'.'.join(str(step) for step in error.path)}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        return f"Kubernetes {version} knows no {manifest['kind']} of {manifest['apiVersion']}"
    return None


def main() -> None:
    """Validate all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--version", default="1.30", help="of Kubernetes; default: 1.30")
    version = parser.parse_args().version
    keda = json.loads((HERE / "keda.schema.json").read_text())
    checked = [(path, manifest, error_in(manifest, version, keda)) for path, manifest in manifests()]
    for path, manifest, error in checked:
        if error:
            sys.stderr.write(f"{path.relative_to(HERE)}: {manifest['kind']} {manifest['metadata']['name']}: {error}\n")
    broken = list(server_rules.broken((str(path.relative_to(HERE)), manifest) for path, manifest, _ in checked))
    for line in broken:
        sys.stderr.write(f"{line}\n")
    sys.exit(bool(broken) or any(error for _, _, error in checked) or not checked)


if __name__ == "__main__":
    main()
