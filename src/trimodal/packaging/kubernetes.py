"""Manifests for Kubernetes, for `kubectl apply -k`, and the folder that the image is built of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimodal.packaging.bundle import GRPC_PORT, PORT, Bundle
from trimodal.packaging.compose import find_memory
from trimodal.packaging.docker import USER, write_docker
from trimodal.packaging.writing import write_files, write_yaml

_PRE_STOP_SECONDS, _SPARE_SECONDS = 5, 10
_MOST_PER_LEAST = 4
_BUSY_PERCENT = 70
_CALM_SECONDS = 300


def write_kubernetes(bundle: Bundle, out: Path) -> list[str]:
    """deployment.yaml, service.yaml, autoscaler.yaml, disruption.yaml, kustomization.yaml and `server/`; paths below `out`."""
    parts = {
        "deployment.yaml": describe_deployment(bundle), "service.yaml": describe_service(bundle),
        "autoscaler.yaml": describe_autoscaler(bundle), "disruption.yaml": describe_disruption(bundle),
    }  # fmt: skip
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": list(parts)}
    files = {name: write_yaml(part) for name, part in (*parts.items(), ("kustomization.yaml", kustomization))}
    return [*write_files(out, files), *(f"server/{name}" for name in write_docker(bundle, out / "server"))]


def describe_deployment(bundle: Bundle) -> dict[str, Any]:
    """The servers: never fewer than asked for while a new version comes, each with what it may use, and no rights."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": bundle.name, "labels": _label(bundle)},
        "spec": {
            "replicas": bundle.replicas,
            "selector": {"matchLabels": _label(bundle)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": _label(bundle)}, "spec": _describe_pod(bundle)},
        },
    }


def describe_service(bundle: Bundle) -> dict[str, Any]:
    """The address that clients in the cluster use."""
    ports = [{"name": name, "port": port, "targetPort": name} for name, port in (("http", PORT), ("grpc", GRPC_PORT))]
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": bundle.name, "labels": _label(bundle)},
        "spec": {"type": "ClusterIP", "selector": _label(bundle), "ports": ports},
    }  # fmt: skip


def describe_autoscaler(bundle: Bundle) -> dict[str, Any]:
    """More servers while their processors are busy."""
    busy = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": _BUSY_PERCENT}}}
    return {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": bundle.name, "labels": _label(bundle)},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": bundle.name},
            "minReplicas": bundle.replicas, "maxReplicas": bundle.replicas * _MOST_PER_LEAST, "metrics": [busy],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": _CALM_SECONDS}},
        },
    }  # fmt: skip


def describe_disruption(bundle: Bundle) -> dict[str, Any]:
    """How many must stay while machines are emptied: all but one."""
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": bundle.name, "labels": _label(bundle)},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _label(bundle)}},
    }  # fmt: skip


def _describe_pod(bundle: Bundle) -> dict[str, Any]:
    return {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": round(bundle.limits.drain_seconds) + _PRE_STOP_SECONDS + _SPARE_SECONDS,
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": _label(bundle)},
        }],
        "containers": [_describe_container(bundle)],
        "volumes": [{"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}} for name in ("tmp", "shm")],
    }  # fmt: skip


def _describe_container(bundle: Bundle) -> dict[str, Any]:
    memory = f"{find_memory(bundle)}Mi"
    return {
        "name": "server",
        "image": bundle.image,
        "ports": [{"name": "http", "containerPort": PORT}, {"name": "grpc", "containerPort": GRPC_PORT}],
        "resources": {"requests": {"cpu": str(bundle.cores), "memory": memory}, "limits": {"cpu": str(bundle.cores), "memory": memory}},
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": _probe("ready", 2, 90),
        "readinessProbe": _probe("ready", 5, 1),
        "livenessProbe": _probe("live", 10, 3),
        # Still served meanwhile: endpoints are taken out of the way while this sleeps, and only then does the server hear SIGTERM.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_PRE_STOP_SECONDS)]}}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}],
    }  # fmt: skip


def _probe(what: str, seconds: int, failures: int) -> dict[str, Any]:
    route = {"path": f"/v2/health/{what}", "port": "http"}
    return {"httpGet": route, "periodSeconds": seconds, "timeoutSeconds": 2, "failureThreshold": failures}


def _label(bundle: Bundle) -> dict[str, str]:
    return {"app.kubernetes.io/name": bundle.name, "app.kubernetes.io/managed-by": "trimodal"}
