"""How every benchmark measures: arms in turn, medians, ratios of neighbours in time, because machines are noisy."""

from __future__ import annotations

import mmap
import statistics
from collections.abc import Callable, Mapping

# More than the longest turn of a benchmark fills, with what a guest gives back to its host meanwhile.
_TOUCHED_BYTES = 2 * 2**30


def interleave(arms: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    """Runs A, B, C, A, B, C, ... and returns each arm's results in order."""
    results: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repetitions):
        for name, run in arms.items():
            results[name].append(run())
    return results


def touch_memory() -> None:
    """Has the memory that the kernel hands out next backed by the host of a virtual machine, outside the time taken.

    A guest gives free pages back to its host, and to touch one again costs ten microseconds: three times what it costs
    to write it to a file. Whose turn it is would otherwise pay for what those before it have done to the machine.
    """
    with mmap.mmap(-1, _TOUCHED_BYTES) as memory:
        memory[:: mmap.PAGESIZE] = bytes(_TOUCHED_BYTES // mmap.PAGESIZE)


def median(values: list[float]) -> float:
    """The median of the results of one arm."""
    return statistics.median(values)


def percentile(values: list[float], share: float) -> float:
    """The value below which that share of the values lies."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def paired_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median of the ratios pair by pair, so that a drift of the machine's speed cancels."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Prints an aligned table; the first column is left-aligned."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  " + "  ".join(cells))


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """The same as a table of Markdown, ready to be pasted; numbers are right-aligned."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])
