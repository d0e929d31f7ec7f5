"""A real Prometheus and a real Alertmanager (Debian's), each with its own directory and ports."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import ProcessStarter, RunningProcess, answers, free_port, require_program


@dataclass
class Alertmanager:
    """A running Alertmanager that tells one webhook."""

    url: str
    process: RunningProcess

    def alerts(self) -> list[dict[str, Any]]:
        """What it holds as active right now."""
        found: list[dict[str, Any]] = httpx.get(f"{self.url}/api/v2/alerts", trust_env=False).json()
        return found


@dataclass
class Prometheus:
    """A running Prometheus that scrapes one page every second."""

    url: str
    process: RunningProcess

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, trust_env=False).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


@pytest.fixture
def start_alertmanager(start_process: ProcessStarter, tmp_path: Path) -> Callable[..., Alertmanager]:
    """Call it with the URL of a webhook that is to hear of everything at once, and perhaps the URL to listen at.

    With a `group_wait` it hears of it that much later, as people do in production; with a `config` as that one says.
    """

    def start(
        webhook_url: str = "", at: str = "", group_wait: str = "0s", config: dict[str, Any] | None = None
    ) -> Alertmanager:
        program = require_program("prometheus-alertmanager", "prometheus-alertmanager")
        directory = tmp_path / f"alertmanager-{free_port()}"
        directory.mkdir()
        config = config or {
            "route": {
                "receiver": "test",
                "group_by": ["..."],
                "group_wait": group_wait,
                "group_interval": "1s",
                "repeat_interval": "1h",
            },
            "receivers": [{"name": "test", "webhook_configs": [{"url": webhook_url, "send_resolved": True}]}],
        }
        # JSON is YAML.
        (directory / "alertmanager.yml").write_text(json.dumps(config))
        url = at or f"http://127.0.0.1:{free_port()}"
        process = start_process(
            "alertmanager",
            [
                program,
                f"--config.file={directory / 'alertmanager.yml'}",
                f"--storage.path={directory / 'data'}",
                f"--web.listen-address={url.removeprefix('http://')}",
                "--cluster.listen-address=",
            ],
            ready=answers(f"{url}/-/ready"),
        )
        return Alertmanager(url, process)

    return start


@pytest.fixture
def start_prometheus(start_process: ProcessStarter, tmp_path: Path) -> Callable[..., Prometheus]:
    """Call it with the URL of the page to scrape, and perhaps a folder of rules and the Alertmanager to tell."""

    def start(page_url: str, rules: Path | None = None, alertmanager: str = "") -> Prometheus:
        program = require_program("prometheus", "prometheus")
        directory = tmp_path / f"prometheus-{free_port()}"
        directory.mkdir()
        page = httpx.URL(page_url)
        told = [{"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}] if alertmanager else []
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules / "*.yml")] if rules else [],
            "alerting": {"alertmanagers": told},
            "scrape_configs": [
                {
                    "job_name": "seismograd",
                    "scheme": page.scheme,
                    "metrics_path": page.path,
                    "static_configs": [{"targets": [f"{page.host}:{page.port}"]}],
                }
            ],
        }
        (directory / "prometheus.yml").write_text(json.dumps(config))
        url = f"http://127.0.0.1:{free_port()}"
        process = start_process(
            "prometheus",
            [
                program,
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            ready=answers(f"{url}/-/ready"),
        )
        return Prometheus(url, process)

    return start
