"""Run the shipped detectors over a directory of trace files and write their alerts as JSON lines.

    python -m tests.benchmarks.detection_corpus TRACES ALERTS.jsonl [--columns all] [--thin 1]

A line per finding that opens or worsens an alert: run_id, step, kind, severity, reason. The detectors stream: what a
line says uses nothing behind its step.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from seismograd_server.detect.watch import RunWatch
from seismograd_server.model import Severity
from tests.benchmarks.traces import blocks, load


def main() -> int:
    """Write the alerts; print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, help="directory of .npz files")
    parser.add_argument("alerts", type=Path, help="file of JSON lines to write")
    parser.add_argument("--columns", choices=["norms", "norms+loss", "all"], default="all")
    parser.add_argument("--thin", type=int, default=1, help="keep sampled columns every so many steps")
    options = parser.parse_args()
    steps, seconds = 0, 0.0
    with options.alerts.open("w", encoding="utf-8") as out:
        for path in sorted(options.traces.glob("*.npz")):
            trace = load(path)
            watch = RunWatch()
            for block in blocks(trace, columns=options.columns, thin=options.thin):
                started = time.process_time()
                observation = watch.observe(block)
                seconds += time.process_time() - started
                steps += block.count
                for signature, why in observation.failures:
                    print(f"{trace.name}: {signature} failed: {why}", file=sys.stderr)
                for finding in observation.findings:
                    if finding.severity < Severity.WARNING:
                        continue
                    line = {
                        "run_id": trace.name,
                        "step": finding.step,
                        "kind": finding.signature.value,
                        "severity": finding.severity.label,
                        "layer": finding.evidence.leading_layer,
                        "rank": finding.evidence.leading_rank,
                        "reason": finding.reason,
                    }
                    out.write(json.dumps(line) + "\n")
    print(f"{steps} steps, {seconds / max(1, steps) * 1e6:.1f} us a step", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
