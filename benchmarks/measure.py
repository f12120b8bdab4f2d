"""Times commands against each other, and weighs them. Machines are noisy: only ratios of one run mean something."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LAYERSCOPE = [sys.executable, "-m", "layerscope"]


@dataclass(frozen=True)
class Timed:
    """A command's times in seconds, in the order of the rounds."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def once(command: Sequence[str]) -> float:
    """The wall-clock time of one run. Output is thrown away; failure is an error."""
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    return time.perf_counter() - started


def side_by_side(commands: Sequence[Sequence[str]], rounds: int) -> list[Timed]:
    """Each command once to warm up, then all of them in turn, ``rounds`` times."""
    for command in commands:
        once(command)
    seconds: list[list[float]] = [[] for _ in commands]
    for _ in range(rounds):
        for index, command in enumerate(commands):
            seconds[index].append(once(command))
    return [Timed(item) for item in seconds]


def ratio(one: Timed, other: Timed) -> float:
    """The median of the ratios of the rounds: what both commands suffered at the same time cancels out."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


def peak_resident_bytes(command: Sequence[str]) -> int:
    """The largest sum of resident memory of a command and its children, sampled every 5 ms.

    Pages that forked processes share are counted for each of them: the true figure is lower.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(_resident_bytes(pid) for pid in _family(process.pid)))
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return peak


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(descendant for child in children for descendant in _family(int(child)))]


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
