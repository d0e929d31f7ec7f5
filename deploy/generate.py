"""Writes what is generated below deploy/: the page of metrics, rules, Grafana's dashboards and alert rules.

python -m deploy.generate            writes them
python -m deploy.generate --check    writes nothing; fails if one is out of date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.alerting import grafana_rules
from deploy.grafana.fleet import fleet
from deploy.grafana.run import run
from deploy.grafana.server import server
from deploy.kubernetes.rules import operator_rules
from deploy.metrics import metrics_page
from deploy.prometheus.signatures import signature_rules

ROOT = Path(__file__).resolve().parent


def generated() -> dict[Path, str]:
    """Content by path below deploy/."""
    signatures = signature_rules()
    by_hand = [(ROOT / "prometheus" / "rules" / name).read_text() for name in ("runs.yml", "server.yml")]
    boards = {made.uid: JSONEncoder(sort_keys=True, indent=2).encode(made) for made in dashboards()}
    return {
        Path("METRICS.md"): metrics_page(),
        Path("prometheus/rules/signatures.yml"): signatures,
        Path("kubernetes/monitoring/rules.yaml"): operator_rules([signatures, *by_hand]),
        Path("grafana/provisioning/alerting/rules.yml"): grafana_rules([signatures, *by_hand]),
        **{Path(f"grafana/dashboards/{uid}.json"): f"{text}\n" for uid, text in boards.items()},
    }


def dashboards() -> list[Dashboard]:
    """All of them."""
    return [made.build() for made in (fleet(), run(), server())]


def drift() -> list[str]:
    """Names of the files that are not what would be written now."""
    files = {ROOT / path: content for path, content in generated().items()}
    return [
        str(path.relative_to(ROOT)) for path, text in files.items() if not path.exists() or path.read_text() != text
    ]


def main() -> None:
    """Entry point of `make deploy` and of the drift check."""
    parser = argparse.ArgumentParser(description="Regenerate rules and dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a generated file is out of date")
    if not parser.parse_args().check:
        for path, content in generated().items():
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(content)
    elif changed := drift():
        sys.exit(f"out of date: {', '.join(changed)}; run `make deploy`")


if __name__ == "__main__":
    main()
