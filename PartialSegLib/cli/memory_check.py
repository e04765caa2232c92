"""Whether the memory suffices: predicted before a run, and compared after it."""

from __future__ import annotations

import logging
from argparse import Namespace
from typing import TYPE_CHECKING

from ..system_memory import available_memory, gigabytes, peak_memory
from ..volume import Volume

if TYPE_CHECKING:
    from ..session import InferenceSession

logger = logging.getLogger(__name__)


class MemoryCheck:
    """Predicts the memory of a run on the CPU, and warns where it is more than there is.

    Args:
        session: without image.
        volume: that it will segment.
        options: of the command line: task, structure.

    Raises:
        InputError: unknown task or structure.
    """

    def __init__(self, session: InferenceSession, volume: Volume, options: Namespace) -> None:
        self._predicted: int | None = None
        if session.device.type != "cpu":
            return
        estimate = session.estimate_memory(volume, options.task, options.structure)
        self._predicted = estimate.peak
        free = available_memory()
        if free is not None and estimate.to_come > free:
            logger.warning(
                "The image needs about %s of memory, %s are free; close other programs or crop it.",
                gigabytes(estimate.to_come),
                gigabytes(free),
            )

    def figures(self) -> dict[str, int | None]:
        """For the report: bytes as predicted, None on other devices than the CPU, and the peak so far."""
        return {"predicted_bytes": self._predicted, "peak_bytes": peak_memory()}
