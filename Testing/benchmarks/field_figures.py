"""The figures of `make bench-field`: each is kept as soon as it is known, so that a run can be continued."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from measuring import in_own_process

TESTING = Path(__file__).parent


@dataclass(frozen=True)
class Measurement:
    """One process that measures.

    Attributes:
        key: of its figures, such as "abdomen: nnU-Net"; what has the same words before the colon is shown
            side by side.
        python: the interpreter.
        script: in this folder; prints its figures as JSON on the last line.
        settings: handed over as JSON.
        wanted: whether it is wanted, by what is known already.
    """

    key: str
    python: str
    script: str
    settings: dict[str, Any]
    wanted: Callable[[Figures], bool] = lambda figures: True


class Figures:
    """Figures by the key of their measurement, in a JSON file.

    Args:
        path: of the file.
        resume: keep what it holds; measurements that failed, or had other settings, are done again.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self._path = path
        self.kept: dict[str, dict[str, Any]] = {}
        if resume and path.exists():
            self.kept = json.loads(path.read_text())

    def runs(self, key: str) -> list[dict[str, Any]]:
        """The figures of every repetition that ended well."""
        return self.kept.get(key, {}).get("runs", [])

    def error(self, key: str) -> str | None:
        """Why a measurement failed, if it did."""
        return self.kept.get(key, {}).get("error")

    def median(self, key: str, name: str) -> float | None:
        """The median of a figure over the repetitions; None where it was not measured."""
        values = [run[name] for run in self.runs(key) if name in run]
        return statistics.median(values) if values else None

    def measure(self, measurements: Iterable[Measurement], repetitions: int, long_seconds: float) -> None:
        """Run all measurements, again and again, so that repetitions of one lie between those of the others.

        Args:
            measurements: in the order of a round.
            repetitions: rounds.
            long_seconds: what took longer is not repeated.
        """
        everything = list(measurements)
        for measurement in everything:
            before = self.kept.setdefault(measurement.key, {})
            if before.get("error") or before.get("settings") != measurement.settings:
                self.kept[measurement.key] = {"settings": measurement.settings, "runs": []}
        for repetition in range(repetitions):
            for number, measurement in enumerate(everything, start=1):
                if self._is_due(measurement, repetition, long_seconds):
                    place = f"round {repetition + 1}/{repetitions}, {number}/{len(everything)}"
                    sys.stderr.write(f"{place}: {measurement.key} ... ")
                    sys.stderr.flush()
                    sys.stderr.write(f"{self._run(measurement)}\n")

    def _is_due(self, measurement: Measurement, repetition: int, long_seconds: float) -> bool:
        runs = self.runs(measurement.key)
        if len(runs) > repetition or self.error(measurement.key) or not measurement.wanted(self):
            return False
        return not any(run["process"] > long_seconds for run in runs)

    def _run(self, measurement: Measurement) -> str:
        """Measure once and keep the figures, or the reason why there are none; returns a word about it."""
        kept = self.kept[measurement.key]
        command = [measurement.python, str(TESTING / measurement.script), json.dumps(measurement.settings)]
        start = perf_counter()
        try:
            kept["runs"].append({**in_own_process(command), "process": perf_counter() - start})
            said = f"{kept['runs'][-1]['process']:.0f} s"
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            kept["error"] = said = f"failed: {error}"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.kept, indent=1))
        unfinished.replace(self._path)
        return said
