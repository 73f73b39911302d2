"""The manifests: what pods may do, what they are asked for, and that the names in them agree.

`long`: what kustomize makes of them is valid for Kubernetes.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pg_collector import __version__
from pg_collector.clock import SystemClock
from pg_collector.config.load import load
from pg_collector.health.pages import Pages
from pg_collector.health.vitals import Vitals
from pg_collector.metrics import Metrics
from pg_collector.samplers import discover
from tests.support import kubernetes
from tests.support.image_recipe import KUBERNETES, ROOT, stages

BASE = KUBERNETES / "base"
MONITOR = KUBERNETES / "components" / "servicemonitor" / "servicemonitor.yaml"
LABEL = {"app.kubernetes.io/name": "pg-collector"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def deployment():
    return read(BASE / "deployment.yaml")["spec"]


@pytest.fixture(scope="module")
def pod(deployment):
    return deployment["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (only,) = pod["containers"]
    return only


def test_the_pod_is_restricted_as_the_pod_security_standards_want_it(pod, container):
    user = int(stages()[-1].one("USER").partition(":")[0])
    whole = pod["securityContext"]
    assert whole["runAsNonRoot"] is True
    assert {whole[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {user}
    # The other policy lets the group write to the buffer, which ends the second start with 73.
    assert whole["fsGroupChangePolicy"] == "OnRootMismatch"
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["automountServiceAccountToken"] is False
    kinds = {key for volume in pod["volumes"] for key in volume} - {"name"}
    assert kinds == {"configMap", "secret", "persistentVolumeClaim"}


def test_there_is_never_more_than_one(deployment):
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}


def test_it_has_what_is_promised_and_ends_within_its_time(pod, container):
    assert container["resources"] == {
        "requests": {"cpu": "100m", "memory": "64Mi"},
        "limits": {"cpu": "250m", "memory": "128Mi"},
    }
    assert pod["terminationGracePeriodSeconds"] > 10  # docs/specs/lifecycle.md


def test_no_service_of_the_namespace_sets_a_variable_of_the_agent(pod):
    assert pod["enableServiceLinks"] is False


def test_the_probes_ask_for_pages_that_the_agent_has_on_the_port_that_it_listens_on(container):
    metrics = Metrics(SystemClock())
    pages = Pages(Vitals(SystemClock(), metrics), metrics, {}, lambda: b"{}")
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in PROBES}
    assert {name: probe["path"] for name, probe in asked.items()} == PROBES
    for probe in asked.values():
        assert pages.get(probe["path"], "").status != 404
        assert probe["port"] == "http"
    assert pages.get(read(MONITOR)["spec"]["endpoints"][0]["path"], "").status == 200
    (port,) = container["ports"]
    assert port == {"name": "http", "containerPort": int(stages()[-1].one("EXPOSE"))}


PROBES = {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}


def test_all_names_agree(deployment, pod, container):
    metadata = [read(file)["metadata"] for file in BASE.glob("*.yaml") if is_object(file)]
    assert all(one == {"name": "pg-collector", "labels": LABEL} for one in metadata)
    assert len(metadata) == 5
    service, policy = read(BASE / "service.yaml"), read(BASE / "networkpolicy.yaml")
    assert deployment["template"]["metadata"]["labels"] == LABEL
    for selector in (deployment["selector"], policy["spec"]["podSelector"]):
        assert selector == {"matchLabels": LABEL}
    assert service["spec"]["selector"] == LABEL
    assert service["spec"]["ports"] == [{"name": "http", "port": 8080, "targetPort": "http"}]
    assert pod["serviceAccountName"] == "pg-collector"
    mounted = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
    assert mounted["state"]["mountPath"] == stages()[-1].one("VOLUME")
    assert {name for name, mount in mounted.items() if mount.get("readOnly")} == {
        "config", "secrets",
    }  # fmt: skip


def is_object(file: Path) -> bool:
    return file.name not in {"kustomization.yaml", "config.yaml"}


def test_the_base_takes_every_file_that_lies_there_and_the_version_that_is_built():
    whole = read(BASE / "kustomization.yaml")
    files = {file.name for file in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    (generated,) = whole["configMapGenerator"]
    assert {*whole["resources"], *generated["files"]} == files
    assert whole["images"] == [{"name": "pg-collector", "newTag": __version__}]


def test_the_policy_lets_in_whom_prometheus_needs_and_out_what_the_agent_needs():
    rules = read(BASE / "networkpolicy.yaml")["spec"]
    assert set(rules["policyTypes"]) == {"Ingress", "Egress"}
    (ingress,) = rules["ingress"]
    (source,) = ingress["from"]
    assert source["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "monitoring"
    }
    assert ingress["ports"] == [{"port": "http", "protocol": "TCP"}]
    out = {(one["port"], one["protocol"]) for rule in rules["egress"] for one in rule["ports"]}
    assert out == {(53, "UDP"), (53, "TCP"), (5432, "TCP"), (443, "TCP")}


def test_the_monitor_is_the_one_that_comes_with_the_alerts():
    _, monitor, _ = yaml.safe_load_all((ROOT / "etc/prometheus/servicemonitor.yaml").read_text())
    assert read(MONITOR) == monitor


def test_the_configuration_is_valid_and_its_secrets_are_where_they_are_mounted(container, tmp_path):
    (place,) = (m["mountPath"] for m in container["volumeMounts"] if m["name"] == "secrets")
    text = (BASE / "config.yaml").read_text()
    assert text.count(place) >= 2
    for name in ("api_key", "password"):
        (tmp_path / name).write_text("a-secret")
        (tmp_path / name).chmod(0o440)
    file = tmp_path / "config.yaml"
    file.write_text(text.replace(place, str(tmp_path)))
    found = load(file, environ={}, samplers=discover())
    assert found.config.api_key is not None
    assert not found.warnings


OVERLAYS = ("base", "overlays/emptydir", "overlays/monitoring")


@pytest.mark.long
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kustomize_makes_of_it_is_valid(overlay):
    made = kubernetes.rendered(KUBERNETES / overlay)
    kinds = sorted(one["kind"] for one in made)
    expected = {"ConfigMap", "Deployment", "NetworkPolicy", "PersistentVolumeClaim", "Service"}
    expected |= {"ServiceAccount"}
    if overlay.endswith("emptydir"):
        expected -= {"PersistentVolumeClaim"}
    if overlay.endswith("monitoring"):
        expected |= {"ServiceMonitor"}
    assert kinds == sorted(expected)
    by_kind = {one["kind"]: one for one in made}
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["config"]["configMap"]["name"] == by_kind["ConfigMap"]["metadata"]["name"]
    assert by_kind["ConfigMap"]["metadata"]["name"].startswith("pg-collector-")  # its digest
    assert pod["containers"][0]["image"] == f"pg-collector:{__version__}"
    kept = "emptyDir" if overlay.endswith("emptydir") else "persistentVolumeClaim"
    assert kept in volumes["state"]
    known = [one for one in made if one["kind"] != "ServiceMonitor"]  # whose schema is elsewhere
    assert kubernetes.complaints(known) == []


@pytest.mark.long
def test_the_validator_finds_a_misspelt_key():
    made = kubernetes.rendered(KUBERNETES / "base")
    (deployment,) = (one for one in made if one["kind"] == "Deployment")
    probe = deployment["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]
    probe["periodSecond"] = probe.pop("periodSeconds")
    assert kubernetes.complaints([deployment])
