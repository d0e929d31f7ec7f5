"""Images, compose, Kubernetes and systemd, as far as they can be held against the server without an engine for them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from seismograd_server.config import ENVIRONMENT_PREFIX, load_settings
from tests.deploy.test_rules import RULES
from tests.support.processes import require_program
from tests.support.seismograd import PROGRAM, SeismogradServer

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
PINNED = re.compile(r"[\w./-]+:v?\d+(\.\d+)*$")


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, rest) of each logical line."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], " ".join(line.split()[1:])) for line in lines]


def resource(kind: str) -> dict[str, Any]:
    """The only resource of a kind."""
    found = [
        document
        for path in KUBERNETES.rglob("*.yaml")
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] == kind
    ]
    assert len(found) == 1, kind
    only: dict[str, Any] = found[0]
    return only


def container() -> dict[str, Any]:
    (only,) = resource("StatefulSet")["spec"]["template"]["spec"]["containers"]
    made: dict[str, Any] = only
    return made


def test_the_example_configuration_starts_a_server(start_seismograd: Callable[..., SeismogradServer]) -> None:
    text = (DEPLOY / "seismograd.toml").read_text()
    for key in ("data_dir", "grpc_listen", "http_listen"):  # the fixture's own
        assert re.search(rf"^{key} = ", text, re.MULTILINE)
    server = start_seismograd(text)
    assert server.get("/readyz") == {"status": "ready"}
    assert "seismograd_build_info{" in server.page("/metrics")


def test_the_image_copies_what_there_is_and_runs_without_root() -> None:
    instructions = dockerfile()
    copied = [
        source for name, rest in instructions if name == "COPY" and "--from" not in rest for source in rest.split()[:-1]
    ]
    assert copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in copied} <= set(ignored), "a build sees nothing else"
    (user,) = [rest for name, rest in instructions if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert any(name == "HEALTHCHECK" and "/readyz" in rest for name, rest in instructions)
    assert all(PINNED.match(rest.split()[0].removesuffix("-slim")) for name, rest in instructions if name == "FROM")


def test_what_the_image_starts_is_a_command() -> None:
    (entry,) = [rest for name, rest in dockerfile() if name == "ENTRYPOINT"]
    (arguments,) = [rest for name, rest in dockerfile() if name == "CMD"]
    assert yaml.safe_load(entry) == ["seismograd"]
    helped = subprocess.run(
        [PROGRAM, *yaml.safe_load(arguments), "--help"], capture_output=True, check=False, timeout=60
    )
    assert helped.returncode == 0


def test_compose_names_settings_files_and_volumes_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    services = COMPOSE["services"]
    assert set(services) == {"seismograd", "postgres", "prometheus", "alertmanager", "grafana"}
    for name, service in services.items():
        assert "build" in service or PINNED.match(service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
    for key, value in services["seismograd"]["environment"].items():
        if key.startswith(ENVIRONMENT_PREFIX):
            monkeypatch.setenv(key, value)
    settings = load_settings()
    assert settings.database.startswith("postgresql://")
    assert [each.url for each in settings.notify.alertmanagers] == ["http://alertmanager:9093"]
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    (target,) = scraped["static_configs"][0]["targets"]
    assert target == f"seismograd:{settings.http_listen.port}"
    assert "seismograd" in settings.allowed_hosts, "Prometheus comes under that name"


@pytest.mark.parametrize("path", sorted(KUBERNETES.rglob("kustomization.yaml")), ids=lambda path: path.parent.name)
def test_kustomize_finds_what_it_lists_and_lists_what_there_is(path: Path) -> None:
    listed = {(path.parent / each).resolve() for each in yaml.safe_load(path.read_text())["resources"]}
    assert all(each.exists() for each in listed)
    assert {each for each in path.parent.glob("*.yaml") if each != path} <= listed


def test_kubernetes_asks_and_reaches_the_server_where_it_listens() -> None:
    settings = load_settings(KUBERNETES / "base" / "seismograd.toml")
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"grpc": settings.grpc_listen.port, "http": settings.http_listen.port}
    probes = {name: container()[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz",
    }  # fmt: skip
    assert {port["name"]: port["port"] for port in resource("Service")["spec"]["ports"]} == ports
    admitted = {port["port"] for rule in resource("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]}
    assert admitted == set(ports.values())
    assert resource("ServiceMonitor")["spec"]["endpoints"][0] == {"port": "http", "path": "/metrics", "interval": "15s"}
    budget = resource("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 0
    # Kustomize writes the label into the pods; a selector that it does not know how to fill in must be there.
    (labels,) = [
        each["pairs"] for each in yaml.safe_load((KUBERNETES / "base/kustomization.yaml").read_text())["labels"]
    ]
    policy = resource("NetworkPolicy")["spec"]
    for selector in (budget["selector"], policy["podSelector"], resource("ServiceMonitor")["spec"]["selector"]):
        assert selector == {"matchLabels": labels}


def test_the_pod_is_as_the_restricted_profile_asks() -> None:
    spec = resource("StatefulSet")["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    (user,) = [rest for name, rest in dockerfile() if name == "USER"]
    assert user == f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"


def test_the_operator_reads_the_same_rules_as_prometheus() -> None:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    operators = resource("PrometheusRule")["spec"]["groups"]
    assert sorted(operators, key=lambda group: group["name"]) == sorted(groups, key=lambda group: group["name"])


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = require_program("systemd-analyze", "systemd")
    text = (DEPLOY / "systemd" / "seismograd.service").read_text()
    unit = tmp_path / "seismograd.service"
    unit.write_text(text.replace("/opt/seismograd/bin/seismograd", PROGRAM))
    assert PROGRAM in unit.read_text(), "the program must exist where the unit looks for it"
    checked = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60)
    assert (checked.returncode, checked.stderr.strip()) == (0, "")
    (command,) = re.findall(r"^ExecStart=\S+ (.*)$", text, re.MULTILINE)
    for option in re.findall(r"--[a-z-]+", command):
        assert option in subprocess.run([PROGRAM, "serve", "--help"], capture_output=True, text=True, check=True).stdout


def test_every_path_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (DEPLOY / "README.md").read_text())
    assert len(links) > 5
    assert [link for link in links if not (DEPLOY / link).exists()] == []
