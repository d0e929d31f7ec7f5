"""Score detectors on labelled training runs: ours, and the rules of our peers.

python -m tests.benchmarks.detection                    # makes the runs (a minute, once), scores everybody
python -m tests.benchmarks.detection --variation 7      # the same families with other numbers, not seen by anybody yet
python -m tests.benchmarks.detection --traces DIR --manifest FILE   # other runs, in the same formats
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from seismograd_server.rules.backtest import backtest
from seismograd_server.rules.ruleset import RunRules
from seismograd_server.transfer.trace_blocks import Columns, blocks
from seismograd_server.transfer.traces import Trace, read_trace
from tests.benchmarks.detection.catalogue import runs
from tests.benchmarks.detection.generating import cache_folder, generate_once
from tests.benchmarks.detection.peers import RULES, Rule, seen_by_peers
from tests.benchmarks.detection.scoring import Alarm, Labelled, Score, read_manifest, score, verdict
from tests.benchmarks.measure import markdown, table

# What a client samples every tenth step by default.
SHIPPED_CADENCE = 10
OURS: Sequence[tuple[str, Columns, int]] = (
    ("seismograd", "all", 1),
    ("seismograd, sampled every 10 steps as shipped", "all", SHIPPED_CADENCE),
    ("seismograd, norms + loss", "norms+loss", SHIPPED_CADENCE),
    ("seismograd, norms only", "norms", SHIPPED_CADENCE),
)


def alarms_of_ours(traces: Iterable[Trace], columns: Columns, thin: int) -> Iterator[Alarm]:
    """What the shipped detectors say, through the code of `seismograd rules backtest`."""
    for trace in traces:
        for finding in backtest(blocks(trace, columns=columns, thin=thin), RunRules()).findings:
            yield Alarm(trace.name, finding.step, finding.severity.label)


def alarms_of_peer(traces: Iterable[Trace], rule: Rule) -> Iterator[Alarm]:
    """What a peer's rule says; it knows one severity."""
    for trace in traces:
        for step in rule(*seen_by_peers(trace)):
            yield Alarm(trace.name, step, "critical")


def compare(labelled: Sequence[Labelled], traces: Sequence[Trace]) -> list[tuple[str, Score]]:
    """Everybody's score, the peers first."""
    peers = [(name, score(labelled, alarms_of_peer(traces, rule))) for name, rule in RULES.items()]
    ours = [(name, score(labelled, alarms_of_ours(traces, columns, thin))) for name, columns, thin in OURS]
    return peers + ours


def rows(scores: Iterable[tuple[str, Score]]) -> list[list[str]]:
    """The scores as they are printed."""

    def steps(value: float | None) -> str:
        return "–" if value is None else f"{value:g}"

    return [
        [name, *(f"{each:.2f}" for each in (one.recall, one.clean, one.false_alarms, one.on_spikes)),
         steps(one.lead), steps(one.delay)]
        for name, one in scores
    ]  # fmt: skip


def print_mistakes(labelled: Sequence[Labelled], traces: Sequence[Trace]) -> None:
    """Name the runs that our detectors judge wrongly, with everything that they see."""
    found = []
    for run, trace in zip(labelled, traces, strict=True):
        alarms = list(alarms_of_ours([trace], "all", 1))
        if wrong := verdict(run, alarms):
            steps = [str(alarm.step) for alarm in alarms if alarm.severity == "critical"]
            found.append(
                [run.run_id, run.label, wrong, f"{run.onset_step}", f"{run.failure_step}", " ".join(steps[:4])]
            )
    table("Judged wrongly", ["run", "label", "how", "onset", "failure", "critical at"], found)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the runs are made, or were made before")
    parser.add_argument("--variation", type=int, default=0, help="of the runs that are made; 0 = the published ones")
    parser.add_argument("--traces", type=Path, help="score these runs instead")
    parser.add_argument("--list", action="store_true", help="name the runs that our detectors judge wrongly")
    parser.add_argument("--manifest", type=Path, help="the labels of these runs")
    options = parser.parse_args()
    if (options.traces is None) != (options.manifest is None):
        parser.error("--traces and --manifest go together")
    folder, manifest = options.traces, options.manifest
    if folder is None:
        folder = options.out or cache_folder(options.variation)
        manifest, seconds = generate_once(runs(options.variation), folder)
        print(f"runs in {folder}" + (f", made in {seconds:.0f} s" if seconds > 1.0 else ""))
    labelled = read_manifest(manifest)
    traces = [read_trace(folder / f"{run.run_id}.npz") for run in labelled]
    counts = Counter(run.label for run in labelled)
    header = ["detector", "recall", "clean recall", "false alarms", "spike criticals", "median lead", "median delay"]
    title = "Detection: " + ", ".join(f"{count} {label}" for label, count in counts.most_common())
    if options.list:
        print_mistakes(labelled, traces)
    found = rows(compare(labelled, traces))
    table(title, header, found)
    print("\n  " + " ".join((sys.modules["tests.benchmarks.detection.scoring"].__doc__ or "").split("\n\n")[1].split()))
    print(f"\n{title}\n\n{markdown(header, found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
