"""`make bench`: runs every benchmark, or those named on the command line, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = {
    "reading": "tests.benchmarks.long_run",
    "answers": "tests.benchmarks.answers",
    "pages": "tests.benchmarks.pages",
    "client": "tests.benchmarks.client_overhead",
    "server": "tests.benchmarks.server_throughput",
    "overload": "tests.benchmarks.overload",
    "signatures": "tests.benchmarks.detection",
    "causes": "tests.benchmarks.detection.causes",
    "storage": "tests.benchmarks.storage_bytes",
    "scrape": "tests.benchmarks.scrape",
    "latency": "tests.benchmarks.latency",
    "detection": "tests.benchmarks.detection_cost",
}


def main() -> int:
    """Exit code 0 when every benchmark ran; 2 for an unknown name."""
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    codes = [subprocess.run([sys.executable, "-m", BENCHMARKS[name]], check=False).returncode for name in names]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
