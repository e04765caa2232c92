"""GPU memory while a block runs: its peak, and its area over time, as the FLARE challenge counts it."""

from __future__ import annotations

from threading import Event, Thread
from types import TracebackType

import torch

INTERVAL = 0.1  # seconds between two looks, as in FLARE


class GpuMemory:
    """Watches the memory in use on a CUDA device, that of other programs included, from a thread of its own.

    Attributes:
        figures: after the block `peak GPU memory MB` and `GPU memory-time area MB s`; none on other devices.
    """

    def __init__(self, device: torch.device) -> None:
        self.figures: dict[str, float] = {}
        self._device = device
        self._used: list[float] = []
        self._ended = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> GpuMemory:
        if self._device.type == "cuda":
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            self._ended.set()
            self._thread.join()
            self.figures["peak GPU memory MB"] = max(self._used)
            self.figures["GPU memory-time area MB s"] = sum(self._used) * INTERVAL

    def _watch(self) -> None:
        while True:
            free, total = torch.cuda.mem_get_info(self._device)
            self._used.append((total - free) / 2**20)
            if self._ended.wait(INTERVAL):
                return
