"""What the README tells people to copy works as it stands there."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from seismograd.cli import SERVER_COMMANDS, program
from seismograd_server.config import load_settings
from seismograd_server.rules.parse import parse
from tests.conformance.cases import CASES
from tests.support.processes import require_program

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, language
    return found


def yaml(word: str) -> str:
    return next(block for block in blocks("yaml") if block.startswith(word))


def test_the_servers_configuration_is_accepted(tmp_path: Path) -> None:
    server = [block for block in blocks("toml") if not block.startswith("[[policy]]")]
    (tmp_path / "seismograd.toml").write_text("\n".join(reversed(server)))  # keys of no table come first
    settings = load_settings(tmp_path / "seismograd.toml")
    assert (settings.retention.keep_days, settings.retention.projects["sandbox"].keep_days) == (90, 7)
    assert [each.url for each in settings.notify.alertmanagers] == ["http://127.0.0.1:9093"]
    assert len(settings.notify.webhooks) == 1


def test_the_rules_are_accepted() -> None:
    (policies,) = [block for block in blocks("toml") if block.startswith("[[policy]]")]
    (matched,) = parse(policies).policies
    assert [each.word for each in matched.policy.kinds] == ["capture", "checkpoint", "stop"]


def test_prometheus_accepts_its_configuration_and_the_rules(tmp_path: Path) -> None:
    promtool = require_program("promtool", "prometheus")
    (tmp_path / "prometheus.yml").write_text(yaml("scrape_configs"))
    (tmp_path / "seismograd-rules.yml").write_text(yaml("groups"))
    checked = subprocess.run(
        [promtool, "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "2 rules found" in checked.stdout


def test_alertmanager_accepts_its_route(tmp_path: Path) -> None:
    amtool = require_program("amtool", "prometheus-alertmanager")
    (tmp_path / "alertmanager.yml").write_text(yaml("route"))
    checked = subprocess.run(
        [amtool, "check-config", str(tmp_path / "alertmanager.yml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_python_is_python() -> None:
    for block in blocks("python"):
        ast.parse(block)


def test_every_command_that_is_named_exists() -> None:
    named = set(re.findall(r"^    seismograd ([a-z]+)", README, re.MULTILINE))
    known = set(program.list_commands(None))  # type: ignore[arg-type]  # click's context is not looked at
    assert named
    assert named <= known
    assert named <= SERVER_COMMANDS | set(program.commands)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z]+)", README))))
def test_every_make_target_that_is_named_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_file_that_is_linked_exists(path: str) -> None:
    assert (ROOT / path).is_file()


def test_every_folder_of_the_tree_exists() -> None:
    tree = README.split("## The tree", 1)[1].split("##", 1)[0]
    base = ROOT
    for line in tree.splitlines():
        if not line.startswith("    "):
            continue
        shown = next(part for part in line.split("  ") if part.strip()).split()
        if not line.startswith("      "):
            base = ROOT / shown[0]
            assert base.is_dir(), shown[0]
            continue
        for name in shown:
            assert (base / name).exists(), name


def test_the_table_of_parallelisms_has_the_cases_of_the_suite() -> None:
    table = README.split("<!-- conformance: begin -->", 1)[1].split("<!-- conformance: end -->", 1)[0]
    shown = re.findall(r"^\| (.+?) \| ", table, re.MULTILINE)[1:]
    assert shown == [case.name for case in CASES]
