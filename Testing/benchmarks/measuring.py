"""Seconds and peak memory of a process, and the file that keeps the figures of all runs.

Python's own library only: processes that run in a peer's environment import this, too.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "runs" / "benchmarks.jsonl"


def seconds_of(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = perf_counter()
    function()
    return perf_counter() - start


def timed(record: dict[str, Any], name: str, function: Callable[[], Any]) -> Any:
    """Call a function, and add its seconds to a record; returns what it returns."""
    start = perf_counter()
    try:
        return function()
    finally:
        record[name] = record.get(name, 0.0) + perf_counter() - start


def peak_memory_mb() -> float:
    """Peak resident memory; on Linux not ru_maxrss, which a process inherits from the one that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(result: dict[str, Any]) -> None:
    """Hand figures to the process that started this one: the last line of the output, as JSON."""
    sys.stdout.write("\n" + json.dumps(result) + "\n")


def in_own_process(command: list[str]) -> dict[str, Any]:
    """The figures that a process reports.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if ended.returncode:
        said = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1:]
        raise RuntimeError(f"exit status {ended.returncode}: {''.join(said)}")
    return json.loads(ended.stdout.splitlines()[-1])


def processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def keep(figures: dict[str, Any]) -> None:
    """Append machine, commit and figures to a file that is not part of the repository."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": platform.machine(),
        "processor": processor(),
        **figures,
    }
    KEPT.parent.mkdir(exist_ok=True)
    with KEPT.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
